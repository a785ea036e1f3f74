//! What raft hands out: reused vectors that the core loop drains each pass.

use alloc::vec::Vec;

use crate::{
    LaneNo, LaneSend, LogIndex, Message, NodeId, ProposeError, ReadError, ReplicaId, ShardId, Slot,
    Term,
};

/// Everything that one pass produced. Steady state allocates nothing: the caller drains the
/// vectors and hands the same `Outbox` in again.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Outbox {
    /// Messages to other replicas: each may leave now. In order per receiver.
    pub send: Vec<Send>,
    /// Beats and digests: they leave before messages.
    pub lane: Vec<LaneSend>,
    /// Entries that are on disk only and that a peer needs.
    pub fetch: Vec<Fetch>,
    /// Peers that need a snapshot.
    pub snapshot: Vec<SnapWant>,
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
        self.send.clear();
        self.lane.clear();
        self.fetch.clear();
        self.snapshot.clear();
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
        self.send.is_empty()
            && self.lane.is_empty()
            && self.fetch.is_empty()
            && self.snapshot.is_empty()
            && self.apply.is_empty()
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
    /// The state becomes that of the snapshot that [`crate::SnapshotEvent::Ready`] told of; the
    /// ranges after it begin above its index.
    Install {
        /// The replica.
        slot: Slot,
        /// Index of the snapshot.
        index: LogIndex,
    },
}

/// A message to another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// The replica that sends.
    pub slot: Slot,
    /// Where the receiver lives.
    pub node: NodeId,
    /// The lane to use; none: any road to that node.
    pub lane: Option<LaneNo>,
    /// What it says. `What::Append::batches` is the transport's to fill.
    pub message: Message,
    /// Entries of this replica's log that go along, in whole batches: those that hold an index in
    /// the range. The first batch may begin before it.
    pub entries: Option<Entries>,
}

/// A range of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// First index.
    pub from: LogIndex,
    /// Last index, the last one of its batch.
    pub to: LogIndex,
    /// They are not in memory: the bodies are those of the [`Fetch`], and go over the bulk lane.
    pub bulk: bool,
}

/// Entries to read from disk, in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The replica whose log has them.
    pub slot: Slot,
    /// Who needs them.
    pub peer: ReplicaId,
    /// Where it lives.
    pub node: NodeId,
    /// First index.
    pub from: LogIndex,
    /// Last index that may be read.
    pub to: LogIndex,
    /// Bytes to read at most; one batch at least.
    pub bytes_max: u32,
    /// The peer repairs its log: the entries are sent as they are, raft hears no more of it.
    /// Else the answer is [`crate::RaftCore::handle_fetched`].
    pub repair: bool,
}

/// The answer to a [`Fetch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Whole batches were read, the first of which holds the asked index.
    Entries {
        /// Who needs them.
        peer: ReplicaId,
        /// First index asked for.
        from: LogIndex,
        /// Last index of the last batch.
        to: LogIndex,
        /// Their bytes.
        bytes: u32,
    },
    /// They could not be read.
    Failed {
        /// Who needs them.
        peer: ReplicaId,
    },
}

/// A peer needs the state as a whole: offer it the latest manifest. It is said again now and then
/// until an answer of the peer shows that it has it; an offer under way is not begun again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapWant {
    /// The replica that offers.
    pub slot: Slot,
    /// Who needs it.
    pub peer: ReplicaId,
    /// Where it lives.
    pub node: NodeId,
    /// The snapshot must be at or above this index.
    pub floor: LogIndex,
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
    /// It voted for itself and asks for votes.
    Candidate = 1,
    /// It orders the entries of its shard.
    Leader = 2,
    /// It asks whether others would vote for it.
    PreCandidate = 3,
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
    /// It leads no more: another replica is in a higher term.
    HigherTerm,
    /// It leads no more: no quorum supports it.
    NoQuorum,
    /// It leads no more: it is not in the configuration.
    Removed,
    /// A transfer ended without the target taking over.
    TransferEnded,
    /// It follows another leader.
    Follows,
    /// Its log parts from the leader's at or below what is committed here: nothing was changed.
    Conflict,
    /// A peer lost entries that it had acknowledged.
    PeerLostTail,
    /// Uncommitted entries were replaced.
    Truncated,
    /// A configuration was staged.
    Configuration,
    /// A configuration was taken back by a truncation.
    ConfigurationUndone,
    /// A change of membership that was asked for was given up.
    ChangeDropped,
    /// A peer says that this replica is no longer a member.
    Gone,
    /// A snapshot took the place of log and state.
    Installed,
    /// A peer needs a snapshot.
    SnapshotNeeded,
    /// It leads no more: its stream failed.
    StreamFailed,
    /// It leads no more: its log or state is damaged.
    Damaged,
    /// It was closed by [`crate::Admin::Close`].
    Closed,
    /// It was closed because of a state that cannot be: a bug in this library or its log.
    Broken(crate::Rule),
}
