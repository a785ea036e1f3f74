//! Random lives of a node against a simple oracle: what was applied once is applied again in every
//! later life, at the same index; what was accepted is there once its write is durable.

use std::collections::BTreeMap;

use bowline_raft::{
    Admin, BootTime, CoreConfig, LogIndex, ProposeError, RaftCore, ReadMode, Refused, Role,
    ShardId, Slot, StreamNo, Term,
};

use crate::fake::Node;

const SHARDS: u64 = 5;
const CONFIG: CoreConfig = CoreConfig {
    uncommitted_bytes_max: 2_000,
    pass_bytes_max: 300,
    batch_bytes_max: 1_000,
    reads_max: 20,
    commit_every: 4,
    ..CoreConfig::DEFAULT
};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

struct Lives {
    node: Node,
    random: Random,
    slots: BTreeMap<u64, Slot>,
    /// Highest term seen in each shard.
    terms: BTreeMap<u64, Term>,
    reads: BTreeMap<u64, (Slot, LogIndex)>,
    life: u64,
}

impl Lives {
    fn new(seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let node = Node::new(CONFIG);
        let mut lives = Self {
            node,
            random,
            slots: BTreeMap::new(),
            terms: BTreeMap::new(),
            reads: BTreeMap::new(),
            life: 0,
        };
        (0..SHARDS).for_each(|shard| lives.open(shard));
        lives
    }

    fn stream(shard: u64) -> u16 {
        u16::from(shard % 2 == 1)
    }

    fn open(&mut self, shard: u64) {
        let slot = self.node.open(shard, Self::stream(shard)).unwrap();
        let before = self.slots.insert(shard, slot);
        assert_eq!(before, None);
        self.watch_term(shard, slot);
    }

    fn watch_term(&mut self, shard: u64, slot: Slot) {
        let view = self.node.core.view(slot);
        let term = self.terms.entry(shard).or_default();
        assert!(view.term >= *term || view.role == Role::Follower, "a term never falls (I2)");
        if view.role == Role::Leader {
            let disk = self.node.log.disk[&ShardId(shard)].hard;
            assert!(disk.term >= view.term, "a leader's vote is durable (I5)");
            *term = view.term;
        }
    }

    fn crash(&mut self) {
        self.node.log.crash();
        self.life += 1;
        self.node.core = RaftCore::new(CONFIG, self.life);
        self.node.out.clear();
        self.slots.clear();
        self.reads.clear();
        (0..SHARDS).for_each(|shard| self.open(shard));
    }

    fn step(&mut self) {
        let shard = self.random.below(SHARDS);
        let slot = self.slots[&shard];
        let stream = StreamNo(Self::stream(shard));
        match self.random.below(100) {
            0..30 => self.propose(slot),
            30..40 => self.read(slot),
            40..60 => self.pass(),
            60..68 => self.node.log.seal(stream),
            68..82 => self.sync_some(stream),
            82..90 => self.node.apply(),
            90..93 => self.compact(shard, slot),
            93..95 => {
                let full = self.node.log.stream(stream).refuse == Some(Refused::NoRoom);
                self.node.log.stream(stream).refuse = (!full).then_some(Refused::NoRoom);
            },
            95..97 => self.reopen(shard, slot),
            97 => self.fail(stream),
            _ => self.crash(),
        }
    }

    fn propose(&mut self, slot: Slot) {
        let count = u32::try_from(1 + self.random.below(4)).unwrap();
        let bytes = count * 8 + u32::try_from(self.random.below(12)).unwrap() * 16;
        let leads = self.node.core.view(slot).role == Role::Leader;
        let used = self.node.core.view(slot).uncommitted_bytes;
        match self.node.propose(slot, count, bytes) {
            Ok(_) => assert!(leads && (used == 0 || used + bytes <= 2_000)),
            Err(ProposeError::NoLeader | ProposeError::StreamFailed) => assert!(!leads),
            Err(ProposeError::Busy(_)) => assert!(leads && used > 0 && used + bytes > 2_000),
            Err(other) => unreachable!("{other}"),
        }
    }

