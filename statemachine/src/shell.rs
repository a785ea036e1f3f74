//! What every machine has around its state: its place in the log, log time, sections, manifest and
//! the two background jobs.
//!
//! ```text
//! freeze -> Job (flush) ---+
//! pick   -> Job (merge) ---+-> manifest_after: edit is staged -> [durable] -> publish, in order
//! ```
//!
//! * I1 an entry's index is `applied + 1`; log time never falls.
//! * I2 at most one flush and one merge at a time; a result of an older epoch is dropped.
//! * I3 a manifest that goes into the log holds every edit staged before it: the last one in the
//!   log is the newest, in whatever order the log takes them and they are published.
//! * I4 `flushed <= applied`.

use core::cell::RefCell;
use core::mem;
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;

use crate::envelope::{Envelope, EnvelopeError, KIND_TICK};
use crate::machine::{AsOf, EntryRef};
use crate::manifest::{Flushed, Manifest, ManifestEdit, SECTIONS_MAX, SectionRef};
use crate::merge;
use crate::store::{Account, DeltaPressure, FlushBody, FlushInput, Job, JobDone, Section, Store};
use crate::transfer::Snapshot;
use crate::{Damage, OpenFailure};

/// Which machine a shard's state belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) name_hash: u64,
    pub(crate) version: u16,
}

