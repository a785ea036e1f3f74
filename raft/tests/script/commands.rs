//! The commands of a script. Each returns what is wrong with its line, or nothing.
//!
//! ```text
//! nodes 3 [learners=4] [lanes] [lease] [fast] [empty] [priority=0,0,9]    found, and start
//! given 1 term 3 [vote 1] [commit 1] log 1..3@1 4@2      start [1 ..]     what a disk holds
//! timer 1 [200ms]   campaign 1   elect 1   wait 200ms [1 ..]   advance 200ms [1 ..]   settle
//! propose 1 x ..    read 1 [lease|follower]   transfer 1 2
//! change 1 add=4[,auto] promote=4 remove=3 demote=2
//! deliver 1->2 [n]  deliver all   drop 1->2|all   duplicate 1->2   hold 1->2 [n]   unhold 1->2
//! durable 1 [lsn]   complete 1 lsn   report 1 lsn   crash 1   restart 1   fail 1   full 1   room 1
//! cold 1 5   fetched 1 3 [5]
//! manifest 1   compact 1 3   snapshot 1 as name   snapshot 4@2 as name   install 2 name
//! damage 1 retired|repairing|state   slow 1   quick 1   lane 1-2 down|up   lane 1->2 deaf|hears
//! state [1 ..]   progress 1   forge 1->2 Append term=1 prev=0@0 entries=1@1 commit=0
//! quiet <command>   repeat 3 <command>
//! ```
//!
//! A `wait` moves clocks and nothing else; in `advance` timers, disks and network work.

use bowline_raft::{
    Admin, Configuration, Damage, LogIndex, Member, NodeId, Part, Phase, ReadMode, Refused,
    ReplicaId, Step, Term,
};

use super::{
    disk::{Entry, Image, Manifest},
    forge,
    node::Node,
    words::{self, Words},
    world::{World, pair},
};

/// Timers that a campaign may take to begin.
const TIMERS_MAX: usize = 400;

type Done = Result<(), String>;

/// Runs one command and returns its answer.
pub fn run(world: &mut World, line: &str) -> Result<String, String> {
    let quiet = line.strip_prefix("quiet ");
    let mut words = Words::new(quiet.unwrap_or(line));
    let times = if words.take("repeat") { words.number("count")? } else { 1 };
    let rest: Vec<_> = words.rest().collect();
    for _ in 0..times {
        command(world, Words::new(&rest.join(" ")))?;
    }
    let told = core::mem::take(&mut world.told);
    let changed = world.changed();
    if quiet.is_some() || line.starts_with("nodes") || line.starts_with("given") {
        return Ok(String::new());
    }
    Ok(told.into_iter().chain(changed).map(|line| line + "\n").collect())
}

fn command(world: &mut World, mut words: Words<'_>) -> Done {
    let name = words.word("command")?;
    match name {
        "nodes" => nodes(world, words),
        "given" => given(world, words),
        "start" => start(world, words),
        "state" => state(world, words),
        "progress" => progress(world, words),
        "timer" | "campaign" | "elect" | "wait" | "advance" | "settle" => time(world, name, words),
        "propose" | "read" | "transfer" | "change" | "compact" => ask(world, name, words),
        "deliver" | "drop" | "duplicate" | "hold" | "unhold" => network(world, name, words),
        "durable" | "complete" | "report" | "fail" | "full" | "room" | "cold" | "fetched" => {
            disk(world, name, words)
        },
        "crash" | "restart" | "damage" | "slow" | "quick" => process(world, name, words),
        "manifest" | "snapshot" | "install" => snapshot(world, name, words),
        "lane" => lane(world, words),
        "forge" => forge::forge(world, words),
        other => Err(format!("{other} is no command")),
    }
}

fn nodes(world: &mut World, mut words: Words<'_>) -> Done {
    let voters: u64 = words.number("count")?;
    let learners = words.value("learners").map_or(Ok(Vec::new()), words::list)?;
    let (mut lanes, mut lease, mut fast, mut empty, mut priority) =
        (false, false, false, false, "");
    for word in words.rest() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("lanes", _) => lanes = true,
            ("lease", _) => lease = true,
            ("fast", _) => fast = true,
            ("empty", _) => empty = true,
            ("priority", list) => priority = list,
            (other, _) => return Err(format!("{other} is no kind of node")),
        }
    }
    let priority = words::list(priority)?;
    let conf = founding(voters, &learners, &priority)?;
    *world = World::new(lanes);
    world.config.lease_reads = lease;
    for member in &conf.members {
        let id = member.replica.0;
        world.nodes.insert(id, Node::new(id, &conf, fast));
    }
    if empty { Ok(()) } else { start(world, Words::new("")) }
}

