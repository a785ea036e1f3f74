//! One page of a range: a merge over all levels, in one turn, of one state.
//!
//! ```text
//! delta    a . c . e        per key the newest level counts; a deleted range of that level or a
//! frozen   . b c . .        newer one may hide it, then the deadline
//! section  a b . d .
//! page     a b c d e
//! ```

use core::cmp::Ordering;
use core::ops::Bound;
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;

use super::token::Token;
use super::{Item, KeyRange, Kv, SCAN_BYTES_MAX, SCAN_ITEMS_MAX, ScanPage, ScanQuery};
use crate::delta::Delta;
use crate::delta::record::Record;
use crate::error::KEY_BYTES_MAX;
use crate::machine::Read;
use crate::run::Direction;
use crate::store::{Cursor, Fetched, PageRead, Pins, Section, Step};
use crate::version::{Levels, is_live};
use crate::{BadCommand, Damage, Measured};

/// Keys looked at after which a page ends, though it may be short: deleted and expired ones cost
/// time too.
const SCAN_EXAMINED_MAX: u32 = 8_192;

/// The keys still to be read: from `low` up to `high`.
struct Span {
    low: Bound<Bytes>,
    high: Bound<Bytes>,
}

/// The first key after all that begin with `prefix`; none: there is no such key.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let keep = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(Bytes::from(end))
}

impl Span {
    fn of(range: &KeyRange) -> Result<Self, BadCommand> {
        let check = |key: &Bytes| BadCommand::check(Measured::Key, key.len(), KEY_BYTES_MAX);
        match range {
            KeyRange::All => Ok(Self { low: Bound::Unbounded, high: Bound::Unbounded }),
            KeyRange::Prefix(prefix) => {
                check(prefix)?;
                let high = prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
                Ok(Self { low: Bound::Included(prefix.clone()), high })
            },
            KeyRange::Between { start, end } => {
                check(start)?;
                check(end)?;
                let high =
                    if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end.clone()) };
                Ok(Self { low: Bound::Included(start.clone()), high })
            },
        }
    }

    /// Leaves out what was read before `last`, which must lie inside.
    fn after(self, last: &[u8], reverse: bool) -> Result<Self, BadCommand> {
        if !self.holds_low(last) || !self.holds_high(last) {
            return Err(BadCommand::Token);
        }
        let last = Bound::Excluded(Bytes::copy_from_slice(last));
        Ok(if reverse { Self { high: last, ..self } } else { Self { low: last, ..self } })
    }

    fn holds_low(&self, key: &[u8]) -> bool {
        match &self.low {
            Bound::Unbounded => true,
            Bound::Included(low) => &low[..] <= key,
            Bound::Excluded(low) => &low[..] < key,
        }
    }

    fn holds_high(&self, key: &[u8]) -> bool {
        match &self.high {
            Bound::Unbounded => true,
            Bound::Included(high) => key <= &high[..],
            Bound::Excluded(high) => key < &high[..],
        }
    }

    /// The bound that a walk starts from.
    fn start(&self, reverse: bool) -> Bound<&[u8]> {
        let bound = if reverse { &self.high } else { &self.low };
        bound.as_ref().map(|key| &key[..])
    }

    /// Whether a key that a walk came to is not past the other bound.
    fn reaches(&self, key: &[u8], reverse: bool) -> bool {
        if reverse { self.holds_low(key) } else { self.holds_high(key) }
    }
}

/// What stops a page before it is whole.
enum Stop {
    Cold(PageRead),
    Damaged(Damage),
}

type Records<'a> = Box<dyn Iterator<Item = &'a Record> + 'a>;

