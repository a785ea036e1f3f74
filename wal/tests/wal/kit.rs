//! What the tests of this package share: a stream on a simulated node.

use std::cell::RefCell;
use std::future::{Future, pending};
use std::rc::Rc;

use bowline_env::sim::{Crash, Profile, SimEnv, World};
use bowline_env::{Bell, CoreNo, Env, Name, Nanos};
use bowline_raft::{HardState, LogIndex, Lsn, ReplicaId, ShardId, Term};
use bowline_wal::{
    BatchRef, Geometry, LogStorage, NewBatch, OpenError, Record, Recovered, RecoveredShard,
    StageError, Staged, StreamId, SyncChoice, Wal, WalOptions,
};

pub(crate) const NODE: u64 = 1;
pub(crate) const LIMIT: Nanos = Nanos(600 * Nanos::SECOND.0);
pub(crate) const ID: StreamId = StreamId { cluster: 77, node: NODE, stream: 0, streams: 1 };

pub(crate) fn dir() -> Name {
    Name::of("stream-00")
}

pub(crate) fn calm(seed: u64) -> World {
    World::new(seed, Profile::calm())
}

/// Runs `main` on the node to its value; the core lives on, with whatever is in flight.
#[track_caller]
pub(crate) fn live<F, T>(world: &World, main: F) -> T::Output
where
    F: FnOnce(SimEnv) -> T + 'static,
    T: Future + 'static,
    T::Output: 'static,
{
    try_live(world, main).expect("the session ends")
}

/// The same; none if the node crashed on the way.
#[track_caller]
pub(crate) fn try_live<F, T>(world: &World, main: F) -> Option<T::Output>
where
    F: FnOnce(SimEnv) -> T + 'static,
    T: Future + 'static,
    T::Output: 'static,
{
    let slot = Rc::new(RefCell::new(None));
    let result = Rc::clone(&slot);
    let task = world.spawn_on(NODE, CoreNo(0), async move |env| {
        let value = main(env).await;
        *result.borrow_mut() = Some(value);
        pending::<()>().await;
    });
    let ended = world.run_until(|| slot.borrow().is_some() || !world.alive(NODE), LIMIT);
    ended.expect("the session does not hang");
    drop(task);
    slot.take()
}

pub(crate) fn power_cut(world: &World) {
    world.crash(NODE, Crash::Power);
}

/// A log and what rings when it moves.
pub(crate) struct Log {
    pub(crate) env: SimEnv,
    pub(crate) wal: Wal<SimEnv>,
    pub(crate) bell: Bell,
    pub(crate) found: Recovered,
}

pub(crate) async fn format(env: &SimEnv) {
    format_with(env, SyncChoice::Dsync).await;
}

pub(crate) async fn format_with(env: &SimEnv, sync: SyncChoice) {
    let options = WalOptions { sync, ..WalOptions::small() };
    Wal::format(env, &dir(), ID, Geometry::small(), options).await.unwrap();
}

pub(crate) async fn try_open(env: &SimEnv, options: WalOptions) -> Result<Log, OpenError> {
    let bell = env.bell();
    let (wal, found) = Wal::open(env, &dir(), ID, options, bell.clone()).await?;
    Ok(Log { env: env.clone(), wal, bell, found })
}

pub(crate) async fn open(env: &SimEnv) -> Log {
    try_open(env, WalOptions::small()).await.unwrap()
}

impl Log {
    /// Leaves the log as a crash finds it: nothing of it is dropped.
    pub(crate) fn abandon(self) {
        let _: &mut Self = Box::leak(Box::new(self));
    }

    pub(crate) fn shard(&self, shard: u64) -> Option<&RecoveredShard> {
        self.found.shards.iter().find(|found| found.shard == ShardId(shard))
    }

    /// Submits and waits until `lsn` is durable.
    pub(crate) async fn sync(&mut self, lsn: Lsn) {
        self.wal.submit();
        while self.wal.durable() < lsn {
            let wal = &self.wal;
            self.bell.park(|| wal.durable() < lsn).await;
        }
    }

