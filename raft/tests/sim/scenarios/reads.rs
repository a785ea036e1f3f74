//! Reads that must not be old: leases, clocks, pauses, and leaders that are none.

use bowline_raft::{ReadMode, Role};

use crate::{
    plan::{MILLI, Plan, SECOND},
    story::{ONE, Story, in_both_modes, serves, view},
};

fn with_leases(seed: u64, nodes: usize) -> Story {
    Story::of(Plan { lease: true, ..Plan::quiet(seed, nodes, nodes) })
}

/// Bug: jraft #26, tikv #964, d-engine #158: a lease that was measured by another clock.
#[test]
fn rd_05_lease_skewed_clocks_never_serve_an_old_value() {
    for seed in 0..30 {
        let mut story = with_leases(seed, 3);
        for (node, ppm) in [(0, 990), (1, -990), (2, 500)] {
            let now = story.world.now;
            story.world.nodes[node].clock.speed(now, ppm);
        }
        let old = story.leader();
        story.write(old);
        story.wait(300 + seed * 7 % 100);
        assert!(story.read(old, ReadMode::Lease, 100));
        assert!(story.world.cover.lease_answers > 0, "a lease was there");
        story.isolate(old);
        if seed % 4 != 0 {
            // Who sees the lane down is first in line.
            story.break_lanes(old);
        }
        let others: Vec<usize> = (0..3).filter(|node| *node != old).collect();
        let end = story.world.now + 1_500 * MILLI;
        while story.world.now < end {
            story.world.get(old, ONE, ReadMode::Lease);
            if let Some(node) = story.world.leader(ONE).filter(|node| others.contains(node)) {
                story.world.put(node, ONE, 1);
            }
            story.wait(1);
        }
        assert!(others.iter().any(|node| serves(&story.world, *node, ONE)), "others elected");
    }
}

/// Clocks that jump by an hour or run 5 % off: reads by quorum do not care.
#[test]
fn rd_05_wild_clocks_leave_quorum_reads_alone() {
    in_both_modes(3, 3, |mut story| {
        let leader = story.leader();
        story.write(leader);
        for (node, ppm) in [(0, 50_000), (1, -50_000), (2, 0)] {
            let now = story.world.now;
            story.world.nodes[node].clock.speed(now, ppm);
        }
        for round in 0..10 {
            let now = story.world.now;
            story.world.nodes[round % 3].clock.leap(now, 3_600 * SECOND);
            story.wait(400);
            let leader = story.leader();
            story.write(leader);
            let read = (0..20).any(|_| {
                let leader = story.leader();
                story.read(leader, ReadMode::ReadIndex, 300)
            });
            assert!(read, "a read is answered");
        }
    });
}

/// A leader is paused for twice its lease, others elect, it goes on: no old value.
#[test]
fn rd_04_a_leader_that_was_paused_serves_no_old_value() {
    for seed in 0..20 {
        let mut story = with_leases(seed, 3);
        let old = story.leader();
        story.write(old);
        story.wait(300);
        let until = story.world.now + 1_200 * MILLI + seed * 13 * MILLI;
        story.world.nodes[old].cores[0].paused_until = until;
        while story.world.now < until + 200 * MILLI {
            story.world.get(old, ONE, ReadMode::Lease);
            if let Some(node) = story.world.leader(ONE).filter(|node| *node != old) {
                story.world.put(node, ONE, 1);
            }
            story.wait(1);
        }
        assert!(story.world.cover.elections >= 2, "others elected");
    }
}

/// Bug: d-engine counted old acknowledgements: five nodes, the leader reaches one.
#[test]
fn rd_03_a_leader_that_reaches_one_of_five_reads_nothing() {
    for (classic, lease) in [(false, false), (true, false), (false, true)] {
        let mut story = Story::of(Plan { lease, classic, ..Plan::quiet(13, 5, 5) });
        let old = story.leader();
        story.write(old);
        story.wait(200);
        let others: Vec<usize> = (0..5).filter(|node| *node != old).collect();
        others[1..].iter().for_each(|node| story.cut(old, *node));
        story.wait(700);
        for _ in 0..50 {
            let mode = if lease { ReadMode::Lease } else { ReadMode::ReadIndex };
            assert!(!story.read(old, mode, 20), "no quorum answers");
        }
    }
}

