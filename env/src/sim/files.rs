//! Files and the data directory, as the code under test sees them.

use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::rc::Rc;

use bytes::Bytes;

use super::disk::{Action, Answer, Page};
use super::env::Place;
use super::slab::Key;
use super::{u64_of, usize_of};
use crate::{BLOCK, Dir, EnvError, File, Kind, Mode, Name, Op, SharedBuf};

/// What the clones of a file share.
struct Handle {
    place: Rc<Place>,
    file: Key,
    name: Name,
    mode: Mode,
    /// A write was dropped in flight.
    poisoned: Cell<bool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.place.live() {
            self.place.node.disk.borrow_mut().closed(self.file);
        }
    }
}

/// An open simulated file.
#[derive(Clone)]
pub struct SimFile {
    handle: Rc<Handle>,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({} {:?})", self.handle.name, self.handle.mode)
    }
}

/// An operation of the disk on its way: pending for ever once its node crashed.
struct Flight {
    place: Rc<Place>,
    op: Option<Key>,
    /// The file that is poisoned if this is dropped before it is done.
    poisons: Option<Rc<Handle>>,
    action: Option<Action>,
}

impl Flight {
    fn new(place: &Rc<Place>, action: Action) -> Self {
        Self { place: Rc::clone(place), op: None, poisons: None, action: Some(action) }
    }
}

impl Future for Flight {
    type Output = Result<Answer, EnvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let inner = Rc::clone(&this.place.inner);
        if !this.place.live() {
            return Poll::Pending;
        }
        if let Some(action) = this.action.take() {
            this.op = Some(inner.disk_begins(&this.place.node, action));
            if !this.place.live() {
                // The crash that a test ordered for this operation.
                return Poll::Pending;
            }
        }
        let Some(op) = this.op else { return Poll::Pending };
        let answer = inner.disk_answer(&this.place.node, op, cx);
        if answer.is_ready() {
            this.op = None;
        }
        answer
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(op) = self.op else { return };
        if !self.place.live() {
            return;
        }
        let unfinished = self.place.node.abandons(op);
        if let Some(handle) = self.poisons.take()
            && unfinished
        {
            handle.poisoned.set(true);
            self.place.inner.dropped_write(&handle.name);
        }
    }
}

impl SimFile {
    fn new(place: &Rc<Place>, file: Key, name: Name, mode: Mode) -> Result<Self, EnvError> {
        if !place.node.disk.borrow_mut().opened(file) {
            return Err(EnvError::new(Op::Open, Kind::NotFound).named(&name));
        }
        let poisoned = Cell::new(false);
        let place = Rc::clone(place);
        Ok(Self { handle: Rc::new(Handle { place, file, name, mode, poisoned }) })
    }

    fn check(&self, op: Op) -> Result<(), EnvError> {
        let kind = if self.handle.poisoned.get() {
            Kind::Poisoned
        } else if op == Op::Write && self.handle.mode == Mode::Read {
            Kind::ReadOnly
        } else {
            return Ok(());
        };
        Err(self.error(op, kind))
    }

    fn error(&self, op: Op, kind: Kind) -> EnvError {
        EnvError::new(op, kind).named(&self.handle.name)
    }

    fn flight(&self, action: Action) -> Flight {
        Flight::new(&self.handle.place, action)
    }

    /// Adds this file's name to an error of an operation on it.
    fn named<T>(&self, result: Result<T, EnvError>) -> Result<T, EnvError> {
        result.map_err(|error| error.named(&self.handle.name))
    }
}

/// Copies what is written into blocks.
fn blocks(bytes: &[u8]) -> Vec<Page> {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    assert!(rest.is_empty(), "a buffer is written in whole blocks");
    blocks.iter().map(|block| Rc::new(*block)).collect()
}

fn align(at: u64, len: usize) -> usize {
    assert!(at.is_multiple_of(u64_of(BLOCK)), "an offset is a multiple of the block (env I1)");
    assert!(len.is_multiple_of(BLOCK), "a length is a multiple of the block (env I1)");
    assert!(len > 0, "there is something to read or write");
    usize_of(at) / BLOCK
}

impl File for SimFile {
    fn block(&self) -> usize {
        BLOCK
    }

    fn write_at(
        &self,
        buf: SharedBuf,
        at: u64,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        let first = align(at, buf.len());
        assert!(buf.is_whole(), "a whole buffer is written");
        let this = self.clone();
        async move {
            this.check(Op::Write)?;
            let synced = this.handle.mode == Mode::WriteSynced;
            let pages = blocks(&buf);
            let file = this.handle.file;
            let mut flight = this.flight(Action::Write { file, first, pages, synced });
            flight.poisons = Some(Rc::clone(&this.handle));
            let written = flight.await;
            // The buffer is in flight until here.
            drop(buf);
            this.named(written).map(|_| ())
        }
    }

