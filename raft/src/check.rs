//! Every invariant of every replica, looked at together. For tests and for doubt.

use crate::{
    Damage, LogIndex, RaftCore, Role, ShardId, Slot,
    core::{BROKEN, OPEN, StreamState, at, slot_at},
};

/// A rule that holds in every state that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// I1: floor <= applied <= handed <= commit <= last, durable <= last.
    Order,
    /// I1: what is reported as applied was handed out, and never falls.
    Applied,
    /// I1: what is compacted is in the log.
    Floor,
    /// I2: a term never falls, and never ends.
    Term,
    /// I5: a leader's vote is durable, and for itself.
    Vote,
    /// I6: what is committed in a leader's term is durable.
    Commit,
    /// The LSNs of a stream never fall, and what is staged is not durable yet.
    Lsn,
    /// Bytes charged to a shard are those queued and under way.
    Budget,
    /// Lists and flags name each other.
    Lists,
}

/// A rule that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub slot: Slot,
    /// Which shard.
    pub shard: ShardId,
    /// What.
    pub rule: Rule,
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "shard {} in slot {}: {:?} does not hold", self.shard, self.slot.0, self.rule)
    }
}

impl core::error::Error for Broken {}

impl RaftCore {
    /// Checks every invariant. O(replicas).
    ///
    /// # Errors
    ///
    /// [`Broken`]: the first one that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        for nth in 0..self.hot.len() {
            let slot = slot_at(nth);
            if self.hot[nth].flags & (OPEN | BROKEN) == OPEN {
                self.check_slot(slot).map_err(|rule| {
                    let shard = self.cold[nth].shard;
                    Broken { slot, shard, rule }
                })?;
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: Slot) -> Result<(), Rule> {
        let (hot, warm) = (&self.hot[at(slot)], &self.warm[at(slot)]);
        let cold = &self.cold[at(slot)];
        let ordered = warm.floor <= warm.applied
            && warm.applied <= warm.handed
            && warm.handed <= hot.commit
            && hot.commit <= hot.last.max(warm.floor)
            && hot.durable <= hot.last;
        ensure(ordered, Rule::Order)?;
        ensure(hot.last_term <= hot.term || hot.damage != Damage::Normal, Rule::Term)?;
        let stream = self.stream(slot);
        let mut previous = LogIndex(0);
        let mut under_way = 0_u32;
        for write in self.writes.iter(warm.pending) {
            let waits = write.lsn > stream.durable && write.lsn <= stream.staged;
            ensure(waits && write.last >= previous && write.last <= hot.last, Rule::Lsn)?;
            previous = write.last;
            under_way += write.bytes;
        }
        if hot.role == Role::Leader {
            ensure(warm.vote == cold.replica, Rule::Vote)?;
            ensure(stream.state != StreamState::Failed, Rule::Vote)?;
            ensure(hot.damage != Damage::Retired || self.has_work(), Rule::Vote)?;
            let own = hot.commit >= warm.term_start;
            ensure(!own || hot.commit <= hot.durable, Rule::Commit)?;
            let queued: u32 = self.proposals.iter(warm.queue).map(|p| p.bytes).sum();
            ensure(warm.uncommitted == under_way + queued, Rule::Budget)?;
        } else {
            ensure(warm.queue.is_empty() && cold.reads.is_empty(), Rule::Lists)?;
        }
        ensure(self.by_shard.get(&cold.shard) == Some(&slot), Rule::Lists)
    }
}

fn ensure(holds: bool, rule: Rule) -> Result<(), Rule> {
    if holds { Ok(()) } else { Err(rule) }
}
