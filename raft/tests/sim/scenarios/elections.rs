//! Who leads, when connections, processes and disks do not play along.

use crate::{
    plan::{MICRO, MILLI, Plan},
    story::{ONE, Story, committed, in_both_modes, serves, view},
};
use bowline_raft::Role;

/// Bug: openraft #2080; Cloudflare 2020: a leader with a bridge to the majority only refused
/// proposals, and kept its bridge node from the others.
#[test]
fn rs_14_bridge_node_five_a_leader_without_quorum_makes_way() {
    in_both_modes(5, 5, |mut story| {
        let old = story.leader();
        let others: Vec<usize> = (0..5).filter(|node| *node != old).collect();
        let bridge = others[0];
        others[1..].iter().for_each(|node| story.cut(old, *node));
        story.until(3_000, "another leader", |world| {
            world.leader(ONE).is_some_and(|node| node != old && serves(world, node, ONE))
        });
        story.until(1_500, "the old one leads no more", |world| {
            view(world, old, ONE).1 != Role::Leader
        });
        let new = story.leader();
        let token = story.world.put(new, ONE, 1);
        story.until(1_000, "a write with the bridge", |world| committed(world, token));
        let before = story.world.cover.elections;
        story.wait(6_000);
        let changes = story.world.cover.elections - before;
        assert!(changes <= 2, "{changes} elections around bridge {bridge}");
    });
}

/// Bug: Cloudflare 2020: A and C do not hear each other, B hears both.
#[test]
fn rs_14_no_a_to_c_a_missing_pair_keeps_its_leader() {
    in_both_modes(3, 3, |mut story| {
        story.make_leader(1);
        story.cut(0, 2);
        story.wait(2_000);
        let (before, term) = (story.world.cover.elections, story.term(1));
        story.wait(10_000);
        assert_eq!(story.world.cover.elections, before, "nobody campaigns against B");
        assert_eq!(story.term(1), term);
        story.join_all(false);
        story.make_leader(0);
        story.cut(0, 2);
        story.wait(2_000);
        let before = story.world.cover.elections;
        story.wait(10_000);
        let changes = story.world.cover.elections - before;
        assert!(changes <= 1, "{changes} elections while A leads through B");
        let leader = story.leader();
        story.write(leader);
    });
}

/// Bug: hashicorp/raft #503: a leader that sends but hears nothing was followed for ever.
#[test]
fn rs_14_a_leader_that_cannot_hear_is_deposed() {
    in_both_modes(3, 3, |mut story| {
        let old = story.leader();
        (0..3).filter(|node| *node != old).for_each(|node| story.cut_way(node, old));
        story.until(3_000, "another leader", |world| {
            world.leader(ONE).is_some_and(|node| node != old && serves(world, node, ONE))
        });
        let new = story.leader();
        story.write(new);
    });
}

/// Bug: consul #1782: a node that campaigned alone deposed the leader when it came back.
#[test]
fn rs_12_a_node_that_was_alone_comes_back_quietly() {
    in_both_modes(3, 3, |mut story| {
        let leader = story.leader();
        let alone = (leader + 1) % 3;
        let term = story.term(leader);
        story.isolate(alone);
        story.wait(8_000);
        story.write(leader);
        story.join_all(true);
        story.wait(3_000);
        assert_eq!(story.world.leader(ONE), Some(leader));
        assert_eq!(story.term(leader), term, "nobody was disturbed");
        story.until_equal(1_000);
    });
}

/// Bug: cockroach #46660: after a mass restart no shard found the time to elect.
#[test]
fn rs_20_ten_thousand_elect_after_a_mass_restart() {
    let plan = Plan { shards: 10_000, delay: MILLI, ..Plan::quiet(3, 3, 3) };
    let mut story = Story::of(plan);
    story.world.keeps = false;
    let all_led = |world: &crate::world::World| {
        (0..10_000).all(|nth| world.leader(crate::log::shard_at(nth)).is_some())
    };
    for _ in 0..100 {
        story.wait(100);
        if all_led(&story.world) {
            break;
        }
    }
    assert!(all_led(&story.world), "all are led after 10 s");
    (0..3).for_each(|node| story.crash(node));
    (0..3).for_each(|node| story.restart(node));
    story.wait(10_000);
    let led = (0..10_000).filter(|nth| story.world.leader(crate::log::shard_at(*nth)).is_some());
    assert_eq!(led.count(), 10_000, "all are led 10 s after the restart");
    let before = story.world.cover.elections;
    story.wait(2_000);
    assert_eq!(story.world.cover.elections, before, "no storm goes on");
}

/// Bugs: `YugabyteDB` #16596, etcd #7312: under load beats came too late, and leaders changed.
#[test]
fn liveness_under_full_load_no_leader_changes() {
    for classic in [false, true] {
        let plan = Plan { classic, batch_max: 16, shards: 4, ..Plan::quiet(5, 3, 3) };
        let mut story = Story::of(Plan { load_every: 100 * MICRO, ..plan });
        story.leader();
        story.wait(500);
        let at = story.world.now;
        story.world.at(at, crate::world::Event::Load);
        let before = story.world.cover.elections;
        story.wait(6_000);
        assert_eq!(story.world.cover.elections, before, "nobody was elected anew");
        assert!(story.world.cover.writes_acked > 10_000, "the load was there");
    }
}

/// A clean stop or a crash of the leader: somebody else goes on.
#[test]
fn rs_17_a_lost_leader_is_replaced_and_nothing_acked_is_lost() {
    in_both_modes(3, 3, |mut story| {
        for _ in 0..6 {
            let old = story.leader();
            story.write(old);
            let unknown = story.world.put(old, ONE, 1);
            story.wait(1);
            story.crash(old);
            story.until(4_000, "another leader", |world| {
                world.leader(ONE).is_some_and(|node| serves(world, node, ONE))
            });
            let new = story.leader();
            story.write(new);
            let fate = story.world.fates[crate::rng::place(unknown)];
            assert_ne!(fate, crate::world::Fate::Rejected, "it may be there");
            story.restart(old);
            story.wait(1_500);
            story.until_equal(3_000);
        }
    });
}
