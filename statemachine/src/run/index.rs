//! Which page a key is in: the shortest keys that separate the pages, searched by the 8 bytes
//! behind what all of them share.
//!
//! The index is written as an archive and unpacked into plain vectors when a section is opened, so
//! nothing of it is read from a mapping later.

use core::cmp::Ordering;

use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::page::common;
use super::{RangeTombstone, ranges_are_sound};
use crate::KEY_BYTES_MAX;

/// Separators of a section's pages. The separator of page `n` is at or before its first key and
/// after the last key of page `n - 1`.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageIndex {
    /// Bytes that every separator starts with: what the first one and the last key share.
    shared: u32,
    /// The next 8 bytes of each separator, most significant first, zeros behind a shorter one.
    prefix: Vec<u64>,
    /// Where each separator starts in `keys`.
    key_off: Vec<u32>,
    /// The separators, one behind the other.
    keys: Vec<u8>,
    /// Page numbers.
    page: Vec<u32>,
    /// The last key of the section.
    last_key: Vec<u8>,
}

/// The deleted ranges of a section, as they are written.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    list: Vec<RangeTombstone>,
}

/// The area's bytes contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadArea;

/// First 8 bytes of the rest of a key, as a number that compares like it.
fn prefix_of(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = key.len().min(8);
    first[..len].copy_from_slice(&key[..len]);
    u64::from_le_bytes(first).swap_bytes()
}

fn aligned(bytes: &[u8]) -> AlignedVec<16> {
    let mut copy = AlignedVec::<16>::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    copy
}

impl PageIndex {
    /// Adds a page that holds `first_key`, behind the page that ends with `last_key`.
    pub(crate) fn push(&mut self, last_key: &[u8], first_key: &[u8], page: u32) {
        let separator = if self.page.is_empty() {
            first_key
        } else {
            assert!(last_key < first_key, "keys ascend over pages");
            &first_key[..=common(last_key, first_key)]
        };
        self.key_off.push(u32::try_from(self.keys.len()).expect("an index is far below 4 GiB"));
        self.keys.extend_from_slice(separator);
        self.page.push(page);
    }

    /// Ends with the section's last key.
    pub(crate) fn end(&mut self, last_key: &[u8]) {
        self.last_key.extend_from_slice(last_key);
        let shared = if self.count() == 0 { 0 } else { common(self.separator(0), last_key) };
        self.shared = u32::try_from(shared).expect("a key is at most 2 KiB");
        self.prefix = (0..self.count()).map(|n| prefix_of(&self.separator(n)[shared..])).collect();
    }

    fn shared(&self) -> usize {
        usize::try_from(self.shared).expect("a usize holds a u32")
    }

    pub(crate) const fn count(&self) -> usize {
        self.page.len()
    }

    /// Page numbers in key order.
    pub(crate) fn pages(&self) -> &[u32] {
        &self.page
    }

    fn separator(&self, n: usize) -> &[u8] {
        let start = usize::try_from(self.key_off[n]).expect("a usize holds a u32");
        let end = self.key_off.get(n + 1);
        let end =
            end.map_or(self.keys.len(), |end| usize::try_from(*end).expect("a usize holds a u32"));
        &self.keys[start..end]
    }

    /// Place of the page that may hold `key`; none: it is before the first key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<usize> {
        let shared = self.shared();
        let all = self.last_key.get(..shared).expect("the last key starts with what is shared");
        let start = key.get(..shared).unwrap_or(key);
        match start.cmp(all) {
            Ordering::Less => return None,
            Ordering::Greater => return self.count().checked_sub(1),
            Ordering::Equal => {},
        }
        let prefix = prefix_of(&key[shared..]);
        let mut low = self.prefix.partition_point(|p| *p < prefix);
        let mut high = low + self.prefix[low..].partition_point(|p| *p == prefix);
        while low < high {
            let middle = low.midpoint(high);
            if self.separator(middle) <= key { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }

    /// Whether `key` is behind the section's last key.
    pub(crate) fn is_past_end(&self, key: &[u8]) -> bool {
        *key > *self.last_key
    }

    /// Bytes it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.prefix.len() * 16 + self.keys.len() + self.last_key.len()
    }

