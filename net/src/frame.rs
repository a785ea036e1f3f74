//! The bytes of a frame: header, checksums and the limits that come before anything else.
//!
//! ```text
//!  0 magic u32 'BWN1'   4 len u32        whole frame, multiple of 16, 48 ..= frame_max
//!  8 seq u64            +1 per frame of a lane life, first = 1
//! 16 consumed u64       bytes of the peer's frames released so far: the credit, cumulative
//! 24 sent_at u64        sender's boot clock, ns; echoed, never compared with ours
//! 32 meta_len u32      36 kind u8  flags u8 = 0  zero u16
//! 40 meta_crc u32 (over meta)          44 header_crc u32 (over 0..44)
//! 48 meta, zero to 16
//! .. bodies: of entry batches, each a multiple of 16, one behind the other
//! ```
//!
//! Integers are little-endian. Bodies are not under the frame's checksums: each batch has its own,
//! verified on the copy that the receiver stages.

use core::fmt;

/// Bytes of a header.
pub const HEADER_LEN: usize = 48;
/// Every frame, archive and body begins at a multiple of this.
pub const ALIGN: usize = 16;
/// The first four bytes of a frame: `BWN1`.
pub const MAGIC: [u8; 4] = *b"BWN1";
/// Bytes of a frame that needs no credit, at most: a window bounds all others.
pub const FREE_LEN_MAX: u32 = 256;
/// A frame of a kind with this bit may be skipped by who does not know it.
const SKIPPABLE: u8 = 0x80;

const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN), "meta begins aligned");

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Messages of replicas and their batches.
    Msgs,
    /// Asks for support.
    Liveness,
    /// Grants it.
    LivenessReply,
    /// Count and hash of what is led over the lane.
    Digest,
    /// Asks for the rows behind a digest.
    ShardsWanted,
    /// The rows behind a digest.
    Shards,
    /// Only returns credit.
    Credit,
    /// The lane ends.
    Goodbye,
    /// A frame of a bulk lane: offer, want, chunk, end, refuse, record (16 to 21), ask, answer
    /// (22, 23).
    Bulk(u8),
    /// An unknown frame that may be skipped.
    Unknown(u8),
}

impl Kind {
    /// The byte of this kind.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Msgs => 1,
            Self::Liveness => 2,
            Self::LivenessReply => 3,
            Self::Digest => 4,
            Self::ShardsWanted => 5,
            Self::Shards => 6,
            Self::Credit => 7,
            Self::Goodbye => 8,
            Self::Bulk(byte) | Self::Unknown(byte) => byte,
        }
    }

    /// The kind of a byte; none: a frame that must be known and is not.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Msgs),
            2 => Some(Self::Liveness),
            3 => Some(Self::LivenessReply),
            4 => Some(Self::Digest),
            5 => Some(Self::ShardsWanted),
            6 => Some(Self::Shards),
            7 => Some(Self::Credit),
            8 => Some(Self::Goodbye),
            16..=23 => Some(Self::Bulk(byte)),
            _ if byte & SKIPPABLE != 0 => Some(Self::Unknown(byte)),
            _ => None,
        }
    }

    /// Whether frames of this kind use up credit.
    #[must_use]
    pub fn counts(self) -> bool {
        !matches!(self, Self::Liveness | Self::LivenessReply | Self::Credit | Self::Goodbye)
    }
}

/// What is known of a lane before its next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Largest frame that the hello agreed on.
    pub frame_max: u32,
    /// Number of the next frame.
    pub seq: u64,
    /// Bytes of credit that the peer has left; frames that do not count ignore it.
    pub credit: u64,
}

/// Why bytes are not the next frame of a lane. The lane is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The buffer ends `need` bytes before the header or the frame does: read on.
    Truncated {
        /// Missing bytes.
        need: usize,
    },
    /// These are no frames of ours.
    Magic,
    /// The header's checksum does not match.
    HeaderChecksum,
    /// Shorter than a header, longer than `frame_max` or than [`FREE_LEN_MAX`] for a frame without
    /// credit, or no multiple of 16.
    Length {
        /// What it says.
        len: u32,
    },
    /// The meta is longer than the frame.
    MetaLength {
        /// What it says.
        len: u32,
    },
    /// A frame is missing or repeated.
    Sequence {
        /// The number that was due.
        want: u64,
        /// The number that came.
        got: u64,
    },
    /// A kind that must be known and is not, or flags that are not zero.
    Kind {
        /// What it says.
        byte: u8,
    },
    /// More than the credit given out.
    Credit,
    /// The peer says to have released less than before, or more than it was sent.
    Consumed {
        /// What it says.
        bytes: u64,
    },
    /// The meta's checksum does not match.
    MetaChecksum,
    /// A byte that has to be zero is not.
    Padding,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { need } => write!(f, "{need} bytes of a frame are missing"),
            Self::Magic => f.write_str("not a frame"),
            Self::HeaderChecksum => f.write_str("the header's checksum does not match"),
            Self::Length { len } => write!(f, "{len} is no length of a frame"),
            Self::MetaLength { len } => write!(f, "{len} bytes of meta do not fit the frame"),
            Self::Sequence { want, got } => write!(f, "frame {got} came where {want} was due"),
            Self::Kind { byte } => write!(f, "unknown kind or flags of a frame ({byte})"),
            Self::Credit => f.write_str("more bytes than the credit allows"),
            Self::Consumed { bytes } => write!(f, "{bytes} bytes cannot have been released"),
            Self::MetaChecksum => f.write_str("the meta's checksum does not match"),
            Self::Padding => f.write_str("a byte that has to be zero is not"),
        }
    }
}

