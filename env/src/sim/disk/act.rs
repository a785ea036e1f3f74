//! What each operation does to the disk at the moment it completes.

use std::rc::Rc;

use bytes::Bytes;

use super::super::rng::Rng;
use super::super::slab::Key;
use super::super::{u64_of, usize_of};
use super::{Action, Answer, Disk, Fate, Folder, Image, Inode, Page, SECTOR, Tearing};
use crate::{BLOCK, Buf, Kind, Name, SharedBuf};

impl Disk {
    /// Performs an operation. `rng` draws what a failing one leaves behind.
    pub(in super::super) fn act(
        &mut self,
        action: &Action,
        fate: Fate,
        rng: &Rng,
    ) -> Result<Answer, Kind> {
        self.done += 1;
        match action {
            Action::Write { file, first, pages, synced } => {
                self.write((*file, *first), pages, *synced, (fate, rng))
            },
            Action::Read { file, at, len } => self.read(*file, *at, *len, fate),
            Action::Sync { file, mark } => self.sync(*file, *mark, fate, rng),
            Action::SyncDir { dir, mark } => self.sync_dir(dir.as_ref(), *mark, fate),
            Action::WriteWhole { name, content } => self.write_whole(name, content, fate, rng),
            Action::Open { .. }
            | Action::Create { .. }
            | Action::Fill { .. }
            | Action::ReadWhole { .. }
            | Action::MakeDir { .. }
            | Action::Rename { .. }
            | Action::Remove { .. }
            | Action::List { .. }
            | Action::Space
            | Action::Map { .. } => {
                if let Fate::Fails(kind) = fate {
                    return Err(kind);
                }
                self.act_on_names(action)
            },
        }
    }

    fn act_on_names(&mut self, action: &Action) -> Result<Answer, Kind> {
        match action {
            Action::Open { name } => self.find(name).map(Answer::Opened).ok_or(Kind::NotFound),
            Action::Create { name } => self.create(name),
            Action::Fill { name, len, .. } => self.fill(name, *len),
            Action::ReadWhole { name, len_max } => self.read_whole(name, *len_max),
            Action::MakeDir { name } => self.make_dir(name),
            Action::Rename { from, to } => self.rename(from, to),
            Action::Remove { name } => self.remove(name),
            Action::List { dir } => self.list(dir.as_ref()),
            Action::Space => Ok(Answer::Free(self.free())),
            Action::Map { name, at, len } => self.map(name, *at, *len),
            Action::Write { .. }
            | Action::Read { .. }
            | Action::Sync { .. }
            | Action::SyncDir { .. }
            | Action::WriteWhole { .. } => Err(Kind::Unsupported),
        }
    }

    fn write(
        &mut self,
        (file, first): (Key, usize),
        pages: &[Page],
        synced: bool,
        (fate, rng): (Fate, &Rng),
    ) -> Result<Answer, Kind> {
        let done = self.done;
        let (file, first) = match fate {
            Fate::Misdirected => self.astray(file, first, pages.len(), rng),
            Fate::Good | Fate::Lost | Fate::Stale | Fate::Fails(_) => (file, first),
        };
        let Some(inode) = self.files.at_mut(file) else { return Err(Kind::Closed) };
        match fate {
            Fate::Lost => {},
            Fate::Good | Fate::Stale | Fate::Misdirected => {
                inode.land(first, pages, done, synced);
            },
            Fate::Fails(Kind::NoSpace) => return Err(Kind::NoSpace),
            Fate::Fails(kind) => {
                // A write past the end that failed leaves the length alone.
                let inside = inode.seen.blocks().saturating_sub(first).min(pages.len());
                let tearing = Tearing { rng, sectors: true, noise: 10_000_000 };
                let torn = (first..).zip(&pages[..inside]).map(|(at, page)| {
                    let torn = tearing.tear(inode.seen.page(at), page);
                    torn.unwrap_or_else(|| Rc::new([0; BLOCK]))
                });
                let torn: Vec<_> = torn.collect();
                inode.land(first, &torn, done, false);
                return Err(kind);
            },
        }
        Ok(Answer::Done)
    }

