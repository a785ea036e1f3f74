//! Changes of members that are refused, interrupted, or not heard of.

use std::sync::Arc;
use std::time::Duration;

use bowline::{ChangeReport, Code, Error, Membership, NodeId, RequestError, ShardId};
use bowline_env::Kind;
use bowline_env::sim::{Crash, WriteFault};

use crate::kit::{Cluster, ms};

#[track_caller]
fn refused(result: Result<ChangeReport, Error>) -> Error {
    let error = match result {
        Ok(report) => report.complete().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.code(), Code::MEMBERSHIP, "{error}");
    error
}

#[test]
fn mc_09_changes_that_make_no_sense_are_refused() {
    let mut cluster = Cluster::up(71, 3, 2);
    let admin = cluster.engine(2).admin();
    // Not a member.
    refused(cluster.promote(2, 9));
    refused(cluster.remove(2, 9));
    // An id twice: the same again changes nothing, another address is another node.
    let node = cluster.join();
    assert_eq!(cluster.add(2, node).unwrap().complete(), Ok(2));
    assert_eq!(cluster.add(3, node).unwrap().complete(), Ok(0));
    let other = admin.clone();
    refused(cluster.run(async move { other.add_learner(NodeId(node), "10.0.0.9:1").await }));
    for address in ["", "two words", "ten\n:1"] {
        let admin = admin.clone();
        let added = cluster.run(async move { admin.add_learner(NodeId(9), address).await });
        assert_eq!(added.unwrap_err().code(), Code::INVALID, "{address:?}");
    }
    // A learner leads nothing.
    let lead = admin.with_timeout(Duration::from_secs(2));
    refused(cluster.run(async move { lead.transfer(NodeId(node)).await }));
    // An id is not used again.
    cluster.remove(2, node).unwrap().complete().unwrap();
    assert_eq!(cluster.remove(3, node).unwrap().complete(), Ok(0), "it is so already");
    for by in [1, 2, 3] {
        refused(cluster.add(by, node));
    }
    assert_eq!(cluster.members(1), [(1, true), (2, true), (3, true)]);
    cluster.put(cluster.leader(), "key", "value").unwrap();
}

#[test]
fn mc_09_the_last_voter_is_not_removed() {
    let mut cluster = Cluster::up(72, 1, 2);
    refused(cluster.remove(1, 1));
    let node = cluster.join();
    cluster.add(1, node).unwrap().complete().unwrap();
    refused(cluster.remove(1, 1));
    cluster.put(1, "key", "value").unwrap();
}

#[test]
fn mc_09_a_member_that_cannot_be_reached_does_not_vote() {
    let mut cluster = Cluster::up(73, 3, 2);
    let node = cluster.next_node();
    cluster.add(1, node).unwrap().complete().unwrap();
    for nth in 0..20 {
        cluster.put(cluster.leader(), &format!("key-{nth}"), "value").unwrap();
    }
    let admin = cluster.engine(1).admin().with_timeout(Duration::from_secs(3));
    let error = refused(cluster.run(async move { admin.promote(NodeId(node)).await }));
    let Error::Request(RequestError::Behind { entries }) = error else { panic!("{error}") };
    assert!(entries > 0, "it has nothing");
    cluster.put(cluster.leader(), "key", "value").unwrap();
    // Once it is there, it does.
    cluster.start(node);
    cluster.promote(1, node).unwrap().complete().unwrap();
    cluster.ready(node);
}

#[test]
fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut cluster = Cluster::up(74, 3, 2);
    let leader = cluster.leader();
    let [healthy, dead] = cluster.others(leader)[..] else { panic!("three nodes") };
    cluster.crash(dead, Crash::Kill);
    cluster.world.run_for(ms(2_000));
    // What is left would be the leader and a node that is down.
    let admin = cluster.engine(leader).admin().with_timeout(Duration::from_secs(3));
    refused(cluster.run(async move { admin.remove(NodeId(healthy)).await }));
    cluster.put(leader, "key", "value").unwrap();
    // The one that is down may go.
    cluster.remove(healthy, dead).unwrap().complete().unwrap();
    cluster.put(leader, "key", "more").unwrap();
    assert_eq!(cluster.members(healthy).len(), 2);
}

