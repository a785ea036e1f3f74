//! Crashes at every change of the disk: acknowledged is found, nothing is invented.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bowline_env::sim::{Crash, Rng, SimEnv, World};
use bowline_env::{CoreNo, Env, Nanos};
use bowline_wal::{HealthState, LogStorage, StageError, SyncChoice};

use crate::kit::*;
use crate::model::{Models, act, collect, compare, settle};

/// What a node had promised when it crashed, and what it had in memory.
#[derive(Clone, Debug, Default)]
struct Story {
    /// Models after each LSN that was ever staged, ascending.
    states: Vec<(u64, Models)>,
    durable: u64,
}

type Shared = Rc<RefCell<Story>>;

/// Works until it is crashed or `steps` are done.
async fn work(env: SimEnv, story: Shared, seed: u64, steps: u64) {
    let rng = Rng::new(seed);
    let Ok(mut log) = try_open(&env, bowline_wal::WalOptions::small()).await else { return };
    // What was found is durable from the start, and one of the states that were possible.
    let mut models = agree(&log, &story).await;
    for step in 0..steps {
        let mark = seed * 10_000 + step;
        let result = act(&mut log, &mut models, &rng, mark);
        note(&story, &log, &models, result.as_ref().map_or(0, |lsn| lsn.0));
        if matches!(result, Err(StageError::Busy | StageError::Full)) {
            collect(&mut log, &mut models, mark);
            note(&story, &log, &models, u64::MAX);
            settle(&env, &mut log).await;
        }
        if step % 3 != 0 {
            log.wal.submit();
        }
        if step % 2 == 0 {
            listen(&env, &log, &story).await;
        }
        if step % 29 == 28 {
            settle(&env, &mut log).await;
        }
        story.borrow_mut().durable = log.wal.durable().0;
        if log.wal.health().state != HealthState::Ok {
            return;
        }
    }
    log.abandon();
}

/// Hears of every move of `durable` for a while: what was heard is a promise.
async fn listen(env: &SimEnv, log: &Log, story: &Shared) {
    for _ in 0..25 {
        story.borrow_mut().durable = log.wal.durable().0;
        env.sleep_until(env.now().after(Nanos::from_micros(20))).await;
    }
    story.borrow_mut().durable = log.wal.durable().0;
}

/// Notes the state after what was staged last. `u64::MAX`: in the frame that is open now.
fn note(story: &Shared, log: &Log, models: &Models, lsn: u64) {
    let mut story = story.borrow_mut();
    let last = story.states.last().map_or(0, |state| state.0);
    let lsn = if lsn == u64::MAX { last.max(log.wal.durable().0 + 1) } else { lsn };
    if lsn > 0 {
        story.states.push((lsn.max(last), models.clone()));
    }
    story.durable = log.wal.durable().0;
}

/// Finds which state was recovered: one that is at least what was durable.
async fn agree(log: &Log, story: &Shared) -> Models {
    let story_now = story.borrow().clone();
    let mut states = story_now.states;
    let durable = story_now.durable;
    // The last state of each frame: a frame is there as a whole or not at all.
    states.reverse();
    states.dedup_by_key(|state| state.0);
    states.reverse();
    let possible: Vec<_> = states.iter().filter(|state| state.0 >= durable).collect();
    let before = states.iter().rev().find(|state| state.0 <= durable);
    let mut candidates: Vec<&Models> = before.map(|state| &state.1).into_iter().collect();
    candidates.extend(possible.iter().map(|state| &state.1));
    let empty = Models::new();
    if states.is_empty() {
        candidates.push(&empty);
    }
    let entries = entries(log).await;
    let is_it = |models: &Models| {
        outline(log) == outline_of(models) && entries.iter().eq(&entries_of(models))
    };
    let found = candidates.iter().find(|models| is_it(models));
    let Some(found) = found else {
        panic!(
            "durable {durable}: found {:?}, possible {:?}",
            outline(log),
            candidates.iter().map(|m| outline_of(m)).collect::<Vec<_>>()
        );
    };
    let models = (*found).clone();
    compare(log, &models).await;
    let lsn = log.wal.durable().0;
    *story.borrow_mut() = Story { states: vec![(lsn, models.clone())], durable: lsn };
    models
}

type Outline = Vec<(u64, [u64; 7])>;

