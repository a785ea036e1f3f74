//! Background work of a core: flush and merge, and keeping the log small.
//!
//! ```text
//! next_job -> Job::run (background) -> manifest_after -> [MANIFEST staged] -> durable: publish
//!                                                            -> Compact up to it (C4)
//! ```

use std::rc::Rc;

use bowline_env::{Class, Env, Nanos};
use bowline_raft::{Admin, LogIndex, Lsn, ShardId, Slot, Term};
use bowline_statemachine::store::{DeltaPressure, JobDone, JobError};
use bowline_statemachine::{AsOf, Machine, Pressure};
use bowline_wal::{GcWork, LogStorage, Record, StageError};

use super::admit::busy;
use super::logs::place;
use super::mail::Event;
use super::members::Agreed;
use super::run::Core;
use crate::ticket::{Reply, Ticket};
use crate::{Budget, Error};

/// Between two looks at the log's garbage.
const GC_EVERY: Nanos = Nanos::from_millis(100);
/// A log this full is looked at in every tick.
const GC_PERMILLE: u32 = 600;
/// Between two tries after the log refused a manifest.
const RETRY: Nanos = Nanos::from_millis(200);

/// Callers of a core who wait for a flush at most.
const FLUSH_WAITS_MAX: usize = 1_024;

/// A finished job whose manifest is on its way to the disk.
pub(crate) struct Publishing<E: Env> {
    slot: Slot,
    epoch: u32,
    stream: usize,
    lsn: Lsn,
    flush: bool,
    done: JobDone<E>,
}

/// A finished job whose manifest the log had no room for.
pub(crate) struct Unstaged<E: Env> {
    at: Nanos,
    slot: Slot,
    epoch: u32,
    flush: bool,
    done: JobDone<E>,
}

