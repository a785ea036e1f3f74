//! What the shards of one core share: delta budget, page cache, resident mappings, open files, the
//! rate of background writes, and the removal of runs that nobody needs any more.
//!
//! * I1 a section is open at most once: one id, one [`Section`].
//! * I2 the sum of Resident sections stays within its budget.
//! * I3 a run is removed only after [`Store::retire`], or at boot when every stream recovered
//!   undamaged.

mod budget;
mod cache;
mod cursor;
pub(crate) mod files;
mod gc;
mod load;
pub(crate) mod open;
mod pace;
mod pins;
mod section;

use core::cell::{Cell, RefCell};
use core::fmt;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use bowline_env::{Dir as _, Env, EnvError, Nanos};
use bytes::Bytes;

pub use self::budget::{Account, DeltaPressure};
pub use self::cursor::{Cursor, Step};
pub use self::gc::Orphans;
pub use self::pins::{Far, PageRead, Part, Pins};
pub use self::section::{Fetched, Point, RunVer, Section};
pub use crate::flush::{BlobSource, FlushBody, FlushInput, FlushItem};
pub use crate::job::{Job, JobDone, JobError};

use self::budget::Budget;
use self::cache::PageCache;
use self::files::Files;
pub(crate) use self::pace::Pace;
use crate::run::format::u64_of;
use crate::run::runs_dir;

/// Bounds of a core's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes of all deltas of the core.
    pub delta_bytes: usize,
    /// Bytes of pages read from Cold sections.
    pub page_cache_bytes: usize,
    /// Bytes of sections that are mapped and kept in memory.
    pub resident_bytes: u64,
    /// Bytes a second that flushes and merges write while the deltas are below half of their
    /// budget; 0: no limit.
    pub rate: u64,
    /// The same at a full budget.
    pub rate_max: u64,
    /// Free bytes that a merge leaves on the disk.
    pub reserve_bytes: u64,
    /// The cluster, for people: it stands in the header of runs.
    pub cluster: u128,
    /// The node, likewise.
    pub node: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            delta_bytes: 128 << 20,
            page_cache_bytes: 16 << 20,
            resident_bytes: 256 << 20,
            rate: 64 << 20,
            rate_max: 256 << 20,
            reserve_bytes: 64 << 20,
            cluster: 0,
            node: 0,
        }
    }
}

/// What a core's store holds, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Deltas.
    pub delta_bytes: u64,
    /// Page cache.
    pub page_cache_bytes: u64,
    /// Resident mappings.
    pub resident_bytes: u64,
    /// Open sections, counted.
    pub sections: u64,
    /// Of these, resident ones.
    pub resident_sections: u64,
    /// Reads of cold parts, counted.
    pub cold_reads: u64,
    /// Written by flushes and merges.
    pub written_bytes: u64,
    /// Runs waiting to be removed, counted.
    pub dying_runs: u64,
    /// Runs removed, counted.
    pub removed_runs: u64,
    /// Runs that could not be removed, counted; the next boot removes them.
    pub left_runs: u64,
}

/// Numbers that only grow.
#[derive(Debug, Default)]
struct Counters {
    opened: Cell<u64>,
    cold_reads: Cell<u64>,
    written: Cell<u64>,
    removed: Cell<u64>,
    left: Cell<u64>,
}

/// One core's store.
pub struct Store<E: Env> {
    env: E,
    options: StoreOptions,
    budget: Rc<Budget>,
    cache: RefCell<PageCache>,
    files: Files<E>,
    /// The copies of each section, the one opened last at the end.
    sections: RefCell<BTreeMap<u128, Vec<Weak<Section<E>>>>>,
    /// Bytes of Resident sections, and of those on their way.
    resident: Cell<u64>,
    dying: RefCell<Vec<Rc<Section<E>>>>,
    reaper_runs: Cell<bool>,
    /// When the next background write may start.
    next_write: Cell<Nanos>,
    counters: Counters,
}

impl<E: Env> Store<E> {
    /// A store without anything open.
    pub fn new(env: E, options: StoreOptions) -> Rc<Self> {
        Rc::new(Self {
            env,
            options,
            budget: Rc::new(Budget::new(options.delta_bytes)),
            cache: RefCell::new(PageCache::new(options.page_cache_bytes)),
            files: Files::new(),
            sections: RefCell::new(BTreeMap::new()),
            resident: Cell::new(0),
            dying: RefCell::new(Vec::new()),
            reaper_runs: Cell::new(false),
            next_write: Cell::new(Nanos(0)),
            counters: Counters::default(),
        })
    }

