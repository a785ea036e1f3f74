//! What can be wrong with a command, a snapshot, a manifest or a run. Small, typed, without text
//! that anybody would have to read.

use core::fmt;

use bowline_env::EnvError;

use crate::manifest::ManifestError;

/// Longest key, in bytes. Fixed: it bounds a page's records.
pub const KEY_BYTES_MAX: usize = 2_048;
/// Longest TTL: 100 years of 365.25 days, in milliseconds.
pub const TTL_MS_MAX: u64 = 100 * 31_557_600_000;
/// Most guards of a batch.
pub const BATCH_GUARDS_MAX: usize = 128;
/// Most operations of a batch.
pub const BATCH_OPS_MAX: usize = 1_024;
/// Most keys of an Expire command.
pub const EXPIRE_KEYS_MAX: usize = 512;
/// Most keys of one multi-get.
pub const MULTI_GET_KEYS_MAX: usize = 16_384;

/// What a length was the length of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Measured {
    /// A key, in bytes.
    Key,
    /// A value, in bytes.
    Value,
    /// A command with its envelope, in bytes.
    Command,
    /// Guards of a batch.
    Guards,
    /// Operations of a batch.
    Ops,
    /// Keys of an Expire or of a multi-get.
    Keys,
}

/// Why a command or a question is not accepted. It changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BadCommand {
    /// Something is over its limit.
    TooLarge {
        /// What.
        what: Measured,
        /// How large it is.
        len: u32,
        /// How large it may be.
        max: u32,
    },
    /// The TTL is over 100 years.
    Ttl,
    /// The bytes are no valid archive of the kind's structure, or hold a number out of its range.
    Archive,
    /// This machine has no command of that kind.
    Kind(u8),
    /// The scan token is damaged or belongs to another scan.
    Token,
    /// The range, limit or another argument of a question makes no sense.
    Question,
    /// The application's machine panicked at the question.
    Panicked,
}

impl BadCommand {
    /// `TooLarge` if `len` is over `max`.
    pub(crate) fn check(what: Measured, len: usize, max: usize) -> Result<(), Self> {
        if len <= max {
            Ok(())
        } else {
            let cut = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Err(Self::TooLarge { what, len: cut(len), max: cut(max) })
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key bytes",
            Self::Value => "value bytes",
            Self::Command => "command bytes",
            Self::Guards => "guards",
            Self::Ops => "operations",
            Self::Keys => "keys",
        })
    }
}

impl fmt::Display for BadCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { what, len, max } => write!(f, "{len} {what}, at most {max}"),
            Self::Ttl => f.write_str("the time to live is over 100 years"),
            Self::Archive => f.write_str("the command's bytes are invalid"),
            Self::Kind(kind) => write!(f, "this state machine has no command of kind {kind}"),
            Self::Token => f.write_str("the scan token is damaged or of another scan"),
            Self::Question => f.write_str("the question's arguments make no sense"),
            Self::Panicked => f.write_str("the state machine panicked at the question"),
        }
    }
}

impl core::error::Error for BadCommand {}

/// What `admit` holds a command to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest value, in bytes: the entry limit less 4 KiB.
    pub value_bytes_max: usize,
    /// Longest body of a command, in bytes: the entry limit less the envelope.
    pub body_bytes_max: usize,
}

impl Limits {
    /// The limits that follow from the longest entry that the log takes.
    ///
    /// # Panics
    ///
    /// If `entry_bytes_max` is below 8 KiB.
    #[must_use]
    pub const fn of_entry(entry_bytes_max: usize) -> Self {
        assert!(entry_bytes_max >= 8_192, "an entry holds the longest key and its headers");
        Self {
            value_bytes_max: entry_bytes_max - 4_096,
            body_bytes_max: entry_bytes_max - crate::envelope::ENVELOPE_LEN,
        }
    }
}

impl Default for Limits {
    /// For entries of 1 MiB.
    fn default() -> Self {
        Self::of_entry(1 << 20)
    }
}

/// Why an application's snapshot could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmError {
    /// The output took no more bytes.
    Write,
    /// The snapshot is not one of this machine, or is damaged.
    Invalid,
    /// The snapshot was written by another version of the machine.
    Version {
        /// The version that wrote it.
        found: u16,
    },
    /// The application's code panicked.
    Panicked,
}

