//! Manifests, compaction, and the way of a snapshot from one node to another.

use std::rc::Rc;

use bowline_raft::{LaneNo, ShardId, SnapWant};

use super::{
    disk::shard_place,
    image::{Manifest, Op},
    log::shard_at,
    net::{Bulk, BulkWhat},
    node::{Input, Verb},
    plan::{Class, MILLI},
    rng::place,
    world::{Event, World},
};

impl World {
    pub fn keep_logs(&mut self) {
        let node = place(self.rng.engine.below(self.nodes.len() as u64));
        let shard = shard_at(place(self.rng.engine.below(self.plan.shards as u64)));
        if self.nodes[node].alive && self.nodes[node].machine(shard).slot.is_some() {
            self.flush(node, shard);
            self.compact(node, shard);
        }
    }

    /// Writes a manifest of the state as it is.
    pub fn flush(&mut self, node: usize, shard: ShardId) {
        let nth = shard_place(shard);
        let core = self.nodes[node].home(shard);
        let stream = nth % self.plan.streams;
        let turn = &mut self.nodes[node].cores[core];
        let machine = &turn.machines[nth];
        let before = turn.log.disk.memory[nth].manifest.index;
        if machine.applied <= before || machine.state_lost {
            return;
        }
        let manifest = Manifest {
            index: machine.applied,
            term: machine.term,
            conf: machine.conf.clone(),
            value: machine.value,
        };
        if turn.log.disk.take(stream, shard, Op::Manifest(Rc::new(manifest))).is_ok() {
            self.wake(node, core);
        }
    }

    /// Asks for a compaction below the durable manifest.
    pub fn compact(&mut self, node: usize, shard: ShardId) {
        let turn = self.nodes[node].core_of_mut(shard);
        let durable = turn.log.disk.durable_of(shard).manifest.index;
        let upto = durable.saturating_sub(self.rng.engine.below(4));
        if upto > turn.log.disk.memory_of(shard).floor {
            turn.inputs.push(Input::Verb { shard, verb: Verb::Compact(upto) });
        }
    }

    /// Sends the latest state to a peer that needs one.
    pub fn offer_snapshot(&mut self, node: usize, core: usize, want: SnapWant) {
        self.cover.snapshots_wanted += 1;
        let turn = &self.nodes[node].cores[core];
        let shard = turn.raft.view(want.slot).shard;
        let machine = turn.machine(shard);
        let manifest = if machine.applied >= want.floor.0 && !machine.state_lost {
            Some(Rc::new(Manifest {
                index: machine.applied,
                term: machine.term,
                conf: machine.conf.clone(),
                value: machine.value,
            }))
        } else {
            None
        };
        let lost = !self.healing
            && self.plan.classes.has(Class::LostSnapshot)
            && self.rng.engine.one_in(3);
        let replica = turn.machine(shard).replica;
        let to = place(want.node.0 - 1);
        self.note("snapshot", node as u64, to as u64, u64::from(lost));
        if let Some(manifest) = manifest.filter(|manifest| manifest.index > 0 && !lost) {
            let from = (node, replica);
            let input = Input::Snapshot { shard, to: want.peer, from, manifest };
            self.bulk(node, to, BulkWhat::Input(shard, input));
            return;
        }
        self.cover.snapshots_lost += 1;
        let input = Input::SnapshotFailed { shard, replica, peer: want.peer };
        let boots = (self.nodes[node].boot, self.nodes[node].boot);
        let what = BulkWhat::Input(shard, input);
        let bulk = Bulk { from: node, to: node, boots, what };
        let delay = self.rng.engine.log_uniform(MILLI, 300 * MILLI);
        self.at(self.now + delay, Event::Bulk(Box::new(bulk)));
    }

    /// Something arrived over a bulk connection.
    pub fn handle_bulk(&mut self, bulk: Bulk) {
        let Bulk { from, to, boots, what } = bulk;
        let blocked = self
            .links_between(from, to)
            .iter()
            .any(|link| self.links[*link].blocked[self.links[*link].end_of(to)]);
        let there = self.lives(from, boots.0) && self.lives(to, boots.1) && !blocked;
        if !there {
            self.lost_bulk(from, boots.0, &what);
            return;
        }
        match what {
            BulkWhat::Message(parcel) => {
                let home = self.nodes[to].home(parcel.message.shard);
                self.arrived((to, home), from, None::<(LaneNo, u32)>, parcel);
            },
            BulkWhat::Input(shard, input) => {
                let home = self.nodes[to].home(shard);
                self.nodes[to].cores[home].inputs.push(input);
                self.wake(to, home);
            },
        }
    }

    /// A snapshot that does not arrive: its sender learns of it.
    fn lost_bulk(&mut self, from: usize, boot: u64, what: &BulkWhat) {
        if let &BulkWhat::Input(shard, Input::Snapshot { to, from: sender, .. }) = what {
            self.cover.snapshots_lost += 1;
            if self.lives(from, boot) {
                let replica = sender.1;
                let input = Input::SnapshotFailed { shard, replica, peer: to };
                let home = self.nodes[from].home(shard);
                self.nodes[from].cores[home].inputs.push(input);
                self.wake(from, home);
            }
        }
    }
}
