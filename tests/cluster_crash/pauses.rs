//! How long a shard takes no writes when its leader is killed, and when a leadership is handed
//! over. The spans are printed; what is asserted holds at any speed.
//!
//! ```text
//! BOWLINE_ROUNDS=20 cargo test --test cluster_crash pauses -- --nocapture
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::door::{Answer, Door};
use crate::nodes::{COUNT, Nodes, Place};
use crate::{HEAL, can_run, plan, wait_led};

const ROUNDS: u64 = 2;
/// Writers, each with a key of its own: enough that every shard has some.
const WRITERS: usize = 24;
/// Writes of each writer before and after what is measured.
const WRITES: u64 = 20;

/// A client that writes one key, one value after the other.
struct Writer {
    key: String,
    places: Vec<Place>,
    at: usize,
    door: Option<Door>,
}

impl Writer {
    /// Writes until it is told to stop: when each write was acknowledged.
    fn work(mut self, number: usize, seen: &Seen) -> Vec<Instant> {
        let mut acked = Vec::new();
        let mut value = 0;
        while !seen.stop.load(Ordering::Relaxed) {
            value += 1;
            if self.put(value, seen) {
                acked.push(Instant::now());
                seen.acked[number].fetch_add(1, Ordering::Relaxed);
            }
        }
        acked
    }

    /// One attempt; true: it was acknowledged.
    fn put(&mut self, value: u64, seen: &Seen) -> bool {
        let Some(door) = &mut self.door else {
            self.door = Door::open(&self.places[self.at]).ok();
            if self.door.is_none() {
                self.go_on();
            }
            return false;
        };
        match door.put(&self.key, &value.to_string()) {
            Ok(Answer::Done) => return true,
            Ok(Answer::Unapplied(leader)) => {
                let at = self.places.iter().position(|place| Some(place.admin) == leader);
                match at.filter(|at| *at != self.at) {
                    Some(at) => {
                        self.at = at;
                        self.door = None;
                    },
                    None => thread::sleep(Duration::from_millis(1)),
                }
            },
            Ok(Answer::Unknown) => drop(seen.unknown.fetch_add(1, Ordering::Relaxed)),
            Ok(Answer::Value(_)) => panic!("a put is answered with a value"),
            Err(_) => self.go_on(),
        }
        false
    }

    fn go_on(&mut self) {
        self.door = None;
        self.at = (self.at + 1) % COUNT;
        thread::sleep(Duration::from_millis(1));
    }
}

/// What writers met.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    unknown: AtomicU64,
    /// Acknowledged writes of each writer.
    acked: [AtomicU64; WRITERS],
}

/// Writers at work.
struct Writers {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<Vec<Instant>>>,
}

impl Writers {
    fn start(places: &[Place]) -> Self {
        let seen = Arc::new(Seen::default());
        let one = |number: usize| {
            let (seen, key, places) = (Arc::clone(&seen), format!("w{number}"), places.to_vec());
            let writer = Writer { key, places, at: number % COUNT, door: None };
            thread::spawn(move || writer.work(number, &seen))
        };
        let threads = (0..WRITERS).map(one).collect();
        Self { seen, threads }
    }

    /// Waits until every writer had some more writes acknowledged.
    fn go_on(&self) {
        let counts = || self.seen.acked.each_ref().map(|count| count.load(Ordering::Relaxed));
        let (before, until) = (counts(), Instant::now() + HEAL);
        let done = || counts().iter().zip(&before).all(|(now, then)| now - then >= WRITES);
        while !done() {
            assert!(Instant::now() < until, "a writer waits for {HEAL:?}: {:?}", counts());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The longest pause of each writer that ended after `event`, and the writes without an answer.
    fn stop(self, event: Instant) -> (Vec<Duration>, u64) {
        self.seen.stop.store(true, Ordering::Relaxed);
        let pause = |acked: Vec<Instant>| {
            let spans = acked.windows(2).filter(|pair| pair[1] > event);
            let longest = spans.map(|pair| pair[1] - pair[0]).max();
            longest.expect("it writes before and after")
        };
        let all: Vec<_> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        (all.into_iter().map(pause).collect(), self.seen.unknown.load(Ordering::Relaxed))
    }
}

/// The node that leads most, by what it says of itself.
fn leader(nodes: &Nodes) -> usize {
    let leads = |node: &usize| {
        let answer = Door::open(&nodes.places[*node]).and_then(|mut door| door.put("w0", "0"));
        matches!(answer, Ok(Answer::Done))
    };
    let began = Instant::now();
    loop {
        if let Some(node) = (0..COUNT).find(leads) {
            return node;
        }
        assert!(began.elapsed() < HEAL, "nobody leads");
    }
}

fn tell(what: &str, mut pauses: Vec<Duration>, unknown: u64) {
    pauses.sort_unstable();
    let of_all = |permille: usize| pauses[(pauses.len() - 1) * permille / 1_000].as_millis();
    println!(
        "{what}: {} pauses, median {} ms, p90 {} ms, longest {} ms; {unknown} writes without \
         an answer",
        pauses.len(),
        of_all(500),
        of_all(900),
        of_all(1_000)
    );
}

#[test]
fn pauses_end() {
    if !can_run() {
        return;
    }
    let (rounds, mut draw) = plan(ROUNDS);
    let nodes = Nodes::on_loopback();
    (0..COUNT).for_each(|node| nodes.start(node));
    (0..COUNT).for_each(|node| wait_led(&nodes, node));
    let (mut killed, mut handed, mut unknown) = (Vec::new(), Vec::new(), [0; 2]);
    for _ in 0..rounds {
        let writers = Writers::start(&nodes.places);
        writers.go_on();
        let (old, event) = (leader(&nodes), Instant::now());
        nodes.kill(old);
        writers.go_on();
        let (pauses, lost) = writers.stop(event);
        killed.extend(pauses);
        unknown[0] += lost;
        nodes.start(old);
        (0..COUNT).for_each(|node| wait_led(&nodes, node));

        let writers = Writers::start(&nodes.places);
        writers.go_on();
        let old = leader(&nodes);
        let step = 1 + usize::try_from(draw.below(2)).unwrap();
        let (new, event) = ((old + step) % COUNT, Instant::now());
        let mut door = Door::open(&nodes.places[old]).unwrap();
        let answer = door.ask(&format!("transfer {}", new + 1)).unwrap();
        println!("transfer from {old} to {new}: {answer}, after {:.0?}", event.elapsed());
        writers.go_on();
        let (pauses, lost) = writers.stop(event);
        handed.extend(pauses);
        unknown[1] += lost;
    }
    tell("leader killed", killed, unknown[0]);
    tell("leadership handed over", handed, unknown[1]);
    assert_eq!(unknown[1], 0, "a handed leadership leaves no write open");
}
