//! Members that come, go, are promoted, lag, crash half-way, and logs that begin with a snapshot.

use bowline_raft::{Part, Phase, ReplicaId};

use crate::{
    node::Verb,
    plan::{Class, MILLI, Plan},
    story::{ONE, Story, committed, in_both_modes, serves},
    world::World,
};

fn voters(world: &World) -> usize {
    world.confs[0].members.iter().filter(|member| member.after == Part::Voter).count()
}

fn stable(world: &World) -> bool {
    world.confs[0].phase == Phase::Stable
}

/// Adds a node as a learner that becomes a voter by itself.
#[track_caller]
fn grow(story: &mut Story, node: usize) {
    let before = voters(&story.world);
    story.change(Verb::Add { node: node as u64 + 1, auto: true });
    for _ in 0..200 {
        if voters(&story.world) > before && stable(&story.world) {
            return;
        }
        if let Some(leader) = story.world.leader(ONE) {
            story.world.put(leader, ONE, 1);
        }
        story.wait(20);
    }
    panic!("node {node} is no voter\n{}", story.world.states().join("\n"));
}

/// Removes a voter and waits until that is in force.
#[track_caller]
fn shrink(story: &mut Story, node: usize) {
    let replica = story.replica(node);
    story.change(Verb::Remove(replica));
    story.until(4_000, "the member is gone", |world| {
        stable(world) && world.confs[0].members.iter().all(|member| member.replica != replica)
    });
    story.until(4_000, "somebody leads", |world| {
        world.leader(ONE).is_some_and(|node| serves(world, node, ONE))
    });
}

/// 1 -> 3 -> 1, and every member replaced, under load: nothing is lost and the gap is short.
#[test]
fn mc_08_one_to_three_to_one_and_all_replaced() {
    in_both_modes(4, 1, |mut story| {
        let first = story.leader();
        story.write(first);
        grow(&mut story, 1);
        grow(&mut story, 2);
        grow(&mut story, 3);
        shrink(&mut story, 0);
        let leader = story.leader();
        story.write(leader);
        shrink(&mut story, leader);
        let leader = story.leader();
        story.write(leader);
        story.until_equal(2_000);
        let other = (0..4).find(|node| {
            *node != leader && story.world.nodes[*node].machine(ONE).replica != ReplicaId(0)
        });
        shrink(&mut story, other.expect("two are left"));
        let leader = story.leader();
        story.write(leader);
        assert_eq!(voters(&story.world), 1);
    });
}

/// Bug: scylla #10618: a leader counted itself in the half that it left.
#[test]
fn mc_04_a_leader_that_is_removed_hands_over() {
    in_both_modes(4, 4, |mut story| {
        let leader = story.leader();
        let replica = story.replica(leader);
        story.change(Verb::Remove(replica));
        story.until(4_000, "another leader without it", |world| {
            stable(world)
                && world.confs[0].members.iter().all(|member| member.replica != replica)
                && world.leader(ONE).is_some_and(|node| node != leader && serves(world, node, ONE))
        });
        let before = story.world.cover.elections;
        story.wait(3_000);
        assert_eq!(story.world.cover.elections, before, "the removed one starts no election");
    });
}

/// A leader dies in a joint configuration: the next one ends it.
#[test]
fn mc_07_a_crash_in_a_joint_configuration_is_ended_by_the_next_leader() {
    for classic in [false, true] {
        for millis in 0..12 {
            let mut story = Story::of(Plan { classic, ..Plan::quiet(17 + millis, 4, 3) });
            let leader = story.leader();
            story.write(leader);
            story.change(Verb::Add { node: 4, auto: false });
            story.until_equal(2_000);
            let out = story.replica((leader + 1) % 3);
            let learner = story.replica(3);
            story.world.ask(leader, ONE, Verb::Swap { out, promote: learner });
            let until = story.world.now + millis * MILLI / 10;
            story.world.until(until).expect("nothing is wrong");
            story.crash(leader);
            story.until(5_000, "another leader", |world| {
                world.leader(ONE).is_some_and(|node| serves(world, node, ONE))
            });
            let new = story.leader();
            story.write(new);
            story.until(3_000, "no joint configuration stays", stable);
            story.restart(leader);
            story.wait(1_500);
            story.until_equal(3_000);
        }
    }
}

