//! What a shard's durable state consists of: up to 16 sections, and the point of the log they
//! hold.
//!
//! A manifest is one record of the log, each replacing the shard's last one. A [`ManifestEdit`]
//! exists in memory only: it is what a finished job changes.
//!
//! ```text
//! 0       4     6     8       12      16
//! +-------+-----+-----+-------+-------+----------------------------+
//! | crc32 | fmt | 0   | len   | 0     | rkyv archive of Manifest   |
//! +-------+-----+-----+-------+-------+----------------------------+
//!         |<---------------- what crc32 covers ------------------->|
//! ```
//!
//! Integers are little-endian; `len` counts the archive's bytes.
//!
//! * I1 sections stand newest first with disjoint, descending index ranges, each once.
//! * I2 an edit's generation is the manifest's plus one.
//! * I3 `flushed_index` never falls and is at least every section's `max_index`.
//! * I4 what is counted on from here (generation, index, term) is at most `NUMBER_MAX`, and no
//!   section is longer than the run format allows: a peer offers manifests too.

use core::fmt;

use bytes::Bytes;
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::run::format::SECTION_BYTES_MAX;

/// Most sections of a shard.
pub const SECTIONS_MAX: usize = 16;
/// Longest encoded manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 3_072;
/// Longest membership, in bytes: what 16 sections leave of a manifest.
pub const CONF_BYTES_MAX: usize = 1_536;
/// Layout of the archive.
pub const MANIFEST_FMT: u16 = 1;
/// Generations, indexes and terms that no manifest reaches: consensus lets half of it through, so
/// that what is counted on from there reads back.
const NUMBER_MAX: u64 = u64::MAX / 4 * 3;

const HEAD_LEN: usize = 16;

/// Where a section lies, and which part of the log it stands for.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionRef {
    /// The run file's id.
    pub run: u128,
    /// The section's own id.
    pub section: u128,
    /// Its first byte in the file.
    pub off: u64,
    /// Its length, trailer included.
    pub len: u64,
    /// First log index whose effect it may hold.
    pub min_index: u64,
    /// Last log index whose effect it holds.
    pub max_index: u64,
    /// Kind of section, as in its trailer.
    pub kind: u8,
}

/// A shard's durable state.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Version of the state machine whose layout the sections have; 0: there was none yet.
    pub version: u16,
    /// The shard.
    pub shard: u64,
    /// Counts the manifests of this shard, from 1.
    pub generation: u64,
    /// Hash of the state machine's name.
    pub name_hash: u64,
    /// The sections hold exactly the state at this index.
    pub flushed_index: u64,
    /// Term of that entry.
    pub flushed_term: u64,
    /// Log time at that entry.
    pub sm_clock: u64,
    /// The membership as of that entry, opaque.
    pub conf: Vec<u8>,
    /// Newest first.
    pub sections: Vec<SectionRef>,
}

/// The point of the log that a flush reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Index of the last entry applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Log time at that entry.
    pub sm_clock: u64,
    /// The state machine's version that the members agree on as of that entry: the layout of what
    /// is flushed.
    pub version: u16,
    /// The membership as of that entry, opaque; at most [`CONF_BYTES_MAX`].
    pub conf: Bytes,
}

/// What a finished job changes. In memory only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEdit {
    /// The shard.
    pub shard: u64,
    /// The generation that it makes.
    pub generation: u64,
    /// The new section; none if nothing was left to write.
    pub add: Option<SectionRef>,
    /// Sections that it replaces.
    pub drop: Vec<u128>,
    /// The new point of the log, if it is a flush.
    pub flushed: Option<Flushed>,
}

/// Why bytes are no [`Manifest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes end too early, or go on after the archive.
    Length {
        /// Bytes there should be; the head's length if even that is cut.
        want: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The checksum does not match.
    Checksum {
        /// What the head says.
        want: u32,
        /// What the bytes give.
        got: u32,
    },
    /// Written in a newer layout.
    Format {
        /// The layout it says.
        found: u16,
    },
    /// The archive is invalid.
    Archive,
    /// Sections overlap, are out of order, too many or too long, or reach past the flushed index
    /// (I1, I3, I4).
    Sections,
    /// A generation, index or term is one that no manifest reaches (I4).
    Numbers,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { want, got } => write!(f, "the manifest has {got} bytes, not {want}"),
            Self::Checksum { want, got } => {
                write!(f, "the manifest's checksum is {got:08x}, not {want:08x}")
            },
            Self::Format { found } => write!(f, "the manifest has the unknown layout {found}"),
            Self::Archive => f.write_str("the manifest's archive is invalid"),
            Self::Sections => f.write_str("the manifest's sections contradict each other"),
            Self::Numbers => f.write_str("a number of the manifest cannot have been reached"),
        }
    }
}