    fn read(&mut self, slot: Slot) {
        let token = self.node.next_token;
        self.node.next_token += 1;
        let commit = self.node.core.view(slot).commit;
        if let Some(index) = self.node.core.read_now(slot, ReadMode::ReadIndex, || BootTime(0)) {
            assert!(index == commit && self.node.core.view(slot).applied >= index);
        }
        if self.node.core.read(slot, ReadMode::ReadIndex, token).is_ok() {
            self.reads.insert(token, (slot, commit));
        }
    }

    fn pass(&mut self) {
        self.node.begin();
        if self.node.core.next_deadline().is_some_and(|due| due <= BootTime(self.node.now)) {
            let node = &mut self.node;
            node.core.handle_timer(2, &mut node.log, &mut node.out);
        }
        self.node.flush();
        for ready in self.node.out.reads.drain(..) {
            let (slot, commit) = self.reads.remove(&ready.token).unwrap();
            assert_eq!(slot, ready.slot);
            assert!(ready.index >= commit, "a read sees what was committed when it came");
            assert!(self.node.core.view(slot).applied >= ready.index);
        }
        for rejected in self.node.out.reads_rejected.drain(..) {
            assert!(self.reads.remove(&rejected.token).is_some());
        }
        for accepted in self.node.out.accepted.drain(..) {
            let shard = self.node.core.view(accepted.slot).shard;
            let image = &self.node.log.memory[&shard];
            assert_eq!(image.token_at(accepted.first.0), Some(accepted.token));
            assert_eq!(image.term_at(accepted.first.0), Some(accepted.term));
        }
        self.node.out.role.clear();
        self.node.out.event.clear();
        for shard in 0..SHARDS {
            if let Some(slot) = self.slots.get(&shard) {
                self.watch_term(shard, *slot);
            }
        }
    }

    fn sync_some(&mut self, stream: StreamNo) {
        let state = self.node.log.stream(stream);
        let (durable, open) = (state.durable, state.lsn);
        let lsn = durable + self.random.below(open - durable + 1);
        self.node.sync_to(stream.0, lsn);
    }

    fn compact(&mut self, shard: u64, slot: Slot) {
        let applied = self.node.core.view(slot).applied;
        let Some(term) = self.node.log.disk.get(&ShardId(shard)).and_then(|i| i.term_at(applied.0))
        else {
            return;
        };
        self.node.manifests.insert(ShardId(shard), (applied.0, term));
        let upto = LogIndex(self.random.below(applied.0 + 1));
        self.node.core.admin(slot, Admin::Compact { upto }).unwrap();
    }

    /// Closes a shard and opens it again, with everything durable as after a clean stop.
    fn reopen(&mut self, shard: u64, slot: Slot) {
        self.node.apply();
        self.node.core.admin(slot, Admin::Close).unwrap();
        self.pass();
        let stream = StreamNo(Self::stream(shard));
        let lsn = self.node.log.stream(stream).lsn;
        self.node.sync_to(stream.0, lsn);
        self.slots.remove(&shard);
        self.open(shard);
    }

    fn fail(&mut self, stream: StreamNo) {
        self.node.core.handle_stream_failed(stream, &mut self.node.out);
        self.node.settle();
        for (shard, slot) in &self.slots {
            if StreamNo(Self::stream(*shard)) == stream {
                assert_eq!(self.node.core.view(*slot).role, Role::Follower);
            }
        }
        (0..5).for_each(|_| self.pass());
        self.crash();
    }

    /// Lets everything come to rest; then every shard leads and has applied its whole log.
    fn rest(&mut self) {
        self.crash();
        for _ in 0..12 {
            self.pass();
            self.node.apply();
            (0..2).for_each(|stream| self.node.sync(stream));
            self.node.now += 20_000_000;
        }
        for slot in self.slots.values() {
            let view = self.node.core.view(*slot);
            assert_eq!(view.role, Role::Leader);
            assert_eq!((view.applied, view.commit), (view.last, view.last));
            assert_eq!(view.uncommitted_bytes, 0);
        }
        assert!(!self.node.core.has_work());
    }
}

#[test]
fn random_lives_lose_nothing_applied_and_invent_nothing() {
    let mut applied = 0;
    for seed in 1..=60 {
        let mut lives = Lives::new(seed);
        (0..2_000).for_each(|_| lives.step());
        lives.rest();
        applied += lives.node.applied.len();
    }
    assert!(applied > 10_000, "the lives did something: {applied}");
}
