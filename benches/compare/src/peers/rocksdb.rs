//! RocksDB: `WriteOptions::sync`, its own group commit of concurrent writers.

use std::path::Path;

use rocksdb::{DB, Options, WriteOptions};

use crate::load::Putter;

/// Which options beside the durable write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tuning {
    /// As the library comes.
    Default,
    /// Log files are recycled, so that a synced write to one need not change its length.
    Recycle,
}

/// One database.
pub(crate) struct Store {
    db: DB,
    synced: WriteOptions,
}

impl Store {
    /// Creates it in `dir`.
    pub(crate) fn open(dir: &Path, tuning: Tuning) -> Result<Self, String> {
        let mut options = Options::default();
        options.create_if_missing(true);
        if matches!(tuning, Tuning::Recycle) {
            options.set_recycle_log_file_num(4);
            options.set_enable_pipelined_write(true);
        }
        let db = DB::open(&options, dir).map_err(|error| error.to_string())?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Self { db, synced })
    }
}

impl Putter for Store {
    fn put(&self, _client: usize, key: [u8; 8], value: &[u8]) -> Result<(), String> {
        self.db.put_opt(key, value, &self.synced).map_err(|error| error.to_string())
    }
}
