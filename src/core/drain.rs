//! Stopping a core: nothing new, what is in the log ends, the log is closed cleanly.

use std::sync::Arc;

use bowline_env::{Env, Nanos};
use bowline_statemachine::Machine;
use bowline_wal::LogStorage;

use super::replica::Replica;
use super::run::{Core, SharedCore};
use crate::ticket::Reply;
use crate::{Code, Error, Failure};

/// How long entries in the log may take to be applied once stopping began.
const ENTRIES_MAX: Nanos = Nanos::SECOND;

/// A stop under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    started: Nanos,
    /// Leaderships are on their way to other nodes.
    handing: bool,
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Refuses new writes from now on.
    pub(crate) fn start_drain(&mut self) {
        if self.drain.is_none() {
            let handing = self.hand_over_all();
            self.drain = Some(Drain { started: self.logs.now, handing });
        }
    }

    /// Whether the core has nothing left to wait for.
    pub(crate) fn drain_step(&mut self) -> bool {
        let Some(drain) = self.drain else { return false };
        let spent = self.logs.now.since(drain.started);
        let limit = self.options.handing.min(self.options.drain);
        let leads = |replica: &Replica<M>| replica.leader.is_some_and(|(_, it)| it == self.node);
        if drain.handing && spent < limit && self.replicas.iter().any(leads) {
            return false;
        }
        let entries_over = self.logs.queues.iter().all(super::queue::Queue::is_empty);
        if !entries_over && spent < ENTRIES_MAX {
            return false;
        }
        if !self.jobs_are_over() && spent < self.options.drain {
            return false;
        }
        self.answer_the_rest();
        true
    }

    /// The core ends by a panic: nothing new is taken, and whoever waits is told at once.
    pub(crate) fn abandon(&mut self) {
        self.inbox.close();
        // The port is given back, and what tasks have to answer is.
        self.lanes.doorman.gate.close();
        self.answer_the_rest();
        self.stop_tickets.clear();
        self.wakes.wake_all();
    }

    /// Answers everything that still waits: what is in the log may have been applied.
    fn answer_the_rest(&mut self) {
        for at in 0..self.logs.queues.len() {
            let queue = &mut self.logs.queues[at];
            for pending in queue.pending.drain(..) {
                pending.ticket.complete(Err(Error::stopped()), &mut self.wakes);
            }
            for waiting in queue.waiting.drain(..) {
                if let Some(ticket) = waiting.ticket {
                    let error = Error::Stopped { maybe_applied: true, cause: None };
                    ticket.complete(Err(error), &mut self.wakes);
                }
            }
            for wait in self.replicas[at].reads.drain(..) {
                wait.question.ticket.complete(Err(Error::stopped()), &mut self.wakes);
            }
        }
        for parked in self.parked.drain(..) {
            parked.call.into_ticket().complete(Err(Error::stopped()), &mut self.wakes);
        }
        for wait in self.flush_waits.drain(..) {
            wait.ticket.complete(Err(Error::stopped()), &mut self.wakes);
        }
        for ticket in self.members.tickets() {
            ticket.complete(Err(Error::stopped()), &mut self.wakes);
        }
        for handing in self.handing.drain(..) {
            handing.into_ticket().complete(Err(Error::stopped()), &mut self.wakes);
        }
        self.logs.bytes = 0;
    }
}

/// Closes the logs of a drained core and answers who asked it to stop.
pub(crate) async fn close<E: Env, L: LogStorage, M: Machine<E>>(core: SharedCore<E, L, M>) {
    let (streams, tickets, env, ledger, board) = {
        let mut core = core.borrow_mut();
        core.inbox.close();
        core.close_lanes();
        let streams = std::mem::take(&mut core.logs.streams);
        let tickets = std::mem::take(&mut core.stop_tickets);
        let ledger = Arc::clone(&core.lanes.doorman.ledger);
        (streams, tickets, core.env.clone(), ledger, Arc::clone(&core.board))
    };
    let number = env.core().0;
    let mut failure = None;
    for stream in streams {
        if let Err(error) = stream.close().await {
            let text = format!("the log was not closed cleanly: {error}");
            failure = Some(Arc::new(Failure::new(Some(number), Code::LOG_WRITE, text)));
        }
    }
    // The next life writes NODE too. A core that failed may hold it for ever.
    while !ledger.close() && !board.has_failed() {
        env.sleep_until(env.now().after(Nanos::from_millis(1))).await;
    }
    for ticket in tickets {
        let result = failure.as_ref().map_or(Ok(Reply::Unit), |cause| {
            let cause = Some(Arc::clone(cause));
            Err(Error::Stopped { maybe_applied: false, cause })
        });
        ticket.complete_now(result);
    }
}
