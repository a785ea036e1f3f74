//! Who is bound to a leader, and who supports one.
//!
//! Over a lane of its own a pair is bound by what the lane promised ([`crate::promise`]): nothing
//! is sent or counted for an idle shard. A pair without one, and every pair under
//! [`crate::Liveness::Shard`], is *classic*: a follower is bound for D after it heard its leader, a
//! leader counts who was heard within D. A new pair is classic until its lane has promised; so a
//! leader has D to gather support, and keeps sending until it has.
//!
//! What is compared is compared at use; the round over the slots only wakes who has to move.

use crate::{
    BootTime, LaneNo, Liveness, Message, Origin, Outbox, RaftCore, Reason, Role, Slot,
    core::MILLI,
    digest::mix,
    replica::{BEAT, BY_MESSAGES, CLASSIC, NO_LANE, NO_QUORUM, NO_ROOM, Progress},
};

impl RaftCore {
    /// Whether a replica may neither campaign nor grant a vote.
    pub(crate) fn bound(&self, slot: Slot) -> bool {
        if self.now < self.config.quiet_until {
            return true;
        }
        if self.replicas[slot].role == Role::Leader {
            return self.supported(slot);
        }
        let classic = self.replicas[slot].flags & CLASSIC != 0;
        self.is_promised(slot) || (classic && self.now < self.heard_until(slot))
    }

    /// When a follower's promise ends; now, if it has none.
    pub(crate) fn bound_until(&self, slot: Slot) -> BootTime {
        let it = &self.replicas[slot];
        let classic = it.flags & CLASSIC != 0;
        let heard = if classic { self.heard_until(slot) } else { self.now };
        let promised = match self.lanes.get(usize::from(it.lane)) {
            Some(lane) if self.is_promised(slot) => lane.promise.until().unwrap_or(self.now),
            Some(_) | None => self.now,
        };
        heard.max(promised).max(self.config.quiet_until).max(self.now)
    }

    /// Whether a follower is bound by what its leader's lane was promised.
    #[inline]
    pub(crate) fn is_promised(&self, slot: Slot) -> bool {
        let it = &self.replicas[slot];
        let lane = self.lanes.get(usize::from(it.lane));
        it.support != 0 && lane.is_some_and(|lane| lane.promise.holds(it.support, self.now))
    }

    /// Whether a follower is bound by a promise that is watched, or the round over the slots will
    /// free it (I9).
    pub(crate) fn is_held(&self, slot: Slot) -> bool {
        let it = &self.replicas[slot];
        let lane = self.lanes.get(usize::from(it.lane));
        let watched = lane.is_some_and(|lane| {
            it.support == lane.promise.epoch() && lane.promise.until().is_some()
        });
        it.support != 0 && (watched || self.audit.is_under_way())
    }

    /// Until when a follower that heard its leader waits for it.
    fn heard_until(&self, slot: Slot) -> BootTime {
        let heard = self.replicas[slot].heard;
        if heard == 0 {
            return BootTime(0);
        }
        let ago = u64::from(self.millis().wrapping_sub(heard));
        BootTime(self.now.0.saturating_sub(ago.saturating_mul(MILLI)))
            .after(self.config.times.support)
    }

    /// Whether a peer of a leader counts as supporter now.
    pub(crate) fn supports(&self, slot: Slot, place: u8) -> bool {
        let Some(peer) = self.peer(slot, place) else {
            return self.log_is_healthy(slot);
        };
        let heard =
            peer.flags & BY_MESSAGES != 0 && self.within(peer.heard, self.config.times.support);
        peer.flags & NO_QUORUM == 0 && (heard || self.lane_supports(peer))
    }

    /// Whether a quorum of each half supports a leader.
    pub(crate) fn supported(&self, slot: Slot) -> bool {
        self.quorum(slot, |place| self.supports(slot, place))
    }

