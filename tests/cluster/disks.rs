//! Disks that hang, crawl or fail: leadership moves, and nothing that was acknowledged is lost.

use core::time::Duration;

use bowline::{Budget, Code, Error, NodeId, ShardFailure, ShardId};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, WriteFault};

use crate::kit::{Cluster, ms, spoil_log};

#[test]
fn rs_18_a_leader_whose_disk_hangs_is_replaced() {
    let cluster = Cluster::up(71, 3, 4);
    let old = cluster.leader();
    cluster.put(old, "key", "before").unwrap();
    cluster.world.disk(old).stuck(Nanos(30_000_000_000));
    // Only what is written tells a leader that its disk hangs.
    let open = cluster.begin_put(old, "key", "either way");
    let before = cluster.world.now();
    let new = cluster.leader_of(&cluster.others(old));
    let took = cluster.world.now().since(before);
    assert!(took < Nanos(5_000_000_000), "{} ns", took.0);
    cluster.put(new, "key", "after").unwrap();
    cluster.world.run_for(Nanos(40_000_000_000));
    assert!(open.is_done());
    for node in cluster.nodes.clone() {
        assert_eq!(cluster.get(node, "key").as_deref(), Some("after"), "node {node}");
    }
}

#[test]
fn dk_09_a_follower_with_a_slow_disk_slows_nobody() {
    let cluster = Cluster::up(72, 3, 4);
    let leader = cluster.leader();
    let time_of = |count: u32| {
        let before = cluster.world.now();
        for nth in 0..count {
            cluster.put(leader, &format!("key-{nth}"), &"x".repeat(500)).unwrap();
        }
        cluster.world.now().since(before).0 / u64::from(count)
    };
    let quick = time_of(100);
    let slow = cluster.others(leader)[0];
    cluster.world.disk(slow).slow(100, Nanos(600_000_000_000));
    let with_slow = time_of(100);
    assert!(with_slow < 2 * quick, "{with_slow} ns a write after {quick}");
    cluster.world.disk(slow).heal();
    cluster.world.run_for(Nanos(10_000_000_000));
    for nth in 0..100 {
        let key = format!("key-{nth}");
        assert_eq!(cluster.applied(slow, &key), cluster.applied(leader, &key));
    }
}

#[test]
fn dk_01_a_leader_whose_write_fails_gives_its_shards_up_and_the_others_lead_them() {
    for how in [WriteFault::Error, WriteFault::Short, WriteFault::NoSpace] {
        let mut cluster = Cluster::up(73, 3, 4);
        let old = cluster.leader();
        cluster.put(old, "key", "before").unwrap();
        cluster.world.disk(old).fail_write(1, how);
        let error = cluster.put(old, "key", "either way").unwrap_err();
        let failed = matches!(error, Error::Shard { why: ShardFailure::LogWrite, .. });
        assert!(failed && error.maybe_applied(), "{how:?}: {error}");
        let new = cluster.leader_of(&cluster.others(old));
        cluster.put(new, "key", "after").unwrap();
        cluster.crash(old, Crash::Kill);
        cluster.start(old);
        cluster.ready(old);
        assert_eq!(cluster.get(old, "key").as_deref(), Some("after"), "{how:?}");
    }
}

/// The first write that a node does for a shard is the one that fails: also then it says that it
/// lacks the shard, and a restart is all it takes.
#[test]
fn dk_01_a_node_whose_log_fails_as_it_gets_a_shard_says_so() {
    for shards in [1, 4] {
        let mut cluster = Cluster::up(75, 1, shards);
        cluster.put(1, "key", "value").unwrap();
        let node = cluster.join();
        let admin = cluster.engine(1).admin();
        let address = Cluster::address(node);
        let add = async move { admin.add_learner(NodeId(node), address).await };
        let add = cluster.world.spawn_client(add);
        let core = |cluster: &Cluster| cluster.engine(node).metrics().cores[0].clone();
        // What is met of a peer is written before.
        let is_met = || core(&cluster).lanes_up == 1;
        cluster.world.run_until(is_met, Nanos(5_000_000_000)).unwrap();
        cluster.world.disk(node).fail_write(1, WriteFault::Error);
        cluster.world.run_for(ms(500));
        add.take().unwrap().unwrap().complete().unwrap();
        assert_eq!(core(&cluster).shards_failed, u64::from(shards));
        let Err(Error::NotReady(why)) = cluster.ready_within(node, Duration::from_secs(1)) else {
            panic!("it is ready with {shards} shards closed");
        };
        assert_eq!(why.shards.len(), usize::try_from(shards).unwrap());
        assert!(why.to_string().contains("BOW-0601"), "{why}");
        cluster.crash(node, Crash::Kill);
        cluster.start(node);
        cluster.promote(1, node).unwrap().complete().unwrap();
        cluster.ready(node);
        assert_eq!(cluster.get(node, "key").as_deref(), Some("value"));
    }
}