impl fmt::Display for SmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write => f.write_str("the snapshot could not be written"),
            Self::Invalid => f.write_str("the snapshot is damaged or not of this machine"),
            Self::Version { found } => write!(f, "the snapshot is of machine version {found}"),
            Self::Panicked => f.write_str("the state machine panicked at its snapshot"),
        }
    }
}

impl core::error::Error for SmError {}

impl From<std::io::Error> for SmError {
    fn from(_: std::io::Error) -> Self {
        Self::Write
    }
}

/// Why a shard's state cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenFailure {
    /// The manifest's bytes are invalid.
    Manifest(ManifestError),
    /// The manifest is of another shard.
    Shard {
        /// The shard it names.
        found: u64,
    },
    /// The manifest was written by a state machine of another name.
    Name {
        /// The hash it holds.
        found: u64,
        /// The hash of this machine's name.
        expected: u64,
    },
    /// The manifest was written by a newer version of the machine.
    Version {
        /// The version that wrote it.
        found: u16,
        /// This machine's version.
        supported: u16,
    },
    /// A run is missing or damaged.
    Damaged(Damage),
    /// The manifest of an application's machine lists more than its one snapshot.
    Snapshots {
        /// Sections it lists.
        found: usize,
    },
    /// The application could not read its snapshot.
    Restore(SmError),
    /// The application's `create` or `restore` panicked.
    Panicked(Box<str>),
    /// The machine refused; nothing is known about the state.
    Env(EnvError),
}

impl fmt::Display for OpenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(why) => why.fmt(f),
            Self::Shard { found } => write!(f, "the manifest is of shard {found}"),
            Self::Name { found, expected } => write!(
                f,
                "written by another state machine (name hash {found:016x}, not {expected:016x})"
            ),
            Self::Version { found, supported } => {
                write!(f, "written by machine version {found}, this one is {supported}")
            },
            Self::Damaged(damage) => damage.fmt(f),
            Self::Snapshots { found } => write!(f, "the manifest lists {found} snapshots, not one"),
            Self::Restore(why) => why.fmt(f),
            Self::Panicked(text) => write!(f, "the state machine panicked: {text}"),
            Self::Env(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OpenFailure {}

impl From<Damage> for OpenFailure {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<EnvError> for OpenFailure {
    fn from(error: EnvError) -> Self {
        Self::Env(error)
    }
}

/// What part of a run file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Area {
    /// The file is missing, or shorter than it was.
    File,
    /// The file's header.
    Header,
    /// The file's section table or tail.
    Table,
    /// The section's trailer.
    Trailer,
    /// The section's page index.
    Index,
    /// The section's expiry table.
    Expiry,
    /// The section's deleted ranges.
    Ranges,
    /// The section's filter.
    Filter,
    /// The section's chunk checksums.
    Chunks,
    /// A data page, by its number in the section.
    Page(u32),
    /// A value beside its page, by its offset in the section.
    Value(u64),
    /// The body of a snapshot of a user's machine.
    Body,
}

/// Why state cannot be trusted, or why a replica applies nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Bytes of a run fail their check.
    Run {
        /// The shard.
        shard: u64,
        /// The run's id.
        run: u128,
        /// What part of it.
        area: Area,
    },
    /// The application's `apply` panicked at an entry; the entry is never skipped.
    Panicked {
        /// The shard.
        shard: u64,
        /// The entry's index.
        index: u64,
        /// The panic's text.
        message: Box<str>,
    },
    /// An entry is of a kind or version that this program does not know; the entry is never
    /// skipped.
    NeedsVersion {
        /// The shard.
        shard: u64,
        /// The entry's index.
        index: u64,
        /// Its kind.
        kind: u8,
        /// Its version.
        version: u16,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { shard, run, area } => {
                write!(f, "shard {shard}: run {run:032x} is damaged at {area:?}")
            },
            Self::Panicked { shard, index, message } => {
                write!(f, "shard {shard}: apply panicked at index {index}: {message}")
            },
            Self::NeedsVersion { shard, index, kind, version } => {
                write!(f, "shard {shard}: entry {index} (kind {kind}, version {version}) ")?;
                f.write_str("needs a newer build")
            },
        }
    }
}

impl core::error::Error for Damage {}