    /// Whether a peer's support is good for a lease at `now`: promised, and asked for after this
    /// process stood still for the last time.
    pub(crate) fn lease_supports(&self, slot: Slot, place: u8, now: BootTime) -> bool {
        let Some(peer) = self.peer(slot, place) else {
            return self.log_is_healthy(slot);
        };
        let supports = self.lanes.get(usize::from(peer.lane)).is_some_and(|lane| {
            lane.belief.is_since(self.resumed_at) && lane.belief.supports(peer.support, now)
        });
        supports && peer.flags & NO_QUORUM == 0
    }

    /// Whether a peer is bound under an epoch in which its node is believed to stand.
    pub(crate) fn lane_supports(&self, peer: &Progress) -> bool {
        let lane = self.lanes.get(usize::from(peer.lane));
        lane.is_some_and(|lane| lane.belief.supports(peer.support, self.now))
    }

    /// A replica took an Append of its leader, or rejected it because the logs part.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn on_bind(&mut self, slot: Slot, from: Origin, m: &Message) {
        let it = &self.replicas[slot];
        let (heard, term, other) = (self.millis(), it.term, it.bound_to != m.from);
        let promise = from.lane.and_then(|lane| self.promise_over(lane));
        if promise.is_none() && !other && it.support != 0 && self.is_promised(slot) {
            // Only another leader's Append replaces a promise.
            let kept = (it.lane, it.support);
            self.set_support(slot, kept, term);
            return;
        }
        self.set_support(slot, promise.unwrap_or((NO_LANE, 0)), term);
        let it = &mut self.replicas[slot];
        it.bound_to = m.from;
        it.heard = heard;
        if promise.is_some() {
            it.flags &= !CLASSIC;
            self.disarm(slot);
            return;
        }
        it.flags |= CLASSIC;
        if !self.armed(slot) {
            let deadline = self.bound_until(slot).after(self.delay(slot));
            self.arm(slot, deadline);
        }
    }

    /// The lane and epoch under which a replica is bound that takes an Append over `lane` now.
    #[inline]
    fn promise_over(&self, lane: LaneNo) -> Option<(u16, u32)> {
        if self.config.liveness == Liveness::Shard {
            return None;
        }
        let epoch = self.lanes.get(usize::from(lane.0))?.promise.binds(self.now)?;
        Some((lane.0, epoch))
    }

    /// Notes under what a follower is bound, and keeps the sums of the lanes true.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    fn set_support(&mut self, slot: Slot, (lane, support): (u16, u32), term: crate::Term) {
        let it = &mut self.replicas[slot];
        let (old_lane, old_support, old_term) = (it.lane, it.support, it.bound_term);
        if (old_lane, old_support, old_term) == (lane, support, term) {
            if let Some(lane) = self.lanes.get(usize::from(lane))
                && support == lane.promise.epoch()
            {
                it.sweep = lane.sweep;
            }
            return;
        }
        if let Some(old) = self.lanes.get_mut(usize::from(old_lane))
            && old_support == old.promise.epoch()
        {
            old.followed_hash ^= mix(it.shard, old_term);
        }
        (it.lane, it.support, it.bound_term) = (lane, support, term);
        if let Some(new) = self.lanes.get_mut(usize::from(lane))
            && support == new.promise.epoch()
        {
            it.sweep = new.sweep;
            new.followed_hash ^= mix(it.shard, term);
        }
    }

    /// A replica goes from this core; what it promised is kept by silence if it comes back.
    pub(crate) fn keep_promise(&mut self, slot: Slot) {
        let (now, shard, until) = (self.now, self.replicas[slot].shard, self.bound_until(slot));
        self.silent.retain(|(_, until)| *until > now);
        if until > now && self.replicas[slot].role != Role::Leader {
            self.silent.push((shard, until));
        }
    }

    /// A replica comes to this core: it is bound for D if it was when it left.
    pub(crate) fn find_promise(&mut self, slot: Slot) {
        let (now, shard) = (self.now, self.replicas[slot].shard);
        if self.silent.iter().any(|(silent, until)| *silent == shard && *until > now) {
            let heard = self.millis();
            let it = &mut self.replicas[slot];
            it.heard = heard;
            it.flags |= CLASSIC;
        }
    }

    /// A replica is free: its leader leads no more.
    pub(crate) fn unbind(&mut self, slot: Slot) {
        let term = self.replicas[slot].bound_term;
        self.set_support(slot, (NO_LANE, 0), term);
        let it = &mut self.replicas[slot];
        it.heard = 0;
        it.flags &= !CLASSIC;
    }

    /// A leader heard a peer, in its own term.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn on_answer(
        &mut self,
        (slot, place, progress): (Slot, u8, usize),
        from: Origin,
        m: &Message,
    ) {
        let lane = from.lane.map_or(NO_LANE, |lane| lane.0);
        let known = self.lanes.get(usize::from(lane));
        let by_lane = self.config.liveness == Liveness::Lane;
        let view = known.filter(|_| by_lane).map_or(0, |lane| lane.belief.noted(m.support));
        let (heard, armed) = (self.millis(), self.armed(slot));
        let peer = &mut self.peers.all[progress];
        peer.heard = heard;
        let same_lane = peer.lane == lane;
        if view != 0 {
            peer.flags &= !BY_MESSAGES;
            if !same_lane || peer.support != view {
                self.move_peer(slot, place, lane);
                self.note_view(slot, place, view);
            }
        } else if !(armed && peer.flags & BY_MESSAGES != 0 && peer.support == 0 && same_lane) {
            self.on_answer_without_lane(slot, place, lane);
        }
    }

    /// The answer of a peer that is not bound by its lane: it gets beats.
    fn on_answer_without_lane(&mut self, slot: Slot, place: u8, lane: u16) {
        if self.peer(slot, place).is_some_and(|peer| !self.lane_supports(peer)) {
            if lane != NO_LANE {
                self.move_peer(slot, place, lane);
            }
            self.send_beats(slot, place);
        }
    }

    /// A leader uses a lane for a peer: what it knows of another lane says nothing on this one.
    pub(crate) fn move_peer(&mut self, slot: Slot, place: u8, lane: u16) {
        if self.peer(slot, place).is_some_and(|peer| peer.lane != lane) {
            self.note_view(slot, place, 0);
            if let Some(peer) = self.peer_mut(slot, place) {
                peer.lane = lane;
                peer.flags &= !NO_ROOM;
            }
        }
    }

    /// Notes the view under which a peer is bound, and keeps the sum of its lane true.
    fn note_view(&mut self, slot: Slot, place: u8, view: u32) {
        let word = mix(self.replicas[slot].shard, self.replicas[slot].term);
        let Some(peer) = self.peer_mut(slot, place) else { return };
        let (lane, old) = (peer.lane, core::mem::replace(&mut peer.support, view));
        if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
            let counts = |noted: u32| noted != 0 && noted == lane.belief.view();
            if counts(old) != counts(view) {
                lane.led_hash ^= word;
            }
        }
    }

    /// Takes a leader's peers out of the sums of their lanes, or puts them back in: the same call.
    pub(crate) fn count_led(&mut self, slot: Slot) {
        let word = mix(self.replicas[slot].shard, self.replicas[slot].term);
        for place in 0..self.conf(slot).members {
            let Some(peer) = self.peer(slot, place).copied() else { continue };
            if let Some(lane) = self.lanes.get_mut(usize::from(peer.lane))
                && peer.support != 0
                && peer.support == lane.belief.view()
            {
                lane.led_hash ^= word;
            }
        }
    }

    /// A replica leads from now on: how its peers are counted.
    pub(crate) fn begin_lead(&mut self, slot: Slot) {
        let beat = self.now.after(self.config.times.heartbeat);
        self.arm(slot, beat);
    }

    /// A leader's own deadline: without a quorum it steps down at once, else those that follow by
    /// messages get one. A leader whose peers are all bound by lanes has no deadline.
    pub(crate) fn beat_due(&mut self, slot: Slot, out: &mut Outbox) {
        if !self.supported(slot) {
            self.step_down(slot, Reason::NoQuorum, out);
            return;
        }
        let mut beats = false;
        for place in 0..self.conf(slot).members {
            let Some(peer) = self.peer(slot, place).copied() else { continue };
            if peer.flags & BY_MESSAGES == 0 {
                continue;
            }
            let gone = self.is_beyond_messages(peer.lane)
                && !self.within(peer.heard, self.config.times.support);
            if gone {
                // Its node does not answer; once it does, the round over the slots begins again.
                let peer = self.peer_mut(slot, place).expect("it is a peer");
                peer.flags &= !BY_MESSAGES;
            } else {
                beats = true;
            }
        }
        if beats {
            self.replicas[slot].flags |= BEAT;
            self.touch(slot);
            let beat = self.now.after(self.config.times.heartbeat);
            self.arm(slot, beat);
        }
    }

    /// Whether beats over a lane are in vain: it is down, or its other end has stopped granting.
    fn is_beyond_messages(&self, lane: u16) -> bool {
        let Some(lane) = self.lanes.get(usize::from(lane)).filter(|lane| lane.known) else {
            return false;
        };
        let by_lane = self.config.liveness == Liveness::Lane;
        let silent = lane.belief.was_granted() && !lane.belief.lives(self.now);
        by_lane && (!lane.up || silent)
    }

    /// Lets a peer have a message each beat, until it is bound by its lane.
    fn send_beats(&mut self, slot: Slot, place: u8) {
        if let Some(peer) = self.peer_mut(slot, place) {
            peer.flags |= BY_MESSAGES;
        }
        if !self.armed(slot) {
            self.begin_lead(slot);
        }
    }

    /// Looks at one replica after promises, beliefs or leaderships ended or began.
    pub(crate) fn audit(&mut self, slot: Slot, out: &mut Outbox) {
        if !self.is_open(slot) {
            return;
        }
        if self.replicas[slot].role == Role::Leader {
            self.audit_leader(slot, out);
        } else if self.replicas[slot].support != 0 {
            self.audit_follower(slot, out);
        }
    }

    fn audit_follower(&mut self, slot: Slot, out: &mut Outbox) {
        let it = &self.replicas[slot];
        let (sweep, swept) = match self.lanes.get(usize::from(it.lane)) {
            Some(lane) => (it.sweep, lane.swept),
            None => (it.sweep, it.sweep),
        };
        // Sweeps count around: less than half of the numbers behind is older.
        let older = (1..=u16::MAX / 2).contains(&swept.wrapping_sub(sweep));
        if self.is_promised(slot) && !older {
            return;
        }
        self.unbind(slot);
        if self.replicas[slot].role == Role::Follower {
            if older {
                self.lose_leader(slot, out);
            }
            if self.may_be_elected(slot) {
                self.await_election(slot);
            }
        }
    }

    fn audit_leader(&mut self, slot: Slot, out: &mut Outbox) {
        let heard = self.millis();
        for place in 0..self.conf(slot).members {
            let Some(peer) = self.peer(slot, place).copied() else { continue };
            let lane = self.lanes.get(usize::from(peer.lane));
            let lives = lane.is_some_and(|lane| lane.belief.lives(self.now));
            let bound = peer.flags & BY_MESSAGES != 0 || self.lane_supports(&peer);
            if lives && !bound {
                // A new epoch: it has D to say that it is bound, and an Append to be bound by.
                self.send_beats(slot, place);
                let peer = self.peer_mut(slot, place).expect("it is a peer");
                peer.heard = heard;
                self.replicas[slot].flags |= BEAT;
                self.touch(slot);
            }
        }
        if self.conf(slot).moves {
            // A learner that has caught up waits for nothing but to be believed there.
            self.touch(slot);
        }
        if !self.supported(slot) {
            self.step_down(slot, Reason::NoQuorum, out);
        }
    }
}