#[test]
fn rs_17_a_write_in_flight_on_a_lost_leader_is_unknown_or_certainly_not_done() {
    for delay in [0, 20, 50, 100, 150, 200, 300, 500] {
        let mut cluster = Cluster::up(74, 3, 1);
        let leader = cluster.leader();
        let open: Vec<_> =
            (0..20).map(|nth| cluster.begin_put(leader, &format!("key-{nth}"), "value")).collect();
        cluster.world.run_for(Nanos(delay * 10_000));
        cluster.crash(leader, Crash::Power);
        cluster.world.run_for(ms(100));
        let new = cluster.leader();
        cluster.start(leader);
        cluster.ready(leader);
        for (nth, put) in open.into_iter().enumerate() {
            let found = cluster.get(new, &format!("key-{nth}"));
            match put.take().expect("every call is answered") {
                Ok(()) => assert_eq!(found.as_deref(), Some("value"), "{delay}, {nth}"),
                Err(error) if error.maybe_applied() => {},
                Err(error) => assert_eq!(found, None, "{delay}, {nth}: {error}"),
            }
        }
    }
}

/// Whoever goes on with the configuration before the last counts a majority of those that left.
#[test]
fn a_configuration_that_cannot_be_read_at_the_start_is_no_older_one() {
    let (mut read, mut lost) = (0, 0);
    for nth in 1..60 {
        let mut cluster = Cluster::up(76, 3, 1);
        cluster.grow(2);
        let learner = cluster.join();
        cluster.add(2, learner).unwrap().complete().unwrap();
        // So many that it is read from the disk.
        for key in 0..40 {
            cluster.put(1, &format!("key-{key}"), &"x".repeat(2_000)).unwrap();
        }
        cluster.crash(1, Crash::Kill);
        cluster.world.disk(1).fail_read(nth);
        if cluster.try_start(1).is_err() {
            continue;
        }
        cluster.world.run_for(ms(20));
        let known = cluster.members(1).len();
        let closed = cluster.engine(1).metrics().cores[0].shards_failed;
        lost += closed;
        read += usize::from(known == 5);
        assert!(known == 5 || closed == 1, "read {nth}: {known} members");
    }
    assert!(read > 0 && lost > 0, "{read} starts read all, {lost} lost the shard");
}

#[test]
fn a_flush_is_answered_whatever_becomes_of_it() {
    let mut cluster = Cluster::up(77, 1, 1);
    let flush = |cluster: &Cluster| {
        let shard = cluster.engine(1).shard(ShardId(0)).unwrap();
        cluster.world.spawn_client(async move { shard.flush().await })
    };
    // Its run is not written at first, and nothing else happens in the shard.
    cluster.put(1, "key", "value").unwrap();
    let again = flush(&cluster);
    cluster.world.disk(1).fail_write(1, WriteFault::Error);
    cluster.world.run_for(ms(30_000));
    again.take().expect("it is answered").unwrap();
    // The shard closes meanwhile: the run fails, and before it is tried again so does the log.
    cluster.put(1, "key", "other").unwrap();
    let closed = flush(&cluster);
    cluster.world.disk(1).fail_write(1, WriteFault::Error);
    cluster.world.run_for(ms(20));
    assert!(closed.take().is_none(), "its run is not written yet");
    let put = cluster.begin_put(1, "key", "third");
    cluster.world.disk(1).fail_write(1, WriteFault::Error);
    cluster.world.run_for(ms(30_000));
    put.take().expect("it is answered").unwrap_err();
    let error = closed.take().expect("it is answered").unwrap_err();
    assert_eq!(error.code(), Code::LOG_WRITE, "{error}");
    let error = cluster.put(1, "key", "fourth").unwrap_err();
    assert_eq!(error.code(), Code::LOG_WRITE, "{error}");
    cluster.crash(1, Crash::Kill);
    cluster.start(1);
    cluster.ready(1);
}

