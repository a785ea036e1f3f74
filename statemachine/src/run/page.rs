//! A data page: records in key order, keys prefix-compressed against the record before.
//!
//! ```text
//! page:   0 crc32(4..4096)  4 low 32 bits of section_id  8 page_no u32 (in the section)
//!         12 n u16, used u16  16 restarts u16, flags u16, 0 u32  24 records..
//!         restart offsets u16 back from 4096, one per 8 records
//! record: 0 shared u16  2 suffix u16  4 flags u8 (kind 0 inline 1 ref 2 deleted; 0x10 expiry,
//!         0x20 lease)  5 0  6 inline_len u16  8 mod_index u64  [expiry u64] [lease u64]  suffix
//!         (inline value | ref: off/16 u32, len u32, crc u32)
//! ```
//!
//! A page may lie in a mapping, so it is parsed with bounds checks only, never as an archive. The
//! first record of each 8 shares nothing, so a key is searched among these first.

use core::ops::Range;

use super::format::{PAGE, u16_at, u32_at, u64_at};
use crate::KEY_BYTES_MAX;
use crate::store::Far;

const HEAD: usize = 24;
const RECORD_HEAD: usize = 16;
const RESTART_EVERY: usize = 8;
const KIND_MASK: u8 = 0x0f;
const INLINE: u8 = 0;
const REF: u8 = 1;
const DELETED: u8 = 2;
const HAS_EXPIRY: u8 = 0x10;
const HAS_LEASE: u8 = 0x20;
const REF_LEN: usize = 12;

const _: () = assert!(
    HEAD + RECORD_HEAD + 8 + 8 + KEY_BYTES_MAX + super::format::INLINE_MAX + 2 <= PAGE,
    "the longest record fits an empty page"
);

/// Where a record's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// These bytes of the page.
    Inline(Range<usize>),
    /// Beside the page.
    Far(Far),
    /// There is none: the key was deleted.
    Deleted,
}

/// A value as it is put into a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewBody<'a> {
    Inline(&'a [u8]),
    Far(Far),
    Deleted,
}

/// A parsed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Bytes of the key that are those of the record before.
    pub(crate) shared: usize,
    /// The key's other bytes, in the page.
    pub(crate) suffix: Range<usize>,
    pub(crate) mod_index: u64,
    pub(crate) expiry_ms: u64,
    pub(crate) body: Body,
    /// Where the next record starts.
    pub(crate) next: usize,
}

/// The page fails its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPage;

/// Builds one page.
#[derive(Debug)]
pub(crate) struct PageBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u16>,
    count: usize,
    last_key: Vec<u8>,
}