fn outline(log: &Log) -> Outline {
    let line = |shard: &bowline_wal::RecoveredShard| {
        let (state, bounds) = (shard.hard_state, shard.bounds);
        let last_term = bounds.last_term.0;
        let (term, vote, commit) = (state.term.0, state.vote.0, state.commit.0);
        let (first, last) = (bounds.first.0, bounds.last.0);
        (shard.shard.0, [shard.replica.0, term, vote, commit, first, last, last_term])
    };
    log.found.shards.iter().map(line).collect()
}

fn outline_of(models: &Models) -> Outline {
    let line = |(shard, model): (&u64, &crate::model::Model)| {
        let last_term = model.term_at(model.last());
        let (vote, commit) = (model.vote, model.commit);
        let (first, last) = (model.first, model.last());
        (*shard, [model.replica, model.term, vote, commit, first, last, last_term])
    };
    models.iter().map(line).collect()
}

/// Lives of one node, each ended by a crash at one of the changes of its disk.
fn lives_by_change(seed: u64, how: Crash, first: u64) {
    let world: World = calm(seed);
    live(&world, async move |env| format(&env).await);
    let story = Shared::default();
    for life in 0..4 {
        world.disk(NODE).crash_at((first + life * 11) % 44 + 1, how);
        let own = Rc::clone(&story);
        try_live(&world, move |env| work(env, own, seed * 100 + life, 40));
        if world.alive(NODE) {
            world.crash(NODE, how);
        }
        world.disk(NODE).heal();
    }
    last_life(&world, &story);
}

/// Lives of one node, each ended by a crash at some moment.
fn lives_by_time(seed: u64, how: Crash) {
    let world: World = calm(seed);
    let sync = if seed.is_multiple_of(2) { SyncChoice::Dsync } else { SyncChoice::Fdatasync };
    live(&world, async move |env| format_with(&env, sync).await);
    let (story, rng) = (Shared::default(), Rng::new(seed));
    for life in 0..4 {
        let own = Rc::clone(&story);
        let task = world
            .spawn_on(NODE, CoreNo(0), move |env| work(env, own, seed * 100 + life, 1_000_000));
        world.run_for(Nanos::from_micros(rng.magnitude(100, 60_000)));
        world.crash(NODE, how);
        drop(task);
    }
    last_life(&world, &story);
}

fn last_life(world: &World, story: &Shared) {
    let own = Rc::clone(story);
    live(world, async move |env| {
        let log = open(&env).await;
        agree(&log, &own).await;
        log.abandon();
    });
}

type Entries = BTreeMap<(u64, u64), (u64, u64)>;

/// Term and mark of every entry, and at index 0 of the manifest: a tail may have been replaced by
/// one of the same length.
async fn entries(log: &Log) -> Entries {
    let mut out = Entries::new();
    for shard in &log.found.shards {
        if let Some((index, _, body)) = &shard.manifest {
            let mark = u64::from_le_bytes(body[..8].try_into().unwrap());
            out.insert((shard.shard.0, 0), (index.0, mark));
        }
        for batch in log.all(shard.shard.0).await {
            let mark = u64::from_le_bytes(batch.body[8..16].try_into().unwrap());
            for index in batch.head.first.0..batch.head.first.0 + u64::from(batch.keep) {
                if index >= shard.bounds.first.0 {
                    out.insert((shard.shard.0, index), (batch.head.term.0, mark));
                }
            }
        }
    }
    out
}

fn entries_of(models: &Models) -> Entries {
    let of = |(shard, model): (&u64, &crate::model::Model)| {
        let manifest = model.manifest.map(|manifest| ((*shard, 0), manifest));
        let entries = model.entries.iter().map(|(index, entry)| ((*shard, *index), *entry));
        entries.chain(manifest).collect::<Vec<_>>()
    };
    models.iter().flat_map(of).collect()
}

#[test]
fn wa_01_a_power_cut_at_every_change_loses_nothing_acknowledged() {
    (0..44).for_each(|nth| lives_by_change(nth, Crash::Power, nth));
}

/// In this one a slot's header, in flight when its life was killed, once landed in the next life
/// over the newer header of a slot in use: the frames in it count, not that header.
#[test]
fn wa_05_a_kill_at_every_change_loses_nothing_acknowledged() {
    (0..44).for_each(|nth| lives_by_change(1000 + nth, Crash::Kill, nth));
}

#[test]
fn wa_03_a_crash_at_any_moment_loses_nothing_acknowledged() {
    for seed in 0..60 {
        lives_by_time(2000 + seed, Crash::Power);
        lives_by_time(3000 + seed, Crash::Kill);
    }
}
