//! The traits of the seam.
//!
//! Every future that these traits return owns what it needs (`'static`), so that it can be kept
//! in a task. The contract of each operation stands at its method; `contract` asserts it on both
//! implementations.

use core::future::Future;
use core::net::SocketAddr;
use core::task::{Context, Poll};
use std::io::IoSlice;

use bytes::Bytes;

use crate::{
    Bell, Buf, Claim, ClaimError, Class, CoreNo, CoreOptions, CoreThread, EnvError, Fact, Facts,
    Millis, Mode, Moved, Name, Nanos, SharedBuf,
};

/// Makes the cores of one node. Cheap to clone; shared by threads.
pub trait EnvFactory: Clone + Send + Sync + 'static {
    /// What each core's main future is given.
    type Env: Env;

    /// What this process may use: CPUs, locked memory, io_uring, the data directory's device.
    /// Reads the machine anew at each call; never fails, an unknown is said as such.
    fn facts(&self) -> Facts;

    /// Takes the exclusive lock of the data directory, creating the directory (mode 0700) and
    /// its `LOCK` file if need be.
    ///
    /// # Errors
    ///
    /// [`ClaimError`]: nothing changed but a directory that may have been created.
    fn claim(&self) -> Result<Claim, ClaimError>;

    /// Starts a core and runs `main` on it to its end. `main` reports readiness itself.
    ///
    /// # Errors
    ///
    /// The core could not be started; `main` was dropped.
    fn spawn_core<F, T>(&self, options: CoreOptions, main: F) -> Result<CoreThread, EnvError>
    where
        F: FnOnce(Self::Env) -> T + Send + 'static,
        T: Future<Output = ()> + 'static;

    /// Drives `job` off the cores: on a thread of its own, which may block (production), or as a
    /// task of the world (simulation).
    ///
    /// # Errors
    ///
    /// No thread could be started; `job` was dropped.
    fn drive(
        &self,
        name: &'static str,
        job: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), EnvError>;
}

/// One core's handle to the machine: cheap to clone, not `Send`.
pub trait Env: Clone + 'static {
    /// An open file.
    type File: File;
    /// The data directory.
    type Dir: Dir<File = Self::File>;
    /// A connected socket.
    type Stream: Stream;
    /// A listening socket.
    type Listener: Listener<Stream = Self::Stream>;
    /// A spawned task. Dropping it detaches it: the task runs to its end.
    type Task<T: 'static>: Future<Output = T> + 'static;

    /// This core.
    fn core(&self) -> CoreNo;

    /// The boot clock; the only clock of decisions. 16 ns: once a pass, not once a put.
    fn now(&self) -> Nanos;

    /// The wall clock, for stamps and people.
    fn wall(&self) -> Millis;

    /// Fills `out` with chance: OS entropy, or the run's seed.
    fn fill_random(&self, out: &mut [u8]);

    /// Resolves at `at` or later, never before.
    fn sleep_until(&self, at: Nanos) -> impl Future<Output = ()> + 'static;

    /// Runs `task` on this core.
    fn spawn<T: 'static>(
        &self,
        class: Class,
        task: impl Future<Output = T> + 'static,
    ) -> Self::Task<T>;

    /// Lets ready tasks of this class run first. I/O is not looked at.
    fn yield_now(&self) -> impl Future<Output = ()> + 'static;

    /// Submits staged I/O and takes completions, then goes on.
    fn breathe(&self) -> impl Future<Output = ()> + 'static;

    /// Whether a socket, timer or bell event waits. A memory read.
    fn io_ready(&self) -> bool;

    /// Runs pure CPU work on the node's helper thread; it must not touch the machine. In order per
    /// core, at most 64 waiting. The closure runs to its end even if the future is dropped.
    ///
    /// # Errors
    ///
    /// (of the future) `Limit`: the queue is full, the closure was dropped.
    fn offload<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, EnvError>> + 'static;

    /// A zeroed buffer whose address and capacity are multiples of [`crate::BLOCK`]; `len` is
    /// rounded up. It can be written to a [`File`] of this core.
    ///
    /// # Errors
    ///
    /// `NoMemory`: the core's pool is at its bound.
    fn buffer(&self, len: usize) -> Result<Buf, EnvError>;

    /// As [`Env::buffer`], but its bytes are what an earlier user left in them: who writes it to a
    /// file or a socket has written every byte first.
    ///
    /// # Errors
    ///
    /// `NoMemory`: the core's pool is at its bound.
    fn scratch(&self, len: usize) -> Result<Buf, EnvError>;

    /// A bell that wakes this core. Each call makes another bell.
    fn bell(&self) -> Bell;

    /// The data directory; nothing outside it can be named.
    fn dir(&self) -> &Self::Dir;

    /// Listens at a numeric address, without `SO_REUSEPORT`.
    ///
    /// # Errors
    ///
    /// The address is taken or may not be bound.
    fn listen(&self, at: SocketAddr) -> Result<Self::Listener, EnvError>;

    /// The addresses of `host`, a name or a numeric address, with `port`: one at least. How long a
    /// lookup takes is up to the system's resolver; it has a thread of its own and holds nothing
    /// else up, and goes on if the future is dropped.
    ///
    /// # Errors
    ///
    /// (of the future) `NotFound`: the name is not known, or nobody could be asked. `Limit`: no
    /// thread can be started.
    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = Result<Vec<SocketAddr>, EnvError>> + 'static;

    /// Connects to a numeric address: `TCP_NODELAY`, keepalive; at most `limit` long.
    ///
    /// # Errors
    ///
    /// (of the future) `Refused`, `TimedOut`, `Reset`.
    fn connect(
        &self,
        to: SocketAddr,
        limit: Nanos,
    ) -> impl Future<Output = Result<Self::Stream, EnvError>> + 'static;

    /// Takes over a socket that another core of this node detached.
    ///
    /// # Errors
    ///
    /// `Closed`: it cannot be used any more.
    fn adopt(&self, moved: Moved) -> Result<Self::Stream, EnvError>;

    /// States a claim for the simulator to check. Nothing in production.
    #[inline]
    fn note(&self, fact: Fact) {
        let _: Fact = fact;
    }
}