impl PageBuilder {
    pub(crate) fn new() -> Self {
        let mut bytes = Vec::with_capacity(PAGE);
        bytes.resize(HEAD, 0);
        Self { bytes, restarts: Vec::new(), count: 0, last_key: Vec::new() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records so far.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The last key that was added.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Adds a record; `false`: the page is full and unchanged.
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        mod_index: u64,
        expiry_ms: u64,
        body: NewBody<'_>,
    ) -> bool {
        let is_restart = self.count.is_multiple_of(RESTART_EVERY);
        let shared = if is_restart { 0 } else { common(&self.last_key, key) };
        let suffix = &key[shared..];
        let (kind, inline_len, tail) = match body {
            NewBody::Inline(value) => (INLINE, value.len(), value.len()),
            NewBody::Far(_) => (REF, 0, REF_LEN),
            NewBody::Deleted => (DELETED, 0, 0),
        };
        let expiry = if expiry_ms == 0 { 0 } else { 8 };
        let len = RECORD_HEAD + expiry + suffix.len() + tail;
        let restarts = self.restarts.len() + usize::from(is_restart);
        if self.bytes.len() + len + 2 * restarts > PAGE {
            return false;
        }
        if is_restart {
            self.restarts.push(short(self.bytes.len()));
        }
        self.bytes.extend_from_slice(&short(shared).to_le_bytes());
        self.bytes.extend_from_slice(&short(suffix.len()).to_le_bytes());
        let flags = kind | if expiry == 0 { 0 } else { HAS_EXPIRY };
        self.bytes.extend_from_slice(&[flags, 0]);
        self.bytes.extend_from_slice(&short(inline_len).to_le_bytes());
        self.bytes.extend_from_slice(&mod_index.to_le_bytes());
        if expiry_ms != 0 {
            self.bytes.extend_from_slice(&expiry_ms.to_le_bytes());
        }
        self.bytes.extend_from_slice(suffix);
        match body {
            NewBody::Inline(value) => self.bytes.extend_from_slice(value),
            NewBody::Far(far) => {
                let place = u32::try_from(far.off / 16).expect("a section is at most 64 GiB");
                self.bytes.extend_from_slice(&place.to_le_bytes());
                self.bytes.extend_from_slice(&far.len.to_le_bytes());
                self.bytes.extend_from_slice(&far.crc.to_le_bytes());
            },
            NewBody::Deleted => {},
        }
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(suffix);
        self.count += 1;
        true
    }

    /// The page's bytes, appended to `out`; the builder is empty again.
    pub(crate) fn finish(&mut self, section: u128, page_no: u32, out: &mut Vec<u8>) {
        assert!(self.count > 0, "a page holds a record");
        let start = out.len();
        let used = self.bytes.len();
        out.extend_from_slice(&self.bytes);
        out.resize(start + PAGE, 0);
        let page = &mut out[start..];
        let mut put = |at: usize, part: &[u8]| page[at..at + part.len()].copy_from_slice(part);
        put(4, &tag(section).to_le_bytes());
        put(8, &page_no.to_le_bytes());
        put(12, &short(self.count).to_le_bytes());
        put(14, &short(used).to_le_bytes());
        put(16, &short(self.restarts.len()).to_le_bytes());
        for (n, restart) in self.restarts.iter().enumerate() {
            put(PAGE - 2 * (n + 1), &restart.to_le_bytes());
        }
        let crc = crc32fast::hash(&page[4..]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
        self.bytes.truncate(HEAD);
        self.restarts.clear();
        self.count = 0;
        self.last_key.clear();
    }
}

fn short(n: usize) -> u16 {
    u16::try_from(n).expect("a place in a page is below 4096")
}

fn tag(section: u128) -> u32 {
    u32::try_from(section & u128::from(u32::MAX)).expect("32 bits are masked")
}

/// Bytes that both start with.
pub(crate) fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Whether the bytes are page `page_no` of `section`, unchanged.
pub(crate) fn verify(bytes: &[u8], section: u128, page_no: u32) -> Result<(), BadPage> {
    let is_whole = bytes.len() == PAGE && crc32fast::hash(&bytes[4..]) == u32_at(bytes, 0);
    if is_whole && u32_at(bytes, 4) == tag(section) && u32_at(bytes, 8) == page_no {
        Page::new(bytes).map(|_| ())
    } else {
        Err(BadPage)
    }
}

/// A page in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'a> {
    bytes: &'a [u8],
    count: usize,
    used: usize,
    restarts: usize,
}

impl<'a> Page<'a> {
    /// Checks the head's numbers against each other, nothing else.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, BadPage> {
        if bytes.len() != PAGE {
            return Err(BadPage);
        }
        let count = usize::from(u16_at(bytes, 12));
        let used = usize::from(u16_at(bytes, 14));
        let restarts = usize::from(u16_at(bytes, 16));
        let fits = used >= HEAD && used + 2 * restarts <= PAGE;
        if count > 0 && restarts == count.div_ceil(RESTART_EVERY) && fits {
            Ok(Self { bytes, count, used, restarts })
        } else {
            Err(BadPage)
        }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The record at an offset.
    pub(crate) fn record(&self, at: usize) -> Result<Record, BadPage> {
        let head = at.checked_add(RECORD_HEAD).filter(|end| at >= HEAD && *end <= self.used);
        let mut next = head.ok_or(BadPage)?;
        let bytes = self.bytes;
        let flags = bytes[at + 4];
        let expiry_ms = if flags & HAS_EXPIRY == 0 { 0 } else { self.number(&mut next)? };
        if flags & HAS_LEASE != 0 {
            self.number(&mut next)?;
        }
        let suffix = self.part(&mut next, usize::from(u16_at(bytes, at + 2)))?;
        let body = match flags & KIND_MASK {
            INLINE => Body::Inline(self.part(&mut next, usize::from(u16_at(bytes, at + 6)))?),
            REF => {
                let place = self.part(&mut next, REF_LEN)?.start;
                let far = Far {
                    off: u64::from(u32_at(bytes, place)) * 16,
                    len: u32_at(bytes, place + 4),
                    crc: u32_at(bytes, place + 8),
                };
                // Only long values lie outside, and nothing reads no bytes.
                if far.len == 0 {
                    return Err(BadPage);
                }
                Body::Far(far)
            },
            DELETED => Body::Deleted,
            _ => return Err(BadPage),
        };
        let shared = usize::from(u16_at(bytes, at));
        let mod_index = u64_at(bytes, at + 8);
        Ok(Record { shared, suffix, mod_index, expiry_ms, body, next })
    }

