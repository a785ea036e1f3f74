//! What an engine does around the core: it founds, opens, closes and erases replicas, follows
//! configurations, writes manifests, compacts, and carries snapshots.

use std::rc::Rc;

use bowline_raft::{
    BootTime, Configuration, CoreConfig, Damage, Liveness, LogIndex, Member, NodeId, Part, Phase,
    RaftCore, Recovered, ReplicaId, ShardId, StreamNo, Times,
};

use super::{
    disk::{Disk, shard_place},
    image::Image,
    log::{Cache, CoreLog, shard_at},
    node::{Clock, Input, Machine, Node, SimCore, Verb},
    plan::{Class, MILLI, SECOND},
    rng::place,
    world::{Event, World},
};

impl World {
    /// Makes the nodes and their first replicas.
    pub fn found(&mut self) {
        for nth in 0..self.plan.nodes {
            let base = self.rng.seeds.between(SECOND, 3_000 * SECOND);
            let cores = (0..self.plan.cores[nth]).map(|core| self.new_core(core)).collect();
            let clock = Clock::new(base);
            self.nodes.push(Node { id: nth as u64 + 1, boot: 1, alive: true, clock, cores });
        }
        for shard in 0..self.plan.shards {
            let voters = self.plan.voters;
            let members = (0..voters).map(|nth| Member {
                node: NodeId(((shard + nth) % voters) as u64 + 1),
                replica: ReplicaId(nth as u64 + 1),
                before: Part::Voter,
                after: Part::Voter,
                priority: u8::from(shard % 3 == 1 && nth == 0),
                auto_promote: false,
            });
            let conf = Configuration {
                phase: Phase::Stable,
                auto_leave: false,
                epoch: 1,
                next_replica: ReplicaId(voters as u64 + 1),
                generation: 0,
                members: members.collect(),
                note: Vec::new(),
            };
            self.founders.push(conf.encode().expect("founders are valid"));
            for member in &conf.members {
                self.create(place(member.node.0 - 1), shard_at(shard), member.replica);
            }
            self.confs.push(conf);
        }
        self.at(0, Event::Keep);
    }

    fn core_config(&self, core: usize, quiet_until: u64) -> CoreConfig {
        let usual = CoreConfig::default();
        let small = self.plan.small;
        CoreConfig {
            core: u16::try_from(core).expect("few"),
            liveness: if self.plan.classic { Liveness::Shard } else { Liveness::Lane },
            lease_reads: self.plan.lease,
            quiet_until: BootTime(quiet_until),
            uncommitted_bytes_max: if small { 512 } else { usual.uncommitted_bytes_max },
            pass_bytes_max: if small { 128 } else { usual.pass_bytes_max },
            append_bytes_max: if small { 96 } else { 4_096 },
            probe_bytes_max: if small { 64 } else { 1_024 },
            catchup_bytes_max: if small { 256 } else { 2_048 },
            window_messages: if small { 3 } else { usual.window_messages },
            window_bytes: if small { 512 } else { usual.window_bytes },
            promote_lag_bytes: if small { 64 } else { 1_024 },
            commit_every: if small { 2 } else { 64 },
            reads_max: if small { 8 } else { 1_024 },
            times: Times { snapshot_max: 4 * SECOND, ..usual.times },
            ..usual
        }
    }

    fn new_core(&mut self, core: usize) -> SimCore {
        let (streams, shards) = (self.plan.streams, self.plan.shards);
        let few = self.plan.classes.has(Class::SmallCache);
        let cache = Cache { entries: if few { 6 } else { u64::MAX / 2 } };
        let first_stream = u16::try_from(core * streams).expect("few");
        let log = CoreLog::new(Disk::new(streams, shards), first_stream, cache);
        let config = self.core_config(core, 0);
        SimCore {
            raft: RaftCore::new(config, self.rng.seeds.draw()),
            log,
            out: bowline_raft::Outbox::default(),
            inputs: Vec::new(),
            messages: std::collections::VecDeque::new(),
            kept: std::collections::VecDeque::new(),
            machines: (0..shards).map(|_| Machine::default()).collect(),
            lives: std::collections::BTreeMap::new(),
            pass_at: u64::MAX,
            paused_until: 0,
            passes: 0,
            fetched: std::collections::BTreeMap::new(),
            stalled: false,
            to_apply: Vec::new(),
        }
    }

