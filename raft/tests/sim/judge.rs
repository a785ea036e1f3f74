//! What is looked at after each turn: roles, commits, answers that leave, and the cores' own rules.

use std::rc::Rc;

use bowline_raft::{Apply, Outbox, ReadMode, Reason, ReplicaId, Role, Send, ShardId, Slot, What};

use super::{
    disk::shard_place,
    log::shard_at,
    node::{Seen, Ticket},
    oracle::Copy,
    world::{Fate, World},
};

/// More shards than this are not all looked at in every turn.
const MANY: usize = 64;

/// Which replica something is handed to.
pub fn slot_of(apply: Apply) -> Option<Slot> {
    match apply {
        Apply::Range { slot, .. } | Apply::Install { slot, .. } => Some(slot),
        _ => None,
    }
}

impl World {
    /// Judges the replicas of a core after a turn: all of them, or, where there are very many,
    /// those whose entries are about to be applied, and all of them now and then.
    pub fn look(&mut self, node: usize, core: usize, out: &Outbox) {
        self.judge_appends(node, core);
        let shards = self.plan.shards;
        let step = self.nodes[node].cores.len();
        let turn = &self.nodes[node].cores[core];
        let passes = turn.passes;
        if shards <= MANY || passes.is_multiple_of(256) {
            for nth in (core..shards).step_by(step) {
                self.look_at(node, shard_at(nth));
            }
        } else {
            for slot in out.apply.iter().filter_map(|apply| slot_of(*apply)) {
                let shard = self.nodes[node].cores[core].raft.view(slot).shard;
                self.look_at(node, shard);
            }
        }
        let often = if shards <= 4 { 1 } else { 4 * shards.div_ceil(MANY) as u64 };
        if passes.is_multiple_of(often) {
            let rules = self.nodes[node].cores[core].raft.check();
            self.judge(rules.map_err(|broken| format!("node {}: {broken}", node + 1)));
        }
    }

    fn judge_appends(&mut self, node: usize, core: usize) {
        let appended = std::mem::take(&mut self.nodes[node].cores[core].log.appended);
        for (batch, before) in &appended {
            let judged = self.oracle.appended(batch, *before);
            self.judge(judged);
        }
        let mut appended = appended;
        appended.clear();
        self.nodes[node].cores[core].log.appended = appended;
    }

    fn look_at(&mut self, node: usize, shard: ShardId) {
        let turn = self.nodes[node].core_of(shard);
        let machine = &turn.machines[shard_place(shard)];
        let Some(slot) = machine.slot else { return };
        let view = turn.raft.view(slot);
        let before = machine.seen;
        let now = Seen { role: view.role, term: view.term, commit: view.commit.0 };
        if now == before {
            if view.role == Role::Leader {
                self.keep_conf(node, shard);
            }
            return;
        }
        let replica = machine.replica;
        if !view.open {
            self.nodes[node].machine_mut(shard).slot = None;
            return;
        }
        if now.term < before.term || now.commit < before.commit {
            let what = format!("node {} shard {shard}: {before:?} -> {now:?}", node + 1);
            self.judge(Err(what));
        }
        if now.commit > before.commit {
            self.cover.commits += now.commit - before.commit;
            self.judge_commit(node, shard, (before, now));
        }
        self.nodes[node].machine_mut(shard).seen = now;
        self.keep_conf(node, shard);
        self.note("role", node as u64, replica.0, now.term.0 * 4 + now.role as u64);
    }

    fn judge_commit(&mut self, node: usize, shard: ShardId, moved: (Seen, Seen)) {
        let (before, now) = moved;
        // It may have led when the turn began, and no more when it ended.
        let led = before.role == Role::Leader || now.role == Role::Leader;
        let under = if now.role == Role::Leader { now.term } else { before.term };
        let at = self.nodes[node].core_of(shard);
        let log = at.log.disk.memory_of(shard);
        let time = self.now;
        let known = self.oracle.table(shard).committed.len() as u64;
        let grew = self.oracle.committed(shard, now.commit, log, (under, time));
        let agrees = self.oracle.agrees(shard, before.commit + 1, now.commit, log);
        let grew = match grew {
            Ok(grew) => grew,
            Err(what) => {
                self.judge(Err(what));
                return;
            },
        };
        self.judge(agrees);
        if !grew {
            return;
        }
        if !led {
            let what = format!(
                "shard {shard} index {}: node {} commits as {:?} what no leader committed",
                now.commit,
                node + 1,
                now.role
            );
            self.judge(Err(what));
        }
        self.judge_majority(node, shard, now.commit);
        self.settle(shard, known, now.commit);
    }

    /// The fates of what was committed just now.
    fn settle(&mut self, shard: ShardId, from: u64, to: u64) {
        for index in from + 1..=to {
            let entry = self.oracle.table(shard).committed[super::rng::place(index - 1)];
            if entry.payload != 0 && entry.payload >> 63 == 0 {
                self.fate(entry.payload, 1, Fate::Committed);
            }
        }
    }

