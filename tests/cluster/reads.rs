//! What reads may show while leaders change, pause and come back, and while clocks lie.

use std::time::Duration;

use bowline::Consistency;
use bowline_env::Nanos;
use bowline_env::sim::Crash;

use crate::kit::{Cluster, ms};

/// Asks every node that is up, again and again for `span`; whoever answers must say `want`.
/// The answers are counted.
fn every_answer_is(cluster: &Cluster, span: Nanos, how: Consistency, want: &str) -> usize {
    let until = cluster.world.now().after(span);
    let mut answers = 0;
    while cluster.world.now() < until {
        for node in cluster.alive() {
            let client = cluster.engine(node).client().with_timeout(Duration::from_millis(50));
            let read = cluster.run(async move { client.get_with_consistency("key", how).await });
            if let Ok(value) = read {
                assert_eq!(value.as_deref(), Some(want.as_bytes()), "node {node}");
                answers += 1;
            }
        }
    }
    answers
}

#[test]
fn rd_01_a_fresh_leader_and_its_followers_show_what_was_acknowledged() {
    let mut cluster = Cluster::up(61, 3, 1);
    for round in 0..5 {
        let leader = cluster.leader();
        let value = format!("value-{round}");
        cluster.put(leader, "key", &value).unwrap();
        cluster.crash(leader, if round % 2 == 0 { Crash::Kill } else { Crash::Power });
        let answers = every_answer_is(&cluster, ms(2_500), Consistency::Linearizable, &value);
        assert!(answers > 0, "a new leader answers");
        cluster.start(leader);
        let answers = every_answer_is(&cluster, ms(1_000), Consistency::Linearizable, &value);
        assert!(answers > 0);
        cluster.ready(leader);
    }
}

#[test]
fn rd_07_a_read_at_a_start_waits_or_fails_and_says_nothing_old() {
    let mut cluster = Cluster::up(62, 3, 1);
    cluster.put(cluster.leader(), "key", "value").unwrap();
    for _ in 0..3 {
        for node in cluster.nodes.clone() {
            cluster.crash(node, Crash::Power);
        }
        for node in cluster.nodes.clone() {
            cluster.start(node);
            every_answer_is(&cluster, ms(200), Consistency::Linearizable, "value");
        }
        let answers = every_answer_is(&cluster, ms(2_000), Consistency::Linearizable, "value");
        assert!(answers > 0);
    }
}

#[test]
fn rd_04_a_leader_that_was_paused_shows_nothing_stale() {
    for (seed, how) in [(63, Consistency::Linearizable), (64, Consistency::Lease)] {
        let mut cluster = Cluster::new(seed, 3, 1);
        for setup in &mut cluster.setups {
            setup.lease_reads = true;
        }
        cluster.start_all();
        let old = cluster.leader();
        cluster.put(old, "key", "old").unwrap();
        cluster.world.clock(old).pause(Nanos(4_000_000_000));
        let new = cluster.leader_of(&cluster.others(old));
        cluster.put(new, "key", "new").unwrap();
        // Asked while it is paused: the answer comes when it goes on.
        let client = cluster.engine(old).client();
        let read = cluster
            .world
            .spawn_client(async move { client.get_with_consistency("key", how).await });
        cluster.world.run_for(Nanos(6_000_000_000));
        if let Some(Ok(value)) = read.take() {
            assert_eq!(value.as_deref(), Some(&b"new"[..]), "{how:?}");
        }
        assert!(every_answer_is(&cluster, ms(500), how, "new") > 0);
    }
}

#[test]
fn rd_05_no_clock_harms_a_read_by_index() {
    let cluster = Cluster::up(65, 3, 1);
    let hour = 3_600_000;
    for (node, ppm, wall) in [(1, 50_000, hour), (2, -50_000, -hour), (3, 0, 0)] {
        cluster.world.clock(node).set_rate(ppm);
        cluster.world.clock(node).jump_wall(wall);
    }
    for round in 0..40 {
        let leader = cluster.leader();
        let value = format!("value-{round}");
        if cluster.put(leader, "key", &value).is_err() {
            continue;
        }
        match round % 4 {
            0 => cluster.world.clock(leader).suspend(Nanos(2_000_000_000)),
            1 => cluster.world.clock(leader).hide_pause(Nanos(3_000_000_000)),
            _ => {},
        }
        let answers = every_answer_is(&cluster, ms(4_000), Consistency::Linearizable, &value);
        assert!(answers > 0, "round {round}");
    }
}

/// Log time goes on from what was applied, whatever the next leader's wall clock says.
#[test]
fn tt_01_a_key_expires_in_its_time_though_the_next_leader_is_an_hour_behind() {
    let mut cluster = Cluster::up(66, 3, 1);
    let old = cluster.leader();
    let client = cluster.engine(old).client();
    let put = async move { client.put_with_ttl("key", "value", Duration::from_mins(1)).await };
    cluster.run(put).unwrap();
    for node in cluster.others(old) {
        cluster.world.clock(node).jump_wall(-3_600_000);
    }
    cluster.crash(old, Crash::Power);
    cluster.world.run_for(ms(30_000));
    let new = cluster.leader();
    cluster.put(new, "other", "1").unwrap();
    assert_eq!(cluster.get(new, "key").as_deref(), Some("value"), "it has time left");
    cluster.world.run_for(ms(50_000));
    cluster.start(old);
    cluster.ready(old);
    cluster.put(cluster.leader(), "other", "2").unwrap();
    for node in cluster.nodes.clone() {
        assert_eq!(cluster.get(node, "key"), None, "node {node}");
    }
}

/// One wall clock that is an hour ahead is outvoted by those of the voters that lanes reach; of
/// two, the lower one counts.
#[test]
fn tt_01_a_key_does_not_expire_early_though_the_next_leader_is_an_hour_ahead() {
    for (seed, old_is_dead) in [(67, false), (68, true)] {
        let mut cluster = Cluster::up(seed, 3, 1);
        let old = cluster.leader();
        let [other, ahead] = cluster.others(old)[..] else { panic!("three nodes") };
        let client = cluster.engine(old).client();
        let put = async move { client.put_with_ttl("key", "value", Duration::from_mins(1)).await };
        cluster.run(put).unwrap();
        cluster.world.clock(ahead).jump_wall(3_600_000);
        cluster.world.run_for(ms(200));
        if old_is_dead {
            // Its word is too old to count in the end.
            cluster.crash(old, Crash::Power);
            cluster.world.run_for(ms(5_000));
            if cluster.leader_of(&[other, ahead]) == ahead {
                cluster.hand_over(ahead, other);
            }
            cluster.hand_over(other, ahead);
        } else {
            cluster.hand_over(old, ahead);
        }
        cluster.put(ahead, "other", "1").unwrap();
        for node in cluster.alive() {
            assert_eq!(cluster.get(node, "key").as_deref(), Some("value"), "node {node}");
        }
        cluster.world.run_for(ms(60_000));
        cluster.put(cluster.leader(), "other", "2").unwrap();
        for node in cluster.alive() {
            assert_eq!(cluster.get(node, "key"), None, "node {node}");
        }
    }
}
