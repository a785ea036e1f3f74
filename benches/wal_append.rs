//! How long does a durable write of many records take, and what does staging one cost?
//!
//! `append/S/B`: B records of 256 bytes, spread over S shards in turn, are staged and waited for
//! until they are durable; throughput counts records. `stage/256`: the same without the wait, time
//! of `append` alone. The log lies in the build's temporary directory on the real disk, opened for
//! direct I/O; its oldest slots are freed as an engine would free them.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use bowline_env::glommio::GlommioFactory;
use bowline_env::{Bell, CoreOptions, Env, EnvFactory, Nanos};
use bowline_raft::{HardState, LogIndex, Lsn, ReplicaId, ShardId, Term};
use bowline_wal::{
    Geometry, LogStorage, NewBatch, OpenLog, Record, StageError, StreamId, Wal, WalLogs, WalOptions,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const VALUE: usize = 256;
const ID: StreamId = StreamId { cluster: 1, node: 1, stream: 0, streams: 1 };

fn logs() -> WalLogs {
    let geometry =
        Geometry { block: 4096, frame_cap: 1 << 20, slot_bytes: 16 << 20, log_bytes: 256 << 20 };
    WalLogs { geometry, options: WalOptions::default() }
}

/// Runs `main` on a core of its own and gives back what it measured.
fn on_core<F, T>(dir: &PathBuf, main: F) -> Duration
where
    F: FnOnce(<GlommioFactory as EnvFactory>::Env) -> T + Send + 'static,
    T: Future<Output = Nanos> + 'static,
{
    let (done, result) = mpsc::channel();
    let factory = GlommioFactory::new(dir);
    let cpu = factory.facts().cpus.last().copied().unwrap_or(0);
    let options = CoreOptions { cpu, cores: 1, direct_io: true, ..CoreOptions::default() };
    let core = factory
        .spawn_core(options, async move |env| {
            let span = main(env).await;
            done.send(span).expect("the bench waits");
        })
        .expect("a core starts");
    let span = result.recv().expect("the core answers");
    core.join().expect("the core ends");
    Duration::from_nanos(span.0)
}

struct Log<E: Env> {
    wal: Wal<E>,
    bell: Bell,
    shards: u64,
    next: u64,
}

impl<E: Env> Log<E> {
    async fn open(env: &E, shards: u64) -> Self {
        let bell = env.bell();
        let opened = logs().open(env, ID, bell.clone()).await;
        let (wal, _) = opened.expect("the log opens");
        let mut log = Self { wal, bell, shards, next: 0 };
        let hard = HardState { term: Term(1), ..HardState::default() };
        for shard in 0..shards {
            let id = ShardId(shard);
            if log.wal.bounds(id).is_none() {
                let open = Record::OpenShard { replica: ReplicaId(1) };
                let staged = log.wal.stage(id, &[open, Record::HardState(hard)]);
                staged.expect("the log has room");
            }
        }
        log
    }

    fn put(&mut self) -> Result<Lsn, StageError> {
        let shard = ShardId(self.next % self.shards);
        let bounds = self.wal.bounds(shard).expect("the shard is open");
        let new = NewBatch {
            shard,
            first: bounds.last.next(),
            term: Term(1),
            prev_term: bounds.last_term,
            count: 1,
            flags: 0,
        };
        let staged = self.wal.append(new, VALUE, |out| out.fill(7))?;
        self.next += 1;
        Ok(staged.lsn)
    }

    /// Stages `batch` records; the last one's number, and the time that it took.
    async fn stage(&mut self, env: &E, batch: u64) -> (Lsn, Nanos) {
        let (mut lsn, mut span) = (Lsn(0), Nanos(0));
        let mut done = 0;
        while done < batch {
            let start = env.now();
            let mut result = Ok(lsn);
            while done < batch && result.is_ok() {
                result = self.put();
                if let Ok(staged) = result {
                    lsn = staged;
                    done += 1;
                }
            }
            span = span.after(env.now().since(start));
            if result.is_err() {
                self.free();
                self.wal.submit();
                env.sleep_until(env.now().after(Nanos::from_micros(200))).await;
            }
        }
        (lsn, span)
    }

    async fn wait(&mut self, lsn: Lsn) {
        self.wal.submit();
        let wal = &self.wal;
        while wal.durable() < lsn {
            self.bell.park(|| wal.durable() < lsn).await;
        }
    }

    /// Lets go of what holds the oldest slot.
    fn free(&mut self) {
        let mut work = Vec::new();
        self.wal.gc(&mut work);
        for work in work {
            let bounds = self.wal.bounds(work.shard).expect("the shard is open");
            let index = LogIndex(work.upto.0.max(bounds.first.0 - 1));
            let Some(term) = self.wal.term_at(work.shard, index) else { continue };
            let manifest = Record::Manifest { index, term, body: b"bench" };
            let compact = Record::Compact { first: index.next(), prev_term: term };
            if self.wal.stage(work.shard, &[manifest, compact]).is_err() {
                return;
            }
        }
    }
}

/// Time of `iters` durable writes, or of the staging in them alone.
fn measure(dir: &PathBuf, shards: u64, batch: u64, iters: u64, staging_only: bool) -> Duration {
    on_core(dir, async move |env| {
        let mut log = Log::open(&env, shards).await;
        let mut total = Nanos(0);
        for round in 0..iters {
            let start = env.now();
            let (lsn, staging) = log.stage(&env, batch).await;
            log.wait(lsn).await;
            let span = if staging_only { staging } else { env.now().since(start) };
            total = total.after(span);
            if round % 16 == 0 {
                log.free();
            }
        }
        log.wal.close().await.expect("the log closes");
        total
    })
}

fn append(c: &mut Criterion) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = home.path().to_path_buf();
    std::fs::write(dir.join("NODE"), [1; 4096]).expect("a file that is not empty");
    on_core(&dir, async move |env| {
        logs().format(&env, ID).await.expect("the log is formatted");
        Nanos(0)
    });
    let mut group = c.benchmark_group("wal_append");
    group.sample_size(10);
    for shards in [1, 16, 256, 1000] {
        for batch in [1, 16, 64, 1024] {
            group.throughput(Throughput::Elements(batch));
            let id = BenchmarkId::new(format!("append/{shards}"), batch);
            group.bench_function(id, |b| {
                b.iter_custom(|iters| measure(&dir, shards, batch, iters, false));
            });
        }
    }
    group.throughput(Throughput::Elements(1024));
    group.bench_function("stage/256", |b| {
        b.iter_custom(|iters| measure(&dir, 1000, 1024, iters, true));
    });
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