#[test]
fn a_change_whose_caller_died_is_ended_by_another() {
    let mut cluster = Cluster::new(75, 3, 8);
    cluster.set("cluster.leaders", "\"spread\"");
    cluster.start_all();
    let node = cluster.join();
    for after_us in [200, 400, 800, 1_600, 3_200] {
        let admin = cluster.engine(1).admin();
        let add = async move { admin.add_learner(NodeId(node), Cluster::address(node)).await };
        drop(cluster.world.spawn_client(add));
        cluster.world.run_for(bowline_env::Nanos(after_us * 1_000));
        cluster.crash(1, Crash::Power);
        cluster.start(1);
        cluster.ready(1);
    }
    cluster.add(2, node).unwrap().complete().unwrap();
    for after_us in [200, 400, 800, 1_600, 3_200] {
        let admin = cluster.engine(2).admin();
        drop(cluster.world.spawn_client(async move { admin.promote(NodeId(node)).await }));
        cluster.world.run_for(bowline_env::Nanos(after_us * 1_000));
        cluster.crash(2, Crash::Power);
        cluster.start(2);
        cluster.ready(2);
    }
    cluster.promote(3, node).unwrap().complete().unwrap();
    cluster.ready(node);
    let all = [(1, true), (2, true), (3, true), (4, true)];
    for by in [1, 2, 3, 4] {
        assert_eq!(cluster.members(by), all, "node {by}");
    }
}

#[test]
fn a_new_node_that_dies_at_any_moment_comes_back_as_the_same_replica() {
    let mut cluster = Cluster::up(76, 3, 4);
    cluster.put(cluster.leader(), "key", "value").unwrap();
    let node = cluster.join();
    let admin = cluster.engine(1).admin();
    let add = async move { admin.add_learner(NodeId(node), Cluster::address(node)).await };
    let added = cluster.world.spawn_client(add);
    for after_us in [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 50_000, 100_000] {
        cluster.world.run_for(bowline_env::Nanos(after_us * 1_000));
        cluster.crash(node, Crash::Power);
        cluster.start(node);
    }
    cluster.world.run_until(|| added.is_done(), ms(60_000)).unwrap();
    added.take().unwrap().unwrap().complete().unwrap();
    cluster.promote(1, node).unwrap().complete().unwrap();
    cluster.ready(node);
    assert_eq!(cluster.get(node, "key").as_deref(), Some("value"));
}

#[test]
fn mc_11_members_come_from_the_log_whatever_the_file_says() {
    let mut cluster = Cluster::up(77, 3, 2);
    cluster.put(cluster.leader(), "key", "value").unwrap();
    let node = cluster.grow(1);
    cluster.remove(1, 2).unwrap().complete().unwrap();
    let members = [(1, true), (3, true), (node, true)];
    for (restarted, told) in [(1, vec![1]), (3, vec![1, 2, 3]), (node, vec![1, 2, node])] {
        cluster.crash(restarted, Crash::Power);
        cluster.setup(restarted).nodes = told;
        cluster.setup(restarted).join = false;
    }
    // One of three voters, told that it is alone, acknowledges nothing alone.
    cluster.start(1);
    assert_eq!(cluster.members(1), members);
    let error = cluster.put(1, "key", "alone").unwrap_err();
    assert!(matches!(error, Error::NoLeader { .. }), "{error}");
    for restarted in [3, node] {
        cluster.start(restarted);
    }
    for restarted in [1, 3, node] {
        cluster.ready(restarted);
        assert_eq!(cluster.members(restarted), members, "node {restarted}");
        assert_eq!(cluster.get(restarted, "key").as_deref(), Some("value"));
    }
}

#[test]
fn nw_05_a_removed_node_that_hears_nothing_disturbs_nobody() {
    let mut cluster = Cluster::up(78, 4, 2);
    let gone = 4;
    assert_ne!(cluster.leader(), gone);
    cluster.part(&[gone], &[1, 2, 3]);
    cluster.world.run_for(ms(2_000));
    cluster.remove(2, gone).unwrap().complete().unwrap();
    let terms = cluster.terms(2);
    cluster.world.run_for(ms(10_000));
    // It wants to be elected, and is let in by nobody.
    cluster.mend();
    cluster.world.run_for(ms(10_000));
    let lanes = |cluster: &Cluster| cluster.engine(gone).metrics().cores[0].lanes_up;
    let before = lanes(&cluster);
    cluster.world.run_for(ms(10_000));
    assert_eq!(lanes(&cluster), before, "no lane of it comes up");
    assert_eq!(cluster.terms(2), terms, "no election");
    cluster.crash(gone, Crash::Power);
    cluster.start(gone);
    cluster.world.run_for(ms(10_000));
    assert_eq!(lanes(&cluster), 0);
    assert_eq!(cluster.terms(2), terms, "no election after its restart either");
    cluster.put(cluster.leader(), "key", "value").unwrap();
    assert_eq!(cluster.applied(gone, "key"), None);
}

