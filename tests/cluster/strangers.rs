//! Peers that are not what they should be: of another cluster, with another disk, with an old one.

use std::time::Duration;

use bowline_env::Nanos;
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

/// A follower that alone had an acknowledged write beside its leader gets an old disk back. Whom it
/// dials has met later lives of it.
#[test]
fn wa_10_a_node_with_an_old_copy_of_its_disk_gives_no_vote() {
    let (leader, old, third) = (1, 2, 3);
    let mut cluster = Cluster::up(53, 3, 1);
    let disk = cluster.world.disk(old);
    cluster.put(cluster.leader(), "key", "before").unwrap();
    cluster.crash(old, Crash::Power);
    let files = disk.files().into_iter();
    let copy: Vec<_> = files.map(|name| (disk.durable(&name).unwrap(), name)).collect();
    for _ in 0..3 {
        cluster.start(old);
        cluster.ready(old);
        cluster.world.run_for(Nanos(20_000_000_000));
        cluster.crash(old, Crash::Power);
    }
    cluster.start(old);
    cluster.ready(old);
    assert_eq!(cluster.leader(), leader);
    cluster.part(&[third], &[leader, old]);
    cluster.put(leader, "key", "after").unwrap();
    cluster.crash(old, Crash::Power);
    disk.wipe();
    for (bytes, name) in &copy {
        disk.place(name, bytes);
    }
    cluster.mend();
    cluster.part(&[leader], &[old, third]);
    cluster.start(old);
    cluster.world.run_for(Nanos(60_000_000_000));
    let seen = cluster.try_get(third, "key");
    assert!(seen.is_err(), "an acknowledged write is gone: {seen:?}");
}