impl core::error::Error for FrameError {}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the whole frame.
    pub len: u32,
    /// Number of the frame in this lane life, from 1.
    pub seq: u64,
    /// Bytes of the peer's frames that the sender has released.
    pub consumed: u64,
    /// The sender's boot clock.
    pub sent_at: u64,
    /// Bytes of meta.
    pub meta_len: u32,
    /// What it is.
    pub kind: Kind,
    /// Checksum over meta.
    pub meta_crc: u32,
}

impl FrameHeader {
    /// The bytes of this header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.consumed.to_le_bytes());
        out[24..32].copy_from_slice(&self.sent_at.to_le_bytes());
        out[32..36].copy_from_slice(&self.meta_len.to_le_bytes());
        out[36] = self.kind.to_byte();
        out[40..44].copy_from_slice(&self.meta_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..44]);
        out[44..48].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header at the front of `bytes` and holds it against every limit. Looks at the
    /// first [`HEADER_LEN`] bytes alone and allocates nothing.
    ///
    /// # Errors
    ///
    /// [`FrameError::Truncated`]: more bytes are needed. Others: these are not the next frame.
    pub fn decode(bytes: &[u8], expected: &Expected) -> Result<Self, FrameError> {
        let Some((bytes, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(FrameError::Truncated { need: HEADER_LEN - bytes.len() });
        };
        if cut(bytes, 0) != MAGIC {
            return Err(FrameError::Magic);
        }
        if u32_at(bytes, 44) != crc32fast::hash(&bytes[..44]) {
            return Err(FrameError::HeaderChecksum);
        }
        let (len, meta_len, seq) = (u32_at(bytes, 4), u32_at(bytes, 32), u64_at(bytes, 8));
        let body = index(len).checked_sub(HEADER_LEN);
        if body.is_none() || len > expected.frame_max || !index(len).is_multiple_of(ALIGN) {
            return Err(FrameError::Length { len });
        }
        if seq != expected.seq {
            return Err(FrameError::Sequence { want: expected.seq, got: seq });
        }
        if body.is_none_or(|body| index(meta_len) > body) {
            return Err(FrameError::MetaLength { len: meta_len });
        }
        let byte = bytes[36];
        let plain = bytes[37..40] == [0; 3];
        let Some(kind) = Kind::from_byte(byte).filter(|_| plain) else {
            return Err(FrameError::Kind { byte });
        };
        if !kind.counts() && len > FREE_LEN_MAX {
            return Err(FrameError::Length { len });
        }
        if kind.counts() && u64::from(len) > expected.credit {
            return Err(FrameError::Credit);
        }
        Ok(Self {
            len,
            seq,
            consumed: u64_at(bytes, 16),
            sent_at: u64_at(bytes, 24),
            meta_len,
            kind,
            meta_crc: u32_at(bytes, 40),
        })
    }
}

/// A whole received frame whose header and meta match their checksums.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: FrameHeader,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the frame of a decoded header from the front of `bytes`.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: it is not whole yet, or its meta is damaged.
    pub fn open(header: FrameHeader, bytes: &'a [u8]) -> Result<Self, FrameError> {
        let len = index(header.len);
        let Some(bytes) = bytes.get(..len) else {
            return Err(FrameError::Truncated { need: len - bytes.len() });
        };
        let frame = Self::checked(header, bytes);
        if crc32fast::hash(frame.meta()) != header.meta_crc {
            return Err(FrameError::MetaChecksum);
        }
        let padding = &bytes[HEADER_LEN + index(header.meta_len)..frame.bodies_at().min(len)];
        if padding.iter().any(|byte| *byte != 0) {
            return Err(FrameError::Padding);
        }
        Ok(frame)
    }

    /// A frame that [`Frame::open`] gave before, again.
    pub(crate) fn checked(header: FrameHeader, bytes: &'a [u8]) -> Self {
        Self { header, bytes }
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Its meta.
    #[must_use]
    pub fn meta(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..][..index(self.header.meta_len)]
    }

    /// The whole frame.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the first body begins, or would.
    #[must_use]
    pub fn bodies_at(&self) -> usize {
        (HEADER_LEN + index(self.header.meta_len)).next_multiple_of(ALIGN)
    }
}

