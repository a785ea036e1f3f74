//! What is wrong with one call or one shard, in small values.

use core::fmt;
use std::sync::Arc;

use bowline_raft::{LogIndex, ShardId};
use bowline_statemachine::{BadCommand, Measured};

use super::Code;

/// What is wrong with a call. Nothing was changed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// A key, value or entry is over its limit.
    TooLarge {
        /// Which.
        what: Measured,
        /// How large it is.
        len: u32,
        /// How large it may be.
        max: u32,
    },
    /// The keys lie in different slots, or in another shard than the client's.
    CrossSlot,
    /// `wait()` on a core's thread.
    OnCore,
    /// The session was evicted.
    SessionExpired,
    /// No shard of this number.
    UnknownShard(ShardId),
    /// An argument is outside what is accepted.
    Invalid(&'static str),
    /// The state machine does not have this operation.
    NotSupported,
    /// Applied earlier; the reply is no longer held.
    ReplyGone(LogIndex),
    /// The events since the revision are no longer held; the oldest is this.
    Compacted(u64),
    /// No room for another watcher.
    WatchLimit,
    /// Increment of a value that is no number.
    NotANumber,
    /// Increment beyond the range of a number.
    Overflow,
    /// A change of members or leaders is refused now, for this reason.
    Membership(&'static str),
    /// A member cannot vote or lead yet: it lacks so many entries, or cannot be reached.
    Behind {
        /// Entries that it lacks, as far as its leader knows.
        entries: u64,
    },
    /// The command needs a version of the state machine that the shard's members have not agreed
    /// on; nothing was queued.
    Version {
        /// The version that it needs.
        needs: u16,
        /// The version that they agreed on.
        agreed: u16,
    },
    /// A guard of a batch did not hold: this one, counted from 0. Nothing was written.
    GuardFailed(u32),
}

impl RequestError {
    /// Its code.
    pub const fn code(self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::TOO_LARGE,
            Self::CrossSlot => Code::CROSS_SLOT,
            Self::OnCore => Code::ON_CORE,
            Self::SessionExpired => Code::SESSION_EXPIRED,
            Self::UnknownShard(_) | Self::Invalid(_) => Code::INVALID,
            Self::NotSupported => Code::NOT_SUPPORTED,
            Self::ReplyGone(_) => Code::REPLY_GONE,
            Self::Compacted(_) => Code::COMPACTED,
            Self::WatchLimit => Code::WATCH_LIMIT,
            Self::NotANumber => Code::NOT_A_NUMBER,
            Self::Overflow => Code::OVERFLOW,
            Self::Membership(_) | Self::Behind { .. } => Code::MEMBERSHIP,
            Self::GuardFailed(_) => Code::GUARD_FAILED,
            Self::Version { .. } => Code::VERSION_NOT_AGREED,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { what, len, max } => {
                write!(f, "too large: {len} {what}, at most {max}")
            },
            Self::UnknownShard(shard) => write!(f, "there is no shard {shard}"),
            Self::Invalid(what) | Self::Membership(what) => f.write_str(what),
            Self::Behind { entries } => {
                write!(f, "the member is {entries} entries behind, or cannot be reached")
            },
            Self::ReplyGone(index) => {
                write!(f, "applied earlier at index {index}; the reply is gone")
            },
            Self::Compacted(oldest) => {
                write!(f, "the watch revision is compacted; the oldest is {oldest}")
            },
            Self::GuardFailed(place) => {
                write!(f, "guard {place} did not hold; nothing was written")
            },
            Self::Version { needs, agreed } => {
                write!(f, "the command needs version {needs}, the members agreed on {agreed}")
            },
            Self::CrossSlot
            | Self::OnCore
            | Self::SessionExpired
            | Self::NotSupported
            | Self::WatchLimit
            | Self::NotANumber
            | Self::Overflow => f.write_str(super::ErrorTable::row(self.code()).what),
        }
    }
}

impl From<BadCommand> for RequestError {
    fn from(bad: BadCommand) -> Self {
        match bad {
            BadCommand::TooLarge { what, len, max } => Self::TooLarge { what, len, max },
            BadCommand::Ttl => Self::Invalid("the time to live is over 100 years"),
            BadCommand::Archive => Self::Invalid("the bytes are no command or query"),
            BadCommand::Kind(_) => Self::NotSupported,
            BadCommand::Token => Self::Invalid("the scan token is damaged or of another scan"),
            BadCommand::Panicked => Self::Invalid("the state machine panicked at the question"),
            BadCommand::Question => Self::Invalid("the range or limit makes no sense"),
            _ => Self::Invalid("the command is not accepted"),
        }
    }
}

