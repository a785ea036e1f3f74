//! What a leader sends to its peers: at most one Append each per pass.

use crate::{
    BatchRange, Damage, Entries, Fetch, Fetched, Log, LogIndex, Message, Outbox, RaftCore, Role,
    Send, Slot, Term, What,
    message::Hint,
    replica::{BEAT, BY_MESSAGES, NO_LANE, NO_ROOM, Pace, READS},
    send::Road,
};

/// Times the support time that a bulk transfer of entries may take.
const CATCHUP_PATIENCE: u64 = 4;

impl RaftCore {
    /// Sends what is new to every peer. `probe`: reads were stamped in this pass.
    pub(crate) fn feed(&mut self, slot: Slot, probe: bool, log: &mut impl Log, out: &mut Outbox) {
        let it = &mut self.replicas[slot];
        let (beat, own) = (it.flags & BEAT != 0, it.place);
        it.flags &= !BEAT;
        if !self.log_is_healthy(slot) {
            // What there is to say is said once its disk is back; a read needs no disk.
            for place in (0..self.conf(slot).members).filter(|place| probe && *place != own) {
                self.hint(slot, place, true, out);
            }
            self.stall(slot);
            return;
        }
        let mut waits = false;
        let unknown = self.uncommitted_learners(slot);
        for place in 0..self.conf(slot).members {
            if place == own || unknown >> place & 1 == 1 {
                continue;
            }
            let sent = self.feed_peer(slot, place, beat, (log, out));
            if !sent {
                self.hint(slot, place, probe, out);
            }
            waits |= sent;
        }
        if waits {
            self.mark_inflight(slot, true);
        }
    }

    /// One Append to one peer, if it is due one.
    #[inline]
    fn feed_peer(
        &mut self,
        slot: Slot,
        place: u8,
        beat: bool,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let it = &self.replicas[slot];
        let Some(here) = self.peer_at(slot, place) else { return false };
        let peer = &self.peers.all[here];
        let open = peer.waiting() < self.config.window_messages
            && peer.inflight < self.config.window_bytes;
        let newer = peer.pace == Pace::Replicate && peer.next <= it.last && peer.next > it.floor;
        if newer && open {
            let bytes_max = self.config.append_bytes_max;
            return self.append_entries((slot, place, here), bytes_max, (log, out));
        }
        self.feed_other(slot, place, beat, (log, out))
    }

    /// The same, for a peer that does not just get what is new.
    fn feed_other(
        &mut self,
        slot: Slot,
        place: u8,
        beat: bool,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let floor = self.replicas[slot].floor;
        let stale = self.config.times.heartbeat / 2;
        let Some(peer) = self.peer(slot, place).copied() else { return false };
        let quiet = beat && !self.within(peer.probe_at, stale);
        let asked = peer.flags & BY_MESSAGES != 0 || peer.waiting() > 0 || peer.is_half_caught_up();
        let due = beat && quiet && asked;
        let below = peer.next.prev() < floor;
        if below && peer.pace != Pace::Snapshot {
            self.want_snapshot(slot, place, out);
        }
        match peer.pace {
            _ if below || peer.pace == Pace::Snapshot => {
                self.offer_again(slot, place, out);
                due && self.append_empty(slot, place, floor, (log, out))
            },
            Pace::Snapshot => false,
            Pace::Probe if peer.waiting() == 0 => {
                let here = self.peer_at(slot, place).expect("it is a peer");
                let bytes_max = self.config.probe_bytes_max;
                self.append_entries((slot, place, here), bytes_max, (log, out))
            },
            Pace::Probe => due && self.probe_again(slot, place, (log, out)),
            Pace::Replicate => due && self.append_empty(slot, place, peer.next.prev(), (log, out)),
            Pace::Catchup => {
                let patience = self.config.times.support.saturating_mul(CATCHUP_PATIENCE);
                if beat && !self.within(peer.probe_at, patience) {
                    self.reset_peer(slot, place);
                    self.touch(slot);
                }
                let prev = peer.matched.max(floor);
                due && self.append_empty(slot, place, prev, (log, out))
            },
        }
    }

    /// A probe without an answer: another one. The answer to the former counts no more.
    fn probe_again(
        &mut self,
        slot: Slot,
        place: u8,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let peer = self.peer_mut(slot, place).expect("it is probed");
        peer.void();
        let prev = peer.next.prev();
        self.append_empty(slot, place, prev, (log, out))
    }

