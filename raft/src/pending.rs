//! Writes of one replica that are not durable yet: which index each LSN covers.
//!
//! A replica has a ring only while a write of it is under way. A full ring joins its two newest
//! writes under the newer LSN: what they cover counts later than it could, never earlier.

use alloc::vec::Vec;

use crate::{LogIndex, Lsn};

/// Writes that a ring tells apart.
pub(crate) const WRITES: usize = 8;

/// One write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) lsn: Lsn,
    /// Last index of the replica's log as of this write.
    pub(crate) last: LogIndex,
    /// Proposal bytes that it carries.
    pub(crate) bytes: u32,
}

/// The writes of one replica, ascending.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ring {
    writes: [Write; WRITES],
    head: u8,
    len: u8,
}

impl Ring {
    /// Notes a write; false: it was joined to one with the same LSN, which is noted already.
    fn push(&mut self, write: Write) -> bool {
        if let Some(newest) = self.len.checked_sub(1) {
            let at = self.place(newest);
            let newest = &mut self.writes[at];
            let same = newest.lsn == write.lsn;
            if same || usize::from(self.len) == WRITES {
                newest.lsn = write.lsn;
                newest.last = write.last;
                newest.bytes = newest.bytes.saturating_add(write.bytes);
                return !same;
            }
        }
        let at = self.place(self.len);
        self.writes[at] = write;
        self.len += 1;
        true
    }

    /// Takes the oldest write if it is durable at `lsn`.
    fn pop(&mut self, lsn: Lsn) -> Option<Write> {
        let oldest = self.writes[usize::from(self.head)];
        if self.len == 0 || oldest.lsn > lsn {
            return None;
        }
        self.head = (self.head + 1) % WRITES_U8;
        self.len -= 1;
        Some(oldest)
    }

    fn place(&self, nth: u8) -> usize {
        (usize::from(self.head) + usize::from(nth)) % WRITES
    }

    fn iter(&self) -> impl Iterator<Item = Write> {
        (0..self.len).map(|nth| self.writes[self.place(nth)])
    }
}

const WRITES_U8: u8 = 8;
const _: () = assert!(WRITES_U8 as usize == WRITES, "two names of one number");

/// A replica's ring in the slab; none while nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingId(u32);

impl Default for RingId {
    fn default() -> Self {
        Self::NONE
    }
}

impl RingId {
    pub(crate) const NONE: Self = Self(u32::MAX);

    fn index(self) -> usize {
        usize::try_from(self.0).expect("usize holds a u32")
    }
}

/// The rings of a core.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    rings: Vec<Ring>,
    free: Vec<RingId>,
}

impl Rings {
    /// Notes a write, in a new ring if there is none; false: its LSN is noted already.
    pub(crate) fn push(&mut self, id: &mut RingId, write: Write) -> bool {
        if *id == RingId::NONE {
            *id = self.free.pop().unwrap_or_else(|| {
                self.rings.push(Ring::default());
                let at = u32::try_from(self.rings.len() - 1).expect("one ring a slot at most");
                RingId(at)
            });
            self.rings[id.index()] = Ring::default();
        }
        self.rings[id.index()].push(write)
    }

    /// Takes the oldest write if it is durable at `lsn`; gives an emptied ring back.
    pub(crate) fn pop(&mut self, id: &mut RingId, lsn: Lsn) -> Option<Write> {
        if *id == RingId::NONE {
            return None;
        }
        let ring = &mut self.rings[id.index()];
        let write = ring.pop(lsn);
        if ring.len == 0 {
            self.release(id);
        }
        write
    }

    /// Forgets every write.
    pub(crate) fn release(&mut self, id: &mut RingId) {
        if *id != RingId::NONE {
            self.free.push(*id);
            *id = RingId::NONE;
        }
    }

    /// The writes under way, ascending.
    pub(crate) fn iter(&self, id: RingId) -> impl Iterator<Item = Write> {
        self.rings.get(id.index()).into_iter().flat_map(Ring::iter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(lsn: u64, last: u64) -> Write {
        Write { lsn: Lsn(lsn), last: LogIndex(last), bytes: 10 }
    }

    #[test]
    fn writes_come_back_in_order_and_only_when_durable() {
        let (mut rings, mut id) = (Rings::default(), RingId::NONE);
        assert!(rings.push(&mut id, write(5, 1)));
        assert!(!rings.push(&mut id, write(5, 2)), "the same write");
        assert!(rings.push(&mut id, write(7, 3)));
        assert_eq!(rings.pop(&mut id, Lsn(4)), None);
        assert_eq!(rings.pop(&mut id, Lsn(6)), Some(Write { bytes: 20, ..write(5, 2) }));
        assert_eq!(rings.pop(&mut id, Lsn(6)), None);
        assert_eq!(rings.pop(&mut id, Lsn(9)), Some(write(7, 3)));
        assert_eq!(id, RingId::NONE);
        assert!(rings.push(&mut id, write(9, 4)));
        assert_eq!(rings.rings.len(), 1, "the ring is used again");
    }

    #[test]
    fn a_full_ring_joins_the_newest_writes_under_the_later_lsn() {
        let (mut rings, mut id) = (Rings::default(), RingId::NONE);
        (1..=20).for_each(|nth| assert!(rings.push(&mut id, write(nth, nth * 10))));
        let seen: Vec<_> = rings.iter(id).map(|w| (w.lsn.0, w.last.0)).collect();
        assert_eq!(seen.len(), WRITES);
        assert_eq!(seen[6], (7, 70));
        assert_eq!(seen[7], (20, 200), "20 is durable only with LSN 20");
        assert_eq!(rings.iter(id).map(|w| w.bytes).sum::<u32>(), 200, "no byte is lost");
    }
}
