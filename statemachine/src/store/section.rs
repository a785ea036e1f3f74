//! An open section: what of it is in memory, and how a key is found in it.
//!
//! A section is *Resident* while its verified mapping is held, else *Cold*: its pages come from
//! pins or the page cache, verified when they were read. Nothing else is ever dereferenced, so no
//! access waits for the disk. A Resident page that makes no sense was changed after it was
//! verified: the section turns Cold, and the direct read that follows tells whether the medium or
//! only its copy in memory is bad.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::Env;
use bytes::Bytes;

use super::{Cursor, PageRead, Part, Pins, Store};
use crate::manifest::SectionRef;
use crate::run::format::{KIND_BLOB, PAGE, Trailer, u64_of, usize_of};
use crate::run::index::PageIndex;
use crate::run::page::{BadPage, Body, Page, Record};
use crate::run::reader::{Parts, is_in_extents};
use crate::run::{Direction, RangeTombstone, tombstone_index};
use crate::{Area, Damage};

/// A key's version in a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunVer {
    /// Index of the entry that wrote it.
    pub mod_index: u64,
    /// When it expires, in log time; 0: never.
    pub expiry_ms: u64,
    /// The value; none: deleted.
    pub value: Option<Bytes>,
}

/// What a section has of one key.
#[derive(Debug)]
pub enum Point {
    /// This version.
    Hit(RunVer),
    /// Nothing.
    Miss,
    /// A part that must be loaded first.
    Cold(PageRead),
    /// The part that would tell is damaged.
    Damaged(Damage),
}

/// The value of an entry.
#[derive(Debug)]
pub enum Fetched {
    /// The value; none: deleted.
    Ready(Option<Bytes>),
    /// The value must be loaded first.
    Cold(PageRead),
    /// The value is damaged.
    Damaged(Damage),
}

/// Where a page's bytes are.
pub(crate) enum Got {
    /// In the mapping.
    Mapped(Bytes),
    /// In a pin or the page cache, verified.
    Loaded(Bytes),
    /// Nowhere in memory.
    Cold(PageRead),
}

/// An open section of a run.
pub struct Section<E: Env> {
    store: Rc<Store<E>>,
    shard: u64,
    at: SectionRef,
    trailer: Trailer,
    index: Arc<PageIndex>,
    ranges: Box<[RangeTombstone]>,
    chunk_crcs: Arc<[u32]>,
    mapping: RefCell<Option<Bytes>>,
    damaged: Cell<bool>,
    /// Counts the openings of a core: the highest is the newest.
    opened: u64,
}

impl<E: Env> Section<E> {
    pub(crate) fn new(
        store: &Rc<Store<E>>,
        shard: u64,
        at: SectionRef,
        trailer: Trailer,
        parts: Parts,
    ) -> Self {
        Self {
            store: Rc::clone(store),
            shard,
            at,
            trailer,
            index: Arc::new(parts.index),
            ranges: parts.ranges.into(),
            chunk_crcs: parts.chunk_crcs.into(),
            mapping: RefCell::new(None),
            damaged: Cell::new(false),
            opened: store.next_opened(),
        }
    }

    /// The version of `key` that it holds, if any.
    pub fn point(&self, key: &[u8], pins: &Pins) -> Point {
        match self.find(key, pins) {
            Ok(None) => Point::Miss,
            Ok(Some((page, record))) => match self.value(&page, &record.body, pins) {
                Fetched::Ready(value) => Point::Hit(version(&record, value)),
                Fetched::Cold(read) => Point::Cold(read),
                Fetched::Damaged(damage) => Point::Damaged(damage),
            },
            Err(point) => point,
        }
    }

    /// As [`Section::point`], but the value of a put is always the empty one: for questions that
    /// do not look at it.
    pub fn head(&self, key: &[u8], pins: &Pins) -> Point {
        match self.find(key, pins) {
            Ok(None) => Point::Miss,
            Ok(Some((_, record))) => {
                let value = (record.body != Body::Deleted).then(Bytes::new);
                Point::Hit(version(&record, value))
            },
            Err(point) => point,
        }
    }

    /// Index of the deleted range that covers `key`; 0: none.
    pub fn tombstone_index(&self, key: &[u8]) -> u64 {
        tombstone_index(&self.ranges, key)
    }

    /// A cursor before the first entry at or after `from` (forward), or after the last entry
    /// before `from` (reverse); none: from the end it walks away from.
    pub fn cursor(self: &Rc<Self>, from: Option<&[u8]>, direction: Direction) -> Cursor<E> {
        Cursor::new(Rc::clone(self), from, direction)
    }

    /// Its deleted ranges, disjoint and in order.
    pub fn ranges(&self) -> &[RangeTombstone] {
        &self.ranges
    }

    /// First log index whose effect it may hold.
    pub const fn min_index(&self) -> u64 {
        self.at.min_index
    }

    /// Last log index whose effect it holds.
    pub const fn max_index(&self) -> u64 {
        self.at.max_index
    }

    /// Its id.
    pub const fn id(&self) -> u128 {
        self.at.section
    }

    /// Its run's id.
    pub const fn run(&self) -> u128 {
        self.at.run
    }

    /// Its shard.
    pub const fn shard(&self) -> u64 {
        self.shard
    }

    /// Its place, as the manifest names it.
    pub const fn place(&self) -> SectionRef {
        self.at
    }

    /// Its length in bytes.
    pub const fn len(&self) -> u64 {
        self.at.len
    }

    /// Whether it has no length; no section is so.
    pub const fn is_empty(&self) -> bool {
        self.at.len == 0
    }

    /// Puts in it.
    pub const fn puts(&self) -> u64 {
        self.trailer.puts
    }

