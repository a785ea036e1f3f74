//! What the shards of one core share: delta budget, page cache, resident mappings, open files, the
//! rate of background writes, and the removal of runs that nobody needs any more.

mod budget;
mod pins;
mod section;

use core::future::Future;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;

use bowline_env::{Env, EnvError, Nanos};
use bytes::Bytes;

pub use budget::{Account, DeltaPressure};
pub use pins::{Far, PageRead, Part, Pins};
pub use section::{Cursor, Fetched, Point, RunVer, Section, Step};

use crate::manifest::{Flushed, Manifest, ManifestEdit, SectionRef};
use crate::run::RangeTombstone;
use crate::{Damage, OpenFailure, SmError};

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

/// What the search for files that no manifest names did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Files removed.
    pub removed: usize,
    /// Files kept, because a manifest may be lost.
    pub kept: usize,
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
}

/// One core's store.
pub struct Store<E: Env> {
    env: E,
}

impl<E: Env> Store<E> {
    /// A store without anything open.
    pub fn new(env: E, _options: StoreOptions) -> Rc<Self> {
        Rc::new(Self { env })
    }

    /// The environment.
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Makes the directory of runs. Once per core, before anything else.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub async fn prepare(&self) -> Result<(), EnvError> {
        unimplemented!()
    }

    /// An account for the delta of a shard.
    pub fn account(&self, _shard: u64) -> Account {
        unimplemented!()
    }

    /// How full the deltas are.
    pub fn pressure(&self) -> DeltaPressure {
        unimplemented!()
    }

    /// Loads parts of Cold sections, in parallel, and holds them in `pins`. A part whose section
    /// was closed meanwhile is left out: the reader asks again and finds another one.
    ///
    /// # Errors
    ///
    /// A part is damaged, also after it was read a second time.
    pub async fn load(self: &Rc<Self>, _reads: Vec<PageRead>, _pins: &mut Pins) -> Result<(), Damage> {
        unimplemented!()
    }

    /// Opens a section: index, ranges and the like are read, checked and kept; its pages are mapped
    /// and verified if they fit the resident budget.
    ///
    /// # Errors
    ///
    /// [`OpenFailure::Damaged`]: the run is missing or fails its checks.
    pub async fn open_section(
        self: &Rc<Self>,
        _shard: u64,
        _at: &SectionRef,
    ) -> Result<Rc<Section<E>>, OpenFailure> {
        unimplemented!()
    }

    /// Opens every section of a manifest, newest first.
    ///
    /// # Errors
    ///
    /// As [`Store::open_section`].
    pub async fn open_all(
        self: &Rc<Self>,
        _manifest: &Manifest,
    ) -> Result<Vec<Rc<Section<E>>>, OpenFailure> {
        unimplemented!()
    }

    /// The body of a BLOB section, verified.
    ///
    /// # Errors
    ///
    /// The body is damaged.
    pub async fn blob(self: &Rc<Self>, _section: &Rc<Section<E>>) -> Result<Bytes, OpenFailure> {
        unimplemented!()
    }

    /// Gives a section up whose manifest entry is gone durably: its run is removed when the last
    /// reader lets go.
    pub fn retire(self: &Rc<Self>, _section: Rc<Section<E>>) {
        unimplemented!()
    }

    /// Removes files of the runs directory that no manifest names. Once per node, before any job
    /// starts; `live` holds the runs of every manifest of every stream. With `undamaged` false
    /// nothing is removed: an orphan may be the last copy.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed or a file not removed.
    pub async fn collect_orphans(
        &self,
        _live: &BTreeSet<u128>,
        _undamaged: bool,
    ) -> Result<Orphans, EnvError> {
        unimplemented!()
    }

    /// What it holds.
    pub fn stats(&self) -> StoreStats {
        unimplemented!()
    }
}

/// One version that a flush writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushItem {
    /// The key.
    pub key: Bytes,
    /// Index of the entry that wrote it.
    pub mod_index: u64,
    /// When it expires, in log time; 0: never.
    pub expiry_ms: u64,
    /// The value; none: deleted.
    pub value: Option<Bytes>,
}

