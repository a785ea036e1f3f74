//! Writes reach a majority, survive their leader, and reach who was away.

use bowline::Error;
use bowline_env::sim::Crash;

use crate::kit::Cluster;

#[test]
fn three_nodes_elect_and_replicate() {
    let cluster = Cluster::up(1, 3, 4);
    let leader = cluster.leader();
    for nth in 0..20 {
        cluster.put(leader, &format!("key-{nth}"), &format!("value-{nth}")).unwrap();
    }
    for node in [1, 2, 3] {
        for nth in 0..20 {
            let value = cluster.get(node, &format!("key-{nth}"));
            assert_eq!(value, Some(format!("value-{nth}")), "node {node}");
        }
    }
}

#[test]
fn not_leader_names_who_leads() {
    let cluster = Cluster::up(2, 3, 2);
    let leader = cluster.leader();
    let other = if leader == 1 { 2 } else { 1 };
    let error = cluster.put(other, "key", "value").unwrap_err();
    let Error::NotLeader { leader_address, leader: hint, .. } = error else { panic!("{error}") };
    assert_eq!(leader_address.as_deref(), Some(&*format!("app-{leader}:80")));
    assert_eq!(hint.unwrap().id.0, leader);
}

#[test]
fn a_leader_that_dies_is_replaced_and_nothing_is_lost() {
    let mut cluster = Cluster::up(3, 3, 4);
    let first = cluster.leader();
    for nth in 0..10 {
        cluster.put(first, &format!("key-{nth}"), "before").unwrap();
    }
    cluster.crash(first, Crash::Power);
    let second = cluster.leader();
    assert_ne!(first, second);
    for nth in 0..10 {
        assert_eq!(cluster.get(second, &format!("key-{nth}")).as_deref(), Some("before"));
        cluster.put(second, &format!("key-{nth}"), "after").unwrap();
    }
    cluster.start(first);
    cluster.ready(first);
    for nth in 0..10 {
        assert_eq!(cluster.get(first, &format!("key-{nth}")).as_deref(), Some("after"));
    }
}
