#![expect(clippy::disallowed_types, reason = "the helper thread is started once a node")]
//! Starting cores, claiming the data directory, driving work off the cores.

use core::future::Future;
use core::task::{Context, Waker};
use core::time::Duration;
use std::any::Any;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Wake;
use std::thread::{self, Thread};

use ::glommio::io::DmaFile;
use ::glommio::timer::Timer;
use ::glommio::{LocalExecutorBuilder, Placement};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::dir::GlommioDir;
use super::env::GlommioEnv;
use super::helper::Helper;
use super::tick::TICK;
use super::{disk, errno, probe};
use crate::{
    Claim, ClaimError, Class, CoreFailure, CoreOptions, CoreThread, Env as _, EnvError, EnvFactory,
    Facts, Kind, Op, UringState,
};

/// The name of the file whose lock is the claim; it holds the claimant's process id.
const LOCK: &str = "LOCK";
/// A file that only exists where [`LOCK`] does not; no name of ours begins with a dot.
const PROBE: &str = ".probe";
/// How long a queue may run before the executor looks at its rings; work that runs longer
/// breathes. Below a millisecond glommio loses wakes: it parks with a task ready when the timer
/// fires in the wrong moment. Below the kernel's own tick (4 ms at 250 Hz) each turn of the
/// executor programs the CPU's timer twice, 8 us a turn in a virtual machine.
const PREEMPT: Duration = Duration::from_millis(5);
/// Bytes that must be lockable for any core to start.
const MEMLOCK_MIN: u64 = 512 << 10;
/// Memory that each of a core's three rings may pin.
const RING_MEMORY_MAX: u64 = 4 << 20;

const _: () = assert!(PREEMPT.as_millis() >= 1, "a shorter timer loses wakes");

/// Makes the cores of one node over one data directory.
#[derive(Clone, Debug)]
pub struct GlommioFactory {
    node: Arc<Node>,
}

#[derive(Debug)]
struct Node {
    data_dir: PathBuf,
    helper: Mutex<Option<Helper>>,
}

impl GlommioFactory {
    /// A node whose files lie in `data_dir`. Touches nothing.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let node = Node { data_dir: data_dir.into(), helper: Mutex::new(None) };
        Self { node: Arc::new(node) }
    }

    fn helper(&self) -> Result<Helper, EnvError> {
        let mut helper = self.node.helper.lock().unwrap_or_else(PoisonError::into_inner);
        match &*helper {
            Some(helper) => Ok(helper.clone()),
            None => Ok(helper.insert(Helper::start("bowline-helper")?).clone()),
        }
    }
}

impl EnvFactory for GlommioFactory {
    type Env = GlommioEnv;

    fn facts(&self) -> Facts {
        probe::facts(&self.node.data_dir)
    }

    fn claim(&self) -> Result<Claim, ClaimError> {
        claim(&self.node.data_dir).map(Claim::new)
    }

    fn spawn_core<F, T>(&self, options: CoreOptions, main: F) -> Result<CoreThread, EnvError>
    where
        F: FnOnce(GlommioEnv) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        // glommio panics without io_uring and exits the process when an operation is missing.
        match probe::uring() {
            UringState::Ready => {},
            UringState::Denied { os, .. } => {
                return Err(EnvError::new(Op::Spawn, Kind::Unsupported).os(os));
            },
            UringState::Missing | UringState::Old { .. } => {
                return Err(EnvError::new(Op::Spawn, Kind::Unsupported));
            },
        }
        // glommio checks this too, and tells it as an error of no kind.
        if getrlimit(Resource::Memlock).current.is_some_and(|limit| limit < MEMLOCK_MIN) {
            return Err(EnvError::new(Op::Spawn, Kind::NoMemory));
        }
        raise_open_files();
        let failed = |errno: Errno| errno::os(Op::Open, errno.raw_os_error());
        let root = disk::open_root(&self.node.data_dir).map_err(failed)?;
        let first = if options.direct_io { Some(first_file(&self.node.data_dir)?) } else { None };
        let seat = Seat { options, helper: self.helper()?, root: Arc::new(root), first };
        let (ready, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("bowline-core-{}", seat.options.core.0))
            .spawn(move || run(seat, &ready, main))
            .map_err(|error| errno::io(Op::Spawn, &error))?;
        match started.recv() {
            Ok(Ok(())) => Ok(CoreThread::new(move || thread.join().map_err(failure))),
            Ok(Err(error)) => {
                drop(thread.join());
                Err(error)
            },
            // The thread panicked before it was ready.
            Err(mpsc::RecvError) => Err(EnvError::new(Op::Spawn, Kind::Unsupported)),
        }
    }

    fn drive(
        &self,
        name: &'static str,
        job: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), EnvError> {
        match thread::Builder::new().name(name.to_owned()).spawn(move || block_on(job)) {
            Ok(_detached) => Ok(()),
            Err(error) => Err(errno::io(Op::Spawn, &error)),
        }
    }
}

