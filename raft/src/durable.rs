//! What became durable, and what never will.

use crate::{
    Damage, LogIndex, Lsn, Outbox, RaftCore, Role, Rule, Slot, StreamNo,
    core::{StreamState, Waiting, slot_at},
    replica::{BROKEN, CAMPAIGN, OPEN, STALLED},
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
        let ready = known.waiting.partition_point(|next| next.lsn <= lsn);
        for nth in 0..ready {
            let next = self.streams[place].waiting[nth];
            if self.replicas[next.slot].generation == next.generation {
                self.written(next.slot, (next.last, lsn), out);
            }
        }
        self.streams[place].waiting.drain(..ready);
        self.let_go(place, out);
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
        // What waits for a write that never comes is never said.
        self.streams[place].held.clear();
        for slot in (0..self.replicas.len()).map(slot_at) {
            let it = &self.replicas[slot];
            if usize::from(it.stream) == place && it.flags & OPEN != 0 {
                self.disarm(slot);
                self.reject_all(slot, out);
                self.reject_reads(slot, out);
                if self.replicas[slot].role != Role::Follower {
                    self.handing.push_back(slot);
                }
            }
        }
        self.hand_over_failed(out);
    }

    /// Lets out what waited for a write that is durable now, in LSN order (I4).
    #[inline]
    fn let_go(&mut self, place: usize, out: &mut Outbox) {
        let stream = &mut self.streams[place];
        let durable = stream.held.partition_point(|(lsn, _)| *lsn <= stream.durable);
        out.send.extend(stream.held.range(..durable).map(|(_, send)| *send));
        stream.held.drain(..durable);
    }

    /// Remembers what a write covers, and whom to tell when it is durable.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn note_write(&mut self, slot: Slot, lsn: Lsn) {
        let it = &mut self.replicas[slot];
        let stream = &mut self.streams[usize::from(it.stream)];
        if lsn < stream.staged || lsn <= stream.durable {
            self.broken(slot, Rule::Lsn);
            return;
        }
        stream.staged = lsn;
        it.staged = lsn;
        let (last, generation, since) = (it.last, it.generation, self.now);
        match stream.waiting.back_mut() {
            Some(newest) if newest.slot == slot && newest.lsn == lsn => newest.last = last,
            Some(_) | None => {
                stream.waiting.push_back(Waiting { lsn, last, slot, generation, since });
            },
        }
    }

    /// A log was cut above `last`: no write of it covers more any longer.
    pub(crate) fn lower_writes(&mut self, slot: Slot, last: LogIndex) {
        let stream = &mut self.streams[usize::from(self.replicas[slot].stream)];
        let its = stream.waiting.iter_mut().filter(|write| write.slot == slot);
        its.for_each(|write| write.last = write.last.min(last));
    }

    /// Puts the replica that waits longest for room back on the dirty list.
    pub(crate) fn wake_stalled(&mut self) -> Option<Slot> {
        let slot = self.stalled.pop_front()?;
        self.replicas[slot].flags &= !STALLED;
        self.touch(slot);
        Some(slot)
    }

    /// A replica's write up to `last` is durable, as is all up to `lsn`.
    #[inline]
    fn written(&mut self, slot: Slot, (last, lsn): (LogIndex, Lsn), out: &mut Outbox) {
        let it = &mut self.replicas[slot];
        if it.flags & BROKEN != 0 {
            return;
        }
        it.durable = it.durable.max(last.min(it.last));
        let normal = it.damage == Damage::Normal;
        match it.role {
            Role::Candidate if it.staged <= lsn && normal => self.own_vote(slot, out),
            // A sole voter that could not stage its vote waits for room.
            Role::Follower if it.flags & CAMPAIGN == 0 => {},
            Role::Leader | Role::Candidate | Role::Follower | Role::PreCandidate => {
                self.touch(slot);
            },
        }
    }
}
