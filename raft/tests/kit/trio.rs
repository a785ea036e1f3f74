//! Three cores in one thread whose messages are handed over at once: what ordering alone costs.
//! The logs keep numbers only, so that nothing but raft is measured.

use bowline_raft::{
    Apply, Batch, BatchHeader, BootTime, Configuration, CoreConfig, Liveness, Log, LogIndex, Lsn,
    Member, NewBatch, NodeId, Origin, Outbox, Part, Phase, Place, Proposal, RaftCore, Received,
    Record, Recovered, Refused, ReplicaId, Role, ShardId, Slot, StreamNo, Term, Times,
    batch::body_len,
};

/// Bytes of a command.
const PAYLOAD: usize = 16;
const STREAM: StreamNo = StreamNo(0);
const STEP: u64 = 1_000;

/// Numbers writes and remembers the tail.
#[derive(Debug, Default)]
struct Numbers {
    lsn: u64,
    /// By slot: last index and its term.
    tails: Vec<(LogIndex, Term)>,
}

impl Numbers {
    fn tail(&mut self, at: Place, last: LogIndex, term: Term) -> Lsn {
        let place = at.slot.0 as usize;
        if self.tails.len() <= place {
            self.tails.resize(place + 1, (LogIndex(0), Term(0)));
        }
        self.tails[place] = (last, term);
        Lsn(self.lsn)
    }
}

impl Log for Numbers {
    fn append(&mut self, batch: NewBatch<'_>) -> Result<Lsn, Refused> {
        let last = LogIndex(batch.first.0 + u64::from(batch.count) - 1);
        Ok(self.tail(batch.at, last, batch.term))
    }

    fn accept(&mut self, at: Place, batch: &Batch<'_>) -> Result<Lsn, Refused> {
        Ok(self.tail(at, batch.head.last(), batch.head.term))
    }

    fn stage(&mut self, _at: Place, _record: Record) -> Result<Lsn, Refused> {
        Ok(Lsn(self.lsn))
    }

    fn term_at(&self, at: Place, index: LogIndex) -> Option<Term> {
        let tail = self.tails.get(at.slot.0 as usize);
        Some(if index.0 == 0 { Term(0) } else { tail.map_or(Term(0), |tail| tail.1) })
    }

    fn cached(&self, at: Place, _from: LogIndex, _bytes_max: u32) -> Option<(LogIndex, u32)> {
        self.tails.get(at.slot.0 as usize).map(|tail| (tail.0, 64))
    }

    fn bytes(&self, _at: Place, from: LogIndex, to: LogIndex) -> u64 {
        to.0 + 1 - from.0
    }
}

#[derive(Debug)]
struct Node {
    raft: RaftCore,
    log: Numbers,
    out: Outbox,
    applied: u64,
}

/// Three replicas of each of some shards; node 1 leads them all.
#[derive(Debug)]
pub struct Trio {
    nodes: Vec<Node>,
    sent: Outbox,
    slots: Vec<Slot>,
    now: u64,
    body: Vec<u8>,
}

fn founding() -> Configuration {
    let members = (1..=3)
        .map(|id| Member {
            node: NodeId(id),
            replica: ReplicaId(id),
            before: Part::Voter,
            after: Part::Voter,
            priority: u8::try_from(id).expect("small"),
            auto_promote: false,
        })
        .collect();
    Configuration {
        phase: Phase::Stable,
        auto_leave: false,
        epoch: 1,
        next_replica: ReplicaId(4),
        generation: 0,
        members,
        note: Vec::new(),
    }
}

impl Trio {
    /// Opens the shards and lets node 1 lead them all.
    pub fn new(shards: u64) -> Self {
        let config = CoreConfig {
            liveness: Liveness::Shard,
            starts_per_second: 1_000_000_000,
            // Nobody else's turn comes before node 1 has had its own everywhere.
            times: Times { rank: 60_000_000_000, ..Times::DEFAULT },
            ..CoreConfig::DEFAULT
        };
        let nodes = (0..3).map(|seed| Node {
            raft: RaftCore::new(config, seed),
            log: Numbers { lsn: 1, ..Numbers::default() },
            out: Outbox::default(),
            applied: 0,
        });
        let mut trio = Self {
            nodes: nodes.collect(),
            sent: Outbox::default(),
            slots: Vec::new(),
            now: STEP,
            body: vec![0; body_len(core::iter::repeat_n(PAYLOAD, 64))],
        };
        let conf = founding().encode().expect("valid");
        for shard in 0..shards {
            for nth in 0..3 {
                let slot = trio.open(nth, shard, &conf);
                if nth == 0 {
                    trio.slots.push(slot);
                }
            }
        }
        trio
    }