/// A walk through one level.
enum Walk<'a, E: Env> {
    Delta { delta: &'a Delta, records: Records<'a>, at: Option<&'a Record> },
    Section { section: &'a Section<E>, cursor: Cursor<E>, at_end: bool },
}

impl<'a, E: Env> Walk<'a, E> {
    fn delta(delta: &'a Delta, span: &Span, reverse: bool) -> Self {
        let records = Box::new(delta.walk(span.start(reverse), reverse));
        Walk::Delta { delta, records, at: None }
    }

    fn section(section: &'a Rc<Section<E>>, span: &Span, reverse: bool) -> Self {
        let direction = if reverse { Direction::Reverse } else { Direction::Forward };
        let from = match span.start(reverse) {
            Bound::Unbounded => None,
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
        };
        Walk::Section { section, cursor: section.cursor(from, direction), at_end: false }
    }

    /// Goes to the next key inside `span`.
    fn step(&mut self, span: &Span, reverse: bool, pins: &Pins) -> Result<(), Stop> {
        match self {
            Walk::Delta { records, at, .. } => {
                *at = records.next().filter(|record| span.reaches(record.key(), reverse));
                Ok(())
            },
            Walk::Section { cursor, at_end, .. } => loop {
                match cursor.step(pins) {
                    Step::Ready => {},
                    Step::End => {
                        *at_end = true;
                        return Ok(());
                    },
                    Step::Cold(read) => return Err(Stop::Cold(read)),
                    Step::Damaged(damage) => return Err(Stop::Damaged(damage)),
                }
                // The cursor starts at a bound that the span may not include.
                if span.reaches(cursor.key(), !reverse) {
                    *at_end = !span.reaches(cursor.key(), reverse);
                    return Ok(());
                }
            },
        }
    }

    fn key(&self) -> Option<&[u8]> {
        match self {
            Walk::Delta { at, .. } => at.map(Record::key),
            Walk::Section { cursor, at_end, .. } => (!at_end).then(|| cursor.key()),
        }
    }

    fn tombstone_index(&self, key: &[u8]) -> u64 {
        match self {
            Walk::Delta { delta, .. } => delta.tombstone_index(key),
            Walk::Section { section, .. } => section.tombstone_index(key),
        }
    }

    /// Index, deadline and whether there is a value.
    fn version(&self) -> (u64, u64, bool) {
        match self {
            Walk::Delta { at, .. } => at.map_or((0, 0, false), |record| {
                (record.mod_index(), record.expiry_ms(), record.is_put())
            }),
            Walk::Section { cursor, .. } => {
                (cursor.mod_index(), cursor.expiry_ms(), !cursor.is_deleted())
            },
        }
    }

    /// The key, kept.
    fn key_bytes(&self) -> Bytes {
        match self {
            Walk::Delta { at, .. } => at.map(Record::key_bytes).unwrap_or_default(),
            Walk::Section { cursor, .. } => Bytes::copy_from_slice(cursor.key()),
        }
    }

    fn item(&self, keys_only: bool, pins: &Pins) -> Result<(Bytes, Item), Stop> {
        let value = if keys_only { Bytes::new() } else { self.value(pins)? };
        let (rev, expires_ms, _) = self.version();
        Ok((self.key_bytes(), Item { value, rev, expires_ms }))
    }

    fn value(&self, pins: &Pins) -> Result<Bytes, Stop> {
        match self {
            Walk::Delta { at, .. } => Ok(at.and_then(Record::value).unwrap_or_default()),
            Walk::Section { cursor, .. } => match cursor.value(pins) {
                Fetched::Ready(value) => Ok(value.unwrap_or_default()),
                Fetched::Cold(read) => Err(Stop::Cold(read)),
                Fetched::Damaged(damage) => Err(Stop::Damaged(damage)),
            },
        }
    }
}

/// Walks through all levels, newest first.
struct Merge<'a, E: Env> {
    walks: Vec<Walk<'a, E>>,
    span: Span,
    reverse: bool,
    /// The walks that stand on the key looked at.
    same: Vec<usize>,
}

impl<'a, E: Env> Merge<'a, E> {
    fn begin(levels: &Levels<'a, E>, span: Span, reverse: bool, pins: &Pins) -> Result<Self, Stop> {
        let mut walks = Vec::with_capacity(2 + levels.sections.len());
        walks.push(Walk::delta(levels.delta, &span, reverse));
        walks.extend(levels.frozen.map(|frozen| Walk::delta(frozen, &span, reverse)));
        let sections = levels.sections.iter();
        walks.extend(sections.map(|section| Walk::section(section, &span, reverse)));
        for walk in &mut walks {
            walk.step(&span, reverse, pins)?;
        }
        Ok(Self { walks, span, reverse, same: Vec::new() })
    }

