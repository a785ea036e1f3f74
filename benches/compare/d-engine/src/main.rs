//! Puts to three nodes of d-engine: what do they take, with the load of `bowline bench kv`?
//!
//! All nodes are in this process. C closed-loop clients, each with one put outstanding, use the
//! embedded client of the node that leads. 8-byte keys, values of random bytes. Each round begins
//! with a fresh cluster; after it, every key is read back and must hold its last acknowledged put.

mod load;
mod nodes;

use std::path::PathBuf;

use clap::Parser;

use crate::load::Round;
use crate::nodes::{Nodes, Storage};

/// Puts to three nodes of d-engine.
#[derive(Clone, Parser, Debug)]
struct Options {
    /// A directory on the disk to measure; each round has its own below it, removed at its end.
    #[arg(long)]
    dir: PathBuf,
    /// What keeps the log and the state of a node.
    #[arg(long, value_enum, default_value_t = Storage::Rocksdb)]
    storage: Storage,
    /// Clients, each with one put outstanding.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    clients: Vec<u64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value: usize,
    /// Distinct keys; each client has its share of them.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Seconds that are measured in each round.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before them.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Rounds; the median by rate is shown last.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads for the nodes and the clients; one a CPU if not given.
    #[arg(long)]
    threads: Option<usize>,
}

/// A failure that ends the measurement.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    println!(
        "{:<8} {:<7} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "clients", "round", "put/s", "p50 us", "p99 us", "acked", "failed", "keys read"
    );
    let (mut failed, mut failure) = (0, None);
    for clients in &options.clients {
        let mut rounds = Vec::new();
        for number in 0..options.rounds {
            let round = measure(&options, *clients)?;
            show(*clients, &number.to_string(), &round, options.seconds);
            failed += round.failed;
            failure = failure.or_else(|| round.failure.clone());
            rounds.push(round);
        }
        rounds.sort_by_key(|round| round.latency.len());
        if let Some(median) = rounds.get(rounds.len() / 2) {
            show(*clients, "median", median, options.seconds);
        }
    }
    match failure {
        None => Ok(()),
        Some(failure) => Err(format!("{failed} puts failed, one with: {failure}").into()),
    }
}

/// One round, with a runtime and a directory of its own: neither outlives it.
fn measure(options: &Options, clients: u64) -> Result<Round, Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = options.threads {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build()?;
    let dir = options.dir.join(format!("d-engine-{}", std::process::id()));
    let round = runtime.block_on(async {
        let nodes = Nodes::start(&dir, options.storage).await?;
        let client = nodes.leader().await?;
        let round = load::run(options, client.clone(), clients).await?;
        load::read_back(&client, &round, options.value).await?;
        nodes.stop().await?;
        Ok::<_, Failure>(round)
    });
    drop(runtime);
    std::fs::remove_dir_all(dir)?;
    round
}

fn show(clients: u64, name: &str, round: &Round, seconds: f64) {
    let micros = |quantile| round.latency.value_at_quantile(quantile) / 1_000;
    let (rate, p50, p99) = (round.latency.len() as f64 / seconds, micros(0.5), micros(0.99));
    let (acked, failed, read) = (round.acknowledged, round.failed, round.last.len());
    print!("{clients:<8} {name:<7} {rate:>10.0} {p50:>9} {p99:>9}");
    println!(" {acked:>9} {failed:>9} {read:>9}");
}