    fn judge_majority(&mut self, node: usize, shard: ShardId, index: u64) {
        let at = self.nodes[node].core_of(shard);
        let Some(slot) = at.machines[shard_place(shard)].slot else { return };
        let view = at.raft.view(slot);
        let Some(conf) = view.conf else { return };
        let before = at.machines[shard_place(shard)].seen_conf.clone();
        let copies: Vec<Copy<'_>> = self
            .nodes
            .iter()
            .map(|node| {
                let machine = node.machine(shard);
                let disk = node.core_of(shard).log.disk.durable_of(shard);
                Copy { replica: machine.replica, disk, charged: machine.charged }
            })
            .collect();
        // A turn may commit under one configuration and then stage the next.
        let judged = self.oracle.on_majority(shard, index, conf, &copies);
        let earlier = before
            .is_some_and(|conf| self.oracle.on_majority(shard, index, &conf, &copies).is_ok());
        self.judge(judged.or_else(|what| if earlier { Ok(()) } else { Err(what) }));
    }

    fn keep_conf(&mut self, node: usize, shard: ShardId) {
        let core = self.nodes[node].core_of(shard);
        let machine = core.machine(shard);
        let Some(conf) = machine.slot.and_then(|slot| core.raft.view(slot).conf) else { return };
        if machine.seen_conf.as_deref() != Some(conf) {
            let conf = Rc::new(conf.clone());
            self.nodes[node].machine_mut(shard).seen_conf = Some(conf);
        }
    }

    /// A message that promises something leaves only once the promise is on the disk.
    pub fn check_held(&mut self, node: usize, send: &Send) {
        let message = &send.message;
        let disk = self.nodes[node].core_of(message.shard).log.disk.durable_of(message.shard);
        let own = message.from;
        if self.nodes[node].machine(message.shard).replica != own {
            // It was erased; what it said before then was true.
            return;
        }
        let hard = disk.hard;
        let held = match message.what {
            What::AppendResp { matched, reject, .. } => {
                let same = hard.term == message.term && reject.is_none();
                hard.term >= message.term && (!same || matched.0 <= disk.last())
            },
            What::VoteResp(ballot) => {
                let gave = hard.term > ballot.asked
                    || hard.term == ballot.asked && hard.vote == message.to;
                hard.term >= message.term && (!ballot.granted || gave)
            },
            What::Vote { last, last_term, .. } => {
                // One that follows somebody in that term may have cut its log since: its request
                // comes too late to be of use to it.
                let stands = self.stands(node, message.shard);
                let claim = (last_term, last.0);
                let voted = hard.term > message.term
                    || hard.term == message.term
                        && hard.vote == own
                        && (claim <= (disk.last_term(), disk.last()) || !stands);
                hard.term >= message.term && voted
            },
            What::PreVoteResp(_) => hard.term >= message.term,
            _ => return,
        };
        if !held {
            let what = format!(
                "held answers: node {} sends {:?} of term {} with {hard:?}, last {} on its disk",
                node + 1,
                message.what,
                message.term,
                disk.last()
            );
            self.judge(Err(what));
        }
    }

    fn stands(&self, node: usize, shard: ShardId) -> bool {
        let core = self.nodes[node].core_of(shard);
        let slot = core.machine(shard).slot;
        slot.is_some_and(|slot| core.raft.view(slot).role == Role::Candidate)
    }

    /// Judges elections in the order in which they happened.
    pub fn judge_roles(&mut self, node: usize, core: usize, out: &Outbox) {
        for change in &out.role {
            let at = &self.nodes[node].cores[core];
            let replica = at.machines[shard_place(change.shard)].replica;
            match change.role {
                Role::Leader => {
                    self.cover.elections += 1;
                    self.tell(|| {
                        let (shard, term) = (change.shard, change.term);
                        format!("node {} leads shard {shard} in term {term}", node + 1)
                    });
                    let log = at.log.disk.memory_of(change.shard);
                    let judged = self.oracle.elected(change.shard, change.term, replica, log);
                    self.judge(judged);
                },
                Role::PreCandidate => self.cover.pre_campaigns += 1,
                _ => {},
            }
        }
        for event in &out.event {
            self.tell(|| {
                let (shard, term) = (event.shard, event.term);
                format!("node {} shard {shard} term {term}: {:?}", node + 1, event.reason)
            });
            match event.reason {
                Reason::NoQuorum => self.cover.no_quorum_step_downs += 1,
                Reason::ConfigurationUndone => self.cover.confs_undone += 1,
                Reason::Broken(rule) => {
                    let what = format!("node {} shard {}: {rule:?}", node + 1, event.shard);
                    self.judge(Err(what));
                },
                _ => {},
            }
        }
    }

