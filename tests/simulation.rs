//! Whole nodes in the deterministic simulator: the production engine on disks that lose power and
//! a network that is cut, and clients that remember every answer.
//!
//! `BOWLINE_SEEDS=n` seeds from `BOWLINE_SEED_BASE=b` on, or one by `BOWLINE_SEED=s`. A seed
//! decides the whole run; `BOWLINE_TRACE=info` tells it. Two kinds of run:
//!
//! * One node (`run`): some lives on one disk; each ends by a clean stop, a kill or a power loss.
//!   The judge (`model`) knows only calls and answers: what was acknowledged must be read again,
//!   what certainly did not happen must never be seen.
//! * A cluster (`cluster`): several nodes under every kind of trouble, then healing. The judge is
//!   linearizability (`linear`), and that all nodes end in the same state.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is this test failing")]
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "a seed is printed first")]

#[path = "simulation/cluster/run.rs"]
mod cluster;
#[path = "kit/linear.rs"]
mod linear;
#[path = "simulation/model.rs"]
mod model;
#[path = "kit/node.rs"]
mod node;
#[path = "simulation/run.rs"]
mod run;
#[path = "kit/trace.rs"]
mod trace;

use run::{Plan, Tally};

/// Seeds that a plain `cargo test` runs; the gate asks for more.
const SEEDS: u64 = 30;
/// The same, of clusters.
const CLUSTER_SEEDS: u64 = 15;

#[expect(clippy::disallowed_methods, reason = "the seeds to run are given by the environment")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn what_was_acknowledged_survives_every_crash() {
    if let Some(seed) = setting("BOWLINE_SEED") {
        let tally = run::run(&Plan::drawn(seed));
        println!("seed {seed}: {tally:?}");
        return;
    }
    let base = setting("BOWLINE_SEED_BASE").unwrap_or(1);
    let count = setting("BOWLINE_SEEDS").unwrap_or(SEEDS);
    let mut total = Tally::default();
    for seed in base..base + count {
        println!("BOWLINE_SEED={seed}");
        total.add(&run::run(&Plan::drawn(seed)));
    }
    println!("{count} seeds from {base}: {total:?}");
    assert!(total.acked > count, "the runs wrote something: {total:?}");
    assert!(total.power_losses > 0 || count < 20, "no run lost power: {total:?}");
}

/// Seeds that found something once, and what.
const FOUND: [(u64, &str); 5] = [
    (180, "what a failed sync left in the cache was taken for durable"),
    (101_035, "after a failed write an unacknowledged tail was called damage"),
    (302_430, "a checkpoint in a torn frame was begun at"),
    (1_000_972, "a late write of a killed life hit a slot in use again"),
    (1_050_891, "the same, several lives later"),
];

#[test]
fn seeds_that_found_something_stay_clean() {
    for (seed, what) in FOUND {
        println!("BOWLINE_SEED={seed}: {what}");
        run::run(&Plan::drawn(seed));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 17, 40] {
        let plan = Plan::drawn(seed);
        assert_eq!(run::run(&plan), run::run(&plan), "seed {seed}");
    }
}

#[test]
fn every_cluster_seed() {
    if let Some(seed) = setting("BOWLINE_SEED") {
        let plan = cluster::Plan::drawn(seed);
        println!("{plan:?}");
        println!("seed {seed}: {:?}", cluster::run(&plan));
        return;
    }
    let base = setting("BOWLINE_SEED_BASE").unwrap_or(1);
    let count = setting("BOWLINE_SEEDS").unwrap_or(CLUSTER_SEEDS);
    let mut total = cluster::Tally::default();
    for seed in base..base + count {
        println!("BOWLINE_SEED={seed}");
        total.add(&cluster::run(&cluster::Plan::drawn(seed)));
    }
    println!("{count} seeds from {base}: {total:?}");
    if count >= CLUSTER_SEEDS {
        let met = [total.unknown, total.redirected_acked, total.lease_reads, total.scans];
        assert!(met.iter().all(|count| *count > 0), "the clients met little: {total:?}");
        let met = [total.kills, total.power_losses, total.partitions, total.elections];
        assert!(met.iter().all(|count| *count > 0), "there was no trouble: {total:?}");
    }
}

/// Seeds of clusters that found something once, and what.
const CLUSTER_FOUND: [(u64, &str); 1] =
    [(425_043, "a node whose log failed at the first write of a shard kept quiet about it")];

#[test]
fn cluster_seeds_that_found_something_stay_clean() {
    for (seed, what) in CLUSTER_FOUND {
        println!("BOWLINE_SEED={seed}: {what}");
        cluster::run(&cluster::Plan::drawn(seed));
    }
}

#[test]
fn the_same_seed_gives_the_same_cluster() {
    for seed in [2, 5, 11] {
        let plan = cluster::Plan::drawn(seed);
        assert_eq!(cluster::run(&plan), cluster::run(&plan), "seed {seed}");
    }
}
