//! Which shards hold the oldest slot: one victim at a time, a bounded walk per call. And when a
//! checkpoint is needed to free slots.
//!
//! What holds a victim may be unable to move for long: a tail without a majority, a shard that is
//! closed. A victim that stays as it is gives way to the next one, and has its turn again once the
//! newest had its own.
//!
//! Where most slots are used every one that holds nothing but manifests is a victim as well: each
//! roll takes a slot, so what moves between two of them has to empty more than one.

use bowline_env::Nanos;
use bowline_raft::{LogIndex, ShardId};

use crate::log::GcWork;
use crate::slots::Live;
use crate::stream::Stream;

/// Shards named by one call.
const NAMED_MAX: usize = 256;
/// Shards and batches looked at by one call.
const LOOKED_MAX: usize = 16_384;
const SOFT_PERMILLE: u32 = 500;
const URGENT_PERMILLE: u32 = 750;
/// Between two walks over what holds the same victim.
const AGAIN: Nanos = Nanos::SECOND;
/// A victim that nothing left for so long gives way.
const PATIENCE: Nanos = Nanos::SECOND;

/// Where the walk over the shards stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweep {
    /// Epoch of the victim; 0: there is none.
    victim: u64,
    /// What lived in it when that changed last, and when that was.
    lived: Live,
    moved_at: Nanos,
    /// Slots up to this epoch had their turn and stayed as they were.
    passed: u64,
    next: u32,
    /// When the walk ended.
    ended: Option<Nanos>,
}

impl Sweep {
    /// A roll: the walk begins anew.
    pub(crate) fn restart(&mut self) {
        (self.next, self.ended) = (0, None);
    }
}

impl Stream {
    /// Names shards that hold the victim; nothing below the soft mark.
    pub(crate) fn gc(&mut self, now: Nanos, out: &mut Vec<GcWork>) {
        let used = self.slots.used_permille().max(self.index_permille());
        if used < SOFT_PERMILLE {
            return;
        }
        let Some(victim) = self.choose_victim(now).map(|no| self.slots.slot(no)) else { return };
        if let Some(ended) = self.gc.ended {
            if now.since(ended) < AGAIN {
                return;
            }
            self.gc.restart();
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
                manifest: range.contains(&log.manifest_lsn)
                    || (urgent && self.slots.has_manifests_only(log.manifest_lsn)),
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

    /// The oldest closed slot that something lives in, of those that did not have their turn.
    fn choose_victim(&mut self, now: Nanos) -> Option<u32> {
        let Sweep { victim, lived, moved_at, passed, .. } = self.gc;
        let mut chosen = self.slots.victim(passed);
        if let Some(slot) = chosen.map(|no| self.slots.slot(no))
            && slot.epoch == victim
            && slot.live == lived
            && now.since(moved_at) >= PATIENCE
        {
            self.gc.passed = victim;
            chosen = self.slots.victim(victim);
        }
        if chosen.is_none() {
            self.gc.passed = 0;
            chosen = self.slots.victim(0);
        }
        let slot = self.slots.slot(chosen?);
        if slot.epoch != victim {
            self.gc = Sweep { victim: slot.epoch, passed: self.gc.passed, ..Sweep::default() };
        }
        if slot.epoch != victim || slot.live != lived {
            (self.gc.lived, self.gc.moved_at) = (slot.live, now);
        }
        chosen
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
