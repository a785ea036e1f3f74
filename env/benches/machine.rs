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
const WRITES: u64 = 3_000;

fn say(what: &str, value: u64, unit: &str) {
    writeln!(std::io::stdout(), "{what:48} {value:>10} {unit}").expect("stdout is open");
}

/// The times of runs, in nanoseconds.
#[derive(Default)]
struct Times(Vec<u64>);

impl Times {
    async fn take(&mut self, env: &GlommioEnv, run: impl Future) {
        let run = pin!(run);
        let begun = env.now();
        run.await;
        self.0.push(env.now().since(begun).0);
    }

    /// The given share of runs took at most this long.
    fn percentile(&mut self, percent: usize) -> u64 {
        self.0.sort_unstable();
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

/// The median of `count` runs, in nanoseconds.
async fn median<T: Future>(env: &GlommioEnv, count: u64, mut run: impl FnMut() -> T) -> u64 {
    let mut times = Times::default();
    for _ in 0..count {
        times.take(env, run()).await;
    }
    times.percentile(50)
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
    let fill = || {
        let mut buffer = env.buffer(BLOCK).expect("the pool has room");
        buffer.rest_mut().fill(7);
        buffer.freeze(BLOCK)
    };
    let [mut direct, mut through, mut both] = [(); 3].map(|()| Times::default());
    // By turns, and each as often first: a busy machine is busy for both.
    for at in 0..WRITES {
        for turn in [at, at + 1] {
            if turn % 2 == 0 {
                let mut buffer = bare.alloc_dma_buffer(BLOCK);
                buffer.as_bytes_mut().fill(7);
                direct.take(env, bare.write_rc_at(Rc::new(buffer), place(at))).await;
            } else {
                through.take(env, synced.write_at(fill(), place(at))).await;
            }
        }
    }
    for at in (0..WRITES).map(place) {
        let (write, file) = (plain.write_at(fill(), at), plain.clone());
        let write_and_sync = async move {
            write.await.expect("written");
            file.sync().await.expect("synced");
        };
        both.take(env, write_and_sync).await;
    }
    for percent in [10, 50, 99] {
        let bare = direct.percentile(percent);
        let env = through.percentile(percent);
        say(&format!("4 KiB O_DSYNC, glommio directly, p{percent}"), bare, "ns");
        say(&format!("4 KiB O_DSYNC, through Env, p{percent}"), env, "ns");
        say("  in percent of glommio directly", env * 100 / bare, "%");
        say(&format!("4 KiB write, then sync, p{percent}"), both.percentile(percent), "ns");
    }
    synced.close().await.expect("closed");
    plain.close().await.expect("closed");
    bare.close_rc().await.expect("closed");
}

async fn core(env: GlommioEnv, path: std::path::PathBuf, rung: Arc<AtomicU64>) {
    files(&env, path).await;
    say("breathe with nothing to do, p50", median(&env, 20_000, || env.breathe()).await, "ns");
    say("yield, p50", median(&env, 20_000, || env.yield_now()).await, "ns");
    say("offload of nothing, p50", median(&env, 5_000, || env.offload(|| ())).await, "ns");
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
