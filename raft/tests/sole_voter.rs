//! A sole voter, story by story.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "kit/fake.rs"]
#[expect(unreachable_pub, reason = "the toolbox of several test files")]
mod fake;
#[path = "kit/model.rs"]
mod model;
#[path = "kit/refusals.rs"]
mod refusals;

use bowline_raft::{
    Accepted, Admin, AdminError, Apply, BootTime, Budget, CoreConfig, HardState, LogIndex, Lsn,
    Outbox, ProposeError, RaftCore, ReadError, ReadMode, ReadReady, Reason, Record, Refused,
    ReplicaId, Role, ShardId, StreamNo, Term, batch,
};
use fake::{Node, Op};

fn node() -> Node {
    Node::new(CoreConfig::default())
}

/// Bug: etcd #14370 acknowledged on a lone node before its write was synced.
#[test]
fn rs_16_a_single_voter_commits_only_after_its_sync() {
    let mut node = node();
    let slot = node.lead(1, 0);
    let before = node.core.view(slot).commit;
    node.begin();
    let token = node.propose(slot, 1, 24).unwrap();
    node.flush();
    let accepted = Accepted { slot, token, first: before.next(), term: Term(1) };
    assert_eq!(node.out.accepted, [accepted]);
    for _ in 0..3 {
        node.begin();
        node.flush();
        assert_eq!(node.core.view(slot).commit, before, "nothing is durable yet");
        assert!(node.out.apply.is_empty());
    }
    node.sync(0);
    node.flush();
    let range = Apply::Range { slot, from: before.next(), to: before.next() };
    assert_eq!(node.out.apply, [range]);
}

/// Bug: a term's entries could be durable before the vote of that term.
#[test]
fn term_and_vote_are_staged_and_durable_before_the_no_op() {
    let mut node = node();
    let slot = node.open(1, 0).unwrap();
    let hard = HardState { term: Term(1), vote: ReplicaId(1), commit: LogIndex(0) };
    assert!(matches!(node.log.history[..], [(_, Op::Record(Record::HardState(h)))] if h == hard));
    node.begin();
    node.flush();
    assert_eq!(node.core.view(slot).role, Role::Candidate);
    assert_eq!(node.log.history.len(), 1, "no entry before the vote is durable");
    node.sync(0);
    assert_eq!(node.core.view(slot).role, Role::Leader);
    assert_eq!(node.out.role.last().unwrap().leader, Some(ReplicaId(1)));
    assert_eq!(node.out.event.last().unwrap().reason, Reason::Elected);
    node.flush();
    let Some((_, Op::Append { batch, .. })) = node.log.history.last() else { unreachable!() };
    assert_eq!((batch.flags, batch.count, batch.first), (batch::FLAG_NOOP, 1, LogIndex(1)));
    assert_eq!(node.core.view(slot).commit, LogIndex(0));
}

#[test]
fn a_restart_raises_the_term_and_keeps_what_was_applied() {
    let mut node = node();
    let slot = node.lead(1, 0);
    node.propose(slot, 3, 72).unwrap();
    node.turn(0);
    node.turn(0);
    node.propose(slot, 1, 24).unwrap();
    node.flush();
    for life in 2..5 {
        node.log.crash();
        node.core = RaftCore::new(CoreConfig::default(), life);
        node.out.clear();
        let slot = node.lead(1, 0);
        let view = node.core.view(slot);
        assert_eq!(view.term, Term(life));
        assert_eq!(view.vote, ReplicaId(1));
        assert_eq!(view.last, LogIndex(3 + life), "one no-op a life, the unsynced entry is gone");
        assert_eq!(view.commit, view.last);
    }
}

