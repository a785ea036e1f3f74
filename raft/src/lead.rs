//! Proposals: taken into a queue, appended as one batch a pass.

use crate::{
    Accepted, Budget, Damage, HardState, Log, LogIndex, Lsn, NOOP_BYTES, NewBatch, Outbox,
    ProposeError, RaftCore, Record, Refused, Rejected, ReplicaId, Slot,
    batch::{ALIGN_U32, FLAG_NOOP},
    core::StreamState,
    replica::{CLOSING, Replica, TOUCHED, TRANSFER},
};

/// Entries that belong together: they get neighbouring indexes in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Entries, at least one.
    pub count: u32,
    /// What they take in a batch body: the sum of [`crate::batch::entry_len`].
    pub bytes: u32,
    /// Comes back in [`Accepted`] or [`Rejected`].
    pub token: u64,
}

impl RaftCore {
    /// Queues a proposal for the next [`RaftCore::flush_pass`]. O(1); nothing is staged yet.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]: nothing changed.
    ///
    /// # Panics
    ///
    /// If the proposal has no entry, or fewer bytes than its entries take: a bug of the caller.
    #[inline]
    pub fn propose(&mut self, slot: Slot, p: Proposal) -> Result<(), ProposeError> {
        assert!(p.count > 0, "a proposal has an entry");
        assert!(p.bytes / 8 >= p.count, "an entry takes 8 bytes at least");
        if !self.serves(slot) {
            self.touch_leaderless(slot);
            return Err(self.why_not(slot));
        }
        if self.replicas[slot].flags & TRANSFER != 0 {
            return Err(ProposeError::Busy(Budget::Transfer));
        }
        let body = p.bytes.checked_next_multiple_of(ALIGN_U32);
        if body.is_none_or(|len| len > self.config.batch_bytes_max) {
            return Err(ProposeError::TooLarge);
        }
        let it = &mut self.replicas[slot];
        let total = it.uncommitted.saturating_add(p.bytes);
        if total > self.config.uncommitted_bytes_max && it.uncommitted > 0 {
            self.counters.busy_shard += 1;
            return Err(ProposeError::Busy(Budget::Shard));
        }
        it.uncommitted = total;
        self.proposals.push(&mut it.queue, p);
        self.touch(slot);
        Ok(())
    }

    /// Appends what is queued, one batch of at most `pass_bytes_max`; the rest stays dirty.
    pub(crate) fn append_queued(&mut self, slot: Slot, log: &mut impl Log, out: &mut Outbox) {
        let batch = self.next_batch(slot);
        if batch.proposals == 0 {
            return;
        }
        self.stage_commit(slot, u64::from(self.config.commit_every), log);
        match log.append(batch.new) {
            Ok(lsn) => {
                self.take_queued(slot, &batch, out);
                self.appended(slot, &batch.new, batch.charge, lsn);
                if !self.replicas[slot].queue.is_empty() {
                    self.touch(slot);
                }
            },
            Err(Refused::Poisoned) => self.refused(slot, Refused::Poisoned),
            Err(Refused::NoRoom | Refused::BadChecksum) => {
                self.counters.no_room += 1;
                self.reject_all(slot, out);
            },
        }
    }

    /// Writes the commit index down when it moved by `every` entries; rides with another write.
    #[inline]
    pub(crate) fn stage_commit(&mut self, slot: Slot, every: u64, log: &mut impl Log) {
        let it = &self.replicas[slot];
        if it.commit.0.saturating_sub(it.staged_commit.0) < every {
            return;
        }
        let (term, vote, commit) = (it.term, it.vote, it.commit);
        // A refusal costs nothing: the commit index is found again by the next leader.
        if log.stage(self.place(slot), Record::HardState(HardState { term, vote, commit })).is_ok()
        {
            self.replicas[slot].staged_commit = commit;
            self.counters.hard_states += 1;
        }
    }

    /// What the front of the queue makes up.
    #[inline]
    fn next_batch(&self, slot: Slot) -> Taken {
        let (mut count, mut bytes, mut proposals) = (0_u32, 0_u32, 0_u32);
        for p in self.proposals.iter(self.replicas[slot].queue) {
            let total = bytes.saturating_add(p.bytes);
            let over = total.checked_next_multiple_of(ALIGN_U32);
            if proposals > 0 && over.is_none_or(|len| len > self.config.pass_bytes_max) {
                break;
            }
            let Some(entries) = count.checked_add(p.count) else { break };
            (count, bytes, proposals) = (entries, total, proposals + 1);
        }
        let bytes_padded = bytes.next_multiple_of(ALIGN_U32);
        let new = NewBatch { count, proposals, ..self.tail_batch(slot, bytes_padded, 0) };
        Taken { new, proposals, charge: bytes }
    }

