//! Damage of a shard's log or state: who may make up for it, and that it is asked for.
//!
//! With peers a damaged shard closes here, is led elsewhere, and opens again with a peer's state.
//! Alone it answers what is whole. A shard that halts is led elsewhere, too, and stays closed.

use std::rc::Rc;

use bowline_env::{Class, Env};
use bowline_raft::{Admin, Configuration, Part, ReplicaId, Slot};
use bowline_statemachine::transfer::Snapshot;
use bowline_statemachine::{Damage, Machine};
use bowline_wal::LogStorage;

use super::logs::place;
use super::mail::Event;
use super::run::Core;
use crate::ShardFailure;

/// Whether somebody else may lead a shard, and so give its state away.
pub(crate) fn other_votes(conf: &Configuration, own: ReplicaId) -> bool {
    let votes = |part: Part| part == Part::Voter;
    let mut others = conf.members.iter().filter(|member| member.replica != own);
    others.any(|member| votes(member.before) || votes(member.after))
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Whether other replicas have what is lost here.
    fn has_peers(&self, slot: Slot) -> bool {
        let view = self.raft.view(slot);
        view.conf.is_some_and(|conf| other_votes(conf, view.replica))
    }

    /// Whether a closed shard may get its state from a peer.
    pub(crate) fn may_be_repaired(&self, slot: Slot) -> bool {
        let why = self.replicas[place(slot)].closed.as_ref();
        why.is_some_and(ShardFailure::is_damage) && self.has_peers(slot)
    }

    /// A shard was closed. With peers it is led here no more, and it asks them for their state if
    /// its own state or log is damaged. Alone it stays as it is.
    pub(crate) fn leave_to_peers(&mut self, slot: Slot) {
        if let Some(damage) = self.damage_of(slot) {
            self.tell_damage(slot, damage);
        }
    }

    /// A state that was received is in place: the shard may be led here again.
    pub(crate) fn is_whole_again(&mut self, slot: Slot) {
        // Raft itself heals a state that is damaged.
        if self.raft.view(slot).damage == bowline_raft::Damage::Repairing {
            self.tell_damage(slot, bowline_raft::Damage::Normal);
        }
    }

    /// What raft is told of a closed shard.
    fn damage_of(&self, slot: Slot) -> Option<bowline_raft::Damage> {
        let why = self.replicas[place(slot)].closed.as_ref().filter(|_| self.has_peers(slot))?;
        match why {
            ShardFailure::LogDamaged | ShardFailure::RunDamaged => {
                Some(bowline_raft::Damage::State)
            },
            // Its log is good, so it votes and acknowledges: a majority may need it.
            ShardFailure::Halted { .. } | ShardFailure::Invariant(_) => {
                Some(bowline_raft::Damage::Repairing)
            },
            // Raft was told of the stream, or of the end of the replica.
            ShardFailure::LogWrite | ShardFailure::DiskFull | ShardFailure::Removed => None,
        }
    }

    fn tell_damage(&mut self, slot: Slot, damage: bowline_raft::Damage) {
        if let Err(error) = self.raft.admin(slot, Admin::Damaged(damage)) {
            let shard = self.logs.shard(slot).0;
            tracing::error!(shard, ?damage, %error, "raft is not told of a closed shard");
        }
    }

    /// Part of a state is damaged: peers replace it, if there are any.
    pub(crate) fn state_is_damaged(&mut self, slot: Slot) {
        if self.has_peers(slot) {
            self.close_shard(slot, ShardFailure::RunDamaged);
        }
    }

    /// A section did not arrive at a peer as it should: looks whether it is damaged here.
    pub(crate) fn recheck(&self, slot: Slot, snapshot: &Rc<Snapshot<E>>, section: u128) {
        let (snapshot, mail) = (Rc::clone(snapshot), Rc::clone(&self.mail));
        let epoch = self.replicas[place(slot)].epoch;
        drop(self.env.spawn(Class::Background, async move {
            if let Err(damage) = snapshot.recheck(section).await {
                mail.push(Event::FoundDamaged { slot, epoch, damage });
            }
        }));
    }

    /// It is.
    pub(crate) fn found_damaged(&mut self, (slot, epoch): (Slot, u32), damage: &Damage) {
        let replica = &self.replicas[place(slot)];
        tracing::error!(shard = replica.shard.0, %damage, code = "BOW-0604", "a state is damaged");
        if replica.epoch == epoch {
            self.state_is_damaged(slot);
        }
    }
}
