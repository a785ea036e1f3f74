//! Requests of callers: refused at the earliest place that knows, or handed on.

use core::time::Duration;
use std::rc::Rc;

use bowline_env::{Class, Env, Nanos};
use bowline_raft::batch::entry_len;
use bowline_raft::{Proposal, ProposeError, Role, ShardId, Slot};
use bowline_statemachine::envelope::ENVELOPE_LEN;
use bowline_statemachine::store::DeltaPressure;
use bowline_statemachine::{Machine, Measured};
use bowline_wal::LogStorage;

use super::logs::place;
use super::queue::Pending;
use super::replica::Question;
use super::run::{Core, Parked, Waits};
use crate::request::{Call, Request};
use crate::ticket::{Reply, Ticket};
use crate::{Budget, Error, RequestError, ShardFailure};

/// What a parked read counts against the budget.
const READ_BYTES: usize = 256;

impl Waits {
    pub(crate) fn into_ticket(self) -> Ticket {
        match self {
            Self::Write(write) => write.ticket,
            Self::Read(_, question) => question.ticket,
        }
    }
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Takes one request. What cannot be done is answered at once, and nothing is appended.
    pub(crate) fn admit(&mut self, request: Request) {
        let Request { shard, timeout_ms, call, ticket } = request;
        let deadline = self.logs.now.after(Nanos::from_millis(u64::from(timeout_ms)));
        match call {
            Call::Stop => {
                self.stop_tickets.push(ticket);
                self.start_drain();
            },
            Call::Alarm(after) => {
                let until = self.env.sleep_until(self.logs.now.after(after));
                let gate = Rc::clone(&self.lanes.doorman.gate);
                drop(self.env.spawn(Class::Core, async move {
                    // At a stop the ticket ends with its task.
                    if gate.or(until).await.is_some() {
                        ticket.complete_now(Ok(Reply::Unit));
                    }
                }));
            },
            Call::Propose { .. }
            | Call::Read { .. }
            | Call::Run(_)
            | Call::Transfer(_)
            | Call::Change(_)
            | Call::Flush => {
                if let Err(error) = self.admit_shard(shard, call, ticket, deadline) {
                    let (ticket, error) = *error;
                    if let Error::Busy { what, .. } = error {
                        self.counters.busy(what);
                    }
                    ticket.complete(Err(error), &mut self.wakes);
                }
            },
        }
    }

    fn admit_shard(
        &mut self,
        shard: ShardId,
        call: Call,
        ticket: Ticket,
        deadline: Nanos,
    ) -> Result<(), Box<(Ticket, Error)>> {
        let Some(slot) = self.slot_of(shard) else {
            return Err(Box::new((ticket, self.no_replica(shard))));
        };
        // Who leads elsewhere may be asked by a node whose own copy is closed.
        let asks = matches!(call, Call::Change(_));
        if let Some(why) = self.replicas[place(slot)].closed.as_ref().filter(|_| !asks) {
            let why = why.clone();
            return Err(Box::new((ticket, Error::Shard { shard, why })));
        }
        match call {
            Call::Propose { kind, body } => {
                let arrived = self.logs.now;
                let write = Pending { kind, version: 0, body, ticket, arrived, deadline };
                self.admit_write(slot, write);
            },
            Call::Read { query, consistency } => {
                let arrived = self.logs.now;
                let question = Question { query, ticket, arrived, deadline };
                self.admit_read(slot, consistency, question);
            },
            Call::Transfer(to) => self.transfer_leadership(slot, to, ticket, deadline),
            Call::Change(change) => self.change_members(slot, *change, ticket, deadline),
            Call::Flush => self.flush_shard(slot, ticket, deadline),
            Call::Run(job) => {
                self.local_jobs.push((shard, job));
                ticket.complete(Ok(Reply::Unit), &mut self.wakes);
            },
            Call::Stop | Call::Alarm(_) => unreachable!("it names no shard"),
        }
        Ok(())
    }

    /// Why a shard has no replica here.
    fn no_replica(&self, shard: ShardId) -> Error {
        match self.lost.get(&shard) {
            Some(why) => Error::Shard { shard, why: why.clone() },
            None if self.is_unfounded(shard) => Error::NoLeader { shard },
            None => Error::Request(RequestError::UnknownShard(shard)),
        }
    }

