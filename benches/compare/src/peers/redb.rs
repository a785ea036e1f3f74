//! redb: one writer at a time, `Durability::Immediate` (its default). It has no group commit;
//! `redb-grouped` puts one in front, as an application would.

use std::path::Path;

use redb::{Database, TableDefinition};

use crate::group::Batched;
use crate::load::Putter;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");

/// One database.
pub(crate) struct Store {
    db: Database,
}

impl Store {
    /// Creates it in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, String> {
        let db = Database::create(dir.join("data.redb")).map_err(|error| error.to_string())?;
        Ok(Self { db })
    }

    fn write<'a>(&self, puts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(), String> {
        let transaction = self.db.begin_write().map_err(|error| error.to_string())?;
        {
            let mut table = transaction.open_table(TABLE).map_err(|error| error.to_string())?;
            for (key, value) in puts {
                table.insert(key, value).map_err(|error| error.to_string())?;
            }
        }
        transaction.commit().map_err(|error| error.to_string())
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
