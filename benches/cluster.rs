//! Three nodes in one process, over loopback: what do idle shards cost, and how fast does a member
//! that has nothing get the state of the others?
//!
//! ```text
//! cargo bench --bench cluster -- [idle|snapshot] [--shards N] [--seconds N] [--mib N] [--rate N]
//! ```
//!
//! `idle`: CPU of all three, and bytes on the loopback, while nobody calls, with few shards and
//! with many. `snapshot`: two nodes are filled and flush, the third starts empty and gets their
//! state; once alone, once while clients write to the leader. `--rate`: MiB a second that a node
//! may send of states.

#[path = "kit/process.rs"]
#[expect(unreachable_pub, reason = "the toolbox of a bench")]
mod process;
#[path = "../examples/kit/trio.rs"]
mod trio;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bowline::config::{ByteCount, CpuList};
use bowline::{EmbeddedClient, EmbeddedEngine, Error, ShardId};
use bytes::Bytes;
use process::{cpu_time, say};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(2);
/// Shards that a cluster has anyway.
const FEW: u32 = 16;
/// Bytes of a value of the state that is sent.
const VALUE: usize = 16 << 10;
/// Puts on their way while the state is made.
const AT_ONCE: usize = 128;
/// Clients that write meanwhile, each one value of 256 bytes at a time.
const WRITERS: usize = 8;
/// How long they write before it begins.
const BEFORE: Duration = Duration::from_secs(4);

type Three = [SocketAddr; 3];

#[expect(clippy::disallowed_methods, reason = "a bench reads a clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a bench waits")]
fn sleep(span: Duration) {
    thread::sleep(span);
}

/// Starts a node; the cores take the CPUs in turn.
fn start(dir: &Path, at: Three, id: u64, shards: u32, rate: u64) -> EmbeddedEngine {
    let cpus = bowline::probe::facts(dir).cpus;
    let own = usize::try_from(id).expect("three nodes") % cpus.len();
    let node = trio::node(dir, at, id).shards(shards).configure(move |config| {
        config.cores.cpus = CpuList(vec![cpus[own]]);
        config.wal.allow_cow = true;
        config.wal.slot_bytes = ByteCount::mib(16);
        config.wal.log_bytes = ByteCount::mib(512);
        config.limits.transfer = ByteCount::mib(rate);
    });
    node.start().wait().expect("a node starts")
}

fn all(dir: &Path, shards: u32) -> Vec<EmbeddedEngine> {
    let at = trio::addresses();
    let nodes: Vec<_> = (1..=3).map(|id| start(dir, at, id, shards, 100)).collect();
    for node in &nodes {
        node.wait_ready(PATIENCE).wait().expect("every shard is led");
    }
    nodes
}

fn stop(nodes: &[EmbeddedEngine]) {
    for node in nodes {
        node.stop().wait().expect("a node stops");
    }
}

/// Bytes that were sent over the loopback so far, by anybody.
fn loopback() -> u64 {
    let text = std::fs::read_to_string("/proc/net/dev").expect("Linux says what was sent");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let words = line.expect("there is a loopback").split_whitespace();
    words.map(|word| word.parse().expect("a count")).nth(8).expect("it has sixteen counts")
}

fn idle(home: &Path, shards: u32, seconds: f64) {
    let began = now();
    let nodes = all(&home.join(shards.to_string()), shards);
    let ready = began.elapsed();
    // Leaderships settle: members that are preferred take over within 10 s and a bit.
    sleep(Duration::from_secs_f64(seconds * 3.0));
    let passes = || -> u64 {
        let cores = nodes.iter().flat_map(|node| node.metrics().cores);
        cores.map(|core| core.passes).sum()
    };
    let (cpu, bytes, turns, slept) = (cpu_time(), loopback(), passes(), now());
    sleep(Duration::from_secs_f64(seconds));
    let over = slept.elapsed().as_secs_f64();
    let cpu = cpu_time().saturating_sub(cpu).as_secs_f64() / over * 100.0;
    let whole = slept.elapsed().as_secs().max(1);
    let (bytes, turns) = ((loopback() - bytes) / whole, (passes() - turns) / whole);
    say(&format!(
        "cluster/idle/{shards:<6} three nodes led after {:.2} s; then {cpu:.2} % of a CPU in all, \
         {turns} passes/s, {bytes} bytes/s on the loopback",
        ready.as_secs_f64()
    ));
    stop(&nodes);
}

/// Puts again while the node is busy.
fn put(client: &EmbeddedClient, key: [u8; 8], value: &Bytes) {
    loop {
        match client.put(key, value.clone()).wait() {
            Err(Error::Busy { retry_after, .. }) => sleep(retry_after),
            done => return done.expect("a put is done"),
        }
    }
}