    pub(crate) fn encode(&self) -> AlignedVec {
        rkyv::to_bytes::<Error>(self).expect("an index has no unarchivable part")
    }

    /// Reads an index whose section has `blocks` pages of extents, `data_pages` of them used.
    pub(crate) fn decode(bytes: &[u8], blocks: u32, data_pages: u32) -> Result<Self, BadArea> {
        let index = rkyv::from_bytes::<Self, Error>(&aligned(bytes)).ok().ok_or(BadArea)?;
        if index.is_sound(blocks, data_pages) { Ok(index) } else { Err(BadArea) }
    }

    fn is_sound(&self, blocks: u32, data_pages: u32) -> bool {
        let count = self.page.len();
        let same = self.prefix.len() == count && self.key_off.len() == count;
        if !same || usize::try_from(data_pages) != Ok(count) {
            return false;
        }
        let keys_len = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        let offsets_ascend = self.key_off.windows(2).all(|pair| pair[0] <= pair[1])
            && self.key_off.first().is_none_or(|first| *first == 0)
            && self.key_off.last().is_none_or(|last| *last <= keys_len);
        if !offsets_ascend || (count == 0 && !self.keys.is_empty()) {
            return false;
        }
        let shared = if count == 0 { 0 } else { common(self.separator(0), &self.last_key) };
        if usize::try_from(self.shared) != Ok(shared) {
            return false;
        }
        let pages_fit = self.page.iter().all(|page| *page < blocks)
            && self.page.windows(2).all(|pair| pair[0] < pair[1]);
        let keys_ascend = (1..count).all(|n| self.separator(n - 1) < self.separator(n));
        let keys_fit = (0..count).all(|n| {
            let key = self.separator(n);
            let rest = key.get(shared..);
            key.len() <= KEY_BYTES_MAX && rest.is_some_and(|rest| self.prefix[n] == prefix_of(rest))
        });
        let ends = count == 0 || self.separator(count - 1) <= &*self.last_key;
        pages_fit && keys_ascend && keys_fit && ends && self.last_key.len() <= KEY_BYTES_MAX
    }
}

/// The bytes of deleted ranges.
pub(crate) fn encode_ranges(ranges: &[RangeTombstone]) -> AlignedVec {
    assert!(ranges_are_sound(ranges), "ranges are disjoint and in order");
    let ranges = Ranges { list: ranges.to_vec() };
    rkyv::to_bytes::<Error>(&ranges).expect("ranges have no unarchivable part")
}

/// Reads deleted ranges; no bytes are none.
pub(crate) fn decode_ranges(bytes: &[u8]) -> Result<Vec<RangeTombstone>, BadArea> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let ranges = rkyv::from_bytes::<Ranges, Error>(&aligned(bytes)).ok().ok_or(BadArea)?.list;
    let keys_fit = ranges
        .iter()
        .all(|range| range.start.len() <= KEY_BYTES_MAX && range.end.len() <= KEY_BYTES_MAX);
    if keys_fit && ranges_are_sound(&ranges) { Ok(ranges) } else { Err(BadArea) }
}

/// When a key expires, and where its record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) expiry_ms: u64,
    pub(crate) page: u32,
    pub(crate) slot: u32,
}

/// Bytes of one [`Due`].
pub(crate) const DUE_LEN: usize = 16;

