//! What runs met: a run that met nothing proves nothing.

use bowline::Metrics;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of what happened; equal for equal seeds.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Tally {
            $($(#[$doc])* pub(crate) $name: u64,)*
            /// Rolling hash of everything that happened in the world.
            pub(crate) hash: u64,
        }

        impl Tally {
            /// Adds the counts of another run.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.hash ^= other.hash;
            }
        }
    };
}

tally! {
    /// Writes that were acknowledged, refused for certain, or neither.
    acked, refused, unknown,
    /// Refused writes that went to the named leader, and were acknowledged there.
    redirected, redirected_acked,
    /// Guards that held, and that did not.
    swapped, not_swapped,
    increments, batches,
    /// Reads by kind.
    reads, lease_reads, eventual_reads, multi_reads, scans,
    /// Reads without an answer.
    reads_refused,
    kills, power_losses, power_losses_of_all, stops, powers_at_disk, failed_starts,
    /// Shards that a disk's fault closed.
    closed_shards,
    partitions, one_way_cuts, slow_links, resets, pauses, suspends, slow_disks, bad_disks,
    /// Leaderships handed over and states flushed as asked.
    transfers, forced_flushes,
    /// Runs that were lost, and bits of runs that turned.
    lost_runs, bad_pages,
    /// Nodes that became voters of everything, and that left again.
    joined, left,
    /// Leaderships won.
    elections,
    lanes_up, lanes_down,
    messages, messages_dropped, messages_refused,
    /// Entries applied, flushes of state, and states received from a peer.
    applied, flushes, installs,
    /// Milliseconds of the world's time.
    millis,
}

impl Tally {
    /// Adds what a node counted in one of its lives.
    pub(crate) fn harvest(&mut self, metrics: &Metrics) {
        for core in &metrics.cores {
            self.elections += core.leader_changes;
            self.lanes_up += core.lanes_up;
            self.lanes_down += core.lanes_down;
            self.messages += core.messages_sent;
            self.messages_dropped += core.messages_dropped;
            self.messages_refused += core.messages_refused;
            self.closed_shards += core.shards_failed;
            self.applied += core.applied;
            self.flushes += core.flushes;
            self.installs += core.installs;
        }
    }
}