/// What a core's thread starts from.
struct Seat {
    options: CoreOptions,
    helper: Helper,
    root: Arc<OwnedFd>,
    first: Option<PathBuf>,
}

/// The life of a core's thread.
fn run<F, T>(seat: Seat, ready: &mpsc::SyncSender<Result<(), EnvError>>, main: F)
where
    F: FnOnce(GlommioEnv) -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    let tell = |outcome| ready.send(outcome).expect("who starts a core waits for it");
    let cpu = usize::try_from(seat.options.cpu).expect("a CPU number fits");
    let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name("bowline")
        .io_memory(ring_memory(seat.options.cores))
        .preempt_timer(PREEMPT)
        .make();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => return tell(Err(errno::glommio(Op::Spawn, &error))),
    };
    executor.run(async move {
        if let Some(path) = &seat.first
            && let Err(error) = open_first(path).await
        {
            return tell(Err(error));
        }
        tell(Ok(()));
        // The first sleep of an executor is 30 to 50 ms late.
        Timer::new(TICK).await;
        let dir = GlommioDir::new(seat.root, seat.helper.clone(), seat.options.direct_io);
        let env = GlommioEnv::on_this_core(seat.options.core, dir, seat.helper);
        let pulse = env.pulse();
        let tick = ::glommio::spawn_local(async move { pulse.tick().await });
        let handle = env.clone();
        env.spawn(Class::Core, async move { main(handle).await }).await;
        tick.cancel().await;
        // Files that were dropped are closed by the rings: once to submit, once to reap.
        env.breathe().await;
        env.breathe().await;
    });
}

/// 75 % of what may be locked, divided by the rings of all cores.
fn ring_memory(cores: u16) -> usize {
    let rings = u64::from(cores.max(1)) * 3;
    let memory = match getrlimit(Resource::Memlock).current {
        Some(limit) => RING_MEMORY_MAX.min(limit / 4 * 3 / rings),
        None => RING_MEMORY_MAX,
    };
    usize::try_from(memory).expect("at most 4 MiB")
}

/// Each executor's life costs glommio one descriptor, and a core needs many: the soft limit goes
/// up to the hard one. A refusal shows as the limit that it leaves.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
}

/// A file of the data directory that is not empty: the claim's, or one made for this.
fn first_file(data_dir: &Path) -> Result<PathBuf, EnvError> {
    let lock = data_dir.join(LOCK);
    if std::fs::metadata(&lock).is_ok_and(|lock| lock.len() > 0) {
        return Ok(lock);
    }
    let probe = data_dir.join(PROBE);
    let failed = |error| errno::io(Op::Create, &error);
    let mut file = private().write(true).create(true).open(&probe).map_err(failed)?;
    file.write_all(&[0; crate::BLOCK]).map_err(failed)?;
    Ok(probe)
}

/// Opens the thread's first direct file. glommio finds out with a read of it whether the device
/// can be polled; an empty file answers yes for every device, and all later reads fail (I8).
async fn open_first(path: &Path) -> Result<(), EnvError> {
    let failed = |error| errno::glommio::<()>(Op::Open, &error);
    let file = DmaFile::open(path).await.map_err(failed)?;
    drop(::glommio::executor().io_stats());
    file.read_at_aligned(0, crate::BLOCK).await.map_err(failed)?;
    let polled = ::glommio::executor().io_stats().poll_ring.file_reads() != (0, 0);
    file.close().await.map_err(failed)?;
    if polled { Err(EnvError::new(Op::Open, Kind::Unsupported)) } else { Ok(()) }
}

fn failure(panic: Box<dyn Any + Send>) -> CoreFailure {
    let message = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(text) => (*text).to_owned(),
            Err(_other) => "the core panicked".to_owned(),
        },
    };
    CoreFailure { message }
}

/// Options of a file of ours: mode 0600, no link followed.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}

fn claim(data_dir: &Path) -> Result<File, ClaimError> {
    let refused = |error: std::io::Error| match error.raw_os_error() {
        Some(libc::ENOTDIR | libc::EEXIST) => ClaimError::NotADirectory,
        os => ClaimError::NotWritable { os: os.unwrap_or(libc::EIO) },
    };
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(refused)?;
    let mut file = private()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(data_dir.join(LOCK))
        .map_err(refused)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {},
        Err(Errno::WOULDBLOCK) => return Err(ClaimError::InUse { holder: holder(&mut file) }),
        Err(errno) => return Err(ClaimError::NotWritable { os: errno.raw_os_error() }),
    }
    file.set_len(0).map_err(refused)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(refused)?;
    Ok(file)
}

/// The process that holds the lock and its command, as far as they can be seen.
fn holder(file: &mut File) -> Option<(u32, String)> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let pid = text.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some((pid, command.trim().to_owned()))
}

/// Wakes a thread that drives a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on(job: impl Future<Output = ()>) {
    let mut job = core::pin::pin!(job);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    while job.as_mut().poll(&mut cx).is_pending() {
        thread::park();
    }
}