fn fill(client: &EmbeddedClient, count: u64) {
    let value = |key: u64| {
        let words = (0..VALUE as u64 / 8).map(|at| (key * 31 + at).wrapping_mul(0x9e37_79b9));
        Bytes::from(words.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
    };
    let mut open = VecDeque::new();
    for key in 0..count {
        let value = value(key);
        open.push_back((key, value.clone(), client.put(key.to_le_bytes(), value)));
        if open.len() == AT_ONCE
            && let Some((key, value, op)) = open.pop_front()
            && op.wait().is_err()
        {
            put(client, key.to_le_bytes(), &value);
        }
    }
    for (key, value, op) in open {
        if op.wait().is_err() {
            put(client, key.to_le_bytes(), &value);
        }
    }
}

fn flush(node: &EmbeddedEngine) {
    for shard in (0..u64::from(node.shard_count())).filter_map(|id| node.shard(ShardId(id))) {
        shard.flush().wait().expect("a state is flushed");
    }
}

/// One client's puts until `over`, and how long each took.
fn write_on(client: &EmbeddedClient, number: u64, over: &AtomicBool) -> Vec<Duration> {
    let (value, mut took) = (Bytes::from(vec![7; 256]), Vec::new());
    while !over.load(Ordering::Relaxed) {
        let began = now();
        put(client, (u64::MAX - number).to_le_bytes(), &value);
        took.push(began.elapsed());
    }
    took
}

/// Runs `work` beside writers: what it answers, and the p99 of their puts.
fn beside<T>(client: &EmbeddedClient, work: impl FnOnce() -> T) -> (T, Duration, usize) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        #[expect(clippy::needless_collect, reason = "all write before one is waited for")]
        let writers: Vec<_> = (0..)
            .take(WRITERS)
            .map(|number| scope.spawn(move || write_on(client, number, over)))
            .collect();
        let result = work();
        over.store(true, Ordering::Relaxed);
        let took = writers.into_iter().flat_map(|it| it.join().expect("a writer goes on"));
        let mut took: Vec<_> = took.collect();
        took.sort_unstable();
        let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
        (result, p99, took.len())
    })
}

fn snapshot(home: &Path, mib: u64, rate: u64, writers: bool) {
    let name = if writers { "beside" } else { "alone" };
    let (dir, at) = (home.join(name), trio::addresses());
    let nodes = [1, 2].map(|id| start(&dir, at, id, FEW, rate));
    for node in &nodes {
        node.wait_ready(PATIENCE).wait().expect("two are enough");
    }
    // The first is preferred, and takes over what the other leads.
    let asked = now();
    while !nodes[0].is_leader() {
        assert!(asked.elapsed() < PATIENCE, "the preferred node leads");
        sleep(Duration::from_millis(50));
    }
    let client = nodes[0].client();
    let count = (mib << 20) / VALUE as u64;
    let began = now();
    fill(&client, count);
    nodes.iter().for_each(flush);
    let filled = began.elapsed().as_secs_f64();
    say(&format!("cluster/snapshot: {mib} MiB were written and flushed in {filled:.1} s"));
    // A member that has nothing, until every state is in place.
    let join = || {
        let third = start(&dir, at, 3, FEW, rate);
        let began = now();
        let got = || third.metrics().cores.iter().map(|core| core.installs).sum::<u64>();
        while got() < u64::from(FEW) && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10));
        }
        assert!(got() >= u64::from(FEW), "every state came, of {FEW}: {}", got());
        (began.elapsed(), third)
    };
    let speed = |took: Duration| {
        let mib = f64::from(u32::try_from(mib).expect("a few GiB"));
        format!("{:.2} s, {:.0} MiB/s", took.as_secs_f64(), mib / took.as_secs_f64())
    };
    let third = if writers {
        let ((), before, puts) = beside(&client, || sleep(BEFORE));
        say(&format!("cluster/snapshot: {puts} puts before, p99 {} us", before.as_micros()));
        let ((took, third), meanwhile, puts) = beside(&client, join);
        say(&format!(
            "cluster/snapshot: beside writers {}; {puts} puts meanwhile, p99 {} us, {:.2} times",
            speed(took),
            meanwhile.as_micros(),
            meanwhile.as_secs_f64() / before.as_secs_f64()
        ));
        third
    } else {
        let (took, third) = join();
        say(&format!("cluster/snapshot: a member gets them in {}", speed(took)));
        third
    };
    stop(&nodes);
    stop(&[third]);
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<u32>().ok()
    };
    let smoke = args.iter().any(|arg| arg == "--test");
    let asked = |part: &str| {
        let one = ["idle", "snapshot"].iter().any(|part| args.iter().any(|arg| arg == part));
        !one || args.iter().any(|arg| arg == part)
    };
    let home = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the directory can be made");
    if asked("idle") {
        let shards = value("--shards").unwrap_or(if smoke { 64 } else { 10_000 });
        let seconds = value("--seconds").map_or(if smoke { 0.2 } else { 5.0 }, f64::from);
        for shards in [FEW, shards] {
            idle(home.path(), shards, seconds);
        }
    }
    if asked("snapshot") {
        let mib = value("--mib").unwrap_or(if smoke { 16 } else { 1_024 });
        let rate = u64::from(value("--rate").unwrap_or(100));
        for writers in [false, true] {
            snapshot(home.path(), mib.into(), rate, writers);
        }
    }
}
