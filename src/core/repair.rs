//! Damage of a shard's log or state: who may make up for it, and that it is asked for.
//!
//! With peers a damaged shard closes here, is led elsewhere, and opens again with a peer's state.
//! Alone it answers what is whole.

use std::rc::Rc;

use bowline_env::{Class, Env};
use bowline_raft::{Admin, Slot};
use bowline_statemachine::transfer::Snapshot;
use bowline_statemachine::{Damage, Machine};
use bowline_wal::LogStorage;

use super::logs::place;
use super::mail::Event;
use super::run::Core;
use crate::ShardFailure;

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Whether other replicas have what is lost here.
    fn has_peers(&self, slot: Slot) -> bool {
        self.raft.view(slot).conf.is_some_and(|conf| conf.members.len() > 1)
    }

    /// Whether a closed shard may get its state from a peer.
    pub(crate) fn may_be_repaired(&self, slot: Slot) -> bool {
        let why = self.replicas[place(slot)].closed.as_ref();
        why.is_some_and(ShardFailure::is_damage) && self.has_peers(slot)
    }

    /// A shard whose state or log is damaged asks its peers for their state; alone it stays closed.
    pub(crate) fn ask_for_repair(&mut self, slot: Slot) {
        if self.may_be_repaired(slot) {
            let verb = Admin::Damaged(bowline_raft::Damage::State);
            if let Err(error) = self.raft.admin(slot, verb) {
                tracing::error!(shard = self.logs.shard(slot).0, %error, "it is not repaired");
            }
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
