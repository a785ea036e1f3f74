//! One life after the other on a machine without faults.

use bowline_env::{Env, Nanos};
use bowline_raft::{LogIndex, Lsn, ShardId, Term};
use bowline_wal::{HealthState, LogStorage};

use crate::kit::*;

#[test]
fn a_batch_that_was_durable_is_found_after_a_power_cut() {
    let world = calm(1);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        assert_eq!(log.found.boot, 1);
        assert_eq!(log.found.shards.len(), 0);
        log.open_shard(7);
        let staged = log.put(7, 1, &body(7, 1, 100));
        assert_eq!(staged.batch.head.first, LogIndex(1));
        log.sync(staged.lsn).await;
        log.abandon();
    });
    power_cut(&world);
    live(&world, async move |env| {
        let log = open(&env).await;
        assert_eq!(log.found.boot, 2);
        let shard = log.shard(7).unwrap();
        assert_eq!(shard.bounds.last, LogIndex(1));
        assert_eq!(shard.hard_state.term, Term(1));
        let batches = log.all(7).await;
        assert_eq!(&*batches[0].body, &body(7, 1, 100)[..]);
    });
}

#[test]
fn a_clean_close_is_seen_and_leaves_nothing_uncovered() {
    let world = calm(2);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        log.put(1, 1, &body(1, 1, 64));
        log.wal.close().await.unwrap();
        let log = open(&env).await;
        assert!(log.found.report.clean);
        assert!(!log.found.report.torn);
        assert_eq!(log.shard(1).unwrap().bounds.last, LogIndex(1));
        let mut again = log;
        again.put(1, 1, &body(1, 2, 64));
        again.wal.close().await.unwrap();
        let log = open(&env).await;
        assert_eq!(log.shard(1).unwrap().bounds.last, LogIndex(2));
        log.wal.close().await.unwrap();
    });
}

#[test]
fn a_commit_alone_needs_no_write_and_rides_with_the_next_frame() {
    let world = calm(3);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        let staged = log.put(1, 1, &body(1, 1, 64));
        log.sync(staged.lsn).await;
        env.sleep_until(env.now().after(Nanos::from_millis(100))).await;
        let before = log.wal.counters().frames;
        let lazy = log.hard(1, 1, 0, 1);
        log.wal.submit();
        env.sleep_until(env.now().after(Nanos::from_millis(100))).await;
        assert_eq!(log.wal.counters().frames, before);
        assert!(log.wal.durable() < lazy);
        let staged = log.put(1, 1, &body(1, 2, 64));
        assert_eq!(staged.lsn, lazy);
        log.sync(staged.lsn).await;
        log.wal.close().await.unwrap();
        let log = open(&env).await;
        assert_eq!(log.shard(1).unwrap().hard_state.commit, LogIndex(1));
        log.wal.close().await.unwrap();
    });
}

#[test]
fn the_log_rolls_recycles_and_stays_in_its_bound() {
    let world = calm(4);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        log.open_shard(2);
        let idle = log.put(2, 1, &body(2, 1, 64));
        log.sync(idle.lsn).await;
        let mut applied = 0;
        for index in 1..2000_u64 {
            let staged = log.put(1, 1, &body(1, index, 1500));
            log.sync(staged.lsn).await;
            let mut work = Vec::new();
            log.wal.gc(&mut work);
            for work in work {
                let upto = work.upto.0.max(applied);
                if work.shard == ShardId(1) && upto > applied {
                    log.compact(1, upto).unwrap();
                    applied = upto;
                } else if work.shard == ShardId(2) && work.upto.0 > 0 {
                    log.compact(2, 1).unwrap();
                } else if work.manifest {
                    let at = log.wal.bounds(work.shard).unwrap().first.0 - 1;
                    log.compact(work.shard.0, at).unwrap();
                }
            }
        }
        let counters = log.wal.counters();
        assert!(counters.bytes > 4 * 512 * 1024, "{counters:?}");
        assert!(counters.slots <= 8, "{counters:?}");
        assert_eq!(log.wal.health().state, HealthState::Ok);
        log.wal.close().await.unwrap();
        let log = open(&env).await;
        assert_eq!(log.shard(1).unwrap().bounds.last, LogIndex(1999));
        assert_eq!(log.shard(1).unwrap().bounds.first, LogIndex(applied + 1));
        let batches = log.all(1).await;
        assert_eq!(batches.len() as u64, 1999 - applied);
        assert_eq!(&*batches[0].body, &body(1, applied + 1, 1500)[..]);
        assert_eq!(log.shard(2).unwrap().bounds.last, LogIndex(1));
    });
}

#[test]
fn what_left_the_cache_is_read_from_disk_and_verified() {
    let world = calm(5);
    live(&world, async move |env| {
        format(&env).await;
        let mut log = open(&env).await;
        log.open_shard(1);
        let mut last = Lsn(0);
        for index in 1..=60 {
            last = log.put(1, 1, &body(1, index, 1000)).lsn;
            log.sync(last).await;
        }
        log.sync(last).await;
        let mut cached = Vec::new();
        assert_eq!(log.wal.cached(ShardId(1), LogIndex(1), 1 << 20, &mut cached), LogIndex(1));
        let batches = log.all(1).await;
        assert_eq!(batches.len(), 60);
        for (index, batch) in (1..).zip(&batches) {
            assert_eq!(&*batch.body, &body(1, index, 1000)[..]);
            assert!(batch.body.as_ptr().addr().is_multiple_of(16));
        }
        let next = log.wal.cached(ShardId(1), LogIndex(59), 1 << 20, &mut cached);
        assert_eq!(next, LogIndex(61));
        log.wal.close().await.unwrap();
    });
}
