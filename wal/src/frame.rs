//! The bytes of a frame: header, trailer and the records of its directory.
//!
//! ```text
//! [ header 128 ][ bodies, each 16-aligned ][ zero ][ directory: rows x 64 ][ trailer 128 ]
//! rows = records, then echoes of the frame before
//!
//! header   0 magic "BWF1"   4 len u16 = 128   6 flags u8   7 version u8 = 1
//!          8 stream_tag u64   16 epoch u64   24 lsn u64   32 synced u64   40 prev_lsn u64
//!         48 prev_crc u32   52 block_no u32   56 blocks u32   60 records u32   64 echoes u32
//!         68 dir_off u32   72 dir_crc u32   76 zero   80 boot u64   88 wall_ms u64   96 zero
//!        124 header_crc u32 (over 0..124)
//! trailer  the header again, magic "BWE1", own crc
//! record   0 shard u64   8 index u64   16 term u64   24 count u32   28 kind u8   29 flags u8
//!         30 fmt u16   32 body_off u32   36 body_len u32   40 body_crc u32   44 replica_gen u32
//!         48 a u64   56 b u64
//! ```
//!
//! Record flags: the low six bits are the batch's own flags; `HEAL` and `ECHO` are ours.

use bowline_raft::{BatchHeader, LogIndex, ShardId, Term};

use crate::field::{len_of, put, reachable, u16_at, u32_at, u64_at};
use crate::geometry::{HEAD_LEN, RECORD_LEN};

/// First frame of its slot.
pub(crate) const FIRST: u8 = 1;
/// First frame of a process life.
pub(crate) const BOOT: u8 = 2;
/// An empty frame that says its forerunner was durable.
pub(crate) const COVER: u8 = 4;
/// Records of an earlier life, written again by a boot.
pub(crate) const COPY: u8 = 8;

const VERSION: u8 = 1;
const HEADER_MAGIC: [u8; 4] = *b"BWF1";
const TRAILER_MAGIC: [u8; 4] = *b"BWE1";

/// Kinds of a record. Bit 7: a reader that does not know it may skip it.
pub(crate) mod kind {
    pub(crate) const ENTRIES: u8 = 1;
    pub(crate) const HARD_STATE: u8 = 2;
    pub(crate) const TRUNCATE: u8 = 3;
    pub(crate) const COMPACT: u8 = 4;
    pub(crate) const MANIFEST: u8 = 5;
    pub(crate) const OPEN_SHARD: u8 = 6;
    pub(crate) const TOMBSTONE: u8 = 7;
    pub(crate) const CHECKPOINT: u8 = 8;
    pub(crate) const CHECKPOINT_END: u8 = 9;
    pub(crate) const DAMAGE: u8 = 10;
    pub(crate) const SKIPPABLE: u8 = 0x80;
}

/// Which of the two copies of a frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy2 {
    Header,
    Trailer,
}

/// A frame's header or trailer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) flags: u8,
    pub(crate) tag: u64,
    pub(crate) epoch: u64,
    pub(crate) lsn: u64,
    pub(crate) synced: u64,
    pub(crate) prev_lsn: u64,
    pub(crate) prev_crc: u32,
    pub(crate) block_no: u32,
    pub(crate) blocks: u32,
    pub(crate) records: u32,
    pub(crate) echoes: u32,
    pub(crate) dir_off: u32,
    pub(crate) dir_crc: u32,
    pub(crate) boot: u64,
    pub(crate) wall_ms: u64,
}

