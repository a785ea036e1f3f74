//! What came of a state whose transfer ended half-way, for the next offer: a section keeps its id,
//! so what is here of it is not sent again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bowline_env::{Class, Env, Nanos};
use bowline_raft::Slot;
use bowline_statemachine::manifest::SectionRef;
use bowline_statemachine::store::{Section, Store};
use bowline_statemachine::transfer::ReceivedSection;

/// Shards of which something is kept at a time.
const KEPT_MAX: usize = 4;
/// So long it is kept: the next offer comes within half a minute.
const KEEP: Nanos = Nanos(600 * Nanos::SECOND.0);

/// Parts of one shard's state.
pub(super) struct Kept<E: Env> {
    sections: Vec<Rc<Section<E>>>,
    parts: Vec<ReceivedSection<E>>,
    until: Nanos,
}

impl<E: Env> Default for Kept<E> {
    fn default() -> Self {
        Self { sections: Vec::new(), parts: Vec::new(), until: Nanos(0) }
    }
}

impl<E: Env> Kept<E> {
    /// Bytes of an offered section that are here.
    pub(super) fn bytes_of(&self, at: &SectionRef) -> u64 {
        let whole = self.sections.iter().any(|it| it.id() == at.section);
        let part = || self.parts.iter().find(|it| it.is_of(at)).and_then(ReceivedSection::next);
        if whole { at.len } else { part().unwrap_or(0) }
    }

    /// The section, if it is here whole.
    pub(super) fn section(&mut self, at: &SectionRef) -> Option<Rc<Section<E>>> {
        let place = self.sections.iter().position(|it| it.id() == at.section)?;
        Some(self.sections.swap_remove(place))
    }

    /// The section, if some of it is here.
    pub(super) fn part(&mut self, at: &SectionRef) -> Option<ReceivedSection<E>> {
        let place = self.parts.iter().position(|it| it.is_of(at))?;
        Some(self.parts.swap_remove(place))
    }

    pub(super) fn keep(&mut self, sections: Vec<Rc<Section<E>>>) {
        self.sections.extend(sections);
    }

    pub(super) fn keep_part(&mut self, part: ReceivedSection<E>) {
        self.parts.push(part);
    }

    fn is_empty(&self) -> bool {
        self.sections.is_empty() && self.parts.is_empty()
    }

    /// Takes out what an offer has no use for.
    pub(super) fn without(&mut self, offered: &[SectionRef]) -> Self {
        let wants = |it: &Rc<Section<E>>| offered.iter().any(|at| at.section == it.id());
        let sections = self.sections.extract_if(.., |it| !wants(it)).collect();
        let goes_on = |it: &ReceivedSection<E>| offered.iter().any(|at| it.is_of(at));
        let parts = self.parts.extract_if(.., |it| !goes_on(it)).collect();
        Self { sections, parts, until: self.until }
    }

    /// Removes it from the disk.
    pub(super) async fn discard(self, store: &Rc<Store<E>>) {
        for section in self.sections {
            store.retire(section);
        }
        for part in self.parts {
            part.abandon().await;
        }
    }
}

/// What is kept of the shards of a core, shared with the tasks that receive.
pub(super) struct Leftovers<E: Env> {
    /// None: the core ends.
    all: RefCell<Option<BTreeMap<Slot, Kept<E>>>>,
}

impl<E: Env> Default for Leftovers<E> {
    fn default() -> Self {
        Self { all: RefCell::new(Some(BTreeMap::new())) }
    }
}

impl<E: Env> Leftovers<E> {
    /// Takes what is here of a shard.
    pub(super) fn take(&self, slot: Slot) -> Kept<E> {
        let mut all = self.all.borrow_mut();
        all.as_mut().and_then(|all| all.remove(&slot)).unwrap_or_default()
    }

    /// Keeps parts of a shard for a while. What has to go for that is given back.
    pub(super) fn put(&self, slot: Slot, kept: Kept<E>, now: Nanos) -> Option<Kept<E>> {
        let mut all = self.all.borrow_mut();
        let Some(all) = all.as_mut().filter(|_| !kept.is_empty()) else { return Some(kept) };
        if let Some(before) = all.insert(slot, Kept { until: now.after(KEEP), ..kept }) {
            return Some(before);
        }
        if all.len() <= KEPT_MAX {
            return None;
        }
        let oldest = all.iter().min_by_key(|(_, kept)| kept.until).map(|(slot, _)| *slot);
        oldest.and_then(|slot| all.remove(&slot))
    }

    /// Removes what was kept long enough.
    pub(super) fn expire(&self, env: &E, store: &Rc<Store<E>>, now: Nanos) {
        if let Some(all) = self.all.borrow_mut().as_mut() {
            let over = all.extract_if(.., |_, kept| kept.until <= now);
            over.for_each(|(_, kept)| discard_later(env, store, kept));
        }
    }

    /// Removes all, and keeps nothing from now on.
    pub(super) fn close(&self, env: &E, store: &Rc<Store<E>>) {
        for kept in self.all.take().into_iter().flatten().map(|(_, kept)| kept) {
            discard_later(env, store, kept);
        }
    }
}

fn discard_later<E: Env>(env: &E, store: &Rc<Store<E>>, kept: Kept<E>) {
    let store = Rc::clone(store);
    drop(env.spawn(Class::Background, async move { kept.discard(&store).await }));
}
