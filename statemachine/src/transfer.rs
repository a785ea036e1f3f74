//! A shard's state as it moves to another node: its sections, byte for byte, into runs there.
//!
//! | step of the receiver | a crash here leaves |
//! |---|---|
//! | sections into `.tmp`, synced; renamed, directory synced; opened and checked | orphans |
//! | manifest and what the log becomes, durable in one frame: commit point | the new state |
//!
//! A section keeps its id wherever it lies, so one that is here already is not sent again.

use core::fmt;
use std::rc::Rc;

use bowline_env::{Env, SharedBuf};
use bytes::Bytes;

use crate::job::{JobError, NewRun};
use crate::manifest::{Manifest, SectionRef};
use crate::run::format::{PAGE_U64, u64_of};
use crate::store::files::ReadFailure;
use crate::store::{Section, Store};
use crate::{Area, Damage, OpenFailure};

/// The durable state of a shard, held: nothing of it is removed while this lives.
pub struct Snapshot<E: Env> {
    /// What it consists of.
    pub manifest: Manifest,
    /// Its sections, newest first.
    pub sections: Vec<Rc<Section<E>>>,
}

impl<E: Env> fmt::Debug for Snapshot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot(shard {} at {})", self.manifest.shard, self.manifest.flushed_index)
    }
}

impl<E: Env> Snapshot<E> {
    /// Reads a piece of a section as it lies in its file; `off` and `len` within the section.
    ///
    /// # Errors
    ///
    /// [`Damage`]: there is no such piece, or it cannot be read.
    pub async fn read(&self, section: u128, off: u64, len: u32) -> Result<SharedBuf, Damage> {
        let shard = self.manifest.shard;
        let none = || Damage::Run { shard, run: 0, area: Area::File };
        let found = self.sections.iter().find(|held| held.id() == section).ok_or_else(none)?;
        let place = found.place();
        let inside = off.checked_add(u64::from(len)).is_some_and(|end| end <= place.len);
        let damage = |area| Damage::Run { shard, run: place.run, area };
        let len = usize::try_from(len).ok().filter(|_| inside).ok_or_else(|| damage(Area::File))?;
        let (store, span) = (found.store(), (place.run, place.off + off, len));
        let read = store.files().read_checked(store.env(), span, Area::File, |b| Ok(b.clone()));
        read.await.map_err(|failure: ReadFailure| damage(failure.area(Area::File)))
    }

    /// Reads a section again as a whole: a peer says that it came damaged. A section that is not
    /// one of these is no fault.
    ///
    /// # Errors
    ///
    /// [`Damage`]: it is so on the disk here; it counts as damaged from now on.
    pub async fn recheck(&self, section: u128) -> Result<(), Damage> {
        let held = self.sections.iter().find(|held| held.id() == section);
        let Some(held) = held else { return Ok(()) };
        match held.store().recheck(held).await {
            Err(OpenFailure::Damaged(damage)) => Err(damage),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// A section that is being received into a run of its own.
pub struct ReceivedSection<E: Env> {
    run: NewRun<E>,
    want: SectionRef,
    got: u64,
}

impl<E: Env> fmt::Debug for ReceivedSection<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceivedSection({:032x}, {} of {})", self.want.section, self.got, self.want.len)
    }
}

impl<E: Env> ReceivedSection<E> {
    /// Begins the run. `want` is the section's entry in the manifest that was offered.
    ///
    /// # Errors
    ///
    /// [`JobError`]: nothing is left behind. Damaged: no section has such a length.
    pub async fn create(
        store: &Rc<Store<E>>,
        shard: u64,
        want: SectionRef,
    ) -> Result<Self, JobError> {
        if want.len == 0 || !want.len.is_multiple_of(PAGE_U64) {
            return Err(JobError::Damaged(Damage::Run { shard, run: want.run, area: Area::File }));
        }
        let run = NewRun::create(store, shard).await?;
        Ok(Self { run, want, got: 0 })
    }

    /// Whether this is the section of an offer, wherever that lies at its sender.
    pub fn is_of(&self, at: &SectionRef) -> bool {
        self.want == SectionRef { run: self.want.run, off: self.want.off, ..*at }
    }

    /// Where the next byte belongs; none: it is whole.
    pub fn next(&self) -> Option<u64> {
        (self.got < self.want.len).then_some(self.got)
    }

    /// Length of the piece that begins at `off`, at most `len_max`; none: `off` is the end.
    pub fn piece_at(&self, off: u64, len_max: u32) -> Option<u32> {
        let left = self.want.len.saturating_sub(off);
        let len = u32::try_from(left).unwrap_or(u32::MAX).min(len_max);
        (len > 0).then_some(len)
    }

    /// Takes the bytes that follow what is here.
    ///
    /// # Errors
    ///
    /// [`JobError`]: give it up by [`ReceivedSection::abandon`].
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        let got = self.got + u64_of(bytes.len());
        if got > self.want.len {
            return Err(JobError::Damaged(self.run.damage()));
        }
        self.run.raw(bytes).await?;
        self.got = got;
        Ok(())
    }

    /// Ends the run, makes it durable, opens the section and checks every byte of it: what is
    /// damaged at its sender does not spread.
    ///
    /// # Errors
    ///
    /// [`JobError`]: nothing is left behind.
    pub async fn finish(self) -> Result<Rc<Section<E>>, JobError> {
        if self.got != self.want.len {
            let damage = self.run.damage();
            self.run.abandon().await;
            return Err(JobError::Damaged(damage));
        }
        let section = self.run.finish_raw(self.want).await?;
        if section.is_resident() {
            // It was checked as a whole for that.
            return Ok(section);
        }
        let checked = section.store().recheck(&section).await;
        if let Err(failure) = checked {
            section.store().retire(Rc::clone(&section));
            return Err(failure.into());
        }
        Ok(section)
    }

    /// Removes what was received.
    pub async fn abandon(self) {
        self.run.abandon().await;
    }
}

/// The manifest of a received state as it is kept here: the sections where they lie here.
///
/// # Errors
///
/// [`Damage`]: a section that is here under the id of an offered one is another: a liar offers it.
///
/// # Panics
///
/// If a section is missing: a bug of the caller.
pub fn localized<E: Env>(offered: &Manifest, sections: &[Rc<Section<E>>]) -> Result<Bytes, Damage> {
    let mut manifest = offered.clone();
    for at in &mut manifest.sections {
        let here = sections.iter().find(|section| section.id() == at.section);
        let here = here.expect("every section was received").place();
        if here != (SectionRef { run: here.run, off: here.off, ..*at }) {
            return Err(Damage::Run { shard: offered.shard, run: here.run, area: Area::Table });
        }
        *at = here;
    }
    Ok(manifest.encode())
}