/// FNV-1a of a state machine's name.
pub const fn name_hash(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash ^= bytes[at] as u64;
        hash = hash.wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// A frozen state on its way into a run.
struct Freezing<F> {
    /// What is written.
    content: F,
    /// The point of the log that it reaches.
    flushed: Flushed,
    /// Whether a job is at work on it; if not, the last one failed.
    running: bool,
}

/// An edit that waits for its manifest to be durable.
struct StagedEdit {
    is_flush: bool,
    edit: ManifestEdit,
}

/// A new entry, with its place in the log and log time taken over.
pub(crate) enum Entered<'a> {
    /// A command with this head and body.
    Command(Envelope<'a>),
    /// Nothing for the state: no-op, configuration, tick.
    Nothing,
    /// The bytes are no payload; without effect.
    Malformed,
    /// Written by a newer program; the entry stays unapplied.
    Halted,
}

/// The part of a replica's state that does not depend on the machine. `F` is its frozen content.
pub(crate) struct Shell<E: Env, F> {
    store: Rc<Store<E>>,
    shard: u64,
    applied: u64,
    clock_ms: u64,
    halted: Option<Box<Damage>>,
    /// Newest first.
    sections: Vec<Rc<Section<E>>>,
    manifest: Manifest,
    staged: RefCell<Vec<StagedEdit>>,
    freezing: Option<Freezing<F>>,
    merging: bool,
    epoch: u64,
    account: Option<Account>,
}

impl<E: Env, F> Shell<E, F> {
    /// The shell of a shard: empty, or as `manifest` says, with its sections opened.
    pub(crate) async fn open(
        store: &Rc<Store<E>>,
        shard: u64,
        manifest: Option<&[u8]>,
        identity: Identity,
    ) -> Result<Self, OpenFailure> {
        let (manifest, sections) = match manifest {
            None => (Manifest::empty(shard, identity.name_hash), Vec::new()),
            Some(bytes) => {
                let manifest = check(bytes, shard, identity)?;
                let sections = store.open_all(&manifest).await?;
                (manifest, sections)
            },
        };
        let shell = Self {
            store: Rc::clone(store),
            shard,
            applied: manifest.flushed_index,
            clock_ms: manifest.sm_clock,
            halted: None,
            sections,
            manifest,
            staged: RefCell::default(),
            freezing: None,
            merging: false,
            epoch: 0,
            account: None,
        };
        shell.assert_sound();
        Ok(shell)
    }

    /// Takes the next entry's index and log time over and reads its head. `is_known` says whether
    /// this program knows commands of a kind and version.
    #[inline]
    pub(crate) fn enter<'a>(
        &mut self,
        entry: EntryRef<'a>,
        is_known: impl FnOnce(u8, u16) -> bool,
    ) -> Entered<'a> {
        assert_eq!(entry.index, self.applied + 1, "entries are applied in order (I1)");
        let entered = match Envelope::parse(entry.payload) {
            _ if entry.payload.is_empty() => Entered::Nothing,
            Ok(head) if head.session.is_some() => return self.needs_version(entry, &head),
            Ok(head) if head.kind == KIND_TICK => {
                self.clock_ms = self.clock_ms.max(head.stamp_ms);
                Entered::Nothing
            },
            Ok(head) if is_known(head.kind, head.ver) => {
                self.clock_ms = self.clock_ms.max(head.stamp_ms);
                Entered::Command(head)
            },
            Ok(head) => return self.needs_version(entry, &head),
            Err(EnvelopeError::Flags(_)) => {
                let head = Envelope::default();
                return self.needs_version(entry, &head);
            },
            Err(EnvelopeError::Truncated { .. }) => Entered::Malformed,
        };
        self.applied = entry.index;
        entered
    }

    #[cold]
    fn needs_version<'a>(&mut self, entry: EntryRef<'a>, head: &Envelope<'_>) -> Entered<'a> {
        let (kind, version) = (head.kind, head.ver);
        let (shard, index) = (self.shard, entry.index);
        self.halted = Some(Box::new(Damage::NeedsVersion { shard, index, kind, version }));
        Entered::Halted
    }

    /// Stops apply at the entry that was just entered: it stays unapplied.
    #[cold]
    pub(crate) fn halt_at_entry(&mut self, damage: Box<Damage>) {
        self.applied -= 1;
        self.halt(damage);
    }

    /// Stops apply for good.
    #[cold]
    pub(crate) fn halt(&mut self, damage: Box<Damage>) {
        assert!(self.halted.is_none(), "a halted machine does nothing more");
        self.halted = Some(damage);
    }

    /// Charges the active delta to the core's budget.
    #[inline]
    pub(crate) fn charge(&mut self, delta_bytes: usize) {
        let charged = self.account.as_ref().map_or(0, Account::active);
        if charged != delta_bytes {
            let account = self.account.get_or_insert_with(|| self.store.account(self.shard));
            if charged < delta_bytes {
                account.charge(delta_bytes - charged);
            } else {
                account.release(charged - delta_bytes);
            }
        }
    }

    /// Whether nothing hinders a freeze now.
    pub(crate) fn may_freeze(&self) -> bool {
        let staged = self.staged.borrow().len();
        self.freezing.is_none() && self.sections.len() + staged < SECTIONS_MAX
    }

    /// The core's deltas are over half of their budget, and this one is the largest.
    pub(crate) fn is_due(&self) -> bool {
        self.account.as_ref().is_some_and(Account::is_due)
    }

    /// The core's deltas are so far over their budget that apply must wait.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.store.pressure() == DeltaPressure::Over
    }

    /// Freezes the state at `applied`.
    pub(crate) fn freeze(&mut self, content: F, as_of: &AsOf) {
        assert!(self.freezing.is_none(), "one flush at a time (I2)");
        let AsOf { term, version, conf } = as_of.clone();
        let (index, sm_clock) = (self.applied, self.clock_ms);
        let flushed = Flushed { index, term, sm_clock, version, conf };
        self.freezing = Some(Freezing { content, flushed, running: false });
        if let Some(account) = &self.account {
            account.freeze();
        }
    }

    /// The job that writes what is frozen, unless one is at work on it.
    pub(crate) fn flush_job(
        &mut self,
        drop: Vec<u128>,
        body: impl FnOnce(&F) -> FlushBody,
    ) -> Option<Job<E>> {
        let bottom = self.sections.len() == drop.len();
        let freezing = self.freezing.as_mut().filter(|freezing| !freezing.running)?;
        freezing.running = true;
        let input = FlushInput {
            min_index: if bottom { 1 } else { self.manifest.flushed_index + 1 },
            flushed: freezing.flushed.clone(),
            bottom,
            drop,
            body: body(&freezing.content),
        };
        Some(Job::flush(&self.store, self.shard, self.epoch, input))
    }

    /// A merge, if one is due.
    pub(crate) fn merge_job(&mut self) -> Option<Job<E>> {
        if self.merging {
            return None;
        }
        let picked = merge::pick(&self.sections)?;
        self.merging = true;
        let bottom = picked.end == self.sections.len();
        let inputs = self.sections[picked].to_vec();
        Some(Job::merge(&self.store, self.shard, self.epoch, inputs, bottom))
    }

    /// The manifest with everything staged so far, and `done` after it. Staged twice, it counts
    /// once.
    pub(crate) fn manifest_after(&self, done: &JobDone<E>) -> Option<(u64, u64, Bytes)> {
        if done.epoch != self.epoch {
            return None;
        }
        let is_flush = done.is_flush();
        let mut staged = self.staged.borrow_mut();
        if !staged.iter().any(|staged| staged.is_flush == is_flush) {
            let edit = done.edit(self.manifest.generation);
            staged.push(StagedEdit { is_flush, edit });
        }
        Some(encoded(&newest(&self.manifest, &staged)))
    }

    /// The newest manifest that was staged; none: never flushed.
    pub(crate) fn manifest(&self) -> Option<(u64, u64, Bytes)> {
        let newest = newest(&self.manifest, &self.staged.borrow());
        (newest.generation > 0).then(|| encoded(&newest))
    }

    /// The durable state as a whole; none: never flushed.
    pub(crate) fn snapshot(&self) -> Option<Snapshot<E>> {
        let (manifest, sections) = (self.manifest.clone(), self.sections.clone());
        (manifest.generation > 0).then_some(Snapshot { manifest, sections })
    }

    /// The sections that `next`, which takes this state's place, has not.
    pub(crate) fn superseded(self, next: &Self) -> Vec<Rc<Section<E>>> {
        let stays = |held: &Rc<Section<E>>| next.sections.iter().any(|it| Rc::ptr_eq(it, held));
        self.sections.into_iter().filter(|section| !stays(section)).collect()
    }

    /// Makes a job's result current; its manifest is durable. One of an older epoch is dropped.
    /// What a flush has written is given back: nobody looks at it any more.
    pub(crate) fn publish(&mut self, done: JobDone<E>) -> Option<F> {
        if done.epoch != self.epoch {
            done.discard(&self.store);
            return None;
        }
        let is_flush = done.is_flush();
        let edit = self.unstage(is_flush).expect("what is published was staged (I3)");
        self.manifest = after(&self.manifest, &edit);
        let dropped = |section: &Rc<Section<E>>| edit.drop.contains(&section.id());
        let (gone, kept) = mem::take(&mut self.sections).into_iter().partition(dropped);
        self.sections = kept;
        if let Some(opened) = done.opened {
            let at = self.sections.partition_point(|s| s.min_index() > opened.max_index());
            self.sections.insert(at, opened);
        }
        let gone: Vec<_> = gone;
        for section in gone {
            self.store.retire(section);
        }
        let written = if is_flush {
            if let Some(account) = &self.account {
                account.release_frozen();
            }
            self.freezing.take().map(|freezing| freezing.content)
        } else {
            self.merging = false;
            None
        };
        self.assert_sound();
        written
    }

    fn unstage(&mut self, is_flush: bool) -> Option<ManifestEdit> {
        let staged = self.staged.get_mut();
        let at = staged.iter().position(|staged| staged.is_flush == is_flush)?;
        Some(staged.remove(at).edit)
    }

    /// A job failed, or the log that should have held its manifest did. What was frozen stays so,
    /// and the next job writes it again.
    pub(crate) fn job_failed(&mut self, flush: bool) {
        drop(self.unstage(flush));
        if flush {
            let freezing = self.freezing.as_mut().expect("a flush that fails was begun");
            freezing.running = false;
        } else {
            self.merging = false;
        }
    }

    /// Gives up what is frozen: the state itself still holds it.
    pub(crate) fn unfreeze(&mut self) {
        self.freezing = None;
        if let Some(account) = &self.account {
            account.thaw();
        }
    }

    fn assert_sound(&self) {
        assert!(self.sections.len() <= SECTIONS_MAX, "a shard has at most 16 sections");
        assert!(self.manifest.flushed_index <= self.applied, "a flush never leads (I4)");
        let same = |(section, at): (&Rc<Section<E>>, &SectionRef)| section.id() == at.section;
        assert_eq!(self.sections.len(), self.manifest.sections.len(), "every section is listed");
        assert!(
            self.sections.iter().zip(&self.manifest.sections).all(same),
            "every section is in the manifest, in order"
        );
    }

    pub(crate) fn store(&self) -> &Rc<Store<E>> {
        &self.store
    }

    pub(crate) fn shard(&self) -> u64 {
        self.shard
    }

    #[inline]
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.manifest.flushed_index
    }

    #[inline]
    pub(crate) fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    pub(crate) fn halted(&self) -> Option<&Damage> {
        self.halted.as_deref()
    }

    pub(crate) fn sections(&self) -> &[Rc<Section<E>>] {
        &self.sections
    }

    /// Bytes of all sections.
    pub(crate) fn section_bytes(&self) -> u64 {
        self.manifest.sections.iter().map(|section| section.len).sum()
    }

    pub(crate) fn frozen(&self) -> Option<&F> {
        self.freezing.as_ref().map(|freezing| &freezing.content)
    }
}

