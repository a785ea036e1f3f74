//! What the machine gives without bowline: the disk's own speed, measured the way the log writes.
//!
//! A durable put cannot be faster than the disk. So every figure of ours is stated as a ratio to
//! this probe, taken in the same run on the same core and the same file system:
//!
//! ```text
//! write + sync   one 4 KiB direct write at a time, into blocks written before, durable each
//! pipe           64 KiB writes, 2 and 4 of them in flight, all durable
//! ```
//!
//! Each is done in the two ways that a log has (`O_DSYNC`, and a write followed by `fdatasync`),
//! in turns, because a shared disk drifts. Both are reported; the better one is what counts.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use bowline_env::glommio::GlommioFactory;
use bowline_env::{
    BLOCK, Class, CoreNo, CoreOptions, Dir, Env, EnvError, EnvFactory, File, Kind, Mode, Name, Op,
    SharedBuf,
};
use tokio::sync::oneshot;

use crate::ticket::{Reply, issue};
use crate::{Code, Error, Finding};

pub use bowline_env::{DirFacts, Facts, FileSystem, UringState};

/// Bytes of the file that is written again and again.
const REGION: u64 = 32 << 20;
/// Bytes of a write of the pipe.
const PIPE_WRITE: usize = 64 << 10;
/// Writes in flight that are tried.
const DEPTHS: [u64; 2] = [2, 4];
/// Lone writes before the other way has its turn.
const TURN: u32 = 50;

const _: () = assert!(REGION.is_multiple_of(64 << 10), "the region is whole writes of the pipe");
const _: () = assert!(PIPE_WRITE.is_multiple_of(BLOCK), "direct writes are whole blocks");

/// How much is measured, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeOptions {
    /// The CPU to run on; the first allowed one if none is named.
    pub cpu: Option<u32>,
    /// Lone writes of each way.
    pub writes: u32,
    /// Bytes through the pipe for each way and depth; 0: no pipe.
    pub pipe_bytes: u64,
    /// Direct I/O, as the engine does it. Off only where the file system has none.
    pub direct_io: bool,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { cpu: None, writes: 500, pipe_bytes: 32 << 20, direct_io: true }
    }
}

impl ProbeOptions {
    /// The same on another CPU.
    #[must_use]
    pub const fn on_cpu(mut self, cpu: u32) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// The same with another number of lone writes.
    #[must_use]
    pub const fn with_writes(mut self, writes: u32) -> Self {
        self.writes = writes;
        self
    }

    /// The same with another length of the pipe.
    #[must_use]
    pub const fn with_pipe_bytes(mut self, bytes: u64) -> Self {
        self.pipe_bytes = bytes;
        self
    }

    /// The same with or without direct I/O.
    #[must_use]
    pub const fn with_direct_io(mut self, direct_io: bool) -> Self {
        self.direct_io = direct_io;
        self
    }
}

/// One way of making writes durable.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct WayProbe {
    /// Half of the lone writes were durable in this time.
    pub write_sync_p50: Duration,
    /// 99 % of them.
    pub write_sync_p99: Duration,
    /// All of them.
    pub write_sync_max: Duration,
    /// MiB a second through the pipe, at the better depth.
    pub pipe_mib_per_s: f64,
    /// That depth.
    pub pipe_depth: u64,
}

/// What the disk gives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct DiskProbe {
    /// The CPU it was measured on.
    pub cpu: u32,
    /// The lower of both ways.
    pub write_sync_p50: Duration,
    /// The one of that way.
    pub write_sync_p99: Duration,
    /// The higher of both ways.
    pub pipe_mib_per_s: f64,
    /// Files opened with `O_DSYNC`.
    pub dsync: WayProbe,
    /// Each write followed by `fdatasync`; in the pipe, all writes in flight by one.
    pub fdatasync: WayProbe,
}

/// What this process may use of the machine, with `dir` as its data directory.
pub fn facts(dir: &Path) -> Facts {
    GlommioFactory::new(dir).facts()
}

/// Measures the disk under `dir`, a directory that exists. Takes a second or two, of which it is
/// busy on one CPU, and 32 MiB of space; the file it writes is removed.
pub fn disk(dir: &Path, options: ProbeOptions) -> crate::Op<DiskProbe> {
    let factory = GlommioFactory::new(dir);
    let cpu = options.cpu.or_else(|| factory.facts().cpus.first().copied());
    measured_on(factory, cpu.unwrap_or(0), options)
}

/// The same on any machine, the simulated one too.
fn measured_on<F: EnvFactory>(factory: F, cpu: u32, options: ProbeOptions) -> crate::Op<DiskProbe> {
    let (waiter, ticket) = issue();
    let driver = factory.clone();
    let job = async move {
        let result = on_a_core(&factory, cpu, options).await;
        ticket.complete_now(result.map(|probe| Reply::Any(Box::new(probe))));
    };
    match driver.drive("bowline-probe", job) {
        Ok(()) => crate::Op::waiting(waiter, crate::Op::unbox),
        Err(error) => crate::Op::failed(failed(&error)),
    }
}

