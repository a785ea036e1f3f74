//! One thread that appends synced batches to a log shared by many shards.

use std::task::{Context, Poll, Waker};
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
    async fn sync(&mut self) -> Result<(), String>;
    /// Lets go of what a state machine would have flushed by now; called every 64 batches.
    fn collect(&mut self, upto: u64) -> Result<(), String>;
}

/// Entries of a shard that stay when the log is collected.
const KEPT: u64 = 4;

/// Runs `work` on a log whose calls block: the future never waits.
pub(crate) fn run_blocking(
    log: &mut impl Appender,
    work: Work,
    shape: Shape,
) -> Result<Measured, String> {
    let mut running = std::pin::pin!(run(log, work, shape));
    match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(measured) => measured,
        Poll::Pending => Err("a log that blocks has waited".to_owned()),
    }
}

/// Runs batches one after the other.
pub(crate) async fn run(
    log: &mut impl Appender,
    work: Work,
    shape: Shape,
) -> Result<Measured, String> {
    let mut filled =
        Filled { values: Values::new(work.value_bytes), shape, entries: 0, batches: 0 };
    let warm = Instant::now();
    while warm.elapsed() < work.warmup {
        filled.one_batch(log).await?;
    }
    let mut latency = histogram();
    let before = Used::now();
    let began = Instant::now();
    while began.elapsed() < work.measured {
        let submitted = Instant::now();
        filled.one_batch(log).await?;
        latency.saturating_record(submitted.elapsed().as_nanos() as u64);
    }
    let seconds = began.elapsed().as_secs_f64();
    let used = Used::now().since(before);
    Ok(Measured { operations: latency.len() * shape.batch, seconds, latency, used })
}

/// What has been appended so far.
struct Filled {
    values: Values,
    shape: Shape,
    entries: u64,
    batches: u64,
}

impl Filled {
    async fn one_batch(&mut self, log: &mut impl Appender) -> Result<(), String> {
        let shards = self.shape.shards;
        for _ in 0..self.shape.batch {
            let (shard, index) = (self.entries % shards, self.entries / shards + 1);
            log.add(shard, index, self.values.pick(self.entries.wrapping_mul(977)))?;
            self.entries += 1;
        }
        log.sync().await?;
        self.batches += 1;
        let upto = (self.entries / shards).saturating_sub(KEPT);
        if self.batches.is_multiple_of(64) && upto > 0 { log.collect(upto) } else { Ok(()) }
    }
}
