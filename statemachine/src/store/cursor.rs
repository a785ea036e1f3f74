//! Walks a section's entries in key order, page by page.

use core::fmt;
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;

use super::section::Got;
use super::{Fetched, PageRead, Pins, Section};
use crate::Damage;
use crate::run::Direction;
use crate::run::page::{BadPage, Body, Page, Walk};

/// What a cursor found at its next step.
#[derive(Debug)]
pub enum Step {
    /// It stands on an entry.
    Ready,
    /// A page must be loaded first; the cursor did not move.
    Cold(PageRead),
    /// The next page is damaged; the cursor did not move.
    Damaged(Damage),
    /// No entry is left.
    End,
}

/// Where a cursor stands.
#[derive(Clone, Debug)]
enum Place {
    /// Before its first entry.
    Start(Option<Box<[u8]>>),
    /// On an entry of the page at this place of the index.
    On(usize),
    /// On its way into the page at this place of the index, from the page's near end.
    Before(usize),
    /// Behind its last entry.
    End,
}

/// Walks a section's entries in key order.
pub struct Cursor<E: Env> {
    section: Rc<Section<E>>,
    direction: Direction,
    place: Place,
    page: Bytes,
    /// Whether `page` lies in the mapping.
    mapped: bool,
    walk: Walk,
    /// The key before a step back, which makes the key anew.
    left: Vec<u8>,
}

impl<E: Env> Cursor<E> {
    pub(crate) fn new(section: Rc<Section<E>>, from: Option<&[u8]>, direction: Direction) -> Self {
        let place = Place::Start(from.map(Box::from));
        let (page, walk) = (Bytes::new(), Walk::new());
        Self { section, direction, place, page, mapped: false, walk, left: Vec::new() }
    }

    /// Goes to the next entry in the cursor's direction.
    pub fn step(&mut self, pins: &Pins) -> Step {
        loop {
            let moved = match &self.place {
                Place::End => return Step::End,
                Place::Start(from) => {
                    let from = from.clone();
                    self.enter_at(from.as_deref(), pins)
                },
                Place::Before(n) => self.enter(*n, pins),
                Place::On(n) => self.go_on(*n),
            };
            match moved {
                Ok(true) => return Step::Ready,
                Ok(false) => {},
                Err(step) => return step,
            }
        }
    }

    /// The entry's key; empty before the first step.
    pub fn key(&self) -> &[u8] {
        &self.walk.key
    }

    /// Index of the entry that wrote it.
    pub const fn mod_index(&self) -> u64 {
        self.walk.record.mod_index
    }

    /// When it expires, in log time; 0: never.
    pub const fn expiry_ms(&self) -> u64 {
        self.walk.record.expiry_ms
    }

    /// Whether it is a deletion.
    pub fn is_deleted(&self) -> bool {
        self.walk.record.body == Body::Deleted
    }

    /// Its value.
    pub fn value(&self, pins: &Pins) -> Fetched {
        self.section.value(&self.page, &self.walk.record.body, pins)
    }

    /// The first step: into the page that may hold `from`. `false`: no entry there, go on.
    fn enter_at(&mut self, from: Option<&[u8]>, pins: &Pins) -> Result<bool, Step> {
        let index = self.section.index();
        let last = index.count().checked_sub(1);
        let (Some(last), Some(key)) = (last, from) else {
            self.place = match (last, self.direction) {
                (None, _) => Place::End,
                (Some(_), Direction::Forward) => Place::Before(0),
                (Some(last), Direction::Reverse) => Place::Before(last),
            };
            return Ok(false);
        };
        let n = match (index.find(key), self.direction) {
            (Some(n), _) => n.min(last),
            (None, Direction::Forward) => 0,
            (None, Direction::Reverse) => {
                self.place = Place::End;
                return Ok(false);
            },
        };
        self.fetch(n, pins)?;
        let found = self.seek(key).or_else(|BadPage| self.bad(n))?;
        self.place = if found { Place::On(n) } else { self.beside(n) };
        Ok(found)
    }

    /// Stands on the first slot at or after `key`, or on the last one before it.
    fn seek(&mut self, key: &[u8]) -> Result<bool, BadPage> {
        let page = Page::new(&self.page)?;
        let found = page.seek(key, &mut self.walk)?;
        match self.direction {
            Direction::Forward => Ok(found),
            Direction::Reverse if !found => {
                page.goto(page.count() - 1, &mut self.walk)?;
                Ok(true)
            },
            Direction::Reverse if self.walk.slot == 0 => Ok(false),
            Direction::Reverse => {
                page.goto(self.walk.slot - 1, &mut self.walk)?;
                Ok(true)
            },
        }
    }

    /// Into the page at place `n`, from its near end.
    fn enter(&mut self, n: usize, pins: &Pins) -> Result<bool, Step> {
        self.fetch(n, pins)?;
        let enter = |page: Page<'_>, walk: &mut Walk| match self.direction {
            Direction::Forward => page.goto(0, walk),
            Direction::Reverse => page.goto(page.count() - 1, walk),
        };
        match Page::new(&self.page).and_then(|page| enter(page, &mut self.walk)) {
            Ok(()) => {
                self.place = Place::On(n);
                Ok(true)
            },
            Err(BadPage) => self.bad(n),
        }
    }

    /// To the next slot of the page at place `n`.
    fn go_on(&mut self, n: usize) -> Result<bool, Step> {
        let slot = self.walk.slot;
        if self.direction == Direction::Reverse {
            self.left.clone_from(&self.walk.key);
        }
        let go = |page: Page<'_>, walk: &mut Walk| match self.direction {
            Direction::Forward if slot + 1 < page.count() => page.advance(walk).map(|()| true),
            Direction::Reverse if slot > 0 => page.goto(slot - 1, walk).map(|()| true),
            Direction::Forward | Direction::Reverse => Ok(false),
        };
        match Page::new(&self.page).and_then(|page| go(page, &mut self.walk)) {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.place = self.beside(n);
                Ok(false)
            },
            Err(BadPage) => {
                // The way is found again by the key once the page was read anew.
                self.place = Place::Start(Some(self.resume_key()));
                self.bad(n)
            },
        }
    }

    /// Where a walk goes on: just behind the key it stood on, or just before it.
    fn resume_key(&self) -> Box<[u8]> {
        match self.direction {
            Direction::Forward => [&*self.walk.key, &[0]].concat().into(),
            Direction::Reverse => Box::from(&*self.left),
        }
    }

    fn beside(&self, n: usize) -> Place {
        match self.direction {
            Direction::Forward if n + 1 < self.section.index().count() => Place::Before(n + 1),
            Direction::Reverse if n > 0 => Place::Before(n - 1),
            Direction::Forward | Direction::Reverse => Place::End,
        }
    }

    fn fetch(&mut self, n: usize, pins: &Pins) -> Result<(), Step> {
        (self.page, self.mapped) = match self.section.page(self.section.index().pages()[n], pins) {
            Got::Mapped(page) => (page, true),
            Got::Loaded(page) => (page, false),
            Got::Cold(read) => return Err(Step::Cold(read)),
        };
        Ok(())
    }

    fn bad(&self, n: usize) -> Result<bool, Step> {
        Err(match self.section.bad_page(self.section.index().pages()[n], self.mapped) {
            Ok(read) => Step::Cold(read),
            Err(damage) => Step::Damaged(damage),
        })
    }
}

impl<E: Env> fmt::Debug for Cursor<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({:?} at {:?} of {:032x})", self.direction, self.place, self.section.id())
    }
}
