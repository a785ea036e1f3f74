//! The clock that raft is told: nanoseconds since boot, suspend included. Raft never reads one.

/// Nanoseconds of the node's boot clock (`CLOCK_BOOTTIME`). Never compared between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The time `nanos` later; the end of time if there is none.
    #[must_use]
    pub const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}