#[test]
fn nw_05_a_removed_node_that_can_hear_learns_of_it() {
    let cluster = Cluster::up(79, 4, 2);
    let terms = cluster.terms(1);
    cluster.remove(2, 4).unwrap().complete().unwrap();
    cluster.world.run_for(ms(4_000));
    let error = cluster.put(4, "key", "value").unwrap_err();
    assert_eq!(error.code(), Code::REMOVED, "{error}");
    assert!(cluster.members(4).iter().all(|(node, _)| *node != 4));
    cluster.world.run_for(ms(20_000));
    let up = |node| {
        let core = cluster.engine(node).metrics().cores[0].clone();
        core.lanes_up - core.lanes_down
    };
    assert_eq!([1, 2, 3, 4].map(up), [2, 2, 2, 0], "its lanes are closed");
    assert_eq!(cluster.terms(1), terms, "no election");
    let ready = cluster.ready_within(4, Duration::from_secs(1)).unwrap_err();
    let Error::NotReady(why) = &ready else { panic!("{ready}") };
    assert!(why.to_string().contains("BOW-0508"), "{why}");
}

#[test]
fn a_leader_that_was_added_later_is_named_with_its_address() {
    let mut cluster = Cluster::up(80, 3, 2);
    let node = cluster.grow(3);
    let admin = cluster.engine(2).admin();
    cluster.run(async move { admin.transfer(NodeId(node)).await }).unwrap().complete().unwrap();
    assert_eq!(cluster.leader(), node);
    for restarted in [false, true] {
        for by in [1, 2, 3] {
            let error = cluster.put(by, "key", "value").unwrap_err();
            let Error::NotLeader { leader_address, leader: Some(hint), .. } = error else {
                panic!("{error}")
            };
            assert_eq!(leader_address.as_deref(), Some("app-4:80"), "node {by}");
            assert_eq!(hint.id, NodeId(node));
            assert_eq!(hint.peer.as_deref(), Some(&*Cluster::address(node)));
        }
        if !restarted {
            cluster.crash(1, Crash::Power);
            cluster.start(1);
            cluster.ready(1);
        }
    }
}

#[test]
fn a_node_with_the_lowest_id_is_added_too() {
    let mut cluster = Cluster::new(81, 3, 2);
    for node in [2, 3] {
        cluster.setup(node).nodes = vec![2, 3];
        cluster.start(node);
    }
    (cluster.setup(1).nodes, cluster.setup(1).join) = (vec![1], true);
    cluster.start(1);
    cluster.put(cluster.leader(), "key", "value").unwrap();
    cluster.add(3, 1).unwrap().complete().unwrap();
    // Its peers cannot be dialed by it before it knows them: they begin.
    cluster.promote(2, 1).unwrap().complete().unwrap();
    cluster.ready(1);
    assert_eq!(cluster.get(1, "key").as_deref(), Some("value"));
    cluster.crash(1, Crash::Power);
    cluster.start(1);
    cluster.ready(1);
    assert_eq!(cluster.members(1), [(1, true), (2, true), (3, true)]);
}

#[test]
fn a_node_removes_itself() {
    let cluster = Cluster::up(84, 4, 4);
    for node in [cluster.leader(), 4] {
        cluster.remove(node, node).unwrap().complete().unwrap();
    }
    cluster.world.run_for(ms(3_000));
    let left = cluster.leader();
    assert_eq!(cluster.members(left).len(), 2);
    cluster.put(left, "key", "value").unwrap();
}

#[test]
fn changes_are_watched() {
    let mut cluster = Cluster::up(82, 1, 2);
    let mut watch = cluster.engine(1).watch_membership();
    let seen = |watch: &mut tokio::sync::watch::Receiver<Arc<Membership>>| {
        let now = watch.borrow_and_update().clone();
        let all = now.members.iter().map(|it| (it.node.0, it.votes, it.learns));
        all.collect::<Vec<_>>()
    };
    assert_eq!(seen(&mut watch), [(1, 2, 0)]);
    let node = cluster.join();
    cluster.add(1, node).unwrap().complete().unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(seen(&mut watch), [(1, 2, 0), (2, 0, 2)]);
    cluster.promote(1, node).unwrap().complete().unwrap();
    assert_eq!(seen(&mut watch), [(1, 2, 0), (2, 2, 0)]);
    assert_eq!(cluster.engine(1).list_members(), [NodeId(1), NodeId(2)]);
    let address = cluster.engine(1).admin().members()[1].address.clone();
    assert_eq!(address.as_deref(), Some(&*Cluster::address(node)));
    assert!(!watch.has_changed().unwrap(), "nothing changed since");
}

