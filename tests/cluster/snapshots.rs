//! A replica that is too far behind gets the state as a whole.

use bowline_env::sim::Crash;

use crate::kit::Cluster;

/// Writes more than the logs keep.
fn fill(cluster: &Cluster, node: u64, round: u64) {
    let client = cluster.engine(node).client();
    cluster.run(async move {
        for nth in 0..3_000_u64 {
            let value = format!("{round}-{nth}-{}", "x".repeat(1_000));
            loop {
                match client.put(format!("key-{}", nth % 700), &value).await {
                    Ok(()) => break,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
        }
    });
}

fn installs(cluster: &Cluster, node: u64) -> u64 {
    cluster.engine(node).metrics().cores.iter().map(|core| core.installs).sum()
}

#[test]
fn a_node_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::up(11, 3, 2);
    let leader = cluster.leader();
    let away = if leader == 3 { 2 } else { 3 };
    cluster.crash(away, Crash::Power);
    fill(&cluster, leader, 1);
    cluster.start(away);
    cluster.ready(away);
    assert!(installs(&cluster, away) > 0, "its peers' logs do not reach back that far");
    for nth in 0..700 {
        let key = format!("key-{nth}");
        assert_eq!(cluster.get(away, &key), cluster.get(leader, &key), "{key}");
    }
    // It is a full member: it carries the cluster with one other.
    let other = 6 - leader - away;
    cluster.crash(other, Crash::Kill);
    cluster.put(leader, "after", "1").unwrap();
    // And what it installed survives a crash of its own.
    cluster.crash(away, Crash::Power);
    cluster.start(away);
    cluster.ready(away);
    assert_eq!(cluster.get(away, "after").as_deref(), Some("1"));
    assert_eq!(cluster.get(away, "key-1"), cluster.get(leader, "key-1"));
}
