//! Clients: each calls on random keys through the nodes that are up, and every start and answer
//! goes into the history.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bowline::{
    Consistency, EmbeddedClient, EmbeddedEngine, Error, RequestError, ScanOptions, WriteBatch,
};
use bowline_env::Nanos;
use bowline_env::sim::{Rng, World};

use super::SLICE;
use super::history::{History, Key, Open, STEP};
use super::plan::Plan;
use super::tally::Tally;
use crate::linear::{Answer, Value, What};

/// Calls in one go of a client without a rest.
const BURST: u64 = 100;
/// Calls of all clients of a run, about: very busy clients rest between their bursts, since more
/// calls between two troubles cost much and find little.
const CALLS: u64 = 8_000;

/// What the run and its clients share.
pub(crate) struct Shared {
    /// A handle, not the world itself.
    pub(crate) world: World,
    pub(crate) plan: Plan,
    /// The nodes that are up, and the number of the life of each.
    pub(crate) up: RefCell<BTreeMap<u64, (u64, EmbeddedEngine)>>,
    /// All nodes there are, also one that joins or leaves.
    pub(crate) nodes: RefCell<Vec<u64>>,
    /// The node that joined, if there is one.
    pub(crate) guest: Cell<Option<u64>>,
    pub(crate) history: RefCell<History>,
    pub(crate) tally: RefCell<Tally>,
    pub(crate) stop: Cell<bool>,
    /// The number that was written last.
    number: Cell<i64>,
}

/// A node as one client uses it for one call.
#[derive(Clone)]
pub(crate) struct Door {
    node: u64,
    life: u64,
    client: EmbeddedClient,
}

impl Shared {
    pub(crate) fn new(world: &World, plan: &Plan) -> Rc<Self> {
        Rc::new(Self {
            world: world.clone(),
            plan: plan.clone(),
            up: RefCell::default(),
            nodes: RefCell::new(plan.nodes.clone()),
            guest: Cell::new(None),
            history: RefCell::new(History::new(plan.value_max)),
            tally: RefCell::default(),
            stop: Cell::new(false),
            number: Cell::new(0),
        })
    }

    /// All nodes there are.
    pub(crate) fn all(&self) -> Vec<u64> {
        self.nodes.borrow().clone()
    }

    /// A number that no other write has.
    fn fresh(&self) -> i64 {
        self.number.set(self.number.get() + STEP);
        self.number.get()
    }

    pub(crate) fn door(&self, node: u64) -> Option<Door> {
        let up = self.up.borrow();
        let (life, engine) = up.get(&node)?;
        Some(Door { node, life: *life, client: engine.client() })
    }

    /// What a write of `what` was answered. None: it certainly took no effect.
    fn note(&self, open: Open, result: &Result<Answer, Error>) -> Option<bool> {
        let mut history = self.history.borrow_mut();
        let mut tally = self.tally.borrow_mut();
        match result {
            Ok(answer) => {
                tally.acked += 1;
                match answer {
                    Answer::Swapped(true) => tally.swapped += 1,
                    Answer::Swapped(false) => tally.not_swapped += 1,
                    Answer::Value(_) => tally.increments += 1,
                    Answer::Done => {},
                }
                history.end(open, Some(*answer));
                Some(true)
            },
            Err(error) if error.maybe_applied() => {
                tally.unknown += 1;
                history.end(open, None);
                Some(false)
            },
            Err(_) => {
                tally.refused += 1;
                history.refused(open);
                None
            },
        }
    }
}

/// One client.
pub(crate) struct Client {
    pub(crate) shared: Rc<Shared>,
    pub(crate) number: usize,
    pub(crate) rng: Rng,
    /// What was last seen of each key, for guards.
    seen: BTreeMap<Key, Value>,
}

impl Client {
    pub(crate) fn new(shared: &Rc<Shared>, number: usize, rng: Rng) -> Self {
        Self { shared: Rc::clone(shared), number, rng, seen: BTreeMap::new() }
    }

