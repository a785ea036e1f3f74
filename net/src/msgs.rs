//! Frames of messages: built once per lane and pass, read in place.

use core::mem::MaybeUninit;

use bowline_raft::{Batch, BatchHeader, BatchRange, Message, What};
use rkyv::{api::low, rancor::Failure, ser::allocator::SubAllocator, util::AlignedVec};

use crate::{
    Frame, FrameHeader, HEADER_LEN, Kind,
    frame::{ALIGN, index, word},
    wire::{
        ArchivedFrameMeta, BATCH_LEN, FrameMeta, MSG_LEN, MessageError, ROOT_LEN, WireBatch,
        WireMsg,
    },
};

/// Messages of a frame at most.
pub const MSGS_MAX: usize = 4_096;
/// Batches of a frame at most.
pub const BATCHES_MAX: usize = 4_096;

/// Why a frame's messages are not believed. The lane is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MsgsError {
    /// The frame is of another kind.
    Kind,
    /// The meta is no archive of ours, or not aligned in memory.
    Archive,
    /// More than [`MSGS_MAX`] messages or [`BATCHES_MAX`] batches.
    Count,
    /// A message names batches that are not there, or not the next ones.
    Batches,
    /// A body lies outside the frame, overlaps, is out of order, leaves a gap or ends unaligned.
    Body,
    /// A byte that has to be zero is not.
    Padding,
    /// A message has no meaning.
    Message(MessageError),
}

impl core::fmt::Display for MsgsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Kind => f.write_str("not a frame of messages"),
            Self::Archive => f.write_str("the meta is not valid"),
            Self::Count => f.write_str("too many messages or batches"),
            Self::Batches => f.write_str("a message names batches that are not its own"),
            Self::Body => f.write_str("a body is out of place"),
            Self::Padding => f.write_str("a byte that has to be zero is not"),
            Self::Message(why) => why.fmt(f),
        }
    }
}

impl core::error::Error for MsgsError {}

/// Why a message did not go into the frame that is being built. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// The frame is full: finish it and push again.
    Full,
    /// It would not even fit into an empty frame.
    TooLarge,
}

impl core::fmt::Display for PushError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full => "the frame is full",
            Self::TooLarge => "the message is larger than any frame",
        })
    }
}

impl core::error::Error for PushError {}

/// What a frame says of its lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the frame, from 1.
    pub seq: u64,
    /// Bytes of the peer's frames released so far.
    pub consumed: u64,
    /// Own boot clock, ns.
    pub sent_at: u64,
}

/// Builds frames of messages in reused memory.
///
/// [`MsgsWriter::finish`] gives header and meta; the caller sends the bodies right after it, in
/// the order in which they were pushed, as they stand in its log buffers.
#[derive(Debug)]
pub struct MsgsWriter {
    meta: FrameMeta,
    out: AlignedVec<ALIGN>,
    bodies: usize,
    frame_max: usize,
}

impl MsgsWriter {
    /// A writer of frames of at most `frame_max` bytes.
    #[must_use]
    pub fn new(frame_max: u32) -> Self {
        Self {
            meta: FrameMeta::default(),
            out: AlignedVec::new(),
            bodies: 0,
            frame_max: index(frame_max),
        }
    }

    /// Messages in the frame being built.
    pub fn len(&self) -> usize {
        self.meta.msgs.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.meta.msgs.is_empty()
    }

    /// Bytes of the frame being built, bodies included.
    pub fn frame_len(&self) -> usize {
        frame_len(self.meta.msgs.len(), self.meta.batches.len()) + self.bodies
    }

    /// Adds a message and the headers of its batches. The range that the message itself names is
    /// replaced by the place in this frame.
    ///
    /// # Errors
    ///
    /// [`PushError`]: nothing changed.
    ///
    /// # Panics
    ///
    /// If a message other than an Append has batches, or a body is no multiple of 16 bytes long:
    /// bugs of the caller.
    pub fn push(&mut self, message: &Message, batches: &[BatchHeader]) -> Result<(), PushError> {
        self.push_within(message, batches.iter(), self.frame_max)
    }

    /// As [`MsgsWriter::push`], into a frame of at most `len_max` bytes.
    pub(crate) fn push_within<'a>(
        &mut self,
        message: &Message,
        batches: impl ExactSizeIterator<Item = &'a BatchHeader> + Clone,
        len_max: usize,
    ) -> Result<(), PushError> {
        let append = matches!(message.what, What::Append { .. });
        assert!(append || batches.len() == 0, "only an Append has batches");
        let bytes: usize = batches.clone().map(|head| index(head.len)).sum();
        let alone = frame_len(1, batches.len()).saturating_add(bytes);
        if alone > self.frame_max || batches.len() > BATCHES_MAX {
            return Err(PushError::TooLarge);
        }
        let (msgs, have) = (self.meta.msgs.len() + 1, self.meta.batches.len());
        let total = frame_len(msgs, have + batches.len()) + self.bodies + bytes;
        let full = msgs > MSGS_MAX || have + batches.len() > BATCHES_MAX;
        if full || total > self.frame_max.min(len_max) {
            return Err(PushError::Full);
        }
        let mut wire = WireMsg::from(message);
        wire.batches = u16::try_from(batches.len()).expect("BATCHES_MAX fits");
        wire.batch = if batches.len() == 0 { 0 } else { word(have) };
        self.meta.msgs.push(wire);
        for head in batches {
            assert!(index(head.len).is_multiple_of(ALIGN), "bodies end aligned");
            // The offset counts from the first body until the frame is finished.
            let off = word(self.bodies);
            self.meta.batches.push(WireBatch::new(head, off));
            self.bodies += index(head.len);
        }
        Ok(())
    }

    /// Header and meta of the frame that was finished last; empty before the first.
    pub(crate) fn finished(&self) -> &[u8] {
        &self.out
    }

    /// Ends the frame: its header and meta. The writer is empty again; the bytes stay until the
    /// next frame is finished.
    ///
    /// # Panics
    ///
    /// If the archive has another length than its parts: the format changed with the build.
    pub fn finish(&mut self, stamp: Stamp) -> &[u8] {
        let head_len = frame_len(self.meta.msgs.len(), self.meta.batches.len());
        for batch in &mut self.meta.batches {
            batch.off += word(head_len);
        }
        let mut out = core::mem::take(&mut self.out);
        out.clear();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let mut scratch = [MaybeUninit::uninit(); 64];
        let scratch = SubAllocator::new(&mut scratch);
        let mut out = archive(&self.meta, out, scratch);
        assert!(out.len() == head_len, "an archive is as long as its parts");
        let header = FrameHeader {
            len: word(head_len + self.bodies),
            seq: stamp.seq,
            consumed: stamp.consumed,
            sent_at: stamp.sent_at,
            meta_len: word(head_len - HEADER_LEN),
            kind: Kind::Msgs,
            meta_crc: crc32fast::hash(&out[HEADER_LEN..]),
        };
        out[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        self.meta.msgs.clear();
        self.meta.batches.clear();
        self.bodies = 0;
        self.out = out;
        &self.out
    }
}

