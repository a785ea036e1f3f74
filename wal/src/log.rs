//! What a log promises: the trait that the engine is written against, and its values.
//!
//! Staging only touches memory and never blocks; [`LogStorage::submit`] at the end of a pass starts
//! the write; [`LogStorage::durable`] tells how far the log is on stable media.

use core::future::Future;
use core::ops::Range;

use bowline_env::{Env, SharedBuf};
use bowline_raft::{BatchHeader, HardState, LogIndex, Lsn, ReplicaId, ShardId, Term};

use crate::{LogError, OpenError, ReadError, StageError};

/// Bytes of a log buffer: counted, not copied.
pub type LogBytes = SharedBuf;

/// What `durable` means for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A durable LSN survives power loss.
    Synced,
    /// Nothing survives the process. Votes may be forgotten.
    Volatile,
}

/// How a log's device does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Nanoseconds since the oldest write in flight was issued; 0: none.
    pub write_age: u64,
    /// The state.
    pub state: HealthState,
}

/// What a log gave to its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Writes.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The state of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthState {
    /// Writes go through.
    #[default]
    Ok,
    /// A write has been in flight for over a second.
    Stalled,
    /// A write or sync failed. Nothing more is written until the log is opened again.
    Poisoned {
        /// The first cause.
        cause: LogError,
    },
}

/// A batch to append: the log encodes it in place and makes its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewBatch {
    /// The shard.
    pub shard: ShardId,
    /// Index of the first entry: the shard's last + 1, or lower to replace the tail.
    pub first: LogIndex,
    /// Term of every entry.
    pub term: Term,
    /// Term of the entry before the first.
    pub prev_term: Term,
    /// Entries.
    pub count: u32,
    /// Flags of the batch header.
    pub flags: u16,
}

/// A batch that a log holds.
#[derive(Clone, Debug)]
pub struct BatchRef {
    /// Identity and checksum, of the whole batch.
    pub head: BatchHeader,
    /// How many of its entries still count; a truncation cuts the rest off.
    pub keep: u32,
    /// The body, checked.
    pub body: LogBytes,
}

impl BatchRef {
    /// Last index that still counts.
    pub fn last(&self) -> LogIndex {
        LogIndex(self.head.first.0 + u64::from(self.keep) - 1)
    }
}

/// A batch that was taken into the log's memory.
#[derive(Clone, Debug)]
pub struct Staged {
    /// It counts once `durable()` is at least this.
    pub lsn: Lsn,
    /// The batch; may be sent at once.
    pub batch: BatchRef,
}

/// What is known damaged of a shard's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DamageState {
    /// All good, or the hole lies below the manifest.
    #[default]
    Normal = 0,
    /// Tail and vote are known, bodies are lost.
    Repairing = 1,
    /// Vote or tail may be lost: this replica never votes again.
    Retired = 2,
}

/// A hole in a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First lost index.
    pub from: LogIndex,
    /// Last lost index.
    pub to: LogIndex,
    /// Checksum that the lost batch had, if it is on record.
    pub crc: Option<u32>,
}

/// A record other than entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// Term, vote, commit. A change of `commit` alone rides with the next frame.
    HardState(HardState),
    /// Every entry from `from` on is void.
    Truncate {
        /// First removed index.
        from: LogIndex,
    },
    /// Entries below `first` are no longer needed; beyond the last one: empty there.
    Compact {
        /// New first index.
        first: LogIndex,
        /// Term of the entry before it.
        prev_term: Term,
    },
    /// The whole manifest of the shard's state at `index`, replacing the one before.
    Manifest {
        /// Index of the state.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Opaque; at most 64 KiB and the frame cap.
        body: &'a [u8],
    },
    /// The shard exists here from now on.
    OpenShard {
        /// Own replica id.
        replica: ReplicaId,
    },
    /// The shard exists here no more.
    Tombstone {
        /// Own replica id.
        replica: ReplicaId,
    },
    /// The shard's damage; `Normal` without holes: healed.
    Damage {
        /// The state.
        state: DamageState,
        /// The holes, ascending.
        holes: &'a [Hole],
    },
}

/// Where a shard's log begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// First index that the log has or would have.
    pub first: LogIndex,
    /// Term of the entry before it.
    pub prev_term: Term,
    /// Last index; `first - 1` if the log is empty.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// Its damage.
    pub damage: DamageState,
}

/// Work that would free the oldest slot of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcWork {
    /// The shard that holds it.
    pub shard: ShardId,
    /// Its last entry in that slot: compact up to here; 0: none there.
    pub upto: LogIndex,
    /// Bytes of its entries there.
    pub bytes: u64,
    /// Its manifest record is there: stage it again.
    pub manifest: bool,
    /// Keep nothing back for slow followers.
    pub urgent: bool,
}

/// What a boot found of one shard.
#[derive(Clone, Debug)]
pub struct RecoveredShard {
    /// The shard.
    pub shard: ShardId,
    /// Own replica id.
    pub replica: ReplicaId,
    /// Term, vote, commit.
    pub hard_state: HardState,
    /// Bounds and damage state.
    pub bounds: LogBounds,
    /// The latest manifest: index, term and body.
    pub manifest: Option<(LogIndex, Term, LogBytes)>,
    /// The holes, ascending.
    pub holes: Vec<Hole>,
    /// Index of each batch that holds a configuration, ascending.
    pub confs: Vec<LogIndex>,
}

/// What a boot found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Process life of the stream, from 1.
    pub boot: u64,
    /// Counts and verdicts, for people.
    pub report: RecoveryReport,
    /// The shards, ascending.
    pub shards: Vec<RecoveredShard>,
}

