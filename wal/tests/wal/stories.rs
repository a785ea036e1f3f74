//! Single stories: torn and stale frames, late writes, votes, many boots, strangers.

use bowline_env::sim::World;
use bowline_env::{Env, Nanos};
use bowline_raft::{LogIndex, Lsn, ReplicaId, ShardId, Term};
use bowline_wal::{Geometry, LogStorage, Record, Verified, Wal, WalOptions};

use crate::image::*;
use crate::kit::*;
use crate::rot::stream;

#[test]
fn each_frame_says_what_was_durable_when_it_was_built() {
    let frames = stream(31).frames();
    for pair in frames.windows(2).filter(|pair| !pair[1].boots) {
        assert!(pair[1].synced >= pair[0].synced, "it does not fall");
        assert_eq!(pair[1].synced, pair[0].lsn, "one write at a time: all before was durable");
    }
    assert!(frames.iter().all(|frame| frame.synced.0 > 0));
}

#[test]
fn wa_02_an_old_valid_frame_in_the_right_place_is_not_taken_for_a_new_one() {
    let good = stream(32);
    let before = good.lines();
    let frames = good.frames();
    let old = frames.iter().find(|frame| frame.slot != frames[frames.len() - 1].slot).unwrap();
    let mut bad = good.clone();
    let bytes = bad.frame(old);
    let newest = frames[frames.len() - 1];
    // Behind the tail, where a frame of an earlier lap would lie, at the offset it names.
    let mut tail = good;
    let end = usize::try_from(newest.offset + newest.bytes).unwrap();
    tail.slot(newest.slot)[end..end + bytes.len()].copy_from_slice(&bytes);
    assert_eq!(tail.lines(), before);
    assert_eq!(tail.verified(), Verified::Clean);
    // In place of a frame that was durable: that frame is lost, and known to be.
    let same = frames.iter().find(|f| f.slot == newest.slot && f.offset == old.offset).unwrap();
    let at = usize::try_from(same.offset).unwrap();
    bad.slot(same.slot)[at..at + bytes.len()].copy_from_slice(&bytes);
    assert_eq!(bad.verified(), Verified::Damage);
    assert!(bad.lines().iter().all(|line| line.damage < 2));
}

#[test]
fn wa_11_a_write_of_an_earlier_life_that_lands_after_the_restart_is_ignored() {
    let mut image = stream(33);
    let frames = image.frames();
    let (cover, late) = (frames[frames.len() - 1], frames[frames.len() - 2]);
    let bytes = image.frame(&late);
    image.destroy(&cover);
    image.destroy(&late);
    let cut = image.lines();
    let world = calm(33);
    image.place(&world);
    live(&world, async move |env| {
        let mut log = open(&env).await;
        assert!(!log.found.report.torn);
        let staged = log.put(1, 3, &body(1, 5, 64));
        log.sync(staged.lsn).await;
        env.sleep_until(env.now().after(Nanos::from_millis(100))).await;
        log.abandon();
    });
    power_cut(&world);
    let mut after = Image::of(&world);
    let lines = after.lines();
    assert_ne!(lines, cut);
    let at = usize::try_from(late.offset).unwrap();
    after.slot(late.slot)[at..at + bytes.len()].copy_from_slice(&bytes);
    assert_eq!(after.lines(), lines);
    assert_eq!(after.verified(), Verified::Clean);
}

/// A stream with two frames that were in flight together, and again with each burst.
fn deep(seed: u64, bursts: u64) -> Image {
    let world = calm(seed);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        let lsn = log.open_shard(1);
        log.sync(lsn).await;
        env.sleep_until(env.now().after(Nanos::from_millis(10))).await;
        for burst in 0..bursts {
            let mut last = Lsn(0);
            for nth in 1..=5 {
                last = log.put(1, 1, &body(1, 5 * burst + nth, 6_000)).lsn;
            }
            log.sync(last).await;
        }
        env.sleep_until(env.now().after(Nanos::from_millis(100))).await;
        log.abandon();
    });
    power_cut(&world);
    Image::of(&world)
}

