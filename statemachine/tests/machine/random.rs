//! Random entries on a replica and on the model, with jobs and restarts between them.

use core::ops::Range;
use std::rc::Rc;

use bowline_env::Nanos;
use bowline_env::sim::{Profile, Rng, SimEnv, World};
use bowline_statemachine::kv::command as wire;
use bowline_statemachine::kv::encode::{self, Expect, Guard, Op, Ttl};
use bowline_statemachine::kv::{Item, KeyRange, ScanPage, ScanQuery};
use bowline_statemachine::store::StoreOptions;
use bowline_statemachine::{Answer, Kv, Machine, Output, Pressure, Query};
use bytes::Bytes;

use crate::model::Model;
use crate::replica::{Replica, body, payload};

const LIMIT: Nanos = Nanos(u64::MAX / 2);

/// What a run does beside writing.
#[derive(Clone, Copy)]
struct Plan {
    steps: u32,
    /// Bytes of runs that stay in memory: 0 makes every section cold.
    resident_bytes: u64,
}

struct Run {
    replica: Replica<Kv<SimEnv>>,
    model: Model,
    rng: Rc<Rng>,
    stamp_ms: u64,
}

/// An operation with what it owns.
#[derive(Clone, Debug)]
enum Owned {
    Get(Vec<u8>),
    Put(Vec<u8>, Vec<u8>, Ttl, bool),
    Delete(Vec<u8>, bool),
    Increment(Vec<u8>, i64, Ttl),
    Touch(Vec<u8>, Ttl),
}

impl Owned {
    fn as_op(&self) -> Op<'_> {
        match self {
            Self::Get(key) => Op::Get { key },
            Self::Put(key, value, ttl, prev) => Op::Put { key, value, ttl: *ttl, prev: *prev },
            Self::Delete(key, prev) => Op::Delete { key, prev: *prev },
            Self::Increment(key, by, ttl) => Op::Increment { key, by: *by, ttl: *ttl },
            Self::Touch(key, ttl) => Op::Touch { key, ttl: *ttl },
        }
    }
}

impl Run {
    fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    fn pick(&self, range: Range<u64>) -> usize {
        usize::try_from(range.start + self.below(range.end - range.start)).unwrap()
    }

    /// Keys are bytes: short ones, shared prefixes, zeros, 0xff, the empty key.
    fn key(&self) -> Vec<u8> {
        match self.below(8) {
            0 => b"\x00\xff"[..self.pick(0..3)].to_vec(),
            1 => vec![0xff; self.pick(0..4)],
            2 => vec![b'k'; 2_048 - self.pick(0..2)],
            _ => format!("key:{:03}", self.below(150)).into_bytes(),
        }
    }

    /// Numbers, text, inline and far values.
    fn value(&self) -> Vec<u8> {
        match self.below(8) {
            0 => Vec::new(),
            1 | 2 => (self.below(2_000).cast_signed() - 1_000).to_string().into_bytes(),
            3 => i64::MAX.to_string().into_bytes(),
            4 => vec![7; self.pick(1_000..5_000)],
            5 => b"007".to_vec(),
            _ => vec![b'v'; self.pick(1..300)],
        }
    }

    fn ttl(&self) -> Ttl {
        match self.below(8) {
            0 => Ttl::In(self.below(200)),
            1 => Ttl::At((self.stamp_ms + self.below(200)).saturating_sub(50)),
            2 => Ttl::Keep,
            _ => Ttl::None,
        }
    }

