//! Nodes that start, stop, lose power and come back, one, some or all.

use std::time::Duration;

use bowline::Error;
use bowline_env::sim::Crash;
use bowline_env::{Name, Nanos};

use crate::kit::{Cluster, LIMIT, ms};

#[test]
fn sd_05_two_of_three_boot_and_serve() {
    let mut cluster = Cluster::new(31, 3, 4);
    for node in [1, 3] {
        cluster.start(node);
    }
    for node in [1, 3] {
        cluster.ready_within(node, Duration::from_secs(10)).unwrap();
    }
    let leader = cluster.leader();
    cluster.put(leader, "key", "value").unwrap();
    let other = if leader == 1 { 3 } else { 1 };
    let error = cluster.put(other, "key", "value").unwrap_err();
    let Error::NotLeader { leader_address, .. } = error else { panic!("{error}") };
    assert_eq!(leader_address.as_deref(), Some(&*format!("app-{leader}:80")));
    cluster.start(2);
    cluster.ready(2);
    assert_eq!(cluster.get(2, "key").as_deref(), Some("value"));
}

#[test]
fn one_of_three_boots_and_waits() {
    let mut cluster = Cluster::new(32, 3, 4);
    cluster.start(2);
    let error = cluster.ready_within(2, Duration::from_secs(20)).unwrap_err();
    assert!(matches!(error, Error::NotReady(_)), "{error}");
    let error = cluster.put(2, "key", "value").unwrap_err();
    assert!(matches!(error, Error::NoLeader { .. }), "{error}");
    let error = cluster.try_get(2, "key").unwrap_err();
    assert!(matches!(error, Error::NoLeader { .. }), "no read says \"absent\": {error}");
    cluster.start(1);
    cluster.ready_within(2, Duration::from_secs(10)).unwrap();
    assert_eq!(cluster.get(2, "key"), None);
}

#[test]
fn sd_02_all_lose_power_three_times_and_terms_rise() {
    let mut cluster = Cluster::up(33, 3, 4);
    let mut last = 0;
    for round in 0..4_u32 {
        let leader = cluster.leader();
        let term = cluster.term(leader, 0).unwrap().0;
        assert!(term > last, "round {round}: term {term} after {last}");
        last = term;
        for nth in 0..round {
            let value = cluster.get(leader, &format!("key-{nth}"));
            assert_eq!(value.as_deref(), Some("acknowledged"), "round {round}");
        }
        cluster.put(leader, &format!("key-{round}"), "acknowledged").unwrap();
        let open = cluster.begin_put(leader, "open", "either way");
        cluster.world.run_for(Nanos(u64::from(round) * 150_000));
        for node in cluster.nodes.clone() {
            cluster.crash(node, Crash::Power);
        }
        cluster.world.run_for(ms(500));
        assert!(open.is_done(), "every call is answered");
        cluster.start_all();
    }
}

#[test]
fn a_leader_stopped_in_good_order_is_replaced_at_once() {
    let mut cluster = Cluster::up(34, 3, 4);
    let old = cluster.leader();
    cluster.put(old, "key", "before").unwrap();
    cluster.stop(old);
    let stopped = cluster.world.now();
    let new = cluster.leader();
    let took = cluster.world.now().since(stopped);
    cluster.put(new, "key", "after").unwrap();
    assert!(took < ms(400), "nobody waits until its promise is over: {} ns", took.0);
    cluster.start(old);
    cluster.ready(old);
    assert_eq!(cluster.get(old, "key").as_deref(), Some("after"));
}

#[test]
fn rs_12_a_follower_restarted_in_good_order_disturbs_nobody() {
    let mut cluster = Cluster::up(35, 3, 4);
    let leader = cluster.leader();
    let term = cluster.term(leader, 0);
    for _ in 0..3 {
        for node in cluster.others(leader) {
            cluster.stop(node);
            cluster.put(leader, "key", "value").unwrap();
            cluster.start(node);
            cluster.ready_within(node, Duration::from_secs(3)).unwrap();
        }
    }
    assert_eq!(cluster.leader(), leader);
    assert_eq!(cluster.term(leader, 0), term);
}

#[test]
fn nw_05_a_connection_of_a_dead_life_is_replaced() {
    // The old connection is half open: nobody told its other side that the machine lost power. It
    // notices by the silence of 5 s, and dials again.
    for node in [1, 2, 3] {
        let mut cluster = Cluster::up(36 + node, 3, 4);
        cluster.crash(node, Crash::Power);
        cluster.world.run_for(ms(100));
        cluster.start(node);
        cluster.ready_within(node, Duration::from_secs(8)).unwrap();
        let leader = cluster.leader();
        cluster.put(leader, "key", "value").unwrap();
        assert_eq!(cluster.get(node, "key").as_deref(), Some("value"));
    }
}

