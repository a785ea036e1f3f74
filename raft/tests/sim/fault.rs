//! What goes wrong, class by class.

use bowline_raft::{NodeId, Part, Phase, ReplicaId, ShardId, StreamNo};

use super::{
    disk::shard_place,
    log::shard_at,
    node::{Input, LaneInput, Verb},
    plan::{CLASSES, Class, MILLI, SECOND},
    rng::place,
    world::{Event, Mend, World},
};

impl World {
    /// Lets the faults of this seed begin.
    pub fn unleash(&mut self) {
        for class in CLASSES {
            if self.plan.classes.has(class) {
                self.next_fault(class);
            }
        }
        self.at(0, Event::GiveUp);
        self.at(0, Event::Load);
    }

    fn next_fault(&mut self, class: Class) {
        let every = self.plan.every(class);
        let wait = every / 4 + self.rng.fault.below(every * 3 / 2);
        self.at(self.now + wait, Event::Fault(class));
    }

    pub fn fault(&mut self, class: Class) {
        if self.healing {
            return;
        }
        self.next_fault(class);
        self.note("fault", class as u64, 0, 0);
        match class {
            Class::Reset => {
                let link = self.rng.fault.below(self.links.len() as u64);
                if !self.links.is_empty() {
                    self.reset(place(link));
                }
            },
            Class::Partition => self.partition(),
            Class::OneWay => self.one_way(),
            Class::Bridge => self.bridge(),
            Class::Pause | Class::Suspend => self.pause(class),
            Class::Crash => self.crash_one(),
            Class::Power => self.power_cut(),
            Class::StuckDisk => self.stick(),
            Class::FailedDisk => self.fail_stream(),
            Class::SmallLog => self.small_log(),
            Class::Drift | Class::WildClock | Class::Jump => self.bend_clock(class),
            Class::Membership => self.change_members(),
            Class::Transfer => self.transfer(),
            Class::Rot | Class::Retire | Class::StateRot => self.damage(class),
            Class::Strange => self.strange(),
            Class::NoRoom => self.close_room(),
            Class::Delay
            | Class::SlowDisk
            | Class::BadBytes
            | Class::Compact
            | Class::LostSnapshot
            | Class::SmallCache => {},
        }
    }

    pub fn any_node(&mut self) -> usize {
        place(self.rng.fault.below(self.nodes.len() as u64))
    }

    fn any_core(&mut self) -> (usize, usize) {
        let node = self.any_node();
        let cores = self.nodes[node].cores.len() as u64;
        (node, place(self.rng.fault.below(cores)))
    }

    fn cut_for_a_while(&mut self, from: usize, to: usize, until: u64) {
        self.block(from, to, true);
        self.at(until, Event::Mend(Mend::Way(from, to)));
    }

