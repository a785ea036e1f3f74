//! The clients: C plain threads, each with one synced put outstanding.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::machine::Used;

/// What is asked of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Clients, each with one operation outstanding.
    pub(crate) clients: usize,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
    /// Distinct keys.
    pub(crate) keys: u64,
    /// Run first, not counted.
    pub(crate) warmup: Duration,
    /// Counted.
    pub(crate) measured: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Puts, or entries, acknowledged while it was counted.
    pub(crate) operations: u64,
    /// How long it was counted.
    pub(crate) seconds: f64,
    /// Nanoseconds from submission to acknowledgement.
    pub(crate) latency: Histogram<u64>,
    /// CPU time and bytes written while it was counted.
    pub(crate) used: Used,
}

impl Measured {
    /// Operations a second.
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

/// A store that takes synced puts from many threads.
pub(crate) trait Putter: Sync {
    /// Parts that it cuts its keys into.
    const SHARDS: u64 = 1;

    /// Returns once `value` is durable under `key`.
    fn put(&self, client: usize, key: [u8; 8], value: &[u8]) -> Result<(), String>;
}

/// Chance that costs a nanosecond: xorshift64*.
pub(crate) struct Dice(u64);

impl Dice {
    /// A stream of its own for each `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Values that do not compress: windows of one pool of random bytes.
pub(crate) struct Values {
    pool: Vec<u8>,
    len: usize,
}

impl Values {
    /// Windows of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let mut dice = Dice::new(7);
        let pool = (0..(65_536 + len)).map(|_| (dice.roll() >> 56) as u8).collect();
        Self { pool, len }
    }

    /// One of 65,536 values.
    pub(crate) fn pick(&self, chance: u64) -> &[u8] {
        let at = (chance & 0xffff) as usize;
        &self.pool[at..at + self.len]
    }
}

/// A histogram of nanoseconds, 3 digits, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("bounds are in order")
}

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// Runs `work` on plain threads.
pub(crate) fn closed_loop(store: &impl Putter, work: Work) -> Result<Measured, String> {
    let phase = AtomicU8::new(WARMING);
    let values = Values::new(work.value_bytes);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..work.clients)
            .map(|client| {
                let (phase, values) = (&phase, &values);
                scope.spawn(move || one_client(store, work, client, phase, values))
            })
            .collect();
        std::thread::sleep(work.warmup);
        let before = Used::now();
        let began = Instant::now();
        phase.store(COUNTING, Ordering::Release);
        std::thread::sleep(work.measured);
        phase.store(OVER, Ordering::Release);
        let seconds = began.elapsed().as_secs_f64();
        let used = Used::now().since(before);
        let mut latency = histogram();
        for client in clients {
            let one = client.join().map_err(|_| "a client panicked".to_owned())??;
            latency.add(&one).map_err(|error| error.to_string())?;
        }
        Ok(Measured { operations: latency.len(), seconds, latency, used })
    })
}

fn one_client(
    store: &impl Putter,
    work: Work,
    client: usize,
    phase: &AtomicU8,
    values: &Values,
) -> Result<Histogram<u64>, String> {
    let mut dice = Dice::new(client as u64 + 1);
    let mut latency = histogram();
    loop {
        let chance = dice.roll();
        let key = (chance % work.keys).to_be_bytes();
        let began = Instant::now();
        store.put(client, key, values.pick(chance >> 40))?;
        match phase.load(Ordering::Acquire) {
            COUNTING => latency.saturating_record(began.elapsed().as_nanos() as u64),
            OVER => return Ok(latency),
            _ => {},
        }
    }
}

/// A counter that many threads raise.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// The next number, from 1.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}
