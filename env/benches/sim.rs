//! How many task polls and events does the simulator do in a second?
//!
//! `cargo bench -p bowline-env --no-default-features --features sim --bench sim`

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

use std::io::Write as _;
use std::time::Instant;

use bowline_env::sim::{Fault, Profile, SimEnv, SimTask, World};
use bowline_env::{Buf, Class, CoreNo, Dir, Env, File, Mode, Name, Nanos};

const MINUTE: Nanos = Nanos(60_000_000_000);

/// Runs six cores of three nodes and prints the rate of steps.
fn measure(name: &str, profile: Profile, main: impl AsyncFn(SimEnv) + Copy + 'static) {
    let world = World::new(1, profile);
    let core = |no: u64| {
        let core = CoreNo(u16::try_from(no % 2).unwrap());
        world.spawn_on(no / 2, core, async move |env| main(env).await)
    };
    let cores: Vec<_> = (0..6).map(core).collect();
    let begun = Instant::now();
    world.run_until(|| cores.iter().all(SimTask::is_done), MINUTE).unwrap();
    let took = begun.elapsed().as_secs_f64();
    let steps = u32::try_from(world.steps()).unwrap();
    let rate = f64::from(steps) / took;
    let mut out = std::io::stdout();
    writeln!(out, "{name}: {rate:.0} steps/s ({steps} in {took:.2} s)").unwrap();
}

async fn turns(env: SimEnv) {
    let task = |_| {
        let env = env.clone();
        env.clone().spawn(Class::Core, async move {
            for _ in 0..20_000 {
                env.yield_now().await;
            }
        })
    };
    let tasks: Vec<_> = (0..8).map(task).collect();
    for task in tasks {
        task.await;
    }
}

async fn timers(env: SimEnv) {
    for _ in 0..100_000 {
        env.sleep_until(env.now().after(Nanos::from_micros(100))).await;
    }
}

async fn writes(env: SimEnv) {
    let name = Name::of(&format!("log-{}", env.core().0));
    env.dir().create_filled(&name, 1 << 20, 0).await.unwrap();
    let file = env.dir().open(&name, Mode::WriteSynced).await.unwrap();
    let mut buf = Buf::heap(4096);
    buf.fill(4096);
    let buf = buf.freeze(4096);
    for turn in 0..50_000_u64 {
        file.write_at(buf.clone(), turn % 256 * 4096).await.unwrap();
    }
}

fn main() {
    let varied = Fault::ALL.iter().fold(Profile::swarm(), |profile, &class| profile.without(class));
    measure("turns, calm", Profile::calm(), turns);
    measure("turns, varied", varied, turns);
    measure("timers, varied", varied, timers);
    measure("4 KiB synced writes, varied", varied, writes);
}
