//! The bytes of an entry batch: consecutive entries of one shard and one term, encoded once by the
//! leader. The same bytes with the same checksum go to its log, the wire, the followers' logs and
//! apply.
//!
//! ```text
//! header (40 B)
//! 0        8        16       24      28      32    34    36     40
//! +--------+--------+--------+-------+-------+-----+-----+------+
//! | shard  | first  | term   | count | len   | fmt |flags| crc  |
//! +--------+--------+--------+-------+-------+-----+-----+------+
//!   crc = crc32(header bytes 0..36, body)
//!
//! body (len B), 16-aligned in memory
//! count x { off u32, len u32 } | zero to 16 | payload | zero to 16 | payload ...
//!   off counts from the body's start, is 16-aligned and ascending; the body ends 16-aligned
//! ```
//!
//! Integers are little-endian. Nothing read from bytes is believed before [`Body::parse`].

use crate::{LogIndex, ShardId, Term};

/// Bytes of a header.
pub const HEADER_LEN: usize = 40;
/// Every payload starts at a multiple of this, counted from the body's start.
pub const ALIGN: usize = 16;
const PLACE_LEN: usize = 8;
pub(crate) const ALIGN_U32: u32 = 16;
const _: () = assert!(ALIGN_U32 as usize == ALIGN, "two names of one number");

/// The entry of a batch is a configuration.
pub const FLAG_CONF: u16 = 1;
/// The entry of a batch is a leader's first, empty one.
pub const FLAG_NOOP: u16 = 2;

/// Identity and checksum of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchHeader {
    /// The shard.
    pub shard: ShardId,
    /// Index of the first entry.
    pub first: LogIndex,
    /// Term of every entry.
    pub term: Term,
    /// Entries.
    pub count: u32,
    /// Bytes of the body.
    pub len: u32,
    /// Layout of the body; 0 is the one drawn above.
    pub fmt: u16,
    /// [`FLAG_CONF`], [`FLAG_NOOP`].
    pub flags: u16,
    /// Checksum over identity and body.
    pub crc: u32,
}

impl BatchHeader {
    /// Index of the last entry.
    pub fn last(&self) -> LogIndex {
        LogIndex(self.first.0 + u64::from(self.count).saturating_sub(1))
    }

    /// The bytes that stand on disk and on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..8].copy_from_slice(&self.shard.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.first.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.term.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.count.to_le_bytes());
        out[28..32].copy_from_slice(&self.len.to_le_bytes());
        out[32..34].copy_from_slice(&self.fmt.to_le_bytes());
        out[34..36].copy_from_slice(&self.flags.to_le_bytes());
        out[36..40].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    /// Reads a header; says nothing about its truth.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        Self {
            shard: ShardId(u64::from_le_bytes(cut(bytes, 0))),
            first: LogIndex(u64::from_le_bytes(cut(bytes, 8))),
            term: Term(u64::from_le_bytes(cut(bytes, 16))),
            count: u32::from_le_bytes(cut(bytes, 24)),
            len: u32::from_le_bytes(cut(bytes, 28)),
            fmt: u16::from_le_bytes(cut(bytes, 32)),
            flags: u16::from_le_bytes(cut(bytes, 34)),
            crc: u32::from_le_bytes(cut(bytes, 36)),
        }
    }

    /// The checksum that identity and `body` should have.
    #[must_use]
    pub fn checksum(&self, body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.to_bytes()[..36]);
        hasher.update(body);
        hasher.finalize()
    }

    /// Whether `body` is the one that this header was made for.
    pub fn matches(&self, body: &[u8]) -> bool {
        usize::try_from(self.len) == Ok(body.len()) && self.checksum(body) == self.crc
    }
}

/// Bytes that a body of entries with these payload lengths takes.
#[must_use]
pub fn body_len(payload_lens: impl ExactSizeIterator<Item = usize>) -> usize {
    let places = (payload_lens.len() * PLACE_LEN).next_multiple_of(ALIGN);
    payload_lens.fold(places, |at, len| at + len.next_multiple_of(ALIGN))
}

/// What one entry adds to a body: its place and its payload. A body takes the sum over its entries,
/// rounded up to [`ALIGN`].
#[must_use]
pub const fn entry_len(payload_len: usize) -> usize {
    PLACE_LEN + payload_len.next_multiple_of(ALIGN)
}

/// Encodes a body in place, entry by entry.
#[derive(Debug)]
pub struct BodyWriter<'a> {
    out: &'a mut [u8],
    count: usize,
    done: usize,
    at: usize,
}

impl<'a> BodyWriter<'a> {
    /// Starts a body of `count` entries in `out`, which has exactly [`body_len`] bytes.
    pub fn new(out: &'a mut [u8], count: usize) -> Self {
        let places = count * PLACE_LEN;
        let at = places.next_multiple_of(ALIGN);
        out[places..at].fill(0);
        Self { out, count, done: 0, at }
    }

    /// Writes the next payload of `len` bytes through `fill`.
    ///
    /// # Panics
    ///
    /// If more entries or bytes are written than were announced: a bug of the caller.
    pub fn entry(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(self.done < self.count, "no more entries than announced");
        let end = self.at + len;
        let padded = end.next_multiple_of(ALIGN);
        fill(&mut self.out[self.at..end]);
        self.out[end..padded].fill(0);
        let place = &mut self.out[self.done * PLACE_LEN..][..PLACE_LEN];
        let offset = u32::try_from(self.at).expect("a body is below 4 GiB");
        let length = u32::try_from(len).expect("a payload is below 4 GiB");
        place[..4].copy_from_slice(&offset.to_le_bytes());
        place[4..].copy_from_slice(&length.to_le_bytes());
        self.done += 1;
        self.at = padded;
    }

