//! What a retry must find in memory: pages and values that were loaded for it.

use std::collections::BTreeMap;

use bytes::Bytes;

/// A part of a section that is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageRead {
    /// The section.
    pub section: u128,
    /// What of it.
    pub part: Part,
}

/// What of a section is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A data page, by its number in the section.
    Page(u32),
    /// A value beside its page.
    Value(Far),
}

/// A value beside its page, as its record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Far {
    /// Its first byte in the section.
    pub off: u64,
    /// Its length.
    pub len: u32,
    /// Its checksum.
    pub crc: u32,
}

/// Pages and values held for one reader until it is done, whatever the page cache drops
/// meanwhile. They only grow, so a reader that asks again always gets further.
#[derive(Clone, Default)]
pub struct Pins {
    held: BTreeMap<PageRead, Bytes>,
}

impl Pins {
    /// Nothing held.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: BTreeMap::new() }
    }

    /// Holds a part.
    pub(crate) fn hold(&mut self, read: PageRead, bytes: Bytes) {
        self.held.insert(read, bytes);
    }

    /// The part, if it is held.
    pub(crate) fn part(&self, read: &PageRead) -> Option<&Bytes> {
        self.held.get(read)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Parts held.
    pub fn count(&self) -> usize {
        self.held.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.held.values().map(Bytes::len).sum()
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.held.clear();
    }
}

impl core::fmt::Debug for Pins {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pins({} parts, {} bytes)", self.count(), self.bytes())
    }
}
