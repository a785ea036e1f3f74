//! Clients that write and read without end, and the record of what they were answered: the
//! acknowledgements are kept here, outside every node.
//!
//! A client has keys that it alone writes, over and over, and reads anybody's. Now and then it
//! writes a key that is never written again: none of these may be gone in the end.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::door::{Answer, Door};
use crate::draw::Draw;
use crate::nodes::{COUNT, Place};
use crate::zones::{self, Call, Moment};

const CLIENTS: u64 = 6;
const KEYS: u64 = 10;
/// One write in so many is to a key of its own.
const LASTING: u64 = 8;

/// What all clients were answered.
pub(crate) struct Record {
    began: Instant,
    calls: Mutex<BTreeMap<String, Vec<Call>>>,
    values: AtomicU64,
    acked: AtomicU64,
    reads: AtomicU64,
    unknown: AtomicU64,
}

impl Record {
    pub(crate) fn new() -> Arc<Self> {
        let number = || AtomicU64::new(0);
        Arc::new(Self {
            began: Instant::now(),
            calls: Mutex::default(),
            values: number(),
            acked: number(),
            reads: number(),
            unknown: number(),
        })
    }

    fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap() + 1
    }

    fn note(&self, key: &str, call: Call) {
        self.calls.lock().unwrap().entry(key.to_owned()).or_default().push(call);
    }

    /// Writes that were acknowledged so far.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Every key that anybody tried to write.
    fn keys(&self) -> Vec<String> {
        self.calls.lock().unwrap().keys().cloned().collect()
    }

    fn put(&self, door: &mut Door, key: &str) -> io::Result<Answer> {
        let value = self.values.fetch_add(1, Ordering::Relaxed) + 1;
        let start = self.now();
        let answer = door.put(key, &value.to_string());
        match answer {
            Ok(Answer::Done) => {
                self.acked.fetch_add(1, Ordering::Relaxed);
                let end = Some(self.now());
                self.note(key, Call::Write { value, start, end });
            },
            Ok(Answer::Unapplied(_)) => {},
            Ok(Answer::Unknown | Answer::Value(_)) | Err(_) => {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                self.note(key, Call::Write { value, start, end: None });
            },
        }
        answer
    }

    fn get(&self, door: &mut Door, key: &str) -> io::Result<Answer> {
        let start = self.now();
        let answer = door.get(key, "lin");
        if let Ok(Answer::Value(value)) = &answer {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.note(key, Call::Read { value: number(value.as_deref()), start, end: self.now() });
        }
        answer
    }

    /// Reads every key through every node, fresh and as the node has it, and judges all there is.
    #[track_caller]
    pub(crate) fn judge(&self, places: &[Place]) {
        let keys = self.keys();
        for (node, place) in places.iter().enumerate() {
            let place = place.clone();
            let (start, names) = (self.now(), keys.clone());
            // A thread of its own: it may enter another network.
            let reading = thread::spawn(move || {
                let mut door = Door::open(&place)?;
                let fresh = door.get_all(names.iter().map(String::as_str), "lin")?;
                let own = door.get_all(names.iter().map(String::as_str), "ev")?;
                io::Result::Ok((fresh, own))
            });
            let (fresh, own) = reading.join().unwrap().unwrap();
            let end = self.now();
            assert!(fresh == own, "node {node} does not have what it read fresh a moment before");
            for (key, answer) in keys.iter().zip(fresh) {
                let Answer::Value(value) = answer else { panic!("node {node}, {key}: {answer:?}") };
                let value = number(value.as_deref());
                self.note(key, Call::Read { value, start, end });
            }
        }
        for (key, calls) in self.calls.lock().unwrap().iter() {
            if let Err(why) = zones::check(calls) {
                panic!("key {key}: {why}; its calls: {calls:#?}");
            }
        }
    }

    pub(crate) fn tell(&self) -> String {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        format!(
            "{} writes acknowledged, {} unknown, {} reads, {} keys",
            of(&self.acked),
            of(&self.unknown),
            of(&self.reads),
            self.calls.lock().unwrap().len()
        )
    }
}

fn number(value: Option<&str>) -> Option<u64> {
    value.map(|value| value.parse().unwrap())
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(places: &[Place], record: &Arc<Record>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: u64| {
            let client = Client {
                number,
                places: places.to_vec(),
                record: Arc::clone(record),
                draw: Draw::new(seed ^ (number + 1) << 32),
                node: 0,
                lasting: 0,
            };
            let stop = Arc::clone(&stop);
            thread::spawn(move || client.work(&stop))
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { stop, threads }
    }

    #[track_caller]
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

struct Client {
    number: u64,
    places: Vec<Place>,
    record: Arc<Record>,
    draw: Draw,
    /// Whom it talks to.
    node: usize,
    /// Keys that were written once.
    lasting: u64,
}

impl Client {
    fn work(mut self, stop: &AtomicBool) {
        let mut door = None;
        while !stop.load(Ordering::Relaxed) {
            if door.is_none() {
                door = Door::open(&self.places[self.node]).ok();
                // A leader that was named and died, and stays dead, keeps nobody.
                if door.is_none() {
                    self.node = self.anybody();
                }
            }
            let stays = door.as_mut().is_some_and(|door| self.call(door));
            if !stays {
                door = None;
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// One call. Whether the next one goes to the same node.
    fn call(&mut self, door: &mut Door) -> bool {
        let answer = match self.draw.below(3) {
            0 => {
                let (client, key) = (self.draw.below(CLIENTS), self.draw.below(KEYS));
                self.record.get(door, &format!("{client}-{key}"))
            },
            _ if self.draw.below(LASTING) == 0 => {
                self.lasting += 1;
                self.record.put(door, &format!("{}-once-{}", self.number, self.lasting))
            },
            _ => {
                let key = self.draw.below(KEYS);
                self.record.put(door, &format!("{}-{key}", self.number))
            },
        };
        let leader = match answer {
            Ok(Answer::Done | Answer::Value(_)) => return true,
            Ok(Answer::Unapplied(leader)) => leader,
            Ok(Answer::Unknown) | Err(_) => None,
        };
        let named = leader.and_then(|at| self.places.iter().position(|place| place.admin == at));
        // Who says nothing, or names itself, is left for anybody.
        let other = self.anybody();
        self.node = named.unwrap_or(other);
        false
    }

    fn anybody(&mut self) -> usize {
        usize::try_from(self.draw.below(COUNT as u64)).unwrap()
    }
}
