//! A stream in memory: what is staged, what may be written next, what is durable. No I/O.
//!
//! ```text
//! stage -> open frame -> (full, or its turn) seal -> queue -> next_write -> in flight -> durable
//! ```
//!
//! * I1 a block is written once per epoch: `SlotTable::place` gives each block out once.
//! * I2 `durable` never falls and is below every frame in flight.
//! * I3 `synced` is `durable` when a frame is built; non-decreasing.
//! * I9 nothing is written after `Poisoned`.
//! * I13 no frame is issued beyond `durable` + 2.
//!
//! A chunk of a checkpoint is taken when a frame is sealed: then the index is exactly what the
//! frames up to this one say.

use std::collections::VecDeque;

use bowline_env::{Buf, EnvError, Millis, Nanos, SharedBuf};
use bowline_raft::Lsn;

use crate::cache::Cache;
use crate::checkpoint::Cursor;
use crate::error::{LogError, StageError};
use crate::field::{len_of, len_u64};
use crate::forward::has_rows;
use crate::frame::{BOOT, COVER, Copy2, Head};
use crate::geometry::{Geometry, HEAD_LEN, RECORD_LEN};
use crate::index::Index;
use crate::options::WalOptions;
use crate::scan::Found;
use crate::shard::Kill;
use crate::slots::{Live, SlotTable};

/// Rows that a checkpoint may add to a frame.
pub(crate) const CHECKPOINT_ROWS: usize = 12;
/// Smallest buffer class of a frame.
const CLASS_MIN: usize = 64 * 1024;
/// Frames under a quarter of their class before the class is halved.
const CLASS_STREAK: u32 = 16;

/// Where buffers of frames come from.
pub(crate) type Buffers = Box<dyn Fn(usize) -> Result<Buf, EnvError>>;

/// The frame being filled.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) lsn: u64,
    pub(crate) buf: Buf,
    /// Rows so far.
    pub(crate) dir: Vec<u8>,
    /// Bytes kept free behind bodies and rows: echoes, checkpoint, trailer.
    pub(crate) reserve: usize,
    pub(crate) bodies: usize,
    /// Something in it waits for the disk.
    pub(crate) needs: bool,
    pub(crate) cover: bool,
    pub(crate) live: Live,
}

impl Open {
    pub(crate) fn rows(&self) -> usize {
        self.dir.len() / RECORD_LEN
    }

    pub(crate) fn fits(&self, len: usize, rows: usize, geometry: &Geometry) -> bool {
        let end = self.buf.filled() + len + self.dir.len() + rows * RECORD_LEN + self.reserve;
        let rows_fit = self.rows() + rows <= geometry.records_max();
        let bodies_fit = self.bodies == 0 || self.bodies + len <= geometry.cap();
        rows_fit && bodies_fit && end <= self.buf.capacity()
    }
}

/// A frame whose content and place are fixed; its head is written when it is issued.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) head: Head,
    pub(crate) slot_no: u32,
    pub(crate) buf: Buf,
    pub(crate) bodies: usize,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    lsn: u64,
    issued: Nanos,
    done: bool,
    bodies: usize,
}

/// The end of a checkpoint: once durable, these slots are free.
#[derive(Debug)]
pub(crate) struct EndMark {
    pub(crate) lsn: u64,
    pub(crate) dead: Vec<u32>,
}

/// A frame to be written, whole, at a place nobody else writes.
#[derive(Debug)]
pub(crate) struct WriteOp {
    pub(crate) lsn: u64,
    pub(crate) slot_no: u32,
    pub(crate) at: u64,
    pub(crate) buf: SharedBuf,
}

/// Where a stream goes on from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// First number of this life.
    pub(crate) lsn: u64,
    /// The last frame kept where it lies, and its header's checksum.
    pub(crate) cut: u64,
    pub(crate) cut_crc: u32,
    pub(crate) boot: u64,
    pub(crate) tag: u64,
    /// Epoch of the slot of the newest complete checkpoint.
    pub(crate) complete_epoch: u64,
}

