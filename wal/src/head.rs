//! The two structures outside frames: the superblock of a stream and the header of a slot.
//!
//! ```text
//! super (4096 B)                                             slot header (first block)
//!   0 magic "BWSUPER1"  8 major u16, minor u16                 0 magic "BWSLOT01"  8 u16, u16
//!  12 compat u32  16 ro_compat u32  20 incompat u32           12 slot_no u32  16 stream_uuid u128
//!  24 cluster_id u128  40 stream_uuid u128  56 node_id u64    32 epoch u64  40 boot u64
//!  64 stream_no u32  68 stream_count u32  72 block u32        48 block u32  52 incompat u32
//!  76 frame_cap u32  80 slot_bytes u64  88 sequence u64       56 slot_bytes u64  64 wall_ms u64
//!  96 boot u64  104 max_epoch u64  112 clean_lsn u64          72 life_lsn u64  80 life_cut u64
//! 120 slot_count u32  124 sync_mode u8  128 probe_ns u64     88.. zero  block-4 crc32
//! 136 quiet_boot u64  4092 crc32
//! ```

use crate::error::{Foreign, OpenError};
use crate::field::{put, reachable, u16_at, u32_at, u64_at, u128_at};
use crate::geometry::Geometry;
use crate::log::StreamId;

/// Bytes of a superblock.
pub(crate) const SUPER_LEN: usize = 4096;
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Features that this build knows. A bit beyond them refuses the open.
const INCOMPAT: u32 = 0;
const RO_COMPAT: u32 = 0;
const SUPER_MAGIC: [u8; 8] = *b"BWSUPER1";
const SLOT_MAGIC: [u8; 8] = *b"BWSLOT01";

/// How frames of a stream become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SyncMode {
    #[default]
    Dsync,
    Fdatasync,
}

/// What a stream knows of itself beside its slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Super {
    pub(crate) major: u16,
    pub(crate) ro_compat: u32,
    pub(crate) incompat: u32,
    pub(crate) id: StreamId,
    pub(crate) uuid: u128,
    pub(crate) block: u32,
    pub(crate) frame_cap: u32,
    pub(crate) slot_bytes: u64,
    pub(crate) sequence: u64,
    pub(crate) boot: u64,
    pub(crate) max_epoch: u64,
    pub(crate) clean_lsn: u64,
    pub(crate) slot_count: u32,
    pub(crate) sync_mode: SyncMode,
    pub(crate) probe_ns: u64,
    /// No write of this life or an earlier one is on its way to the disk.
    pub(crate) quiet_boot: u64,
}

