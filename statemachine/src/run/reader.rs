//! Turns the bytes of an opened section's fixed blocks and areas into what is kept in memory.
//!
//! Everything here works on bytes that were read into the heap: checksum first, then validation,
//! then use.

use super::RangeTombstone;
use super::format::{
    AreaRef, CHUNK, CHUNKS, EXPIRY, FILTER, Header, INDEX, KIND_KV, PAGE, PAGE_U64, RANGES, Table,
    Trailer, u32_at, u64_at, u64_of, usize_of,
};
use super::index::{DUE_LEN, PageIndex, decode_ranges};
use super::page;
use crate::Area;
use crate::manifest::SectionRef;

/// What is kept of an open section.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) index: PageIndex,
    pub(crate) ranges: Vec<RangeTombstone>,
    pub(crate) chunk_crcs: Vec<u32>,
}

/// Checks the first block of a file.
pub(crate) fn check_header(bytes: &[u8], run: u128) -> Result<(), Area> {
    let header = Header::decode(bytes).ok().ok_or(Area::Header)?;
    if header.run == run { Ok(()) } else { Err(Area::Header) }
}

/// Checks trailer, table and tail, which follow each other, against the manifest.
pub(crate) fn check_ends(bytes: &[u8], at: &SectionRef, shard: u64) -> Result<Trailer, Area> {
    let (trailer, table) = bytes.split_at_checked(PAGE).ok_or(Area::File)?;
    let table_off = at.off.checked_add(at.len).ok_or(Area::Table)?;
    let table = Table::decode(table, table_off).ok().ok_or(Area::Table)?;
    let entry = table.entries.iter().find(|entry| entry.section == at.section);
    let entry = entry.filter(|_| table.run == at.run).ok_or(Area::Table)?;
    let same = entry.off == at.off
        && entry.len == at.len
        && entry.shard == shard
        && entry.kind == u16::from(at.kind)
        && (entry.min_index, entry.max_index) == (at.min_index, at.max_index);
    if !same {
        return Err(Area::Table);
    }
    let trailer = Trailer::decode(trailer).ok().ok_or(Area::Trailer)?;
    let same = trailer.section == at.section
        && trailer.len == at.len
        && trailer.kind == entry.kind
        && (trailer.min_index, trailer.max_index) == (at.min_index, at.max_index);
    if same { Ok(trailer) } else { Err(Area::Trailer) }
}

/// Reads the areas: `bytes` go from the start of the index to the trailer.
pub(crate) fn parse_areas(trailer: &Trailer, bytes: &[u8]) -> Result<Parts, Area> {
    let index = area(trailer, bytes, INDEX, Area::Index)?;
    let expiry = area(trailer, bytes, EXPIRY, Area::Expiry)?;
    let ranges = area(trailer, bytes, RANGES, Area::Ranges)?;
    area(trailer, bytes, FILTER, Area::Filter)?;
    let chunks = area(trailer, bytes, CHUNKS, Area::Chunks)?;
    let blocks = u32::try_from(trailer.areas[INDEX].off / PAGE_U64).ok().ok_or(Area::Trailer)?;
    let index = if trailer.kind == KIND_KV && !index.is_empty() {
        PageIndex::decode(index, blocks, trailer.data_pages).ok().ok_or(Area::Index)?
    } else if index.is_empty() && trailer.data_pages == 0 {
        PageIndex::default()
    } else {
        return Err(Area::Index);
    };
    check_expiry(expiry, blocks)?;
    let ranges = decode_ranges(ranges).ok().ok_or(Area::Ranges)?;
    let in_range = |range: &RangeTombstone| range.index <= trailer.max_index;
    if !ranges.iter().all(in_range) {
        return Err(Area::Ranges);
    }
    let chunk_crcs = chunks.chunks_exact(4).map(|crc| u32_at(crc, 0)).collect();
    Ok(Parts { index, ranges, chunk_crcs })
}

/// The bytes of one area, checked; its padding must be zero.
fn area<'a>(trailer: &Trailer, bytes: &'a [u8], n: usize, what: Area) -> Result<&'a [u8], Area> {
    let AreaRef { off, len, crc } = trailer.areas[n];
    let start = usize_of(off - trailer.areas[INDEX].off).ok_or(what)?;
    let len = usize_of(len).ok_or(what)?;
    let padded = len.next_multiple_of(PAGE);
    let whole = bytes.get(start..).and_then(|rest| rest.get(..padded)).ok_or(what)?;
    let (used, padding) = whole.split_at(len);
    let is_zero = padding.iter().all(|byte| *byte == 0);
    if is_zero && crc32fast::hash(used) == crc { Ok(used) } else { Err(what) }
}

/// The expiry table is not kept yet, but a false one is told at once.
fn check_expiry(bytes: &[u8], blocks: u32) -> Result<(), Area> {
    let entries = || bytes.chunks_exact(DUE_LEN);
    let fits = entries().all(|entry| u32_at(entry, 8) < blocks);
    let sorted = entries().zip(entries().skip(1)).all(|(a, b)| u64_at(a, 0) <= u64_at(b, 0));
    if fits && sorted && bytes.len().is_multiple_of(DUE_LEN) { Ok(()) } else { Err(Area::Expiry) }
}

/// Checks chunks `from..` of a section, as many as `bytes` hold, against their checksums. The
/// last chunk of a section ends at `covered`.
pub(crate) fn check_chunks(bytes: &[u8], crcs: &[u32]) -> bool {
    let chunks = bytes.chunks(CHUNK);
    chunks.len() == crcs.len()
        && chunks.zip(crcs).all(|(chunk, crc)| crc32fast::hash(chunk) == *crc)
}

/// Checks those of `pages` that lie in `bytes`, which start at page `first` of the section.
pub(crate) fn check_pages(bytes: &[u8], first: u32, pages: &[u32], section: u128) -> bool {
    pages.iter().all(|page_no| {
        let start = u64::from(*page_no - first) * PAGE_U64;
        let start = usize_of(start).unwrap_or(usize::MAX);
        let page = bytes.get(start..).and_then(|rest| rest.get(..PAGE));
        page.is_some_and(|page| page::verify(page, section, *page_no).is_ok())
    })
}

/// Length of trailer, table and tail of a run with one section.
pub(crate) const ENDS_LEN: usize = PAGE + Table::LEN_ONE;

/// Bytes from the start of the index to the trailer.
pub(crate) fn areas_len(trailer: &Trailer) -> u64 {
    trailer.len - PAGE_U64 - trailer.areas[INDEX].off
}

/// Bytes that the chunk checksums cover.
pub(crate) const fn covered_len(trailer: &Trailer) -> u64 {
    trailer.areas[CHUNKS].off
}

const _: () = assert!(ENDS_LEN.is_multiple_of(PAGE), "the ends are read directly");

/// Where the data and value extents of a section end.
pub(crate) const fn extents_len(trailer: &Trailer) -> u64 {
    trailer.areas[INDEX].off
}

/// Whether a range lies in the extents.
pub(crate) fn is_in_extents(trailer: &Trailer, off: u64, len: u32) -> bool {
    off.checked_add(u64::from(len)).is_some_and(|end| end <= extents_len(trailer))
}

/// Whether a section's place in its file makes sense before anything is read.
pub(crate) fn is_sound_place(at: &SectionRef) -> bool {
    let aligned = at.off.is_multiple_of(PAGE_U64) && at.len.is_multiple_of(PAGE_U64);
    aligned
        && at.off >= PAGE_U64
        && at.len >= PAGE_U64
        && at.off.checked_add(at.len).is_some_and(|end| end <= u64::MAX - u64_of(ENDS_LEN))
}
