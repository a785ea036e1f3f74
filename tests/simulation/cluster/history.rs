//! What clients called and were answered, and the judge of it.
//!
//! A key is one register of a number. Numbers are written once in a run, so a value tells who wrote
//! it. Three kinds: a *register* holds its number in a text of some length, a *counter* as decimal
//! digits, and a *pair* is two keys that are only written together.

use std::collections::BTreeMap;

use bowline::Item;
use bytes::Bytes;

use crate::linear::{Answer, Call, Value, What, around, check};

/// Numbers of counters are this far apart: increments lie between.
pub(crate) const STEP: i64 = 1_000_000;

/// A key that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Register(u64),
    Counter(u64),
    Pair(u64),
}

impl Key {
    /// The keys of the store; a pair has two.
    pub(crate) fn names(self) -> Vec<Bytes> {
        let names = match self {
            Self::Register(no) => vec![format!("r{no}")],
            Self::Counter(no) => vec![format!("c{no}")],
            Self::Pair(no) => vec![format!("{{p{no}}}a"), format!("{{p{no}}}b")],
        };
        names.into_iter().map(Bytes::from).collect()
    }

    /// A number as the key holds it.
    pub(crate) fn encode(self, number: i64, value_max: u64) -> Vec<u8> {
        let mut text = number.to_string().into_bytes();
        if let Self::Register(_) = self {
            let spread = u64::try_from(number).unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let len = text.len() + usize::try_from((spread >> 32) % value_max).unwrap_or(0);
            text.push(b':');
            text.resize(len + 1, b'.');
        }
        text
    }

    /// The number in a value; a panic if no write could have made it.
    fn decode(self, value: &[u8], value_max: u64) -> i64 {
        let text = String::from_utf8_lossy(value);
        let digits = text.split(':').next().unwrap_or_default();
        let number = digits.parse().unwrap_or_else(|_| panic!("{self:?} holds {text:?}"));
        assert_eq!(self.encode(number, value_max), value, "{self:?} holds what nobody wrote");
        number
    }
}

/// How a number came to be.
#[derive(Clone, Copy, Debug)]
struct Origin {
    key: Key,
    start: u64,
    refused: bool,
}

/// A read that promises nothing but that what it gives was written.
#[derive(Clone, Copy, Debug)]
struct Eventual {
    key: Key,
    end: u64,
    value: Value,
}

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    pub(crate) key: Key,
    pub(crate) client: usize,
    start: u64,
    what: What,
}

/// Everything that clients saw.
#[derive(Debug, Default)]
pub(crate) struct History {
    value_max: u64,
    /// Places in the order of all starts and ends.
    places: u64,
    calls: BTreeMap<Key, Vec<Call>>,
    origins: BTreeMap<i64, Origin>,
    eventual: Vec<Eventual>,
    /// What each version of a key is, on whatever node it was read.
    versions: BTreeMap<(Bytes, u64), Bytes>,
    /// By node, its life, and key: the newest version read.
    newest: BTreeMap<(u64, u64, Bytes), u64>,
}

impl History {
    pub(crate) fn new(value_max: u64) -> Self {
        Self { value_max, ..Self::default() }
    }

    fn place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    /// A call is about to be made.
    pub(crate) fn begin(&mut self, key: Key, client: usize, what: What) -> Open {
        let start = self.place();
        let written = match what {
            What::Put(new) | What::Swap { new, .. } => new,
            What::Increment(_) | What::Get => None,
        };
        if let Some(number) = written {
            let origin = Origin { key, start, refused: false };
            let before = self.origins.insert(number, origin);
            assert!(before.is_none(), "a number is written once");
        }
        Open { key, client, start, what }
    }

    /// It was answered, or may take effect at any time (none).
    pub(crate) fn end(&mut self, open: Open, answer: Option<Answer>) {
        let Open { key, client, start, what } = open;
        let end = self.place();
        self.calls.entry(key).or_default().push(Call { client, start, end, what, answer });
    }

    /// It certainly took no effect.
    pub(crate) fn refused(&mut self, open: Open) {
        let end = self.place();
        assert!(open.start < end, "a call ends after its start");
        if let What::Put(Some(new)) | What::Swap { new: Some(new), .. } = open.what
            && let Some(origin) = self.origins.get_mut(&new)
        {
            origin.refused = true;
        }
    }

    /// The number in what was read; the two of a pair must be one.
    pub(crate) fn value(&self, key: Key, values: &[Option<Bytes>]) -> Value {
        let decode =
            |value: &Option<Bytes>| value.as_ref().map(|value| key.decode(value, self.value_max));
        let first = decode(&values[0]);
        for other in &values[1..] {
            assert_eq!(first, decode(other), "half a batch of {key:?} is seen");
        }
        first
    }

    /// A read that may be old.
    pub(crate) fn eventual(&mut self, key: Key, value: Value) {
        let end = self.place();
        self.eventual.push(Eventual { key, end, value });
    }

    /// The newest version of a key that was read in a life of a node.
    pub(crate) fn newest(&self, (node, life): (u64, u64), name: &Bytes) -> u64 {
        self.newest.get(&(node, life, name.clone())).copied().unwrap_or(0)
    }

    /// A version of a key was read on a node: it is the same everywhere and for ever, and not older
    /// than what was read there before the read began.
    pub(crate) fn version(&mut self, at: (u64, u64), name: &Bytes, item: &Item, before: u64) {
        let Item { value, rev, .. } = item;
        let known = self.versions.entry((name.clone(), *rev)).or_insert_with(|| value.clone());
        assert_eq!(known, value, "version {rev} of {name:?} has two values");
        let (node, life) = at;
        assert!(before <= *rev, "node {node} goes back in {name:?}: {before} to {rev}");
        let newest = self.newest.entry((node, life, name.clone())).or_insert(0);
        *newest = (*newest).max(*rev);
    }

    /// Judges everything.
    pub(crate) fn judge(&self) {
        for (key, calls) in &self.calls {
            if let Err(violation) = check(calls) {
                let (crate::linear::Violation::Impossible(at)
                | crate::linear::Violation::TooWide(at)) = violation;
                panic!("{key:?}: {violation}\n{}", around(calls, at));
            }
        }
        for read in &self.eventual {
            let Some(value) = read.value else { continue };
            let number = match read.key {
                Key::Counter(_) if value < STEP => continue,
                Key::Counter(_) => value - value % STEP,
                Key::Register(_) | Key::Pair(_) => value,
            };
            let origin = self.origins.get(&number);
            let written =
                origin.is_some_and(|it| it.key == read.key && it.start < read.end && !it.refused);
            assert!(written, "an eventual read gives what nobody wrote: {read:?}, {origin:?}");
        }
    }
}