    /// Another place where a write of `len` blocks fits.
    fn astray(&self, file: Key, first: usize, len: usize, rng: &Rng) -> (Key, usize) {
        let places: Vec<_> = self
            .files
            .iter()
            .filter(|(_, inode)| inode.seen.blocks() >= len)
            .map(|(key, inode)| (key, inode.seen.blocks() - len + 1))
            .collect();
        if places.is_empty() {
            return (file, first);
        }
        let (other, room) = places[rng.index(places.len())];
        (other, rng.index(room))
    }

    fn read(&self, file: Key, at: u64, len: usize, fate: Fate) -> Result<Answer, Kind> {
        if let Fate::Fails(kind) = fate {
            return Err(kind);
        }
        let inode = self.files.at(file).ok_or(Kind::Closed)?;
        let first = usize_of(at) / BLOCK;
        if inode.bad.range(first..first + len / BLOCK).next().is_some() {
            return Err(Kind::Io);
        }
        let mut buf = Buf::heap(len);
        let out = &mut buf.rest_mut()[..len];
        let found = inode.seen.read(at, out);
        if fate == Fate::Stale {
            for (block, part) in (first..).zip(out[..found].chunks_mut(BLOCK)) {
                match inode.stale(block) {
                    Some(Some(page)) => part.copy_from_slice(&page[..part.len()]),
                    Some(None) => part.fill(0),
                    None => {},
                }
            }
        }
        Ok(Answer::Data(filled(buf, found)))
    }

    fn sync(&mut self, file: Key, mark: u64, fate: Fate, rng: &Rng) -> Result<Answer, Kind> {
        let Some(inode) = self.files.at_mut(file) else { return Err(Kind::Closed) };
        if let Fate::Fails(kind) = fate {
            inode.forget(mark, rng);
            return Err(kind);
        }
        // What completed while the sync ran may be durable as well.
        inode.settle(rng.between(mark, self.done.max(mark)));
        Ok(Answer::Done)
    }

    fn sync_dir(&mut self, dir: Option<&Name>, mark: u64, fate: Fate) -> Result<Answer, Kind> {
        let folder = self.folders.get_mut(&dir.cloned()).ok_or(Kind::NotFound)?;
        if let Fate::Fails(kind) = fate {
            return Err(kind);
        }
        folder.settle(mark);
        self.sweep();
        Ok(Answer::Done)
    }

    fn create(&mut self, name: &Name) -> Result<Answer, Kind> {
        let done = self.done;
        if self.folder(name)?.seen.contains_key(name) {
            return Err(Kind::Exists);
        }
        let file = self.files.insert(Inode::default());
        self.folder(name)?.link(done, name, file);
        Ok(Answer::Opened(file))
    }

    fn fill(&mut self, name: &Name, len: u64) -> Result<Answer, Kind> {
        if self.folder(name)?.seen.contains_key(name) {
            return Err(Kind::Exists);
        }
        if len > self.free() {
            return Err(Kind::NoSpace);
        }
        self.place(name, Image::zeros(len));
        Ok(Answer::Done)
    }

    fn write_whole(
        &mut self,
        name: &Name,
        content: &Bytes,
        fate: Fate,
        rng: &Rng,
    ) -> Result<Answer, Kind> {
        let done = self.done;
        let room = self.free();
        self.folder(name)?;
        if u64_of(content.len()) > room {
            return Err(Kind::NoSpace);
        }
        match fate {
            Fate::Lost | Fate::Misdirected => return Ok(Answer::Done),
            Fate::Good | Fate::Stale => self.place(name, Image::of(content)),
            Fate::Fails(kind) => {
                // The last step, the sync of the directory, may be what failed.
                if kind == Kind::Io && rng.ratio(1, 2) {
                    let file = self.files.insert(Inode::durable(Image::of(content)));
                    self.folder(name)?.link(done, name, file);
                }
                return Err(kind);
            },
        }
        Ok(Answer::Done)
    }

