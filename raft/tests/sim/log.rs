//! The log as raft sees it: trait `Log` over the simulated disk, with the payloads of what clients
//! proposed and the snapshots that arrived.

use std::{collections::VecDeque, rc::Rc};

use bowline_raft::{
    Batch, Log, LogIndex, Lsn, NewBatch, Place, Record, Refused, ShardId, Term,
    batch::{Body, FLAG_CONF, FLAG_NOOP},
};

use super::{
    disk::{Disk, shard_place},
    image::{Manifest, Op, SimBatch, head},
};

/// Why no entry is in memory: the cache holds the newest batches of a shard alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Entries of a shard that stay in memory.
    pub entries: u64,
}

/// The logs of one core.
#[derive(Debug)]
pub struct CoreLog {
    pub disk: Disk,
    /// Number of the core's first stream on its node.
    pub first_stream: u16,
    /// By shard: tokens and counts of what `propose` took and no batch holds yet.
    pub queued: Vec<VecDeque<(u64, u32)>>,
    /// By shard: the snapshot that raft was told of.
    pub incoming: Vec<Option<Rc<Manifest>>>,
    /// What was appended since somebody looked: the batch and the term before it.
    pub appended: Vec<(Rc<SimBatch>, Term)>,
    pub cache: Cache,
    pub refusals: u64,
    pub truncations: u64,
    pub installs: u64,
    pub bad_crc: u64,
}

impl CoreLog {
    pub fn new(disk: Disk, first_stream: u16, cache: Cache) -> Self {
        let shards = disk.memory.len();
        Self {
            disk,
            first_stream,
            queued: vec![VecDeque::new(); shards],
            incoming: vec![None; shards],
            appended: Vec::new(),
            cache,
            refusals: 0,
            truncations: 0,
            installs: 0,
            bad_crc: 0,
        }
    }

    fn take(&mut self, at: Place, op: Op) -> Result<Lsn, Refused> {
        let stream = usize::from(at.stream.0 - self.first_stream);
        let taken = self.disk.take(stream, at.shard, op);
        self.refusals += u64::from(taken.is_err());
        taken
    }

    fn note(&mut self, shard: ShardId, batch: &Rc<SimBatch>) {
        let image = self.disk.memory_of(shard);
        let first = batch.head.first.0;
        if let Some(before) = image.term_at(first - 1) {
            self.appended.push((Rc::clone(batch), before));
        }
    }

    /// The payloads of a batch of raft's own or of what clients proposed.
    fn encode(&mut self, new: &NewBatch<'_>) -> SimBatch {
        let head = head(new.at.shard, new.first, new.term, new.flags);
        if new.proposals == 0 {
            assert_eq!(new.count, 1, "raft's own batches have one entry");
            assert!(new.flags & (FLAG_CONF | FLAG_NOOP) != 0, "raft's own batches say so");
            return SimBatch::encode(head, &[new.payload]);
        }
        let queue = &mut self.queued[shard_place(new.at.shard)];
        let mut words = Vec::new();
        for _ in 0..new.proposals {
            let (token, count) = queue.pop_front().expect("a batch takes what was proposed");
            words.extend((0..u64::from(count)).map(|nth| (token + nth).to_le_bytes()));
        }
        let payloads: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        SimBatch::encode(head, &payloads)
    }
}

impl Log for CoreLog {
    fn append(&mut self, new: NewBatch<'_>) -> Result<Lsn, Refused> {
        let stream = usize::from(new.at.stream.0 - self.first_stream);
        if let Some(why) = self.disk.streams[stream].refusal() {
            self.refusals += 1;
            return Err(why);
        }
        let image = self.disk.memory_of(new.at.shard);
        assert_eq!(new.first.0, image.last() + 1, "a leader appends at its tail");
        assert_eq!(new.prev_term, image.last_term(), "a leader knows the term before");
        let batch = Rc::new(self.encode(&new));
        assert_eq!(batch.head.count, new.count, "entries are counted");
        assert_eq!(batch.head.len, new.bytes, "bytes are counted");
        self.note(new.at.shard, &batch);
        self.take(new.at, Op::Batch(batch))
    }

    fn accept(&mut self, at: Place, batch: &Batch<'_>) -> Result<Lsn, Refused> {
        let stream = usize::from(at.stream.0 - self.first_stream);
        if let Some(why) = self.disk.streams[stream].refusal() {
            self.refusals += 1;
            return Err(why);
        }
        if !batch.head.matches(batch.body) {
            self.bad_crc += 1;
            return Err(Refused::BadChecksum);
        }
        Body::parse(&batch.head, batch.body).expect("raft looked at the layout before");
        assert_eq!(batch.head.shard, at.shard, "raft looked at the shard before");
        let copy = Rc::new(SimBatch { head: batch.head, body: batch.body.to_vec() });
        self.truncations += u64::from(batch.head.first.0 <= self.disk.memory_of(at.shard).last());
        self.note(at.shard, &copy);
        self.take(at, Op::Batch(copy))
    }

    fn stage(&mut self, at: Place, record: Record) -> Result<Lsn, Refused> {
        let op = match record {
            Record::HardState(hard) => Op::Hard(hard),
            Record::Compact { first, prev_term } => Op::Compact { first: first.0, prev_term },
            Record::Truncate { from } => {
                self.truncations += 1;
                Op::Truncate(from.0)
            },
            Record::Install { index, term, keep, hard_state } => {
                let waiting = self.incoming[shard_place(at.shard)].clone();
                let manifest = waiting.expect("raft installs what it was told of");
                assert_eq!((manifest.index, manifest.term), (index.0, term));
                self.installs += 1;
                Op::Install { manifest, keep, hard: hard_state }
            },
        };
        self.take(at, op)
    }

    fn term_at(&self, at: Place, index: LogIndex) -> Option<Term> {
        self.disk.memory_of(at.shard).term_at(index.0)
    }

    fn cached(&self, at: Place, from: LogIndex, bytes_max: u32) -> Option<(LogIndex, u32)> {
        let image = self.disk.memory_of(at.shard);
        if from.0 + self.cache.entries <= image.last() || image.is_lost(from.0) {
            return None;
        }
        let (mut last, mut bytes) = image.span(from.0, bytes_max)?;
        if image.lost.is_some() {
            // One batch at a time: the next one may not be there.
            (last, bytes) = image.span(from.0, 0)?;
        }
        Some((LogIndex(last), bytes))
    }

    fn bytes(&self, at: Place, from: LogIndex, to: LogIndex) -> u64 {
        assert!(to.0 <= self.disk.memory_of(at.shard).last(), "a range of the log");
        (to.0 + 1).saturating_sub(from.0) * 24
    }
}

/// Places of a shard's number.
pub fn shard_at(nth: usize) -> ShardId {
    ShardId(nth as u64 + 1)
}