    fn open(&mut self, nth: usize, shard: u64, conf: &[u8]) -> Slot {
        let replica = ReplicaId(nth as u64 + 1);
        let recovered = Recovered::founding(ShardId(shard), replica, STREAM, conf);
        let node = &mut self.nodes[nth];
        node.raft.open(recovered, &mut node.log).expect("it fits")
    }

    /// Lets node 1 be elected everywhere.
    pub fn elect(&mut self) {
        for _ in 0..4_000 {
            self.now += 5_000_000;
            (0..3).for_each(|nth| self.turn(nth, |_| ()));
            let raft = &self.nodes[0].raft;
            if self.slots.iter().all(|slot| raft.view(*slot).role == Role::Leader) {
                (0..6).for_each(|_| (0..3).for_each(|nth| self.turn(nth, |_| ())));
                return;
            }
        }
        unreachable!("node 1 is preferred and its shards are asked for first");
    }

    /// One pass of each node, as under load: the leader takes `batch` commands for every shard
    /// while those of the passes before are written and answered. The entries handed out on the
    /// leader.
    pub fn pass(&mut self, batch: u32) -> u64 {
        self.now += STEP;
        let before = self.nodes[0].applied;
        let slots = core::mem::take(&mut self.slots);
        self.turn(0, |raft| {
            for slot in &slots {
                for token in 0..batch {
                    let proposal = Proposal { count: 1, bytes: 24, token: u64::from(token) };
                    raft.propose(*slot, proposal).expect("within its budget");
                }
            }
        });
        self.slots = slots;
        self.turn(1, |_| ());
        self.turn(2, |_| ());
        self.nodes[0].applied - before
    }

    /// One pass of a node: what it staged before is durable.
    fn turn(&mut self, nth: usize, work: impl FnOnce(&mut RaftCore)) {
        let now = BootTime(self.now);
        let node = &mut self.nodes[nth];
        node.raft.begin_pass(now, &mut node.out);
        node.log.lsn += 1;
        node.raft.handle_durable(STREAM, Lsn(node.log.lsn - 1), &mut node.out);
        node.raft.handle_timer(usize::MAX, &mut node.log, &mut node.out);
        work(&mut node.raft);
        node.raft.flush_pass(now, &mut node.log, &mut node.out);
        self.deliver(nth);
    }

    fn deliver(&mut self, nth: usize) {
        core::mem::swap(&mut self.sent, &mut self.nodes[nth].out);
        let from = Origin { node: NodeId(nth as u64 + 1), lane: None, life: 0 };
        for send in &self.sent.send {
            let to = usize::try_from(send.node.0 - 1).expect("one of three");
            let node = &mut self.nodes[to];
            let mut batches = [Batch { head: BatchHeader::default(), body: &[] }];
            let mut count = 0;
            if let Some(entries) = send.entries {
                let entries_count = u32::try_from(entries.to.0 + 1 - entries.from.0);
                batches[0].head = BatchHeader {
                    shard: send.message.shard,
                    first: entries.from,
                    term: send.message.term,
                    count: entries_count.expect("few"),
                    len: u32::try_from(self.body.len()).expect("small"),
                    ..BatchHeader::default()
                };
                batches[0].body = &self.body;
                count = 1;
            }
            let received = Received { message: &send.message, batches: &batches[..count] };
            let _: bowline_raft::Verdict =
                node.raft.handle_message(from, received, &mut node.log, &mut node.out);
        }
        for apply in &self.sent.apply {
            if let Apply::Range { slot, from, to } = *apply {
                let node = &mut self.nodes[nth];
                node.applied += to.0 + 1 - from.0;
                node.raft.handle_applied(slot, to);
            }
        }
        self.sent.clear();
    }

    /// Gives back what the harness itself keeps for messages.
    pub fn rest(&mut self) {
        self.sent = Outbox::default();
        for node in &mut self.nodes {
            node.out = Outbox::default();
            node.log.tails = Vec::new();
        }
    }

    /// Commits of the leader so far.
    pub fn commits(&self) -> u64 {
        self.nodes[0].raft.counters().commits
    }
}