impl Head {
    /// The bytes of one copy.
    pub(crate) fn to_bytes(self, copy: Copy2) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        let magic = match copy {
            Copy2::Header => HEADER_MAGIC,
            Copy2::Trailer => TRAILER_MAGIC,
        };
        put(&mut out, 0, magic);
        put(&mut out, 4, 128_u16.to_le_bytes());
        out[6] = self.flags;
        out[7] = VERSION;
        put(&mut out, 8, self.tag.to_le_bytes());
        put(&mut out, 16, self.epoch.to_le_bytes());
        put(&mut out, 24, self.lsn.to_le_bytes());
        put(&mut out, 32, self.synced.to_le_bytes());
        put(&mut out, 40, self.prev_lsn.to_le_bytes());
        put(&mut out, 48, self.prev_crc.to_le_bytes());
        put(&mut out, 52, self.block_no.to_le_bytes());
        put(&mut out, 56, self.blocks.to_le_bytes());
        put(&mut out, 60, self.records.to_le_bytes());
        put(&mut out, 64, self.echoes.to_le_bytes());
        put(&mut out, 68, self.dir_off.to_le_bytes());
        put(&mut out, 72, self.dir_crc.to_le_bytes());
        put(&mut out, 80, self.boot.to_le_bytes());
        put(&mut out, 88, self.wall_ms.to_le_bytes());
        let crc = crc32fast::hash(&out[..124]);
        put(&mut out, 124, crc.to_le_bytes());
        out
    }

    /// Reads one copy; none if the bytes are not one. A head that passes is bounded: its directory
    /// lies inside its blocks, behind the header and before the trailer, and its numbers are ones
    /// that a stream can have reached.
    pub(crate) fn parse(bytes: &[u8], copy: Copy2, block: u32) -> Option<Self> {
        let magic = match copy {
            Copy2::Header => HEADER_MAGIC,
            Copy2::Trailer => TRAILER_MAGIC,
        };
        if bytes.len() < HEAD_LEN || bytes[..4] != magic || u16_at(bytes, 4) != 128 {
            return None;
        }
        if bytes[7] != VERSION || crc32fast::hash(&bytes[..124]) != u32_at(bytes, 124) {
            return None;
        }
        let head = Self {
            flags: bytes[6],
            tag: u64_at(bytes, 8),
            epoch: u64_at(bytes, 16),
            lsn: u64_at(bytes, 24),
            synced: u64_at(bytes, 32),
            prev_lsn: u64_at(bytes, 40),
            prev_crc: u32_at(bytes, 48),
            block_no: u32_at(bytes, 52),
            blocks: u32_at(bytes, 56),
            records: u32_at(bytes, 60),
            echoes: u32_at(bytes, 64),
            dir_off: u32_at(bytes, 68),
            dir_crc: u32_at(bytes, 72),
            boot: u64_at(bytes, 80),
            wall_ms: u64_at(bytes, 88),
        };
        let rows = u64::from(head.records) + u64::from(head.echoes);
        let dir = rows * u64::try_from(RECORD_LEN).expect("a record is 64 bytes");
        let len = u64::from(head.blocks) * u64::from(block);
        let head_len = u64::try_from(HEAD_LEN).expect("a head is 128 bytes");
        let ends_right = u64::from(head.dir_off) + dir + head_len == len;
        let placed = head.block_no > 0 && head.block_no.checked_add(head.blocks).is_some();
        let bounded = head.blocks > 0 && u32::try_from(len).is_ok() && placed;
        let reached = reachable([head.lsn, head.epoch, head.boot, head.synced, head.prev_lsn]);
        let inside = ends_right && u64::from(head.dir_off) >= head_len;
        (bounded && reached && inside).then_some(head)
    }

    /// The checksum that the frame after this one names.
    pub(crate) fn crc(self) -> u32 {
        u32_at(&self.to_bytes(Copy2::Header), 124)
    }

    /// Bytes of the whole frame.
    pub(crate) fn len(self, block: usize) -> usize {
        len_of(self.blocks) * block
    }

    /// Where the directory lies in the frame.
    pub(crate) fn dir(self) -> core::ops::Range<usize> {
        let start = len_of(self.dir_off);
        start..start + (len_of(self.records) + len_of(self.echoes)) * RECORD_LEN
    }
}

/// One row of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) shard: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) count: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) fmt: u16,
    pub(crate) body_off: u32,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) replica_gen: u32,
    pub(crate) a: u64,
    pub(crate) b: u64,
}

/// Flags of a batch that a record can carry.
pub(crate) const BATCH_FLAGS: u16 = 0x3f;
/// ENTRIES that fill a hole and drop nothing.
pub(crate) const HEAL: u8 = 0x40;
/// The record as it stood in the frame before; no body.
pub(crate) const ECHO: u8 = 0x80;

impl Row {
    pub(crate) fn to_bytes(self) -> [u8; RECORD_LEN] {
        let mut out = [0; RECORD_LEN];
        put(&mut out, 0, self.shard.to_le_bytes());
        put(&mut out, 8, self.index.to_le_bytes());
        put(&mut out, 16, self.term.to_le_bytes());
        put(&mut out, 24, self.count.to_le_bytes());
        out[28] = self.kind;
        out[29] = self.flags;
        put(&mut out, 30, self.fmt.to_le_bytes());
        put(&mut out, 32, self.body_off.to_le_bytes());
        put(&mut out, 36, self.body_len.to_le_bytes());
        put(&mut out, 40, self.body_crc.to_le_bytes());
        put(&mut out, 44, self.replica_gen.to_le_bytes());
        put(&mut out, 48, self.a.to_le_bytes());
        put(&mut out, 56, self.b.to_le_bytes());
        out
    }

