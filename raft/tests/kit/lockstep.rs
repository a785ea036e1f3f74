//! A few nodes in lock step over a small log in memory: what was sent before is delivered, what was
//! written before is durable.

use std::collections::{BTreeMap, VecDeque};

use bowline_raft::{
    Admin, Apply, Batch, BatchHeader, BootTime, Configuration, CoreConfig, Damage, HardState, Log,
    LogIndex, Lsn, Member, Message, NewBatch, NodeId, Origin, Outbox, Part, Phase, Place, Proposal,
    RaftCore, Received, Record, Recovered, Refused, ReplicaId, Role, ShardId, Slot, StreamNo, Term,
    Verdict, batch,
};

pub const SHARD: ShardId = ShardId(7);
pub const STREAM: StreamNo = StreamNo(0);
pub const MILLI: u64 = 1_000_000;

#[derive(Clone, Debug, Default)]
pub struct Image {
    pub hard: HardState,
    pub floor: LogIndex,
    pub floor_term: Term,
    pub batches: Vec<(BatchHeader, Vec<u8>)>,
}

impl Image {
    fn last(&self) -> LogIndex {
        self.batches.last().map_or(self.floor, |batch| batch.0.last())
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.floor {
            return Some(self.floor_term);
        }
        let holds = |head: &BatchHeader| head.first <= index && index <= head.last();
        (index > self.floor)
            .then(|| self.batches.iter().find(|batch| holds(&batch.0)).map(|batch| batch.0.term))
            .flatten()
    }

    fn put(&mut self, head: BatchHeader, body: Vec<u8>) {
        assert!(head.first <= self.last().next(), "no hole");
        assert!(head.term <= self.hard.term, "the term is staged first");
        self.batches.retain(|batch| batch.0.first < head.first);
        self.batches.push((head, body));
    }

    fn record(&mut self, record: Record) {
        match record {
            Record::HardState(hard) => {
                assert!(hard.term >= self.hard.term);
                assert!(
                    hard.term > self.hard.term
                        || self.hard.vote.0 == 0
                        || hard.vote == self.hard.vote
                );
                self.hard = hard;
            },
            Record::Compact { first, prev_term } => {
                self.floor = first.prev();
                self.floor_term = prev_term;
                self.batches.retain(|batch| batch.0.last() >= first);
            },
            Record::Install { index, term, keep, hard_state } => {
                self.hard = hard_state;
                self.floor = index;
                self.floor_term = term;
                self.batches.retain(|batch| keep && batch.0.last() > index);
            },
            Record::Truncate { .. } => unreachable!(),
        }
    }
}

#[derive(Debug, Default)]
pub struct MemLog {
    pub lsn: u64,
    pub memory: Image,
    pub disk: Image,
}

impl MemLog {
    fn sync(&mut self) -> Lsn {
        self.disk = self.memory.clone();
        self.lsn += 1;
        Lsn(self.lsn - 1)
    }
}

fn encode(head: BatchHeader, payloads: &[Vec<u8>]) -> (BatchHeader, Vec<u8>) {
    let mut body = vec![0; batch::body_len(payloads.iter().map(Vec::len))];
    let mut writer = batch::BodyWriter::new(&mut body, payloads.len());
    for payload in payloads {
        writer.entry(payload.len(), |out| out.copy_from_slice(payload));
    }
    writer.finish();
    let mut head = BatchHeader { len: u32::try_from(body.len()).unwrap(), ..head };
    head.crc = head.checksum(&body);
    (head, body)
}

impl Log for MemLog {
    fn append(&mut self, new: NewBatch<'_>) -> Result<Lsn, Refused> {
        let payloads: Vec<Vec<u8>> = if new.proposals == 0 {
            vec![new.payload.to_vec()]
        } else {
            (0..new.count).map(|_| b"command".to_vec()).collect()
        };
        let head = BatchHeader {
            shard: new.at.shard,
            first: new.first,
            term: new.term,
            count: new.count,
            flags: new.flags,
            ..BatchHeader::default()
        };
        let (head, body) = encode(head, &payloads);
        self.memory.put(head, body);
        Ok(Lsn(self.lsn))
    }