    fn read_whole(&self, name: &Name, len_max: usize) -> Result<Answer, Kind> {
        let inode = self.find(name).and_then(|key| self.files.at(key)).ok_or(Kind::NotFound)?;
        if inode.seen.len() > u64_of(len_max) {
            return Err(Kind::Limit);
        }
        if inode.bad.is_empty() {
            Ok(Answer::Bytes(inode.seen.bytes().into()))
        } else {
            Err(Kind::Io)
        }
    }

    fn make_dir(&mut self, name: &Name) -> Result<Answer, Kind> {
        if self.find(name).is_some() {
            // A file is no directory.
            return Err(Kind::NotFound);
        }
        self.folders.entry(Some(name.clone())).or_default();
        Ok(Answer::Done)
    }

    fn rename(&mut self, from: &Name, to: &Name) -> Result<Answer, Kind> {
        let done = self.done;
        let folder = self.folder(from)?;
        if !folder.seen.contains_key(from) {
            return Err(Kind::NotFound);
        }
        folder.rename(done, from, to);
        self.sweep();
        Ok(Answer::Done)
    }

    fn remove(&mut self, name: &Name) -> Result<Answer, Kind> {
        let done = self.done;
        let folder = self.folder(name)?;
        if !folder.seen.contains_key(name) {
            return Err(Kind::NotFound);
        }
        folder.unlink(done, name);
        self.sweep();
        Ok(Answer::Done)
    }

    fn list(&self, dir: Option<&Name>) -> Result<Answer, Kind> {
        let folder: &Folder = self.folders.get(&dir.cloned()).ok_or(Kind::NotFound)?;
        let len = |file| self.files.at(file).map_or(0, |inode| inode.seen.len());
        let listed = folder.seen.iter().map(|(name, &file)| (name.clone(), len(file)));
        Ok(Answer::Listed(listed.collect()))
    }

    fn map(&self, name: &Name, at: u64, len: usize) -> Result<Answer, Kind> {
        let inode = self.find(name).and_then(|key| self.files.at(key)).ok_or(Kind::NotFound)?;
        if at.checked_add(u64_of(len)).is_none_or(|end| end > inode.seen.len()) {
            return Err(Kind::Io);
        }
        let blocks = usize_of(at) / BLOCK..(usize_of(at) + len).div_ceil(BLOCK);
        if inode.bad.range(blocks).next().is_some() {
            return Err(Kind::Io);
        }
        let mut bytes = vec![0; len];
        inode.seen.read(at, &mut bytes);
        Ok(Answer::Bytes(bytes.into()))
    }

    /// Changes one bit of one block somewhere.
    pub(in super::super) fn rot(&mut self, rng: &Rng) {
        let files = self.files.iter().map(|(key, file)| (key, file.durable.blocks()));
        let files: Vec<_> = files.filter(|(_, blocks)| *blocks > 0).collect();
        if files.is_empty() {
            return;
        }
        let (file, blocks) = files[rng.index(files.len())];
        let (at, byte, kind) = (rng.index(blocks), rng.index(BLOCK), rng.below(10));
        let bit = 1 << rng.below(8);
        let start = byte / SECTOR * SECTOR;
        let noise = rng.bits().to_le_bytes();
        let inode = self.files.at_mut(file).expect("it was just listed");
        inode.damage(at, |block| match kind {
            0 => block[start..start + SECTOR].fill(0),
            1 => block[start..start + SECTOR].chunks_mut(8).for_each(|p| p.copy_from_slice(&noise)),
            _ => block[byte] ^= bit,
        });
    }
}

/// A read buffer with `len` bytes found.
fn filled(mut buf: Buf, len: usize) -> SharedBuf {
    let capacity = buf.capacity();
    buf.fill(len);
    let whole = buf.freeze(capacity);
    if len == capacity { whole } else { whole.slice(0..len) }
}
