//! The streams of a core as raft sees them: proposals are encoded into the open log frame.
//!
//! A value is copied once here, from the caller's memory into the frame; that buffer is what the
//! disk gets and what apply reads.

use std::cell::RefCell;
use std::collections::VecDeque;

use bowline_env::{Millis, Nanos};
use bowline_raft::batch::{BodyWriter, body_len};
use bowline_raft::{
    Batch, Log, LogIndex, Lsn, NewBatch, Place, Record, Refused, ShardId, Slot, Term,
};
use bowline_statemachine::envelope::{self, ENVELOPE_LEN, Head};
use bowline_wal::{BatchRef, LogStorage, StageError};
use bytes::Bytes;

use super::cut::cut;
use super::queue::{Queue, Waiting};

/// The log streams of one core, and the queues of the shards that write into them.
pub(crate) struct Logs<L> {
    pub(crate) streams: Vec<L>,
    pub(crate) queues: Vec<Queue>,
    /// The clocks of this pass.
    pub(crate) now: Nanos,
    pub(crate) wall: Millis,
    /// Client bytes queued or in the log and not applied.
    pub(crate) bytes: usize,
    /// By stream: writes that are not durable, ascending, and when the first byte was staged.
    pub(crate) under_way: Vec<VecDeque<(Lsn, Nanos)>>,
    /// Index and manifest of the state that raft is being given.
    pub(crate) arrived: Option<(LogIndex, Bytes)>,
    /// Stream and write of the latest install.
    pub(crate) installed: (usize, Lsn),
    /// Reused: batches that raft asks about.
    looked_at: RefCell<Vec<BatchRef>>,
    /// Entries given to the streams in this life.
    pub(crate) entries: u64,
}

impl<L: LogStorage> Logs<L> {
    pub(crate) fn new(streams: Vec<L>) -> Self {
        Self {
            under_way: streams.iter().map(|_| VecDeque::new()).collect(),
            entries: 0,
            arrived: None,
            installed: (0, Lsn(0)),
            looked_at: RefCell::default(),
            streams,
            queues: Vec::new(),
            now: Nanos(0),
            wall: Millis(0),
            bytes: 0,
        }
    }

    pub(crate) fn queue(&self, slot: Slot) -> &Queue {
        &self.queues[place(slot)]
    }

    pub(crate) fn queue_mut(&mut self, slot: Slot) -> &mut Queue {
        &mut self.queues[place(slot)]
    }

    pub(crate) fn shard(&self, slot: Slot) -> ShardId {
        self.queue(slot).shard
    }

    /// The stream that `slot` writes to.
    pub(crate) fn stream(&self, slot: Slot) -> &L {
        &self.streams[self.queue(slot).stream]
    }

    pub(crate) fn stream_mut(&mut self, slot: Slot) -> &mut L {
        let at = self.queue(slot).stream;
        &mut self.streams[at]
    }

    /// Notes that something was staged into the write `lsn`.
    fn staged(&mut self, stream: usize, lsn: Lsn) -> Lsn {
        let under_way = &mut self.under_way[stream];
        if under_way.back().is_none_or(|(last, _)| *last < lsn) {
            under_way.push_back((lsn, self.now));
        }
        lsn
    }

    /// Takes the writes of a stream that are durable up to `lsn`: how long each took.
    pub(crate) fn landed(&mut self, stream: usize, lsn: Lsn) -> impl Iterator<Item = Nanos> + '_ {
        let now = self.now;
        let under_way = &mut self.under_way[stream];
        let count = under_way.partition_point(|(at, _)| *at <= lsn);
        under_way.drain(..count).map(move |(_, since)| now.since(since))
    }

    /// Encodes the first `count` pending commands of a queue as the batch `at`.
    fn encode(&mut self, at: &NewBatch<'_>, count: usize) -> Result<Lsn, Refused> {
        let queue = &mut self.queues[place(at.at.slot)];
        let payload_len = |nth: usize| ENVELOPE_LEN + queue.pending[nth].body.len();
        let len = body_len((0..count).map(payload_len));
        let stamp = queue.clock.stamp(self.wall.0, self.now.0);
        let pending = &queue.pending;
        let staged = self.streams[queue.stream]
            .append(to_wal(at), len, |out| {
                let mut writer = BodyWriter::new(out, count);
                for command in pending.iter().take(count) {
                    let body = &command.body;
                    let head = Head { kind: command.kind, flags: 0, ver: command.version };
                    let body_len = u32::try_from(body.len()).expect("admit bounds the body");
                    writer.entry(ENVELOPE_LEN + body.len(), |entry| {
                        envelope::encode(entry, stamp, head, body_len);
                        entry[ENVELOPE_LEN..].copy_from_slice(body);
                    });
                }
                writer.finish();
            })
            .map_err(refused)?;
        let mut index = at.first;
        for _ in 0..count {
            let mut command = queue.pending.pop_front().expect("raft counts what is pending");
            command.ticket.mark_appended();
            let bytes = command.body.len();
            queue.wait(Waiting {
                index,
                term: at.term,
                ticket: Some(command.ticket),
                arrived: command.arrived,
                deadline: command.deadline,
                bytes,
            });
            index = index.next();
        }
        let stream = queue.stream;
        self.entries += u64::from(at.count);
        Ok(self.staged(stream, staged.lsn))
    }

    /// An entry of raft's own: a leader's first one is empty, a configuration has a payload.
    fn encode_own(&mut self, at: &NewBatch<'_>) -> Result<Lsn, Refused> {
        let stream = stream(at.at);
        let payload = at.payload;
        let len = body_len([payload.len()].into_iter());
        let staged = self.streams[stream]
            .append(to_wal(at), len, |out| {
                let mut writer = BodyWriter::new(out, 1);
                writer.entry(payload.len(), |entry| entry.copy_from_slice(payload));
                writer.finish();
            })
            .map_err(refused)?;
        self.entries += 1;
        Ok(self.staged(stream, staged.lsn))
    }
}

