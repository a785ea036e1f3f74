//! What the key-value machine should do, written the slow way.

use std::collections::BTreeMap;

use bowline_statemachine::kv::Item;
use bowline_statemachine::kv::encode::{Expect, Guard, Op, Ttl};
use bowline_statemachine::{OpAnswer, OpFault, Output, TTL_MS_MAX, Touched};
use bytes::Bytes;

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// Expired keys stay until they are removed.
    keys: BTreeMap<Vec<u8>, Item>,
    pub(crate) clock_ms: u64,
    pub(crate) index: u64,
}

impl Model {
    /// The next entry, with its stamp.
    pub(crate) fn next(&mut self, stamp_ms: u64) {
        self.index += 1;
        self.clock_ms = self.clock_ms.max(stamp_ms);
    }

    fn is_live(&self, item: &Item) -> bool {
        item.expires_ms == 0 || item.expires_ms > self.clock_ms
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Item> {
        self.keys.get(key).filter(|item| self.is_live(item)).cloned()
    }

    /// All that can be seen.
    pub(crate) fn all(&self) -> Vec<(Bytes, Item)> {
        let keys = self.keys.iter().filter(|(_, item)| self.is_live(item));
        keys.map(|(key, item)| (Bytes::copy_from_slice(key), item.clone())).collect()
    }

    fn deadline(&self, ttl: Ttl, before: u64) -> u64 {
        match ttl {
            Ttl::None => 0,
            Ttl::Keep => before,
            Ttl::In(ms) => (self.clock_ms + ms).max(1),
            Ttl::At(ms) => ms.clamp(1, self.clock_ms + TTL_MS_MAX),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8], ttl: Ttl) {
        let before = self.get(key).map_or(0, |item| item.expires_ms);
        let expires_ms = self.deadline(ttl, before);
        let value = Bytes::copy_from_slice(value);
        self.keys.insert(key.to_vec(), Item { value, rev: self.index, expires_ms });
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], ttl: Ttl, prev: bool) -> Output {
        let before = self.get(key).filter(|_| prev).map(|item| item.value);
        self.set(key, value, ttl);
        Output::Written { rev: self.index, prev: before }
    }

    pub(crate) fn delete(&mut self, key: &[u8], prev: bool) -> Output {
        let before = self.get(key).filter(|_| prev).map(|item| item.value);
        self.keys.remove(key);
        Output::Written { rev: self.index, prev: before }
    }

    pub(crate) fn delete_range(&mut self, start: &[u8], end: &[u8]) -> Output {
        self.keys.retain(|key, _| &key[..] < start || (!end.is_empty() && &key[..] >= end));
        Output::Written { rev: self.index, prev: None }
    }

    fn holds(&self, key: &[u8], expect: Expect<'_>) -> Result<(), u64> {
        let item = self.get(key);
        let ok = match expect {
            Expect::Absent => item.is_none(),
            Expect::Present => item.is_some(),
            Expect::Value(value) => item.as_ref().is_some_and(|item| item.value == value),
            Expect::ModIndex(index) => item.as_ref().is_some_and(|item| item.rev == index),
        };
        if ok { Ok(()) } else { Err(item.map_or(0, |item| item.rev)) }
    }

    pub(crate) fn cas(
        &mut self,
        key: &[u8],
        expect: Expect<'_>,
        value: Option<&[u8]>,
        ttl: Ttl,
    ) -> Output {
        if let Err(rev) = self.holds(key, expect) {
            return Output::Guarded { ok: false, rev, failed_guard: 0 };
        }
        match value {
            Some(value) => self.set(key, value, ttl),
            None => drop(self.keys.remove(key)),
        }
        Output::Guarded { ok: true, rev: self.index, failed_guard: 0 }
    }

    fn add(&mut self, key: &[u8], by: i64, ttl: Ttl) -> Result<i64, OpFault> {
        let number = match self.get(key) {
            None => 0,
            Some(item) => {
                let text = str::from_utf8(&item.value).map_err(|_| OpFault::NotANumber)?;
                let number: i64 = text.parse().map_err(|_| OpFault::NotANumber)?;
                if number.to_string() != text {
                    return Err(OpFault::NotANumber);
                }
                number
            },
        };
        let sum = number.checked_add(by).ok_or(OpFault::Overflow)?;
        self.set(key, sum.to_string().as_bytes(), ttl);
        Ok(sum)
    }

    pub(crate) fn increment(&mut self, key: &[u8], by: i64, ttl: Ttl) -> Output {
        match self.add(key, by, ttl) {
            Ok(sum) => Output::Number(sum),
            Err(OpFault::NotANumber) => Output::NotANumber,
            Err(OpFault::Overflow) => Output::Overflow,
        }
    }

    fn touched(&mut self, key: &[u8], ttl: Ttl) -> Touched {
        let Some(item) = self.get(key) else { return Touched::default() };
        self.set(key, &item.value, ttl);
        let now_ms = self.keys[key].expires_ms;
        Touched { existed: true, before_ms: item.expires_ms, now_ms }
    }

    pub(crate) fn touch(&mut self, key: &[u8], ttl: Ttl) -> Output {
        Output::Touched(self.touched(key, ttl))
    }

    pub(crate) fn expire(&mut self, keys: &[Vec<u8>]) -> Output {
        let mut removed = 0;
        for key in keys {
            if self.keys.get(key).is_some_and(|item| !self.is_live(item)) {
                self.keys.remove(key);
                removed += 1;
            }
        }
        Output::Expired(removed)
    }

    fn op(&mut self, op: &Op<'_>) -> Result<OpAnswer, OpFault> {
        let prev = |output| match output {
            Output::Written { prev, .. } => OpAnswer::Written { prev },
            other => panic!("{other:?}"),
        };
        match *op {
            Op::Get { key } => Ok(OpAnswer::Value(self.get(key))),
            Op::Put { key, value, ttl, prev: asked } => Ok(prev(self.put(key, value, ttl, asked))),
            Op::Delete { key, prev: asked } => Ok(prev(self.delete(key, asked))),
            Op::Increment { key, by, ttl } => self.add(key, by, ttl).map(OpAnswer::Number),
            Op::Touch { key, ttl } => Ok(OpAnswer::Touched(self.touched(key, ttl))),
        }
    }

    pub(crate) fn batch(&mut self, guards: &[Guard<'_>], ops: &[Op<'_>], answers: bool) -> Output {
        for (failed_guard, guard) in (0..).zip(guards) {
            if let Err(rev) = self.holds(guard.key, guard.expect) {
                return Output::Guarded { ok: false, rev, failed_guard };
            }
        }
        let before = self.clone();
        let mut said = Vec::new();
        for (place, op) in (0..).zip(ops) {
            match self.op(op) {
                Ok(answer) => said.push(answer),
                Err(fault) => {
                    *self = before;
                    return Output::OpFailed { place, fault };
                },
            }
        }
        if answers {
            Output::Batch { rev: self.index, answers: said }
        } else {
            Output::Guarded { ok: true, rev: self.index, failed_guard: 0 }
        }
    }
}
