//! Frames that are no messages of replicas: what a lane itself has to say.
//!
//! ```text
//! LIVENESS, LIVENESS_REPLY  epoch | support | log_progress | sent_at | wall | led_hash: u64   48 B
//! DIGEST                    count u32 | zero u32 | hash u64                                   16 B
//! SHARDS                    count u32 | last u32 (0, 1) | count rows of 48 B
//!   row      shard | term | commit | last: u64 | slot u32 | generation u32 | zero u64
//! GOODBYE                   reason u16 | at most 200 bytes of text
//! SHARDS_WANTED, CREDIT     no meta
//! ```
//!
//! Integers are little-endian. Lengths are checked before anything is allocated.

use core::fmt;

use bowline_raft::{Beat, Digest, LogIndex, ReplicaId, Row, ShardId, Term};

use crate::{
    Bulk, Frame, FrameHeader, HEADER_LEN, Kind, Stamp, bulk,
    frame::{ALIGN, FREE_LEN_MAX, index, word},
};

/// Bytes of a frame of rows, at most.
const ROWS_FRAME_MAX: usize = 256 << 10;
const ROWS_HEAD_LEN: usize = 8;
const ROW_LEN: usize = 48;
const BEAT_LEN: usize = 48;
const REASON_LEN: usize = 2;
const TEXT_MAX: usize = 200;
/// Rows of a frame, at most.
pub const ROWS_MAX: usize = (ROWS_FRAME_MAX - HEADER_LEN - ROWS_HEAD_LEN) / ROW_LEN;

const _: () = assert!(
    (HEADER_LEN + REASON_LEN + TEXT_MAX).next_multiple_of(ALIGN) <= FREE_LEN_MAX as usize,
    "every goodbye may be received"
);

/// A frame to send that is no message of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control<'a> {
    /// Asks for support.
    Liveness(Beat),
    /// Grants it.
    LivenessReply(Beat),
    /// Count and hash of what is led over the lane.
    Digest(Digest),
    /// Asks for the rows behind a digest.
    ShardsWanted,
    /// Rows behind a digest.
    Rows {
        /// Shards that the sender leads, at most [`ROWS_MAX`].
        rows: &'a [Row],
        /// Whether these are the last ones.
        last: bool,
    },
    /// Only returns credit.
    Credit,
    /// The lane ends.
    Goodbye {
        /// Why; the numbers belong to the engine.
        reason: u16,
    },
    /// A frame of a transfer.
    Bulk(Bulk<&'a [u8]>),
}

impl Control<'_> {
    /// What it is on the wire.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Liveness(_) => Kind::Liveness,
            Self::LivenessReply(_) => Kind::LivenessReply,
            Self::Digest(_) => Kind::Digest,
            Self::ShardsWanted => Kind::ShardsWanted,
            Self::Rows { .. } => Kind::Shards,
            Self::Credit => Kind::Credit,
            Self::Goodbye { .. } => Kind::Goodbye,
            Self::Bulk(bulk) => bulk.kind(),
        }
    }

    /// Appends one whole frame to `out`: header, meta, zero to 16. O(its bytes).
    ///
    /// # Panics
    ///
    /// If there are more than [`ROWS_MAX`] rows: a bug of the caller.
    pub fn encode(&self, stamp: Stamp, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        match *self {
            Self::Liveness(beat) | Self::LivenessReply(beat) => put(out, &beat_words(&beat)),
            Self::Digest(digest) => put(out, &[u64::from(digest.count), digest.hash]),
            Self::Rows { rows, last } => {
                assert!(rows.len() <= ROWS_MAX, "rows are cut into frames");
                out.extend_from_slice(&word(rows.len()).to_le_bytes());
                out.extend_from_slice(&u32::from(last).to_le_bytes());
                for row in rows {
                    put(out, &row_words(row));
                }
            },
            Self::Goodbye { reason } => out.extend_from_slice(&reason.to_le_bytes()),
            Self::Bulk(bulk) => {
                put(out, &bulk.words());
                out.extend_from_slice(bulk.bytes());
            },
            Self::ShardsWanted | Self::Credit => {},
        }
        let meta_len = out.len() - at - HEADER_LEN;
        out.resize(at + self.frame_len(), 0);
        let header = FrameHeader {
            len: word(self.frame_len()),
            seq: stamp.seq,
            consumed: stamp.consumed,
            sent_at: stamp.sent_at,
            meta_len: word(meta_len),
            kind: self.kind(),
            meta_crc: crc32fast::hash(&out[at + HEADER_LEN..][..meta_len]),
        };
        out[at..][..HEADER_LEN].copy_from_slice(&header.to_bytes());
    }

    /// Bytes of its frame.
    pub(crate) fn frame_len(&self) -> usize {
        let meta_len = match self {
            Self::Liveness(_) | Self::LivenessReply(_) => BEAT_LEN,
            Self::Digest(_) => 16,
            Self::Rows { rows, .. } => ROWS_HEAD_LEN + rows.len() * ROW_LEN,
            Self::Goodbye { .. } => REASON_LEN,
            Self::Bulk(bulk) => bulk::HEAD_LEN + bulk.bytes().len(),
            Self::ShardsWanted | Self::Credit => 0,
        };
        (HEADER_LEN + meta_len).next_multiple_of(ALIGN)
    }
}

/// A received frame that is no message of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlFrame {
    /// The peer asks for support.
    Liveness(Beat),
    /// The peer grants it.
    LivenessReply(Beat),
    /// Count and hash of what the peer leads over the lane.
    Digest(Digest),
    /// The peer asks for the rows behind our digest.
    ShardsWanted,
    /// Rows behind the peer's digest.
    Rows {
        /// Shards that the peer leads.
        rows: Vec<Row>,
        /// Whether these are the last ones.
        last: bool,
    },
    /// Only returns credit.
    Credit,
    /// The peer ends the lane.
    Goodbye {
        /// Why.
        reason: u16,
    },
    /// A frame of a transfer that waits to be sent; received ones are read in place, by
    /// [`Bulk::decode`].
    Bulk(Bulk<Vec<u8>>),
}