    /// Calls until it is told to stop.
    pub(crate) async fn work(mut self) {
        let patience = [100, 500, 2_000][self.rng.index(3)];
        let began = self.shared.world.now();
        for calls in 0_u64.. {
            if calls.is_multiple_of(BURST) {
                self.rest(began, calls).await;
            }
            if self.shared.stop.get() {
                return;
            }
            let think = Nanos(self.rng.magnitude(1_000, self.shared.plan.think.0));
            self.shared.world.sleep(think).await;
            let Some(mut door) = self.choose() else { continue };
            door.client = door.client.with_timeout(Duration::from_millis(patience));
            match self.rng.below(20) {
                0..=9 => self.write(door).await,
                10..=15 => self.read(door).await,
                16..=17 => self.read_eventual(door).await,
                18 => self.write_many(door).await,
                _ => self.scan(door).await,
            }
        }
    }

    /// Waits until so many calls since `began` are no more than the client's share.
    async fn rest(&self, began: Nanos, calls: u64) {
        let plan = &self.shared.plan;
        let clients = u64::try_from(plan.clients).expect("few");
        let due = began.after(Nanos(plan.safety.0 / CALLS * clients * calls));
        while self.shared.world.now() < due && !self.shared.stop.get() {
            let left = due.since(self.shared.world.now());
            self.shared.world.sleep(left.min(SLICE)).await;
        }
    }

    /// The client's own node as a rule.
    fn choose(&self) -> Option<Door> {
        let nodes = &self.shared.plan.nodes;
        let own = nodes[self.number % nodes.len()];
        let guest = self.shared.guest.get().filter(|_| self.rng.ratio(1, 4));
        let any = || guest.unwrap_or_else(|| nodes[self.rng.index(nodes.len())]);
        let node = if self.rng.ratio(3, 4) { own } else { any() };
        self.shared.door(node)
    }

    fn key(&self) -> Key {
        let no = self.rng.below(self.shared.plan.keys);
        [Key::Register(no), Key::Counter(no), Key::Pair(no)][self.rng.index(3)]
    }

    /// What to write next.
    fn draw(&self, key: Key) -> What {
        let new = Some(self.shared.fresh());
        let swap = |new| {
            let expected = self.seen.get(&key).copied().unwrap_or_default();
            What::Swap { expected, new }
        };
        match (self.rng.below(10), key) {
            (0..=1, _) => What::Put(None),
            (2..=3, _) => swap(new),
            (4, Key::Register(_) | Key::Counter(_)) => {
                let swap = swap(None);
                // Of an absent key there is nothing to remove.
                let absent = matches!(swap, What::Swap { expected: None, .. });
                if absent { What::Put(None) } else { swap }
            },
            (5..=8, Key::Counter(_)) => What::Increment(1 + i64::from(self.rng.ratio(1, 2))),
            _ => What::Put(new),
        }
    }

    /// One write, and once more at the leader that a refusal names.
    async fn write(&mut self, door: Door) {
        let key = self.key();
        let mut door = Some(door);
        for attempt in 0..3 {
            let Some(at) = door.take() else { return };
            let what = self.draw(key);
            let open = self.shared.history.borrow_mut().begin(key, self.number, what);
            let result = self.call(&at, key, what).await;
            let took = self.shared.note(open, &result);
            self.count(key, attempt > 0, took == Some(true));
            match result {
                Ok(Answer::Done) => drop(self.seen.insert(key, after(what))),
                Ok(Answer::Value(sum)) => drop(self.seen.insert(key, sum)),
                Ok(Answer::Swapped(_)) => {},
                Err(Error::NotLeader { leader: Some(hint), .. }) => {
                    assert_ne!(
                        hint.id.0, at.node,
                        "a node that says it does not lead names itself"
                    );
                    door = self.shared.door(hint.id.0);
                },
                Err(error) => self.pause(&error).await,
            }
        }
    }

    fn count(&self, key: Key, redirected: bool, acked: bool) {
        let mut tally = self.shared.tally.borrow_mut();
        if let Key::Pair(_) = key {
            tally.batches += u64::from(acked);
        }
        if redirected {
            tally.redirected += 1;
            tally.redirected_acked += u64::from(acked);
        }
    }

