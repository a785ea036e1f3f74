//! The stores, each with the durability of an acknowledged bowline put: synced before the answer.

mod bowline;
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
        bowline_clients(work),
        threads("bowline-threads", work, bowline::Store::open),
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
    let mut all = vec![Candidate {
        case: case("raft-engine"),
        run: Box::new(move |dir| {
            let mut log = raft_engine::Log::open(dir, shape.shards)?;
            append::run_blocking(&mut log, work, shape)
        }),
    }];
    for (store, in_flight) in [("bowline-wal", 1), ("bowline-wal-2", 2)] {
        let run = move |dir: &Path| bowline::append(dir, work, shape, in_flight);
        all.push(Candidate { case: case(store), run: Box::new(run) });
    }
    all
}

/// Bowline's clients as it is meant to be used: futures, all on one thread.
fn bowline_clients(work: Work) -> Candidate {
    let run = move |dir: &Path| bowline::clients(dir, work);
    let case = put_case("bowline", bowline::SHARDS, work);
    Candidate { case, run: Box::new(run) }
}

fn put_case(store: &str, shards: u64, work: Work) -> Case {
    Case {
        table: "put",
        store: store.to_owned(),
        clients: work.clients,
        shards,
        batch: 1,
        value_bytes: work.value_bytes,
    }
}

fn threads<P: Putter + 'static>(
    store: &str,
    work: Work,
    open: impl Fn(&Path) -> Result<P, String> + 'static,
) -> Candidate {
    Candidate {
        case: put_case(store, P::SHARDS, work),
        run: Box::new(move |dir| -> Result<Measured, String> {
            load::closed_loop(&open(dir)?, work)
        }),
    }
}
