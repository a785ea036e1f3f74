//! All replicas of one core: parallel arrays by slot, and what they share.
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
    BootTime, Configuration, Counters, Damage, LogIndex, Lsn, Outbox, Place, Proposal, ReplicaId,
    Role, Rule, ShardId, Slot, StreamNo, Term,
    chain::{Chain, Chains},
    pending::Write,
};

/// Events that one pass puts into the outbox at most; the rest is counted.
pub const EVENTS_MAX: usize = 4_096;
/// A log without room is asked again after this many nanoseconds, even if no write completed.
pub(crate) const RETRY_NANOS: u64 = 10_000_000;
pub(crate) const RETRY_JITTER_NANOS: u64 = 5_000_000;

/// Limits of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// Proposal bytes of a shard that may be queued or uncommitted. One item over it is taken
    /// alone.
    pub uncommitted_bytes_max: u32,
    /// Proposal bytes that one pass takes from one shard; the rest stays for the next pass.
    pub pass_bytes_max: u32,
    /// Bytes of the largest batch body that the log takes.
    pub batch_bytes_max: u32,
    /// Reads that may wait on this core.
    pub reads_max: u32,
    /// A leader writes its commit index down, without a disk write of its own, once it moved by
    /// this many entries.
    pub commit_every: u32,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            uncommitted_bytes_max: 16 << 20,
            pass_bytes_max: 128 << 10,
            batch_bytes_max: 1 << 20,
            reads_max: 65_536,
            commit_every: 1_024,
        }
    }
}

/// What every pass looks at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hot {
    pub(crate) term: Term,
    pub(crate) last: LogIndex,
    pub(crate) last_term: Term,
    pub(crate) commit: LogIndex,
    /// Last index of this log known durable.
    pub(crate) durable: LogIndex,
    /// The latest write staged for this replica.
    pub(crate) staged: Lsn,
    pub(crate) conf: u16,
    pub(crate) flags: u16,
    pub(crate) role: Role,
    pub(crate) damage: Damage,
    /// Index in [`RaftCore::streams`].
    pub(crate) stream: u8,
    /// The leader's place in the configuration.
    pub(crate) leader: u8,
}

/// What a pass looks at when something moves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Warm {
    pub(crate) vote: ReplicaId,
    /// Last index handed out to apply.
    pub(crate) handed: LogIndex,
    pub(crate) applied: LogIndex,
    /// First index of the log - 1.
    pub(crate) floor: LogIndex,
    /// First index of a leader's own term.
    pub(crate) term_start: LogIndex,
    pub(crate) queue: Chain,
    pub(crate) pending: Chain,
    /// Proposal bytes queued or not committed.
    pub(crate) uncommitted: u32,
}

/// What is rarely looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cold {
    pub(crate) shard: ShardId,
    pub(crate) replica: ReplicaId,
    pub(crate) conf_index: LogIndex,
    /// The commit index of the latest hard state staged.
    pub(crate) staged_commit: LogIndex,
    /// Compaction asked for; 0: none.
    pub(crate) compact: LogIndex,
    /// Reads that have no index yet.
    pub(crate) reads: Chain,
    /// Reads that wait for their index to be applied.
    pub(crate) stamped: Chain,
    pub(crate) generation: u32,
}

const _: () = assert!(size_of::<Hot>() <= 64, "one cache line");
const _: () = assert!(size_of::<Warm>() <= 64, "one cache line");
const _: () = assert!(size_of::<Cold>() <= 96, "an idle replica stays small");

/// The slot has a replica.
pub(crate) const OPEN: u16 = 1;
/// It is on the dirty list.
pub(crate) const DIRTY: u16 = 2;
/// It has to campaign.
pub(crate) const CAMPAIGN: u16 = 4;
/// It waits for room in its log.
pub(crate) const STALLED: u16 = 8;
/// It is to be closed at the end of this pass.
pub(crate) const CLOSING: u16 = 16;
/// It was in a state that cannot be; it does nothing more.
pub(crate) const BROKEN: u16 = 32;

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
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) lsn: Lsn,
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
}

