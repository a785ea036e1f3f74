//! Frames that move a shard's state as a whole: an offer, then pieces that the receiver asks for.
//! And those by which a node asks the leader of a shard to change its members.
//!
//! ```text
//! OFFER (16)   shard | to | from | 0 | 0          then the manifest
//! WANT (17)    shard | section lo, hi | off | len
//! CHUNK (18)   shard | section lo, hi | off | len then the bytes
//! END (19)     shard | index | 0 | 0 | 0
//! REFUSE (20)  shard | section lo, hi | 0 | 0     section 0: the offer as a whole
//! ASK (22)     shard | id | verb | node | limit    then at most 255 bytes
//! ANSWER (23)  shard | id | outcome | number | 0
//! ```
//!
//! Integers are little-endian u64; what follows them ends the meta, under its checksum.

use bowline_raft::{LogIndex, NodeId, ReplicaId, ShardId};

use crate::{Frame, Kind, control::ControlError};

const OFFER: u8 = 16;
const WANT: u8 = 17;
const CHUNK: u8 = 18;
const END: u8 = 19;
const REFUSE: u8 = 20;
const ASK: u8 = 22;
const ANSWER: u8 = 23;
/// Words before the bytes.
const WORDS: usize = 5;
pub(crate) const HEAD_LEN: usize = WORDS * 8;
/// Bytes of a chunk at most; a lane's frames may ask for less.
pub const CHUNK_MAX: usize = 256 << 10;
/// Bytes after an ASK at most.
const ASK_BYTES_MAX: usize = 255;

/// A frame of a transfer. `B` holds its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bulk<B> {
    /// A replica offers its state, as its manifest says.
    Offer {
        /// The shard.
        shard: ShardId,
        /// Whom it is offered.
        to: ReplicaId,
        /// Who offers it.
        from: ReplicaId,
        /// The manifest.
        manifest: B,
    },
    /// The receiver asks for a piece of a section.
    Want {
        /// The shard.
        shard: ShardId,
        /// The section.
        section: u128,
        /// First byte, from the section's start.
        off: u64,
        /// How many.
        len: u32,
    },
    /// The piece.
    Chunk {
        /// The shard.
        shard: ShardId,
        /// The section.
        section: u128,
        /// First byte, from the section's start.
        off: u64,
        /// The bytes.
        bytes: B,
    },
    /// The receiver needs nothing more of the offer.
    End {
        /// The shard.
        shard: ShardId,
        /// Index of the state that was offered.
        index: LogIndex,
    },
    /// The section cannot be had, or (section 0) the offer is not taken.
    Refuse {
        /// The shard.
        shard: ShardId,
        /// The section.
        section: u128,
    },
    /// A node asks the leader of a shard to change its members. Verbs belong to the engine.
    Ask {
        /// The shard.
        shard: ShardId,
        /// The asker's number of the question; its answer repeats it.
        id: u64,
        /// What to do.
        verb: u64,
        /// With whom.
        node: NodeId,
        /// Milliseconds after which nobody waits for the answer.
        limit_ms: u64,
        /// What else the verb needs, at most 255 bytes.
        bytes: B,
    },
    /// What became of it. Outcomes belong to the engine.
    Answer {
        /// The shard.
        shard: ShardId,
        /// The number of the question.
        id: u64,
        /// What became of it.
        outcome: u64,
        /// What belongs to the outcome.
        number: u64,
    },
}

impl<B> Bulk<B> {
    /// The shard whose state it is about.
    pub const fn shard(&self) -> ShardId {
        match self {
            Self::Offer { shard, .. }
            | Self::Want { shard, .. }
            | Self::Chunk { shard, .. }
            | Self::End { shard, .. }
            | Self::Refuse { shard, .. }
            | Self::Ask { shard, .. }
            | Self::Answer { shard, .. } => *shard,
        }
    }
}

impl<B: AsRef<[u8]>> Bulk<B> {
    pub(crate) fn kind(&self) -> Kind {
        Kind::Bulk(match self {
            Self::Offer { .. } => OFFER,
            Self::Want { .. } => WANT,
            Self::Chunk { .. } => CHUNK,
            Self::End { .. } => END,
            Self::Refuse { .. } => REFUSE,
            Self::Ask { .. } => ASK,
            Self::Answer { .. } => ANSWER,
        })
    }

    pub(crate) fn words(&self) -> [u64; WORDS] {
        let halves = |section: u128| {
            let low = u64::try_from(section & u128::from(u64::MAX)).expect("half of it");
            (low, u64::try_from(section >> 64).expect("half of it"))
        };
        match self {
            Self::Offer { shard, to, from, .. } => [shard.0, to.0, from.0, 0, 0],
            Self::Want { shard, section, off, len } => {
                let (low, high) = halves(*section);
                [shard.0, low, high, *off, u64::from(*len)]
            },
            Self::Chunk { shard, section, off, bytes } => {
                let (low, high) = halves(*section);
                let len = u64::try_from(bytes.as_ref().len()).expect("a length is a u64");
                [shard.0, low, high, *off, len]
            },
            Self::End { shard, index } => [shard.0, index.0, 0, 0, 0],
            Self::Refuse { shard, section } => {
                let (low, high) = halves(*section);
                [shard.0, low, high, 0, 0]
            },
            Self::Ask { shard, id, verb, node, limit_ms, .. } => {
                [shard.0, *id, *verb, node.0, *limit_ms]
            },
            Self::Answer { shard, id, outcome, number } => [shard.0, *id, *outcome, *number, 0],
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Offer { manifest: bytes, .. }
            | Self::Chunk { bytes, .. }
            | Self::Ask { bytes, .. } => bytes.as_ref(),
            Self::Want { .. } | Self::End { .. } | Self::Refuse { .. } | Self::Answer { .. } => &[],
        }
    }

