//! Committed entries become state, and their callers get answers.
//!
//! Bytes come from the log's buffers; when those are gone, from its files, read in the background.
//! Entries that need cold pages wait for them; the log keeps everything meanwhile.

use std::rc::Rc;

use bowline_env::Env;
use bowline_raft::batch::{Body, FLAG_CONF, FLAG_NOOP};
use bowline_raft::{LogIndex, Slot, Term};
use bowline_statemachine::{EntryRef, Machine, Output, Staged};
use bowline_wal::{BatchRef, LogStorage, ReadError};
use bytes::Bytes;

use super::logs::place;
use super::mail::Event;
use super::members::Agreed;
use super::replica::Applying;
use super::run::Core;
use crate::ShardFailure;
use crate::ticket::Reply;

/// Entries applied between two looks at the clock.
const CHUNK: usize = 64;
/// Bytes taken from the log's memory at once.
const CACHED_BYTES: usize = 1 << 20;
/// Bytes read from the log's files at once.
const READ_BYTES: usize = 1 << 20;
/// Replicas whose entries are read from the log's files at a time.
const FETCHES_MAX: usize = 32;
/// Time that one pass may spend here before it looks at its other work.
const BUDGET_NANOS: u64 = 200_000;

const NO_ENTRY: EntryRef<'static> = EntryRef { index: 0, term: 0, payload: &[] };

/// How far one batch got.
enum Progress {
    /// All of it is applied.
    Done,
    /// The rest waits.
    Blocked,
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Notes that entries up to `to` are committed.
    pub(crate) fn committed(&mut self, slot: Slot, to: LogIndex) {
        let replica = &mut self.replicas[place(slot)];
        assert!(to > replica.committed, "raft hands each index out once (C3)");
        replica.committed = to;
        self.list_for_apply(slot);
    }

    pub(crate) fn list_for_apply(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        if !replica.listed {
            replica.listed = true;
            self.to_apply.push_back(slot);
        }
    }

    /// Applies what is committed, shard by shard, within the pass's budget. Answers whether work is
    /// left that waits for nothing.
    pub(crate) fn apply_pass(&mut self) -> bool {
        for _ in self.fetches..FETCHES_MAX {
            let Some(slot) = self.unfetched.pop_front() else { break };
            self.replicas[place(slot)].applying = Applying::Ready;
            self.list_for_apply(slot);
        }
        let mut rounds = self.to_apply.len();
        if rounds == 0 {
            return false;
        }
        let start = self.env.now();
        while rounds > 0 {
            rounds -= 1;
            let Some(slot) = self.to_apply.pop_front() else { break };
            self.replicas[place(slot)].listed = false;
            if self.apply_shard(slot) {
                self.list_for_apply(slot);
            }
            if self.env.now().since(start).0 > BUDGET_NANOS {
                break;
            }
        }
        self.counters.apply.record(self.env.now().since(start).0);
        !self.to_apply.is_empty()
    }

    /// Applies one round of a shard's entries; true if more can be applied at once.
    fn apply_shard(&mut self, slot: Slot) -> bool {
        let at = place(slot);
        let replica = &mut self.replicas[at];
        let next = LogIndex(replica.machine.applied() + 1);
        if replica.closed.is_some()
            || replica.applying != Applying::Ready
            || next > replica.committed
        {
            return false;
        }
        let mut batches = std::mem::take(&mut self.batches);
        if replica.fetched.is_empty() {
            let shard = replica.shard;
            let _: LogIndex =
                self.logs.stream(slot).cached(shard, next, CACHED_BYTES, &mut batches);
        } else {
            // Taken whole: an idle replica keeps no memory for the entries it once read.
            batches.extend(std::mem::take(&mut replica.fetched));
        }
        let more = if batches.is_empty() {
            self.fetch_entries(slot, next);
            false
        } else {
            self.apply_batches(slot, &batches)
        };
        batches.clear();
        self.batches = batches;
        self.after_apply(slot);
        more && LogIndex(self.replicas[at].machine.applied()) < self.replicas[at].committed
    }

