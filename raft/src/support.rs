//! Who is bound to a leader, and who supports one.
//!
//! A pair without a lane of its own, and every pair under [`crate::Liveness::Shard`], is *classic*:
//! a follower is bound for D after it heard its leader, a leader counts who was heard within D.

use crate::{
    BootTime, LaneEvent, LaneNo, Log, Message, Origin, Outbox, RaftCore, Reason, Role, Slot,
    core::at,
    replica::{BEAT, BY_MESSAGES, CLASSIC, NO_LANE, NO_QUORUM},
};

impl RaftCore {
    /// Whether a replica may neither campaign nor grant a vote.
    pub(crate) fn bound(&self, slot: Slot) -> bool {
        if self.now < self.config.quiet_until {
            return true;
        }
        if self.hot[at(slot)].role == Role::Leader {
            return self.supported(slot);
        }
        let classic = self.hot[at(slot)].flags & CLASSIC != 0;
        classic && self.now < self.heard_until(slot)
    }

    /// When a follower's promise ends; now, if it has none.
    pub(crate) fn bound_until(&self, slot: Slot) -> BootTime {
        let classic = self.hot[at(slot)].flags & CLASSIC != 0;
        let until = if classic { self.heard_until(slot) } else { self.now };
        until.max(self.config.quiet_until).max(self.now)
    }

    /// Until when a follower that heard its leader waits for it.
    fn heard_until(&self, slot: Slot) -> BootTime {
        let heard = self.cold[at(slot)].heard;
        if heard == 0 {
            return BootTime(0);
        }
        let ago = u64::from(self.millis().wrapping_sub(heard));
        BootTime(self.now.0.saturating_sub(ago.saturating_mul(1_000_000)))
            .after(self.config.times.support)
    }

    /// Whether a peer of a leader counts as supporter now.
    pub(crate) fn supports(&self, slot: Slot, place: u8) -> bool {
        let Some(peer) = self.peer(slot, place) else {
            return self.log_is_healthy(slot);
        };
        peer.flags & NO_QUORUM == 0 && self.within(peer.heard, self.config.times.support)
    }

    /// Whether a quorum of each half supports a leader.
    pub(crate) fn supported(&self, slot: Slot) -> bool {
        self.quorum(slot, |place| self.supports(slot, place))
    }

    /// A replica took an Append of its leader, or rejected it because the logs part.
    pub(crate) fn on_bind(&mut self, slot: Slot, from: Origin, m: &Message) {
        let heard = self.millis();
        let term = self.hot[at(slot)].term;
        let hot = &mut self.hot[at(slot)];
        hot.flags |= CLASSIC;
        hot.lane = from.lane.map_or(NO_LANE, |lane| lane.0);
        let cold = &mut self.cold[at(slot)];
        cold.heard = heard;
        cold.bound_term = term;
        cold.bound_to = m.from;
        if !self.armed(slot) {
            let deadline = self.bound_until(slot).after(self.delay(slot));
            self.arm(slot, deadline);
        }
    }

    /// A replica leads from now on: how its peers are counted.
    pub(crate) fn begin_lead(&mut self, slot: Slot) {
        let beat = self.now.after(self.config.times.heartbeat);
        self.arm(slot, beat);
    }

    /// A leader's own deadline: without a quorum it steps down at once, else it is heard again.
    pub(crate) fn beat_due(&mut self, slot: Slot, out: &mut Outbox) {
        if !self.supported(slot) {
            self.step_down(slot, Reason::NoQuorum, out);
            return;
        }
        self.hot[at(slot)].flags |= BEAT;
        self.touch(slot);
        let beat = self.now.after(self.config.times.heartbeat);
        self.arm(slot, beat);
    }

    /// Whether a peer's support is good for a lease.
    #[expect(clippy::unused_self, reason = "no lane support yet")]
    pub(crate) fn lease_supports(&self, _slot: Slot, _place: u8) -> bool {
        false
    }

    /// A replica is free: its leader leads no more.
    pub(crate) fn unbind(&mut self, slot: Slot) {
        self.cold[at(slot)].heard = 0;
        let hot = &mut self.hot[at(slot)];
        hot.support = 0;
        hot.flags &= !CLASSIC;
    }

    /// A leader heard a peer.
    pub(crate) fn on_answer(&mut self, slot: Slot, place: u8, from: Origin, _m: &Message) {
        let heard = self.millis();
        if let Some(peer) = self.peer_mut(slot, place) {
            peer.heard = heard;
            peer.flags |= BY_MESSAGES;
            peer.lane = from.lane.map_or(peer.lane, |lane| lane.0);
        }
    }

    /// A lane's connection is there; `boot` is the number of the peer's process.
    pub(crate) fn lane_up(&mut self, lane: LaneNo, boot: u64, _out: &mut Outbox) {
        self.lanes[usize::from(lane.0)].boot = boot;
    }

    /// What a lane brought beside messages.
    #[expect(clippy::unused_self, reason = "no lane support yet")]
    pub(crate) fn lane_event(
        &mut self,
        _lane: LaneNo,
        _event: LaneEvent<'_>,
        _log: &mut impl Log,
        _out: &mut Outbox,
    ) {
    }

    /// Promises and beliefs that ran out, and beats that are due.
    #[expect(clippy::unused_self, reason = "no lane support yet")]
    pub(crate) fn begin_support(&mut self, _out: &mut Outbox) {}

    /// When [`RaftCore::begin_support`] has something to do.
    #[expect(clippy::unused_self, reason = "no lane support yet")]
    pub(crate) fn next_liveness(&self) -> Option<BootTime> {
        None
    }
}
