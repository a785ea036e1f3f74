//! The numbers of consensus, each with a type of its own.

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A slice of the key space, replicated by one Raft group.
    ShardId
}
number! {
    /// A node of the cluster; 0 is nobody.
    NodeId
}
number! {
    /// One copy of a shard on one node; never reused within the shard. 0 is nobody.
    ReplicaId
}
number! {
    /// A Raft term; 0 is before the first election.
    Term
}
number! {
    /// The position of an entry in one shard's log. The first entry is 1; 0 is none.
    LogIndex
}
number! {
    /// A durable write of one log stream: the number of its frame. 0 is none.
    Lsn
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; of 0 it is 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// A log stream of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNo(pub u16);

/// A replica's index among those of its core. Never part of replicated state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// What must survive any crash for a replica to keep its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// Whom it voted for in that term; 0 is nobody.
    pub vote: ReplicaId,
    /// The highest index known committed.
    pub commit: LogIndex,
}