    /// Proposals accepted or not, reads that may be served or not.
    pub fn drain_answers(&mut self, node: usize, core: usize, out: &mut Outbox) {
        for accepted in out.accepted.drain(..) {
            let turn = &mut self.nodes[node].cores[core];
            let shard = turn.raft.view(accepted.slot).shard;
            let ticket =
                Ticket { first: accepted.first.0, term: accepted.term, token: accepted.token };
            turn.machines[shard_place(shard)].tickets.push_back(ticket);
        }
        for rejected in out.rejected.drain(..) {
            let turn = &mut self.nodes[node].cores[core];
            let shard = turn.raft.view(rejected.slot).shard;
            let queue = &mut turn.log.queued[shard_place(shard)];
            let Some((token, count)) = queue.pop_front().filter(|at| at.0 == rejected.token) else {
                self.judge(Err(format!("rejected out of order: token {}", rejected.token)));
                return;
            };
            self.cover.rejected_proposals += 1;
            self.fate(token, count, Fate::Rejected);
        }
        for ready in out.reads.drain(..) {
            let turn = &self.nodes[node].cores[core];
            let view = turn.raft.view(ready.slot);
            self.tell(|| format!("node {} answers {ready:?}", node + 1));
            let (shard, term, role) = (view.shard, view.term, view.role);
            let applied = turn.machines[shard_place(shard)].applied;
            let passes = turn.passes;
            let Some(read) = self.reads.remove(&ready.token) else {
                self.judge(Err(format!("an answer to a read nobody asked: {ready:?}")));
                return;
            };
            let lease = read.mode == ReadMode::Lease && read.pass == passes;
            self.judge_read(read, applied, (role, lease, term));
            if ready.index.0 > applied {
                self.judge(Err(format!("a read before its index is applied: {ready:?}")));
            }
        }
        for rejected in out.reads_rejected.drain(..) {
            self.note("refused", node as u64, rejected.token, 0);
            self.cover.reads_rejected += 1;
            self.reads.remove(&rejected.token);
        }
    }

    /// A read that raft lets through without a queue.
    pub fn read_at_once(&mut self, node: usize, shard: ShardId, token: u64, index: u64) {
        let core = self.nodes[node].core_of(shard);
        let machine = core.machine(shard);
        let applied = machine.applied;
        let Some(view) = machine.slot.map(|slot| core.raft.view(slot)) else { return };
        let how = (view.role, true, view.term);
        let Some(read) = self.reads.remove(&token) else { return };
        if index > applied {
            self.judge(Err(format!("a read at once before {index} is applied")));
        }
        self.judge_read(read, applied, how);
    }

    fn judge_read(
        &mut self,
        read: super::world::Read,
        applied: u64,
        how: (Role, bool, bowline_raft::Term),
    ) {
        let (role, lease, term) = how;
        let name = match (read.mode, role) {
            (ReadMode::Lease, _) => {
                self.cover.reads_lease += 1;
                "lease"
            },
            (ReadMode::Follower, Role::Follower) => {
                self.cover.reads_follower += 1;
                "follower's"
            },
            _ => {
                self.cover.reads_index += 1;
                "leader's"
            },
        };
        if lease {
            self.cover.lease_answers += 1;
            let judged = self.oracle.lease(read.shard, term);
            self.judge(judged);
        }
        let judged = self.oracle.read(read.shard, read.floor, applied, name);
        self.judge(judged);
        self.note("read", read.shard.0, applied, read.floor);
    }

    /// One line a replica.
    pub fn states(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for nth in 0..self.plan.shards {
            let shard = shard_at(nth);
            for node in &self.nodes {
                lines.push(Self::state_of(node, shard));
            }
        }
        lines
    }

    fn state_of(node: &super::node::Node, shard: ShardId) -> String {
        let core = node.core_of(shard);
        let machine = node.machine(shard);
        let life = if node.alive { "up" } else { "down" };
        let head = format!("shard {shard} node {} {life} replica {}", node.id, machine.replica);
        let Some(slot) = machine.slot else { return format!("{head} closed") };
        let v = core.raft.view(slot);
        let leader = v.leader.map_or(0, |ReplicaId(leader)| leader);
        let conf = v.conf.map_or_else(String::new, conf_line);
        let (disk, memory) = (core.log.disk.durable_of(shard), core.log.disk.memory_of(shard));
        format!(
            "{head} {:?} term {} vote {} leader {leader} {:?} floor {} applied {}/{} commit {} \
             durable {} last {}@{} disk {}@{} manifest {} lost {:?} [{conf}]",
            v.role,
            v.term,
            v.vote,
            v.damage,
            v.floor,
            machine.applied,
            v.handed,
            v.commit,
            v.durable,
            v.last,
            v.last_term,
            disk.last(),
            disk.hard.term,
            memory.manifest.index,
            memory.lost
        )
    }
}

/// A configuration in few words.
pub fn conf_line(conf: &bowline_raft::Configuration) -> String {
    let members: Vec<_> = conf
        .members
        .iter()
        .map(|m| format!("{}@{}:{:?}>{:?}", m.replica, m.node, m.before, m.after))
        .collect();
    format!("{} {:?} {}", conf.epoch, conf.phase, members.join(" "))
}