#[test]
fn wa_11_a_hole_at_depth_two_is_torn_without_evidence_and_corrupt_with_it() {
    let good = deep(34, 1);
    let frames = good.frames();
    let at = frames.windows(2).position(|pair| pair[1].synced < pair[0].lsn);
    let at = at.expect("two frames were in flight together");
    let last = |image: &Image| image.lines()[0].numbers[5];
    // Frame n is missing, n+1 is there and says nothing of n: nobody was told of n.
    let mut torn = good.clone();
    frames[at + 2..].iter().for_each(|frame| torn.destroy(frame));
    let whole = last(&torn);
    torn.destroy(&frames[at]);
    assert_eq!(torn.verified(), Verified::TornTail);
    assert!(torn.report().torn);
    assert!(last(&torn) < whole);
    assert_eq!(torn.lines()[0].damage, 0);
    // With n+2 there, n had been durable before that one was issued.
    let mut corrupt = good;
    frames[at + 3..].iter().for_each(|frame| corrupt.destroy(frame));
    let whole = last(&corrupt);
    corrupt.destroy(&frames[at]);
    assert_eq!(corrupt.verified(), Verified::Damage);
    assert_eq!(corrupt.report().corrupt_frames, 1);
    assert_eq!(last(&corrupt), whole);
    assert_eq!(corrupt.lines()[0].damage, 1);
}

#[test]
fn a_torn_frame_that_holds_a_whole_checkpoint_is_not_begun_at() {
    let world = calm(37);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        let mut last = log.open_shard(1);
        log.sync(last).await;
        for index in 1..=15 {
            last = log.put(1, 1, &body(1, index, 6000)).lsn;
            log.sync(last).await;
        }
        log.abandon();
    });
    power_cut(&world);
    let mut image = Image::of(&world);
    let frames = image.frames();
    let roll = frames.iter().rposition(|frame| frame.first && !frame.boots).unwrap();
    let raw = image.frame(&frames[roll]);
    let (_, rows) = raw_rows(&raw);
    let entries = rows.iter().find(|row| row.kind == 1).expect("a batch is in the frame");
    assert!(rows.iter().any(|row| row.kind == 9), "the checkpoint is whole in one frame");
    frames[roll + 1..].iter().for_each(|frame| image.destroy(frame));
    let at = usize::try_from(frames[roll].offset).unwrap() + entries.body.0;
    image.flip(frames[roll].slot, at);
    let lines = image.lines();
    assert_eq!(lines.len(), 1, "the shard is there: {lines:?}");
    assert_eq!(lines[0].damage, 0);
    assert_eq!(lines[0].numbers[5], entries.index - 1, "up to the frame that is torn");
    assert_eq!(image.verified(), Verified::TornTail);
}

/// Bug: seed 506065 of the clusters: the last frame of a slot was still in flight when the first of
/// the next was whole, and the checkpoint in that one lists the slot up to its last frame. What was
/// never durable was called damage, and shards whose configurations were in it stayed closed.
#[test]
fn wa_11_a_checkpoint_in_flight_together_with_a_frame_does_not_prove_it() {
    let mut image = deep(39, 6);
    let frames = image.frames();
    let roll = frames.windows(2).rposition(|pair| pair[1].first && pair[1].synced < pair[0].lsn);
    let [last, first] = roll.map(|at| [frames[at], frames[at + 1]]).expect("a roll in flight");
    let (_, rows) = raw_rows(&image.frame(&first));
    assert!(rows.iter().any(|row| row.kind == 9), "the checkpoint is whole in one frame");
    let (_, rows) = raw_rows(&image.frame(&last));
    let entries = rows.iter().find(|row| row.kind == 1).expect("a batch is in the frame");
    let behind = frames.iter().filter(|frame| frame.lsn > first.lsn);
    behind.for_each(|frame| image.destroy(frame));
    // A part of its body, or all of it, did not reach the platter.
    let at = usize::try_from(last.offset).unwrap() + entries.body.0;
    let mut torn = image.clone();
    torn.flip(last.slot, at);
    let mut gone = image;
    gone.destroy(&last);
    for image in [torn, gone] {
        let lines = image.lines();
        assert_eq!(lines.len(), 1, "the shard is there: {lines:?}");
        assert_eq!(lines[0].damage, 0);
        assert_eq!(lines[0].numbers[5], entries.index - 1, "up to the frame that is torn");
        assert_eq!(image.verified(), Verified::TornTail);
        assert_eq!(image.report().corrupt_frames, 0);
    }
}

