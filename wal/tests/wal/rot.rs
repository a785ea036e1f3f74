//! Rot of every byte class of every structure, and the verdict on each.

use std::collections::BTreeSet;

use bowline_env::sim::World;
use bowline_env::{Env, Nanos};
use bowline_raft::batch::FLAG_CONF;
use bowline_raft::{LogIndex, ShardId, Term};
use bowline_wal::{
    Finding, FrameView, LogStorage, NewBatch, OpenError, Record, Verdict, Verified, WalOptions,
};

use crate::image::*;
use crate::kit::*;

const NORMAL: u8 = 0;
const REPAIRING: u8 = 1;
const RETIRED: u8 = 2;

/// Two lives; in the second: three shards, frames of each alone and of all together.
pub(crate) fn stream(seed: u64) -> Image {
    let world = calm(seed);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        for shard in 1..=3 {
            log.open_shard(shard);
        }
        let staged = log.put(2, 1, &body(2, 1, 300));
        log.sync(staged.lsn).await;
        log.wal.close().await.unwrap();
        let mut log = open(&env).await;
        for round in 1..=2 {
            for shard in 1..=3 {
                log.hard(shard, 1 + round, shard, 0);
                let index = log.wal.bounds(ShardId(shard)).unwrap().last.0 + 1;
                let staged = log.put(shard, 1 + round, &body(shard, index, 500));
                log.sync(staged.lsn).await;
            }
            let mut last = bowline_raft::Lsn(0);
            for shard in 1..=3 {
                let index = log.wal.bounds(ShardId(shard)).unwrap().last.0 + 1;
                last = log.put(shard, 1 + round, &body(shard, index, 200)).lsn;
            }
            log.sync(last).await;
        }
        let manifest = Record::Manifest { index: LogIndex(1), term: Term(2), body: b"of three" };
        let lsn = log.wal.stage(ShardId(3), &[manifest, hard(3, 3, 2)]).unwrap();
        log.sync(lsn).await;
        let staged = log.put(1, 3, &body(1, 5, 100));
        log.sync(staged.lsn).await;
        env.sleep_until(env.now().after(Nanos::from_millis(100))).await;
        log.abandon();
    });
    power_cut(&world);
    Image::of(&world)
}

/// Votes and ends of the logs.
fn votes(lines: &[Line]) -> Vec<[u64; 6]> {
    let numbers = |line: &Line| {
        let [replica, term, vote, commit, _, last, last_term] = line.numbers;
        [replica, term, vote, commit, last, last_term]
    };
    lines.iter().map(numbers).collect()
}

/// Shards whose line differs.
fn changed(before: &[Line], after: &[Line]) -> BTreeSet<u64> {
    let find = |lines: &[Line], shard| lines.iter().find(|line| line.shard == shard).cloned();
    let all: BTreeSet<u64> = before.iter().chain(after).map(|line| line.shard).collect();
    all.into_iter().filter(|shard| find(before, *shard) != find(after, *shard)).collect()
}

fn of(lines: &[Line], shard: u64) -> Line {
    lines.iter().find(|line| line.shard == shard).cloned().unwrap()
}

