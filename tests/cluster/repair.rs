//! What a replica lost comes back from its peers.

use bowline::Code;
use bowline_env::Name;
use bowline_env::sim::{Crash, SimDisk};

use crate::kit::{Cluster, ms, spoil_log};

/// Every page but the header.
const ALL: std::ops::Range<u64> = 1..u64::MAX;

/// The runs on a node's disk.
fn runs(disk: &SimDisk) -> Vec<Name> {
    disk.files().into_iter().filter(|name| name.file().starts_with("run-")).collect()
}

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
    let runs = runs(&disk);
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

/// Bug: seed 89 of the clusters: the log's slots were cleaned up while a run was lost, and the
/// manifest went on as that of the empty state which stood in for the lost one.
#[test]
fn dk_07_a_lost_run_that_is_put_back_is_all_it_takes_however_busy_the_log_was() {
    let mut cluster = Cluster::new(22, 1, 2);
    // So much that the log is what runs full.
    cluster.setup(1).delta_bytes = 4 << 20;
    cluster.start_all();
    let shard_of = |cluster: &Cluster, key: &str| cluster.engine(1).shard_of(key.as_bytes());
    let hurt = shard_of(&cluster, "key-0");
    let (there, others): (Vec<_>, Vec<_>) =
        (0..100).map(|nth| format!("key-{nth}")).partition(|key| shard_of(&cluster, key) == hurt);
    for key in &there {
        cluster.put(1, key, "there").unwrap();
    }
    cluster.flush(1);
    cluster.crash(1, Crash::Power);
    let disk = cluster.world.disk(1);
    let lost = runs(&disk);
    let kept: Vec<_> = lost.iter().map(|name| disk.durable(name).unwrap()).collect();
    for name in &lost {
        disk.take_away(name);
    }
    cluster.start(1);
    let long = "x".repeat(1_000);
    for nth in 0..2_000 {
        while let Err(error) = cluster.put(1, &others[nth % others.len()], &long) {
            assert!(error.is_retryable(), "{error}");
        }
    }
    assert_eq!(cluster.try_get(1, "key-0").unwrap_err().code(), Code::RUN_DAMAGED);
    cluster.crash(1, Crash::Power);
    for (name, content) in lost.iter().zip(&kept) {
        disk.place(name, content);
    }
    cluster.start(1);
    cluster.ready(1);
    for key in &there {
        assert_eq!(cluster.get(1, key).as_deref(), Some("there"), "{key}");
    }
}

/// Flips a bit in pages of every run of a node that is up. Page 0 is the header, page 1 the first
/// with keys, the last ones the index.
fn spoil_pages(disk: &SimDisk, which: std::ops::Range<u64>) {
    for name in runs(disk) {
        let len = u64::try_from(disk.durable(&name).unwrap().len()).unwrap();
        for page in which.start..which.end.min(len / 4_096) {
            assert!(disk.flip_bit(&name, page * 4_096 + 100, 3));
        }
    }
}

#[test]
fn dk_04_a_damaged_page_is_not_believed_and_comes_back_from_a_peer() {
    let mut cluster = Cluster::new(23, 3, 1);
    // No page stays in memory: every read of the state is one of the disk.
    cluster.set("state.resident", "\"0MiB\"");
    cluster.start_all();
    let leader = cluster.leader();
    fill_and_flush(&cluster, leader);
    // More than any state on disk has: it is applied again over the state that comes.
    cluster.put(leader, "later", "1").unwrap();
    spoil_pages(&cluster.world.disk(leader), ALL);
    let error = cluster.try_get(leader, "key-7").unwrap_err();
    assert_eq!(error.code(), Code::RUN_DAMAGED);
    // Others lead and answer at once; the state that is whole comes from one of them.
    let other = cluster.others(leader)[0];
    cluster.ready(other);
    assert_eq!(cluster.get(other, "key-7").as_deref(), Some("value-7"));
    cluster.ready(leader);
    for nth in 0..50 {
        assert_eq!(cluster.get(leader, &format!("key-{nth}")), Some(format!("value-{nth}")));
    }
    assert_eq!(cluster.get(leader, "later").as_deref(), Some("1"));
    let metrics = cluster.engine(leader).metrics();
    assert_eq!(metrics.cores[0].installs, 1, "once, and for good");
}

