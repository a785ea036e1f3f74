//! What a leader knows of its peers, and what their answers change.
//!
//! `matched` never falls. The newest answer covers older ones; a refusal of an Append that is not
//! the newest state of affairs is ignored.

use alloc::vec::Vec;

use crate::{
    Log, LogIndex, Message, Origin, Outbox, Place, RaftCore, Reason, Role, Slot, Term, Verdict,
    What, Why,
    core::at,
    message::Mismatch,
    replica::{CAUGHT_ONCE, CAUGHT_UP, NO_QUORUM, OFFERED, Pace, Progress},
};

/// No progress.
pub(crate) const NO_PEERS: u32 = u32::MAX;
const SIZES: usize = crate::MEMBERS_MAX + 1;

/// The progresses of all leaders: neighbours in one vector, blocks used again by size.
#[derive(Debug, Default)]
pub(crate) struct ProgressSlab {
    pub(crate) all: Vec<Progress>,
    free: [Vec<u32>; SIZES],
}

impl ProgressSlab {
    /// A block of `count` fresh progresses.
    pub(crate) fn open(&mut self, count: usize) -> u32 {
        if let Some(first) = self.free[count].pop() {
            self.all[index(first)..][..count].fill(Progress::default());
            return first;
        }
        let first = u32::try_from(self.all.len()).expect("slots and members are bounded");
        self.all.resize(self.all.len() + count, Progress::default());
        first
    }

    pub(crate) fn close(&mut self, first: u32, count: usize) {
        self.free[count].push(first);
    }
}

impl RaftCore {
    /// The peers of a leader: everybody but itself.
    pub(crate) fn peer_count(&self, slot: Slot) -> usize {
        let conf = self.conf(slot);
        let own = usize::from(self.replicas[slot].place < conf.members);
        usize::from(conf.members) - own
    }

