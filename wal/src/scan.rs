//! Reading slots: headers, frames, and what else on them looks like a frame of ours.
//!
//! Everything is bounded before it is sliced (I10), and nothing is handed on whose checksum was not
//! verified here (I8). Blocks that cannot be read come as zeros: zeros are never valid.

use core::future::Future;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};

use bowline_env::{Buf, Kind, SharedBuf};

use crate::error::OpenError;
use crate::field::len_u64;
use crate::frame::{Copy2, Head, Row, kind};
use crate::geometry::{Geometry, HEAD_LEN, RECORD_LEN};
use crate::head::{SlotHead, Super};

/// Bytes of one read, and of one that looks at a slot's head only.
const WINDOW: usize = 1 << 20;
const GLANCE: usize = 64 << 10;
/// Largest frames that a look for later ones spans.
const NEAR_FRAMES: u32 = 4;

/// The slots of a stream, to be read: the machine's files, or plain ones beside a running node.
pub(crate) trait SlotRead {
    /// `len` bytes from `at` of a slot, fewer at its end; `Io` says that a part is unreadable.
    fn read(
        &self,
        slot_no: u32,
        at: u64,
        len: usize,
    ) -> impl Future<Output = Result<SharedBuf, Kind>>;
}

/// What the header of a slot file said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// A good header.
    Good(SlotHead),
    /// A bad header over frames of this epoch and boot.
    Frames { epoch: u64, boot: u64 },
    /// A bad header over a file that was never written.
    Blank,
    /// Missing, or nothing in it makes sense.
    Lost,
}

impl SlotState {
    pub(crate) fn epoch(&self) -> Option<u64> {
        match self {
            Self::Good(head) => Some(head.epoch),
            Self::Frames { epoch, .. } => Some(*epoch),
            Self::Blank | Self::Lost => None,
        }
    }

    pub(crate) fn boot(&self) -> u64 {
        match self {
            Self::Good(head) => head.boot,
            Self::Frames { boot, .. } => *boot,
            Self::Blank | Self::Lost => 0,
        }
    }
}

/// A frame that was found where it was looked for.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) head: Head,
    /// The whole frame.
    pub(crate) bytes: SharedBuf,
    pub(crate) dir_good: bool,
    /// Rows whose body is bad, ascending. Empty if the directory is.
    pub(crate) bad: Vec<usize>,
}

impl Found {
    pub(crate) fn is_good(&self) -> bool {
        self.dir_good && self.bad.is_empty()
    }

    /// The rows of the directory, echoes last.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let dir = if self.dir_good { &self.bytes[self.head.dir()] } else { &[] };
        dir.chunks_exact(RECORD_LEN).map(Row::from_bytes)
    }

    /// The body of a row that is not among the bad ones.
    pub(crate) fn body(&self, row: &Row) -> &[u8] {
        if row.body_len == 0 { &[] } else { &self.bytes[row.body()] }
    }
}

/// What a frame must say to be the one looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expect {
    pub(crate) epoch: u64,
    pub(crate) lsn: Option<u64>,
    pub(crate) prev_crc: Option<u32>,
}

/// Reads the slots of one stream.
pub(crate) struct Scanner<'a, R> {
    reader: &'a R,
    pub(crate) geometry: Geometry,
    tag: u64,
    uuid: u128,
    window: Option<(u32, u64, SharedBuf)>,
    hits: BTreeMap<u32, Vec<Head>>,
    pub(crate) bytes: u64,
    /// Highest numbers seen in any valid head of this stream.
    pub(crate) lsn_seen: u64,
    pub(crate) epoch_seen: u64,
    pub(crate) boot_seen: u64,
    /// Slots of which a block could not be read.
    unreadable: BTreeSet<u32>,
}

