//! A crash at every call that changes the disk, during a flush and during a merge: afterwards the
//! state is the old one or the new one, whole, as the manifest says, and nothing is left over.
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::support::*;
use bowline_env::sim::{Crash, Keep, Profile, SimEnv, World};
use bowline_env::{Dir as _, Env as _, Name, Nanos};
use bowline_statemachine::manifest::Manifest;
use bowline_statemachine::run::RangeTombstone;
use bowline_statemachine::store::{JobDone, RunVer, Store};
use bytes::Bytes;

type State = BTreeMap<Vec<u8>, (u64, Bytes)>;

const KEYS: usize = 90;

/// Stands for the log's MANIFEST record: durable as a whole.
fn manifest_file() -> Name {
    Name::of("manifest")
}

fn levels() -> [Level; 3] {
    let mut dice = Dice::new(77);
    [0, 1, 2].map(|n| {
        let (min, max) = (n * 100 + 1, n * 100 + 100);
        let keys = 10 + 5 * dice.below(5);
        let mut level = Level::small(&mut dice, min, max, keys);
        if n != 1 {
            // More than one write.
            let value = Some(Bytes::from(dice.bytes(265_000)));
            level.map.insert(key(80), RunVer { mod_index: max, expiry_ms: 0, value });
        }
        let (start, end) = (b"table/users/00002".to_vec(), b"table/users/00006".to_vec());
        level.ranges.push(RangeTombstone { start, end, index: min });
        level
    })
}

async fn store(env: SimEnv) -> Rc<Store<SimEnv>> {
    let store = Store::new(env, options(1 << 30));
    store.prepare().await.unwrap();
    store
}

async fn commit(shard: &mut Shard<SimEnv>, done: JobDone<SimEnv>) {
    let next = shard.manifest.apply(&done.edit(shard.manifest.generation));
    shard.store.env().dir().write_whole(&manifest_file(), next.encode()).await.unwrap();
    shard.publish(done);
}

async fn boot(env: SimEnv) -> Shard<SimEnv> {
    let store = store(env).await;
    let bytes = store.env().dir().read_whole(&manifest_file(), 4_096).await;
    let manifest =
        bytes.map_or_else(|_| Manifest::empty(SHARD, 1), |b| Manifest::decode(&b).unwrap());
    let live: BTreeSet<u128> = manifest.sections.iter().map(|section| section.run).collect();
    store.collect_orphans(&live, true).await.unwrap();
    let files = store.env().dir().list(Some(&Name::of("runs"))).await.unwrap();
    assert_eq!(files.len(), live.len(), "what no manifest names is gone: {files:?}");
    Shard::open(&store, manifest).await.unwrap()
}

/// The disk with two levels flushed.
fn founded(seed: u64) -> World {
    let world = World::new(seed, Profile::calm());
    let found = async move |env| {
        let store = store(env).await;
        let mut shard = Shard::new(&store);
        for (n, level) in levels()[..2].iter().enumerate() {
            let done = flush(&store, level, n == 0).await.unwrap();
            commit(&mut shard, done).await;
        }
    };
    world.run_on(1, HOUR, found).unwrap();
    world
}

#[derive(Clone, Copy)]
enum Act {
    Flush,
    Merge,
}

async fn act(shard: &mut Shard<SimEnv>, act: Act) {
    let done = match act {
        Act::Flush => flush(&shard.store, &levels()[2], false).await,
        Act::Merge => shard.merge(0..2).run().await,
    };
    let Ok(done) = done else { return };
    commit(shard, done).await;
    let env = shard.store.env();
    env.sleep_until(env.now().after(Nanos::SECOND)).await;
}

/// Runs `what` with a crash at its `nth` change. False: it came to its end before.
fn crash_at(
    seed: u64,
    nth: u64,
    how: (Crash, Option<Keep>),
    what: Act,
    want: (&State, &State),
) -> bool {
    let world = founded(seed);
    let disk = world.disk(1);
    if let Some(keep) = how.1 {
        disk.next_power_loss(keep);
    }
    disk.crash_at(nth, how.0);
    let task = world.spawn_on(1, bowline_env::CoreNo(0), async move |env| {
        let mut shard = boot(env).await;
        act(&mut shard, what).await;
    });
    let crashed =
        world.run_until(|| task.is_done() || !world.alive(1), HOUR).is_ok() && !task.is_done();
    drop(task);
    disk.heal();
    world.run_for(Nanos(3 * Nanos::SECOND.0));
    let (generation, state) = world
        .run_on(1, HOUR, async move |env| {
            let shard = boot(env).await;
            (shard.manifest.generation, shard.state(KEYS).await.unwrap())
        })
        .unwrap();
    let (old, new) = want;
    match generation {
        2 => assert!(state == *old, "the old state is whole (seed {seed}, call {nth})"),
        3 => assert!(state == *new, "the new state is whole (seed {seed}, call {nth})"),
        other => panic!("generation {other}"),
    }
    assert!(crashed || generation == 3, "without a crash the job is done");
    crashed
}

fn crash_everywhere(what: Act) {
    let [first, second, third] = levels();
    let old = state(&[&second, &first]);
    let new = match what {
        Act::Flush => state(&[&third, &second, &first]),
        Act::Merge => old.clone(),
    };
    let ways = [
        (Crash::Kill, None),
        (Crash::Power, None),
        (Crash::Power, Some(Keep::Nothing)),
        (Crash::Power, Some(Keep::Everything)),
    ];
    for how in ways {
        for seed in 0..if how.1.is_none() { 2 } else { 1 } {
            let mut nth = 1;
            while crash_at(seed, nth, how, what, (&old, &new)) {
                nth += 1;
            }
            assert!(nth > 6, "{nth} calls: create, write, sync, rename, sync, manifest");
        }
    }
}

#[test]
fn sn_01_crash_at_every_fs_call_flush() {
    crash_everywhere(Act::Flush);
}

#[test]
fn sn_01_crash_at_every_fs_call_merge() {
    crash_everywhere(Act::Merge);
}
