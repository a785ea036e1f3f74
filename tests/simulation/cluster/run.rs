//! One run of a cluster: trouble under load, then healing, then the judgement.
//!
//! ```text
//! safety    clients call, the nemesis acts; what is acknowledged is remembered
//! healing   faults are over: every shard is led, every node answers linearizable reads
//! rest      no calls: every node holds the same state
//! judge     the history of each key is linearizable
//! ```

mod guests;
mod history;
mod load;
mod nemesis;
mod nodes;
mod plan;
mod tally;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bowline::{Code, Consistency, CoreMetrics, Error, ScanOptions};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, Rng, SimTask, World};
use bytes::Bytes;

use history::Key;
use load::{Client, Door, Shared, put_noted, read_noted};
use nemesis::Nemesis;
use nodes::Nodes;
pub(crate) use plan::Plan;
use plan::Trouble;
pub(crate) use tally::Tally;

/// What a client or a step of the healing may take at most, in the world's time.
const LIMIT: Nanos = Nanos(60_000_000_000);
/// Every shard has a leader this long after the faults are over and the nodes are up.
const LED_WITHIN: Nanos = Nanos(20_000_000_000);
/// Damages that a question to a node may meet one after the other: one a shard.
const REPAIRS_MAX: usize = 64;
/// Between two looks at the nodes.
const SLICE: Nanos = Nanos::from_millis(20);
/// Between two looks at who is sick while a change of members is to end.
const LOOK_EVERY: Nanos = Nanos(10_000_000_000);

/// A run under way.
struct Run {
    world: World,
    shared: Rc<Shared>,
    nodes: Nodes,
    nemesis: Nemesis,
    clients: Vec<SimTask<()>>,
}

/// Runs a plan. Panics where a promise is broken.
pub(crate) fn run(plan: &Plan) -> Tally {
    let world = World::new(plan.seed, plan.profile);
    crate::trace::follow(&world);
    world.tolerate_dropped_writes(true);
    let shared = Shared::new(&world, plan);
    let (nodes, nemesis) = (Nodes::new(&shared), Nemesis::new(&shared));
    let mut run = Run { world, shared, nodes, nemesis, clients: Vec::new() };
    run.trouble();
    run.heal();
    run.rest();
    run.shared.history.borrow().judge();
    run.end()
}

impl Run {
    /// The safety phase.
    fn trouble(&mut self) {
        for node in self.shared.plan.nodes.clone() {
            self.nodes.start(node);
        }
        for number in 0..self.shared.plan.clients {
            let seed = u64::try_from(number).expect("few") << 32 | 0x636c_6965;
            let rng = Rng::new(self.shared.plan.seed ^ seed);
            let client = Client::new(&self.shared, number, rng);
            self.clients.push(self.world.spawn_client(client.work()));
        }
        let end = self.world.now().after(self.shared.plan.safety);
        while self.world.now() < end {
            self.world.run_for(SLICE);
            for node in self.nodes.look() {
                self.nemesis.went_down(node);
            }
            self.nemesis.act(&mut self.nodes);
        }
    }

    /// No more faults: everybody comes back, and everything is answered.
    fn heal(&mut self) {
        self.nemesis.heal();
        self.nodes.heal();
        self.shared.stop.set(true);
        let clients = std::mem::take(&mut self.clients);
        let done = || clients.iter().all(SimTask::is_done);
        self.world.run_until(done, LIMIT).expect("every call is answered");
        if self.nemesis.guests.is_changing() {
            self.end_change();
        }
        let dead = self.stay_dead();
        for node in &dead {
            self.nodes.crash(*node, Crash::Power);
        }
        let all = self.shared.all();
        let alive: Vec<u64> = all.iter().copied().filter(|node| !dead.contains(node)).collect();
        self.bring_up(&alive);
        self.answer_everything(&alive);
        if !dead.is_empty() {
            self.bring_up(&all);
            self.answer_everything(&dead);
        }
    }

