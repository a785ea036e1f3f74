//! What does it cost to order entries, without disk and network?
//!
//! One iteration is one pass of a core whose shards are sole voters: every shard takes `batch`
//! proposals of one 24-byte entry each, they become one batch a shard, are durable, commit and are
//! handed out to apply. Throughput is entries.

use bowline_raft::{
    Apply, Batch, BootTime, Configuration, CoreConfig, Damage, HardState, Log, LogIndex, Lsn,
    NewBatch, NodeId, Outbox, Place, Proposal, RaftCore, Record, Recovered, Refused, ReplicaId,
    ShardId, Slot, StreamNo, Term,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Numbers writes and keeps nothing.
#[derive(Debug)]
struct Numbers(u64);

impl Log for Numbers {
    fn append(&mut self, _batch: NewBatch<'_>) -> Result<Lsn, Refused> {
        Ok(Lsn(self.0))
    }

    fn accept(&mut self, _at: Place, _batch: &Batch<'_>) -> Result<Lsn, Refused> {
        Ok(Lsn(self.0))
    }

    fn cached(&self, _at: Place, from: LogIndex, _bytes_max: u32) -> Option<(LogIndex, u32)> {
        Some((from, 1))
    }

    fn bytes(&self, _at: Place, from: LogIndex, to: LogIndex) -> u64 {
        to.0 + 1 - from.0
    }

    fn stage(&mut self, _at: Place, _record: Record) -> Result<Lsn, Refused> {
        Ok(Lsn(self.0))
    }

    fn term_at(&self, _at: Place, _index: LogIndex) -> Option<Term> {
        None
    }
}

struct Core {
    raft: RaftCore,
    log: Numbers,
    out: Outbox,
    slots: Vec<Slot>,
}

impl Core {
    fn new(shards: u64) -> Self {
        let mut core = Self {
            raft: RaftCore::new(CoreConfig::default(), 1),
            log: Numbers(1),
            out: Outbox::default(),
            slots: Vec::new(),
        };
        let conf = Configuration::sole_voter(NodeId(1), ReplicaId(1)).encode().expect("valid");
        for shard in 0..shards {
            let recovered = Recovered {
                shard: ShardId(shard),
                replica: ReplicaId(1),
                stream: StreamNo(0),
                hard_state: HardState::default(),
                first: LogIndex(1),
                prev_term: Term(0),
                last: LogIndex(0),
                last_term: Term(0),
                applied: LogIndex(0),
                applied_term: Term(0),
                conf: &conf,
                confs: &[],
                damage: Damage::Normal,
            };
            core.slots.push(core.raft.open(recovered, &mut core.log).expect("it fits"));
        }
        for _ in 0..3 {
            core.pass(0);
        }
        core
    }

    fn pass(&mut self, batch: u64) -> usize {
        self.raft.begin_pass(BootTime(0), &mut self.out);
        for slot in &self.slots {
            for token in 0..batch {
                let proposal = Proposal { count: 1, bytes: 24, token };
                self.raft.propose(*slot, proposal).expect("within its budget");
            }
        }
        self.raft.flush_pass(BootTime(0), &mut self.log, &mut self.out);
        self.log.0 += 1;
        self.raft.handle_durable(StreamNo(0), Lsn(self.log.0 - 1), &mut self.out);
        self.raft.flush_pass(BootTime(0), &mut self.log, &mut self.out);
        let applied = self.out.apply.len();
        for nth in 0..applied {
            if let Apply::Range { slot, to, .. } = self.out.apply[nth] {
                self.raft.handle_applied(slot, to);
            }
        }
        self.out.clear();
        applied
    }
}

fn raft_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("raft_step");
    for shards in [1_u16, 16, 1_000, 10_000] {
        for batch in [1_u16, 16, 64] {
            let mut core = Core::new(u64::from(shards));
            group.throughput(Throughput::Elements(u64::from(shards) * u64::from(batch)));
            let id = BenchmarkId::new(format!("{shards}_shards"), format!("{batch}_entries"));
            group.bench_function(id, |b| {
                b.iter(|| {
                    let applied = core.pass(u64::from(batch));
                    assert_eq!(applied, usize::from(shards), "every shard commits its batch");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, raft_step);
criterion_main!(benches);
