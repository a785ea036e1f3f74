//! What is kept of a replica, by how often it is looked at, and of a leader's peers.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use crate::{
    Configuration, Damage, LaneNo, LogIndex, Lsn, Part, ReplicaId, Role, ShardId, Slot, Term,
    chain::Chain, core::at,
};

/// A replica: what every pass looks at comes first, what is rarely looked at last. One value, so
/// that one index finds it all.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
#[expect(clippy::struct_field_names, reason = "its own id is called so everywhere")]
pub(crate) struct Replica {
    pub(crate) term: Term,
    pub(crate) last: LogIndex,
    pub(crate) last_term: Term,
    pub(crate) commit: LogIndex,
    /// Last index of this log known durable.
    pub(crate) durable: LogIndex,
    /// The latest write staged for this replica.
    pub(crate) staged: Lsn,
    /// The epoch under which it is bound to its leader; 0: none.
    pub(crate) support: u32,
    /// The leader's lane.
    pub(crate) lane: u16,
    pub(crate) conf: u16,
    pub(crate) flags: u16,
    /// The digest that named its leader last.
    pub(crate) sweep: u16,
    pub(crate) role: Role,
    pub(crate) damage: Damage,
    /// Index in [`crate::RaftCore::streams`].
    pub(crate) stream: u8,
    /// A leader's own place in the configuration.
    pub(crate) place: u8,
    // The second line: whose it is, and what moves with each entry.
    pub(crate) shard: ShardId,
    pub(crate) replica: ReplicaId,
    /// Who leads as far as is known; 0: nobody.
    pub(crate) leader: ReplicaId,
    pub(crate) generation: u32,
    /// When the leader was last heard, in milliseconds; 0: never.
    pub(crate) heard: u32,
    /// Last index handed out to apply.
    pub(crate) handed: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) queue: Chain,
    /// Proposal bytes queued or not committed.
    pub(crate) uncommitted: u32,
    /// A leader's first progress.
    pub(crate) progress: u32,
    // The third line: what is looked at when something moves.
    /// The leader to whom it is bound, and that leader's term.
    pub(crate) bound_to: ReplicaId,
    pub(crate) bound_term: Term,
    /// First index of a leader's own term.
    pub(crate) term_start: LogIndex,
    /// First index of the log - 1.
    pub(crate) floor: LogIndex,
    /// The commit index of the latest hard state staged.
    pub(crate) staged_commit: LogIndex,
    /// Bytes of proposals in the log that are not committed, by their last index.
    pub(crate) charges: Chain,
    /// Reads that have no stamp yet.
    pub(crate) reads: Chain,
    /// Reads that wait for their index to be applied.
    pub(crate) stamped: Chain,
    // The last line: what is rarely looked at.
    /// Reads that wait for a confirmation of their stamp.
    pub(crate) probing: Chain,
    /// The latest read stamp of a leader; the latest request of a follower's reads.
    pub(crate) read_seq: u64,
    pub(crate) vote: ReplicaId,
    pub(crate) conf_index: LogIndex,
    /// Compaction asked for; 0: none.
    pub(crate) compact: LogIndex,
    /// Number of the latest round of votes.
    pub(crate) round: u16,
    /// Members, by place, that granted in this round.
    pub(crate) granted: u16,
    /// Campaigns that failed in a row.
    pub(crate) failed: u8,
    /// The place of a transfer's target.
    pub(crate) transfer: u8,
}

impl Replica {
    /// Whether it follows, and all that a flush does for it is to hand out what is committed.
    #[inline]
    pub(crate) fn only_hears(&self) -> bool {
        (self.role, self.damage) == (Role::Follower, Damage::Normal)
            && self.flags & (CAMPAIGN | CLOSING | READS) == 0
            && self.reads.is_empty()
            && self.stamped.is_empty()
            && self.compact == LogIndex(0)
    }

    /// Notes that it is on the dirty list. Whether it has to be put there.
    #[inline]
    pub(crate) fn set_dirty(&mut self) -> bool {
        let clean = self.flags & (DIRTY | OPEN) == OPEN;
        if clean {
            self.flags |= DIRTY;
        }
        clean
    }

    /// The epoch that an answer over `lane` names: under it this replica is bound to the other
    /// end. 0: none.
    #[inline]
    pub(crate) fn support_over(&self, lane: Option<LaneNo>) -> u32 {
        if lane.is_some_and(|lane| lane.0 == self.lane) { self.support } else { 0 }
    }
}

/// All replicas of a core, by slot.
#[derive(Debug, Default)]
pub(crate) struct Replicas(Vec<Replica>);

impl Replicas {
    /// Adds a slot.
    pub(crate) fn add(&mut self) {
        self.0.push(Replica::default());
    }

    /// Makes room for so many more slots, and no more than that.
    pub(crate) fn reserve(&mut self, slots: usize) {
        self.0.reserve_exact(slots);
    }

    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> Option<&Replica> {
        self.0.get(at(slot))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Replica> {
        self.0.iter()
    }
}

impl Index<Slot> for Replicas {
    type Output = Replica;