#[test]
fn wa_06_a_cut_and_rewritten_suffix_is_on_the_disk_after_a_crash() {
    let world = calm(35);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        for index in 1..=5 {
            log.put(1, 1, &body(1, index, 64));
        }
        log.hard(1, 2, 0, 2);
        log.wal.truncate(ShardId(1), LogIndex(3)).unwrap();
        let rewritten = log.put(1, 2, &body(9, 3, 64));
        log.sync(rewritten.lsn).await;
        log.abandon();
    });
    power_cut(&world);
    live(&world, async move |env| {
        let log = open(&env).await;
        let bounds = log.shard(1).unwrap().bounds;
        assert_eq!((bounds.last, bounds.last_term), (LogIndex(3), Term(2)));
        let batches = log.all(1).await;
        assert_eq!(&*batches[2].body, &body(9, 3, 64)[..]);
        log.abandon();
    });
}

/// A life that writes one batch and crashes after `span`: how many slots the log has then.
fn short_life(world: &World, boot: u64, span: Nanos) -> u32 {
    let slots = live(world, async move |env| {
        let mut log = open(&env).await;
        assert_eq!(log.found.boot, boot);
        if boot == 1 {
            log.open_shard(1);
        }
        let last = log.wal.bounds(ShardId(1)).unwrap().last.0;
        assert_eq!(last, boot - 1);
        let staged = log.put(1, 1, &body(1, boot, 64));
        log.sync(staged.lsn).await;
        log.compact(1, boot).unwrap();
        let lsn = log.hard(1, 1, 0, boot);
        log.sync(lsn).await;
        env.sleep_until(env.now().after(span)).await;
        let slots = log.wal.counters().slots;
        log.abandon();
        slots
    });
    power_cut(world);
    slots
}

#[test]
fn a_hundred_boots_use_hardly_more_slots_than_one() {
    let world = calm(38);
    live(&world, async move |env| format(&env).await);
    for boot in 1..=100 {
        let slots = short_life(&world, boot, Nanos(3 * Nanos::SECOND.0));
        assert!(slots <= 7, "boot {boot}: {slots} slots");
    }
}

#[test]
fn a_crash_loop_comes_up_each_time_though_a_late_write_may_hit_every_slot() {
    let world = calm(40);
    live(&world, async move |env| format(&env).await);
    for boot in 1..=30 {
        let before = world.now();
        let slots = short_life(&world, boot, Nanos(0));
        assert!(slots <= Geometry::small().slots_max());
        let took = world.now().since(before);
        assert!(took < Nanos(3 * Nanos::SECOND.0), "boot {boot} takes {took:?}");
    }
}

#[test]
fn a_reader_beside_the_writer_sees_a_prefix_and_never_damage() {
    let world = calm(40);
    let mut images = Vec::new();
    live(&world, async move |env| format(&env).await);
    for round in 0..6_u64 {
        let handle = world.clone();
        let more = live(&world, async move |env| {
            let mut log = open(&env).await;
            if log.shard(1).is_none() {
                log.open_shard(1);
            }
            let mut images = Vec::new();
            for step in 0..60 {
                let index = log.wal.bounds(ShardId(1)).unwrap().last.0 + 1;
                let staged = log.put(1, 1, &body(1, index, 2000));
                log.sync(staged.lsn).await;
                if step % 8 == 0 {
                    log.compact(1, index).unwrap();
                    images.push(Image::of(&handle));
                }
            }
            log.abandon();
            images
        });
        images.extend(more);
        power_cut(&world);
        assert!(round < 6);
    }
    for image in &images {
        assert!(image.verified() <= Verified::TornTail);
    }
    for pair in images.windows(2) {
        // The node goes on while the reader is half through.
        for reads_each in [3, 10, 30] {
            let moving = Moving { images: pair.to_vec().into(), reads_each, reads: 0.into() };
            let reader = bowline_wal::WalReader::open(moving).unwrap();
            assert_eq!(reader.shards().unwrap().len(), 1);
        }
    }
}

#[test]
fn wa_09_a_directory_of_somebody_else_is_refused() {
    let world = calm(41);
    live(&world, async move |env| {
        format(&env).await;
        for id in [
            bowline_wal::StreamId { cluster: 1, ..ID },
            bowline_wal::StreamId { node: 9, ..ID },
            bowline_wal::StreamId { stream: 3, ..ID },
        ] {
            let opened = Wal::open(&env, &dir(), id, WalOptions::small(), env.bell()).await;
            assert!(matches!(opened, Err(bowline_wal::OpenError::Foreign(_))));
        }
        let mut log = open(&env).await;
        let open = Record::OpenShard { replica: ReplicaId(1) };
        log.wal.stage(ShardId(1), &[open]).unwrap();
        log.wal.close().await.unwrap();
    });
}