/// One stream.
pub(crate) struct Stream {
    pub(crate) geometry: Geometry,
    pub(crate) options: WalOptions,
    pub(crate) index: Index,
    pub(crate) slots: SlotTable,
    pub(crate) cache: Cache,
    buffers: Buffers,
    pub(crate) open: Option<Open>,
    pub(crate) queue: VecDeque<Sealed>,
    flight: VecDeque<Flight>,
    pub(crate) start: Start,
    next_lsn: u64,
    durable: u64,
    built_crc: u32,
    /// Rows of the last sealed frame, as echoes.
    pub(crate) echo: Vec<u8>,
    pub(crate) checkpoint: Option<Cursor>,
    /// Copies come before the states of the checkpoint.
    pub(crate) copies: bool,
    pub(crate) ends: VecDeque<EndMark>,
    pub(crate) complete_epoch: u64,
    pub(crate) force_roll: bool,
    pub(crate) kills: Vec<Kill>,
    spare_dir: Vec<u8>,
    class: usize,
    streak: u32,
    staged: usize,
    poisoned: Option<LogError>,
    draining: bool,
    /// Last frame that wants to be covered, and the highest `synced` that was built.
    cover_target: u64,
    synced: u64,
    last_done: Nanos,
    frames: u64,
    bytes: u64,
    pub(crate) gc: crate::gc::Sweep,
}