/// What only a log's files have, and is damaged there, is in the state: a peer that needs it gets
/// that.
#[test]
fn a_peer_gets_the_state_where_the_log_of_its_leader_is_damaged() {
    let mut cluster = Cluster::up(78, 3, 1);
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    cluster.crash(away, Crash::Kill);
    let disk = cluster.world.disk(leader);
    cluster.put(leader, "key-0", &"y".repeat(1_000)).unwrap();
    for nth in 1..110 {
        cluster.put(leader, &format!("key-{nth}"), &"x".repeat(1_000)).unwrap();
    }
    spoil_log(&disk, b'y');
    cluster.start(away);
    cluster.world.run_for(ms(30_000));
    for nth in [0, 1, 109] {
        let key = format!("key-{nth}");
        assert_eq!(cluster.applied(away, &key), cluster.applied(leader, &key), "{key}");
    }
}

/// Bug: seed 405880 of the clusters: what a leader had to say while its disk was slow it never
/// said, if nothing else happened in the shard.
#[test]
fn dk_09_a_commit_is_told_although_the_leaders_disk_was_slow_just_then() {
    let cluster = Cluster::up(79, 3, 2);
    let leader = cluster.leader();
    let followers = cluster.others(leader);
    let [key, other] = [0, 1].map(|shard| cluster.key_of(shard));
    // Committed while the disk of the leader is slow, which has the entry durable already.
    for follower in &followers {
        cluster.world.disk(*follower).stuck(Nanos(340_000_000));
    }
    let first = cluster.begin_put(leader, &key, "value");
    cluster.world.run_for(ms(10));
    cluster.world.disk(leader).stuck(Nanos(500_000_000));
    let second = cluster.begin_put(leader, &other, "value");
    cluster.world.run_for(ms(5_000));
    assert_eq!(cluster.leader(), leader, "it leads on");
    for put in [first, second] {
        put.take().expect("it is answered").unwrap();
    }
    for follower in followers {
        assert_eq!(cluster.applied(follower, &key).as_deref(), Some("value"));
    }
}

/// A read needs no disk: that of the leader may be slow for other reasons.
#[test]
fn a_read_is_answered_though_the_leaders_disk_is_slow() {
    let cluster = Cluster::up(80, 3, 2);
    let leader = cluster.leader();
    let [key, other] = [0, 1].map(|shard| cluster.key_of(shard));
    cluster.put(leader, &key, "value").unwrap();
    cluster.world.disk(leader).stuck(Nanos(600_000_000));
    let open = cluster.begin_put(leader, &other, "value");
    cluster.world.run_for(ms(400));
    let before = cluster.world.now();
    assert_eq!(cluster.get(leader, &key).as_deref(), Some("value"));
    assert!(cluster.world.now().since(before) < ms(100), "it waits for nothing");
    cluster.world.run_for(ms(2_000));
    open.take().expect("it is answered").unwrap();
}

/// Bug: seed 529062 of the clusters: what waited for its flush was more than the whole budget, so
/// every write was refused; with nothing written nobody looked at the shard once its flush had
/// failed, and the flush was never tried again.
#[test]
fn dk_03_a_flush_that_found_no_room_is_tried_again_though_every_write_is_refused() {
    let mut cluster = Cluster::new(81, 1, 1);
    cluster.setup(1).delta_bytes = 64 << 10;
    cluster.start_all();
    let core = || cluster.engine(1).metrics().cores[0].clone();
    // Applied between two ticks: the flush begins when the whole budget is spent.
    let (value, before) = ("x".repeat(1_000), core().applied);
    let put = |nth| cluster.begin_put(1, &format!("key-{nth}"), &value);
    let puts: Vec<_> = (0..50).map(put).collect();
    cluster.world.run_until(|| core().applied == before + 50, ms(1_000)).unwrap();
    // The log has one more write to do; after that the run is the next to be written.
    cluster.world.run_for(ms(30));
    cluster.world.disk(1).fail_write(1, WriteFault::NoSpace);
    cluster.world.run_for(ms(500));
    for put in puts {
        put.take().expect("it is answered").unwrap();
    }
    assert_eq!((core().jobs_failed, core().flushes), (1, 0), "its run found no room");
    let error = cluster.put(1, "key", "early").unwrap_err();
    assert!(matches!(error, Error::Busy { what: Budget::Delta, .. }), "{error}");
    // Nothing more happens in the shard, but the time for another try comes.
    cluster.world.run_for(ms(2_000));
    assert_eq!((core().jobs_failed, core().flushes), (1, 1), "its run is written");
    cluster.put(1, "key", "value").unwrap();
}
