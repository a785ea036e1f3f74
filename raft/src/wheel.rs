//! When which replica has something undecided: a wheel of 1,024 buckets of 16 ms, and the two
//! queues in which elections wait for their turn.
//!
//! ```text
//! cursor
//!   v
//! [ 0 ][ 1 ][ 2 ] .. [1023]     a bucket is a doubly linked list through `links`, first in first
//!   |    |                      out; a deadline beyond the last bucket waits in the last one and
//!   3 -> 7 -> 1                 moves on when the cursor gets there
//! urgent: 9 -> 4    ready: 2    due elections, those that clients wait for first
//! ```
//!
//! A replica is in at most one list. Arming, disarming and taking are O(1); memory grows with the
//! number of slots and never in steady state. A deadline is rounded up to a tick: it is never
//! early and at most one tick late.

use alloc::{vec, vec::Vec};

use crate::{
    BootTime, Slot,
    core::{at, slot_at},
};

/// Nanoseconds of a bucket.
pub(crate) const TICK_NANOS: u64 = 16_000_000;
const BUCKETS: u64 = 1_024;
const LISTS: usize = 1_026;
const WORDS: usize = 16;
/// The list of held replicas that clients wait for.
const URGENT: u16 = 1_024;
/// The list of the other held replicas.
const READY: u16 = 1_025;
const NOWHERE: u16 = u16::MAX;
const NONE: u32 = u32::MAX;
/// Deadlines beyond the wheel that one call moves on at most.
const MOVES_MAX: u32 = 1_024;
/// Bits of a place that name the list.
const LIST_BITS: u32 = 16;
const TICK_MAX: u64 = u64::MAX >> LIST_BITS;

const _: () = assert!(WORDS as u64 * 64 == BUCKETS, "a bit for each bucket");
const _: () = assert!(size_of::<Link>() == 16, "an idle replica stays small");

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

/// A slot's place: the tick of its deadline and its list share a word.
#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    prev: u32,
    place: u64,
}

const EMPTY: List = List { head: NONE, tail: NONE };
const LOOSE: Link = Link { next: NONE, prev: NONE, place: NOWHERE as u64 };

impl Link {
    #[inline]
    fn list(self) -> u16 {
        u16::try_from(self.place & u64::from(u16::MAX)).expect("masked to 16 bits")
    }

    #[inline]
    fn tick(self) -> u64 {
        self.place >> LIST_BITS
    }
}

/// The deadlines of a core's replicas.
#[derive(Debug)]
pub(crate) struct Wheel {
    lists: Vec<List>,
    /// A bit for each bucket that is not empty.
    full: [u64; WORDS],
    links: Vec<Link>,
    /// Every bucket before this tick is empty.
    cursor: u64,
    armed: usize,
    held: usize,
}

impl Wheel {
    /// Makes an empty wheel.
    pub(crate) fn new() -> Self {
        Self {
            lists: vec![EMPTY; LISTS],
            full: [0; WORDS],
            links: Vec::new(),
            cursor: 0,
            armed: 0,
            held: 0,
        }
    }

    /// Makes room for slots below `slots`.
    pub(crate) fn grow(&mut self, slots: usize) {
        if self.links.len() < slots {
            self.links.resize(slots, LOOSE);
        }
    }

    /// Sets a slot's deadline; an earlier one of this slot is forgotten.
    pub(crate) fn arm(&mut self, now: BootTime, slot: Slot, deadline: BootTime) {
        self.disarm(slot);
        if self.armed == 0 {
            self.cursor = self.cursor.max(now.0 / TICK_NANOS);
        }
        self.armed += 1;
        self.put(slot, deadline.0.div_ceil(TICK_NANOS));
    }

    /// Forgets a slot's deadline, and its turn if it was held.
    pub(crate) fn disarm(&mut self, slot: Slot) {
        match self.links[at(slot)].list() {
            NOWHERE => return,
            URGENT | READY => self.held -= 1,
            _ => self.armed -= 1,
        }
        self.unlink(slot);
    }

