//! Many replicas on many cores of many nodes, with everything that can go wrong between them, in
//! virtual time: one number decides the run.
//!
//! `BOWLINE_SEEDS=n` runs n seeds from `BOWLINE_SEED_BASE` on; `BOWLINE_SEED=one` replays one,
//! `BOWLINE_TRACE=1` prints its events, `BOWLINE_SHRINK=1` looks for fewer faults that still fail.

#![expect(unreachable_pub, reason = "the simulator's modules are this test's own")]
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "a seed is printed first")]
#![expect(clippy::panic, reason = "a test fails by it")]
#![expect(clippy::wildcard_enum_match_arm, reason = "most of what a core says is no news here")]

#[path = "sim/apply.rs"]
mod apply;
#[path = "sim/cover.rs"]
mod cover;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/engine.rs"]
mod engine;
#[path = "sim/fault.rs"]
mod fault;
#[path = "sim/image.rs"]
mod image;
#[path = "sim/judge.rs"]
mod judge;
#[path = "sim/load.rs"]
mod load;
#[path = "sim/log.rs"]
mod log;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/node.rs"]
mod node;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/pass.rs"]
mod pass;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/seeds.rs"]
mod seeds;
#[path = "sim/send.rs"]
mod send;
#[path = "sim/snapshots.rs"]
mod snapshots;
#[path = "sim/story.rs"]
mod story;
#[path = "sim/strange.rs"]
mod strange;
#[path = "sim/world.rs"]
mod world;

#[path = "sim/scenarios/disks.rs"]
mod disks_told;
#[path = "sim/scenarios/elections.rs"]
mod elections_told;
#[path = "sim/scenarios/members.rs"]
mod members_told;
#[path = "sim/scenarios/reads.rs"]
mod reads_told;

use plan::Plan;

/// Fixed seeds that every run of the tests goes through.
const SEEDS: u64 = 100;

#[test]
fn every_seed_keeps_every_promise() {
    seeds::run_all(SEEDS);
}

#[test]
fn same_seed_same_bytes_same_hash() {
    for seed in 0..6 {
        let plan = Plan::draw(seed);
        let (one, two) = (run::run(&plan, false), run::run(&plan, false));
        assert_eq!((one.hash, one.cover), (two.hash, two.cover), "seed {seed}");
    }
}
