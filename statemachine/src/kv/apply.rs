//! What each command does to the state. Deterministic: the state, the entry and log time decide,
//! nothing else.

use std::collections::BTreeMap;

use bowline_env::Env;
use bytes::Bytes;

use super::encode::Expect;
use super::parse::{Batch, Command, Deadline, Guard, Keys, Op, Put};
use super::{Item, Kv};
use crate::Damage;
use crate::delta::record::Record;
use crate::machine::{OpAnswer, OpFault, Output, Read, Touched};
use crate::store::Pins;
use crate::version::is_live;

/// What a command is applied with.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) index: u64,
    pub(super) pins: &'a Pins,
}

impl<E: Env> Kv<E> {
    /// Applies a command whose index is the next one.
    #[inline]
    pub(super) fn execute(
        &mut self,
        command: Command<'_>,
        at: At<'_>,
    ) -> Result<Output, Box<Damage>> {
        match command {
            Command::Put(put) => self.do_put(put, at),
            Command::Delete { key, wants_prev } => {
                let before = if wants_prev { self.current(key, at.pins)? } else { None };
                self.delta.delete(key, at.index);
                Ok(Output::Written { rev: at.index, prev: before.map(|item| item.value) })
            },
            Command::DeleteRange { start, end } => {
                self.delta.delete_range(start, end, at.index);
                Ok(Output::Written { rev: at.index, prev: None })
            },
            Command::Cas { guard, value, deadline } => self.do_cas(guard, value, deadline, at),
            Command::Batch(batch) => self.do_batch(batch, at),
            Command::Increment { key, by, deadline } => self.do_increment(key, by, deadline, at),
            Command::Touch { key, deadline } => self.do_touch(key, deadline, at),
            Command::Expire(keys) => self.do_expire(keys, at),
        }
    }

    /// The current version of a key. Its pages were pinned when the entry was staged.
    fn current(&self, key: &[u8], pins: &Pins) -> Result<Option<Item>, Box<Damage>> {
        match self.levels().find(key, pins).visible(self.shell.clock_ms()) {
            Read::Ready(item) => Ok(item),
            Read::Damaged(damage) => Err(Box::new(damage)),
            Read::Cold(_) => unreachable!("stage pinned every page that apply needs"),
        }
    }

    #[inline]
    fn do_put(&mut self, put: Put<'_>, at: At<'_>) -> Result<Output, Box<Damage>> {
        let before = match put.reads() {
            Some(key) => self.current(key, at.pins)?,
            None => None,
        };
        let before_ms = before.as_ref().map_or(0, |item| item.expires_ms);
        let expiry_ms = put.deadline.at(self.shell.clock_ms(), before_ms);
        self.delta.put(put.key, put.value, at.index, expiry_ms);
        let prev = before.filter(|_| put.wants_prev).map(|item| item.value);
        Ok(Output::Written { rev: at.index, prev })
    }

    fn do_cas(
        &mut self,
        guard: Guard<'_>,
        value: Option<&[u8]>,
        deadline: Deadline,
        at: At<'_>,
    ) -> Result<Output, Box<Damage>> {
        let current = self.current(guard.key, at.pins)?;
        if !holds(current.as_ref(), guard.expect) {
            let rev = current.map_or(0, |item| item.rev);
            return Ok(Output::Guarded { ok: false, rev, failed_guard: 0 });
        }
        if let Some(value) = value {
            let before_ms = current.map_or(0, |item| item.expires_ms);
            let expiry_ms = deadline.at(self.shell.clock_ms(), before_ms);
            self.delta.put(guard.key, value, at.index, expiry_ms);
        } else {
            self.delta.delete(guard.key, at.index);
        }
        Ok(Output::Guarded { ok: true, rev: at.index, failed_guard: 0 })
    }

    fn do_increment(
        &mut self,
        key: &[u8],
        by: i64,
        deadline: Deadline,
        at: At<'_>,
    ) -> Result<Output, Box<Damage>> {
        let current = self.current(key, at.pins)?;
        let sum = match add(current.as_ref().map(|item| &item.value[..]), by) {
            Ok(sum) => sum,
            Err(OpFault::NotANumber) => return Ok(Output::NotANumber),
            Err(OpFault::Overflow) => return Ok(Output::Overflow),
        };
        let before_ms = current.map_or(0, |item| item.expires_ms);
        let expiry_ms = deadline.at(self.shell.clock_ms(), before_ms);
        self.delta.put(key, sum.to_string().as_bytes(), at.index, expiry_ms);
        Ok(Output::Number(sum))
    }

