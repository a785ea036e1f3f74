//! Bowline beside other stores: the same work, synced, in the same run.
//!
//! Two questions, each one a table:
//!
//! * `put`: how many synced puts a second do C closed-loop clients get, and how long does each
//!   wait?
//! * `append`: how many entries a second does one thread append to a log shared by S shards, in
//!   synced batches of N?
//!
//! Every store opens a fresh directory under `--dir` for each round; the rounds are interleaved
//! (store after store, then the next round) because the disk of a shared machine drifts; the table
//! shows the median round by rate, with the lowest and highest rate beside it.

mod append;
mod group;
mod load;
mod machine;
#[path = "../../../server/src/bench/park.rs"]
mod park;
mod peers;
mod report;
#[allow(dead_code, reason = "the binary's bench uses the rest of it")]
#[path = "../../../server/src/bench/window.rs"]
mod window;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use crate::load::{Measured, Work};
use crate::report::{Case, Report};

/// The same synced work on bowline and on other stores.
#[derive(Parser, Debug)]
struct Options {
    /// Where each store gets a fresh directory; a fresh one below the system's by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds of every case; the median is shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured in each round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds run before the measured ones.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Closed-loop clients of `put`.
    #[arg(long, value_delimiter = ',', default_value = "64,512")]
    clients: Vec<usize>,
    /// Bytes of a value; a key has 8.
    #[arg(long, default_value_t = 256)]
    value: usize,
    /// Distinct keys.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Shards of `append`.
    #[arg(long, default_value_t = 1_000)]
    shards: u64,
    /// Entries of one synced batch of `append`.
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    batch: Vec<u64>,
    /// Only the stores with these names.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Which tables: put, append.
    #[arg(long, value_delimiter = ',', default_value = "put,append")]
    tables: Vec<String>,
    /// A file for one JSON line a round, or `-`.
    #[arg(long)]
    json: Option<String>,
}

impl Options {
    fn work(&self, clients: usize) -> Work {
        Work {
            clients,
            value_bytes: self.value,
            keys: self.keys,
            warmup: Duration::from_secs_f64(self.warmup),
            measured: Duration::from_secs_f64(self.seconds),
        }
    }

    fn wants(&self, store: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == store)
    }

    fn shows(&self, table: &str) -> bool {
        self.tables.iter().any(|name| name == table)
    }
}

/// Runs one round in a directory.
type Run = Box<dyn Fn(&Path) -> Result<Measured, String>>;

/// One thing to measure: what it is called, and how one round of it is run in a directory.
struct Candidate {
    case: Case,
    run: Run,
}

fn main() -> Result<(), String> {
    let options = Options::parse();
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let root = base.join(format!("bowline-compare-{}", std::process::id()));
    std::fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let outcome = run(&options, &root);
    let removed = std::fs::remove_dir_all(&root).map_err(|error| error.to_string());
    outcome.and(removed)
}

fn run(options: &Options, root: &Path) -> Result<(), String> {
    let mut report = Report::new(options.json.as_deref())?;
    if options.shows("put") {
        for &clients in &options.clients {
            let found = peers::putters(options.work(clients));
            measure(options, root, &mut report, found)?;
        }
    }
    if options.shows("append") {
        for &batch in &options.batch {
            let shape = append::Shape { shards: options.shards, batch };
            let found = peers::appenders(options.work(1), shape);
            measure(options, root, &mut report, found)?;
        }
    }
    Ok(())
}

fn measure(
    options: &Options,
    root: &Path,
    report: &mut Report,
    mut candidates: Vec<Candidate>,
) -> Result<(), String> {
    candidates.retain(|candidate| options.wants(&candidate.case.store));
    for round in 0..options.rounds {
        for candidate in &candidates {
            let dir = root.join(format!("{}-{round}", candidate.case.store));
            std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            let measured = (candidate.run)(&dir)
                .map_err(|error| format!("{}: {error}", candidate.case.store))?;
            std::fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
            report.round(&candidate.case, round, measured)?;
        }
    }
    report.table();
    Ok(())
}
