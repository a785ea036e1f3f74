//! Garbage: what holds a slot is named and moves, slots are used again, marks hold proposals back.

use bowline_env::{Env, Nanos};
use bowline_raft::{LogIndex, ShardId, Term};
use bowline_wal::{Geometry, HealthState, LogStorage, Record, StageError, Wal, WalOptions};

use crate::kit::*;

/// Works as an engine does under pressure: flushes what `gc` names, but for a shard that cannot.
async fn relieve(log: &mut Log, stuck: Option<ShardId>) {
    let mut work = Vec::new();
    log.wal.gc(&mut work);
    for work in work.into_iter().filter(|work| Some(work.shard) != stuck) {
        let bounds = log.wal.bounds(work.shard).unwrap();
        let upto = work.upto.0.max(bounds.first.0 - 1);
        if upto > 0 {
            log.compact(work.shard.0, upto).unwrap();
        }
    }
    log.wal.submit();
    log.env.sleep_until(log.env.now().after(Nanos::from_millis(5))).await;
}

#[test]
fn a_middle_slot_is_recycled_and_the_older_one_still_counts() {
    let world = calm(36);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        for shard in 1..=2 {
            log.open_shard(shard);
        }
        let pinned = log.put(2, 1, &body(2, 1, 200));
        log.sync(pinned.lsn).await;
        // The other holds the oldest slot.
        log.churn(1, 1).await;
        assert_eq!(log.wal.health().state, HealthState::Ok);
        assert!(log.wal.counters().slots_used <= 5, "{:?}", log.wal.counters());
        log.abandon();
    });
    power_cut(&world);
    live(&world, async move |env| {
        let log = open(&env).await;
        assert_eq!(log.found.report.corrupt_frames, 0);
        let batches = log.all(2).await;
        assert_eq!(&*batches[0].body, &body(2, 1, 200)[..]);
        assert_eq!(log.shard(1).unwrap().bounds.last, LogIndex(400));
        log.abandon();
    });
}

/// Bug: only the shards of the oldest slot were ever named, so one that could not let go of it, a
/// tail without a majority say, left the log full for all others.
#[test]
fn wa_12_a_shard_that_cannot_move_keeps_nobody_else_from_it() {
    let geometry = Geometry { log_bytes: 1 << 20, ..Geometry::small() };
    let options = WalOptions { log_bytes: geometry.log_bytes, ..WalOptions::small() };
    let world = calm(43);
    live(&world, async move |env| {
        Wal::format(&env, &dir(), ID, geometry, options).await.unwrap();
        let mut log = try_open(&env, options).await.unwrap();
        let stuck = ShardId(2);
        for shard in 1..=24 {
            log.open_shard(shard);
        }
        let (mut index, mut refused) = (0, 0);
        let mut starts = 2..=24;
        while index < 800 {
            // One shard after the other writes once, each in a slot of its own, and falls silent.
            if index % 25 == 0
                && let Some(shard) = starts.next()
            {
                log.try_put(shard, 1, &body(shard, 1, 200)).unwrap();
            }
            match log.try_put(1, 1, &body(1, index + 1, 3000)).map(|staged| staged.lsn) {
                Ok(lsn) => {
                    log.sync(lsn).await;
                    index += 1;
                    log.compact(1, index).unwrap();
                },
                Err(error) => {
                    assert!(matches!(error, StageError::Busy | StageError::Full), "{error:?}");
                    refused += 1;
                    assert!(refused < 5_000, "{index} puts, {:?}", log.wal.counters());
                },
            }
            relieve(&mut log, Some(stuck)).await;
        }
        assert_eq!(log.wal.bounds(stuck).unwrap().first, LogIndex(1));
        log.abandon();
    });
}

