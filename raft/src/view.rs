//! Looking at a replica, and at what a core has done.

use crate::{
    Configuration, Damage, LogIndex, Lsn, RaftCore, ReplicaId, Role, ShardId, Slot, Term,
    core::{BROKEN, CLOSING, OPEN, at},
};

/// A replica as it is now.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaView<'a> {
    /// Whether the slot has a replica that works.
    pub open: bool,
    /// The shard.
    pub shard: ShardId,
    /// Own replica id.
    pub replica: ReplicaId,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its vote in that term; 0 is nobody.
    pub vote: ReplicaId,
    /// Who leads, if anybody is known to.
    pub leader: Option<ReplicaId>,
    /// What is damaged.
    pub damage: Damage,
    /// First index of the log - 1.
    pub floor: LogIndex,
    /// Applied as far as raft was told.
    pub applied: LogIndex,
    /// Handed out to apply.
    pub handed: LogIndex,
    /// Committed.
    pub commit: LogIndex,
    /// Durable in the own log.
    pub durable: LogIndex,
    /// Last index of the log.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// First index of a leader's own term.
    pub term_start: LogIndex,
    /// The latest write staged for it.
    pub staged: Lsn,
    /// Proposal bytes queued or uncommitted.
    pub uncommitted_bytes: u32,
    /// The active configuration; none in a slot that was never used.
    pub conf: Option<&'a Configuration>,
    /// Index of the entry that holds it; 0 is the founding one.
    pub conf_index: LogIndex,
    /// How often the slot was used before.
    pub generation: u32,
}

impl RaftCore {
    /// A replica as it is now; of a slot without one, `open` is false.
    pub fn view(&self, slot: Slot) -> ReplicaView<'_> {
        let nth = at(slot);
        let hot = self.hot.get(nth).copied().unwrap_or_default();
        let warm = self.warm.get(nth).copied().unwrap_or_default();
        let cold = self.cold.get(nth).copied().unwrap_or_default();
        let used = hot.flags & OPEN != 0;
        ReplicaView {
            open: hot.flags & (OPEN | BROKEN | CLOSING) == OPEN,
            shard: cold.shard,
            replica: cold.replica,
            role: hot.role,
            term: hot.term,
            vote: warm.vote,
            leader: if used { self.leader_of(slot) } else { None },
            damage: hot.damage,
            floor: warm.floor,
            applied: warm.applied,
            handed: warm.handed,
            commit: hot.commit,
            durable: hot.durable,
            last: hot.last,
            last_term: hot.last_term,
            term_start: warm.term_start,
            staged: hot.staged,
            uncommitted_bytes: warm.uncommitted,
            conf: used.then(|| &self.confs[usize::from(hot.conf)].conf),
            conf_index: cold.conf_index,
            generation: cold.generation,
        }
    }
}

/// What a core has done since it was made. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Batches appended.
    pub appends: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// First entries of a term among them.
    pub noops: u64,
    /// Moves of a commit index.
    pub commits: u64,
    /// Hard states staged.
    pub hard_states: u64,
    /// Compactions staged.
    pub compactions: u64,
    /// Elections won.
    pub elections: u64,
    /// Leaderships ended.
    pub step_downs: u64,
    /// Reads handed out.
    pub reads: u64,
    /// Proposals that were queued and got no place.
    pub rejected: u64,
    /// Proposals turned away at the budget of their shard.
    pub busy_shard: u64,
    /// Refusals of a log at its mark.
    pub no_room: u64,
    /// Events beyond [`crate::EVENTS_MAX`] of a pass.
    pub events_dropped: u64,
    /// Replicas closed because of a state that cannot be.
    pub broken: u64,
}
