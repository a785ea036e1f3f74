//! What may be chosen at an open; nothing here changes the format.

use bowline_env::Nanos;

/// How writes are made durable; kept in the superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncChoice {
    /// The faster of the two, measured at format.
    #[default]
    Auto,
    /// Each write is durable when it completes (`O_DSYNC`).
    Dsync,
    /// A write, then one `fdatasync` for all that completed before it.
    Fdatasync,
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// How writes are made durable, chosen at format.
    pub sync: SyncChoice,
    /// Measured writes of 4 KiB for each way, at format.
    pub probe_small: u32,
    /// Measured writes of 64 KiB for each way, at format.
    pub probe_large: u32,
    /// Most bytes of all slot files; at least what exists stays.
    pub log_bytes: u64,
    /// Most bytes of frames kept for readers near the head.
    pub cache_bytes: usize,
    /// Most bytes of the index; they count against the marks.
    pub index_bytes: usize,
    /// Bytes that may wait for the disk.
    pub staged_bytes: usize,
    /// A frame that no later one has covered is covered after this.
    pub cover_after: Nanos,
    /// Making or preparing a slot that failed is tried again after this at most; sooner at first.
    pub retry_after: Nanos,
    /// Bytes a second at which new slots are filled; 0: no limit.
    pub fill_rate: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            sync: SyncChoice::Auto,
            probe_small: 200,
            probe_large: 50,
            log_bytes: 1 << 30,
            cache_bytes: 64 << 20,
            index_bytes: 64 << 20,
            staged_bytes: 8 << 20,
            cover_after: Nanos::from_millis(20),
            retry_after: Nanos::from_millis(10_000),
            fill_rate: 0,
        }
    }
}

impl WalOptions {
    /// Options for [`crate::Geometry::small`] in tests: no probe, a log of 512 KiB.
    #[must_use]
    pub fn small() -> Self {
        Self {
            sync: SyncChoice::Dsync,
            probe_small: 0,
            probe_large: 0,
            log_bytes: crate::Geometry::small().log_bytes,
            cache_bytes: 64 << 10,
            ..Self::default()
        }
    }
}
