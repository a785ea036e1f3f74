//! The log on a machine: [`Wal`], and how an engine opens one for each of its streams.

use core::future::{Future, poll_fn};
use core::ops::Range;
use core::task::Poll;

use bowline_env::{Bell, Env, File, Name};
use bowline_raft::{BatchHeader, LogIndex, Lsn, ShardId, Term};

use crate::error::{LogError, OpenError, ReadError, StageError};
use crate::geometry::Geometry;
use crate::log::{
    BatchRef, Durability, GcWork, Health, HealthState, LogBounds, LogStorage, NewBatch, OpenLog,
    Record, Recovered, Staged, StreamId, Written,
};
use crate::options::WalOptions;
use crate::shared::Ref;
use crate::tasks::STALL;

/// Ends with a read: a slot that it held may be prepared now.
struct Ended<E: Env>(Ref<E>);

impl<E: Env> Drop for Ended<E> {
    fn drop(&mut self) {
        self.0.preparer.call();
    }
}

/// A stream on a machine. Dropping it without [`LogStorage::close`] is a crash that is safe: what
/// is in flight is written, the rest is not.
pub struct Wal<E: Env> {
    shared: Ref<E>,
}

impl<E: Env> core::fmt::Debug for Wal<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Wal").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// What a stream has done and holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalCounters {
    /// Frames issued in this life.
    pub frames: u64,
    /// Bytes issued in this life.
    pub bytes: u64,
    /// Slots that hold frames.
    pub slots_used: u32,
    /// Slot files that there are.
    pub slots: u32,
    /// Slots that the log may have.
    pub slots_max: u32,
    /// Open shards.
    pub shards: u64,
    /// Batches in the log.
    pub batches: u64,
}

impl<E: Env> Wal<E> {
    /// Makes a stream's directory anew; what is in it is removed.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the directory is scrap; format it again.
    pub async fn format(
        env: &E,
        dir: &Name,
        id: StreamId,
        geometry: Geometry,
        options: WalOptions,
    ) -> Result<(), OpenError> {
        Box::pin(crate::open::format(env, dir, id, geometry, options)).await
    }

    /// Opens a stream. `signal` is rung when `durable` or the health moves.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: nothing of this life was acknowledged; it may be opened again.
    pub async fn open(
        env: &E,
        dir: &Name,
        id: StreamId,
        options: WalOptions,
        signal: Bell,
    ) -> Result<(Self, Recovered), OpenError> {
        let opened = Box::pin(crate::open::open(env, dir, id, options, signal)).await;
        opened.map(|(shared, recovered)| (Self { shared }, recovered))
    }

    /// What it has done and holds.
    #[must_use]
    pub fn counters(&self) -> WalCounters {
        self.shared.stream.borrow().counters()
    }
}

impl<E: Env> Drop for Wal<E> {
    fn drop(&mut self) {
        stop(&self.shared);
    }
}

/// Tells the tasks to end.
fn stop<E: Env>(shared: &Ref<E>) {
    shared.stopped.set(true);
    shared.stream.borrow_mut().poison(LogError::Closed);
    shared.writer.call();
    shared.keeper.call();
    shared.preparer.call();
}

impl<E: Env> LogStorage for Wal<E> {
    fn durability(&self) -> Durability {
        Durability::Synced
    }

