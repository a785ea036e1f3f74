//! Writes a section in one pass: versions in key order in, bytes in file order out.
//!
//! The writer touches no file: what is ready is taken by [`SectionWriter::take`] and written by
//! [`super::file`].

use std::sync::Arc;

use rkyv::util::AlignedVec;

use super::RangeTombstone;
use super::extent::{Extents, Lane};
use super::format::{
    AreaRef, CHUNKS, EXPIRY, FILTER, INDEX, INLINE_MAX, KIND_BLOB, KIND_KV, PAGE, PAGE_U64, RANGES,
    Trailer, u64_of,
};
use super::index::{Due, PageIndex, encode_due, encode_ranges};
use super::page::{NewBody, PageBuilder};
use crate::KEY_BYTES_MAX;
use crate::store::Far;

/// A version as it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewVersion<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) mod_index: u64,
    pub(crate) expiry_ms: u64,
    pub(crate) value: Option<&'a [u8]>,
}

/// What is encoded when the last version is written; it may be large, so it can be moved off the
/// core.
#[derive(Debug, Default)]
pub(crate) struct Areas {
    index: PageIndex,
    due: Vec<Due>,
}

/// The bytes of [`Areas`].
#[derive(Debug)]
pub(crate) struct EncodedAreas {
    index: AlignedVec,
    due: Vec<u8>,
}

impl Areas {
    /// Bytes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes() + self.due.len() * size_of::<Due>()
    }

    pub(crate) fn encode(&self) -> EncodedAreas {
        let index = if self.index.count() == 0 { AlignedVec::new() } else { self.index.encode() };
        EncodedAreas { index, due: encode_due(&mut self.due.clone()) }
    }
}

/// Writes one section.
#[derive(Debug)]
pub(crate) struct SectionWriter {
    extents: Extents,
    page: PageBuilder,
    /// Last key of the page before.
    page_end: Vec<u8>,
    first_key: Vec<u8>,
    areas: Areas,
    trailer: Trailer,
    pending_due: Vec<Due>,
    scratch: Vec<u8>,
}

impl SectionWriter {
    /// A section of keys and values that stands for the log from `min_index` to `max_index`.
    pub(crate) fn kv(section: u128, min_index: u64, max_index: u64) -> Self {
        Self::new(section, KIND_KV, min_index, max_index)
    }

    /// A section that holds the snapshot of a user's machine.
    pub(crate) fn blob(section: u128, min_index: u64, max_index: u64) -> Self {
        Self::new(section, KIND_BLOB, min_index, max_index)
    }

