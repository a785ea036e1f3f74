//! Nets that are cut, one way or both: who leads, who answers, and what is never answered.

use std::time::Duration;

use bowline::Error;
use bowline_env::Nanos;

use crate::kit::{Cluster, ms};

/// Far beyond the support of 600 ms and the rounds of an election.
const SETTLED: Nanos = ms(5_000);

#[test]
fn rs_14_a_leader_that_is_cut_off_is_replaced_and_its_writes_are_not_acknowledged() {
    let cluster = Cluster::up(11, 3, 4);
    let old = cluster.leader();
    let others = cluster.others(old);
    cluster.put(old, "key", "before").unwrap();
    cluster.part(&[old], &others);
    let lost = cluster.begin_put(old, "key", "lost");
    let new = cluster.leader_of(&others);
    cluster.put(new, "key", "kept").unwrap();
    cluster.world.run_for(SETTLED);
    assert!(!cluster.engine(old).is_leader(), "it knows that it leads no more");
    assert!(lost.take().unwrap().unwrap_err().maybe_applied(), "nobody knows yet");
    cluster.mend();
    cluster.world.run_for(SETTLED);
    for node in cluster.nodes.clone() {
        assert_eq!(cluster.get(node, "key").as_deref(), Some("kept"), "node {node}");
        assert_eq!(cluster.applied(node, "key").as_deref(), Some("kept"), "node {node}");
    }
}

/// What another leader put at a write's index is not that write.
#[test]
fn rs_17_a_write_whose_place_another_leader_took_is_certainly_not_done() {
    let mut cluster = Cluster::new(10, 3, 1);
    for setup in &mut cluster.setups {
        setup.op_timeout_ms = 60_000;
    }
    cluster.start_all();
    let old = cluster.leader();
    let others = cluster.others(old);
    cluster.part(&[old], &others);
    let lost: Vec<_> =
        (0..5).map(|nth| cluster.begin_put(old, &format!("lost-{nth}"), "value")).collect();
    let new = cluster.leader_of(&others);
    for nth in 0..5 {
        cluster.put(new, &format!("kept-{nth}"), "value").unwrap();
    }
    cluster.mend();
    cluster.world.run_for(SETTLED);
    for (nth, put) in lost.into_iter().enumerate() {
        let error = put.take().expect("its place is applied").unwrap_err();
        assert!(!error.maybe_applied(), "{nth}: {error}");
        assert_eq!(cluster.get(new, &format!("lost-{nth}")), None);
    }
}

#[test]
fn rs_14_a_leader_that_hears_nobody_is_replaced() {
    let cluster = Cluster::up(12, 3, 4);
    let old = cluster.leader();
    let others = cluster.others(old);
    cluster.silence(&others, &[old]);
    let new = cluster.leader_of(&others);
    assert_ne!(new, old);
    cluster.put(new, "key", "value").unwrap();
    cluster.mend();
    cluster.world.run_for(SETTLED);
    assert_eq!(cluster.get(old, "key").as_deref(), Some("value"));
}

#[test]
fn a_leader_that_is_not_heard_is_replaced() {
    let cluster = Cluster::up(13, 3, 4);
    let old = cluster.leader();
    let others = cluster.others(old);
    cluster.silence(&[old], &others);
    let new = cluster.leader_of(&others);
    assert_ne!(new, old);
    cluster.put(new, "key", "value").unwrap();
    cluster.mend();
    cluster.world.run_for(SETTLED);
    assert_eq!(cluster.get(old, "key").as_deref(), Some("value"));
}

#[test]
fn rs_14_a_cut_between_two_followers_disturbs_nobody() {
    let cluster = Cluster::up(14, 3, 4);
    let leader = cluster.leader();
    let before = cluster.terms(leader);
    let [a, b] = cluster.others(leader)[..] else { panic!("three nodes") };
    cluster.part(&[a], &[b]);
    for nth in 0..20 {
        cluster.put(leader, &format!("key-{nth}"), "value").unwrap();
        cluster.world.run_for(ms(500));
    }
    assert_eq!(cluster.terms(leader), before);
    assert_eq!(cluster.terms(a), before);
    assert_eq!(cluster.terms(b), before);
}

#[test]
fn rs_12_a_follower_that_comes_back_disturbs_nobody() {
    let cluster = Cluster::up(15, 3, 4);
    let leader = cluster.leader();
    let before = cluster.terms(leader);
    let away = cluster.follower();
    cluster.part(&[away], &cluster.others(away));
    cluster.world.run_for(Nanos(30_000_000_000));
    cluster.put(leader, "key", "value").unwrap();
    cluster.mend();
    cluster.world.run_for(SETTLED);
    assert_eq!(cluster.terms(leader), before, "no election, no higher term");
    assert_eq!(cluster.get(away, "key").as_deref(), Some("value"));
}

