//! Loads parts of Cold sections, each by one direct read, verified, and pinned for the reader.

use std::rc::Rc;

use bowline_env::{Class, Env, SharedBuf};
use bytes::Bytes;

use super::{Far, PageRead, Part, Pins, Section, Store};
use crate::run::format::{PAGE, PAGE_U64};
use crate::run::page;
use crate::run::reader::is_in_extents;
use crate::{Area, Damage};

/// Reads of one load that are in flight at once.
const IN_FLIGHT: usize = 64;

impl<E: Env> Store<E> {
    /// Loads parts of Cold sections, in parallel, and holds them in `pins`. A part whose section
    /// was closed meanwhile is left out: the reader asks again and finds another one.
    ///
    /// # Errors
    ///
    /// A part is damaged, also after it was read a second time.
    pub async fn load(
        self: &Rc<Self>,
        mut reads: Vec<PageRead>,
        pins: &mut Pins,
    ) -> Result<(), Damage> {
        reads.sort_unstable();
        reads.dedup();
        reads.retain(|read| !self.pin_cached(read, pins));
        for some in reads.chunks(IN_FLIGHT) {
            let tasks: Vec<_> = some.iter().map(|read| self.start(*read)).collect();
            let mut first = Ok(());
            for (read, task) in some.iter().zip(tasks) {
                match task.await {
                    Ok(Some(bytes)) => pins.hold(*read, bytes),
                    Ok(None) => {},
                    Err(damage) => first = first.and(Err(damage)),
                }
            }
            first?;
        }
        Ok(())
    }

    /// Pins a page that the cache holds.
    fn pin_cached(&self, read: &PageRead, pins: &mut Pins) -> bool {
        if pins.part(read).is_some() {
            return true;
        }
        let Part::Page(page_no) = read.part else { return false };
        let page = self.cached(read.section, page_no);
        let found = page.is_some();
        if let Some(page) = page {
            pins.hold(*read, page);
        }
        found
    }

    fn start(self: &Rc<Self>, read: PageRead) -> E::Task<Result<Option<Bytes>, Damage>> {
        let store = Rc::clone(self);
        self.env().spawn(Class::Core, async move {
            let Some(section) = store.section(read.section) else { return Ok(None) };
            store.count_cold_read();
            match read.part {
                Part::Page(page_no) => store.load_page(&section, page_no).await,
                Part::Value(far) => store.load_value(&section, far).await,
            }
            .map(Some)
        })
    }

    async fn load_page(&self, section: &Section<E>, page_no: u32) -> Result<Bytes, Damage> {
        let place = section.place();
        let id = place.section;
        let span = (place.run, place.off + u64::from(page_no) * PAGE_U64, PAGE);
        let what = Area::Page(page_no);
        let check = |bytes: &SharedBuf| {
            page::verify(bytes, id, page_no).map_err(|page::BadPage| what)?;
            Ok(Bytes::copy_from_slice(bytes))
        };
        match self.files().read_checked(self.env(), span, what, check).await {
            Ok(page) => {
                self.cache(id, page_no, page.clone());
                Ok(page)
            },
            Err(failure) => {
                section.set_damaged();
                Err(section.damage(failure.area(what)))
            },
        }
    }

    async fn load_value(&self, section: &Section<E>, far: Far) -> Result<Bytes, Damage> {
        let place = section.place();
        let what = Area::Value(far.off);
        if !is_in_extents(section.trailer(), far.off, far.len) {
            section.set_damaged();
            return Err(section.damage(what));
        }
        let len = usize::try_from(far.len).expect("a usize holds a u32");
        let check = |bytes: &SharedBuf| {
            if crc32fast::hash(bytes) == far.crc {
                Ok(Bytes::copy_from_slice(bytes))
            } else {
                Err(what)
            }
        };
        let span = (place.run, place.off + far.off, len);
        self.files().read_checked(self.env(), span, what, check).await.map_err(|failure| {
            section.set_damaged();
            section.damage(failure.area(what))
        })
    }
}