    fn do_touch(
        &mut self,
        key: &[u8],
        deadline: Deadline,
        at: At<'_>,
    ) -> Result<Output, Box<Damage>> {
        let Some(item) = self.current(key, at.pins)? else {
            return Ok(Output::Touched(Touched::default()));
        };
        let now_ms = deadline.at(self.shell.clock_ms(), item.expires_ms);
        self.delta.put(key, &item.value, at.index, now_ms);
        Ok(Output::Touched(Touched { existed: true, before_ms: item.expires_ms, now_ms }))
    }

    /// Removes the keys whose current deadline has passed. Hidden or not, a version that is there
    /// is looked at: visibility would hide exactly those to be removed.
    fn do_expire(&mut self, keys: Keys<'_>, at: At<'_>) -> Result<Output, Box<Damage>> {
        let mut due = Vec::with_capacity(keys.iter().len());
        for key in keys.iter() {
            let found = self.levels().find(key, at.pins).visible(0);
            let item = match found {
                Read::Ready(item) => item,
                Read::Damaged(damage) => return Err(Box::new(damage)),
                Read::Cold(_) => unreachable!("stage pinned every page that apply needs"),
            };
            due.push(item.is_some_and(|item| !is_live(item.expires_ms, self.shell.clock_ms())));
        }
        let mut removed = 0;
        for (key, due) in keys.iter().zip(due) {
            // A key that stands twice in the list is removed once.
            if due && self.delta.point(key).is_none_or(Record::is_put) {
                self.delta.delete(key, at.index);
                removed += 1;
            }
        }
        Ok(Output::Expired(removed))
    }

    fn do_batch(&mut self, batch: Batch<'_>, at: At<'_>) -> Result<Output, Box<Damage>> {
        for (place, guard) in (0_u32..).zip(batch.guards()) {
            let current = self.current(guard.key, at.pins)?;
            if !holds(current.as_ref(), guard.expect) {
                let rev = current.map_or(0, |item| item.rev);
                return Ok(Output::Guarded { ok: false, rev, failed_guard: place });
            }
        }
        let plan = match self.plan(batch, at)? {
            Ok(plan) => plan,
            Err((place, fault)) => return Ok(Output::OpFailed { place, fault }),
        };
        for effect in &plan.effects {
            match &effect.value {
                Some(value) => {
                    self.delta.put(effect.key, value.as_slice(), at.index, effect.expiry_ms);
                },
                None => self.delta.delete(effect.key, at.index),
            }
        }
        if batch.wants_answers {
            return Ok(Output::Batch { rev: at.index, answers: plan.answers });
        }
        Ok(Output::Guarded { ok: true, rev: at.index, failed_guard: 0 })
    }

    /// Works a batch out without changing the state, so that a failing operation leaves nothing
    /// behind.
    fn plan<'a>(
        &self,
        batch: Batch<'a>,
        at: At<'_>,
    ) -> Result<Result<Plan<'a>, (u32, OpFault)>, Box<Damage>> {
        let mut plan = Plan {
            effects: Vec::with_capacity(batch.ops().len()),
            newest: BTreeMap::new(),
            answers: Vec::new(),
            reads: batch.ops().any(|op| op.reads().is_some()),
        };
        for (place, op) in (0_u32..).zip(batch.ops()) {
            let current = match op.reads().map(|key| (key, plan.newest.get(key))) {
                None => None,
                Some((_, Some(&effect))) => {
                    plan.effects[effect].item(at.index, self.shell.clock_ms())
                },
                Some((key, None)) => self.current(key, at.pins)?,
            };
            let answer = match plan.step(op, current, self.shell.clock_ms()) {
                Ok(answer) => answer,
                Err(fault) => return Ok(Err((place, fault))),
            };
            if batch.wants_answers {
                plan.answers.push(answer);
            }
        }
        Ok(Ok(plan))
    }
}