    /// Where the progress of a member is; none: it is this replica, or nobody leads here.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn peer_at(&self, slot: Slot, place: u8) -> Option<usize> {
        let it = &self.replicas[slot];
        let (first, own) = (it.progress, it.place);
        let members = self.confs[usize::from(it.conf)].members;
        if first == NO_PEERS || place == own || place >= members {
            return None;
        }
        Some(index(first) + usize::from(place) - usize::from(place > own))
    }

    #[inline]
    pub(crate) fn peer(&self, slot: Slot, place: u8) -> Option<&Progress> {
        self.peer_at(slot, place).map(|place| &self.peers.all[place])
    }

    #[inline]
    pub(crate) fn peer_mut(&mut self, slot: Slot, place: u8) -> Option<&mut Progress> {
        self.peer_at(slot, place).map(|place| &mut self.peers.all[place])
    }

    /// Begins to follow the peers of a new leader.
    pub(crate) fn open_peers(&mut self, slot: Slot) {
        let count = self.peer_count(slot);
        self.replicas[slot].progress = self.peers.open(count);
        for place in 0..self.conf(slot).members {
            self.open_peer(slot, place);
        }
    }

    /// A peer of which nothing is known: its log is asked for.
    pub(crate) fn open_peer(&mut self, slot: Slot, place: u8) {
        let next = self.replicas[slot].last.next();
        let heard = self.millis();
        let node = self.conf(slot).conf.members[usize::from(place)].node;
        let lane = self.lane_to(node).map_or(crate::replica::NO_LANE, |lane| lane.0);
        if let Some(peer) = self.peer_mut(slot, place) {
            *peer = Progress { next, lane, heard, ..Progress::default() };
            peer.flags = crate::replica::BY_MESSAGES;
        }
    }

    pub(crate) fn close_peers(&mut self, slot: Slot) {
        let first = self.replicas[slot].progress;
        if first != NO_PEERS {
            self.count_led(slot);
            let count = self.peer_count(slot);
            self.peers.close(first, count);
            self.replicas[slot].progress = NO_PEERS;
        }
        self.mark_inflight(slot, false);
    }

    /// Moves the progresses of a leader over to a configuration that takes effect.
    pub(crate) fn move_peers(&mut self, slot: Slot, to: u16) {
        let own = self.replicas[slot].replica;
        let old: Vec<_> = (0..self.conf(slot).members)
            .map(|place| {
                let replica = self.conf(slot).conf.members[usize::from(place)].replica;
                (replica, self.peer(slot, place).copied())
            })
            .collect();
        self.close_peers(slot);
        self.replicas[slot].conf = to;
        self.replicas[slot].place = self.conf(slot).place(own).unwrap_or(crate::open::NO_MEMBER);
        self.open_peers(slot);
        for (replica, progress) in old {
            if let Some(place) = self.conf(slot).place(replica)
                && let Some(progress) = progress
                && let Some(peer) = self.peer_mut(slot, place)
            {
                *peer = progress;
            }
        }
        self.count_led(slot);
        if !self.armed(slot) {
            self.begin_lead(slot);
        }
        self.mark_inflight(slot, true);
    }

    /// Whether a quorum of each half says yes.
    pub(crate) fn quorum(&self, slot: Slot, yes: impl Fn(u8) -> bool) -> bool {
        let conf = self.conf(slot);
        let most = |half: u16| {
            let count = (0..conf.members).filter(|at| half & (1 << at) != 0 && yes(*at)).count();
            count > count_of(half) / 2
        };
        most(conf.before) && (conf.after == conf.before || most(conf.after))
    }

    /// The highest value that a quorum of each half has reached.
    #[inline]
    pub(crate) fn quorum_value(&self, slot: Slot, own: u64, its: impl Fn(&Progress) -> u64) -> u64 {
        let it = &self.replicas[slot];
        let (conf, place) = (&self.confs[usize::from(it.conf)], it.place);
        let count = usize::from(conf.members) - usize::from(place < conf.members);
        let peers = match it.progress {
            NO_PEERS => &[][..],
            first => &self.peers.all[index(first)..][..count],
        };
        let value = |at: u8| counted((peers, place), at, own, &its);
        if conf.before == 0b111 && conf.after == 0b111 {
            // Three voters: the one in the middle.
            let (a, b, c) = (value(0), value(1), value(2));
            return a.max(b).min(a.min(b).max(c));
        }
        let reached = |half: u16| {
            let mut values = [0_u64; crate::VOTERS_MAX];
            let mut count = 0;
            for place in 0..conf.members {
                if half & (1 << place) != 0 {
                    values[count] = value(place);
                    count += 1;
                }
            }
            let values = &mut values[..count];
            values.sort_unstable_by(|a, b| b.cmp(a));
            values.get(count / 2).copied().unwrap_or(0)
        };
        let before = reached(conf.before);
        if conf.after == conf.before { before } else { before.min(reached(conf.after)) }
    }

    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn on_append_resp(
        &mut self,
        (slot, sender): (Slot, Option<u8>),
        from: Origin,
        m: &Message,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Verdict {
        let What::AppendResp { matched, reject, no_quorum } = m.what else {
            return Verdict::False(Why::Unasked);
        };
        let it = &self.replicas[slot];
        if it.role != Role::Leader {
            return Verdict::False(Why::Unasked);
        }
        let Some(place) = sender else {
            return Verdict::False(Why::Sender);
        };
        if matched > it.last {
            return Verdict::False(Why::Index);
        }
        let here = self.peer_at(slot, place).expect("the sender is another member");
        self.on_answer((slot, place, here), from, m);
        let peer = &mut self.peers.all[here];
        (peer.slot, peer.generation) = (m.hint.my_slot, m.hint.my_generation);
        peer.flags = if no_quorum { peer.flags | NO_QUORUM } else { peer.flags & !NO_QUORUM };
        let fresh = m.seq.wrapping_sub(peer.acked_seq).wrapping_sub(1) < peer.waiting();
        match reject {
            None => {
                self.acked((slot, place, here), matched, fresh.then_some(m.seq), log);
                Verdict::Taken
            },
            Some(part) if fresh => {
                self.rejected((slot, place), part, log, out);
                Verdict::Taken
            },
            Some(_) => Verdict::False(Why::Stale),
        }
    }

    /// A peer has everything up to `matched`, durably.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    fn acked(
        &mut self,
        (slot, place, progress): (Slot, u8, usize),
        matched: LogIndex,
        seq: Option<u16>,
        log: &impl Log,
    ) {
        let it = &self.replicas[slot];
        let stream = self.streams[usize::from(it.stream)].no;
        let here = Place { slot, shard: it.shard, stream };
        let (last, commit, floor) = (it.last, it.commit, it.floor);
        let conf = &self.confs[usize::from(it.conf)];
        let votes = conf.before & conf.after & (1 << place) != 0;
        let (messages, window) = (self.config.window_messages, self.config.window_bytes);
        let peer = &mut self.peers.all[progress];
        let full = peer.waiting() >= messages || peer.inflight >= window;
        let pace = peer.pace;
        if let Some(seq) = seq {
            peer.acked_seq = seq;
        }
        if matched > peer.matched {
            let bytes = log.bytes(here, peer.matched.next(), matched);
            peer.inflight = peer.inflight.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
            peer.matched = matched;
            if peer.pace == Pace::Snapshot {
                // What was offered arrived; if it is not enough, another one is.
                peer.flags &= !OFFERED;
            }
        }
        if peer.acked_seq == peer.seq {
            peer.inflight = 0;
        }
        peer.next = peer.next.max(peer.matched.next());
        let met = match peer.pace {
            Pace::Snapshot => peer.matched >= floor,
            Pace::Catchup => peer.matched.next() >= peer.next,
            Pace::Probe | Pace::Replicate => false,
        };
        if peer.pace == Pace::Probe && seq.is_some() {
            peer.pace = Pace::Replicate;
            peer.next = peer.matched.max(matched).next();
        } else if met {
            // It goes on in the ordinary way, over the lane.
            peer.void();
            peer.pace = Pace::Probe;
            peer.next = peer.matched.next();
        }
        let news = matched > commit || full || peer.next <= last || peer.pace != pace;
        let hint = peer.sent_commit < commit.min(peer.matched);
        if news || hint {
            self.touch(slot);
        }
        if !votes {
            self.note_lag(slot, place, log);
        }
    }

    /// A peer's log parts from ours.
    fn rejected(
        &mut self,
        (slot, place): (Slot, u8),
        part: Mismatch,
        log: &impl Log,
        out: &mut Outbox,
    ) {
        self.counters.rejected_appends += 1;
        let next = self.meeting(slot, part, log).next();
        let floor = self.replicas[slot].floor;
        let peer = self.peer_mut(slot, place).expect("it answered");
        peer.flags &= !(CAUGHT_ONCE | CAUGHT_UP);
        let lost = part.index < peer.matched;
        match peer.pace {
            Pace::Snapshot if next.prev() < floor => {
                peer.acked_seq = peer.seq;
                return;
            },
            Pace::Snapshot | Pace::Probe | Pace::Replicate | Pace::Catchup => {},
        }
        peer.void();
        peer.pace = Pace::Probe;
        peer.next = next.max(peer.matched.next());
        if lost {
            // It acknowledged more than it has. Its match stays; the next beat asks again.
            peer.acked_seq = peer.seq.wrapping_sub(1);
            self.counters.lost_tails += 1;
            self.report(slot, Reason::PeerLostTail, out);
        } else {
            self.touch(slot);
        }
    }

    /// The largest index not above a peer's hint whose term here is not above the hint's.
    fn meeting(&self, slot: Slot, part: Mismatch, log: &impl Log) -> LogIndex {
        let here = self.place(slot);
        let it = &self.replicas[slot];
        let mut high = part.index.min(it.last);
        let mut low = it.floor.min(high);
        while low < high {
            let middle = LogIndex(low.0 + (high.0 - low.0).div_ceil(2));
            let above = log.term_at(here, middle).is_some_and(|term: Term| term > part.term);
            if above { high = middle.prev() } else { low = middle }
        }
        // Below the floor only a snapshot meets it.
        let above = log.term_at(here, low).is_some_and(|term: Term| term > part.term);
        if above { low.prev() } else { low }
    }

    /// Whether a peer that is to become a voter has caught up: twice in a row.
    fn note_lag(&mut self, slot: Slot, place: u8, log: &impl Log) {
        let (here, last) = (self.place(slot), self.replicas[slot].last);
        let limit = u64::from(self.config.promote_lag_bytes);
        let Some(peer) = self.peer(slot, place).copied() else { return };
        let near = peer.pace == Pace::Replicate
            && (peer.matched >= last || log.bytes(here, peer.matched.next(), last) <= limit);
        let peer = self.peer_mut(slot, place).expect("it is a peer");
        let once = peer.flags & CAUGHT_ONCE != 0;
        peer.flags &= !(CAUGHT_ONCE | CAUGHT_UP);
        if near {
            peer.flags |= if once { CAUGHT_ONCE | CAUGHT_UP } else { CAUGHT_ONCE };
        }
        if near && once {
            self.touch(slot);
        } else if near {
            // An idle leader asks once more.
            self.mark_inflight(slot, true);
        }
    }

    /// Everything under way to a peer is lost, or may be.
    pub(crate) fn reset_peer(&mut self, slot: Slot, place: u8) {
        if let Some(peer) = self.peer_mut(slot, place) {
            peer.void();
            peer.flags &= !(CAUGHT_ONCE | CAUGHT_UP);
            match peer.pace {
                // Where the logs meet is not known yet, or below the floor.
                Pace::Probe | Pace::Snapshot => {},
                Pace::Replicate | Pace::Catchup => {
                    peer.pace = Pace::Probe;
                    peer.next = peer.matched.next();
                },
            }
        }
    }

    /// Puts a leader on the list of those with Appends under way, or takes it off.
    #[inline]
    pub(crate) fn mark_inflight(&mut self, slot: Slot, on: bool) {
        let (word, bit) = (at(slot) / 64, 1_u64 << (at(slot) % 64));
        if on {
            if self.inflight.len() <= word {
                self.inflight.resize(word + 1, 0);
            }
            self.inflight[word] |= bit;
            if self.inflight_at.is_none() {
                self.inflight_at = Some(self.now.after(self.config.times.heartbeat));
            }
        } else if let Some(word) = self.inflight.get_mut(word) {
            *word &= !bit;
        }
    }
}

