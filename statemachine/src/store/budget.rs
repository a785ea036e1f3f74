//! How much memory the deltas of one core use, and who has to give some back.
//!
//! Every shard with a delta has an [`Account`]. What it holds is *active* until it is frozen for a
//! flush, and *frozen* until the flush is published or put back. The sum over all accounts of a
//! core is what the budget bounds.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::rc::Rc;

/// How full the core's deltas are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeltaPressure {
    /// Below half of the budget.
    Low,
    /// From half: the largest delta is flushed.
    Flush,
    /// From the whole budget: writes are refused.
    Full,
    /// Over one and a half: apply pauses, the log keeps the entries.
    Over,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    shard: u64,
    active: usize,
    frozen: usize,
    /// Nobody flushes it.
    aside: bool,
}

/// The bytes of all deltas of a core.
pub(crate) struct Budget {
    limit: usize,
    used: Cell<usize>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
}

impl Budget {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            limit,
            used: Cell::new(0),
            slots: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
        }
    }

    pub(crate) const fn used(&self) -> usize {
        self.used.get()
    }

    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn pressure(&self) -> DeltaPressure {
        let used = self.used.get();
        if used < self.limit / 2 {
            DeltaPressure::Low
        } else if used < self.limit {
            DeltaPressure::Flush
        } else if used <= self.limit.saturating_add(self.limit / 2) {
            DeltaPressure::Full
        } else {
            DeltaPressure::Over
        }
    }

    /// The shard with the largest active delta that is not put aside, and its bytes.
    pub(crate) fn largest(&self) -> Option<(u64, usize)> {
        let slots = self.slots.borrow();
        let flushed = slots.iter().filter(|slot| !slot.aside);
        let largest = flushed.max_by_key(|slot| (slot.active, core::cmp::Reverse(slot.shard)))?;
        (largest.active > 0).then_some((largest.shard, largest.active))
    }

    /// Puts what a shard holds aside, or takes it back.
    pub(crate) fn set_aside(&self, shard: u64, aside: bool) {
        let mut slots = self.slots.borrow_mut();
        slots.iter_mut().filter(|slot| slot.shard == shard).for_each(|slot| slot.aside = aside);
    }

    pub(crate) fn open(self: &Rc<Self>, shard: u64) -> Account {
        let new = Slot { shard, active: 0, frozen: 0, aside: false };
        let mut slots = self.slots.borrow_mut();
        let slot = if let Some(slot) = self.free.borrow_mut().pop() {
            slots[slot] = new;
            slot
        } else {
            slots.push(new);
            slots.len() - 1
        };
        Account { budget: Rc::clone(self), slot }
    }
}

/// One shard's part in the core's delta memory. Dropping it gives everything back.
pub struct Account {
    budget: Rc<Budget>,
    slot: usize,
}

impl Account {
    /// Takes `bytes` for the active delta. Never refuses: what is over the budget shows in
    /// [`Account::pressure`].
    pub fn charge(&self, bytes: usize) {
        self.budget.used.set(self.budget.used.get() + bytes);
        self.budget.slots.borrow_mut()[self.slot].active += bytes;
    }

    /// Gives back `bytes` of the active delta.
    ///
    /// # Panics
    ///
    /// If it does not hold that much: a bug of the caller.
    pub fn release(&self, bytes: usize) {
        let mut slots = self.budget.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        assert!(bytes <= slot.active, "an account gives back what it took");
        slot.active -= bytes;
        self.budget.used.set(self.budget.used.get() - bytes);
    }

    /// The active delta is frozen.
    ///
    /// # Panics
    ///
    /// If one is frozen already: a bug of the caller.
    pub fn freeze(&self) {
        let mut slots = self.budget.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        assert!(slot.frozen == 0, "one flush at a time");
        slot.frozen = core::mem::take(&mut slot.active);
    }

    /// The frozen delta is gone: it is in a run now.
    pub fn release_frozen(&self) {
        let mut slots = self.budget.slots.borrow_mut();
        let frozen = core::mem::take(&mut slots[self.slot].frozen);
        self.budget.used.set(self.budget.used.get() - frozen);
    }

