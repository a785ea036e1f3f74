//! A background job of one shard: a flush or a merge, from its input to an opened section whose
//! manifest is not durable yet.
//!
//! A crash before the manifest is durable leaves an orphan; nothing points to it.

use core::fmt;
use std::rc::Rc;

use bowline_env::{Env, EnvError, Kind, Nanos};

use crate::flush::{self, FlushInput};
use crate::manifest::{Flushed, ManifestEdit, SectionRef};
use crate::run::RangeTombstone;
use crate::run::file::RunFile;
use crate::run::format::{Header, Table, TableEntry, Trailer, u64_of};
use crate::run::writer::SectionWriter;
use crate::store::files::offload;
use crate::store::open::Residency;
use crate::store::{Section, Store};
use crate::{Damage, OpenFailure, SmError, merge};

/// Bytes that collect before they are handed to the file.
const HAND_OVER: usize = 256 << 10;
/// Areas up to this size are encoded on the core.
const ENCODED_HERE: usize = 128 << 10;
/// First and longest wait after failures, in seconds.
const RETRY_SECONDS_MAX: u64 = 60;

/// A background job of one shard: a flush or a merge.
pub struct Job<E: Env> {
    store: Rc<Store<E>>,
    shard: u64,
    epoch: u64,
    work: Work<E>,
}

enum Work<E: Env> {
    Flush(Box<FlushInput>),
    Merge { sections: Vec<Rc<Section<E>>>, bottom: bool },
}

/// Why a job gave up. Its input is unchanged and no file of it is left, or only one that the next
/// boot removes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// The disk is full, or a merge would fill it.
    NoSpace,
    /// The environment refused.
    Env(EnvError),
    /// A section to be merged, or the new one, is damaged; an old one is left out from now on.
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
        Nanos::from_millis(seconds.min(RETRY_SECONDS_MAX) * 1_000)
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => f.write_str("the disk has no room for a run"),
            Self::Env(error) => error.fmt(f),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Snapshot(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for JobError {}

impl From<EnvError> for JobError {
    fn from(error: EnvError) -> Self {
        if error.kind == Kind::NoSpace { Self::NoSpace } else { Self::Env(error) }
    }
}

impl From<OpenFailure> for JobError {
    fn from(failure: OpenFailure) -> Self {
        // Opening a section fails in two ways; the others are a machine's.
        if let OpenFailure::Damaged(damage) = failure {
            Self::Damaged(damage)
        } else if let OpenFailure::Env(error) = failure {
            error.into()
        } else {
            Self::Snapshot(SmError::Invalid)
        }
    }
}

/// A finished job whose manifest is not durable yet.
#[derive(Debug)]
#[must_use = "the new section is published once the manifest is durable, or discarded"]
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
    #[must_use]
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
    #[must_use]
    pub const fn is_flush(&self) -> bool {
        self.flushed.is_some()
    }

    /// Removes the new run. Only if its manifest was never handed to the log.
    pub fn discard(self, store: &Rc<Store<E>>) {
        if let Some(section) = self.opened {
            store.retire(section);
        }
    }
}

impl<E: Env> Job<E> {
    /// Writes a frozen delta. `epoch` comes back in [`JobDone`].
    #[must_use]
    pub fn flush(store: &Rc<Store<E>>, shard: u64, epoch: u64, input: FlushInput) -> Self {
        Self { store: Rc::clone(store), shard, epoch, work: Work::Flush(Box::new(input)) }
    }

    /// Merges adjacent sections, newest first, into one. `bottom`: the last one is the oldest
    /// section of the shard.
    ///
    /// # Panics
    ///
    /// If there is none, or they are not in order: bugs of the caller.
    #[must_use]
    pub fn merge(
        store: &Rc<Store<E>>,
        shard: u64,
        epoch: u64,
        sections: Vec<Rc<Section<E>>>,
        bottom: bool,
    ) -> Self {
        assert!(!sections.is_empty(), "something is merged");
        let descending = sections.windows(2).all(|w| w[0].min_index() > w[1].max_index());
        assert!(descending, "sections are merged newest first");
        let work = Work::Merge { sections, bottom };
        Self { store: Rc::clone(store), shard, epoch, work }
    }

    /// The shard.
    pub const fn shard(&self) -> u64 {
        self.shard
    }

    /// Whether it is a flush.
    pub const fn is_flush(&self) -> bool {
        matches!(self.work, Work::Flush(_))
    }

    /// Does the work; to be driven by a task of class `Background`, to its end.
    ///
    /// # Errors
    ///
    /// [`JobError`]: nothing is changed; see [`JobError::retry_after`].
    pub async fn run(self) -> Result<JobDone<E>, JobError> {
        let Self { store, shard, epoch, work } = self;
        let mut done =
            JobDone { shard, epoch, opened: None, add: None, drop: Vec::new(), flushed: None };
        match work {
            Work::Flush(mut input) => {
                done.opened = Box::pin(flush::run(&store, shard, &mut input)).await?;
                done.drop = input.drop;
                done.flushed = Some(input.flushed);
            },
            Work::Merge { sections, bottom } => {
                done.opened = Box::pin(merge::run(&store, shard, &sections, bottom)).await?;
                done.drop = sections.iter().map(|section| section.id()).collect();
            },
        }
        done.add = done.opened.as_ref().map(|section| section.place());
        Ok(done)
    }
}