    fn append(
        &mut self,
        new: NewBatch,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Staged, StageError> {
        self.shared.stream.borrow_mut().append(new, len, fill)
    }

    fn append_copy(
        &mut self,
        head: &BatchHeader,
        prev_term: Term,
        body: &[u8],
    ) -> Result<Staged, StageError> {
        self.shared.stream.borrow_mut().append_copy(head, prev_term, body)
    }

    fn heal(&mut self, head: &BatchHeader, body: &[u8]) -> Result<Staged, StageError> {
        self.shared.stream.borrow_mut().heal(head, body)
    }

    fn stage(&mut self, shard: ShardId, records: &[Record<'_>]) -> Result<Lsn, StageError> {
        self.shared.stream.borrow_mut().stage(shard, records)
    }

    fn submit(&mut self) {
        self.shared.writer.call();
        self.shared.keeper.call();
    }

    fn durable(&self) -> Lsn {
        self.shared.stream.borrow().durable()
    }

    fn health(&self) -> Health {
        let stream = self.shared.stream.borrow();
        let oldest = stream.oldest_write();
        let age = oldest.map(|issued| self.shared.env.now().since(issued));
        let state = match stream.poisoned() {
            Some(cause) => HealthState::Poisoned { cause },
            None if age.is_some_and(|age| age > STALL) => HealthState::Stalled,
            None => HealthState::Ok,
        };
        Health { write_age: age.map_or(0, |age| age.0.max(1)), state }
    }

    fn bounds(&self, shard: ShardId) -> Option<LogBounds> {
        self.shared.stream.borrow().index.lookup(shard).map(crate::shard::ShardLog::bounds)
    }

    fn term_at(&self, shard: ShardId, index: LogIndex) -> Option<Term> {
        let stream = self.shared.stream.borrow();
        stream.index.lookup(shard).and_then(|log| log.term_at(index.0)).map(Term)
    }

    fn bytes(&self, shard: ShardId, from: LogIndex, to: LogIndex) -> u64 {
        let stream = self.shared.stream.borrow();
        stream.index.lookup(shard).map_or(0, |log| log.bytes(from.0, to.0))
    }

    fn cached(
        &self,
        shard: ShardId,
        from: LogIndex,
        bytes_max: usize,
        out: &mut Vec<BatchRef>,
    ) -> LogIndex {
        self.shared.stream.borrow().cached(shard, from, bytes_max, out)
    }

    fn read(
        &self,
        shard: ShardId,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<BatchRef>, ReadError>> + 'static {
        let plan = self.shared.stream.borrow().plan_read(shard, &range, bytes_max);
        let (shared, ended) = (Ref::clone(&self.shared), Ended(Ref::clone(&self.shared)));
        async move {
            let _ended = ended;
            crate::read::read(shared, plan).await
        }
    }

    fn gc(&mut self, out: &mut Vec<GcWork>) {
        let now = self.shared.env.now();
        self.shared.stream.borrow_mut().gc(now, out);
    }

    fn used_permille(&self) -> u32 {
        self.shared.stream.borrow().used_permille()
    }

    fn written(&self) -> Written {
        let counters = self.counters();
        Written { frames: counters.frames, bytes: counters.bytes }
    }

    fn close(self) -> impl Future<Output = Result<(), LogError>> + 'static {
        let shared = Ref::clone(&self.shared);
        Box::pin(async move {
            shared.stream.borrow_mut().drain();
            shared.writer.call();
            let ended = poll_fn(|cx| {
                shared.closer.register(cx);
                let stream = shared.stream.borrow();
                match stream.poisoned() {
                    Some(cause) => Poll::Ready(Err(cause)),
                    None if stream.is_drained() => Poll::Ready(Ok(stream.durable())),
                    None => Poll::Pending,
                }
            })
            .await;
            drop(self);
            poll_fn(|cx| {
                shared.closer.register(cx);
                if shared.tasks.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let mut result = ended.map(|_| ());
            if let Ok(durable) = ended {
                let clean = shared.mark_clean(durable).await;
                result = clean.map_err(|error| LogError::Super { kind: error.kind });
            }
            for file in shared.files.take_all() {
                let closed: Result<(), _> = file.close().await;
                if let Err(error) = closed {
                    result = result.and(Err(LogError::Sync { kind: error.kind }));
                }
            }
            result
        })
    }
}

/// Opens a [`Wal`] for each stream of a node, in the directory `stream-NN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalLogs {
    /// Sizes of streams that are formatted.
    pub geometry: Geometry,
    /// Options of streams that are opened; `geometry.log_bytes` overrides theirs.
    pub options: WalOptions,
}

impl WalLogs {
    /// The directory of a stream.
    #[must_use]
    pub fn dir(stream: u32) -> Name {
        Name::of(&format!("stream-{stream:02}"))
    }

    fn options(&self) -> WalOptions {
        WalOptions { log_bytes: self.geometry.log_bytes, ..self.options }
    }
}

/// Slots by which a log grows beyond its bound when a boot finds none free.
const EMERGENCY_SLOTS: u64 = 2;

impl<E: Env> OpenLog<E> for WalLogs {
    type Log = Wal<E>;

    async fn format(&self, env: &E, id: StreamId) -> Result<(), OpenError> {
        let dir = Self::dir(id.stream);
        if Box::pin(crate::open::holds_entries(env, &dir, &self.options())).await? {
            return Err(OpenError::HoldsEntries);
        }
        Wal::format(env, &dir, id, self.geometry, self.options()).await
    }

    async fn frame_cap(&self, env: &E, id: StreamId) -> Result<Option<u32>, OpenError> {
        crate::open::frame_cap(env, &Self::dir(id.stream), id).await.map(Some)
    }

    async fn open(
        &self,
        env: &E,
        id: StreamId,
        signal: Bell,
    ) -> Result<(Self::Log, Recovered), OpenError> {
        let (dir, options) = (Self::dir(id.stream), self.options());
        let opened = Wal::open(env, &dir, id, options, signal.clone()).await;
        let Err(OpenError::Full) = opened else { return opened };
        // Lives that ended before their first flush pinned every slot, the reserve too. A log that
        // cannot be opened can never be emptied, so it grows for this boot.
        let more = EMERGENCY_SLOTS * self.geometry.slot_bytes;
        let options = WalOptions { log_bytes: options.log_bytes + more, ..options };
        Wal::open(env, &dir, id, options, signal).await
    }
}