#[test]
fn rd_03_a_leader_that_reaches_one_of_four_answers_no_read() {
    let mut cluster = Cluster::new(16, 5, 2);
    for setup in &mut cluster.setups {
        setup.lease_reads = true;
        setup.op_timeout_ms = 1_000;
    }
    cluster.start_all();
    let old = cluster.leader();
    cluster.put(old, "key", "old").unwrap();
    let friend = cluster.others(old)[0];
    let far: Vec<u64> = cluster.others(old).into_iter().filter(|it| *it != friend).collect();
    cluster.part(&[old, friend], &far);
    let new = cluster.leader_of(&far);
    cluster.put(new, "key", "new").unwrap();
    for node in [old, friend] {
        let client = cluster.engine(node).client();
        let reads = async move { (client.get("key").await, client.get_lease("key").await) };
        let (read, lease) = cluster.run(reads);
        assert!(read.is_err() && lease.is_err(), "node {node}: {read:?}, {lease:?}");
    }
    assert_eq!(cluster.applied(old, "key").as_deref(), Some("old"), "what it has it may show");
}

#[test]
fn a_minority_takes_no_write_and_says_so() {
    let mut cluster = Cluster::new(17, 5, 2);
    for setup in &mut cluster.setups {
        setup.op_timeout_ms = 1_000;
    }
    cluster.start_all();
    let leader = cluster.leader();
    let friend = cluster.others(leader)[0];
    let far: Vec<u64> = cluster.others(leader).into_iter().filter(|it| *it != friend).collect();
    cluster.part(&[leader, friend], &far);
    cluster.world.run_for(SETTLED);
    for node in [leader, friend] {
        let error = cluster.put(node, "key", "value").unwrap_err();
        assert!(matches!(error, Error::NoLeader { .. }), "node {node}: {error}");
        assert!(!error.maybe_applied());
    }
}

#[test]
fn ov_03_ten_minutes_without_a_quorum_end_well() {
    let mut cluster = Cluster::new(18, 3, 2);
    for setup in &mut cluster.setups {
        setup.op_timeout_ms = 1_000;
    }
    cluster.start_all();
    cluster.put(cluster.leader(), "key", "before").unwrap();
    cluster.part(&[1], &[2, 3]);
    cluster.part(&[2], &[3]);
    let until = cluster.world.now().after(Nanos(600_000_000_000));
    let mut answers = 0;
    while cluster.world.now() < until {
        for node in cluster.nodes.clone() {
            let error = cluster.put(node, "key", "lost").unwrap_err();
            let refused = matches!(error, Error::NoLeader { .. } | Error::NotLeader { .. });
            assert!(refused || error.maybe_applied(), "{error}");
            answers += 1;
        }
        cluster.world.run_for(Nanos(10_000_000_000));
    }
    assert!(answers > 100, "nobody hangs: {answers}");
    cluster.mend();
    let leader = cluster.leader();
    cluster.put(leader, "key", "after").unwrap();
    for node in cluster.nodes.clone() {
        cluster.ready_within(node, Duration::from_secs(10)).unwrap();
        assert_eq!(cluster.get(node, "key").as_deref(), Some("after"));
    }
}

#[test]
fn nw_01_a_net_of_three_parts_that_heals_has_one_leader_and_one_state() {
    let cluster = Cluster::up(19, 5, 8);
    let mut kept = 0;
    for round in 0..6_u64 {
        let away = [1 + round % 5, 1 + (round + 1) % 5];
        let rest: Vec<u64> =
            cluster.nodes.iter().copied().filter(|node| !away.contains(node)).collect();
        cluster.part(&away[..1], &away[1..]);
        cluster.part(&away, &rest);
        let leader = cluster.leader_of(&rest);
        for shard in 0..8 {
            cluster.put(leader, &format!("key-{shard}"), &format!("{round}")).unwrap();
            kept += 1;
        }
        cluster.mend();
    }
    cluster.world.run_for(SETTLED);
    assert_eq!(kept, 48);
    for node in cluster.nodes.clone() {
        for shard in 0..8 {
            let value = cluster.applied(node, &format!("key-{shard}"));
            assert_eq!(value.as_deref(), Some("5"), "node {node}");
        }
    }
}