    /// Submits and waits until `lsn` is durable or the log fails.
    pub(crate) async fn try_sync(&mut self, lsn: Lsn) -> bool {
        self.wal.submit();
        loop {
            if self.wal.durable() >= lsn {
                return true;
            }
            let wal = &self.wal;
            let is_bad = || matches!(wal.health().state, bowline_wal::HealthState::Poisoned { .. });
            if is_bad() {
                return false;
            }
            self.bell.park(|| wal.durable() < lsn && !is_bad()).await;
        }
    }

    pub(crate) fn open_shard(&mut self, shard: u64) -> Lsn {
        let term = hard(1, 0, 0);
        let open = Record::OpenShard { replica: ReplicaId(1) };
        self.wal.stage(ShardId(shard), &[open, term]).unwrap()
    }

    pub(crate) fn put(&mut self, shard: u64, term: u64, body: &[u8]) -> Staged {
        self.try_put(shard, term, body).unwrap()
    }

    /// Appends a batch of one entry behind the last.
    pub(crate) fn try_put(
        &mut self,
        shard: u64,
        term: u64,
        body: &[u8],
    ) -> Result<Staged, StageError> {
        let bounds = self.wal.bounds(ShardId(shard)).unwrap();
        let new = NewBatch {
            shard: ShardId(shard),
            first: bounds.last.next(),
            term: Term(term),
            prev_term: bounds.last_term,
            count: 1,
            flags: 0,
        };
        self.wal.append(new, body.len(), |out| out.copy_from_slice(body))
    }

    /// Four hundred entries of a busy shard, which lets go of everything: slots are used again.
    pub(crate) async fn churn(&mut self, shard: u64, term: u64) {
        for _ in 0..400 {
            let index = self.wal.bounds(ShardId(shard)).unwrap().last.0 + 1;
            let staged = self.put(shard, term, &body(shard, index, 3_000));
            self.sync(staged.lsn).await;
            if index.is_multiple_of(10) {
                self.compact(shard, index).unwrap();
            }
        }
    }

    pub(crate) fn hard(&mut self, shard: u64, term: u64, vote: u64, commit: u64) -> Lsn {
        self.wal.stage(ShardId(shard), &[hard(term, vote, commit)]).unwrap()
    }

    /// Gives up everything up to `index`, as an engine does after a flush.
    pub(crate) fn compact(&mut self, shard: u64, index: u64) -> Result<Lsn, StageError> {
        let (index, shard) = (LogIndex(index), ShardId(shard));
        let term = self.wal.term_at(shard, index).unwrap();
        let manifest = Record::Manifest { index, term, body: b"manifest" };
        let compact = Record::Compact { first: index.next(), prev_term: term };
        self.wal.stage(shard, &[manifest, compact])
    }

    /// Every batch from `from` on.
    pub(crate) async fn all(&self, shard: u64) -> Vec<BatchRef> {
        let bounds = self.wal.bounds(ShardId(shard)).unwrap();
        let mut out: Vec<BatchRef> = Vec::new();
        let mut next = bounds.first;
        while next <= bounds.last {
            let range = next..bounds.last.next();
            let more = self.wal.read(ShardId(shard), range, 10_000).await.unwrap();
            let last = more.last().unwrap();
            next = LogIndex(last.head.first.0 + u64::from(last.keep));
            out.extend(more);
        }
        out
    }
}

pub(crate) fn hard(term: u64, vote: u64, commit: u64) -> Record<'static> {
    let (term, vote, commit) = (Term(term), ReplicaId(vote), LogIndex(commit));
    Record::HardState(HardState { term, vote, commit })
}

/// A body that says what it is.
pub(crate) fn body(shard: u64, index: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len.max(16)];
    out[..8].copy_from_slice(&shard.to_le_bytes());
    out[8..16].copy_from_slice(&index.to_le_bytes());
    for (at, byte) in out.iter_mut().enumerate().skip(16) {
        *byte = (at as u64 ^ index).to_le_bytes()[0];
    }
    out
}
