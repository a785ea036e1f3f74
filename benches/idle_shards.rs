//! What do ten thousand idle shards on one core cost?
//!
//! A directory is made with that many shards and a second one with a few. Each is then started
//! anew in a process of its own, which prints how long `start` and the election of every shard
//! took, which share of a CPU it used while nobody called it, and its memory. Memory per shard is
//! the difference between the two, divided by the difference in shards: what a node costs anyway
//! drops out. The shards hold no keys. Medians of the starts. Ten thousand shards ask for an
//! open-file limit of 20,284; where it is lower, `--shards` takes fewer.
//!
//! ```text
//! cargo bench --bench idle_shards [-- --shards N] [--starts N] [--seconds N]
//! ```

#[path = "kit/engine.rs"]
#[expect(unreachable_pub, reason = "the toolbox of a bench")]
mod engine;
#[path = "kit/process.rs"]
#[expect(unreachable_pub, reason = "the toolbox of a bench")]
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use process::{cpu_time, say};
use tempfile::TempDir;

/// Shards of the directory that is subtracted.
const FEW: u32 = 16;

/// What one start said.
#[derive(Clone, Copy, Debug)]
struct Seen {
    start_ms: f64,
    ready_ms: f64,
    cpu_percent: f64,
    memory: f64,
}

/// Anonymous memory of this process in bytes.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says what we hold");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of it");
    let kib = line.trim().trim_end_matches(" kB").parse::<u32>().expect("a count of KiB");
    f64::from(kib) * 1024.0
}

/// One start, in this process: prints its figures for the parent.
#[expect(clippy::disallowed_methods, reason = "a bench reads a clock and waits")]
fn child(dir: &Path, shards: u32, seconds: f64) {
    let began = std::time::Instant::now();
    let engine = engine::start(dir, shards, 256);
    let started = began.elapsed().as_secs_f64();
    engine.wait_ready(Duration::from_mins(1)).wait().expect("one node leads itself");
    let ready = began.elapsed().as_secs_f64();
    let settle = Duration::from_secs_f64(seconds / 4.0);
    std::thread::sleep(settle);
    let before = cpu_time();
    let slept = std::time::Instant::now();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let used = cpu_time().saturating_sub(before);
    let cpu = used.as_secs_f64() / slept.elapsed().as_secs_f64() * 100.0;
    say(&format!("{} {} {cpu} {}", started * 1e3, ready * 1e3, memory()));
    engine.stop().wait().expect("the engine stops");
}

/// Starts a directory in a process of its own.
fn one_start(dir: &Path, shards: u32, seconds: f64) -> Seen {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program)
        .arg("--child")
        .arg(dir)
        .args([shards.to_string(), seconds.to_string()])
        .output()
        .expect("this program can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(words.len() == 4, "a start failed: {}", String::from_utf8_lossy(&output.stderr));
    let [start_ms, ready_ms, cpu_percent, memory] = [words[0], words[1], words[2], words[3]];
    Seen { start_ms, ready_ms, cpu_percent, memory }
}

/// The medians of some starts of a directory, which is made first.
fn medians(home: &Path, shards: u32, starts: usize, seconds: f64) -> Seen {
    let dir = home.join(shards.to_string());
    engine::start(&dir, shards, 256).stop().wait().expect("the engine stops");
    let seen: Vec<_> = (0..starts).map(|_| one_start(&dir, shards, seconds)).collect();
    let median = |of: fn(&Seen) -> f64| {
        let mut values: Vec<_> = seen.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Seen {
        start_ms: median(|seen| seen.start_ms),
        ready_ms: median(|seen| seen.ready_ms),
        cpu_percent: median(|seen| seen.cpu_percent),
        memory: median(|seen| seen.memory),
    }
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [first, dir, shards, seconds] = &args[..]
        && first == "--child"
    {
        let shards = shards.parse().expect("a count of shards");
        return child(&PathBuf::from(dir), shards, seconds.parse().expect("seconds"));
    }
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<u32>().ok()
    };
    let smoke = args.iter().any(|arg| arg == "--test");
    let shards = value("--shards").unwrap_or(if smoke { 200 } else { 10_000 });
    let starts = value("--starts").unwrap_or(if smoke { 1 } else { 5 });
    let seconds = value("--seconds").map_or(if smoke { 0.2 } else { 4.0 }, f64::from);
    let starts = usize::try_from(starts.max(1)).expect("few starts");
    let home = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the directory can be made");
    let few = medians(home.path(), FEW, starts, seconds);
    let many = medians(home.path(), shards, starts, seconds);
    for (shards, seen) in [(FEW, few), (shards, many)] {
        say(&format!(
            "idle_shards/{shards:<6} start {:>6.0} ms, all led after {:>6.0} ms, idle {:>5.2} % \
             of a CPU, {:>6.1} MiB",
            seen.start_ms,
            seen.ready_ms,
            seen.cpu_percent,
            seen.memory / f64::from(1 << 20),
        ));
    }
    let each = (many.memory - few.memory) / f64::from(shards.saturating_sub(FEW).max(1));
    say(&format!("idle_shards: {each:.0} bytes for each shard beside its state"));
}
