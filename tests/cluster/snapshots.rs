//! A replica that is too far behind gets the state as a whole.

use std::time::Duration;

use bowline_env::sim::Crash;

use crate::kit::{Cluster, ms};

fn installs(cluster: &Cluster, node: u64) -> u64 {
    cluster.engine(node).metrics().cores.iter().map(|core| core.installs).sum()
}

#[test]
fn sn_06_a_node_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::up(11, 3, 2);
    let leader = cluster.leader();
    let away = if leader == 3 { 2 } else { 3 };
    cluster.crash(away, Crash::Power);
    cluster.fill(leader, 1, 3_000);
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

/// Bug: seed 186 of the clusters: a state under way from a leader that was gone kept the next
/// leader's out for as long as it was waited for: ten minutes.
#[test]
fn sn_04_a_state_comes_from_the_next_leader_when_the_first_is_gone() {
    let mut cluster = Cluster::up(13, 3, 1);
    let leader = cluster.leader();
    let away = if leader == 3 { 2 } else { 3 };
    cluster.crash(away, Crash::Power);
    cluster.fill(leader, 1, 3_000);
    // Pieces take their time, so that the first sender is lost in the middle.
    cluster.world.link(leader, away).slow(2_000);
    cluster.start(away);
    cluster.world.run_for(ms(1_000));
    assert_eq!(installs(&cluster, away), 0, "it is under way");
    cluster.crash(leader, Crash::Power);
    cluster.ready_within(away, Duration::from_secs(20)).unwrap();
    assert!(installs(&cluster, away) > 0);
}
