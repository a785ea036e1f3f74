//! All replicas of one core: one value each, by slot, and what they share.
//!
//! The order of a pass, and the only one:
//!
//! ```text
//! begin_pass -> handle_durable -> handle_timer -> propose, read, admin -> flush_pass
//!            -> the caller drains the Outbox, applies, and tells handle_applied
//! ```
//!
//! Invariants (`check`, and asserted where they are kept):
//! I1 floor <= applied <= handed <= commit <= last, durable <= last.
//! I2 a term never falls and a vote in a term never changes, over restarts too.
//! I3 nothing at or below commit is truncated: a sole voter truncates nothing.
//! I5 a leader's vote is durable. I6 commit moves over durable matches of a quorum of the active
//! configuration, at an index >= `term_start`. I13 ranges to apply have no gap.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};

use crate::{
    BootTime, Configuration, CoreConfig, Counters, Damage, LogIndex, Lsn, Outbox, Place, Proposal,
    Role, Rule, Send, ShardId, Slot, StreamNo,
    alarm::Alarms,
    chain::Chains,
    digest::Walk,
    lane::Lane,
    progress::ProgressSlab,
    replica::{BROKEN, CLOSING, Interned, OPEN, Replicas, STALLED, WaitingRead},
    wheel::{Rate, Wheel},
};

/// Events that one pass puts into the outbox at most; the rest is counted.
pub const EVENTS_MAX: usize = 4_096;
/// A log without room is asked again after this many nanoseconds, even if no write completed.
pub(crate) const RETRY_NANOS: u64 = 10_000_000;
pub(crate) const RETRY_JITTER_NANOS: u64 = 5_000_000;
/// Elections that may start late, all at once.
const STARTS_AT_ONCE: u64 = 64;
const SECOND: u64 = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub(crate) const MILLI: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamState {
    Good,
    /// A refusal told of it; its replicas have not been told.
    Failing,
    Failed,
}

/// One log stream of this core.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) no: StreamNo,
    pub(crate) state: StreamState,
    pub(crate) durable: Lsn,
    /// The latest LSN that the log gave out.
    pub(crate) staged: Lsn,
    /// Whom to tell when an LSN is durable, ascending.
    pub(crate) waiting: VecDeque<Waiting>,
    /// What may leave when an LSN is durable, ascending.
    pub(crate) held: VecDeque<(Lsn, Send)>,
}

/// A write of one replica that is not durable yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) lsn: Lsn,
    /// Last index of the replica's log as of this write.
    pub(crate) last: LogIndex,
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
    /// When it was staged.
    pub(crate) since: BootTime,
}

