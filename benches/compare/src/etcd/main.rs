//! Puts to a running etcd: what does a cluster of three take, with the load of `bowline bench kv`?
//!
//! C closed-loop clients, each with one put outstanding, are tasks of one thread; they share a few
//! HTTP/2 connections to one member. 8-byte keys, values of random bytes. The calls are written by
//! hand, so that the client costs the machine little: a lighter one than etcd's own.

mod calls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;

use crate::calls::{Caller, connect};

/// Puts to a running etcd.
#[derive(Clone, Parser, Debug)]
struct Options {
    /// The client address of a member; of the one that leads, for the best figure.
    #[arg(long)]
    member: SocketAddr,
    /// Clients, each with one put outstanding.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    clients: Vec<usize>,
    /// Clients that share a connection.
    #[arg(long, default_value_t = 16)]
    share: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value: usize,
    /// Distinct keys.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Seconds that are measured in each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before them.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Rounds; the median by rate is shown last.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// What one round measured.
struct Round {
    rate: f64,
    latency: Histogram<u64>,
}

/// A failure that ends the measurement.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{:<8} {:<7} {:>10} {:>9} {:>9}", "clients", "round", "put/s", "p50 us", "p99 us");
    for clients in &options.clients {
        let mut rounds = Vec::new();
        for number in 0..options.rounds {
            let round = runtime.block_on(measure(&options, *clients))?;
            show(*clients, &number.to_string(), &round);
            rounds.push(round);
        }
        rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        show(*clients, "median", &rounds[rounds.len() / 2]);
    }
    Ok(())
}

fn show(clients: usize, name: &str, round: &Round) {
    let micros = |quantile| round.latency.value_at_quantile(quantile) / 1_000;
    let (rate, p50, p99) = (round.rate, micros(0.5), micros(0.99));
    println!("{clients:<8} {name:<7} {rate:>10.0} {p50:>9} {p99:>9}");
}

/// When puts are counted.
#[derive(Clone, Copy)]
struct Schedule {
    count_from: Instant,
    end: Instant,
}

async fn measure(options: &Options, clients: usize) -> Result<Round, Failure> {
    let mut callers = Vec::new();
    for _ in 0..clients.div_ceil(options.share.max(1)) {
        callers.push(connect(options.member).await?);
    }
    let count_from = Instant::now() + Duration::from_secs_f64(options.warmup);
    let end = count_from + Duration::from_secs_f64(options.seconds);
    let chance = Arc::new(AtomicU64::new(1));
    let running = (0..clients).map(|client| {
        let caller = callers[client % callers.len()].clone();
        let (options, chance) = (options.clone(), Arc::clone(&chance));
        tokio::spawn(put_until_the_end(caller, options, chance, Schedule { count_from, end }))
    });
    let running: Vec<_> = running.collect();
    let mut latency = Histogram::new(3)?;
    for client in running {
        latency.add(client.await??)?;
    }
    Ok(Round { rate: latency.len() as f64 / options.seconds, latency })
}

async fn put_until_the_end(
    mut caller: Caller,
    options: Options,
    chance: Arc<AtomicU64>,
    Schedule { count_from, end }: Schedule,
) -> Result<Histogram<u64>, Failure> {
    let mut latency = Histogram::new(3)?;
    let mut value = vec![0; options.value];
    loop {
        let seed = mix(chance.fetch_add(1, Ordering::Relaxed));
        for (place, part) in (0..).zip(value.chunks_mut(8)) {
            part.copy_from_slice(&mix(seed ^ place).to_le_bytes()[..part.len()]);
        }
        let began = Instant::now();
        if began >= end {
            return Ok(latency);
        }
        caller.put(&(seed % options.keys).to_le_bytes(), &value).await?;
        let now = Instant::now();
        if began >= count_from && now < end {
            latency.record(u64::try_from((now - began).as_nanos())?)?;
        }
    }
}

/// Scrambles a number.
const fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