/// What makes the snapshot of a user's machine, off the core.
pub type BlobSource = Pin<Box<dyn Future<Output = Result<Vec<Bytes>, SmError>>>>;

/// What a flush writes.
pub enum FlushBody {
    /// Versions in strictly ascending key order, and deleted ranges, disjoint and in order. What
    /// a range covers with a newer index is left out of the run.
    Keys {
        /// The versions.
        entries: Box<dyn Iterator<Item = FlushItem>>,
        /// The ranges.
        ranges: Vec<RangeTombstone>,
    },
    /// The snapshot of a user's machine.
    Blob(BlobSource),
}

/// A frozen delta on its way into a run.
pub struct FlushInput {
    /// First log index whose effect the delta may hold.
    pub min_index: u64,
    /// The point of the log it reaches.
    pub flushed: Flushed,
    /// No older section exists: deletions need not be written.
    pub bottom: bool,
    /// For a snapshot: sections it replaces.
    pub drop: Vec<u128>,
    /// The content.
    pub body: FlushBody,
}

/// A background job of one shard: a flush or a merge.
pub struct Job<E: Env> {
    store: Rc<Store<E>>,
}

impl<E: Env> Job<E> {
    /// Writes a frozen delta. `epoch` comes back in [`JobDone`].
    pub fn flush(store: &Rc<Store<E>>, _shard: u64, _epoch: u64, _input: FlushInput) -> Self {
        Self { store: Rc::clone(store) }
    }

    /// Merges adjacent sections, newest first, into one. `bottom`: the last one is the oldest
    /// section of the shard.
    pub fn merge(
        store: &Rc<Store<E>>,
        _shard: u64,
        _epoch: u64,
        _sections: Vec<Rc<Section<E>>>,
        _bottom: bool,
    ) -> Self {
        Self { store: Rc::clone(store) }
    }

    /// The shard.
    pub fn shard(&self) -> u64 {
        unimplemented!()
    }

    /// Whether it is a flush.
    pub fn is_flush(&self) -> bool {
        unimplemented!()
    }

    /// Does the work; to be driven by a task of class `Background`. Dropping the future leaves at
    /// most a file that the next boot removes.
    ///
    /// # Errors
    ///
    /// [`JobError`]: nothing is left behind; see [`JobError::retry_after`].
    pub async fn run(self) -> Result<JobDone<E>, JobError> {
        unimplemented!()
    }
}

/// A finished job whose manifest is not durable yet.
pub struct JobDone<E: Env> {
    /// The shard.
    pub shard: u64,
    /// As given to the job.
    pub epoch: u64,
    /// The new section, opened; none if nothing was left to write.
    pub opened: Option<Rc<Section<E>>>,
    /// Its place.
    pub add: Option<SectionRef>,
    /// Sections that it replaces.
    pub drop: Vec<u128>,
    /// The new point of the log, if it is a flush.
    pub flushed: Option<Flushed>,
}

impl<E: Env> JobDone<E> {
    /// The change to the manifest of generation `current`.
    pub fn edit(&self, current: u64) -> ManifestEdit {
        ManifestEdit {
            shard: self.shard,
            generation: current + 1,
            add: self.add,
            drop: self.drop.clone(),
            flushed: self.flushed.clone(),
        }
    }

    /// Whether it is a flush.
    pub fn is_flush(&self) -> bool {
        self.flushed.is_some()
    }
}

/// Why a job gave up. Its input is unchanged and no file of it is left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// The disk is full, or a merge would fill it.
    NoSpace,
    /// The environment refused.
    Env(EnvError),
    /// A section to be merged is damaged; it is left out from now on.
    Damaged(Damage),
    /// The application could not write its snapshot.
    Snapshot(SmError),
}

impl JobError {
    /// How long to wait before the job is tried again, after `failures` in a row: 1 s, doubling to
    /// 60 s.
    #[must_use]
    pub fn retry_after(failures: u32) -> Nanos {
        let seconds = 1_u64 << failures.saturating_sub(1).min(6);
        Nanos::from_millis(seconds.min(60) * 1_000)
    }
}
