//! What may go wrong in a run, and how often: the classes of faults and the mix a seed draws.

use super::rng::Streams;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident: $low:literal..$high:literal,)*) => {
        /// A class of faults that the simulator draws by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// Every class.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
            pub(super) const COUNT: usize = Self::ALL.len();

            /// Lowest and highest rate, in cases per billion.
            const fn rates(self) -> (u64, u64) {
                match self {
                    $(Self::$name => ($low, $high),)*
                }
            }
        }
    };
}

faults! {
    /// A write fails; each of its sectors is old, new or garbage.
    WriteError: 10_000..3_000_000,
    /// A read fails, at the same block until it is written again.
    ReadError: 10_000..3_000_000,
    /// A sync fails, and what it should have made durable is lost.
    SyncError: 10_000..3_000_000,
    /// A write or creation finds the disk full.
    NoSpace: 10_000..3_000_000,
    /// A write stops in its middle.
    ShortWrite: 10_000..3_000_000,
    /// A write is acknowledged and not done.
    LostWrite: 1_000..300_000,
    /// A write lands at another block.
    Misdirected: 1_000..300_000,
    /// A read gives a block as it was before.
    StaleRead: 1_000..300_000,
    /// A bit at rest changes.
    Rot: 1_000..300_000,
    /// An operation takes a hundred times as long.
    Spike: 100_000..30_000_000,
    /// The device answers nothing for seconds.
    Stuck: 1_000..300_000,
    /// The device is slow for minutes.
    Slow: 1_000..300_000,
    /// At power loss each sector has its own fate; without it, each block.
    Tear: 1_000_000_000..1_000_000_001,
    /// At power loss a sector of an unsynced write is noise or zeros.
    Noise: 1_000_000..30_000_000,
    /// At power loss any subset of directory changes survives; without it, a prefix.
    Scatter: 500_000_000..1_000_000_001,
    /// A write in flight when the process dies lands up to 2 s later.
    LateWrite: 100_000_000..500_000_000,
    /// A buffer is refused.
    NoBuffer: 10_000..1_000_000,
    /// An offload is refused.
    NoOffload: 100_000..10_000_000,
    /// A poll takes 1 to 50 ms.
    CpuStall: 1_000..1_000_000,
    /// A timer is late.
    LateTimer: 10_000_000..500_000_000,
    /// The boot clock runs fast or slow.
    ClockRate: 1_000_000_000..1_000_000_001,
    /// A connection is reset.
    NetReset: 1_000..1_000_000,
    /// Bytes arrive in small slices.
    NetSlices: 10_000_000..500_000_000,
}

const _: () = assert!(Fault::COUNT <= 32, "a set of classes is 32 bits");

impl Fault {
    /// Its place in [`Fault::ALL`].
    pub(super) fn index(self) -> usize {
        Self::ALL.iter().position(|&class| class == self).expect("every class is listed")
    }
}

/// A set of fault classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(u32);

impl FaultSet {
    /// No class.
    pub const NONE: Self = Self(0);

    /// Every class.
    #[must_use]
    pub fn all() -> Self {
        Fault::ALL.iter().fold(Self::NONE, |set, &class| set.with(class))
    }

    /// The set with `class`.
    #[must_use]
    pub fn with(self, class: Fault) -> Self {
        Self(self.0 | 1 << class.index())
    }

    /// The set without `class`.
    #[must_use]
    pub fn without(self, class: Fault) -> Self {
        Self(self.0 & !(1 << class.index()))
    }

    /// Whether `class` is in it.
    pub fn has(self, class: Fault) -> bool {
        self.0 & 1 << class.index() != 0
    }
}

/// Which faults a run may meet, and whether latencies vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    faults: FaultSet,
    /// Each class is off with probability 1/2.
    drawn: bool,
    /// Latencies and CPU times are drawn per operation.
    varied: bool,
}

impl Profile {
    /// No faults, fixed latencies; which ready task runs is drawn all the same. A crash that the
    /// test asks for still tears what was not synced.
    #[must_use]
    pub fn calm() -> Self {
        let crash = FaultSet::NONE.with(Fault::Tear).with(Fault::Noise).with(Fault::Scatter);
        Self { faults: crash.with(Fault::LateWrite), drawn: false, varied: false }
    }

    /// Every class of fault, each off with probability 1/2, at rates drawn by the seed.
    #[must_use]
    pub fn swarm() -> Self {
        Self { faults: FaultSet::all(), drawn: true, varied: true }
    }

    /// As [`Profile::swarm`], without the faults that a single copy cannot survive: lost and
    /// misdirected writes, stale reads, rot, and failing reads.
    #[must_use]
    pub fn one_copy() -> Self {
        [Fault::LostWrite, Fault::Misdirected, Fault::StaleRead, Fault::Rot, Fault::ReadError]
            .into_iter()
            .fold(Self::swarm(), Self::without)
    }

    /// The profile without a class. Nothing else about a run's draws changes.
    #[must_use]
    pub fn without(mut self, class: Fault) -> Self {
        self.faults = self.faults.without(class);
        self
    }

    /// The profile with a class.
    #[must_use]
    pub fn with(mut self, class: Fault) -> Self {
        self.faults = self.faults.with(class);
        self
    }

    /// The classes that may occur.
    pub fn faults(self) -> FaultSet {
        self.faults
    }

    /// Whether latencies vary.
    pub(super) fn varied(self) -> bool {
        self.varied
    }
}

/// The rates of one run.
#[derive(Clone, Debug)]
pub(super) struct Mix {
    rates: Vec<u32>,
}

impl Mix {
    /// Draws the rates: the same draws are made whatever classes the profile has.
    pub(super) fn draw(seed: u64, profile: Profile) -> Self {
        let rng = Streams::mix(seed);
        let rates = Fault::ALL.iter().map(|&class| {
            let off = rng.ratio(1, 2);
            let (low, high) = class.rates();
            let rate = rng.magnitude(low, high - 1).min(1_000_000_000);
            let on = profile.faults.has(class) && !(off && profile.drawn);
            if on { u32::try_from(rate).expect("a rate is at most 10^9") } else { 0 }
        });
        Self { rates: rates.collect() }
    }

    /// Cases per billion.
    pub(super) fn rate(&self, class: Fault) -> u32 {
        self.rates[class.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_a_class_off_leaves_the_other_rates_alone() {
        for seed in 0..50 {
            let all = Mix::draw(seed, Profile::swarm());
            for &off in Fault::ALL {
                let less = Mix::draw(seed, Profile::swarm().without(off));
                assert_eq!(less.rate(off), 0);
                for &class in Fault::ALL.iter().filter(|&&class| class != off) {
                    assert_eq!(all.rate(class), less.rate(class), "{class:?} without {off:?}");
                }
            }
        }
    }

    #[test]
    fn about_half_of_the_classes_are_off_in_a_swarm() {
        let count = |seed| {
            let mix = Mix::draw(seed, Profile::swarm());
            Fault::ALL.iter().filter(|&&class| mix.rate(class) > 0).count()
        };
        let total: usize = (0..200).map(count).sum();
        let share = total * 100 / (200 * Fault::COUNT);
        assert!((40..=60).contains(&share), "{share} %");
    }
}