#[test]
fn a_node_that_waits_belongs_to_the_cluster_that_comes_first() {
    let mut cluster = Cluster::up(83, 2, 2);
    let node = cluster.join();
    let error = cluster.ready_within(node, Duration::from_secs(5)).unwrap_err();
    assert!(matches!(error, Error::NotReady(_)), "{error}");
    let error = cluster.put(node, "key", "value").unwrap_err();
    assert!(matches!(error, Error::NoLeader { .. }), "{error}");
    // Another cluster of one node, in the same network.
    let other = cluster.next_node();
    (cluster.setup(other).join, cluster.setup(other).cluster) = (false, "another");
    cluster.start(other);
    cluster.ready(other);
    cluster.add(1, node).unwrap().complete().unwrap();
    cluster.promote(1, node).unwrap().complete().unwrap();
    cluster.add(other, node).unwrap().complete().unwrap();
    let admin = cluster.engine(other).admin().with_timeout(Duration::from_secs(5));
    refused(cluster.run(async move { admin.promote(NodeId(node)).await }));
    assert_eq!(cluster.members(node), [(1, true), (2, true), (node, true)]);
    cluster.put(cluster.leader_of(&[1, 2, node]), "key", "value").unwrap();
    assert_eq!(cluster.get(other, "key"), None);
}

/// A log that frees slots writes the first manifests of shards that never flushed again: as of
/// index 0, with the members of then, whatever they are now.
#[test]
fn a_shard_that_never_flushed_comes_back_after_its_members_changed() {
    let mut cluster = Cluster::new(87, 3, 2);
    for node in 1..=3 {
        cluster.setup(node).delta_bytes = 64 << 20;
    }
    cluster.start_all();
    let learner = cluster.join();
    cluster.add(1, learner).unwrap().complete().unwrap();
    cluster.fill(1, 0, 200);
    let disk = cluster.world.disk(3);
    for nth in 1..100 {
        disk.fail_names(nth, Kind::NoSpace);
    }
    cluster.fill(1, 0, 150);
    cluster.world.run_for(ms(1_000));
    let counted = cluster.engine(3).metrics().cores;
    assert!(counted.iter().all(|core| core.flushes == 0 && core.jobs_failed > 1), "{counted:?}");
    disk.heal();
    cluster.crash(3, Crash::Power);
    cluster.start(3);
    cluster.ready(3);
    assert_eq!(cluster.members(3).len(), 4);
    assert_eq!(cluster.get(3, "key-7"), cluster.get(1, "key-7"));
}

/// Three nodes and two to come; the leader of old is cut off with the entry that adds the first of
/// these, and the others add the second, under the same replica id.
struct Undone {
    cluster: Cluster,
    old: u64,
    new: u64,
    four: u64,
    five: u64,
}

impl Undone {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::up(seed, 3, 1);
        let (old, [four, five]) = (cluster.leader(), [cluster.join(), cluster.join()]);
        let (here, there): (Vec<u64>, Vec<u64>) =
            (1..=five).partition(|node| [old, four].contains(node));
        cluster.part(&here, &there);
        let admin = cluster.engine(old).admin().with_timeout(Duration::from_secs(1));
        let lost = async move { admin.add_learner(NodeId(four), Cluster::address(four)).await };
        drop(cluster.world.spawn_client(lost));
        cluster.world.run_for(ms(3_000));
        let new = cluster.leader_of(&there[..2]);
        cluster.add(new, five).unwrap().complete().unwrap();
        Self { cluster, old, new, four, five }
    }
}

/// A node that had been told of the id that went on would keep it, and be deaf to the one it got
/// later.
#[test]
fn mc_02_a_node_hears_nothing_of_an_add_that_may_be_undone() {
    let Undone { cluster, new, four, .. } = Undone::new(85);
    cluster.mend();
    cluster.world.run_for(ms(1_000));
    cluster.add(new, four).unwrap().complete().unwrap();
    cluster.promote(new, four).unwrap().complete().unwrap();
    cluster.ready(four);
    cluster.put(new, "key", "value").unwrap();
    assert_eq!(cluster.get(four, "key").as_deref(), Some("value"));
}

