//! Messages that should not be: old ones again, and ones that no honest replica sends.

use bowline_raft::{LogIndex, ReplicaId, ShardId, What};

use super::{disk::shard_place, node::Parcel, rng::place, world::World};

/// Old messages kept at most.
const KEPT: usize = 64;

impl World {
    /// Keeps a message for later.
    pub fn remember(&mut self, to: usize, parcel: &Parcel) {
        if self.stale.len() < KEPT {
            self.stale.push((to, parcel.clone()));
        } else {
            let at = place(self.rng.fault.below(KEPT as u64));
            self.stale[at] = (to, parcel.clone());
        }
    }

    /// Hands a core a message that it should see through.
    pub fn strange(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        let at = place(self.rng.fault.below(self.stale.len() as u64));
        let (to, mut parcel) = self.stale[at].clone();
        let shard = parcel.message.shard;
        let Some(&from) = self.homes[shard_place(shard)].get(&parcel.message.from) else {
            return;
        };
        if from == to || !self.nodes[to].alive {
            return;
        }
        self.cover.strange_messages += 1;
        self.bend(&mut parcel);
        let home = if place(parcel.message.shard.0) <= self.plan.shards {
            self.nodes[to].home(parcel.message.shard)
        } else {
            0
        };
        let links = self.links_between(to, from);
        let link = links.iter().copied().find(|link| self.links[*link].core == home);
        let life = link.map(|link| self.links[link].life);
        let old = u32::from(self.rng.fault.one_in(2));
        let lane = life.map(|life| (super::net::lane_no(from), life.saturating_sub(old)));
        let by_lane = self.rng.fault.below(4) > 0;
        self.arrived((to, home), from, lane.filter(|_| by_lane), parcel);
    }

    fn bend(&mut self, parcel: &mut Parcel) {
        let message = &mut parcel.message;
        match self.rng.fault.below(8) {
            0 => message.from = message.to,
            1 => message.to = ReplicaId(message.to.0 + 77),
            2 => {
                message.shard = ShardId(self.plan.shards as u64 + 9);
                parcel.batches.clear();
                parcel.damaged = false;
            },
            3 => message.from = ReplicaId(0),
            4 => {
                if let What::Append { prev, .. } = &mut message.what {
                    *prev = LogIndex(u64::MAX - 1);
                }
            },
            _ => {},
        }
    }
}
