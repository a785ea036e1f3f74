//! Streams of this release, byte for byte: later releases open them, and this one makes them
//! again from a fixed clock. `BOWLINE_GOLDEN=write` writes them anew.
//!
//! ```text
//! tests/golden/v1/clean/   every kind of record, two lives, a roll; closed cleanly
//! tests/golden/v1/<name>.txt   what is found in it, and in damaged copies of it
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;

use bowline_env::{Buf, Kind, Millis, Nanos, SharedBuf};
use bowline_raft::{BatchHeader, HardState, LogIndex, Lsn, ReplicaId, ShardId, Term};

use crate::geometry::{Geometry, SLOTS_AT_FORMAT};
use crate::head::{SlotHead, Super, slot_file};
use crate::log::{DamageState, Hole, NewBatch, Record, StreamId};
use crate::options::WalOptions;
use crate::reader::{Source, WalReader};
use crate::recover::{LSN_SKIP, recover};
use crate::scan::SlotRead;
use crate::stream::{Start, Stream};

/// A stream on memory, driven by hand.
struct Bench {
    superblock: Super,
    slots: Vec<Vec<u8>>,
}

impl SlotRead for Bench {
    async fn read(&self, slot_no: u32, at: u64, len: usize) -> Result<SharedBuf, Kind> {
        let slot = &self.slots[usize::try_from(slot_no).unwrap()];
        let at = usize::try_from(at).unwrap();
        let mut buf = Buf::heap(len);
        buf.rest_mut()[..len].copy_from_slice(&slot[at..at + len]);
        buf.fill(len);
        Ok(buf.share(0..len))
    }
}

impl Source for &Bench {
    fn list(&self) -> Result<Vec<(String, u64)>, Kind> {
        Ok(Vec::new())
    }

    fn read_at(&self, file: &str, at: u64, out: &mut [u8]) -> Result<usize, Kind> {
        let superblock = self.superblock.to_bytes();
        let bytes = match file {
            "super.a" | "super.b" => &superblock[..],
            _ => {
                let slot = (0..).zip(&self.slots).find(|(slot_no, _)| slot_file(*slot_no) == file);
                slot.ok_or(Kind::NotFound)?.1
            },
        };
        let at = usize::try_from(at).unwrap();
        let len = out.len().min(bytes.len() - at);
        out[..len].copy_from_slice(&bytes[at..at + len]);
        Ok(len)
    }
}

impl Bench {
    fn new() -> Self {
        let id = StreamId { cluster: 0x0102_0304, node: 5, stream: 0, streams: 1 };
        let geometry = Geometry::small();
        let superblock = Super {
            sequence: 1,
            slot_count: SLOTS_AT_FORMAT,
            ..Super::new(id, 0x1111_2222_3333_4444_5555_6666_7777_8888, &geometry)
        };
        Self { superblock, slots: vec![vec![0; 65_536]; 4] }
    }

    fn boot(&mut self) -> Stream {
        let geometry = Geometry::small();
        let recovery = crate::reader::now(recover(self, &self.superblock, geometry)).unwrap();
        let start = Start {
            lsn: recovery.lsn_seen + LSN_SKIP,
            cut: recovery.outcome.tail.proved,
            cut_crc: recovery.outcome.tail.proved_crc,
            boot: recovery.boot_seen + 1,
            tag: self.superblock.tag(),
            complete_epoch: recovery.complete_epoch,
        };
        let table = recovery.slot_table(&geometry);
        self.superblock.sequence += 1;
        self.superblock.boot = start.boot;
        self.superblock.max_epoch = recovery.epoch_seen;
        let parts = (recovery.replay.index, table);
        let buffers = Box::new(|len| Ok(Buf::heap(len)));
        let mut stream = Stream::new(geometry, WalOptions::small(), parts, start, buffers);
        self.prepare(&mut stream);
        stream.stage_boot(&recovery.outcome.tail.frames).unwrap();
        self.write(&mut stream);
        stream
    }

    fn prepare(&mut self, stream: &mut Stream) {
        while let Some((slot_no, epoch)) = stream.slots.poll_prepare() {
            let head = SlotHead {
                slot_no,
                uuid: self.superblock.uuid,
                epoch,
                boot: stream.start.boot,
                block: 4096,
                slot_bytes: 65_536,
                wall_ms: 1_700_000_000_000,
                life_lsn: stream.start.lsn,
                life_cut: stream.start.cut,
            };
            head.write(&mut self.slots[usize::try_from(slot_no).unwrap()][..4096]);
            stream.slots.handle_prepared(slot_no, true);
        }
    }