    fn accept(&mut self, _at: Place, batch: &Batch<'_>) -> Result<Lsn, Refused> {
        if !batch.head.matches(batch.body) {
            return Err(Refused::BadChecksum);
        }
        self.memory.put(batch.head, batch.body.to_vec());
        Ok(Lsn(self.lsn))
    }

    fn stage(&mut self, _at: Place, record: Record) -> Result<Lsn, Refused> {
        self.memory.record(record);
        Ok(Lsn(self.lsn))
    }

    fn term_at(&self, _at: Place, index: LogIndex) -> Option<Term> {
        self.memory.term_at(index)
    }

    fn cached(&self, _at: Place, from: LogIndex, bytes_max: u32) -> Option<(LogIndex, u32)> {
        let (mut last, mut bytes) = (None, 0);
        for (head, _) in self.memory.batches.iter().filter(|batch| batch.0.last() >= from) {
            if last.is_some() && bytes + head.len > bytes_max {
                break;
            }
            bytes += head.len;
            last = Some(head.last());
        }
        last.map(|last| (last, bytes))
    }

    fn bytes(&self, _at: Place, from: LogIndex, to: LogIndex) -> u64 {
        (to.0 + 1 - from.0) * 32
    }
}

#[derive(Debug)]
pub struct Node {
    pub core: RaftCore,
    pub log: MemLog,
    pub out: Outbox,
    pub slot: Slot,
    pub applied: LogIndex,
    pub applied_terms: BTreeMap<LogIndex, Term>,
    pub reads: Vec<(u64, LogIndex)>,
    pub accepted: Vec<LogIndex>,
}

pub type Packet = (u64, u64, Message, Vec<(BatchHeader, Vec<u8>)>);

#[derive(Debug)]
pub struct World {
    pub now: u64,
    pub nodes: BTreeMap<u64, Node>,
    pub queue: VecDeque<Packet>,
    pub cut: Vec<(u64, u64)>,
    pub founding: Configuration,
    pub config: CoreConfig,
    pub applied: BTreeMap<LogIndex, Term>,
}

fn founding(nodes: u64) -> Configuration {
    let members = (1..=nodes)
        .map(|id| Member {
            node: NodeId(id),
            replica: ReplicaId(id),
            before: Part::Voter,
            after: Part::Voter,
            priority: 0,
            auto_promote: false,
        })
        .collect();
    Configuration {
        phase: Phase::Stable,
        auto_leave: false,
        epoch: 1,
        next_replica: ReplicaId(nodes + 1),
        generation: 0,
        members,
        note: Vec::new(),
    }
}

impl World {
    pub fn new(nodes: u64) -> Self {
        let mut world = Self {
            now: MILLI,
            nodes: BTreeMap::new(),
            queue: VecDeque::new(),
            cut: Vec::new(),
            founding: founding(nodes),
            config: CoreConfig::DEFAULT,
            applied: BTreeMap::new(),
        };
        (1..=nodes).for_each(|id| world.start(id, id, MemLog { lsn: 1, ..MemLog::default() }));
        world
    }

    pub fn start(&mut self, id: u64, replica: u64, mut log: MemLog) {
        log.memory = log.disk.clone();
        log.lsn += 100;
        let mut core = RaftCore::new(self.config, id + self.now);
        let image = &log.memory;
        let conf = self.founding.encode().unwrap();
        let confs: Vec<_> = image
            .batches
            .iter()
            .filter(|batch| batch.0.flags & batch::FLAG_CONF != 0)
            .map(|(head, body)| {
                let body = batch::Body::parse(head, body).unwrap();
                (head.first, body.payload(0))
            })
            .collect();
        let recovered = Recovered {
            shard: SHARD,
            replica: ReplicaId(replica),
            stream: STREAM,
            hard_state: image.hard,
            first: image.floor.next(),
            prev_term: image.floor_term,
            last: image.last(),
            last_term: image.term_at(image.last()).unwrap(),
            applied: image.floor,
            applied_term: image.floor_term,
            conf: &conf,
            confs: &confs,
            damage: Damage::Normal,
        };
        core.begin_pass(BootTime(self.now), &mut Outbox::default());
        let mut scratch = MemLog { lsn: log.lsn, memory: image.clone(), disk: image.clone() };
        let slot = core.open(recovered, &mut scratch).unwrap();
        let applied = image.floor;
        let node = Node {
            core,
            log: scratch,
            out: Outbox::default(),
            slot,
            applied,
            applied_terms: BTreeMap::new(),
            reads: Vec::new(),
            accepted: Vec::new(),
        };
        self.nodes.insert(id, node);
    }

