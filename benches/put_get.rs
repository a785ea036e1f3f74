//! What does a put or a get cost through the facade, on a real disk?
//!
//! One core, one shard, keys of 16 bytes, values of 256. `thread/1` waits for each operation,
//! `thread/64` keeps 64 on their way; `core/n` runs on the shard's core and so crosses no thread.
//! Puts are synced. Gets are of 4,096 keys in memory and linearizable, but where named otherwise.
//! Throughput is operations. `leader` is the two questions that a handler asks before it serves.

#[path = "kit/engine.rs"]
#[expect(unreachable_pub, reason = "the toolbox of a bench")]
mod engine;

use std::hint::black_box;
use std::time::Duration;

use bowline::{Consistency, EmbeddedClient, EmbeddedEngine, LocalShard, Shard, ShardId};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const KEYS: u64 = 4_096;
const VALUE: [u8; 256] = [7; 256];
/// Operations of one closure on a core.
const ON_CORE: u64 = 1_024;

fn key(number: u64) -> String {
    format!("key:{:012}", number % KEYS)
}

struct Bench {
    engine: EmbeddedEngine,
    kv: EmbeddedClient,
    shard: Shard,
    _dir: TempDir,
}

fn start() -> Bench {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the directory can be made");
    let engine = engine::start(&dir.path().join("data"), 1, 512);
    engine.wait_ready(Duration::from_secs(30)).wait().expect("one node leads itself");
    let kv = engine.client();
    let filled = kv.put_many((0..KEYS).map(|n| (key(n), VALUE))).wait().expect("filled");
    assert!(filled.iter().all(Result::is_ok), "every key was put");
    let shard = engine.shard(ShardId(0)).expect("there is one shard");
    Bench { engine, kv, shard, _dir: dir }
}

async fn put_on_core(local: LocalShard, puts: u64, count: u64) {
    for round in 0..puts / count {
        let keys = round * count..(round + 1) * count;
        let ops: Vec<_> = keys.map(|n| local.put(key(n), VALUE)).collect();
        for op in ops {
            op.await.expect("put");
        }
    }
}

async fn get_on_core(local: LocalShard, consistency: Consistency) {
    let keys: Vec<_> = (0..64).map(key).collect();
    for _ in 0..ON_CORE / 64 {
        for key in &keys {
            black_box(local.get_with_consistency(key, consistency).await.expect("get"));
        }
    }
}

fn puts(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let mut next = 0;
    for count in [1_u64, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("put/thread/{count}"), |b| {
            b.iter(|| {
                let keys = next..next + count;
                next += count;
                let ops: Vec<_> = keys.map(|n| bench.kv.put(key(n), VALUE)).collect();
                for op in ops {
                    op.wait().expect("put");
                }
            });
        });
        let puts = count * 16;
        group.throughput(Throughput::Elements(puts));
        group.bench_function(format!("put/core/{count}"), |b| {
            b.iter(|| {
                let done = bench.shard.run_local(move |local| put_on_core(local, puts, count));
                done.wait().expect("on the core");
            });
        });
    }
}

fn gets(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let mut next = 0;
    for count in [1_u64, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("get/thread/{count}"), |b| {
            b.iter(|| {
                let keys = next..next + count;
                next += count;
                let ops: Vec<_> = keys.map(|n| bench.kv.get(key(n))).collect();
                for op in ops {
                    black_box(op.wait().expect("get"));
                }
            });
        });
    }
    for (name, consistency) in
        [("linearizable", Consistency::Linearizable), ("eventual", Consistency::Eventual)]
    {
        group.throughput(Throughput::Elements(ON_CORE));
        group.bench_function(format!("get/core/{name}"), |b| {
            b.iter(|| {
                let done = bench.shard.run_local(move |local| get_on_core(local, consistency));
                done.wait().expect("on the core");
            });
        });
    }
}

fn facade(criterion: &mut Criterion) {
    let bench = start();
    let mut group = criterion.benchmark_group("put_get");
    group.sample_size(20);
    puts(&mut group, &bench);
    gets(&mut group, &bench);
    group.throughput(Throughput::Elements(1));
    group.bench_function("leader/is_leader", |b| b.iter(|| bench.engine.is_leader()));
    group.bench_function("leader/is_leader_of", |b| {
        b.iter(|| bench.engine.is_leader_of(black_box(b"key:000000000001")));
    });
    group.finish();
    bench.engine.stop().wait().expect("the engine stops");
}

criterion_group!(benches, facade);
criterion_main!(benches);