fn founding(voters: u64, learners: &[u64], priority: &[u64]) -> Result<Configuration, String> {
    let mut conf = Configuration::sole_voter(NodeId(1), ReplicaId(1));
    let all = (1..=voters).map(|id| (id, Part::Voter));
    let all = all.chain(learners.iter().map(|id| (*id, Part::Learner)));
    conf.members.clear();
    for (nth, (id, part)) in all.enumerate() {
        let priority = priority.get(nth).copied().unwrap_or(0);
        conf.members.push(Member {
            node: NodeId(id),
            replica: ReplicaId(id),
            before: part,
            after: part,
            priority: u8::try_from(priority).map_err(|_large| "a priority is below 256")?,
            auto_promote: false,
        });
        conf.next_replica = ReplicaId(id + 1);
    }
    conf.phase = Phase::Stable;
    conf.validate().map_err(|error| error.to_string())?;
    Ok(conf)
}

fn given(world: &mut World, mut words: Words<'_>) -> Done {
    let id = words.number("node")?;
    let mut image = world.node(id)?.log.disk.memory.clone();
    while let Ok(word) = words.word("word") {
        match word {
            "term" => image.hard.term = Term(words.number("term")?),
            "vote" => image.hard.vote = ReplicaId(words.number("vote")?),
            "commit" => image.hard.commit = LogIndex(words.number("commit")?),
            "log" => {},
            run => given_run(&mut image, run)?,
        }
    }
    world.node(id)?.log.disk.given(image);
    Ok(())
}

fn given_run(image: &mut Image, run: &str) -> Done {
    let (from, to, term) = words::run(run)?;
    for index in from..=to {
        if index != image.last() + 1 {
            return Err(format!("{index} does not follow {}", image.last()));
        }
        let payload = format!("{index}@{term}").into_bytes();
        image.entries.push(Entry { term, flags: 0, payload, begins: true });
    }
    Ok(())
}

fn start(world: &mut World, words: Words<'_>) -> Done {
    let named: Result<Vec<u64>, _> = words.rest().map(|word| words::number(word, "node")).collect();
    let named = named?;
    let all: Vec<_> = world.nodes.keys().copied().collect();
    for id in if named.is_empty() { all } else { named } {
        if !world.nodes.contains_key(&id) {
            let first = world.nodes.values().next().ok_or("no nodes were founded")?;
            let founding = Configuration::decode(&first.founding).expect("it was encoded here");
            let mut node = Node::new(id, &founding, first.fast);
            node.now = first.now;
            world.nodes.insert(id, node);
        }
        world.start(id)?;
    }
    Ok(())
}

fn ids(world: &World, words: Words<'_>) -> Result<Vec<u64>, String> {
    let named: Vec<u64> =
        words.rest().map(|word| words::number(word, "node")).collect::<Result<_, _>>()?;
    Ok(if named.is_empty() { world.nodes.keys().copied().collect() } else { named })
}

/// Shows these nodes whether they changed or not.
fn state(world: &mut World, words: Words<'_>) -> Done {
    for id in ids(world, words)? {
        let line = world.node(id)?.state();
        world.told.push(line.clone());
        world.shown.insert(id, line);
    }
    Ok(())
}

fn progress(world: &mut World, mut words: Words<'_>) -> Done {
    let id = words.number("node")?;
    let lines = world.node(id)?.progress();
    world.told.extend(lines);
    words.end()
}