    /// A change of members that was begun comes to its end, now that nothing hinders it.
    fn end_change(&mut self) {
        let limit = self.world.now().after(LIMIT);
        let mut look_at = self.world.now();
        while self.nemesis.guests.is_changing() {
            for node in self.shared.all() {
                self.nodes.start(node);
            }
            self.world.run_for(SLICE);
            // Who is sick for long is started anew. Who leaves looks sick, and still has votes: it
            // gets the time to dial who does not know it, and to be elected.
            if look_at <= self.world.now() {
                let _down: Vec<u64> = self.nodes.look();
                look_at = self.world.now().after(LOOK_EVERY);
            }
            self.nemesis.guests.look(&mut self.nodes);
            assert!(
                self.world.now() < limit,
                "a change of members, all being well, does not end:\n{}",
                self.cores()
            );
        }
    }

    /// A minority that misses the healing, if the plan has one.
    fn stay_dead(&self) -> Vec<u64> {
        let nodes = &self.shared.plan.nodes;
        let rng = Rng::new(self.shared.plan.seed ^ 0x6465_6164);
        let minority = (nodes.len() - 1) / 2;
        if !self.shared.plan.some_stay_dead || minority == 0 {
            return Vec::new();
        }
        let (first, count) = (rng.index(nodes.len()), 1 + rng.index(minority));
        let damages = [Trouble::LostRun, Trouble::BadPage];
        if damages.iter().any(|it| self.shared.plan.troubles.contains(it)) {
            // Whoever lost something and whoever is dead are one minority together.
            return self.shared.plan.victims.iter().copied().take(count).collect();
        }
        nodes.iter().cycle().skip(first).take(count).copied().collect()
    }

    /// Starts what is down and waits until each of the nodes knows a leader of every shard.
    fn bring_up(&mut self, nodes: &[u64]) {
        for node in nodes {
            if self.nodes.is_sick(*node) {
                self.nodes.crash(*node, Crash::Kill);
            }
        }
        let limit = self.world.now().after(LIMIT);
        loop {
            let down: Vec<u64> = self.nodes.look();
            if down.is_empty() && nodes.iter().all(|node| self.nodes.is_up(*node)) {
                break;
            }
            for node in nodes {
                self.nodes.start(*node);
            }
            assert!(self.world.now() < limit, "the nodes do not come up");
            self.world.run_for(SLICE);
        }
        let limit = self.world.now().after(LED_WITHIN);
        for node in nodes {
            self.await_leaders(*node, limit);
        }
        self.world.run_for(Nanos(3_000_000_000));
    }

    /// Waits until a node knows a leader of every shard.
    fn await_leaders(&self, node: u64, limit: Nanos) {
        let (_, engine) = self.shared.up.borrow()[&node].clone();
        while !engine.status().leaderless.is_empty() && self.world.now() < limit {
            self.world.run_for(SLICE);
        }
        let ready = self.wait(async move { engine.wait_ready(Duration::ZERO).await });
        ready.unwrap_or_else(|error| {
            panic!("node {node}, all being well: {error:#}\n{}", self.cores())
        });
    }

    /// What the cores of all nodes that are up have counted, for who looks into a failure.
    fn cores(&self) -> String {
        let up = self.shared.up.borrow();
        let of = |node: &u64| up[node].1.metrics().cores;
        let lines = up.keys().flat_map(|node| of(node).into_iter().map(move |core| (*node, core)));
        let line = |(node, core): (u64, CoreMetrics)| {
            format!(
                "node {node} core {}: log at {} of {}, {} lanes made, {} ended, {} messages sent, \
                 {} dropped, {} refused, {} applied, {} passes\n",
                core.core,
                core.wal_used,
                core.wal_limit,
                core.lanes_up,
                core.lanes_down,
                core.messages_sent,
                core.messages_dropped,
                core.messages_refused,
                core.applied,
                core.passes
            )
        };
        lines.map(line).collect()
    }