    fn expect<'a>(&self, key: &[u8], value: &'a [u8]) -> Expect<'a> {
        match self.below(4) {
            0 => Expect::Absent,
            1 => Expect::Present,
            2 => Expect::Value(value),
            _ => Expect::ModIndex(self.model.get(key).map_or(3, |item| item.rev)),
        }
    }

    /// A value that a guard may well meet.
    fn guess(&self, key: &[u8]) -> Vec<u8> {
        match self.model.get(key) {
            Some(item) if self.below(3) > 0 => item.value.to_vec(),
            _ => self.value(),
        }
    }

    fn op(&self) -> Owned {
        let key = self.key();
        match self.below(6) {
            0 => Owned::Get(key),
            1 => Owned::Delete(key, self.below(2) == 0),
            2 => Owned::Increment(key, self.below(9).cast_signed() - 4, self.ttl()),
            3 => Owned::Touch(key, self.ttl()),
            _ => Owned::Put(key, self.value(), self.ttl(), self.below(2) == 0),
        }
    }

    /// Draws a command: its bytes, and what the model says to it.
    fn command(&mut self) -> (u8, Vec<u8>, Output) {
        self.stamp_ms = (self.stamp_ms + self.below(20)).saturating_sub(self.below(3));
        self.model.next(self.stamp_ms);
        let (key, value, ttl) = (self.key(), self.value(), self.ttl());
        let prev = self.below(3) == 0;
        match self.below(16) {
            0 | 1 => {
                let bytes = body(|out| encode::delete(out, &key, prev));
                (wire::KIND_DELETE, bytes, self.model.delete(&key, prev))
            },
            2 if self.below(4) == 0 => {
                let end = if self.below(4) == 0 { Vec::new() } else { self.key() };
                let bytes = body(|out| encode::delete_range(out, &key, &end));
                (wire::KIND_DELETE_RANGE, bytes, self.model.delete_range(&key, &end))
            },
            3 | 4 => {
                let guess = self.guess(&key);
                let expect = self.expect(&key, &guess);
                let new = Some(&value[..]).filter(|_| !prev);
                let bytes = body(|out| encode::cas(out, &key, expect, new, ttl));
                (wire::KIND_CAS, bytes, self.model.cas(&key, expect, new, ttl))
            },
            5 | 6 => self.batch(prev),
            7 => {
                let by = self.below(9).cast_signed() - 4;
                let bytes = body(|out| encode::increment(out, &key, by, ttl));
                (wire::KIND_INCREMENT, bytes, self.model.increment(&key, by, ttl))
            },
            8 => {
                let bytes = body(|out| encode::touch(out, &key, ttl));
                (wire::KIND_TOUCH, bytes, self.model.touch(&key, ttl))
            },
            9 => {
                let keys: Vec<_> = (0..self.below(40)).map(|_| self.key()).collect();
                let slices: Vec<_> = keys.iter().map(|key| &key[..]).collect();
                let bytes = body(|out| encode::expire(out, &slices));
                (wire::KIND_EXPIRE, bytes, self.model.expire(&keys))
            },
            _ => {
                let bytes = body(|out| encode::put(out, &key, &value, ttl, prev));
                (wire::KIND_PUT, bytes, self.model.put(&key, &value, ttl, prev))
            },
        }
    }

    fn batch(&mut self, answers: bool) -> (u8, Vec<u8>, Output) {
        let keys: Vec<_> = (0..self.below(3)).map(|_| self.key()).collect();
        let guesses: Vec<_> = keys.iter().map(|key| self.guess(key)).collect();
        let pairs = keys.iter().zip(&guesses);
        let guards: Vec<_> =
            pairs.map(|(key, guess)| Guard { key, expect: self.expect(key, guess) }).collect();
        let owned: Vec<_> = (0..self.below(8)).map(|_| self.op()).collect();
        let ops: Vec<_> = owned.iter().map(Owned::as_op).collect();
        let bytes = body(|out| encode::batch(out, &guards, &ops, answers));
        (wire::KIND_BATCH, bytes, self.model.batch(&guards, &ops, answers))
    }

    async fn write(&mut self) {
        let (kind, bytes, want) = self.command();
        let limits = bowline_statemachine::Limits::default();
        assert_eq!(<Kv<SimEnv> as Machine<SimEnv>>::admit(kind, &bytes, &limits), Ok(1));
        let payload = payload(self.stamp_ms, kind, wire::KV_VERSION, &bytes);
        let got = self.replica.commit(payload).await.unwrap();
        assert_eq!(got, want, "kind {kind} at index {}", self.model.index);
    }

    async fn check_keys(&self) {
        let keys: Vec<_> = (0..20).map(|_| Bytes::from(self.key())).collect();
        let want: Vec<_> = keys.iter().map(|key| self.model.get(key)).collect();
        let got = self.replica.read(&Query::MultiGet(keys.clone().into())).await.unwrap();
        assert_eq!(got, Answer::Values(want.clone()));
        for (key, want) in keys.into_iter().zip(want).take(3) {
            let got = self.replica.read(&Query::Get(key)).await.unwrap();
            assert_eq!(got, Answer::Value(want));
        }
    }

    fn range(&self) -> KeyRange {
        match self.below(4) {
            0 => KeyRange::All,
            1 => KeyRange::Prefix(Bytes::from_static(
                [&b"key:0"[..], b"key:14", b"\xff", b"\xff\xff", b"", b"none"][self.pick(0..6)],
            )),
            _ => {
                let end = if self.below(4) == 0 { Vec::new() } else { self.key() };
                KeyRange::Between { start: self.key().into(), end: end.into() }
            },
        }
    }

    /// All pages of a range, put together.
    async fn scan(&self, mut query: ScanQuery) -> (Vec<(Bytes, Item)>, u64) {
        let (mut items, mut count) = (Vec::new(), 0);
        loop {
            let answer = self.replica.read(&Query::Scan(Box::new(query.clone()))).await.unwrap();
            let Answer::Page(page) = answer else { panic!("{answer:?}") };
            let ScanPage { items: some, count: of_page, rev, next } = page;
            assert_eq!(rev, self.model.index);
            assert!(query.limit == 0 || of_page <= u64::from(query.limit));
            count += of_page;
            items.extend(some);
            let Some(token) = next else { return (items, count) };
            query.token = Some(token);
        }
    }

    async fn check_scan(&self) {
        let (range, reverse) = (self.range(), self.below(2) == 0);
        let limit = u32::try_from(self.below(40)).unwrap();
        let query = ScanQuery { range, reverse, limit, ..ScanQuery::default() };
        let inside = |key: &Bytes| match &query.range {
            KeyRange::All => true,
            KeyRange::Prefix(prefix) => key.starts_with(prefix),
            KeyRange::Between { start, end } => start <= key && (end.is_empty() || key < end),
        };
        let mut want: Vec<_> = self.model.all();
        want.retain(|(key, _)| inside(key));
        if reverse {
            want.reverse();
        }
        let (got, count) = self.scan(query.clone()).await;
        assert_eq!(got, want, "{query:?}");
        assert_eq!(count, want.len() as u64);
        let (keys, _) = self.scan(ScanQuery { keys_only: true, ..query.clone() }).await;
        assert!(keys.iter().map(|(key, _)| key).eq(want.iter().map(|(key, _)| key)));
        assert!(keys.iter().all(|(_, item)| item.value.is_empty()));
        let (none, count) = self.scan(ScanQuery { count_only: true, ..query }).await;
        assert_eq!((none.len(), count), (0, want.len() as u64));
    }

    async fn step(&mut self) {
        match self.below(60) {
            0 => self.check_scan().await,
            1 | 2 => self.check_keys().await,
            3 if self.below(3) == 0 => drop(self.replica.job(Pressure::Flush).await),
            4 => drop(self.replica.job(Pressure::None).await),
            5 if self.below(8) == 0 => self.replica.restart().await,
            _ => self.write().await,
        }
    }
}

async fn run(env: SimEnv, rng: Rc<Rng>, plan: Plan) {
    let resident_bytes = plan.resident_bytes;
    let options = StoreOptions { resident_bytes, rate: 0, rate_max: 0, ..StoreOptions::default() };
    let replica = Replica::create(env, options).await;
    let mut run = Run { replica, model: Model::default(), rng, stamp_ms: 1_000 };
    for _ in 0..plan.steps {
        run.step().await;
    }
    run.replica.restart().await;
    run.check_scan().await;
}

fn check(seeds: Range<u64>, plan: Plan) {
    for seed in seeds {
        let world = World::new(seed, Profile::calm());
        let rng = world.rng();
        let done = world.run_on(1, LIMIT, move |env| run(env, rng, plan));
        assert_eq!(done, Ok(()), "seed {seed}");
    }
}

#[test]
fn model_vs_btreemap_with_runs_in_memory() {
    check(0..6, Plan { steps: 2_000, resident_bytes: 1 << 30 });
}

#[test]
fn model_vs_btreemap_with_every_run_cold() {
    check(100..106, Plan { steps: 2_000, resident_bytes: 0 });
}