/// Decodes a manifest and refuses one of another shard or machine.
fn check(bytes: &[u8], shard: u64, identity: Identity) -> Result<Manifest, OpenFailure> {
    let manifest = Manifest::decode(bytes).map_err(OpenFailure::Manifest)?;
    if manifest.shard != shard {
        return Err(OpenFailure::Shard { found: manifest.shard });
    }
    if manifest.name_hash != identity.name_hash {
        let (found, expected) = (manifest.name_hash, identity.name_hash);
        return Err(OpenFailure::Name { found, expected });
    }
    if manifest.version > identity.version {
        let (found, supported) = (manifest.version, identity.version);
        return Err(OpenFailure::Version { found, supported });
    }
    Ok(manifest)
}

fn newest(manifest: &Manifest, staged: &[StagedEdit]) -> Manifest {
    staged.iter().fold(manifest.clone(), |manifest, staged| after(&manifest, &staged.edit))
}

/// A flush and a merge do not touch each other's sections, so their edits go in any order; the
/// number of the result is given when it is made.
fn after(manifest: &Manifest, edit: &ManifestEdit) -> Manifest {
    manifest.apply(&ManifestEdit { generation: manifest.generation + 1, ..edit.clone() })
}

fn encoded(manifest: &Manifest) -> (u64, u64, Bytes) {
    (manifest.flushed_index, manifest.flushed_term, manifest.encode())
}
