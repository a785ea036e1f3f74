//! What the engine asks of a replica beside proposals and reads.

use crate::{
    AdminError, Damage, Log, LogIndex, RaftCore, Record, ReplicaId, Slot, Step,
    alarm::Alarm,
    replica::{CLOSING, OPEN},
};

/// A request of the engine. It is carried out by the next [`RaftCore::flush_pass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admin<'a> {
    /// Another membership; only of a leader.
    Change(&'a [Step]),
    /// The same, and another note that goes along with the configuration.
    ChangeNoted {
        /// What to change; may be nothing.
        steps: &'a [Step],
        /// The note from then on, at most [`crate::NOTE_LEN_MAX`] bytes.
        note: &'a [u8],
    },
    /// Hands the leadership over.
    Transfer {
        /// To this voter.
        to: ReplicaId,
    },
    /// Somebody waits for this shard: it is elected before others.
    Touch,
    /// Bodies of these entries are lost here: other members are asked for them.
    Repair {
        /// First index.
        from: LogIndex,
        /// Last index.
        to: LogIndex,
    },
    /// Entries up to `upto` are applied and in a durable manifest: give them up.
    Compact {
        /// The last one to go.
        upto: LogIndex,
    },
    /// The replica's log or state was found damaged while it ran; `Normal`: it is healed.
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
    pub fn admin(&mut self, slot: Slot, verb: Admin<'_>) -> Result<(), AdminError> {
        let exists = self.replicas.get(slot).is_some_and(|it| it.flags & (OPEN | CLOSING) == OPEN);
        if !exists {
            return Err(AdminError::Closed);
        }
        match verb {
            Admin::Change(steps) => self.change(slot, steps, None)?,
            Admin::ChangeNoted { steps, note } => self.change(slot, steps, Some(note))?,
            Admin::Transfer { to } => self.transfer(slot, to)?,
            Admin::Touch => {
                self.touch_leaderless(slot);
                return Ok(());
            },
            Admin::Repair { from, to } => self.repairs.push((slot, from, to)),
            Admin::Compact { upto } => {
                let applied = self.replicas[slot].applied;
                if upto > applied {
                    return Err(AdminError::BeyondApplied { applied });
                }
                let asked = &mut self.replicas[slot].compact;
                *asked = upto.max(*asked);
            },
            Admin::Damaged(damage) => {
                let worse = self.replicas[slot].damage != Damage::Retired;
                if worse {
                    self.replicas[slot].damage = damage;
                }
                if worse && damage == Damage::State {
                    let generation = self.replicas[slot].generation;
                    self.alarms.set(self.now, slot, generation, Alarm::Ask);
                }
            },
            Admin::Close => self.replicas[slot].flags |= CLOSING,
        }
        self.touch(slot);
        Ok(())
    }

    /// Stages a compaction that was asked for.
    pub(crate) fn compact(&mut self, slot: Slot, log: &mut impl Log) {
        let it = &mut self.replicas[slot];
        let upto = it.compact;
        if upto <= it.floor {
            it.compact = LogIndex(0);
            return;
        }
        let Some(prev_term) = log.term_at(self.place(slot), upto) else {
            self.broken(slot, crate::Rule::Floor);
            return;
        };
        match log.stage(self.place(slot), Record::Compact { first: upto.next(), prev_term }) {
            Ok(_) => {
                let it = &mut self.replicas[slot];
                (it.floor, it.compact) = (upto, LogIndex(0));
                self.counters.compactions += 1;
            },
            Err(refused) => self.refused(slot, refused),
        }
    }
}