#[test]
fn wa_12_ten_thousand_idle_shards_pin_nothing_and_open_fast() {
    let geometry =
        Geometry { block: 4096, frame_cap: 256 << 10, slot_bytes: 8 << 20, log_bytes: 128 << 20 };
    let options = WalOptions { log_bytes: geometry.log_bytes, ..WalOptions::small() };
    let world = calm(37);
    live(&world, async move |env| {
        Wal::format(&env, &dir(), ID, geometry, options).await.unwrap();
        let mut log = try_open(&env, options).await.unwrap();
        for shard in 1..=10_000 {
            log.open_shard(shard);
            let manifest = Record::Manifest { index: LogIndex(0), term: Term(0), body: b"born" };
            let lsn = log.wal.stage(ShardId(shard), &[manifest]).unwrap();
            if shard % 500 == 0 {
                log.sync(lsn).await;
            }
        }
        let big = vec![7; 200_000];
        let (mut puts, mut refused) = (0, 0);
        while puts < 400 {
            let result = log.try_put(1, 1, &big).map(|staged| staged.lsn);
            match result {
                Ok(lsn) => {
                    puts += 1;
                    log.sync(lsn).await;
                },
                Err(error) => {
                    assert!(matches!(error, StageError::Busy | StageError::Full));
                    refused += 1;
                    assert!(refused < 2_000, "{puts} puts, {:?}", log.wal.counters());
                },
            }
            if puts % 10 == 0 || result.is_err() {
                let last = log.wal.bounds(ShardId(1)).unwrap().last.0;
                log.compact(1, last).unwrap();
                restage(&mut log).await;
            }
        }
        let counters = log.wal.counters();
        assert!(counters.bytes > 80 << 20, "{counters:?}");
        assert!(counters.slots <= 16, "{counters:?}");
        assert!(counters.slots_used <= 12, "{counters:?}");
        log.abandon();
    });
    power_cut(&world);
    live(&world, async move |env| {
        let before = env.now();
        let log = try_open(&env, options).await.unwrap();
        assert_eq!(log.found.shards.len(), 10_000);
        assert!(log.found.shards.iter().all(|shard| shard.manifest.is_some()));
        assert!(log.found.report.bytes < 160 << 20, "{:?}", log.found.report);
        assert!(env.now().since(before) < Nanos(10 * Nanos::SECOND.0));
        log.abandon();
    });
}

/// Stages the manifests again that hold the oldest slot.
async fn restage(log: &mut Log) {
    let mut work = Vec::new();
    log.wal.gc(&mut work);
    for work in work {
        if work.manifest {
            let first = log.wal.bounds(work.shard).unwrap().first;
            let prev = log.wal.bounds(work.shard).unwrap().prev_term;
            let manifest = Record::Manifest { index: first.prev(), term: prev, body: b"born" };
            if log.wal.stage(work.shard, &[manifest]).is_err() {
                break;
            }
        }
    }
    log.wal.submit();
    log.env.sleep_until(log.env.now().after(Nanos::from_millis(5))).await;
}

#[test]
fn the_log_refuses_proposals_at_its_mark_and_comes_back() {
    let world = calm(39);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        let mut index = 0;
        let full = loop {
            match log.try_put(1, 1, &body(1, index + 1, 3000)) {
                Ok(staged) => {
                    index += 1;
                    log.sync(staged.lsn).await;
                },
                Err(error) => break error,
            }
        };
        assert_eq!(full, StageError::Full);
        assert!(log.wal.used_permille() >= 750);
        // A vote still finds room.
        let lsn = log.hard(1, 2, 1, 0);
        log.sync(lsn).await;
        for _ in 0..40 {
            relieve(&mut log, None).await;
        }
        assert!(log.wal.used_permille() < 750, "{:?}", log.wal.counters());
        let staged = log.put(1, 2, &body(1, index + 1, 3000));
        log.sync(staged.lsn).await;
        log.wal.close().await.unwrap();
    });
}

/// Bug: seed 600042 of the clusters: nothing lived in most slots, and no slot was left in which the
/// checkpoint could begin that would have said so.
#[test]
fn a_log_without_a_slot_for_a_checkpoint_comes_back() {
    let world = calm(41);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        let mut index = 0;
        while let Ok(staged) = log.try_put(1, 1, &body(1, index + 1, 3000)) {
            index += 1;
            log.sync(staged.lsn).await;
        }
        // Votes may use the reserve, to its last slot.
        let max = log.wal.counters().slots_max;
        let mut term = 1;
        while log.wal.counters().slots_used < max {
            term += 1;
            let lsn = log.hard(1, term, 1, 0);
            log.sync(lsn).await;
        }
        log.compact(1, index).unwrap();
        for _ in 0..40 {
            relieve(&mut log, None).await;
        }
        let counters = log.wal.counters();
        assert!(log.wal.used_permille() < 500, "{counters:?}");
        assert!(counters.slots <= max + 2, "{counters:?}");
        let staged = log.put(1, term, &body(1, index + 1, 3000));
        log.sync(staged.lsn).await;
        log.wal.close().await.unwrap();
    });
}
