//! The state machines: each entry once, in order, and the answers that follow from it.

use std::rc::Rc;

use bowline_raft::{Apply, Configuration, LogIndex, ReplicaId, ShardId, Term};

use super::{
    disk::shard_place,
    image::{Payload, SimBatch},
    node::{Input, Verb},
    rng::place,
    world::World,
};

impl World {
    /// Applies what was handed out on a core.
    pub fn apply_all(&mut self, node: usize, core: usize) {
        let mut shards = std::mem::take(&mut self.nodes[node].cores[core].to_apply);
        for shard in shards.drain(..) {
            self.apply(node, shard);
        }
        self.nodes[node].cores[core].to_apply = shards;
    }

    fn apply(&mut self, node: usize, shard: ShardId) {
        let before = self.nodes[node].machine(shard).applied;
        while let Some(next) = self.nodes[node].machine(shard).waiting.front().copied() {
            let whole = match next {
                Apply::Install { index, .. } => self.install(node, shard, index.0),
                Apply::Range { from, to, .. } => self.apply_range(node, shard, (from.0, to.0)),
                _ => true,
            };
            if !whole {
                break;
            }
            self.nodes[node].machine_mut(shard).waiting.pop_front();
        }
        let machine = self.nodes[node].machine(shard);
        let (applied, replica) = (machine.applied, machine.replica);
        if applied == before {
            return;
        }
        let late = self.rng.engine.one_in(4);
        let turn = self.nodes[node].core_of_mut(shard);
        if late {
            turn.inputs.push(Input::Applied { shard, replica, index: applied });
            let home = self.nodes[node].home(shard);
            self.wake(node, home);
        } else if let Some(slot) = turn.machines[shard_place(shard)].slot {
            turn.raft.handle_applied(slot, LogIndex(applied));
        }
    }

    fn install(&mut self, node: usize, shard: ShardId, index: u64) -> bool {
        let turn = self.nodes[node].core_of_mut(shard);
        let manifest = Rc::clone(&turn.log.disk.memory_of(shard).manifest);
        let machine = &mut turn.machines[shard_place(shard)];
        if manifest.index > index {
            // A later one came in the same turn, and takes its place.
            return true;
        }
        let back = index < machine.applied && !machine.state_lost;
        let other = manifest.index != index;
        machine.applied = index;
        machine.term = manifest.term;
        machine.value = manifest.value;
        machine.conf.clone_from(&manifest.conf);
        machine.state_lost = false;
        machine.tickets.retain(|ticket| ticket.first > index);
        self.cover.snapshots_installed += 1;
        if back || other {
            let what = format!("node {} shard {shard} installs {index} over more", node + 1);
            self.judge(Err(what));
        }
        self.note("install", node as u64, shard.0, index);
        true
    }

    /// Applies entries as far as their bodies are there; whether all of them were.
    fn apply_range(&mut self, node: usize, shard: ShardId, range: (u64, u64)) -> bool {
        let (from, to) = range;
        let machine = self.nodes[node].machine(shard);
        let next = machine.applied + 1;
        if machine.state_lost {
            return true;
        }
        if from > next || to < next {
            let what = format!(
                "exactly once: node {} shard {shard} is handed {from}..={to}, next is {next}",
                node + 1
            );
            self.judge(Err(what));
            return true;
        }
        for index in next..=to {
            let log = self.nodes[node].core_of(shard).log.disk.memory_of(shard);
            if log.is_lost(index) {
                return false;
            }
            let entry = log.entry(index);
            let committed = self.oracle.table(shard).committed.get(place(index - 1));
            let want = committed.map(|committed| (committed.term, committed.payload));
            if entry != want || entry.is_none() {
                let what = format!(
                    "state machine safety: node {} shard {shard} applies {entry:?} at {index}, \
                     committed is {want:?}",
                    node + 1
                );
                self.judge(Err(what));
                return true;
            }
            self.apply_entry(node, shard, index, entry.expect("it was looked at"));
        }
        true
    }

    fn apply_entry(&mut self, node: usize, shard: ShardId, index: u64, entry: (Term, Payload)) {
        let (term, payload) = entry;
        let nth = shard_place(shard);
        let turn = self.nodes[node].core_of_mut(shard);
        let machine = &mut turn.machines[nth];
        machine.applied = index;
        machine.term = term;
        if payload != 0 && payload >> 63 == 0 {
            machine.value = payload;
        } else if payload != 0 {
            let log = &turn.log.disk.memory[nth];
            let piece = &log.pieces[log.find(index).expect("it is there")];
            machine.conf = piece.batch.bytes_of(index).to_vec();
            let conf = Configuration::decode(&machine.conf).expect("raft took it");
            if conf.epoch > self.confs[nth].epoch {
                self.cover.joint_confs += u64::from(conf.phase == bowline_raft::Phase::Joint);
                self.confs[nth] = conf;
            }
        }
        let machine = self.nodes[node].machine_mut(shard);
        while machine.tickets.front().is_some_and(|ticket| ticket.first <= index) {
            let ticket = machine.tickets.pop_front().expect("it was there");
            if ticket.first == index && ticket.term == term {
                if payload != ticket.token {
                    let what = format!("ticket {ticket:?} got {payload}");
                    self.judge(Err(what));
                }
                self.cover.writes_acked += 1;
                self.oracle.learned(shard, index);
                return self.drop_old_tickets(node, shard, index);
            }
        }
    }

    fn drop_old_tickets(&mut self, node: usize, shard: ShardId, index: u64) {
        let machine = self.nodes[node].machine_mut(shard);
        machine.tickets.retain(|ticket| ticket.first > index);
    }

    /// Entries came that fill a hole of a damaged log.
    pub fn repair(
        &mut self,
        node: usize,
        to: (ShardId, ReplicaId),
        from: u64,
        batches: &[Rc<SimBatch>],
    ) {
        let (shard, replica) = to;
        let nth = shard_place(shard);
        let turn = self.nodes[node].core_of_mut(shard);
        if turn.machines[nth].replica != replica || batches.is_empty() {
            return;
        }
        let last = batches[batches.len() - 1].head.last().0;
        for image in [&mut turn.log.disk.memory[nth], &mut turn.log.disk.durable[nth]] {
            let Some((hole_from, hole_to)) = image.lost else { continue };
            let same = batches.iter().all(|batch| {
                let end = batch.head.last().0.min(image.last());
                (batch.head.first.0.max(from)..=end)
                    .all(|index| image.term_at(index) == Some(batch.head.term))
            });
            if same && from <= hole_from {
                image.lost = (last < hole_to).then_some((last + 1, hole_to));
            }
        }
        if turn.log.disk.memory[nth].lost.is_none() {
            self.cover.repaired += 1;
            let verb = Input::Verb { shard, verb: Verb::Healthy };
            self.nodes[node].core_of_mut(shard).inputs.push(verb);
        }
        self.apply(node, shard);
        let home = self.nodes[node].home(shard);
        self.wake(node, home);
    }
}
