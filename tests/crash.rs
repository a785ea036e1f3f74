//! A writer process is killed at random moments, again and again on one directory, and every write
//! that it acknowledged must be there afterwards.
//!
//! The parent is the judge and keeps the log of acknowledgements in its own memory. The child is
//! this test binary, started again: it dumps what it recovered, then writes over 2 cores and 8
//! shards and says each attempt and each acknowledgement on its standard output.
//! `BOWLINE_ROUNDS=n` sets the rounds, `BOWLINE_SEED=s` the moments.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is this test failing")]
#![expect(clippy::disallowed_methods, reason = "processes, threads and clocks are what is tested")]
#![expect(clippy::disallowed_macros, reason = "the seed is printed before it runs")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bowline::{Config, EmbeddedEngine};

const DIR: &str = "BOWLINE_CRASH_DIR";
const THREADS: u64 = 4;
const KEYS: u64 = 40;
const WINDOW: usize = 8;
const ROUNDS: u64 = 50;

/// What the parent knows of one key: sequence numbers of writes.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acked: u64,
    attempted: u64,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn config(dir: &str) -> Config {
    let mut config = Config::default();
    for (key, value) in [
        ("node.data_dir", format!("{dir:?}")),
        ("cluster.shards", "8".into()),
        ("cores.count", "2".into()),
        ("wal.streams", "2".into()),
        ("wal.slot_bytes", "\"1MiB\"".into()),
        ("wal.frame_cap", "\"64KiB\"".into()),
        ("wal.log_bytes", "\"16MiB\"".into()),
        ("state.delta", "\"512KiB\"".into()),
    ] {
        config.set(key, &value).unwrap();
    }
    config
}

/// The child's life: dump, then write until killed. Nothing to do in an ordinary test run.
#[test]
fn child_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let engine =
        EmbeddedEngine::builder().configure(move |all| *all = config(&dir)).start().wait().unwrap();
    engine.wait_ready(Duration::from_mins(1)).wait().unwrap();
    let client = engine.client();
    let mut next = 1;
    for thread in 0..THREADS {
        for key in 0..KEYS {
            let name = format!("{thread}-{key}");
            let value = client.get(&name).wait().unwrap();
            let seq: u64 =
                value.map_or(0, |v| String::from_utf8(v.to_vec()).unwrap().trim().parse().unwrap());
            next = next.max(seq + 1);
            say(&format!("state {name} {seq}"));
        }
    }
    say("ready");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = client.clone();
            scope.spawn(move || write_for_ever(&client, thread, next));
        }
    });
}

fn write_for_ever(client: &bowline::EmbeddedClient, thread: u64, first: u64) {
    let mut window = std::collections::VecDeque::new();
    for seq in first.. {
        let name = format!("{thread}-{}", seq % KEYS);
        say(&format!("try {name} {seq}"));
        // Values of different lengths, some beyond a block.
        let width = if seq % 17 == 0 { 5_000 } else { 30 };
        window.push_back((name.clone(), seq, client.put(&name, format!("{seq:>width$}"))));
        while window.len() >= WINDOW {
            let (name, seq, op) = window.pop_front().unwrap();
            match op.wait() {
                Ok(()) => say(&format!("ack {name} {seq}")),
                // Certainly not applied: the log or the delta is full for a moment.
                Err(error) if error.is_retryable() => {
                    std::thread::sleep(Duration::from_millis(5));
                },
                Err(error) => panic!("a put fails: {error}"),
            }
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn spawn_child(dir: &str) -> (Child, Receiver<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_it_is_killed", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let (lines, received) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some(line) = line.strip_prefix('@') {
                lines.send(line.to_owned()).unwrap();
            }
        }
    });
    (child, received)
}

/// One line of the child, taken into what is known.
fn take(known: &mut BTreeMap<String, Known>, line: &str, dumped: &mut u64) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    let [verb, name, seq] = words[..] else { return line == "ready" };
    let seq: u64 = seq.parse().unwrap();
    let entry = known.entry(name.to_owned()).or_default();
    match verb {
        "state" => {
            assert!(
                entry.acked <= seq && seq <= entry.attempted,
                "key {name} is at {seq} after a crash; acknowledged {}, attempted {}",
                entry.acked,
                entry.attempted
            );
            // What was recovered once must never be lost again.
            entry.acked = seq;
            *dumped += 1;
        },
        "try" => entry.attempted = seq,
        "ack" => entry.acked = entry.acked.max(seq),
        _ => panic!("the child says {line:?}"),
    }
    false
}

#[test]
fn wa_07_every_acknowledged_write_survives_fifty_kills() {
    let rounds = setting("BOWLINE_ROUNDS").unwrap_or(ROUNDS);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut seed = setting("BOWLINE_SEED").unwrap_or(clock);
    println!("BOWLINE_SEED={seed} BOWLINE_ROUNDS={rounds}");
    let mut draw = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let path = path.to_str().unwrap();
    let mut known = BTreeMap::new();
    let (mut dumps, mut early) = (0, 0);
    for round in 0..=rounds {
        let (mut child, lines) = spawn_child(path);
        let last = round == rounds;
        // One round in five is killed at any moment of its recovery, unless it is the last.
        let blind = !last && round > 0 && draw(5) == 0;
        let mut kill_at = blind.then(|| Instant::now() + Duration::from_micros(draw(150_000)));
        let mut dumped = 0;
        loop {
            let wait = kill_at
                .map_or(Duration::from_mins(1), |at| at.saturating_duration_since(Instant::now()));
            match lines.recv_timeout(wait) {
                Ok(line) => {
                    if take(&mut known, &line, &mut dumped) {
                        assert_eq!(dumped, THREADS * KEYS, "the whole state was dumped");
                        dumps += 1;
                        let span = Duration::from_micros(draw(120_000));
                        kill_at = kill_at.or_else(|| Some(Instant::now() + span));
                    }
                },
                Err(_) if kill_at.is_some() => break,
                Err(error) => panic!("the child says nothing more: {error}, {:?}", child.wait()),
            }
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                break;
            }
        }
        early += u64::from(blind);
        child.kill().unwrap();
        child.wait().unwrap();
        for line in &lines {
            take(&mut known, &line, &mut dumped);
        }
    }
    let acked: u64 = known.values().map(|key| key.acked).max().unwrap();
    println!(
        "{rounds} kills, {early} of them in recovery, {dumps} dumps, {acked} writes a key at most"
    );
    assert!(dumps > rounds / 2 && acked > 0, "the child wrote something");
}