/// Bug: seed 10021 of the clusters: whoever led a shard before it closed was forgotten.
#[test]
fn dk_04_a_follower_that_is_repaired_knows_its_leader() {
    let mut cluster = Cluster::new(25, 3, 1);
    cluster.set("state.resident", "\"0MiB\"");
    cluster.start_all();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    fill_and_flush(&cluster, leader);
    spoil_pages(&cluster.world.disk(follower), ALL);
    let error = cluster.try_get(follower, "key-7").unwrap_err();
    assert_eq!(error.code(), Code::RUN_DAMAGED);
    cluster.ready(follower);
    assert_eq!(cluster.leader(), leader, "nothing happened to it");
    assert_eq!(cluster.get(follower, "key-7").as_deref(), Some("value-7"));
}

/// Bug: seed 5 of the clusters: a leader offered a state whose file was damaged under it, for ever:
/// what it held in memory was whole. And seed 30001: what no memory held was not looked at, and the
/// damage went to a node whose own disk was good.
#[test]
fn sn_04_a_sender_looks_at_a_state_that_arrives_damaged() {
    for (resident, which) in [("\"0MiB\"", 1..2), ("\"64MiB\"", ALL)] {
        let mut cluster = Cluster::new(24, 3, 1);
        cluster.set("state.resident", resident);
        cluster.start_all();
        a_damaged_sender(cluster, which);
    }
}

fn a_damaged_sender(mut cluster: Cluster, which: std::ops::Range<u64>) {
    let leader = cluster.leader();
    fill_and_flush(&cluster, leader);
    let away = cluster.follower();
    cluster.crash(away, Crash::Power);
    let disk = cluster.world.disk(away);
    for run in runs(&disk) {
        disk.take_away(&run);
    }
    spoil_pages(&cluster.world.disk(leader), which);
    cluster.start(away);
    cluster.ready(away);
    for node in [away, leader] {
        cluster.ready(node);
        assert_eq!(cluster.get(node, "key-7").as_deref(), Some("value-7"), "node {node}");
        assert_eq!(cluster.engine(node).metrics().cores[0].installs, 1, "node {node}");
    }
}

/// The runs that one shard got since `before`.
fn new_runs(disk: &SimDisk, before: &[Name]) -> Vec<Name> {
    runs(disk).into_iter().filter(|name| !before.contains(name)).collect()
}

