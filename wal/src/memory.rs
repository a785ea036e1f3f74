//! The same index without a disk, for tests and for nodes whose state may be forgotten.
//!
//! Bodies stand in chunks of memory; a chunk goes when nothing in it counts any more. Votes are
//! forgotten with the process: a node on it comes back under new replica ids.

use core::future::{Future, ready};
use core::ops::Range;
use std::collections::VecDeque;

use bowline_env::{Bell, Buf, Env};
use bowline_raft::{BatchHeader, LogIndex, Lsn, ShardId, Term};

use crate::error::{LogError, OpenError, ReadError, StageError};
use crate::field::{len_of, len_u32, len_u64};
use crate::index::Index;
use crate::log::{
    BatchRef, Durability, GcWork, Health, LogBounds, LogStorage, NewBatch, OpenLog, Record,
    Recovered, Staged, StreamId,
};
use crate::shard::{Extent, Kill};
use crate::slots::Live;
use crate::staging::check_batch;

const CHUNK: usize = 64 * 1024;
/// Shards that one memory log carries.
const SHARDS_MAX: u32 = 1 << 20;

#[derive(Debug)]
struct Chunk {
    buf: Buf,
    live: Live,
}

/// A log in memory. Extents name chunks by number, from 1, where a disk log names frames.
#[derive(Debug)]
pub struct MemoryLog {
    index: Index,
    front: u64,
    chunks: VecDeque<Chunk>,
    bytes: usize,
    bytes_max: usize,
    batch_max: usize,
    next: u64,
    durable: u64,
    /// `durable` moves only when [`MemoryLog::set_durable`] says so.
    held: bool,
    signal: Bell,
    kills: Vec<Kill>,
}

impl MemoryLog {
    /// An empty log of at most `bytes_max` bytes whose batches are at most `batch_max`.
    #[must_use]
    pub fn new(bytes_max: usize, batch_max: usize, signal: Bell) -> Self {
        Self {
            index: Index::default(),
            front: 1,
            chunks: VecDeque::new(),
            bytes: 0,
            bytes_max,
            batch_max,
            next: 1,
            durable: 0,
            held: false,
            signal,
            kills: Vec::new(),
        }
    }

    /// From now on nothing is durable before [`MemoryLog::set_durable`].
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Declares everything up to `lsn` durable.
    ///
    /// # Panics
    ///
    /// If it falls, or names what was never staged.
    pub fn set_durable(&mut self, lsn: Lsn) {
        assert!(self.durable <= lsn.0, "durable never falls");
        assert!(lsn.0 <= self.next, "only what was staged is durable");
        self.durable = lsn.0;
        self.signal.ring();
    }

    /// A place for `len` bytes: the number of its chunk.
    fn reserve(&mut self, len: usize) -> u64 {
        let fits = |chunk: &Chunk| chunk.buf.capacity() - chunk.buf.filled() >= len;
        if !self.chunks.back().is_some_and(fits) {
            let buf = Buf::heap(CHUNK.max(len));
            self.bytes += buf.capacity();
            self.chunks.push_back(Chunk { buf, live: Live::default() });
            self.drop_dead();
        }
        self.front + len_u64(self.chunks.len()) - 1
    }

    /// Takes the batch whose body stands behind what is filled of the last chunk.
    fn take(&mut self, head: &BatchHeader) -> (Extent, Staged) {
        let number = self.front + len_u64(self.chunks.len()) - 1;
        let chunk = self.chunks.back_mut().expect("room was reserved");
        let (start, len) = (chunk.buf.filled(), len_of(head.len));
        chunk.buf.fill(len.next_multiple_of(16));
        chunk.live.add(Live { batches: 1, manifests: 0, bytes: u64::from(head.len) });
        let extent = Extent::new(head, number, len_u32(start));
        let body = chunk.buf.share(start..start + len);
        let batch = BatchRef { head: *head, keep: head.count, body };
        (extent, Staged { lsn: Lsn(self.next), batch })
    }

    fn bury(&mut self) {
        for kill in self.kills.drain(..) {
            let nth = usize::try_from(kill.lsn - self.front).expect("a chunk is in memory");
            self.chunks[nth].live.kill(&kill);
        }
        self.drop_dead();
    }

