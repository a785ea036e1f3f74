//! Why a call to the log failed: one small enum for each operation. The variant says what to do.

use core::fmt;

use bowline_env::{EnvError, Kind};
use bowline_raft::{LogIndex, ShardId, Term};

use crate::geometry::GeometryError;

/// Why a log takes and writes nothing more until it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogError {
    /// A frame could not be written whole; whether it is on the disk is unknown.
    Write {
        /// What the machine said.
        kind: Kind,
    },
    /// A sync failed: what was written since the last good one may be lost.
    Sync {
        /// What the machine said.
        kind: Kind,
    },
    /// The superblock could not be written.
    Super {
        /// What the machine said.
        kind: Kind,
    },
    /// No slot is left: the log can no longer keep a vote.
    LogFull,
    /// It was closed.
    Closed,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { kind } => write!(f, "a log write failed: {kind}"),
            Self::Sync { kind } => write!(f, "a log sync failed: {kind}"),
            Self::Super { kind } => write!(f, "the log's superblock was not written: {kind}"),
            Self::LogFull => f.write_str("no log slot is left"),
            Self::Closed => f.write_str("the log is closed"),
        }
    }
}

impl core::error::Error for LogError {}

/// Why nothing was staged. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StageError {
    /// The log failed earlier; open it again.
    Poisoned(LogError),
    /// The log is at a mark: free slots, then try again.
    Full,
    /// More waits for the disk than memory is given for it: try again after a write.
    Busy,
    /// It can never fit: `max` bytes or records is the most.
    TooLarge {
        /// The bound that was passed.
        max: u64,
    },
    /// The copied bytes are not what their checksum was made over.
    BadChecksum,
    /// The batch does not touch the log's end.
    Gap {
        /// The highest index that may be first.
        expected: LogIndex,
    },
    /// The batch begins below the log's first index.
    Compacted {
        /// That index.
        first: LogIndex,
    },
    /// Its term is below that of the entry before it, or that entry has another term than stated.
    Stale {
        /// Term of the entry before it here.
        have: Term,
    },
    /// The shard is not open here.
    NoShard,
    /// The shard is open already.
    Exists,
    /// The stream carries as many shards as one checkpoint holds.
    TooManyShards {
        /// That many.
        max: u32,
    },
    /// No hole with this batch's range and checksum is on record.
    NoHole,
    /// The record breaks an order: commit beyond the log, entries of a term not yet recorded,
    /// compaction beyond the manifest, an empty batch, an unknown flag.
    Order,
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisoned(cause) => write!(f, "the log is poisoned: {cause}"),
            Self::Full => f.write_str("the log is at its mark"),
            Self::Busy => f.write_str("too much waits for the disk"),
            Self::TooLarge { max } => write!(f, "larger than {max}"),
            Self::BadChecksum => f.write_str("the checksum does not match the bytes"),
            Self::Gap { expected } => write!(f, "a gap: expected index {expected}"),
            Self::Compacted { first } => write!(f, "below the first index {first}"),
            Self::Stale { have } => write!(f, "the entry before it has term {have}"),
            Self::NoShard => f.write_str("the shard is not open here"),
            Self::Exists => f.write_str("the shard is open already"),
            Self::TooManyShards { max } => write!(f, "a stream carries at most {max} shards"),
            Self::NoHole => f.write_str("no such hole is on record"),
            Self::Order => f.write_str("the record breaks the order of the log"),
        }
    }
}

impl core::error::Error for StageError {}

/// Why batches were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// A batch is bad; the shard is Repairing now.
    Damaged {
        /// The shard.
        shard: ShardId,
        /// First lost index.
        from: LogIndex,
        /// Last lost index.
        to: LogIndex,
    },
    /// The range begins below the log's first index.
    Compacted {
        /// That index.
        first: LogIndex,
    },
    /// The range begins above the log's last index, or is empty.
    Missing,
    /// The shard is not open here.
    NoShard,
    /// The machine refused for a reason that says nothing about the bytes.
    Env(Kind),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { shard, from, to } => {
                write!(f, "entries {from} to {to} of shard {shard} are damaged")
            },
            Self::Compacted { first } => write!(f, "below the first index {first}"),
            Self::Missing => f.write_str("not in the log"),
            Self::NoShard => f.write_str("the shard is not open here"),
            Self::Env(kind) => write!(f, "the log could not be read: {kind}"),
        }
    }
}

impl core::error::Error for ReadError {}

/// Whose directory it is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// Another cluster's.
    Cluster {
        /// That cluster.
        found: u128,
        /// Our own.
        expected: u128,
    },
    /// Another node's.
    Node {
        /// That node.
        found: u64,
        /// Our own.
        expected: u64,
    },
    /// Another stream's, or one of a node with another number of streams.
    Stream {
        /// Number and count found.
        found: (u32, u32),
        /// Our own.
        expected: (u32, u32),
    },
}

/// Why a stream was not formatted or opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// It belongs to somebody else.
    Foreign(Foreign),
    /// No superblock is valid: damage, never "new".
    Unreadable,
    /// A later release wrote it.
    TooNew {
        /// Major version found.
        major: u16,
        /// Features found that this build does not know.
        incompat: u32,
    },
    /// A record that this build must know was written by a later release.
    UnknownRecord {
        /// Its kind.
        kind: u8,
    },
    /// Its numbers leave none to count on with: no log comes so far, somebody wrote into its files.
    Numbers,
    /// Another process has it open.
    InUse,
    /// The sizes cannot be used.
    Geometry(GeometryError),
    /// It was to be formatted, and a log with entries is there.
    HoldsEntries,
    /// No slot is free for this boot.
    Full,
    /// The boot's own frames could not be written.
    Log(LogError),
    /// The machine refused.
    Env(EnvError),
}

impl From<EnvError> for OpenError {
    fn from(error: EnvError) -> Self {
        Self::Env(error)
    }
}

impl From<GeometryError> for OpenError {
    fn from(error: GeometryError) -> Self {
        Self::Geometry(error)
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(Foreign::Cluster { found, expected }) => {
                write!(f, "the stream is of cluster {found:032x}, not {expected:032x}")
            },
            Self::Foreign(Foreign::Node { found, expected }) => {
                write!(f, "the stream is of node {found}, not {expected}")
            },
            Self::Foreign(Foreign::Stream { found, expected }) => write!(
                f,
                "it is stream {} of {}, not {} of {}",
                found.0, found.1, expected.0, expected.1
            ),
            Self::Unreadable => f.write_str("no superblock of the stream is valid"),
            Self::TooNew { major, incompat } => {
                write!(f, "written by a later release (version {major}, features {incompat:#x})")
            },
            Self::UnknownRecord { kind } => write!(f, "a record of unknown kind {kind}"),
            Self::Numbers => f.write_str("the numbers in its files are none that a log reaches"),
            Self::InUse => f.write_str("in use by another process"),
            Self::Geometry(error) => error.fmt(f),
            Self::HoldsEntries => f.write_str("a log with entries is where a new one was to be"),
            Self::Full => f.write_str("no log slot is free for this start"),
            Self::Log(error) => error.fmt(f),
            Self::Env(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}
