//! What nothing proves synced is written again by the life that found it.
//!
//! A frame that reads well may stand in a cache alone: of a sync that failed nobody can say what it
//! left there, and a later one says well of pages that never reached the disk. So a boot cuts
//! behind the last frame that evidence proves, and copies every good frame beyond it into its own
//! slot, row by row: between its BOOT frame and the states of its checkpoint. Its last frame covers
//! the rest. A boot without that frame answered nobody and does not count; with it, what it kept
//! is durable by its own writes, and the frames behind the cut are ignored whatever they say.
//!
//! A frame is issued only within two of the last durable one (I13), so there are two to copy at
//! most, and a slot has room for them and a checkpoint.

use crate::error::StageError;
use crate::field::len_u32;
use crate::frame::{COPY, COVER, Row, kind};
use crate::scan::Found;
use crate::shard::Kill;
use crate::stream::Stream;

/// Follows a walk: up to where it is proved synced, and the good frames beyond.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    /// The last frame proved, and its header's checksum; 0 if that is not known.
    pub(crate) proved: u64,
    pub(crate) proved_crc: u32,
    /// Good frames of the newest life beyond it, ascending.
    pub(crate) frames: Vec<Found>,
    boot: u64,
    /// Last frame of the life's boot, once it is known. A life that is met later is past its boot.
    boot_end: Option<u64>,
}

impl Tail {
    /// Enters a life at its birth: it kept what was proved up to its cut, or wrote it again.
    pub(crate) fn begin(&mut self, boot: u64, cut: u64) {
        self.prove(cut);
        self.frames.clear();
        self.boot = boot;
        self.boot_end = None;
    }

    /// Takes a good frame.
    pub(crate) fn take(&mut self, found: &Found) {
        let head = found.head;
        if head.boot != self.boot {
            self.boot = head.boot;
            self.boot_end = Some(0);
        }
        if self.boot_end.is_none() {
            if shows_life(found) {
                self.boot_end = Some(head.lsn - 1);
            } else if found.rows().any(|row| row.kind == kind::CHECKPOINT_END && !row.is_echo()) {
                self.boot_end = Some(head.lsn);
            }
        }
        self.frames.push(found.clone());
        // Within a life: what it says itself, and what its window says (I13).
        let known = head.synced.max(head.lsn.saturating_sub(2));
        if self.boot_end.is_some_and(|end| known >= end) {
            self.prove(known);
        }
    }

    /// Everything that counts up to `lsn` is proved synced.
    pub(crate) fn prove(&mut self, lsn: u64) {
        if lsn <= self.proved {
            return;
        }
        let at = self.frames.iter().find(|found| found.head.lsn == lsn);
        self.proved_crc = at.map_or(0, |found| found.head.crc());
        self.proved = lsn;
        self.frames.retain(|found| found.head.lsn > lsn);
    }

    /// The stream was closed cleanly at `clean_lsn`, if that was in the newest life.
    pub(crate) fn close(&mut self, clean_lsn: u64, cut: u64) {
        if clean_lsn <= cut && self.boot_end.is_some_and(|end| clean_lsn >= end) {
            self.prove(clean_lsn);
        }
    }
}

/// Whether only a boot that had ended can have written a frame.
pub(crate) fn shows_life(found: &Found) -> bool {
    let head = found.head;
    let records = || found.rows().any(|row| !row.is_echo() && row.kind < kind::CHECKPOINT);
    head.flags & COVER != 0 || (head.flags & COPY == 0 && records())
}

/// The rows of a frame that a checkpoint does not write anew.
fn kept(found: &Found) -> impl Iterator<Item = Row> + '_ {
    let restated = |row: &Row| matches!(row.kind, kind::CHECKPOINT | kind::CHECKPOINT_END);
    found.rows().filter(move |row| !row.is_echo() && !restated(row))
}

/// Whether there is anything to copy.
pub(crate) fn has_rows(found: &Found) -> bool {
    kept(found).next().is_some()
}

impl Stream {
    /// Stages the frames again, each as one, behind BOOT.
    pub(crate) fn copy_forward(&mut self, frames: &[Found]) -> Result<(), StageError> {
        let cursor = self.checkpoint.take();
        for found in frames.iter().filter(|found| has_rows(found)) {
            let rows = kept(found).count();
            let padded = |row: Row| found.body(&row).len().next_multiple_of(16);
            self.open_with(kept(found).map(padded).sum(), rows, 0)?;
            kept(found).for_each(|row| self.copy_row(found, row));
            if !self.seal(false) {
                return Err(StageError::Full);
            }
            self.queue.back_mut().expect("it was sealed").head.flags |= COPY;
        }
        self.checkpoint = cursor;
        Ok(())
    }

    /// Adds a row and its body to the open frame; what lives in it lives there now.
    fn copy_row(&mut self, found: &Found, row: Row) {
        let open = self.open.as_mut().expect("a frame is open");
        let body = found.body(&row);
        let at = crate::seal::write_body(open, body);
        let added = open.buf.filled() - at;
        open.bodies += added;
        let off = if body.is_empty() && row.kind != kind::ENTRIES { 0 } else { len_u32(at) };
        open.dir.extend_from_slice(&Row { body_off: off, ..row }.to_bytes());
        let (old, new) = (found.head.lsn, open.lsn);
        let moved = match row.kind {
            kind::ENTRIES => self.index.move_batch(&row, (old, new), off),
            kind::MANIFEST => self.index.move_manifest(row.shard, (old, new)),
            _ => false,
        };
        if moved {
            let open = self.open.as_mut().expect("a frame is open");
            let manifest = row.kind == kind::MANIFEST;
            let bytes = if manifest { 0 } else { u64::from(row.body_len) };
            open.live.manifests += u32::from(manifest);
            open.live.batches += u32::from(!manifest);
            open.live.bytes += bytes;
            self.slots.kill(&Kill { lsn: old, bytes, manifest });
        }
        self.note_staged(added);
    }
}
