//! The clients, and what they wrote read back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use d_engine::EmbeddedClient;
use hdrhistogram::Histogram;

use crate::{Failure, Options};

/// Keys of one read.
const READ_AT_ONCE: usize = 1_000;
/// How long a client rests after a put that failed, so that one that fails at once does not take
/// the machine from the nodes.
const REST: Duration = Duration::from_millis(10);

/// What one round, or one client of it, did.
pub(crate) struct Round {
    /// Of the puts that count, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Puts that succeeded, those before and after the measured time included.
    pub(crate) acknowledged: u64,
    /// Puts that did not.
    pub(crate) failed: u64,
    /// What one of them said.
    pub(crate) failure: Option<String>,
    /// For each key the seed of its last value. A key whose last put failed is left out.
    pub(crate) last: HashMap<u64, u64>,
}

impl Round {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            latency: Histogram::new(3)?,
            acknowledged: 0,
            failed: 0,
            failure: None,
            last: HashMap::new(),
        })
    }

    fn add(&mut self, other: Self) -> Result<(), Failure> {
        self.latency.add(other.latency)?;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        self.last.extend(other.last);
        Ok(())
    }
}

/// One client: its keys are `number`, `number + clients`, and so on, so that it alone puts them.
struct Client {
    calls: Arc<EmbeddedClient>,
    options: Options,
    number: u64,
    clients: u64,
    chance: Arc<AtomicU64>,
    count_from: Instant,
    end: Instant,
}

/// Runs the clients; all of them share `calls`.
pub(crate) async fn run(
    options: &Options,
    calls: Arc<EmbeddedClient>,
    clients: u64,
) -> Result<Round, Failure> {
    if options.keys < clients {
        return Err("each client needs a key of its own".into());
    }
    let count_from = Instant::now() + Duration::from_secs_f64(options.warmup);
    let end = count_from + Duration::from_secs_f64(options.seconds);
    let chance = Arc::new(AtomicU64::new(1));
    let running: Vec<_> = (0..clients)
        .map(|number| {
            let (calls, chance) = (Arc::clone(&calls), Arc::clone(&chance));
            let options = options.clone();
            let client = Client { calls, options, number, clients, chance, count_from, end };
            tokio::spawn(client.put_until_the_end())
        })
        .collect();
    let mut all = Round::new()?;
    for client in running {
        all.add(client.await??)?;
    }
    Ok(all)
}

impl Client {
    async fn put_until_the_end(self) -> Result<Round, Failure> {
        let mut round = Round::new()?;
        let own = self.options.keys / self.clients;
        loop {
            let seed = mix(self.chance.fetch_add(1, Ordering::Relaxed));
            let key = seed % own * self.clients + self.number;
            let value = value_of(seed, self.options.value);
            let began = Instant::now();
            if began >= self.end {
                return Ok(round);
            }
            let put = self.calls.put(key.to_le_bytes(), &value).await;
            let now = Instant::now();
            if let Err(error) = put {
                round.failed += 1;
                round.failure.get_or_insert_with(|| error.to_string());
                round.last.remove(&key);
                tokio::time::sleep(REST).await;
                continue;
            }
            round.acknowledged += 1;
            round.last.insert(key, seed);
            if began >= self.count_from && now < self.end {
                round.latency.record(u64::try_from((now - began).as_nanos())?)?;
            }
        }
    }
}

/// Reads every key of `round` from the leader, linearizably. Failure: one of them does not hold its
/// last value, or fewer entries are applied than puts were acknowledged.
pub(crate) async fn read_back(
    calls: &EmbeddedClient,
    round: &Round,
    value_bytes: usize,
) -> Result<(), Failure> {
    let last: Vec<_> = round.last.iter().collect();
    for part in last.chunks(READ_AT_ONCE) {
        let keys: Vec<_> =
            part.iter().map(|(key, _)| Bytes::copy_from_slice(&key.to_le_bytes())).collect();
        let found = calls.get_multi_linearizable(&keys).await?;
        for ((key, seed), found) in part.iter().zip(found) {
            if found.as_deref() != Some(value_of(**seed, value_bytes).as_slice()) {
                return Err(format!("key {key} does not hold its last acknowledged put").into());
            }
        }
    }
    let applied = calls.scan_prefix(0_u64.to_le_bytes()).await?.revision;
    let acknowledged = round.acknowledged;
    if applied < acknowledged {
        return Err(format!("{acknowledged} puts acknowledged, {applied} entries applied").into());
    }
    Ok(())
}

fn value_of(seed: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    for (place, part) in (0..).zip(value.chunks_mut(8)) {
        part.copy_from_slice(&mix(seed ^ place).to_le_bytes()[..part.len()]);
    }
    value
}

/// Scrambles a number.
const fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
