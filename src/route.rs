//! From a key to its shard, and from a shard to its core: computed, the same on every member.
//!
//! ```text
//! key or {tag} -- crc16 & 16383 --> hash slot -- * shards / 16384 --> shard
//! shard -- mod streams --> stream -- mod cores --> core
//! ```

use bowline_raft::ShardId;

/// Hash slots of the key space, as Redis Cluster counts them.
pub(crate) const HASH_SLOTS: u32 = 16_384;

/// The part of a key that decides its place: what stands between the first `{` and the next `}`,
/// if anything does, else the whole key.
pub(crate) fn tag(key: &[u8]) -> &[u8] {
    whole_tag(key).unwrap_or(key)
}

/// The `{tag}` of a key or prefix; none: it has no whole one.
pub(crate) fn whole_tag(key: &[u8]) -> Option<&[u8]> {
    if !key.contains(&b'{') {
        return None;
    }
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// The hash slot of a key.
pub(crate) fn hash_slot(key: &[u8]) -> u32 {
    u32::from(crc16(tag(key))) & (HASH_SLOTS - 1)
}

/// The shard of a key, out of `shards`.
pub(crate) fn shard_of(key: &[u8], shards: u32) -> ShardId {
    // Every slot lies in the only shard: no need to know which.
    if shards == 1 { ShardId(0) } else { shard_of_slot(hash_slot(key), shards) }
}

/// The shard of a hash slot, out of `shards`.
pub(crate) fn shard_of_slot(slot: u32, shards: u32) -> ShardId {
    ShardId(u64::from(slot) * u64::from(shards) / u64::from(HASH_SLOTS))
}

/// The core of a shard.
pub(crate) fn core_of(shard: ShardId, streams: u16, cores: usize) -> usize {
    let stream = shard.0 % u64::from(streams);
    usize::try_from(stream).expect("streams are few") % cores
}

/// CRC-16/XMODEM: polynomial 0x1021, not reflected, from 0. Four bytes a step: each table is the
/// one before, moved on by a zero byte.
fn crc16(bytes: &[u8]) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<4>();
    let crc = blocks.iter().fold(0_u16, |crc, [a, b, c, d]| {
        let [high, low] = [crc >> 8, crc & 0xFF];
        TABLES[3][usize::from(high ^ u16::from(*a))]
            ^ TABLES[2][usize::from(low ^ u16::from(*b))]
            ^ TABLES[1][usize::from(*c)]
            ^ TABLES[0][usize::from(*d)]
    });
    rest.iter()
        .fold(crc, |crc, byte| (crc << 8) ^ TABLES[0][usize::from((crc >> 8) ^ u16::from(*byte))])
}

static TABLES: [[u16; 256]; 4] = tables();

const fn tables() -> [[u16; 256]; 4] {
    let mut tables = [[0_u16; 256]; 4];
    let mut first = 0_u16;
    let mut at = 0;
    while at < 256 {
        tables[0][at] = moved_on(first << 8);
        first += 1;
        at += 1;
    }
    let mut table = 1;
    while table < 4 {
        at = 0;
        while at < 256 {
            tables[table][at] = moved_on(tables[table - 1][at]);
            at += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum after a zero byte more.
const fn moved_on(mut crc: u16) -> u16 {
    let mut bit = 0;
    while bit < 8 {
        crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        bit += 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, slot) in [("foo", 12_182), ("bar", 5_061), ("", 0), ("hello", 866)] {
            assert_eq!(hash_slot(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn four_bytes_at_once_are_the_bits_one_by_one() {
        let mut bytes = Vec::new();
        for n in 0..600_u32 {
            let mut want = 0_u16;
            for byte in &bytes {
                want = moved_on(want ^ (u16::from(*byte) << 8));
            }
            assert_eq!(crc16(&bytes), want, "{n} bytes");
            bytes.push(n.wrapping_mul(2_654_435_761).to_le_bytes()[3]);
        }
    }

    #[test]
    fn a_tag_decides_alone() {
        assert_eq!(tag(b"{user1000}.following"), b"user1000");
        assert_eq!(tag(b"foo{}{bar}"), b"foo{}{bar}", "an empty tag is none");
        assert_eq!(tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(tag(b"foo{bar"), b"foo{bar");
        assert_eq!(whole_tag(b"a{b"), None);
        assert_eq!(hash_slot(b"a{x}b"), hash_slot(b"c{x}d"));
    }

    #[test]
    fn shards_are_ranges_of_slots_and_all_of_them_are_used() {
        for shards in [1, 3, 16, 1_000, HASH_SLOTS] {
            let all: Vec<_> = (0..HASH_SLOTS).map(|slot| shard_of_slot(slot, shards).0).collect();
            assert!(all.is_sorted());
            assert_eq!((all[0], all.last().copied()), (0, Some(u64::from(shards) - 1)));
            let used: std::collections::BTreeSet<_> = all.into_iter().collect();
            assert_eq!(used.len(), usize::try_from(shards).expect("small"));
        }
        assert_eq!(core_of(ShardId(7), 4, 2), 1);
        assert_eq!(core_of(ShardId(6), 4, 3), 2);
    }
}
