//! One run: some lives of a node on one disk, under load, each with its own end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bowline::{Config, EmbeddedClient, EmbeddedEngine, Error};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, Profile, Rng, World};
use bowline_wal::{Geometry, SyncChoice, WalLogs, WalOptions};

use crate::model::{Model, Value};

/// The node's number in the world.
const NODE: u64 = 1;
/// Virtual time that a start, a read or an orderly end may take at most.
const LIMIT: Nanos = Nanos(120_000_000_000);

/// What a run does, drawn from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    seed: u64,
    profile: Profile,
    shards: u32,
    streams: u32,
    clients: usize,
    keys: u64,
    lives: u32,
    value_max: u64,
    sync: SyncChoice,
}

/// What runs met; equal for equal seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) acked: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) reads: u64,
    pub(crate) power_losses: u64,
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) failed_starts: u64,
    pub(crate) failed_shards: u64,
    /// Rolling hash of everything that happened in the world.
    pub(crate) hash: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.reads += other.reads;
        self.power_losses += other.power_losses;
        self.kills += other.kills;
        self.stops += other.stops;
        self.failed_starts += other.failed_starts;
        self.failed_shards += other.failed_shards;
        self.hash ^= other.hash;
    }
}

impl Plan {
    pub(crate) fn drawn(seed: u64) -> Self {
        let rng = Rng::new(seed ^ 0x6b6e_6f74);
        let profile = if rng.ratio(1, 4) { Profile::calm() } else { Profile::one_copy() };
        Self {
            seed,
            profile,
            shards: [1, 2, 4, 8][rng.index(4)],
            streams: 1 + u32::try_from(rng.below(3)).unwrap(),
            clients: 1 + usize::try_from(rng.below(8)).unwrap(),
            keys: [1, 8, 64][rng.index(3)],
            lives: 2 + u32::try_from(rng.below(3)).unwrap(),
            sync: if rng.ratio(1, 2) { SyncChoice::Dsync } else { SyncChoice::Fdatasync },
            value_max: if rng.ratio(1, 8) { 3_000 } else { 200 },
        }
    }

    /// Small sizes, so that every limit is met; the core count changes from life to life.
    fn config(&self, rng: &Rng) -> Config {
        let mut config = Config::default();
        let cores = 1 + rng.below(2);
        for (key, value) in [
            ("cluster.shards", self.shards.to_string()),
            ("cores.count", cores.to_string()),
            ("wal.streams", self.streams.to_string()),
            ("wal.slot_bytes", "\"128KiB\"".to_owned()),
            ("wal.frame_cap", "\"16KiB\"".to_owned()),
            ("wal.log_bytes", "\"2MiB\"".to_owned()),
            ("state.delta", "\"64KiB\"".to_owned()),
            ("limits.op_timeout", "\"2s\"".to_owned()),
        ] {
            config.set(key, &value).unwrap();
        }
        config
    }
}

/// One client's keys: `c<client>-<n>`.
fn key(client: usize, nth: u64) -> Vec<u8> {
    format!("c{client}-{nth}").into_bytes()
}

struct Shared {
    model: RefCell<Model>,
    tally: RefCell<Tally>,
    stop: Cell<bool>,
    /// A budget was spent: the client that sees this waits as it was told.
    busy: Cell<bool>,
    /// A handle, not the world itself.
    world: World,
    next: Cell<u64>,
}

/// Runs a plan. Panics where a promise is broken.
pub(crate) fn run(plan: &Plan) -> Tally {
    let world = World::new(plan.seed, plan.profile);
    world.tolerate_dropped_writes(true);
    let rng = world.rng();
    let shared = Rc::new(Shared {
        model: RefCell::default(),
        tally: RefCell::default(),
        stop: Cell::new(false),
        busy: Cell::new(false),
        world: world.clone(),
        next: Cell::new(0),
    });
    for _ in 0..plan.lives {
        if let Some(engine) = start(&world, plan, &rng, &shared) {
            live(&world, plan, &rng, &shared, &engine);
        }
        world.run_for(Nanos::from_millis(rng.below(3_000)));
    }
    // The last life has no faults: everything must be there, at the first start.
    world.disk(NODE).heal();
    world.heal();
    let whole = Plan { profile: Profile::calm(), ..plan.clone() };
    let engine = start(&world, &whole, &rng, &shared)
        .unwrap_or_else(|| panic!("the node does not come up again: {:?}", shared.tally.borrow()));
    check_everything(&world, &engine, &shared);
    world.block_on(LIMIT, stop(engine)).unwrap();
    let mut tally = *shared.tally.borrow();
    tally.hash = world.trace_hash();
    tally
}

async fn stop(engine: EmbeddedEngine) {
    if let Err(error) = engine.stop().await {
        println!("  a stop is not clean: {error}");
    }
}

