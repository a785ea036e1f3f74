//! Peers that are not what they should be: of another cluster, with another bound of an entry, with
//! another disk, with an old one.

use std::time::Duration;

use bowline::{Code, PeerFault};
use bowline_env::Name;
use bowline_env::sim::{Crash, SimDisk};

use crate::kit::{Cluster, ms};

/// Starts all nodes: the others work, without the stranger.
#[track_caller]
fn is_part_of_nothing(cluster: &mut Cluster, stranger: u64) {
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
}

#[test]
fn mc_10_a_node_of_another_cluster_is_refused() {
    for stranger in [1, 3] {
        let mut cluster = Cluster::new(51, 3, 2);
        cluster.setup(stranger).cluster = "another";
        is_part_of_nothing(&mut cluster, stranger);
        let lanes = |node| cluster.engine(node).metrics().cores[0].lanes_up;
        assert_eq!(lanes(stranger), 0);
    }
}

/// A leader that took an entry which the others have no room for sent it for ever, and nothing that
/// came after it was committed: the smaller of two bounds held for frames, and the own one for
/// entries.
#[test]
fn a_node_that_was_founded_with_another_frame_cap_is_refused_by_name() {
    for stranger in [1, 3] {
        let mut cluster = Cluster::new(55, 3, 2);
        let setup = cluster.setup(stranger);
        (setup.frame_cap, setup.slot_bytes) = (Some(32 << 10), 256 << 10);
        is_part_of_nothing(&mut cluster, stranger);
        let core = |node| cluster.engine(node).metrics().cores[0].clone();
        assert_eq!(core(stranger).lanes_up, 0);
        let refused = |node| core(node).peers_refused[PeerFault::FrameCap.place()];
        assert!(cluster.nodes.iter().all(|node| refused(*node) > 0), "both sides say why");
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

/// The log of a stopped node takes what it was founded for, whatever the configuration says now; a
/// raised bound had callers told to try again for ever.
#[test]
fn a_restart_with_another_frame_cap_is_refused_by_name_and_changes_nothing() {
    let mut cluster = Cluster::up(56, 3, 2);
    cluster.put(cluster.leader(), "key", "before").unwrap();
    let node = cluster.follower();
    cluster.stop(node);
    let before = copy_of(&cluster.world.disk(node));
    let setup = cluster.setup(node);
    let founded = setup.clone();
    (setup.frame_cap, setup.slot_bytes) = (Some(32 << 10), 256 << 10);
    let error = cluster.try_start(node).unwrap_err();
    assert_eq!(error.code(), Code::FOUNDED_OTHERWISE, "{error:#}");
    let text = error.to_string();
    assert!(text.contains("founded with frame cap \"16KiB\", configured \"32KiB\""), "{text}");
    assert!(copy_of(&cluster.world.disk(node)) == before, "a refused start writes nothing");
    *cluster.setup(node) = founded;
    cluster.start(node);
    cluster.ready(node);
    cluster.put(cluster.leader(), "key", "after").unwrap();
    assert_eq!(cluster.get(node, "key").as_deref(), Some("after"));
}

/// What the configuration does not say, the log says: a value between the two bounds is refused
/// before it is queued.
#[test]
fn a_configuration_without_a_frame_cap_takes_that_of_the_log() {
    let mut cluster = Cluster::up(57, 3, 1);
    for node in cluster.nodes.clone() {
        cluster.crash(node, Crash::Power);
        let setup = cluster.setup(node);
        setup.frame_cap = None;
        // The default cap needs larger slots and logs, if only in the configuration.
        setup.more.push(("wal.slot_bytes", "\"8MiB\"".to_owned()));
        setup.more.push(("wal.log_bytes", "\"64MiB\"".to_owned()));
    }
    cluster.start_all();
    let leader = cluster.leader();
    let error = cluster.put(leader, "key", &"x".repeat(20 << 10)).unwrap_err();
    assert_eq!(error.code(), Code::TOO_LARGE, "{error:#}");
    cluster.put(leader, "key", &"x".repeat(4 << 10)).unwrap();
}

/// What is durable on a disk.
fn copy_of(disk: &SimDisk) -> Vec<(Name, Vec<u8>)> {
    let files = disk.files().into_iter();
    files.map(|name| (name.clone(), disk.durable(&name).unwrap())).collect()
}

fn put_back(disk: &SimDisk, copy: &[(Name, Vec<u8>)]) {
    disk.wipe();
    for (name, bytes) in copy {
        disk.place(name, bytes);
    }
}

/// Node 1 leads; `old` gets a copy of its disk back that is `lives` lives old, and alone had an
/// acknowledged write beside the leader. The copy is started `starts` times out of sight before
/// `third`, which met the later lives, meets it without the leader.
fn wa_10(old: u64, (lives, starts): (u32, u32)) -> Cluster {
    let (leader, third) = (1, 5 - old);
    let mut cluster = Cluster::up(53, 3, 1);
    let disk = cluster.world.disk(old);
    cluster.put(cluster.leader(), "key", "before").unwrap();
    cluster.crash(old, Crash::Power);
    let copy = copy_of(&disk);
    for _ in 1..lives {
        cluster.start(old);
        cluster.ready(old);
        cluster.world.run_for(ms(20_000));
        cluster.crash(old, Crash::Power);
    }
    cluster.start(old);
    cluster.ready(old);
    cluster.world.run_for(ms(20_000));
    assert_eq!(cluster.leader(), leader);
    cluster.part(&[third], &[leader, old]);
    cluster.put(leader, "key", "after").unwrap();
    cluster.crash(old, Crash::Power);
    put_back(&disk, &copy);
    cluster.part(&[old], &[leader, third]);
    for _ in 0..starts {
        cluster.start(old);
        cluster.world.run_for(ms(5_000));
        cluster.crash(old, Crash::Power);
    }
    cluster.mend();
    cluster.part(&[leader], &[old, third]);
    cluster.start(old);
    cluster.world.run_for(ms(60_000));
    let seen = cluster.try_get(third, "key");
    assert!(seen.is_err(), "an acknowledged write is gone: {seen:?}");
    cluster
}

/// The lower of two nodes dials, so a copy is met in both ways: node 2 dials, node 3 is dialed.
#[test]
fn wa_10_a_node_with_an_old_copy_of_its_disk_gives_no_vote() {
    for old in [2, 3] {
        let mut cluster = wa_10(old, (4, 0));
        // Those who are whole go on, and nothing is lost.
        cluster.mend();
        let leader = cluster.leader_of(&cluster.others(old));
        assert_eq!(cluster.get(leader, "key").as_deref(), Some("after"));
        assert!(cluster.ready_within(old, Duration::from_secs(20)).is_err());
        assert_eq!(cluster.engine(old).metrics().cores[0].lanes_up, 0);
        // What it was told it knows for good.
        cluster.stop(old);
        let error = cluster.try_start(old).unwrap_err();
        assert_eq!(error.code(), Code::OLD_COPY, "{error:#}");
    }
}

/// A copy that is one life old begins the life of the same number as the one that was lost.
#[test]
fn wa_10_a_copy_that_is_one_life_old_gives_no_vote() {
    for old in [2, 3] {
        drop(wa_10(old, (1, 0)));
    }
}

/// Its starts soon outnumber those that its peers met.
#[test]
fn wa_10_a_copy_that_was_started_more_often_gives_no_vote() {
    for old in [2, 3] {
        drop(wa_10(old, (2, 4)));
    }
}

/// Lives that a peer never met are nothing against a node that remembers those which it met.
#[test]
fn a_node_that_was_started_often_out_of_sight_is_taken_back() {
    for node in [2, 3] {
        let (leader, third) = (1, 5 - node);
        let mut cluster = Cluster::up(54, 3, 2);
        cluster.world.run_for(ms(5_000));
        cluster.part(&[node], &[leader, third]);
        for how in [Crash::Kill, Crash::Power, Crash::Kill] {
            cluster.crash(node, how);
            cluster.start(node);
            cluster.world.run_for(ms(5_000));
        }
        cluster.mend();
        cluster.ready(node);
        cluster.part(&[leader], &[node, third]);
        let next = cluster.leader_of(&[node, third]);
        cluster.put(next, "key", "value").unwrap();
    }
}