/// Orders the entries of every replica at home on one core.
///
/// Same calls, same seed: same output. It never waits, reads no clock and does no I/O.
#[derive(Debug)]
pub struct RaftCore {
    pub(crate) config: CoreConfig,
    pub(crate) now: BootTime,
    /// The same, as [`RaftCore::millis`] says it.
    pub(crate) now_millis: u32,
    pub(crate) random: u64,
    pub(crate) replicas: Replicas,
    pub(crate) free: Vec<Slot>,
    pub(crate) by_shard: BTreeMap<ShardId, Slot>,
    pub(crate) confs: Vec<Interned>,
    pub(crate) conf_ids: BTreeMap<Vec<u8>, u16>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) dirty: Vec<Slot>,
    pub(crate) walk: Vec<Slot>,
    pub(crate) stalled: VecDeque<Slot>,
    pub(crate) retry_at: Option<BootTime>,
    pub(crate) ill: Vec<(Slot, Rule)>,
    /// A stream or a replica failed and was not told of.
    pub(crate) trouble: bool,
    pub(crate) proposals: Chains<Proposal>,
    pub(crate) waiting_reads: Chains<WaitingRead>,
    pub(crate) charges: Chains<(LogIndex, u32)>,
    /// Entries that replicas ask others for in the next flush.
    pub(crate) repairs: Vec<(Slot, LogIndex, LogIndex)>,
    /// Leaders that wait for room in a lane.
    pub(crate) crowded: Vec<(u16, Slot)>,
    pub(crate) peers: ProgressSlab,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) wheel: Wheel,
    pub(crate) alarms: Alarms,
    /// Leaders with Appends that have no answer: a bit a slot.
    pub(crate) inflight: Vec<u64>,
    /// When those are looked at.
    pub(crate) inflight_at: Option<BootTime>,
    /// Configurations that come back when a later one is truncated: oldest first.
    pub(crate) older: BTreeMap<Slot, Vec<(u16, LogIndex)>>,
    /// Configurations to append in the next flush.
    pub(crate) changes: BTreeMap<Slot, Configuration>,
    /// Replicas of failed streams that have to hand over.
    pub(crate) handing: VecDeque<Slot>,
    /// How often elections may start.
    pub(crate) rate: Rate,
    /// Pre-candidates that ask again at once.
    pub(crate) eager: Vec<Slot>,
    /// When the latest pass began, and the first one after this process stood still.
    pub(crate) passed_at: BootTime,
    pub(crate) resumed_at: BootTime,
    /// Shards that were closed while bound, and until when.
    pub(crate) silent: Vec<(ShardId, BootTime)>,
    /// The round over all slots after promises, beliefs or leaderships moved.
    pub(crate) audit: Walk,
    pub(crate) counters: Counters,
    pub(crate) events: usize,
}

impl RaftCore {
    /// Makes a core without replicas. `seed` is all the chance there is.
    #[must_use]
    pub fn new(config: CoreConfig, seed: u64) -> Self {
        let config = CoreConfig {
            pass_bytes_max: config.pass_bytes_max.min(config.batch_bytes_max),
            ..config
        };
        let starts = u64::from(config.starts_per_second).clamp(1, SECOND);
        Self {
            config,
            now: BootTime(0),
            now_millis: 1,
            random: seed,
            replicas: Replicas::default(),
            free: Vec::new(),
            by_shard: BTreeMap::new(),
            confs: Vec::new(),
            conf_ids: BTreeMap::new(),
            streams: Vec::new(),
            dirty: Vec::new(),
            walk: Vec::new(),
            stalled: VecDeque::new(),
            retry_at: None,
            ill: Vec::new(),
            trouble: false,
            proposals: Chains::new(),
            waiting_reads: Chains::new(),
            charges: Chains::new(),
            repairs: Vec::new(),
            crowded: Vec::new(),
            peers: ProgressSlab::default(),
            lanes: Vec::new(),
            wheel: Wheel::new(),
            alarms: Alarms::default(),
            inflight: Vec::new(),
            inflight_at: None,
            older: BTreeMap::new(),
            changes: BTreeMap::new(),
            handing: VecDeque::new(),
            rate: Rate::new(SECOND / starts, STARTS_AT_ONCE),
            eager: Vec::new(),
            passed_at: BootTime(0),
            resumed_at: BootTime(0),
            silent: Vec::new(),
            audit: Walk::default(),
            counters: Counters::default(),
            events: 0,
        }
    }