fn archive(
    meta: &FrameMeta,
    out: AlignedVec<ALIGN>,
    scratch: SubAllocator<'_>,
) -> AlignedVec<ALIGN> {
    low::to_bytes_in_with_alloc::<_, _, Failure>(meta, out, scratch)
        .expect("integers need no scratch and memory grows")
}

/// Bytes of header and meta.
pub(crate) fn frame_len(msgs: usize, batches: usize) -> usize {
    HEADER_LEN + msgs * MSG_LEN + batches * BATCH_LEN + ROOT_LEN
}

const _: () = assert!(
    MSG_LEN.is_multiple_of(ALIGN) && BATCH_LEN.is_multiple_of(ALIGN) && ROOT_LEN == ALIGN,
    "the meta that we write needs no padding"
);

/// The messages of a received frame, validated as a whole and read in place.
#[derive(Clone, Copy, Debug)]
pub struct Msgs<'a> {
    frame: Frame<'a>,
    meta: &'a ArchivedFrameMeta,
}

impl<'a> Msgs<'a> {
    /// Validates the archive and every limit. O(messages + batches), no allocation, no look at
    /// bodies: a body is verified against its batch's checksum on the copy that is staged.
    ///
    /// # Errors
    ///
    /// [`MsgsError`]: the frame is not believed.
    pub fn open(frame: Frame<'a>) -> Result<Self, MsgsError> {
        if frame.header().kind != Kind::Msgs {
            return Err(MsgsError::Kind);
        }
        let meta = low::access::<ArchivedFrameMeta, Failure>(frame.meta())
            .map_err(|Failure| MsgsError::Archive)?;
        if meta.msgs.len() > MSGS_MAX || meta.batches.len() > BATCHES_MAX {
            return Err(MsgsError::Count);
        }
        let msgs = Self { frame, meta };
        msgs.check_ranges()?;
        msgs.check_bodies()?;
        Ok(msgs)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.meta.msgs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.meta.msgs.is_empty()
    }

    /// The messages, in order.
    ///
    /// # Errors
    ///
    /// (of an item) [`MsgsError::Message`]: it has no meaning.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Message, MsgsError>> + use<'a> {
        self.meta
            .msgs
            .iter()
            .map(|wire| Message::try_from(&WireMsg::from(wire)).map_err(MsgsError::Message))
    }

    /// The batches of a message of this frame, in order.
    pub fn batches(&self, message: &Message) -> impl ExactSizeIterator<Item = Batch<'a>> + use<'a> {
        let range = if let What::Append { batches, .. } = message.what {
            batches
        } else {
            BatchRange::default()
        };
        let (first, count) = (index(range.first), usize::from(range.count));
        let bytes = self.frame.bytes();
        let own = self.meta.batches.get(first..first + count).unwrap_or_default();
        own.iter().map(move |batch| {
            let head = BatchHeader::from(batch);
            let body = bytes.get(index(batch.off.to_native())..).unwrap_or_default();
            Batch { head, body: body.get(..index(head.len)).unwrap_or_default() }
        })
    }

    /// Every batch belongs to one message, in order.
    fn check_ranges(&self) -> Result<(), MsgsError> {
        let mut next = 0;
        for msg in self.meta.msgs.iter().filter(|msg| msg.batches.to_native() != 0) {
            if index(msg.batch.to_native()) != next {
                return Err(MsgsError::Batches);
            }
            next += usize::from(msg.batches.to_native());
        }
        if next == self.meta.batches.len() { Ok(()) } else { Err(MsgsError::Batches) }
    }

    /// The bodies fill the rest of the frame: each ends aligned, in order, without overlap or gap.
    fn check_bodies(&self) -> Result<(), MsgsError> {
        let len = self.frame.bytes().len();
        let mut next = self.frame.bodies_at();
        for batch in self.meta.batches.iter() {
            let (off, body) = (index(batch.off.to_native()), index(batch.len.to_native()));
            let end =
                next.checked_add(body).filter(|end| *end <= len && body.is_multiple_of(ALIGN));
            next = end.filter(|_| off == next).ok_or(MsgsError::Body)?;
            if batch.zero.to_native() != 0 {
                return Err(MsgsError::Padding);
            }
        }
        if next == len { Ok(()) } else { Err(MsgsError::Body) }
    }
}
