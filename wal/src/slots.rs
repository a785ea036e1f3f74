//! The slots of a stream: their lives, what still lives in them, where a frame lies.
//!
//! ```text
//! Free -> Preparing -> Prepared -> Active -> Closed -> Free      at a boot also: Held -> Free
//! ```
//!
//! * I4 epochs are given out in ascending order and never twice.
//! * I6 a Free slot has no live batch, no manifest and no reader, and the newest durable complete
//!   checkpoint does not call it live.

use core::cell::Cell;
use std::rc::Rc;

use bowline_env::Nanos;

use crate::head::SlotHead;
use crate::shard::Kill;

/// Slots kept ready for a roll.
const PREPARED: usize = 2;
/// Slots beyond the bound that a life may make for checkpoints alone: the first may free nothing
/// yet, the second does.
const SPARE: u32 = 2;
/// The newest slots of a life, which its last writes went to: two frames may be in flight (I13).
pub(crate) const LAST_SLOTS: usize = PREPARED + 2;
/// A write of a life that ended may land this long after its end (env.md), not later.
pub(crate) const LATE_MAX: Nanos = Nanos(2 * Nanos::SECOND.0);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Life {
    #[default]
    Free,
    Preparing,
    Prepared,
    Active,
    Closed,
    /// Free once this life's first checkpoint is durable, not before.
    Held,
}

/// What lives in a frame or a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) batches: u32,
    pub(crate) manifests: u32,
    pub(crate) bytes: u64,
}

impl Live {
    pub(crate) fn add(&mut self, more: Self) {
        self.batches += more.batches;
        self.manifests += more.manifests;
        self.bytes += more.bytes;
    }

    /// # Panics
    ///
    /// If more dies than lives: the accounting is broken.
    pub(crate) fn kill(&mut self, kill: &Kill) {
        if kill.manifest {
            self.manifests = self.manifests.checked_sub(1).expect("a live manifest is counted");
        } else {
            self.batches = self.batches.checked_sub(1).expect("a live batch is counted");
            self.bytes = self.bytes.checked_sub(kill.bytes).expect("live bytes are counted");
        }
    }

    pub(crate) fn is_dead(self) -> bool {
        self.batches == 0 && self.manifests == 0
    }
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) epoch: u64,
    pub(crate) life: Life,
    pub(crate) first_lsn: u64,
    /// Last frame placed; `first_lsn - 1` if there is none.
    pub(crate) last_lsn: u64,
    /// Block of each frame from `first_lsn` on; 0: the frame is lost.
    pub(crate) blocks: Vec<u32>,
    pub(crate) live: Live,
    pub(crate) readers: Rc<Cell<u32>>,
    /// The last writes of an earlier life went here, and one may still be on its way.
    pub(crate) suspect: bool,
}