/// A follower's read is under way while its leader is deposed.
#[test]
fn rd_07_a_follower_read_over_a_change_of_leader_waits_or_fails() {
    in_both_modes(3, 3, |mut story| {
        for _ in 0..8 {
            let leader = story.leader();
            let follower = (leader + 1) % 3;
            story.write(leader);
            story.world.get(follower, ONE, ReadMode::Follower);
            story.wait(0);
            story.crash(leader);
            for _ in 0..40 {
                story.world.get(follower, ONE, ReadMode::Follower);
                story.wait(50);
            }
            let new = story.leader();
            story.write(new);
            assert!(story.read(follower, ReadMode::Follower, 500), "it reads again");
            story.restart(leader);
            story.wait(1_000);
        }
        assert!(story.world.cover.reads_follower > 0);
    });
}

/// Bug: tikv `unsafe_vote_deadline`: a restart forgot what it had promised.
#[test]
fn rd_08_a_restart_inside_a_promise_gives_no_vote_before_it_ends() {
    for seed in 0..10 {
        let mut story = with_leases(seed, 3);
        let leader = story.leader();
        story.write(leader);
        story.wait(300);
        story.isolate(leader);
        let at = story.world.now;
        (0..3).filter(|node| *node != leader).for_each(|node| {
            story.crash(node);
            story.restart(node);
        });
        story.until(4_000, "the others elect", |world| {
            world.leader(ONE).is_some_and(|node| node != leader)
                || view(world, leader, ONE).1 != Role::Leader
        });
        let new = story.world.leader(ONE);
        if new.is_some_and(|node| node != leader) {
            let waited = story.world.now - at;
            assert!(waited >= 590 * MILLI, "a vote came {waited} ns after the restart");
        }
    }
}

/// A follower that cannot hear its leader asks one that can: it gets no vote, and the lease holds.
#[test]
fn rd_10_who_hears_the_leader_votes_against_nobody() {
    for (classic, lease) in [(false, true), (true, false)] {
        let mut story = Story::of(Plan { lease, classic, ..Plan::quiet(19, 3, 3) });
        let leader = story.leader();
        story.write(leader);
        story.wait(1_500);
        let deaf = (leader + 1) % 3;
        story.cut(leader, deaf);
        let before = story.world.cover.elections;
        for _ in 0..1_000 {
            story.world.get(leader, ONE, ReadMode::Lease);
            story.wait(5);
        }
        assert_eq!(story.world.cover.elections, before, "the other voter is bound");
        story.write(leader);
    }
}

/// Support counts from the moment of asking: an answer that was long under way is worth less.
#[test]
fn rd_11_a_late_answer_gives_no_longer_lease() {
    for seed in 0..10 {
        let mut story = with_leases(seed, 3);
        let leader = story.leader();
        story.write(leader);
        story.wait(1_500 + seed * 11);
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        for node in &others {
            story.cut_way(*node, leader);
        }
        story.wait(60);
        for node in &others {
            story.cut_way(leader, *node);
        }
        let asked = story.world.now;
        let mut late = true;
        while story.world.now < asked + 1_500 * MILLI {
            if late && story.world.now >= asked + 400 * MILLI {
                late = false;
                for node in &others {
                    story.world.block(*node, leader, false);
                }
                story.wait(1);
                for node in &others {
                    story.cut_way(*node, leader);
                }
            }
            story.world.get(leader, ONE, ReadMode::Lease);
            if let Some(node) = story.world.leader(ONE).filter(|node| others.contains(node)) {
                story.world.put(node, ONE, 1);
            }
            story.wait(1);
        }
        assert!(others.iter().any(|node| serves(&story.world, *node, ONE)), "others elected");
    }
}
