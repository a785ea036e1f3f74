//! A steady state allocates nothing, counted by the allocator.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "kit/trio.rs"]
#[expect(unreachable_pub, reason = "shared with the benches")]
mod trio;

use bowline_raft::{
    Apply, Batch, BootTime, Configuration, CoreConfig, Log, LogIndex, Lsn, NewBatch, NodeId,
    Outbox, Place, Proposal, RaftCore, ReadMode, Record, Recovered, Refused, ReplicaId, ShardId,
    Slot, StreamNo, Term,
};

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
        Some(Term(1))
    }
}

fn open(core: &mut RaftCore, log: &mut Numbers, shard: u64) -> Slot {
    let conf = Configuration::sole_voter(NodeId(1), ReplicaId(1)).encode().unwrap();
    let recovered = Recovered::founding(ShardId(shard), ReplicaId(1), StreamNo(0), &conf);
    core.open(recovered, log).unwrap()
}

/// One pass: what was written the pass before is durable, every slot gets proposals and a read.
fn pass(core: &mut RaftCore, log: &mut Numbers, out: &mut Outbox, slots: &[Slot], nth: u64) {
    core.begin_pass(BootTime(nth), out);
    log.0 += 1;
    core.handle_durable(StreamNo(0), Lsn(log.0 - 1), out);
    for slot in slots {
        for token in 0..4 {
            let proposal = Proposal { count: 1, bytes: 24, token };
            if core.propose(*slot, proposal).is_ok() {
                core.read(*slot, ReadMode::ReadIndex, token).unwrap();
            }
        }
        if nth.is_multiple_of(8) {
            let upto = core.view(*slot).applied;
            core.admin(*slot, bowline_raft::Admin::Compact { upto }).unwrap();
        }
    }
    core.flush_pass(BootTime(nth), log, out);
    for nth in 0..out.apply.len() {
        if let Apply::Range { slot, to, .. } = out.apply[nth] {
            core.handle_applied(slot, to);
        }
    }
    out.clear();
}

#[test]
fn no_alloc_in_steady_state() {
    let mut core = RaftCore::new(CoreConfig::default(), 1);
    let (mut log, mut out) = (Numbers(1), Outbox::default());
    let slots: Vec<_> = (0..100).map(|shard| open(&mut core, &mut log, shard)).collect();
    (1..20).for_each(|nth| pass(&mut core, &mut log, &mut out, &slots, nth));
    let counted = allocation_counter::measure(|| {
        (20..1_000).for_each(|nth| pass(&mut core, &mut log, &mut out, &slots, nth));
    });
    assert_eq!(counted.count_total, 0);
    assert!(core.counters().commits > 90_000 && core.counters().reads > 300_000);
}

#[test]
fn three_replicas_allocate_nothing_in_steady_state() {
    let mut trio = trio::Trio::new(100);
    trio.elect();
    (0..50).for_each(|_| assert!(trio.pass(4) <= 400));
    let before = trio.commits();
    let counted = allocation_counter::measure(|| {
        (0..1_000).for_each(|_| assert_eq!(trio.pass(4), 400, "every shard commits its batch"));
    });
    assert_eq!(counted.count_total, 0);
    assert_eq!(trio.commits() - before, 100_000);
}

#[test]
fn an_idle_shard_of_three_costs_at_most_512_bytes_a_replica() {
    let shards = 16_384_u64;
    let mut made = None;
    let counted = allocation_counter::measure(|| {
        let mut trio = trio::Trio::new(shards);
        trio.elect();
        trio.rest();
        made = Some(trio);
    });
    let held = u64::try_from(counted.bytes_current).unwrap();
    assert!(held <= 3 * 512 * shards, "{} bytes a replica", held / shards / 3);
}

#[test]
fn an_idle_shard_costs_at_most_512_bytes() {
    let mut core = RaftCore::new(CoreConfig::default(), 1);
    let (mut log, mut out) = (Numbers(1), Outbox::default());
    let shards = 16_384_u64;
    let counted = allocation_counter::measure(|| {
        for shard in 0..shards {
            open(&mut core, &mut log, shard);
        }
        core.begin_pass(BootTime(1), &mut out);
        for _ in 0..3 {
            log.0 += 1;
            core.handle_durable(StreamNo(0), Lsn(log.0 - 1), &mut out);
            core.flush_pass(BootTime(1), &mut log, &mut out);
        }
        out = Outbox::default();
    });
    assert!(!core.has_work());
    let held = u64::try_from(counted.bytes_current).unwrap();
    assert!(held <= 512 * shards, "{} bytes a shard", held / shards);
}
