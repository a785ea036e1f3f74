//! Whole nodes in the deterministic simulator: the production engine on a disk that loses power,
//! and writers that remember every answer.
//!
//! `BOWLINE_SEEDS=n` seeds from `BOWLINE_SEED_BASE=b` on, or one by `BOWLINE_SEED=s`. A seed
//! decides the whole run. A run is some lives of one node on one disk; each ends by a clean stop, a
//! kill or a power loss. The judge (`model`) knows only calls and answers: what was acknowledged
//! must be read again, what certainly did not happen must never be seen.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is this test failing")]
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "a seed is printed first")]

#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/run.rs"]
mod run;

use run::{Plan, Tally};

/// Seeds that a plain `cargo test` runs; the gate asks for more.
const SEEDS: u64 = 60;

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