/// Why a frame is not what its kind says. The lane is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlError {
    /// It holds messages, or belongs to a transfer.
    Kind,
    /// The meta has another length than this kind has, or more rows than a frame may hold, or
    /// something follows the meta.
    Length,
    /// A field has a value without meaning.
    Field,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "not a frame of the lane itself",
            Self::Length => "a frame of its kind has another length",
            Self::Field => "a field of the frame has no meaning",
        })
    }
}

impl core::error::Error for ControlError {}

impl ControlFrame {
    /// Reads a frame; none: an unknown kind that may be skipped. Allocates for rows alone, after
    /// their number was held against the frame's length.
    ///
    /// # Errors
    ///
    /// [`ControlError`]: the frame is not believed.
    pub fn decode(frame: &Frame<'_>) -> Result<Option<Self>, ControlError> {
        let (kind, meta) = (frame.header().kind, frame.meta());
        let what = match kind {
            Kind::Unknown(_) => return Ok(None),
            Kind::Msgs | Kind::Bulk(_) => return Err(ControlError::Kind),
            Kind::Liveness => Self::Liveness(beat(meta)?),
            Kind::LivenessReply => Self::LivenessReply(beat(meta)?),
            Kind::Digest => {
                let [count, hash] = words(meta)?;
                let count = u32::try_from(count).ok().ok_or(ControlError::Field)?;
                Self::Digest(Digest { count, hash })
            },
            Kind::Shards => rows(meta)?,
            Kind::ShardsWanted => words(meta).map(|[]| Self::ShardsWanted)?,
            Kind::Credit => words(meta).map(|[]| Self::Credit)?,
            Kind::Goodbye => match meta.split_first_chunk::<REASON_LEN>() {
                Some((reason, text)) if text.len() <= TEXT_MAX => {
                    Self::Goodbye { reason: u16::from_le_bytes(*reason) }
                },
                _ => return Err(ControlError::Length),
            },
        };
        if frame.bodies_at() == frame.bytes().len() {
            Ok(Some(what))
        } else {
            Err(ControlError::Length)
        }
    }

    /// The same as something to send.
    pub fn as_control(&self) -> Control<'_> {
        match self {
            Self::Liveness(beat) => Control::Liveness(*beat),
            Self::LivenessReply(beat) => Control::LivenessReply(*beat),
            Self::Digest(digest) => Control::Digest(*digest),
            Self::ShardsWanted => Control::ShardsWanted,
            Self::Rows { rows, last } => Control::Rows { rows, last: *last },
            Self::Credit => Control::Credit,
            Self::Goodbye { reason } => Control::Goodbye { reason: *reason },
            Self::Bulk(bulk) => Control::Bulk(bulk.map(Vec::as_slice)),
        }
    }
}

fn put(out: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Exactly `N` words.
fn words<const N: usize>(meta: &[u8]) -> Result<[u64; N], ControlError> {
    let (words, rest) = meta.as_chunks::<8>();
    let words: &[[u8; 8]; N] = words.try_into().ok().ok_or(ControlError::Length)?;
    if rest.is_empty() { Ok(words.map(u64::from_le_bytes)) } else { Err(ControlError::Length) }
}

fn beat_words(beat: &Beat) -> [u64; 6] {
    let Beat { epoch, support, log_progress, sent_at, wall, led_hash } = *beat;
    [epoch, support, log_progress, sent_at, wall, led_hash]
}

fn beat(meta: &[u8]) -> Result<Beat, ControlError> {
    let [epoch, support, log_progress, sent_at, wall, led_hash] = words(meta)?;
    Ok(Beat { epoch, support, log_progress, sent_at, wall, led_hash })
}

fn row_words(row: &Row) -> [u64; 6] {
    [row.shard.0, row.term.0, row.commit.0, row.last.0, row.from.0, row.to.0]
}

fn row(bytes: &[u8; ROW_LEN]) -> Result<Row, ControlError> {
    let [shard, term, commit, last, from, to] = words(bytes)?;
    Ok(Row {
        shard: ShardId(shard),
        term: Term(term),
        commit: LogIndex(commit),
        last: LogIndex(last),
        from: ReplicaId(from),
        to: ReplicaId(to),
    })
}

fn rows(meta: &[u8]) -> Result<ControlFrame, ControlError> {
    let Some((head, rest)) = meta.split_first_chunk::<ROWS_HEAD_LEN>() else {
        return Err(ControlError::Length);
    };
    let (count, last) = halves(u64::from_le_bytes(*head));
    let (chunks, tail) = rest.as_chunks::<ROW_LEN>();
    if chunks.len() != index(count) || !tail.is_empty() || chunks.len() > ROWS_MAX {
        return Err(ControlError::Length);
    }
    let last = match last {
        0 => false,
        1 => true,
        _ => return Err(ControlError::Field),
    };
    let mut rows = Vec::with_capacity(chunks.len());
    for bytes in chunks {
        rows.push(row(bytes)?);
    }
    Ok(ControlFrame::Rows { rows, last })
}

/// The two u32 of a word, the first one in memory first.
fn halves(word: u64) -> (u32, u32) {
    let low = u32::try_from(word & u64::from(u32::MAX)).expect("the high half is cut off");
    let high = u32::try_from(word >> 32).expect("a half has 32 bits");
    (low, high)
}
