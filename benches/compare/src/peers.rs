//! The stores, each with the durability of an acknowledged bowline put: synced before the answer.

mod fjall;
mod raft_engine;
mod redb;
mod rocksdb;

use std::path::Path;

use crate::Candidate;
use crate::append::{self, Shape};
use crate::group::Grouped;
use crate::load::{self, Measured, Putter, Work};
use crate::report::Case;

/// Everything that takes puts from many threads.
pub(crate) fn putters(work: Work) -> Vec<Candidate> {
    vec![
        threads("rocksdb", work, |dir| rocksdb::Store::open(dir, rocksdb::Tuning::Default)),
        threads("rocksdb-recycle", work, |dir| rocksdb::Store::open(dir, rocksdb::Tuning::Recycle)),
        threads("raft-engine", work, move |dir| raft_engine::Store::open(dir, work.clients)),
        threads("redb", work, redb::Store::open),
        threads("redb-grouped", work, |dir| redb::Store::open(dir).map(Grouped::new)),
        threads("fjall", work, fjall::Store::open),
        threads("fjall-grouped", work, |dir| fjall::Store::open(dir).map(Grouped::new)),
    ]
}

/// Everything that takes batches for many shards from one thread.
pub(crate) fn appenders(work: Work, shape: Shape) -> Vec<Candidate> {
    let case = |store: &str| Case {
        table: "append",
        store: store.to_owned(),
        clients: 1,
        shards: shape.shards,
        batch: shape.batch,
        value_bytes: work.value_bytes,
    };
    vec![Candidate {
        case: case("raft-engine"),
        run: Box::new(move |dir| {
            let mut log = raft_engine::Log::open(dir, shape.shards)?;
            append::run(&mut log, work, shape)
        }),
    }]
}

fn threads<P: Putter + 'static>(
    store: &str,
    work: Work,
    open: impl Fn(&Path) -> Result<P, String> + 'static,
) -> Candidate {
    Candidate {
        case: Case {
            table: "put",
            store: store.to_owned(),
            clients: work.clients,
            shards: 1,
            batch: 1,
            value_bytes: work.value_bytes,
        },
        run: Box::new(move |dir| -> Result<Measured, String> {
            load::closed_loop(&open(dir)?, work)
        }),
    }
}