    /// Makes an empty replica and opens it.
    pub fn create(&mut self, node: usize, shard: ShardId, replica: ReplicaId) {
        self.homes[shard_place(shard)].insert(replica, node);
        let founders = self.founders[shard_place(shard)].clone();
        let core = self.nodes[node].home(shard);
        *self.nodes[node].machine_mut(shard) =
            Machine { replica, conf: founders, ..Machine::default() };
        self.tell(|| format!("node {} gets replica {replica} of shard {shard}", node + 1));
        if self.nodes[node].alive {
            self.open(node, shard);
            self.wake(node, core);
        }
    }

    /// Opens a replica as the log and the manifest have it.
    pub fn open(&mut self, node: usize, shard: ShardId) {
        let nth = shard_place(shard);
        let founders = &self.founders[nth];
        let local = self.nodes[node].clock.read(self.now);
        let streams = self.plan.streams;
        let turn = self.nodes[node].core_of_mut(shard);
        let image: &Image = &turn.log.disk.memory[nth];
        let manifest = Rc::clone(&image.manifest);
        let conf = if manifest.conf.is_empty() { founders } else { &manifest.conf };
        let owned = image.confs();
        let confs: Vec<(LogIndex, &[u8])> =
            owned.iter().map(|(index, conf)| (*index, &conf[..])).collect();
        let machine = &turn.machines[nth];
        let damage = if machine.retired {
            Damage::Retired
        } else if image.lost.is_some() {
            Damage::Repairing
        } else if machine.state_lost {
            Damage::State
        } else {
            Damage::Normal
        };
        let stream = nth % streams;
        let recovered = Recovered {
            shard,
            replica: machine.replica,
            stream: StreamNo(turn.log.first_stream + u16::try_from(stream).expect("few")),
            hard_state: image.hard,
            first: LogIndex(image.floor + 1),
            prev_term: image.floor_term,
            last: LogIndex(image.last()),
            last_term: image.last_term(),
            applied: LogIndex(manifest.index),
            applied_term: manifest.term,
            conf,
            confs: &confs,
            damage,
        };
        let founder = conf.clone();
        let trace = self.trace.then(|| format!("node {} opens {recovered:?}", node + 1));
        turn.raft.begin_pass(BootTime(local), &mut turn.out);
        let opened = turn.raft.open(recovered, &mut turn.log);
        let machine = &mut turn.machines[nth];
        let fresh = Machine {
            slot: opened.as_ref().ok().copied(),
            replica: machine.replica,
            applied: manifest.index,
            term: manifest.term,
            value: manifest.value,
            conf: founder,
            charged: machine.charged,
            state_lost: machine.state_lost,
            retired: machine.retired,
            ..Machine::default()
        };
        *machine = fresh;
        if let Some(line) = trace {
            self.tell(|| line);
        }
        if let Err(why) = opened {
            self.judge(Err(format!("node {} cannot open shard {shard}: {why}", node + 1)));
        }
    }

