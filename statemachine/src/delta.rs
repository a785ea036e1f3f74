//! State that is in memory alone: what the log holds past the newest section.
//!
//! ```text
//! arena:  | key value | key value | ...   | key value ...   |    chunks, 4 KiB doubling to 256 KiB
//!             ^
//! tree:   key ->  { slice, mod_index, expiry_ms, put or deleted }    in key order
//! ranges: start -> (end, index)                                      disjoint, newer index wins
//! ```
//!
//! A put costs one copy from the entry into the arena; what is handed out is a counted slice of
//! it. An overwrite leaves the old bytes in their chunk, which only brings the flush forward. A
//! deleted range hides the keys below its index; the flush drops what it hides.
//!
//! * I1 indexes never fall: every change is at `last` or above.

pub(crate) mod arena;
pub(crate) mod ranges;
pub(crate) mod record;
mod slab;
mod tree;

use core::ops::Bound;

use bytes::Bytes;

use arena::Arena;
use ranges::Ranges;
use record::Record;
use tree::{Keys, Located, Tree};

/// Bytes charged for a key beside its chunk: record, nodes, handles.
const KEY_CHARGE: usize = 160;
/// Fragments of ranges over which a flush is due.
pub(crate) const RANGES_MAX: usize = 1_024;

/// Keys and deleted ranges that were written since the last freeze.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    tree: Tree,
    ranges: Ranges,
    arena: Arena,
    /// Index of the first change; 0: none.
    first: u64,
    /// Index of the last change.
    last: u64,
}