    /// The same with bytes of another owner.
    pub(crate) fn map<'a, C>(&'a self, own: impl FnOnce(&'a B) -> C) -> Bulk<C> {
        match self {
            Self::Offer { shard, to, from, manifest } => {
                let (shard, to, from) = (*shard, *to, *from);
                Bulk::Offer { shard, to, from, manifest: own(manifest) }
            },
            Self::Want { shard, section, off, len } => {
                Bulk::Want { shard: *shard, section: *section, off: *off, len: *len }
            },
            Self::Chunk { shard, section, off, bytes } => {
                Bulk::Chunk { shard: *shard, section: *section, off: *off, bytes: own(bytes) }
            },
            Self::End { shard, index } => Bulk::End { shard: *shard, index: *index },
            Self::Refuse { shard, section } => Bulk::Refuse { shard: *shard, section: *section },
            Self::Ask { shard, id, verb, node, limit_ms, bytes } => Bulk::Ask {
                shard: *shard,
                id: *id,
                verb: *verb,
                node: *node,
                limit_ms: *limit_ms,
                bytes: own(bytes),
            },
            Self::Answer { shard, id, outcome, number } => {
                Bulk::Answer { shard: *shard, id: *id, outcome: *outcome, number: *number }
            },
        }
    }
}

impl<'a> Bulk<&'a [u8]> {
    /// Reads a frame in place. O(1): its checksum was verified when it was opened.
    ///
    /// # Errors
    ///
    /// [`ControlError`]: the frame is not believed.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, ControlError> {
        let Kind::Bulk(kind) = frame.header().kind else { return Err(ControlError::Kind) };
        let (head, bytes) =
            frame.meta().split_first_chunk::<HEAD_LEN>().ok_or(ControlError::Length)?;
        if frame.bodies_at() != frame.bytes().len() {
            return Err(ControlError::Length);
        }
        let (words, _) = head.as_chunks::<8>();
        let &[shard, low, high, off, len] = words else { return Err(ControlError::Length) };
        let [shard, low, high, off, len] = [shard, low, high, off, len].map(u64::from_le_bytes);
        let shard = ShardId(shard);
        let section = u128::from(high) << 64 | u128::from(low);
        let zero = |rest: &[u64]| {
            let clean = rest.iter().all(|word| *word == 0) && bytes.is_empty();
            if clean { Ok(()) } else { Err(ControlError::Field) }
        };
        match kind {
            OFFER if off == 0 && len == 0 => {
                let (to, from) = (ReplicaId(low), ReplicaId(high));
                Ok(Self::Offer { shard, to, from, manifest: bytes })
            },
            WANT if bytes.is_empty() => {
                let len = u32::try_from(len).ok().filter(|len| *len > 0);
                Ok(Self::Want { shard, section, off, len: len.ok_or(ControlError::Field)? })
            },
            CHUNK if u64::try_from(bytes.len()) == Ok(len) && len > 0 => {
                Ok(Self::Chunk { shard, section, off, bytes })
            },
            END => zero(&[high, off, len]).map(|()| Self::End { shard, index: LogIndex(low) }),
            REFUSE => zero(&[off, len]).map(|()| Self::Refuse { shard, section }),
            ASK if bytes.len() <= ASK_BYTES_MAX => {
                let (id, verb, node) = (low, high, NodeId(off));
                Ok(Self::Ask { shard, id, verb, node, limit_ms: len, bytes })
            },
            ANSWER => {
                let (id, outcome, number) = (low, high, off);
                zero(&[len]).map(|()| Self::Answer { shard, id, outcome, number })
            },
            _ => Err(ControlError::Field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Control, Expected, FrameHeader, Stamp};

    const ALL: [Bulk<&[u8]>; 7] = [
        Bulk::Offer {
            shard: ShardId(7),
            to: ReplicaId(2),
            from: ReplicaId(1),
            manifest: b"the manifest",
        },
        Bulk::Want { shard: ShardId(7), section: u128::MAX - 5, off: 1 << 40, len: 4_096 },
        Bulk::Chunk { shard: ShardId(7), section: 9, off: 4_096, bytes: b"some bytes" },
        Bulk::End { shard: ShardId(7), index: LogIndex(99) },
        Bulk::Refuse { shard: ShardId(7), section: 0 },
        Bulk::Ask {
            shard: ShardId(7),
            id: 5,
            verb: 1,
            node: NodeId(4),
            limit_ms: 5_000,
            bytes: b"10.0.0.4:7500",
        },
        Bulk::Answer { shard: ShardId(7), id: 5, outcome: 2, number: 900 },
    ];

    fn frame_of(what: Bulk<&[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        Control::Bulk(what).encode(Stamp { seq: 1, ..Stamp::default() }, &mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Bulk<&[u8]>> {
        let expected = Expected { frame_max: 1 << 20, seq: 1, credit: 1 << 20 };
        let header = FrameHeader::decode(bytes, &expected).ok()?;
        let frame = Frame::open(header, bytes).ok()?;
        Bulk::decode(&frame).ok()
    }

    #[test]
    fn every_kind_reads_back() {
        for what in ALL {
            let bytes = frame_of(what);
            assert_eq!(bytes.len() % crate::ALIGN, 0);
            assert_eq!(decode(&bytes), Some(what));
        }
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        for what in ALL {
            let bytes = frame_of(what);
            for at in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[at / 8] ^= 1 << (at % 8);
                // Credit and clock are under the header's checksum, so nothing is harmless.
                assert_eq!(decode(&bad), None, "bit {at} of {what:?}");
            }
        }
    }
}
