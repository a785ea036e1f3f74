//! State that is in memory alone: what the log holds past the newest section.
//!
//! ```text
//! arena:  | key value key value ... | key value ...        |    chunks, 4 KiB doubling to 256 KiB
//!             ^      ^
//! map:    key ->  { mod_index, expiry_ms, value or deleted }    in key order
//! ranges: start -> (end, index)                                 disjoint, newer index wins
//! ```
//!
//! A put costs one copy from the entry into the arena; what is handed out is a counted slice of
//! it. An overwrite leaves the old bytes in their chunk, which only brings the flush forward. A
//! deleted range hides the keys below its index; the flush drops what it hides.
//!
//! * I1 indexes never fall: every change is at `last` or above.
//! * I2 fragments of ranges are disjoint.

pub(crate) mod arena;
pub(crate) mod ranges;

use core::ops::Bound;
use std::collections::{BTreeMap, btree_map};

use bytes::Bytes;

use arena::Arena;
use ranges::Ranges;

/// Bytes charged for a key beside its chunk: map node, version, handles.
const KEY_CHARGE: usize = 160;
/// Fragments of ranges over which a flush is due.
pub(crate) const RANGES_MAX: usize = 1_024;

/// The newest version of a key in this level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ver {
    /// Index of the entry that wrote it.
    pub(crate) mod_index: u64,
    /// Log time at which it expires; 0: never.
    pub(crate) expiry_ms: u64,
    /// The value; none: deleted.
    pub(crate) value: Option<Bytes>,
}

/// Keys and deleted ranges that were written since the last freeze.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    map: BTreeMap<Bytes, Ver>,
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
        if let Some(ver) = self.map.get_mut(key) {
            let value = self.arena.copy(value);
            *ver = Ver { mod_index: index, expiry_ms, value: Some(value) };
        } else {
            let (key, value) = self.arena.copy_pair(key, value);
            self.map.insert(key, Ver { mod_index: index, expiry_ms, value: Some(value) });
        }
    }

    /// Removes `key` as of entry `index`, whether it exists or not.
    ///
    /// # Panics
    ///
    /// If `index` is below that of an earlier change (I1).
    pub(crate) fn delete(&mut self, key: &[u8], index: u64) {
        self.reach(index);
        let gone = Ver { mod_index: index, expiry_ms: 0, value: None };
        if let Some(ver) = self.map.get_mut(key) {
            *ver = gone;
        } else {
            let key = self.arena.copy(key);
            self.map.insert(key, gone);
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
            let (start, end) = self.arena.copy_pair(start, end);
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
    pub(crate) fn point(&self, key: &[u8]) -> Option<&Ver> {
        self.map.get(key)
    }

    /// Index of the newest range that covers `key`; 0: none.
    #[inline]
    pub(crate) fn tombstone_index(&self, key: &[u8]) -> u64 {
        self.ranges.index_of(key)
    }

    /// Keys and versions between two bounds, in key order, whatever ranges say. Empty if the bounds
    /// cross.
    pub(crate) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'_> {
        if crosses(from, to) {
            return Entries { inner: btree_map::Range::default() };
        }
        Entries { inner: self.map.range::<[u8], _>((from, to)) }
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
        self.map.len()
    }

    /// Neither a key nor a range.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty() && self.ranges.is_empty()
    }

    /// Bytes charged to the budget.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.charged() + (self.map.len() + self.ranges.len()) * KEY_CHARGE
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

/// `BTreeMap::range` panics on bounds that cross.
fn crosses(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to))
        | (Bound::Included(from), Bound::Excluded(to)) => from >= to,
    }
}

/// Keys and versions of a [`Delta`], in key order or backwards.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    inner: btree_map::Range<'a, Bytes, Ver>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a Bytes, &'a Ver);

    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next()
    }
}

impl DoubleEndedIterator for Entries<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.inner.next_back()
    }
}
