//! What became durable, and what never will.

use crate::{
    Damage, Log, LogIndex, Lsn, Outbox, RaftCore, Reason, Role, Slot, StreamNo,
    core::{CAMPAIGN, OPEN, STALLED, StreamState, at, slot_at},
};

impl RaftCore {
    /// Every write of `stream` up to `lsn` is durable: counts votes and entries, ends waits.
    pub fn handle_durable(&mut self, stream: StreamNo, lsn: Lsn, out: &mut Outbox) {
        let Some(place) = self.streams.iter().position(|known| known.no == stream) else {
            return;
        };
        let known = &mut self.streams[place];
        if lsn <= known.durable || known.state != StreamState::Good {
            return;
        }
        known.durable = lsn;
        while let Some(next) = self.streams[place].waiting.front().copied() {
            if next.lsn > lsn {
                break;
            }
            self.streams[place].waiting.pop_front();
            if self.cold[at(next.slot)].generation == next.generation {
                self.written(next.slot, lsn, out);
            }
        }
        for _ in 0..self.stalled.len() {
            self.wake_stalled();
        }
        self.retry_at = None;
    }

    /// The log `stream` failed: its replicas take nothing new, lead nothing and commit nothing.
    pub fn handle_stream_failed(&mut self, stream: StreamNo, out: &mut Outbox) {
        let Some(place) = self.streams.iter().position(|known| known.no == stream) else {
            return;
        };
        if self.streams[place].state == StreamState::Failed {
            return;
        }
        self.streams[place].state = StreamState::Failed;
        self.streams[place].waiting.clear();
        for nth in 0..self.hot.len() {
            let hot = &self.hot[nth];
            if usize::from(hot.stream) == place && hot.flags & OPEN != 0 {
                let slot = slot_at(nth);
                self.writes.forget(&mut self.warm[nth].pending);
                if self.hot[nth].role != Role::Follower {
                    self.report(slot, Reason::StreamFailed, out);
                }
                self.step_down(slot, out);
            }
        }
    }

    /// Looks at up to `count_max` replicas whose time has come: those that wait for room.
    pub fn handle_timer(&mut self, count_max: usize, log: &mut impl Log, out: &mut Outbox) {
        if self.retry_at.is_none_or(|due| self.now < due) {
            return;
        }
        let due = self.stalled.len();
        self.retry_at = (due > count_max).then_some(self.now);
        for _ in 0..due.min(count_max) {
            if let Some(slot) = self.wake_stalled().filter(|slot| self.may_campaign(*slot)) {
                self.campaign(slot, log);
            }
        }
        self.settle(out);
    }

    /// Puts the replica that waits longest for room back on the dirty list.
    fn wake_stalled(&mut self) -> Option<Slot> {
        let slot = self.stalled.pop_front()?;
        self.hot[at(slot)].flags &= !STALLED;
        self.touch(slot);
        Some(slot)
    }

    /// One replica's writes up to `lsn` are durable.
    fn written(&mut self, slot: Slot, lsn: Lsn, out: &mut Outbox) {
        if self.is_broken(slot) {
            return;
        }
        let (hot, warm) = (&mut self.hot[at(slot)], &mut self.warm[at(slot)]);
        while let Some(write) = self.writes.written(&mut warm.pending, lsn) {
            hot.durable = hot.durable.max(write.last.min(hot.last));
            warm.uncommitted = warm.uncommitted.saturating_sub(write.bytes);
        }
        let normal = hot.damage == Damage::Normal;
        if hot.role == Role::Candidate && hot.staged <= lsn && normal {
            self.win(slot, out);
        } else {
            self.touch(slot);
        }
    }

    /// The highest index that a quorum of the active configuration has durably (I6): with one
    /// voter, what this log has.
    pub(crate) fn quorum_match(&self, slot: Slot) -> LogIndex {
        self.hot[at(slot)].durable
    }

    /// Whether a replica has to campaign and may.
    pub(crate) fn may_campaign(&self, slot: Slot) -> bool {
        let hot = &self.hot[at(slot)];
        hot.flags & CAMPAIGN != 0
            && hot.damage == Damage::Normal
            && !self.is_broken(slot)
            && self.stream_is_good(slot)
    }
}
