//! The simulator's own promises.
#![cfg(feature = "sim")]

use bowline_env::sim::{Crash, Fault, Keep, Profile, Stalled, Why, World, WriteFault};
use bowline_env::{
    BLOCK, Buf, Class, CoreNo, Dir, Env, EnvFactory, File, Kind, Mode, Name, Nanos, SharedBuf,
};

const MINUTE: Nanos = Nanos(60_000_000_000);

fn block<E: Env>(env: &E, byte: u8) -> SharedBuf {
    let mut buf = env.buffer(BLOCK).unwrap_or_else(|_| Buf::heap(BLOCK));
    buf.rest_mut().fill(byte);
    buf.fill(BLOCK);
    buf.freeze(BLOCK)
}

/// Work of every kind: cores, tasks, files, timers, chance.
fn busy(seed: u64, profile: Profile) -> (u64, u64, Vec<u8>) {
    let world = World::new(seed, profile);
    let name = Name::of("log");
    for node in 1..=2 {
        for core in 0..2 {
            let name = Name::of(&format!("log-{core}"));
            let task = world.spawn_on(node, CoreNo(core), async move |env| {
                let mut chance = [0; 4];
                env.fill_random(&mut chance);
                let dir = env.dir();
                if dir.create_filled(&name, 64 * 4096, 0).await.is_err() {
                    return;
                }
                let Ok(file) = dir.open(&name, Mode::Write).await else { return };
                for turn in 0..16_u8 {
                    let (a, b) = (file.clone(), file.clone());
                    let bytes = block(&env, turn.wrapping_add(chance[0]));
                    let write = env.spawn(Class::Core, async move {
                        a.write_at(bytes, u64::from(turn) * 4096).await
                    });
                    env.yield_now().await;
                    let wrote = write.await.is_ok();
                    let synced = b.sync().await.is_ok();
                    env.note(bowline_env::Fact {
                        kind: u32::from(wrote && synced),
                        index: u64::from(turn),
                        ..Default::default()
                    });
                    env.sleep_until(env.now().after(Nanos::MILLI)).await;
                    env.breathe().await;
                }
            });
            drop(task);
        }
    }
    world.run_for(Nanos::from_millis(12));
    world.crash(1, Crash::Power);
    world.crash(2, Crash::Kill);
    world.run_for(MINUTE);
    let bytes = world.disk(1).durable(&name).unwrap_or_default();
    (world.trace_hash(), world.steps(), bytes)
}

#[test]
fn same_seed_same_hash() {
    for seed in 0..20 {
        let first = busy(seed, Profile::swarm());
        assert!(first.1 > 100, "{} steps", first.1);
        assert_eq!(first, busy(seed, Profile::swarm()), "seed {seed}");
        assert_ne!(first.0, busy(seed + 1_000, Profile::swarm()).0, "seed {seed}");
    }
}

#[test]
fn stall_is_reported() {
    let world = World::new(1, Profile::calm());
    let stalled: Result<(), Stalled> =
        world.run_on(1, MINUTE, async |env| env.bell().park(|| true).await);
    // A bell may wake its core for no reason only once it was rung.
    let stalled = stalled.unwrap_err();
    assert_eq!(stalled.why, Why::Idle);
    assert_eq!(stalled.waiting.len(), 1, "{stalled}");
    assert_eq!(stalled.waiting[0], "node 1 life 0 core 0 waits for a wake");
}
