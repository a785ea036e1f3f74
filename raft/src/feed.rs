//! What a leader sends to its peers: at most one Append each per pass.

use crate::{
    BatchRange, Damage, Entries, Fetch, Fetched, Log, LogIndex, Outbox, RaftCore, Role, Send, Slot,
    What,
    core::at,
    replica::{BEAT, BY_MESSAGES, NO_LANE, NO_ROOM, Pace, READS},
    send::Road,
};

/// Times the support time that a bulk transfer of entries may take.
const CATCHUP_PATIENCE: u64 = 4;

impl RaftCore {
    /// Sends what is new to every peer. `probe`: reads were stamped in this pass.
    pub(crate) fn feed(&mut self, slot: Slot, probe: bool, log: &mut impl Log, out: &mut Outbox) {
        let beat = self.hot[at(slot)].flags & BEAT != 0;
        self.hot[at(slot)].flags &= !BEAT;
        if self.peer_count(slot) == 0 || !self.log_is_healthy(slot) {
            return;
        }
        let own = self.hot[at(slot)].place;
        for place in 0..self.conf(slot).members {
            if place == own {
                continue;
            }
            let sent = self.feed_peer(slot, place, beat, (log, out));
            if !sent {
                self.hint(slot, place, probe, out);
            }
        }
    }