/// A configuration and how many replicas follow it.
#[derive(Debug)]
pub(crate) struct Interned {
    pub(crate) conf: Configuration,
    pub(crate) uses: u32,
}

/// A read that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingRead {
    pub(crate) token: u64,
    pub(crate) index: LogIndex,
}

/// Orders the entries of every replica at home on one core.
///
/// Same calls, same seed: same output. It never waits, reads no clock and does no I/O.
#[derive(Debug)]
pub struct RaftCore {
    pub(crate) config: CoreConfig,
    pub(crate) now: BootTime,
    pub(crate) random: u64,
    pub(crate) hot: Vec<Hot>,
    pub(crate) warm: Vec<Warm>,
    pub(crate) cold: Vec<Cold>,
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
    pub(crate) proposals: Chains<Proposal>,
    pub(crate) waiting_reads: Chains<WaitingRead>,
    pub(crate) writes: Chains<Write>,
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
        Self {
            config,
            now: BootTime(0),
            random: seed,
            hot: Vec::new(),
            warm: Vec::new(),
            cold: Vec::new(),
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
            proposals: Chains::new(),
            waiting_reads: Chains::new(),
            writes: Chains::new(),
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

    /// When [`RaftCore::handle_timer`] has something to do.
    pub fn next_deadline(&self) -> Option<BootTime> {
        self.retry_at
    }

    /// Puts a slot on the dirty list once.
    pub(crate) fn touch(&mut self, slot: Slot) {
        let flags = &mut self.hot[at(slot)].flags;
        if *flags & (DIRTY | OPEN) == OPEN {
            *flags |= DIRTY;
            self.dirty.push(slot);
        }
    }

    /// Lets a slot wait for room in its log.
    pub(crate) fn stall(&mut self, slot: Slot) {
        let flags = &mut self.hot[at(slot)].flags;
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
    pub(crate) fn is_open(&self, slot: Slot) -> bool {
        self.hot.get(at(slot)).is_some_and(|hot| hot.flags & (OPEN | BROKEN) == OPEN)
    }

    /// What the log is told of a replica.
    pub(crate) fn place(&self, slot: Slot) -> Place {
        let stream = self.stream(slot).no;
        Place { slot, shard: self.cold[at(slot)].shard, stream }
    }

    /// Whether `slot` leads and takes proposals and reads.
    pub(crate) fn serves(&self, slot: Slot) -> bool {
        self.hot.get(at(slot)).is_some_and(|hot| {
            hot.flags & (OPEN | BROKEN | CLOSING) == OPEN
                && hot.role == Role::Leader
                && hot.damage == Damage::Normal
                && self.streams[usize::from(hot.stream)].state == StreamState::Good
        })
    }

    pub(crate) fn stream_is_good(&self, slot: Slot) -> bool {
        self.stream(slot).state == StreamState::Good
    }

    pub(crate) fn stream(&self, slot: Slot) -> &Stream {
        &self.streams[usize::from(self.hot[at(slot)].stream)]
    }

    /// Stops a replica that is in a state that cannot be; the next flush tells of it.
    pub(crate) fn broken(&mut self, slot: Slot, rule: Rule) {
        debug_assert!(false, "{rule:?} does not hold in slot {}", slot.0);
        self.hot[at(slot)].flags |= BROKEN;
        self.counters.broken += 1;
        self.ill.push((slot, rule));
    }

    /// The next number of the generator (`SplitMix64`).
    fn draw(&mut self) -> u64 {
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
        let (shard, term) = (self.cold[at(slot)].shard, self.hot[at(slot)].term);
        out.event.push(crate::Event { slot, shard, term, reason });
    }
}

/// A slot's place in the arrays.
pub(crate) fn at(slot: Slot) -> usize {
    usize::try_from(slot.0).expect("usize holds a u32")
}

/// The slot at a place in the arrays.
pub(crate) fn slot_at(place: usize) -> Slot {
    Slot(u32::try_from(place).expect("slots are numbered by u32"))
}
