//! A replica that is too far behind gets the state as a whole.

use std::time::Duration;

use bowline_env::sim::{Crash, WriteFault};

use crate::kit::{Cluster, LIMIT, ms};

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
    assert_eq!(half_written(&cluster, away), [""; 0], "what came of the first one is gone");
}

/// Bytes of states that a node received in its life.
fn received(cluster: &Cluster, node: u64) -> u64 {
    cluster.engine(node).metrics().cores.iter().map(|core| core.state_bytes).sum()
}

/// Bytes that a node is sent until it has the state; its sender loses power after `cut` of them,
/// and has a later state by then.
fn bytes_with_a_cut(cut: Option<u64>) -> u64 {
    let mut cluster = Cluster::up(15, 3, 1);
    let leader = cluster.leader();
    let away = if leader == 3 { 2 } else { 3 };
    let other = 6 - leader - away;
    cluster.crash(away, Crash::Power);
    cluster.fill(leader, 1, 3_000);
    cluster.flush(leader);
    cluster.world.link(leader, away).slow(500);
    cluster.start(away);
    if let Some(cut) = cut {
        cluster.world.run_until(|| received(&cluster, away) >= cut, LIMIT).unwrap();
        cluster.fill(leader, 2, 20);
        cluster.flush(leader);
        assert_eq!(installs(&cluster, away), 0, "it is under way");
        // Nobody else has a state to offer.
        cluster.crash(other, Crash::Power);
        cluster.crash(leader, Crash::Power);
        cluster.start(leader);
    }
    cluster.world.run_until(|| installs(&cluster, away) > 0, LIMIT).unwrap();
    assert_eq!(half_written(&cluster, away), [""; 0]);
    let bytes = received(&cluster, away);
    cluster.ready(away);
    for nth in 0..700 {
        let key = format!("key-{nth}");
        assert_eq!(cluster.get(away, &key), cluster.get(leader, &key), "{key}");
    }
    bytes
}

#[test]
fn sn_04_a_state_goes_on_where_it_was_when_its_sender_is_back() {
    let whole = bytes_with_a_cut(None);
    assert!(whole > 512 << 10, "it takes several pieces: {whole}");
    for part in [1, 2, 3] {
        let cut = whole * part / 4;
        let bytes = bytes_with_a_cut(Some(cut));
        // Pieces that were under way are sent again.
        assert!(bytes <= whole + whole / 5, "cut after {cut}: {bytes} bytes for {whole}");
    }
}

/// What keeps a state from being written where it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It is larger than what is free.
    NoRoom,
    /// The room goes half-way.
    RoomGoes,
    /// A write fails half-way.
    WriteFails,
}

/// The old state serves, nothing half written stays, and the state comes once it can.
#[test]
fn sn_05_a_state_that_cannot_be_written_leaves_the_old_one_and_comes_later() {
    for trouble in [Trouble::NoRoom, Trouble::RoomGoes, Trouble::WriteFails] {
        let mut cluster = Cluster::up(14, 3, 1);
        let leader = cluster.leader();
        let away = if leader == 3 { 2 } else { 3 };
        cluster.put(leader, "key", "old").unwrap();
        cluster.world.run_for(ms(1_000));
        assert_eq!(cluster.applied(away, "key").as_deref(), Some("old"));
        cluster.flush(away);
        cluster.crash(away, Crash::Power);
        cluster.put(leader, "key", "new").unwrap();
        cluster.fill(leader, 1, 3_000);
        let disk = cluster.world.disk(away);
        let lens = disk.files().into_iter().filter_map(|name| Some(disk.seen(&name)?.len() as u64));
        let full = lens.sum::<u64>() + (64 << 10);
        if trouble == Trouble::NoRoom {
            disk.capacity(Some(full));
        } else {
            cluster.world.link(leader, away).slow(2_000);
        }
        cluster.start(away);
        cluster.world.run_for(ms(1_000));
        match trouble {
            Trouble::NoRoom => {},
            Trouble::RoomGoes => disk.capacity(Some(full)),
            Trouble::WriteFails => disk.fail_write(1, WriteFault::Error),
        }
        for _ in 0..3 {
            assert_eq!(installs(&cluster, away), 0, "{trouble:?}");
            assert_eq!(cluster.applied(away, "key").as_deref(), Some("old"), "{trouble:?}");
            cluster.world.run_for(ms(if trouble == Trouble::WriteFails { 300 } else { 15_000 }));
        }
        disk.capacity(None);
        cluster.world.link(leader, away).slow(1);
        // It is offered again within half a minute.
        let came = || installs(&cluster, away) > 0;
        cluster.world.run_until(came, ms(60_000)).unwrap();
        // So is what the log had no room for.
        let client = cluster.engine(away).client().with_timeout(Duration::from_mins(1));
        let value = cluster.run(async move { client.get("key").await }).unwrap();
        assert_eq!(value.as_deref(), Some(&b"new"[..]), "{trouble:?}");
        assert_eq!(half_written(&cluster, away), [""; 0], "{trouble:?}");
    }
}

/// Runs of a node that nobody writes on.
fn half_written(cluster: &Cluster, node: u64) -> Vec<String> {
    let names = cluster.world.disk(node).files().into_iter().map(|name| name.to_string());
    names.filter(|name| name.rsplit('.').next() == Some("tmp")).collect()
}
