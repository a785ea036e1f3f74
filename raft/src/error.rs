//! Why a request was turned away. Nothing was appended.

use core::fmt;

use crate::{ConfError, LogIndex, NodeId, ReplicaId, Slot};

/// Which budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Budget {
    /// Uncommitted bytes of the shard.
    Shard,
    /// The log is at its mark.
    Log,
    /// Reads waiting on this core.
    Reads,
    /// The shard hands its leadership over.
    Transfer,
}

/// Why a proposal was not taken. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProposeError {
    /// Another replica leads: go there.
    NotLeader {
        /// Who leads.
        leader: ReplicaId,
    },
    /// Nobody is known to lead: try again later.
    NoLeader,
    /// A budget is used up: try again after a commit.
    Busy(Budget),
    /// Larger than any batch may be.
    TooLarge,
    /// The shard's log or state is damaged on this node.
    Damaged,
    /// The log stream of this shard failed; it must be opened again.
    StreamFailed,
    /// No such replica, or it was closed.
    Closed,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader } => write!(f, "replica {leader} leads"),
            Self::NoLeader => f.write_str("no leader is known"),
            Self::Busy(budget) => write!(f, "the {budget} budget is used up"),
            Self::TooLarge => f.write_str("larger than the largest batch"),
            Self::Damaged => f.write_str("the shard is damaged"),
            Self::StreamFailed => f.write_str("the shard's log failed"),
            Self::Closed => f.write_str("the replica is closed"),
        }
    }
}

impl core::error::Error for ProposeError {}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shard => "shard's",
            Self::Log => "log's",
            Self::Reads => "core's read",
            Self::Transfer => "transfer's",
        })
    }
}

/// Why a read was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// Another replica leads: go there.
    NotLeader {
        /// Who leads.
        leader: ReplicaId,
    },
    /// Nobody is known to lead: try again later.
    NoLeader,
    /// A budget is used up: try again later.
    Busy(Budget),
    /// The shard's log or state is damaged on this node.
    Damaged,
    /// The log stream of this shard failed; it must be opened again.
    StreamFailed,
    /// No such replica, or it was closed.
    Closed,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader } => write!(f, "replica {leader} leads"),
            Self::NoLeader => f.write_str("no leader is known"),
            Self::Busy(budget) => write!(f, "the {budget} budget is used up"),
            Self::Damaged => f.write_str("the shard is damaged"),
            Self::StreamFailed => f.write_str("the shard's log failed"),
            Self::Closed => f.write_str("the replica is closed"),
        }
    }
}

impl core::error::Error for ReadError {}

/// Why an [`crate::Admin`] verb was not taken. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminError {
    /// A compaction would drop entries that are not applied.
    BeyondApplied {
        /// The last applied index.
        applied: LogIndex,
    },
    /// Another replica leads, or nobody does.
    NotLeader,
    /// A change or transfer is under way, or nothing of the leader's term is committed yet: try
    /// again later.
    Busy,
    /// Nobody of that id belongs to the shard.
    UnknownMember {
        /// The id.
        replica: ReplicaId,
    },
    /// The node has a copy already.
    Duplicate {
        /// The node.
        node: NodeId,
    },
    /// It lags, or is not there: it may not vote or lead yet.
    NotCaughtUp {
        /// Which.
        replica: ReplicaId,
    },
    /// Nothing would change.
    NoChange,
    /// The result would not be a configuration: no voter left, too many, and the like.
    Configuration(ConfError),
    /// No such replica, or it was closed.
    Closed,
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondApplied { applied } => {
                write!(f, "only entries up to {applied} are applied")
            },
            Self::NotLeader => f.write_str("this replica does not lead"),
            Self::Busy => f.write_str("a change or transfer is under way"),
            Self::UnknownMember { replica } => write!(f, "replica {replica} is no member"),
            Self::Duplicate { node } => write!(f, "node {node} has a copy already"),
            Self::NotCaughtUp { replica } => write!(f, "replica {replica} lags or is not there"),
            Self::NoChange => f.write_str("nothing would change"),
            Self::Configuration(why) => write!(f, "no valid configuration: {why}"),
            Self::Closed => f.write_str("the replica is closed"),
        }
    }
}

impl core::error::Error for AdminError {}

/// Why a replica cannot be opened. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// A configuration of the shard is not one.
    Configuration(ConfError),
    /// Hard state, log bounds and applied index contradict each other.
    Bounds,
    /// The shard is open already.
    AlreadyOpen {
        /// Its slot.
        slot: Slot,
    },
    /// No more replicas, streams or different configurations fit on this core.
    Full,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(why) => write!(f, "the shard's configuration is invalid: {why}"),
            Self::Bounds => f.write_str("vote, log and applied index contradict each other"),
            Self::AlreadyOpen { slot } => write!(f, "the shard is open in slot {}", slot.0),
            Self::Full => f.write_str("this core has no room for another replica"),
        }
    }
}

impl core::error::Error for OpenError {}