async fn on_a_core<F: EnvFactory>(
    factory: &F,
    cpu: u32,
    options: ProbeOptions,
) -> Result<DiskProbe, Error> {
    let core = CoreOptions { core: CoreNo(0), cpu, cores: 1, direct_io: options.direct_io };
    let (tell, told) = oneshot::channel();
    let main = async move |env: F::Env| {
        // Nobody is left to be told only if the driver's thread is gone.
        drop(tell.send(in_a_file(&env, cpu, options).await));
    };
    let thread = factory.spawn_core(core, main).map_err(|error| failed(&error))?;
    let result = told.await;
    match (thread.join(), result) {
        (Ok(()), Ok(result)) => result.map_err(|error| failed(&error)),
        (Err(failure), _) => Err(ended(&failure.message)),
        (Ok(()), Err(_closed)) => Err(ended("it said nothing")),
    }
}

fn failed(error: &EnvError) -> Error {
    let (code, environment) = match (error.op, error.kind) {
        (Op::Spawn, Kind::Unsupported) => (Code::URING_DENIED, true),
        (Op::Spawn, _) => (Code::CORE_PANIC, true),
        (_, Kind::NoSpace) => (Code::DISK_FULL, false),
        (_, Kind::Unsupported) => (Code::DIRECT_IO, false),
        _ => (Code::DIR_UNUSABLE, false),
    };
    let finding = Arc::new(Finding::error(code, format!("the disk probe failed: {error}")));
    if environment { Error::Environment(finding) } else { Error::DataDir(finding) }
}

fn ended(why: &str) -> Error {
    let what = format!("the disk probe ended: {why}");
    Error::Environment(Arc::new(Finding::error(Code::CORE_PANIC, what)))
}

async fn in_a_file<E: Env>(
    env: &E,
    cpu: u32,
    options: ProbeOptions,
) -> Result<DiskProbe, EnvError> {
    let mut chance = [0; 8];
    env.fill_random(&mut chance);
    let name = Name::of(&format!("probe-{:016x}.tmp", u64::from_le_bytes(chance)));
    env.dir().create_filled(&name, REGION, 0).await?;
    let measured = both_ways(env, &name, options).await;
    let removed = env.dir().remove(&name).await;
    let (dsync, fdatasync) = measured?;
    removed?;
    let better = if dsync.write_sync_p50 <= fdatasync.write_sync_p50 { dsync } else { fdatasync };
    Ok(DiskProbe {
        cpu,
        write_sync_p50: better.write_sync_p50,
        write_sync_p99: better.write_sync_p99,
        pipe_mib_per_s: dsync.pipe_mib_per_s.max(fdatasync.pipe_mib_per_s),
        dsync,
        fdatasync,
    })
}

async fn both_ways<E: Env>(
    env: &E,
    name: &Name,
    options: ProbeOptions,
) -> Result<(WayProbe, WayProbe), EnvError> {
    let mut dsync = Way::open(env, name, Mode::WriteSynced).await?;
    let mut fdatasync = Way::open(env, name, Mode::Write).await?;
    let mut left = options.writes;
    while left > 0 {
        let turn = left.min(TURN);
        dsync.lone_writes(env, turn).await?;
        fdatasync.lone_writes(env, turn).await?;
        left -= turn;
    }
    if options.pipe_bytes > 0 {
        for depth in DEPTHS {
            dsync.pipe(env, depth, options.pipe_bytes).await?;
            fdatasync.pipe(env, depth, options.pipe_bytes).await?;
        }
    }
    let both = (dsync.result(), fdatasync.result());
    dsync.file.close().await?;
    fdatasync.file.close().await?;
    Ok(both)
}

/// One way, its file and what it took so far.
struct Way<F> {
    file: F,
    block: SharedBuf,
    large: SharedBuf,
    /// An `fdatasync` follows each write.
    syncs: bool,
    at: u64,
    nanos: Vec<u64>,
    mib_per_s: f64,
    depth: u64,
}

impl<F: File> Way<F> {
    async fn open<E>(env: &E, name: &Name, mode: Mode) -> Result<Self, EnvError>
    where
        E: Env<File = F>,
        E::Dir: Dir<File = F>,
    {
        let file = env.dir().open(name, mode).await?;
        let block = noise(env, BLOCK.max(file.block()))?;
        let large = noise(env, PIPE_WRITE.max(file.block()))?;
        let (syncs, nanos) = (mode != Mode::WriteSynced, Vec::new());
        Ok(Self { file, block, large, syncs, at: 0, nanos, mib_per_s: 0.0, depth: 0 })
    }

    /// `count` writes of a block, each durable before the next.
    async fn lone_writes<E: Env>(&mut self, env: &E, count: u32) -> Result<(), EnvError> {
        for _ in 0..count {
            let at = self.next(self.block.len());
            let began = env.now();
            self.file.write_at(self.block.clone(), at).await?;
            if self.syncs {
                self.file.sync().await?;
            }
            self.nanos.push(env.now().since(began).0);
        }
        Ok(())
    }

