//! What does it cost to apply an entry and to read a key, without disk?
//!
//! Keys are 16 bytes with a shared prefix, in random order; values are 256 bytes. `put_new` fills
//! a delta with 65,536 entries (about 18 MiB) or 262,144 (about 72 MiB), `put_again` overwrites
//! them; `btreemap` is the same work on the standard map as the probe to compare with. Reads are
//! of a delta of 262,144 keys and of 4 resident sections of 65,536 keys each. Throughput is
//! entries, keys or items.

use std::collections::BTreeMap;
use std::hint::black_box;

use bowline_env::Nanos;
use bowline_env::sim::{Profile, SimEnv, World};
use bowline_statemachine::envelope::{self, ENVELOPE_LEN, Head};
use bowline_statemachine::kv::ScanQuery;
use bowline_statemachine::kv::command::{self as wire, KV_VERSION};
use bowline_statemachine::kv::encode::{self, Expect, Op, Ttl};
use bowline_statemachine::store::{Pins, Store, StoreOptions};
use bowline_statemachine::{
    Answer, AsOf, EntryRef, Kv, Limits, Machine, Output, Pressure, Query, Read,
};
use bytes::{Bytes, BytesMut};
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use rkyv::util::AlignedVec;

const KEYS: u64 = 262_144;
const FEW: u64 = 65_536;
const VALUE: [u8; 256] = [7; 256];
const LIMIT: Nanos = Nanos(u64::MAX / 2);

type Payload = AlignedVec<16>;

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let digits = format!("{number:012}");
    key[4..].copy_from_slice(digits.as_bytes());
    key
}

/// Numbers below a power of two, each once, in an order without pattern.
fn shuffled(count: u64) -> impl Iterator<Item = u64> + Clone {
    let mut state = 1_u64;
    (0..count).map(move |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1) & (count - 1);
        (state ^ (state >> 3)) & (count - 1)
    })
}

fn payload(kind: u8, write: impl FnOnce(&mut BytesMut)) -> Payload {
    let mut body = BytesMut::new();
    write(&mut body);
    let mut out = Payload::with_capacity(ENVELOPE_LEN + body.len());
    out.extend_from_slice(&[0; ENVELOPE_LEN]);
    let body_len = u32::try_from(body.len()).expect("a body is small");
    envelope::encode(&mut out, 1, Head { kind, flags: 0, ver: KV_VERSION }, body_len);
    out.extend_from_slice(&body);
    out
}

fn put(number: u64) -> Payload {
    payload(wire::KIND_PUT, |out| encode::put(out, &key(number), &VALUE, Ttl::None, false))
}

struct Bench {
    kv: Kv<SimEnv>,
    out: Vec<Output>,
    pins: Pins,
}

impl Bench {
    fn apply(&mut self, payload: &[u8]) {
        let index = Machine::<SimEnv>::applied(&self.kv) + 1;
        self.kv.apply(EntryRef { index, term: 1, payload }, &self.pins, &mut self.out);
    }

    fn apply_all(&mut self, payloads: &[Payload]) {
        for payload in payloads {
            self.apply(payload);
            if self.out.len() == 256 {
                self.out.clear();
            }
        }
    }

    fn read(&self, query: &Query) -> Answer {
        match self.kv.read(query, &self.pins) {
            Read::Ready(answer) => answer,
            other @ (Read::Cold(_) | Read::Damaged(_)) => {
                unreachable!("everything is in memory: {other:?}")
            },
        }
    }
}

/// A shard whose entries are flushed in `sections` equal parts.
fn shard(world: &World, payloads: &[Payload], sections: usize) -> Bench {
    let payloads: Vec<Payload> = payloads.to_vec();
    let main = async move |env| {
        let options = StoreOptions {
            rate: 0,
            rate_max: 0,
            delta_bytes: 1 << 40,
            resident_bytes: 1 << 40,
            ..StoreOptions::default()
        };
        let store = Store::new(env, options);
        store.prepare().await.expect("a calm disk");
        let kv = Kv::open(&store, 1, None).await.expect("nothing to open");
        let mut bench = Bench { kv, out: Vec::with_capacity(256), pins: Pins::new() };
        let part = payloads.len().checked_div(sections).unwrap_or(usize::MAX);
        for payloads in payloads.chunks(part) {
            bench.apply_all(payloads);
            if sections > 0 {
                let job = bench
                    .kv
                    .next_job(Pressure::Flush, &AsOf { term: 1, version: 1, conf: Bytes::new() });
                let done = job.expect("a flush is due").run().await.expect("a calm disk");
                assert!(bench.kv.manifest_after(&done).is_some(), "the job is current");
                bench.kv.publish(done);
            }
        }
        bench
    };
    world.run_on(1, LIMIT, main).expect("a calm world")
}

fn fresh(world: &World) -> Bench {
    shard(world, &[], 0)
}