/// Starts the node and reads every key, which decides what was unknown. None: a fault of the disk
/// ended the start, as an error.
fn start(world: &World, plan: &Plan, rng: &Rng, shared: &Rc<Shared>) -> Option<EmbeddedEngine> {
    let config = plan.config(rng);
    let factory = world.node(NODE);
    let sync = plan.sync;
    let mut disturbed = false;
    if plan.profile != Profile::calm() && rng.ratio(1, 6) {
        world.disk(NODE).crash_at(1 + rng.below(60), Crash::Power);
        disturbed = true;
    }
    let task = world.spawn_client(async move {
        // No probe: the simulated disk tells nothing by its speed.
        let options = WalOptions { sync, ..WalOptions::small() };
        let geometry = Geometry {
            slot_bytes: config.wal.slot_bytes.0,
            frame_cap: 16 << 10,
            log_bytes: config.wal.log_bytes.0,
            ..Geometry::small()
        };
        let engine = EmbeddedEngine::builder()
            .configure(|all| *all = config)
            .start_in_with(factory, WalLogs { geometry, options })
            .await?;
        engine.wait_ready(std::time::Duration::from_secs(20)).await?;
        Ok::<_, Error>(engine)
    });
    let lived = Cell::new(false);
    let over = || {
        lived.set(lived.get() || world.alive(NODE));
        task.is_done() || (lived.get() && !world.alive(NODE))
    };
    world.run_until(over, LIMIT).unwrap();
    if !task.is_done() {
        // The power went away while it started; the client's future learns of it or never ends.
        world.run_for(Nanos::SECOND);
    }
    let result = if task.is_done() { task.take() } else { None };
    match result {
        Some(Ok(engine)) if world.alive(NODE) => {
            if !settle(world, &engine, shared) {
                end(world, Crash::Kill);
                shared.tally.borrow_mut().failed_starts += 1;
                return None;
            }
            Some(engine)
        },
        Some(Err(error)) if !disturbed && plan.profile == Profile::calm() => {
            panic!("a start on a good disk fails: {error:#}")
        },
        other => {
            if let Some(Err(error)) = other {
                println!("  a start fails: {error}");
            }
            shared.tally.borrow_mut().failed_starts += 1;
            end(world, Crash::Power);
            world.disk(NODE).heal();
            None
        },
    }
}

fn end(world: &World, how: Crash) {
    if world.alive(NODE) {
        world.crash(NODE, how);
    }
}

/// Reads every key of the model. False: a fault or crash came in between.
fn settle(world: &World, engine: &EmbeddedEngine, shared: &Rc<Shared>) -> bool {
    let names = shared.model.borrow().names();
    let client = engine.client();
    let task = world.spawn_client(async move {
        let mut seen = Vec::new();
        for name in names {
            let value = client.get_linearizable(&name).await?;
            seen.push((name, value.map(|value| value.to_vec())));
        }
        Ok::<_, Error>(seen)
    });
    world.run_until(|| task.is_done(), LIMIT).unwrap();
    let seen = match task.take() {
        Some(Ok(seen)) => seen,
        Some(Err(error)) => {
            println!("  a key is not readable: {error}");
            return false;
        },
        None => return false,
    };
    let mut model = shared.model.borrow_mut();
    for (name, value) in seen {
        model.read(&name, &value, true);
        shared.tally.borrow_mut().reads += 1;
    }
    true
}

/// One life under load, to its end.
fn live(world: &World, plan: &Plan, rng: &Rng, shared: &Rc<Shared>, engine: &EmbeddedEngine) {
    shared.stop.set(false);
    let mut clients = Vec::new();
    for number in 0..plan.clients {
        let client = engine.client();
        let (plan, shared, rng) = (plan.clone(), Rc::clone(shared), Rng::new(rng.bits()));
        let task = work(client, number, plan, shared, rng);
        clients.push(world.spawn_client(task));
    }
    let how = rng.below(4);
    let power = how < 2;
    if how == 0 {
        world.disk(NODE).crash_at(1 + rng.below(200), Crash::Power);
    }
    world
        .run_until(
            {
                let until = world.now().after(Nanos::from_micros(rng.magnitude(200, 2_000_000)));
                move || world.now() >= until || !world.alive(NODE)
            },
            LIMIT,
        )
        .unwrap();
    if how == 3 && world.alive(NODE) {
        shared.stop.set(true);
        let engine = engine.clone();
        world.block_on(LIMIT, stop(engine)).unwrap();
        shared.tally.borrow_mut().stops += 1;
    } else {
        let crash = if power { Crash::Power } else { Crash::Kill };
        end(world, crash);
        let mut tally = shared.tally.borrow_mut();
        if power {
            tally.power_losses += 1;
        } else {
            tally.kills += 1;
        }
    }
    // A crash that was asked for and did not come is not for the next life.
    world.disk(NODE).heal();
    shared.stop.set(true);
    world.run_until(|| clients.iter().all(bowline_env::sim::SimTask::is_done), LIMIT).unwrap();
}

