//! Replicas that lost something, and streams that failed.
//!
//! Repairing votes and acknowledges, and leads nothing. Retired counts nowhere, for ever. Damaged
//! state asks for a snapshot.

use crate::{
    Damage, Fetch, LogIndex, Message, Origin, Outbox, RaftCore, Reason, Refused, Role, Slot,
    Verdict, What, Why, alarm::Alarm, core::StreamState,
};

/// Leaders of a failed stream that hand over in one pass.
const HANDING_MAX: usize = 64;

impl RaftCore {
    /// Ends a replica's leadership because of damage; it stays open.
    pub(crate) fn retire_damaged(&mut self, slot: Slot, out: &mut Outbox) {
        if self.replicas[slot].role != Role::Follower {
            self.hand_over(slot, Reason::Damaged, out);
        }
    }

    /// A refusal told that a stream failed; the next [`RaftCore::settle`] tells its replicas.
    pub(crate) fn poison(&mut self, slot: Slot) {
        let stream = &mut self.streams[usize::from(self.replicas[slot].stream)];
        if stream.state == StreamState::Good {
            stream.state = StreamState::Failing;
            self.trouble = true;
        }
    }

    /// What follows from a refusal of something that must get into the log.
    pub(crate) fn refused(&mut self, slot: Slot, refused: Refused) {
        match refused {
            Refused::NoRoom | Refused::BadChecksum => {
                self.counters.no_room += 1;
                self.stall(slot);
            },
            Refused::Poisoned => self.poison(slot),
        }
    }

    /// Leaders on failed streams hand over, some in each pass.
    pub(crate) fn hand_over_failed(&mut self, out: &mut Outbox) {
        for _ in 0..HANDING_MAX.min(self.handing.len()) {
            let Some(slot) = self.handing.pop_front() else { break };
            let failed = self.is_open(slot) && self.stream(slot).state == StreamState::Failed;
            if failed && self.replicas[slot].role != Role::Follower {
                self.hand_over(slot, Reason::StreamFailed, out);
            }
        }
    }

    /// A replica with damaged state asks its leader for a snapshot, and again after a while: an
    /// idle leader sends nothing that would remind it.
    pub(crate) fn ask_for_state(&mut self, slot: Slot, out: &mut Outbox) {
        if self.replicas[slot].damage != Damage::State {
            return;
        }
        let it = &self.replicas[slot];
        let (leader, own, generation) = (it.leader, it.replica, it.generation);
        if let Some(place) = self.conf(slot).place(leader).filter(|_| leader != own) {
            let floor = self.replicas[slot].floor;
            self.tell(slot, place, What::SnapshotNeeded { floor }, out);
        }
        let again = self.now.after(self.config.times.snapshot);
        self.alarms.set(again, slot, generation, Alarm::Ask);
    }

    /// A follower with damaged state tells its leader.
    pub(crate) fn say_state_is_damaged(
        &self,
        slot: Slot,
        from: Origin,
        m: &Message,
        out: &mut Outbox,
    ) {
        if self.replicas[slot].damage == Damage::State {
            let floor = self.replicas[slot].floor;
            out.send.push(self.answer(slot, from, m, What::SnapshotNeeded { floor }));
        }
    }

    /// A replica repairs its log: whoever has these entries committed sends them.
    pub(crate) fn on_fetch(
        &mut self,
        (slot, from): (Slot, Origin),
        m: &Message,
        (first, to): (LogIndex, LogIndex),
        out: &mut Outbox,
    ) -> Verdict {
        let to = to.min(self.replicas[slot].commit);
        let known = self.conf(slot).conf.member(m.from).is_some();
        if known && first <= self.replicas[slot].floor {
            // They are compacted: only a snapshot brings what they did.
            return self.on_snapshot_needed(slot, m, out);
        }
        if !known || first > to {
            return Verdict::False(Why::Unasked);
        }
        if self.replicas[slot].damage != Damage::Normal {
            return Verdict::False(Why::Unasked);
        }
        let bytes_max = self.config.catchup_bytes_max;
        let (peer, node) = (m.from, from.node);
        out.fetch.push(Fetch { slot, peer, node, from: first, to, bytes_max, repair: true });
        self.counters.fetches += 1;
        Verdict::Taken
    }

    /// Asks another member for entries whose bodies are lost here.
    pub(crate) fn ask_for_entries(
        &self,
        slot: Slot,
        from: LogIndex,
        to: LogIndex,
        out: &mut Outbox,
    ) {
        let what = What::FetchEntries { from, to };
        let leader = self.replicas[slot].leader;
        match self.conf(slot).place(leader) {
            Some(place) if leader != self.replicas[slot].replica => {
                self.tell(slot, place, what, out);
            },
            Some(_) | None => self.tell_all(slot, what, out),
        }
    }
}
