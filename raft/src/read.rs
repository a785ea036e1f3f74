//! Linearizable reads: a read gets the commit index of the pass it came in and waits until that
//! index is applied. Before an entry of the leader's own term is committed, it waits.

use crate::{
    Budget, LogIndex, Outbox, ProposeError, RaftCore, ReadError, ReadReady, ReadRejected, Role,
    Slot,
    core::{WaitingRead, at},
};

/// How a read is made sure to see every write that was answered before it came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// A quorum confirms that this replica still leads.
    #[default]
    ReadIndex,
    /// By the leader's lease; without one, as `ReadIndex`. A sole voter needs neither.
    Lease,
}

impl RaftCore {
    /// Queues a read for the next [`RaftCore::flush_pass`]. O(1).
    ///
    /// # Errors
    ///
    /// [`ReadError`]: nothing changed.
    pub fn read(&mut self, slot: Slot, mode: ReadMode, token: u64) -> Result<(), ReadError> {
        let (ReadMode::ReadIndex | ReadMode::Lease) = mode;
        if !self.serves(slot) {
            return Err(read_error(self.why_not(slot)));
        }
        let used = u32::try_from(self.waiting_reads.used()).unwrap_or(u32::MAX);
        if used >= self.config.reads_max {
            return Err(ReadError::Busy(Budget::Reads));
        }
        let read = WaitingRead { token, index: LogIndex(0) };
        self.waiting_reads.push(&mut self.cold[at(slot)].reads, read);
        self.touch(slot);
        Ok(())
    }

    /// The index of a read that may be served right now; none: queue it with [`RaftCore::read`].
    ///
    /// It is there when this replica is the sole voter, leads with a committed entry of its own
    /// term, and everything committed is applied.
    pub fn read_now(&self, slot: Slot, mode: ReadMode) -> Option<LogIndex> {
        let (ReadMode::ReadIndex | ReadMode::Lease) = mode;
        let commit = self.hot.get(at(slot))?.commit;
        let warm = &self.warm[at(slot)];
        let ready = self.serves(slot) && commit >= warm.term_start && warm.applied >= commit;
        ready.then_some(commit)
    }

    /// The state machine has applied everything handed out up to `index`.
    pub fn handle_applied(&mut self, slot: Slot, index: LogIndex) {
        if !self.is_open(slot) {
            return;
        }
        let warm = &mut self.warm[at(slot)];
        if index > warm.handed || index < warm.applied {
            self.broken(slot, crate::Rule::Applied);
            return;
        }
        warm.applied = index;
        if !self.cold[at(slot)].stamped.is_empty() {
            self.touch(slot);
        }
    }

    /// Gives the reads waiting their index, and hands out those whose index is applied.
    pub(crate) fn flush_reads(&mut self, slot: Slot, out: &mut Outbox) {
        let (hot, warm) = (&self.hot[at(slot)], &self.warm[at(slot)]);
        let cold = &mut self.cold[at(slot)];
        if hot.role == Role::Leader && hot.commit >= warm.term_start {
            while let Some(read) = self.waiting_reads.pop(&mut cold.reads) {
                let stamped = WaitingRead { index: hot.commit, ..read };
                self.waiting_reads.push(&mut cold.stamped, stamped);
            }
        }
        while let Some(read) = self.waiting_reads.front(cold.stamped) {
            if read.index > warm.applied {
                break;
            }
            self.waiting_reads.pop(&mut cold.stamped);
            self.counters.reads += 1;
            out.reads.push(ReadReady { slot, token: read.token, index: read.index });
        }
    }

    /// Turns every waiting read away.
    pub(crate) fn reject_reads(&mut self, slot: Slot, out: &mut Outbox) {
        let why = read_error(self.why_not(slot));
        let cold = &mut self.cold[at(slot)];
        for chain in [&mut cold.stamped, &mut cold.reads] {
            while let Some(read) = self.waiting_reads.pop(chain) {
                out.reads_rejected.push(ReadRejected { slot, token: read.token, why });
            }
        }
    }
}

fn read_error(why: ProposeError) -> ReadError {
    match why {
        ProposeError::NotLeader { leader } => ReadError::NotLeader { leader },
        ProposeError::Busy(budget) => ReadError::Busy(budget),
        ProposeError::Damaged => ReadError::Damaged,
        ProposeError::StreamFailed => ReadError::StreamFailed,
        ProposeError::Closed => ReadError::Closed,
        ProposeError::NoLeader | ProposeError::TooLarge => ReadError::NoLeader,
    }
}
