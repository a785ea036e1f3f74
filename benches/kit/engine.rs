//! An engine to be measured, on a real directory.

use std::path::Path;

use bowline::EmbeddedEngine;
use bowline::config::{ByteCount, CoreCount};

/// Starts an engine with `shards` shards and a log of `log_mib`, on one core.
pub fn start(dir: &Path, shards: u32, log_mib: u64) -> EmbeddedEngine {
    let engine = EmbeddedEngine::builder().data_dir(dir).shards(shards).configure(move |config| {
        config.cores.count = CoreCount::Is(1);
        config.wal.allow_cow = true;
        config.wal.slot_bytes = ByteCount::mib(16);
        config.wal.log_bytes = ByteCount::mib(log_mib);
    });
    engine.start().wait().expect("the engine starts")
}