    /// Ends the body.
    ///
    /// # Panics
    ///
    /// If entries are missing or `out` was longer than the body: a bug of the caller.
    pub fn finish(self) {
        assert!(self.done == self.count, "every announced entry was written");
        assert!(self.at == self.out.len(), "the body fills its place");
    }
}

/// Why bytes are no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// No entry, or more than the bytes can hold.
    Count,
    /// A payload lies outside, overlaps or is not aligned.
    Place,
    /// A layout this build does not know.
    Format,
}

impl core::fmt::Display for BodyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Count => "the entry count does not fit the bytes",
            Self::Place => "a payload lies outside its body",
            Self::Format => "the body has an unknown layout",
        })
    }
}

impl core::error::Error for BodyError {}

/// A checked view of a body.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Body<'a> {
    /// Checks every place of a body. O(count).
    ///
    /// # Errors
    ///
    /// [`BodyError`]: the bytes are not a body of `header.count` entries.
    pub fn parse(header: &BatchHeader, bytes: &'a [u8]) -> Result<Self, BodyError> {
        if header.fmt != 0 {
            return Err(BodyError::Format);
        }
        let count = index(header.count);
        let places = count.checked_mul(PLACE_LEN).ok_or(BodyError::Count)?;
        if count == 0 || places > bytes.len() || !bytes.len().is_multiple_of(ALIGN) {
            return Err(BodyError::Count);
        }
        let body = Self { bytes, count };
        let mut end = places;
        for at in 0..count {
            let (off, len) = body.place(at);
            let room = bytes.len().checked_sub(off).ok_or(BodyError::Place)?;
            if !off.is_multiple_of(ALIGN) || off < end || len > room {
                return Err(BodyError::Place);
            }
            end = off + len;
        }
        Ok(body)
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: a body has an entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where the payload of the `nth` entry lies in the body: offset and length.
    pub fn place(&self, nth: usize) -> (usize, usize) {
        let place = &self.bytes[nth * PLACE_LEN..][..PLACE_LEN];
        (index(u32::from_le_bytes(cut(place, 0))), index(u32::from_le_bytes(cut(place, 4))))
    }

    /// The payload of the `nth` entry.
    pub fn payload(&self, nth: usize) -> &'a [u8] {
        let (off, len) = self.place(nth);
        &self.bytes[off..off + len]
    }
}

/// `N` bytes at `at`.
fn cut<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many bytes were cut")
}

fn index(word: u32) -> usize {
    usize::try_from(word).expect("usize holds a u32")
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    fn batch(payloads: &[&[u8]]) -> (BatchHeader, Vec<u8>) {
        let mut body = vec![0xaa; body_len(payloads.iter().map(|p| p.len()))];
        let mut writer = BodyWriter::new(&mut body, payloads.len());
        for payload in payloads {
            writer.entry(payload.len(), |out| out.copy_from_slice(payload));
        }
        writer.finish();
        let mut header = BatchHeader {
            shard: ShardId(3),
            first: LogIndex(7),
            term: Term(2),
            count: u32::try_from(payloads.len()).unwrap(),
            len: u32::try_from(body.len()).unwrap(),
            ..BatchHeader::default()
        };
        header.crc = header.checksum(&body);
        (header, body)
    }

    #[test]
    fn a_batch_reads_back_as_it_was_written() {
        let payloads: [&[u8]; 4] = [b"one", b"", b"0123456789abcdef", b"four"];
        let (header, bytes) = batch(&payloads);
        assert_eq!(BatchHeader::from_bytes(&header.to_bytes()), header);
        assert!(header.matches(&bytes));
        let body = Body::parse(&header, &bytes).unwrap();
        for (nth, payload) in payloads.iter().enumerate() {
            assert_eq!(body.payload(nth), *payload);
        }
        assert_eq!(header.last(), LogIndex(10));
    }

    #[test]
    fn a_body_cut_anywhere_is_refused_or_still_in_bounds() {
        let (header, bytes) = batch(&[b"one", b"two two two two two", b"3"]);
        for cut in 0..bytes.len() {
            assert!(!header.matches(&bytes[..cut]));
            if let Ok(body) = Body::parse(&header, &bytes[..cut]) {
                (0..body.len()).for_each(|nth| assert!(body.payload(nth).len() <= cut));
            }
        }
    }

    /// An empty payload behind the end passed: it has no byte that lies outside. Reading it then
    /// cut the body at a place that is not there.
    #[test]
    fn an_empty_payload_behind_the_body_is_refused() {
        let (header, mut bytes) = batch(&[b""]);
        bytes[0] = 48;
        assert_eq!(Body::parse(&header, &bytes).map(|_| ()), Err(BodyError::Place));
        bytes[0] = 16;
        assert!(Body::parse(&header, &bytes).unwrap().payload(0).is_empty());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (header, bytes) = batch(&[b"one", b"two"]);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!header.matches(&bad));
        }
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = header.to_bytes();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!BatchHeader::from_bytes(&bad).matches(&bytes));
        }
    }
}
