//! What a seed means: how many of everything, which faults, how often.

use super::rng::{Rng, place};

pub const MICRO: u64 = 1_000;
pub const MILLI: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// A kind of fault or of disturbance; a seed has each with probability one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Messages take long now and then.
    Delay,
    /// Connections break; what is under way is lost.
    Reset,
    /// Nodes fall into two groups that do not hear each other.
    Partition,
    /// One direction between two nodes is dead.
    OneWay,
    /// One node hears everybody, the others hear only it.
    Bridge,
    /// A core stands still.
    Pause,
    /// A process dies.
    Crash,
    /// All nodes lose power at one instant.
    Power,
    /// Writes take long.
    SlowDisk,
    /// A disk ends no write for a while.
    StuckDisk,
    /// A write fails: the stream is lost until it is opened again.
    FailedDisk,
    /// The log is at its mark after few frames.
    SmallLog,
    /// Bodies of entries arrive damaged.
    BadBytes,
    /// Clocks run at different speeds, within the bounds.
    Drift,
    /// Clocks run far beyond the bounds; leases are off.
    WildClock,
    /// Clocks leap forward; leases are off.
    Jump,
    /// A machine sleeps; its clock counts on.
    Suspend,
    /// Members come and go.
    Membership,
    /// Leaders hand over.
    Transfer,
    /// Logs are compacted, laggards get snapshots.
    Compact,
    /// Snapshots get lost under way.
    LostSnapshot,
    /// Only the newest entries are in memory.
    SmallCache,
    /// Bodies of entries rot.
    Rot,
    /// Vote or tail may be lost.
    Retire,
    /// A state machine's data rots.
    StateRot,
    /// Messages that no honest node sends, and old ones again.
    Strange,
    /// Lanes take no entries for a while.
    NoRoom,
}

pub const CLASSES: [Class; 27] = [
    Class::Delay,
    Class::Reset,
    Class::Partition,
    Class::OneWay,
    Class::Bridge,
    Class::Pause,
    Class::Crash,
    Class::Power,
    Class::SlowDisk,
    Class::StuckDisk,
    Class::FailedDisk,
    Class::SmallLog,
    Class::BadBytes,
    Class::Drift,
    Class::WildClock,
    Class::Jump,
    Class::Suspend,
    Class::Membership,
    Class::Transfer,
    Class::Compact,
    Class::LostSnapshot,
    Class::SmallCache,
    Class::Rot,
    Class::Retire,
    Class::StateRot,
    Class::Strange,
    Class::NoRoom,
];

/// Classes that are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(pub u32);

impl Classes {
    pub fn has(self, class: Class) -> bool {
        self.0 >> (class as u8) & 1 == 1
    }

    pub fn set(&mut self, class: Class, on: bool) {
        let bit = 1 << (class as u8);
        self.0 = if on { self.0 | bit } else { self.0 & !bit };
    }

    pub fn on(self) -> Vec<Class> {
        CLASSES.into_iter().filter(|class| self.has(*class)).collect()
    }
}

/// One run.
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// By node.
    pub cores: Vec<usize>,
    pub streams: usize,
    pub shards: usize,
    pub voters: usize,
    pub classes: Classes,
    /// Nanoseconds between two faults of a class, by class.
    pub every: Vec<u64>,
    /// Of the phase with faults.
    pub safety: u64,
    /// Within which a healed cluster answers everything.
    pub heal: u64,
    pub lease: bool,
    /// Ordinary Raft beats per shard instead of support by lanes.
    pub classic: bool,
    /// Between two requests of clients.
    pub load_every: u64,
    pub batch_max: u32,
    /// Of a message, usually.
    pub delay: u64,
    /// Of a write, usually.
    pub write: u64,
    /// Small windows and batches, so that limits are met.
    pub small: bool,
    /// After healing, a minority may stay dead.
    pub rest_dead: bool,
    pub steps_max: u64,
}

impl Plan {
    /// Draws everything from the seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::named(seed, "plan");
        let voters = match rng.below(10) {
            0 => 1,
            1..=6 => 3,
            _ => 5,
        };
        let mut classes = Classes::default();
        for class in CLASSES {
            classes.set(class, rng.one_in(2));
        }
        if rng.one_in(2) {
            // Leases want clocks that can be trusted.
            classes.set(Class::WildClock, false);
            classes.set(Class::Jump, false);
        }
        let spare = if classes.has(Class::Membership) { place(rng.between(1, 2)) } else { 0 };
        let nodes = voters + spare;
        let usual = place(rng.pick(&[1, 1, 1, 2]));
        let uneven = rng.one_in(6);
        let cores =
            (0..nodes).map(|_| if uneven { place(rng.between(1, 2)) } else { usual }).collect();
        let every = CLASSES.iter().map(|_| rng.log_uniform(60 * MILLI, 3 * SECOND)).collect();
        let wild = classes.has(Class::WildClock) || classes.has(Class::Jump);
        Self {
            seed,
            nodes,
            cores,
            streams: place(rng.between(1, 2)),
            shards: place(rng.log_uniform(1, 16)),
            voters,
            classes,
            every,
            safety: rng.log_uniform(600 * MILLI, 7 * SECOND),
            heal: 20 * SECOND,
            lease: !wild && !rng.one_in(4),
            classic: rng.one_in(3),
            load_every: rng.log_uniform(MILLI, 60 * MILLI),
            batch_max: u32::try_from(rng.pick(&[1, 1, 4, 16])).expect("small"),
            delay: rng.log_uniform(30 * MICRO, 8 * MILLI),
            write: rng.log_uniform(20 * MICRO, 6 * MILLI),
            small: rng.one_in(3),
            rest_dead: rng.one_in(4),
            steps_max: 3_000_000,
        }
    }

    /// A run of nothing but what the caller adds: for stories told by hand.
    pub fn quiet(seed: u64, nodes: usize, voters: usize) -> Self {
        Self {
            seed,
            nodes,
            cores: vec![1; nodes],
            streams: 1,
            shards: 1,
            voters,
            classes: Classes::default(),
            every: vec![SECOND; CLASSES.len()],
            safety: u64::MAX / 4,
            heal: 20 * SECOND,
            lease: false,
            classic: false,
            load_every: u64::MAX / 4,
            batch_max: 1,
            delay: 100 * MICRO,
            write: 100 * MICRO,
            small: false,
            rest_dead: false,
            steps_max: 20_000_000,
        }
    }

    pub fn every(&self, class: Class) -> u64 {
        self.every[class as usize]
    }
}
