//! Opens a section: fixed blocks and areas are read directly and checked; then its pages are
//! mapped, verified off the core, and kept if they fit the resident budget.

use std::rc::Rc;

use bowline_env::{Dir as _, Env, SharedBuf};
use bytes::Bytes;

use super::files::{ReadFailure, offload, read_long};
use super::{Section, Store};
use crate::manifest::{Manifest, SectionRef};
use crate::run::format::{CHUNK, PAGE, Trailer, u64_of, usize_of};
use crate::run::reader::{
    ENDS_LEN, Parts, areas_len, check_chunks, check_ends, check_header, check_pages, covered_len,
    extents_len, is_sound_place, parse_areas,
};
use crate::run::run_name;
use crate::{Area, Damage, OpenFailure};

/// Chunks that one closure on the helper verifies.
const CHUNKS_A_PIECE: usize = 8;

/// Areas up to this length are parsed on the core.
const PARSED_HERE: usize = 128 << 10;

/// Whether older sections give up their mapping for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residency {
    /// Only what is left of the budget is used.
    IfRoom,
    /// The section is newer than all others.
    MakeRoom,
}

impl<E: Env> Store<E> {
    /// Opens a section: index, ranges and the like are read, checked and kept; its pages are
    /// mapped and verified if they fit the resident budget. A section that is open already is
    /// given again, unless it was found damaged.
    ///
    /// # Errors
    ///
    /// [`OpenFailure::Damaged`]: the run is missing or fails its checks.
    pub async fn open_section(
        self: &Rc<Self>,
        shard: u64,
        at: &SectionRef,
    ) -> Result<Rc<Section<E>>, OpenFailure> {
        self.open(shard, at, Residency::IfRoom).await
    }

    /// Opens every section of a manifest, newest first.
    ///
    /// # Errors
    ///
    /// As [`Store::open_section`].
    pub async fn open_all(
        self: &Rc<Self>,
        manifest: &Manifest,
    ) -> Result<Vec<Rc<Section<E>>>, OpenFailure> {
        let mut sections = Vec::with_capacity(manifest.sections.len());
        for at in &manifest.sections {
            sections.push(self.open_section(manifest.shard, at).await?);
        }
        Ok(sections)
    }

    /// The body of a BLOB section, mapped for this call's caller and verified.
    ///
    /// # Errors
    ///
    /// [`OpenFailure::Damaged`]: the body fails its check, also when it is read directly.
    ///
    /// # Panics
    ///
    /// If the section holds keys and values: a bug of the caller.
    pub async fn blob(self: &Rc<Self>, section: &Rc<Section<E>>) -> Result<Bytes, OpenFailure> {
        assert!(section.is_blob(), "a snapshot is asked for");
        let trailer = *section.trailer();
        let damage = || section.damage(Area::Body);
        let len = usize_of(trailer.body_len).ok_or_else(damage)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        if let Some(mapping) = self.map(section).await
            && self.verify(section, &mapping).await?
        {
            return Ok(mapping.slice(..len));
        }
        let place = section.place();
        let covered = usize_of(covered_len(&trailer)).ok_or_else(damage)?;
        let read = read_long(self, place.run, place.off, covered).await;
        let bytes = Bytes::from(read.map_err(|failure| open_failure(section, failure))?);
        if self.verify(section, &bytes).await? {
            Ok(bytes.slice(..len))
        } else {
            section.set_damaged();
            Err(damage().into())
        }
    }

    /// Opens a section that was just written, or one that a manifest names.
    pub(crate) async fn open(
        self: &Rc<Self>,
        shard: u64,
        at: &SectionRef,
        residency: Residency,
    ) -> Result<Rc<Section<E>>, OpenFailure> {
        let damage = |area| Damage::Run { shard, run: at.run, area };
        // One that is damaged is not given again: another copy takes its place.
        if let Some(section) = self.section(at.section).filter(|it| !it.is_damaged()) {
            // Another shard's stays that shard's, whatever a peer calls the one that it offers.
            let ours = section.shard() == shard;
            return if ours { Ok(section) } else { Err(damage(Area::Table).into()) };
        }
        if !is_sound_place(at) {
            return Err(damage(Area::File).into());
        }
        let fail = |failure| match failure {
            ReadFailure::Bad(area) => OpenFailure::Damaged(damage(area)),
            ReadFailure::Env(error) => OpenFailure::Env(error),
        };
        let (trailer, parts) = self.read_parts(shard, at).await.map_err(fail)?;
        let section = Rc::new(Section::new(self, shard, *at, trailer, parts));
        self.remember(&section);
        if !section.is_blob() {
            self.make_resident(&section, residency).await?;
        }
        Ok(section)
    }

    async fn read_parts(
        self: &Rc<Self>,
        shard: u64,
        at: &SectionRef,
    ) -> Result<(Trailer, Parts), ReadFailure> {
        let (files, env) = (self.files(), self.env());
        let check = |bytes: &SharedBuf| check_header(bytes, at.run);
        files.read_checked(env, (at.run, 0, PAGE), Area::Header, check).await?;
        let ends = (at.run, at.off + at.len - u64_of(PAGE), ENDS_LEN);
        let check = |bytes: &SharedBuf| check_ends(bytes, at, shard);
        let trailer = files.read_checked(env, ends, Area::Trailer, check).await?;
        let areas = usize_of(areas_len(&trailer)).ok_or(ReadFailure::Bad(Area::Trailer))?;
        let start = at.off + extents_len(&trailer);
        let mut second = false;
        loop {
            let bytes = Bytes::from(read_long(self, at.run, start, areas).await?);
            let parsed = if areas <= PARSED_HERE {
                parse_areas(&trailer, &bytes)
            } else {
                let make = || {
                    let bytes = bytes.clone();
                    move || parse_areas(&trailer, &bytes)
                };
                offload(env, make).await.map_err(ReadFailure::Env)?
            };
            match parsed {
                Ok(parts) => return Ok((trailer, parts)),
                Err(area) if second => return Err(ReadFailure::Bad(area)),
                Err(_) => second = true,
            }
        }
    }

