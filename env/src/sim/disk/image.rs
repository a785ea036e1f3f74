//! The bytes of one file: as programs see them, and as they stand on the platter.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::super::rng::Rng;
use super::super::{u64_of, usize_of};
use crate::BLOCK;

/// Bytes of a sector: what a device writes as a whole.
pub(crate) const SECTOR: usize = 512;

/// A block of data, shared until it changes.
pub(in super::super) type Page = Rc<[u8; BLOCK]>;

/// Blocks and a length. A missing block is zeros.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Image {
    pages: Vec<Option<Page>>,
    len: u64,
}

impl Image {
    /// Zeros.
    pub(in super::super) fn zeros(len: u64) -> Self {
        Self { pages: vec![None; usize_of(len.div_ceil(u64_of(BLOCK)))], len }
    }

    /// A copy of bytes.
    pub(in super::super) fn of(bytes: &[u8]) -> Self {
        let page = |part: &[u8]| {
            let mut page = [0; BLOCK];
            page[..part.len()].copy_from_slice(part);
            Some(Rc::new(page))
        };
        Self { pages: bytes.chunks(BLOCK).map(page).collect(), len: u64_of(bytes.len()) }
    }

    /// Bytes in it.
    pub(in super::super) fn len(&self) -> u64 {
        self.len
    }

    /// Blocks in it.
    pub(in super::super) fn blocks(&self) -> usize {
        self.pages.len()
    }

    /// A block; none: zeros.
    pub(in super::super) fn page(&self, at: usize) -> Option<&Page> {
        self.pages.get(at)?.as_ref()
    }

    /// Sets a block, and the length to its end if the file was shorter.
    pub(in super::super) fn set(&mut self, at: usize, page: Option<Page>) {
        if self.pages.len() <= at {
            self.pages.resize(at + 1, None);
        }
        self.pages[at] = page;
        self.len = self.len.max(u64_of((at + 1) * BLOCK));
    }

    /// Sets a block inside the length.
    pub(in super::super) fn change(&mut self, at: usize, change: impl FnOnce(&mut [u8; BLOCK])) {
        if let Some(page) = self.pages.get_mut(at) {
            let mut bytes = page.as_ref().map_or([0; BLOCK], |page| **page);
            change(&mut bytes);
            *page = Some(Rc::new(bytes));
        }
    }

    /// Copies from `at` on into `out`; how many bytes there were.
    pub(in super::super) fn read(&self, at: u64, out: &mut [u8]) -> usize {
        let len = usize_of(self.len.saturating_sub(at).min(u64_of(out.len())));
        let (mut at, mut rest) = (usize_of(at), &mut out[..len]);
        while !rest.is_empty() {
            let skip = at % BLOCK;
            let (part, next) = rest.split_at_mut(rest.len().min(BLOCK - skip));
            match self.page(at / BLOCK) {
                Some(page) => part.copy_from_slice(&page[skip..skip + part.len()]),
                None => part.fill(0),
            }
            at += part.len();
            rest = next;
        }
        len
    }

    /// All bytes.
    pub(in super::super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize_of(self.len)];
        self.read(0, &mut bytes);
        bytes
    }
}

/// A block that was written and not made durable yet.
#[derive(Clone, Debug)]
struct Unsettled {
    at: usize,
    page: Page,
    /// When its write completed, in the disk's count of completions.
    done: u64,
}

/// How a sector that may be torn comes out.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Tearing<'a> {
    pub(in super::super) rng: &'a Rng,
    /// Each sector has its own fate.
    pub(in super::super) sectors: bool,
    /// Sectors of 10^9 that are noise or zeros.
    pub(in super::super) noise: u32,
}

impl Tearing<'_> {
    /// What is found in a block that held `old` and was being overwritten with `new`.
    pub(in super::super) fn tear(self, old: Option<&Page>, new: &Page) -> Option<Page> {
        let whole = !self.sectors || self.rng.ratio(1, 2);
        if whole && self.noise == 0 {
            return if self.rng.ratio(1, 2) { Some(Rc::clone(new)) } else { old.map(Rc::clone) };
        }
        let all_new = self.rng.ratio(1, 2);
        let mut page = old.map_or([0; BLOCK], |page| **page);
        for (sector, fresh) in page.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
            if self.rng.chance(self.noise) {
                sector.fill(0);
                if self.rng.ratio(1, 2) {
                    self.rng.fill(sector);
                }
            } else if if whole { all_new } else { self.rng.ratio(1, 2) } {
                sector.copy_from_slice(fresh);
            }
        }
        Some(Rc::new(page))
    }
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Inode {
    /// What a read finds.
    pub(in super::super) seen: Image,
    /// What a power loss leaves at least.
    pub(in super::super) durable: Image,
    unsettled: Vec<Unsettled>,
    /// Blocks as they were before their last write.
    before: BTreeMap<usize, Option<Page>>,
    /// Blocks that cannot be read until they are written.
    pub(in super::super) bad: BTreeSet<usize>,
    /// Open handles.
    pub(in super::super) opens: usize,
}

