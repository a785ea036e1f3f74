//! raft-engine, TiKV's log: `write(batch, sync = true)`, its own group commit of concurrent
//! writers. It is a log and no map, so its `put` is an entry appended to a region.
//!
//! Compression is off (the values do not compress: leaving it on costs it time and saves nothing)
//! and log files are recycled, which is its default.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::append::Appender;
use crate::load::{Count, Putter};

/// An entry: 8 bytes of index, then the value. Fewer bytes than the `Entry` of raft-rs has.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let first = entry.value.first_chunk().expect("an entry begins with its index");
        u64::from_le_bytes(*first)
    }
}

fn entry(index: u64, parts: &[&[u8]]) -> BytesValue {
    let mut value = index.to_le_bytes().to_vec();
    for part in parts {
        value.extend_from_slice(part);
    }
    let mut entry = BytesValue::new();
    entry.set_value(value);
    entry
}

fn open(dir: &Path) -> Result<Engine, String> {
    let config = Config {
        dir: dir.display().to_string(),
        batch_compression_threshold: ReadableSize(0),
        purge_threshold: ReadableSize::gb(1),
        ..Config::default()
    };
    Engine::open(config).map_err(|error| error.to_string())
}

/// Appended to by many threads, each in a region of its own.
pub(crate) struct Store {
    engine: Engine,
    clients: Vec<Client>,
}

struct Client {
    last: Count,
    batch: Mutex<LogBatch>,
}

impl Store {
    /// Creates it in `dir`.
    pub(crate) fn open(dir: &Path, clients: usize) -> Result<Self, String> {
        let client = |_| Client { last: Count::default(), batch: Mutex::default() };
        Ok(Self { engine: open(dir)?, clients: (0..clients).map(client).collect() })
    }
}

impl Putter for Store {
    fn put(&self, client: usize, key: [u8; 8], value: &[u8]) -> Result<(), String> {
        let region = client as u64 + 1;
        let client = &self.clients[client];
        let mut batch = client.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = [entry(client.last.next(), &[key.as_slice(), value])];
        batch.add_entries::<Indexed>(region, &entries).map_err(|error| error.to_string())?;
        self.engine.write(&mut batch, true).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// Appended to by one thread, for many regions.
pub(crate) struct Log {
    engine: Engine,
    batch: LogBatch,
    shards: u64,
}

impl Log {
    /// Creates it in `dir`.
    pub(crate) fn open(dir: &Path, shards: u64) -> Result<Self, String> {
        Ok(Self { engine: open(dir)?, batch: LogBatch::default(), shards })
    }
}

impl Appender for Log {
    fn add(&mut self, shard: u64, index: u64, value: &[u8]) -> Result<(), String> {
        let entries = [entry(index, &[value])];
        self.batch.add_entries::<Indexed>(shard + 1, &entries).map_err(|error| error.to_string())
    }

    async fn sync(&mut self) -> Result<(), String> {
        self.engine.write(&mut self.batch, true).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn collect(&mut self, upto: u64) -> Result<(), String> {
        for shard in 0..self.shards {
            self.engine.compact_to(shard + 1, upto);
        }
        self.engine.purge_expired_files().map_err(|error| error.to_string())?;
        Ok(())
    }
}