    fn part(&self, next: &mut usize, len: usize) -> Result<Range<usize>, BadPage> {
        let range = *next..*next + len;
        *next = range.end;
        if range.end <= self.used { Ok(range) } else { Err(BadPage) }
    }

    fn number(&self, next: &mut usize) -> Result<u64, BadPage> {
        self.part(next, 8).map(|range| u64_at(self.bytes, range.start))
    }

    fn restart_at(&self, n: usize) -> usize {
        usize::from(u16_at(self.bytes, PAGE - 2 * (n + 1)))
    }

    /// The last restart whose key is at or before `key`; the first one if there is none.
    fn restart_before(&self, key: &[u8]) -> Result<usize, BadPage> {
        let (mut low, mut high) = (0, self.restarts);
        while high - low > 1 {
            let middle = low.midpoint(high);
            let (shared, suffix, _) = self.skim(self.restart_at(middle))?;
            if shared != 0 {
                return Err(BadPage);
            }
            if self.bytes[suffix] <= *key { low = middle } else { high = middle }
        }
        Ok(low)
    }

    /// As [`Page::record`], only what a search looks at: bytes shared, suffix, next record.
    #[inline]
    fn skim(&self, at: usize) -> Result<(usize, Range<usize>, usize), BadPage> {
        let head = self.bytes.get(at..self.used).and_then(<[u8]>::first_chunk::<RECORD_HEAD>);
        let head = head.filter(|_| at >= HEAD).ok_or(BadPage)?;
        let number = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let flags = head[4];
        let numbers = usize::from(flags & HAS_EXPIRY != 0) + usize::from(flags & HAS_LEASE != 0);
        let start = at + RECORD_HEAD + 8 * numbers;
        let end = start + number(2);
        let tail = match flags & KIND_MASK {
            INLINE => number(6),
            REF => REF_LEN,
            DELETED => 0,
            _ => return Err(BadPage),
        };
        let next = end + tail;
        if next <= self.used { Ok((number(0), start..end, next)) } else { Err(BadPage) }
    }