/// An open file, direct I/O: offsets, lengths and addresses are multiples of [`File::block`].
/// Cheap to clone; the clones are one file.
pub trait File: Clone + 'static {
    /// The unit of every offset and length, at least [`crate::BLOCK`].
    fn block(&self) -> usize;

    /// Writes the whole of `buf`, a whole buffer as [`Buf::freeze`] gave it, or fails. Two writes
    /// in flight have no order. With [`Mode::WriteSynced`] the bytes survive power loss once this
    /// is `Ok`. Must be polled to its end: a dropped write may land at any later time.
    ///
    /// # Errors
    ///
    /// Any: each 512-byte sector is old, new or garbage. `Short` is an error like the others.
    fn write_at(
        &self,
        buf: SharedBuf,
        at: u64,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// Reads `len` bytes; fewer only at the end of the file, none past it.
    ///
    /// # Errors
    ///
    /// `Io`: halve the range down to one block and treat that one as damaged.
    fn read_at(
        &self,
        at: u64,
        len: usize,
    ) -> impl Future<Output = Result<SharedBuf, EnvError>> + 'static;

    /// Makes every write that completed before the call durable (`fdatasync`).
    ///
    /// # Errors
    ///
    /// Everything since the last good sync may be lost for ever, also if a later sync says `Ok`.
    fn sync(&self) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// Closes this handle; the file is closed with the last one.
    ///
    /// # Errors
    ///
    /// The system's answer to `close`; the handle is gone all the same.
    fn close(self) -> impl Future<Output = Result<(), EnvError>> + 'static;
}

