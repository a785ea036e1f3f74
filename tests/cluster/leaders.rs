//! Leadership that is handed over on purpose.

use bowline::{Code, NodeId, ShardId};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, SimTask};

use crate::kit::{Cluster, LIMIT, ms};
use crate::load::Load;

#[test]
fn a_leadership_is_handed_over_without_an_error() {
    let cluster = Cluster::up(41, 3, 2);
    let first = cluster.leader();
    let second = if first == 3 { 1 } else { first + 1 };
    cluster.put(first, "key", "before").unwrap();
    for shard in [0, 1] {
        let shard = cluster.engine(first).shard(ShardId(shard)).unwrap();
        cluster.run(async move { shard.transfer(NodeId(second)).await }).unwrap();
    }
    assert_eq!(cluster.leader(), second);
    assert_eq!(cluster.get(second, "key").as_deref(), Some("before"));
    cluster.put(second, "key", "after").unwrap();
    let shard = cluster.engine(first).shard(ShardId(0)).unwrap();
    let error = cluster.run(async move { shard.transfer(NodeId(first)).await }).unwrap_err();
    assert_eq!(error.code(), Code::NOT_LEADER);
    let shard = cluster.engine(second).shard(ShardId(0)).unwrap();
    let error = cluster.run(async move { shard.transfer(NodeId(9)).await }).unwrap_err();
    assert_eq!(error.code(), Code::MEMBERSHIP);
}

#[test]
fn a_node_that_stops_hands_its_leaderships_over_first() {
    let mut cluster = Cluster::up(42, 3, 4);
    let first = cluster.leader();
    cluster.put(first, "key", "value").unwrap();
    let begin = cluster.world.now();
    cluster.stop(first);
    let second = cluster.leader();
    assert_ne!(first, second);
    let took = cluster.world.now().since(begin);
    assert!(took < Nanos::from_millis(300), "nobody waits for a promise to run out: {took:?}");
    cluster.put(second, "key", "after").unwrap();
}

/// Promises of its former life keep it from standing for 600 ms; the shards take writes so long.
#[test]
fn a_transfer_to_who_just_came_back_stops_no_writes() {
    for by_admin in [true, false] {
        let mut cluster = Cluster::up(47, 3, 1);
        let (leader, back) = (cluster.leader(), cluster.follower());
        cluster.stop(back);
        cluster.world.run_for(ms(700));
        cluster.start(back);
        cluster.ready(back);
        let load = Load::begin(&cluster, &cluster.nodes);
        cluster.world.run_for(ms(50));
        if by_admin {
            let admin = cluster.engine(leader).admin();
            let moved = cluster.run(async move { admin.transfer(NodeId(back)).await });
            moved.unwrap().complete().unwrap();
        } else {
            cluster.hand_over(leader, back);
        }
        assert_eq!(cluster.leader(), back);
        cluster.world.run_for(ms(600));
        assert!(load.gap() < ms(150), "no writes for {:?}", load.gap());
        load.end(&cluster, back);
    }
}

#[test]
fn a_preferred_leader_that_is_back_leads_again() {
    let mut cluster = Cluster::up(43, 3, 4);
    assert_eq!(cluster.leader(), 1, "the lowest id is preferred");
    cluster.crash(1, Crash::Kill);
    assert_eq!(cluster.leader(), 2, "then the next one");
    cluster.put(2, "key", "value").unwrap();
    cluster.start(1);
    cluster.ready(1);
    assert_eq!(cluster.leader(), 2, "not at once");
    cluster.world.run_for(Nanos::from_millis(15_000));
    assert_eq!(cluster.leader(), 1);
    assert_eq!(cluster.get(1, "key").as_deref(), Some("value"));
}

#[test]
fn leaders_are_spread_over_the_members_if_asked_for() {
    let mut cluster = Cluster::new(44, 3, 6);
    cluster.set("cluster.leaders", "\"spread\"");
    cluster.start_all();
    for node in [1, 2, 3] {
        let led =
            (0..6).filter(|shard| cluster.engine(node).shard(ShardId(*shard)).unwrap().is_leader());
        assert_eq!(led.count(), 2, "node {node}");
    }
}

