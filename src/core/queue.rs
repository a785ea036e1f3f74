//! The road of a shard's proposals through its core: pending, then waiting for their commit.
//!
//! A proposal is *pending* until raft takes it into a batch, then *waiting* under (index, term).
//! Only what is applied at that index settles it: the same term gives its output, another term
//! means that it certainly was not applied.

use std::collections::VecDeque;

use bowline_env::Nanos;
use bowline_raft::{LogIndex, ShardId, Term};
use bowline_statemachine::envelope::LogClock;
use bytes::Bytes;

use crate::ticket::Ticket;

/// A command that is not in the log yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) kind: u8,
    /// The state machine's version that it needs; 0 until it is admitted.
    pub(crate) version: u16,
    pub(crate) body: Bytes,
    pub(crate) ticket: Ticket,
    pub(crate) arrived: Nanos,
    pub(crate) deadline: Nanos,
}

/// A command that is in the log and not applied yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// None once its deadline passed: the caller was told that it may still be applied.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) arrived: Nanos,
    pub(crate) deadline: Nanos,
    pub(crate) bytes: usize,
}

/// One shard's proposals.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) shard: ShardId,
    /// Its stream's place on this core.
    pub(crate) stream: usize,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) clock: LogClock,
    /// No ticket here is due before this.
    pub(crate) deadline_min: Nanos,
    /// It is on the list of queues that hold tickets.
    pub(crate) listed: bool,
}

impl Queue {
    pub(crate) fn new(shard: ShardId, stream: usize) -> Self {
        Self {
            shard,
            stream,
            pending: VecDeque::new(),
            waiting: VecDeque::new(),
            clock: LogClock::lead(0, &mut [], 0),
            deadline_min: Nanos(u64::MAX),
            listed: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn push(&mut self, pending: Pending) {
        self.deadline_min = self.deadline_min.min(pending.deadline);
        self.pending.push_back(pending);
    }

    /// Keeps a command that is in the log now. A leader of old that leads again may have others at
    /// the same index, whose fate is not known yet: they stand in the order of (index, term).
    pub(crate) fn wait(&mut self, waiting: Waiting) {
        let key = |it: &Waiting| (it.index, it.term);
        if self.waiting.back().is_none_or(|last| key(last) < key(&waiting)) {
            self.waiting.push_back(waiting);
        } else {
            let at = self.waiting.partition_point(|it| key(it) < key(&waiting));
            self.waiting.insert(at, waiting);
        }
    }

    /// Takes the tickets that are due at `now`; their commands are in the log and may be applied.
    pub(crate) fn expire(&mut self, now: Nanos, mut due: impl FnMut(Ticket)) {
        let mut next = Nanos(u64::MAX);
        for waiting in &mut self.waiting {
            if waiting.ticket.is_none() {
                continue;
            }
            if waiting.deadline <= now {
                if let Some(ticket) = waiting.ticket.take() {
                    due(ticket);
                }
            } else {
                next = next.min(waiting.deadline);
            }
        }
        // A pending command keeps its place, for raft counted it; its caller is answered from the
        // log.
        for pending in &self.pending {
            next = next.min(pending.deadline);
        }
        self.deadline_min = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_leads_again_keeps_the_order_of_index_and_term() {
        let mut queue = Queue::new(ShardId(1), 0);
        let mut wait = |index, term| {
            queue.wait(Waiting {
                index: LogIndex(index),
                term: Term(term),
                ticket: None,
                arrived: Nanos(0),
                deadline: Nanos(0),
                bytes: 0,
            });
        };
        for (index, term) in [(1, 1), (2, 1), (5, 1), (2, 3), (3, 3), (6, 3)] {
            wait(index, term);
        }
        let order: Vec<_> = queue.waiting.iter().map(|it| (it.index.0, it.term.0)).collect();
        assert_eq!(order, [(1, 1), (2, 1), (2, 3), (3, 3), (5, 1), (6, 3)]);
    }
}