/// A value that a batch is about to write.
enum Planned<'a> {
    Body(&'a [u8]),
    Held(Bytes),
}

impl Planned<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Body(bytes) => bytes,
            Self::Held(bytes) => bytes,
        }
    }
}

struct Effect<'a> {
    key: &'a [u8],
    value: Option<Planned<'a>>,
    expiry_ms: u64,
}

impl Effect<'_> {
    /// What an operation after this one sees.
    fn item(&self, index: u64, clock_ms: u64) -> Option<Item> {
        let value = match self.value.as_ref()? {
            Planned::Body(bytes) => Bytes::copy_from_slice(bytes),
            Planned::Held(bytes) => bytes.clone(),
        };
        let item = Item { value, rev: index, expires_ms: self.expiry_ms };
        Some(item).filter(|item| is_live(item.expires_ms, clock_ms))
    }
}

/// What a batch will do, worked out before anything is changed.
struct Plan<'a> {
    effects: Vec<Effect<'a>>,
    /// The last effect on a key; kept only if some operation reads.
    newest: BTreeMap<&'a [u8], usize>,
    answers: Vec<OpAnswer>,
    reads: bool,
}

impl<'a> Plan<'a> {
    fn write(&mut self, key: &'a [u8], value: Option<Planned<'a>>, expiry_ms: u64) {
        if self.reads {
            self.newest.insert(key, self.effects.len());
        }
        self.effects.push(Effect { key, value, expiry_ms });
    }

    /// Plans one operation on a key whose version before it is `current`.
    fn step(
        &mut self,
        op: Op<'a>,
        current: Option<Item>,
        clock_ms: u64,
    ) -> Result<OpAnswer, OpFault> {
        let before_ms = current.as_ref().map_or(0, |item| item.expires_ms);
        let prev = |current: Option<Item>, asked: bool| OpAnswer::Written {
            prev: current.filter(|_| asked).map(|item| item.value),
        };
        match op {
            Op::Get { .. } => Ok(OpAnswer::Value(current)),
            Op::Put(put) => {
                let expiry_ms = put.deadline.at(clock_ms, before_ms);
                self.write(put.key, Some(Planned::Body(put.value)), expiry_ms);
                Ok(prev(current, put.wants_prev))
            },
            Op::Delete { key, wants_prev } => {
                self.write(key, None, 0);
                Ok(prev(current, wants_prev))
            },
            Op::Increment { key, by, deadline } => {
                let sum = add(current.as_ref().map(|item| &item.value[..]), by)?;
                let value = Planned::Held(Bytes::from(sum.to_string()));
                self.write(key, Some(value), deadline.at(clock_ms, before_ms));
                Ok(OpAnswer::Number(sum))
            },
            Op::Touch { key, deadline } => {
                let Some(item) = current else {
                    return Ok(OpAnswer::Touched(Touched::default()));
                };
                let now_ms = deadline.at(clock_ms, before_ms);
                self.write(key, Some(Planned::Held(item.value)), now_ms);
                Ok(OpAnswer::Touched(Touched { existed: true, before_ms, now_ms }))
            },
        }
    }
}

/// Whether a key is as expected.
fn holds(current: Option<&Item>, expect: Expect<'_>) -> bool {
    match expect {
        Expect::Absent => current.is_none(),
        Expect::Present => current.is_some(),
        Expect::Value(value) => current.is_some_and(|item| item.value == value),
        Expect::ModIndex(index) => current.is_some_and(|item| item.rev == index),
    }
}

/// `current + by`, where `current` is decimal ASCII as Redis clients write it and an absent one is
/// 0.
fn add(current: Option<&[u8]>, by: i64) -> Result<i64, OpFault> {
    let number = current.map_or(Some(0), parse_number).ok_or(OpFault::NotANumber)?;
    number.checked_add(by).ok_or(OpFault::Overflow)
}

/// A canonical decimal i64: no sign but `-`, no leading zero, no space.
fn parse_number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [] => false,
        [b'0'] => digits.len() == text.len(),
        [first, ..] => *first != b'0' && digits.iter().all(u8::is_ascii_digit),
    };
    let text = core::str::from_utf8(text).ok()?;
    if canonical { text.parse().ok() } else { None }
}
