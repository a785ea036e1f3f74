//! What a measurement says: a table for people, one JSON object a round.

use bowline::probe::DiskProbe;
use serde::Serialize;

use super::used::Used;
use super::window::Tally;
use super::{float, micros};

/// One round, as it goes into JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) workload: String,
    pub(crate) round: u32,
    pub(crate) nodes: u16,
    pub(crate) clients: usize,
    pub(crate) threads: usize,
    pub(crate) shards: u32,
    pub(crate) cores: u32,
    pub(crate) on_core: bool,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// Operations a second that were due; none: closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) seconds: f64,
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) bytes_written: u64,
    pub(crate) errors: u64,
    /// Code of the first error.
    pub(crate) failure: Option<String>,
    /// Times that a call was turned away (BOW-0501) and made again.
    pub(crate) busy: u64,
    pub(crate) unsent: u64,
    pub(crate) probe_write_sync_p50_us: f64,
    pub(crate) probe_write_sync_p99_us: f64,
    pub(crate) probe_pipe_mib_per_s: f64,
    /// Median wait of an operation by the probe's.
    pub(crate) p50_to_probe: f64,
    /// Bytes written a second by the probe's pipe.
    pub(crate) written_to_probe: f64,
}

/// What is the same in all rounds.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) workload: String,
    pub(crate) nodes: u16,
    pub(crate) clients: usize,
    pub(crate) threads: usize,
    pub(crate) shards: u32,
    pub(crate) cores: u32,
    pub(crate) on_core: bool,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) rate: Option<f64>,
}

/// What one round measured.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) tally: Tally,
    pub(crate) used: Used,
    pub(crate) seconds: f64,
    /// The disk right before and right after.
    pub(crate) probes: [DiskProbe; 2],
}

impl Line {
    /// A round in figures. The probe's are the means of both sides of the round.
    pub(crate) fn of(setting: &Setting, number: u32, round: &Round) -> Self {
        let ops = round.tally.latency.len();
        let at = |quantile| float(round.tally.latency.value_at_quantile(quantile)) / 1e3;
        let mean = |figure: fn(&DiskProbe) -> f64| {
            let [before, after] = &round.probes;
            f64::midpoint(figure(before), figure(after))
        };
        let probe_p50 = mean(|probe| micros(probe.write_sync_p50));
        let pipe = mean(|probe| probe.pipe_mib_per_s);
        let written = float(round.used.written) / f64::from(1 << 20) / round.seconds;
        Self {
            workload: setting.workload.clone(),
            round: number,
            nodes: setting.nodes,
            clients: setting.clients,
            threads: setting.threads,
            shards: setting.shards,
            cores: setting.cores,
            on_core: setting.on_core,
            keys: setting.keys,
            value_bytes: setting.value_bytes,
            rate: setting.rate,
            seconds: round.seconds,
            ops,
            ops_per_s: float(ops) / round.seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: float(round.tally.latency.max()) / 1e3,
            cpu_us_per_op: micros(round.used.cpu) / float(ops.max(1)),
            bytes_written: round.used.written,
            errors: round.tally.errors,
            failure: round.tally.failure.map(|code| code.to_string()),
            busy: round.tally.busy,
            unsent: round.tally.unsent,
            probe_write_sync_p50_us: probe_p50,
            probe_write_sync_p99_us: mean(|probe| micros(probe.write_sync_p99)),
            probe_pipe_mib_per_s: pipe,
            p50_to_probe: ratio(at(0.5), probe_p50),
            written_to_probe: ratio(written, pipe),
        }
    }
}

fn ratio(figure: f64, by: f64) -> f64 {
    if by > 0.0 { figure / by } else { 0.0 }
}

/// The heading of the rounds.
pub(crate) fn heading(setting: &Setting) -> String {
    let clients = match (setting.on_core, setting.threads) {
        (true, _) => "on the cores".to_owned(),
        (false, 1) => "on 1 thread".to_owned(),
        (false, threads) => format!("on {threads} threads"),
    };
    let pace = match setting.rate {
        Some(rate) => format!("{rate} op/s due"),
        None => "closed loop".to_owned(),
    };
    format!(
        "{}: {} clients {clients}, {pace}; {}{} shards, {} cores; {} B values, {} keys; synced\n\
         {:<5} {:>10} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8} {:>6} {:>6} {:>9} {:>7} {:>9} {:>7}",
        setting.workload,
        setting.clients,
        if setting.nodes > 1 { format!("{} nodes, ", setting.nodes) } else { String::new() },
        setting.shards,
        setting.cores,
        setting.value_bytes,
        setting.keys,
        "round",
        "op/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "cpu us",
        "MiB/s",
        "errors",
        "busy",
        "probe us",
        "p50/it",
        "pipe MiB",
        "MiB/it",
    )
}

/// One row of the table.
pub(crate) fn row(name: &str, line: &Line) -> String {
    format!(
        "{name:<5} {:>10.0} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>7.2} {:>8.1} {:>6} {:>6} {:>9.1} \
         {:>7.2} {:>9.0} {:>7.2}",
        line.ops_per_s,
        line.p50_us,
        line.p99_us,
        line.p999_us,
        line.max_us,
        line.cpu_us_per_op,
        float(line.bytes_written) / f64::from(1 << 20) / line.seconds,
        line.errors + line.unsent,
        line.busy,
        line.probe_write_sync_p50_us,
        line.p50_to_probe,
        line.probe_pipe_mib_per_s,
        line.written_to_probe,
    )
}

/// The round with the median rate.
pub(crate) fn median(lines: &[Line]) -> Option<&Line> {
    let mut sorted: Vec<_> = lines.iter().collect();
    sorted.sort_by(|a, b| a.ops_per_s.total_cmp(&b.ops_per_s));
    sorted.get(sorted.len() / 2).copied()
}
