//! Reading batches that are not in memory: neighbours in one read, each verified.

use core::cell::Cell;
use core::ops::Range;
use std::rc::Rc;

use bowline_env::{Env, File, Kind, SharedBuf};
use bowline_raft::{LogIndex, ShardId};

use crate::error::ReadError;
use crate::field::len_of;
use crate::log::BatchRef;
use crate::shard::Extent;
use crate::shared::{Ref, Shared};
use crate::stream::Stream;

/// Bytes between two batches that are read along, and most bytes of one read.
const GAP_MAX: u64 = 16 * 1024;
const READ_MAX: u64 = 1 << 20;

/// Keeps a slot from being prepared while it is read.
struct Reading(Rc<Cell<u32>>);

impl Reading {
    fn of(readers: &Rc<Cell<u32>>) -> Self {
        readers.set(readers.get() + 1);
        Self(Rc::clone(readers))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A batch to be had: from memory, or at a place of a slot.
enum Source {
    Memory(SharedBuf),
    Slot { slot_no: u32, at: u64, _reading: Reading },
}

/// The batches of a read, in order.
pub(crate) struct ReadPlan {
    shard: ShardId,
    batches: Vec<(Extent, Source)>,
}

impl Stream {
    /// Which batches answer a read, and where they are.
    pub(crate) fn plan_read(
        &self,
        shard: ShardId,
        range: &Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<ReadPlan, ReadError> {
        let log = self.index.lookup(shard).ok_or(ReadError::NoShard)?;
        let (from, end) = (range.start.0, range.end.0.min(log.last + 1));
        if from < log.first {
            return Err(ReadError::Compacted { first: LogIndex(log.first) });
        }
        if from >= end {
            return Err(ReadError::Missing);
        }
        let mut batches: Vec<(Extent, Source)> = Vec::new();
        let (mut next, mut bytes) = (from, 0);
        for extent in log.extents.range(log.position(from)..) {
            let len = len_of(extent.len);
            let stops = extent.first > next || extent.lost || extent.first >= end;
            if stops || (!batches.is_empty() && bytes + len > bytes_max) {
                break;
            }
            let source = match self.body(extent.lsn, extent.off, extent.len) {
                Some(body) => Source::Memory(body),
                None => self.on_disk(extent).ok_or(ReadError::Missing)?,
            };
            batches.push((*extent, source));
            bytes += len;
            next = extent.last() + 1;
        }
        if batches.is_empty() {
            let hole = log.holes().into_iter().find(|hole| hole.to.0 >= from);
            let to = hole.map_or(LogIndex(from), |hole| hole.to);
            return Err(ReadError::Damaged { shard, from: LogIndex(from), to });
        }
        Ok(ReadPlan { shard, batches })
    }

    fn on_disk(&self, extent: &Extent) -> Option<Source> {
        let (slot_no, block) = self.slots.locate(extent.lsn)?;
        let at = u64::from(block) * u64::from(self.geometry.block) + u64::from(extent.off);
        let readers = &self.slots.slot(slot_no).readers;
        Some(Source::Slot { slot_no, at, _reading: Reading::of(readers) })
    }
}

/// Performs a planned read.
pub(crate) async fn read<E: Env>(
    shared: Ref<E>,
    plan: Result<ReadPlan, ReadError>,
) -> Result<Vec<BatchRef>, ReadError> {
    let plan = plan?;
    let mut out = Vec::with_capacity(plan.batches.len());
    let block = u64::from(shared.geometry.block);
    let mut nth = 0;
    while let Some((extent, source)) = plan.batches.get(nth) {
        match source {
            Source::Memory(body) => {
                out.push(batch(plan.shard, extent, body.clone()));
                nth += 1;
            },
            Source::Slot { slot_no, at, .. } => {
                let run = run_len(&plan.batches[nth..]);
                let batches = &plan.batches[nth..nth + run];
                let span = span_of(batches, *at);
                let bytes = read_span(&shared, *slot_no, span.clone()).await;
                for (extent, source) in batches {
                    let body = match &bytes {
                        Ok(bytes) => part(bytes, span.start / block * block, extent, source),
                        // One bad block must not take its neighbours along.
                        Err(_) => read_one(&shared, extent, source).await?,
                    };
                    let good = body.filter(|body| extent.head(plan.shard.0).matches(body));
                    let Some(body) = good else {
                        return damaged(&shared, plan.shard, extent, out);
                    };
                    out.push(batch(plan.shard, extent, body));
                }
                nth += run;
            },
        }
    }
    Ok(out)
}

/// A bad batch: on record from now on. What comes before it is still an answer.
fn damaged<E: Env>(
    shared: &Shared<E>,
    shard: ShardId,
    extent: &Extent,
    out: Vec<BatchRef>,
) -> Result<Vec<BatchRef>, ReadError> {
    let still_there = {
        let stream = shared.stream.borrow();
        let log = stream.index.lookup(shard);
        log.and_then(|log| log.extent_at(extent.first)).is_some_and(|have| have.lsn == extent.lsn)
    };
    if still_there {
        shared.stream.borrow_mut().note_damage(shard, extent.first, extent.last());
        shared.writer.call();
        shared.signal.ring();
    }
    if out.is_empty() {
        let (from, to) = (LogIndex(extent.first), LogIndex(extent.last()));
        return Err(ReadError::Damaged { shard, from, to });
    }
    Ok(out)
}

fn batch(shard: ShardId, extent: &Extent, body: SharedBuf) -> BatchRef {
    BatchRef { head: extent.head(shard.0), keep: extent.keep, body }
}

/// How many of the batches lie close enough together for one read.
fn run_len(batches: &[(Extent, Source)]) -> usize {
    let place = |(extent, source): &(Extent, Source)| match source {
        Source::Slot { slot_no, at, .. } => Some((*slot_no, *at, *at + u64::from(extent.len))),
        Source::Memory(_) => None,
    };
    let Some((slot, start, mut end)) = batches.first().and_then(place) else { return 0 };
    let mut run = 1;
    for (slot_no, from, to) in batches[1..].iter().map_while(place) {
        let close = slot_no == slot && from >= end && from - end <= GAP_MAX;
        if !close || to - start > READ_MAX {
            break;
        }
        end = to;
        run += 1;
    }
    run
}

/// The bytes that a run of batches covers.
fn span_of(batches: &[(Extent, Source)], start: u64) -> Range<u64> {
    let end = batches.last().map_or(start, |(extent, source)| match source {
        Source::Slot { at, .. } => *at + u64::from(extent.len),
        Source::Memory(_) => start,
    });
    start..end
}

/// Reads the whole blocks around a span; what comes begins at the span's block.
async fn read_span<E: Env>(
    shared: &Shared<E>,
    slot_no: u32,
    span: Range<u64>,
) -> Result<SharedBuf, Kind> {
    let block = u64::from(shared.geometry.block);
    let start = span.start / block * block;
    let end = span.end.max(span.start + 1).next_multiple_of(block);
    let len = usize::try_from(end - start).expect("a read is below 4 GiB");
    let file = shared.files.slot(slot_no).ok_or(Kind::NotFound)?;
    file.read_at(start, len).await.map_err(|error| error.kind)
}

/// One batch out of a read that began at `start`; none: the file ends before.
fn part(bytes: &SharedBuf, start: u64, extent: &Extent, source: &Source) -> Option<SharedBuf> {
    let Source::Slot { at, .. } = source else { return None };
    let from = usize::try_from(at - start).ok()?;
    let range = from..from + len_of(extent.len);
    (range.end <= bytes.len()).then(|| bytes.slice(range))
}

/// One batch by itself; none: the device cannot read it.
async fn read_one<E: Env>(
    shared: &Shared<E>,
    extent: &Extent,
    source: &Source,
) -> Result<Option<SharedBuf>, ReadError> {
    let Source::Slot { slot_no, at, .. } = source else { return Ok(None) };
    let span = *at..*at + u64::from(extent.len);
    match read_span(shared, *slot_no, span).await {
        Ok(bytes) => {
            let block = u64::from(shared.geometry.block);
            Ok(part(&bytes, *at / block * block, extent, source))
        },
        Err(Kind::Io | Kind::Short) => Ok(None),
        Err(kind) => Err(ReadError::Env(kind)),
    }
}