/// Bug: entries of an older term that count as committed before one of the own term (figure 8).
#[test]
fn entries_of_an_older_term_commit_with_the_no_op() {
    let mut node = node();
    let slot = node.lead(1, 0);
    node.propose(slot, 4, 96).unwrap();
    node.flush();
    node.sync(0);
    node.log.crash();
    node.core = RaftCore::new(CoreConfig::default(), 2);
    node.out.clear();
    let slot = node.open(1, 0).unwrap();
    node.sync(0);
    node.flush();
    let view = node.core.view(slot);
    assert_eq!((view.role, view.durable, view.last), (Role::Leader, LogIndex(5), LogIndex(6)));
    assert_eq!(view.commit, LogIndex(0), "the no-op of term 2 is not durable");
    node.sync(0);
    node.flush();
    assert_eq!(node.core.view(slot).commit, LogIndex(6));
}

#[test]
fn a_late_durable_number_of_an_earlier_write_counts_no_later_entry() {
    let mut node = node();
    let slot = node.lead(1, 0);
    node.propose(slot, 1, 24).unwrap();
    node.flush();
    let first = node.log.stream(StreamNo(0)).lsn;
    node.log.seal(StreamNo(0));
    node.propose(slot, 1, 24).unwrap();
    node.flush();
    node.sync_to(0, first);
    node.core.handle_durable(StreamNo(0), Lsn(first - 1), &mut node.out);
    node.flush();
    assert_eq!(node.core.view(slot).durable, LogIndex(2));
    assert_eq!(node.core.view(slot).commit, LogIndex(2));
    node.sync(0);
    node.flush();
    assert_eq!(node.core.view(slot).commit, LogIndex(3));
}

/// Bug: d-engine applied 500 puts 6,597 times.
#[test]
fn each_index_is_handed_out_once() {
    let mut node = node();
    let slot = node.lead(1, 0);
    for _ in 0..100 {
        node.propose(slot, 2, 48).unwrap();
        node.begin();
        node.flush();
        node.sync(0);
        node.flush();
        node.flush();
        assert!(node.out.apply.len() <= 1);
        node.apply();
    }
    assert_eq!(node.applied.len(), 201);
}

#[test]
fn before_a_leader_is_elected_proposals_and_reads_say_so() {
    let mut node = node();
    let slot = node.open(1, 0).unwrap();
    assert_eq!(node.propose(slot, 1, 24), Err(ProposeError::NoLeader));
    assert_eq!(node.core.read(slot, ReadMode::ReadIndex, 1), Err(ReadError::NoLeader));
    let nobody = bowline_raft::Slot(9);
    assert_eq!(node.propose(nobody, 1, 24), Err(ProposeError::Closed));
    assert!(!node.core.view(nobody).open);
}

#[test]
fn proposals_of_a_pass_become_one_batch() {
    let mut node = node();
    let slot = node.lead(1, 0);
    let appends = node.core.counters().appends;
    let tokens: Vec<_> = (1..=5).map(|n| node.propose(slot, n, 24 * n).unwrap()).collect();
    node.flush();
    assert_eq!(node.core.counters().appends, appends + 1);
    let firsts: Vec<_> = node.out.accepted.iter().map(|a| (a.token, a.first.0)).collect();
    let want: Vec<_> = tokens.into_iter().zip([2, 3, 5, 8, 12]).collect();
    assert_eq!(firsts, want);
    let Some((_, Op::Append { batch, .. })) = node.log.history.last() else { unreachable!() };
    assert_eq!(
        (batch.count, batch.proposals, batch.bytes),
        (15, 5, (24 * 15_u32).next_multiple_of(16))
    );
}

#[test]
fn the_announced_bytes_are_those_of_the_encoded_body() {
    let lens = [0_usize, 1, 16, 17, 100];
    for take in 1..=lens.len() {
        let sum: usize = lens[..take].iter().map(|len| batch::entry_len(*len)).sum();
        assert_eq!(sum.next_multiple_of(16), batch::body_len(lens[..take].iter().copied()));
    }
    let noop = batch::body_len([0].into_iter());
    assert_eq!(noop, usize::try_from(bowline_raft::NOOP_BYTES).unwrap());
}

