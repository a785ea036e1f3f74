//! What the tasks of a stream share, and its files.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use bowline_env::{Bell, Dir, Env, EnvError, File, Kind, Mode, Name, SharedBuf};
use bowline_raft::Lsn;

use crate::error::LogError;
use crate::geometry::Geometry;
use crate::head::{SlotHead, Super, SuperCopy, SyncMode, slot_file};
use crate::scan::SlotRead;
use crate::stream::Stream;
use crate::wake::Wake;

/// One stream on a machine.
pub(crate) struct Shared<E: Env> {
    pub(crate) env: E,
    pub(crate) dir: Name,
    pub(crate) geometry: Geometry,
    pub(crate) stream: RefCell<Stream>,
    pub(crate) files: Files<E>,
    pub(crate) superblock: RefCell<SuperFile<E>>,
    pub(crate) sync: SyncMode,
    pub(crate) signal: Bell,
    pub(crate) writer: Wake,
    pub(crate) keeper: Wake,
    pub(crate) preparer: Wake,
    pub(crate) closer: Wake,
    /// The log is gone: tasks end once nothing of theirs is in flight.
    pub(crate) stopped: Cell<bool>,
    /// Tasks that have not ended.
    pub(crate) tasks: Cell<u32>,
    pub(crate) stalled: Cell<bool>,
    /// The slot that was made last; the superblock may not count it yet.
    pub(crate) uncounted: Cell<Option<u32>>,
    /// Written and not yet synced: frame and slot. Fdatasync only.
    pub(crate) unsynced: RefCell<Vec<(u64, u32)>>,
}

impl<E: Env> Shared<E> {
    /// The stream writes nothing more; whoever waits for it is told.
    pub(crate) fn poison(&self, cause: LogError) {
        self.stream.borrow_mut().poison(cause);
        self.tell();
    }

    /// `durable` or the health moved.
    pub(crate) fn tell(&self) {
        self.signal.ring();
        self.keeper.call();
        self.preparer.call();
        self.closer.call();
    }

    /// Frame `lsn` is on stable media.
    pub(crate) fn written(&self, lsn: u64) {
        let now = self.env.now();
        if self.stream.borrow_mut().handle_written(lsn, now) {
            self.tell();
        }
    }

    /// A task ended.
    pub(crate) fn leave(&self) {
        self.tasks.set(self.tasks.get() - 1);
        self.closer.call();
    }

    pub(crate) fn mode(&self) -> Mode {
        mode_of(self.sync)
    }

    /// Writes the header of a slot that is being prepared; the slot's file is made anew if it is
    /// missing or too short.
    pub(crate) async fn prepare(&self, slot_no: u32) -> Result<(), EnvError> {
        let file = match self.files.slot(slot_no) {
            Some(file) => file,
            None => self.make_slot(slot_no).await?,
        };
        let superblock = self.superblock.borrow().current;
        let like = SlotHead {
            slot_no,
            uuid: superblock.uuid,
            epoch: 0,
            boot: superblock.boot,
            block: self.geometry.block,
            slot_bytes: self.geometry.slot_bytes,
            wall_ms: self.env.wall().0,
            life_lsn: self.stream.borrow().start.lsn,
            life_cut: self.stream.borrow().start.cut,
        };
        let head = self.stream.borrow().slots.header(slot_no, like);
        let len = self.geometry.block_len();
        let mut buf = self.env.buffer(len)?;
        head.write(&mut buf.rest_mut()[..len]);
        buf.fill(len);
        file.write_at(buf.freeze(len), 0).await?;
        if self.sync == SyncMode::Fdatasync {
            file.sync().await?;
        }
        Ok(())
    }

    /// Makes a slot file, over what may be there under its name.
    pub(crate) async fn make_slot(&self, slot_no: u32) -> Result<E::File, EnvError> {
        let name = self.dir.join(&slot_file(slot_no));
        let (dir, rate) = (self.env.dir(), self.stream.borrow().options.fill_rate);
        match dir.create_filled(&name, self.geometry.slot_bytes, rate).await {
            Err(error) if error.kind == Kind::Exists => {
                dir.remove(&name).await?;
                dir.create_filled(&name, self.geometry.slot_bytes, rate).await?;
            },
            other => other?,
        }
        let file = dir.open(&name, self.mode()).await?;
        self.files.put(slot_no, file.clone());
        Ok(file)
    }