    /// Applies batches in order; false if the rest waits for pages, a flush, or for ever.
    fn apply_batches(&mut self, slot: Slot, batches: &[BatchRef]) -> bool {
        for (nth, batch) in batches.iter().enumerate() {
            // The log's memory holds what is not committed yet, too.
            if batch.head.first > self.replicas[place(slot)].committed {
                break;
            }
            match self.apply_batch(slot, batch) {
                Progress::Done => {},
                Progress::Blocked => {
                    // Kept, so that pages that were read meet the same entries again.
                    let replica = &mut self.replicas[place(slot)];
                    let rest = batches[nth..].iter().cloned();
                    let committed = replica.committed;
                    replica.fetched.extend(rest.filter_map(|batch| upto(batch, committed)));
                    return false;
                },
            }
        }
        true
    }

    fn apply_batch(&mut self, slot: Slot, batch: &BatchRef) -> Progress {
        let Ok(body) = Body::parse(&batch.head, &batch.body) else {
            // The checksum held and the body is none: a bug of whoever wrote it, on every replica.
            self.close_shard(
                slot,
                ShardFailure::Invariant("a batch with a good checksum is no body"),
            );
            return Progress::Blocked;
        };
        let plain = batch.head.flags & (FLAG_CONF | FLAG_NOOP) == 0;
        let replica = &self.replicas[place(slot)];
        let stop = batch.head.first.0 + u64::from(batch.keep);
        let stop = stop.min(replica.committed.0 + 1);
        let is_conf = batch.head.flags & FLAG_CONF != 0;
        let agreed = is_conf.then(|| Agreed::of(Bytes::copy_from_slice(body.payload(0))));
        if let Some(beyond) = agreed.as_ref().filter(|it| it.version > M::VERSION) {
            self.close_beyond(slot, beyond.version);
            return Progress::Blocked;
        }
        let mut next = replica.machine.applied() + 1;
        assert!(batch.head.first.0 <= next, "entries are applied without a gap (C3)");
        while next < stop {
            let mut chunk = [NO_ENTRY; CHUNK];
            let mut count = 0;
            while count < CHUNK && next < stop {
                let nth = usize::try_from(next - batch.head.first.0).expect("a batch is small");
                let payload = if plain { body.payload(nth) } else { &[] };
                chunk[count] = EntryRef { index: next, term: batch.head.term.0, payload };
                count += 1;
                next += 1;
            }
            if let Progress::Blocked = self.apply_chunk(slot, &chunk[..count]) {
                return Progress::Blocked;
            }
        }
        if let Some(agreed) = agreed.filter(|_| next > batch.head.first.0) {
            // What a flush writes down is the membership as of what it holds.
            let before = std::mem::replace(&mut self.confs[place(slot)], agreed);
            if self.replicas[place(slot)].machine.manifest().is_none() {
                self.founded_with.entry(slot).or_insert(before.conf);
            }
        }
        Progress::Done
    }

