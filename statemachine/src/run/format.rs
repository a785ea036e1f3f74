//! The fixed blocks of a run file: header, section table, tail, and a section's trailer.
//!
//! ```text
//! header:  0 "BOWLRUN1"  8 major u16, minor u16, page u32  16 run_uuid  32 cluster_id  48 node u64
//!          56 created_ms u64  64 features u32  ..0..  4092 crc32(0..4092)
//! table:   0 section_id  16 off u64  24 len u64  32 shard u64  40 kind u16, fmt u16, 0 u32
//!          48 min_index u64  56 max_index u64                         (64 B each, padded to 4096)
//! tail:    0 "BOWLEND1"  8 run_uuid  24 table_off u64  32 sections u32, table_crc u32
//!          40 file_len u64  ..0..  4092 crc32(0..4092)
//! trailer: 0 "BOWLSEC1"  8 section_id  24 kind u16, fmt u16, page u32  32 len u64
//!          40 data_pages u32, chunks u32  48 body_len u64
//!          {off u64, len u64}: 56 index  72 expiry  88 ranges  104 filter  120 chunk crcs
//!          136 puts u64  144 tombstones u64  152 min_index  160 max_index  168 min_expiry
//!          176 crc32 of index, expiry, ranges, filter, chunk crcs  ..0..  4092 crc32(0..4092)
//! ```

/// Bytes of a page and of each fixed block.
pub(crate) const PAGE: usize = 4_096;
/// The same as an offset.
pub(crate) const PAGE_U64: u64 = 4_096;
/// Bytes that one chunk checksum covers.
pub(crate) const CHUNK: usize = 1 << 20;
/// Longest section: page numbers and value offsets are u32.
pub(crate) const SECTION_BYTES_MAX: u64 = 64 << 30;
/// Longest value inside a page.
pub(crate) const INLINE_MAX: usize = 1_024;

/// Sections of keys and values.
pub(crate) const KIND_KV: u16 = 1;
/// Sections that hold the snapshot of a user's machine.
pub(crate) const KIND_BLOB: u16 = 2;

const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Minor versions that this program reads.
const MINORS: core::ops::RangeInclusive<u16> = 0..=MINOR;
const FMT: u16 = 1;
const FEATURES_KNOWN: u32 = 0;
const TABLE_ENTRY: usize = 64;

/// Why a fixed block is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// It is no whole block.
    Length,
    /// A torn or rotten write.
    Checksum,
    /// Another kind of block.
    Magic,
    /// Written by a newer program.
    Version,
    /// A number contradicts another one.
    Field,
}

/// Takes numbers from a block whose length is known.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes are two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes are sixteen bytes"))
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    bytes[at..at + part.len()].copy_from_slice(part);
}

fn put_u16(bytes: &mut [u8], at: usize, n: u16) {
    put(bytes, at, &n.to_le_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, n: u32) {
    put(bytes, at, &n.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, n: u64) {
    put(bytes, at, &n.to_le_bytes());
}

fn put_u128(bytes: &mut [u8], at: usize, n: u128) {
    put(bytes, at, &n.to_le_bytes());
}

/// Bytes of a length as a `usize`; `None` where they do not fit.
pub(crate) fn usize_of(n: u64) -> Option<usize> {
    usize::try_from(n).ok()
}

/// A length in memory as an offset.
pub(crate) fn u64_of(n: usize) -> u64 {
    u64::try_from(n).expect("a length in memory fits 64 bits")
}

/// Up to the next multiple of a page.
pub(crate) const fn round_up(n: u64) -> u64 {
    n.div_ceil(PAGE_U64) * PAGE_U64
}

fn new_block(magic: [u8; 8]) -> Vec<u8> {
    let mut block = vec![0; PAGE];
    put(&mut block, 0, &magic);
    block
}

fn seal(mut block: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&block[..PAGE - 4]);
    put_u32(&mut block, PAGE - 4, crc);
    block
}

fn open(block: &[u8], magic: [u8; 8]) -> Result<&[u8], FormatError> {
    if block.len() != PAGE {
        return Err(FormatError::Length);
    }
    if crc32fast::hash(&block[..PAGE - 4]) != u32_at(block, PAGE - 4) {
        return Err(FormatError::Checksum);
    }
    if block[..8] == magic { Ok(block) } else { Err(FormatError::Magic) }
}

/// The first block of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) run: u128,
    pub(crate) cluster: u128,
    pub(crate) node: u64,
    pub(crate) created_ms: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = new_block(*b"BOWLRUN1");
        put_u16(&mut block, 8, MAJOR);
        put_u16(&mut block, 10, MINOR);
        put_u32(&mut block, 12, u32::try_from(PAGE).expect("a page is 4096 bytes"));
        put_u128(&mut block, 16, self.run);
        put_u128(&mut block, 32, self.cluster);
        put_u64(&mut block, 48, self.node);
        put_u64(&mut block, 56, self.created_ms);
        seal(block)
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let block = open(block, *b"BOWLRUN1")?;
        let is_known = u16_at(block, 8) == MAJOR && MINORS.contains(&u16_at(block, 10));
        if !is_known || u32_at(block, 64) & !FEATURES_KNOWN != 0 {
            return Err(FormatError::Version);
        }
        if usize::try_from(u32_at(block, 12)) != Ok(PAGE) {
            return Err(FormatError::Field);
        }
        Ok(Self {
            run: u128_at(block, 16),
            cluster: u128_at(block, 32),
            node: u64_at(block, 48),
            created_ms: u64_at(block, 56),
        })
    }
}