    /// Whether [`RaftCore::flush_pass`] has something to do.
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.ill.is_empty()
    }

    /// The slot of a shard that is open here.
    pub fn slot_of(&self, shard: ShardId) -> Option<Slot> {
        self.by_shard.get(&shard).copied()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Puts a slot on the dirty list once.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn touch(&mut self, slot: Slot) {
        if self.replicas[slot].set_dirty() {
            self.dirty.push(slot);
        }
    }

    /// Lets a slot wait for room in its log.
    pub(crate) fn stall(&mut self, slot: Slot) {
        let flags = &mut self.replicas[slot].flags;
        if *flags & STALLED == 0 {
            *flags |= STALLED;
            self.stalled.push_back(slot);
        }
        if self.retry_at.is_none() {
            let jitter = self.draw() % RETRY_JITTER_NANOS;
            self.retry_at = Some(self.now.after(RETRY_NANOS + jitter));
        }
    }

    /// Whether `slot` has a replica that may still do something.
    #[inline]
    pub(crate) fn is_open(&self, slot: Slot) -> bool {
        self.replicas.get(slot).is_some_and(|it| it.flags & (OPEN | BROKEN) == OPEN)
    }

    /// What the log is told of a replica.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn place(&self, slot: Slot) -> Place {
        let it = &self.replicas[slot];
        Place { slot, shard: it.shard, stream: self.streams[usize::from(it.stream)].no }
    }

    /// Whether `slot` leads and takes proposals and reads.
    #[inline]
    pub(crate) fn serves(&self, slot: Slot) -> bool {
        self.replicas.get(slot).is_some_and(|it| {
            it.flags & (OPEN | BROKEN | CLOSING) == OPEN
                && it.role == Role::Leader
                && it.damage == Damage::Normal
                && self.streams[usize::from(it.stream)].state == StreamState::Good
        })
    }

    #[inline]
    pub(crate) fn stream_is_good(&self, slot: Slot) -> bool {
        self.stream(slot).state == StreamState::Good
    }

    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn stream(&self, slot: Slot) -> &Stream {
        &self.streams[usize::from(self.replicas[slot].stream)]
    }

    /// Stops a replica that is in a state that cannot be; the next flush tells of it.
    pub(crate) fn broken(&mut self, slot: Slot, rule: Rule) {
        debug_assert!(false, "{rule:?} does not hold in slot {}", slot.0);
        self.replicas[slot].flags |= BROKEN;
        self.counters.broken += 1;
        self.ill.push((slot, rule));
        self.trouble = true;
    }

    /// Moves the clock on; it never goes back.
    pub(crate) fn set_now(&mut self, now: BootTime) {
        self.now = self.now.max(now);
        let wrapped = (self.now.0 / MILLI) & u64::from(u32::MAX);
        self.now_millis = u32::try_from(wrapped).expect("masked to 32 bits").max(1);
    }

    /// Now, in milliseconds that wrap; never 0.
    #[inline]
    pub(crate) fn millis(&self) -> u32 {
        self.now_millis
    }

    /// Whether `then`, by [`RaftCore::millis`], is less than `nanos` ago; 0 never is.
    #[inline]
    pub(crate) fn within(&self, then: u32, nanos: u64) -> bool {
        then != 0 && u64::from(self.millis().wrapping_sub(then)) * MILLI < nanos
    }

    /// Whether the log of a replica takes writes, and none waits for its disk for too long.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn log_is_healthy(&self, slot: Slot) -> bool {
        let stream = self.stream(slot);
        let oldest = stream.waiting.front().map_or(self.now, |write| write.since);
        stream.state == StreamState::Good
            && self.now.0.saturating_sub(oldest.0) < self.config.times.support / 2
    }

    /// The active configuration of a replica.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn conf(&self, slot: Slot) -> &Interned {
        &self.confs[usize::from(self.replicas[slot].conf)]
    }

    /// The next number of the generator (`SplitMix64`).
    pub(crate) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Reports something rare.
    pub(crate) fn report(&mut self, slot: Slot, reason: crate::Reason, out: &mut Outbox) {
        if self.events == EVENTS_MAX {
            self.counters.events_dropped += 1;
            return;
        }
        self.events += 1;
        let it = &self.replicas[slot];
        out.event.push(crate::Event { slot, shard: it.shard, term: it.term, reason });
    }
}

/// A slot's place among the slots.
#[inline]
pub(crate) fn at(slot: Slot) -> usize {
    usize::try_from(slot.0).expect("usize holds a u32")
}

/// The slot at a place among the slots.
pub(crate) fn slot_at(place: usize) -> Slot {
    Slot(u32::try_from(place).expect("slots are numbered by u32"))
}