/// Why a shard does not answer here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardFailure {
    /// The stream of its log failed a write: what was appended may be there after a restart.
    LogWrite,
    /// The log or state has no disk space left; refused before anything was appended.
    DiskFull,
    /// Records of its log are damaged.
    LogDamaged,
    /// Its state is damaged.
    RunDamaged,
    /// The state machine halted at this index.
    Halted {
        /// The entry that was not applied.
        index: LogIndex,
        /// The panic's text, or what the entry needs.
        message: Arc<str>,
    },
    /// This node was removed from the shard's members.
    Removed,
    /// An invariant is broken.
    Invariant(&'static str),
}

impl ShardFailure {
    /// Whether bytes of the log or the state are lost, and a peer's state makes up for them.
    pub(crate) const fn is_damage(&self) -> bool {
        matches!(self, Self::LogDamaged | Self::RunDamaged)
    }

    /// Its code.
    pub const fn code(&self) -> Code {
        match self {
            Self::LogWrite => Code::LOG_WRITE,
            Self::DiskFull => Code::DISK_FULL,
            Self::LogDamaged => Code::LOG_DAMAGED,
            Self::RunDamaged => Code::RUN_DAMAGED,
            Self::Halted { .. } => Code::APPLY_HALTED,
            Self::Removed => Code::REMOVED,
            Self::Invariant(_) => Code::INVARIANT,
        }
    }

    /// Whether a write that met it could still take effect. A full disk alone refuses before
    /// anything is appended; with the others the write may be in the log, here or at a peer.
    pub const fn maybe_applied(&self) -> bool {
        !matches!(self, Self::DiskFull)
    }
}

impl fmt::Display for ShardFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted { index, message } => {
                write!(f, "the state machine halted at index {index}: {message}")
            },
            Self::Invariant(what) => write!(f, "an invariant is broken: {what}"),
            Self::LogWrite
            | Self::DiskFull
            | Self::LogDamaged
            | Self::RunDamaged
            | Self::Removed => f.write_str(super::ErrorTable::row(self.code()).what),
        }
    }
}

/// The budget that is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Budget {
    /// A thread's ring to a core.
    Ring,
    /// A core's queued, uncommitted and unapplied bytes.
    Core,
    /// A shard's uncommitted bytes.
    Shard,
    /// A core's requests that wait for a leader.
    Parked,
    /// A core's state in memory.
    Delta,
    /// A stream's log.
    Log,
}

impl Budget {
    /// Every budget, in the order of the metrics.
    pub const ALL: [Self; 6] =
        [Self::Ring, Self::Core, Self::Shard, Self::Parked, Self::Delta, Self::Log];

    /// Its name, as in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Core => "core",
            Self::Shard => "shard",
            Self::Parked => "parked",
            Self::Delta => "delta",
            Self::Log => "log",
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a shard is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unready {
    /// No leader is known.
    NoLeader,
    /// A leader is known; no entry of its term is applied here yet.
    NotApplied,
    /// It is closed here, for this reason; it gets no leader here before it is repaired.
    Closed(Code),
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => f.write_str("no leader"),
            Self::NotApplied => f.write_str("the leader's first entry is not applied here"),
            Self::Closed(code) => write!(f, "closed ({code})"),
        }
    }
}

/// Which shards are not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotReady {
    /// Up to 8 of them.
    pub shards: Vec<(ShardId, Unready)>,
    /// How many in all.
    pub count: u32,
    /// Out of how many.
    pub of: u32,
}

impl NotReady {
    /// Shards named at most.
    pub const NAMED_MAX: usize = 8;

    pub(crate) fn new(shards: Vec<(ShardId, Unready)>, count: u32, of: u32) -> Self {
        Self { shards, count, of }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} shards are not ready", self.count, self.of)?;
        let mut before = ": ";
        for (shard, why) in &self.shards {
            write!(f, "{before}shard {shard}: {why}")?;
            before = ", ";
        }
        let named = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        if self.count > named { write!(f, " and {} more", self.count - named) } else { Ok(()) }
    }
}

/// The first cause of a node's stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The core it happened on.
    pub core: Option<u16>,
    /// Its code.
    pub code: Code,
    /// The panic's text, or what the runtime said.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(core: Option<u16>, code: Code, message: impl Into<String>) -> Self {
        Self { core, code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(core) = self.core {
            write!(f, "core {core}: ")?;
        }
        write!(f, "{} ({})", self.message, self.code)
    }
}