/// One section as the table of its run names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) section: u128,
    pub(crate) off: u64,
    pub(crate) len: u64,
    pub(crate) shard: u64,
    pub(crate) kind: u16,
    pub(crate) min_index: u64,
    pub(crate) max_index: u64,
}

/// The last two parts of a run: which sections it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) run: u128,
    pub(crate) off: u64,
    pub(crate) entries: Vec<TableEntry>,
}

impl Table {
    /// Bytes of the table and the tail of a run with one section.
    pub(crate) const LEN_ONE: usize = 2 * PAGE;

    /// Table and tail.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = (self.entries.len() * TABLE_ENTRY).next_multiple_of(PAGE);
        let mut out = vec![0; len];
        for (entry, bytes) in self.entries.iter().zip(out.chunks_exact_mut(TABLE_ENTRY)) {
            put_u128(bytes, 0, entry.section);
            put_u64(bytes, 16, entry.off);
            put_u64(bytes, 24, entry.len);
            put_u64(bytes, 32, entry.shard);
            put_u16(bytes, 40, entry.kind);
            put_u16(bytes, 42, FMT);
            put_u64(bytes, 48, entry.min_index);
            put_u64(bytes, 56, entry.max_index);
        }
        let mut tail = new_block(*b"BOWLEND1");
        put_u128(&mut tail, 8, self.run);
        put_u64(&mut tail, 24, self.off);
        put_u32(&mut tail, 32, u32::try_from(self.entries.len()).expect("a run has few sections"));
        put_u32(&mut tail, 36, crc32fast::hash(&out));
        put_u64(&mut tail, 40, self.off + u64_of(len + PAGE));
        out.extend_from_slice(&seal(tail));
        out
    }

    /// Reads table and tail, which start at `off` of the file and end it.
    pub(crate) fn decode(bytes: &[u8], off: u64) -> Result<Self, FormatError> {
        let at = bytes.len().checked_sub(PAGE).ok_or(FormatError::Length)?;
        let (table, tail) = bytes.split_at(at);
        let tail = open(tail, *b"BOWLEND1")?;
        if crc32fast::hash(table) != u32_at(tail, 36) {
            return Err(FormatError::Checksum);
        }
        let count = usize::try_from(u32_at(tail, 32)).ok().ok_or(FormatError::Field)?;
        let fits = count.checked_mul(TABLE_ENTRY).is_some_and(|len| len <= table.len());
        let ends_here = off.checked_add(u64_of(bytes.len())) == Some(u64_at(tail, 40));
        if !fits || !ends_here || u64_at(tail, 24) != off {
            return Err(FormatError::Field);
        }
        let entries = table.chunks_exact(TABLE_ENTRY).take(count).map(table_entry);
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { run: u128_at(tail, 8), off, entries })
    }
}

