//! `bowline bench kv`: nodes in this process, clients on the one that leads, and the raw disk in
//! the same run.

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bowline::config::CoreCount;
use bowline::probe::{self, DiskProbe, ProbeOptions};
use bowline::{Config, EmbeddedEngine, Error};

use super::json::Lines;
use super::load::Load;
use super::nodes::Nodes;
use super::report::{self, Line, Round, Setting};
use super::work::{Keys, Mix, Values};
use crate::cli::{BenchKv, Fresh};
use crate::out;
use crate::scratch::Scratch;

/// Measures and prints. Failure: an operation failed.
pub(crate) fn run(ask: &BenchKv) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::below(ask.dir.as_deref(), "bowline-bench")?;
    let config = configuration(ask, scratch.path())?;
    let disk = Disk::of(&config, ask, scratch.path());
    // The directory of the probe is there before the nodes' are founded.
    let mut before = disk.probe()?;
    let mut lines = Lines::to(ask.json.as_deref())?;
    let nodes = Nodes::start(&config, ask.nodes)?;
    let engine = nodes.leader()?;
    let load = load(ask, engine);
    let setting = setting(ask, load.mix);
    if load.mix.reads_percent > 0 {
        load.fill(&engine.client())?;
    }
    let tables = !lines.take_stdout();
    if tables {
        out::line(report::heading(&setting))?;
    }
    let mut rounds = Vec::new();
    for number in 0..ask.rounds {
        let engine = nodes.leader()?;
        let outcomes =
            if ask.on_core { load.on_cores(engine)? } else { load.on_threads(&engine.client()) };
        let after = disk.probe()?;
        let round = Round {
            tally: outcomes.tally,
            used: outcomes.used,
            seconds: outcomes.seconds,
            probes: [before, after],
        };
        let line = Line::of(&setting, number, &round);
        if tables {
            out::line(report::row(&number.to_string(), &line))?;
        }
        lines.put(&line)?;
        rounds.push(line);
        before = after;
    }
    nodes.stop()?;
    if tables
        && rounds.len() > 1
        && let Some(median) = report::median(&rounds)
    {
        out::line(report::row("median", median))?;
    }
    if let Some(code) = rounds.iter().find_map(|line| line.failure.as_deref()) {
        out::complain(&anyhow::anyhow!("operations failed, the first with {code}"));
    }
    let failed = rounds.iter().any(|line| line.errors > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn configuration(ask: &BenchKv, dir: &Path) -> Result<Config, Error> {
    let mut config = Config::load(ask.config.as_deref())?;
    config.node.data_dir = dir.join("node");
    config.cluster.shards = ask.shards;
    config.cores.count = CoreCount::Is(ask.cores);
    config.raft.lease_reads |= ask.consistency == Fresh::Lease;
    for (key, value) in &ask.set {
        config.set(key, value)?;
    }
    config.check()?;
    Ok(config)
}

/// The disk under the node, as its first core sees it.
struct Disk {
    dir: PathBuf,
    options: ProbeOptions,
}

impl Disk {
    fn of(config: &Config, ask: &BenchKv, dir: &Path) -> Self {
        let facts = probe::facts(dir);
        let cpu = config.cores.cpus.0.first().or_else(|| facts.cpus.first());
        // A short run gets a short probe.
        let short = ask.seconds < 2.0;
        let (writes, pipe) = if short { (200, 8 << 20) } else { (1_000, 32 << 20) };
        let options = ProbeOptions::default()
            .on_cpu(cpu.copied().unwrap_or(0))
            .with_direct_io(facts.dir.direct_io)
            .with_writes(writes)
            .with_pipe_bytes(pipe);
        Self { dir: dir.to_owned(), options }
    }

    fn probe(&self) -> Result<DiskProbe, Error> {
        probe::disk(&self.dir, self.options).wait()
    }
}

fn load(ask: &BenchKv, engine: &EmbeddedEngine) -> Load {
    Load {
        mix: Mix::of(ask),
        keys: Arc::new(Keys::new(ask.keys, ask.shards, |key| engine.shard_of(key))),
        values: Values::new(ask.value),
        clients: ask.clients,
        threads: ask.threads,
        warmup: Duration::from_secs_f64(ask.warmup),
        measured: Duration::from_secs_f64(ask.seconds),
        rate: ask.rate,
    }
}

fn setting(ask: &BenchKv, mix: Mix) -> Setting {
    Setting {
        workload: mix.to_string(),
        nodes: ask.nodes,
        clients: ask.clients,
        threads: if ask.on_core { 0 } else { ask.threads.min(ask.clients) },
        shards: ask.shards,
        cores: ask.cores,
        on_core: ask.on_core,
        keys: ask.keys,
        value_bytes: ask.value,
        rate: ask.rate,
    }
}