    /// Writes until nothing waits.
    fn write(&mut self, stream: &mut Stream) {
        while let Some(op) = stream.next_write(Nanos(0), Millis(1_700_000_000_001)) {
            let at = usize::try_from(op.at).unwrap();
            let slot = &mut self.slots[usize::try_from(op.slot_no).unwrap()];
            slot[at..at + op.buf.len()].copy_from_slice(&op.buf);
            stream.handle_written(op.lsn, Nanos(0));
            self.prepare(stream);
        }
    }

    fn close(&mut self, mut stream: Stream) {
        stream.drain();
        self.write(&mut stream);
        assert!(stream.is_drained());
        self.superblock.sequence += 1;
        self.superblock.clean_lsn = stream.durable().0;
    }

    /// What is found, line by line.
    fn story(&self) -> String {
        let reader = WalReader::open(self).unwrap();
        let mut out = String::new();
        for shard in reader.shards().unwrap() {
            let manifest = shard.manifest.as_ref().map(|(index, term, body)| {
                (index.0, term.0, String::from_utf8_lossy(body).into_owned())
            });
            let holes: Vec<_> =
                shard.holes.iter().map(|hole| (hole.from.0, hole.to.0, hole.crc)).collect();
            let (state, bounds) = (shard.hard_state, shard.bounds);
            writeln!(
                out,
                "shard {} replica {} term {} vote {} commit {} first {} prev {} last {} of {} \
                 {:?} manifest {manifest:?} holes {holes:?} confs {:?}",
                shard.shard,
                shard.replica,
                state.term,
                state.vote,
                state.commit,
                bounds.first,
                bounds.prev_term,
                bounds.last,
                bounds.last_term,
                bounds.damage,
                shard.confs,
            )
            .unwrap();
        }
        writeln!(out, "{:?}", reader.verify().unwrap().0).unwrap();
        out
    }
}

fn put(stream: &mut Stream, shard: u64, term: u64, count: u32, flags: u16) -> Lsn {
    let bounds = stream.index.lookup(ShardId(shard)).unwrap().bounds();
    let new = NewBatch {
        shard: ShardId(shard),
        first: bounds.last.next(),
        term: Term(term),
        prev_term: bounds.last_term,
        count,
        flags,
    };
    let mark = bounds.last.0.to_le_bytes()[0];
    stream.append(new, 1600, |out| out.fill(mark)).unwrap().lsn
}

fn hard(term: u64, vote: u64, commit: u64) -> Record<'static> {
    let (term, vote, commit) = (Term(term), ReplicaId(vote), LogIndex(commit));
    Record::HardState(HardState { term, vote, commit })
}

/// Every kind of record, two lives, a roll.
fn clean() -> Bench {
    let mut bench = Bench::new();
    let mut stream = bench.boot();
    for shard in 1..=4 {
        let open = Record::OpenShard { replica: ReplicaId(shard * 10) };
        let manifest = Record::Manifest { index: LogIndex(0), term: Term(0), body: b"founded" };
        stream.stage(ShardId(shard), &[open, manifest, hard(1, 0, 0)]).unwrap();
        put(&mut stream, shard, 1, 1, bowline_raft::batch::FLAG_NOOP);
        put(&mut stream, shard, 1, 1, bowline_raft::batch::FLAG_CONF);
        bench.write(&mut stream);
    }
    for _ in 0..12 {
        put(&mut stream, 1, 1, 3, 0);
        put(&mut stream, 2, 1, 2, 0);
        bench.write(&mut stream);
    }
    let manifest = Record::Manifest { index: LogIndex(5), term: Term(1), body: b"flushed" };
    let compact = Record::Compact { first: LogIndex(6), prev_term: Term(1) };
    stream.stage(ShardId(1), &[manifest, compact, hard(2, 10, 8)]).unwrap();
    stream.stage(ShardId(2), &[Record::Truncate { from: LogIndex(20) }]).unwrap();
    stream.stage(ShardId(4), &[Record::Tombstone { replica: ReplicaId(40) }]).unwrap();
    bench.write(&mut stream);
    bench.close(stream);
    let mut stream = bench.boot();
    put(&mut stream, 1, 2, 4, 0);
    let head = BatchHeader {
        shard: ShardId(3),
        first: LogIndex(2),
        term: Term(1),
        count: 1,
        len: 1600,
        flags: bowline_raft::batch::FLAG_CONF,
        ..BatchHeader::default()
    };
    let body = vec![1; 1600];
    let crc = head.checksum(&body);
    let hole = Hole { from: LogIndex(2), to: LogIndex(2), crc: Some(crc) };
    let state = DamageState::Repairing;
    stream.stage(ShardId(3), &[Record::Damage { state, holes: &[hole] }]).unwrap();
    bench.write(&mut stream);
    stream.heal(&BatchHeader { crc, ..head }, &body).unwrap();
    bench.write(&mut stream);
    let manifest = Record::Manifest { index: LogIndex(90), term: Term(3), body: b"installed" };
    let compact = Record::Compact { first: LogIndex(91), prev_term: Term(3) };
    stream.stage(ShardId(2), &[manifest, compact, hard(4, 20, 90)]).unwrap();
    put(&mut stream, 2, 4, 1, 0);
    bench.close(stream);
    bench
}