impl Inode {
    /// A file whose content is durable.
    pub(in super::super) fn durable(image: Image) -> Self {
        Self { seen: image.clone(), durable: image, ..Self::default() }
    }

    /// A write reaches the device; with `synced`, the platter.
    pub(in super::super) fn land(&mut self, first: usize, pages: &[Page], done: u64, synced: bool) {
        if synced {
            let range = first..first + pages.len();
            self.unsettled.retain(|write| !range.contains(&write.at));
        }
        for (at, page) in (first..).zip(pages) {
            self.bad.remove(&at);
            self.before.insert(at, self.seen.page(at).map(Rc::clone));
            self.seen.set(at, Some(Rc::clone(page)));
            if synced {
                self.durable.set(at, Some(Rc::clone(page)));
            } else {
                self.unsettled.push(Unsettled { at, page: Rc::clone(page), done });
            }
        }
    }

    /// Makes the writes that completed up to `mark` durable.
    pub(in super::super) fn settle(&mut self, mark: u64) {
        let durable = &mut self.durable;
        self.unsettled.retain(|write| {
            let settles = write.done <= mark;
            if settles {
                durable.set(write.at, Some(Rc::clone(&write.page)));
            }
            !settles
        });
    }

    /// A sync failed: what it should have made durable is durable or not, and no later sync
    /// changes that.
    pub(in super::super) fn forget(&mut self, mark: u64, rng: &Rng) {
        let (durable, seen) = (&mut self.durable, &mut self.seen);
        self.unsettled.retain(|write| {
            let dropped = write.done <= mark;
            if dropped && rng.ratio(1, 4) {
                durable.set(write.at, Some(Rc::clone(&write.page)));
            } else if dropped && rng.ratio(1, 2) && write.at < durable.blocks() {
                seen.set(write.at, durable.page(write.at).map(Rc::clone));
            }
            !dropped
        });
    }

    /// A block is in flight while the power goes: it is unsettled, and nothing is newer.
    pub(in super::super) fn fly(&mut self, at: usize, page: &Page) {
        self.unsettled.push(Unsettled { at, page: Rc::clone(page), done: u64::MAX });
    }

    /// The power goes: each sector not made durable is old, new or noise.
    pub(in super::super) fn lose_power(&mut self, keep: Keep, tearing: Tearing<'_>) {
        for write in core::mem::take(&mut self.unsettled) {
            self.tear(write.at, &write.page, keep, tearing);
        }
        self.seen = self.durable.clone();
        self.before.clear();
        self.opens = 0;
    }

    /// A block in flight, or written and not synced, meets a power loss.
    pub(in super::super) fn tear(
        &mut self,
        at: usize,
        page: &Page,
        keep: Keep,
        tearing: Tearing<'_>,
    ) {
        match keep {
            Keep::Nothing => {},
            Keep::Everything => self.durable.set(at, Some(Rc::clone(page))),
            Keep::Drawn => {
                // A block past the durable end may be there without the length that shows it.
                if at >= self.durable.blocks() && tearing.rng.ratio(1, 2) {
                    return;
                }
                let torn = tearing.tear(self.durable.page(at), page);
                self.durable.set(at, torn);
            },
        }
    }

    /// A block as it was before its last write, if it was written.
    pub(in super::super) fn stale(&self, at: usize) -> Option<&Option<Page>> {
        self.before.get(&at)
    }

    /// Changes a block at rest, on the platter and for readers.
    pub(in super::super) fn damage(&mut self, at: usize, change: impl Fn(&mut [u8; BLOCK])) {
        self.durable.change(at, &change);
        self.seen.change(at, &change);
    }

    /// Blocks not made durable yet.
    pub(in super::super) fn unsettled(&self) -> usize {
        self.unsettled.len()
    }
}

/// What a power loss leaves of what was not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// The seed draws it, sector by sector.
    #[default]
    Drawn,
    /// Nothing.
    Nothing,
    /// All of it.
    Everything,
}