    /// `bytes` in large writes, `depth` of them in flight.
    async fn pipe<E>(&mut self, env: &E, depth: u64, bytes: u64) -> Result<(), EnvError>
    where
        E: Env<File = F>,
    {
        let len = u64::try_from(self.large.len()).expect("a buffer fits 64 bits");
        let rounds = bytes.div_ceil(len * depth);
        let began = env.now();
        if self.syncs {
            for _ in 0..rounds {
                self.one_group(env, depth).await?;
            }
        } else {
            self.lines(env, depth, rounds).await?;
        }
        let took = Duration::from_nanos(env.now().since(began).0).as_secs_f64();
        let mib = u32::try_from((rounds * len * depth) >> 10).map_or(0.0, f64::from) / 1024.0;
        let rate = if took > 0.0 { mib / took } else { 0.0 };
        if rate > self.mib_per_s {
            (self.mib_per_s, self.depth) = (rate, depth);
        }
        Ok(())
    }

    /// `depth` writes at once, then one sync for all.
    async fn one_group<E: Env>(&mut self, env: &E, depth: u64) -> Result<(), EnvError> {
        let mut flight = Vec::new();
        for _ in 0..depth {
            let at = self.next(self.large.len());
            flight.push(env.spawn(Class::Core, self.file.write_at(self.large.clone(), at)));
        }
        for write in flight {
            write.await?;
        }
        self.file.sync().await
    }

    /// `depth` lines of synced writes, each with one in flight.
    async fn lines<E>(&self, env: &E, depth: u64, rounds: u64) -> Result<(), EnvError>
    where
        E: Env<File = F>,
    {
        let mut lines = Vec::new();
        let len = u64::try_from(self.large.len()).expect("a buffer fits 64 bits");
        for line in 0..depth {
            let (file, large) = (self.file.clone(), self.large.clone());
            lines.push(env.spawn(Class::Core, async move {
                for round in 0..rounds {
                    let at = (round * depth + line) * len % REGION;
                    file.write_at(large.clone(), at).await?;
                }
                Ok::<(), EnvError>(())
            }));
        }
        for line in lines {
            line.await?;
        }
        Ok(())
    }

    /// Where the next write goes: ever onwards, and round again.
    fn next(&mut self, len: usize) -> u64 {
        let len = u64::try_from(len).expect("a buffer fits 64 bits");
        let at = if self.at + len <= REGION { self.at } else { 0 };
        self.at = at + len;
        at
    }

    fn result(&mut self) -> WayProbe {
        self.nanos.sort_unstable();
        let at = |percent: usize| {
            let place = (self.nanos.len() * percent / 100).min(self.nanos.len().saturating_sub(1));
            Duration::from_nanos(self.nanos.get(place).copied().unwrap_or_default())
        };
        WayProbe {
            write_sync_p50: at(50),
            write_sync_p99: at(99),
            write_sync_max: at(100),
            pipe_mib_per_s: self.mib_per_s,
            pipe_depth: self.depth,
        }
    }
}

/// A whole buffer that no disk compresses.
fn noise<E: Env>(env: &E, len: usize) -> Result<SharedBuf, EnvError> {
    let mut buf = env.buffer(len)?;
    let capacity = buf.capacity();
    env.fill_random(buf.rest_mut());
    buf.fill(capacity);
    Ok(buf.freeze(capacity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn few() -> ProbeOptions {
        ProbeOptions::default().with_writes(60).with_pipe_bytes(1 << 20)
    }

    #[test]
    fn the_probe_measures_both_ways_and_removes_its_file() {
        let dir = tempfile::tempdir_in(".").expect("a directory on the disk");
        let probe = disk(dir.path(), few()).wait().expect("a disk");
        for way in [probe.dsync, probe.fdatasync] {
            assert!(way.write_sync_p50 > Duration::ZERO, "{probe:?}");
            assert!(way.write_sync_p50 <= way.write_sync_p99, "{probe:?}");
            assert!(way.write_sync_p99 <= way.write_sync_max, "{probe:?}");
            assert!(way.pipe_mib_per_s > 0.0, "{probe:?}");
            assert!(DEPTHS.contains(&way.pipe_depth), "{probe:?}");
            assert!(probe.write_sync_p50 <= way.write_sync_p50, "{probe:?}");
            assert!(probe.pipe_mib_per_s >= way.pipe_mib_per_s, "{probe:?}");
        }
        let left = std::fs::read_dir(dir.path()).expect("it is there");
        let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| name == ".probe"), "{left:?}");
    }

    #[test]
    fn a_missing_directory_is_an_error_of_the_directory() {
        let dir = tempfile::tempdir_in(".").expect("a directory on the disk");
        let error = disk(&dir.path().join("nowhere"), few()).wait().expect_err("no directory");
        assert_eq!(error.code(), Code::DIR_UNUSABLE, "{error}");
    }
}
