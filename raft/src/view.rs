//! Looking at a replica, and at what a core has done.

use crate::{
    Configuration, Damage, LogIndex, Lsn, RaftCore, ReplicaId, Role, Send, ShardId, Slot, StreamNo,
    Term,
    replica::{BROKEN, CLOSING, NO_LEASE, NO_QUORUM, OPEN, Pace},
};

/// A replica as it is now.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaView<'a> {
    /// Whether the slot has a replica that works.
    pub open: bool,
    /// The shard.
    pub shard: ShardId,
    /// Own replica id.
    pub replica: ReplicaId,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its vote in that term; 0 is nobody.
    pub vote: ReplicaId,
    /// Who leads, if anybody is known to.
    pub leader: Option<ReplicaId>,
    /// What is damaged.
    pub damage: Damage,
    /// First index of the log - 1.
    pub floor: LogIndex,
    /// Applied as far as raft was told.
    pub applied: LogIndex,
    /// Handed out to apply.
    pub handed: LogIndex,
    /// Committed.
    pub commit: LogIndex,
    /// Durable in the own log.
    pub durable: LogIndex,
    /// Last index of the log.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// First index of a leader's own term.
    pub term_start: LogIndex,
    /// The latest write staged for it.
    pub staged: Lsn,
    /// Proposal bytes queued or uncommitted.
    pub uncommitted_bytes: u32,
    /// The active configuration; none in a slot that was never used.
    pub conf: Option<&'a Configuration>,
    /// Index of the entry that holds it; 0 is the founding one.
    pub conf_index: LogIndex,
    /// How often the slot was used before.
    pub generation: u32,
    /// It may neither campaign nor grant a vote now.
    pub bound: bool,
    /// The latest read stamp.
    pub read_seq: u64,
    /// It gives no lease read in this term.
    pub no_lease: bool,
}

impl RaftCore {
    /// A replica as it is now; of a slot without one, `open` is false.
    pub fn view(&self, slot: Slot) -> ReplicaView<'_> {
        let it = self.replicas.get(slot).copied().unwrap_or_default();
        let used = it.flags & OPEN != 0;
        ReplicaView {
            open: it.flags & (OPEN | BROKEN | CLOSING) == OPEN,
            shard: it.shard,
            replica: it.replica,
            role: it.role,
            term: it.term,
            vote: it.vote,
            leader: if used { self.leader_of(slot) } else { None },
            damage: it.damage,
            floor: it.floor,
            applied: it.applied,
            handed: it.handed,
            commit: it.commit,
            durable: it.durable,
            last: it.last,
            last_term: it.last_term,
            term_start: it.term_start,
            staged: it.staged,
            uncommitted_bytes: it.uncommitted,
            conf: used.then(|| &self.confs[usize::from(it.conf)].conf),
            conf_index: it.conf_index,
            generation: it.generation,
            bound: used && self.bound(slot),
            read_seq: it.read_seq,
            no_lease: it.flags & NO_LEASE != 0,
        }
    }
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressView {
    /// Last index known durable there.
    pub matched: LogIndex,
    /// The next one to send.
    pub next: LogIndex,
    /// Bytes of entries without an answer.
    pub inflight: u32,
    /// Appends without an answer.
    pub waiting: u16,
    /// The latest read stamp it confirmed.
    pub acked_read: u64,
    /// `"probe"`, `"replicate"`, `"snapshot"`, `"catchup"`.
    pub pace: &'static str,
    /// It counts in no quorum.
    pub no_quorum: bool,
    /// It supports this leader now.
    pub supports: bool,
}

impl RaftCore {
    /// What the leader in `slot` knows of a peer; none: it does not lead, or has no such peer.
    pub fn progress(&self, slot: Slot, peer: ReplicaId) -> Option<ProgressView> {
        self.replicas.get(slot).filter(|it| it.flags & OPEN != 0)?;
        let place = self.conf(slot).place(peer)?;
        let progress = self.peer(slot, place)?;
        Some(ProgressView {
            matched: progress.matched,
            next: progress.next,
            inflight: progress.inflight,
            waiting: progress.waiting(),
            acked_read: progress.acked_read,
            pace: match progress.pace {
                Pace::Probe => "probe",
                Pace::Replicate => "replicate",
                Pace::Snapshot => "snapshot",
                Pace::Catchup => "catchup",
            },
            no_quorum: progress.flags & NO_QUORUM != 0,
            supports: self.supports(slot, place),
        })
    }
}

impl RaftCore {
    /// What waits for which write before it may leave, in order per stream.
    pub fn held(&self) -> impl Iterator<Item = (StreamNo, Lsn, &Send)> {
        self.streams
            .iter()
            .flat_map(|stream| stream.held.iter().map(move |(lsn, send)| (stream.no, *lsn, send)))
    }
}

/// What a core has done since it was made. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Batches appended by leaders.
    pub appends: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// First entries of a term among them.
    pub noops: u64,
    /// Moves of a commit index.
    pub commits: u64,
    /// Hard states staged.
    pub hard_states: u64,
    /// Compactions staged.
    pub compactions: u64,
    /// Elections won.
    pub elections: u64,
    /// Leaderships ended.
    pub step_downs: u64,
    /// Reads handed out.
    pub reads: u64,
    /// Proposals that were queued and got no place.
    pub rejected: u64,
    /// Proposals turned away at the budget of their shard.
    pub busy_shard: u64,
    /// Refusals of a log at its mark.
    pub no_room: u64,
    /// Batches that a follower's log took.
    pub accepts: u64,
    /// Batches whose bytes were not what they said.
    pub bad_checksums: u64,
    /// Appends refused because the logs part.
    pub rejects: u64,
    /// Appends of ours that were refused so.
    pub rejected_appends: u64,
    /// Peers that had less than they acknowledged.
    pub lost_tails: u64,
    /// Truncations of uncommitted entries.
    pub truncations: u64,
    /// Appends sent, and those without entries among them.
    pub sent_appends: u64,
    /// Appends sent without entries.
    pub empties: u64,
    /// Bytes of entries sent.
    pub sent_bytes: u64,
    /// Commit hints and read probes sent.
    pub hints: u64,
    /// Messages that had to wait for a write.
    pub held: u64,
    /// Rounds of asking before an election.
    pub pre_campaigns: u64,
    /// Elections begun.
    pub campaigns: u64,
    /// Votes given to others.
    pub votes: u64,
    /// Rounds of read confirmations.
    pub read_rounds: u64,
    /// Reads answered by a lease.
    pub lease_reads: u64,
    /// Transfers begun.
    pub transfers: u64,
    /// Reads of entries from disk for a peer.
    pub fetches: u64,
    /// Those that failed.
    pub fetches_failed: u64,
    /// Snapshots offered.
    pub snapshots_offered: u64,
    /// Offers that failed.
    pub snapshots_failed: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Snapshots that were older than what was there.
    pub snapshots_stale: u64,
    /// Beats of lanes sent.
    pub beats: u64,
    /// Beliefs in a lane's support that ended.
    pub beliefs_lapsed: u64,
    /// Replicas looked at because promises, beliefs or leaderships moved.
    pub audited: u64,
    /// Epochs of lanes withdrawn.
    pub epochs_withdrawn: u64,
    /// Digests sent.
    pub digests: u64,
    /// Messages for shards that are not here.
    pub unknown_shard: u64,
    /// Messages dropped, by [`crate::Why`] in its order.
    pub refused: [u64; crate::Why::COUNT],
    /// Events beyond [`crate::EVENTS_MAX`] of a pass.
    pub events_dropped: u64,
    /// Replicas closed because of a state that cannot be.
    pub broken: u64,
}
