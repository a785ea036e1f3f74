//! How long does opening a log take, by what lives in it?
//!
//! `open/S`: a log of S shards with 64 MiB of live batches of 1 KiB is opened: every live byte is
//! read and verified, the boot is on record. Throughput is live bytes. The files lie in the build's
//! temporary directory; reads are direct.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use bowline_env::glommio::GlommioFactory;
use bowline_env::{CoreOptions, Env, EnvFactory, Nanos};
use bowline_raft::{HardState, ReplicaId, ShardId, Term};
use bowline_wal::{
    Geometry, LogStorage, NewBatch, OpenLog, Record, StageError, StreamId, Wal, WalLogs, WalOptions,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const LIVE: u64 = 64 << 20;
const VALUE: usize = 1024;
const ID: StreamId = StreamId { cluster: 1, node: 1, stream: 0, streams: 1 };

fn logs() -> WalLogs {
    WalLogs { geometry: Geometry::default(), options: WalOptions::default() }
}

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

/// Appends to every shard in turn until `LIVE` bytes are in the log.
async fn fill<E: Env>(env: &E, wal: &mut Wal<E>, shards: u64) {
    let hard = HardState { term: Term(1), ..HardState::default() };
    for shard in 0..shards {
        let open = Record::OpenShard { replica: ReplicaId(1) };
        let records = [open, Record::HardState(hard)];
        while wal.stage(ShardId(shard), &records) == Err(StageError::Busy) {
            wal.submit();
            env.sleep_until(env.now().after(Nanos::MILLI)).await;
        }
    }
    let mut done = 0;
    while done < LIVE {
        let shard = ShardId(done / 1024 % shards);
        let bounds = wal.bounds(shard).expect("the shard is open");
        let new = NewBatch {
            shard,
            first: bounds.last.next(),
            term: Term(1),
            prev_term: bounds.last_term,
            count: 1,
            flags: 0,
        };
        match wal.append(new, VALUE, |out| out.fill(7)) {
            Ok(_) => done += 1024,
            Err(StageError::Busy) => {
                wal.submit();
                env.sleep_until(env.now().after(Nanos::MILLI)).await;
            },
            Err(error) => unreachable!("the log has room: {error}"),
        }
    }
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal_recover");
    group.sample_size(10);
    for shards in [1, 1000, 10_000] {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let dir = home.path().to_path_buf();
        std::fs::write(dir.join("NODE"), [1; 4096]).expect("a file that is not empty");
        on_core(&dir, async move |env| {
            logs().format(&env, ID).await.expect("the log is formatted");
            let (mut wal, _) = logs().open(&env, ID, env.bell()).await.expect("it opens");
            fill(&env, &mut wal, shards).await;
            wal.close().await.expect("it closes");
            Nanos(0)
        });
        group.throughput(Throughput::Bytes(LIVE));
        group.bench_function(BenchmarkId::new("open", shards), |b| {
            b.iter_custom(|iters| on_core(&dir, async move |env| reopen(&env, iters).await));
        });
    }
    group.finish();
}

/// Time of `iters` opens.
async fn reopen<E: Env>(env: &E, iters: u64) -> Nanos {
    let mut total = Nanos(0);
    for _ in 0..iters {
        let start = env.now();
        let (wal, found) = logs().open(env, ID, env.bell()).await.expect("it opens");
        total = total.after(env.now().since(start));
        assert!(found.report.corrupt_frames == 0, "nothing is bad");
        wal.close().await.expect("it closes");
    }
    total
}

criterion_group!(benches, open);
criterion_main!(benches);