    /// Gives up dead chunks at the front; the last one is being filled.
    fn drop_dead(&mut self) {
        while self.chunks.len() > 1 && self.chunks[0].live.is_dead() {
            let chunk = self.chunks.pop_front().expect("there is a front");
            self.bytes -= chunk.buf.capacity();
            self.front += 1;
        }
    }

    fn admit(&self, len: usize) -> Result<u32, StageError> {
        if self.used_permille() >= 850 {
            return Err(StageError::Full);
        }
        let max = len_u64(self.batch_max);
        if len > self.batch_max { Err(StageError::TooLarge { max }) } else { Ok(len_u32(len)) }
    }

    fn copy(&mut self, head: &BatchHeader, body: &[u8]) -> Result<(), StageError> {
        self.reserve(body.len().next_multiple_of(16));
        let chunk = self.chunks.back_mut().expect("room was reserved");
        let copy = &mut chunk.buf.rest_mut()[..body.len()];
        copy.copy_from_slice(body);
        if head.matches(copy) { Ok(()) } else { Err(StageError::BadChecksum) }
    }

    fn append_at(&mut self, place: u32, head: &BatchHeader) -> Staged {
        let (extent, staged) = self.take(head);
        self.index.append(place, extent, &mut self.kills);
        self.bury();
        staged
    }

    /// Batches from `from` on, before `end`.
    fn collect(
        &self,
        shard: ShardId,
        (from, end): (u64, u64),
        bytes_max: usize,
        out: &mut Vec<BatchRef>,
    ) -> u64 {
        let Some(log) = self.index.lookup(shard) else { return from };
        let (mut next, mut bytes) = (from, 0);
        for extent in log.extents.range(log.position(from)..) {
            let len = len_of(extent.len);
            let stops = extent.first > next || extent.lost || extent.first >= end;
            if stops || (bytes > 0 && bytes + len > bytes_max) {
                break;
            }
            let nth = usize::try_from(extent.lsn - self.front).expect("a chunk is in memory");
            let start = len_of(extent.off);
            let body = self.chunks[nth].buf.share(start..start + len);
            bytes += len.max(1);
            out.push(BatchRef { head: extent.head(shard.0), keep: extent.keep, body });
            next = extent.last() + 1;
        }
        next
    }
}

impl LogStorage for MemoryLog {
    fn durability(&self) -> Durability {
        Durability::Volatile
    }

