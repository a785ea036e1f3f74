//! Three real `bowline serve` processes under load, killed at random moments, all at once too; and
//! cut from each other in network namespaces. Every answer that a client was given is kept here
//! and judged: reads and writes of a key happened one at a time, and no acknowledged write is
//! gone, on any node.
//!
//! `BOWLINE_ROUNDS=n` sets the rounds, `BOWLINE_SEED=s` the moments.
//!
//! ```text
//! cargo test --test cluster_crash                                    a few rounds
//! BOWLINE_ROUNDS=100 cargo test --test cluster_crash kills -- --nocapture
//! BOWLINE_ROUNDS=100 cargo test --test cluster_crash cuts -- --nocapture         as root
//! ```
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is this test failing")]
#![expect(clippy::disallowed_methods, reason = "processes, threads and clocks are what is tested")]
#![expect(clippy::disallowed_types, reason = "threads of clients share a record")]
#![expect(
    clippy::disallowed_macros,
    clippy::print_stdout,
    reason = "the seed is printed before it runs"
)]

#[path = "cluster_crash/binary.rs"]
mod binary;
#[path = "cluster_crash/cuts.rs"]
mod cuts;
#[path = "cluster_crash/door.rs"]
mod door;
#[path = "cluster_crash/draw.rs"]
mod draw;
#[path = "cluster_crash/kills.rs"]
mod kills;
#[path = "cluster_crash/load.rs"]
mod load;
#[path = "cluster_crash/nodes.rs"]
mod nodes;
#[path = "cluster_crash/pauses.rs"]
mod pauses;
#[path = "cluster_crash/space.rs"]
mod space;
#[path = "cluster_crash/zones.rs"]
mod zones;

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bowline_env::glommio::GlommioFactory;
use bowline_env::{EnvFactory, UringState};

use door::Door;
use draw::Draw;
use load::Record;
use nodes::{Nodes, SHARDS};

/// How long a cluster of which a majority lives may be without leaders.
const HEAL: Duration = Duration::from_mins(1);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Rounds and moments of a run, printed before it begins.
fn plan(rounds: u64) -> (u64, Draw) {
    let rounds = setting("BOWLINE_ROUNDS").unwrap_or(rounds);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = setting("BOWLINE_SEED").unwrap_or(clock);
    println!("BOWLINE_SEED={seed} BOWLINE_ROUNDS={rounds}");
    (rounds, Draw::new(seed))
}

/// Whether engines can run here.
fn can_run() -> bool {
    let uring = GlommioFactory::new(".").facts().io_uring;
    let skip = std::env::var("BOWLINE_NO_URING").is_ok_and(|value| value == "1");
    assert!(
        skip || uring == UringState::Ready,
        "io_uring cannot be used here ({uring:?}); BOWLINE_NO_URING=1 skips these tests"
    );
    uring == UringState::Ready
}

/// Waits until every shard has a leader as `node` sees it.
#[track_caller]
fn wait_led(nodes: &Nodes, node: usize) {
    let place = nodes.places[node].clone();
    let asking = thread::spawn(move || {
        let until = Instant::now() + HEAL;
        let mut last = String::new();
        while Instant::now() < until {
            last = match Door::open(&place).and_then(|mut door| door.ask("leader")) {
                Ok(answer) if answer.ends_with(&format!("of {SHARDS}")) => return None,
                Ok(answer) => answer,
                Err(error) => error.to_string(),
            };
            thread::sleep(Duration::from_millis(20));
        }
        Some(last)
    });
    if let Some(last) = asking.join().unwrap() {
        nodes.check_alive();
        panic!("node {node} knows no leaders after {HEAL:?}: {last}");
    }
}

/// Waits until clients are answered again.
#[track_caller]
fn wait_acked(nodes: &Nodes, record: &Record, more: u64) {
    let (until, want) = (Instant::now() + HEAL, record.acked() + more);
    while record.acked() < want {
        assert!(Instant::now() < until, "no write is acknowledged for {HEAL:?}");
        nodes.check_alive();
        thread::sleep(Duration::from_millis(5));
    }
}
