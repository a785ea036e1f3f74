//! One input of a merge: read front to back, in large pieces, past the page cache. Every page and
//! value is verified again, so that a merge does not carry damage on. A section may be a peer's,
//! whose checksums hold whatever it says: that keys ascend, and that versions are of the section's
//! part of the log, is verified here too.

use std::rc::Rc;

use bowline_env::{Env, SharedBuf};
use bytes::Bytes;

use crate::run::format::{PAGE, PAGE_U64, usize_of};
use crate::run::page::{self, BadPage, Body, Page, Walk};
use crate::run::reader::{extents_len, is_in_extents};
use crate::store::{Far, Section, Store};
use crate::{Area, Damage};

/// Pages of one read.
const PAGES_A_READ: usize = 16;
/// Bytes of one read of values.
const VALUES_A_READ: u64 = 128 << 10;

/// Where the input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the page at this place of the index.
    Before(usize),
    /// On an entry of it.
    On(usize),
    End,
}

/// One input of a merge.
pub(super) struct Input<E: Env> {
    store: Rc<Store<E>>,
    section: Rc<Section<E>>,
    place: Place,
    page: Bytes,
    walk: Walk,
    /// The key before the one it stands on.
    before: Vec<u8>,
    /// Pages read ahead: the first one's number, and their bytes.
    pages: (u32, Bytes),
    /// Values read ahead: their place in the section, and their bytes.
    values: (u64, Bytes),
}

impl<E: Env> Input<E> {
    pub(super) fn new(store: &Rc<Store<E>>, section: &Rc<Section<E>>) -> Self {
        Self {
            store: Rc::clone(store),
            section: Rc::clone(section),
            place: Place::Before(0),
            page: Bytes::new(),
            walk: Walk::new(),
            before: Vec::new(),
            pages: (0, Bytes::new()),
            values: (0, Bytes::new()),
        }
    }

    /// The key it stands on; none: it is at its end.
    pub(super) fn key(&self) -> Option<&[u8]> {
        (self.place != Place::End).then_some(&self.walk.key)
    }

    pub(super) const fn mod_index(&self) -> u64 {
        self.walk.record.mod_index
    }

    pub(super) const fn expiry_ms(&self) -> u64 {
        self.walk.record.expiry_ms
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.walk.record.body == Body::Deleted
    }

    /// Goes to the next entry.
    pub(super) async fn advance(&mut self) -> Result<(), Damage> {
        let is_first = self.place == Place::Before(0);
        self.before.clone_from(&self.walk.key);
        self.go_on().await?;
        let Place::On(n) = self.place else { return Ok(()) };
        let ascends = is_first || self.before < self.walk.key;
        let range = self.section.min_index()..=self.section.max_index();
        if ascends && range.contains(&self.mod_index()) { Ok(()) } else { Err(self.bad(n)) }
    }

    async fn go_on(&mut self) -> Result<(), Damage> {
        if let Place::On(n) = self.place {
            let page = Page::new(&self.page).map_err(|BadPage| self.bad(n))?;
            if self.walk.slot + 1 < page.count() {
                return page.advance(&mut self.walk).map_err(|BadPage| self.bad(n));
            }
            self.place = Place::Before(n + 1);
        }
        let Place::Before(n) = self.place else { return Ok(()) };
        if n == self.section.index().count() {
            self.place = Place::End;
            return Ok(());
        }
        self.page = self.load_page(n).await?;
        let page = Page::new(&self.page).map_err(|BadPage| self.bad(n))?;
        page.goto(0, &mut self.walk).map_err(|BadPage| self.bad(n))?;
        self.place = Place::On(n);
        Ok(())
    }

    /// The value of the entry it stands on; none: deleted.
    pub(super) async fn value(&mut self) -> Result<Option<Bytes>, Damage> {
        match self.walk.record.body.clone() {
            Body::Deleted => Ok(None),
            Body::Inline(range) => Ok(Some(self.page.slice(range))),
            Body::Far(far) => self.far(far).await.map(Some),
        }
    }

