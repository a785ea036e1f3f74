//! What time brings: elections, beats without lanes, retries.

use crate::{BootTime, Log, Outbox, RaftCore, Role, Slot, alarm::Alarm, replica::TOUCHED};

impl RaftCore {
    /// Looks at up to `count_max` replicas whose time has come. The time is that of
    /// [`RaftCore::begin_pass`].
    pub fn handle_timer(&mut self, count_max: usize, log: &mut impl Log, out: &mut Outbox) {
        self.retry_stalled(count_max, log, out);
        while let Some((slot, generation, alarm)) = self.alarms.due(self.now) {
            if self.is_open(slot) && self.replicas[slot].generation == generation {
                match alarm {
                    Alarm::Transfer => self.end_transfer(slot, out),
                    Alarm::Snapshot(peer) => self.snapshot_due(slot, peer, out),
                    Alarm::Ask => self.ask_for_state(slot, out),
                }
            }
        }
        self.look_at_inflight();
        self.turn_wheel(count_max, log, out);
        self.settle(out);
    }

    /// When [`RaftCore::begin_pass`] and [`RaftCore::handle_timer`] have something to do.
    pub fn next_deadline(&self) -> Option<BootTime> {
        [
            self.retry_at,
            self.wheel.next(),
            self.alarms.next(),
            self.inflight_at,
            self.next_liveness(),
            (self.wheel.held() > 0).then(|| self.rate.next()),
            (!self.eager.is_empty() || self.is_walking()).then_some(self.now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Replicas whose deadline has come. Elections take turns, and those that somebody waits for
    /// come first.
    fn turn_wheel(&mut self, count_max: usize, log: &mut impl Log, out: &mut Outbox) {
        let mut count = 0;
        while count < count_max
            && let Some(slot) = self.eager.pop()
        {
            count += 1;
            if self.replicas[slot].role == Role::PreCandidate && self.armed(slot) {
                self.disarm(slot);
                self.time_has_come(slot, out);
            }
        }
        while count < count_max
            && let Some(slot) = self.wheel.due(self.now)
        {
            count += 1;
            self.time_has_come(slot, out);
        }
        while self.wheel.held() > 0
            && self.rate.take(self.now)
            && let Some(slot) = self.wheel.start()
        {
            self.stand(slot, log, out);
        }
    }

    /// A replica's deadline has come: a leader is heard, who may stand waits for its turn.
    fn time_has_come(&mut self, slot: Slot, out: &mut Outbox) {
        if !self.is_open(slot) || self.armed(slot) {
            return;
        }
        if self.replicas[slot].role == Role::Leader {
            self.beat_due(slot, out);
            return;
        }
        if !self.may_be_elected(slot) {
            return;
        }
        if self.bound(slot) {
            self.await_election(slot);
            return;
        }
        self.wheel.hold(slot, self.replicas[slot].flags & TOUCHED != 0);
    }

    /// Sets the deadline of a replica, in place of the one it had.
    pub(crate) fn arm(&mut self, slot: Slot, deadline: BootTime) {
        self.wheel.arm(self.now, slot, deadline);
    }

    /// Takes a replica out of the wheel.
    pub(crate) fn disarm(&mut self, slot: Slot) {
        self.wheel.disarm(slot);
    }

    /// Whether a replica has a deadline, or waits for its turn to stand.
    #[inline]
    pub(crate) fn armed(&self, slot: Slot) -> bool {
        self.wheel.is_armed(slot)
    }

    fn retry_stalled(&mut self, count_max: usize, log: &mut impl Log, out: &mut Outbox) {
        if self.retry_at.is_none_or(|due| self.now < due) {
            return;
        }
        let due = self.stalled.len();
        self.retry_at = (due > count_max).then_some(self.now);
        for _ in 0..due.min(count_max) {
            if let Some(slot) = self.wake_stalled().filter(|slot| self.must_campaign(*slot)) {
                self.campaign(slot, None, log, out);
            }
        }
    }

    /// Whether a sole voter has to campaign and may.
    #[inline]
    pub(crate) fn must_campaign(&self, slot: Slot) -> bool {
        let it = &self.replicas[slot];
        it.flags & crate::replica::CAMPAIGN != 0
            && it.damage == crate::Damage::Normal
            && !self.is_broken(slot)
            && self.stream_is_good(slot)
    }
}
