//! What the clients ask: which operations, on which keys, with which values.

use core::fmt;

use bowline::{Consistency, ShardId};
use bytes::Bytes;

use crate::cli::{BenchKv, Fresh, Workload};

/// Bytes of a key.
pub(crate) const KEY_LEN: usize = 8;
/// Windows of the pool of random bytes that values are taken from.
const WINDOWS: u64 = 1 << 16;

/// Operations and how they are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    /// Of a hundred operations, how many are reads.
    pub(crate) reads_percent: u64,
    /// How fresh they are.
    pub(crate) fresh: Fresh,
}

impl Mix {
    /// What the command line asks for.
    pub(crate) fn of(ask: &BenchKv) -> Self {
        let whole = match ask.workload {
            Workload::Put => 0,
            Workload::Get => 100,
        };
        Self { reads_percent: ask.reads.map_or(whole, u64::from), fresh: ask.consistency }
    }

    /// The library's word for it.
    pub(crate) const fn consistency(self) -> Consistency {
        match self.fresh {
            Fresh::Linearizable => Consistency::Linearizable,
            Fresh::Lease => Consistency::Lease,
            Fresh::Eventual => Consistency::Eventual,
        }
    }
}

/// `put`, `get_lease`, `mixed_90_eventual`.
impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fresh = match self.fresh {
            Fresh::Linearizable => "linearizable",
            Fresh::Lease => "lease",
            Fresh::Eventual => "eventual",
        };
        match self.reads_percent {
            0 => f.write_str("put"),
            100 => write!(f, "get_{fresh}"),
            percent => write!(f, "mixed_{percent}_{fresh}"),
        }
    }
}

/// Chance for a nanosecond: xorshift64*.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// A stream of its own for each seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub(crate) const fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Values that do not compress: windows of one pool.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pool: Bytes,
    len: usize,
}

impl Values {
    /// Windows of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let mut dice = Dice::new(7);
        let pool_len = usize::try_from(WINDOWS).expect("a small number") + len;
        let words = (0..pool_len.div_ceil(8)).flat_map(|_| dice.roll().to_le_bytes());
        Self { pool: words.collect::<Vec<u8>>().into(), len }
    }

    /// One of them.
    pub(crate) fn pick(&self, chance: u64) -> Bytes {
        let at = usize::try_from(chance % WINDOWS).expect("a small number");
        self.pool.slice(at..at + self.len)
    }
}

/// Keys, by the shard they belong to.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// Key `n` is `n` as 8 bytes, little end first.
    by_shard: Vec<Vec<u64>>,
    all: u64,
}

impl Keys {
    /// `count` keys over `shards` shards.
    pub(crate) fn new(count: u64, shards: u32, shard_of: impl Fn(&[u8]) -> ShardId) -> Self {
        let shards = usize::try_from(shards).expect("at most 16,384");
        let mut by_shard = vec![Vec::new(); shards];
        for key in 0..count {
            let ShardId(shard) = shard_of(&bytes_of(key));
            by_shard[usize::try_from(shard).expect("at most 16,384")].push(key);
        }
        Self { by_shard, all: count }
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> u64 {
        self.all
    }

    /// Shards that have a key, with their keys.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (ShardId, &[u64])> {
        (0..)
            .map(ShardId)
            .zip(self.by_shard.iter().map(Vec::as_slice))
            .filter(|(_, keys)| !keys.is_empty())
    }
}

/// The bytes of a key.
pub(crate) const fn bytes_of(key: u64) -> [u8; KEY_LEN] {
    key.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_named_by_its_reads() {
        let name = |reads_percent| Mix { reads_percent, fresh: Fresh::Lease }.to_string();
        assert_eq!([name(0), name(100), name(90)], ["put", "get_lease", "mixed_90_lease"]);
    }

    #[test]
    fn every_key_is_in_the_list_of_its_shard() {
        let shard_of = |key: &[u8]| ShardId(u64::from(key[0]) % 3);
        let keys = Keys::new(10, 4, shard_of);
        let lists: Vec<_> = keys.shards().map(|(shard, keys)| (shard.0, keys.to_vec())).collect();
        assert_eq!(
            lists,
            [(0, vec![0, 3, 6, 9]), (1, vec![1, 4, 7]), (2, vec![2, 5, 8])],
            "shard 3 has none"
        );
        assert_eq!(keys.count(), 10);
    }

    #[test]
    fn values_have_their_length_and_differ() {
        let values = Values::new(256);
        assert_eq!(values.pick(u64::MAX).len(), 256);
        assert_ne!(values.pick(0), values.pick(1));
    }
}