    fn read_at(
        &self,
        at: u64,
        len: usize,
    ) -> impl Future<Output = Result<SharedBuf, EnvError>> + 'static {
        align(at, len);
        let this = self.clone();
        async move {
            this.check(Op::Read)?;
            let read = this.flight(Action::Read { file: this.handle.file, at, len }).await;
            if let Answer::Data(data) = this.named(read)? {
                Ok(data)
            } else {
                Err(this.error(Op::Read, Kind::Unsupported))
            }
        }
    }

    fn sync(&self) -> impl Future<Output = Result<(), EnvError>> + 'static {
        let this = self.clone();
        async move {
            this.check(Op::Sync)?;
            let mark = this.handle.place.node.disk.borrow().done;
            let synced = this.flight(Action::Sync { file: this.handle.file, mark }).await;
            this.named(synced).map(|_| ())
        }
    }

    async fn close(self) -> Result<(), EnvError> {
        let closed = self.check(Op::Close);
        drop(self);
        closed
    }
}

/// The simulated data directory.
#[derive(Clone)]
pub struct SimDir {
    place: Rc<Place>,
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDir(node {})", self.place.node.id)
    }
}

impl SimDir {
    pub(super) fn new(place: &Rc<Place>) -> Self {
        Self { place: Rc::clone(place) }
    }

    fn flight(&self, action: Action) -> Flight {
        Flight::new(&self.place, action)
    }

    /// An operation that gives nothing.
    fn done(&self, action: Action) -> impl Future<Output = Result<(), EnvError>> + 'static {
        let flight = self.flight(action);
        async move { flight.await.map(|_| ()) }
    }

    /// An operation that gives an open file.
    fn file(
        &self,
        name: &Name,
        mode: Mode,
        action: Action,
    ) -> impl Future<Output = Result<SimFile, EnvError>> + 'static {
        let (place, name) = (Rc::clone(&self.place), name.clone());
        let flight = self.flight(action);
        async move {
            if let Answer::Opened(file) = flight.await? {
                SimFile::new(&place, file, name, mode)
            } else {
                Err(EnvError::new(Op::Open, Kind::Unsupported).named(&name))
            }
        }
    }

    /// An operation that gives bytes.
    fn bytes(
        &self,
        name: &Name,
        op: Op,
        action: Action,
    ) -> impl Future<Output = Result<Bytes, EnvError>> + 'static {
        let (flight, name) = (self.flight(action), name.clone());
        async move {
            if let Answer::Bytes(bytes) = flight.await? {
                Ok(bytes)
            } else {
                Err(EnvError::new(op, Kind::Unsupported).named(&name))
            }
        }
    }
}

impl Dir for SimDir {
    type File = SimFile;

    fn open(
        &self,
        name: &Name,
        mode: Mode,
    ) -> impl Future<Output = Result<SimFile, EnvError>> + 'static {
        self.file(name, mode, Action::Open { name: name.clone() })
    }

    fn create(
        &self,
        name: &Name,
        mode: Mode,
    ) -> impl Future<Output = Result<SimFile, EnvError>> + 'static {
        self.file(name, mode, Action::Create { name: name.clone() })
    }

    fn create_filled(
        &self,
        name: &Name,
        len: u64,
        rate: u64,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        self.done(Action::Fill { name: name.clone(), len, rate })
    }

    fn write_whole(
        &self,
        name: &Name,
        content: Bytes,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        self.done(Action::WriteWhole { name: name.clone(), content })
    }

    fn read_whole(
        &self,
        name: &Name,
        len_max: usize,
    ) -> impl Future<Output = Result<Bytes, EnvError>> + 'static {
        self.bytes(name, Op::Read, Action::ReadWhole { name: name.clone(), len_max })
    }

    fn make_dir(&self, name: &Name) -> impl Future<Output = Result<(), EnvError>> + 'static {
        assert!(name.dir().is_none(), "directories are one level deep");
        self.done(Action::MakeDir { name: name.clone() })
    }

    fn rename(
        &self,
        from: &Name,
        to: &Name,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        assert!(from.dir() == to.dir(), "a rename stays within one directory");
        self.done(Action::Rename { from: from.clone(), to: to.clone() })
    }

    fn remove(&self, name: &Name) -> impl Future<Output = Result<(), EnvError>> + 'static {
        self.done(Action::Remove { name: name.clone() })
    }

    fn sync(&self, dir: Option<&Name>) -> impl Future<Output = Result<(), EnvError>> + 'static {
        let (this, dir) = (self.clone(), dir.cloned());
        async move {
            let mark = this.place.node.disk.borrow().done;
            this.flight(Action::SyncDir { dir, mark }).await.map(|_| ())
        }
    }

    fn list(
        &self,
        dir: Option<&Name>,
    ) -> impl Future<Output = Result<Vec<(Name, u64)>, EnvError>> + 'static {
        let flight = self.flight(Action::List { dir: dir.cloned() });
        async move {
            if let Answer::Listed(names) = flight.await? {
                Ok(names)
            } else {
                Err(EnvError::new(Op::List, Kind::Unsupported))
            }
        }
    }

    fn free_space(&self) -> impl Future<Output = Result<u64, EnvError>> + 'static {
        let flight = self.flight(Action::Space);
        async move {
            if let Answer::Free(bytes) = flight.await? {
                Ok(bytes)
            } else {
                Err(EnvError::new(Op::Space, Kind::Unsupported))
            }
        }
    }

    fn map(
        &self,
        name: &Name,
        at: u64,
        len: usize,
    ) -> impl Future<Output = Result<Bytes, EnvError>> + 'static {
        assert!(at.is_multiple_of(u64_of(BLOCK)), "a mapping starts at a block (env I1)");
        self.bytes(name, Op::Map, Action::Map { name: name.clone(), at, len })
    }
}