    /// Takes a slot whose deadline has come, earliest tick first.
    pub(crate) fn due(&mut self, now: BootTime) -> Option<Slot> {
        let target = now.0 / TICK_NANOS;
        let mut moves = 0;
        while self.armed > 0 && moves < MOVES_MAX {
            let ahead = self.first_full().expect("what is armed is in a bucket");
            if self.cursor + ahead > target {
                break;
            }
            self.cursor += ahead;
            let head = self.lists[bucket(self.cursor)].head;
            let slot = slot_at(index(head));
            let tick = self.links[at(slot)].tick();
            self.unlink(slot);
            if tick <= target {
                self.armed -= 1;
                return Some(slot);
            }
            self.put(slot, tick);
            moves += 1;
        }
        if moves < MOVES_MAX {
            self.cursor = self.cursor.max(target);
        }
        None
    }

    /// Lets a slot that was due wait for its turn; `urgent`: before the others.
    pub(crate) fn hold(&mut self, slot: Slot, urgent: bool) {
        self.disarm(slot);
        self.held += 1;
        self.link(slot, 0, if urgent { URGENT } else { READY });
    }

    /// Whether a slot was due and waits for its turn.
    pub(crate) fn is_held(&self, slot: Slot) -> bool {
        self.links.get(at(slot)).is_some_and(|link| matches!(link.list(), URGENT | READY))
    }

    /// Moves a held slot before those that nobody waits for.
    pub(crate) fn urge(&mut self, slot: Slot) {
        if self.links[at(slot)].list() == READY {
            self.unlink(slot);
            self.link(slot, 0, URGENT);
        }
    }

    /// Takes the held slot whose turn it is.
    pub(crate) fn start(&mut self) -> Option<Slot> {
        let urgent = self.lists[usize::from(URGENT)].head;
        let head = if urgent == NONE { self.lists[usize::from(READY)].head } else { urgent };
        (head != NONE).then(|| {
            let slot = slot_at(index(head));
            self.disarm(slot);
            slot
        })
    }

    /// Slots that wait for their turn.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Whether a slot has a deadline or waits for its turn.
    #[inline]
    pub(crate) fn is_armed(&self, slot: Slot) -> bool {
        self.links.get(at(slot)).is_some_and(|link| link.list() != NOWHERE)
    }

    /// A slot's deadline, rounded up to a tick; none: it has none, or waits for its turn.
    pub(crate) fn deadline(&self, slot: Slot) -> Option<BootTime> {
        let link = self.links.get(at(slot)).filter(|link| link.list() < URGENT)?;
        Some(BootTime(link.tick().saturating_mul(TICK_NANOS)))
    }

    /// When [`Wheel::due`] is to be asked again. O(1).
    pub(crate) fn next(&self) -> Option<BootTime> {
        let ahead = self.first_full()?;
        Some(BootTime((self.cursor + ahead).saturating_mul(TICK_NANOS)))
    }

    /// Ticks from the cursor to the first bucket that is not empty.
    fn first_full(&self) -> Option<u64> {
        let from = bucket(self.cursor);
        for nth in 0..=WORDS {
            let word = (from / 64 + nth) % WORDS;
            let low = (1_u64 << (from % 64)) - 1;
            let bits = match nth {
                0 => self.full[word] & !low,
                WORDS => self.full[word] & low,
                _ => self.full[word],
            };
            if bits != 0 {
                let bucket = word * 64 + index(bits.trailing_zeros());
                let ahead = (bucket + LISTS - 2 - from) % (LISTS - 2);
                return Some(u64::try_from(ahead).expect("less than the buckets"));
            }
        }
        None
    }

    /// Links a slot into the bucket of its tick, or into the last one there is.
    fn put(&mut self, slot: Slot, tick: u64) {
        let tick = tick.min(TICK_MAX);
        let bucket = tick.clamp(self.cursor, self.cursor + BUCKETS - 1) % BUCKETS;
        self.link(slot, tick, u16::try_from(bucket).expect("less than the buckets"));
    }

