//! Deleted ranges as disjoint fragments; where two overlap, the newer index stands.

use core::ops::Bound;
use std::collections::BTreeMap;

use bytes::Bytes;

/// Fragments `start -> (end, index)`; an empty end is the end of all keys.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    map: BTreeMap<Bytes, (Bytes, u64)>,
}

fn is_below(key: &[u8], end: &Bytes) -> bool {
    end.is_empty() || key < &end[..]
}

impl Ranges {
    /// Deletes `start <= key < end` as of `index`, which is at least every index before it.
    pub(crate) fn insert(&mut self, start: Bytes, end: Bytes, index: u64) {
        debug_assert!(is_below(&start, &end), "a range runs forward");
        if let Some((before, (before_end, before_index))) = self.last_before(&start)
            && is_below(&start, &before_end)
        {
            self.map.insert(before, (start.clone(), before_index));
            self.keep_tail(&end, before_end, before_index);
        }
        while let Some((inside, (inside_end, inside_index))) = self.first_inside(&start, &end) {
            self.map.remove(&inside);
            self.keep_tail(&end, inside_end, inside_index);
        }
        self.map.insert(start, (end, index));
    }

    /// Keeps what an older fragment covers past `end`.
    fn keep_tail(&mut self, end: &Bytes, old_end: Bytes, old_index: u64) {
        if !end.is_empty() && is_below(end, &old_end) {
            self.map.insert(end.clone(), (old_end, old_index));
        }
    }

    fn last_before(&self, start: &Bytes) -> Option<(Bytes, (Bytes, u64))> {
        let bounds = (Bound::Unbounded, Bound::Excluded(&start[..]));
        let found = self.map.range::<[u8], _>(bounds).next_back();
        found.map(|(key, value)| (key.clone(), value.clone()))
    }

    fn first_inside(&self, start: &Bytes, end: &Bytes) -> Option<(Bytes, (Bytes, u64))> {
        let (key, value) =
            self.map.range::<[u8], _>((Bound::Included(&start[..]), Bound::Unbounded)).next()?;
        is_below(key, end).then(|| (key.clone(), value.clone()))
    }

    /// Index of the fragment that covers `key`; 0: none.
    #[inline]
    pub(crate) fn index_of(&self, key: &[u8]) -> u64 {
        if self.map.is_empty() {
            return 0;
        }
        let bounds = (Bound::Unbounded, Bound::Included(key));
        match self.map.range::<[u8], _>(bounds).next_back() {
            Some((_, (end, index))) if is_below(key, end) => *index,
            _ => 0,
        }
    }

    /// Fragments in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes, u64)> {
        self.map.iter().map(|(start, (end, index))| (start, end, *index))
    }

    /// Fragments.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every range over a small alphabet, against an array that is painted over.
    #[test]
    fn fragments_say_the_newest_index_that_covers_a_key() {
        const KEYS: u8 = 12;
        let mut seed = 1_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let mut ranges = Ranges::default();
            let mut painted = [0_u64; 12];
            for index in 1..=12 {
                let start = u8::try_from(draw(u64::from(KEYS))).unwrap();
                let end = u8::try_from(draw(u64::from(KEYS) + 1)).unwrap();
                let (end_key, stop) = if end <= start {
                    (Bytes::new(), KEYS)
                } else {
                    (Bytes::copy_from_slice(&[end]), end)
                };
                ranges.insert(Bytes::copy_from_slice(&[start]), end_key, index);
                painted[usize::from(start)..usize::from(stop)].fill(index);
                for key in 0..KEYS {
                    assert_eq!(ranges.index_of(&[key]), painted[usize::from(key)]);
                }
                let all: Vec<_> = ranges.iter().collect();
                for pair in all.windows(2) {
                    assert!(!pair[0].1.is_empty() && pair[0].1 <= pair[1].0, "disjoint");
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_range_is_not_covered() {
        let mut ranges = Ranges::default();
        ranges.insert(Bytes::from_static(b"b"), Bytes::from_static(b"d"), 7);
        assert_eq!(ranges.index_of(b"a"), 0);
        assert_eq!(ranges.index_of(b"b"), 7);
        assert_eq!(ranges.index_of(b"c\xff\xff"), 7);
        assert_eq!(ranges.index_of(b"d"), 0);
    }

    #[test]
    fn the_empty_key_is_a_key() {
        let mut ranges = Ranges::default();
        ranges.insert(Bytes::new(), Bytes::new(), 3);
        assert_eq!(ranges.index_of(b""), 3);
        assert_eq!(ranges.index_of(b"\xff\xff"), 3);
    }
}
