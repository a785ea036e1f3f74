//! What the engine asks of a replica beside proposals and reads.

use crate::{
    AdminError, Damage, Log, LogIndex, Outbox, RaftCore, Reason, Record, Slot,
    core::{CLOSING, at},
};

/// A request of the engine. It is carried out by the next [`RaftCore::flush_pass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admin {
    /// Entries up to `upto` are applied and in a durable manifest: give them up.
    Compact {
        /// The last one to go.
        upto: LogIndex,
    },
    /// The replica's log or state was found damaged while it ran.
    Damaged(Damage),
    /// Stops the replica. What is queued is rejected; its slot is used again.
    Close,
}

impl RaftCore {
    /// Takes a request of the engine.
    ///
    /// # Errors
    ///
    /// [`AdminError`]: nothing changed.
    pub fn admin(&mut self, slot: Slot, verb: Admin) -> Result<(), AdminError> {
        let exists = self
            .hot
            .get(at(slot))
            .is_some_and(|hot| hot.flags & crate::core::OPEN != 0 && hot.flags & CLOSING == 0);
        if !exists {
            return Err(AdminError::Closed);
        }
        match verb {
            Admin::Compact { upto } => {
                let applied = self.warm[at(slot)].applied;
                if upto > applied {
                    return Err(AdminError::BeyondApplied { applied });
                }
                let asked = &mut self.cold[at(slot)].compact;
                *asked = upto.max(*asked);
            },
            Admin::Damaged(damage) => {
                let worse = self.hot[at(slot)].damage != Damage::Retired;
                if worse {
                    self.hot[at(slot)].damage = damage;
                }
            },
            Admin::Close => self.hot[at(slot)].flags |= CLOSING,
        }
        self.touch(slot);
        Ok(())
    }

    /// Stages a compaction that was asked for.
    pub(crate) fn compact(&mut self, slot: Slot, log: &mut impl Log) {
        let upto = self.cold[at(slot)].compact;
        if upto <= self.warm[at(slot)].floor {
            self.cold[at(slot)].compact = LogIndex(0);
            return;
        }
        let Some(prev_term) = log.term_at(self.place(slot), upto) else {
            self.broken(slot, crate::Rule::Floor);
            return;
        };
        match log.stage(self.place(slot), Record::Compact { first: upto.next(), prev_term }) {
            Ok(_) => {
                self.warm[at(slot)].floor = upto;
                self.cold[at(slot)].compact = LogIndex(0);
                self.counters.compactions += 1;
            },
            Err(refused) => self.refused(slot, refused),
        }
    }

    /// Ends a replica's leadership because of damage; it stays open and answers `Damaged`.
    pub(crate) fn retire_damaged(&mut self, slot: Slot, out: &mut Outbox) {
        if self.hot[at(slot)].role != crate::Role::Follower {
            self.report(slot, Reason::Damaged, out);
        }
        self.step_down(slot, out);
    }
}