/// What opening a stream saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whole frames read.
    pub frames: u64,
    /// Records replayed.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// A torn tail was cut: never acknowledged.
    pub torn: bool,
    /// Frames that had been durable and are bad now.
    pub corrupt_frames: u64,
    /// The last life closed it cleanly.
    pub clean: bool,
}

/// One core's log. Not `Send`; staging never blocks.
pub trait LogStorage: 'static {
    /// What durable means here.
    fn durability(&self) -> Durability;

    /// Appends a batch whose body of `len` bytes `fill` encodes in place (16-aligned memory).
    /// `fill` must write every byte.
    ///
    /// # Errors
    ///
    /// [`StageError`]: nothing changed, `fill` was not called.
    fn append(
        &mut self,
        new: NewBatch,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Staged, StageError>;

    /// Appends a received batch: copies the body, then verifies the copy.
    ///
    /// # Errors
    ///
    /// [`StageError`]: nothing changed.
    fn append_copy(
        &mut self,
        head: &BatchHeader,
        prev_term: Term,
        body: &[u8],
    ) -> Result<Staged, StageError>;

    /// Fills a hole with a batch of a peer, proved by the checksum on record.
    ///
    /// # Errors
    ///
    /// [`StageError`]: nothing changed.
    fn heal(&mut self, head: &BatchHeader, body: &[u8]) -> Result<Staged, StageError>;

    /// Takes records of one shard, all in one frame: all durable together or none.
    ///
    /// # Errors
    ///
    /// [`StageError`]: nothing changed.
    fn stage(&mut self, shard: ShardId, records: &[Record<'_>]) -> Result<Lsn, StageError>;

    /// Voids every entry from `from` on.
    ///
    /// # Errors
    ///
    /// [`StageError`]: nothing changed.
    fn truncate(&mut self, shard: ShardId, from: LogIndex) -> Result<Lsn, StageError> {
        self.stage(shard, &[Record::Truncate { from }])
    }

    /// Gives up the entries below `first`.
    ///
    /// # Errors
    ///
    /// [`StageError`]: nothing changed.
    fn compact(
        &mut self,
        shard: ShardId,
        first: LogIndex,
        prev_term: Term,
    ) -> Result<Lsn, StageError> {
        self.stage(shard, &[Record::Compact { first, prev_term }])
    }

    /// Ends a pass: what was staged is written as soon as the window allows. Returns at once.
    fn submit(&mut self);

    /// Every write up to here is durable. The signal given at open tells when it moves.
    fn durable(&self) -> Lsn;

    /// How the device does.
    fn health(&self) -> Health;

    /// Bounds of a shard's log; none: the shard does not exist here.
    fn bounds(&self, shard: ShardId) -> Option<LogBounds>;

    /// Term of an entry, or of the one before the first; none: not in the log.
    fn term_at(&self, shard: ShardId, index: LogIndex) -> Option<Term>;

    /// Bytes of the bodies of the batches that hold an index in `from..=to`, in memory or not.
    /// O(log batches + batches in the range).
    fn bytes(&self, shard: ShardId, from: LogIndex, to: LogIndex) -> u64;

    /// Pushes the batches from `from` on that are in memory, in order, one at least if it is
    /// there, else up to `bytes_max`. Returns the next index that is missing in `out`. The first
    /// batch may begin before `from`.
    fn cached(
        &self,
        shard: ShardId,
        from: LogIndex,
        bytes_max: usize,
        out: &mut Vec<BatchRef>,
    ) -> LogIndex;

    /// Reads batches from memory or disk, one at least, else up to `bytes_max`.
    ///
    /// # Errors
    ///
    /// (of the future) [`ReadError::Damaged`]: a batch is bad; the shard is Repairing now.
    fn read(
        &self,
        shard: ShardId,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<BatchRef>, ReadError>> + 'static;

    /// Names what must be done for the oldest slot to be freed; nothing below the soft mark.
    fn gc(&mut self, out: &mut Vec<GcWork>);

    /// How full the log is, in thousandths of its slots.
    fn used_permille(&self) -> u32;

    /// What was given to the disk in this life, for metrics.
    fn written(&self) -> Written {
        Written::default()
    }

    /// Drains, covers the last frame and marks the stream closed cleanly.
    ///
    /// # Errors
    ///
    /// (of the future) [`LogError`]: it is closed, not cleanly.
    fn close(self) -> impl Future<Output = Result<(), LogError>> + 'static;
}

/// Which stream of which node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamId {
    /// The cluster.
    pub cluster: u128,
    /// The node.
    pub node: u64,
    /// Number of the stream on its node.
    pub stream: u32,
    /// Streams of the node.
    pub streams: u32,
}

/// How an engine opens its logs, one per stream. The default is `WalLogs`.
pub trait OpenLog<E: Env>: Clone + Send + Sync + 'static {
    /// The log.
    type Log: LogStorage;

    /// Makes the stream's directory anew: what is there from an unfinished founding is scrap.
    fn format(&self, env: &E, id: StreamId) -> impl Future<Output = Result<(), OpenError>>;

    /// The frame cap that a stream was made with, before it is opened: the bound of its batches for
    /// good. None: none is fixed. Nothing is written.
    fn frame_cap(
        &self,
        _env: &E,
        _id: StreamId,
    ) -> impl Future<Output = Result<Option<u32>, OpenError>> {
        core::future::ready(Ok(None))
    }

    /// Opens a stream: everything found is durable and verified, and this life is recorded.
    /// `signal` is rung when `durable` or the health moves.
    fn open(
        &self,
        env: &E,
        id: StreamId,
        signal: bowline_env::Bell,
    ) -> impl Future<Output = Result<(Self::Log, Recovered), OpenError>>;
}