    /// Reads a row of a directory whose checksum is good.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            shard: u64_at(bytes, 0),
            index: u64_at(bytes, 8),
            term: u64_at(bytes, 16),
            count: u32_at(bytes, 24),
            kind: bytes[28],
            flags: bytes[29],
            fmt: u16_at(bytes, 30),
            body_off: u32_at(bytes, 32),
            body_len: u32_at(bytes, 36),
            body_crc: u32_at(bytes, 40),
            replica_gen: u32_at(bytes, 44),
            a: u64_at(bytes, 48),
            b: u64_at(bytes, 56),
        }
    }

    /// Whether its numbers are ones that a stream can have reached. What a later release says in a
    /// record that may be skipped is its own affair.
    pub(crate) fn is_reachable(&self) -> bool {
        self.kind & kind::SKIPPABLE != 0 || reachable([self.index, self.term])
    }

    pub(crate) fn is_echo(&self) -> bool {
        self.flags & ECHO != 0
    }

    pub(crate) fn is_heal(&self) -> bool {
        self.flags & HEAL != 0
    }

    /// The batch header that an ENTRIES row stands for.
    pub(crate) fn batch(&self) -> BatchHeader {
        BatchHeader {
            shard: ShardId(self.shard),
            first: LogIndex(self.index),
            term: Term(self.term),
            count: self.count,
            len: self.body_len,
            fmt: self.fmt,
            flags: u16::from(self.flags) & BATCH_FLAGS,
            crc: self.body_crc,
        }
    }

    /// The row of a batch. Its flags fit six bits; the caller checked.
    pub(crate) fn entries(head: &BatchHeader, prev_term: Term, body_off: u32) -> Self {
        let flags = head.flags & BATCH_FLAGS;
        Self {
            shard: head.shard.0,
            index: head.first.0,
            term: head.term.0,
            count: head.count,
            kind: kind::ENTRIES,
            flags: flags.to_le_bytes()[0],
            fmt: head.fmt,
            body_off,
            body_len: head.len,
            body_crc: head.crc,
            a: prev_term.0,
            ..Self::default()
        }
    }

    /// Whether the body lies between header and directory of its frame; a row without one does.
    pub(crate) fn body_in(&self, head: &Head) -> bool {
        let (off, len) = (u64::from(self.body_off), u64::from(self.body_len));
        if len == 0 {
            return true;
        }
        off >= 128 && off.is_multiple_of(16) && off + len <= u64::from(head.dir_off)
    }

    /// The body's range in its frame; [`Row::body_in`] holds.
    pub(crate) fn body(&self) -> core::ops::Range<usize> {
        let start = len_of(self.body_off);
        start..start + len_of(self.body_len)
    }

    /// Whether `body` is the one this row was made for.
    pub(crate) fn matches(&self, body: &[u8]) -> bool {
        if self.kind == kind::ENTRIES {
            return self.batch().matches(body);
        }
        crc32fast::hash(body) == self.body_crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            flags: FIRST | BOOT,
            tag: 7,
            epoch: 3,
            lsn: 1025,
            synced: 1024,
            prev_lsn: 900,
            prev_crc: 0x1234,
            block_no: 1,
            blocks: 2,
            records: 3,
            echoes: 1,
            dir_off: 8192 - 128 - 256,
            dir_crc: 0x5678,
            boot: 2,
            wall_ms: 99,
        }
    }

    #[test]
    fn a_head_reads_back_as_it_was_written() {
        for copy in [Copy2::Header, Copy2::Trailer] {
            assert_eq!(Head::parse(&head().to_bytes(copy), copy, 4096), Some(head()));
        }
    }

    #[test]
    fn a_head_cut_or_with_a_flipped_bit_is_none() {
        for copy in [Copy2::Header, Copy2::Trailer] {
            let good = head().to_bytes(copy);
            for cut in 0..HEAD_LEN {
                assert_eq!(Head::parse(&good[..cut], copy, 4096), None);
            }
            for bit in 0..HEAD_LEN * 8 {
                let mut bad = good;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Head::parse(&bad, copy, 4096), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_head_whose_directory_lies_outside_is_none() {
        let bad = Head { dir_off: 64, ..head() };
        assert_eq!(Head::parse(&bad.to_bytes(Copy2::Header), Copy2::Header, 4096), None);
        let bad = Head { records: u32::MAX, ..head() };
        assert_eq!(Head::parse(&bad.to_bytes(Copy2::Header), Copy2::Header, 4096), None);
        let bad = Head { blocks: 0, ..head() };
        assert_eq!(Head::parse(&bad.to_bytes(Copy2::Header), Copy2::Header, 4096), None);
    }

    #[test]
    fn a_head_whose_numbers_no_stream_reaches_is_none() {
        let spoil: [fn(&mut Head); 6] = [
            |head| head.lsn = u64::MAX,
            |head| head.epoch = u64::MAX,
            |head| head.boot = u64::MAX,
            |head| head.synced = u64::MAX,
            |head| head.prev_lsn = u64::MAX,
            |head| head.block_no = u32::MAX,
        ];
        for spoil in spoil {
            let mut bad = head();
            spoil(&mut bad);
            assert_eq!(Head::parse(&bad.to_bytes(Copy2::Header), Copy2::Header, 4096), None);
        }
        assert!(!Row { index: u64::MAX, ..Row::default() }.is_reachable());
        assert!(!Row { term: u64::MAX, ..Row::default() }.is_reachable());
        assert!(Row { kind: kind::SKIPPABLE, term: u64::MAX, ..Row::default() }.is_reachable());
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let row = Row {
            shard: 1,
            index: 2,
            term: 3,
            count: 4,
            kind: kind::ENTRIES,
            flags: HEAL | 1,
            fmt: 5,
            body_off: 128,
            body_len: 6,
            body_crc: 7,
            replica_gen: 8,
            a: 9,
            b: 10,
        };
        assert_eq!(Row::from_bytes(&row.to_bytes()), row);
        assert_eq!(row.batch().flags, 1);
        assert!(row.body_in(&head()));
        assert!(!Row { body_off: 120, ..row }.body_in(&head()));
        assert!(!Row { body_len: u32::MAX, ..row }.body_in(&head()));
    }
}