#[test]
fn dk_05_rot_of_each_byte_of_a_frame_changes_only_the_shards_in_its_radius() {
    let good = stream(21);
    let before = good.lines();
    assert_eq!(good.verified(), Verified::Clean);
    assert!(before.iter().all(|line| line.damage == NORMAL));
    let frames = good.frames();
    assert!(frames.len() > 12);
    let last = frames.len() - 1;
    for (nth, frame) in frames.iter().enumerate() {
        let bytes = good.clone().frame(frame);
        let start = usize::try_from(frame.offset).unwrap();
        let (dir, rows) = raw_rows(&bytes);
        let named: BTreeSet<u64> =
            rows.iter().filter(|row| row.kind < 8).map(|row| row.shard).collect();
        let edges = [0, 4, 7, 8, 16, 24, 32, 40, 48, 52, 56, 60, 68, 72, 80, 124];
        let ends = edges.map(|at| bytes.len() - 128 + at);
        let rest = (128 + nth..dir).step_by(97).chain((dir..bytes.len() - 128).step_by(5));
        for at in edges.into_iter().chain(ends).chain(rest) {
            let mut bad = good.clone();
            bad.flip(frame.slot, start + at);
            let after = bad.lines();
            let moved = changed(&before, &after);
            let row = rows.iter().find(|row| (row.body.0..row.body.1).contains(&at));
            let is_head = at < 128 || at >= bytes.len() - 128;
            let label = format!("frame {nth} of {last}, byte {at}, rows {rows:?}");
            if is_head {
                assert_eq!(moved, BTreeSet::new(), "one of two heads: {label}");
            } else if let Some(row) = row {
                let radius =
                    if row.kind < 8 { BTreeSet::from([row.shard]) } else { BTreeSet::new() };
                assert!(moved.is_subset(&radius), "body: {label}: {moved:?}");
                body_verdict(row, &before, &after, &label);
            } else if (dir..bytes.len() - 128).contains(&at) {
                assert!(moved.is_subset(&named), "directory: {label}: {moved:?}");
                for shard in moved {
                    let line = of(&after, shard);
                    if covered(&line) {
                        continue;
                    }
                    assert_eq!(line.damage, REPAIRING, "the echo names it: {label}");
                    assert_eq!(line.numbers, of(&before, shard).numbers, "{label}");
                }
            } else {
                assert_eq!(moved, BTreeSet::new(), "between: {label}");
            }
        }
    }
}

/// The first entry of shard 3 is below its manifest: the log gives it up.
fn covered(line: &Line) -> bool {
    line.shard == 3 && line.numbers[4] == 2 && line.damage == NORMAL
}

/// A rotten body: of a batch the hole is exactly that batch, with its checksum on record.
fn body_verdict(row: &RawRow, before: &[Line], after: &[Line], label: &str) {
    if row.kind == 1 {
        let line = of(after, row.shard);
        let to = row.index + u64::from(row.count) - 1;
        if row.shard == 3 && to <= 1 {
            assert!(covered(&line), "covered by the manifest: {label}");
            return;
        }
        assert_eq!(line.damage, REPAIRING, "{label}");
        assert_eq!(line.holes.len(), 1, "{label}");
        let hole = line.holes[0];
        assert_eq!((hole.0, hole.1), (row.index, to), "{label}");
        assert!(hole.2.is_some(), "{label}");
        assert_eq!(line.numbers, of(before, row.shard).numbers, "{label}");
    } else if row.kind == 5 {
        let line = of(after, row.shard);
        assert_eq!((line.damage, line.manifest), (REPAIRING, None), "{label}");
    }
}

/// The buffer of a frame held other shards' bytes before.
#[test]
fn sc_08_between_the_bodies_of_a_frame_there_is_nothing() {
    let good = stream(30);
    let mut between = 0;
    for frame in &good.frames() {
        let bytes = good.clone().frame(frame);
        let (dir, rows) = raw_rows(&bytes);
        let is_body = |at: &usize| rows.iter().any(|row| (row.body.0..row.body.1).contains(at));
        for at in (128..dir).filter(|at| !is_body(at)) {
            assert_eq!(bytes[at], 0, "byte {at} of frame {}", frame.lsn.0);
            between += 1;
        }
    }
    assert!(between > 100, "{between} bytes are no body");
}

#[test]
fn rot_of_a_slot_header_or_of_one_superblock_changes_nothing() {
    let good = stream(22);
    let before = good.lines();
    let names: Vec<String> = good.files.keys().cloned().collect();
    for name in names {
        for at in (0..4096).step_by(61) {
            let mut bad = good.clone();
            bad.files.get_mut(&name).unwrap()[at] ^= 4;
            assert_eq!(bad.lines(), before, "{name}, byte {at}");
        }
        let mut bad = good.clone();
        bad.files.get_mut(&name).unwrap()[..4096].fill(0);
        assert_eq!(bad.lines(), before, "{name} without its first block");
    }
    let mut bad = good;
    for name in ["super.a", "super.b"] {
        bad.files.get_mut(name).unwrap()[7] ^= 1;
    }
    assert_eq!(bad.reader().map(|_| ()), Err(OpenError::Unreadable));
}