/// A machine that lost power comes back with fewer cores: what is up with the others is half open,
/// and no question goes there.
#[test]
fn nw_05_cores_of_a_former_life_are_not_asked() {
    let mut cluster = Cluster::new(36, 1, 8);
    (cluster.setup(1).cores, cluster.setup(1).streams) = (2, 2);
    cluster.start_all();
    let learner = cluster.join();
    cluster.add(1, learner).unwrap().complete().unwrap();
    for nth in 0..16 {
        cluster.put(1, &format!("key-{nth}"), "value").unwrap();
    }
    cluster.crash(1, Crash::Power);
    cluster.world.run_for(ms(100));
    cluster.setup(1).cores = 1;
    cluster.start(1);
    cluster.ready(1);
    cluster.world.run_for(ms(1_500));
    for nth in 0..16 {
        let client = cluster.engine(learner).client().with_timeout(Duration::from_secs(1));
        let got = cluster.run(async move { client.get(format!("key-{nth}")).await });
        assert_eq!(got.unwrap().as_deref(), Some(&b"value"[..]), "key-{nth}");
    }
}

#[test]
fn rd_08_who_restarts_keeps_the_promise_of_its_former_life() {
    let mut cluster = Cluster::new(41, 3, 2);
    for setup in &mut cluster.setups {
        setup.lease_reads = true;
        setup.support_ms = 2_000;
        setup.op_timeout_ms = 500;
    }
    cluster.start_all();
    let old = cluster.leader();
    let others = cluster.others(old);
    cluster.put(old, "key", "old").unwrap();
    cluster.part(&[old], &others);
    for node in &others {
        cluster.crash(*node, Crash::Kill);
        cluster.start(*node);
    }
    let mut stale_until = None;
    for _ in 0..100 {
        cluster.world.run_for(ms(50));
        let mut put = Err(Error::NoLeader { shard: bowline::ShardId(0) });
        for node in &others {
            put = put.or_else(|_| cluster.put(*node, "key", "new"));
        }
        if put.is_ok() {
            stale_until = Some(cluster.world.now());
            break;
        }
        let client = cluster.engine(old).client();
        let read = cluster.run(async move { client.get_lease("key").await });
        assert!(read.is_err() || read.as_ref().is_ok_and(Option::is_some), "{read:?}");
    }
    assert!(stale_until.is_some(), "the others go on without it");
    let client = cluster.engine(old).client();
    let read = cluster.run(async move { client.get_lease("key").await });
    assert!(read.is_err(), "a lease outlived the election of another: {read:?}");
}

#[test]
fn nw_06_nodes_with_one_two_and_three_cores_reach_all_shards() {
    let mut cluster = Cluster::new(42, 3, 12);
    for (setup, count) in cluster.setups.iter_mut().zip(1..) {
        (setup.cores, setup.streams) = (count, count);
    }
    cluster.start_all();
    write_and_read_all(&cluster, "first");
    // Each with another count, down to one for all streams.
    for node in [3, 2, 1] {
        cluster.stop(node);
        let streams = cluster.setup(node).streams;
        cluster.setup(node).cores = if streams == 1 { 3 } else { 1 };
        cluster.start(node);
        cluster.ready(node);
        write_and_read_all(&cluster, &format!("after {node}"));
    }
}

/// Writes twelve keys where they are led, and reads them everywhere.
fn write_and_read_all(cluster: &Cluster, value: &str) {
    for nth in 0..12 {
        let key = format!("key-{nth}");
        let put = match cluster.put(1, &key, value) {
            Err(Error::NotLeader { leader: Some(hint), .. }) => cluster.put(hint.id.0, &key, value),
            other => other,
        };
        put.unwrap_or_else(|error| panic!("{key}: {error:#}"));
        for node in cluster.nodes.clone() {
            assert_eq!(cluster.get(node, &key).as_deref(), Some(value), "node {node}, {key}");
        }
    }
}

#[test]
fn sd_01_a_node_that_missed_much_gets_all_of_it() {
    let mut cluster = Cluster::new(43, 3, 2);
    for setup in &mut cluster.setups {
        // Beyond what memory keeps for readers, and no flush meanwhile.
        (setup.log_bytes, setup.delta_bytes) = (16 << 20, 64 << 20);
    }
    cluster.start_all();
    let away = cluster.follower();
    cluster.crash(away, Crash::Power);
    let leader = cluster.leader();
    let value = |nth: u32| format!("{nth}-{}", "x".repeat(2_000));
    for nth in 0..400 {
        cluster.put(leader, &format!("key-{nth}"), &value(nth)).unwrap();
    }
    cluster.start(away);
    // Others go on writing while it catches up.
    let open: Vec<_> = (400..500)
        .map(|nth| cluster.begin_put(leader, &format!("key-{nth}"), &value(nth)))
        .collect();
    cluster.ready(away);
    cluster.world.run_for(Nanos(5_000_000_000));
    assert!(open.into_iter().all(|put| matches!(put.take(), Some(Ok(())))));
    for nth in 0..500 {
        assert_eq!(cluster.applied(away, &format!("key-{nth}")), Some(value(nth)), "key-{nth}");
    }
}

