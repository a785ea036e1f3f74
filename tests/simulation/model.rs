//! The judge: what each key may hold, known from calls and answers alone.
//!
//! A key belongs to one client, which has one call on it at a time. A call whose outcome is unknown
//! leaves two possibilities; the key is left alone until the next life, whose first read decides.

use std::collections::BTreeMap;

/// A value, or nothing.
pub(crate) type Value = Option<Vec<u8>>;

/// One key.
#[derive(Clone, Debug, Default)]
struct Key {
    possible: Vec<Value>,
    undecided: bool,
}

/// All keys of a run.
#[derive(Debug, Default)]
pub(crate) struct Model {
    keys: BTreeMap<Vec<u8>, Key>,
}

impl Model {
    fn key(&mut self, key: &[u8]) -> &mut Key {
        self.keys
            .entry(key.to_vec())
            .or_insert_with(|| Key { possible: vec![None], undecided: false })
    }

    /// Whether a call on the key is still undecided.
    pub(crate) fn is_undecided(&mut self, key: &[u8]) -> bool {
        self.key(key).undecided
    }

    /// The one value that the key has.
    pub(crate) fn value(&mut self, key: &[u8]) -> Value {
        let key = self.key(key);
        assert!(!key.undecided, "an undecided key is left alone");
        key.possible[0].clone()
    }

    /// A write was acknowledged.
    pub(crate) fn acked(&mut self, key: &[u8], now: Value) {
        let key = self.key(key);
        key.possible = vec![now];
        key.undecided = false;
    }

    /// A write may or may not take place.
    pub(crate) fn unknown(&mut self, key: &[u8], maybe: Value) {
        let key = self.key(key);
        if !key.possible.contains(&maybe) {
            key.possible.push(maybe);
        }
        key.undecided = true;
    }

    /// A linearizable read answered: it must be one of the possibilities, and decides if `settle`.
    #[track_caller]
    pub(crate) fn read(&mut self, name: &[u8], seen: &Value, settle: bool) {
        let key = self.key(name);
        assert!(
            key.possible.contains(seen),
            "key {:?} reads {:?}, possible are {:?}",
            show(name),
            seen.as_deref().map(show),
            key.possible.iter().map(|v| v.as_deref().map(show)).collect::<Vec<_>>(),
        );
        if settle {
            key.possible = vec![seen.clone()];
            key.undecided = false;
        }
    }

    /// Every key that was ever written.
    pub(crate) fn names(&self) -> Vec<Vec<u8>> {
        self.keys.keys().cloned().collect()
    }

    /// The keys that have a value, once all is decided.
    pub(crate) fn present(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.keys
            .iter()
            .filter_map(|(name, key)| Some((name.clone(), key.possible[0].clone()?)))
            .collect()
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    #[test]
    #[should_panic(expected = "possible are")]
    fn a_lost_write_is_a_violation() {
        let mut model = Model::default();
        model.acked(b"k", Some(value("1")));
        model.read(b"k", &None, true);
    }

    #[test]
    #[should_panic(expected = "possible are")]
    fn a_write_that_certainly_did_not_happen_is_a_violation() {
        let mut model = Model::default();
        model.acked(b"k", Some(value("1")));
        model.read(b"k", &Some(value("2")), true);
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not() {
        let mut model = Model::default();
        model.acked(b"k", Some(value("1")));
        model.unknown(b"k", Some(value("2")));
        model.read(b"k", &Some(value("1")), false);
        model.read(b"k", &Some(value("2")), true);
        assert_eq!(model.value(b"k"), Some(value("2")));
    }
}
