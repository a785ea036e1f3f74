//! What a core counts, and the names under which it is shown.
//!
//! One block per core, written by that core alone with relaxed stores, read by anyone. Names and
//! units are frozen once released; labels are `core`, `shard`, `peer` and small enums, never a key.

mod names;
mod peer_fault;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use bowline_raft::{NodeId, ShardId, Term};

use crate::Budget;

pub use names::{Kind, Sample};
pub use peer_fault::PeerFault;

/// Buckets of an octave.
const SUB_COUNT: usize = 8;
/// Buckets of a histogram: 64 octaves.
const BUCKET_COUNT: usize = 64 * SUB_COUNT;

/// A number that one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`. Only by the one writer.
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(more), Ordering::Relaxed);
    }

    /// Replaces the number: a gauge. Only by the one writer.
    #[inline]
    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    /// The number.
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A latency histogram that one thread writes: 64 octaves of 8 buckets, 4 KiB.
pub(crate) struct Histogram {
    buckets: Box<[Counter]>,
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKET_COUNT).map(|_| Counter::default()).collect();
        Self { buckets, sum: Counter::default() }
    }
}

impl Histogram {
    /// Counts one value, in nanoseconds.
    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        self.buckets[bucket(nanos)].add(1);
        self.sum.add(nanos);
    }

    fn copy(&self) -> Latency {
        let buckets: Vec<u64> = self.buckets.iter().map(Counter::now).collect();
        let count = buckets.iter().sum();
        Latency { buckets: buckets.into_boxed_slice(), count, sum_nanos: self.sum.now() }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram({} ns in all)", self.sum.now())
    }
}

/// The bucket of a value: the top bit and the three below it.
fn bucket(nanos: u64) -> usize {
    let value = nanos.max(1);
    let octave = value.ilog2();
    let sub = if octave >= 3 { value >> (octave - 3) } else { value << (3 - octave) } & 7;
    let octave = usize::try_from(octave).expect("at most 63");
    octave * SUB_COUNT + usize::try_from(sub).expect("at most 7")
}

/// The first value beyond a bucket.
fn bucket_end(place: usize) -> u64 {
    let (octave, sub) = (place / SUB_COUNT, place % SUB_COUNT);
    let steps = u128::try_from(SUB_COUNT + sub + 1).expect("at most 16");
    let end = (steps << octave) >> 3;
    u64::try_from(end).unwrap_or(u64::MAX)
}

/// The counters of one core.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CoreCounters {
    /// Turns of the loop.
    pub(crate) passes: Counter,
    /// Nanoseconds inside them.
    pub(crate) pass_nanos: Counter,
    /// Passes that left work for the next one.
    pub(crate) full_passes: Counter,
    /// Requests taken from rings.
    pub(crate) requests: Counter,
    /// Times that the core went to sleep.
    pub(crate) parks: Counter,
    /// Passes over 10 ms.
    pub(crate) stalls: Counter,
    /// Nanoseconds of the longest one.
    pub(crate) stall_nanos_max: Counter,
    /// Refusals by budget, in the order of [`Budget::ALL`].
    pub(crate) busy: [Counter; Budget::ALL.len()],
    /// Requests that wait for a leader now.
    pub(crate) parked: Counter,
    /// Proposals that were applied.
    pub(crate) proposals_applied: Counter,
    /// Proposals that failed or were refused.
    pub(crate) proposals_failed: Counter,
    /// Reads that were answered.
    pub(crate) reads: Counter,
    /// Bytes given to the log.
    pub(crate) wal_bytes: Counter,
    /// Frames given to the log.
    pub(crate) wal_frames: Counter,
    /// Entries in them.
    pub(crate) wal_entries: Counter,
    /// Bytes that the log occupies now, of how many it may.
    pub(crate) wal_used: Counter,
    /// Bytes that the log may occupy.
    pub(crate) wal_limit: Counter,
    /// Entries applied.
    pub(crate) applied: Counter,
    /// Bytes of state in memory now.
    pub(crate) delta_bytes: Counter,
    /// Flushes finished.
    pub(crate) flushes: Counter,
    /// Flushes and merges that failed.
    pub(crate) jobs_failed: Counter,
    /// Leaderships won or lost.
    pub(crate) leader_changes: Counter,
    /// Shards whose leader is not known now.
    pub(crate) leaderless: Counter,
    /// Shards that were closed by a failure.
    pub(crate) shards_failed: Counter,
    /// Connections to peers that came up.
    pub(crate) lanes_up: Counter,
    /// Connections to peers that ended.
    pub(crate) lanes_down: Counter,
    /// Connections to or from peers that came to nothing, in the order of [`PeerFault::ALL`].
    pub(crate) peers_refused: [Counter; PeerFault::ALL.len()],
    /// States received and installed.
    pub(crate) installs: Counter,
    pub(crate) state_bytes: Counter,
    /// Messages given to lanes.
    pub(crate) messages_sent: Counter,
    /// Messages that found no lane, no room or no entries.
    pub(crate) messages_dropped: Counter,
    /// Messages of peers that raft did not take.
    pub(crate) messages_refused: Counter,
    /// From arrival to answer.
    pub(crate) proposal: Histogram,
    /// From arrival to answer.
    pub(crate) read: Histogram,
    /// From submission to durable.
    pub(crate) wal_write: Histogram,
    /// Applying what is ready in a pass.
    pub(crate) apply: Histogram,
    /// From freeze to durable manifest.
    pub(crate) flush: Histogram,
}