fn time(world: &mut World, name: &str, mut words: Words<'_>) -> Done {
    match name {
        "settle" => return world.settle(),
        "wait" => {
            let nanos = words::millis(words.word("time")?)?;
            for id in ids(world, words)? {
                world.node(id)?.now += nanos;
            }
            return Ok(());
        },
        "advance" => {
            let nanos = words::millis(words.word("time")?)?;
            let ids = ids(world, words)?;
            return world.advance(nanos, &ids);
        },
        _ => {},
    }
    let id = words.number("node")?;
    match name {
        "timer" => {
            let node = world.node(id)?;
            let later = words.word("time").ok().map(words::millis).transpose()?;
            let due = node.core.as_ref().and_then(bowline_raft::RaftCore::next_deadline);
            let due = due.map_or(node.now, |due| due.0);
            node.timer(later.map_or(due, |later| node.now + later));
            world.collect(id);
            Ok(())
        },
        "campaign" => campaign(world, id),
        _ => {
            campaign(world, id)?;
            world.settle()
        },
    }
}

/// The clock of one node goes on until it asks the others for their votes.
fn campaign(world: &mut World, id: u64) -> Done {
    for _ in 0..TIMERS_MAX {
        let told = world.told.len();
        let node = world.node(id)?;
        let due = node.core.as_ref().and_then(bowline_raft::RaftCore::next_deadline);
        let due = due.ok_or_else(|| format!("{id} has no deadline"))?;
        node.timer(due.0);
        world.collect(id);
        let stands = [format!("{id} is pre-candidate"), format!("{id} is candidate")];
        let asked =
            world.told[told..].iter().any(|line| stands.iter().any(|it| line.starts_with(it)));
        if asked {
            return Ok(());
        }
    }
    Err(format!("{id} does not campaign"))
}

fn ask(world: &mut World, name: &str, mut words: Words<'_>) -> Done {
    let id = words.number("node")?;
    let node = world.node(id)?;
    if name == "propose" {
        for word in words.rest() {
            if let Err(error) = node.propose(word) {
                node.told.push(format!("refuses {word}: {error}"));
            }
        }
    } else if name == "read" {
        let mode = match (words.take("lease"), words.take("follower")) {
            (true, _) => ReadMode::Lease,
            (_, true) => ReadMode::Follower,
            _ => ReadMode::ReadIndex,
        };
        words.end()?;
        if let Err(error) = node.read(mode) {
            node.told.push(format!("refuses the read: {error}"));
        }
    } else {
        admin(node, name, words)?;
    }
    node.pass(|_, _, _| ());
    world.collect(id);
    Ok(())
}

fn admin(node: &mut Node, name: &str, mut words: Words<'_>) -> Done {
    let mut steps = Vec::new();
    let verb = match name {
        "transfer" => Admin::Transfer { to: ReplicaId(words.number("replica")?) },
        "compact" => Admin::Compact { upto: LogIndex(words.number("index")?) },
        _ => {
            for word in words.rest() {
                steps.push(step(word)?);
            }
            Admin::Change(&steps)
        },
    };
    let core = node.core.as_mut().ok_or("it is not running")?;
    if let Err(error) = core.admin(node.slot, verb) {
        node.told.push(format!("refuses: {error}"));
    }
    Ok(())
}

/// `add=4`, `add=4,auto`, `promote=4`, `demote=2`, `remove=3`
fn step(word: &str) -> Result<Step, String> {
    let (verb, id) = word.split_once('=').ok_or_else(|| format!("{word} has no ="))?;
    let (id, auto_promote) = id.strip_suffix(",auto").map_or((id, false), |id| (id, true));
    let number = words::number(id, "id")?;
    let replica = ReplicaId(number);
    Ok(match verb {
        "add" => Step::Add { node: NodeId(number), priority: 0, auto_promote },
        "promote" => Step::Promote { replica },
        "demote" => Step::Demote { replica },
        "remove" => Step::Remove { replica },
        other => return Err(format!("{other} is no step")),
    })
}

fn network(world: &mut World, name: &str, mut words: Words<'_>) -> Done {
    if words.take("all") {
        let links: Vec<_> = world.wires.keys().copied().collect();
        let counts: Vec<_> = links.iter().map(|link| world.wires[link].queue.len()).collect();
        for (link, count) in links.into_iter().zip(counts) {
            some(world, name, link, count);
        }
        return words.end();
    }
    let link = words.link()?;
    let wire = world.wires.entry(link).or_default();
    let all = if name == "unhold" { wire.held.len() } else { wire.queue.len() };
    let count = words.number_if("count")?.unwrap_or(all);
    if all < count || all == 0 {
        return Err(format!("{}->{} has {all} messages", link.0, link.1));
    }
    some(world, name, link, count);
    Ok(())
}

