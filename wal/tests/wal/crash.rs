//! Crashes at every change of the disk: acknowledged is found, nothing is invented.

use std::cell::RefCell;
use std::rc::Rc;

use bowline_env::sim::{Crash, Rng, SimEnv, World};
use bowline_wal::{HealthState, LogStorage, StageError};

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
        if step % 3 == 0 {
            log.wal.submit();
        }
        if step % 7 == 0 {
            settle(&env, &mut log).await;
        }
        story.borrow_mut().durable = log.wal.durable().0;
        if log.wal.health().state != HealthState::Ok {
            return;
        }
    }
    log.abandon();
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
    let found = candidates.iter().find(|models| outline(log) == outline_of(models));
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

/// Lives of one node, each ended by a crash at the nth change of its disk.
fn lives(seed: u64, how: Crash, first: u64) {
    let world: World = calm(seed);
    live(&world, async move |env| format(&env).await);
    let story = Shared::default();
    let mut nth = first;
    for life in 0..4 {
        world.disk(NODE).crash_at(nth, how);
        let own = Rc::clone(&story);
        try_live(&world, move |env| work(env, own, seed * 100 + life, 40));
        if world.alive(NODE) {
            world.crash(NODE, how);
        }
        world.disk(NODE).heal();
        nth = nth * 2 + 1;
    }
    let own = Rc::clone(&story);
    live(&world, async move |env| {
        let log = open(&env).await;
        agree(&log, &own).await;
        log.abandon();
    });
}

#[test]
fn a_power_cut_at_every_change_loses_nothing_acknowledged() {
    for nth in 1..60 {
        lives(nth, Crash::Power, nth);
    }
}

#[test]
fn a_kill_at_every_change_loses_nothing_acknowledged() {
    for nth in 1..60 {
        lives(1000 + nth, Crash::Kill, nth);
    }
}