    /// Checks a command and hands it to raft.
    pub(crate) fn admit_write(&mut self, slot: Slot, mut write: Pending) {
        match self.admit_command(slot, write.kind, &write.body) {
            Ok(version) => write.version = version,
            Err(Error::Request(RequestError::Version { needs, .. }))
                if self.agrees_soon(slot, needs) && self.logs.now < write.deadline =>
            {
                return self.park(slot, Waits::Write(write));
            },
            Err(error) => return write.ticket.complete(Err(error), &mut self.wakes),
        }
        let bytes = entry_len(ENVELOPE_LEN + write.body.len());
        let bytes = u32::try_from(bytes).expect("admit bounds the body");
        let proposal = Proposal { count: 1, bytes, token: 0 };
        match self.raft.propose(slot, proposal) {
            Ok(()) => {
                self.logs.bytes += write.body.len();
                self.list_tickets(slot, write.deadline);
                self.logs.queue_mut(slot).push(write);
            },
            // A leader that hands over has a successor soon.
            Err(ProposeError::NoLeader | ProposeError::Busy(bowline_raft::Budget::Transfer)) => {
                self.park(slot, Waits::Write(write));
            },
            Err(why) => {
                let error = self.propose_error(slot, why);
                write.ticket.complete(Err(error), &mut self.wakes);
            },
        }
    }

    /// The state machine's version that a command needs, if it may go into the log now.
    fn admit_command(&self, slot: Slot, kind: u8, body: &[u8]) -> Result<u16, Error> {
        if self.drain.is_some() {
            return Err(Error::stopped());
        }
        let needs = M::admit(kind, body, &self.limits).map_err(Error::from)?;
        let agreed = self.replicas[place(slot)].agreed;
        // Who follows may know less than its leader, and says who that is.
        if needs > agreed && self.raft.view(slot).role == Role::Leader {
            return Err(Error::Request(RequestError::Version { needs, agreed }));
        }
        let over = self.logs.bytes + body.len() > self.options.core_budget;
        if over && self.logs.bytes > 0 {
            return Err(busy(Budget::Core));
        }
        if self.store.pressure() >= DeltaPressure::Full {
            return Err(busy(Budget::Delta));
        }
        Ok(needs)
    }

    /// Keeps a call until a leader is known, within the budget of parked bytes.
    pub(crate) fn park(&mut self, slot: Slot, call: Waits) {
        let (bytes, deadline) = match &call {
            Waits::Write(write) => (write.body.len(), write.deadline),
            Waits::Read(_, question) => (READ_BYTES, question.deadline),
        };
        if self.parked_bytes + bytes > self.options.parked && self.parked_bytes > 0 {
            call.into_ticket().complete(Err(busy(Budget::Parked)), &mut self.wakes);
            return;
        }
        self.parked_bytes += bytes;
        let until = deadline.min(self.logs.now.after(self.options.park));
        self.parked.push_back(Parked { slot, call, bytes, until });
    }

    /// Submits what was parked and has a leader now; answers what waited too long.
    pub(crate) fn retry_parked(&mut self) {
        for _ in 0..self.parked.len() {
            let Some(parked) = self.parked.pop_front() else { break };
            let Parked { slot, call, bytes, until } = parked;
            self.parked_bytes -= bytes;
            let shard = self.logs.shard(slot);
            if let Some(why) = &self.replicas[place(slot)].closed {
                let error = Error::Shard { shard, why: why.clone() };
                call.into_ticket().complete(Err(error), &mut self.wakes);
            } else if self.has_leader(slot) {
                match call {
                    Waits::Write(write) => self.admit_write(slot, write),
                    Waits::Read(mode, question) => self.queue_read(slot, mode, question),
                }
            } else if self.logs.now >= until {
                let error = Error::NoLeader { shard };
                call.into_ticket().complete(Err(error), &mut self.wakes);
            } else {
                self.parked_bytes += bytes;
                self.parked.push_back(Parked { slot, call, bytes, until });
            }
        }
    }

    /// Raft refused proposals that it had taken: they are the oldest pending ones of the slot.
    pub(crate) fn proposal_rejected(&mut self, slot: Slot, why: ProposeError) {
        let Some(pending) = self.logs.queue_mut(slot).pending.pop_front() else { return };
        self.logs.bytes -= pending.body.len();
        let error = self.propose_error(slot, why);
        pending.ticket.complete(Err(error), &mut self.wakes);
    }

