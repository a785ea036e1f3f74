//! One pass: what arrived goes in, operations come out, answers leave.
//!
//! ```text
//! 1 durable LSNs -> raft      2 reports of background tasks    3 requests of callers
//! 4 raft.flush_pass           5 log.submit                     6 apply, answers
//! ```

use bowline_env::Env;
use bowline_raft::{Apply, BootTime, Reason, Slot, StreamNo};
use bowline_statemachine::Machine;
use bowline_wal::{HealthState, LogStorage};

use super::logs::place;
use super::mail::Event;
use super::replica::Applying;
use super::run::{Core, Left};
use crate::ShardFailure;

/// Requests and bytes taken from the rings in one pass.
const REQUESTS_MAX: usize = 1_024;
const REQUEST_BYTES_MAX: usize = 512 * 1024;
/// A pass that takes longer keeps everybody else waiting: it is counted.
const STALL_NANOS: u64 = 10_000_000;
/// Timers that raft handles in one pass.
const TIMERS_MAX: usize = 1_024;

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// One turn.
    pub(crate) fn pass(&mut self) -> Left {
        self.logs.now = self.env.now();
        self.logs.wall = self.env.wall();
        let now = BootTime(self.logs.now.0);
        self.raft.begin_pass(now, &mut self.out);
        self.take_durable();
        if std::mem::take(&mut self.elected) {
            self.retry_parked();
        }
        self.take_mail();
        let more_frames = self.take_frames();
        let more_requests = self.take_requests();
        if self.mail.take_tick() {
            self.on_tick();
        }
        self.raft.handle_timer(TIMERS_MAX, &mut self.logs, &mut self.out);
        self.flush();
        let more_to_apply = self.apply_pass();
        // Applying may have published or compacted: one more flush writes it in this pass.
        self.flush();
        self.tell_board();
        self.count(more_requests);
        if self.drain_step() {
            return Left::Drained;
        }
        let more = more_requests || more_to_apply || more_frames;
        if more { Left::Work } else { Left::Nothing }
    }

    /// Lets raft build its batches, starts the network, then the disk.
    fn flush(&mut self) {
        let now = BootTime(self.env.now().0);
        self.tell_room();
        self.raft.flush_pass(now, &mut self.logs, &mut self.out);
        self.take_outbox();
        self.pump_transfers();
        self.send_lanes();
        self.start_fetches();
        for stream in &mut self.logs.streams {
            stream.submit();
        }
    }

    fn take_durable(&mut self) {
        for at in 0..self.logs.streams.len() {
            let stream = StreamNo(u16::try_from(at).expect("a core has few streams"));
            let durable = self.logs.streams[at].durable();
            self.raft.handle_durable(stream, durable, &mut self.out);
            let mut landed = false;
            for took in self.logs.landed(at, durable) {
                self.counters.wal_write.record(took.0);
                landed = true;
            }
            if landed {
                self.unstall_lanes();
            }
            let state = self.logs.streams[at].health().state;
            if let HealthState::Poisoned { cause } = state
                && !self.failed_streams[at]
            {
                self.failed_streams[at] = true;
                tracing::error!(stream = at, %cause, code = "BOW-0601", "a log stream failed");
                self.raft.handle_stream_failed(stream, &mut self.out);
                self.fail_stream(at);
            }
        }
        self.retire_gone();
        self.publish_durable();
        self.open_founded();
        self.take_outbox();
    }

    /// Closes every shard of a failed stream; reads of what was applied go on until then only.
    fn fail_stream(&mut self, stream: usize) {
        for at in 0..self.replicas.len() {
            if self.logs.queues[at].stream == stream {
                let slot = Slot(u32::try_from(at).expect("slots are u32"));
                self.close_shard(slot, ShardFailure::LogWrite);
            }
        }
        self.lose_founding(stream);
    }

    fn take_mail(&mut self) {
        let now = self.logs.now;
        while let Some(event) = self.mail.pop() {
            match event {
                Event::Job { slot, epoch, flush, result } => {
                    self.job_ended((slot, epoch), flush, result, now);
                },
                Event::PagesForApply { slot, epoch, result } => {
                    self.pages_for_apply((slot, epoch), result);
                },
                Event::PagesForRead { slot, epoch, question, result } => {
                    self.pages_for_read((slot, epoch), question, result);
                },
                Event::Entries { slot, epoch, to, result } => {
                    self.entries_read((slot, epoch), to, result);
                },
                Event::AskForPiece { slot, node, piece } => self.ask_for(slot, node, piece),
                Event::FoundDamaged { slot, epoch, damage } => {
                    self.found_damaged((slot, epoch), &damage);
                },
                Event::PieceRead { shard, node, section, off, result } => {
                    self.piece_read((shard, node), (section, off), result);
                },
                Event::TransferFailed { slot, peer } => self.transfer_failed(slot, peer),
                Event::TransferEnded { slot } => self.transfer_ended(slot),
                Event::EntriesForPeer { slot, peer, from, bytes, result } => {
                    self.entries_for_peer((slot, peer), from, bytes, result);
                },
                Event::Founded { shard, is_open } => self.founded(shard, is_open),
                Event::Dialed { node, core, result } => self.dialed((node, core), result),
                Event::Received(opened) => self.received(*opened),
                Event::Frame { lane, life, frame } => self.frame_came(lane, life, frame),
                Event::LaneEnded { lane, life, why } => self.lane_ended(lane, life, &why),
            }
        }
    }

    fn pages_for_apply(
        &mut self,
        (slot, epoch): (Slot, u32),
        result: Result<bowline_statemachine::store::Pins, bowline_statemachine::Damage>,
    ) {
        let replica = &mut self.replicas[place(slot)];
        if replica.epoch != epoch {
            return;
        }
        replica.applying = Applying::Ready;
        match result {
            Ok(pins) => {
                replica.pins = pins;
                self.list_for_apply(slot);
            },
            Err(damage) => {
                tracing::error!(shard = replica.shard.0, %damage, "apply stops at damaged state");
                self.close_shard(slot, ShardFailure::RunDamaged);
            },
        }
    }

    fn take_requests(&mut self) -> bool {
        let mut requests = std::mem::take(&mut self.requests);
        let more =
            self.inbox.drain(REQUESTS_MAX, REQUEST_BYTES_MAX, |request| requests.push(request));
        self.counters.requests.add(u64::try_from(requests.len()).unwrap_or(u64::MAX));
        for request in requests.drain(..) {
            self.admit(request);
        }
        self.requests = requests;
        more
    }

    fn on_tick(&mut self) {
        let now = self.logs.now;
        self.expire();
        self.expire_handing();
        self.begin_handing();
        self.carry_changes();
        self.agree();
        self.prefer_leaders();
        self.retry_parked();
        self.jobs_tick(now);
        self.lanes_tick();
        self.transfers_tick();
        self.inbox.scan();
        self.gauges();
        if self.board.has_failed() {
            self.start_drain();
        }
    }

    fn gauges(&self) {
        let used = self.logs.streams.iter().map(LogStorage::used_permille).max();
        self.counters.wal_used.set(used.unwrap_or(0).into());
        self.counters.wal_limit.set(1_000);
        let (mut frames, mut bytes) = (0, 0);
        for written in self.logs.streams.iter().map(LogStorage::written) {
            frames += written.frames;
            bytes += written.bytes;
        }
        self.counters.wal_frames.set(frames);
        self.counters.wal_bytes.set(bytes);
        self.counters.wal_entries.set(self.logs.entries);
        let shards = self.replicas.len() + self.lost.len() - self.announced;
        self.counters.leaderless.set(u64::try_from(shards).unwrap_or(u64::MAX));
        self.counters.delta_bytes.set(self.store.stats().delta_bytes);
        self.counters.parked.set(u64::try_from(self.parked.len()).unwrap_or(u64::MAX));
    }

    fn take_outbox(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        for sent in out.lane.drain(..) {
            self.post_lane(sent);
        }
        for send in out.send.drain(..) {
            self.post(&send);
        }
        for want in out.snapshot.drain(..) {
            self.offer_snapshot(want);
        }
        for fetch in out.fetch.drain(..) {
            self.fetch_for_peer(fetch);
        }
        for role in out.role.drain(..) {
            self.role_changed(&role);
        }
        for rejected in out.rejected.drain(..) {
            self.proposal_rejected(rejected.slot, rejected.why);
        }
        for apply in out.apply.drain(..) {
            match apply {
                Apply::Range { slot, to, .. } => self.committed(slot, to),
                Apply::Install { slot, index } => self.install(slot, index),
                _ => unreachable!("raft hands out nothing else"),
            }
        }
        for ready in out.reads.drain(..) {
            self.read_ready(ready.slot, ready.token, ready.index);
        }
        for refused in out.reads_rejected.drain(..) {
            self.read_refused(refused.slot, refused.token, refused.why);
        }
        for event in out.event.drain(..) {
            let (shard, term) = (event.shard.0, event.term.0);
            tracing::info!(shard, term, reason = ?event.reason, "raft");
            self.happened(event.slot, event.reason);
        }
        out.accepted.clear();
        debug_assert!(self.out.is_empty(), "nothing was put out while it was taken");
        self.out = out;
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other reasons are told and no more")]
    fn happened(&mut self, slot: Slot, reason: Reason) {
        match reason {
            Reason::Broken(_) => {
                self.close_shard(slot, ShardFailure::Invariant("raft closed the shard"));
            },
            Reason::Configuration | Reason::ConfigurationUndone | Reason::Installed => {
                self.members.conf_moved(slot);
            },
            Reason::Gone => self.left_shard(slot),
            Reason::TransferEnded => {
                self.give_up_handing(slot);
                self.prefer_later(slot);
            },
            _ => {},
        }
    }

    /// Answers whoever waits for a shard that can answer nothing more, and remembers why.
    pub(crate) fn close_shard(&mut self, slot: Slot, why: ShardFailure) {
        let replica = &self.replicas[place(slot)];
        let shard = replica.shard;
        // What cannot be repaired any more counts more than what could.
        let worse = !why.is_damage() && self.may_be_repaired(slot);
        if self.replicas[place(slot)].closed.is_some() && !worse {
            return;
        }
        tracing::error!(shard = shard.0, code = %why.code(), %why, "a shard is closed");
        self.replicas[place(slot)].closed = Some(why.clone());
        // Nobody flushes it: the others do not wait for that.
        self.store.set_aside(shard.0, true);
        let for_good = !self.may_be_repaired(slot);
        self.board.close(shard, why.code(), for_good);
        let replica = &mut self.replicas[place(slot)];
        let error = crate::Error::Shard { shard, why };
        for wait in replica.reads.drain(..) {
            wait.question.ticket.complete(Err(error.clone()), &mut self.wakes);
        }
        let queue = self.logs.queue_mut(slot);
        let mut freed = 0;
        let mut tickets = Vec::new();
        for waiting in queue.waiting.drain(..) {
            freed += waiting.bytes;
            tickets.extend(waiting.ticket);
        }
        self.logs.bytes -= freed;
        for ticket in tickets {
            ticket.complete(Err(error.clone()), &mut self.wakes);
        }
        self.fail_flushes(slot, &error);
        self.unannounce(slot);
        self.counters.shards_failed.add(1);
        self.leave_to_peers(slot);
    }

    fn tell_board(&mut self) {
        self.members_moved();
        if !self.changes.is_empty() {
            self.board.update(&self.changes);
            self.changes.clear();
        }
    }

    fn count(&self, more_requests: bool) {
        let nanos = self.env.now().since(self.logs.now).0;
        self.counters.passes.add(1);
        self.counters.pass_nanos.add(nanos);
        if nanos > STALL_NANOS {
            self.counters.stalls.add(1);
            self.counters.stall_nanos_max.set(nanos.max(self.counters.stall_nanos_max.now()));
        }
        if more_requests {
            self.counters.full_passes.add(1);
        }
    }
}
