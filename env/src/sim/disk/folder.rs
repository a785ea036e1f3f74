//! The entries of one directory: as programs see them, as they stand on the platter, and the
//! changes between the two.

use std::collections::{BTreeMap, VecDeque};

use super::super::rng::Rng;
use super::super::slab::Key;
use crate::Name;

#[derive(Clone, Debug)]
enum Change {
    Link(Name, Key),
    Unlink(Name),
    Rename(Name, Name),
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<Name, Key>) {
        match self {
            Self::Link(name, file) => {
                entries.insert(name.clone(), *file);
            },
            Self::Unlink(name) => {
                entries.remove(name);
            },
            Self::Rename(from, to) => {
                if let Some(file) = entries.remove(from) {
                    entries.insert(to.clone(), file);
                }
            },
        }
    }
}

/// A directory.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Folder {
    /// What programs find.
    pub(in super::super) seen: BTreeMap<Name, Key>,
    /// What a power loss leaves at least.
    pub(in super::super) durable: BTreeMap<Name, Key>,
    pending: VecDeque<(u64, Change)>,
}

impl Folder {
    fn change(&mut self, done: u64, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push_back((done, change));
    }

    pub(in super::super) fn link(&mut self, done: u64, name: &Name, file: Key) {
        self.change(done, Change::Link(name.clone(), file));
    }

    pub(in super::super) fn unlink(&mut self, done: u64, name: &Name) {
        self.change(done, Change::Unlink(name.clone()));
    }

    pub(in super::super) fn rename(&mut self, done: u64, from: &Name, to: &Name) {
        self.change(done, Change::Rename(from.clone(), to.clone()));
    }

    /// Makes the changes up to `mark` durable.
    pub(in super::super) fn settle(&mut self, mark: u64) {
        while self.pending.front().is_some_and(|(done, _)| *done <= mark) {
            if let Some((_, change)) = self.pending.pop_front() {
                change.apply(&mut self.durable);
            }
        }
    }

    /// The power goes: a prefix of the changes, or any subset of them, survives.
    pub(in super::super) fn lose_power(&mut self, rng: &Rng, scatter: bool) {
        let pending = core::mem::take(&mut self.pending);
        let prefix = rng.below(super::super::u64_of(pending.len()) + 1);
        for (at, (_, change)) in (0..).zip(&pending) {
            if if scatter { rng.ratio(1, 2) } else { at < prefix } {
                change.apply(&mut self.durable);
            }
        }
        self.seen = self.durable.clone();
    }

    /// The power goes, and nothing that was not synced survives.
    pub(in super::super) fn lose_changes(&mut self) {
        self.pending.clear();
        self.seen = self.durable.clone();
    }

    /// Whether a file has, had or may get a name here.
    pub(in super::super) fn knows(&self, file: Key) -> bool {
        let linked =
            |(_, change): &(u64, Change)| matches!(change, Change::Link(_, it) if *it == file);
        self.seen.values().any(|&it| it == file)
            || self.durable.values().any(|&it| it == file)
            || self.pending.iter().any(linked)
    }
}
