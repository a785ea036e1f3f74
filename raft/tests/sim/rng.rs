//! All the chance there is: one generator a purpose, each drawn from the seed and its name, so that
//! one more draw for one purpose leaves the others as they were.

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream called `name` of this seed.
    pub fn named(seed: u64, name: &str) -> Self {
        let mut state = seed ^ 0x6a09_e667_f3bc_c908;
        for byte in name.bytes() {
            state = mix(state ^ u64::from(byte)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        }
        Self(state)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// A number of `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True once in `of` draws.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// A number of `from..=to`, each order of magnitude as likely as the next.
    pub fn log_uniform(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = (from.max(1).ilog2(), to.max(1).ilog2());
        let power = self.between(u64::from(low), u64::from(high));
        let base = 1_u64 << power;
        (base + self.below(base)).clamp(from, to)
    }

    /// A random member of `all`.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[place(self.below(all.len() as u64))]
    }
}

/// A well-stirred function of one word.
pub fn mix(word: u64) -> u64 {
    let z = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number as a place in a vector.
pub fn place(number: u64) -> usize {
    usize::try_from(number).expect("small numbers are places")
}