impl Super {
    /// The superblock of a stream being formatted.
    pub(crate) fn new(id: StreamId, uuid: u128, geometry: &Geometry) -> Self {
        Self {
            major: MAJOR,
            id,
            uuid,
            block: geometry.block,
            frame_cap: geometry.frame_cap,
            slot_bytes: geometry.slot_bytes,
            ..Self::default()
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; SUPER_LEN] {
        let mut out = [0; SUPER_LEN];
        put(&mut out, 0, SUPER_MAGIC);
        put(&mut out, 8, self.major.to_le_bytes());
        put(&mut out, 10, MINOR.to_le_bytes());
        put(&mut out, 16, self.ro_compat.to_le_bytes());
        put(&mut out, 20, self.incompat.to_le_bytes());
        put(&mut out, 24, self.id.cluster.to_le_bytes());
        put(&mut out, 40, self.uuid.to_le_bytes());
        put(&mut out, 56, self.id.node.to_le_bytes());
        put(&mut out, 64, self.id.stream.to_le_bytes());
        put(&mut out, 68, self.id.streams.to_le_bytes());
        put(&mut out, 72, self.block.to_le_bytes());
        put(&mut out, 76, self.frame_cap.to_le_bytes());
        put(&mut out, 80, self.slot_bytes.to_le_bytes());
        put(&mut out, 88, self.sequence.to_le_bytes());
        put(&mut out, 96, self.boot.to_le_bytes());
        put(&mut out, 104, self.max_epoch.to_le_bytes());
        put(&mut out, 112, self.clean_lsn.to_le_bytes());
        put(&mut out, 120, self.slot_count.to_le_bytes());
        out[124] = match self.sync_mode {
            SyncMode::Dsync => 0,
            SyncMode::Fdatasync => 1,
        };
        put(&mut out, 128, self.probe_ns.to_le_bytes());
        put(&mut out, 136, self.quiet_boot.to_le_bytes());
        let crc = crc32fast::hash(&out[..4092]);
        put(&mut out, 4092, crc.to_le_bytes());
        out
    }

    /// Reads a copy; none if it is not whole.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < SUPER_LEN || bytes[..8] != SUPER_MAGIC {
            return None;
        }
        if crc32fast::hash(&bytes[..4092]) != u32_at(bytes, 4092) {
            return None;
        }
        let superblock = Self {
            major: u16_at(bytes, 8),
            ro_compat: u32_at(bytes, 16),
            incompat: u32_at(bytes, 20),
            id: StreamId {
                cluster: u128_at(bytes, 24),
                node: u64_at(bytes, 56),
                stream: u32_at(bytes, 64),
                streams: u32_at(bytes, 68),
            },
            uuid: u128_at(bytes, 40),
            block: u32_at(bytes, 72),
            frame_cap: u32_at(bytes, 76),
            slot_bytes: u64_at(bytes, 80),
            sequence: u64_at(bytes, 88),
            boot: u64_at(bytes, 96),
            max_epoch: u64_at(bytes, 104),
            clean_lsn: u64_at(bytes, 112),
            slot_count: u32_at(bytes, 120),
            sync_mode: if bytes[124] == 0 { SyncMode::Dsync } else { SyncMode::Fdatasync },
            probe_ns: u64_at(bytes, 128),
            quiet_boot: u64_at(bytes, 136),
        };
        let Self { sequence, boot, max_epoch, clean_lsn, quiet_boot, .. } = superblock;
        reachable([sequence, boot, max_epoch, clean_lsn, quiet_boot]).then_some(superblock)
    }

    /// Of the valid copies the one with the higher sequence, and which it was.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unreadable`]: none is valid.
    pub(crate) fn choose(a: Option<Self>, b: Option<Self>) -> Result<(Self, SuperCopy), OpenError> {
        match (a, b) {
            (Some(a), Some(b)) if b.sequence > a.sequence => Ok((b, SuperCopy::B)),
            (Some(a), _) => Ok((a, SuperCopy::A)),
            (None, Some(b)) => Ok((b, SuperCopy::B)),
            (None, None) => Err(OpenError::Unreadable),
        }
    }

    /// Whether this build may open it; a reader may where a writer must not.
    ///
    /// # Errors
    ///
    /// [`OpenError::TooNew`], or a size out of bounds.
    pub(crate) fn check_version(&self, writes: bool) -> Result<(), OpenError> {
        let unknown = self.incompat & !INCOMPAT;
        let unwritable = if writes { self.ro_compat & !RO_COMPAT } else { 0 };
        if self.major != MAJOR || unknown | unwritable != 0 {
            return Err(OpenError::TooNew { major: self.major, incompat: unknown | unwritable });
        }
        Ok(())
    }

    /// Whether it is ours.
    ///
    /// # Errors
    ///
    /// [`OpenError::Foreign`].
    pub(crate) fn check_id(&self, id: StreamId) -> Result<(), OpenError> {
        let foreign = if self.id.cluster != id.cluster {
            Foreign::Cluster { found: self.id.cluster, expected: id.cluster }
        } else if self.id.node != id.node {
            Foreign::Node { found: self.id.node, expected: id.node }
        } else if (self.id.stream, self.id.streams) != (id.stream, id.streams) {
            let expected = (id.stream, id.streams);
            Foreign::Stream { found: (self.id.stream, self.id.streams), expected }
        } else {
            return Ok(());
        };
        Err(OpenError::Foreign(foreign))
    }

    /// Counts every slot that is there. The copy that knew of the last ones may be lost, and a slot
    /// has its name only when it is whole: what was written to it counts.
    pub(crate) fn count_slots<'n>(&mut self, files: impl IntoIterator<Item = (&'n str, u64)>) {
        let whole = files.into_iter().filter(|(_, len)| *len == self.slot_bytes);
        let last = whole.filter_map(|(name, _)| slot_no(name)).max();
        self.slot_count = self.slot_count.max(last.map_or(0, |last| last + 1));
    }

    /// Sizes of the stream, with `log_bytes` as now asked for; what exists is never too much.
    pub(crate) fn geometry(&self, log_bytes: u64) -> Geometry {
        let have = u64::from(self.slot_count).saturating_mul(self.slot_bytes);
        Geometry {
            block: self.block,
            frame_cap: self.frame_cap,
            slot_bytes: self.slot_bytes,
            log_bytes: log_bytes.max(have).max(self.slot_bytes.saturating_mul(8)),
        }
    }

    /// What every frame of the stream carries.
    pub(crate) fn tag(&self) -> u64 {
        u64_at(&self.uuid.to_le_bytes(), 0)
    }
}