#[test]
fn dk_08_damage_in_different_places_is_mended_and_a_shard_lost_everywhere_is_named() {
    let mut cluster = Cluster::new(26, 3, 4);
    cluster.set("state.resident", "\"0MiB\"");
    cluster.start_all();
    let leader = cluster.leader();
    let shard_of = |key: &str| cluster.engine(leader).shard_of(key.as_bytes()).0;
    // One shard after the other is filled and flushed: which runs are whose?
    let mut owned = Vec::new();
    for shard in 0..4 {
        let names: Vec<_> = cluster.nodes.iter().map(|it| runs(&cluster.world.disk(*it))).collect();
        let keys = (0..400).map(|nth| format!("key-{nth}")).filter(|key| shard_of(key) == shard);
        let keys: Vec<_> = keys.collect();
        for key in &keys {
            cluster.put(leader, key, &format!("value of {key}")).unwrap();
        }
        for (node, names) in cluster.nodes.clone().into_iter().zip(names) {
            cluster.get(node, &keys[0]);
            cluster.flush(node);
            let new = new_runs(&cluster.world.disk(node), &names);
            assert!(!new.is_empty(), "shard {shard} is in a run on node {node}");
            owned.push((node, shard, new));
        }
    }
    let spoil = |cluster: &Cluster, node: u64, shard: u64| {
        let disk = cluster.world.disk(node);
        let own = owned.iter().filter(|(at, of, _)| (*at, *of) == (node, shard));
        for name in own.flat_map(|(_, _, names)| names).filter(|name| runs(&disk).contains(name)) {
            let pages = u64::try_from(disk.durable(name).unwrap().len()).unwrap() / 4_096;
            (1..pages).for_each(|page| assert!(disk.flip_bit(name, page * 4_096 + 100, 3)));
        }
    };
    let read_all = |cluster: &Cluster, node: u64, shard: u64| {
        let keys = (0..400).map(|nth| format!("key-{nth}")).filter(|key| shard_of(key) == shard);
        keys.map(|key| cluster.try_get(node, &key).map(|it| it == Some(format!("value of {key}"))))
            .collect::<Result<Vec<_>, _>>()
            .map(|same| assert!(same.iter().all(|same| *same), "node {node}, shard {shard}"))
    };
    // Each node has another shard damaged.
    for node in cluster.nodes.clone() {
        spoil(&cluster, node, node - 1);
        assert_eq!(read_all(&cluster, node, node - 1).unwrap_err().code(), Code::RUN_DAMAGED);
    }
    for node in cluster.nodes.clone() {
        cluster.ready(node);
        (0..3).for_each(|shard| read_all(&cluster, node, shard).unwrap());
    }
    // Nobody has the last one.
    cluster.nodes.iter().for_each(|node| spoil(&cluster, *node, 3));
    println!("{owned:?}");
    for node in cluster.nodes.clone() {
        println!("{node} {:?} {:?}", runs(&cluster.world.disk(node)), read_all(&cluster, node, 3));
    }
    for node in cluster.nodes.clone() {
        assert_eq!(read_all(&cluster, node, 3).unwrap_err().code(), Code::RUN_DAMAGED);
    }
    cluster.world.run_for(bowline_env::Nanos::from_millis(20_000));
    for node in cluster.nodes.clone() {
        let error = read_all(&cluster, node, 3).unwrap_err();
        assert_eq!(error.code(), Code::RUN_DAMAGED, "node {node}");
        assert!(error.to_string().contains("shard 3"), "{error}");
        (0..3).for_each(|shard| read_all(&cluster, node, shard).unwrap());
    }
}

/// A learner leads nothing and gives no state away.
#[test]
fn dk_04_a_voter_with_a_learner_alone_answers_what_is_whole() {
    let mut cluster = Cluster::new(33, 1, 1);
    cluster.set("state.resident", "\"0MiB\"");
    cluster.start_all();
    let learner = cluster.join();
    cluster.add(1, learner).unwrap().complete().unwrap();
    for nth in 0..50 {
        cluster.put(1, &format!("key-{nth}"), "value").unwrap();
    }
    cluster.flush(1);
    cluster.put(1, "later", "1").unwrap();
    spoil_pages(&cluster.world.disk(1), ALL);
    assert_eq!(cluster.try_get(1, "key-7").unwrap_err().code(), Code::RUN_DAMAGED);
    cluster.world.run_for(ms(2_000));
    cluster.put(1, "later", "2").unwrap();
    assert_eq!(cluster.get(1, "later").as_deref(), Some("2"));
}

/// Who its peers are says the log, where the state's own record is older.
#[test]
fn a_hole_in_the_log_of_a_founder_is_mended_by_those_that_joined() {
    let mut cluster = Cluster::up(34, 1, 1);
    for _ in 0..2 {
        cluster.grow(1);
    }
    cluster.put(1, "key", &"y".repeat(1_000)).unwrap();
    cluster.put(1, "last", "value").unwrap();
    cluster.crash(1, Crash::Kill);
    let disk = cluster.world.disk(1);
    spoil_log(&disk, b'y');
    cluster.start(1);
    cluster.ready(1);
    assert_eq!(cluster.get(1, "last").as_deref(), Some("value"));
    assert_eq!(cluster.get(1, "key").map(|value| value.len()), Some(1_000));
}