    fn new(section: u128, kind: u16, min_index: u64, max_index: u64) -> Self {
        assert!(min_index <= max_index, "a section stands for a range of the log");
        Self {
            extents: Extents::new(),
            page: PageBuilder::new(),
            page_end: Vec::new(),
            first_key: Vec::new(),
            areas: Areas::default(),
            trailer: Trailer { section, kind, min_index, max_index, ..Trailer::default() },
            pending_due: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds a version.
    pub(crate) fn push(&mut self, version: NewVersion<'_>) {
        let trailer = &mut self.trailer;
        assert!(trailer.kind == KIND_KV, "versions go into a section of keys and values");
        assert!(version.key.len() <= KEY_BYTES_MAX, "a key is admitted before");
        let ascends = self.page.is_empty() || self.page.last_key() < version.key;
        assert!(ascends, "keys ascend");
        let in_range =
            trailer.min_index <= version.mod_index && version.mod_index <= trailer.max_index;
        assert!(in_range, "a version lies in the section's range of the log");
        let body = match version.value {
            None => NewBody::Deleted,
            Some(value) if value.len() <= INLINE_MAX => NewBody::Inline(value),
            Some(value) => NewBody::Far(self.put_value(value)),
        };
        if !self.page.add(version.key, version.mod_index, version.expiry_ms, body) {
            self.close_page();
            let fits = self.page.add(version.key, version.mod_index, version.expiry_ms, body);
            assert!(fits, "the longest record fits an empty page");
        }
        self.count(version);
    }

    fn count(&mut self, version: NewVersion<'_>) {
        let is_first = self.page.count() == 1;
        if is_first {
            self.first_key.clear();
            self.first_key.extend_from_slice(version.key);
        }
        let is_put = version.value.is_some();
        self.trailer.puts += u64::from(is_put);
        self.trailer.tombstones += u64::from(!is_put);
        if is_put && version.expiry_ms != 0 {
            let slot = u32::try_from(self.page.count() - 1).expect("a page has few slots");
            self.pending_due.push(Due { expiry_ms: version.expiry_ms, page: 0, slot });
            let least = &mut self.trailer.min_expiry;
            *least = if *least == 0 { version.expiry_ms } else { (*least).min(version.expiry_ms) };
        }
    }

    fn put_value(&mut self, value: &[u8]) -> Far {
        let off = self.extents.room(Lane::Values, value.len());
        self.extents.put(Lane::Values, value);
        let len = u32::try_from(value.len()).expect("a value is at most an entry");
        Far { off, len, crc: crc32fast::hash(value) }
    }

    fn close_page(&mut self) {
        let off = self.extents.room(Lane::Pages, PAGE);
        let page_no = u32::try_from(off / PAGE_U64).expect("a section is at most 64 GiB");
        self.areas.index.push(&self.page_end, &self.first_key, page_no);
        self.page_end.clear();
        self.page_end.extend_from_slice(self.page.last_key());
        for due in self.pending_due.drain(..) {
            self.areas.due.push(Due { page: page_no, ..due });
        }
        self.scratch.clear();
        self.page.finish(self.trailer.section, page_no, &mut self.scratch);
        self.extents.put(Lane::Pages, &self.scratch);
        self.trailer.data_pages += 1;
    }

    /// Adds a part of a snapshot.
    pub(crate) fn push_body(&mut self, bytes: &[u8]) {
        assert!(self.trailer.kind == KIND_BLOB, "a body goes into a section of its own kind");
        self.extents.body(bytes);
        self.trailer.body_len += u64_of(bytes.len());
    }

    /// Whether no version was added.
    pub(crate) const fn is_empty(&self) -> bool {
        self.trailer.puts + self.trailer.tombstones == 0
    }

    /// Bytes that are ready.
    pub(crate) const fn ready(&self) -> usize {
        self.extents.ready()
    }

    /// Takes what is ready, in file order.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.extents.take()
    }

    /// Ends the versions. The areas are encoded next, on the core or off it.
    pub(crate) fn close(&mut self) -> Arc<Areas> {
        if !self.page.is_empty() {
            self.close_page();
        }
        self.areas.index.end(&self.page_end);
        self.extents.close();
        if self.trailer.kind == KIND_KV {
            self.trailer.body_len = self.extents.len();
        }
        Arc::new(core::mem::take(&mut self.areas))
    }

    /// Ends the section; the rest of its bytes is ready then.
    pub(crate) fn finish(&mut self, areas: &EncodedAreas, ranges: &[RangeTombstone]) -> Trailer {
        self.trailer.tombstones += u64_of(ranges.len());
        self.area(INDEX, &areas.index);
        self.area(EXPIRY, &areas.due);
        let ranges = if ranges.is_empty() { AlignedVec::new() } else { encode_ranges(ranges) };
        self.area(RANGES, &ranges);
        self.area(FILTER, &[]);
        let crcs = self.extents.chunk_crcs();
        self.area(CHUNKS, &crcs);
        self.trailer.len = self.extents.len() + PAGE_U64;
        let trailer = self.trailer.encode();
        self.extents.area(&trailer);
        self.trailer
    }

    fn area(&mut self, n: usize, bytes: &[u8]) {
        let off = self.extents.area(bytes);
        let crc = crc32fast::hash(bytes);
        self.trailer.areas[n] = AreaRef { off, len: u64_of(bytes.len()), crc };
    }
}
