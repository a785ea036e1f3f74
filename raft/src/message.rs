//! What replicas of a shard say to each other, as plain values. `net` owns the bytes.
//!
//! `term` is always the sender's actual term. Slots, cores and generations are hints of a lane's
//! life: a wrong one costs a lookup, never correctness.

use crate::{BatchHeader, LogIndex, ReplicaId, ShardId, Slot, Term};

/// Where the sender believes the receiver to be, and where it is itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The receiver's slot.
    pub to_slot: Slot,
    /// Generation of that slot.
    pub to_generation: u32,
    /// The sender's slot.
    pub my_slot: Slot,
    /// Generation of that slot.
    pub my_generation: u32,
    /// The sender's core.
    pub my_core: u16,
}

/// A message of one replica to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The shard.
    pub shard: ShardId,
    /// The receiver.
    pub to: ReplicaId,
    /// The sender.
    pub from: ReplicaId,
    /// The sender's term.
    pub term: Term,
    /// Where to look first.
    pub hint: Hint,
    /// The epoch under which the sender is bound; 0: none.
    pub support: u32,
    /// Number of a request; its answer repeats it.
    pub seq: u16,
    /// What it says.
    pub what: What,
}

/// Which batches of a frame belong to a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchRange {
    /// The first one; 0 if there is none.
    pub first: u32,
    /// How many.
    pub count: u16,
}

/// A received batch. Its body is not believed before it matches the header's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Identity and checksum.
    pub head: BatchHeader,
    /// The body.
    pub body: &'a [u8],
}

/// A message with the batches that came along.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The message.
    pub message: &'a Message,
    /// Its batches, in order; of an Append alone.
    pub batches: &'a [Batch<'a>],
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken, or refused by an answer.
    Taken,
    /// The log is at its mark: give the same message again after a write became durable. What was
    /// taken of it so far is not taken twice.
    NoRoom,
    /// It is dropped and counted.
    False(Why),
    /// The shard is not here.
    UnknownShard,
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Why {
    /// It came over a lane life that is over, or over no lane that is known.
    Life,
    /// It is for another replica of the shard.
    Receiver,
    /// It claims to come from this replica, from nobody, or from a replica of another node.
    Sender,
    /// A term of 0, or one that no honest replica reaches.
    Term,
    /// An index that no honest replica reaches, or index and term that cannot stand together.
    Index,
    /// Batches that are not consecutive, not of this shard, fall in term, or do not follow `prev`.
    Batches,
    /// The bytes of a batch are not what its checksum or layout says.
    Bytes,
    /// A configuration that is none, or that does not follow the one before.
    Configuration,
    /// It contradicts what is committed here.
    Committed,
    /// A second leader in one term.
    Leader,
    /// An answer to something that was not asked, or not in this role, term or round.
    Unasked,
    /// It is older than what is known.
    Stale,
    /// The replica is closed, or its stream failed.
    Closed,
}

impl Why {
    /// How many there are.
    pub const COUNT: usize = 13;
}

/// Where a follower's log parts from the leader's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Largest index not above the asked one whose term is not above the asked term.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

/// Why a candidate asks for votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteReason {
    /// Nobody leads.
    NoLeader,
    /// The leader of `promised` hands its leadership over.
    Transfer {
        /// The term in which the voter is bound to that leader.
        promised: Term,
    },
}

/// An answer to a request for a vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ballot {
    /// Whether it is given.
    pub granted: bool,
    /// The term of the request.
    pub asked: Term,
    /// Who leads as far as the voter knows; 0 is nobody.
    pub leader: ReplicaId,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Take these batches after `prev`; none of them: just this news.
    Append {
        /// Index before the first entry.
        prev: LogIndex,
        /// Its term.
        prev_term: Term,
        /// The leader's commit index.
        commit: LogIndex,
        /// The latest read that wants a confirmation; 0: none.
        read_seq: u64,
        /// The batches.
        batches: BatchRange,
    },
    /// Durable up to `matched`, or not taken.
    AppendResp {
        /// Last index that is durable and equal to the leader's.
        matched: LogIndex,
        /// Not taken, because the logs part here.
        reject: Option<Mismatch>,
        /// This replica counts in no quorum.
        no_quorum: bool,
    },
    /// Would you vote for me in the term after mine?
    PreVote {
        /// Last index of the sender's log.
        last: LogIndex,
        /// Its term.
        last_term: Term,
    },
    /// Answer to [`What::PreVote`].
    PreVoteResp(Ballot),
    /// Vote for me in this term.
    Vote {
        /// Last index of the sender's log.
        last: LogIndex,
        /// Its term.
        last_term: Term,
        /// Why.
        reason: VoteReason,
    },
    /// Answer to [`What::Vote`].
    VoteResp(Ballot),
    /// This much is committed.
    CommitHint {
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// Do I still lead?
    ReadProbe {
        /// The leader's commit index.
        commit: LogIndex,
        /// The latest read that wants to know.
        read_seq: u64,
    },
    /// You do.
    ReadProbeResp {
        /// The read it confirms, and all before it.
        read_seq: u64,
        /// This replica counts in no quorum.
        no_quorum: bool,
    },
    /// A follower asks for the index that its reads have to see.
    ReadIndex {
        /// Comes back.
        request: u64,
        /// Reads that wait for it.
        count: u64,
    },
    /// Answer to [`What::ReadIndex`].
    ReadIndexResp {
        /// Of the request.
        request: u64,
        /// The index; or who leads as far as the asked one knows, 0 is nobody.
        index: Result<LogIndex, ReplicaId>,
    },
    /// Take the leadership over, now.
    TimeoutNow,
    /// My state is lost or damaged: send a snapshot at or above `floor`.
    SnapshotNeeded {
        /// First index of the sender's log - 1.
        floor: LogIndex,
    },
    /// You are no longer a member.
    Gone {
        /// Number of the placement that says so.
        generation: u64,
    },
    /// Send these entries, to fill a hole.
    FetchEntries {
        /// The first one.
        from: LogIndex,
        /// The last one.
        to: LogIndex,
    },
    /// The sender leads no more; nobody is bound to it.
    Release,
}