impl<E: Env> fmt::Debug for Job<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_flush() { "flush" } else { "merge" };
        write!(f, "Job({kind} of shard {}, epoch {})", self.shard, self.epoch)
    }
}

/// A run with one section on its way to the disk.
pub(crate) struct NewRun<E: Env> {
    store: Rc<Store<E>>,
    shard: u64,
    run: u128,
    file: RunFile<E>,
    off: u64,
}

impl<E: Env> NewRun<E> {
    pub(crate) async fn create(store: &Rc<Store<E>>, shard: u64) -> Result<Self, JobError> {
        let run = store.fresh_id();
        let options = store.options();
        let created_ms = store.env().wall().0;
        let header = Header { run, cluster: options.cluster, node: options.node, created_ms };
        let file = RunFile::create(store.env(), &header).await?;
        Ok(Self { store: Rc::clone(store), shard, run, off: file.at(), file })
    }

    /// Hands over what the writer has ready, if it is worth a write.
    pub(crate) async fn drain(&mut self, writer: &mut SectionWriter) -> Result<(), EnvError> {
        if writer.ready() < HAND_OVER {
            return Ok(());
        }
        self.hand_over(writer).await
    }

    async fn hand_over(&mut self, writer: &mut SectionWriter) -> Result<(), EnvError> {
        let bytes = writer.take();
        for piece in bytes.chunks(HAND_OVER) {
            self.file.write(piece).await?;
            self.store.throttle(piece.len()).await;
        }
        Ok(())
    }

    /// Ends section and file and opens the section. On error nothing is left.
    pub(crate) async fn finish(
        mut self,
        mut writer: SectionWriter,
        ranges: &[RangeTombstone],
    ) -> Result<Rc<Section<E>>, JobError> {
        let written = self.write_end(&mut writer, ranges).await;
        let trailer = match written {
            Ok(trailer) => trailer,
            Err(error) => {
                self.file.abandon().await;
                return Err(error.into());
            },
        };
        let at = self.place(&trailer);
        self.open(&at).await
    }

    async fn open(self, at: &SectionRef) -> Result<Rc<Section<E>>, JobError> {
        let opened = self.store.open(self.shard, at, Residency::MakeRoom).await;
        let failure = match opened {
            Ok(section) if !section.is_damaged() => return Ok(section),
            // The disk took it and gives something else back; what it was made of is still there.
            Ok(section) => {
                drop(section);
                JobError::Damaged(self.damage())
            },
            Err(failure) => failure.into(),
        };
        self.store.files().forget(self.run);
        self.file.abandon().await;
        Err(failure)
    }

    pub(crate) async fn abandon(self) {
        self.file.abandon().await;
    }

    /// Writes bytes of a section that was made elsewhere.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> Result<(), EnvError> {
        self.file.write(bytes).await
    }

    /// Ends a file whose section was written by [`NewRun::raw`], and opens the section. On error
    /// nothing is left.
    pub(crate) async fn finish_raw(mut self, of: SectionRef) -> Result<Rc<Section<E>>, JobError> {
        let at = SectionRef { run: self.run, off: self.off, ..of };
        if let Err(error) = self.write_table(&at).await {
            self.file.abandon().await;
            return Err(error.into());
        }
        self.open(&at).await
    }

    /// What a bad section of this run is called.
    pub(crate) const fn damage(&self) -> Damage {
        Damage::Run { shard: self.shard, run: self.run, area: crate::Area::File }
    }

    async fn write_end(
        &mut self,
        writer: &mut SectionWriter,
        ranges: &[RangeTombstone],
    ) -> Result<Trailer, EnvError> {
        let areas = writer.close();
        self.hand_over(writer).await?;
        let encoded = if areas.bytes() <= ENCODED_HERE {
            areas.encode()
        } else {
            let make = || {
                let areas = std::sync::Arc::clone(&areas);
                move || areas.encode()
            };
            offload(self.store.env(), make).await?
        };
        let trailer = writer.finish(&encoded, ranges);
        self.hand_over(writer).await?;
        self.write_table(&self.place(&trailer)).await?;
        Ok(trailer)
    }

    /// Where a section with this trailer lies.
    fn place(&self, trailer: &Trailer) -> SectionRef {
        SectionRef {
            run: self.run,
            section: trailer.section,
            off: self.off,
            len: trailer.len,
            min_index: trailer.min_index,
            max_index: trailer.max_index,
            kind: u8::try_from(trailer.kind).expect("kinds are small"),
        }
    }

    /// Ends the file behind its one section.
    async fn write_table(&mut self, at: &SectionRef) -> Result<(), EnvError> {
        assert_eq!(self.file.at(), self.off + at.len, "a section is as long as it says");
        let entry = TableEntry {
            section: at.section,
            off: self.off,
            len: at.len,
            shard: self.shard,
            kind: u16::from(at.kind),
            min_index: at.min_index,
            max_index: at.max_index,
        };
        let table = Table { run: self.run, off: self.file.at(), entries: vec![entry] }.encode();
        assert_eq!(u64_of(table.len()), u64_of(Table::LEN_ONE), "one section, one block");
        self.file.write(&table).await?;
        self.file.finish().await
    }
}
