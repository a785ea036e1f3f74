//! What does it cost to order entries over three replicas, without disk and network?
//!
//! One iteration is: every shard takes `batch` proposals of one 24-byte entry each, they become
//! one batch a shard, go to two followers in the same thread, are durable on all three, commit and
//! are handed out to apply on the leader. All three replicas' work is in the figure. Throughput is
//! entries. Allocations per entry and bytes per idle shard are counted by `raft/tests/no_alloc.rs`.

#[path = "../raft/tests/kit/trio.rs"]
#[expect(unreachable_pub, reason = "shared with the tests of the crate")]
mod trio;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trio::Trio;

fn raft_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("raft_step");
    group.sample_size(10);
    for shards in [1_u32, 16, 1_000, 10_000, 100_000] {
        let mut trio = Trio::new(u64::from(shards));
        trio.elect();
        for batch in [1_u32, 16, 64] {
            let entries = u64::from(shards) * u64::from(batch);
            group.throughput(Throughput::Elements(entries));
            let id = BenchmarkId::new(format!("{shards}_shards"), format!("{batch}_entries"));
            // What was under way in the batch size before.
            assert!((0..4).map(|_| trio.pass(batch)).sum::<u64>() > 0, "it goes on");
            group.bench_function(id, |b| {
                b.iter(|| assert_eq!(trio.pass(batch), entries, "every shard commits its batch"));
            });
        }
        assert!(trio.commits() > 0, "something was committed");
        trio.rest();
    }
    group.finish();
}

criterion_group!(benches, raft_step);
criterion_main!(benches);
