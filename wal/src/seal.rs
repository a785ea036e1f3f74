//! Closing a frame: its place, a chunk of the checkpoint, the echoes, the directory.

use bowline_env::Buf;

use crate::checkpoint::{Cursor, SlotState, State, damage_body};
use crate::error::{LogError, StageError};
use crate::field::{len_of, len_u32};
use crate::frame::{COVER, ECHO, FIRST, Head, Row, kind};
use crate::geometry::{HEAD_LEN, RECORD_LEN, SLOT_ROW_LEN, STATE_LEN};
use crate::log::DamageState;
use crate::slots::Life;
use crate::stream::{CHECKPOINT_ROWS, EndMark, Open, Sealed, Stream};

/// Offset of a row's kind and of its flags.
const KIND_AT: usize = 28;
const FLAGS_AT: usize = 29;

impl Stream {
    /// Seals the open frame: from now on its content and place are fixed. `pure`: it was opened
    /// for the checkpoint alone. False: it needs a new slot and none is prepared; nothing changed.
    pub(crate) fn seal(&mut self, pure: bool) -> bool {
        let open = self.open.as_ref().expect("a frame is open");
        let least = open.buf.filled() + open.dir.len() + self.echo.len() + RECORD_LEN + HEAD_LEN;
        let blocks = len_u32(least.div_ceil(self.geometry.block_len()));
        let rolls = self.force_roll || blocks > self.slots.room();
        if rolls && !self.roll(open.lsn) {
            return false;
        }
        let mut open = self.open.take().expect("a frame is open");
        let echoes = len_u32(self.echo.len() / RECORD_LEN);
        if self.checkpoint.is_some() {
            self.add_checkpoint(&mut open, pure);
        }
        let records = len_u32(open.rows());
        open.dir.extend_from_slice(&self.echo);
        let least = open.buf.filled() + open.dir.len() + HEAD_LEN;
        let blocks = len_u32(least.div_ceil(self.geometry.block_len()));
        let (slot_no, epoch, block_no) = self.slots.place(open.lsn, blocks, open.live);
        let len = len_of(blocks) * self.geometry.block_len();
        let dir_off = len - HEAD_LEN - open.dir.len();
        write_dir(&mut open.buf, &open.dir, dir_off);
        let first = if rolls { FIRST } else { 0 };
        let cover = if open.cover && records == 0 { COVER } else { 0 };
        let head = Head {
            flags: first | cover,
            epoch,
            lsn: open.lsn,
            block_no,
            blocks,
            records,
            echoes,
            dir_off: len_u32(dir_off),
            dir_crc: crc32fast::hash(&open.dir),
            ..Head::default()
        };
        open.dir.truncate(len_of(records) * RECORD_LEN);
        self.take_echo(&open.dir);
        self.note_class(open.bodies);
        self.recycle_dir(open.dir);
        self.queue.push_back(Sealed { head, slot_no, buf: open.buf, bodies: open.bodies });
        true
    }

    /// Goes on in the next slot and opens its checkpoint.
    fn roll(&mut self, lsn: u64) -> bool {
        if !self.slots.roll(lsn) {
            let coming = [Life::Free, Life::Preparing]
                .iter()
                .any(|life| self.slots.slots.iter().any(|slot| slot.life == *life));
            let coming = coming || self.slots.may_grow(self.checkpoint.is_some());
            if !coming && self.slots.left() == 0 {
                self.poison(LogError::LogFull);
            }
            return false;
        }
        self.force_roll = false;
        self.gc.restart();
        let damaged = self.index.iter().filter(|log| log.damage == DamageState::Repairing);
        let bytes_max = self.geometry.chunk_max();
        self.checkpoint = Some(Cursor {
            next: 0,
            end: self.index.places(),
            first_lsn: 0,
            epoch: self.slots.active_slot().expect("a roll makes a slot active").epoch,
            damage_bytes: damaged
                .map(|log| damage_body(log.damage, &log.hole_states(), bytes_max).len() + 512)
                .sum(),
        });
        true
    }

    /// The echoes of the next frame: the rows of this one, but for checkpoints.
    fn take_echo(&mut self, dir: &[u8]) {
        self.echo.clear();
        for row in dir.chunks_exact(RECORD_LEN) {
            if !matches!(row[KIND_AT], kind::CHECKPOINT | kind::CHECKPOINT_END) {
                let at = self.echo.len();
                self.echo.extend_from_slice(row);
                self.echo[at + FLAGS_AT] |= ECHO;
            }
        }
    }

    /// Whether the checkpoint must be finished before another frame may take room in the slot.
    pub(crate) fn checkpoint_is_pressed(&self) -> bool {
        let Some(cursor) = &self.checkpoint else { return false };
        let block = self.geometry.block_len();
        let states = len_of(cursor.end - cursor.next) * STATE_LEN + cursor.damage_bytes;
        let end = len_of(self.slots.count()) * SLOT_ROW_LEN;
        let frames = (states + end).div_ceil(self.geometry.cap() / 4) + 1;
        let need = frames * self.geometry.cap() / 2 + 2 * self.geometry.cap();
        len_of(self.slots.room()) * block < need + 2 * self.geometry.cap()
    }