impl CoreCounters {
    /// Counts a refusal.
    pub(crate) fn busy(&self, what: Budget) {
        let place = Budget::ALL.iter().position(|each| *each == what);
        self.busy[place.expect("every budget is in ALL")].add(1);
    }

    /// A copy, not of one instant.
    pub(crate) fn copy(&self, core: u16) -> CoreMetrics {
        CoreMetrics {
            core,
            passes: self.passes.now(),
            pass_nanos: self.pass_nanos.now(),
            full_passes: self.full_passes.now(),
            requests: self.requests.now(),
            parks: self.parks.now(),
            stalls: self.stalls.now(),
            stall_nanos_max: self.stall_nanos_max.now(),
            busy: self.busy.each_ref().map(Counter::now),
            parked: self.parked.now(),
            proposals_applied: self.proposals_applied.now(),
            proposals_failed: self.proposals_failed.now(),
            reads: self.reads.now(),
            wal_bytes: self.wal_bytes.now(),
            wal_frames: self.wal_frames.now(),
            wal_entries: self.wal_entries.now(),
            wal_used: self.wal_used.now(),
            wal_limit: self.wal_limit.now(),
            applied: self.applied.now(),
            delta_bytes: self.delta_bytes.now(),
            flushes: self.flushes.now(),
            jobs_failed: self.jobs_failed.now(),
            leader_changes: self.leader_changes.now(),
            leaderless: self.leaderless.now(),
            shards_failed: self.shards_failed.now(),
            lanes_up: self.lanes_up.now(),
            lanes_down: self.lanes_down.now(),
            peers_refused: self.peers_refused.each_ref().map(Counter::now),
            installs: self.installs.now(),
            state_bytes: self.state_bytes.now(),
            messages_sent: self.messages_sent.now(),
            messages_dropped: self.messages_dropped.now(),
            messages_refused: self.messages_refused.now(),
            proposal: self.proposal.copy(),
            read: self.read.copy(),
            wal_write: self.wal_write.copy(),
            apply: self.apply.copy(),
            flush: self.flush.copy(),
        }
    }
}

/// A copy of a node's counters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// The node.
    pub node: NodeId,
    /// By core.
    pub cores: Vec<CoreMetrics>,
    /// By shard; empty where `telemetry.per_shard` is off.
    pub shards: Vec<ShardMetrics>,
}