#[test]
fn rs_20_many_shards_are_led_soon_after_all_start_at_once() {
    let mut cluster = Cluster::new(44, 3, 512);
    for setup in &mut cluster.setups {
        (setup.cores, setup.streams) = (2, 2);
        (setup.slot_bytes, setup.log_bytes) = (1 << 20, 64 << 20);
    }
    cluster.start_all();
    for node in cluster.nodes.clone() {
        cluster.crash(node, Crash::Power);
    }
    let before = cluster.world.now();
    cluster.start_all();
    let took = cluster.world.now().since(before);
    assert!(took < Nanos(10_000_000_000), "{} ns", took.0);
}

/// Bugs: etcd-io/raft e419ba5, scylla #11559: what waited for a peer that read nothing grew.
#[test]
fn nw_03_a_peer_that_reads_nothing_costs_the_others_nothing() {
    let mut cluster = Cluster::new(91, 3, 4);
    for setup in &mut cluster.setups {
        (setup.slot_bytes, setup.log_bytes, setup.delta_bytes) = (1 << 20, 64 << 20, 64 << 20);
    }
    cluster.start_all();
    let leader = cluster.leader();
    let deaf = cluster.follower();
    let sent = |cluster: &Cluster| cluster.engine(leader).metrics().cores[0].messages_sent;
    let value = "x".repeat(8_000);
    let begin = cluster.world.now();
    // It takes bytes into its sockets until they are full, and nobody takes them out.
    cluster.world.clock(deaf).pause(ms(4_500));
    let mut longest = ms(0);
    let before = sent(&cluster);
    let mut puts = 0;
    while cluster.world.now().since(begin) < ms(4_000) {
        let start = cluster.world.now();
        cluster.put(leader, &format!("key-{}", puts % 50), &value).unwrap();
        longest = longest.max(cluster.world.now().since(start));
        puts += 1;
    }
    assert!(puts > 1_000, "{puts}");
    assert!(longest < ms(100), "nobody waits for it: {longest:?}");
    // 8 MiB of a window are 1,000 of these; the other peer gets each of them.
    let sent = sent(&cluster) - before;
    assert!(sent < 2 * puts + 2_000, "what it is sent has a bound: {sent} for {puts}");
    cluster.world.run_for(ms(6_000));
    let last = format!("key-{}", (puts - 1) % 50);
    assert_eq!(cluster.applied(deaf, &last).as_deref(), Some(value.as_str()), "it has all again");
}

/// Bug: redpanda #2048: a back-off went on for peers that were well.
#[test]
fn nw_04_who_was_away_for_long_is_met_soon_and_a_lane_that_breaks_then_is_made_anew_at_once() {
    let mut cluster = Cluster::up(92, 5, 4);
    let leader = cluster.leader();
    let lanes = |cluster: &Cluster, node: u64| {
        let core = cluster.engine(node).metrics().cores[0].clone();
        core.lanes_up - core.lanes_down
    };
    assert_eq!(lanes(&cluster, leader), 4);
    // The highest is dialled by all others, which have tried in vain for a while.
    let away = if leader == 5 { 4 } else { 5 };
    cluster.crash(away, Crash::Kill);
    cluster.world.run_for(ms(30_000));
    cluster.start(away);
    let begin = cluster.world.now();
    cluster.world.run_until(|| lanes(&cluster, away) == 4, LIMIT).unwrap();
    assert!(cluster.world.now().since(begin) <= ms(1_600), "a second, and half of it by chance");
    cluster.world.run_for(ms(200));
    for node in cluster.others(away) {
        cluster.world.link(node, away).reset();
    }
    let begin = cluster.world.now();
    cluster.world.run_for(ms(5));
    cluster.world.run_until(|| lanes(&cluster, away) == 4, LIMIT).unwrap();
    let took = cluster.world.now().since(begin);
    assert!(took <= ms(150), "the first frame ends the back-off: {took:?}");
}

/// What is met of a peer is written to NODE. A stop does not leave that write behind: it would
/// land over what the next life wrote, and the node would have forgotten that life.
#[test]
fn what_one_life_writes_of_a_peer_does_not_land_in_the_next() {
    // Node 2 is dialed by the one and dials the other.
    for peer in [1, 3] {
        let mut cluster = Cluster::up(37, 3, 4);
        let disk = cluster.world.disk(2);
        let node = || disk.durable(&Name::of("NODE")).unwrap();
        cluster.stop(peer);
        cluster.world.run_for(ms(2_000));
        let (before, changes) = (node(), disk.changes());
        // A write of NODE takes two seconds, and is alone in that.
        disk.slow(10_000, LIMIT);
        cluster.start(peer);
        cluster.world.run_until(|| disk.changes() > changes, LIMIT).unwrap();
        disk.slow(1, ms(0));
        cluster.world.run_for(ms(10));
        assert_eq!(node(), before, "it is in flight");
        cluster.stop(2);
        cluster.start(2);
        cluster.ready(2);
        cluster.world.run_for(ms(3_000));
        cluster.crash(2, Crash::Kill);
        cluster.start(2);
        cluster.ready(2);
        cluster.put(cluster.leader(), "key", "value").unwrap();
        assert_eq!(cluster.get(2, "key").as_deref(), Some("value"), "peer {peer}");
    }
}
