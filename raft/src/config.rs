//! Limits and times of a core.

use crate::BootTime;

/// How a replica knows that its leader is alive, and a leader that it is still followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Liveness {
    /// By the support that lanes give each other, whatever the number of shards.
    #[default]
    Lane,
    /// By a message per shard and beat: ordinary Raft. Also the way of a pair without a lane of
    /// its own.
    Shard,
}

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
    /// Bytes of entries in one Append; one batch at least.
    pub append_bytes_max: u32,
    /// The same while a follower's log is being probed.
    pub probe_bytes_max: u32,
    /// Bytes of entries read from disk for a peer at once.
    pub catchup_bytes_max: u32,
    /// Appends to one peer that have no answer yet.
    pub window_messages: u16,
    /// Bytes of entries in them.
    pub window_bytes: u32,
    /// A learner is caught up when it lags by no more bytes than this.
    pub promote_lag_bytes: u32,
    /// Elections that a core starts in a second.
    pub starts_per_second: u32,
    /// Where this core is on its node, for the hints in messages.
    pub core: u16,
    /// How liveness is known.
    pub liveness: Liveness,
    /// Whether a leader with support may answer lease reads by itself.
    pub lease_reads: bool,
    /// Until then no vote is given: promises of a former life may still hold. Zero for a new
    /// directory; else the start plus the longest support time this directory ever used.
    pub quiet_until: BootTime,
    /// Times.
    pub times: Times,
}

/// Times of a core, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long a promise to a leader holds (D).
    pub support: u64,
    /// Between two beats of a lane (H).
    pub beat: u64,
    /// Between two empty Appends of a leader without lane support; also how long an Append may
    /// stay without an answer before it is asked for again.
    pub heartbeat: u64,
    /// What one place in the order of preference delays a campaign.
    pub rank: u64,
    /// What chance adds to it at most.
    pub jitter: u64,
    /// How long a campaign waits for votes; a failed one is doubled up to `campaign_max`.
    pub campaign: u64,
    /// The longest wait between two campaigns.
    pub campaign_max: u64,
    /// How long after a failed snapshot it is offered again; doubled up to `snapshot_max`.
    pub snapshot: u64,
    /// The longest wait between two offers of a snapshot.
    pub snapshot_max: u64,
    /// What a belief ends early.
    pub guard: u64,
    /// A pause between two passes after which own beliefs are void until renewed.
    pub pause: u64,
}

const MILLI: u64 = 1_000_000;

impl Times {
    /// The times of production.
    pub const DEFAULT: Self = Self {
        support: 600 * MILLI,
        beat: 50 * MILLI,
        heartbeat: 200 * MILLI,
        rank: 150 * MILLI,
        jitter: 50 * MILLI,
        campaign: 300 * MILLI,
        campaign_max: 5_000 * MILLI,
        snapshot: 1_000 * MILLI,
        snapshot_max: 30_000 * MILLI,
        guard: 20 * MILLI,
        pause: 50 * MILLI,
    };
}

impl CoreConfig {
    /// The limits of production.
    pub const DEFAULT: Self = Self {
        uncommitted_bytes_max: 16 << 20,
        pass_bytes_max: 128 << 10,
        batch_bytes_max: 1 << 20,
        reads_max: 65_536,
        commit_every: 1_024,
        append_bytes_max: 256 << 10,
        probe_bytes_max: 64 << 10,
        catchup_bytes_max: 1 << 20,
        window_messages: 256,
        window_bytes: 8 << 20,
        promote_lag_bytes: 1 << 20,
        starts_per_second: 2_000,
        core: 0,
        liveness: Liveness::Lane,
        lease_reads: false,
        quiet_until: BootTime(0),
        times: Times::DEFAULT,
    };
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::DEFAULT
    }
}