#[test]
fn slots_that_only_a_lost_superblock_counted_are_read() {
    let world = calm(24);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        for index in 1..=53 {
            let staged = log.put(1, 1, &body(1, index, 4_000));
            log.sync(staged.lsn).await;
            if index % 15 == 0 && index > 15 {
                log.compact(1, index - 5).unwrap();
            }
        }
        log.abandon();
    });
    power_cut(&world);
    let good = Image::of(&world);
    let before = good.lines();
    assert_eq!(before[0].numbers[5], 53);
    let last = good.frames().last().unwrap().slot;
    assert_eq!(last, 7, "the last frames lie in the slot that was made last");
    for name in ["super.a", "super.b"] {
        let mut bad = good.clone();
        bad.files.get_mut(name).unwrap().fill(0);
        assert_eq!(bad.lines(), before, "without {name}");
    }
    for name in ["super.a", "super.b"] {
        assert!(world.disk(NODE).zero_sector(&dir().join(name), 0));
        let found = live(&world, async move |env| open(&env).await.found.shards.remove(0).bounds);
        assert_eq!(found.last, LogIndex(53), "without {name}");
        power_cut(&world);
    }
}

#[test]
fn wa_04_a_lost_frame_is_known_from_the_echo_in_the_next() {
    let good = stream(23);
    let before = good.lines();
    let frames = good.frames();
    for frame in &frames[..frames.len() - 2] {
        let mut bad = good.clone();
        let bytes = bad.frame(frame);
        let (_, rows) = raw_rows(&bytes);
        bad.destroy(frame);
        let after = bad.lines();
        assert_eq!(changed(&before, &after), touched(&rows), "{frame:?}");
        assert!(after.iter().all(|line| line.damage != RETIRED));
        assert_eq!(votes(&before), votes(&after), "votes and bounds survive");
        let (verdict, findings) = bad.reader().unwrap().verify().unwrap();
        if frame.lsn.0 > frames[0].lsn.0 {
            assert_eq!(verdict, Verified::Damage, "{frame:?}");
            let named = findings.iter().any(|finding| {
                matches!(finding, Finding::Frame(bad)
                    if bad.lsn == frame.lsn.0 && bad.verdict == Verdict::Corrupt)
            });
            // Frames below the base checkpoint's slots are not read at all.
            assert!(named, "{frame:?}: {findings:?}");
        }
    }
}

/// Shards that lose a body with these rows.
fn touched(rows: &[RawRow]) -> BTreeSet<u64> {
    rows.iter().filter(|row| matches!(row.kind, 1 | 5)).map(|row| row.shard).collect()
}

#[test]
fn two_neighbouring_lost_frames_retire_what_no_later_checkpoint_settles() {
    let good = stream(24);
    let frames = good.frames();
    let second_boot = frames.iter().rposition(|frame| frame.boots).unwrap();
    let mut bad = good.clone();
    bad.destroy(&frames[second_boot + 3]);
    bad.destroy(&frames[second_boot + 4]);
    let after = bad.lines();
    assert!(after.iter().all(|line| line.damage == RETIRED), "{after:?}");
    // The same below the checkpoint: its states settle who votes, and the holes are known.
    let mut bad = good;
    let below: Vec<_> = frames[..second_boot].iter().collect();
    assert!(below.len() >= 2, "the slot of the first life still counts");
    bad.destroy(below[below.len() - 2]);
    bad.destroy(below[below.len() - 1]);
    assert!(bad.lines().iter().all(|line| line.damage != RETIRED));
}

