//! Snapshots: who needs one, and what a follower does with one that arrived.
//!
//! An offer ends when an answer shows that the peer has what the log begins with, never because
//! a transport said so.

use crate::{
    Apply, Configuration, Damage, HardState, Log, LogIndex, Message, NodeId, Outbox, RaftCore,
    Reason, Record, ReplicaId, Role, Slot, SnapWant, Term, Verdict, What, Why,
    alarm::Alarm,
    core::StreamState,
    replica::{INSTALLING, OFFERED, Pace, STATE_DAMAGED},
    step::NUMBER_MAX,
};

/// Times the first wait between two offers that nothing may be heard of one.
const PATIENCE: u64 = 5;

/// What the engine tells of snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotEvent<'a> {
    /// As leader: the offer of a [`crate::SnapWant`] failed or was refused; it is wanted again
    /// later.
    Failed {
        /// Who needed it.
        peer: ReplicaId,
    },
    /// As follower: a snapshot arrived whole and its content is verified.
    Ready {
        /// Index of the state.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The configuration as of that index.
        conf: &'a [u8],
        /// Who offered it, and on which node that is: it is told what is here now. It need not be a
        /// member as far as this replica knows.
        from: (ReplicaId, NodeId),
    },
}

impl RaftCore {
    /// Takes what the engine tells of a snapshot.
    pub fn handle_snapshot(
        &mut self,
        slot: Slot,
        event: SnapshotEvent<'_>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> Verdict {
        if !self.is_open(slot) || self.stream(slot).state != StreamState::Good {
            return Verdict::False(Why::Closed);
        }
        let verdict = match event {
            SnapshotEvent::Failed { peer } => self.snapshot_failed(slot, peer),
            SnapshotEvent::Ready { index, term, conf, from } => {
                self.snapshot_ready(slot, (index, term), (conf, from), (log, out))
            },
        };
        self.settle(out);
        verdict
    }

    /// A peer needs entries that are compacted.
    pub(crate) fn want_snapshot(&mut self, slot: Slot, place: u8, out: &mut Outbox) {
        let peer = self.peer_mut(slot, place).expect("it needs a snapshot");
        peer.void();
        peer.pace = Pace::Snapshot;
        peer.flags &= !OFFERED;
        self.offer_again(slot, place, out);
    }

    /// Offers a snapshot to a peer that has none under way.
    pub(crate) fn offer_again(&mut self, slot: Slot, place: u8, out: &mut Outbox) {
        let floor = self.replicas[slot].floor;
        self.offer(slot, place, floor, out);
    }

    /// Offers a snapshot at or above `floor`.
    fn offer(&mut self, slot: Slot, place: u8, floor: LogIndex, out: &mut Outbox) {
        let now = self.millis();
        let patience = self.config.times.snapshot.saturating_mul(PATIENCE);
        let member = self.conf(slot).conf.members[usize::from(place)];
        let generation = self.replicas[slot].generation;
        let peer = self.peer_mut(slot, place).expect("it needs a snapshot");
        if peer.flags & OFFERED != 0 || self.road(member.node, crate::replica::NO_LANE).is_none() {
            return;
        }
        let peer = self.peer_mut(slot, place).expect("it needs a snapshot");
        peer.flags |= OFFERED;
        peer.probe_at = now;
        let (peer, node) = (member.replica, member.node);
        out.snapshot.push(SnapWant { slot, peer, node, floor });
        self.counters.snapshots_offered += 1;
        self.report(slot, Reason::SnapshotNeeded, out);
        // If nothing is heard of it, it is offered again.
        let again = self.now.after(patience);
        self.alarms.set(again, slot, generation, Alarm::Snapshot(peer));
    }

    fn snapshot_failed(&mut self, slot: Slot, replica: ReplicaId) -> Verdict {
        let Some(place) = self.conf(slot).place(replica) else {
            return Verdict::False(Why::Sender);
        };
        if self.peer(slot, place).is_none_or(|peer| peer.flags & OFFERED == 0) {
            return Verdict::False(Why::Unasked);
        }
        self.counters.snapshots_failed += 1;
        let generation = self.replicas[slot].generation;
        let times = self.config.times;
        let peer = self.peer_mut(slot, place).expect("it was offered a snapshot");
        let mut wait = times.snapshot;
        if peer.pace == Pace::Snapshot {
            // Nothing is in flight to such a peer: the field counts the failures in a row.
            wait = wait.saturating_mul(1 << peer.inflight.min(16)).min(times.snapshot_max);
            peer.inflight = peer.inflight.saturating_add(1);
        }
        let again = self.now.after(wait);
        self.alarms.set(again, slot, generation, Alarm::Snapshot(replica));
        Verdict::Taken
    }

