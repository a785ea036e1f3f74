//! The levels that a key is searched in: delta, frozen delta, sections from the newest to the
//! oldest.
//!
//! ```text
//! delta      (frozen.last, applied]
//! frozen     (flushed, frozen.last]
//! sections   ... descending ...      up to flushed
//! ```
//!
//! * I1 levels have disjoint, descending ranges of indexes, so the first level that knows a key
//!   has its newest version, and a deleted range hides every level below it.

use std::rc::Rc;

use bowline_env::Env;

use crate::Damage;
use crate::delta::Delta;
use crate::delta::record::Record;
use crate::kv::Item;
use crate::machine::Read;
use crate::store::{PageRead, Pins, Point, Section};

/// What of a machine is searched, borrowed for one turn.
pub(crate) struct Levels<'a, E: Env> {
    pub(crate) delta: &'a Delta,
    /// A delta that is being written into a run.
    pub(crate) frozen: Option<&'a Delta>,
    /// Newest first.
    pub(crate) sections: &'a [Rc<Section<E>>],
}

/// What a search found out about a key.
pub(crate) enum Found<'a> {
    /// A version in a delta.
    Memory(&'a Record),
    /// A version in a section.
    Run(Item),
    /// No version, or a deleted one.
    Nothing,
    Cold(PageRead),
    Damaged(Damage),
}

impl<'a, E: Env> Levels<'a, E> {
    /// I1.
    pub(crate) fn assert_sound(&self) {
        let mut below = u64::MAX;
        let mut follow = |first: u64, last: u64| {
            assert!(first <= last, "indexes of a level run forward (I1)");
            assert!(last < below, "levels are disjoint and descending (I1)");
            below = first;
        };
        let deltas = [Some(self.delta), self.frozen];
        for delta in deltas.into_iter().flatten().filter(|delta| delta.first() > 0) {
            follow(delta.first(), delta.last());
        }
        for section in self.sections {
            follow(section.min_index(), section.max_index());
        }
    }

    /// Searches `key` in all levels; its deadline is not looked at.
    #[inline]
    pub(crate) fn find(&self, key: &[u8], pins: &Pins) -> Found<'a> {
        match find_in(self.delta, key) {
            Some(found) => found,
            None => self.find_below(key, pins),
        }
    }

    fn find_below(&self, key: &[u8], pins: &Pins) -> Found<'a> {
        if let Some(frozen) = self.frozen
            && let Some(found) = find_in(frozen, key)
        {
            return found;
        }
        for section in self.sections {
            let hidden_to = section.tombstone_index(key);
            match section.point(key, pins) {
                Point::Hit(ver) if ver.mod_index > hidden_to => {
                    let (rev, expires_ms) = (ver.mod_index, ver.expiry_ms);
                    return match ver.value {
                        Some(value) => Found::Run(Item { value, rev, expires_ms }),
                        None => Found::Nothing,
                    };
                },
                Point::Hit(_) => return Found::Nothing,
                Point::Miss if hidden_to > 0 => return Found::Nothing,
                Point::Miss => {},
                Point::Cold(read) => return Found::Cold(read),
                Point::Damaged(damage) => return Found::Damaged(damage),
            }
        }
        Found::Nothing
    }
}

/// What one delta says; none: it says nothing and the search goes on.
#[inline]
fn find_in<'a>(delta: &'a Delta, key: &[u8]) -> Option<Found<'a>> {
    let hidden_to = delta.tombstone_index(key);
    match delta.point(key) {
        Some(found) if found.mod_index() > hidden_to && found.is_put() => {
            Some(Found::Memory(found))
        },
        Some(_) => Some(Found::Nothing),
        None if hidden_to > 0 => Some(Found::Nothing),
        None => None,
    }
}

/// Whether a deadline has not passed at log time `clock_ms`: the one rule of visibility.
#[inline]
pub(crate) const fn is_live(expiry_ms: u64, clock_ms: u64) -> bool {
    expiry_ms == 0 || expiry_ms > clock_ms
}

impl Found<'_> {
    /// The item as of log time `clock_ms`.
    #[inline]
    pub(crate) fn visible(self, clock_ms: u64) -> Read<Option<Item>> {
        let item = match self {
            Found::Memory(record) => {
                let (rev, expires_ms) = (record.mod_index(), record.expiry_ms());
                let value = if is_live(expires_ms, clock_ms) { record.value() } else { None };
                value.map(|value| Item { value, rev, expires_ms })
            },
            Found::Run(item) => Some(item).filter(|item| is_live(item.expires_ms, clock_ms)),
            Found::Nothing => None,
            Found::Cold(read) => return Read::Cold(vec![read]),
            Found::Damaged(damage) => return Read::Damaged(damage),
        };
        Read::Ready(item)
    }
}