/// A copy of a core's counters.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each field has the meaning of the counter of its name")]
pub struct CoreMetrics {
    pub core: u16,
    pub passes: u64,
    pub pass_nanos: u64,
    pub full_passes: u64,
    pub requests: u64,
    pub parks: u64,
    pub stalls: u64,
    pub stall_nanos_max: u64,
    pub busy: [u64; Budget::ALL.len()],
    pub parked: u64,
    pub proposals_applied: u64,
    pub proposals_failed: u64,
    pub reads: u64,
    pub wal_bytes: u64,
    pub wal_frames: u64,
    pub wal_entries: u64,
    pub wal_used: u64,
    pub wal_limit: u64,
    pub applied: u64,
    pub delta_bytes: u64,
    pub flushes: u64,
    pub jobs_failed: u64,
    pub leader_changes: u64,
    pub leaderless: u64,
    pub shards_failed: u64,
    pub lanes_up: u64,
    pub lanes_down: u64,
    pub peers_refused: [u64; PeerFault::ALL.len()],
    pub installs: u64,
    /// Bytes received of peers' states.
    pub state_bytes: u64,
    pub messages_sent: u64,
    pub messages_dropped: u64,
    pub messages_refused: u64,
    pub proposal: Latency,
    pub read: Latency,
    pub wal_write: Latency,
    pub apply: Latency,
    pub flush: Latency,
}

/// A shard's state as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardMetrics {
    /// The shard.
    pub shard: ShardId,
    /// Whether this node leads it.
    pub leads: bool,
    /// The term of its known leader; 0: none is known.
    pub term: Term,
}

impl ShardMetrics {
    pub(crate) const fn new(shard: ShardId, leads: bool, term: Term) -> Self {
        Self { shard, leads, term }
    }
}

/// A copy of a latency histogram.
#[derive(Clone, PartialEq, Eq)]
pub struct Latency {
    buckets: Box<[u64]>,
    count: u64,
    sum_nanos: u64,
}

impl Latency {
    /// How many values were counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their sum, in nanoseconds.
    pub const fn sum_nanos(&self) -> u64 {
        self.sum_nanos
    }

    /// An upper bound of the value at `thousandths` of the count (500: the median), at most an
    /// eighth too high. 0: nothing was counted.
    pub fn at(&self, thousandths: u32) -> u64 {
        let rank = u128::from(self.count) * u128::from(thousandths.min(1_000));
        let rank = rank.div_ceil(1_000).max(1);
        let mut seen = 0_u128;
        for (place, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank && *count > 0 {
                return bucket_end(place);
            }
        }
        0
    }

    /// Upper end in nanoseconds and count up to it, for each octave that is reached.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut seen = 0;
        let last = self.buckets.iter().rposition(|count| *count > 0).map_or(0, |at| at + 1);
        let octaves = self.buckets.chunks_exact(SUB_COUNT).enumerate();
        octaves.take(last.div_ceil(SUB_COUNT)).map(move |(octave, counts)| {
            seen += counts.iter().sum::<u64>();
            (bucket_end(octave * SUB_COUNT + SUB_COUNT - 1), seen)
        })
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values, p50 {} ns, p99 {} ns", self.count, self.at(500), self.at(990))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in edges.chain([u64::MAX, 1_000, 123_456_789]) {
            let place = bucket(value);
            assert!(place < BUCKET_COUNT, "{value}");
            assert!(value.max(1) <= bucket_end(place), "{value} is beyond bucket {place}");
            if place > 0 && (8..u64::MAX).contains(&value) {
                assert!(value >= bucket_end(place - 1), "{value} is below bucket {place}");
            }
        }
    }

    #[test]
    fn a_quantile_is_at_most_an_eighth_too_high() {
        let histogram = Histogram::default();
        for value in 1..=10_000 {
            histogram.record(value * 100);
        }
        let copy = histogram.copy();
        assert_eq!(copy.count(), 10_000);
        for (thousandths, want) in [(500, 500_000), (990, 990_000), (1_000, 1_000_000)] {
            let got = copy.at(thousandths);
            assert!((want..=want + want / 8).contains(&got), "{thousandths}: {got}");
        }
        assert_eq!(Histogram::default().copy().at(500), 0);
        assert_eq!(copy.cumulative().last().map(|(_, count)| count), Some(10_000));
    }

    #[test]
    fn a_refusal_is_counted_under_its_budget() {
        let counters = CoreCounters::default();
        for what in Budget::ALL {
            counters.busy(what);
        }
        assert_eq!(counters.copy(0).busy, [1; Budget::ALL.len()]);
    }
}