    fn bad(&self, n: usize) -> Damage {
        self.section.set_damaged();
        self.section.damage(Area::Page(self.section.index().pages()[n]))
    }

    async fn load_page(&mut self, n: usize) -> Result<Bytes, Damage> {
        let section = Rc::clone(&self.section);
        let page_no = section.index().pages()[n];
        if let Some(mapping) = section.mapping() {
            let start = usize_of(u64::from(page_no) * PAGE_U64).expect("the section is mapped");
            let page = mapping.slice(start..start + PAGE);
            if page::verify(&page, section.id(), page_no).is_ok() {
                return Ok(page);
            }
            section.set_cold();
        }
        if let Some(page) = self.read_ahead(page_no) {
            return Ok(page);
        }
        let pages = &section.index().pages()[n..];
        let follow = pages.windows(2).take(PAGES_A_READ - 1).take_while(|p| p[0] + 1 == p[1]);
        let count = follow.count() + 1;
        let place = section.place();
        let at = place.off + u64::from(page_no) * PAGE_U64;
        let check = |bytes: &SharedBuf| {
            for (page, page_no) in bytes.chunks(PAGE).zip(page_no..) {
                let good = page::verify(page, place.section, page_no);
                good.map_err(|BadPage| Area::Page(page_no))?;
            }
            Ok(Bytes::copy_from_slice(bytes))
        };
        let (what, span) = (Area::Page(page_no), (place.run, at, count * PAGE));
        let read = self.store.files().read_checked(self.store.env(), span, what, check).await;
        self.pages = (
            page_no,
            read.map_err(|failure| {
                section.set_damaged();
                section.damage(failure.area(what))
            })?,
        );
        Ok(self.read_ahead(page_no).expect("the page was read"))
    }

    fn read_ahead(&self, page_no: u32) -> Option<Bytes> {
        let (first, bytes) = &self.pages;
        let start = usize::try_from(page_no.checked_sub(*first)?).ok()?.checked_mul(PAGE)?;
        (start < bytes.len()).then(|| bytes.slice(start..start + PAGE))
    }

    async fn far(&mut self, far: Far) -> Result<Bytes, Damage> {
        let section = Rc::clone(&self.section);
        let what = Area::Value(far.off);
        let damage = || {
            section.set_damaged();
            section.damage(what)
        };
        if !is_in_extents(section.trailer(), far.off, far.len) {
            return Err(damage());
        }
        let len = usize::try_from(far.len).expect("a usize holds a u32");
        let is_good = |value: &[u8]| crc32fast::hash(value) == far.crc;
        if let Some(mapping) = section.mapping() {
            let start = usize_of(far.off).expect("the section is mapped");
            let value = mapping.slice(start..start + len);
            if is_good(&value) {
                return Ok(value);
            }
            section.set_cold();
        }
        if let Some(value) = self.value_ahead(far.off, len).filter(|value| is_good(value)) {
            return Ok(value);
        }
        let ahead = VALUES_A_READ.max(u64::from(far.len));
        let ahead = ahead.min(extents_len(section.trailer()) - far.off);
        let ahead = usize_of(ahead).expect("a read fits memory");
        let place = section.place();
        let check = |bytes: &SharedBuf| {
            if is_good(&bytes[..len]) { Ok(Bytes::copy_from_slice(bytes)) } else { Err(what) }
        };
        let span = (place.run, place.off + far.off, ahead);
        let read = self.store.files().read_checked(self.store.env(), span, what, check).await;
        self.values = (
            far.off,
            read.map_err(|failure| {
                section.set_damaged();
                section.damage(failure.area(what))
            })?,
        );
        Ok(self.value_ahead(far.off, len).expect("the value was read"))
    }

    fn value_ahead(&self, off: u64, len: usize) -> Option<Bytes> {
        let (first, bytes) = &self.values;
        let start = usize_of(off.checked_sub(*first)?)?;
        let end = start.checked_add(len)?;
        (end <= bytes.len()).then(|| bytes.slice(start..end))
    }
}
