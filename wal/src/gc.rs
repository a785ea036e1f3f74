//! Which shards hold the oldest slot: one victim at a time, a bounded walk per call. And when a
//! checkpoint is needed to free slots.

use bowline_env::Nanos;
use bowline_raft::{LogIndex, ShardId};

use crate::log::GcWork;
use crate::stream::Stream;

/// Shards named by one call.
const NAMED_MAX: usize = 256;
/// Shards and batches looked at by one call.
const LOOKED_MAX: usize = 16_384;
const SOFT_PERMILLE: u32 = 500;
const URGENT_PERMILLE: u32 = 750;

/// Where the walk over the shards stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweep {
    /// Epoch of the victim.
    victim: u64,
    next: u32,
    /// When the walk ended; another begins a second later.
    ended: Option<Nanos>,
}

impl Sweep {
    /// A roll: begin anew.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }
}

impl Stream {
    /// Names shards that hold the victim; nothing below the soft mark.
    pub(crate) fn gc(&mut self, now: Nanos, out: &mut Vec<GcWork>) {
        let used = self.slots.used_permille().max(self.index_permille());
        if used < SOFT_PERMILLE {
            return;
        }
        let Some(victim) = self.slots.victim().map(|no| self.slots.slot(no)) else { return };
        if self.gc.victim != victim.epoch {
            self.gc = Sweep { victim: victim.epoch, ..Sweep::default() };
        }
        if let Some(ended) = self.gc.ended {
            if now.since(ended) < Nanos::SECOND {
                return;
            }
            self.gc = Sweep { victim: victim.epoch, ..Sweep::default() };
        }
        let range = victim.first_lsn..=victim.last_lsn;
        let urgent = used >= URGENT_PERMILLE;
        let (mut named, mut looked) = (0, 0);
        while self.gc.next < self.index.places() && named < NAMED_MAX && looked < LOOKED_MAX {
            let log = self.index.place(self.gc.next);
            self.gc.next += 1;
            let Some(log) = log else { continue };
            looked += 1 + log.extents.len();
            let mut work = GcWork {
                shard: ShardId(log.shard),
                upto: LogIndex(0),
                bytes: 0,
                manifest: range.contains(&log.manifest_lsn),
                urgent,
            };
            for extent in log.extents.iter().filter(|extent| range.contains(&extent.lsn)) {
                work.upto = LogIndex(extent.last());
                work.bytes += u64::from(extent.len);
            }
            if work.manifest || work.bytes > 0 || work.upto.0 > 0 {
                out.push(work);
                named += 1;
            }
        }
        if self.gc.next >= self.index.places() {
            self.gc.ended = Some(now);
        }
    }

    /// Most slots are used and a new checkpoint would free two at least: without it a log that
    /// refuses proposals would never come to its next roll. With the last slot anything counts that
    /// the one after it would free.
    pub(crate) fn wants_roll(&self) -> bool {
        let last = self.slots.left() <= 1 && self.slots.has_dead();
        self.checkpoint.is_none()
            && self.slots.used_permille() >= 750
            && self.slots.can_roll()
            && (last || self.dead_slots(self.complete_epoch).count() >= 2)
    }

    /// The number of the slot to make next, if another is needed.
    pub(crate) fn poll_grow(&mut self) -> Option<u32> {
        self.slots.poll_grow(self.checkpoint.is_some())
    }

    /// How full the log is, by slots or index memory.
    pub(crate) fn used_permille(&self) -> u32 {
        self.slots.used_permille().max(self.index_permille())
    }
}
