//! The two ends of a pass.

use crate::{
    BootTime, Damage, Log, LogIndex, Outbox, RaftCore, Reason, Role, Rule, Slot,
    core::StreamState,
    replica::{BROKEN, CLOSING, DIRTY, OPEN},
};

impl RaftCore {
    /// Opens a pass. `now` must not be older than that of an earlier pass; if it is, it is ignored.
    pub fn begin_pass(&mut self, now: BootTime, out: &mut Outbox) {
        self.set_now(now);
        self.events = 0;
        self.begin_support(out);
        self.walk_lanes();
        self.hand_over_failed(out);
        self.settle(out);
    }

    /// Ends a pass: appends one batch per replica that has proposals, commits what is durable,
    /// and hands out what is committed. `now` is read after the rings were drained.
    pub fn flush_pass(&mut self, now: BootTime, log: &mut impl Log, out: &mut Outbox) {
        self.set_now(now);
        core::mem::swap(&mut self.dirty, &mut self.walk);
        for nth in 0..self.walk.len() {
            let slot = self.walk[nth];
            let flags = &mut self.replicas[slot].flags;
            *flags &= !DIRTY;
            match *flags & (OPEN | BROKEN | CLOSING) {
                flags if flags & (OPEN | BROKEN) == OPEN => self.flush_slot(slot, log, out),
                flags if flags & CLOSING != 0 => self.release(slot, Reason::Closed, out),
                _ => {},
            }
        }
        self.walk.clear();
        while let Some((slot, from, to)) = self.repairs.pop() {
            if self.is_open(slot) {
                self.ask_for_entries(slot, from, to, out);
            }
        }
        self.settle(out);
    }

    #[inline]
    fn flush_slot(&mut self, slot: Slot, log: &mut impl Log, out: &mut Outbox) {
        if self.replicas[slot].only_hears() {
            self.hand_out(slot, out);
            return;
        }
        if self.replicas[slot].damage != Damage::Normal {
            self.retire_damaged(slot, out);
        }
        if self.stream_is_good(slot) {
            self.write(slot, log, out);
            self.commit(slot);
            let probe = self.stamp_reads(slot, out);
            if self.replicas[slot].role == Role::Leader {
                self.lead(slot, probe, log, out);
            }
        }
        if self.replicas[slot].flags & CLOSING == 0 {
            self.hand_out(slot, out);
            self.flush_reads(slot, out);
            return;
        }
        if self.stream_is_good(slot) {
            self.stage_commit(slot, 1, log);
        }
        self.release(slot, Reason::Closed, out);
    }

    /// Everything that this replica wants in its log now, in the order of replay.
    #[inline]
    fn write(&mut self, slot: Slot, log: &mut impl Log, out: &mut Outbox) {
        if self.must_campaign(slot) {
            self.campaign(slot, None, log, out);
        }
        if self.replicas[slot].compact > LogIndex(0) {
            self.compact(slot, log);
        }
        let it = &self.replicas[slot];
        if it.role != Role::Leader || it.flags & CLOSING != 0 {
            return;
        }
        if it.last < it.term_start {
            self.append_noop(slot, log);
        }
        let it = &self.replicas[slot];
        if it.last < it.term_start {
            self.reject_all(slot, out);
            return;
        }
        if !self.changes.is_empty() {
            self.append_change(slot, log, out);
        }
        if !self.replicas[slot].queue.is_empty() {
            self.append_queued(slot, log, out);
        }
    }

    /// What a leader does after its log moved: tells its peers, and sees whether it goes on.
    #[inline]
    fn lead(&mut self, slot: Slot, probe: bool, log: &mut impl Log, out: &mut Outbox) {
        if self.conf(slot).members > 1 || self.replicas[slot].place == crate::open::NO_MEMBER {
            let conf = self.conf(slot);
            let votes =
                conf.after.checked_shr(u32::from(self.replicas[slot].place)).unwrap_or(0) & 1;
            if votes == 1 && !conf.moves && self.changes.is_empty() {
                self.feed(slot, probe, log, out);
                self.push_transfer(slot, out);
                return;
            }
            self.next_change(slot);
            if self.changes.contains_key(&slot) {
                // Appended by the next flush, before anything commits under it.
                self.touch(slot);
            }
            self.feed(slot, probe, log, out);
            self.push_transfer(slot, out);
            self.leave_if_removed(slot, out);
        }
    }

    /// Tells of streams and replicas that failed since.
    #[inline]
    pub(crate) fn settle(&mut self, out: &mut Outbox) {
        if self.trouble {
            self.settle_trouble(out);
        }
    }

    fn settle_trouble(&mut self, out: &mut Outbox) {
        self.trouble = false;
        for nth in 0..self.streams.len() {
            if self.streams[nth].state == StreamState::Failing {
                self.handle_stream_failed(self.streams[nth].no, out);
            }
        }
        while let Some((slot, rule)) = self.ill.pop() {
            self.end_broken(slot, rule, out);
        }
    }

    fn end_broken(&mut self, slot: Slot, rule: Rule, out: &mut Outbox) {
        if self.replicas[slot].flags & OPEN != 0 {
            self.report(slot, Reason::Broken(rule), out);
            self.step_down(slot, Reason::Broken(rule), out);
            self.disarm(slot);
        }
    }
}
