//! Peers that are not what they should be: of another cluster, with another disk, with an old one.

use std::time::Duration;

use bowline_env::sim::Crash;

use crate::kit::Cluster;

#[test]
fn mc_10_a_node_of_another_cluster_is_refused() {
    for stranger in [1, 3] {
        let mut cluster = Cluster::new(51, 3, 2);
        cluster.setup(stranger).cluster = "another";
        for node in cluster.nodes.clone() {
            cluster.start(node);
        }
        for node in cluster.others(stranger) {
            cluster.ready_within(node, Duration::from_secs(10)).unwrap();
        }
        let leader = cluster.leader();
        assert_ne!(leader, stranger);
        cluster.put(leader, "key", "value").unwrap();
        let ready = cluster.ready_within(stranger, Duration::from_secs(20));
        assert!(ready.is_err(), "it is part of nothing");
        assert_eq!(cluster.applied(stranger, "key"), None);
        let lanes = |node| cluster.engine(node).metrics().cores[0].lanes_up;
        assert_eq!(lanes(stranger), 0);
    }
}

#[test]
fn mc_05_a_known_node_with_an_empty_disk_is_refused() {
    for wiped in [1, 3] {
        let mut cluster = Cluster::up(52, 3, 2);
        cluster.put(cluster.leader(), "key", "value").unwrap();
        cluster.crash(wiped, Crash::Power);
        cluster.world.disk(wiped).wipe();
        cluster.start(wiped);
        let ready = cluster.ready_within(wiped, Duration::from_secs(20));
        assert!(ready.is_err(), "it may have forgotten a vote");
        // Nobody knows it, so nobody follows it, and it follows nobody.
        assert_eq!(cluster.applied(wiped, "key"), None, "node {wiped}");
        let leader = cluster.leader_of(&cluster.others(wiped));
        cluster.put(leader, "key", "more").unwrap();
    }
}
