//! A small whole log in memory, with a disk that a crash falls back to, and a node around it that
//! does what a core loop does.

use std::collections::{BTreeMap, VecDeque};

use bowline_raft::{
    Apply, Batch, BootTime, Configuration, CoreConfig, Damage, HardState, Log, LogIndex, Lsn,
    NewBatch, NodeId, OpenError, Outbox, Place, Proposal, ProposeError, RaftCore, Record,
    Recovered, Refused, Rejected, ReplicaId, ShardId, Slot, StreamNo, Term,
};

/// One shard's log: hard state and entries.
#[derive(Clone, Debug)]
pub struct Image {
    pub hard: HardState,
    pub first: u64,
    pub prev_term: Term,
    /// (term, token) from `first` on; a no-op has token 0.
    pub entries: Vec<(Term, u64)>,
}

impl Default for Image {
    fn default() -> Self {
        Self { hard: HardState::default(), first: 1, prev_term: Term(0), entries: Vec::new() }
    }
}

impl Image {
    pub fn last(&self) -> u64 {
        self.first - 1 + self.entries.len() as u64
    }

    pub fn term_at(&self, index: u64) -> Option<Term> {
        if index + 1 == self.first {
            return Some(self.prev_term);
        }
        let nth = usize::try_from(index.checked_sub(self.first)?).unwrap();
        self.entries.get(nth).map(|entry| entry.0)
    }

    pub fn token_at(&self, index: u64) -> Option<u64> {
        let nth = usize::try_from(index.checked_sub(self.first)?).unwrap();
        self.entries.get(nth).map(|entry| entry.1)
    }

