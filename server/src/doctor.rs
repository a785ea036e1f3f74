//! `bowline doctor`: facts of the machine, what stands in the way of a start, and the disk's speed.

use std::path::Path;
use std::process::ExitCode;

use bowline::probe::{self, Facts, ProbeOptions, UringState};
use bowline::{Config, Error};

use crate::bench::disk;
use crate::cli::Doctor;
use crate::out;
use crate::scratch::Scratch;

/// Prints what it finds. Failure: the engine would not start.
pub(crate) fn run(ask: &Doctor) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(ask.config.as_deref()).map_err(Error::from)?;
    if let Some(dir) = &ask.dir {
        config.node.data_dir.clone_from(dir);
    }
    let dir = config.node.data_dir.clone();
    let facts = probe::facts(&dir);
    out::line(describe(&facts))?;
    let report = bowline::preflight(&config, &facts);
    for finding in &report.findings {
        out::line(format_args!("{finding:#}"))?;
    }
    if !report.is_ok() {
        return Ok(ExitCode::FAILURE);
    }
    if !ask.no_probe {
        let cpu = config.cores.cpus.0.first().or_else(|| facts.cpus.first());
        probe_disk(&dir, cpu.copied().unwrap_or(0), facts.dir.direct_io)?;
    }
    out::line(if report.findings.is_empty() { "ready" } else { "ready, with warnings" })?;
    Ok(ExitCode::SUCCESS)
}

fn probe_disk(dir: &Path, cpu: u32, direct_io: bool) -> anyhow::Result<()> {
    let scratch = near(dir)?;
    let options = ProbeOptions::default().on_cpu(cpu).with_direct_io(direct_io);
    out::line(disk::table(&probe::disk(scratch.path(), options).wait()?))?;
    Ok(())
}

/// A directory of our own on the data directory's file system.
fn near(dir: &Path) -> anyhow::Result<Scratch> {
    let standing = dir.ancestors().find(|part| part.is_dir()).unwrap_or_else(|| Path::new("."));
    Scratch::new(standing.join(format!(".bowline-doctor-{}", std::process::id())))
}

fn describe(facts: &Facts) -> String {
    let list = |cpus: &[u32]| {
        let cpus: Vec<_> = cpus.iter().map(u32::to_string).collect();
        if cpus.is_empty() { "unknown".to_owned() } else { cpus.join(",") }
    };
    let quota = match facts.cpu_quota_percent {
        Some(percent) => format!(", quota {percent} % of one"),
        None => String::new(),
    };
    let memlock = facts.memlock.map_or_else(|| "unlimited".to_owned(), mib);
    let uring = match &facts.io_uring {
        UringState::Ready => "ready",
        UringState::Denied { .. } => "refused",
        UringState::Missing => "missing",
        UringState::Old { .. } => "too old",
        _ => "unknown",
    };
    let dir = &facts.dir;
    format!(
        "kernel      {}, io_uring {uring}\n\
         CPUs        {}{quota}; disk interrupts on {}\n\
         memory      {}, may lock {memlock}\n\
         open files  {} (hard limit {})\n\
         directory   {}{}\n\
         disk        {:?}, direct I/O {} (aligned to {} B), {} free",
        facts.kernel,
        list(&facts.cpus),
        list(&facts.disk_irq_cpus),
        mib(facts.memory),
        facts.open_files.0,
        facts.open_files.1,
        dir.path,
        match (dir.exists, dir.founded) {
            (_, true) => " (founded)",
            (true, false) => " (not founded)",
            (false, false) => " (does not exist yet)",
        },
        dir.file_system,
        if dir.direct_io { "works" } else { "does not work" },
        dir.align,
        mib(dir.free),
    )
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