#[test]
fn rot_of_the_newest_uncovered_frame_looks_torn_and_is_cut() {
    let good = stream(25);
    let frames = good.frames();
    assert!(frames.last().unwrap().cover, "the last frame covers the one before");
    let mut bad = good.clone();
    bad.destroy(&frames[frames.len() - 1]);
    assert_eq!(bad.lines(), good.lines(), "losing the cover loses nothing");
    bad.destroy(&frames[frames.len() - 2]);
    let report = bad.report();
    assert!(!report.torn, "nothing is left of it to be seen");
    assert_eq!(of(&bad.lines(), 1).numbers[5], of(&good.lines(), 1).numbers[5] - 1);
    // With its cover there it had been durable.
    let mut bad = good.clone();
    bad.destroy(&frames[frames.len() - 2]);
    assert_eq!(of(&bad.lines(), 1).damage, REPAIRING);
    assert_eq!(of(&bad.lines(), 1).numbers, of(&good.lines(), 1).numbers);
}

/// A checkpoint lists a slot by the first frame that is left of it. The next boot looked for that
/// one at the head of the slot, where the rotten ones are, and lost it too.
#[test]
fn what_is_left_of_a_slot_with_a_rotten_head_is_found_by_every_later_boot() {
    let good = stream(28);
    let frames = good.frames();
    let first = frames.iter().take_while(|frame| frame.slot == frames[0].slot);
    let holds_batch = |frame: &&FrameView| {
        let (_, rows) = raw_rows(&good.clone().frame(frame));
        rows.iter().any(|row| row.kind == 1)
    };
    let mut bad = good.clone();
    let rotten = first.clone().take_while(|frame| !holds_batch(frame)).count();
    assert!(rotten > 0, "the batch of the first life is not in its first frame");
    first.take(rotten).for_each(|frame| bad.destroy(frame));
    let world = calm(28);
    bad.place(&world);
    for life in 1..=3 {
        live(&world, async move |env| {
            let log = open(&env).await;
            let batches = log.all(2).await;
            assert_eq!(batches[0].head.first, LogIndex(1), "life {life}");
            assert_eq!(log.shard(2).unwrap().bounds.damage as u8, NORMAL, "life {life}");
            log.wal.close().await.unwrap();
        });
        power_cut(&world);
    }
}

/// A life that counted on from there wrote what no later one reads.
#[test]
fn a_stream_whose_numbers_leave_none_is_not_opened() {
    let good = stream(29);
    let open_with = |at: usize, number: u64| {
        let mut bad = good.clone();
        for name in ["super.a", "super.b"] {
            let bytes = bad.files.get_mut(name).unwrap();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            let crc = crc32fast::hash(&bytes[..4092]);
            bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
        }
        let world = calm(29);
        bad.place(&world);
        live(&world, async move |env| try_open(&env, WalOptions::small()).await.map(Log::abandon))
    };
    // The superblock's sequence, life and epoch.
    for at in [88, 96, 104] {
        assert_eq!(open_with(at, u64::MAX / 2), Ok(()), "{at}");
        assert_eq!(open_with(at, u64::MAX / 2 + 1), Err(OpenError::Numbers), "{at}");
        assert_eq!(open_with(at, u64::MAX), Err(OpenError::Unreadable), "{at}");
    }
}

#[test]
fn a_lost_slot_file_costs_the_shards_in_it_and_no_vote_is_given_twice() {
    let good = stream(26);
    let before = good.lines();
    let frames = good.frames();
    let newest = frames.last().unwrap().slot;
    let oldest = frames[0].slot;
    assert_ne!(newest, oldest);
    let mut bad = good.clone();
    bad.files.remove(&format!("{oldest:03}.slot"));
    let after = bad.lines();
    assert_eq!(votes(&before), votes(&after), "the checkpoint knows votes and bounds");
    assert_eq!(changed(&before, &after), BTreeSet::from([2]), "its one batch is a hole");
    let mut bad = good;
    bad.files.remove(&format!("{newest:03}.slot"));
    assert!(bad.lines().iter().all(|line| line.damage == RETIRED), "it was the newest");
}