    fn replay(&mut self, op: &Op) {
        match op {
            Op::Append { batch, tokens } => {
                assert_eq!(batch.first.0, self.last() + 1, "no hole, no overwrite");
                assert_eq!(Some(batch.prev_term), self.term_at(self.last()));
                assert!(batch.term <= self.hard.term, "the term's hard state is staged first");
                assert!(batch.term >= batch.prev_term);
                self.entries.extend(tokens.iter().map(|token| (batch.term, *token)));
            },
            Op::Record(Record::HardState(hard)) => {
                assert!(hard.term >= self.hard.term && hard.commit >= self.hard.commit);
                assert!(hard.term > self.hard.term || hard.vote == self.hard.vote);
                self.hard = *hard;
            },
            Op::Record(Record::Truncate { .. } | Record::Install { .. }) => {
                unreachable!("a sole voter neither truncates nor installs")
            },
            Op::Record(Record::Compact { first, prev_term }) => {
                assert_eq!(self.term_at(first.0 - 1), Some(*prev_term));
                let cut = usize::try_from(first.0 - self.first).unwrap();
                self.entries.drain(..cut);
                self.first = first.0;
                self.prev_term = *prev_term;
            },
        }
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Append { batch: NewBatch<'static>, tokens: Vec<u64> },
    Record(Record),
}

#[derive(Debug, Default)]
pub struct FakeStream {
    /// The open frame.
    pub lsn: u64,
    pub durable: u64,
    pub staged: VecDeque<(u64, ShardId, Op)>,
    pub refuse: Option<Refused>,
}

/// The streams of a core.
#[derive(Debug, Default)]
pub struct FakeLog {
    pub streams: BTreeMap<StreamNo, FakeStream>,
    /// As staged.
    pub memory: BTreeMap<ShardId, Image>,
    /// As durable.
    pub disk: BTreeMap<ShardId, Image>,
    /// Proposals accepted by `propose`, not yet in a batch: (token, entries).
    pub queued: BTreeMap<Slot, VecDeque<(u64, u32)>>,
    /// Every operation in order, for tests that look.
    pub history: Vec<(ShardId, Op)>,
}

impl FakeLog {
    pub fn stream(&mut self, no: StreamNo) -> &mut FakeStream {
        self.streams.entry(no).or_insert_with(|| FakeStream { lsn: 1, ..FakeStream::default() })
    }

    fn take(&mut self, at: Place, op: Op) -> Result<Lsn, Refused> {
        let stream = self.stream(at.stream);
        if let Some(why) = stream.refuse {
            return Err(why);
        }
        let lsn = stream.lsn;
        stream.staged.push_back((lsn, at.shard, op.clone()));
        self.memory.entry(at.shard).or_default().replay(&op);
        self.history.push((at.shard, op));
        Ok(Lsn(lsn))
    }

    /// Closes the open frame.
    pub fn seal(&mut self, no: StreamNo) {
        self.stream(no).lsn += 1;
    }

    /// Makes every frame up to `lsn` durable; seals if it has to.
    pub fn sync(&mut self, no: StreamNo, lsn: u64) -> Lsn {
        let stream = self.streams.get_mut(&no).unwrap();
        stream.lsn = stream.lsn.max(lsn + 1);
        stream.durable = stream.durable.max(lsn);
        while stream.staged.front().is_some_and(|(at, _, _)| *at <= lsn) {
            let (_, shard, op) = stream.staged.pop_front().unwrap();
            self.disk.entry(shard).or_default().replay(&op);
        }
        Lsn(stream.durable)
    }

    /// Loses what is not durable. LSNs are never used again.
    pub fn crash(&mut self) {
        for stream in self.streams.values_mut() {
            stream.staged.clear();
            stream.lsn += 1_024;
            stream.durable = stream.lsn - 1;
            stream.refuse = None;
        }
        self.memory = self.disk.clone();
        self.queued.clear();
    }
}

impl Log for FakeLog {
    fn accept(&mut self, _at: Place, _batch: &Batch<'_>) -> Result<Lsn, Refused> {
        unreachable!("a sole voter follows nobody")
    }

    fn cached(&self, _at: Place, _from: LogIndex, _bytes_max: u32) -> Option<(LogIndex, u32)> {
        unreachable!("a sole voter sends to nobody")
    }

    fn bytes(&self, _at: Place, _from: LogIndex, _to: LogIndex) -> u64 {
        unreachable!("a sole voter sends to nobody")
    }

    fn append(&mut self, batch: NewBatch<'_>) -> Result<Lsn, Refused> {
        if let Some(why) = self.stream(batch.at.stream).refuse {
            return Err(why);
        }
        let mut tokens = Vec::new();
        if batch.proposals == 0 {
            tokens.push(0);
        }
        let queue = self.queued.entry(batch.at.slot).or_default();
        for _ in 0..batch.proposals {
            let (token, count) = queue.pop_front().expect("raft queues in the order of propose");
            tokens.extend((0..count).map(|_| token));
        }
        assert_eq!(tokens.len(), batch.count as usize);
        let batch = NewBatch { payload: &[], ..batch };
        self.take(batch.at, Op::Append { batch, tokens })
    }

    fn stage(&mut self, at: Place, record: Record) -> Result<Lsn, Refused> {
        self.take(at, Op::Record(record))
    }

    fn term_at(&self, at: Place, index: LogIndex) -> Option<Term> {
        self.memory.get(&at.shard)?.term_at(index.0)
    }
}

/// What the state machine made durable: index and term.
pub type Manifest = (u64, Term);

/// A node: raft, log, and the entries it applied.
#[derive(Debug)]
pub struct Node {
    pub core: RaftCore,
    pub log: FakeLog,
    pub out: Outbox,
    pub now: u64,
    pub manifests: BTreeMap<ShardId, Manifest>,
    /// Every entry ever applied: the oracle. A second life must apply the same.
    pub applied: BTreeMap<(ShardId, u64), u64>,
    pub next_token: u64,
    pub rejected: Vec<Rejected>,
}

impl Node {
    pub fn new(config: CoreConfig) -> Self {
        Self {
            core: RaftCore::new(config, 7),
            log: FakeLog::default(),
            out: Outbox::default(),
            now: 0,
            manifests: BTreeMap::new(),
            applied: BTreeMap::new(),
            next_token: 1,
            rejected: Vec::new(),
        }
    }

    pub fn open(&mut self, shard: u64, stream: u16) -> Result<Slot, OpenError> {
        self.open_with(shard, stream, Damage::Normal)
    }

    pub fn open_with(
        &mut self,
        shard: u64,
        stream: u16,
        damage: Damage,
    ) -> Result<Slot, OpenError> {
        let conf = Configuration::sole_voter(NodeId(1), ReplicaId(1)).encode().unwrap();
        let shard = ShardId(shard);
        let image = self.log.memory.get(&shard).cloned().unwrap_or_default();
        let (applied, applied_term) = self.manifests.get(&shard).copied().unwrap_or_default();
        let last = image.last();
        let recovered = Recovered {
            shard,
            replica: ReplicaId(1),
            stream: StreamNo(stream),
            hard_state: image.hard,
            first: LogIndex(image.first),
            prev_term: image.prev_term,
            last: LogIndex(last),
            last_term: image.term_at(last).unwrap(),
            applied: LogIndex(applied),
            applied_term,
            conf: &conf,
            confs: &[],
            damage,
        };
        self.core.open(recovered, &mut self.log)
    }

    /// Everything up to now is on the disk, and raft knows.
    pub fn sync(&mut self, stream: u16) {
        let lsn = self.log.stream(StreamNo(stream)).lsn;
        self.sync_to(stream, lsn);
    }

    pub fn sync_to(&mut self, stream: u16, lsn: u64) {
        let durable = self.log.sync(StreamNo(stream), lsn);
        self.core.handle_durable(StreamNo(stream), durable, &mut self.out);
    }

    pub fn begin(&mut self) {
        self.now += 1_000_000;
        self.core.begin_pass(BootTime(self.now), &mut self.out);
    }

    pub fn propose(&mut self, slot: Slot, count: u32, bytes: u32) -> Result<u64, ProposeError> {
        let token = self.next_token;
        self.core.propose(slot, Proposal { count, bytes, token })?;
        self.next_token += 1;
        self.log.queued.entry(slot).or_default().push_back((token, count));
        Ok(token)
    }

    pub fn flush(&mut self) {
        self.core.flush_pass(BootTime(self.now), &mut self.log, &mut self.out);
        self.settle();
        assert_eq!(self.core.check(), Ok(()));
    }

    /// Takes rejected proposals out of the queues.
    pub fn settle(&mut self) {
        for rejected in self.out.rejected.drain(..) {
            let queue = self.log.queued.get_mut(&rejected.slot).unwrap();
            let (token, _) = queue.pop_front().expect("it was queued");
            assert_eq!(token, rejected.token, "rejected in the order of propose");
            self.rejected.push(rejected);
        }
    }

    /// Applies what was handed out: contiguous, durable, and as in every earlier life.
    pub fn apply(&mut self) {
        let ranges: Vec<_> = self.out.apply.drain(..).collect();
        for range in ranges {
            let Apply::Range { slot, from, to } = range else { unreachable!() };
            let view = self.core.view(slot);
            assert_eq!(from, view.applied.next(), "no gap, no index twice");
            assert!(to <= view.commit && to <= view.durable);
            let shard = view.shard;
            let disk = &self.log.disk[&shard];
            for index in from.0..=to.0 {
                let token = disk.token_at(index).expect("only durable entries are applied");
                let before = self.applied.insert((shard, index), token);
                assert!(before.is_none_or(|before| before == token), "another life applied other");
            }
            self.core.handle_applied(slot, to);
        }
    }

    /// Opens a shard and lets it lead: its no-op is durable and applied.
    pub fn lead(&mut self, shard: u64, stream: u16) -> Slot {
        let slot = self.open(shard, stream).unwrap();
        self.turn(stream);
        self.turn(stream);
        self.turn(stream);
        self.out.clear();
        assert_eq!(self.core.view(slot).role, bowline_raft::Role::Leader);
        slot
    }

    /// A pass that ends with everything durable.
    pub fn turn(&mut self, stream: u16) {
        self.begin();
        self.flush();
        self.apply();
        self.sync(stream);
    }
}
