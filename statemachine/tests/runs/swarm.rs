//! Every kind of fault at once: a job may fail and a read may tell damage, but no answer is wrong.

use std::rc::Rc;

use bowline_env::sim::{Profile, SimEnv, World};
use bowline_env::{Env as _, Nanos};
use bowline_statemachine::merge;
use bowline_statemachine::store::Store;

use super::support::*;

/// Rounds that ended well, and answers that were right.
async fn rounds(env: SimEnv, seed: u64) -> (u32, u32) {
    let resident = if seed.is_multiple_of(2) { 1 << 20 } else { 0 };
    let store = Store::new(env, options(resident));
    let mut shard = Shard::new(&store);
    let (mut done, mut right) = (0, 0);
    if store.prepare().await.is_err() {
        return (done, right);
    }
    let mut levels: Vec<Level> = Vec::new();
    let mut dice = Dice::new(seed);
    for n in 0..8 {
        let level = Level::random(&mut dice, n * 100 + 1, n * 100 + 100, 60);
        let bottom = shard.sections.is_empty();
        match flush(&store, &level, bottom).await {
            Ok(flushed) => {
                shard.publish(flushed);
                levels.insert(0, level);
                done += 1;
            },
            Err(_) => pause(&store).await,
        }
        if let Some(range) = merge::pick(&shard.sections) {
            match shard.merge(range).run().await {
                Ok(merged) => {
                    shard.publish(merged);
                    done += 1;
                },
                Err(_) => pause(&store).await,
            }
        }
        let refs: Vec<&Level> = levels.iter().collect();
        if let Ok(got) = shard.state(130).await {
            assert!(got == state(&refs), "seed {seed}, round {n}");
            right += 1;
        }
    }
    (done, right)
}

async fn pause(store: &Rc<Store<SimEnv>>) {
    store.env().sleep_until(store.env().now().after(Nanos::SECOND)).await;
}

#[test]
fn a_swarm_of_faults_never_gives_a_wrong_answer() {
    let (mut done, mut right) = (0, 0);
    for seed in 0..24 {
        let world = World::new(seed, Profile::swarm());
        let (d, r) = world.run_on(1, HOUR, async move |env| rounds(env, seed).await).unwrap();
        done += d;
        right += r;
    }
    assert!(done > 24 * 6 && right > 24 * 6, "{done} jobs, {right} answers");
}