impl core::error::Error for ManifestError {}

impl Manifest {
    /// The manifest of a shard that was never flushed: generation 0, nothing in it.
    #[must_use]
    pub const fn empty(shard: u64, name_hash: u64) -> Self {
        Self {
            version: 0,
            shard,
            generation: 0,
            name_hash,
            flushed_index: 0,
            flushed_term: 0,
            sm_clock: 0,
            conf: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// The manifest after `edit`.
    ///
    /// # Panics
    ///
    /// If the edit is of another shard, does not follow this generation (I2), drops what is not
    /// there, or breaks I1 or I3: bugs of the caller.
    #[must_use]
    pub fn apply(&self, edit: &ManifestEdit) -> Self {
        assert_eq!(edit.shard, self.shard, "an edit is of its shard");
        assert_eq!(edit.generation, self.generation + 1, "an edit follows its manifest (I2)");
        let mut next = self.clone();
        next.generation = edit.generation;
        next.sections.retain(|section| !edit.drop.contains(&section.section));
        assert_eq!(
            next.sections.len() + edit.drop.len(),
            self.sections.len(),
            "an edit drops what is there"
        );
        if let Some(flushed) = &edit.flushed {
            assert!(flushed.index >= self.flushed_index, "a flush never goes back (I3)");
            assert!(flushed.conf.len() <= CONF_BYTES_MAX, "a membership fits a manifest");
            next.flushed_index = flushed.index;
            next.flushed_term = flushed.term;
            next.sm_clock = flushed.sm_clock;
            next.version = next.version.max(flushed.version);
            next.conf = flushed.conf.to_vec();
        }
        if let Some(add) = edit.add {
            let at = next.sections.partition_point(|section| section.min_index > add.max_index);
            next.sections.insert(at, add);
        }
        assert!(next.is_sound(), "sections are disjoint and descending (I1, I3)");
        next
    }

    /// Its bytes, at most [`MANIFEST_BYTES_MAX`].
    ///
    /// # Panics
    ///
    /// If it breaks I1 or I3, or its membership is over [`CONF_BYTES_MAX`]: bugs of the caller.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(self.is_sound(), "sections are disjoint and descending (I1, I3)");
        assert!(self.conf.len() <= CONF_BYTES_MAX, "a membership fits a manifest");
        let archive = rkyv::to_bytes::<Error>(self).expect("a manifest has no unarchivable part");
        let len = u32::try_from(archive.len()).expect("a manifest is at most 2 KiB");
        let mut out = Vec::with_capacity(HEAD_LEN + archive.len());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&MANIFEST_FMT.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&archive);
        let crc = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        assert!(out.len() <= MANIFEST_BYTES_MAX, "a manifest is at most 2 KiB");
        Bytes::from(out)
    }

