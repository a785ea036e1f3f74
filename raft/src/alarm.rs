//! Deadlines of what is rare: transfers, offers of snapshots.

use alloc::collections::BTreeMap;

use crate::{BootTime, ReplicaId, Slot};

/// Alarms at most; more are not set, and what they were for is bounded otherwise.
const ALARMS_MAX: usize = 1 << 16;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// A transfer ends, done or not.
    Transfer,
    /// A snapshot is offered again.
    Snapshot(ReplicaId),
    /// A replica with damaged state asks its leader for a snapshot, again.
    Ask,
}

/// The alarms of a core, by time.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    set: BTreeMap<(BootTime, u64), (Slot, u32, Alarm)>,
    count: u64,
}

impl Alarms {
    /// Sets an alarm for a slot of this generation.
    pub(crate) fn set(&mut self, at: BootTime, slot: Slot, generation: u32, alarm: Alarm) {
        if self.set.len() < ALARMS_MAX {
            self.count += 1;
            self.set.insert((at, self.count), (slot, generation, alarm));
        }
    }

    /// Takes one that is due.
    pub(crate) fn due(&mut self, now: BootTime) -> Option<(Slot, u32, Alarm)> {
        let entry = self.set.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<BootTime> {
        self.set.first_key_value().map(|(key, _)| key.0)
    }
}