/// Who holds an addition that was cut off hears the one who got its replica id since.
#[test]
fn mc_02_who_holds_an_undone_add_hears_the_next_owner_of_its_id() {
    let Undone { cluster, old, new, five, .. } = Undone::new(86);
    cluster.promote(new, five).unwrap().complete().unwrap();
    cluster.hand_over(new, five);
    cluster.mend();
    cluster.put(five, "key", "value").unwrap();
    cluster.world.run_for(ms(5_000));
    assert_eq!(cluster.applied(old, "key").as_deref(), Some("value"));
}

/// Bug: seed 401725 of the clusters: where a voter is that leaves nobody knew after a restart, and
/// without its vote it could not leave.
#[test]
fn mc_07_a_voter_that_leaves_is_found_again_after_a_restart_of_all() {
    // One shard: with more, those that do not have the change yet would know where the voter is.
    let mut cluster = Cluster::up(87, 1, 1);
    assert_eq!(cluster.grow(1), 2);
    cluster.put(1, "key", "value").unwrap();
    cluster.part(&[1], &[2]);
    let admin = cluster.engine(1).admin().with_timeout(Duration::from_millis(200));
    let open = async move { admin.remove(NodeId(2)).await };
    let open = cluster.world.spawn_client(open);
    cluster.world.run_for(ms(400));
    drop(open);
    cluster.crash(1, Crash::Power);
    cluster.crash(2, Crash::Power);
    cluster.mend();
    cluster.start(1);
    cluster.start(2);
    // It is dialed; it waits for three seconds before it dials itself.
    cluster.ready_within(1, Duration::from_secs(2)).unwrap();
    cluster.world.run_for(ms(3_000));
    cluster.remove(1, 2).unwrap().complete().unwrap();
    assert_eq!(cluster.members(1), [(1, true)]);
    assert_eq!(cluster.get(1, "key").as_deref(), Some("value"));
}

/// Bug: seed 430954 of the clusters: a node that had left one shard was turned away by a voter of
/// another, whose log was behind and did not have it yet, and whose vote it needed there.
#[test]
fn mc_07_who_left_one_shard_is_heard_by_who_does_not_know_it_in_another() {
    let mut cluster = Cluster::new(89, 3, 2);
    for node in 1..=3 {
        cluster.setup(node).streams = 2;
    }
    cluster.start_all();
    let lead = |cluster: &Cluster, shard: u64, node: u64| {
        let leads = cluster.engine(2).shard(ShardId(shard)).unwrap().leader_info();
        let from = leads.unwrap().leader_id.0;
        if from != node {
            let shard = cluster.engine(from).shard(ShardId(shard)).unwrap();
            cluster.run(async move { shard.transfer(NodeId(node)).await }).unwrap();
        }
    };
    lead(&cluster, 0, 1);
    lead(&cluster, 1, 3);
    let four = cluster.next_node();
    cluster.setup(four).streams = 2;
    cluster.start(four);
    // The log of shard 0 fails on node 2, which thus does not hear of the newcomer there.
    let key = cluster.key_of(0);
    cluster.world.run_for(ms(500));
    cluster.world.disk(2).fail_write(1, WriteFault::Error);
    cluster.put(1, &key, "before").unwrap();
    cluster.world.run_for(ms(500));
    cluster.add(1, four).unwrap().complete().unwrap();
    cluster.promote(1, four).unwrap().complete().unwrap();
    cluster.world.run_for(ms(500));
    // The log of shard 0 fails on its leader, whose last entry only the newcomer has.
    cluster.part(&[1], &[3]);
    cluster.world.disk(1).stuck(ms(20));
    cluster.world.disk(1).fail_write(1, WriteFault::Error);
    let open = cluster.begin_put(1, &key, "perhaps");
    cluster.world.run_for(ms(50));
    cluster.mend();
    drop(open);
    let admin = cluster.engine(3).admin().with_timeout(Duration::from_secs(5));
    let removed = cluster.run(async move { admin.remove(NodeId(four)).await });
    assert_eq!(removed.unwrap().complete().unwrap_err().code(), Code::NO_LEADER);
    // Shard 1 has let it go everywhere, shard 0 has no leader: two of four voters are there.
    assert_eq!(cluster.term(3, 0), None);
    cluster.crash(2, Crash::Kill);
    cluster.start(2);
    cluster.world.run_for(ms(10_000));
    cluster.put(four, &key, "after").unwrap();
    cluster.remove(3, four).unwrap().complete().unwrap();
    assert_eq!(cluster.get(2, &key).as_deref(), Some("after"));
}