impl<R> core::fmt::Debug for Scanner<'_, R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Scanner").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl<'a, R: SlotRead> Scanner<'a, R> {
    pub(crate) fn new(reader: &'a R, superblock: &Super, geometry: Geometry) -> Self {
        Self {
            reader,
            geometry,
            tag: superblock.tag(),
            uuid: superblock.uuid,
            window: None,
            hits: BTreeMap::new(),
            bytes: 0,
            lsn_seen: 0,
            epoch_seen: superblock.max_epoch,
            boot_seen: superblock.boot,
            unreadable: BTreeSet::new(),
        }
    }

    /// The state of one slot.
    pub(crate) async fn slot_state(&mut self, slot_no: u32) -> SlotState {
        let block = self.geometry.block_len();
        let head = self.get(slot_no, 0, block).await.and_then(|bytes| SlotHead::parse(&bytes));
        if let Some(head) = head
            && head.slot_no == slot_no
            && head.uuid == self.uuid
        {
            self.epoch_seen = self.epoch_seen.max(head.epoch);
            self.boot_seen = self.boot_seen.max(head.boot);
            // A header that an earlier life wrote may land late over a newer one.
            let bytes = self.get(slot_no, u64::from(self.geometry.block), block).await;
            let first = bytes.and_then(|bytes| self.parse(&bytes, Copy2::Header));
            return match first.filter(|first| first.epoch > head.epoch) {
                Some(first) => SlotState::Frames { epoch: first.epoch, boot: first.boot },
                None => SlotState::Good(head),
            };
        }
        let mut hits = self.hits_near(slot_no, 1).await;
        if hits.is_empty() {
            if self.is_blank(slot_no).await {
                return SlotState::Blank;
            }
            hits = self.hits(slot_no).await;
        }
        match hits.iter().max_by_key(|head| head.epoch) {
            Some(head) => SlotState::Frames { epoch: head.epoch, boot: head.boot },
            None => SlotState::Lost,
        }
    }

    /// The head of the first frame of a slot, if it is one.
    pub(crate) async fn first_head(&mut self, slot_no: u32, epoch: u64) -> Option<Head> {
        let expect = Expect { epoch, ..Expect::default() };
        let head = self.head_at(slot_no, 1, &expect).await?;
        (head.flags & crate::frame::FIRST != 0).then_some(head)
    }

    /// The frame at a block, if its head is the one looked for.
    pub(crate) async fn frame_at(
        &mut self,
        slot_no: u32,
        block_no: u32,
        expect: &Expect,
    ) -> Result<Option<Found>, OpenError> {
        let Some(head) = self.head_at(slot_no, block_no, expect).await else { return Ok(None) };
        let block = self.geometry.block_len();
        let at = u64::from(block_no) * u64::from(self.geometry.block);
        let len = head.len(block);
        let Some(bytes) = self.get(slot_no, at, len).await else { return Ok(None) };
        let dir = &bytes[head.dir()];
        let rows = || dir.chunks_exact(RECORD_LEN).map(Row::from_bytes);
        if crc32fast::hash(dir) != head.dir_crc || !rows().all(|row| row.is_reachable()) {
            return Ok(Some(Found { head, bytes, dir_good: false, bad: Vec::new() }));
        }
        let mut bad = Vec::new();
        for (nth, row) in rows().enumerate() {
            let known = (kind::ENTRIES..=kind::DAMAGE).contains(&row.kind);
            if !known && row.kind & kind::SKIPPABLE == 0 {
                return Err(OpenError::UnknownRecord { kind: row.kind });
            }
            if row.is_echo() || row.body_len == 0 && row.kind != kind::ENTRIES {
                continue;
            }
            if !row.body_in(&head) || !row.matches(&bytes[row.body()]) {
                bad.push(nth);
            }
        }
        Ok(Some(Found { head, bytes, dir_good: true, bad }))
    }

    /// Every valid head of any epoch in a slot, one for each place, by place. Kept for the next
    /// time.
    pub(crate) async fn hits(&mut self, slot_no: u32) -> Vec<Head> {
        if let Some(hits) = self.hits.get(&slot_no) {
            return hits.clone();
        }
        let hits = self.probe(slot_no, 1..self.geometry.slot_blocks()).await;
        self.hits.insert(slot_no, hits.clone());
        hits
    }

    /// The same for the blocks behind one place only, as many as four of the largest frames take:
    /// of the two frames that may be in flight, one begins there.
    pub(crate) async fn hits_near(&mut self, slot_no: u32, block_no: u32) -> Vec<Head> {
        let near = NEAR_FRAMES * 2 * self.geometry.frame_cap / self.geometry.block;
        let end = block_no.saturating_add(near).min(self.geometry.slot_blocks());
        self.probe(slot_no, block_no..end).await
    }

    async fn probe(&mut self, slot_no: u32, blocks: Range<u32>) -> Vec<Head> {
        let block = self.geometry.block_len();
        let mut hits = BTreeMap::new();
        for block_no in blocks {
            let at = u64::from(block_no) * u64::from(self.geometry.block);
            // The file ends before, or is not there.
            let Some(bytes) = self.get(slot_no, at, block).await else { break };
            if let Some(head) = self.parse(&bytes, Copy2::Header)
                && head.block_no == block_no
            {
                hits.insert((head.block_no, head.lsn), head);
            }
            if let Some(head) = self.parse(&bytes[block - HEAD_LEN..], Copy2::Trailer)
                && head.block_no + head.blocks == block_no + 1
            {
                hits.insert((head.block_no, head.lsn), head);
            }
        }
        hits.into_values().collect()
    }

    /// The header at a block, or the trailer that names it.
    async fn head_at(&mut self, slot_no: u32, block_no: u32, expect: &Expect) -> Option<Head> {
        let block = self.geometry.block_len();
        let room = self.geometry.slot_blocks().checked_sub(block_no).filter(|room| *room > 0)?;
        let at = u64::from(block_no) * u64::from(self.geometry.block);
        let bytes = self.get(slot_no, at, block).await?;
        let fits = |head: &Head| {
            head.epoch == expect.epoch
                && head.block_no == block_no
                && head.blocks <= room
                && expect.lsn.is_none_or(|lsn| lsn == head.lsn)
                && expect.prev_crc.is_none_or(|crc| crc == head.prev_crc)
        };
        if let Some(head) = self.parse(&bytes, Copy2::Header).filter(fits) {
            return Some(head);
        }
        let most = 2 * self.geometry.frame_cap / self.geometry.block;
        for blocks in 1..=room.min(most) {
            let last = at + u64::from(blocks - 1) * u64::from(self.geometry.block);
            let bytes = self.get(slot_no, last, block).await?;
            let head = self.parse(&bytes[block - HEAD_LEN..], Copy2::Trailer).filter(fits);
            if let Some(head) = head
                && head.blocks == blocks
            {
                return Some(head);
            }
        }
        None
    }

    /// Parses a head of this stream and notes its numbers.
    fn parse(&mut self, bytes: &[u8], copy: Copy2) -> Option<Head> {
        let head = Head::parse(bytes, copy, self.geometry.block)?;
        if head.tag != self.tag {
            return None;
        }
        self.lsn_seen = self.lsn_seen.max(head.lsn);
        self.epoch_seen = self.epoch_seen.max(head.epoch);
        self.boot_seen = self.boot_seen.max(head.boot);
        Some(head)
    }

    /// Whether no frame was ever written: everything is zero where the first ones would be.
    async fn is_blank(&mut self, slot_no: u32) -> bool {
        let block = self.geometry.block_len();
        let near = NEAR_FRAMES * 2 * self.geometry.frame_cap / self.geometry.block;
        for block_no in 1..near.min(self.geometry.slot_blocks()) {
            let at = u64::from(block_no) * u64::from(self.geometry.block);
            match self.get(slot_no, at, block).await {
                Some(bytes) if bytes.iter().all(|byte| *byte == 0) => {},
                _ => return false,
            }
        }
        !self.unreadable.contains(&slot_no)
    }

    /// `len` bytes of a slot; none if the file ends before.
    async fn get(&mut self, slot_no: u32, at: u64, len: usize) -> Option<SharedBuf> {
        let end = at + len_u64(len);
        if let Some((held, start, bytes)) = &self.window
            && *held == slot_no
            && *start <= at
            && end <= *start + len_u64(bytes.len())
        {
            let from = usize::try_from(at - start).expect("inside the window");
            return Some(bytes.slice(from..from + len));
        }
        let left = usize::try_from(self.geometry.slot_bytes.checked_sub(at)?).ok()?;
        let ahead = if at == 0 { GLANCE } else { WINDOW };
        let bytes = self.read(slot_no, at, len.max(ahead).min(left)).await?;
        if bytes.len() < len {
            return None;
        }
        let part = bytes.slice(0..len);
        self.window = Some((slot_no, at, bytes));
        Some(part)
    }

    /// Reads, block by block where the device fails.
    async fn read(&mut self, slot_no: u32, at: u64, len: usize) -> Option<SharedBuf> {
        self.bytes += len_u64(len);
        match self.reader.read(slot_no, at, len).await {
            Ok(bytes) => return Some(bytes),
            Err(Kind::NotFound) => return None,
            Err(_) => {},
        }
        let block = self.geometry.block_len();
        let mut whole = Buf::heap(len);
        for nth in 0..len / block {
            let from = at + len_u64(nth * block);
            if let Ok(bytes) = self.reader.read(slot_no, from, block).await
                && bytes.len() == block
            {
                whole.rest_mut()[nth * block..][..block].copy_from_slice(&bytes);
            } else {
                self.unreadable.insert(slot_no);
            }
        }
        whole.fill(len);
        Some(whole.share(0..len))
    }
}

/// Frames between two numbers, for messages.
pub(crate) fn span(from: u64, to: u64) -> usize {
    usize::try_from(to - from + 1).unwrap_or(usize::MAX)
}

const _: () = assert!(WINDOW.is_multiple_of(65_536), "a window is whole blocks");
const _: () = assert!(GLANCE.is_multiple_of(65_536), "a glance is whole blocks");