/// The data directory and its sub-directories, one level deep. Names are [`Name`]s.
pub trait Dir: Clone + 'static {
    /// What [`Dir::open`] gives.
    type File: File;

    /// Opens an existing file.
    ///
    /// # Errors
    ///
    /// `NotFound`, `ReadOnly`, `Unsupported` (no direct I/O), `Io`.
    fn open(
        &self,
        name: &Name,
        mode: Mode,
    ) -> impl Future<Output = Result<Self::File, EnvError>> + 'static;

    /// Creates a file that must not exist (mode 0600) and opens it. The entry is durable after
    /// [`Dir::sync`] of its directory.
    ///
    /// # Errors
    ///
    /// `Exists`, `NoSpace`, `ReadOnly`, `Io`.
    fn create(
        &self,
        name: &Name,
        mode: Mode,
    ) -> impl Future<Output = Result<Self::File, EnvError>> + 'static;

    /// Makes a file of `len` written zeros, synced, whose name appears only when it is whole. At
    /// most `rate` bytes a second (0: no limit). The entry is durable when it returns.
    ///
    /// # Errors
    ///
    /// `Exists`, `NoSpace`, `Io`: nothing is left behind.
    fn create_filled(
        &self,
        name: &Name,
        len: u64,
        rate: u64,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// Replaces a small file as a whole: temporary file, sync, rename, directory sync. Durable
    /// when it returns.
    ///
    /// # Errors
    ///
    /// `NoSpace`, `ReadOnly`, `Io`: the old content stays, or (if the directory sync failed) it is
    /// unknown which of the two is found after power loss.
    fn write_whole(
        &self,
        name: &Name,
        content: Bytes,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// Reads a small file as a whole.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Io`; `Limit` if it is longer than `len_max`.
    fn read_whole(
        &self,
        name: &Name,
        len_max: usize,
    ) -> impl Future<Output = Result<Bytes, EnvError>> + 'static;

    /// Makes a sub-directory (mode 0700); one that exists is fine. Durable when it returns.
    ///
    /// # Errors
    ///
    /// `NoSpace`, `ReadOnly`, `Io`.
    fn make_dir(&self, name: &Name) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// Renames within one directory, replacing `to`. Atomic; durable after [`Dir::sync`].
    ///
    /// # Errors
    ///
    /// `NotFound`, `Io`: unknown until a sync which of the names is found after power loss.
    fn rename(
        &self,
        from: &Name,
        to: &Name,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// Removes a file. Atomic; durable after [`Dir::sync`].
    ///
    /// # Errors
    ///
    /// `NotFound`, `Io`.
    fn remove(&self, name: &Name) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// Makes the entries of a directory durable; `None` is the data directory itself.
    ///
    /// # Errors
    ///
    /// `Io`, `NotFound`.
    fn sync(&self, dir: Option<&Name>) -> impl Future<Output = Result<(), EnvError>> + 'static;

    /// The files of a directory and their lengths in bytes, sorted by name; sub-directories have
    /// no entry. `None` is the data directory itself. Entries whose names are no [`Name`] are left
    /// out.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Io`.
    fn list(
        &self,
        dir: Option<&Name>,
    ) -> impl Future<Output = Result<Vec<(Name, u64)>, EnvError>> + 'static;

    /// Free bytes for this process on the data directory's file system.
    ///
    /// # Errors
    ///
    /// `Io`.
    fn free_space(&self) -> impl Future<Output = Result<u64, EnvError>> + 'static;

    /// Maps `len` bytes from `at` (a multiple of [`crate::BLOCK`]) of a file that never changes
    /// again, read-only and populated, without read-ahead. The last clone of the bytes unmaps,
    /// off the cores.
    ///
    /// # Errors
    ///
    /// A range past the end, or an unreadable page: an error here, never a fault later.
    fn map(
        &self,
        name: &Name,
        at: u64,
        len: usize,
    ) -> impl Future<Output = Result<Bytes, EnvError>> + 'static;
}

/// A connected socket: poll-based, no future, no buffer of its own.
pub trait Stream: 'static {
    /// Reads what is there into `into`; 0 is the end.
    ///
    /// # Errors
    ///
    /// `Reset`, `TimedOut`.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8])
    -> Poll<Result<usize, EnvError>>;

    /// Hands bytes to the kernel, maybe only some of them.
    ///
    /// # Errors
    ///
    /// `Reset`: an unknown prefix arrived.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>>;

    /// Ends the writing side; the peer reads to the end.
    ///
    /// # Errors
    ///
    /// `Closed`.
    fn shutdown_write(&mut self) -> Result<(), EnvError>;

    /// Makes it a value that another core of this node can [`Env::adopt`].
    fn detach(self) -> Moved;

    /// The other side's address.
    fn peer(&self) -> SocketAddr;
}

/// A listening socket.
pub trait Listener: 'static {
    /// What [`Listener::accept`] gives.
    type Stream: Stream;

    /// The address it is bound to.
    fn local(&self) -> SocketAddr;

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// (of the future) `Closed`, `Limit` (no file descriptors).
    fn accept(&self) -> impl Future<Output = Result<Self::Stream, EnvError>>;
}