fn table_entry(bytes: &[u8]) -> Result<TableEntry, FormatError> {
    if u16_at(bytes, 42) != FMT {
        return Err(FormatError::Version);
    }
    Ok(TableEntry {
        section: u128_at(bytes, 0),
        off: u64_at(bytes, 16),
        len: u64_at(bytes, 24),
        shard: u64_at(bytes, 32),
        kind: u16_at(bytes, 40),
        min_index: u64_at(bytes, 48),
        max_index: u64_at(bytes, 56),
    })
}

/// A part of a section behind its extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AreaRef {
    pub(crate) off: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

/// The last block of a section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) section: u128,
    pub(crate) kind: u16,
    pub(crate) len: u64,
    pub(crate) data_pages: u32,
    pub(crate) body_len: u64,
    /// Index, expiry, ranges, filter, chunk crcs.
    pub(crate) areas: [AreaRef; 5],
    pub(crate) puts: u64,
    pub(crate) tombstones: u64,
    pub(crate) min_index: u64,
    pub(crate) max_index: u64,
    pub(crate) min_expiry: u64,
}

/// Places in [`Trailer::areas`].
pub(crate) const INDEX: usize = 0;
pub(crate) const EXPIRY: usize = 1;
pub(crate) const RANGES: usize = 2;
pub(crate) const FILTER: usize = 3;
pub(crate) const CHUNKS: usize = 4;

impl Trailer {
    /// Chunks that the checksums cover: all before them.
    pub(crate) const fn chunk_count(&self) -> u64 {
        self.areas[CHUNKS].off.div_ceil(1 << 20)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = new_block(*b"BOWLSEC1");
        put_u128(&mut block, 8, self.section);
        put_u16(&mut block, 24, self.kind);
        put_u16(&mut block, 26, FMT);
        put_u32(&mut block, 28, u32::try_from(PAGE).expect("a page is 4096 bytes"));
        put_u64(&mut block, 32, self.len);
        put_u32(&mut block, 40, self.data_pages);
        let chunks = u32::try_from(self.chunk_count()).expect("a section is at most 64 GiB");
        put_u32(&mut block, 44, chunks);
        put_u64(&mut block, 48, self.body_len);
        for (n, area) in self.areas.iter().enumerate() {
            put_u64(&mut block, 56 + 16 * n, area.off);
            put_u64(&mut block, 64 + 16 * n, area.len);
            put_u32(&mut block, 176 + 4 * n, area.crc);
        }
        put_u64(&mut block, 136, self.puts);
        put_u64(&mut block, 144, self.tombstones);
        put_u64(&mut block, 152, self.min_index);
        put_u64(&mut block, 160, self.max_index);
        put_u64(&mut block, 168, self.min_expiry);
        seal(block)
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let block = open(block, *b"BOWLSEC1")?;
        if u16_at(block, 26) != FMT {
            return Err(FormatError::Version);
        }
        let mut areas = [AreaRef::default(); 5];
        for (n, area) in areas.iter_mut().enumerate() {
            area.off = u64_at(block, 56 + 16 * n);
            area.len = u64_at(block, 64 + 16 * n);
            area.crc = u32_at(block, 176 + 4 * n);
        }
        let trailer = Self {
            section: u128_at(block, 8),
            kind: u16_at(block, 24),
            len: u64_at(block, 32),
            data_pages: u32_at(block, 40),
            body_len: u64_at(block, 48),
            areas,
            puts: u64_at(block, 136),
            tombstones: u64_at(block, 144),
            min_index: u64_at(block, 152),
            max_index: u64_at(block, 160),
            min_expiry: u64_at(block, 168),
        };
        let page_fits = usize::try_from(u32_at(block, 28)) == Ok(PAGE);
        let chunks_fit = u64::from(u32_at(block, 44)) == trailer.chunk_count();
        if page_fits && chunks_fit && trailer.is_sound() {
            Ok(trailer)
        } else {
            Err(FormatError::Field)
        }
    }

