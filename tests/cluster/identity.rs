//! Who may be a member: a disk is part of a node's identity.

use std::time::Duration;

use bowline_env::sim::Crash;

use crate::kit::Cluster;

#[test]
fn an_empty_disk_under_an_old_id_is_refused_also_after_restarts() {
    let mut cluster = Cluster::up(31, 3, 2);
    let leader = cluster.leader();
    cluster.put(leader, "key", "value").unwrap();
    let replaced = if leader == 3 { 2 } else { 3 };
    for node in [1, 2, 3] {
        cluster.crash(node, Crash::Power);
    }
    cluster.world.disk(replaced).wipe();
    for node in [1, 2, 3] {
        cluster.start(node);
    }
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|node| *node != replaced).collect();
    for node in &others {
        cluster.ready(*node);
        assert_eq!(cluster.get(*node, "key").as_deref(), Some("value"));
    }
    // It could vote a second time, so nobody talks to it.
    let engine = cluster.engine(replaced).clone();
    let alone = cluster.run(async move { engine.wait_ready(Duration::from_secs(20)).await });
    assert!(alone.is_err(), "a replaced disk is no member");
}
