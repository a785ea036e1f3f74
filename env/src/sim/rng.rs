//! Chance from a seed: one small generator, and one stream of it per purpose, so that drawing more
//! for one purpose does not shift the others.

use core::cell::Cell;
use core::fmt;

use super::profile::Fault;
use super::usize_of;

/// Spreads the bits of `x` (splitmix64's finisher).
pub(super) const fn spread(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A generator (xoshiro256++). Draws take `&self`: it is shared within one thread.
pub struct Rng {
    state: Cell<[u64; 4]>,
}

impl Rng {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let a = spread(seed);
        let b = spread(a ^ 1);
        let c = spread(b ^ 2);
        Self { state: Cell::new([a, b, c, spread(c ^ 3) | 1]) }
    }

    /// 64 bits.
    pub fn bits(&self) -> u64 {
        let [s0, s1, s2, s3] = self.state.get();
        let out = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let mut s = [s0, s1, s2 ^ s0, s3 ^ s1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= s1 << 17;
        s[3] = s[3].rotate_left(45);
        self.state.set(s);
        out
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    ///
    /// # Panics
    ///
    /// If `low` is above `high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a range runs forward");
        match (high - low).checked_add(1) {
            Some(span) => low + self.below(span),
            None => self.bits(),
        }
    }

    /// A number from `low` to `high` whose magnitude is uniform: small ones are as frequent as
    /// large ones. `low` is at least 1.
    ///
    /// # Panics
    ///
    /// If `low` is 0 or above `high`.
    pub fn magnitude(&self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high, "a range of magnitudes runs forward from 1");
        let bits = self.between(u64::from(low.ilog2()), u64::from(high.ilog2()));
        let first = 1_u64 << bits;
        self.between(first.max(low), (first | (first - 1)).min(high))
    }

    /// True in `per_billion` of 10^9 cases.
    pub fn chance(&self, per_billion: u32) -> bool {
        self.below(1_000_000_000) < u64::from(per_billion)
    }

    /// True in `num` of `den` cases.
    pub fn ratio(&self, num: u64, den: u64) -> bool {
        self.below(den) < num
    }

    /// An index below `len`.
    ///
    /// # Panics
    ///
    /// If `len` is 0.
    pub fn index(&self, len: usize) -> usize {
        assert!(len > 0, "something is there to choose from");
        usize_of(self.below(super::u64_of(len)))
    }

    /// Fills `out`.
    pub fn fill(&self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            part.copy_from_slice(&self.bits().to_le_bytes()[..part.len()]);
        }
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng")
    }
}

/// The streams of one run.
#[derive(Debug)]
pub(super) struct Streams {
    /// Which task runs, and for how long.
    pub(super) sched: Rng,
    /// How long the disk takes.
    pub(super) disk: Rng,
    /// How long the network takes.
    pub(super) net: Rng,
    /// Clocks and timers.
    pub(super) clock: Rng,
    /// What the code under test draws.
    pub(super) entropy: Rng,
    /// What a crash leaves behind.
    pub(super) crash: Rng,
    faults: Vec<Rng>,
}

impl Streams {
    /// The streams of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let stream = |no: u64| Rng::new(spread(seed) ^ spread(no.wrapping_mul(0x517c_c1b7_2722)));
        Self {
            sched: stream(1),
            disk: stream(2),
            net: stream(3),
            clock: stream(4),
            entropy: stream(5),
            crash: stream(6),
            faults: (0..Fault::COUNT).map(|class| stream(100 + super::u64_of(class))).collect(),
        }
    }

    /// The stream of one fault class.
    pub(super) fn fault(&self, class: Fault) -> &Rng {
        &self.faults[class.index()]
    }

    /// The stream for what tests draw.
    pub(super) fn load(seed: u64) -> Rng {
        Rng::new(spread(seed) ^ spread(7))
    }

    /// The stream for drawing the mix of faults.
    pub(super) fn mix(seed: u64) -> Rng {
        Rng::new(spread(seed) ^ spread(8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_ranges_and_reach_both_ends() {
        let rng = Rng::new(7);
        let mut seen = [false; 4];
        for _ in 0..200 {
            seen[rng.index(4)] = true;
            assert!((5..=9).contains(&rng.between(5, 9)));
            assert!((3..=1000).contains(&rng.magnitude(3, 1000)));
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.between(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn one_seed_gives_one_sequence_and_another_seed_another() {
        let draw = |seed| {
            let rng = Rng::new(seed);
            (0..8).map(|_| rng.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
