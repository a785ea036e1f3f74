//! Disks that hang, lose what was not synced, fill up, or fail.

use crate::{
    plan::{Class, MILLI, Plan},
    story::{ONE, Story, committed, in_both_modes, serves},
};

/// Bug: hashicorp/raft #503, tarantool #9399: the disk is dead, the heartbeats go on.
#[test]
fn rs_18_leader_disk_hangs_and_leadership_moves() {
    in_both_modes(3, 3, |mut story| {
        let old = story.leader();
        story.write(old);
        story.stick(old, true);
        story.world.put(old, ONE, 1);
        story.until(6_000, "leadership moves", |world| {
            world.leader(ONE).is_some_and(|node| node != old && serves(world, node, ONE))
        });
        let new = story.leader();
        story.write(new);
        story.stick(old, false);
        story.wait(1_500);
        story.until_equal(2_000);
    });
}

/// One stream of several hangs: only its shards move.
#[test]
fn rs_18_one_stream_hangs_and_the_others_stay() {
    let plan = Plan { streams: 2, shards: 2, ..Plan::quiet(9, 3, 3) };
    let mut story = Story::of(plan);
    story.leader();
    story.wait(1_500);
    let two = bowline_raft::ShardId(2);
    let (one_at, two_at) = (story.leader(), story.world.leader(two).expect("it is led"));
    story.world.nodes[one_at].cores[0].log.disk.streams[0].stuck = true;
    story.world.put(one_at, ONE, 1);
    story.until(6_000, "the shard of that stream moves", |world| {
        world.leader(ONE).is_some_and(|node| node != one_at && serves(world, node, ONE))
    });
    let token = story.world.put(two_at, two, 1);
    story.until(2_000, "the other shard serves", |world| committed(world, token));
}

/// Followers acknowledge before the leader's own write is durable; then all lose power.
#[test]
fn rs_09_an_entry_on_a_majority_of_disks_survives_the_leader() {
    in_both_modes(3, 3, |mut story| {
        let leader = story.leader();
        story.write(leader);
        story.stick(leader, true);
        let token = story.world.put(leader, ONE, 1);
        story.until(500, "two followers commit it", |world| committed(world, token));
        (0..3).for_each(|node| story.crash(node));
        (0..3).for_each(|node| story.restart(node));
        let leader = story.leader();
        story.write(leader);
        story.until_equal(2_000);
    });
}

/// Bug: scylla #11559; two full nodes, each waiting for the other's answer.
#[test]
fn both_logs_full_answers_pass() {
    for classic in [false, true] {
        let plan = Plan { classic, shards: 4, write: 9 * MILLI, ..Plan::quiet(11, 3, 3) };
        let mut story = Story::of(plan);
        story.leader();
        story.wait(1_500);
        for node in 0..3 {
            for core in &mut story.world.nodes[node].cores {
                core.log.disk.streams.iter_mut().for_each(|stream| stream.frames_max = 1);
            }
        }
        let mut tokens = Vec::new();
        for round in 0..60 {
            let shard = crate::log::shard_at(round % 4);
            if let Some(node) = story.world.leader(shard) {
                tokens.push(story.world.put(node, shard, 8));
            }
            story.wait(5);
        }
        assert!(story.world.cover.no_room_verdicts > 0, "logs were full");
        let last = tokens[tokens.len() - 1];
        story.until(5_000, "writes go through full logs", |world| {
            committed(world, last)
                || world.fates[crate::rng::place(last)] == crate::world::Fate::Rejected
        });
        for nth in 0..4 {
            let shard = crate::log::shard_at(nth);
            let mut done = false;
            for _ in 0..50 {
                let node = story.world.leader(shard).expect("it is led");
                let token = story.world.put(node, shard, 1);
                story.wait(50);
                done |= committed(&story.world, token);
            }
            assert!(done, "shard {shard} commits");
        }
    }
}

/// Bug: d-engine sent the backlog and the newest entries with a hole between them, and the
/// follower acknowledged the last index.
#[test]
fn laggard_under_load_never_acknowledges_over_a_hole() {
    for classic in [false, true] {
        let mut story = Story::with(classic, 3, 3, &[Class::SmallCache]);
        let leader = story.leader();
        let laggard = (leader + 1) % 3;
        story.isolate(laggard);
        story.write_for(400, 500);
        story.join_all(true);
        story.write_for(1_500, 700);
        assert!(story.world.cover.fetches > 0, "old entries came from the disk");
        story.until_equal(3_000);
    }
}

/// A stream fails: what it led goes on elsewhere, and it comes back when opened again.
#[test]
fn dk_01_a_failed_stream_hands_its_shards_over() {
    in_both_modes(3, 3, |mut story| {
        let old = story.leader();
        story.write(old);
        story.world.nodes[old].cores[0].log.disk.streams[0].failed = true;
        story.world.put(old, ONE, 1);
        story.until(4_000, "leadership moves", |world| {
            world.leader(ONE).is_some_and(|node| node != old && serves(world, node, ONE))
        });
        let new = story.leader();
        story.write(new);
        story.world.reopen_stream(old, 0, 0);
        story.wait(1_500);
        story.until_equal(3_000);
    });
}