    /// Ends a node's life. `luck`: writes under way may have got through.
    pub fn crash(&mut self, node: usize, luck: bool) {
        if !self.nodes[node].alive {
            return;
        }
        self.cover.crashes += 1;
        self.note("crash", node as u64, u64::from(luck), 0);
        self.count_life(node);
        self.nodes[node].alive = false;
        for core in &mut self.nodes[node].cores {
            core.log.disk.crash(luck.then_some(&mut self.rng.disk));
            core.inputs.clear();
            core.messages.clear();
            core.kept.clear();
            core.lives.clear();
            core.fetched.clear();
            core.out.clear();
            core.pass_at = u64::MAX;
            core.paused_until = 0;
            core.stalled = false;
            core.log.queued.iter_mut().for_each(std::collections::VecDeque::clear);
            core.log.incoming.iter_mut().for_each(|waiting| *waiting = None);
            core.log.appended.clear();
            core.machines.iter_mut().for_each(|machine| machine.slot = None);
        }
        self.reads.retain(|_, read| read.node != node);
        // A dead process closes its connections; a dead machine leaves them hanging.
        let closes = self.rng.net.one_in(2);
        for link in 0..self.links.len() {
            if self.links[link].ends.contains(&node) {
                let end = self.links[link].end_of(node);
                self.links[link].told[end] = false;
                if closes {
                    self.reset(link);
                }
            }
        }
    }

    /// Starts a node's next life.
    pub fn restart(&mut self, node: usize) {
        if self.nodes[node].alive || (self.healing && self.dead[node]) {
            return;
        }
        self.cover.restarts += 1;
        self.note("restart", node as u64, self.nodes[node].boot + 1, 0);
        for link in 0..self.links.len() {
            if self.links[link].ends.contains(&node) {
                self.reset(link);
                self.dial(link, MILLI);
            }
        }
        if self.rng.engine.one_in(3) {
            let base = self.rng.engine.between(SECOND, 9 * SECOND);
            self.nodes[node].clock = Clock::at(self.now, base);
        }
        let local = self.nodes[node].clock.read(self.now);
        self.nodes[node].boot += 1;
        self.nodes[node].alive = true;
        for core in 0..self.nodes[node].cores.len() {
            let support = CoreConfig::default().times.support;
            let config = self.core_config(core, local + support);
            let seed = self.rng.seeds.draw();
            self.nodes[node].cores[core].raft = RaftCore::new(config, seed);
        }
        for nth in 0..self.plan.shards {
            let shard = shard_at(nth);
            if self.nodes[node].machine(shard).replica != ReplicaId(0) {
                self.open(node, shard);
            }
        }
        for core in 0..self.nodes[node].cores.len() {
            self.wake(node, core);
        }
    }

    /// A failed stream is closed and opened again from what the disk has.
    pub fn reopen_stream(&mut self, node: usize, core: usize, stream: usize) {
        if !self.nodes[node].cores[core].log.disk.streams[stream].failed {
            return;
        }
        if self.nodes[node].cores[core].stalled {
            self.end_turn(node, core);
        }
        let step = self.nodes[node].cores.len();
        let (streams, shards) = (self.plan.streams, self.plan.shards);
        let homes: Vec<usize> =
            (core..shards).step_by(step).filter(|nth| nth % streams == stream).collect();
        self.note("reopen", node as u64, core as u64, stream as u64);
        let turn = &mut self.nodes[node].cores[core];
        let no = StreamNo(turn.log.first_stream + u16::try_from(stream).expect("few"));
        turn.inputs.retain(|input| match input {
            Input::Durable { stream, .. } | Input::Failed { stream } => *stream != no,
            _ => true,
        });
        turn.raft.handle_stream_failed(no, &mut turn.out);
        for nth in &homes {
            self.close_slot(node, shard_at(*nth));
        }
        self.nodes[node].cores[core].log.disk.reopen(stream, homes.iter().copied());
        for nth in homes {
            if self.nodes[node].machine(shard_at(nth)).replica != ReplicaId(0) {
                self.open(node, shard_at(nth));
            }
        }
        self.wake(node, core);
    }

