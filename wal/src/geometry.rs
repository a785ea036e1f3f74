//! The sizes of a stream: values of its superblock, never constants.
//!
//! ```text
//! slot  = header block, then frames                >= 8 frame caps
//! frame <= 2 frame caps: bodies <= 1, directory <= 1/4, echoes <= 1/4, checkpoint <= 1/4
//! ```

use core::fmt;

use crate::field::len_u64;

/// Bytes of a directory record.
pub(crate) const RECORD_LEN: usize = 64;
/// Bytes of a frame's header, and of its trailer.
pub(crate) const HEAD_LEN: usize = 128;
/// Bytes of a shard in a checkpoint.
pub(crate) const STATE_LEN: usize = 96;
/// Bytes of a slot in a checkpoint's end.
pub(crate) const SLOT_ROW_LEN: usize = 32;
/// Largest manifest, and largest chunk of a checkpoint, in bytes.
pub(crate) const MANIFEST_MAX: usize = 64 * 1024;
/// Slots made at format.
pub(crate) const SLOTS_AT_FORMAT: u32 = 4;

/// Sizes fixed when a stream is formatted, but for `log_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Unit of every write, in bytes: 4 KiB to 64 KiB, a power of two.
    pub block: u32,
    /// A frame is sealed at this many bytes of bodies; also the largest batch.
    pub frame_cap: u32,
    /// Bytes of a slot file.
    pub slot_bytes: u64,
    /// Bytes of all slot files of the stream; may grow at any open.
    pub log_bytes: u64,
}

/// Why sizes cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GeometryError {
    /// `block` is not a power of two from 4 KiB to 64 KiB.
    Block(u32),
    /// `frame_cap` is not whole blocks, from 2 blocks to 16 MiB, at most an eighth of a slot.
    FrameCap(u32),
    /// `slot_bytes` is not whole blocks from 64 KiB to 4 GiB.
    SlotBytes(u64),
    /// `log_bytes` holds fewer than 8 slots, or more than a checkpoint can list.
    LogBytes(u64),
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => write!(f, "log block of {block} bytes"),
            Self::FrameCap(cap) => write!(f, "log frame cap of {cap} bytes"),
            Self::SlotBytes(bytes) => write!(f, "log slot of {bytes} bytes"),
            Self::LogBytes(bytes) => write!(f, "log of {bytes} bytes"),
        }
    }
}

impl core::error::Error for GeometryError {}

impl Default for Geometry {
    fn default() -> Self {
        Self { block: 4096, frame_cap: 1 << 20, slot_bytes: 64 << 20, log_bytes: 1 << 30 }
    }
}

impl Geometry {
    /// The smallest sizes, for tests: slots of 64 KiB, a log of 512 KiB.
    #[must_use]
    pub const fn small() -> Self {
        Self { block: 4096, frame_cap: 8 << 10, slot_bytes: 64 << 10, log_bytes: 512 << 10 }
    }

    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// [`GeometryError`]: the first size that is out of bounds.
    pub fn check(&self) -> Result<(), GeometryError> {
        let (block, cap) = (u64::from(self.block), u64::from(self.frame_cap));
        if !self.block.is_power_of_two() || !(4096..=65_536).contains(&self.block) {
            return Err(GeometryError::Block(self.block));
        }
        if !self.slot_bytes.is_multiple_of(block)
            || !(64 << 10..=4 << 30).contains(&self.slot_bytes)
        {
            return Err(GeometryError::SlotBytes(self.slot_bytes));
        }
        if !cap.is_multiple_of(block)
            || !(2 * block..=16 << 20).contains(&cap)
            || cap > self.slot_bytes / 8
        {
            return Err(GeometryError::FrameCap(self.frame_cap));
        }
        let slots = self.log_bytes / self.slot_bytes;
        let listed = cap / 4 / len_u64(SLOT_ROW_LEN);
        if slots < 8 || slots > listed || slots > u64::from(u16::MAX) {
            return Err(GeometryError::LogBytes(self.log_bytes));
        }
        Ok(())
    }

    /// Slot files that the log may have.
    pub fn slots_max(&self) -> u32 {
        u32::try_from(self.log_bytes / self.slot_bytes).unwrap_or(u32::MAX)
    }

    /// Shards whose checkpoint fits a slot with room to spare.
    pub fn shards_max(&self) -> u32 {
        let cap = u64::from(self.frame_cap);
        let room = self.slot_bytes.saturating_sub(4 * cap) / 2;
        u32::try_from(room / 2 / len_u64(STATE_LEN)).unwrap_or(u32::MAX)
    }

    /// Blocks of a slot.
    pub(crate) fn slot_blocks(&self) -> u32 {
        u32::try_from(self.slot_bytes / u64::from(self.block)).expect("a slot is below 4 GiB")
    }

    /// `block` as a length.
    pub(crate) fn block_len(&self) -> usize {
        usize::try_from(self.block).expect("usize holds a u32")
    }

    /// `frame_cap` as a length.
    pub(crate) fn cap(&self) -> usize {
        usize::try_from(self.frame_cap).expect("usize holds a u32")
    }

    /// Most records of one frame, beside those of a checkpoint.
    pub(crate) fn records_max(&self) -> usize {
        self.cap() / 4 / RECORD_LEN
    }

    /// Most bytes of checkpoint bodies in a frame that carries records too.
    pub(crate) fn chunk_max(&self) -> usize {
        (self.cap() / 4).min(MANIFEST_MAX)
    }

    /// Largest manifest.
    pub(crate) fn manifest_max(&self) -> usize {
        MANIFEST_MAX.min(self.cap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_sizes_are_in_bounds() {
        assert_eq!(Geometry::default().check(), Ok(()));
        assert_eq!(Geometry::small().check(), Ok(()));
        assert_eq!(Geometry::small().slots_max(), 8);
    }

    #[test]
    fn each_size_out_of_bounds_is_named() {
        let with = |change: fn(&mut Geometry)| {
            let mut geometry = Geometry::small();
            change(&mut geometry);
            geometry.check()
        };
        assert_eq!(with(|g| g.block = 5000), Err(GeometryError::Block(5000)));
        assert_eq!(with(|g| g.frame_cap = 4096), Err(GeometryError::FrameCap(4096)));
        assert_eq!(with(|g| g.frame_cap = 16_384), Err(GeometryError::FrameCap(16_384)));
        assert_eq!(with(|g| g.slot_bytes = 4096), Err(GeometryError::SlotBytes(4096)));
        assert_eq!(with(|g| g.log_bytes = 65_536), Err(GeometryError::LogBytes(65_536)));
    }
}
