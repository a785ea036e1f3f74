//! Leadership that is handed over on purpose.

use bowline::{Code, NodeId, ShardId};
use bowline_env::Nanos;
use bowline_env::sim::Crash;

use crate::kit::Cluster;

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