impl<L: LogStorage> Log for Logs<L> {
    fn append(&mut self, batch: NewBatch<'_>) -> Result<Lsn, Refused> {
        if batch.proposals == 0 {
            assert!(batch.count == 1, "raft's own entries come one by one");
            return self.encode_own(&batch);
        }
        assert!(batch.proposals == batch.count, "a proposal of the engine is one entry");
        let count = usize::try_from(batch.count).expect("a batch is far below usize");
        assert!(count <= self.queue(batch.at.slot).pending.len(), "raft counts what is pending");
        self.encode(&batch, count)
    }

    fn accept(&mut self, at: Place, batch: &Batch<'_>) -> Result<Lsn, Refused> {
        let place = stream(at);
        let stream = &mut self.streams[place];
        let term_before = |log: &L, index: LogIndex| log.term_at(at.shard, index.prev());
        let staged = if let Some(prev_term) = term_before(stream, batch.head.first) {
            stream.append_copy(&batch.head, prev_term, batch.body)
        } else {
            // It begins in what is compacted here: only the rest is taken.
            if !batch.head.matches(batch.body) {
                return Err(Refused::BadChecksum);
            }
            let floor = stream.bounds(at.shard).ok_or(Refused::NoRoom)?.first;
            let rest = cut(&batch.head, batch.body, floor, batch.head.last());
            let (head, body) = rest.ok_or(Refused::BadChecksum)?;
            let prev_term = term_before(stream, floor).ok_or(Refused::NoRoom)?;
            stream.append_copy(&head, prev_term, &body)
        };
        let staged = staged.map_err(refused)?;
        self.entries += u64::from(batch.head.count);
        Ok(self.staged(place, staged.lsn))
    }

    fn stage(&mut self, at: Place, record: Record) -> Result<Lsn, Refused> {
        use bowline_wal::Record as Wal;
        let place = stream(at);
        let stream = &mut self.streams[place];
        let staged = match record {
            Record::HardState(state) => stream.stage(at.shard, &[Wal::HardState(state)]),
            Record::Compact { first, prev_term } => {
                stream.stage(at.shard, &[Wal::Compact { first, prev_term }])
            },
            Record::Truncate { from } => stream.stage(at.shard, &[Wal::Truncate { from }]),
            Record::Install { index, term, keep, hard_state } => {
                let arrived = self.arrived.as_ref().filter(|(of, _)| *of == index);
                let (_, body) = arrived.expect("raft installs what it was just given");
                let manifest = Wal::Manifest { index, term, body };
                let (first, prev_term) = (index.next(), term);
                let compact = Wal::Compact { first, prev_term };
                let hard_state = Wal::HardState(hard_state);
                if keep {
                    stream.stage(at.shard, &[manifest, compact, hard_state])
                } else {
                    let truncate = Wal::Truncate { from: first };
                    stream.stage(at.shard, &[truncate, manifest, compact, hard_state])
                }
            },
        };
        let lsn = staged.map_err(refused)?;
        if let Record::Install { .. } = record {
            self.installed = (place, lsn);
        }
        Ok(self.staged(place, lsn))
    }

    fn term_at(&self, at: Place, index: LogIndex) -> Option<Term> {
        self.streams[stream(at)].term_at(at.shard, index)
    }

    fn cached(&self, at: Place, from: LogIndex, bytes_max: u32) -> Option<(LogIndex, u32)> {
        let mut batches = self.looked_at.take();
        let bytes_max = usize::try_from(bytes_max).expect("usize holds a u32");
        let _: LogIndex = self.streams[stream(at)].cached(at.shard, from, bytes_max, &mut batches);
        let bytes = batches.iter().map(|batch| batch.head.len).sum();
        let last = batches.last().map(BatchRef::last);
        batches.clear();
        self.looked_at.replace(batches);
        last.map(|last| (last, bytes))
    }

    fn bytes(&self, at: Place, from: LogIndex, to: LogIndex) -> u64 {
        self.streams[stream(at)].bytes(at.shard, from, to)
    }
}

/// A slot as an index of this core's arrays.
pub(crate) fn place(slot: Slot) -> usize {
    usize::try_from(slot.0).expect("a slot is far below usize")
}

/// A stream as an index of this core's streams.
fn stream(at: Place) -> usize {
    usize::from(at.stream.0)
}

fn to_wal(at: &NewBatch<'_>) -> bowline_wal::NewBatch {
    bowline_wal::NewBatch {
        shard: at.at.shard,
        first: at.first,
        term: at.term,
        prev_term: at.prev_term,
        count: at.count,
        flags: at.flags,
    }
}

/// A log's refusal in raft's words.
fn refused(error: StageError) -> Refused {
    match error {
        StageError::Poisoned(_) => Refused::Poisoned,
        StageError::BadChecksum => Refused::BadChecksum,
        StageError::Full | StageError::Busy => Refused::NoRoom,
        other @ (StageError::TooLarge { .. }
        | StageError::Gap { .. }
        | StageError::Compacted { .. }
        | StageError::Stale { .. }
        | StageError::NoShard
        | StageError::Exists
        | StageError::TooManyShards { .. }
        | StageError::NoHole
        | StageError::Order
        | _) => {
            tracing::error!(error = %other, "the log refuses what raft stages: a defect");
            debug_assert!(false, "the log refuses what raft stages: {other}");
            Refused::NoRoom
        },
    }
}