    /// Runs a client's task to its end.
    fn wait<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.world.block_on(LIMIT, task).unwrap_or_else(|stalled| panic!("{stalled}"))
    }

    fn keys(&self) -> Vec<Key> {
        let each = |no| [Key::Register(no), Key::Counter(no), Key::Pair(no)];
        (0..self.shared.plan.keys).flat_map(each).collect()
    }

    /// Every one of the nodes reads every key, and every key takes a write.
    fn answer_everything(&self, nodes: &[u64]) {
        for node in nodes {
            let door = self.shared.door(*node).expect("it is up");
            for key in self.keys() {
                self.read(*node, &door, key);
                if let Key::Register(_) | Key::Counter(_) = key {
                    self.write(*node, key);
                }
            }
        }
    }

    fn read(&self, node: u64, door: &Door, key: Key) {
        let ask = || {
            let (shared, door) = (Rc::clone(&self.shared), door.clone());
            self.wait(async move { read_noted(&shared, &door, key).await })
        };
        self.repaired(node, ask).unwrap_or_else(|error| {
            panic!("node {node} does not read {key:?}, all being well: {error:#}")
        });
    }

    /// Asks a node, and again after the repair of what is found damaged by asking.
    fn repaired<T>(&self, node: u64, ask: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        for _ in 0..REPAIRS_MAX {
            match ask() {
                Err(error) if error.code() == Code::RUN_DAMAGED => {
                    assert!(self.shared.plan.victims.contains(&node), "its disk is whole");
                    self.await_leaders(node, self.world.now().after(LED_WITHIN));
                },
                answer => return answer,
            }
        }
        ask()
    }

    /// Writes through a node or, as it says, through the leader; again where a log is full for
    /// now.
    fn write(&self, node: u64, key: Key) {
        let put = |node| {
            let door = self.shared.door(node).expect("it is up");
            let shared = Rc::clone(&self.shared);
            self.wait(async move { put_noted(&shared, &door, key).await })
        };
        let limit = self.world.now().after(LED_WITHIN);
        let (mut to, mut result) = (node, put(node));
        while self.world.now() < limit {
            match &result {
                Err(Error::NotLeader { leader: Some(hint), .. }) => to = hint.id.0,
                Err(Error::Busy { .. }) => {},
                _ => break,
            }
            self.world.run_for(SLICE);
            result = put(to);
        }
        result.unwrap_or_else(|error| {
            panic!("nobody writes {key:?} for node {node}, all being well: {error:#}")
        });
    }

    /// After a quiet time every node has applied the same.
    fn rest(&self) {
        self.world.run_for(Nanos(2_000_000_000));
        let mut first: Option<(u64, BTreeMap<Bytes, Bytes>)> = None;
        for node in self.shared.all() {
            let scan = || {
                let client = self.shared.up.borrow()[&node].1.client();
                let options = ScanOptions::new().consistency(Consistency::Eventual);
                self.wait(async move { client.scan_prefix(b"", options).await })
            };
            let page = self
                .repaired(node, scan)
                .unwrap_or_else(|error| panic!("node {node} does not scan: {error:#}"));
            assert!(page.next.is_none(), "the keys are few");
            let state: BTreeMap<_, _> = page.items.into_iter().collect();
            match &first {
                None => first = Some((node, state)),
                Some((other, its)) => {
                    assert!(
                        *its == state,
                        "nodes {other} and {node} differ: {}",
                        diff(its, &state)
                    );
                },
            }
        }
    }

    /// Stops every node in good order.
    fn end(mut self) -> Tally {
        for node in self.shared.all() {
            let (_, engine) = self.shared.up.borrow()[&node].clone();
            let stopped = self.wait(async move { engine.stop().await });
            stopped.unwrap_or_else(|error| panic!("node {node} does not stop cleanly: {error:#}"));
            self.nodes.crash(node, Crash::Kill);
        }
        let mut tally = *self.shared.tally.borrow();
        tally.millis = self.world.now().0 / 1_000_000;
        tally.hash = self.world.trace_hash();
        tally
    }
}

/// The first key that differs.
fn diff(a: &BTreeMap<Bytes, Bytes>, b: &BTreeMap<Bytes, Bytes>) -> String {
    let keys = a.keys().chain(b.keys());
    let mut differ = keys.filter(|key| a.get(*key) != b.get(*key));
    let show = |value: Option<&Bytes>| value.map(|it| String::from_utf8_lossy(it).into_owned());
    differ.next().map_or_else(String::new, |key| {
        format!("{key:?}: {:?}, {:?}", show(a.get(key)), show(b.get(key)))
    })
}