    /// Takes a replica off its core, at once.
    pub fn close_slot(&mut self, node: usize, shard: ShardId) {
        let local = self.nodes[node].clock.read(self.now);
        let core = self.nodes[node].home(shard);
        let nth = shard_place(shard);
        let turn = &mut self.nodes[node].cores[core];
        let Some(slot) = turn.machines[nth].slot else { return };
        if turn.raft.admin(slot, bowline_raft::Admin::Close).is_ok() {
            turn.raft.begin_pass(BootTime(local), &mut turn.out);
            turn.raft.flush_pass(BootTime(local), &mut turn.log, &mut turn.out);
            self.finish(node, core);
        }
        let turn = &mut self.nodes[node].cores[core];
        turn.inputs.retain(|input| !of_replica(input, shard));
        turn.log.queued[nth].clear();
        turn.log.incoming[nth] = None;
        turn.machines[nth].slot = None;
        // What raft was not asked yet is asked of the next life.
        self.reads.retain(|_, read| read.node != node || read.shard != shard || read.pass == 0);
    }

    /// Removes a replica and all it had.
    fn erase(&mut self, node: usize, shard: ShardId) {
        let core = self.nodes[node].home(shard);
        if self.nodes[node].cores[core].stalled {
            return;
        }
        self.close_slot(node, shard);
        self.cover.members_removed += 1;
        let nth = shard_place(shard);
        let turn = self.nodes[node].core_of_mut(shard);
        let gone = turn.machines[nth].replica;
        turn.machines[nth] = Machine::default();
        turn.log.disk.erase(nth);
        self.homes[nth].remove(&gone);
        self.tell(|| format!("node {} loses replica {gone} of shard {shard}", node + 1));
    }

    /// Looks after members, manifests and logs, every now and then.
    pub fn keep(&mut self) {
        for nth in 0..self.plan.shards {
            if self.keeps {
                self.follow_conf(shard_at(nth));
            }
        }
        if self.keeps && self.plan.classes.has(Class::Compact) {
            self.keep_logs();
        }
        if self.rng.engine.one_in(3) {
            self.ask_for_bodies();
        }
        let again = 20 * MILLI + self.rng.engine.below(60 * MILLI);
        self.at(self.now + again, Event::Keep);
    }

    /// Makes the replicas that the latest committed configuration names, and erases others.
    pub fn follow_conf(&mut self, shard: ShardId) {
        let conf = &self.confs[shard_place(shard)];
        let members: Vec<(usize, ReplicaId)> =
            conf.members.iter().map(|member| (place(member.node.0 - 1), member.replica)).collect();
        for node in 0..self.nodes.len() {
            let has = self.nodes[node].machine(shard).replica;
            let wants = members.iter().find(|(at, _)| *at == node).map(|(_, replica)| *replica);
            if has != ReplicaId(0) && wants != Some(has) && self.nodes[node].alive {
                if self.rng.engine.one_in(3) {
                    self.erase(node, shard);
                }
            } else if let Some(replica) = wants.filter(|_| has == ReplicaId(0)) {
                self.cover.members_added += 1;
                self.create(node, shard, replica);
            }
        }
    }

    /// Replicas whose bodies rotted ask for them.
    fn ask_for_bodies(&mut self) {
        for node in 0..self.nodes.len() {
            for nth in 0..self.plan.shards {
                if let Some(verb) = self.wish(node, shard_at(nth)) {
                    self.ask(node, shard_at(nth), verb);
                }
            }
        }
    }

    /// What a damaged replica asks of raft.
    fn wish(&self, node: usize, shard: ShardId) -> Option<Verb> {
        let core = self.nodes[node].core_of(shard);
        let slot = core.machine(shard).slot.filter(|_| self.nodes[node].alive)?;
        let repairs = core.raft.view(slot).damage == Damage::Repairing;
        match core.log.disk.memory_of(shard).lost {
            None => repairs.then_some(Verb::Healthy),
            Some(_) if core.machine(shard).state_lost => None,
            Some((from, to)) => Some(Verb::Repair(from, to)),
        }
    }
}

/// Whether something was for the life of a replica that is over.
fn of_replica(input: &Input, over: ShardId) -> bool {
    match input {
        Input::Fetched { shard, .. }
        | Input::SnapshotFailed { shard, .. }
        | Input::Repair { shard, .. }
        | Input::Verb { shard, .. }
        | Input::Applied { shard, .. } => *shard == over,
        _ => false,
    }
}