/// Copies of it with one thing wrong each.
fn damaged(clean: &Bench) -> Vec<(&'static str, Bench)> {
    let frames = WalReader::open(clean).unwrap().frames().unwrap();
    let copy = || Bench { superblock: clean.superblock, slots: clean.slots.clone() };
    let place = |nth: usize| {
        let frame = frames[frames.len() - nth];
        let slot = usize::try_from(frame.slot).unwrap();
        (slot, usize::try_from(frame.offset).unwrap(), usize::try_from(frame.bytes).unwrap())
    };
    let mut out = Vec::new();
    let mut torn = copy();
    torn.superblock.clean_lsn = 0;
    let (slot, at, _) = place(1);
    torn.slots[slot][at..at + 512].fill(0);
    torn.slots[slot][at + 3584..at + 4096].fill(0);
    let (slot, at, _) = place(2);
    torn.slots[slot][at + 300] ^= 1;
    out.push(("torn", torn));
    for (name, nth, off) in [("body", 6, 400), ("header", 4, 20), ("boot", 7, 30)] {
        let mut bench = copy();
        let (slot, at, _) = place(nth);
        bench.slots[slot][at + off] ^= 8;
        out.push((name, bench));
    }
    let mut bench = copy();
    let (slot, at, len) = place(3);
    bench.slots[slot][at + len - 200] ^= 8;
    out.push(("directory", bench));
    let mut bench = copy();
    let (slot, at, len) = place(3);
    bench.slots[slot][at..at + len].fill(0x5a);
    let (slot, at, len) = place(4);
    bench.slots[slot][at..at + len].fill(0x5a);
    out.push(("two-frames", bench));
    let mut bench = copy();
    bench.slots[slot][..4096].fill(0);
    out.push(("slot-header", bench));
    out
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// A stored file, or the bytes that are to be stored.
#[expect(clippy::disallowed_methods, reason = "asked for by name to write the files anew")]
fn stored(name: &str, made: &[u8]) -> Vec<u8> {
    let path = golden().join(name);
    if std::env::var("BOWLINE_GOLDEN").as_deref() == Ok("write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn this_release_makes_its_golden_stream_again_byte_for_byte() {
    let bench = clean();
    let superblock = bench.superblock.to_bytes();
    assert!(stored("clean/super.a", &superblock) == superblock, "the superblock changed");
    assert!(stored("clean/super.b", &superblock) == superblock, "the superblock changed");
    for (slot_no, bytes) in (0..).zip(&bench.slots) {
        let name = format!("clean/{}", slot_file(slot_no));
        assert!(stored(&name, bytes) == *bytes, "slot {slot_no} changed");
    }
}

#[test]
fn the_golden_stream_and_its_damaged_copies_read_as_they_always_did() {
    let made = clean();
    let superblock = Super::parse(&stored("clean/super.a", &made.superblock.to_bytes())).unwrap();
    let slots = (0..)
        .zip(&made.slots)
        .map(|(slot_no, bytes)| stored(&format!("clean/{}", slot_file(slot_no)), bytes));
    let kept = Bench { superblock, slots: slots.collect() };
    let check = |name: &str, bench: &Bench| {
        let story = bench.story();
        let want = stored(&format!("{name}.txt"), story.as_bytes());
        assert_eq!(story, String::from_utf8(want).unwrap(), "{name}");
    };
    check("clean", &kept);
    for (name, bench) in damaged(&kept) {
        check(name, &bench);
    }
}