    fn link(&mut self, slot: Slot, tick: u64, list: u16) {
        let ends = &mut self.lists[usize::from(list)];
        let place = tick << LIST_BITS | u64::from(list);
        self.links[at(slot)] = Link { next: NONE, prev: ends.tail, place };
        let tail = core::mem::replace(&mut ends.tail, slot.0);
        if tail == NONE {
            ends.head = slot.0;
        } else {
            self.links[index(tail)].next = slot.0;
        }
        if list < URGENT {
            self.full[usize::from(list) / 64] |= 1 << (list % 64);
        }
    }

    fn unlink(&mut self, slot: Slot) {
        let link = core::mem::replace(&mut self.links[at(slot)], LOOSE);
        let list = link.list();
        let ends = &mut self.lists[usize::from(list)];
        if link.prev == NONE {
            ends.head = link.next;
        } else {
            self.links[index(link.prev)].next = link.next;
        }
        if link.next == NONE {
            ends.tail = link.prev;
        } else {
            self.links[index(link.next)].prev = link.prev;
        }
        if list < URGENT && self.lists[usize::from(list)].head == NONE {
            self.full[usize::from(list) / 64] &= !(1 << (list % 64));
        }
    }
}

/// How often something may start: so many a second, and a few at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// The next start is on time from here on.
    next: BootTime,
    every: u64,
    burst: u64,
}

impl Rate {
    /// One start each `every` nanoseconds, up to `at_once` of them late.
    pub(crate) const fn new(every: u64, at_once: u64) -> Self {
        Self { next: BootTime(0), every, burst: every * (at_once - 1) }
    }

    /// Takes a start if one is free.
    pub(crate) fn take(&mut self, now: BootTime) -> bool {
        let next = self.next.max(BootTime(now.0.saturating_sub(self.burst)));
        let free = next <= now;
        if free {
            self.next = next.after(self.every);
        }
        free
    }

    /// When a start is free.
    pub(crate) fn next(&self) -> BootTime {
        self.next
    }
}

/// The bucket of a tick.
fn bucket(tick: u64) -> usize {
    usize::try_from(tick % BUCKETS).expect("less than the buckets")
}