    pub fn restart(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        let replica = node.core.view(node.slot).replica.0;
        self.queue.retain(|packet| packet.0 != id && packet.1 != id);
        self.start(id, replica, node.log);
    }

    /// One pass of every node, with everything sent before delivered and written before durable.
    pub fn step(&mut self, millis: u64) {
        self.now += millis * MILLI;
        let packets: Vec<_> = self.queue.drain(..).collect();
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).unwrap();
            node.core.begin_pass(BootTime(self.now), &mut node.out);
            let lsn = node.log.sync();
            node.core.handle_durable(STREAM, lsn, &mut node.out);
            for (from, to, message, batches) in &packets {
                if *to != id || self.cut.contains(&(*from, *to)) {
                    continue;
                }
                let batches: Vec<_> =
                    batches.iter().map(|(head, body)| Batch { head: *head, body }).collect();
                let origin = Origin { node: NodeId(*from), lane: None, life: 0 };
                let m = Received { message, batches: &batches };
                let verdict = node.core.handle_message(origin, m, &mut node.log, &mut node.out);
                assert_ne!(verdict, Verdict::NoRoom);
            }
            node.core.handle_timer(1_024, &mut node.log, &mut node.out);
            self.flush(id);
        }
    }

    pub fn flush(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.core.flush_pass(BootTime(self.now), &mut node.log, &mut node.out);
        assert_eq!(node.core.check(), Ok(()));
        for send in node.out.send.drain(..) {
            let batches = send.entries.map_or_else(Vec::new, |entries| {
                let inside =
                    |head: &BatchHeader| head.last() >= entries.from && head.first <= entries.to;
                node.log.memory.batches.iter().filter(|b| inside(&b.0)).cloned().collect()
            });
            self.queue.push_back((id, send.node.0, send.message, batches));
        }
        for apply in node.out.apply.drain(..) {
            match apply {
                Apply::Range { slot, from, to } => {
                    assert_eq!(from, node.applied.next(), "each index once, no gap");
                    for index in from.0..=to.0 {
                        let term = node.log.memory.term_at(LogIndex(index)).unwrap();
                        let before = self.applied.insert(LogIndex(index), term);
                        assert!(before.is_none_or(|before| before == term), "state machine safety");
                        node.applied_terms.insert(LogIndex(index), term);
                    }
                    node.applied = to;
                    node.core.handle_applied(slot, to);
                },
                Apply::Install { slot, index } => {
                    node.applied = index;
                    node.core.handle_applied(slot, index);
                },
                _ => unreachable!(),
            }
        }
        node.reads.extend(node.out.reads.drain(..).map(|read| (read.token, read.index)));
        node.accepted.extend(node.out.accepted.drain(..).map(|accepted| accepted.first));
        node.out.clear();
    }

    pub fn run(&mut self, millis: u64) {
        (0..millis.div_ceil(5)).for_each(|_| self.step(5));
    }

    pub fn leaders(&self) -> Vec<u64> {
        let leads = |node: &&Node| node.core.view(node.slot).role == Role::Leader;
        self.nodes.iter().filter(|(_, node)| leads(node)).map(|(id, _)| *id).collect()
    }

    pub fn leader(&self) -> u64 {
        let leaders = self.leaders();
        assert_eq!(leaders.len(), 1, "one leader");
        leaders[0]
    }

    pub fn propose(&mut self, id: u64, count: u32) -> bool {
        let node = self.nodes.get_mut(&id).unwrap();
        let proposal = Proposal { count, bytes: 24 * count, token: 0 };
        node.core.propose(node.slot, proposal).is_ok()
    }

    pub fn commit(&self, id: u64) -> u64 {
        let node = &self.nodes[&id];
        node.core.view(node.slot).commit.0
    }

    pub fn admin(&mut self, id: u64, verb: Admin<'_>) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.core.admin(node.slot, verb).unwrap();
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.nodes.keys().filter(|other| **other != id) {
            self.cut.push((id, *other));
            self.cut.push((*other, id));
        }
    }
}
