//! How many heap allocations does a put cost in a steady state?
//!
//! One core, one shard, keys of 16 bytes and values of 256 that the caller holds as `Bytes`; every
//! key was put before. `core/n` keeps n puts on their way from the shard's own core, so that the
//! core's thread is all that runs; `thread/n` does it from another thread and counts that one too.
//! Counted is the whole process, between the end of a warm-up and the last answer.
//!
//! ```text
//! cargo bench --bench allocations                       the table
//! cargo bench --bench allocations -- --profile F CASE   one case, with who allocated, for DHAT's
//!                                                       viewer
//! ```

#[path = "kit/engine.rs"]
#[expect(unreachable_pub, reason = "the toolbox of a bench")]
mod engine;

use std::io::Write;
use std::time::Duration;

use bowline::{ClientApi, EmbeddedEngine, ShardId};
use bytes::Bytes;
use tempfile::TempDir;

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

const KEYS: usize = 4_096;
const VALUE: [u8; 256] = [7; 256];
/// The cases: puts on their way, and whether from the core itself.
const CASES: [(usize, bool); 4] = [(1, true), (64, true), (1, false), (64, false)];

/// What the allocator had counted.
#[derive(Clone, Copy)]
struct Counted {
    blocks: u64,
    bytes: u64,
}

impl Counted {
    fn now() -> Self {
        let stats = dhat::HeapStats::get();
        Self { blocks: stats.total_blocks, bytes: stats.total_bytes }
    }

    fn since(self, before: Self) -> Self {
        Self { blocks: self.blocks - before.blocks, bytes: self.bytes - before.bytes }
    }
}

/// Puts the keys in turn, `at_once` on their way, and counts what the puts past the warm-up cost.
async fn puts(kv: impl ClientApi, keys: Vec<Bytes>, at_once: usize, rounds: usize) -> Counted {
    let value = Bytes::from_static(&VALUE);
    let mut ops = Vec::with_capacity(at_once);
    let mut keys = keys.iter().cycle();
    let mut before = None;
    for round in 0..rounds * 2 {
        if round == rounds {
            before = Some(Counted::now());
        }
        ops.extend(keys.by_ref().take(at_once).map(|key| kv.put(key, &value)));
        for op in ops.drain(..) {
            op.await.expect("put");
        }
    }
    Counted::now().since(before.expect("there are two halves"))
}

fn start(dir: &TempDir) -> EmbeddedEngine {
    let engine = engine::start(&dir.path().join("data"), 1, 512);
    engine.wait_ready(Duration::from_secs(30)).wait().expect("one node leads itself");
    engine
}

fn measure(engine: &EmbeddedEngine, at_once: usize, on_core: bool, rounds: usize) -> Counted {
    let keys: Vec<_> = (0..KEYS).map(|n| Bytes::from(format!("key:{n:012}"))).collect();
    let filled = engine.client().put_many(keys.iter().map(|key| (key, VALUE))).wait();
    assert!(filled.expect("filled").iter().all(Result::is_ok), "every key was put");
    if on_core {
        let shard = engine.shard(ShardId(0)).expect("there is one shard");
        let done = shard.run_local(move |local| puts(local, keys, at_once, rounds));
        return done.wait().expect("on the core");
    }
    let thread = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    thread.block_on(puts(engine.client(), keys, at_once, rounds))
}

/// Prints a line of the result.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the output can be written");
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let smoke = args.iter().any(|arg| arg == "--test");
    let at = args.iter().position(|arg| arg == "--profile");
    let profile = at.and_then(|at| args.get(at + 1));
    let only = at.and_then(|at| args.get(at + 2));
    let (puts_max, rounds_max) = if smoke { (256, 64) } else { (131_072, 4_096) };
    for (at_once, on_core) in CASES {
        let case = format!("{}/{at_once}", if on_core { "core" } else { "thread" });
        if only.is_some_and(|only| *only != case) {
            continue;
        }
        let builder = dhat::Profiler::builder();
        let builder = match profile {
            Some(file) => builder.file_name(file),
            None => builder.testing(),
        };
        let profiler = builder.build();
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the directory can be made");
        let engine = start(&dir);
        let rounds = rounds_max.min(puts_max / at_once);
        let counted = measure(&engine, at_once, on_core, rounds);
        engine.stop().wait().expect("the engine stops");
        let puts = u32::try_from(rounds * at_once).expect("few puts");
        let per_put =
            |sum: u64| f64::from(u32::try_from(sum).unwrap_or(u32::MAX)) / f64::from(puts);
        say(&format!(
            "allocations/{case:<10} {:>8.3} per put, {:>8.0} bytes per put, {puts} puts",
            per_put(counted.blocks),
            per_put(counted.bytes),
        ));
        drop(profiler);
    }
}