    /// The frozen delta became active again: its flush failed and it was put back.
    pub fn thaw(&self) {
        let mut slots = self.budget.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        slot.active += core::mem::take(&mut slot.frozen);
    }

    /// Bytes of the active delta.
    pub fn active(&self) -> usize {
        self.budget.slots.borrow()[self.slot].active
    }

    /// Bytes of the frozen delta.
    pub fn frozen(&self) -> usize {
        self.budget.slots.borrow()[self.slot].frozen
    }

    /// How full the core's deltas are.
    pub fn pressure(&self) -> DeltaPressure {
        self.budget.pressure()
    }

    /// Whether this delta is the one to flush: the core's deltas are over half of their budget and
    /// no other shard has a larger active one. Looks at every account of the core when the
    /// pressure is on.
    pub fn is_due(&self) -> bool {
        let Slot { active: own, aside, .. } = self.budget.slots.borrow()[self.slot];
        own > 0
            && !aside
            && self.budget.pressure() >= DeltaPressure::Flush
            && self.budget.largest().is_none_or(|(_, largest)| largest <= own)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let slot = core::mem::take(&mut self.budget.slots.borrow_mut()[self.slot]);
        self.budget.used.set(self.budget.used.get() - slot.active - slot.frozen);
        self.budget.free.borrow_mut().push(self.slot);
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.budget.slots.borrow()[self.slot];
        write!(f, "Account(shard {}, {} + {} bytes)", slot.shard, slot.active, slot.frozen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_at_50_100_and_150_percent() {
        let budget = Rc::new(Budget::new(1_000));
        let account = budget.open(1);
        let steps = [
            (499, DeltaPressure::Low),
            (1, DeltaPressure::Flush),
            (499, DeltaPressure::Flush),
            (1, DeltaPressure::Full),
            (500, DeltaPressure::Full),
            (1, DeltaPressure::Over),
        ];
        for (bytes, want) in steps {
            account.charge(bytes);
            assert_eq!(budget.pressure(), want, "at {} of 1000", budget.used());
        }
        account.release(1_501);
        assert_eq!(budget.pressure(), DeltaPressure::Low);
    }

    #[test]
    fn the_largest_active_delta_is_due_and_a_frozen_one_is_not() {
        let budget = Rc::new(Budget::new(1_000));
        let (small, large) = (budget.open(1), budget.open(2));
        small.charge(200);
        large.charge(400);
        assert_eq!((small.is_due(), large.is_due()), (false, true));
        large.freeze();
        assert_eq!((small.is_due(), large.is_due()), (true, false));
        large.thaw();
        assert_eq!((small.is_due(), large.is_due()), (false, true));
        large.freeze();
        large.release_frozen();
        assert_eq!((small.is_due(), budget.used()), (false, 200));
    }

    /// Bug: the delta of a closed shard was the largest one for good, and nobody else's was due.
    #[test]
    fn a_delta_put_aside_is_waited_for_by_nobody_and_still_counts() {
        let budget = Rc::new(Budget::new(1_000));
        let (small, large) = (budget.open(1), budget.open(2));
        small.charge(200);
        large.charge(400);
        budget.set_aside(2, true);
        assert_eq!((small.is_due(), large.is_due()), (true, false));
        assert_eq!((budget.largest(), budget.used()), (Some((1, 200)), 600));
        // A flush that was under way fails.
        large.freeze();
        large.thaw();
        assert_eq!(budget.largest(), Some((1, 200)));
        budget.set_aside(2, false);
        assert_eq!((small.is_due(), large.is_due()), (false, true));
        // The next one in its place begins anew.
        budget.set_aside(2, true);
        drop(large);
        let next = budget.open(2);
        next.charge(300);
        assert_eq!(budget.largest(), Some((2, 300)));
    }

    #[test]
    fn the_counters_are_zero_after_every_account_is_dropped() {
        let budget = Rc::new(Budget::new(1_000));
        let (one, two) = (budget.open(1), budget.open(2));
        one.charge(10);
        one.freeze();
        one.charge(5);
        two.charge(7);
        drop(one);
        assert_eq!(budget.used(), 7);
        let again = budget.open(3);
        assert_eq!((again.active(), again.frozen()), (0, 0));
        drop((two, again));
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.largest(), None);
    }
}
