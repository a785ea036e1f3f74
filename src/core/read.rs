//! Reads: answered from the state as applied, at once where the rules allow it.
//!
//! A linearizable read waits until raft named its index and that index is applied; a page that is
//! not in memory is read in the background and the read asked again.

use std::rc::Rc;

use bowline_env::{Class, Env};
use bowline_raft::{BootTime, LogIndex, ReadMode, ShardId, Slot};
use bowline_statemachine::kv::Item;
use bowline_statemachine::store::Pins;
use bowline_statemachine::{Answer, Damage, Machine, Query, Read};
use bowline_wal::LogStorage;

use super::logs::place;
use super::mail::Event;
use super::replica::{Question, ReadWait};
use super::run::{Core, Waits};
use crate::request::Consistency;
use crate::ticket::Reply;
use crate::{Error, RequestError, ShardFailure};

/// A read has to wait, or the machine answers a [`Query`] only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Later;

/// Raft's word for a consistency; none: no word of raft's is needed.
fn mode(consistency: Consistency) -> Option<ReadMode> {
    match consistency {
        Consistency::Eventual => None,
        Consistency::Lease => Some(ReadMode::Lease),
        Consistency::Linearizable => Some(ReadMode::Follower),
    }
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Takes a read: answers it, or queues it until its index is applied.
    pub(crate) fn admit_read(&mut self, slot: Slot, consistency: Consistency, asked: Question) {
        if let Some(mode) = mode(consistency)
            && self.raft_reads(slot, mode).is_none()
        {
            self.queue_read(slot, mode, asked);
            return;
        }
        self.serve(slot, asked, &Pins::default());
    }

    /// Raft's answer whether a read may be served at once. A lease is held against the clock of
    /// now: the pass may have begun long ago, and tasks of the application read between passes.
    fn raft_reads(&self, slot: Slot, mode: ReadMode) -> Option<LogIndex> {
        self.raft.read_now(slot, mode, || BootTime(self.env.now().0))
    }

    /// Answers a read on this very core, without a ticket; none: it has to wait.
    pub(crate) fn read_at_once(
        &self,
        slot: Slot,
        consistency: Consistency,
        query: &Query,
    ) -> Option<Result<Answer, Error>> {
        let replica = &self.replicas[place(slot)];
        if replica.closed.is_some() {
            return None;
        }
        if let Some(mode) = mode(consistency) {
            self.raft_reads(slot, mode)?;
        }
        match replica.machine.read(query, &Pins::default()) {
            Read::Ready(answer) => {
                self.counters.reads.add(1);
                Some(answered(answer))
            },
            Read::Cold(_) | Read::Damaged(_) => None,
        }
    }

    /// Answers what the value of a key is, as [`Self::read_at_once`] would.
    pub(crate) fn item_at_once(
        &self,
        slot: Slot,
        consistency: Consistency,
        key: &[u8],
    ) -> Result<Option<Item>, Later> {
        let replica = &self.replicas[place(slot)];
        if replica.closed.is_some() {
            return Err(Later);
        }
        if let Some(mode) = mode(consistency) {
            self.raft_reads(slot, mode).ok_or(Later)?;
        }
        match replica.machine.item(key, &Pins::default()) {
            Some(Read::Ready(item)) => Ok(item),
            Some(Read::Cold(_) | Read::Damaged(_)) | None => Err(Later),
        }
    }

    pub(crate) fn queue_read(&mut self, slot: Slot, mode: ReadMode, question: Question) {
        self.read_token += 1;
        let token = self.read_token;
        let taken = match self.raft.read(slot, mode, token) {
            // A lease is the leader's; elsewhere the leader is asked for the index.
            Err(bowline_raft::ReadError::NotLeader { .. }) if mode == ReadMode::Lease => {
                self.raft.read(slot, ReadMode::Follower, token)
            },
            taken => taken,
        };
        match taken {
            Ok(()) => {
                self.list_tickets(slot, question.deadline);
                let wait = ReadWait { index: None, token, mode, question };
                self.replicas[place(slot)].reads.push_back(wait);
            },
            Err(bowline_raft::ReadError::NoLeader) => {
                self.park(slot, Waits::Read(mode, question));
            },
            Err(why) => {
                let error = self.read_error(slot, why);
                question.ticket.complete(Err(error), &mut self.wakes);
            },
        }
    }

    /// Raft named the index of a read that waited.
    pub(crate) fn read_ready(&mut self, slot: Slot, token: u64, index: LogIndex) {
        let reads = &mut self.replicas[place(slot)].reads;
        if let Some(wait) = reads.iter_mut().find(|wait| wait.token == token) {
            wait.index = Some(index);
        }
        self.serve_applied(slot);
    }

    /// Raft will not serve a read that waited. Where the leadership is lost, the read waits for the
    /// next leader: it has no effect, so nothing speaks against asking again.
    pub(crate) fn read_refused(&mut self, slot: Slot, token: u64, why: bowline_raft::ReadError) {
        use bowline_raft::ReadError::{NoLeader, NotLeader};
        let reads = &mut self.replicas[place(slot)].reads;
        let Some(at) = reads.iter().position(|wait| wait.token == token) else { return };
        let Some(ReadWait { mode, question, .. }) = reads.remove(at) else { return };
        if matches!(why, NoLeader | NotLeader { .. }) && self.drain.is_none() {
            self.park(slot, Waits::Read(mode, question));
            return;
        }
        let error = self.read_error(slot, why);
        question.ticket.complete(Err(error), &mut self.wakes);
    }

    /// Answers the reads whose index is applied.
    pub(crate) fn serve_applied(&mut self, slot: Slot) {
        let at = place(slot);
        let applied = LogIndex(self.replicas[at].machine.applied());
        while let Some(front) = self.replicas[at].reads.front() {
            if front.index.is_none_or(|index| index > applied) {
                break;
            }
            let wait = self.replicas[at].reads.pop_front().expect("the front was there");
            self.serve(slot, wait.question, &Pins::default());
        }
    }

    /// Answers a read from the state as it is, with the pages that `pins` holds.
    fn serve(&mut self, slot: Slot, question: Question, pins: &Pins) {
        let replica = &self.replicas[place(slot)];
        let result = match replica.machine.read(&question.query, pins) {
            Read::Ready(answer) => answered(answer).map(Reply::Answer),
            Read::Cold(pages) => {
                let mut pins = pins.clone();
                let (store, mail) = (Rc::clone(&self.store), Rc::clone(&self.mail));
                let epoch = replica.epoch;
                drop(self.env.spawn(Class::Core, async move {
                    let result = store.load(pages, &mut pins).await.map(|()| pins);
                    mail.push(Event::PagesForRead { slot, epoch, question, result });
                }));
                return;
            },
            Read::Damaged(damage) => {
                self.met_damage(slot, question, &damage);
                return;
            },
        };
        self.counters.reads.add(1);
        self.counters.read.record(self.logs.now.since(question.arrived).0);
        question.ticket.complete(result, &mut self.wakes);
    }

    /// A read cannot be answered: what it asks for is damaged.
    fn met_damage(&mut self, slot: Slot, question: Question, damage: &Damage) {
        let error = damaged(self.replicas[place(slot)].shard, damage);
        question.ticket.complete(Err(error), &mut self.wakes);
        self.state_is_damaged(slot);
    }

    /// Pages that a read waited for are there, or cannot be read.
    pub(crate) fn pages_for_read(
        &mut self,
        (slot, epoch): (Slot, u32),
        question: Question,
        result: Result<Pins, Damage>,
    ) {
        match result {
            Ok(pins) => self.serve(slot, question, &pins),
            // Another state is in its place.
            Err(_) if self.replicas[place(slot)].epoch != epoch => {
                self.serve(slot, question, &Pins::default());
            },
            Err(damage) => self.met_damage(slot, question, &damage),
        }
    }
}

fn damaged(shard: ShardId, damage: &Damage) -> Error {
    tracing::error!(shard = shard.0, %damage, code = "BOW-0604", "a read met damaged state");
    Error::Shard { shard, why: ShardFailure::RunDamaged }
}

/// An answer of a machine as a result: a question that was none is an error.
fn answered(answer: Answer) -> Result<Answer, Error> {
    match answer {
        Answer::NotSupported => Err(Error::Request(RequestError::NotSupported)),
        Answer::Bad(why) => Err(Error::from(why)),
        answer @ (Answer::Value(_)
        | Answer::Values(_)
        | Answer::Page(_)
        | Answer::Custom(_)
        | _) => Ok(answer),
    }
}