impl core::fmt::Debug for Stream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stream")
            .field("next_lsn", &self.next_lsn)
            .field("durable", &self.durable)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(
        geometry: Geometry,
        options: WalOptions,
        (index, slots): (Index, SlotTable),
        start: Start,
        buffers: Buffers,
    ) -> Self {
        Self {
            geometry,
            options,
            index,
            slots,
            cache: Cache::new(options.cache_bytes, start.lsn),
            buffers,
            open: None,
            queue: VecDeque::new(),
            flight: VecDeque::new(),
            start,
            next_lsn: start.lsn,
            durable: start.lsn - 1,
            built_crc: start.cut_crc,
            echo: Vec::new(),
            checkpoint: None,
            copies: false,
            ends: VecDeque::new(),
            complete_epoch: start.complete_epoch,
            force_roll: false,
            kills: Vec::new(),
            spare_dir: Vec::new(),
            class: CLASS_MIN.min(geometry.cap()),
            streak: 0,
            staged: 0,
            poisoned: None,
            draining: false,
            cover_target: 0,
            synced: 0,
            last_done: Nanos(0),
            frames: 0,
            bytes: 0,
            gc: crate::gc::Sweep::default(),
        }
    }

    /// Stages this life's first frames: BOOT, copies of `frames`, the whole checkpoint, and one
    /// that covers them. The number of the last. Each must be durable before the next is issued.
    ///
    /// # Errors
    ///
    /// No slot is prepared, or no memory.
    pub(crate) fn stage_boot(&mut self, frames: &[Found]) -> Result<Lsn, StageError> {
        self.force_roll = true;
        // The states come behind the copies: each is true at its own frame.
        self.copies = frames.iter().any(has_rows);
        self.open_frame(0, 0)?;
        if !self.seal(true) {
            return Err(StageError::Full);
        }
        if core::mem::take(&mut self.copies) {
            self.copy_forward(frames)?;
        }
        self.finish_checkpoint()?;
        self.open_with(0, 0, 0)?;
        self.open.as_mut().expect("it was opened").cover = true;
        if !self.seal(false) {
            return Err(StageError::Full);
        }
        Ok(Lsn(self.next_lsn - 1))
    }

    /// The next frame to write, if one may be written now.
    pub(crate) fn next_write(&mut self, now: Nanos, wall: Millis) -> Option<WriteOp> {
        if self.poisoned.is_some() {
            return None; // (I9)
        }
        if self.queue.is_empty() {
            self.seal_if_due(now)?;
        }
        let front = self.queue.front()?;
        if front.head.lsn > self.durable + 2 {
            return None; // (I13)
        }
        let sealed = self.queue.pop_front().expect("there is a front");
        Some(self.build(sealed, now, wall))
    }

    /// Seals a frame that something waits for, one at a time.
    fn seal_if_due(&mut self, now: Nanos) -> Option<()> {
        let needs = self.open.as_ref().is_some_and(|open| open.needs);
        let drains = self.draining && self.open.is_some();
        let covers = self.wants_cover(now);
        self.force_roll |= self.wants_roll();
        let due = needs || drains || covers || self.force_roll || self.wants_chunk();
        let next = self.open.as_ref().map_or(self.next_lsn, |open| open.lsn);
        if !due || next > self.durable + 1 {
            return None;
        }
        if self.open.is_none() {
            self.open_frame(0, 0).ok()?;
        }
        if self.queue.is_empty() {
            let only_covers = covers && !needs && !self.force_roll;
            self.open.as_mut().expect("a frame is open").cover = only_covers;
            self.seal(false).then_some(())?;
        }
        Some(())
    }

    fn build(&mut self, sealed: Sealed, now: Nanos, wall: Millis) -> WriteOp {
        let Sealed { mut head, slot_no, mut buf, bodies } = sealed;
        let lsn = head.lsn;
        let first_of_life = lsn == self.start.lsn;
        assert!(self.synced <= self.durable, "synced does not fall (I3)");
        head.synced = self.durable;
        head.prev_lsn = if first_of_life { self.start.cut } else { lsn - 1 };
        head.prev_crc = self.built_crc;
        head.boot = self.start.boot;
        head.tag = self.start.tag;
        head.wall_ms = wall.0;
        if first_of_life {
            head.flags |= BOOT;
        }
        self.built_crc = head.crc();
        self.synced = self.durable;
        if head.flags & COVER == 0 {
            self.cover_target = lsn;
        }
        let capacity = buf.capacity();
        let len = head.len(self.geometry.block_len());
        let filled = buf.filled();
        buf.head_mut()[..HEAD_LEN].copy_from_slice(&head.to_bytes(Copy2::Header));
        let trailer = len - HEAD_LEN - filled;
        buf.rest_mut()[trailer..trailer + HEAD_LEN].copy_from_slice(&head.to_bytes(Copy2::Trailer));
        let buf = buf.freeze(len);
        self.cache.push(lsn, (bodies > 0).then(|| buf.clone()), capacity);
        self.cache.trim(self.durable);
        self.flight.push_back(Flight { lsn, issued: now, done: false, bodies });
        let at = u64::from(head.block_no) * u64::from(self.geometry.block);
        self.frames += 1;
        self.bytes += len_u64(len);
        WriteOp { lsn, slot_no, at, buf }
    }

    /// A frame is on stable media. True: `durable` moved.
    pub(crate) fn handle_written(&mut self, lsn: u64, now: Nanos) -> bool {
        let flight = self.flight.iter_mut().find(|flight| flight.lsn == lsn);
        flight.expect("a frame that completes was in flight").done = true;
        let before = self.durable;
        while let Some(front) = self.flight.front()
            && front.done
        {
            assert!(front.lsn == self.durable + 1, "durable is a contiguous prefix (I2)");
            self.durable = front.lsn;
            self.staged -= front.bodies;
            self.flight.pop_front();
        }
        if self.durable == before {
            return false;
        }
        self.last_done = now;
        while let Some(mark) = self.ends.front()
            && mark.lsn <= self.durable
        {
            let mark = self.ends.pop_front().expect("there is a front");
            mark.dead.iter().for_each(|slot_no| self.slots.free(*slot_no));
        }
        self.cache.trim(self.durable);
        true
    }

    /// Slots that a checkpoint written now frees: one that is under way may have some already.
    pub(crate) fn dead_slots(&self, keep_from: u64) -> impl Iterator<Item = u32> + '_ {
        let taken = |slot_no: &u32| self.ends.iter().any(|mark| mark.dead.contains(slot_no));
        self.slots.dead(keep_from).filter(move |slot_no| !taken(slot_no))
    }

    /// The stream writes nothing more. The first cause is kept.
    pub(crate) fn poison(&mut self, cause: LogError) {
        self.poisoned.get_or_insert(cause);
    }

    /// Writes what is staged also where nobody waits for it, and covers it.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    pub(crate) fn is_drained(&self) -> bool {
        let written = self.open.is_none() && self.queue.is_empty() && self.flight.is_empty();
        written && self.cover_target <= self.synced
    }

    pub(crate) fn poisoned(&self) -> Option<LogError> {
        self.poisoned
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.durable)
    }

    pub(crate) fn counters(&self) -> crate::wal::WalCounters {
        crate::wal::WalCounters {
            frames: self.frames,
            bytes: self.bytes,
            slots_used: self.slots.used(),
            slots: self.slots.count(),
            slots_max: self.slots.slots_max,
            shards: len_u64(self.index.len()),
            batches: self.index.extents,
        }
    }

    /// When the oldest write in flight was issued.
    pub(crate) fn oldest_write(&self) -> Option<Nanos> {
        self.flight.front().map(|flight| flight.issued)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// When the last frame is to be covered, if it is not yet.
    pub(crate) fn cover_at(&self) -> Option<Nanos> {
        let quiet = self.flight.is_empty() && self.queue.is_empty();
        let due = quiet && self.cover_target > self.synced && self.poisoned.is_none();
        due.then(|| self.last_done.after(self.options.cover_after))
    }

    fn wants_cover(&self, now: Nanos) -> bool {
        self.cover_at().is_some_and(|at| self.draining || now >= at)
    }

    /// A checkpoint is under way that slots wait for.
    fn wants_chunk(&self) -> bool {
        self.checkpoint.is_some() && self.slots.used_permille() >= 500
    }

    /// The bytes of a batch that are in memory.
    pub(crate) fn body(&self, lsn: u64, off: u32, len: u32) -> Option<SharedBuf> {
        let range = len_of(off)..len_of(off) + len_of(len);
        if let Some(open) = &self.open
            && open.lsn == lsn
        {
            return Some(open.buf.share(range));
        }
        if let Some(front) = self.queue.front()
            && lsn >= front.head.lsn
        {
            let nth = usize::try_from(lsn - front.head.lsn).ok()?;
            return Some(self.queue.get(nth)?.buf.share(range));
        }
        Some(self.cache.frame(lsn)?.slice(range))
    }

    /// Opens the next frame with room for `len` bytes of bodies and `rows` rows.
    pub(crate) fn open_frame(&mut self, len: usize, rows: usize) -> Result<(), StageError> {
        assert!(self.open.is_none(), "one frame is open at a time");
        if self.checkpoint_is_pressed() {
            self.finish_checkpoint()?;
        }
        let chunk = if self.checkpoint.is_some() { self.geometry.chunk_max() } else { 0 };
        self.open_with(len, rows, chunk)
    }

    /// The same with `chunk` bytes kept for the checkpoint.
    pub(crate) fn open_with(
        &mut self,
        len: usize,
        rows: usize,
        chunk: usize,
    ) -> Result<(), StageError> {
        let reserve = HEAD_LEN + self.echo.len() + CHECKPOINT_ROWS * RECORD_LEN + chunk;
        let need = HEAD_LEN + len.max(self.class) + rows * RECORD_LEN + reserve;
        let capacity = need.next_multiple_of(self.geometry.block_len());
        let Ok(mut buf) = (self.buffers)(capacity) else { return Err(StageError::Busy) };
        buf.reserve_head(HEAD_LEN);
        let mut dir = core::mem::take(&mut self.spare_dir);
        dir.clear();
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        self.open = Some(Open {
            lsn,
            buf,
            dir,
            reserve,
            bodies: 0,
            needs: false,
            cover: false,
            live: Live::default(),
        });
        Ok(())
    }

    /// A buffer filled before it was written: the next is twice as large.
    pub(crate) fn grow_class(&mut self) {
        self.class = (self.class * 2).min(self.geometry.cap());
        self.streak = 0;
    }

    /// Halves the class after a streak of nearly empty frames.
    pub(crate) fn note_class(&mut self, bodies: usize) {
        self.streak = if bodies < self.class / 4 { self.streak + 1 } else { 0 };
        if self.streak >= CLASS_STREAK {
            self.class = (self.class / 2).max(CLASS_MIN.min(self.geometry.cap()));
            self.streak = 0;
        }
    }

    pub(crate) fn recycle_dir(&mut self, dir: Vec<u8>) {
        self.spare_dir = dir;
    }

    pub(crate) fn staged(&self) -> usize {
        self.staged
    }

    pub(crate) fn note_staged(&mut self, bodies: usize) {
        self.staged += bodies;
    }
}