/// One of the two superblock files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuperCopy {
    A,
    B,
}

impl SuperCopy {
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::A => "super.a",
            Self::B => "super.b",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The identity of one use of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotHead {
    pub(crate) slot_no: u32,
    pub(crate) uuid: u128,
    pub(crate) epoch: u64,
    pub(crate) boot: u64,
    pub(crate) block: u32,
    pub(crate) slot_bytes: u64,
    pub(crate) wall_ms: u64,
    /// First frame of the life that prepared it, and the last one that life kept: what its BOOT
    /// frame says, should that be lost.
    pub(crate) life_lsn: u64,
    pub(crate) life_cut: u64,
}

impl SlotHead {
    /// Writes the header over the whole of `out`, one block.
    pub(crate) fn write(&self, out: &mut [u8]) {
        out.fill(0);
        put(out, 0, SLOT_MAGIC);
        put(out, 8, MAJOR.to_le_bytes());
        put(out, 10, MINOR.to_le_bytes());
        put(out, 12, self.slot_no.to_le_bytes());
        put(out, 16, self.uuid.to_le_bytes());
        put(out, 32, self.epoch.to_le_bytes());
        put(out, 40, self.boot.to_le_bytes());
        put(out, 48, self.block.to_le_bytes());
        put(out, 56, self.slot_bytes.to_le_bytes());
        put(out, 64, self.wall_ms.to_le_bytes());
        put(out, 72, self.life_lsn.to_le_bytes());
        put(out, 80, self.life_cut.to_le_bytes());
        let end = out.len() - 4;
        let crc = crc32fast::hash(&out[..end]);
        put(out, end, crc.to_le_bytes());
    }

    /// Reads a header block; none if it is not whole.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.len().checked_sub(4)?;
        if end < 88
            || bytes[..8] != SLOT_MAGIC
            || crc32fast::hash(&bytes[..end]) != u32_at(bytes, end)
        {
            return None;
        }
        let known = u16_at(bytes, 8) == MAJOR && u32_at(bytes, 52) & !INCOMPAT == 0;
        let head = Self {
            slot_no: u32_at(bytes, 12),
            uuid: u128_at(bytes, 16),
            epoch: u64_at(bytes, 32),
            boot: u64_at(bytes, 40),
            block: u32_at(bytes, 48),
            slot_bytes: u64_at(bytes, 56),
            wall_ms: u64_at(bytes, 64),
            life_lsn: u64_at(bytes, 72),
            life_cut: u64_at(bytes, 80),
        };
        let reached = reachable([head.epoch, head.boot, head.life_lsn, head.life_cut]);
        (known && reached).then_some(head)
    }
}

/// File name of a slot.
pub(crate) fn slot_file(slot_no: u32) -> String {
    format!("{slot_no:03}.slot")
}