    /// Waits as a refusal asks.
    async fn pause(&self, error: &Error) {
        if let Error::Busy { retry_after, .. } = error {
            let nanos = u64::try_from(retry_after.as_nanos()).unwrap_or(u64::MAX);
            self.shared.world.sleep(Nanos(nanos)).await;
        }
        assert!(!matches!(error, Error::Request(_)), "a good call is refused: {error}");
    }

    async fn call(&self, door: &Door, key: Key, what: What) -> Result<Answer, Error> {
        let value_max = self.shared.plan.value_max;
        let bytes = |number: i64| key.encode(number, value_max);
        let client = &door.client;
        let names = key.names();
        let name = &names[0];
        if let Key::Pair(_) = key {
            let mut batch = WriteBatch::new();
            if let What::Swap { expected, .. } = what {
                batch = batch.expect(name, expected.map(bytes).as_deref());
            }
            for name in &names {
                batch = match after(what) {
                    Some(number) => batch.put(name, bytes(number)),
                    None => batch.delete(name),
                };
            }
            let guarded = matches!(what, What::Swap { .. });
            return match client.write(batch).await {
                Ok(()) if guarded => Ok(Answer::Swapped(true)),
                Ok(()) => Ok(Answer::Done),
                Err(Error::Request(RequestError::GuardFailed(_))) if guarded => {
                    Ok(Answer::Swapped(false))
                },
                Err(error) => Err(error),
            };
        }
        match what {
            What::Put(Some(new)) => client.put(name, bytes(new)).await.map(|()| Answer::Done),
            What::Put(None) => client.delete(name).await.map(|()| Answer::Done),
            What::Swap { expected, new: Some(new) } => {
                let expected = expected.map(bytes);
                let swap = client.compare_and_swap(name, expected.as_deref(), bytes(new));
                swap.await.map(Answer::Swapped)
            },
            What::Swap { expected, new: None } => {
                let expected = bytes(expected.expect("nothing is removed only if absent"));
                client.compare_and_delete(name, expected).await.map(Answer::Swapped)
            },
            What::Increment(by) => {
                client.increment(name, by).await.map(|sum| Answer::Value(Some(sum)))
            },
            What::Get => unreachable!("a read is no write"),
        }
    }

    /// Several puts in one go, each with its own fate.
    async fn write_many(&self, door: Door) {
        let count = 2 + self.rng.index(6);
        let mut open = Vec::new();
        let mut pairs = Vec::new();
        for _ in 0..count {
            let no = self.rng.below(self.shared.plan.keys);
            let key = [Key::Register(no), Key::Counter(no)][self.rng.index(2)];
            let new = self.shared.fresh();
            let what = What::Put(Some(new));
            open.push(self.shared.history.borrow_mut().begin(key, self.number, what));
            let value = key.encode(new, self.shared.plan.value_max);
            pairs.push((key.names().remove(0), value));
        }
        let results = door.client.put_many(pairs).await;
        let results =
            results.unwrap_or_else(|error| open.iter().map(|_| Err(error.clone())).collect());
        assert_eq!(results.len(), open.len(), "every put has its result");
        for (open, result) in open.into_iter().zip(results) {
            let _: Option<bool> = self.shared.note(open, &result.map(|()| Answer::Done));
        }
    }

    /// A linearizable read, by lease if the run has leases.
    async fn read(&mut self, door: Door) {
        let key = self.key();
        let lease = self.shared.plan.lease_reads && self.rng.ratio(2, 3);
        let how = if lease { Consistency::Lease } else { Consistency::Linearizable };
        let open = self.shared.history.borrow_mut().begin(key, self.number, What::Get);
        if let Some(value) = self.ask(&door, key, how).await {
            self.shared.history.borrow_mut().end(open, Some(Answer::Value(value)));
            self.seen.insert(key, value);
            let mut tally = self.shared.tally.borrow_mut();
            if lease {
                tally.lease_reads += 1;
            } else {
                tally.reads += 1;
            }
        }
    }