#[test]
fn dk_06_a_misdirected_or_lost_write_is_found() {
    let good = stream(27);
    let before = good.lines();
    let frames = good.frames();
    let (from, to) = (&frames[frames.len() - 4], &frames[frames.len() - 5]);
    assert_eq!(from.bytes, to.bytes);
    // Frame `from` landed on the place of `to`.
    let mut bad = good.clone();
    let bytes = bad.frame(from);
    let at = usize::try_from(to.offset).unwrap();
    bad.slot(to.slot)[at..at + bytes.len()].copy_from_slice(&bytes);
    assert_eq!(bad.verified(), Verified::Damage);
    assert!(bad.lines().iter().all(|line| line.damage != RETIRED));
    // It was acknowledged and never done: what was there before is still there.
    let mut bad = good;
    bad.slot(to.slot)[at..at + bytes.len()].fill(0);
    assert_eq!(bad.verified(), Verified::Damage);
    assert_eq!(before.len(), bad.lines().len());
}

/// Bug: a bad frame in a slot that is left of a former life was taken for a torn tail once nothing
/// else was left of that life, and all that a later one had acknowledged went with it.
#[test]
fn wa_04_rot_in_a_slot_of_a_former_life_costs_no_later_one() {
    let world = calm(38);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        for shard in 1..=2 {
            log.open_shard(shard);
        }
        let pinned = log.put(2, 1, &body(2, 1, 200));
        log.sync(pinned.lsn).await;
        env.sleep_until(env.now().after(Nanos::from_millis(100))).await;
        log.abandon();
    });
    power_cut(&world);
    live(&world, async move |env| {
        let mut log = open(&env).await;
        log.hard(1, 7, 1, 0);
        log.churn(1, 7).await;
        log.abandon();
    });
    power_cut(&world);
    let good = Image::of(&world);
    let before = good.lines();
    let frames = good.frames();
    let old = frames.iter().filter(|frame| frame.slot == frames[0].slot);
    assert_eq!(of(&before, 1).numbers[5], 400);
    for frame in old {
        let mut bad = good.clone();
        bad.destroy(frame);
        let after = bad.lines();
        let label = format!("frame {}", frame.lsn.0);
        assert_eq!(of(&after, 1), of(&before, 1), "{label}");
        assert_eq!(votes(&after), votes(&before), "{label}");
    }
}

/// Bug: a later life knew of a lost batch, and not that it was a configuration: an older one stood
/// for it.
#[test]
fn wa_04_a_lost_configuration_is_one_in_every_later_life() {
    let world = calm(40);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        for shard in 1..=2 {
            log.open_shard(shard);
        }
        let body = body(1, 1, 200);
        let conf = NewBatch {
            shard: ShardId(1),
            first: LogIndex(1),
            term: Term(1),
            prev_term: Term(0),
            count: 1,
            flags: FLAG_CONF,
        };
        let put = log.wal.append(conf, body.len(), |out| out.copy_from_slice(&body));
        log.sync(put.unwrap().lsn).await;
        env.sleep_until(env.now().after(Nanos::from_millis(100))).await;
        log.abandon();
    });
    power_cut(&world);
    let mut image = Image::of(&world);
    let frames = image.frames();
    let batch = |frame: &FrameView| {
        let (_, rows) = raw_rows(&image.frame(frame));
        let row = rows.into_iter().find(|row| (row.kind, row.shard, row.index) == (1, 1, 1))?;
        Some((*frame, frame.offset + u64::try_from(row.body.0).unwrap()))
    };
    let (frame, at) = frames.iter().find_map(batch).unwrap();
    let name = dir().join(&format!("{:03}.slot", frame.slot));
    assert!(world.disk(NODE).flip_bit(&name, at, 0));
    let confs = |world: &World| {
        live(world, async move |env| {
            let mut log = open(&env).await;
            let found = log.shard(1).unwrap();
            let confs = (found.confs.clone(), found.holes.len());
            // The slot where it was is used again.
            log.hard(2, 7, 1, 0);
            log.churn(2, 7).await;
            log.abandon();
            confs
        })
    };
    for life in 2..6 {
        assert_eq!(confs(&world), (vec![LogIndex(1)], 1), "life {life}");
        power_cut(&world);
    }
}