/// A caller who waits until the state up to `index` is durable in runs.
pub(crate) struct FlushWait {
    slot: Slot,
    index: LogIndex,
    deadline: Nanos,
    pub(crate) ticket: Ticket,
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Looks at the replicas that applied something, and at the garbage of the logs.
    pub(crate) fn jobs_tick(&mut self, now: Nanos) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        for slot in touched.drain(..) {
            self.replicas[place(slot)].touched = false;
            self.start_job(slot, Pressure::None, now);
        }
        touched.append(&mut self.touched);
        self.touched = touched;
        self.relieve(now);
        self.flushes_tick(now);
        let is_full = self.logs.streams.iter().any(|log| log.used_permille() >= GC_PERMILLE);
        if is_full || now.since(self.gc_at) >= GC_EVERY {
            self.gc_at = now;
            self.collect_garbage(now);
        }
        self.retry_staged(now);
    }

    /// Puts a replica once on the list of those whose jobs are looked at in the next tick.
    pub(crate) fn touch(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        if !replica.touched {
            replica.touched = true;
            self.touched.push(slot);
        }
    }

    /// While the core's deltas are over half of their budget the largest is flushed, whether or not
    /// its shard did anything lately: it may be what the others wait for.
    fn relieve(&mut self, now: Nanos) {
        if self.store.pressure() >= DeltaPressure::Flush
            && let Some((shard, _)) = self.store.largest_delta()
            && let Some(slot) = self.slot_of(ShardId(shard))
        {
            self.start_job(slot, Pressure::None, now);
        }
        for slot in std::mem::take(&mut self.starved) {
            self.list_for_apply(slot);
        }
    }

    /// Starts the next flush or merge of a replica, if one is due.
    pub(crate) fn start_job(&mut self, slot: Slot, why: Pressure, now: Nanos) {
        let replica = &self.replicas[place(slot)];
        if replica.closed.is_some() {
            return;
        }
        if now < replica.job_not_before {
            // Looked at until its time comes: may be nothing is written before that.
            return self.touch(slot);
        }
        let applied = LogIndex(replica.machine.applied());
        let Some(term) = self.term_of(slot, applied) else { return };
        let replica = &mut self.replicas[place(slot)];
        let Agreed { conf, version } = self.confs[place(slot)].clone();
        let as_of = AsOf { term: term.0, version, conf };
        let Some(job) = replica.machine.next_job(why, &as_of) else { return };
        let flush = job.is_flush();
        if flush {
            replica.flushing = true;
            replica.flush_began = now;
        } else {
            replica.merging = true;
        }
        self.jobs_running += 1;
        let (mail, epoch) = (Rc::clone(&self.mail), replica.epoch);
        drop(self.env.spawn(Class::Background, async move {
            let result = job.run().await;
            mail.push(Event::Job { slot, epoch, flush, result });
        }));
    }

    /// Term of an applied entry: from the log, or from the state's own record of it.
    fn term_of(&self, slot: Slot, index: LogIndex) -> Option<Term> {
        let replica = &self.replicas[place(slot)];
        self.logs.stream(slot).term_at(replica.shard, index).or_else(|| {
            let (at, term, _) = replica.machine.manifest()?;
            (at == index.0).then_some(Term(term))
        })
    }

    /// A job ended: its manifest goes into the log, or its input back into the machine.
    pub(crate) fn job_ended(
        &mut self,
        (slot, epoch): (Slot, u32),
        flush: bool,
        result: Result<JobDone<E>, JobError>,
        now: Nanos,
    ) {
        self.jobs_running -= 1;
        match result {
            Ok(done) if epoch != self.replicas[place(slot)].epoch => done.discard(&self.store),
            Err(_) if epoch != self.replicas[place(slot)].epoch => {},
            Ok(done) => {
                self.replicas[place(slot)].job_failures = 0;
                self.stage_manifest(slot, flush, done, now);
            },
            Err(error) => {
                let replica = &mut self.replicas[place(slot)];
                tracing::warn!(shard = replica.shard.0, %error, flush, "a background job failed");
                replica.job_failures += 1;
                self.counters.jobs_failed.add(1);
                replica.job_not_before = now.after(JobError::retry_after(replica.job_failures));
                self.job_over(slot, flush);
                self.replicas[place(slot)].machine.job_failed(flush);
                self.touch(slot);
            },
        }
    }

    fn stage_manifest(&mut self, slot: Slot, flush: bool, done: JobDone<E>, now: Nanos) {
        let replica = &mut self.replicas[place(slot)];
        let Some((index, term, body)) = replica.machine.manifest_after(&done) else {
            self.job_over(slot, flush);
            return;
        };
        let shard = replica.shard;
        let record = Record::Manifest { index: LogIndex(index), term: Term(term), body: &body };
        match self.logs.stream_mut(slot).stage(shard, &[record]) {
            Ok(lsn) => {
                let stream = self.logs.queue(slot).stream;
                let epoch = self.replicas[place(slot)].epoch;
                self.publishing.push_back(Publishing { slot, epoch, stream, lsn, flush, done });
            },
            Err(StageError::Poisoned(_) | StageError::Compacted { .. }) => {
                self.job_over(slot, flush);
                self.replicas[place(slot)].machine.job_failed(flush);
            },
            Err(_) => {
                let (at, epoch) = (now.after(RETRY), self.replicas[place(slot)].epoch);
                self.unstaged.push(Unstaged { at, slot, epoch, flush, done });
            },
        }
    }

    /// Stages again what the log had no room for.
    fn retry_staged(&mut self, now: Nanos) {
        for job in std::mem::take(&mut self.unstaged) {
            if job.epoch != self.replicas[place(job.slot)].epoch {
                job.done.discard(&self.store);
            } else if job.at <= now {
                self.stage_manifest(job.slot, job.flush, job.done, now);
            } else {
                self.unstaged.push(job);
            }
        }
    }

    /// Publishes the jobs whose manifests are durable.
    pub(crate) fn publish_durable(&mut self) {
        let mut left = std::mem::take(&mut self.publishing);
        while let Some(job) = left.pop_front() {
            // The last manifest that is durable may still name what it wrote.
            let is_last =
                self.replicas[place(job.slot)].epoch != job.epoch && self.is_replaced(job.slot);
            if self.logs.streams[job.stream].durable() < job.lsn || is_last {
                self.publishing.push_back(job);
                continue;
            }
            let Publishing { slot, epoch, flush, done, .. } = job;
            let replica = &mut self.replicas[place(slot)];
            if replica.epoch != epoch {
                // A state was installed over it; the later manifest is durable.
                done.discard(&self.store);
                continue;
            }
            if flush {
                self.counters.flushes.add(1);
                self.counters.flush.record(self.logs.now.since(replica.flush_began).0);
            }
            let machine = &mut replica.machine;
            machine.publish(done);
            let flushed = LogIndex(machine.flushed());
            self.job_over(slot, flush);
            self.compact(slot, flushed);
            self.answer_flushed(slot, flushed);
            self.list_for_apply(slot);
            self.touch(slot);
        }
    }

    /// Flushes a shard's state; the ticket is answered once it is durable in runs.
    pub(crate) fn flush_shard(&mut self, slot: Slot, ticket: Ticket, deadline: Nanos) {
        let machine = &self.replicas[place(slot)].machine;
        let index = LogIndex(machine.applied());
        if machine.flushed() >= index.0 {
            ticket.complete(Ok(Reply::Unit), &mut self.wakes);
            return;
        }
        if FLUSH_WAITS_MAX <= self.flush_waits.len() {
            self.counters.busy(Budget::Parked);
            ticket.complete(Err(busy(Budget::Parked)), &mut self.wakes);
            return;
        }
        self.flush_waits.push(FlushWait { slot, index, deadline, ticket });
        self.start_job(slot, Pressure::Flush, self.logs.now);
    }

    /// Answers whom the state up to `flushed` was enough for.
    pub(crate) fn answer_flushed(&mut self, slot: Slot, flushed: LogIndex) {
        let mut waits = std::mem::take(&mut self.flush_waits);
        let mut again = false;
        for wait in waits.drain(..) {
            if wait.slot == slot && wait.index <= flushed {
                wait.ticket.complete(Ok(Reply::Unit), &mut self.wakes);
            } else {
                again |= wait.slot == slot;
                self.flush_waits.push(wait);
            }
        }
        if again {
            self.start_job(slot, Pressure::Flush, self.logs.now);
        }
    }

    /// Nobody flushes a shard that is closed.
    pub(crate) fn fail_flushes(&mut self, slot: Slot, error: &Error) {
        for wait in self.flush_waits.extract_if(.., |wait| wait.slot == slot) {
            wait.ticket.complete(Err(error.clone()), &mut self.wakes);
        }
    }

    /// Answers those whose time is over, and begins what could not begin before.
    fn flushes_tick(&mut self, now: Nanos) {
        for wait in self.flush_waits.extract_if(.., |wait| wait.deadline <= now) {
            let shard = self.logs.shard(wait.slot);
            let error = Error::Timeout { shard, maybe_applied: false };
            wait.ticket.complete(Err(error), &mut self.wakes);
        }
        for nth in 0..self.flush_waits.len() {
            let slot = self.flush_waits[nth].slot;
            if !self.replicas[place(slot)].flushing {
                self.start_job(slot, Pressure::Flush, now);
            }
        }
    }

    fn job_over(&mut self, slot: Slot, flush: bool) {
        let replica = &mut self.replicas[place(slot)];
        if flush {
            replica.flushing = false;
        } else {
            replica.merging = false;
        }
    }

    /// Gives up the entries whose state is durable (C4).
    fn compact(&mut self, slot: Slot, upto: LogIndex) {
        if upto.0 == 0 {
            return;
        }
        let admin = Admin::Compact { upto };
        if let Err(error) = self.raft.admin(slot, admin) {
            tracing::debug!(shard = self.logs.shard(slot).0, %error, "compaction waits");
        }
    }

    fn collect_garbage(&mut self, now: Nanos) {
        let mut work = std::mem::take(&mut self.gc_work);
        for stream in 0..self.logs.streams.len() {
            work.clear();
            self.logs.streams[stream].gc(&mut work);
            for item in &work {
                self.free_slot(item, now);
            }
        }
        self.gc_work = work;
    }

    /// Does what frees a log slot of one shard's bytes.
    fn free_slot(&mut self, work: &GcWork, now: Nanos) {
        let Some(slot) = self.slot_of(work.shard) else { return };
        let machine = &self.replicas[place(slot)].machine;
        let (applied, flushed) = (machine.applied(), machine.flushed());
        if work.upto.0 > 0 && work.upto.0 <= flushed {
            self.compact(slot, LogIndex(flushed));
        } else if work.upto.0 > 0 && applied > flushed {
            self.start_job(slot, Pressure::Log, now);
        }
        if work.manifest {
            self.restage_manifest(slot);
        }
    }

    /// Writes a manifest again, unchanged, so that its old place can be freed.
    fn restage_manifest(&mut self, slot: Slot) {
        let replica = &self.replicas[place(slot)];
        if replica.flushing || replica.merging {
            return;
        }
        let shard = replica.shard;
        let now = &self.confs[place(slot)].conf;
        let founding = self.founded_with.get(&slot).unwrap_or(now);
        let own =
            || replica.machine.manifest().map(|(at, term, body)| (LogIndex(at), Term(term), body));
        let (index, term, body) = replica.unopened.clone().or_else(own).unwrap_or_else(|| {
            (LogIndex(0), Term(0), super::boot::founding_manifest::<E, M>(shard, founding))
        });
        let record = Record::Manifest { index, term, body: &body };
        if let Err(error) = self.logs.stream_mut(slot).stage(shard, &[record]) {
            tracing::debug!(shard = shard.0, %error, "a manifest is written again later");
        }
    }

    /// Whether no job runs and no manifest is on its way.
    pub(crate) fn jobs_are_over(&self) -> bool {
        self.jobs_running == 0 && self.publishing.is_empty() && self.unstaged.is_empty()
    }
}