/// `N` bytes at `at`.
fn cut<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many bytes were cut")
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(cut(bytes, at))
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(cut(bytes, at))
}

/// A u32 as an index.
pub(crate) fn index(word: u32) -> usize {
    usize::try_from(word).expect("usize holds a u32")
}

/// A length within a frame as it is on the wire.
pub(crate) fn word(len: usize) -> u32 {
    u32::try_from(len).expect("frame_max is a u32")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected { frame_max: 1 << 20, seq: 5, credit: 4_096 };

    fn header() -> FrameHeader {
        FrameHeader {
            len: 96,
            seq: 5,
            consumed: 77,
            sent_at: 88,
            meta_len: 20,
            kind: Kind::Credit,
            meta_crc: crc32fast::hash(&[7; 20]),
        }
    }

    fn frame() -> Vec<u8> {
        let mut bytes = header().to_bytes().to_vec();
        bytes.extend([7; 20]);
        bytes.resize(96, 0);
        bytes
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let bytes = frame();
        let read = FrameHeader::decode(&bytes, &EXPECTED).unwrap();
        assert_eq!(read, header());
        let frame = Frame::open(read, &bytes).unwrap();
        assert_eq!(frame.meta(), [7; 20]);
        assert_eq!(frame.bodies_at(), 80);
    }

    #[test]
    fn every_cut_says_how_much_is_missing() {
        let bytes = frame();
        for cut in 0..bytes.len() {
            let got = FrameHeader::decode(&bytes[..cut], &EXPECTED)
                .and_then(|header| Frame::open(header, &bytes[..cut]).map(|_| ()));
            let need = if cut < HEADER_LEN { HEADER_LEN } else { 96 } - cut;
            assert_eq!(got, Err(FrameError::Truncated { need }));
        }
    }

    #[test]
    fn every_flipped_bit_of_header_and_meta_is_caught() {
        for bit in 0..80 * 8 {
            let mut bad = frame();
            bad[bit / 8] ^= 1 << (bit % 8);
            let got = FrameHeader::decode(&bad, &EXPECTED)
                .and_then(|header| Frame::open(header, &bad).map(|_| ()));
            assert!(got.is_err(), "bit {bit}");
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut FrameHeader), want: FrameError) {
        let mut bad = header();
        change(&mut bad);
        assert_eq!(FrameHeader::decode(&bad.to_bytes(), &EXPECTED), Err(want));
    }

    #[test]
    fn lengths_at_their_extremes_are_refused_before_anything_is_allocated() {
        for len in [0, 16, 32, 47, 49, 95, (1 << 20) + 16, u32::MAX - 15, u32::MAX] {
            check(|header| header.len = len, FrameError::Length { len });
        }
        for len in [49, 96, u32::MAX] {
            check(|header| header.meta_len = len, FrameError::MetaLength { len });
        }
        let largest = FrameHeader { len: 1 << 20, kind: Kind::Msgs, ..header() };
        let expected = Expected { credit: 1 << 20, ..EXPECTED };
        assert_eq!(FrameHeader::decode(&largest.to_bytes(), &expected), Ok(largest));
        let largest = FrameHeader { len: FREE_LEN_MAX, ..header() };
        assert_eq!(FrameHeader::decode(&largest.to_bytes(), &EXPECTED), Ok(largest));
        let len = FREE_LEN_MAX + 16;
        check(|header| header.len = len, FrameError::Length { len });
    }

    #[test]
    fn a_frame_out_of_turn_of_an_unknown_kind_or_over_the_credit_is_refused() {
        check(|header| header.seq = 4, FrameError::Sequence { want: 5, got: 4 });
        check(|header| header.seq = 6, FrameError::Sequence { want: 5, got: 6 });
        check(|header| header.kind = Kind::Unknown(9), FrameError::Kind { byte: 9 });
        let big = |header: &mut FrameHeader| (header.kind, header.len) = (Kind::Msgs, 4_112);
        check(big, FrameError::Credit);
        let skippable = FrameHeader { kind: Kind::Unknown(0x85), ..header() };
        assert_eq!(FrameHeader::decode(&skippable.to_bytes(), &EXPECTED), Ok(skippable));
    }

    #[test]
    fn every_kind_has_one_byte() {
        for byte in 0..=u8::MAX {
            if let Some(kind) = Kind::from_byte(byte) {
                assert_eq!(kind.to_byte(), byte);
            }
        }
    }
}