    /// Notes that the stream was closed cleanly at `lsn`: no write of this life is left.
    pub(crate) async fn mark_clean(&self, lsn: Lsn) -> Result<(), EnvError> {
        let quiet = self.stream.borrow().slots.quiet_at.is_none();
        let mark = |superblock: &mut Super| {
            superblock.clean_lsn = lsn.0;
            if quiet {
                superblock.quiet_boot = superblock.boot;
            }
        };
        self.write_super(mark).await
    }

    /// Writes the superblock with a change.
    pub(crate) async fn write_super(
        &self,
        change: impl FnOnce(&mut Super),
    ) -> Result<(), EnvError> {
        let (next, copy, file) = {
            let held = self.superblock.borrow();
            let mut next = held.current;
            change(&mut next);
            if self.stream.borrow().slots.quiet_at.is_none() {
                next.quiet_boot = next.quiet_boot.max(next.boot.saturating_sub(1));
            }
            next.sequence += 1;
            let copy = held.copy.other();
            (next, copy, held.file(copy).clone())
        };
        self.put_super(&next, &file).await?;
        let mut held = self.superblock.borrow_mut();
        held.current = next;
        held.copy = copy;
        Ok(())
    }

    /// Writes the superblock that stands in the newer copy there once more, the other copy being
    /// valid. What was read of the newer may be in the device's cache only, and after a sync that
    /// failed no later one makes that durable: until it is, a power loss leaves the other alone.
    pub(crate) async fn settle_super(&self) -> Result<(), EnvError> {
        if self.sync == SyncMode::Dsync {
            return Ok(());
        }
        let (current, file) = {
            let held = self.superblock.borrow();
            (held.current, held.file(held.copy).clone())
        };
        self.put_super(&current, &file).await
    }

    async fn put_super(&self, superblock: &Super, file: &E::File) -> Result<(), EnvError> {
        let len = self.geometry.block_len();
        let mut buf = self.env.buffer(len)?;
        let bytes = superblock.to_bytes();
        buf.rest_mut()[..bytes.len()].copy_from_slice(&bytes);
        buf.rest_mut()[bytes.len()..len].fill(0);
        buf.fill(len);
        file.write_at(buf.freeze(len), 0).await?;
        if self.sync == SyncMode::Fdatasync {
            file.sync().await?;
        }
        Ok(())
    }
}

pub(crate) fn mode_of(sync: SyncMode) -> Mode {
    match sync {
        SyncMode::Dsync => Mode::WriteSynced,
        SyncMode::Fdatasync => Mode::Write,
    }
}

/// The two superblock files and what stands in the newer.
pub(crate) struct SuperFile<E: Env> {
    pub(crate) current: Super,
    pub(crate) copy: SuperCopy,
    pub(crate) a: E::File,
    pub(crate) b: E::File,
}

impl<E: Env> SuperFile<E> {
    fn file(&self, copy: SuperCopy) -> &E::File {
        match copy {
            SuperCopy::A => &self.a,
            SuperCopy::B => &self.b,
        }
    }
}

/// The slot files that are whole.
pub(crate) struct Files<E: Env> {
    slots: RefCell<Vec<Option<E::File>>>,
}

impl<E: Env> Files<E> {
    pub(crate) fn new(slots: Vec<Option<E::File>>) -> Self {
        Self { slots: RefCell::new(slots) }
    }

    pub(crate) fn slot(&self, slot_no: u32) -> Option<E::File> {
        let at = usize::try_from(slot_no).expect("usize holds a u32");
        self.slots.borrow().get(at).cloned().flatten()
    }

    fn put(&self, slot_no: u32, file: E::File) {
        let at = usize::try_from(slot_no).expect("usize holds a u32");
        let mut slots = self.slots.borrow_mut();
        if at >= slots.len() {
            slots.resize(at + 1, None);
        }
        slots[at] = Some(file);
    }

    pub(crate) fn take_all(&self) -> Vec<E::File> {
        self.slots.borrow_mut().drain(..).flatten().collect()
    }
}

/// The slot files of a stream being opened, whole or not.
pub(crate) struct OpenSlots<E: Env> {
    pub(crate) files: Vec<Option<E::File>>,
}

impl<E: Env> SlotRead for OpenSlots<E> {
    async fn read(&self, slot_no: u32, at: u64, len: usize) -> Result<SharedBuf, Kind> {
        let nth = usize::try_from(slot_no).expect("usize holds a u32");
        let Some(file) = self.files.get(nth).cloned().flatten() else {
            return Err(Kind::NotFound);
        };
        file.read_at(at, len).await.map_err(|error| error.kind)
    }
}

/// A shared stream.
pub(crate) type Ref<E> = Rc<Shared<E>>;