impl Slot {
    /// Its use is over or under way: it holds frames of this or an earlier life.
    pub(crate) fn in_use(&self) -> bool {
        matches!(self.life, Life::Active | Life::Closed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct SlotTable {
    pub(crate) slots: Vec<Slot>,
    /// Slots in use by `first_lsn`, ascending.
    order: Vec<u32>,
    pub(crate) active: Option<u32>,
    /// First free block of the active slot.
    next_block: u32,
    /// Blocks of a slot.
    slot_blocks: u32,
    pub(crate) slots_max: u32,
    /// The same, where a checkpoint would free some and has no slot to begin in.
    spare_max: u32,
    pub(crate) next_epoch: u64,
    pub(crate) growing: bool,
    /// No slot could be made: what is there is all there is, for now.
    pub(crate) grow_blocked: bool,
    /// From then on no write of an earlier life is on its way; none: that is so already.
    pub(crate) quiet_at: Option<Nanos>,
}

fn at(slot_no: u32) -> usize {
    usize::try_from(slot_no).expect("usize holds a u32")
}

impl SlotTable {
    pub(crate) fn new(slots: Vec<Slot>, slot_blocks: u32, slots_max: u32, next_epoch: u64) -> Self {
        let mut table = Self { slots, slot_blocks, slots_max, next_epoch, ..Self::default() };
        let count = u32::try_from(table.slots.len()).expect("slots are below 65,536");
        table.spare_max = slots_max.max(count) + SPARE;
        table.order = (0..count).filter(|no| table.slots[at(*no)].in_use()).collect();
        let slots = &table.slots;
        table.order.sort_by_key(|no| slots[at(*no)].first_lsn);
        table
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("slots are below 65,536")
    }

    pub(crate) fn slot(&self, slot_no: u32) -> &Slot {
        &self.slots[at(slot_no)]
    }

    pub(crate) fn active_slot(&self) -> Option<&Slot> {
        self.active.map(|no| self.slot(no))
    }

    /// Blocks left in the active slot.
    pub(crate) fn room(&self) -> u32 {
        if self.active.is_some() { self.slot_blocks - self.next_block } else { 0 }
    }

    /// Slots that hold frames.
    pub(crate) fn used(&self) -> u32 {
        u32::try_from(self.order.len()).expect("slots are below 65,536")
    }

    /// Slots that there are, or may be.
    pub(crate) fn total(&self) -> u32 {
        if self.grow_blocked { self.count() } else { self.slots_max.max(self.count()) }
    }

    pub(crate) fn left(&self) -> u32 {
        self.total() - self.used()
    }

    pub(crate) fn used_permille(&self) -> u32 {
        self.used() * 1000 / self.total()
    }

    /// Where a frame lies: slot and block. None: it is not placed, lost or gone.
    pub(crate) fn locate(&self, lsn: u64) -> Option<(u32, u32)> {
        let after = self.order.partition_point(|no| self.slot(*no).first_lsn <= lsn);
        let slot_no = *self.order.get(after.checked_sub(1)?)?;
        let slot = self.slot(slot_no);
        let nth = usize::try_from(lsn - slot.first_lsn).ok()?;
        let block = *slot.blocks.get(nth)?;
        (block != 0).then_some((slot_no, block))
    }

    /// The prepared slot that is next in epoch order.
    fn next_prepared(&self) -> Option<u32> {
        (0..self.count())
            .filter(|no| self.slot(*no).life == Life::Prepared)
            .min_by_key(|no| self.slot(*no).epoch)
    }

    pub(crate) fn can_roll(&self) -> bool {
        self.next_prepared().is_some()
    }

    /// Closes the active slot and opens the next; false: none is prepared.
    pub(crate) fn roll(&mut self, lsn: u64) -> bool {
        let Some(next) = self.next_prepared() else { return false };
        if let Some(active) = self.active {
            self.slots[at(active)].life = Life::Closed;
        }
        let slot = &mut self.slots[at(next)];
        assert!(slot.live.is_dead() && slot.readers.get() == 0, "a prepared slot is empty (I6)");
        slot.life = Life::Active;
        slot.first_lsn = lsn;
        slot.last_lsn = lsn - 1;
        slot.blocks.clear();
        self.order.push(next);
        self.active = Some(next);
        self.next_block = 1;
        true
    }

    /// Gives frame `lsn` the next `blocks` of the active slot: its slot, epoch and first block.
    pub(crate) fn place(&mut self, lsn: u64, blocks: u32, live: Live) -> (u32, u64, u32) {
        let active = self.active.expect("a frame is placed after a roll");
        assert!(blocks <= self.room(), "frames do not cross the slot's end");
        let slot = &mut self.slots[at(active)];
        assert!(lsn == slot.last_lsn + 1, "frames are placed in order");
        let block_no = self.next_block;
        slot.last_lsn = lsn;
        slot.blocks.push(block_no);
        slot.live.add(live);
        self.next_block += blocks;
        (active, slot.epoch, block_no)
    }

    /// Takes a death in a placed frame off its slot.
    pub(crate) fn kill(&mut self, kill: &Kill) {
        if let Some((slot_no, _)) = self.locate(kill.lsn) {
            self.slots[at(slot_no)].live.kill(kill);
        }
    }

    /// Closed slots that a checkpoint written now would not call live: dead, and older than
    /// `keep_from`, the epoch of the slot of the previous complete checkpoint.
    pub(crate) fn dead(&self, keep_from: u64) -> impl Iterator<Item = u32> + '_ {
        (0..self.count()).filter(move |no| {
            let slot = self.slot(*no);
            let dead = slot.life == Life::Closed && slot.live.is_dead() && slot.epoch < keep_from;
            dead || slot.life == Life::Held
        })
    }

    /// A durable complete checkpoint does not call the slot live: it is Free (I6).
    pub(crate) fn free(&mut self, slot_no: u32) {
        let slot = &mut self.slots[at(slot_no)];
        let done = matches!(slot.life, Life::Closed | Life::Held);
        assert!(done && slot.live.is_dead(), "only dead slots are freed");
        slot.life = Life::Free;
        slot.blocks = Vec::new();
        self.order.retain(|no| *no != slot_no);
    }

    /// The next slot to prepare: number and new epoch. The one that was out of use the longest: a
    /// write of a life that was killed, still on its way, then lands where nothing is.
    pub(crate) fn poll_prepare(&mut self) -> Option<(u32, u64)> {
        let ready = self.count_of(Life::Prepared) + self.count_of(Life::Preparing);
        if ready >= PREPARED {
            return None;
        }
        let is_ready = |slot: &Slot| self.is_free(slot) && slot.readers.get() == 0;
        let free = (0..self.count()).filter(|no| is_ready(self.slot(*no)));
        let slot_no = free.min_by_key(|no| self.slot(*no).epoch)?;
        let slot = &mut self.slots[at(slot_no)];
        slot.life = Life::Preparing;
        slot.epoch = self.next_epoch;
        self.next_epoch += 1;
        Some((slot_no, slot.epoch))
    }

    /// Free, and nothing of an earlier life can land there any more.
    fn is_free(&self, slot: &Slot) -> bool {
        slot.life == Life::Free && !(slot.suspect && self.quiet_at.is_some())
    }

    /// Time passed: once no write of an earlier life can land any more every slot is like another.
    pub(crate) fn quieten(&mut self, now: Nanos) {
        self.quiet_at = self.quiet_at.filter(|at| *at > now);
    }

    pub(crate) fn handle_prepared(&mut self, slot_no: u32, good: bool) {
        let slot = &mut self.slots[at(slot_no)];
        assert!(slot.life == Life::Preparing, "only a slot being prepared becomes prepared");
        slot.life = if good { Life::Prepared } else { Life::Free };
    }

    /// The number of the slot to make next, if another is needed. `checkpoint`: one is under way.
    pub(crate) fn poll_grow(&mut self, checkpoint: bool) -> Option<u32> {
        let ready = [Life::Prepared, Life::Preparing].map(|life| self.count_of(life));
        let free = self.slots.iter().filter(|slot| self.is_free(slot)).count();
        let most = if self.is_pressed(checkpoint) { self.spare_max } else { self.slots_max };
        if ready.iter().sum::<usize>() + free > PREPARED
            || self.growing
            || self.grow_blocked
            || self.count() >= most
        {
            return None;
        }
        self.growing = true;
        Some(self.count())
    }

    /// Every slot is used, and a checkpoint, which needs one, would free some sooner or later.
    fn is_pressed(&self, checkpoint: bool) -> bool {
        self.left() == 0 && (checkpoint || self.has_dead())
    }

    /// Whether a slot comes though every one is used: one is made, or will be.
    pub(crate) fn may_grow(&self, checkpoint: bool) -> bool {
        self.growing || (self.count() < self.spare_max && self.is_pressed(checkpoint))
    }

    /// Whether nothing lives in some slot that is used, whatever checkpoint it waits for.
    pub(crate) fn has_dead(&self) -> bool {
        self.dead(u64::MAX).next().is_some()
    }

    pub(crate) fn handle_grown(&mut self, good: bool) {
        self.growing = false;
        self.grow_blocked = !good;
        if good {
            self.slots.push(Slot::default());
        }
    }

    /// The oldest closed slot after epoch `passed` that something lives in.
    pub(crate) fn victim(&self, passed: u64) -> Option<u32> {
        let lives = |slot: &Slot| slot.life == Life::Closed && !slot.live.is_dead();
        let mut order = self.order.iter().copied();
        order.find(|no| lives(self.slot(*no)) && self.slot(*no).epoch > passed)
    }

    /// Whether no batch lives in the closed slot of a frame.
    pub(crate) fn has_manifests_only(&self, lsn: u64) -> bool {
        self.locate(lsn).is_some_and(|(slot_no, _)| {
            let slot = self.slot(slot_no);
            slot.life == Life::Closed && slot.live.batches == 0
        })
    }

    /// The header of a slot being prepared.
    pub(crate) fn header(&self, slot_no: u32, like: SlotHead) -> SlotHead {
        SlotHead { slot_no, epoch: self.slot(slot_no).epoch, ..like }
    }

    fn count_of(&self, life: Life) -> usize {
        self.slots.iter().filter(|slot| slot.life == life).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> SlotTable {
        SlotTable::new((0..4).map(|_| Slot::default()).collect(), 16, 8, 1)
    }

    #[test]
    fn slots_are_used_in_epoch_order_and_frames_are_found() {
        let mut table = table();
        assert!(!table.roll(1));
        assert_eq!(table.poll_prepare(), Some((0, 1)));
        assert_eq!(table.poll_prepare(), Some((1, 2)));
        assert_eq!(table.poll_prepare(), None);
        table.handle_prepared(1, true);
        assert!(table.roll(1));
        assert_eq!(table.place(1, 3, Live::default()), (1, 2, 1));
        assert_eq!(table.place(2, 1, Live::default()), (1, 2, 4));
        assert_eq!(table.room(), 11);
        assert_eq!(table.locate(2), Some((1, 4)));
        assert_eq!(table.locate(3), None);
        assert_eq!(table.locate(0), None);
    }

    #[test]
    fn a_failed_preparation_uses_up_its_epoch() {
        let mut table = table();
        assert_eq!(table.poll_prepare(), Some((0, 1)));
        table.handle_prepared(0, false);
        assert_eq!(table.poll_prepare(), Some((1, 2)));
    }

    #[test]
    fn the_slot_that_was_out_of_use_the_longest_is_prepared() {
        let mut table = table();
        for (slot, epoch) in table.slots.iter_mut().zip([7, 0, 3, 9]) {
            slot.epoch = epoch;
        }
        table.next_epoch = 10;
        assert_eq!(table.poll_prepare(), Some((1, 10)));
        assert_eq!(table.poll_prepare(), Some((2, 11)));
    }

    #[test]
    fn a_slot_that_a_late_write_may_hit_is_not_prepared_until_that_is_over() {
        let mut table = table();
        table.slots.truncate(2);
        table.slots[0].suspect = true;
        table.quiet_at = Some(Nanos(100));
        assert_eq!(table.poll_prepare(), Some((1, 1)));
        assert_eq!(table.poll_prepare(), None);
        assert_eq!(table.poll_grow(false), Some(2), "it does not count as ready");
        table.quieten(Nanos(99));
        assert_eq!(table.poll_prepare(), None);
        table.quieten(Nanos(100));
        assert_eq!(table.poll_prepare(), Some((0, 2)));
    }

    #[test]
    fn a_slot_with_a_reader_is_not_prepared() {
        let mut table = table();
        table.slots[0].readers.set(1);
        assert_eq!(table.poll_prepare(), Some((1, 1)));
    }

    #[test]
    fn a_slot_that_cannot_be_made_lowers_the_total() {
        let mut table = table();
        table.slots.truncate(2);
        assert_eq!(table.poll_grow(false), Some(2));
        assert_eq!(table.poll_grow(false), None);
        assert_eq!(table.left(), 8);
        table.handle_grown(false);
        assert_eq!(table.left(), 2);
        table.grow_blocked = false;
        assert_eq!(table.poll_grow(false), Some(2));
        table.handle_grown(true);
        assert_eq!(table.count(), 3);
    }
}