    /// Reads a manifest. `bytes` need no alignment.
    ///
    /// # Errors
    ///
    /// [`ManifestError`]: the bytes are damaged, or of a newer program.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let short = ManifestError::Length { want: HEAD_LEN, got: bytes.len() };
        let head = bytes.first_chunk::<HEAD_LEN>().ok_or(short)?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let archive = &bytes[HEAD_LEN..];
        let len = usize::try_from(word(8)).unwrap_or(usize::MAX);
        if len != archive.len() || bytes.len() > MANIFEST_BYTES_MAX {
            let want = HEAD_LEN.saturating_add(len).min(MANIFEST_BYTES_MAX);
            return Err(ManifestError::Length { want, got: bytes.len() });
        }
        let (want, got) = (word(0), crc32fast::hash(&bytes[4..]));
        if want != got {
            return Err(ManifestError::Checksum { want, got });
        }
        let found = u16::from_le_bytes([head[4], head[5]]);
        if found != MANIFEST_FMT {
            return Err(ManifestError::Format { found });
        }
        let mut aligned = AlignedVec::<16>::with_capacity(archive.len());
        aligned.extend_from_slice(archive);
        let manifest =
            rkyv::from_bytes::<Self, Error>(&aligned).ok().ok_or(ManifestError::Archive)?;
        if !manifest.is_reachable() {
            return Err(ManifestError::Numbers);
        }
        if manifest.is_sound() { Ok(manifest) } else { Err(ManifestError::Sections) }
    }

    /// I4, of what is counted on.
    fn is_reachable(&self) -> bool {
        self.generation.max(self.flushed_index).max(self.flushed_term) <= NUMBER_MAX
    }

    /// I1, I3, and I4 of the sections.
    fn is_sound(&self) -> bool {
        let ranges_run_forward = self.sections.iter().all(|s| s.min_index <= s.max_index);
        let descending = self.sections.windows(2).all(|w| w[0].min_index > w[1].max_index);
        let below = self.sections.first().is_none_or(|s| s.max_index <= self.flushed_index);
        let few = self.sections.len() <= SECTIONS_MAX && self.conf.len() <= CONF_BYTES_MAX;
        let short = self.sections.iter().all(|s| s.len <= SECTION_BYTES_MAX);
        let once = self.sections.iter().enumerate().all(|(nth, section)| {
            self.sections[..nth].iter().all(|newer| newer.section != section.section)
        });
        ranges_run_forward && descending && below && few && short && once
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u128, min_index: u64, max_index: u64) -> SectionRef {
        SectionRef {
            run: id + 1_000,
            section: id,
            off: 4_096,
            len: 65_536,
            min_index,
            max_index,
            kind: 1,
        }
    }

    fn flush(generation: u64, id: u128, min: u64, max: u64) -> ManifestEdit {
        let flushed = Flushed {
            index: max,
            term: 2,
            sm_clock: 9,
            version: 3,
            conf: Bytes::from_static(b"conf"),
        };
        ManifestEdit {
            shard: 7,
            generation,
            add: Some(section(id, min, max)),
            drop: vec![],
            flushed: Some(flushed),
        }
    }

    fn full() -> Manifest {
        let mut manifest = Manifest::empty(7, 0xabcd);
        for n in 1..=16 {
            manifest = manifest.apply(&flush(n, u128::from(n), n * 10 - 9, n * 10));
        }
        manifest.conf = vec![5; CONF_BYTES_MAX];
        manifest
    }

    #[test]
    fn a_full_manifest_fits_2_kib_and_comes_back() {
        let manifest = full();
        let bytes = manifest.encode();
        assert!(bytes.len() <= MANIFEST_BYTES_MAX);
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_an_error() {
        let bytes = full().encode();
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bad).is_err(), "bit {bit}");
        }
        let mut long = bytes.to_vec();
        long.push(0);
        assert!(Manifest::decode(&long).is_err());
    }

    #[test]
    fn a_merge_takes_the_place_of_its_inputs() {
        let manifest = full();
        let edit = ManifestEdit {
            shard: 7,
            generation: 17,
            add: Some(section(99, 21, 50)),
            drop: vec![3, 4, 5],
            flushed: None,
        };
        let next = manifest.apply(&edit);
        let ids: Vec<u128> = next.sections.iter().map(|s| s.section).collect();
        assert_eq!(ids, [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 99, 2, 1]);
        assert_eq!(next.flushed_index, manifest.flushed_index);
    }

    #[test]
    #[should_panic(expected = "an edit follows its manifest (I2)")]
    fn a_gap_in_generations_is_refused() {
        drop(full().apply(&flush(18, 17, 161, 170)));
    }

    #[track_caller]
    fn forge(change: impl FnOnce(&mut Manifest), want: ManifestError) {
        let mut manifest = full();
        change(&mut manifest);
        let archive = rkyv::to_bytes::<Error>(&manifest).unwrap();
        let mut bytes = full().encode().to_vec();
        bytes.truncate(HEAD_LEN);
        bytes.extend_from_slice(&archive);
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Manifest::decode(&bytes), Err(want));
    }

    #[test]
    fn sections_that_overlap_are_refused_when_read() {
        forge(|m| m.sections[3].max_index = m.sections[2].max_index, ManifestError::Sections);
    }

    /// An open section is found by its id, so one that a peer offered twice stood in the manifest
    /// with the same range twice, and that panicked.
    #[test]
    fn a_section_that_stands_in_it_twice_is_refused_when_read() {
        forge(|m| m.sections[3].section = m.sections[9].section, ManifestError::Sections);
    }

    /// A peer's offer with a generation or index of `u64::MAX` was taken, and the next one
    /// panicked; sections whose lengths together pass 64 bits did so at once.
    #[test]
    fn numbers_that_cannot_be_counted_on_from_are_refused_when_read() {
        forge(|m| m.generation = u64::MAX, ManifestError::Numbers);
        forge(|m| m.flushed_index = u64::MAX, ManifestError::Numbers);
        forge(|m| m.flushed_term = NUMBER_MAX + 1, ManifestError::Numbers);
        forge(|m| m.sections[0].len = SECTION_BYTES_MAX + 1, ManifestError::Sections);
        let mut manifest = full();
        (manifest.generation, manifest.flushed_index) = (NUMBER_MAX, NUMBER_MAX);
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }
}