/// Bug: openraft d000ee20: a transfer that had failed moved the leadership in the end.
#[test]
fn rs_15_a_transfer_to_who_cannot_lead_ends_and_comes_to_nothing_later() {
    let up = |seed| {
        let mut cluster = Cluster::new(seed, 3, 1);
        cluster.set("cluster.leaders", "\"any\"");
        cluster.start_all();
        cluster
    };
    let begin = |cluster: &Cluster, from: u64, to: u64| {
        let shard = cluster.engine(from).shard(ShardId(0)).unwrap();
        cluster.world.spawn_client(async move { shard.transfer(NodeId(to)).await })
    };
    // Who is dead, and comes back.
    let mut cluster = up(45);
    let (leader, dead) = (cluster.leader(), cluster.follower());
    cluster.crash(dead, Crash::Kill);
    let begun = cluster.world.now();
    let moved = begin(&cluster, leader, dead);
    cluster.world.run_until(|| moved.is_done(), LIMIT).unwrap();
    assert!(moved.take().unwrap().is_err());
    assert!(
        cluster.world.now().since(begun) <= Nanos::SECOND,
        "it is bounded {:?}",
        cluster.world.now().since(begun)
    );
    cluster.put(leader, "key", "1").unwrap();
    let term = cluster.term(leader, 0);
    cluster.start(dead);
    cluster.world.run_for(Nanos::from_millis(5_000));
    assert_eq!((cluster.leader(), cluster.term(leader, 0)), (leader, term), "it stays here");

    // Whose disk hangs: what it has not got is not known to it when the time is over.
    let cluster = up(46);
    let (leader, late) = (cluster.leader(), cluster.follower());
    cluster.world.disk(late).stuck(Nanos::from_millis(3_000));
    for nth in 0..20 {
        cluster.put(leader, &format!("key-{nth}"), "1").unwrap();
    }
    let term = cluster.term(leader, 0);
    let moved = begin(&cluster, leader, late);
    let waits = cluster.begin_put(leader, "key", "2");
    cluster.world.run_until(|| moved.is_done() && waits.is_done(), LIMIT).unwrap();
    assert!(moved.take().unwrap().is_err());
    assert!(waits.take().unwrap().is_ok(), "a write waits for the end of it");
    cluster.world.run_for(Nanos::from_millis(8_000));
    assert_eq!((cluster.leader(), cluster.term(leader, 0)), (leader, term), "it stays here");

    // Two at once: one of them at most, and then nothing more.
    let cluster = up(47);
    let leader = cluster.leader();
    let moved: Vec<_> =
        cluster.others(leader).into_iter().map(|to| (to, begin(&cluster, leader, to))).collect();
    cluster.world.run_until(|| moved.iter().all(|(_, task)| task.is_done()), LIMIT).unwrap();
    let won: Vec<_> = moved.into_iter().filter(|(_, task)| task.take().unwrap().is_ok()).collect();
    assert_eq!(won.len(), 1, "one moves, the other is refused");
    let second = cluster.leader();
    assert_eq!(second, won[0].0);
    let term = cluster.term(second, 0);
    cluster.world.run_for(Nanos::from_millis(5_000));
    assert_eq!((cluster.leader(), cluster.term(second, 0)), (second, term));
}

/// Bug: what a leader of old had in its log alone kept its bytes, its core awake, and each stop a
/// second long, until the shard's log was that long again.
#[test]
fn a_leader_of_old_forgets_what_nobody_waits_for() {
    let mut cluster = Cluster::up(58, 3, 1);
    let old = cluster.leader();
    let others = cluster.others(old);
    cluster.part(&[old], &others);
    let puts: Vec<_> =
        (0..20).map(|nth| cluster.begin_put(old, &format!("key-{nth}"), "value")).collect();
    cluster.world.run_for(ms(8_000));
    assert!(puts.iter().all(SimTask::is_done), "their time is over");
    cluster.mend();
    cluster.ready(old);
    cluster.world.run_for(ms(2_000));
    let before = cluster.world.now();
    cluster.stop(old);
    let took = cluster.world.now().since(before);
    assert!(took < ms(500), "{} ns", took.0);
}
