//! What clients ask for.

use bowline_raft::{ReadMode, Role, ShardId};

use super::{
    disk::shard_place,
    log::shard_at,
    node::Input,
    plan::MILLI,
    rng::place,
    world::{Event, Fate, Read, World},
};

impl World {
    /// A node that leads a shard by its own account.
    pub fn leader(&self, shard: ShardId) -> Option<usize> {
        let mut best = None;
        for (nth, node) in self.nodes.iter().enumerate() {
            let core = node.core_of(shard);
            let Some(slot) = core.machines[shard_place(shard)].slot else { continue };
            let view = core.raft.view(slot);
            if node.alive && view.role == Role::Leader {
                best = best.max(Some((view.term, nth)));
            }
        }
        best.map(|(_, node)| node)
    }

    /// Asks a node to write `count` new values; the first one.
    pub fn put(&mut self, node: usize, shard: ShardId, count: u32) -> u64 {
        let token = self.fates.len() as u64;
        self.fates.resize(self.fates.len() + place(u64::from(count)), Fate::Unknown);
        let home = self.nodes[node].home(shard);
        self.note("put", node as u64, shard.0, token);
        if self.nodes[node].alive {
            self.nodes[node].cores[home].inputs.push(Input::Propose { shard, token, count });
            self.wake(node, home);
        } else {
            self.fate(token, count, Fate::Rejected);
        }
        token
    }

    /// Asks a node to read; the number of the read.
    pub fn get(&mut self, node: usize, shard: ShardId, mode: ReadMode) -> u64 {
        let token = self.next_read;
        self.next_read += 1;
        self.note("get", node as u64, shard.0, token);
        if self.nodes[node].alive {
            let floor = self.oracle.table(shard).seen;
            self.reads.insert(token, Read { shard, node, mode, floor, pass: 0 });
            let home = self.nodes[node].home(shard);
            self.nodes[node].cores[home].inputs.push(Input::Read { shard, mode, token });
            self.wake(node, home);
        }
        token
    }

    /// A random request, and the time of the next one.
    pub fn load(&mut self) {
        let shard = shard_at(place(self.rng.load.below(self.plan.shards as u64)));
        let anybody = place(self.rng.load.below(self.nodes.len() as u64));
        let stray = self.rng.load.one_in(6);
        let node = if stray { anybody } else { self.leader(shard).unwrap_or(anybody) };
        if self.rng.load.below(10) < 6 {
            let most = u64::from(self.plan.batch_max);
            let count = u32::try_from(self.rng.load.between(1, most)).expect("few");
            self.put(node, shard, count);
        } else {
            let follower = self.rng.load.one_in(3);
            let at = if follower { anybody } else { node };
            let lease = self.plan.lease && self.rng.load.one_in(2);
            let mode = match (follower, lease) {
                (true, _) => ReadMode::Follower,
                (false, true) => ReadMode::Lease,
                (false, false) => ReadMode::ReadIndex,
            };
            self.get(at, shard, mode);
        }
        let every = if self.healing { 40 * MILLI } else { self.plan.load_every };
        let again = every / 2 + self.rng.load.below(every);
        self.at(self.now + again, Event::Load);
    }
}