    /// A batch behind the end of a leader's log: one entry, no proposal.
    #[inline]
    pub(crate) fn tail_batch(&self, slot: Slot, bytes: u32, flags: u16) -> NewBatch<'static> {
        let it = &self.replicas[slot];
        NewBatch {
            at: self.place(slot),
            first: it.last.next(),
            term: it.term,
            prev_term: it.last_term,
            count: 1,
            proposals: 0,
            bytes,
            flags,
            payload: &[],
        }
    }

    #[inline]
    fn take_queued(&mut self, slot: Slot, batch: &Taken, out: &mut Outbox) {
        let mut first = batch.new.first;
        for _ in 0..batch.proposals {
            let queue = &mut self.replicas[slot].queue;
            let p = self.proposals.pop(queue).expect("the batch was counted over this queue");
            out.accepted.push(Accepted { slot, token: p.token, first, term: batch.new.term });
            first = LogIndex(first.0 + u64::from(p.count));
        }
    }

    /// Turns every queued proposal away.
    pub(crate) fn reject_all(&mut self, slot: Slot, out: &mut Outbox) {
        let why =
            if self.serves(slot) { ProposeError::Busy(Budget::Log) } else { self.why_not(slot) };
        while let Some(p) = self.proposals.pop(&mut self.replicas[slot].queue) {
            let it = &mut self.replicas[slot];
            it.uncommitted = it.uncommitted.saturating_sub(p.bytes);
            self.counters.rejected += 1;
            out.rejected.push(Rejected { slot, token: p.token, why });
        }
    }

    /// Why a replica takes no proposal; `NoLeader` also when nothing forbids it.
    pub(crate) fn why_not(&self, slot: Slot) -> ProposeError {
        let Some(it) = self.replicas.get(slot) else {
            return ProposeError::Closed;
        };
        if !self.is_open(slot) || it.flags & CLOSING != 0 {
            return ProposeError::Closed;
        }
        if it.damage != Damage::Normal {
            return ProposeError::Damaged;
        }
        if self.stream(slot).state != StreamState::Good {
            return ProposeError::StreamFailed;
        }
        match self.leader_of(slot) {
            Some(leader) if leader != self.replicas[slot].replica => {
                ProposeError::NotLeader { leader }
            },
            Some(_) | None => ProposeError::NoLeader,
        }
    }

    /// Who leads, as far as this replica knows.
    pub(crate) fn leader_of(&self, slot: Slot) -> Option<ReplicaId> {
        Some(self.replicas[slot].leader).filter(|leader| leader.0 != 0)
    }

    /// Somebody wants something of a replica without a leader, or with one that is lost: it is
    /// elected before others.
    pub(crate) fn touch_leaderless(&mut self, slot: Slot) {
        let lost = |it: &Replica| it.leader.0 == 0 || self.wheel.is_held(slot);
        if self.is_open(slot) && lost(&self.replicas[slot]) {
            self.replicas[slot].flags |= TOUCHED;
            self.wheel.urge(slot);
        }
    }

    /// Appends the first entry of a leader's term, without which nothing of it commits.
    pub(crate) fn append_noop(&mut self, slot: Slot, log: &mut impl Log) {
        let noop = self.tail_batch(slot, NOOP_BYTES, FLAG_NOOP);
        match log.append(noop) {
            Ok(lsn) => {
                self.counters.noops += 1;
                self.appended(slot, &noop, 0, lsn);
            },
            Err(refused) => self.refused(slot, refused),
        }
    }

    /// Moves the tail over a batch that the log took.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn appended(&mut self, slot: Slot, batch: &NewBatch<'_>, charge: u32, lsn: Lsn) {
        let it = &mut self.replicas[slot];
        it.last = LogIndex(it.last.0 + u64::from(batch.count));
        it.last_term = batch.term;
        self.counters.appends += 1;
        self.counters.entries += u64::from(batch.count);
        self.counters.bytes += u64::from(batch.bytes);
        if charge > 0 {
            self.charges.push(&mut it.charges, (it.last, charge));
        }
        self.note_write(slot, lsn);
    }
}

/// The batch that the front of a queue makes up.
struct Taken {
    new: NewBatch<'static>,
    proposals: u32,
    /// Proposal bytes charged to the shard.
    charge: u32,
}
