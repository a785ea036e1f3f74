//! What a run did: a rolling hash always, lines of text on demand, and the facts that the code
//! under test states.

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::rng::spread;
use crate::{CoreNo, Fact, Nanos};

/// Lines and facts kept; the oldest go first.
const KEPT_MAX: usize = 1 << 20;

/// A fact with its place and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// When, in the world's time.
    pub at: Nanos,
    /// Which node.
    pub node: u64,
    /// Which core of it.
    pub core: CoreNo,
    /// What.
    pub fact: Fact,
}

/// The trace of a world.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: Cell<u64>,
    steps: Cell<u64>,
    text: RefCell<Option<VecDeque<String>>>,
    facts: RefCell<VecDeque<Noted>>,
}

impl Trace {
    /// Mixes one step into the hash.
    #[inline]
    pub(super) fn mix(&self, at: u64, what: u64, whose: u64, result: u64) {
        let word = at.rotate_left(32) ^ what.rotate_left(48) ^ whose.rotate_left(16) ^ result;
        self.hash.set(spread(self.hash.get() ^ word));
        self.steps.set(self.steps.get() + 1);
    }

    /// Adds a line, if text is kept.
    pub(super) fn say(&self, at: u64, line: impl FnOnce() -> String) {
        if let Some(text) = &mut *self.text.borrow_mut() {
            if text.len() == KEPT_MAX {
                text.pop_front();
            }
            text.push_back(format!("{at:>14} {}", line()));
        }
    }

    /// Keeps a fact.
    pub(super) fn note(&self, noted: Noted) {
        let mut facts = self.facts.borrow_mut();
        if facts.len() == KEPT_MAX {
            facts.pop_front();
        }
        facts.push_back(noted);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub(super) fn keep_text(&self, on: bool) {
        *self.text.borrow_mut() = on.then(VecDeque::new);
    }

    pub(super) fn take_text(&self) -> Vec<String> {
        self.text.borrow_mut().as_mut().map(core::mem::take).unwrap_or_default().into()
    }

    pub(super) fn take_facts(&self) -> Vec<Noted> {
        core::mem::take(&mut *self.facts.borrow_mut()).into()
    }
}