#[test]
fn a_pass_takes_a_bounded_batch_and_leaves_the_rest_dirty() {
    let mut node = node();
    let slot = node.lead(1, 0);
    for _ in 0..3 {
        node.propose(slot, 1, 65_536).unwrap();
    }
    node.flush();
    assert_eq!(node.out.accepted.len(), 2, "128 KiB");
    assert!(node.core.has_work());
    node.flush();
    assert_eq!(node.out.accepted.len(), 3);
    assert!(!node.core.has_work());
    node.propose(slot, 1, 500_000).unwrap();
    node.flush();
    assert_eq!(node.out.accepted.len(), 4, "one item over the pass is taken alone");
    assert_eq!(node.propose(slot, 1, (1 << 20) + 8), Err(ProposeError::TooLarge));
}

#[test]
fn a_shard_over_its_budget_is_busy_until_it_commits() {
    let config = CoreConfig { uncommitted_bytes_max: 1_000, ..CoreConfig::default() };
    let mut node = Node::new(config);
    let slot = node.lead(1, 0);
    node.propose(slot, 1, 5_000).unwrap();
    assert_eq!(node.propose(slot, 1, 24), Err(ProposeError::Busy(Budget::Shard)));
    node.flush();
    assert_eq!(node.propose(slot, 1, 24), Err(ProposeError::Busy(Budget::Shard)));
    node.sync(0);
    node.flush();
    assert_eq!(node.core.view(slot).uncommitted_bytes, 0);
    node.propose(slot, 1, 600).unwrap();
    node.propose(slot, 1, 400).unwrap();
    assert_eq!(node.propose(slot, 1, 8), Err(ProposeError::Busy(Budget::Shard)));
}

#[test]
fn rs_05_a_read_waits_for_the_own_term_and_for_the_state() {
    let mut node = node();
    let slot = node.open(1, 0).unwrap();
    node.sync(0);
    node.core.read(slot, ReadMode::ReadIndex, 5).unwrap();
    node.flush();
    assert!(node.out.reads.is_empty(), "nothing of this term is committed");
    assert_eq!(node.core.read_now(slot, ReadMode::ReadIndex, || BootTime(0)), None);
    node.sync(0);
    node.flush();
    assert!(node.out.reads.is_empty(), "committed, not applied");
    assert_eq!(node.core.read_now(slot, ReadMode::ReadIndex, || BootTime(0)), None);
    node.apply();
    assert_eq!(node.core.read_now(slot, ReadMode::Lease, || BootTime(0)), Some(LogIndex(1)));
    assert!(node.core.has_work());
    node.flush();
    assert_eq!(node.out.reads, [ReadReady { slot, token: 5, index: LogIndex(1) }]);
    node.propose(slot, 1, 24).unwrap();
    node.flush();
    assert_eq!(node.core.read_now(slot, ReadMode::Lease, || BootTime(0)), Some(LogIndex(1)));
}

#[test]
fn reads_over_the_budget_of_the_core_are_busy() {
    let mut node = Node::new(CoreConfig { reads_max: 2, ..CoreConfig::default() });
    let slot = node.lead(1, 0);
    assert_eq!(node.core.read(slot, ReadMode::ReadIndex, 1), Ok(()));
    assert_eq!(node.core.read(slot, ReadMode::ReadIndex, 2), Ok(()));
    let busy = Err(ReadError::Busy(Budget::Reads));
    assert_eq!(node.core.read(slot, ReadMode::ReadIndex, 3), busy);
    node.flush();
    assert_eq!(node.out.reads.len(), 2);
    assert_eq!(node.core.read(slot, ReadMode::ReadIndex, 3), Ok(()));
}

