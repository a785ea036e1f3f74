//! What raft asks of a log: memory only, never blocking.
//!
//! Staging is a call, waiting is not: raft has the LSN, or a refusal, before it changes its own
//! state, and what may leave only after that write waits inside raft until the LSN is durable.
//! An LSN names a write, never an (index, term).

use crate::{Batch, HardState, LogIndex, Lsn, ShardId, Slot, StreamNo, Term};

/// Bytes of the body of a no-op: one entry without payload.
pub const NOOP_BYTES: u32 = 16;

/// Which replica a call is about. The slot may be one that [`crate::RaftCore::open`] has not
/// returned yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The replica.
    pub slot: Slot,
    /// Its shard.
    pub shard: ShardId,
    /// The stream that holds its log.
    pub stream: StreamNo,
}

/// A batch that a leader appends: the log encodes the proposals taken and makes the checksum.
///
/// The caller keeps the payloads of its accepted [`crate::Proposal`]s in the order of the `propose`
/// calls of that slot; a batch takes the first [`NewBatch::proposals`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewBatch<'a> {
    /// The replica.
    pub at: Place,
    /// Index of the first entry: the last one of this replica's log + 1.
    pub first: LogIndex,
    /// Term of every entry.
    pub term: Term,
    /// Term of the entry before the first.
    pub prev_term: Term,
    /// Entries.
    pub count: u32,
    /// Proposals taken from the front of the slot's queue; 0 for an entry of raft's own.
    pub proposals: u32,
    /// Exact bytes of the body.
    pub bytes: u32,
    /// Flags of the batch header.
    pub flags: u16,
    /// The payload of raft's own entry: a configuration, or nothing in a no-op.
    pub payload: &'a [u8],
}

/// A record other than entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Term, vote, commit. A change of `commit` alone rides with the next write.
    HardState(HardState),
    /// Entries below `first` are no longer needed.
    Compact {
        /// New first index.
        first: LogIndex,
        /// Term of the entry before it.
        prev_term: Term,
    },
    /// Every entry from `from` on is void.
    Truncate {
        /// First removed index.
        from: LogIndex,
    },
    /// The state is that of a snapshot now; one atomic record with its manifest.
    Install {
        /// Index of the snapshot: the log begins after it.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Whether entries above `index` stay; else the log is empty there.
        keep: bool,
        /// Term, vote and commit as of then.
        hard_state: HardState,
    },
}

/// Why a log did not take something. Nothing changed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The log is at its mark. Try again after a write became durable.
    NoRoom,
    /// The bytes are not what their checksum says.
    BadChecksum,
    /// A write failed before: this stream takes nothing more until it is opened again.
    Poisoned,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoRoom => "the log is at its mark",
            Self::BadChecksum => "a batch does not match its checksum",
            Self::Poisoned => "the log failed before",
        })
    }
}

impl core::error::Error for Refused {}

/// The streams of one core, as raft sees them. Every call only touches memory.
///
/// LSNs of one stream never fall from call to call.
pub trait Log {
    /// Appends a leader's batch at the tail.
    ///
    /// # Errors
    ///
    /// [`Refused`]: nothing changed.
    fn append(&mut self, batch: NewBatch<'_>) -> Result<Lsn, Refused>;

    /// Takes a leader's batch as a follower: copies the body and verifies the copy. Every entry
    /// from `batch.head.first` on is replaced. A batch that begins at or below the compacted
    /// prefix is kept from there on.
    ///
    /// # Errors
    ///
    /// [`Refused`]: nothing changed.
    fn accept(&mut self, at: Place, batch: &Batch<'_>) -> Result<Lsn, Refused>;

    /// Takes one record.
    ///
    /// # Errors
    ///
    /// [`Refused`]: nothing changed.
    fn stage(&mut self, at: Place, record: Record) -> Result<Lsn, Refused>;

    /// Term of an entry, or of the one before the first; none: not in the log.
    fn term_at(&self, at: Place, index: LogIndex) -> Option<Term>;

    /// Which whole batches from the one that holds `from` on are in memory, one at least, else up
    /// to `bytes_max`: their last index and bytes. None: `from` is on disk only.
    fn cached(&self, at: Place, from: LogIndex, bytes_max: u32) -> Option<(LogIndex, u32)>;

    /// About how many bytes the entries `from..=to` take; the same answer for the same range.
    fn bytes(&self, at: Place, from: LogIndex, to: LogIndex) -> u64;
}