/// The leader's own place, or that of a peer that counts: its value; else 0.
#[inline]
fn counted(
    (peers, own_place): (&[Progress], u8),
    place: u8,
    own: u64,
    its: impl Fn(&Progress) -> u64,
) -> u64 {
    if place == own_place {
        return own;
    }
    match peers.get(usize::from(place) - usize::from(place > own_place)) {
        Some(peer) if peer.flags & NO_QUORUM != 0 => 0,
        Some(peer) => its(peer),
        None => own,
    }
}

impl Progress {
    /// No answer to what was sent so far is waited for.
    pub(crate) fn void(&mut self) {
        self.acked_seq = self.seq;
        self.inflight = 0;
    }

    /// Whether it showed no lag once: it has to show it twice.
    pub(crate) fn is_half_caught_up(&self) -> bool {
        self.flags & (CAUGHT_ONCE | CAUGHT_UP) == CAUGHT_ONCE
    }

    /// Appends without an answer.
    pub(crate) fn waiting(&self) -> u16 {
        self.seq.wrapping_sub(self.acked_seq)
    }
}

#[inline]
fn count_of(half: u16) -> usize {
    usize::try_from(half.count_ones()).expect("at most 16")
}

#[inline]
fn index(at: u32) -> usize {
    usize::try_from(at).expect("usize holds a u32")
}