    /// Maps and verifies the section if it fits. A mapping that fails its checks is given up: the
    /// section stays Cold, and the medium is asked whether it is damaged.
    async fn make_resident(
        self: &Rc<Self>,
        section: &Rc<Section<E>>,
        residency: Residency,
    ) -> Result<(), OpenFailure> {
        let len = section.len();
        if residency == Residency::MakeRoom {
            self.make_room(len);
        }
        if !self.has_room(len) {
            return Ok(());
        }
        self.add_resident(len);
        let mapping = self.map(section).await;
        let verified = match &mapping {
            Some(mapping) => self.verify(section, mapping).await,
            None => Ok(false),
        };
        self.sub_resident(len);
        match (mapping, verified?) {
            (Some(mapping), true) => section.set_resident(mapping),
            (Some(_), false) => self.examine(section).await?,
            (None, _) => {},
        }
        Ok(())
    }

    async fn map(&self, section: &Section<E>) -> Option<Bytes> {
        let place = section.place();
        let len = usize_of(place.len)?;
        let mapping = self.env().dir().map(&run_name(place.run), place.off, len).await.ok()?;
        (mapping.len() == len).then_some(mapping)
    }

    /// Checks every chunk and page of a whole section, or of all of it that chunks cover.
    async fn verify(&self, section: &Section<E>, bytes: &Bytes) -> Result<bool, OpenFailure> {
        let covered = usize_of(covered_len(section.trailer())).expect("the section is in memory");
        let covered = bytes.slice(..covered);
        let crcs = section.chunk_crcs();
        for first in (0..crcs.len()).step_by(CHUNKS_A_PIECE) {
            let start = first * CHUNK;
            let piece = covered.slice(start..covered.len().min(start + CHUNKS_A_PIECE * CHUNK));
            let make = || piece_check(section, &piece, first);
            let good = offload(self.env(), make).await.map_err(OpenFailure::Env)?;
            if !good {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads all of a section from the medium, also what memory holds of it, and marks it damaged
    /// if it is.
    ///
    /// # Errors
    ///
    /// [`OpenFailure::Damaged`]: a part of it fails its check; an error of the device says nothing
    /// about it.
    pub(crate) async fn recheck(
        self: &Rc<Self>,
        section: &Rc<Section<E>>,
    ) -> Result<(), OpenFailure> {
        match self.read_parts(section.shard(), &section.place()).await {
            Ok(_) => {},
            Err(ReadFailure::Bad(area)) => {
                section.set_damaged();
                return Err(section.damage(area).into());
            },
            Err(ReadFailure::Env(error)) => return Err(OpenFailure::Env(error)),
        }
        self.examine(section).await?;
        if section.is_damaged() { Err(section.damage(Area::Body).into()) } else { Ok(()) }
    }

    /// Reads a section directly and marks it damaged if a chunk of it is.
    pub(crate) async fn examine(
        self: &Rc<Self>,
        section: &Rc<Section<E>>,
    ) -> Result<(), OpenFailure> {
        let place = section.place();
        let covered = covered_len(section.trailer());
        let crcs = section.chunk_crcs();
        for n in 0..crcs.len() {
            let start = u64_of(n * CHUNK);
            let len = usize_of((covered - start).min(u64_of(CHUNK))).expect("at most a chunk");
            let bytes = match read_long(self, place.run, place.off + start, len).await {
                Ok(bytes) => bytes,
                Err(ReadFailure::Bad(_)) => Vec::new(),
                Err(failure) => return Err(open_failure(section, failure)),
            };
            if !check_chunks(&bytes, &crcs[n..=n]) {
                section.set_damaged();
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The work that checks some chunks, and the pages in them.
fn piece_check<E: Env>(
    section: &Section<E>,
    piece: &Bytes,
    first_chunk: usize,
) -> impl FnOnce() -> bool + Send + 'static {
    let (piece, crcs, index) = (piece.clone(), section.chunk_crcs(), section.shared_index());
    let id = section.id();
    move || {
        let pages_a_chunk = CHUNK / PAGE;
        let first = u32::try_from(first_chunk * pages_a_chunk).unwrap_or(u32::MAX);
        let end = u64::from(first) + u64_of(piece.len() / PAGE);
        let pages = index.pages();
        let from = pages.partition_point(|page| *page < first);
        let to = pages.partition_point(|page| u64::from(*page) < end);
        let chunks = piece.len().div_ceil(CHUNK);
        check_chunks(&piece, &crcs[first_chunk..first_chunk + chunks])
            && check_pages(&piece, first, &pages[from..to], id)
    }
}

fn open_failure<E: Env>(section: &Section<E>, failure: ReadFailure) -> OpenFailure {
    match failure {
        ReadFailure::Bad(area) => OpenFailure::Damaged(section.damage(area)),
        ReadFailure::Env(error) => OpenFailure::Env(error),
    }
}