/// Bug: async-raft #113, `EastGuard` #150: an absent learner became a voter, and nothing committed.
#[test]
fn mc_06_an_absent_learner_is_not_promoted() {
    in_both_modes(4, 3, |mut story| {
        let leader = story.leader();
        story.crash(3);
        story.change(Verb::Add { node: 4, auto: true });
        for _ in 0..30 {
            story.write(leader);
            story.wait(50);
        }
        assert_eq!(voters(&story.world), 3, "it is not there");
        story.restart(3);
        for _ in 0..60 {
            story.write(leader);
            story.wait(50);
        }
        assert_eq!(voters(&story.world), 4, "now it is");
    });
}

/// Bug: d-engine #431: a restart with an outdated list of peers; the members are those of the log.
#[test]
fn mc_11_members_come_from_the_log_and_not_from_the_founding() {
    in_both_modes(3, 1, |mut story| {
        story.leader();
        grow(&mut story, 1);
        grow(&mut story, 2);
        story.write_for(50, 1_000);
        story.until_equal(1_000);
        (0..3).for_each(|node| story.crash(node));
        story.restart(0);
        let token = story.world.put(0, ONE, 1);
        story.wait(4_000);
        assert!(!committed(&story.world, token), "one of three acknowledges nothing alone");
        assert_eq!(story.world.leader(ONE), None);
        story.restart(1);
        let leader = story.leader();
        story.write(leader);
    });
}

/// Bug: openraft afd6508b: nobody wrote, so nobody sent the laggard its snapshot.
#[test]
fn sn_06_a_follower_behind_a_compacted_log_gets_a_snapshot_from_an_idle_leader() {
    in_both_modes(3, 3, |mut story| {
        let leader = story.leader();
        let laggard = (leader + 1) % 3;
        story.crash(laggard);
        story.write_for(300, 1_000);
        for _ in 0..10 {
            for node in (0..3).filter(|node| *node != laggard) {
                story.world.flush(node, ONE);
                story.wait(5);
                story.world.compact(node, ONE);
                story.wait(5);
            }
        }
        let floor = story.world.nodes[leader].core_of(ONE).log.disk.memory_of(ONE).floor;
        assert!(floor > 50, "the log was compacted to {floor}");
        story.restart(laggard);
        story.until_equal(6_000);
        assert!(story.world.cover.snapshots_installed > 0);
    });
}

/// A manifest at every entry, under load, with a follower that comes and goes.
#[test]
fn sn_07_a_flush_at_every_entry_ends() {
    in_both_modes(3, 3, |mut story| {
        let leader = story.leader();
        let shy = (leader + 1) % 3;
        for round in 0..300 {
            if round % 60 == 10 {
                story.crash(shy);
            }
            if round % 60 == 40 {
                story.restart(shy);
            }
            if let Some(node) = story.world.leader(ONE) {
                story.world.put(node, ONE, 1);
            }
            for node in 0..3 {
                if story.world.nodes[node].alive {
                    story.world.flush(node, ONE);
                    story.world.compact(node, ONE);
                }
            }
            story.wait(10);
        }
        story.until_equal(8_000);
        let log = story.world.nodes[leader].core_of(ONE).log.disk.memory_of(ONE);
        assert!(log.pieces.len() < 40, "the log stays short");
    });
}

/// The members in a snapshot are those of its index.
#[test]
fn sn_08_a_learner_that_starts_from_a_snapshot_knows_the_members() {
    for classic in [false, true] {
        let mut story = Story::with(classic, 4, 3, &[Class::Compact]);
        let leader = story.leader();
        story.write_for(400, 2_000);
        story.wait(2_000);
        story.change(Verb::Add { node: 4, auto: true });
        story.write_for(1_500, 5_000);
        story.until(6_000, "it is a voter", |world| voters(world) == 4 && stable(world));
        story.until_equal(3_000);
        let [a, b] = [leader, 3].map(|node| story.world.nodes[node].machine(ONE).conf.clone());
        assert_eq!(a, b);
        assert!(story.world.cover.snapshots_installed > 0, "it began with a snapshot");
    }
}

/// Bug: openraft d000ee20: a transfer to somebody who cannot take it had no end.
#[test]
fn rs_15_a_transfer_to_a_laggard_or_the_dead_ends() {
    in_both_modes(3, 3, |mut story| {
        let leader = story.leader();
        let dead = (leader + 1) % 3;
        let replica = story.replica(dead);
        story.wait(300);
        story.isolate(dead);
        story.world.ask(leader, ONE, Verb::Transfer(replica));
        story.wait(1_500);
        let now = story.leader();
        story.write(now);
        story.join_all(true);
        story.wait(500);
        let now = story.leader();
        story.crash((now + 1) % 3);
        let gone = story.replica((now + 1) % 3);
        story.world.ask(now, ONE, Verb::Transfer(gone));
        story.wait(1_500);
        let now = story.leader();
        story.write(now);
    });
}
