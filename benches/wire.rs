//! What does a frame of appends cost to build, and to verify and convert?
//!
//! One iteration is one frame with `n` Append messages of one batch each (one entry of 256 bytes).
//! Building leaves the bodies where they are, as the send path does; reading verifies the frame,
//! validates the archive and converts every message. Batch checksums are not part of it: they are
//! verified on the copy that is staged. Throughput is messages.

use bowline_net::{Expected, Frame, FrameHeader, Msgs, MsgsWriter, Stamp};
use bowline_raft::{
    BatchHeader, BatchRange, Hint, LogIndex, Message, ReplicaId, ShardId, Slot, Term, What, batch,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rkyv::util::AlignedVec;
use std::hint::black_box;

const FRAME_MAX: u32 = 1_088 << 10;
const STAMP: Stamp = Stamp { seq: 1, consumed: 7, sent_at: 9 };

fn append(shard: u64) -> Message {
    Message {
        shard: ShardId(shard),
        to: ReplicaId(2),
        from: ReplicaId(1),
        term: Term(3),
        hint: Hint { to_slot: Slot(4), to_generation: 1, ..Hint::default() },
        support: 1,
        seq: 5,
        what: What::Append {
            prev: LogIndex(10),
            prev_term: Term(3),
            commit: LogIndex(9),
            read_seq: 0,
            batches: BatchRange::default(),
        },
    }
}

fn build(writer: &mut MsgsWriter, heads: &[BatchHeader]) {
    for head in heads {
        let one = core::slice::from_ref(head);
        writer.push(&append(head.shard.0), one).expect("it fits");
    }
}

fn wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    let body = vec![0x5a; batch::body_len([256].into_iter())];
    let len = u32::try_from(body.len()).expect("a small body");
    for appends in [1_u16, 64] {
        let head =
            |shard| BatchHeader { shard: ShardId(shard), count: 1, len, ..Default::default() };
        let heads: Vec<_> = (0..u64::from(appends)).map(head).collect();
        let mut writer = MsgsWriter::new(FRAME_MAX);
        group.throughput(Throughput::Elements(u64::from(appends)));
        group.bench_function(BenchmarkId::new("build", appends), |b| {
            b.iter(|| {
                build(&mut writer, black_box(&heads));
                writer.finish(STAMP).len()
            });
        });
        build(&mut writer, &heads);
        let mut frame = AlignedVec::<16>::new();
        frame.extend_from_slice(writer.finish(STAMP));
        for _ in &heads {
            frame.extend_from_slice(&body);
        }
        group.bench_function(BenchmarkId::new("verify_convert", appends), |b| {
            b.iter(|| read(black_box(&frame)));
        });
    }
    group.finish();
}

/// Reads a frame as a lane does.
fn read(bytes: &[u8]) -> usize {
    let expected = Expected { frame_max: FRAME_MAX, seq: STAMP.seq, credit: u64::MAX };
    let header = FrameHeader::decode(bytes, &expected).expect("a good header");
    let frame = Frame::open(header, bytes).expect("a good frame");
    let msgs = Msgs::open(frame).expect("good messages");
    msgs.iter()
        .map(|message| {
            let message = black_box(message.expect("a good message"));
            msgs.batches(&message).map(|batch| batch.body.len()).sum::<usize>()
        })
        .sum()
}

criterion_group!(benches, wire);
criterion_main!(benches);