    /// One Append to one peer, if it is due one.
    fn feed_peer(
        &mut self,
        slot: Slot,
        place: u8,
        beat: bool,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let (last, floor) = (self.hot[at(slot)].last, self.warm[at(slot)].floor);
        let stale = self.config.times.heartbeat / 2;
        let Some(peer) = self.peer(slot, place).copied() else { return false };
        let quiet = !self.within(peer.probe_at, stale);
        let asked = peer.flags & BY_MESSAGES != 0 || peer.waiting() > 0 || peer.is_half_caught_up();
        let due = beat && quiet && asked;
        let below = peer.next.prev() < floor;
        if below && peer.pace != Pace::Snapshot {
            self.want_snapshot(slot, place, out);
        }
        let open = peer.waiting() < self.config.window_messages
            && peer.inflight < self.config.window_bytes;
        match peer.pace {
            _ if below || peer.pace == Pace::Snapshot => {
                self.offer_again(slot, place, out);
                due && self.append_empty(slot, place, floor, (log, out))
            },
            Pace::Snapshot => false,
            Pace::Probe if peer.waiting() == 0 => {
                self.append_entries(slot, place, self.config.probe_bytes_max, (log, out))
            },
            Pace::Probe => due && self.probe_again(slot, place, (log, out)),
            Pace::Replicate if peer.next <= last && open => {
                self.append_entries(slot, place, self.config.append_bytes_max, (log, out))
            },
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
    fn append_entries(
        &mut self,
        slot: Slot,
        place: u8,
        bytes_max: u32,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let peer = *self.peer(slot, place).expect("it is a peer");
        let (here, last) = (self.place(slot), self.hot[at(slot)].last);
        let prev = peer.next.prev();
        if peer.next > last {
            return self.append_empty(slot, place, prev, (log, out));
        }
        if !self.has_room(slot, place) {
            return false;
        }
        let Some((to, bytes)) = log.cached(here, peer.next, bytes_max) else {
            if peer.pace == Pace::Probe {
                return self.append_empty(slot, place, prev, (log, out));
            }
            self.catch_up(slot, place, out);
            return false;
        };
        if to < peer.next || to > last {
            return false;
        }
        let entries = Entries { from: peer.next, to, bulk: false };
        if !self.post_append((slot, place), prev, Some(entries), (log, out)) {
            return false;
        }
        let replicates = peer.pace == Pace::Replicate;
        let peer = self.peer_mut(slot, place).expect("it is a peer");
        if replicates {
            peer.next = to.next();
        }
        peer.inflight = peer.inflight.saturating_add(bytes);
        self.counters.sent_bytes += u64::from(bytes);
        if replicates && to < last {
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

    fn post_append(
        &mut self,
        (slot, place): (Slot, u8),
        prev: LogIndex,
        entries: Option<Entries>,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> bool {
        let hot = &self.hot[at(slot)];
        let (commit, last, flags) = (hot.commit, hot.last, hot.flags);
        let prev_term =
            if prev == last { Some(hot.last_term) } else { log.term_at(self.place(slot), prev) };
        let Some(prev_term) = prev_term else {
            self.broken(slot, crate::Rule::Floor);
            return false;
        };
        let cold = &self.cold[at(slot)];
        let stamp = if flags & READS != 0 { cold.read_seq } else { 0 };
        let peer = self.peer(slot, place).expect("it is a peer");
        let (used, acked_read) = (peer.lane, peer.acked_read);
        let member = &self.conf(slot).conf.members[usize::from(place)];
        let (node, to_replica) = (member.node, member.replica);
        let Some(Road(lane)) = self.road(node, used) else {
            return false;
        };
        let now_used = lane.map_or(NO_LANE, |lane| lane.0);
        if now_used != used {
            self.move_peer(slot, place, now_used);
        }
        let read_seq = if stamp > acked_read { stamp } else { 0 };
        let batches = BatchRange::default();
        let what = What::Append { prev, prev_term, commit, read_seq, batches };
        let mut message = self.letter(slot, to_replica, what);
        let (now, to) = (self.millis(), entries.map_or(prev, |entries| entries.to));
        let peer = self.peer_mut(slot, place).expect("it is a peer");
        peer.seq = peer.seq.wrapping_add(1);
        if peer.pace != Pace::Catchup || entries.is_some() {
            peer.probe_at = now;
        }
        peer.sent_commit = peer.sent_commit.max(commit.min(to));
        (message.hint.to_slot, message.hint.to_generation) = (peer.slot, peer.generation);
        (message.seq, message.support) = (peer.seq, 0);
        self.mark_inflight(slot, true);
        out.send.push(Send { slot, node, lane, message, entries });
        self.counters.sent_appends += 1;
        true
    }

    /// Whether the lane of a peer takes entries; if not, the slot is looked at when it does.
    fn has_room(&mut self, slot: Slot, place: u8) -> bool {
        let lane = self.peer(slot, place).map_or(NO_LANE, |peer| peer.lane);
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
        let stamp = self.cold[at(slot)].read_seq;
        let commit = self.hot[at(slot)].commit;
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
        let last = self.hot[at(slot)].last;
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
        if !self.is_open(slot) || self.hot[at(slot)].role != Role::Leader {
            return;
        }
        let (Fetched::Entries { peer, .. } | Fetched::Failed { peer }) = got;
        let Some(place) = self.conf(slot).place(peer) else { return };
        let Some(progress) = self.peer(slot, place).copied() else { return };
        if progress.pace != Pace::Catchup {
            return;
        }
        let (last, floor) = (self.hot[at(slot)].last, self.warm[at(slot)].floor);
        match got {
            Fetched::Entries { from, .. } if from <= floor => {
                // Compacted meanwhile: a snapshot is needed.
                self.reset_peer(slot, place);
                self.touch(slot);
            },
            Fetched::Entries { from, to, bytes, .. }
                if from == progress.next && to >= from && to <= last =>
            {
                let entries = Entries { from, to, bulk: true };
                if self.post_append((slot, place), from.prev(), Some(entries), (log, out)) {
                    let peer = self.peer_mut(slot, place).expect("it is a peer");
                    peer.next = to.next();
                    peer.inflight = peer.inflight.saturating_add(bytes);
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
            && self.hot[at(slot)].role == Role::Leader
            && self.hot[at(slot)].damage == Damage::Normal;
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
            self.hot[at(slot)].flags |= BEAT;
            self.touch(slot);
        }
    }
}