    fn apply_chunk(&mut self, slot: Slot, entries: &[EntryRef<'_>]) -> Progress {
        let replica = &mut self.replicas[place(slot)];
        match replica.machine.stage(entries, &replica.pins) {
            Staged::Ready => {},
            Staged::Cold(pages) => {
                replica.applying = Applying::Pages;
                let mut pins = std::mem::take(&mut replica.pins);
                let epoch = replica.epoch;
                let (store, mail) = (Rc::clone(&self.store), Rc::clone(&self.mail));
                drop(self.env.spawn(bowline_env::Class::Core, async move {
                    let result = store.load(pages, &mut pins).await.map(|()| pins);
                    mail.push(Event::PagesForApply { slot, epoch, result });
                }));
                return Progress::Blocked;
            },
            Staged::OverBudget => {
                // Until flushes have made room; the log keeps the entries.
                self.starved.push(slot);
                return Progress::Blocked;
            },
            Staged::Damaged(damage) => {
                tracing::error!(shard = replica.shard.0, %damage, "apply stops at damaged state");
                self.close_shard(slot, ShardFailure::RunDamaged);
                return Progress::Blocked;
            },
        }
        for entry in entries {
            let replica = &mut self.replicas[place(slot)];
            assert!(entry.index == replica.machine.applied() + 1, "each index once, in order (C3)");
            self.outputs.clear();
            replica.machine.apply(*entry, &replica.pins, &mut self.outputs);
            if replica.machine.applied() < entry.index {
                self.close_halted(slot);
                return Progress::Blocked;
            }
            assert!(self.outputs.len() == 1, "an entry has one output");
            let output = self.outputs.pop().expect("an entry has one output");
            replica.applied_term = Term(entry.term);
            self.settle(slot, LogIndex(entry.index), Term(entry.term), output);
            self.counters.applied.add(1);
        }
        Progress::Done
    }

    /// Answers whoever waits for the entry at `index` (C1, C2).
    fn settle(&mut self, slot: Slot, index: LogIndex, term: Term, output: Output) {
        let now = self.logs.now;
        let queue = self.logs.queue_mut(slot);
        let (mut freed, mut lost) = (0, Vec::new());
        let mut output = Some(output);
        while let Some(front) = queue.waiting.front() {
            if front.index > index {
                break;
            }
            let waiting = queue.waiting.pop_front().expect("the front was there");
            freed += waiting.bytes;
            let Some(ticket) = waiting.ticket else { continue };
            if waiting.index == index && waiting.term == term {
                self.counters.proposals_applied.add(1);
                self.counters.proposal.record(now.since(waiting.arrived).0);
                let output = output.take().unwrap_or_default();
                ticket.complete(Ok(Reply::Output(output)), &mut self.wakes);
            } else {
                lost.push(ticket);
            }
        }
        self.logs.bytes -= freed;
        // Another leader's entry stands in their place: they certainly are not applied.
        for ticket in lost {
            self.counters.proposals_failed.add(1);
            ticket.complete(Err(self.not_leader(slot)), &mut self.wakes);
        }
    }

    fn after_apply(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        let applied = LogIndex(replica.machine.applied());
        if replica.applying == Applying::Ready && replica.fetched.is_empty() {
            replica.pins.clear();
        }
        self.touch(slot);
        self.raft.handle_applied(slot, applied);
        self.announce(slot);
        self.serve_applied(slot);
    }

    /// Reads entries that are in the log's files only. At a start every replica may need that: the
    /// others wait in line, so that memory for reads is bounded.
    fn fetch_entries(&mut self, slot: Slot, from: LogIndex) {
        let replica = &mut self.replicas[place(slot)];
        replica.applying = Applying::Entries;
        if self.fetches >= FETCHES_MAX {
            self.unfetched.push_back(slot);
            return;
        }
        self.fetches += 1;
        let to = replica.committed;
        let range = from..to.next();
        let read = self.logs.stream(slot).read(replica.shard, range, READ_BYTES);
        let (mail, epoch) = (Rc::clone(&self.mail), replica.epoch);
        drop(self.env.spawn(bowline_env::Class::Core, async move {
            let result = read.await;
            mail.push(Event::Entries { slot, epoch, to, result });
        }));
    }

    pub(crate) fn entries_read(
        &mut self,
        (slot, epoch): (Slot, u32),
        to: LogIndex,
        result: Result<Vec<BatchRef>, ReadError>,
    ) {
        self.fetches -= 1;
        let replica = &mut self.replicas[place(slot)];
        if replica.epoch != epoch {
            return;
        }
        replica.applying = Applying::Ready;
        match result {
            Ok(batches) => {
                replica.fetched.extend(batches.into_iter().filter_map(|batch| upto(batch, to)));
                self.list_for_apply(slot);
            },
            Err(error) => {
                tracing::error!(shard = replica.shard.0, %error, "entries cannot be read");
                self.close_shard(slot, ShardFailure::LogDamaged);
            },
        }
    }

    /// The members agreed on a version of the state machine that this code is too old for.
    pub(super) fn close_beyond(&mut self, slot: Slot, agreed: u16) {
        let index = LogIndex(self.replicas[place(slot)].machine.applied() + 1);
        let own = M::VERSION;
        let message = format!("the members agreed on version {agreed}, this program has {own}");
        self.close_shard(slot, ShardFailure::Halted { index, message: message.into() });
    }

    /// The machine itself stopped: a panic in the application's code, or an entry of a newer
    /// version.
    fn close_halted(&mut self, slot: Slot) {
        let replica = &self.replicas[place(slot)];
        let message = replica.machine.halted().map_or_else(
            || String::from("the state machine did not apply an entry"),
            ToString::to_string,
        );
        let index = LogIndex(replica.machine.applied() + 1);
        self.close_shard(slot, ShardFailure::Halted { index, message: message.into() });
    }
}

/// What of a batch is committed when it is kept for later: the rest may be cut off and replaced
/// before it is.
fn upto(mut batch: BatchRef, committed: LogIndex) -> Option<BatchRef> {
    let kept = (committed.0 + 1).checked_sub(batch.head.first.0).filter(|kept| *kept > 0)?;
    batch.keep = batch.keep.min(u32::try_from(kept).unwrap_or(u32::MAX));
    Some(batch)
}