    /// Finds the walks that stand on the next key; the newest is the first. None: the end.
    fn choose(&mut self) -> Option<usize> {
        self.same.clear();
        let mut best: Option<&[u8]> = None;
        for (place, walk) in self.walks.iter().enumerate() {
            let Some(key) = walk.key() else { continue };
            let order = best.map_or(Ordering::Less, |best| key.cmp(best));
            let order = if self.reverse && best.is_some() { order.reverse() } else { order };
            match order {
                Ordering::Less => {
                    best = Some(key);
                    self.same.clear();
                    self.same.push(place);
                },
                Ordering::Equal => self.same.push(place),
                Ordering::Greater => {},
            }
        }
        self.same.first().copied()
    }

    /// Whether the version that walk `place` stands on is the key's current one and visible.
    fn is_visible(&self, place: usize, clock_ms: u64) -> bool {
        let walk = &self.walks[place];
        let (mod_index, expiry_ms, is_put) = walk.version();
        if !is_put || !is_live(expiry_ms, clock_ms) {
            return false;
        }
        let Some(key) = walk.key() else { return false };
        self.walks[..=place].iter().all(|walk| walk.tombstone_index(key) < mod_index)
    }

    fn advance(&mut self, pins: &Pins) -> Result<(), Stop> {
        for &place in &self.same {
            self.walks[place].step(&self.span, self.reverse, pins)?;
        }
        Ok(())
    }
}

impl<E: Env> Kv<E> {
    /// One page. Nothing between two of its keys is from another state.
    pub(super) fn scan(
        &self,
        query: &ScanQuery,
        pins: &Pins,
    ) -> Result<Read<ScanPage>, BadCommand> {
        let mut span = Span::of(&query.range)?;
        if let Some(token) = &query.token {
            let token = Token::decode(token)?;
            if token.shard != self.shell.shard() || token.reverse != query.reverse {
                return Err(BadCommand::Token);
            }
            span = span.after(token.last, query.reverse)?;
        }
        Ok(match self.page(query, span, pins) {
            Ok(page) => Read::Ready(page),
            Err(Stop::Cold(read)) => Read::Cold(vec![read]),
            Err(Stop::Damaged(damage)) => Read::Damaged(damage),
        })
    }

    fn page(&self, query: &ScanQuery, span: Span, pins: &Pins) -> Result<ScanPage, Stop> {
        let limit = if query.limit == 0 { SCAN_ITEMS_MAX } else { query.limit.min(SCAN_ITEMS_MAX) };
        let mut page = ScanPage { rev: self.shell.applied(), ..ScanPage::default() };
        let mut merge = Merge::begin(&self.levels(), span, query.reverse, pins)?;
        let (mut examined, mut bytes) = (0, 0);
        let mut last: Option<Bytes> = None;
        while let Some(place) = merge.choose() {
            if let Some(last) = last {
                page.next = Some(self.token(query, &last));
                break;
            }
            let walk = &merge.walks[place];
            examined += 1;
            if merge.is_visible(place, self.shell.clock_ms()) {
                page.count += 1;
                if !query.count_only {
                    let (key, item) = walk.item(query.keys_only, pins)?;
                    bytes += key.len() + item.value.len();
                    page.items.push((key, item));
                }
            }
            let is_full = page.count >= u64::from(limit) || bytes >= SCAN_BYTES_MAX;
            if is_full || examined >= SCAN_EXAMINED_MAX {
                last = Some(walk.key_bytes());
            }
            merge.advance(pins)?;
        }
        Ok(page)
    }

    fn token(&self, query: &ScanQuery, last: &[u8]) -> Bytes {
        let (shard, rev) = (self.shell.shard(), self.shell.applied());
        Token { reverse: query.reverse, shard, rev, last }.encode()
    }
}
