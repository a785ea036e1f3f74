//! What a run does, drawn from its seed.

use bowline_env::Nanos;
use bowline_env::sim::{Fault, Profile, Rng};
use bowline_wal::SyncChoice;

use crate::node::Setup;

/// What the run does to its nodes, each kind on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Some nodes do not reach the others, for a while.
    Partition,
    /// A node is heard and hears nobody, or the reverse.
    OneWay,
    /// The way between two nodes is slow.
    SlowLink,
    /// The connections between two nodes are reset.
    Reset,
    /// A process dies.
    Kill,
    /// A machine loses power.
    Power,
    /// All machines lose power at once.
    PowerOfAll,
    /// A node is stopped in good order.
    Stop,
    /// A machine loses power in the middle of a disk operation to come.
    PowerAtDisk,
    /// No core of a node runs for a while.
    Pause,
    /// A pause that the node's clock does not see; never with lease reads.
    HiddenPause,
    /// A boot clock jumps ahead of those of the other nodes, as if the machine had slept while
    /// time stood still elsewhere; never with lease reads, which rest on time passing everywhere.
    Suspend,
    /// A wall clock jumps.
    WallJump,
    /// A disk answers nothing, or slowly, for a while.
    SlowDisk,
    /// A write or sync of a disk fails.
    BadDisk,
    /// A leadership is handed over on request.
    Transfer,
    /// A shard's state is flushed, and its log compacted, on request.
    Flush,
    /// A run of the state is lost while its node is down: on a minority of the nodes only,
    /// the same ones in all of the run, so that a majority has a good copy of everything.
    LostRun,
    /// A bit of a run turns under a node that is up: on the nodes of `LostRun` only.
    BadPage,
    /// A node is added, or one that was added is removed.
    Members,
}

impl Trouble {
    pub(crate) const ALL: [Self; 20] = [
        Self::Partition,
        Self::OneWay,
        Self::SlowLink,
        Self::Reset,
        Self::Kill,
        Self::Power,
        Self::PowerOfAll,
        Self::Stop,
        Self::PowerAtDisk,
        Self::Pause,
        Self::HiddenPause,
        Self::Suspend,
        Self::WallJump,
        Self::SlowDisk,
        Self::BadDisk,
        Self::Transfer,
        Self::Flush,
        Self::LostRun,
        Self::BadPage,
        Self::Members,
    ];
}

/// What a run does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) profile: Profile,
    /// The founders; who comes later has a higher id.
    pub(crate) nodes: Vec<u64>,
    pub(crate) shards: u32,
    /// By node; fixed at its founding.
    pub(crate) streams: Vec<u32>,
    pub(crate) clients: usize,
    /// Of each kind of key.
    pub(crate) keys: u64,
    pub(crate) value_max: u64,
    pub(crate) lease_reads: bool,
    pub(crate) support_ms: u64,
    pub(crate) sync: SyncChoice,
    /// A client waits up to this long between two calls.
    pub(crate) think: Nanos,
    pub(crate) troubles: Vec<Trouble>,
    /// Mean time between two of them.
    pub(crate) between: Nanos,
    /// How long there are faults.
    pub(crate) safety: Nanos,
    /// Healed without a minority, which comes back last.
    pub(crate) some_stay_dead: bool,
    /// Logs and deltas are so small that nodes flush, and compact what others still need.
    pub(crate) flushes: bool,
    pub(crate) leaders: &'static str,
    /// State files held in memory: a setting.
    pub(crate) resident: &'static str,
    /// The nodes whose data may be damaged.
    pub(crate) victims: Vec<u64>,
}

impl Plan {
    pub(crate) fn drawn(seed: u64) -> Self {
        let rng = Rng::new(seed ^ 0x636c_7573);
        let calm = rng.ratio(1, 4);
        let lease_reads = rng.ratio(1, 3);
        let nodes = [1, 3, 3, 3, 3, 3, 3, 5, 5, 5][rng.index(10)];
        let on = |trouble: &Trouble| {
            let breaks_leases = matches!(trouble, Trouble::HiddenPause | Trouble::Suspend);
            let fits = !lease_reads || !breaks_leases;
            rng.ratio(1, 2) && fits
        };
        let troubles = Trouble::ALL.iter().copied().filter(on).collect();
        let profile = if calm { Profile::calm() } else { Profile::one_copy() };
        let clients = 1 + rng.index(9);
        Self {
            seed,
            // The test says itself when a node is slow for long, so that every run gets somewhere.
            profile: profile.without(Fault::Slow),
            nodes: (1..=nodes).collect(),
            shards: [1, 2, 4, 8, 16][rng.index(5)],
            streams: (0..nodes).map(|_| few(&rng, 3)).collect(),
            clients,
            keys: if clients > 5 { [2, 8][rng.index(2)] } else { [1, 2, 8][rng.index(3)] },
            value_max: if rng.ratio(1, 8) { 3_000 } else { 200 },
            lease_reads,
            support_ms: [250, 600, 1_000][rng.index(3)],
            sync: if rng.ratio(1, 2) { SyncChoice::Dsync } else { SyncChoice::Fdatasync },
            think: Nanos(rng.magnitude(1_000_000, 100_000_000)),
            troubles,
            between: Nanos(rng.magnitude(50_000_000, 5_000_000_000)),
            safety: Nanos(rng.between(3_000_000_000, 15_000_000_000)),
            some_stay_dead: rng.ratio(1, 4),
            flushes: rng.ratio(1, 2),
            leaders: ["together", "spread", "any"][rng.index(3)],
            resident: ["0MiB", "64MiB"][rng.index(2)],
            victims: {
                let first = rng.below(nodes);
                (first..first + (nodes - 1) / 2).map(|nth| 1 + nth % nodes).collect()
            },
        }
    }

    /// A node as it is started next; the cores change from life to life.
    pub(crate) fn setup(&self, node: u64, rng: &Rng) -> Setup {
        let place = usize::try_from(node - 1).expect("nodes are few");
        let join = place >= self.nodes.len();
        let (slot_bytes, log_bytes, delta_bytes) = if self.flushes {
            (128 << 10, 2 << 20, 64 << 10)
        } else {
            (512 << 10, 64 << 20, 256 << 20)
        };
        Setup {
            cores: few(rng, 3),
            streams: self.streams[place % self.nodes.len()],
            support_ms: self.support_ms,
            op_timeout_ms: 2_000,
            lease_reads: self.lease_reads,
            slot_bytes,
            log_bytes,
            delta_bytes,
            sync: self.sync,
            more: vec![
                ("cluster.leaders", format!("{:?}", self.leaders)),
                ("state.resident", format!("{:?}", self.resident)),
            ],
            join,
            ..Setup::new(node, if join { &[] } else { &self.nodes }, self.shards)
        }
    }
}

/// A number from 1 to `most`.
pub(crate) fn few(rng: &Rng, most: u64) -> u32 {
    u32::try_from(1 + rng.below(most)).expect("few")
}
