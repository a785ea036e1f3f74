//! The plain values that cross the seam.

use core::any::Any;

/// A core of this node, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreNo(pub u16);

/// Nanoseconds of the boot clock: never goes back on a core, counts suspend, has no relation
/// between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// One microsecond.
    pub const MICRO: Self = Self(1_000);
    /// One millisecond.
    pub const MILLI: Self = Self(1_000_000);
    /// One second.
    pub const SECOND: Self = Self(1_000_000_000);

    /// `self + span`, stopping at the end of time.
    #[must_use]
    pub const fn after(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// A span of `count` milliseconds.
    #[must_use]
    pub const fn from_millis(count: u64) -> Self {
        Self(count.saturating_mul(1_000_000))
    }

    /// A span of `count` microseconds.
    #[must_use]
    pub const fn from_micros(count: u64) -> Self {
        Self(count.saturating_mul(1_000))
    }
}

/// Milliseconds of the wall clock since 1970: for stamps that a leader puts into an entry, and
/// for people. No decision rests on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// Which share of the core a task gets while the core is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The road of a put: loop, writers, readers.
    Core,
    /// Flush, merge, transfer: a tenth of the core while `Core` has work.
    Background,
}

/// How a file is opened. All of them are direct I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reads only.
    Read,
    /// Reads and writes; a write is durable after a later `sync`.
    Write,
    /// Reads and writes; a write is durable when it completes (`O_DSYNC`).
    WriteSynced,
}

/// A claim of the code that the simulator checks: five integers, nothing in production.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// What happened; the numbers belong to the crate that states them.
    pub kind: u32,
    /// The shard it happened to.
    pub shard: u64,
    /// Its term.
    pub term: u64,
    /// Its log index.
    pub index: u64,
    /// By kind.
    pub aux: u64,
}

/// Where a core runs and what it may lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreOptions {
    /// Its number on this node.
    pub core: CoreNo,
    /// The CPU it is pinned to, out of [`crate::Facts::cpus`].
    pub cpu: u32,
    /// Cores that this node starts in all; memory that may be locked is divided by it.
    pub cores: u16,
    /// Open files with direct I/O. Off only in development; syncs are made all the same.
    pub direct_io: bool,
}

/// Why a core ended without being asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreFailure {
    /// The panic's text, or what the runtime said.
    pub message: String,
}

/// A running core. Dropping it detaches the core.
#[must_use = "a core that is not joined may outlive the engine"]
pub struct CoreThread {
    join: Box<dyn FnOnce() -> Result<(), CoreFailure> + Send>,
}

impl CoreThread {
    /// Wraps what waits for the core. For implementations of [`crate::EnvFactory`].
    pub fn new(join: impl FnOnce() -> Result<(), CoreFailure> + Send + 'static) -> Self {
        Self { join: Box::new(join) }
    }

    /// Waits until the core's main future has ended and its thread is gone. Blocks; never called
    /// on a core. In the simulator it returns at once.
    ///
    /// # Errors
    ///
    /// [`CoreFailure`]: the core panicked or could not be started.
    pub fn join(self) -> Result<(), CoreFailure> {
        (self.join)()
    }
}

impl core::fmt::Debug for CoreThread {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CoreThread")
    }
}

/// The exclusive right to a data directory; dropping it gives it back.
pub struct Claim {
    held: Box<dyn Any + Send + Sync>,
}

impl Claim {
    /// Wraps what holds the lock. For implementations of [`crate::EnvFactory`].
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self { held: Box::new(held) }
    }
}

impl core::fmt::Debug for Claim {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Claim").field("held", &(*self.held).type_id()).finish()
    }
}

/// A socket on its way from one core to another.
pub struct Moved {
    inner: Box<dyn Any + Send>,
}

impl Moved {
    /// Wraps a socket. For implementations of [`crate::Stream`].
    pub fn new(inner: impl Any + Send) -> Self {
        Self { inner: Box::new(inner) }
    }

    /// The socket again. For implementations of [`crate::Env`].
    pub fn into_inner(self) -> Box<dyn Any + Send> {
        self.inner
    }
}

impl core::fmt::Debug for Moved {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Moved")
    }
}