#[test]
fn a_closed_slot_is_used_again_and_old_writes_do_not_reach_the_new_replica() {
    let mut node = node();
    let slot = node.lead(1, 0);
    node.propose(slot, 1, 24).unwrap();
    node.flush();
    node.propose(slot, 1, 24).unwrap();
    node.core.admin(slot, Admin::Close).unwrap();
    assert_eq!(node.propose(slot, 1, 24), Err(ProposeError::Closed));
    assert_eq!(node.core.admin(slot, Admin::Close), Err(AdminError::Closed));
    node.out.clear();
    node.flush();
    assert_eq!(node.rejected[0].why, ProposeError::Closed);
    assert_eq!(node.out.event[0].reason, Reason::Closed);
    assert_eq!(node.core.slot_of(ShardId(1)), None);
    let hard =
        Record::HardState(HardState { term: Term(1), vote: ReplicaId(1), commit: LogIndex(1) });
    assert!(matches!(node.log.history.last(), Some((_, Op::Record(r))) if *r == hard));
    let again = node.open(2, 0).unwrap();
    assert_eq!(again, slot);
    let before = node.core.view(again).generation;
    assert_eq!(before, 1);
    let old = node.log.stream(StreamNo(0)).lsn;
    node.sync_to(0, old);
    assert_eq!(node.core.view(again).durable, LogIndex(0));
}

#[test]
fn a_compaction_stops_at_what_is_applied() {
    let mut node = node();
    let slot = node.lead(1, 0);
    node.propose(slot, 9, 24 * 9).unwrap();
    node.turn(0);
    node.turn(0);
    let beyond = AdminError::BeyondApplied { applied: LogIndex(10) };
    assert_eq!(node.core.admin(slot, Admin::Compact { upto: LogIndex(11) }), Err(beyond));
    node.core.admin(slot, Admin::Compact { upto: LogIndex(6) }).unwrap();
    node.log.stream(StreamNo(0)).refuse = Some(Refused::NoRoom);
    node.flush();
    assert_eq!(node.core.view(slot).floor, LogIndex(0), "no room: asked again later");
    node.log.stream(StreamNo(0)).refuse = None;
    node.sync(0);
    node.flush();
    assert_eq!(node.core.view(slot).floor, LogIndex(6));
    assert_eq!(node.log.memory[&ShardId(1)].first, 7);
}

#[test]
fn the_commit_index_is_written_down_every_so_often_and_speeds_up_a_restart() {
    let mut node = Node::new(CoreConfig { commit_every: 10, ..CoreConfig::default() });
    let slot = node.lead(1, 0);
    for _ in 0..15 {
        node.propose(slot, 1, 24).unwrap();
        node.turn(0);
    }
    node.turn(0);
    assert_eq!(node.log.disk[&ShardId(1)].hard.commit, LogIndex(10));
    assert_eq!(node.core.counters().hard_states, 2);
    node.log.crash();
    node.core = RaftCore::new(CoreConfig::default(), 1);
    node.out.clear();
    let slot = node.open(1, 0).unwrap();
    node.flush();
    let range = Apply::Range { slot, from: LogIndex(1), to: LogIndex(10) };
    assert_eq!(node.out.apply, [range], "before it leads");
}

#[test]
fn idle_replicas_cost_a_pass_nothing() {
    let mut node = node();
    let slots: Vec<_> = (1..=500).map(|shard| node.open(shard, 0).unwrap()).collect();
    for _ in 0..3 {
        node.turn(0);
    }
    assert!(!node.core.has_work());
    node.propose(slots[100], 1, 24).unwrap();
    let before = *node.core.counters();
    node.out.clear();
    node.turn(0);
    node.flush();
    assert_eq!(node.core.counters().appends, before.appends + 1);
    assert_eq!(node.out.apply.len(), 1);
}

#[test]
fn the_same_calls_give_the_same_answers() {
    let run = || {
        let mut node = node();
        node.log.stream(StreamNo(0)).refuse = Some(Refused::NoRoom);
        let slot = node.open(1, 0).unwrap();
        let due = node.core.next_deadline();
        node.log.stream(StreamNo(0)).refuse = None;
        node.core.begin_pass(BootTime(1 << 40), &mut node.out);
        node.core.handle_timer(1, &mut node.log, &mut node.out);
        node.sync(0);
        node.propose(slot, 1, 24).unwrap();
        node.flush();
        let mut out = Outbox::default();
        core::mem::swap(&mut out, &mut node.out);
        format!("{due:?} {out:?} {:?}", node.log.history)
    };
    assert_eq!(run(), run());
}