impl Delta {
    /// Sets `key` as of entry `index`; 0 as `expiry_ms` is no deadline.
    ///
    /// # Panics
    ///
    /// If `index` is below that of an earlier change (I1).
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], index: u64, expiry_ms: u64) {
        self.reach(index);
        let bytes = self.arena.copy(key, value);
        let record = Record::put(bytes, key.len(), index, expiry_ms);
        match self.tree.locate(key) {
            Located::Here(number) => *self.tree.record_mut(number) = record,
            Located::Absent(gap) => self.tree.insert(gap, record),
        }
    }

    /// Removes `key` as of entry `index`, whether it exists or not.
    ///
    /// # Panics
    ///
    /// If `index` is below that of an earlier change (I1).
    pub(crate) fn delete(&mut self, key: &[u8], index: u64) {
        self.reach(index);
        match self.tree.locate(key) {
            Located::Here(number) => self.tree.record_mut(number).delete(index),
            Located::Absent(gap) => {
                let record = Record::deleted(self.arena.copy(key, &[]), index);
                self.tree.insert(gap, record);
            },
        }
    }

    /// Removes `start <= key < end` as of entry `index`; an empty `end` is the end of all keys.
    ///
    /// # Panics
    ///
    /// If `index` is below that of an earlier change (I1).
    pub(crate) fn delete_range(&mut self, start: &[u8], end: &[u8], index: u64) {
        self.reach(index);
        if end.is_empty() || start < end {
            let (start, end) = (self.arena.copy(start, &[]), self.arena.copy(end, &[]));
            self.ranges.insert(start, end, index);
        }
    }

    fn reach(&mut self, index: u64) {
        assert!(index >= self.last, "indexes of a delta never fall (I1)");
        if self.first == 0 {
            self.first = index;
        }
        self.last = index;
    }

    /// The version of a key in this level, whatever ranges say.
    #[inline]
    pub(crate) fn point(&self, key: &[u8]) -> Option<&Record> {
        self.tree.get(key)
    }

    /// Index of the newest range that covers `key`; 0: none.
    #[inline]
    pub(crate) fn tombstone_index(&self, key: &[u8]) -> u64 {
        self.ranges.index_of(key)
    }

    /// Versions from `from` on in key order, or backwards, whatever ranges say.
    pub(crate) fn walk<'a>(
        &'a self,
        from: Bound<&[u8]>,
        reverse: bool,
    ) -> impl Iterator<Item = &'a Record> + use<'a> {
        let (keys, skipped) = match from {
            Bound::Unbounded => (Keys::all(&self.tree, reverse), None),
            Bound::Included(key) => (Keys::from(&self.tree, key, reverse), None),
            Bound::Excluded(key) => (Keys::from(&self.tree, key, reverse), Some(key)),
        };
        let mut keys = keys.peekable();
        if let Some(skipped) = skipped {
            keys.next_if(|record| record.key() == skipped);
        }
        keys
    }

    /// Deleted ranges, disjoint and in order: start, end (empty: to the end), index.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (&Bytes, &Bytes, u64)> {
        self.ranges.iter()
    }

    /// Fragments of deleted ranges.
    pub(crate) fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Keys, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    /// Bytes charged to the budget.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.arena.charged() + (self.tree.len() + self.ranges.len()) * KEY_CHARGE
    }

    /// Index of the first change; 0: none.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index of the last change; 0: none.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: u64) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from((self.0 >> 33) % bound).unwrap()
        }

        /// Keys that share prefixes, end inside each other, and have many or few neighbours.
        fn key(&mut self) -> Vec<u8> {
            match self.below(4) {
                0 => (0..self.below(6)).map(|_| b"ab\x00\xff"[self.below(4)]).collect(),
                1 => format!("user:{:06}", self.below(3_000)).into_bytes(),
                2 => (0..self.below(3)).map(|_| self.below(256).to_le_bytes()[0]).collect(),
                _ => {
                    let mut key = vec![b'x'; self.below(40)];
                    key.extend((0..self.below(3)).map(|_| self.below(256).to_le_bytes()[0]));
                    key
                },
            }
        }
    }

    type Model = BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>;

    fn filled(seed: u64, writes: u64) -> (Delta, Model, Chance) {
        let (mut delta, mut model, mut chance) = (Delta::default(), Model::new(), Chance(seed));
        for index in 1..=writes {
            let key = chance.key();
            if chance.below(5) == 0 {
                delta.delete(&key, index);
                model.insert(key, (index, None));
            } else {
                let value = index.to_le_bytes()[..chance.below(9)].to_vec();
                delta.put(&key, &value, index, 0);
                model.insert(key, (index, Some(value)));
            }
        }
        (delta, model, chance)
    }

    fn is_same(record: &Record, entry: (&Vec<u8>, &(u64, Option<Vec<u8>>))) -> bool {
        let (key, (index, value)) = entry;
        record.key() == key
            && record.key_bytes() == key
            && record.mod_index() == *index
            && record.value().as_deref() == value.as_deref()
            && record.is_put() == value.is_some()
    }

    #[test]
    fn every_key_is_found_and_no_other_is() {
        for seed in 0..20 {
            let (delta, model, mut chance) = filled(seed, 4_000);
            assert_eq!(delta.len(), model.len());
            for entry in &model {
                assert!(delta.point(entry.0).is_some_and(|record| is_same(record, entry)));
            }
            for _ in 0..4_000 {
                let key = chance.key();
                assert_eq!(delta.point(&key).is_some(), model.contains_key(&key));
            }
        }
    }

    #[test]
    fn a_walk_from_any_bound_gives_the_keys_in_order() {
        for seed in 0..20 {
            let (delta, model, mut chance) = filled(seed, 1_500);
            assert!(delta.walk(Bound::Unbounded, false).zip(&model).all(|(a, b)| is_same(a, b)));
            assert_eq!(delta.walk(Bound::Unbounded, false).count(), model.len());
            assert_eq!(delta.walk(Bound::Unbounded, true).count(), model.len());
            for _ in 0..100 {
                let key = chance.key();
                for from in [Bound::Included(&key[..]), Bound::Excluded(&key[..])] {
                    let up = model.range::<[u8], _>((from, Bound::Unbounded)).take(40);
                    let keys = delta.walk(from, false).take(40);
                    assert!(keys.map(Record::key).eq(up.map(|(key, _)| &key[..])));
                    let down = model.range::<[u8], _>((Bound::Unbounded, from)).rev().take(40);
                    let keys = delta.walk(from, true).take(40);
                    assert!(keys.map(Record::key).eq(down.map(|(key, _)| &key[..])));
                }
            }
        }
    }

    #[test]
    fn a_key_with_every_byte_below_it_is_found() {
        let mut delta = Delta::default();
        let keys: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![b'k', byte]).collect();
        delta.put(b"k", b"short", 1, 0);
        for (index, key) in (2..).zip(&keys) {
            delta.put(key, b"", index, 0);
        }
        assert!(delta.walk(Bound::Unbounded, false).skip(1).map(Record::key).eq(&keys));
        assert_eq!(delta.point(b"k").unwrap().value().unwrap(), "short");
        assert!(delta.point(b"").is_none());
    }

    #[test]
    fn an_empty_delta_holds_no_memory() {
        let delta = Delta::default();
        assert_eq!((delta.bytes(), delta.len(), delta.first()), (0, 0, 0));
        assert!(delta.point(b"").is_none());
        assert_eq!(delta.walk(Bound::Included(b"a"), false).count(), 0);
        assert!(size_of::<Delta>() <= 256, "{} bytes", size_of::<Delta>());
    }

    #[test]
    #[should_panic(expected = "indexes of a delta never fall (I1)")]
    fn an_index_that_falls_is_a_bug() {
        let mut delta = Delta::default();
        delta.put(b"a", b"", 2, 0);
        delta.put(b"b", b"", 1, 0);
    }
}