/// The bytes of an expiry table: `{expiry u64, page u32, slot u32}`, by expiry.
pub(crate) fn encode_due(due: &mut [Due]) -> Vec<u8> {
    due.sort_unstable();
    let mut out = Vec::with_capacity(due.len() * DUE_LEN);
    for entry in due {
        out.extend_from_slice(&entry.expiry_ms.to_le_bytes());
        out.extend_from_slice(&entry.page.to_le_bytes());
        out.extend_from_slice(&entry.slot.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> (PageIndex, Vec<Vec<u8>>) {
        index_of(200)
    }

    fn index_of(pages: u32) -> (PageIndex, Vec<Vec<u8>>) {
        let mut index = PageIndex::default();
        let mut firsts = Vec::new();
        let mut last = Vec::new();
        for n in 0..pages {
            let first = format!("shared-prefix/{:05}/a", n * 3).into_bytes();
            index.push(&last, &first, n * 2);
            last = format!("shared-prefix/{:05}/z", n * 3 + 1).into_bytes();
            firsts.push(first);
        }
        index.end(&last);
        (index, firsts)
    }

    #[test]
    fn a_key_is_in_the_last_page_that_starts_at_or_before_it() {
        let (index, firsts) = index();
        for (n, first) in firsts.iter().enumerate() {
            assert_eq!(index.find(first), Some(n));
            let mut above = first.clone();
            above.push(0);
            assert_eq!(index.find(&above), Some(n));
        }
        assert_eq!(index.find(b""), None);
        assert_eq!(index.find(b"shared"), None);
        assert_eq!(index.find(b"shared-prefix/000"), None);
        assert_eq!(index.find(b"shared-prefix/1"), Some(199));
        assert_eq!(index.find(b"zzz"), Some(199));
        assert!(index.is_past_end(b"zzz"));
    }

    #[test]
    fn separators_are_cut_to_what_tells_pages_apart() {
        let mut index = PageIndex::default();
        index.push(b"", b"apple", 0);
        index.push(b"apple", b"banana-split", 1);
        index.push(b"banana-split", b"banana-tree", 2);
        index.end(b"cherry");
        let separators: Vec<&[u8]> = (0..3).map(|n| index.separator(n)).collect();
        assert_eq!(separators, [&b"apple"[..], b"b", b"banana-t"]);
    }

    #[test]
    fn an_index_comes_back_and_a_false_one_does_not() {
        let (index, _) = index();
        let bytes = index.encode();
        assert_eq!(PageIndex::decode(&bytes, 400, 200).as_ref(), Ok(&index));
        assert_eq!(PageIndex::decode(&bytes, 398, 200), Err(BadArea), "a page past the extents");
        assert_eq!(PageIndex::decode(&bytes, 400, 201), Err(BadArea), "a page is missing");
        for cut in (0..bytes.len()).step_by(7) {
            let cut = PageIndex::decode(&bytes[..cut], 400, 200);
            assert_ne!(cut.as_ref(), Ok(&index));
        }
        let spoil: [fn(&mut PageIndex); 7] = [
            |i| i.key_off[5] = u32::MAX,
            |i| i.key_off[5] = i.key_off[6] + 1,
            |i| i.prefix[7] += 1,
            |i| i.shared += 1,
            |i| i.page.swap(3, 4),
            |i| i.last_key.clear(),
            |i| i.prefix.truncate(7),
        ];
        for (n, spoil) in spoil.into_iter().enumerate() {
            let mut bad = index.clone();
            spoil(&mut bad);
            assert_eq!(PageIndex::decode(&bad.encode(), 400, 200), Err(BadArea), "spoil {n}");
        }
    }

    #[test]
    fn flipped_bits_of_an_index_never_panic() {
        let (index, _) = index_of(20);
        let bytes = index.encode().to_vec();
        let mut bad = bytes.clone();
        for bit in 0..bytes.len() * 8 {
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(index) = PageIndex::decode(&bad, 40, 20) {
                assert!(index.find(b"shared-prefix/00010").is_none_or(|n| n < 20));
            }
            bad[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn ranges_come_back_and_overlapping_ones_do_not() {
        let range = |start: &str, end: &str| RangeTombstone {
            start: start.into(),
            end: end.into(),
            index: 3,
        };
        let ranges = vec![range("a", "b"), range("b", "c"), range("x", "")];
        let bytes = encode_ranges(&ranges);
        assert_eq!(decode_ranges(&bytes), Ok(ranges));
        assert_eq!(decode_ranges(&[]), Ok(Vec::new()));
        let bad = Ranges { list: vec![range("a", "c"), range("b", "d")] };
        let bytes = rkyv::to_bytes::<Error>(&bad).unwrap();
        assert_eq!(decode_ranges(&bytes), Err(BadArea));
    }
}
