//! What a replica refuses: contradictions at open, damage, a log without room, a failed stream.

use bowline_raft::{
    Admin, BootTime, Budget, ConfError, Configuration, CoreConfig, Damage, HardState, LogIndex,
    NodeId, OpenError, ProposeError, RaftCore, ReadError, ReadMode, Reason, Recovered, Refused,
    ReplicaId, Role, ShardId, StreamNo, Term,
};

use crate::{fake::FakeLog, node};

#[track_caller]
fn refuse(change: impl FnOnce(&mut Recovered<'_>), want: OpenError) {
    refuse_with(&[], change, want);
}

#[track_caller]
fn refuse_with(
    confs: &[(LogIndex, &[u8])],
    change: impl FnOnce(&mut Recovered<'_>),
    want: OpenError,
) {
    let conf = Configuration::sole_voter(NodeId(1), ReplicaId(1)).encode().unwrap();
    let mut recovered = Recovered {
        shard: ShardId(1),
        replica: ReplicaId(1),
        stream: StreamNo(0),
        hard_state: HardState { term: Term(4), vote: ReplicaId(1), commit: LogIndex(7) },
        first: LogIndex(4),
        prev_term: Term(2),
        last: LogIndex(9),
        last_term: Term(4),
        applied: LogIndex(5),
        applied_term: Term(3),
        conf: &conf,
        confs,
        damage: Damage::Normal,
    };
    let mut core = RaftCore::new(CoreConfig::default(), 1);
    let mut log = FakeLog::default();
    change(&mut recovered);
    assert_eq!(core.open(recovered, &mut log), Err(want));
    assert!(log.history.is_empty());
    assert_eq!(core.slot_of(ShardId(1)), None);
}

#[test]
fn what_contradicts_itself_is_not_opened() {
    refuse(|r| r.first = LogIndex(0), OpenError::Bounds);
    refuse(|r| r.applied = LogIndex(2), OpenError::Bounds);
    refuse(|r| r.applied = LogIndex(10), OpenError::Bounds);
    refuse(|r| r.last_term = Term(5), OpenError::Bounds);
    refuse(|r| r.prev_term = Term(4), OpenError::Bounds);
    refuse(|r| r.hard_state.commit = LogIndex(10), OpenError::Bounds);
    refuse(|r| r.hard_state.term = Term(u64::MAX), OpenError::Bounds);
    refuse(|r| r.conf = &[], OpenError::Configuration(ConfError::Length));
}

#[test]
fn the_latest_configuration_of_the_log_rules() {
    let own = Configuration::sole_voter(NodeId(1), ReplicaId(1));
    let mut two = own.clone();
    two.epoch = 2;
    two.next_replica = ReplicaId(3);
    let mut other = two.members[0];
    (other.node, other.replica) = (NodeId(2), ReplicaId(2));
    two.members.push(other);
    let two = two.encode().unwrap();
    let first = own.encode().unwrap();
    let epoch = OpenError::Configuration(ConfError::Epoch);
    refuse_with(&[(LogIndex(8), &first[..])], |_| {}, epoch);
    refuse_with(&[(LogIndex(10), &two[..])], |_| {}, epoch);
}

#[test]
fn a_damaged_sole_voter_stays_closed() {
    for damage in [Damage::Repairing, Damage::Retired, Damage::State] {
        let mut node = node();
        let slot = node.open_with(1, 0, damage).unwrap();
        node.turn(0);
        node.turn(0);
        assert!(node.log.history.is_empty(), "it neither votes nor appends");
        assert_eq!(node.propose(slot, 1, 24), Err(ProposeError::Damaged));
        assert_eq!(node.core.read(slot, ReadMode::ReadIndex, 1), Err(ReadError::Damaged));
        assert!(node.out.apply.is_empty());
    }
}

#[test]
fn damage_found_later_ends_the_leadership() {
    let mut node = node();
    let slot = node.lead(1, 0);
    node.propose(slot, 1, 24).unwrap();
    node.core.admin(slot, Admin::Damaged(Damage::Repairing)).unwrap();
    assert_eq!(node.core.read_now(slot, ReadMode::ReadIndex, || BootTime(0)), None);
    node.flush();
    assert_eq!(node.rejected[0].why, ProposeError::Damaged);
    assert_eq!(node.out.event[0].reason, Reason::Damaged);
    assert_eq!(node.core.view(slot).role, Role::Follower);
}

#[test]
fn a_failed_stream_stops_its_own_replicas_alone() {
    let mut node = node();
    let (bad, good) = (node.lead(1, 0), node.lead(2, 1));
    node.propose(bad, 1, 24).unwrap();
    node.flush();
    node.propose(bad, 1, 24).unwrap();
    node.core.read(bad, ReadMode::ReadIndex, 77).unwrap();
    node.out.clear();
    node.core.handle_stream_failed(StreamNo(0), &mut node.out);
    node.settle();
    assert_eq!(node.rejected[0].why, ProposeError::StreamFailed);
    assert_eq!(node.out.reads_rejected[0].why, ReadError::StreamFailed);
    assert_eq!(node.out.role[0].role, Role::Follower);
    assert_eq!(node.out.event[0].reason, Reason::StreamFailed);
    let before = node.core.view(bad).commit;

    node.sync(0);

    node.flush();
    assert_eq!(node.core.view(bad).commit, before, "nothing commits on a failed stream");
    assert_eq!(node.propose(bad, 1, 24), Err(ProposeError::StreamFailed));
    assert_eq!(node.core.read_now(bad, ReadMode::ReadIndex, || BootTime(0)), None);
    node.propose(good, 1, 24).unwrap();
    node.flush();
    assert_eq!(node.out.accepted.len(), 1);
}

#[test]
fn a_poisoned_refusal_fails_the_stream_in_the_same_pass() {
    let mut node = node();
    let slot = node.lead(1, 0);
    node.log.stream(StreamNo(0)).refuse = Some(Refused::Poisoned);
    node.propose(slot, 1, 24).unwrap();
    node.flush();
    assert_eq!(node.rejected[0].why, ProposeError::StreamFailed);
    assert_eq!(node.core.view(slot).role, Role::Follower);
    assert_eq!(node.core.admin(slot, Admin::Close), Ok(()));
    node.flush();
    node.log.crash();
    node.out.clear();
    let slot = node.lead(1, 0);
    assert_eq!(node.core.view(slot).term, Term(2), "an opened stream serves again");
}

#[test]
fn a_log_without_room_turns_proposals_away_unchanged() {
    let mut node = node();
    let slot = node.lead(1, 0);
    let before = node.core.view(slot).last;
    node.log.stream(StreamNo(0)).refuse = Some(Refused::NoRoom);
    let token = node.propose(slot, 1, 24).unwrap();
    node.flush();
    let rejected = node.rejected[0];
    assert_eq!((rejected.token, rejected.why), (token, ProposeError::Busy(Budget::Log)));
    let view = node.core.view(slot);
    assert_eq!((view.last, view.uncommitted_bytes, view.role), (before, 0, Role::Leader));
    node.log.stream(StreamNo(0)).refuse = None;
    node.propose(slot, 1, 24).unwrap();
    node.out.clear();
    node.flush();
    assert_eq!(node.out.accepted.len(), 1);
}

#[test]
fn a_vote_or_no_op_without_room_is_staged_once_there_is() {
    let mut node = node();
    node.log.stream(StreamNo(0)).refuse = Some(Refused::NoRoom);
    let slot = node.open(1, 0).unwrap();
    node.flush();
    assert_eq!(node.core.view(slot).term, Term(0), "nothing changed");
    let due = node.core.next_deadline().unwrap();
    node.core.handle_timer(100, &mut node.log, &mut node.out);
    assert!(!node.core.has_work(), "it is not due");
    node.log.stream(StreamNo(0)).refuse = None;
    node.core.begin_pass(due, &mut node.out);
    node.core.handle_timer(100, &mut node.log, &mut node.out);
    assert_eq!(node.core.view(slot).role, Role::Candidate);
    node.sync(0);
    node.log.stream(StreamNo(0)).refuse = Some(Refused::NoRoom);
    node.propose(slot, 1, 24).unwrap();
    node.flush();
    assert_eq!(node.rejected[0].why, ProposeError::Busy(Budget::Log), "not before the no-op");
    assert_eq!(node.core.view(slot).last, LogIndex(0));
    node.log.stream(StreamNo(0)).refuse = None;
    let lsn = node.log.stream(StreamNo(0)).lsn;
    node.sync_to(0, lsn);
    node.flush();
    assert_eq!(node.core.view(slot).last, LogIndex(1), "a durable write tells of room");
}

#[test]
fn a_shard_is_open_once() {
    let mut node = node();
    let slot = node.open(1, 0).unwrap();
    assert_eq!(node.open(1, 0), Err(OpenError::AlreadyOpen { slot }));
}