    #[inline]
    fn index(&self, slot: Slot) -> &Replica {
        &self.0[at(slot)]
    }
}

impl IndexMut<Slot> for Replicas {
    #[inline]
    fn index_mut(&mut self, slot: Slot) -> &mut Replica {
        &mut self.0[at(slot)]
    }
}

const _: () = assert!(size_of::<Replica>() == 256, "four cache lines");
const _: () = assert!(size_of::<Progress>() <= 64, "one cache line");

/// The slot has a replica.
pub(crate) const OPEN: u16 = 1;
/// It is on the dirty list.
pub(crate) const DIRTY: u16 = 1 << 1;
/// It has to campaign without asking first: the only voter, or the target of a transfer.
pub(crate) const CAMPAIGN: u16 = 1 << 2;
/// It waits for room in its log.
pub(crate) const STALLED: u16 = 1 << 3;
/// It is to be closed at the end of this pass.
pub(crate) const CLOSING: u16 = 1 << 4;
/// It was in a state that cannot be; it does nothing more.
pub(crate) const BROKEN: u16 = 1 << 5;
/// Somebody wanted something of it while it had no leader: it is elected first.
pub(crate) const TOUCHED: u16 = 1 << 6;
/// A leader that hands over: it takes no proposals.
pub(crate) const TRANSFER: u16 = 1 << 7;
/// It gives no lease read in this term.
pub(crate) const NO_LEASE: u16 = 1 << 8;
/// It follows a leader by that leader's messages alone.
pub(crate) const CLASSIC: u16 = 1 << 9;
/// A snapshot is not reported as applied yet.
pub(crate) const INSTALLING: u16 = 1 << 10;
/// Every peer is looked at in the next flush, whether it has something new or not.
pub(crate) const BEAT: u16 = 1 << 11;

/// How a leader sends to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Pace {
    /// It asks where the logs part: one message at a time.
    #[default]
    Probe = 0,
    /// It sends what is new as it comes.
    Replicate = 1,
    /// The peer needs entries that are compacted.
    Snapshot = 2,
    /// The peer needs entries that are on disk only.
    Catchup = 3,
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Last index known durable there and equal to ours.
    pub(crate) matched: LogIndex,
    pub(crate) next: LogIndex,
    /// The commit index it was told.
    pub(crate) sent_commit: LogIndex,
    /// The latest read stamp it confirmed.
    pub(crate) acked_read: u64,
    /// Bytes of entries without an answer.
    pub(crate) inflight: u32,
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
    /// The view of its lane under which it supports us.
    pub(crate) support: u32,
    /// Number of the latest Append, and of the latest one answered.
    pub(crate) seq: u16,
    pub(crate) acked_seq: u16,
    pub(crate) lane: u16,
    pub(crate) pace: Pace,
    pub(crate) flags: u8,
    /// When the latest Append left, in milliseconds; in `Snapshot`, when to offer again.
    pub(crate) probe_at: u32,
    /// When it was last heard, in milliseconds.
    pub(crate) heard: u32,
}

/// It counts in no quorum.
pub(crate) const NO_QUORUM: u8 = 1;
/// A snapshot was offered and nothing was heard of it yet.
pub(crate) const OFFERED: u8 = 2;
/// Its latest answers showed no lag: once, twice.
pub(crate) const CAUGHT_ONCE: u8 = 4;
pub(crate) const CAUGHT_UP: u8 = 8;
/// It follows by our messages alone.
pub(crate) const BY_MESSAGES: u8 = 16;
/// It waits for room in its lane.
pub(crate) const NO_ROOM: u8 = 32;
/// Its state is damaged: it needs a snapshot whatever its log has.
pub(crate) const STATE_DAMAGED: u8 = 64;

/// A leader with reads that wait for a confirmation.
pub(crate) const READS: u16 = 1 << 12;

/// No lane.
pub(crate) const NO_LANE: u16 = u16::MAX;

/// A configuration, who decides in it, and how many replicas follow it.
#[derive(Debug)]
pub(crate) struct Interned {
    pub(crate) conf: Configuration,
    pub(crate) uses: u32,
    /// Places of the voters of each half.
    pub(crate) before: u16,
    pub(crate) after: u16,
    pub(crate) members: u8,
    /// A leader has something to change by itself: it is joint, or a learner is to be promoted.
    pub(crate) moves: bool,
}

impl Interned {
    pub(crate) fn new(conf: Configuration) -> Self {
        let voters = |half: fn(&crate::Member) -> Part| {
            let bits = conf.members.iter().enumerate();
            bits.filter(|(_, member)| half(member) == Part::Voter)
                .fold(0, |all, (at, _)| all | 1 << at)
        };
        let (before, after) = (voters(|member| member.before), voters(|member| member.after));
        let members = u8::try_from(conf.members.len()).expect("at most MEMBERS_MAX");
        let promotes = conf.members.iter().any(|member| member.auto_promote);
        let moves = promotes || conf.phase == crate::Phase::Joint;
        Self { conf, uses: 1, before, after, members, moves }
    }

    /// Where a replica stands among the members.
    #[inline]
    pub(crate) fn place(&self, replica: ReplicaId) -> Option<u8> {
        (0_u8..).zip(&self.conf.members).find(|(_, it)| it.replica == replica).map(|(at, _)| at)
    }
}

/// A read that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingRead {
    pub(crate) token: u64,
    pub(crate) index: LogIndex,
    pub(crate) stamp: u64,
    /// The follower that asks; 0: a caller of this node.
    pub(crate) peer: ReplicaId,
    /// A lease is enough.
    pub(crate) lease: bool,
}