    /// The time for another offer has come, if the peer still needs one.
    pub(crate) fn snapshot_due(&mut self, slot: Slot, replica: ReplicaId, out: &mut Outbox) {
        if self.replicas[slot].role != Role::Leader {
            return;
        }
        let Some(place) = self.conf(slot).place(replica) else { return };
        let Some(peer) = self.peer_mut(slot, place) else { return };
        if peer.flags & OFFERED == 0 {
            return;
        }
        // A peer with damaged state says so again with its next answer.
        peer.flags &= !(OFFERED | STATE_DAMAGED);
        if peer.pace == Pace::Snapshot {
            self.offer_again(slot, place, out);
        }
    }

    /// A peer's state is damaged: it needs a snapshot whatever its log has.
    pub(crate) fn on_snapshot_needed(
        &mut self,
        slot: Slot,
        m: &Message,
        out: &mut Outbox,
    ) -> Verdict {
        let place = self.conf(slot).place(m.from);
        let Some(place) = place.filter(|_| self.replicas[slot].role == Role::Leader) else {
            return Verdict::False(Why::Unasked);
        };
        let peer = self.peer_mut(slot, place).expect("the sender is another member");
        if peer.flags & STATE_DAMAGED == 0 {
            peer.flags = (peer.flags | STATE_DAMAGED) & !OFFERED;
        }
        let own = self.replicas[slot].floor;
        let asked = if let What::SnapshotNeeded { floor } = m.what { floor } else { own };
        let floor = asked.max(own);
        self.offer(slot, place, floor, out);
        Verdict::Taken
    }

    fn snapshot_ready(
        &mut self,
        slot: Slot,
        (index, term): (LogIndex, Term),
        (conf, from): (&[u8], (ReplicaId, NodeId)),
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Verdict {
        let Ok(conf) = Configuration::decode(conf) else {
            return Verdict::False(Why::Configuration);
        };
        if index.0 > NUMBER_MAX || index.0 == 0 || term.0 > NUMBER_MAX || term.0 == 0 {
            return Verdict::False(Why::Index);
        }
        if term > self.replicas[slot].term
            && let Err(verdict) = self.adopt(slot, term, log, out)
        {
            return verdict;
        }
        let it = &self.replicas[slot];
        let stale = match it.damage {
            Damage::State => index < it.floor,
            // Entries that are committed here cannot be handed out.
            Damage::Repairing => index <= it.handed,
            Damage::Normal | Damage::Retired => index <= it.commit,
        };
        if stale || it.role == Role::Leader {
            self.counters.snapshots_stale += 1;
            self.report_match(slot, it.commit, from, out);
            return Verdict::Taken;
        }
        let here = self.place(slot);
        let keep = index <= it.last && log.term_at(here, index) == Some(term);
        if !keep && index <= it.commit {
            // It contradicts what is committed here.
            self.report(slot, Reason::Conflict, out);
            return Verdict::False(Why::Committed);
        }
        let commit = it.commit.max(index);
        let hard_state = HardState { term: it.term, vote: self.replicas[slot].vote, commit };
        let record = Record::Install { index, term, keep, hard_state };
        let lsn = match log.stage(here, record) {
            Ok(lsn) => lsn,
            Err(refused) => return self.deny(slot, refused),
        };
        self.install(slot, (index, term), keep, out);
        self.rebase_confs(slot, conf, index, keep);
        self.note_write(slot, lsn);
        self.counters.snapshots_installed += 1;
        self.report(slot, Reason::Installed, out);
        self.report_match(slot, index, from, out);
        self.touch(slot);
        Verdict::Taken
    }

    /// The log and the state begin with a snapshot now.
    fn install(
        &mut self,
        slot: Slot,
        (index, term): (LogIndex, Term),
        keep: bool,
        out: &mut Outbox,
    ) {
        if !keep {
            let it = &mut self.replicas[slot];
            it.last = index;
            it.last_term = term;
            it.durable = it.durable.min(index);
            self.lower_writes(slot, index);
        }
        let it = &mut self.replicas[slot];
        it.commit = it.commit.max(index);
        it.flags |= INSTALLING;
        if it.damage == Damage::State {
            it.damage = Damage::Normal;
        }
        it.floor = index;
        it.handed = index;
        it.applied = it.applied.min(index);
        it.staged_commit = it.commit;
        it.compact = LogIndex(0);
        out.apply.push(Apply::Install { slot, index });
    }

    /// Tells the leader, when it is durable, up to where this log is equal to its own. The members
    /// as of a snapshot may be those of before the leader was one.
    pub(crate) fn report_match(
        &mut self,
        slot: Slot,
        matched: LogIndex,
        leader: (ReplicaId, NodeId),
        out: &mut Outbox,
    ) {
        let it = &self.replicas[slot];
        if it.leader == it.replica || leader.0 == it.replica {
            return;
        }
        let no_quorum = self.is_retired(slot);
        let what = What::AppendResp { matched, reject: None, no_quorum };
        if let Some(send) = self.envelope_to(slot, leader, what) {
            self.hold(slot, send, out);
        }
    }
}
