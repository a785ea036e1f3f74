//! A batch: guards and operations that take place together or not at all.

use core::time::Duration;

use bowline_statemachine::kv::encode::{Expect, Guard, Op, Ttl};
use bytes::{Bytes, BytesMut};

use crate::route::hash_slot;
use crate::{Error, RequestError};

/// Operations on keys of one slot, replicated as one entry: all of them are applied, or none.
///
/// Guards are judged on the state before the batch; operations then run in order.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Keys and values, one after the other: a batch has one buffer, not one per part.
    bytes: BytesMut,
    guards: Vec<(Span, Want)>,
    ops: Vec<Step>,
}

/// A part of the batch's bytes.
type Span = (usize, usize);

#[derive(Clone, Copy, Debug)]
enum Want {
    Absent,
    Present,
    Value(Span),
    Revision(u64),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put { key: Span, value: Span, ttl: Ttl },
    Delete { key: Span },
    Increment { key: Span, by: i64 },
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`, without a deadline.
    #[must_use]
    pub fn put(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let (key, value) = (self.keep(key.as_ref()), self.keep(value.as_ref()));
        self.ops.push(Step::Put { key, value, ttl: Ttl::None });
        self
    }

    /// Sets `key` to `value`, which expires `ttl` of log time later.
    #[must_use]
    pub fn put_with_ttl(
        mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Self {
        let (key, value) = (self.keep(key.as_ref()), self.keep(value.as_ref()));
        self.ops.push(Step::Put { key, value, ttl: super::ttl(ttl) });
        self
    }

    /// Removes `key`; an absent one stays absent.
    #[must_use]
    pub fn delete(mut self, key: impl AsRef<[u8]>) -> Self {
        let key = self.keep(key.as_ref());
        self.ops.push(Step::Delete { key });
        self
    }

    /// Adds `by` to the decimal number of `key`; an absent one is 0. A value that is no number, or
    /// an overflow, fails the batch.
    #[must_use]
    pub fn increment(mut self, key: impl AsRef<[u8]>, by: i64) -> Self {
        let key = self.keep(key.as_ref());
        self.ops.push(Step::Increment { key, by });
        self
    }

    /// Demands that `key` has this value (`None`: does not exist).
    #[must_use]
    pub fn expect(mut self, key: impl AsRef<[u8]>, value: Option<&[u8]>) -> Self {
        let key = self.keep(key.as_ref());
        let want = value.map_or(Want::Absent, |value| Want::Value(self.keep(value)));
        self.guards.push((key, want));
        self
    }

    /// Demands that `key` exists.
    #[must_use]
    pub fn expect_present(mut self, key: impl AsRef<[u8]>) -> Self {
        let key = self.keep(key.as_ref());
        self.guards.push((key, Want::Present));
        self
    }

    /// Demands that `key` has the version `rev`.
    #[must_use]
    pub fn expect_revision(mut self, key: impl AsRef<[u8]>, rev: u64) -> Self {
        let key = self.keep(key.as_ref());
        self.guards.push((key, Want::Revision(rev)));
        self
    }

    /// How many operations it has.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it has neither operations nor guards.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.guards.is_empty()
    }

    /// Its keys, guards first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let guards = self.guards.iter().map(|(key, _)| *key);
        let ops = self.ops.iter().map(|step| match step {
            Step::Put { key, .. } | Step::Delete { key } | Step::Increment { key, .. } => *key,
        });
        guards.chain(ops).map(|key| self.part(key))
    }

    /// A key that stands for all: they lie in one slot, unless there is but one shard.
    pub(super) fn route(&self, one_shard: bool) -> Result<&[u8], Error> {
        let mut keys = self.keys();
        let first = keys.next().ok_or(Error::invalid("the batch is empty"))?;
        let slot = hash_slot(first);
        if one_shard || keys.all(|key| hash_slot(key) == slot) {
            Ok(first)
        } else {
            Err(Error::Request(RequestError::CrossSlot))
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let guards: Vec<_> = self
            .guards
            .iter()
            .map(|(key, want)| Guard { key: self.part(*key), expect: self.wanted(*want) })
            .collect();
        let ops: Vec<_> = self.ops.iter().map(|step| self.step(*step)).collect();
        let room = self.bytes.len() + 64 * (guards.len() + ops.len());
        crate::arena::body(room, |out| {
            bowline_statemachine::kv::encode::batch(out, &guards, &ops, false);
        })
    }

    fn wanted(&self, want: Want) -> Expect<'_> {
        match want {
            Want::Absent => Expect::Absent,
            Want::Present => Expect::Present,
            Want::Value(value) => Expect::Value(self.part(value)),
            Want::Revision(rev) => Expect::ModIndex(rev),
        }
    }

    fn step(&self, step: Step) -> Op<'_> {
        match step {
            Step::Put { key, value, ttl } => {
                Op::Put { key: self.part(key), value: self.part(value), ttl, prev: false }
            },
            Step::Delete { key } => Op::Delete { key: self.part(key), prev: false },
            Step::Increment { key, by } => {
                Op::Increment { key: self.part(key), by, ttl: Ttl::Keep }
            },
        }
    }

    fn keep(&mut self, part: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(part);
        (start, self.bytes.len())
    }

    fn part(&self, (start, end): Span) -> &[u8] {
        &self.bytes[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_batch_lie_in_one_slot_unless_there_is_one_shard() {
        let batch = WriteBatch::new().put("{a}1", "x").delete("{a}2").expect("{a}3", None);
        assert_eq!(batch.route(false), Ok(&b"{a}3"[..]));
        let batch = batch.increment("b", 1);
        assert_eq!(batch.route(false), Err(Error::Request(RequestError::CrossSlot)));
        assert_eq!(batch.route(true), Ok(&b"{a}3"[..]));
        assert_eq!((batch.len(), batch.keys().count()), (3, 4));
        assert!(WriteBatch::new().route(true).is_err());
    }

    #[test]
    fn parts_keep_their_bytes() {
        let batch = WriteBatch::new()
            .put("{k}", "one")
            .put_with_ttl("{k}2", "two", Duration::from_millis(5))
            .expect("{k}", Some(b"old"))
            .expect_present("{k}9")
            .expect_revision("{k}8", 7);
        let keys: Vec<_> = batch.keys().map(<[u8]>::to_vec).collect();
        assert_eq!(keys, [&b"{k}"[..], b"{k}9", b"{k}8", b"{k}", b"{k}2"]);
        let Step::Put { value, ttl, .. } = batch.ops[1] else { panic!("a put") };
        assert_eq!((batch.part(value), ttl), (&b"two"[..], Ttl::In(5)));
        assert!(batch.encode().len() > 20);
    }
}