    fn partition(&mut self) {
        self.cover.partitions += 1;
        let side = self.rng.fault.below(1 << self.nodes.len());
        let until = self.now + self.rng.fault.log_uniform(20 * MILLI, 3 * SECOND);
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if side >> a & 1 != side >> b & 1 {
                    self.cut_for_a_while(a, b, until);
                }
            }
        }
    }

    fn one_way(&mut self) {
        self.cover.one_way_cuts += 1;
        let (a, b) = (self.any_node(), self.any_node());
        let until = self.now + self.rng.fault.log_uniform(20 * MILLI, 4 * SECOND);
        if a != b {
            self.cut_for_a_while(a, b, until);
        }
    }

    fn bridge(&mut self) {
        self.cover.bridges += 1;
        let middle = self.any_node();
        let side = self.rng.fault.below(1 << self.nodes.len());
        let until = self.now + self.rng.fault.log_uniform(50 * MILLI, 4 * SECOND);
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if a != middle && b != middle && side >> a & 1 != side >> b & 1 {
                    self.cut_for_a_while(a, b, until);
                }
            }
        }
    }

    fn pause(&mut self, class: Class) {
        let (node, core) = self.any_core();
        let until = self.now + self.rng.fault.log_uniform(2 * MILLI, 2 * SECOND);
        if class == Class::Pause {
            self.cover.pauses += 1;
            self.nodes[node].cores[core].paused_until = until;
        } else {
            self.cover.suspends += 1;
            for core in &mut self.nodes[node].cores {
                core.paused_until = until;
            }
        }
    }

    fn crash_one(&mut self) {
        let node = self.any_node();
        let luck = self.rng.fault.one_in(2);
        self.crash(node, luck);
        let back = self.rng.fault.log_uniform(MILLI, 2 * SECOND);
        self.at(self.now + back, Event::Restart { node });
    }

    fn power_cut(&mut self) {
        self.cover.power_cuts += 1;
        for node in 0..self.nodes.len() {
            let luck = self.rng.fault.one_in(2);
            self.crash(node, luck);
            let back = self.rng.fault.log_uniform(MILLI, SECOND);
            self.at(self.now + back, Event::Restart { node });
        }
    }

    fn stick(&mut self) {
        self.cover.stuck_disks += 1;
        let (node, core) = self.any_core();
        let stream = place(self.rng.fault.below(self.plan.streams as u64));
        self.nodes[node].cores[core].log.disk.streams[stream].stuck = true;
        let until = self.now + self.rng.fault.log_uniform(20 * MILLI, 3 * SECOND);
        let boot = self.nodes[node].boot;
        self.at(until, Event::Mend(Mend::Stuck { node, boot, core, stream }));
    }

    fn fail_stream(&mut self) {
        let (node, core) = self.any_core();
        let stream = place(self.rng.fault.below(self.plan.streams as u64));
        if !self.nodes[node].alive {
            return;
        }
        self.cover.failed_streams += 1;
        let turn = &mut self.nodes[node].cores[core];
        turn.log.disk.streams[stream].failed = true;
        let no = StreamNo(turn.log.first_stream + u16::try_from(stream).expect("few"));
        // Raft may learn of it by a refusal first.
        if self.rng.fault.one_in(2) {
            turn.inputs.push(Input::Failed { stream: no });
            self.wake(node, core);
        }
        let back = self.rng.fault.log_uniform(10 * MILLI, 2 * SECOND);
        let boot = self.nodes[node].boot;
        self.at(self.now + back, Event::Reopen { node, boot, core, stream });
    }

    fn small_log(&mut self) {
        let (node, core) = self.any_core();
        let frames = place(self.rng.fault.between(1, 6));
        let wide = self.rng.fault.one_in(3);
        for stream in &mut self.nodes[node].cores[core].log.disk.streams {
            stream.frames_max = if wide { usize::MAX } else { frames };
        }
    }

    fn bend_clock(&mut self, class: Class) {
        let node = self.any_node();
        let now = self.now;
        if class == Class::Jump {
            self.cover.clock_leaps += 1;
            let by = self.rng.fault.log_uniform(MILLI, 3_600 * SECOND);
            self.nodes[node].clock.leap(now, by);
            return;
        }
        self.cover.clock_changes += 1;
        let most = if class == Class::Drift { 990 } else { 400_000 };
        let off = i64::try_from(self.rng.fault.below(most * 2)).expect("small");
        let most = i64::try_from(most).expect("small");
        self.nodes[node].clock.speed(now, off - most);
    }

    /// The members of a shard that may be lost as promised: none of the rest.
    fn tolerates(&self, shard: ShardId, one_more: ReplicaId) -> bool {
        let charged = |replica: ReplicaId| {
            replica == one_more
                || self.nodes.iter().any(|node| {
                    let machine = node.machine(shard);
                    let lost = node.core_of(shard).log.disk.durable_of(shard).lost.is_some();
                    machine.replica == replica && (machine.charged || machine.state_lost || lost)
                })
        };
        self.configurations(shard).iter().all(|conf| {
            // A learner may be a voter before it is whole again.
            let bad = conf.members.iter().filter(|member| charged(member.replica)).count();
            let voters = |part: fn(&bowline_raft::Member) -> Part| {
                conf.members.iter().filter(|member| part(member) == Part::Voter).count()
            };
            bad * 2 < voters(|member| member.before) && bad * 2 < voters(|member| member.after)
        })
    }

    /// Every configuration that some replica holds for the active one, and the committed one.
    pub fn configurations(&self, shard: ShardId) -> Vec<bowline_raft::Configuration> {
        let mut all = vec![self.confs[shard_place(shard)].clone()];
        for node in &self.nodes {
            let core = node.core_of(shard);
            if let Some(slot) = core.machine(shard).slot
                && let Some(conf) = core.raft.view(slot).conf
                && !all.contains(conf)
            {
                all.push(conf.clone());
            }
            for (_, bytes) in core.log.disk.memory_of(shard).confs() {
                let conf = bowline_raft::Configuration::decode(&bytes).expect("raft wrote it");
                if !all.contains(&conf) {
                    all.push(conf);
                }
            }
        }
        all
    }

    fn damage(&mut self, class: Class) {
        let node = self.any_node();
        let shard = shard_at(place(self.rng.fault.below(self.plan.shards as u64)));
        let machine = self.nodes[node].machine(shard);
        let replica = machine.replica;
        let rotten = self.nodes[node].core_of(shard).log.disk.durable_of(shard).lost.is_some();
        if replica == ReplicaId(0) || machine.retired || machine.state_lost || rotten {
            return;
        }
        let alone = class == Class::Retire || self.others_whole(shard, node);
        if !alone || !self.tolerates(shard, replica) {
            return;
        }
        if class == Class::StateRot {
            self.rot_state(node, shard);
            return;
        }
        // Damage shows at the next start.
        let luck = self.rng.fault.one_in(2);
        self.crash(node, luck);
        if class == Class::Rot {
            self.rot(node, shard);
        } else {
            self.retire(node, shard);
        }
        let back = self.rng.fault.log_uniform(MILLI, SECOND);
        self.at(self.now + back, Event::Restart { node });
    }

    /// Whether no other replica of the shard misses bodies or state.
    fn others_whole(&self, shard: ShardId, but: usize) -> bool {
        self.nodes.iter().enumerate().all(|(nth, node)| {
            let core = node.core_of(shard);
            let machine = core.machine(shard);
            let lost = core.log.disk.durable_of(shard).lost.is_some();
            nth == but || !(lost || machine.state_lost || machine.retired)
        })
    }

    fn rot_state(&mut self, node: usize, shard: ShardId) {
        self.cover.state_damaged += 1;
        if self.nodes[node].machine(shard).slot.is_none() || !self.nodes[node].alive {
            return;
        }
        self.nodes[node].machine_mut(shard).state_lost = true;
        self.tell(|| format!("node {} shard {shard} loses its state", node + 1));
        self.ask(node, shard, Verb::StateRot);
    }

    fn rot(&mut self, node: usize, shard: ShardId) {
        let nth = shard_place(shard);
        let core = self.nodes[node].home(shard);
        let log = &mut self.nodes[node].cores[core].log.disk;
        let image = &mut log.durable[nth];
        if image.lost.is_some() || image.last() <= image.floor + 1 {
            return;
        }
        let from = self.rng.fault.between(image.floor + 1, image.last());
        let to = self.rng.fault.between(from, image.last());
        // Configurations are read back whole, or the replica is beyond repair by itself.
        let confs = image.confs();
        if confs.iter().any(|(index, _)| from <= index.0 && index.0 <= to) {
            return;
        }
        image.lost = Some((from, to));
        log.memory[nth].lost = Some((from, to));
        self.cover.repairing += 1;
        self.tell(|| format!("node {} shard {shard} loses the bodies {from}..={to}", node + 1));
    }

    fn retire(&mut self, node: usize, shard: ShardId) {
        self.cover.retired += 1;
        let nth = shard_place(shard);
        let core = self.nodes[node].home(shard);
        let forgets = self.rng.fault.one_in(2);
        let turn = &mut self.nodes[node].cores[core];
        let image = &mut turn.log.disk.durable[nth];
        let low = image.manifest.index.max(image.floor);
        let cut = self.rng.fault.between(low, image.last().max(low));
        image.forget(cut, forgets);
        turn.log.disk.memory[nth] = turn.log.disk.durable[nth].clone();
        turn.machines[nth].charged = true;
        turn.machines[nth].retired = true;
        self.tell(|| format!("node {} shard {shard} forgets all above {cut}", node + 1));
    }

    fn close_room(&mut self) {
        if self.links.is_empty() {
            return;
        }
        self.cover.rooms_closed += 1;
        let link = place(self.rng.fault.below(self.links.len() as u64));
        self.room(link, 0);
        let until = self.now + self.rng.fault.log_uniform(5 * MILLI, SECOND);
        self.at(until, Event::Mend(Mend::Room { link }));
    }

    fn room(&mut self, link: usize, bytes: u32) {
        let (ends, core) = (self.links[link].ends, self.links[link].core);
        for end in 0..2 {
            if self.links[link].told[end] {
                let (me, lane) = (ends[end], super::net::lane_no(ends[1 - end]));
                let what = LaneInput::Room(bytes);
                self.nodes[me].cores[core].inputs.push(Input::Lane { lane, what });
                self.wake(me, core);
            }
        }
    }

    pub fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Way(from, to) => self.block(from, to, false),
            Mend::Stuck { node, boot, core, stream } => {
                if self.lives(node, boot) {
                    self.nodes[node].cores[core].log.disk.streams[stream].stuck = false;
                }
            },
            Mend::Room { link } => self.room(link, u32::MAX),
        }
    }

    fn transfer(&mut self) {
        let shard = shard_at(place(self.rng.fault.below(self.plan.shards as u64)));
        let Some(node) = self.leader(shard) else { return };
        let conf = &self.confs[shard_place(shard)];
        let members: Vec<_> = conf.members.iter().map(|member| member.replica).collect();
        let to = self.rng.fault.pick(&members);
        self.ask(node, shard, Verb::Transfer(to));
    }

    /// Puts a request of the engine before a core.
    pub fn ask(&mut self, node: usize, shard: ShardId, verb: Verb) {
        let home = self.nodes[node].home(shard);
        self.nodes[node].cores[home].inputs.push(Input::Verb { shard, verb });
        self.wake(node, home);
    }

    fn change_members(&mut self) {
        let shard = shard_at(place(self.rng.fault.below(self.plan.shards as u64)));
        let Some(node) = self.leader(shard) else { return };
        let conf = self.confs[shard_place(shard)].clone();
        if conf.phase == Phase::Joint {
            return;
        }
        let voters: Vec<_> = conf
            .members
            .iter()
            .filter(|member| member.after == Part::Voter)
            .map(|member| member.replica)
            .collect();
        let learners: Vec<_> = conf
            .members
            .iter()
            .filter(|member| member.after == Part::Learner)
            .map(|member| member.replica)
            .collect();
        let outside: Vec<u64> = self
            .nodes
            .iter()
            .map(|node| node.id)
            .filter(|id| conf.members.iter().all(|member| member.node != NodeId(*id)))
            .filter(|id| self.nodes[place(id - 1)].machine(shard).replica == ReplicaId(0))
            .collect();
        let verb = match self.rng.fault.below(5) {
            0 | 1 if !outside.is_empty() => {
                Verb::Add { node: self.rng.fault.pick(&outside), auto: self.rng.fault.one_in(2) }
            },
            2 if !learners.is_empty() => Verb::Promote(self.rng.fault.pick(&learners)),
            3 if voters.len() > 1 => Verb::Remove(self.rng.fault.pick(&voters)),
            3 if !learners.is_empty() => Verb::Remove(self.rng.fault.pick(&learners)),
            4 if !learners.is_empty() => Verb::Swap {
                out: self.rng.fault.pick(&voters),
                promote: self.rng.fault.pick(&learners),
            },
            _ => return,
        };
        self.ask(node, shard, verb);
    }

    /// Whether a replica of the shard lost something that it has not got back.
    pub fn is_damaged(&self, shard: ShardId) -> bool {
        self.nodes.iter().any(|node| {
            let machine = node.machine(shard);
            let lost = node.core_of(shard).log.disk.durable_of(shard).lost.is_some();
            machine.charged || machine.state_lost || lost
        })
    }
}