/// A client: calls on its own keys, one at a time, each answer remembered.
async fn work(client: EmbeddedClient, number: usize, plan: Plan, shared: Rc<Shared>, rng: Rng) {
    let mut idle = 0;
    while !shared.stop.get() && idle < 1_000 {
        let name = key(number, rng.below(plan.keys));
        if shared.model.borrow_mut().is_undecided(&name) {
            idle += 1;
            continue;
        }
        idle = 0;
        let goes_on = match rng.below(10) {
            0..=5 => put(&client, &name, &plan, &shared, &rng).await,
            6 => delete(&client, &name, &shared).await,
            7 => swap(&client, &name, &shared, &rng).await,
            _ => read(&client, &name, &shared).await,
        };
        if !goes_on {
            return;
        }
        if shared.busy.take() {
            shared.world.sleep(Nanos::from_millis(5)).await;
        }
    }
}

/// A value that no other write has.
fn fresh(shared: &Shared, len_max: u64, rng: &Rng) -> Vec<u8> {
    let number = shared.next.get() + 1;
    shared.next.set(number);
    let mut value = format!("v{number}.").into_bytes();
    let len = usize::try_from(rng.magnitude(1, len_max)).unwrap().max(value.len());
    value.resize(len, b'.');
    value
}

/// Takes a write's answer. False: the engine is gone.
fn take(shared: &Shared, name: &[u8], now: Value, result: Result<bool, Error>) -> bool {
    let mut model = shared.model.borrow_mut();
    let mut tally = shared.tally.borrow_mut();
    match result {
        Ok(true) => {
            tally.acked += 1;
            model.acked(name, now);
            true
        },
        Ok(false) => true,
        Err(error) => {
            if error.maybe_applied() {
                tally.unknown += 1;
                model.unknown(name, now);
            } else {
                if tally.refused == 0 {
                    println!("  a write is refused: {error}");
                }
                tally.refused += 1;
            }
            shared.busy.set(matches!(error, Error::Busy { .. }));
            if let Error::Shard { .. } = error {
                tally.failed_shards += 1;
                return false;
            }
            !matches!(error, Error::Stopped { .. })
        },
    }
}

async fn put(
    client: &EmbeddedClient,
    name: &[u8],
    plan: &Plan,
    shared: &Shared,
    rng: &Rng,
) -> bool {
    let value = fresh(shared, plan.value_max, rng);
    let result = client.put(name, &value).await.map(|()| true);
    take(shared, name, Some(value), result)
}

async fn delete(client: &EmbeddedClient, name: &[u8], shared: &Shared) -> bool {
    let result = client.delete(name).await.map(|()| true);
    take(shared, name, None, result)
}

async fn swap(client: &EmbeddedClient, name: &[u8], shared: &Shared, rng: &Rng) -> bool {
    let expected = shared.model.borrow_mut().value(name);
    let value = fresh(shared, 40, rng);
    let lie = rng.ratio(1, 4);
    let wrong = Some(b"never written".to_vec());
    let given = if lie { wrong } else { expected };
    let result = client.compare_and_swap(name, given.as_deref(), &value).await;
    if let Ok(done) = result {
        assert!(
            done != lie,
            "a swap answers {done} where the value {} fit",
            if lie { "does not" } else { "does" }
        );
    }
    if lie && result.is_err() {
        // It could not have taken place.
        return !matches!(result, Err(Error::Stopped { .. } | Error::Shard { .. }));
    }
    take(shared, name, Some(value), result)
}

async fn read(client: &EmbeddedClient, name: &[u8], shared: &Shared) -> bool {
    match client.get_linearizable(name).await {
        Ok(value) => {
            let value = value.map(|value| value.to_vec());
            shared.model.borrow_mut().read(name, &value, false);
            shared.tally.borrow_mut().reads += 1;
            true
        },
        Err(error) => !matches!(error, Error::Stopped { .. } | Error::Shard { .. }),
    }
}

/// The whole content, by scan and by multi-get, equals the model.
fn check_everything(world: &World, engine: &EmbeddedEngine, shared: &Rc<Shared>) {
    let present = shared.model.borrow().present();
    let client = engine.client();
    let names: Vec<_> = present.iter().map(|(name, _)| bytes::Bytes::from(name.clone())).collect();
    let (scanned, got) = world
        .block_on(LIMIT, async move {
            let page = client.scan_prefix(b"c", bowline::ScanOptions::default()).await?;
            let got = client.get_multi_linearizable(&names).await?;
            Ok::<_, Error>((page, got))
        })
        .unwrap()
        .unwrap();
    let scanned: Vec<_> =
        scanned.items.iter().map(|item| (item.0.to_vec(), item.1.to_vec())).collect();
    assert_eq!(scanned, present, "a scan is the whole state, in key order");
    let got: Vec<_> = got.into_iter().map(|value| value.unwrap().to_vec()).collect();
    let want: Vec<_> = present.into_iter().map(|(_, value)| value).collect();
    assert_eq!(got, want, "each value at its position");
}