    fn append(
        &mut self,
        new: NewBatch,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Staged, StageError> {
        let head = BatchHeader {
            shard: new.shard,
            first: new.first,
            term: new.term,
            count: new.count,
            len: self.admit(len)?,
            fmt: 0,
            flags: new.flags,
            crc: 0,
        };
        check_batch(&head)?;
        let place = self.index.check_append(new.shard, new.first, new.term, new.prev_term)?;
        self.reserve(len.next_multiple_of(16));
        let chunk = self.chunks.back_mut().expect("room was reserved");
        fill(&mut chunk.buf.rest_mut()[..len]);
        let head = BatchHeader { crc: head.checksum(&chunk.buf.rest_mut()[..len]), ..head };
        Ok(self.append_at(place, &head))
    }

    fn append_copy(
        &mut self,
        head: &BatchHeader,
        prev_term: Term,
        body: &[u8],
    ) -> Result<Staged, StageError> {
        if self.admit(body.len())? != head.len {
            return Err(StageError::BadChecksum);
        }
        check_batch(head)?;
        let place = self.index.check_append(head.shard, head.first, head.term, prev_term)?;
        self.copy(head, body)?;
        Ok(self.append_at(place, head))
    }

    fn heal(&mut self, head: &BatchHeader, body: &[u8]) -> Result<Staged, StageError> {
        if self.admit(body.len())? != head.len {
            return Err(StageError::BadChecksum);
        }
        check_batch(head)?;
        let place = self.index.find(head.shard).ok_or(StageError::NoShard)?;
        if !self.index.at(place).clone().heal(Extent::new(head, 1, 0)) {
            return Err(StageError::NoHole);
        }
        self.copy(head, body)?;
        let (extent, staged) = self.take(head);
        assert!(self.index.at_mut(place).heal(extent), "the hole was there");
        Ok(staged)
    }

    fn stage(&mut self, shard: ShardId, records: &[Record<'_>]) -> Result<Lsn, StageError> {
        self.index.check_stage(shard, records, SHARDS_MAX)?;
        for record in records {
            // Manifests live with their owner: nothing of them is kept here.
            self.index.apply(shard, record, 0, &mut self.kills);
        }
        self.bury();
        Ok(Lsn(self.next))
    }

    fn submit(&mut self) {
        if !self.held && self.durable < self.next {
            self.durable = self.next;
            self.signal.ring();
        }
        self.next += 1;
    }

    fn durable(&self) -> Lsn {
        Lsn(self.durable)
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn bounds(&self, shard: ShardId) -> Option<LogBounds> {
        self.index.lookup(shard).map(crate::shard::ShardLog::bounds)
    }

    fn term_at(&self, shard: ShardId, index: LogIndex) -> Option<Term> {
        self.index.lookup(shard).and_then(|log| log.term_at(index.0)).map(Term)
    }

    fn bytes(&self, shard: ShardId, from: LogIndex, to: LogIndex) -> u64 {
        self.index.lookup(shard).map_or(0, |log| log.bytes(from.0, to.0))
    }

    fn cached(
        &self,
        shard: ShardId,
        from: LogIndex,
        bytes_max: usize,
        out: &mut Vec<BatchRef>,
    ) -> LogIndex {
        LogIndex(self.collect(shard, (from.0, u64::MAX), bytes_max, out))
    }

    fn read(
        &self,
        shard: ShardId,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<BatchRef>, ReadError>> + 'static {
        let mut out = Vec::new();
        let result = match self.index.lookup(shard) {
            None => Err(ReadError::NoShard),
            Some(log) if range.start.0 < log.first => {
                Err(ReadError::Compacted { first: LogIndex(log.first) })
            },
            Some(log) => {
                let bounds = (range.start.0, range.end.0);
                self.collect(shard, bounds, bytes_max, &mut out);
                let hole = log.holes().into_iter().find(|hole| hole.to >= range.start);
                match hole {
                    _ if !out.is_empty() => Ok(out),
                    Some(hole) if hole.from < range.end => {
                        Err(ReadError::Damaged { shard, from: range.start, to: hole.to })
                    },
                    _ => Err(ReadError::Missing),
                }
            },
        };
        ready(result)
    }

    fn gc(&mut self, out: &mut Vec<GcWork>) {
        if self.used_permille() < 500 {
            return;
        }
        let urgent = self.used_permille() >= 750;
        let Some(victim) = self.chunks.iter().position(|chunk| !chunk.live.is_dead()) else {
            return;
        };
        let number = self.front + len_u64(victim);
        for log in self.index.iter() {
            let mut work = GcWork {
                shard: ShardId(log.shard),
                upto: LogIndex(0),
                bytes: 0,
                manifest: false,
                urgent,
            };
            for extent in log.extents.iter().take_while(|extent| extent.lsn <= number) {
                work.upto = LogIndex(extent.last());
                work.bytes += u64::from(extent.len);
            }
            if work.upto.0 > 0 {
                out.push(work);
            }
        }
    }

    fn used_permille(&self) -> u32 {
        let permille = len_u64(self.bytes) * 1000 / len_u64(self.bytes_max.max(1));
        u32::try_from(permille).unwrap_or(u32::MAX)
    }

    fn close(self) -> impl Future<Output = Result<(), LogError>> + 'static {
        ready(Ok(()))
    }
}

/// Opens a [`MemoryLog`] for each stream of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLogs {
    /// Most bytes of one log.
    pub bytes_max: usize,
    /// Largest batch.
    pub batch_max: usize,
}

impl Default for MemoryLogs {
    fn default() -> Self {
        Self { bytes_max: 1 << 30, batch_max: 1 << 20 }
    }
}

impl<E: Env> OpenLog<E> for MemoryLogs {
    type Log = MemoryLog;

    async fn format(&self, _env: &E, _id: StreamId) -> Result<(), OpenError> {
        Ok(())
    }

    async fn open(
        &self,
        _env: &E,
        _id: StreamId,
        signal: Bell,
    ) -> Result<(Self::Log, Recovered), OpenError> {
        let log = MemoryLog::new(self.bytes_max, self.batch_max, signal);
        Ok((log, Recovered { boot: 1, ..Recovered::default() }))
    }
}