    /// An Append with what comes after what was sent, or without entries if there is nothing.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    fn append_entries(
        &mut self,
        (slot, place, here): (Slot, u8, usize),
        bytes_max: u32,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let peer = &self.peers.all[here];
        let (next, pace, lane) = (peer.next, peer.pace, peer.lane);
        let last = self.replicas[slot].last;
        let prev = next.prev();
        if next > last {
            return self.append_empty(slot, place, prev, (log, out));
        }
        if !self.has_room(slot, place, lane) {
            return false;
        }
        let Some((to, bytes)) = log.cached(self.place(slot), next, bytes_max) else {
            if pace == Pace::Probe {
                return self.append_empty(slot, place, prev, (log, out));
            }
            self.catch_up(slot, place, out);
            return false;
        };
        if to < next || to > last {
            return false;
        }
        let entries = Entries { from: next, to, bulk: false };
        if !self.post((slot, place, here), prev, Some((entries, bytes)), (log, out)) {
            return false;
        }
        self.counters.sent_bytes += u64::from(bytes);
        if pace == Pace::Replicate && to < last {
            self.touch(slot);
        }
        true
    }

    /// An Append without entries: who leads, what is committed, and do our logs meet at `prev`?
    fn append_empty(
        &mut self,
        slot: Slot,
        place: u8,
        prev: LogIndex,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let sent = self.post_append((slot, place), prev, None, (log, out));
        self.counters.empties += u64::from(sent);
        sent
    }

    /// Sends an Append, out of line.
    fn post_append(
        &mut self,
        (slot, place): (Slot, u8),
        prev: LogIndex,
        entries: Option<(Entries, u32)>,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let here = self.peer_at(slot, place).expect("it is a peer");
        self.post((slot, place, here), prev, entries, (log, out))
    }

    /// Sends an Append, with the entries and bytes given. What it sent is not sent again, unless
    /// where the logs meet is not known.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    fn post(
        &mut self,
        (slot, place, here): (Slot, u8, usize),
        prev: LogIndex,
        entries: Option<(Entries, u32)>,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let Some(prev_term) = self.term_before(slot, prev, log) else {
            self.broken(slot, crate::Rule::Floor);
            return false;
        };
        let used = self.peers.all[here].lane;
        let member = &self.conf(slot).conf.members[usize::from(place)];
        let (node, to_replica) = (member.node, member.replica);
        let Some(Road(lane)) = self.road(node, used) else {
            return false;
        };
        let now_used = lane.map_or(NO_LANE, |lane| lane.0);
        if now_used != used {
            self.move_peer(slot, place, now_used);
        }
        let it = &self.replicas[slot];
        let stamp = if it.flags & READS != 0 { it.read_seq } else { 0 };
        let commit = it.commit;
        let peer = &mut self.peers.all[here];
        peer.seq = peer.seq.wrapping_add(1);
        if peer.pace != Pace::Catchup || entries.is_some() {
            peer.probe_at = self.now_millis;
        }
        let to = entries.map_or(prev, |(entries, _)| entries.to);
        peer.sent_commit = peer.sent_commit.max(commit.min(to));
        if let Some((_, bytes)) = entries {
            peer.inflight = peer.inflight.saturating_add(bytes);
            if peer.pace != Pace::Probe {
                peer.next = to.next();
            }
        }
        let read_seq = if stamp > peer.acked_read { stamp } else { 0 };
        let hint = Hint {
            to_slot: peer.slot,
            to_generation: peer.generation,
            my_slot: slot,
            my_generation: it.generation,
            my_core: self.config.core,
        };
        let (shard, from, term, seq) = (it.shard, it.replica, it.term, peer.seq);
        let batches = BatchRange::default();
        let what = What::Append { prev, prev_term, commit, read_seq, batches };
        let message = Message { shard, to: to_replica, from, term, hint, support: 0, seq, what };
        let entries = entries.map(|(entries, _)| entries);
        out.send.push(Send { slot, node, lane, message, entries });
        self.counters.sent_appends += 1;
        true
    }

    /// The term of the entry that an Append of a leader goes behind; none: it is compacted.
    #[inline]
    fn term_before(&self, slot: Slot, prev: LogIndex, log: &impl Log) -> Option<Term> {
        let it = &self.replicas[slot];
        if prev == it.last {
            Some(it.last_term)
        } else if prev >= it.term_start {
            // From there on all entries are its own.
            Some(it.term)
        } else {
            log.term_at(self.place(slot), prev)
        }
    }

    /// Whether the lane of a peer takes entries; if not, the slot is looked at when it does.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    fn has_room(&mut self, slot: Slot, place: u8, lane: u16) -> bool {
        let room = self.lanes.get(usize::from(lane)).is_none_or(|lane| lane.room > 0);
        if !room {
            let peer = self.peer_mut(slot, place).expect("it is a peer");
            if peer.flags & NO_ROOM == 0 {
                peer.flags |= NO_ROOM;
                self.crowded.push((lane, slot));
            }
        }
        room
    }

    /// What a peer is told when there is no Append for it: a commit, a read to confirm.
    fn hint(&mut self, slot: Slot, place: u8, probe: bool, out: &mut Outbox) {
        let it = &self.replicas[slot];
        let (stamp, commit) = (it.read_seq, it.commit);
        let Some(peer) = self.peer(slot, place) else { return };
        let commit = commit.min(peer.matched);
        let what = if probe && peer.acked_read < stamp {
            What::ReadProbe { commit, read_seq: stamp }
        } else if commit > peer.sent_commit {
            What::CommitHint { commit }
        } else {
            return;
        };
        let Some(send) = self.envelope(slot, place, what) else { return };
        out.send.push(send);
        self.counters.hints += 1;
        let peer = self.peer_mut(slot, place).expect("it is a peer");
        peer.sent_commit = peer.sent_commit.max(commit);
    }

    /// The entries that a peer needs next are on disk only: they are read in the background.
    fn catch_up(&mut self, slot: Slot, place: u8, out: &mut Outbox) {
        let now = self.millis();
        let last = self.replicas[slot].last;
        let member = self.conf(slot).conf.members[usize::from(place)];
        let bytes_max = self.config.catchup_bytes_max;
        let peer = self.peer_mut(slot, place).expect("it is a peer");
        peer.pace = Pace::Catchup;
        peer.probe_at = now;
        let from = peer.next;
        let (peer, node) = (member.replica, member.node);
        out.fetch.push(Fetch { slot, peer, node, from, to: last, bytes_max, repair: false });
        self.counters.fetches += 1;
        self.mark_inflight(slot, true);
    }

    /// Entries that were asked for by [`Outbox::fetch`] were read: they are sent over the bulk
    /// lane.
    #[expect(clippy::missing_panics_doc, reason = "a peer that was looked up is there")]
    pub fn handle_fetched(
        &mut self,
        slot: Slot,
        got: Fetched,
        log: &mut impl Log,
        out: &mut Outbox,
    ) {
        if !self.is_open(slot) || self.replicas[slot].role != Role::Leader {
            return;
        }
        let (Fetched::Entries { peer, .. } | Fetched::Failed { peer }) = got;
        let Some(place) = self.conf(slot).place(peer) else { return };
        let Some(progress) = self.peer(slot, place).copied() else { return };
        if progress.pace != Pace::Catchup {
            return;
        }
        let it = &self.replicas[slot];
        let (last, floor) = (it.last, it.floor);
        match got {
            Fetched::Entries { from, .. } if from <= floor => {
                // Compacted meanwhile: a snapshot is needed.
                self.reset_peer(slot, place);
                self.touch(slot);
            },
            Fetched::Entries { from, to, bytes, .. }
                if from == progress.next && to >= from && to <= last =>
            {
                let entries = Some((Entries { from, to, bulk: true }, bytes));
                if self.post_append((slot, place), from.prev(), entries, (log, out)) {
                    self.mark_inflight(slot, true);
                } else {
                    self.reset_peer(slot, place);
                }
            },
            Fetched::Entries { .. } | Fetched::Failed { .. } => {
                // Asked again by the next beat, from what was confirmed.
                self.counters.fetches_failed += 1;
                self.reset_peer(slot, place);
                let peer = self.peer_mut(slot, place).expect("it is a peer");
                peer.acked_seq = peer.seq.wrapping_sub(1);
                self.mark_inflight(slot, true);
            },
        }
    }

    /// Looks at the leaders with Appends under way: who gets no answer is asked again.
    pub(crate) fn look_at_inflight(&mut self) {
        if self.inflight_at.is_none_or(|due| self.now < due) {
            return;
        }
        self.inflight_at = None;
        for word in 0..self.inflight.len() {
            let mut bits = self.inflight[word];
            while bits != 0 {
                let bit = usize::try_from(bits.trailing_zeros()).expect("below 64");
                bits &= bits - 1;
                self.look_at_slot(crate::core::slot_at(word * 64 + bit));
            }
        }
    }

    fn look_at_slot(&mut self, slot: Slot) {
        let leads = self.is_open(slot)
            && self.replicas[slot].role == Role::Leader
            && self.replicas[slot].damage == Damage::Normal;
        let mut waits = false;
        if leads {
            for place in 0..self.conf(slot).members {
                waits |= self.peer(slot, place).is_some_and(|peer| {
                    let asks = peer.waiting() > 0 || peer.is_half_caught_up();
                    asks || peer.pace == Pace::Catchup
                });
            }
        }
        self.mark_inflight(slot, waits);
        if waits {
            self.replicas[slot].flags |= BEAT;
            self.touch(slot);
        }
    }
}
