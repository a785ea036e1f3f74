//! `bowline bench disk`: the raw probe alone.

use std::process::ExitCode;

use bowline::probe::{self, DiskProbe, ProbeOptions, WayProbe};
use serde::Serialize;

use super::json::Lines;
use crate::cli::BenchDisk;
use crate::out;

/// One JSON object.
#[derive(Serialize)]
struct Line {
    workload: &'static str,
    cpu: u32,
    writes: u32,
    probe_write_sync_p50_us: f64,
    probe_write_sync_p99_us: f64,
    probe_pipe_mib_per_s: f64,
    dsync_p50_us: f64,
    dsync_p99_us: f64,
    dsync_pipe_mib_per_s: f64,
    fdatasync_p50_us: f64,
    fdatasync_p99_us: f64,
    fdatasync_pipe_mib_per_s: f64,
}

/// Measures and prints.
pub(crate) fn run(ask: &BenchDisk) -> anyhow::Result<ExitCode> {
    let mut options = ProbeOptions::default()
        .with_writes(ask.writes)
        .with_pipe_bytes(u64::from(ask.pipe) << 20)
        .with_direct_io(probe::facts(&ask.dir).dir.direct_io);
    if let Some(cpu) = ask.cpu {
        options = options.on_cpu(cpu);
    }
    let mut lines = Lines::to(ask.json.as_deref())?;
    let probe = probe::disk(&ask.dir, options).wait()?;
    if !lines.take_stdout() {
        out::line(table(&probe))?;
    }
    lines.put(&Line {
        workload: "disk",
        cpu: probe.cpu,
        writes: ask.writes,
        probe_write_sync_p50_us: super::micros(probe.write_sync_p50),
        probe_write_sync_p99_us: super::micros(probe.write_sync_p99),
        probe_pipe_mib_per_s: probe.pipe_mib_per_s,
        dsync_p50_us: super::micros(probe.dsync.write_sync_p50),
        dsync_p99_us: super::micros(probe.dsync.write_sync_p99),
        dsync_pipe_mib_per_s: probe.dsync.pipe_mib_per_s,
        fdatasync_p50_us: super::micros(probe.fdatasync.write_sync_p50),
        fdatasync_p99_us: super::micros(probe.fdatasync.write_sync_p99),
        fdatasync_pipe_mib_per_s: probe.fdatasync.pipe_mib_per_s,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Both ways, for people.
pub(crate) fn table(probe: &DiskProbe) -> String {
    let row = |name: &str, way: &WayProbe| {
        format!(
            "{name:<18} {:>9.1} {:>9.1} {:>9.1} {:>12.0} {:>6}",
            super::micros(way.write_sync_p50),
            super::micros(way.write_sync_p99),
            super::micros(way.write_sync_max),
            way.pipe_mib_per_s,
            way.pipe_depth,
        )
    };
    format!(
        "raw disk on CPU {}: 4 KiB write + sync, and 64 KiB writes in a pipe\n\
         {:<18} {:>9} {:>9} {:>9} {:>12} {:>6}\n{}\n{}",
        probe.cpu,
        "way",
        "p50 us",
        "p99 us",
        "max us",
        "pipe MiB/s",
        "depth",
        row("O_DSYNC", &probe.dsync),
        row("write + fdatasync", &probe.fdatasync),
    )
}
