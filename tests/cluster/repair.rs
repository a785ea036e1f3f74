//! What a replica lost comes back from its peers.

use bowline_env::sim::Crash;

use crate::kit::Cluster;

/// Puts and makes the state durable in runs.
fn fill_and_flush(cluster: &Cluster, leader: u64) {
    for nth in 0..50 {
        cluster.put(leader, &format!("key-{nth}"), &format!("value-{nth}")).unwrap();
    }
    for node in cluster.nodes.clone() {
        cluster.get(node, "key-49");
        cluster.flush(node);
    }
}

#[test]
fn a_lost_run_comes_back_from_a_peer() {
    let mut cluster = Cluster::up(21, 3, 2);
    let leader = cluster.leader();
    fill_and_flush(&cluster, leader);
    let hurt = if leader == 3 { 2 } else { 3 };
    cluster.crash(hurt, Crash::Power);
    let disk = cluster.world.disk(hurt);
    let runs: Vec<_> =
        disk.files().into_iter().filter(|name| name.file().starts_with("run-")).collect();
    assert!(!runs.is_empty(), "the state is in runs");
    for run in &runs {
        disk.take_away(run);
    }
    cluster.start(hurt);
    cluster.ready(hurt);
    for nth in 0..50 {
        assert_eq!(cluster.get(hurt, &format!("key-{nth}")), Some(format!("value-{nth}")));
    }
}