    pub(crate) fn propose_error(&self, slot: Slot, why: ProposeError) -> Error {
        let shard = self.logs.shard(slot);
        match why {
            ProposeError::NotLeader { .. } => self.not_leader(slot),
            ProposeError::NoLeader => Error::NoLeader { shard },
            ProposeError::Busy(bowline_raft::Budget::Log) => busy(Budget::Log),
            ProposeError::Busy(_) => busy(Budget::Shard),
            ProposeError::TooLarge => Error::Request(RequestError::TooLarge {
                what: Measured::Command,
                len: u32::MAX,
                max: u32::try_from(self.limits.body_bytes_max).unwrap_or(u32::MAX),
            }),
            ProposeError::StreamFailed => Error::Shard { shard, why: ShardFailure::LogWrite },
            ProposeError::Damaged => Error::Shard { shard, why: ShardFailure::LogDamaged },
            ProposeError::Closed | _ => Error::stopped(),
        }
    }

    pub(crate) fn read_error(&self, slot: Slot, why: bowline_raft::ReadError) -> Error {
        use bowline_raft::ReadError;
        let shard = self.logs.shard(slot);
        match why {
            ReadError::NotLeader { .. } => self.not_leader(slot),
            ReadError::NoLeader => Error::NoLeader { shard },
            ReadError::Busy(_) => busy(Budget::Core),
            ReadError::StreamFailed => Error::Shard { shard, why: ShardFailure::LogWrite },
            ReadError::Damaged => Error::Shard { shard, why: ShardFailure::LogDamaged },
            ReadError::Closed | _ => Error::stopped(),
        }
    }

    /// Puts a slot on the list of those whose tickets have deadlines.
    pub(crate) fn list_tickets(&mut self, slot: Slot, deadline: Nanos) {
        let queue = self.logs.queue_mut(slot);
        queue.deadline_min = queue.deadline_min.min(deadline);
        if !queue.listed {
            queue.listed = true;
            self.ticketed.push(slot);
        }
    }

    /// Answers the tickets whose deadline passed.
    pub(crate) fn expire(&mut self) {
        let mut listed = std::mem::take(&mut self.ticketed);
        listed.retain(|slot| {
            if self.logs.queue(*slot).deadline_min <= self.logs.now {
                self.expire_slot(*slot);
            }
            let reads = !self.replicas[place(*slot)].reads.is_empty();
            let queue = self.logs.queue_mut(*slot);
            queue.listed = reads || !queue.is_empty();
            if !queue.listed {
                queue.deadline_min = Nanos(u64::MAX);
            }
            queue.listed
        });
        assert!(self.ticketed.is_empty(), "an answer lists no slot");
        self.ticketed = listed;
    }

    /// Forgets entries of a former leadership whose callers were answered: nobody waits for what
    /// becomes of them, and may be nothing ever does.
    pub(crate) fn forget_answered(&mut self, slot: Slot) {
        let mut freed = 0;
        self.logs.queue_mut(slot).waiting.retain(|it| {
            if it.ticket.is_none() {
                freed += it.bytes;
            }
            it.ticket.is_some()
        });
        self.logs.bytes -= freed;
    }

    fn expire_slot(&mut self, slot: Slot) {
        let now = self.logs.now;
        let reads = &mut self.replicas[place(slot)].reads;
        let queue = self.logs.queue_mut(slot);
        let wakes = &mut self.wakes;
        let shard = queue.shard;
        queue.expire(now, |ticket| {
            let error = Error::Timeout { shard, maybe_applied: true };
            ticket.complete(Err(error), wakes);
        });
        for _ in 0..reads.len() {
            let Some(wait) = reads.pop_front() else { break };
            if wait.question.deadline <= now {
                let error = Error::Timeout { shard, maybe_applied: false };
                wait.question.ticket.complete(Err(error), wakes);
            } else {
                queue.deadline_min = queue.deadline_min.min(wait.question.deadline);
                reads.push_back(wait);
            }
        }
        if self.raft.view(slot).role != Role::Leader {
            self.forget_answered(slot);
        }
    }
}

/// A budget is spent: try again after what a few passes take.
pub(crate) fn busy(what: Budget) -> Error {
    Error::Busy { what, retry_after: Duration::from_millis(5) }
}
