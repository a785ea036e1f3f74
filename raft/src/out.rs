//! What raft hands out: reused vectors that the core loop drains each pass.

use alloc::vec::Vec;

use crate::{LogIndex, ProposeError, ReadError, ReplicaId, ShardId, Slot, Term};

/// Everything that one pass produced. Steady state allocates nothing: the caller drains the
/// vectors and hands the same `Outbox` in again.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Outbox {
    /// Committed entries to apply: per slot contiguous, each index once.
    pub apply: Vec<Apply>,
    /// Proposals that are in the log now. What commits at (index, term) decides their fate.
    pub accepted: Vec<Accepted>,
    /// Proposals taken by `propose` that are not in the log and never will be.
    pub rejected: Vec<Rejected>,
    /// Reads that may be served now.
    pub reads: Vec<ReadReady>,
    /// Reads taken by `read` that will not be served.
    pub reads_rejected: Vec<ReadRejected>,
    /// Changes of role, in order.
    pub role: Vec<RoleChange>,
    /// What is rare: at most [`crate::EVENTS_MAX`] a pass, the rest is counted.
    pub event: Vec<Event>,
}

impl Outbox {
    /// Forgets what was not drained; keeps the memory.
    pub fn clear(&mut self) {
        self.apply.clear();
        self.accepted.clear();
        self.rejected.clear();
        self.reads.clear();
        self.reads_rejected.clear();
        self.role.clear();
        self.event.clear();
    }

    /// Whether a pass left nothing to do.
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty()
            && self.accepted.is_empty()
            && self.rejected.is_empty()
            && self.reads.is_empty()
            && self.reads_rejected.is_empty()
            && self.role.is_empty()
            && self.event.is_empty()
    }
}

/// Something to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Apply {
    /// The committed entries `from..=to`.
    Range {
        /// The replica.
        slot: Slot,
        /// First index.
        from: LogIndex,
        /// Last index.
        to: LogIndex,
    },
}

/// A proposal got its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The replica.
    pub slot: Slot,
    /// The caller's token.
    pub token: u64,
    /// Index of its first entry.
    pub first: LogIndex,
    /// Term of its entries.
    pub term: Term,
}

/// A proposal got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The replica.
    pub slot: Slot,
    /// The caller's token.
    pub token: u64,
    /// Why.
    pub why: ProposeError,
}

/// A read may be served from the state as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The replica.
    pub slot: Slot,
    /// The caller's token.
    pub token: u64,
    /// The index that the read had to see; it is applied.
    pub index: LogIndex,
}

/// A read will not be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRejected {
    /// The replica.
    pub slot: Slot,
    /// The caller's token.
    pub token: u64,
    /// Why.
    pub why: ReadError,
}

/// What a replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// It leads nothing.
    #[default]
    Follower = 0,
    /// Its own vote is not durable yet.
    Candidate = 1,
    /// It orders the entries of its shard.
    Leader = 2,
}

/// A replica changed its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// The replica.
    pub slot: Slot,
    /// The shard.
    pub shard: ShardId,
    /// The role it has now.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads, if anybody is known to.
    pub leader: Option<ReplicaId>,
}

/// Something rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The replica.
    pub slot: Slot,
    /// The shard.
    pub shard: ShardId,
    /// Its term.
    pub term: Term,
    /// What happened.
    pub reason: Reason,
}

/// What happened to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It was elected.
    Elected,
    /// It leads no more: its stream failed.
    StreamFailed,
    /// It leads no more: its log or state is damaged.
    Damaged,
    /// It was closed by [`crate::Admin::Close`].
    Closed,
    /// It was closed because of a state that cannot be: a bug in this library or its log.
    Broken(crate::Rule),
}
