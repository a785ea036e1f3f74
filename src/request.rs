//! What a caller asks of a core.

use core::fmt;

use bowline_env::Nanos;
use bowline_raft::{NodeId, ShardId};
use bowline_statemachine::Query;
use bytes::Bytes;

use crate::core::LocalShard;
use crate::members::change::Change;
use crate::ticket::Ticket;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// Sees every write that was acknowledged before the call.
    #[default]
    Linearizable,
    /// The same while clocks drift less than `raft.clock_drift`, without a round trip; needs
    /// `raft.lease_reads`, and is linearizable without it.
    Lease,
    /// What this node has applied: arbitrarily old, may step back between nodes, needs no leader.
    Eventual,
}

/// One request in a ring.
#[derive(Debug)]
pub(crate) struct Request {
    /// The shard it is for.
    pub(crate) shard: ShardId,
    /// Time that it may take from its arrival at the core.
    pub(crate) timeout_ms: u32,
    /// What it asks.
    pub(crate) call: Call,
    /// Where its answer goes.
    pub(crate) ticket: Ticket,
}

const _: () = assert!(size_of::<Request>() <= 128, "a descriptor is at most two cache lines");

/// What a request asks.
pub(crate) enum Call {
    /// Replicate a command: what follows the envelope. Answers `Reply::Output`.
    Propose {
        /// The envelope's kind.
        kind: u8,
        /// The command's archive.
        body: Bytes,
    },
    /// Answer a question. Answers `Reply::Answer`.
    Read {
        /// The question.
        query: Query,
        /// How fresh the answer must be.
        consistency: Consistency,
    },
    /// Run a closure on the home core of the shard. It answers the ticket by itself; the
    /// request's own ticket is answered with `Reply::Unit`, or an error if there is no such shard.
    Run(Box<dyn FnOnce(LocalShard) + Send>),
    /// Answers `Reply::Unit` after this much time. Names no shard, so it works whatever is closed.
    Alarm(Nanos),
    /// Hand the leadership to this node. Answers `Reply::Unit` once it leads.
    Transfer(NodeId),
    /// Change the shard's members or leader, here or at the node that leads. Answers an `Outcome`.
    Change(Box<Change>),
    /// Flush the shard's state. Answers `Reply::Unit` once it is durable.
    Flush,
    /// Stop the core. Answers `Reply::Unit` once its log is closed cleanly.
    Stop,
}

impl Request {
    /// Command bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.call.bytes()
    }
}

impl Call {
    fn bytes(&self) -> usize {
        match self {
            Self::Propose { body, .. } => body.len(),
            Self::Read { query: Query::MultiGet(keys), .. } => keys.iter().map(Bytes::len).sum(),
            Self::Read { query: Query::Get(bytes) | Query::Custom(bytes), .. } => bytes.len(),
            Self::Read { .. }
            | Self::Run(_)
            | Self::Alarm(_)
            | Self::Transfer(_)
            | Self::Change(_)
            | Self::Flush
            | Self::Stop => 0,
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose { kind, body } => write!(f, "Propose({kind}, {} bytes)", body.len()),
            Self::Read { consistency, .. } => write!(f, "Read({consistency:?})"),
            Self::Run(_) => f.write_str("Run"),
            Self::Alarm(after) => write!(f, "Alarm({after:?})"),
            Self::Transfer(to) => write!(f, "Transfer({to:?})"),
            Self::Change(change) => write!(f, "{change:?}"),
            Self::Flush => f.write_str("Flush"),
            Self::Stop => f.write_str("Stop"),
        }
    }
}
