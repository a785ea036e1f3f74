//! Pages of Cold sections, verified when they were read. The oldest that nobody asked for since
//! the hand last passed is dropped first.

use core::fmt;
use std::collections::BTreeMap;

use bytes::Bytes;

/// What an entry costs beside its page: key, slot and map node, rounded up.
const OVERHEAD: usize = 128;

#[derive(Debug)]
struct Slot {
    key: (u128, u32),
    page: Bytes,
    used: bool,
}

/// The page cache of a core.
#[derive(Default)]
pub(crate) struct PageCache {
    limit: usize,
    bytes: usize,
    slots: Vec<Slot>,
    places: BTreeMap<(u128, u32), usize>,
    hand: usize,
}

impl PageCache {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, slots: Vec::new(), places: BTreeMap::new(), hand: 0 }
    }

    /// Bytes held, with what the entries cost.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn page(&mut self, section: u128, page_no: u32) -> Option<&Bytes> {
        let place = *self.places.get(&(section, page_no))?;
        let slot = &mut self.slots[place];
        slot.used = true;
        Some(&slot.page)
    }

    /// Keeps a page. One that alone is over the limit is not kept.
    pub(crate) fn insert(&mut self, section: u128, page_no: u32, page: Bytes) {
        let cost = page.len() + OVERHEAD;
        let key = (section, page_no);
        if cost > self.limit || self.places.contains_key(&key) {
            return;
        }
        while self.bytes + cost > self.limit {
            self.evict();
        }
        self.bytes += cost;
        self.places.insert(key, self.slots.len());
        self.slots.push(Slot { key, page, used: false });
    }

    /// Drops the pages of a section.
    pub(crate) fn forget(&mut self, section: u128) {
        while let Some((_, place)) = self.places.range((section, 0)..=(section, u32::MAX)).next() {
            self.remove(*place);
        }
    }

    fn evict(&mut self) {
        loop {
            self.hand %= self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.used {
                slot.used = false;
                self.hand += 1;
            } else {
                return self.remove(self.hand);
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let slot = self.slots.swap_remove(place);
        self.places.remove(&slot.key);
        self.bytes -= slot.page.len() + OVERHEAD;
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.key, place);
        }
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageCache({} pages, {} of {} bytes)", self.slots.len(), self.bytes, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_within_its_limit_and_keeps_what_is_asked_for() {
        let mut cache = PageCache::new(10 * (4_096 + OVERHEAD));
        for n in 0..100_u32 {
            cache.insert(u128::from(n % 3), n, Bytes::from(vec![n.to_le_bytes()[0]; 4_096]));
            assert!(cache.bytes() <= 10 * (4_096 + OVERHEAD));
            if n >= 5 {
                assert_eq!(cache.page(2, 5).map(|page| page[0]), Some(5), "after {n}");
            }
        }
        assert_eq!(cache.slots.len(), 10);
        cache.forget(0);
        cache.forget(1);
        cache.forget(2);
        assert_eq!((cache.bytes(), cache.slots.len(), cache.places.len()), (0, 0, 0));
    }

    #[test]
    fn a_page_over_the_limit_is_not_kept() {
        let mut cache = PageCache::new(100);
        cache.insert(1, 1, Bytes::from(vec![0; 4_096]));
        assert_eq!(cache.bytes(), 0);
    }
}