    /// Deletions and deleted ranges in it.
    pub const fn tombstones(&self) -> u64 {
        self.trailer.tombstones
    }

    /// Whether it is the snapshot of a user's machine.
    pub const fn is_blob(&self) -> bool {
        self.trailer.kind == KIND_BLOB
    }

    /// Whether its pages are mapped and verified.
    pub fn is_resident(&self) -> bool {
        self.mapping.borrow().is_some()
    }

    /// Whether a part of it was found damaged. It is left out of merges.
    pub fn is_damaged(&self) -> bool {
        self.damaged.get()
    }

    pub(crate) const fn store(&self) -> &Rc<Store<E>> {
        &self.store
    }

    pub(crate) const fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    pub(crate) fn index(&self) -> &PageIndex {
        &self.index
    }

    pub(crate) fn shared_index(&self) -> Arc<PageIndex> {
        Arc::clone(&self.index)
    }

    pub(crate) fn chunk_crcs(&self) -> Arc<[u32]> {
        Arc::clone(&self.chunk_crcs)
    }

    pub(crate) const fn opened(&self) -> u64 {
        self.opened
    }

    pub(crate) fn mapping(&self) -> Option<Bytes> {
        self.mapping.borrow().clone()
    }

    pub(crate) fn damage(&self, area: Area) -> Damage {
        Damage::Run { shard: self.shard, run: self.at.run, area }
    }

    pub(crate) fn set_damaged(&self) {
        self.damaged.set(true);
    }

    /// Cold to Resident; the mapping is verified.
    pub(crate) fn set_resident(&self, mapping: Bytes) {
        assert_eq!(u64_of(mapping.len()), self.at.len, "the whole section is mapped");
        let old = self.mapping.replace(Some(mapping));
        assert!(old.is_none(), "a section is mapped once");
        self.store.add_resident(self.at.len);
    }

    /// Resident to Cold. What was handed out of the mapping stays valid.
    pub(crate) fn set_cold(&self) {
        if self.mapping.take().is_some() {
            self.store.sub_resident(self.at.len);
        }
    }

    /// A page's bytes, or what to load.
    pub(crate) fn page(&self, page_no: u32, pins: &Pins) -> Got {
        if let Some(mapping) = &*self.mapping.borrow() {
            let start = usize::try_from(page_no).ok().and_then(|n| n.checked_mul(PAGE));
            let page = start.and_then(|start| Some(start..start.checked_add(PAGE)?));
            if let Some(page) = page.filter(|page| page.end <= mapping.len()) {
                return Got::Mapped(mapping.slice(page));
            }
        }
        let read = PageRead { section: self.at.section, part: Part::Page(page_no) };
        if let Some(page) = pins.part(&read) {
            return Got::Loaded(page.clone());
        }
        self.store.cached(self.at.section, page_no).map_or(Got::Cold(read), Got::Loaded)
    }

    /// What a page that makes no sense means: one from the mapping is read again, directly.
    pub(crate) fn bad_page(&self, page_no: u32, mapped: bool) -> Result<PageRead, Damage> {
        if mapped {
            self.set_cold();
            Ok(PageRead { section: self.at.section, part: Part::Page(page_no) })
        } else {
            self.set_damaged();
            Err(self.damage(Area::Page(page_no)))
        }
    }

    /// The value that a record of `page` names.
    pub(crate) fn value(&self, page: &Bytes, body: &Body, pins: &Pins) -> Fetched {
        match body {
            Body::Deleted => Fetched::Ready(None),
            Body::Inline(range) => {
                Fetched::Ready(Some(Bytes::copy_from_slice(&page[range.clone()])))
            },
            Body::Far(far) => {
                if !is_in_extents(&self.trailer, far.off, far.len) {
                    self.set_damaged();
                    return Fetched::Damaged(self.damage(Area::Value(far.off)));
                }
                if let Some(mapping) = &*self.mapping.borrow() {
                    let start = usize_of(far.off).expect("a mapped section fits the address space");
                    let len = usize::try_from(far.len).expect("a usize holds a u32");
                    return Fetched::Ready(Some(mapping.slice(start..start + len)));
                }
                let read = PageRead { section: self.at.section, part: Part::Value(*far) };
                match pins.part(&read) {
                    Some(value) => Fetched::Ready(Some(value.clone())),
                    None => Fetched::Cold(read),
                }
            },
        }
    }

    /// The page of `key` and its record there.
    fn find(&self, key: &[u8], pins: &Pins) -> Result<Option<(Bytes, Record)>, Point> {
        let Some(n) = self.index.find(key).filter(|_| !self.index.is_past_end(key)) else {
            return Ok(None);
        };
        let page_no = self.index.pages()[n];
        let (page, mapped) = match self.page(page_no, pins) {
            Got::Mapped(page) => (page, true),
            Got::Loaded(page) => (page, false),
            Got::Cold(read) => return Err(Point::Cold(read)),
        };
        match Page::new(&page).and_then(|page| page.find(key)) {
            Ok(record) => Ok(record.map(|record| (page, record))),
            Err(BadPage) => Err(match self.bad_page(page_no, mapped) {
                Ok(read) => Point::Cold(read),
                Err(damage) => Point::Damaged(damage),
            }),
        }
    }
}

const fn version(record: &Record, value: Option<Bytes>) -> RunVer {
    RunVer { mod_index: record.mod_index, expiry_ms: record.expiry_ms, value }
}

impl<E: Env> Drop for Section<E> {
    fn drop(&mut self) {
        self.set_cold();
        self.store.forget(self.at.section, self.at.run);
    }
}

impl<E: Env> fmt::Debug for Section<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section")
            .field("at", &self.at)
            .field("resident", &self.is_resident())
            .field("damaged", &self.is_damaged())
            .finish_non_exhaustive()
    }
}