/// The number in a slot's file name.
fn slot_no(name: &str) -> Option<u32> {
    let no = name.strip_suffix(".slot")?.parse().ok()?;
    (no < u32::from(u16::MAX) && slot_file(no) == name).then_some(no)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Super {
        let id = StreamId { cluster: 1 << 100, node: 2, stream: 1, streams: 4 };
        Super {
            sequence: 5,
            boot: 3,
            max_epoch: 17,
            clean_lsn: 99,
            slot_count: 6,
            sync_mode: SyncMode::Fdatasync,
            probe_ns: 100_000,
            quiet_boot: 2,
            ..Super::new(id, 0xabcd << 64 | 7, &Geometry::small())
        }
    }

    #[test]
    fn a_superblock_reads_back_and_each_flipped_bit_is_seen() {
        let good = superblock().to_bytes();
        assert_eq!(Super::parse(&good), Some(superblock()));
        assert_eq!(superblock().tag(), 7);
        for bit in 0..SUPER_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Super::parse(&bad), None, "bit {bit}");
        }
        for cut in 0..SUPER_LEN {
            assert_eq!(Super::parse(&good[..cut]), None);
        }
    }

    #[test]
    fn the_higher_sequence_rules_and_one_valid_copy_is_enough() {
        let (a, b) = (superblock(), Super { sequence: 6, ..superblock() });
        assert_eq!(Super::choose(Some(a), Some(b)), Ok((b, SuperCopy::B)));
        assert_eq!(Super::choose(Some(b), Some(a)), Ok((b, SuperCopy::A)));
        assert_eq!(Super::choose(None, Some(a)), Ok((a, SuperCopy::B)));
        assert_eq!(Super::choose(None, None), Err(OpenError::Unreadable));
    }

    #[test]
    fn a_foreign_or_later_superblock_is_refused() {
        let ours = superblock();
        assert_eq!(ours.check_id(ours.id), Ok(()));
        for other in [
            StreamId { cluster: 9, ..ours.id },
            StreamId { node: 9, ..ours.id },
            StreamId { stream: 9, ..ours.id },
            StreamId { streams: 9, ..ours.id },
        ] {
            assert!(matches!(ours.check_id(other), Err(OpenError::Foreign(_))));
        }
        let later = Super { major: 2, ..ours };
        assert!(matches!(later.check_version(false), Err(OpenError::TooNew { major: 2, .. })));
        let later = Super { ro_compat: 1, ..ours };
        assert_eq!(later.check_version(false), Ok(()));
        assert!(later.check_version(true).is_err());
    }

    #[test]
    fn a_slot_header_reads_back_and_each_flipped_bit_is_seen() {
        let head = SlotHead {
            slot_no: 3,
            uuid: 9,
            epoch: 7,
            boot: 2,
            block: 4096,
            slot_bytes: 65_536,
            wall_ms: 11,
            life_lsn: 12,
            life_cut: 13,
        };
        let mut good = [0xff; 4096];
        head.write(&mut good);
        assert_eq!(SlotHead::parse(&good), Some(head));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SlotHead::parse(&bad), None, "bit {bit}");
        }
        for cut in 0..good.len() {
            assert_eq!(SlotHead::parse(&good[..cut]), None);
        }
    }

    /// Such numbers overflowed where the next one is made of them.
    #[test]
    fn numbers_that_no_stream_reaches_are_not_read() {
        let spoil: [fn(&mut Super); 5] = [
            |it| it.sequence = u64::MAX,
            |it| it.boot = u64::MAX,
            |it| it.max_epoch = u64::MAX,
            |it| it.clean_lsn = u64::MAX,
            |it| it.quiet_boot = u64::MAX,
        ];
        for spoil in spoil {
            let mut bad = superblock();
            spoil(&mut bad);
            assert_eq!(Super::parse(&bad.to_bytes()), None);
        }
        let huge = Super { slot_bytes: u64::MAX, ..superblock() };
        assert!(huge.geometry(0).check().is_err());
        let spoil: [fn(&mut SlotHead); 4] = [
            |it| it.epoch = u64::MAX,
            |it| it.boot = u64::MAX,
            |it| it.life_lsn = u64::MAX,
            |it| it.life_cut = u64::MAX,
        ];
        for spoil in spoil {
            let mut bad = SlotHead::default();
            spoil(&mut bad);
            let mut bytes = [0; 4096];
            bad.write(&mut bytes);
            assert_eq!(SlotHead::parse(&bytes), None);
        }
    }

    #[test]
    fn slot_files_are_named_by_number() {
        assert_eq!(slot_file(7), "007.slot");
        assert_eq!(slot_no("007.slot"), Some(7));
        for name in ["7.slot", "+07.slot", "007.slot.new", "70000.slot", "super.a"] {
            assert_eq!(slot_no(name), None, "{name}");
        }
    }

    #[test]
    fn slots_that_are_there_count_whatever_the_superblock_says() {
        let mut superblock = superblock();
        let (whole, count) = (superblock.slot_bytes, superblock.slot_count);
        superblock.count_slots([("000.slot", whole), ("009.slot", whole - 1), ("super.a", whole)]);
        assert_eq!(superblock.slot_count, count);
        superblock.count_slots([("007.slot", whole), ("006.slot", whole)]);
        assert_eq!(superblock.slot_count, 8);
        superblock.count_slots([]);
        assert_eq!(superblock.slot_count, 8, "a slot that is missing is lost, not forgotten");
    }
}
