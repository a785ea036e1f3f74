//! What follows from configurations that moved: the node's list of members, its lanes, and the end
//! of a replica that was removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_env::Env;
use bowline_raft::{Admin, Configuration, NodeId, Slot};
use bowline_statemachine::Machine;
use bowline_wal::LogStorage;

use crate::ShardFailure;
use crate::core::logs::place;
use crate::core::run::Core;
use crate::members::Seats;
use crate::members::note::{Departed, Note};

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// This replica was told that it belongs to its shard no more: it neither votes nor stands.
    pub(in crate::core) fn left_shard(&mut self, slot: Slot) {
        let verb = Admin::Damaged(bowline_raft::Damage::Retired);
        if let Err(error) = self.raft.admin(slot, verb) {
            tracing::debug!(shard = self.logs.shard(slot).0, %error, "it is closed already");
        }
        self.close_shard(slot, ShardFailure::Removed);
        self.members.conf_moved(slot);
    }

    /// Looks at configurations that moved: tells the node's list of members once they are
    /// committed, and the lanes at once.
    pub(crate) fn members_moved(&mut self) {
        let dropped = self.raft.counters().events_dropped;
        if dropped != self.members.events_dropped {
            self.members.events_dropped = dropped;
            self.members.moved.extend(self.slots.values());
        }
        let moved = std::mem::take(&mut self.members.moved);
        if moved.is_empty() && self.members.unsettled.is_empty() {
            return;
        }
        let lanes_move = !moved.is_empty();
        for slot in &moved {
            // A leader that was not in the configuration before may be known by its node now.
            self.announce_again(*slot);
            self.note_agreed(*slot);
        }
        self.members.unsettled.extend(moved);
        let (mut changes, mut agreed) = (Vec::new(), self.members.agreed);
        for slot in std::mem::take(&mut self.members.unsettled) {
            let view = self.raft.view(slot);
            let Some(conf) = view.conf else { continue };
            let settled = view.conf_index <= view.commit;
            if !settled {
                self.members.unsettled.insert(slot);
            }
            // After a start the latest one is the best guess until it is known what is committed.
            if !self.members.told.insert(slot) && !settled {
                continue;
            }
            let note = Note::decode(&conf.note).unwrap_or_default();
            if settled {
                agreed = agreed.max(note.version());
            }
            let seats = Seats::of(conf, &note);
            let left = self.has_left(slot);
            changes.push((view.shard, if left { seats.without(self.node) } else { seats }));
        }
        if !changes.is_empty() {
            self.members.roll.update(changes);
        }
        if agreed > self.members.agreed {
            self.members.agreed = agreed;
            self.keep_agreed(agreed);
        }
        if lanes_move {
            self.follow_members();
            self.want_lanes();
        }
    }

    fn has_left(&self, slot: Slot) -> bool {
        matches!(self.replicas[place(slot)].closed, Some(ShardFailure::Removed))
    }

    /// The other nodes are those of the configurations in force, committed or not. A node has left
    /// once every shard says so: one whose log is behind may not know yet that the node is a
    /// member, and the node's vote may be what that shard needs to go on.
    fn follow_members(&self) {
        let mut nodes: BTreeMap<NodeId, Option<Arc<str>>> = BTreeMap::new();
        let mut left: Option<Departed> = None;
        let mut last: Option<&Configuration> = None;
        for slot in self.slots.values().filter(|slot| !self.has_left(**slot)) {
            let Some(conf) = self.raft.view(*slot).conf else { continue };
            // As a rule all shards have the same members.
            if last.is_some_and(|it| it.note == conf.note && it.members == conf.members) {
                continue;
            }
            last = Some(conf);
            let note = Note::decode(&conf.note).unwrap_or_default();
            match &mut left {
                Some(left) => left.keep_common(note.left()),
                None => left = Some(note.left().clone()),
            }
            for member in conf.members.iter().filter(|member| member.node != self.node) {
                let known = nodes.entry(member.node).or_default();
                *known = note.address(member.node).cloned().or_else(|| known.take());
            }
        }
        let left = left.unwrap_or_default();
        self.lanes.doorman.roster.borrow_mut().follow(nodes, left);
    }
}
