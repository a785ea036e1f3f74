//! The disk of a node: files, directories, and the operations in flight on them.
//!
//! ```text
//! write   in flight --completes--> seen, unsettled --sync--> durable     (synced: at once)
//! entry   in flight --completes--> seen, pending ---sync--> durable
//! power   durable = durable + a drawn part of what is unsettled, pending and in flight
//! kill    seen stays; what is in flight lands now, never, or up to 2 s later
//! ```
//!
//! * I1 a sync makes durable what completed before it was called, in the order of completion.
//! * I9 every operation is answered, or its node crashed.

mod act;
mod action;
mod crash;
mod fault;
mod folder;
mod image;

use core::task::Waker;
use std::collections::BTreeMap;

pub(super) use action::{Action, Answer};
pub(super) use crash::{Aftermath, Odds};
pub(super) use fault::{CrashAt, Fate, Injected, Target};
pub(super) use folder::Folder;
pub use image::Keep;
pub(super) use image::{Image, Inode, Page, SECTOR, Tearing};

use super::slab::{Key, Slab};
use super::u64_of;
use crate::{BLOCK, DirFacts, EnvError, Kind, Name};

/// An operation between its start and the moment its answer is taken.
#[derive(Debug)]
pub(super) struct Op {
    /// None once it completed.
    pub(super) action: Option<Action>,
    pub(super) fate: Fate,
    /// When it completes; an event before is one of an earlier plan.
    pub(super) due: u64,
    pub(super) answer: Option<Result<Answer, EnvError>>,
    pub(super) waker: Option<Waker>,
    /// Nobody waits for the answer.
    pub(super) orphan: bool,
}

/// A disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) files: Slab<Inode>,
    /// The data directory itself is `None`.
    pub(super) folders: BTreeMap<Option<Name>, Folder>,
    pub(super) ops: Slab<Op>,
    /// Completions so far.
    pub(super) done: u64,
    /// Operations that change the disk, started so far.
    pub(super) changes: u64,
    pub(super) injected: Injected,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            files: Slab::default(),
            folders: BTreeMap::from([(None, Folder::default())]),
            ops: Slab::default(),
            done: 0,
            changes: 0,
            injected: Injected::default(),
        }
    }

    /// A disk with the durable files of another.
    pub(super) fn copied(from: &Self) -> Self {
        let mut to = Self::new();
        for dir in from.folders.keys().flatten() {
            to.folders.insert(Some(dir.clone()), Folder::default());
        }
        for (name, file) in from.folders.values().flat_map(|folder| &folder.durable) {
            let image = from.files.at(*file).map(|file| file.durable.clone()).unwrap_or_default();
            to.place(name, image);
        }
        to
    }

    /// Operations in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.ops.iter().filter(|(_, op)| op.action.is_some()).count()
    }

    /// Starts an operation.
    pub(super) fn begin(&mut self, action: Action, fate: Fate, due: u64) -> Key {
        if action.changes() {
            self.changes += 1;
        }
        self.ops.insert(Op {
            action: Some(action),
            fate,
            due,
            answer: None,
            waker: None,
            orphan: false,
        })
    }

    /// The directory of a name.
    pub(super) fn folder(&mut self, name: &Name) -> Result<&mut Folder, Kind> {
        self.folders.get_mut(&name.dir()).ok_or(Kind::NotFound)
    }

    /// The file of a name, as programs see it.
    pub(super) fn find(&self, name: &Name) -> Option<Key> {
        self.folders.get(&name.dir())?.seen.get(name).copied()
    }

    /// The file of a name, as the platter has it.
    pub(super) fn find_durable(&self, name: &Name) -> Option<Key> {
        self.folders.get(&name.dir())?.durable.get(name).copied()
    }

    /// Puts a durable file in place, past every rule.
    pub(super) fn place(&mut self, name: &Name, image: Image) {
        let file = self.files.insert(Inode::durable(image));
        let folder = self.folders.entry(name.dir()).or_default();
        folder.settle(u64::MAX);
        folder.seen.insert(name.clone(), file);
        folder.durable.insert(name.clone(), file);
        self.sweep();
    }

    /// Takes a file away, past every rule.
    pub(super) fn take_away(&mut self, name: &Name) {
        if let Ok(folder) = self.folder(name) {
            folder.settle(u64::MAX);
            folder.seen.remove(name);
            folder.durable.remove(name);
        }
        self.sweep();
    }

    /// The `LOCK` file that a claim makes.
    pub(super) fn lock_file(&mut self) {
        let name = Name::of("LOCK");
        if self.find(&name).is_none() {
            self.place(&name, Image::of(b"1\n"));
        }
    }

    /// Whether nothing is there but what an unfinished founding leaves.
    pub(super) fn is_empty(&self) -> bool {
        let files = self.folders[&None].seen.keys();
        let mut names = files.chain(self.folders.keys().flatten());
        names.all(|name| DirFacts::is_of_founding(name.as_str()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(&Name::of(name)).is_some()
    }

    /// Bytes that the files take.
    fn used(&self) -> u64 {
        let blocks = |(key, file): (Key, &Inode)| {
            let named =
                self.folders.values().any(|folder| folder.seen.values().any(|&it| it == key));
            if named || file.opens > 0 { file.seen.blocks() } else { 0 }
        };
        u64_of(self.files.iter().map(blocks).sum::<usize>() * BLOCK)
    }

    /// Bytes left.
    pub(super) fn free(&self) -> u64 {
        self.injected.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Drops the files that nobody can reach any more.
    pub(super) fn sweep(&mut self) {
        let named = |key| self.folders.values().any(|folder| folder.knows(key));
        let lost = self.files.iter().filter(|(key, file)| file.opens == 0 && !named(*key));
        let lost: Vec<_> = lost.map(|(key, _)| key).collect();
        for key in lost {
            self.files.remove(key);
        }
    }

    /// A handle is made.
    pub(super) fn opened(&mut self, file: Key) -> bool {
        self.files.at_mut(file).map(|file| file.opens += 1).is_some()
    }

    /// A handle is gone.
    pub(super) fn closed(&mut self, file: Key) {
        let Some(inode) = self.files.at_mut(file) else { return };
        inode.opens = inode.opens.saturating_sub(1);
        if inode.opens == 0 {
            self.sweep();
        }
    }
}