fn index(at: u32) -> usize {
    usize::try_from(at).expect("usize holds a u32")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ms(millis: u64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    fn wheel(slots: usize) -> Wheel {
        let mut wheel = Wheel::new();
        wheel.grow(slots);
        wheel
    }

    #[test]
    fn a_deadline_is_never_early_and_at_most_a_tick_late() {
        for deadline in [0, 1, 15, 16, 17, 600, 16_383, 16_384, 40_000, 100_001] {
            let mut wheel = wheel(1);
            wheel.arm(ms(0), Slot(0), ms(deadline));
            let mut now = 0;
            while wheel.due(ms(now)).is_none() {
                now += 1;
                assert!(now < deadline + 17, "{deadline} is late");
            }
            assert!(now >= deadline, "{deadline} is early at {now}");
            assert!(!wheel.is_armed(Slot(0)) && wheel.next().is_none());
        }
    }

    #[test]
    fn slots_of_one_tick_come_in_the_order_of_arming() {
        let mut wheel = wheel(8);
        for slot in [3, 1, 7, 0] {
            wheel.arm(ms(5), Slot(slot), ms(20));
        }
        wheel.disarm(Slot(7));
        wheel.arm(ms(6), Slot(3), ms(21));
        let mut order = Vec::new();
        while let Some(slot) = wheel.due(ms(40)) {
            order.push(slot.0);
        }
        assert_eq!(order, [1, 0, 3]);
    }

    #[test]
    fn a_wheel_that_slept_for_days_gives_everything_back() {
        let mut wheel = wheel(3);
        let day = 86_400_000;
        wheel.arm(ms(20 * day), Slot(0), ms(20 * day + 500));
        wheel.arm(ms(20 * day), Slot(1), ms(20 * day + 900_000));
        wheel.arm(ms(20 * day), Slot(2), ms(40 * day));
        assert_eq!(wheel.due(ms(30 * day)), Some(Slot(0)));
        assert_eq!(wheel.due(ms(30 * day)), Some(Slot(1)));
        assert_eq!(wheel.due(ms(30 * day)), None);
        let last = (0..100_000)
            .map(|nth| ms(30 * day + nth * 10_000))
            .find(|now| wheel.due(*now).is_some());
        assert_eq!(last, Some(ms(40 * day)));
    }

    #[test]
    fn held_slots_take_turns_and_urgent_ones_first() {
        let mut wheel = wheel(5);
        for slot in 0..5 {
            wheel.hold(Slot(slot), slot == 3);
        }
        wheel.urge(Slot(4));
        wheel.urge(Slot(3));
        wheel.disarm(Slot(1));
        assert_eq!(wheel.held(), 4);
        let order: Vec<_> = core::iter::from_fn(|| wheel.start()).map(|slot| slot.0).collect();
        assert_eq!(order, [3, 4, 0, 2]);
        assert_eq!((wheel.held(), wheel.armed), (0, 0));
    }

    #[test]
    fn two_thousand_starts_a_second_and_no_more() {
        let mut rate = Rate::new(500_000, 8);
        let mut started = 0;
        for step in 0..10_000_u64 {
            let now = BootTime(1_000_000_000 + step * 100_000);
            started += u32::from(rate.take(now));
            assert!(rate.next() > now || !rate.take(BootTime(0)));
        }
        assert!((2_000..=2_008).contains(&started), "{started} in a second");
    }

    /// The wheel as a sorted list.
    #[derive(Default)]
    struct Model {
        deadlines: BTreeMap<u32, u64>,
    }

    impl Model {
        fn due(&mut self, now: u64) -> Vec<u32> {
            let tick = now / TICK_NANOS;
            let is_due = |deadline: &u64| deadline.div_ceil(TICK_NANOS) <= tick;
            let due: Vec<_> =
                self.deadlines.iter().filter(|(_, at)| is_due(at)).map(|(slot, _)| *slot).collect();
            self.deadlines.retain(|_, at| !is_due(at));
            due
        }

        fn next(&self) -> Option<u64> {
            self.deadlines.values().min().copied()
        }
    }

    fn draw(random: &mut u64) -> u64 {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random
    }

    fn run_against_the_model(seed: u64) {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (mut wheel, mut model) = (wheel(64), Model::default());
        let mut now = draw(&mut random) % (1 << 50);
        for _ in 0..400 {
            let slot = u32::try_from(draw(&mut random) % 64).unwrap();
            match draw(&mut random) % 8 {
                0..4 => {
                    let far = [20, 600, 5_000, 60_000][index(slot % 4)] * 1_000_000;
                    let deadline = now + draw(&mut random) % far;
                    wheel.arm(BootTime(now), Slot(slot), BootTime(deadline));
                    model.deadlines.insert(slot, deadline);
                },
                4 => {
                    wheel.disarm(Slot(slot));
                    model.deadlines.remove(&slot);
                },
                _ => {
                    now += draw(&mut random)
                        % [1_000_000, 400_000_000, 40_000_000_000][index(slot % 3)];
                    let mut due: Vec<_> = core::iter::from_fn(|| wheel.due(BootTime(now)))
                        .map(|slot| slot.0)
                        .collect();
                    due.sort_unstable();
                    assert_eq!(due, model.due(now), "seed {seed} at {now}");
                },
            }
            assert_eq!(wheel.armed, model.deadlines.len());
            assert_eq!(wheel.is_armed(Slot(slot)), model.deadlines.contains_key(&slot));
            // A deadline beyond the wheel is looked at before it is due, never after.
            let (next, want) = (wheel.next(), model.next());
            assert_eq!(next.is_some(), want.is_some());
            let late = next.zip(want).is_some_and(|(next, want)| next.0 >= want + TICK_NANOS);
            assert!(!late || next.is_some_and(|next| next.0 <= now), "seed {seed}");
        }
    }

    #[test]
    fn the_wheel_gives_what_a_sorted_list_gives() {
        (1..500).for_each(run_against_the_model);
    }
}