    /// Makes the directory of runs. Once per core, before anything else.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub async fn prepare(&self) -> Result<(), EnvError> {
        self.env.dir().make_dir(&runs_dir()).await
    }

    /// An account for the delta of a shard.
    pub fn account(&self, shard: u64) -> Account {
        self.budget.open(shard)
    }

    /// The environment.
    pub const fn env(&self) -> &E {
        &self.env
    }

    /// Its bounds.
    pub const fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// How full the deltas are.
    pub fn pressure(&self) -> DeltaPressure {
        self.budget.pressure()
    }

    /// The shard with the largest delta that is not frozen, and its bytes.
    pub fn largest_delta(&self) -> Option<(u64, usize)> {
        self.budget.largest()
    }

    /// Puts the delta of a shard that is not flushed any more aside, or takes it back: one put
    /// aside is never the largest, so the others do not wait for it. Its bytes still count.
    pub fn set_aside(&self, shard: u64, aside: bool) {
        self.budget.set_aside(shard, aside);
    }

    /// What it holds.
    pub fn stats(&self) -> StoreStats {
        let sections = self.sections.borrow();
        let live = || sections.values().flatten().filter_map(Weak::upgrade);
        StoreStats {
            delta_bytes: u64_of(self.budget.used()),
            page_cache_bytes: u64_of(self.cache.borrow().bytes()),
            resident_bytes: self.resident.get(),
            sections: u64_of(live().count()),
            resident_sections: u64_of(live().filter(|section| section.is_resident()).count()),
            cold_reads: self.counters.cold_reads.get(),
            written_bytes: self.counters.written.get(),
            dying_runs: u64_of(self.dying.borrow().len()),
            removed_runs: self.counters.removed.get(),
            left_runs: self.counters.left.get(),
        }
    }

    /// A random id.
    pub(crate) fn fresh_id(&self) -> u128 {
        let mut bytes = [0; 16];
        self.env.fill_random(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    pub(crate) const fn files(&self) -> &Files<E> {
        &self.files
    }

    /// The open section of that id; of several copies the one that was opened last.
    pub(crate) fn section(&self, id: u128) -> Option<Rc<Section<E>>> {
        self.sections.borrow().get(&id)?.iter().rev().find_map(Weak::upgrade)
    }

    /// Enters a section that was just opened (I1).
    pub(crate) fn remember(&self, section: &Rc<Section<E>>) {
        let mut sections = self.sections.borrow_mut();
        sections.entry(section.id()).or_default().push(Rc::downgrade(section));
    }

    /// A section was dropped: so are its pages, and its file if nothing else needs it.
    pub(crate) fn forget(&self, id: u128, run: u128) {
        let mut sections = self.sections.borrow_mut();
        let copies = sections.entry(id).or_default();
        copies.retain(|copy| copy.strong_count() > 0);
        if copies.is_empty() {
            sections.remove(&id);
            self.cache.borrow_mut().forget(id);
        }
        drop(sections);
        if !self.has_section_of(run) {
            self.files.forget(run);
        }
    }

    pub(crate) fn has_section_of(&self, run: u128) -> bool {
        let sections = self.sections.borrow();
        sections.values().flatten().filter_map(Weak::upgrade).any(|section| section.run() == run)
    }

    pub(crate) fn cached(&self, section: u128, page_no: u32) -> Option<Bytes> {
        self.cache.borrow_mut().page(section, page_no).cloned()
    }

    pub(crate) fn cache(&self, section: u128, page_no: u32, page: Bytes) {
        self.cache.borrow_mut().insert(section, page_no, page);
    }

    pub(crate) fn has_room(&self, len: u64) -> bool {
        self.resident.get().saturating_add(len) <= self.options.resident_bytes
    }

    /// Turns sections Cold, those opened first at first, until `len` bytes fit (I2). Nothing is
    /// turned if they cannot fit.
    pub(crate) fn make_room(&self, len: u64) {
        if self.has_room(len) || len > self.options.resident_bytes {
            return;
        }
        let sections = self.sections.borrow();
        let live = sections.values().flatten().filter_map(Weak::upgrade);
        let mut resident: Vec<_> = live.filter(|section| section.is_resident()).collect();
        resident.sort_unstable_by_key(|section| section.opened());
        for section in resident {
            if self.has_room(len) {
                return;
            }
            section.set_cold();
        }
    }

    pub(crate) fn add_resident(&self, len: u64) {
        self.resident.set(self.resident.get() + len);
    }

    pub(crate) fn sub_resident(&self, len: u64) {
        self.resident.set(self.resident.get() - len);
    }

    pub(crate) fn next_opened(&self) -> u64 {
        let next = self.counters.opened.get() + 1;
        self.counters.opened.set(next);
        next
    }

    pub(crate) fn count_cold_read(&self) {
        self.counters.cold_reads.set(self.counters.cold_reads.get() + 1);
    }

    pub(crate) fn count_removed(&self, done: bool) {
        let counter = if done { &self.counters.removed } else { &self.counters.left };
        counter.set(counter.get() + 1);
    }

    pub(crate) const fn dying(&self) -> &RefCell<Vec<Rc<Section<E>>>> {
        &self.dying
    }

    /// Whether the caller has to run the reaper.
    pub(crate) fn start_reaper(&self) -> bool {
        !self.reaper_runs.replace(true)
    }

    pub(crate) fn end_reaper(&self) {
        self.reaper_runs.set(false);
    }
}

impl<E: Env> fmt::Debug for Store<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