    async fn read_eventual(&self, door: Door) {
        let key = self.key();
        if let Some(value) = self.ask(&door, key, Consistency::Eventual).await {
            self.shared.history.borrow_mut().eventual(key, value);
            self.shared.tally.borrow_mut().eventual_reads += 1;
        }
    }

    /// Reads a key; none: there is no answer.
    async fn ask(&self, door: &Door, key: Key, how: Consistency) -> Option<Value> {
        let read = read(&self.shared, door, key, how).await;
        match read {
            Ok(value) => Some(value),
            Err(error) => {
                self.shared.tally.borrow_mut().reads_refused += 1;
                self.pause(&error).await;
                None
            },
        }
    }

    /// One page of registers, or of a pair: a read of each key.
    async fn scan(&self, door: Door) {
        let eventual = self.rng.ratio(1, 3);
        let how = if eventual { Consistency::Eventual } else { Consistency::Linearizable };
        let no = self.rng.below(self.shared.plan.keys);
        let all = 0..self.shared.plan.keys;
        let (prefix, keys): (_, Vec<Key>) = match self.rng.below(3) {
            0 => ("r".to_owned(), all.map(Key::Register).collect()),
            1 => ("c".to_owned(), all.map(Key::Counter).collect()),
            _ => (format!("{{p{no}}}"), vec![Key::Pair(no)]),
        };
        let begin = |key| self.shared.history.borrow_mut().begin(key, self.number, What::Get);
        let open: Vec<Open> = keys.into_iter().map(begin).collect();
        let page = door.client.scan_prefix(prefix, ScanOptions::new().consistency(how)).await;
        let Ok(page) = page else {
            self.shared.tally.borrow_mut().reads_refused += 1;
            return;
        };
        self.shared.tally.borrow_mut().scans += 1;
        let found: BTreeMap<_, _> = page.items.into_iter().collect();
        let mut history = self.shared.history.borrow_mut();
        for open in open {
            let names = open.key.names();
            let values: Vec<_> = names.iter().map(|name| found.get(name).cloned()).collect();
            let value = history.value(open.key, &values);
            if eventual {
                history.eventual(open.key, value);
            } else {
                history.end(open, Some(Answer::Value(value)));
            }
        }
    }
}

/// What a key holds after a write.
fn after(what: What) -> Value {
    match what {
        What::Put(new) | What::Swap { new, .. } => new,
        What::Increment(_) | What::Get => None,
    }
}

/// Reads a key through a node.
pub(crate) async fn read(
    shared: &Shared,
    door: &Door,
    key: Key,
    how: Consistency,
) -> Result<Value, Error> {
    let names = key.names();
    if let Key::Pair(_) = key {
        let values = door.client.get_multi_with_consistency(&names, how).await?;
        shared.tally.borrow_mut().multi_reads += 1;
        return Ok(shared.history.borrow().value(key, &values));
    }
    let at = (door.node, door.life);
    let before = shared.history.borrow().newest(at, &names[0]);
    let item = door.client.get_item(&names[0], how).await?;
    let mut history = shared.history.borrow_mut();
    if let Some(item) = &item {
        history.version(at, &names[0], item, before);
    }
    Ok(history.value(key, &[item.map(|item| item.value)]))
}

/// Reads a key through a node for the record.
pub(crate) async fn read_noted(shared: &Shared, door: &Door, key: Key) -> Result<Value, Error> {
    let client = usize::MAX;
    let open = shared.history.borrow_mut().begin(key, client, What::Get);
    let value = read(shared, door, key, Consistency::Linearizable).await?;
    shared.history.borrow_mut().end(open, Some(Answer::Value(value)));
    shared.tally.borrow_mut().reads += 1;
    Ok(value)
}

/// Puts a fresh value through a node for the record.
pub(crate) async fn put_noted(shared: &Shared, door: &Door, key: Key) -> Result<(), Error> {
    let new = shared.fresh();
    let open = shared.history.borrow_mut().begin(key, usize::MAX, What::Put(Some(new)));
    let value = key.encode(new, shared.plan.value_max);
    let result = door.client.put(&key.names()[0], value).await.map(|()| Answer::Done);
    let _: Option<bool> = shared.note(open, &result);
    result.map(drop)
}
