//! What the seam costs on the production machine, beside glommio without it, in one run.
//!
//! * a durable 4 KiB write: through `Env`, and by glommio's own file; at p50
//! * a write and a `sync` of it
//! * `breathe` with nothing to do; `Bell::ring` to a running core; a parked core's wake

use core::future::Future;
use core::pin::pin;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_env::glommio::{GlommioEnv, GlommioFactory};
use bowline_env::{BLOCK, CoreOptions, Dir, Env, EnvFactory, File, Mode, Name};

const FILE_LEN: u64 = 16 << 20;
const WRITES: u64 = 2_000;

fn say(what: &str, value: u64, unit: &str) {
    writeln!(std::io::stdout(), "{what:48} {value:>10} {unit}").expect("stdout is open");
}

/// The median and 99th percentile of `count` runs, in nanoseconds.
async fn timed<T: Future>(
    env: &GlommioEnv,
    count: u64,
    mut run: impl FnMut(u64) -> T,
) -> (u64, u64) {
    let mut times = Vec::new();
    for at in 0..count {
        let run = pin!(run(at));
        let begun = env.now();
        run.await;
        times.push(env.now().since(begun).0);
    }
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn place(at: u64) -> u64 {
    let block = u64::try_from(BLOCK).expect("a block fits");
    at * block % FILE_LEN
}

async fn files(env: &GlommioEnv, path: std::path::PathBuf) {
    let name = Name::of("bench");
    env.dir().create_filled(&name, FILE_LEN, 0).await.expect("there is room");
    let synced = env.dir().open(&name, Mode::WriteSynced).await.expect("it was made");
    let plain = env.dir().open(&name, Mode::Write).await.expect("it was made");
    let mut options = glommio::io::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DSYNC);
    let bare = Rc::new(options.dma_open(path.join("bench")).await.expect("it was made"));
    for _round in 0..3 {
        let direct = timed(env, WRITES, |at| {
            let mut buffer = bare.alloc_dma_buffer(BLOCK);
            buffer.as_bytes_mut().fill(7);
            let bare = Rc::clone(&bare);
            async move { bare.write_rc_at(Rc::new(buffer), place(at)).await.expect("written") }
        })
        .await;
        let through = timed(env, WRITES, |at| {
            let mut buffer = env.buffer(BLOCK).expect("the pool has room");
            buffer.rest_mut().fill(7);
            synced.write_at(buffer.freeze(BLOCK), place(at))
        })
        .await;
        let both = timed(env, WRITES, |at| {
            let mut buffer = env.buffer(BLOCK).expect("the pool has room");
            buffer.rest_mut().fill(7);
            let (write, file) = (plain.write_at(buffer.freeze(BLOCK), place(at)), plain.clone());
            async move {
                write.await.expect("written");
                file.sync().await.expect("synced");
            }
        })
        .await;
        say("4 KiB O_DSYNC, glommio directly, p50", direct.0, "ns");
        say("4 KiB O_DSYNC, through Env, p50", through.0, "ns");
        say("  in percent of glommio directly", through.0 * 100 / direct.0, "%");
        say("  p99: glommio directly", direct.1, "ns");
        say("  p99: through Env", through.1, "ns");
        say("4 KiB write and sync, through Env, p50", both.0, "ns");
    }
    synced.close().await.expect("closed");
    plain.close().await.expect("closed");
    bare.close_rc().await.expect("closed");
}

async fn core(env: GlommioEnv, path: std::path::PathBuf, rung: Arc<AtomicU64>) {
    files(&env, path).await;
    say("breathe with nothing to do, p50", timed(&env, 20_000, |_| env.breathe()).await.0, "ns");
    say("yield, p50", timed(&env, 20_000, |_| env.yield_now()).await.0, "ns");
    say("offload of nothing, p50", timed(&env, 5_000, |_| env.offload(|| ())).await.0, "ns");
    let count = 1_000_000;
    let begun = env.now();
    for _ in 0..count {
        std::hint::black_box(env.now());
    }
    say("now, mean", env.now().since(begun).0 / count, "ns");
    let begun = env.now();
    for _ in 0..count {
        drop(env.buffer(BLOCK).expect("the pool has room"));
    }
    say("a zeroed 4 KiB buffer, mean", env.now().since(begun).0 / count, "ns");
    let bell = env.bell();
    let begun = env.now();
    for _ in 0..count {
        std::hint::black_box(&bell).ring();
    }
    say("ring to a running core, mean", env.now().since(begun).0 / count, "ns");
    wakes(&env, &rung).await;
}

/// A thread rings, the core answers by a counter: a round trip to a parked core.
async fn wakes(env: &GlommioEnv, rung: &Arc<AtomicU64>) {
    const ROUNDS: u64 = 20_000;
    let (bell, answered) = (env.bell(), Arc::new(AtomicU64::new(0)));
    let (ringer, counter, seen) = (bell.clone(), Arc::clone(rung), Arc::clone(&answered));
    let thread = std::thread::Builder::new().spawn(move || {
        for round in 1..=ROUNDS {
            counter.store(round, Ordering::Release);
            ringer.ring();
            while seen.load(Ordering::Acquire) < round {
                std::hint::spin_loop();
            }
        }
    });
    let begun = env.now();
    let mut last = 0;
    while last < ROUNDS {
        bell.park(|| rung.load(Ordering::Acquire) == last).await;
        last = rung.load(Ordering::Acquire);
        answered.store(last, Ordering::Release);
    }
    say("round trip to a parked core, mean", env.now().since(begun).0 / ROUNDS, "ns");
    thread.expect("a thread").join().expect("it does not panic");
}

fn main() {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(".").expect("a directory");
    let factory = GlommioFactory::new(dir.path());
    let claim = factory.claim().expect("nobody has it");
    let facts = factory.facts();
    let quiet = facts.cpus.iter().find(|cpu| !facts.disk_irq_cpus.contains(cpu));
    let options = CoreOptions {
        cpu: *quiet.unwrap_or(&facts.cpus[0]),
        cores: 1,
        direct_io: true,
        ..CoreOptions::default()
    };
    let path = dir.path().to_owned();
    let core = factory.spawn_core(options, move |env| core(env, path, Arc::default()));
    core.expect("a core starts").join().expect("it ends well");
    drop(claim);
}