fn writes(c: &mut Criterion) {
    for count in [FEW, KEYS] {
        let mut group = c.benchmark_group(format!("apply/{count}"));
        group.sample_size(10).throughput(Throughput::Elements(count));
        let world = World::new(1, Profile::calm());
        let payloads: Vec<_> = shuffled(count).map(put).collect();
        group.bench_function("put_new", |b| {
            let run = |mut bench: Bench| {
                bench.apply_all(&payloads);
                bench
            };
            b.iter_batched(|| fresh(&world), run, BatchSize::PerIteration);
        });
        let mut bench = shard(&world, &payloads, 0);
        group.bench_function("put_again", |b| {
            // The arena grows with each round; a round is as long as a delta lives.
            b.iter_batched_ref(
                || shard(&world, &payloads, 0),
                |bench| bench.apply_all(&payloads),
                BatchSize::PerIteration,
            );
        });
        batches(&mut group, &mut bench, count);
        group.bench_function("btreemap_put_new", |b| {
            b.iter(|| {
                let mut map = BTreeMap::new();
                for number in shuffled(count) {
                    map.insert(
                        Bytes::copy_from_slice(&key(number)),
                        Bytes::copy_from_slice(&VALUE),
                    );
                }
                map
            });
        });
        group.finish();
    }
}

/// Entries that look at the state first, on a filled delta.
fn batches(group: &mut BenchmarkGroup<'_, WallTime>, bench: &mut Bench, count: u64) {
    let mut numbers = shuffled(count).cycle();
    let mut next = || numbers.next().expect("a cycle has no end");
    let increments: Vec<_> = (0..=255_u8)
        .map(|number| {
            payload(wire::KIND_INCREMENT, |out| {
                encode::increment(out, &[b'n', number], 1, Ttl::Keep);
            })
        })
        .collect();
    group.throughput(Throughput::Elements(256));
    group.bench_function("increment", |b| b.iter(|| bench.apply_all(&increments)));
    let cas: Vec<_> = (0..=255_u8)
        .map(|_| {
            let key = key(next());
            let write = |out: &mut BytesMut| {
                encode::cas(out, &key, Expect::Value(&VALUE), Some(&VALUE), Ttl::None);
            };
            payload(wire::KIND_CAS, write)
        })
        .collect();
    group.bench_function("cas", |b| b.iter(|| bench.apply_all(&cas)));
    let batches: Vec<_> = (0..16)
        .map(|_| {
            let keys: Vec<_> = (0..16).map(|_| key(next())).collect();
            let put = |key| Op::Put { key, value: &VALUE, ttl: Ttl::None, prev: false };
            let ops: Vec<_> = keys.iter().map(|key| put(&key[..])).collect();
            payload(wire::KIND_BATCH, |out| encode::batch(out, &[], &ops, false))
        })
        .collect();
    group.bench_function("batch_of_16", |b| b.iter(|| bench.apply_all(&batches)));
}

fn reads(c: &mut Criterion) {
    let world = World::new(1, Profile::calm());
    let payloads: Vec<_> = shuffled(KEYS).map(put).collect();
    for (name, sections) in [("delta", 0), ("4_sections", 4)] {
        let bench = shard(&world, &payloads, sections);
        let mut group = c.benchmark_group(format!("read/{name}"));
        let gets: Vec<_> = shuffled(KEYS)
            .map(|number| Query::Get(Bytes::copy_from_slice(&key(number ^ 0x155))))
            .collect();
        let mut gets = gets.iter().cycle();
        group.throughput(Throughput::Elements(1));
        group.bench_function("get", |b| {
            b.iter(|| bench.read(gets.next().expect("a cycle has no end")));
        });
        let absent: Vec<_> = shuffled(KEYS)
            .map(|number| Query::Get(Bytes::copy_from_slice(&key(number + KEYS))))
            .collect();
        let mut absent = absent.iter().cycle();
        group.bench_function("get_absent", |b| {
            b.iter(|| bench.read(absent.next().expect("a cycle has no end")));
        });
        let keys: Vec<_> =
            shuffled(KEYS).take(64).map(|number| Bytes::copy_from_slice(&key(number))).collect();
        let multi = Query::MultiGet(keys.into());
        group.throughput(Throughput::Elements(64));
        group.bench_function("multi_get_64", |b| b.iter(|| bench.read(&multi)));
        group.throughput(Throughput::Elements(1_000));
        let scan = Query::Scan(Box::default());
        group.bench_function("scan_1000", |b| b.iter(|| bench.read(&scan)));
        let count = ScanQuery { count_only: true, ..ScanQuery::default() };
        let count = Query::Scan(Box::new(count));
        group.bench_function("count_1000", |b| b.iter(|| bench.read(&count)));
        group.finish();
    }
}

/// What a caller's thread and the leader's core do before the log.
fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    group.throughput(Throughput::Elements(1));
    let key = key(77);
    let mut out = BytesMut::with_capacity(64 << 10);
    group.bench_function("encode_put", |b| {
        b.iter(|| {
            out.clear();
            encode::put(&mut out, black_box(&key), black_box(&VALUE), Ttl::None, false);
        });
    });
    let aligned = put(77);
    let limits = Limits::default();
    let admit = |body: &[u8]| <Kv<SimEnv> as Machine<SimEnv>>::admit(wire::KIND_PUT, body, &limits);
    group.bench_function("admit_put", |b| b.iter(|| admit(black_box(&aligned[ENVELOPE_LEN..]))));
    let mut moved = Payload::new();
    moved.extend_from_slice(&[0]);
    moved.extend_from_slice(&aligned[ENVELOPE_LEN..]);
    group.bench_function("admit_put_unaligned", |b| b.iter(|| admit(black_box(&moved[1..]))));
    group.finish();
}

criterion_group!(benches, commands, writes, reads);
criterion_main!(benches);