/// The first `count` messages of a wire.
fn some(world: &mut World, name: &str, link: (u64, u64), count: usize) {
    let wire = world.wires.entry(link).or_default();
    match name {
        "drop" => drop(wire.queue.drain(..count)),
        "hold" => wire.held.extend(wire.queue.drain(..count)),
        "unhold" => wire.queue.extend(wire.held.drain(..count)),
        "duplicate" => {
            let copies: Vec<_> = wire.queue.range(..count).cloned().collect();
            wire.queue.extend(copies);
        },
        _ => {
            world.deliver(link.0, link.1, count);
        },
    }
}

fn disk(world: &mut World, name: &str, mut words: Words<'_>) -> Done {
    let id = words.number("node")?;
    let node = world.node(id)?;
    match name {
        "durable" => node.durable(words.number_if("lsn")?),
        "complete" => node.complete(words.number("lsn")?),
        "report" => node.report(words.number("lsn")?),
        "fail" => node.fail(),
        "cold" => node.log.disk.cold = words.number("index")?,
        "fetched" => {
            let (peer, to) = (words.number("peer")?, words.number_if("index")?);
            node.fetched(peer, to)?;
        },
        "full" => node.log.refuse = Some(Refused::NoRoom),
        _ => {
            node.log.refuse = None;
            let durable = node.log.disk.durable;
            node.report(durable);
        },
    }
    world.collect(id);
    words.end()
}

fn process(world: &mut World, name: &str, mut words: Words<'_>) -> Done {
    let id = words.number("node")?;
    let node = world.node(id)?;
    match name {
        "crash" => world.crash(id)?,
        "restart" => world.start(id)?,
        "damage" => {
            let damage = match words.word("damage")? {
                "retired" => Damage::Retired,
                "repairing" => Damage::Repairing,
                "state" => Damage::State,
                _ => Damage::Normal,
            };
            node.damage = damage;
            if let Some(core) = node.core.as_mut() {
                core.admin(node.slot, Admin::Damaged(damage)).map_err(|error| error.to_string())?;
                node.pass(|_, _, _| ());
            }
        },
        "slow" => node.slow = Some(Vec::new()),
        _ => {
            for range in node.slow.take().unwrap_or_default() {
                node.apply(range);
            }
            node.pass(|_, _, _| ());
        },
    }
    world.collect(id);
    words.end()
}

fn snapshot(world: &mut World, name: &str, mut words: Words<'_>) -> Done {
    match name {
        "manifest" => {
            let id = words.number("node")?;
            world.node(id)?.flush_state();
            world.collect(id);
        },
        "snapshot" => {
            let of = words.word("node or entry")?;
            let manifest = match of.split_once('@') {
                Some((index, term)) => {
                    let first = world.nodes.values().next().ok_or("no nodes were founded")?;
                    let (index, term) =
                        (words::number(index, "index")?, words::number(term, "term")?);
                    Manifest { index, term, conf: first.founding.clone() }
                },
                None => world.node(words::number(of, "node")?)?.log.disk.memory.manifest.clone(),
            };
            words.take("as");
            world.snapshots.insert(words.word("name")?.to_owned(), manifest);
        },
        _ => {
            let (id, name) = (words.number("node")?, words.word("name")?);
            let manifest =
                world.snapshots.get(name).ok_or_else(|| format!("no snapshot {name}"))?.clone();
            let from = if words.take("from") { Some(words.number("node")?) } else { None };
            let verdict = world.node(id)?.install(&manifest, from);
            world
                .told
                .push(format!("{id} is given {}@{}: {verdict}", manifest.index, manifest.term));
            world.collect(id);
        },
    }
    words.end()
}

fn lane(world: &mut World, mut words: Words<'_>) -> Done {
    let word = words.word("lane")?;
    let what = words.word("state")?;
    if word.contains("->") {
        let link = words::pair(word, "->")?;
        world.wires.entry(link).or_default().deaf = what == "deaf";
        return words.end();
    }
    let (one, other) = words::pair(word, "-")?;
    if what == "down" {
        world.cut.insert(pair(one, other));
        world.disconnect(one, other);
    } else {
        world.cut.remove(&pair(one, other));
        world.connect(one, other);
    }
    words.end()
}
