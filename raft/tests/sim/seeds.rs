//! Which seeds run, on how many threads, and what is printed of them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::{
    cover::Cover,
    plan::Plan,
    run::{Outcome, run},
};

const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the seeds of a run by hand")]
    let text = std::env::var(name).ok()?;
    let hex = text.strip_prefix("0x").map(|hex| u64::from_str_radix(hex, 16));
    hex.unwrap_or_else(|| text.parse()).ok()
}

/// Runs what the environment asks for, else `usual` seeds from 0 on.
pub fn run_all(usual: u64) {
    if let Some(seed) = number("BOWLINE_SEED") {
        return replay(seed);
    }
    let count = number("BOWLINE_SEEDS").unwrap_or(usual);
    let base = number("BOWLINE_SEED_BASE").unwrap_or(0);
    let next = AtomicU64::new(base);
    let failed = AtomicU64::new(0);
    let mut sum = Cover::default();
    #[expect(clippy::disallowed_methods, reason = "how fast the simulator is")]
    let began = std::time::Instant::now();
    thread::scope(|scope| {
        let work = || worker(&next, base + count, &failed);
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            sum.add(&thread.join().expect("a worker catches panics"));
        }
    });
    println!("{count} seeds from {base}:");
    for (name, count) in sum.rows() {
        println!("  {name} {count}");
    }
    let spent = began.elapsed().as_millis().max(1) * THREADS as u128;
    println!("  steps_per_second_and_thread {}", u128::from(sum.steps) * 1_000 / spent);
    let failed = failed.load(Ordering::SeqCst);
    assert_eq!(failed, 0, "seeds failed; replay one with BOWLINE_SEED=n BOWLINE_TRACE=1");
}

fn worker(next: &AtomicU64, end: u64, failed: &AtomicU64) -> Cover {
    let mut sum = Cover::default();
    loop {
        let seed = next.fetch_add(1, Ordering::SeqCst);
        if seed >= end {
            return sum;
        }
        println!("seed {seed}");
        let outcome = run(&Plan::draw(seed), false);
        sum.add(&outcome.cover);
        let most = if number("BOWLINE_STOP") == Some(1) { 0 } else { 20 };
        if show(seed, &outcome) && failed.fetch_add(1, Ordering::SeqCst) >= most {
            next.store(end, Ordering::SeqCst);
            return sum;
        }
    }
}

/// Prints what went wrong, if anything did.
fn show(seed: u64, outcome: &Outcome) -> bool {
    let Some(failure) = &outcome.failure else { return false };
    println!("seed {seed} FAILED at {} ns: {}", outcome.time, failure.what);
    for line in &failure.states {
        println!("  {line}");
    }
    true
}

fn replay(seed: u64) {
    let plan = Plan::draw(seed);
    println!("seed {seed}: {plan:?}\nfaults: {:?}", plan.classes.on());
    let outcome = run(&plan, number("BOWLINE_TRACE") == Some(1));
    println!("{:?}", outcome.cover);
    if show(seed, &outcome) {
        if number("BOWLINE_SHRINK") == Some(1) {
            shrink(&plan);
        }
        panic!("seed {seed} failed: {}", outcome.failure.expect("it was shown").what);
    }
}

/// Takes faults away, and makes everything less, as long as it still fails.
fn shrink(plan: &Plan) {
    let mut plan = plan.clone();
    let mut best = None;
    let mut attempt = |plan: &mut Plan, change: &dyn Fn(&mut Plan)| {
        let mut less = plan.clone();
        change(&mut less);
        if less == *plan {
            return;
        }
        if let Some(failure) = run(&less, false).failure {
            *plan = less;
            best = Some(failure);
        }
    };
    for _ in 0..2 {
        for class in plan.classes.on() {
            attempt(&mut plan, &|plan| plan.classes.set(class, false));
        }
        attempt(&mut plan, &|plan| plan.shards = 1);
        attempt(&mut plan, &|plan| plan.shards = (plan.shards / 2).max(1));
        attempt(&mut plan, &|plan| plan.cores.fill(1));
        attempt(&mut plan, &|plan| plan.streams = 1);
        attempt(&mut plan, &|plan| plan.small = false);
        attempt(&mut plan, &|plan| plan.lease = false);
        attempt(&mut plan, &|plan| plan.rest_dead = false);
        attempt(&mut plan, &|plan| plan.batch_max = 1);
        attempt(&mut plan, &|plan| plan.load_every *= 4);
        for _ in 0..4 {
            attempt(&mut plan, &|plan| plan.safety = plan.safety * 2 / 3);
        }
    }
    println!("shrunk to {plan:?}\nfaults: {:?}", plan.classes.on());
    if let Some(failure) = best {
        println!("{}", failure.what);
        failure.states.iter().for_each(|line| println!("  {line}"));
        println!("trace of the shrunk run:");
        run(&plan, number("BOWLINE_TRACE") == Some(1));
    }
}