    /// The record of `key`, without making any key whole: `same` bytes of `key` are those of the
    /// record before, which is smaller.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Record>, BadPage> {
        let from = self.restart_before(key)?;
        let mut at = self.restart_at(from);
        let mut same = 0;
        for _ in from * RESTART_EVERY..self.count {
            let (shared, suffix, next) = self.skim(at)?;
            let here = core::mem::replace(&mut at, next);
            if shared > same {
                continue;
            }
            if shared < same {
                return Ok(None);
            }
            let (suffix, rest) = (&self.bytes[suffix], &key[same..]);
            let more = common(suffix, rest);
            match (suffix.get(more), rest.get(more)) {
                (None, None) => return self.record(here).map(Some),
                (None, Some(_)) => same += more,
                (Some(a), Some(b)) if a < b => same += more,
                (Some(_), _) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Puts the walk on slot `n`.
    pub(crate) fn goto(&self, n: usize, walk: &mut Walk) -> Result<(), BadPage> {
        let at = self.restart_at(n / RESTART_EVERY);
        walk.start(n / RESTART_EVERY * RESTART_EVERY, at);
        loop {
            self.advance(walk)?;
            if walk.slot == n {
                return Ok(());
            }
        }
    }

    /// Puts the walk on the first slot whose key is at or after `key`; `false`: there is none.
    pub(crate) fn seek(&self, key: &[u8], walk: &mut Walk) -> Result<bool, BadPage> {
        let from = self.restart_before(key)?;
        let at = self.restart_at(from);
        walk.start(from * RESTART_EVERY, at);
        for _ in from * RESTART_EVERY..self.count {
            self.advance(walk)?;
            if *walk.key >= *key {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the walk on the next slot.
    pub(crate) fn advance(&self, walk: &mut Walk) -> Result<(), BadPage> {
        let record = self.record(walk.next)?;
        if record.shared > walk.key.len() || record.shared + record.suffix.len() > KEY_BYTES_MAX {
            return Err(BadPage);
        }
        walk.key.truncate(record.shared);
        walk.key.extend_from_slice(&self.bytes[record.suffix.clone()]);
        walk.slot = walk.fresh_slot;
        walk.fresh_slot += 1;
        walk.next = record.next;
        walk.record = record;
        Ok(())
    }
}

/// A place in a page, with the whole key there.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    pub(crate) slot: usize,
    pub(crate) key: Vec<u8>,
    pub(crate) record: Record,
    next: usize,
    fresh_slot: usize,
}

impl Walk {
    pub(crate) const fn new() -> Self {
        let record = Record {
            shared: 0,
            suffix: 0..0,
            mod_index: 0,
            expiry_ms: 0,
            body: Body::Deleted,
            next: HEAD,
        };
        Self { slot: 0, key: Vec::new(), record, next: HEAD, fresh_slot: 0 }
    }

    /// Before the slot `slot`, whose record shares nothing and starts at `at`.
    pub(crate) fn start(&mut self, slot: usize, at: usize) {
        self.key.clear();
        self.next = at;
        self.fresh_slot = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: u128 = 0xaaaa_0000_1111_2222_3333_4444_5555_6666;

    fn key(n: u32) -> Vec<u8> {
        format!("user/{:06}/field", n * 2).into_bytes()
    }

    /// A page of `n` records with all kinds of values, and how many fitted.
    fn page(n: u32) -> (Vec<u8>, u32) {
        let mut builder = PageBuilder::new();
        let mut fitted = 0;
        for i in 0..n {
            let value = vec![7; (i % 50) as usize];
            let body = match i % 5 {
                0 => NewBody::Deleted,
                1 => NewBody::Far(Far { off: u64::from(i) * 4_096, len: i, crc: !i }),
                _ => NewBody::Inline(&value),
            };
            if !builder.add(&key(i), u64::from(i) + 1, u64::from(i % 3), body) {
                break;
            }
            fitted += 1;
        }
        let mut out = Vec::new();
        builder.finish(SECTION, 9, &mut out);
        (out, fitted)
    }

    #[test]
    fn every_record_is_found_and_nothing_between_them() {
        let (bytes, fitted) = page(1_000);
        assert!(fitted > 40);
        verify(&bytes, SECTION, 9).unwrap();
        let page = Page::new(&bytes).unwrap();
        let mut walk = Walk::new();
        walk.start(0, HEAD);
        for i in 0..fitted {
            let record = page.find(&key(i)).unwrap().unwrap();
            assert_eq!(record.mod_index, u64::from(i) + 1);
            assert_eq!(record.expiry_ms, u64::from(i % 3));
            page.advance(&mut walk).unwrap();
            assert_eq!((walk.slot, &walk.key, &walk.record), (i as usize, &key(i), &record));
            match (i % 5, record.body) {
                (0, Body::Deleted) => {},
                (1, Body::Far(far)) => {
                    let want = Far { off: u64::from(i) * 4_096, len: i, crc: !i };
                    assert_eq!(far, want);
                },
                (_, Body::Inline(range)) => assert_eq!(bytes[range], vec![7; (i % 50) as usize]),
                (kind, body) => panic!("{kind}: {body:?}"),
            }
            let mut between = key(i);
            between.push(b'x');
            assert_eq!(page.find(&between), Ok(None));
            assert_eq!(page.find(&key(i)[..9]), Ok(None));
        }
        assert_eq!(page.find(b""), Ok(None));
        assert_eq!(page.find(b"zzz"), Ok(None));
    }

    #[test]
    fn a_walk_goes_to_any_slot_and_seeks_any_key() {
        let (bytes, fitted) = page(1_000);
        let page = Page::new(&bytes).unwrap();
        let mut walk = Walk::new();
        for i in (0..fitted).rev() {
            page.goto(i as usize, &mut walk).unwrap();
            assert_eq!((walk.slot, &walk.key), (i as usize, &key(i)));
            assert!(page.seek(&key(i), &mut walk).unwrap());
            assert_eq!(walk.slot, i as usize);
            let mut above = key(i);
            above.push(0);
            let found = page.seek(&above, &mut walk).unwrap();
            assert_eq!(found, i + 1 < fitted);
            assert!(!found || walk.slot == i as usize + 1);
        }
        assert!(page.seek(b"", &mut walk).unwrap());
        assert_eq!(walk.slot, 0);
    }

    #[test]
    fn every_cut_and_flipped_bit_and_other_place_is_seen() {
        let (bytes, _) = page(1_000);
        for cut in 0..bytes.len() {
            assert_eq!(verify(&bytes[..cut], SECTION, 9), Err(BadPage));
        }
        let mut bad = bytes.clone();
        for bit in 0..bytes.len() * 8 {
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&bad, SECTION, 9), Err(BadPage), "bit {bit}");
            bad[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(verify(&bytes, SECTION, 8), Err(BadPage));
        assert_eq!(verify(&bytes, SECTION + 1, 9), Err(BadPage));
    }

    /// A mapped page can rot after it was verified: whatever its bytes say, nothing panics.
    #[test]
    fn a_rotten_page_never_panics() {
        let (bytes, fitted) = page(1_000);
        let mut bad = bytes.clone();
        let (mut noise, mut answers) = (1_u64, 0);
        for round in 0..10_000_usize {
            let at = round % PAGE;
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round as u64);
            let old = bad[at];
            bad[at] = noise.to_le_bytes()[6];
            if let Ok(page) = Page::new(&bad) {
                let mut walk = Walk::new();
                for i in [0, fitted / 2, fitted - 1] {
                    drop(page.find(&key(i)));
                    let (seek, slot) = (page.seek(&key(i), &mut walk), i as usize);
                    let goto = page.goto(slot.min(page.count() - 1), &mut walk);
                    answers += usize::from(seek.is_ok()) + usize::from(goto.is_ok());
                }
            }
            if round % 7 != 0 {
                bad[at] = old;
            }
            if round % 500 == 0 {
                bad.copy_from_slice(&bytes);
            }
        }
        assert!(answers > 0);
    }

    /// No bytes were read from the disk for it, which no environment can.
    #[test]
    fn a_value_elsewhere_of_no_bytes_is_refused() {
        let mut builder = PageBuilder::new();
        assert!(builder.add(b"key", 1, 0, NewBody::Far(Far { off: 4_096, len: 0, crc: 0 })));
        let mut bytes = Vec::new();
        builder.finish(SECTION, 9, &mut bytes);
        let page = Page::new(&bytes).unwrap();
        assert_eq!(page.find(b"key"), Err(BadPage));
    }

    #[test]
    fn the_longest_record_fits_an_empty_page() {
        let mut builder = PageBuilder::new();
        let (key, value) = ([1; KEY_BYTES_MAX], [2; super::super::format::INLINE_MAX]);
        assert!(builder.add(&key, 1, 1, NewBody::Inline(&value)));
        assert!(!builder.add(&key, 1, 1, NewBody::Inline(&value)));
    }
}
