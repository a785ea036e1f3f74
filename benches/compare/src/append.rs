//! One thread that appends synced batches to a log shared by many shards.

use std::time::Instant;

use crate::load::{Measured, Values, Work, histogram};
use crate::machine::Used;

/// How a batch is spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Shards that share the log.
    pub(crate) shards: u64,
    /// Entries made durable together: entry k of all goes to shard k modulo `shards`, so a batch
    /// of at most `shards` entries touches as many shards as it has entries.
    pub(crate) batch: u64,
}

/// A log that takes synced batches from one thread.
pub(crate) trait Appender {
    /// Adds an entry to the open batch.
    fn add(&mut self, shard: u64, index: u64, value: &[u8]) -> Result<(), String>;
    /// Makes the open batch durable and begins the next.
    fn sync(&mut self) -> Result<(), String>;
    /// Lets go of what a state machine would have flushed by now; called every 64 batches.
    fn collect(&mut self, upto: u64) -> Result<(), String>;
}

/// Entries of a shard that stay when the log is collected.
const KEPT: u64 = 4;

/// Runs batches one after the other, each durable before the next begins.
pub(crate) fn run(log: &mut dyn Appender, work: Work, shape: Shape) -> Result<Measured, String> {
    let values = Values::new(work.value_bytes);
    let mut entries = 0;
    let mut batches = 0_u64;
    let mut one_batch = |log: &mut dyn Appender| -> Result<(), String> {
        for _ in 0..shape.batch {
            let (shard, index) = (entries % shape.shards, entries / shape.shards + 1);
            log.add(shard, index, values.pick(entries.wrapping_mul(977)))?;
            entries += 1;
        }
        log.sync()?;
        batches += 1;
        let upto = (entries / shape.shards).saturating_sub(KEPT);
        if batches.is_multiple_of(64) && upto > 0 { log.collect(upto) } else { Ok(()) }
    };
    let warm = Instant::now();
    while warm.elapsed() < work.warmup {
        one_batch(log)?;
    }
    let mut latency = histogram();
    let before = Used::now();
    let began = Instant::now();
    while began.elapsed() < work.measured {
        let submitted = Instant::now();
        one_batch(log)?;
        latency.saturating_record(submitted.elapsed().as_nanos() as u64);
    }
    let seconds = began.elapsed().as_secs_f64();
    let used = Used::now().since(before);
    Ok(Measured { operations: latency.len() * shape.batch, seconds, latency, used })
}