    /// Whether the areas follow each other without a gap, up to this block.
    fn is_sound(&self) -> bool {
        if self.len > SECTION_BYTES_MAX || !self.len.is_multiple_of(PAGE_U64) {
            return false;
        }
        let mut at = self.areas[INDEX].off;
        for area in &self.areas {
            let is_inside = at <= self.len && area.len <= self.len;
            if !is_inside || area.off != at || !at.is_multiple_of(PAGE_U64) {
                return false;
            }
            at = round_up(at + area.len);
        }
        let chunks_match = self.areas[CHUNKS].len == self.chunk_count() * 4;
        let known = self.kind == KIND_KV || self.kind == KIND_BLOB;
        let body_fits = self.body_len <= self.areas[INDEX].off;
        let pages_fit = u64::from(self.data_pages) * PAGE_U64 <= self.areas[INDEX].off;
        let ends_here = at.checked_add(PAGE_U64) == Some(self.len);
        // An entry takes a byte at least, so these can be added and multiplied.
        let counts_fit =
            self.puts.checked_add(self.tombstones).is_some_and(|count| count <= self.len);
        ends_here
            && chunks_match
            && counts_fit
            && known
            && body_fits
            && pages_fit
            && self.min_index <= self.max_index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { run: 1 << 100, cluster: 5, node: 3, created_ms: 9 }
    }

    fn table() -> Table {
        let entry = TableEntry {
            section: 77 << 64,
            off: 4_096,
            len: 81_920,
            shard: 12,
            kind: KIND_KV,
            min_index: 4,
            max_index: 19,
        };
        Table { run: 1 << 100, off: 86_016, entries: vec![entry] }
    }

    fn trailer() -> Trailer {
        let mut trailer = Trailer {
            section: 77,
            kind: KIND_KV,
            data_pages: 16,
            puts: 3,
            min_index: 4,
            max_index: 19,
            ..Trailer::default()
        };
        let mut at = 65_536;
        for (n, len) in [100_u64, 32, 0, 0, 4].into_iter().enumerate() {
            trailer.areas[n] = AreaRef { off: at, len, crc: 9 };
            at = round_up(at + len);
        }
        trailer.len = at + PAGE_U64;
        trailer
    }

    fn check<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, FormatError>) {
        assert!(decode(bytes).is_ok());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut bad = bytes.to_vec();
        // Every bit of a field; of the zeros behind them one bit a byte.
        let is_field = |bit: &usize| bytes[bit / 8] != 0 || bit / 8 % PAGE < 256 || bit % 8 == 3;
        for bit in (0..bytes.len() * 8).filter(is_field) {
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
            bad[bit / 8] ^= 1 << (bit % 8);
        }
        bad.push(0);
        assert!(decode(&bad).is_err(), "one byte more");
    }

    #[test]
    fn every_cut_and_flipped_bit_of_a_fixed_block_is_an_error() {
        check(&header().encode(), Header::decode);
        check(&table().encode(), |bytes| Table::decode(bytes, 86_016));
        check(&trailer().encode(), Trailer::decode);
    }

    #[test]
    fn fixed_blocks_come_back() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
        assert_eq!(Table::decode(&table().encode(), 86_016), Ok(table()));
        assert_eq!(Trailer::decode(&trailer().encode()), Ok(trailer()));
    }

    #[test]
    fn a_newer_version_and_an_unknown_feature_are_refused() {
        for (at, value) in [(8, 2), (10, 1), (64, 1)] {
            let mut block = header().encode();
            block[at] = value;
            assert_eq!(Header::decode(&seal(block)), Err(FormatError::Version), "byte {at}");
        }
    }

    #[test]
    fn areas_that_do_not_follow_each_other_are_refused() {
        let mut bad = trailer();
        bad.areas[RANGES].off += PAGE_U64;
        assert_eq!(Trailer::decode(&bad.encode()), Err(FormatError::Field));
        let mut bad = trailer();
        bad.areas[INDEX].len = u64::MAX;
        assert_eq!(Trailer::decode(&bad.encode()), Err(FormatError::Field));
        let mut bad = trailer();
        bad.data_pages = 17;
        assert_eq!(Trailer::decode(&bad.encode()), Err(FormatError::Field));
    }

    /// The choice of what to merge adds and multiplies them.
    #[test]
    fn more_entries_than_a_section_has_bytes_are_refused() {
        for (puts, tombstones) in [(u64::MAX, 0), (u64::MAX, 1), (3, u64::MAX / 100), (1 << 40, 0)]
        {
            let bad = Trailer { puts, tombstones, ..trailer() };
            assert_eq!(Trailer::decode(&bad.encode()), Err(FormatError::Field));
        }
    }
}