    /// Seals frames that carry the rest of the checkpoint, up to its end.
    pub(crate) fn finish_checkpoint(&mut self) -> Result<(), StageError> {
        while let Some(before) = self.checkpoint {
            self.open_with(0, 0, self.geometry.cap() / 2)?;
            if !self.seal(true) {
                return Err(StageError::Busy);
            }
            if let Some(after) = self.checkpoint {
                let moves = after.next > before.next || after.epoch != before.epoch;
                assert!(moves || after.next == after.end, "each frame takes a state or the end");
            }
        }
        Ok(())
    }

    /// Adds the next states, and the end if it is reached, to a frame that is being sealed.
    fn add_checkpoint(&mut self, open: &mut Open, pure: bool) {
        let mut cursor = self.checkpoint.take().expect("a checkpoint is under way");
        let first = cursor.first_lsn == 0;
        if first {
            cursor.first_lsn = open.lsn;
        }
        let mut room = self.checkpoint_room(open, pure);
        let start = open.buf.filled();
        let mut damaged = Vec::new();
        let mut count = 0;
        while cursor.next < cursor.end && !self.copies {
            let Some(log) = self.index.place(cursor.next) else {
                cursor.next += 1;
                continue;
            };
            let mut cost = STATE_LEN;
            let mut body = Vec::new();
            if log.damage == DamageState::Repairing {
                body = damage_body(log.damage, &log.hole_states(), self.geometry.chunk_max() / 2);
                cost += body.len().next_multiple_of(16);
            }
            if cost > room || damaged.len() + 2 >= CHECKPOINT_ROWS {
                break;
            }
            room -= cost;
            State::of(log).write(&mut open.buf.rest_mut()[..STATE_LEN]);
            open.buf.fill(STATE_LEN);
            if !body.is_empty() {
                damaged.push((log.shard, body));
            }
            count += 1;
            cursor.next += 1;
        }
        if first || count > 0 {
            let len = open.buf.filled() - start;
            let row = Row { kind: kind::CHECKPOINT, count, a: cursor.first_lsn, ..Row::default() };
            push_body(open, row, start, len);
        }
        for (shard, body) in damaged {
            let start = write_body(open, &body);
            push_body(open, Row { shard, kind: kind::DAMAGE, ..Row::default() }, start, body.len());
        }
        self.checkpoint = self.add_end(open, cursor, room);
    }

    /// Adds the end of the checkpoint if every state is written and it fits.
    fn add_end(&mut self, open: &mut Open, cursor: Cursor, room: usize) -> Option<Cursor> {
        let len = len_of(self.slots.count()) * SLOT_ROW_LEN;
        if cursor.next < cursor.end || len > room || self.copies {
            return Some(cursor);
        }
        let start = open.buf.filled();
        let keep_from = self.complete_epoch;
        for (slot_no, slot) in (0..).zip(&self.slots.slots) {
            let row = SlotState::of(slot_no, slot, keep_from);
            row.write(&mut open.buf.rest_mut()[..SLOT_ROW_LEN]);
            open.buf.fill(SLOT_ROW_LEN);
        }
        let count = self.slots.count();
        let row = Row { kind: kind::CHECKPOINT_END, count, a: cursor.first_lsn, ..Row::default() };
        push_body(open, row, start, len);
        let dead = self.dead_slots(keep_from).collect();
        self.ends.push_back(EndMark { lsn: open.lsn, dead });
        self.complete_epoch = cursor.epoch;
        None
    }

    /// Bytes that checkpoint bodies may take in this frame.
    fn checkpoint_room(&self, open: &Open, pure: bool) -> usize {
        let rows = open.dir.len() + self.echo.len() + CHECKPOINT_ROWS * RECORD_LEN;
        let taken = open.buf.filled() + rows + HEAD_LEN;
        let slot = len_of(self.slots.room()) * self.geometry.block_len();
        let share = if pure { self.geometry.cap() / 2 } else { self.geometry.chunk_max() };
        open.buf.capacity().min(slot).saturating_sub(taken).min(share)
    }
}

/// Puts the directory at its place and zero before it.
fn write_dir(buf: &mut Buf, dir: &[u8], dir_off: usize) {
    let filled = buf.filled();
    let rest = buf.rest_mut();
    rest[..dir_off - filled].fill(0);
    rest[dir_off - filled..][..dir.len()].copy_from_slice(dir);
}

/// Copies a body into the frame, 16-aligned; its offset.
pub(crate) fn write_body(open: &mut Open, body: &[u8]) -> usize {
    let start = open.buf.filled();
    let padded = body.len().next_multiple_of(16);
    let rest = open.buf.rest_mut();
    rest[..body.len()].copy_from_slice(body);
    rest[body.len()..padded].fill(0);
    open.buf.fill(padded);
    start
}

/// Adds the row of a body that was written at `start`, with its checksum.
pub(crate) fn push_body(open: &mut Open, row: Row, start: usize, len: usize) {
    let body_crc = crc32fast::hash(&open.buf.share(start..start + len));
    let row = Row { body_off: len_u32(start), body_len: len_u32(len), body_crc, ..row };
    open.dir.extend_from_slice(&row.to_bytes());
}
