//! fjall: a batch committed with `PersistMode::SyncData` (fdatasync of its journal). It has no
//! group commit; `fjall-grouped` puts one in front, as an application would.

use std::path::Path;

use fjall::{Config, Keyspace, PartitionCreateOptions, PartitionHandle, PersistMode};

use crate::group::Batched;
use crate::load::Putter;

/// One keyspace with one partition.
pub(crate) struct Store {
    keyspace: Keyspace,
    partition: PartitionHandle,
}

impl Store {
    /// Creates it in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, String> {
        let keyspace = Config::new(dir).open().map_err(|error| error.to_string())?;
        let partition = keyspace
            .open_partition("kv", PartitionCreateOptions::default())
            .map_err(|error| error.to_string())?;
        Ok(Self { keyspace, partition })
    }

    fn write<'a>(&self, puts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(), String> {
        let mut batch = self.keyspace.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in puts {
            batch.insert(&self.partition, key, value);
        }
        batch.commit().map_err(|error| error.to_string())
    }
}

impl Putter for Store {
    fn put(&self, _client: usize, key: [u8; 8], value: &[u8]) -> Result<(), String> {
        self.write(std::iter::once((key.as_slice(), value)))
    }
}

impl Batched for Store {
    fn commit(&self, puts: &[([u8; 8], Vec<u8>)]) -> Result<(), String> {
        self.write(puts.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))
    }
}
