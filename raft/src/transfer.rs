//! Handing leadership over: to a target that was asked for, or to the best voter when this replica
//! cannot go on.

use crate::{
    AdminError, Log, LogIndex, Message, Outbox, RaftCore, Reason, ReplicaId, Role, Slot, Verdict,
    What, Why,
    alarm::Alarm,
    open::NO_MEMBER,
    replica::{NO_LEASE, NO_QUORUM, Pace, TRANSFER},
};

impl RaftCore {
    /// Begins a transfer: no proposal is taken until it ends, at the latest after D.
    pub(crate) fn transfer(&mut self, slot: Slot, to: ReplicaId) -> Result<(), AdminError> {
        if !self.serves(slot) {
            return Err(AdminError::NotLeader);
        }
        if self.replicas[slot].flags & TRANSFER != 0 || self.changes.contains_key(&slot) {
            return Err(AdminError::Busy);
        }
        let unknown = AdminError::UnknownMember { replica: to };
        let place = self.conf(slot).place(to).ok_or(unknown)?;
        let voters = self.conf(slot).before | self.conf(slot).after;
        let peer = *self.peer(slot, place).ok_or(AdminError::NoChange)?;
        let node = self.conf(slot).conf.members[usize::from(place)].node;
        let ready = voters & (1 << place) != 0
            && self.road(node, peer.lane).is_some()
            && peer.pace == Pace::Replicate
            && peer.flags & NO_QUORUM == 0
            && self.supports(slot, place);
        if !ready {
            return Err(AdminError::NotCaughtUp { replica: to });
        }
        let it = &mut self.replicas[slot];
        it.flags |= TRANSFER;
        it.transfer = place;
        let generation = it.generation;
        let end = self.now.after(self.config.times.support);
        self.alarms.set(end, slot, generation, Alarm::Transfer);
        self.counters.transfers += 1;
        Ok(())
    }

    /// Lets the target of a transfer campaign once it has the whole log.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn push_transfer(&mut self, slot: Slot, out: &mut Outbox) {
        if self.replicas[slot].flags & TRANSFER != 0 {
            self.push_target(slot, out);
        }
    }

    fn push_target(&mut self, slot: Slot, out: &mut Outbox) {
        let place = self.replicas[slot].transfer;
        if place == NO_MEMBER {
            return;
        }
        let last = self.replicas[slot].last;
        if self.peer(slot, place).is_some_and(|peer| peer.matched == last) {
            // No lease for the rest of this term: the target is elected in spite of our support.
            let it = &mut self.replicas[slot];
            it.flags |= NO_LEASE;
            it.transfer = NO_MEMBER;
            self.tell(slot, place, What::TimeoutNow, out);
        }
    }

    /// The time of a transfer is over, whether it succeeded or not.
    pub(crate) fn end_transfer(&mut self, slot: Slot, out: &mut Outbox) {
        let it = &mut self.replicas[slot];
        if it.role == Role::Leader && it.flags & TRANSFER != 0 {
            it.flags &= !TRANSFER;
            it.transfer = NO_MEMBER;
            self.report(slot, Reason::TransferEnded, out);
            self.touch(slot);
        }
    }

    /// The leader asks this replica to take over.
    pub(crate) fn on_timeout_now(
        &mut self,
        slot: Slot,
        m: &Message,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> Verdict {
        let it = &self.replicas[slot];
        if it.role != Role::Follower || it.leader != m.from || !self.may_stand(slot) {
            return Verdict::False(Why::Unasked);
        }
        if self.now < self.config.quiet_until {
            return Verdict::False(Why::Unasked);
        }
        let promised = self.replicas[slot].term;
        self.unbind(slot);
        self.lose_leader(slot, out);
        let it = &mut self.replicas[slot];
        it.round = it.round.wrapping_add(1);
        self.campaign(slot, Some(promised), log, out);
        if self.replicas[slot].role == Role::Follower {
            self.await_election(slot);
        }
        Verdict::Taken
    }

    /// Ends a leadership in favour of the voter that has most, at once.
    pub(crate) fn hand_over(&mut self, slot: Slot, reason: Reason, out: &mut Outbox) {
        let it = &mut self.replicas[slot];
        if it.role == Role::Leader {
            it.flags |= NO_LEASE;
            if let Some(place) = self.best_voter(slot) {
                self.tell(slot, place, What::TimeoutNow, out);
            }
        }
        self.step_down(slot, reason, out);
    }

    /// The voter with the highest match that is there.
    fn best_voter(&self, slot: Slot) -> Option<u8> {
        let conf = self.conf(slot);
        let mut best: Option<(LogIndex, u8)> = None;
        for place in 0..conf.members {
            let votes = conf.after & (1 << place) != 0;
            let Some(peer) = self.peer(slot, place) else { continue };
            let there = peer.flags & NO_QUORUM == 0 && self.supports(slot, place);
            if votes && there && best.is_none_or(|(matched, _)| peer.matched > matched) {
                best = Some((peer.matched, place));
            }
        }
        best.map(|(_, place)| place)
    }
}
