//! Who leads each shard, as this core knows it, and what callers and the board are told.
//!
//! A shard has a leader *here* once one is known and an entry of its term is applied here.

use std::sync::Arc;

use bowline_env::Env;
use bowline_raft::{NodeId, ReplicaId, Role, RoleChange, Slot};
use bowline_statemachine::Machine;
use bowline_statemachine::envelope::LogClock;
use bowline_wal::LogStorage;

use super::logs::place;
use super::run::Core;
use crate::board::LeaderChange;
use crate::{Error, LeaderHint, LeaderInfo};

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// A replica leads, follows another, or knows no leader.
    pub(crate) fn role_changed(&mut self, change: &RoleChange) {
        let slot = change.slot;
        let leads = change.role == Role::Leader;
        let node = if leads { Some(self.node) } else { self.node_of(slot, change.leader) };
        let leader = node.map(|node| (change.term, node));
        let replica = &mut self.replicas[place(slot)];
        if replica.leader != leader {
            self.unannounce(slot);
        }
        self.replicas[place(slot)].leader = leader;
        if leads {
            let clock = self.replicas[place(slot)].machine.clock_ms();
            let (wall, now) = (self.logs.wall.0, self.logs.now.0);
            self.logs.queue_mut(slot).clock = LogClock::lead(clock, &mut [wall], now);
            self.counters.leader_changes.add(1);
        }
        self.elected |= leader.is_some();
        self.announce(slot);
    }

    /// Tells the board of a leader once an entry of its term is applied here.
    pub(crate) fn announce(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        let Some((term, leader_id)) = replica.leader else { return };
        if replica.announced || replica.applied_term != term || replica.closed.is_some() {
            return;
        }
        replica.announced = true;
        self.announced += 1;
        let leader = LeaderInfo { leader_id, term, led: 1, of: 1 };
        self.changes.push(LeaderChange { shard: replica.shard, leader: Some(leader) });
    }

    /// The board's leader of a shard is one no more.
    pub(crate) fn unannounce(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        replica.leader = None;
        if std::mem::take(&mut replica.announced) {
            self.announced -= 1;
            self.changes.push(LeaderChange { shard: replica.shard, leader: None });
        }
    }

    /// Whether somebody is known to lead.
    pub(crate) fn has_leader(&self, slot: Slot) -> bool {
        self.raft.view(slot).leader.is_some()
    }

    /// What a caller is told whose shard another node leads.
    pub(crate) fn not_leader(&self, slot: Slot) -> Error {
        let shard = self.logs.shard(slot);
        let view = self.raft.view(slot);
        let node = self.node_of(slot, view.leader).filter(|node| *node != self.node);
        let roster = self.lanes.doorman.roster.borrow();
        let hint: Option<LeaderHint> = node.map(|node| roster.hint(node, view.term));
        let address = |hint: &LeaderHint| hint.app.clone().or_else(|| hint.peer.clone());
        let leader_address = hint.as_ref().and_then(address);
        Error::NotLeader { shard, leader_address, leader: hint.map(Arc::new) }
    }

    /// Where a member of a shard lives.
    fn node_of(&self, slot: Slot, replica: Option<ReplicaId>) -> Option<NodeId> {
        self.raft.view(slot).conf?.member(replica?).map(|member| member.node)
    }
}
