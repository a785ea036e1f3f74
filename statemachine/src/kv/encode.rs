//! Encoders of the key-value commands: what follows the envelope, appended to a caller's buffer.
//!
//! Every encoder appends one body whose positions count from its own first byte; that byte must
//! lie 16-aligned when the body is applied (`ENVELOPE_LEN` is 16). Nothing is allocated as long as
//! `out` has room; a batch alone needs scratch memory.

use bytes::BytesMut;
use rkyv::Serialize;
use rkyv::api::serialize_using;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle, SubAllocator};
use rkyv::ser::{Positional, Serializer, Writer};

use super::command as wire;

/// When a value expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// Never.
    #[default]
    None,
    /// When it did before.
    Keep,
    /// So many milliseconds of log time after the write.
    In(u64),
    /// At this log time, in milliseconds.
    At(u64),
}

impl Ttl {
    const fn parts(self) -> (u8, u64) {
        match self {
            Self::None => (wire::TTL_NONE, 0),
            Self::Keep => (wire::TTL_KEEP, 0),
            Self::In(ms) => (wire::TTL_IN, ms),
            Self::At(ms) => (wire::TTL_AT, ms),
        }
    }
}

/// What a key must be for a guarded write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect<'a> {
    /// It does not exist.
    Absent,
    /// It exists.
    Present,
    /// It has this value.
    Value(&'a [u8]),
    /// It has this version.
    ModIndex(u64),
}

impl<'a> Expect<'a> {
    const fn parts(self) -> (u8, &'a [u8], u64) {
        match self {
            Self::Absent => (wire::EXPECT_ABSENT, &[], 0),
            Self::Present => (wire::EXPECT_PRESENT, &[], 0),
            Self::Value(value) => (wire::EXPECT_VALUE, value, 0),
            Self::ModIndex(index) => (wire::EXPECT_MOD_INDEX, &[], index),
        }
    }
}

/// A condition of a batch, on the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What it must be.
    pub expect: Expect<'a>,
}

/// An operation of a batch. It sees what the operations before it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Reads the key.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Sets the value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// When it expires.
        ttl: Ttl,
        /// Answer the value before.
        prev: bool,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: &'a [u8],
        /// Answer the value before.
        prev: bool,
    },
    /// Adds to a decimal number; an absent one is 0.
    Increment {
        /// The key.
        key: &'a [u8],
        /// What is added.
        by: i64,
        /// When it expires.
        ttl: Ttl,
    },
    /// Changes the deadline.
    Touch {
        /// The key.
        key: &'a [u8],
        /// When it expires.
        ttl: Ttl,
    },
}

struct BodyWriter<'a> {
    out: &'a mut BytesMut,
    start: usize,
}

impl Positional for BodyWriter<'_> {
    #[inline]
    fn pos(&self) -> usize {
        self.out.len() - self.start
    }
}

impl<E> Writer<E> for BodyWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Bytes a root structure and its padding may take.
const ROOT_ROOM: usize = 64;

type Plain<'a> = Strategy<Serializer<BodyWriter<'a>, SubAllocator<'a>, ()>, Failure>;

fn plain<T>(out: &mut BytesMut, room: usize, command: &T)
where
    T: for<'w> Serialize<Plain<'w>>,
{
    out.reserve(room + ROOT_ROOM);
    let start = out.len();
    let mut serializer = Serializer::new(BodyWriter { out, start }, SubAllocator::empty(), ());
    serialize_using::<_, Failure>(command, &mut serializer)
        .expect("writing to memory does not fail, and bytes need no scratch memory");
}

type WithScratch<'a, 's> = Strategy<Serializer<BodyWriter<'a>, ArenaHandle<'s>, ()>, Failure>;

fn with_scratch<T>(out: &mut BytesMut, room: usize, command: &T)
where
    T: for<'w, 's> Serialize<WithScratch<'w, 's>>,
{
    out.reserve(room + ROOT_ROOM);
    let start = out.len();
    let mut arena = Arena::new();
    let mut serializer = Serializer::new(BodyWriter { out, start }, arena.acquire(), ());
    serialize_using::<_, Failure>(command, &mut serializer)
        .expect("writing to memory does not fail, and the arena grows");
}

const fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// Put: sets `key` to `value`; `prev` asks for the value before. Kind [`wire::KIND_PUT`].
pub fn put(out: &mut BytesMut, key: &[u8], value: &[u8], ttl: Ttl, prev: bool) {
    let (ttl, ttl_ms) = ttl.parts();
    let flags = flag(prev, wire::FLAG_PREV);
    plain(out, key.len() + value.len(), &wire::Put { key, value, ttl_ms, ttl, flags });
}

/// Delete: removes `key`; `prev` asks for the value before. Kind [`wire::KIND_DELETE`].
pub fn delete(out: &mut BytesMut, key: &[u8], prev: bool) {
    plain(out, key.len(), &wire::Delete { key, flags: flag(prev, wire::FLAG_PREV) });
}

/// `DeleteRange`: removes `start <= key < end`; an empty `end` is the end of all keys. Kind
/// [`wire::KIND_DELETE_RANGE`].
pub fn delete_range(out: &mut BytesMut, start: &[u8], end: &[u8]) {
    plain(out, start.len() + end.len(), &wire::DeleteRange { start, end });
}

/// Cas: sets `key` to `value`, or removes it if there is none, when it is as expected. Kind
/// [`wire::KIND_CAS`].
pub fn cas(out: &mut BytesMut, key: &[u8], expect: Expect<'_>, value: Option<&[u8]>, ttl: Ttl) {
    let (ttl, ttl_ms) = ttl.parts();
    let (expect, expected, mod_index) = expect.parts();
    let flags = flag(value.is_none(), wire::FLAG_REMOVE);
    let value = value.unwrap_or_default();
    let room = key.len() + value.len() + expected.len();
    plain(out, room, &wire::Cas { key, value, expected, mod_index, ttl_ms, ttl, expect, flags });
}

/// Batch: all of `ops` if all of `guards` hold, else nothing; `answers` asks for one answer per
/// operation. Kind [`wire::KIND_BATCH`].
pub fn batch(out: &mut BytesMut, guards: &[Guard<'_>], ops: &[Op<'_>], answers: bool) {
    let guards: Vec<_> = guards.iter().map(wire_guard).collect();
    let ops: Vec<_> = ops.iter().map(wire_op).collect();
    let bytes = guards.iter().map(|guard| guard.key.len() + guard.expected.len() + 32);
    let room: usize = bytes.chain(ops.iter().map(|op| op.key.len() + op.value.len() + 40)).sum();
    let flags = flag(answers, wire::FLAG_ANSWERS);
    with_scratch(out, room, &wire::Batch { guards: &guards, ops: &ops, flags });
}

/// Increment: adds `by` to a decimal number; an absent one is 0. Kind [`wire::KIND_INCREMENT`].
pub fn increment(out: &mut BytesMut, key: &[u8], by: i64, ttl: Ttl) {
    let (ttl, ttl_ms) = ttl.parts();
    plain(out, key.len(), &wire::Increment { key, by, ttl_ms, ttl });
}

/// Touch: changes the deadline of `key`. Kind [`wire::KIND_TOUCH`].
pub fn touch(out: &mut BytesMut, key: &[u8], ttl: Ttl) {
    let (ttl, ttl_ms) = ttl.parts();
    plain(out, key.len(), &wire::Touch { key, ttl_ms, ttl });
}

/// Expire: removes those of `keys` whose deadline has passed. Kind [`wire::KIND_EXPIRE`].
pub fn expire(out: &mut BytesMut, keys: &[&[u8]]) {
    let keys: Vec<_> = keys.iter().map(|key| wire::WireKey { key }).collect();
    let room = keys.iter().map(|key| key.key.len() + 8).sum();
    with_scratch(out, room, &wire::Expire { keys: &keys });
}

fn wire_guard<'a>(guard: &Guard<'a>) -> wire::WireGuard<'a> {
    let (expect, expected, mod_index) = guard.expect.parts();
    wire::WireGuard { key: guard.key, expected, mod_index, expect }
}

fn wire_op<'a>(op: &Op<'a>) -> wire::WireOp<'a> {
    let blank = |key, op| wire::WireOp { key, value: &[], by: 0, ttl_ms: 0, op, ttl: 0, flags: 0 };
    match *op {
        Op::Get { key } => blank(key, wire::OP_GET),
        Op::Put { key, value, ttl, prev } => {
            let (ttl, ttl_ms) = ttl.parts();
            let flags = flag(prev, wire::FLAG_PREV);
            wire::WireOp { value, ttl_ms, ttl, flags, ..blank(key, wire::OP_PUT) }
        },
        Op::Delete { key, prev } => {
            let flags = flag(prev, wire::FLAG_PREV);
            wire::WireOp { flags, ..blank(key, wire::OP_DELETE) }
        },
        Op::Increment { key, by, ttl } => {
            let (ttl, ttl_ms) = ttl.parts();
            wire::WireOp { by, ttl_ms, ttl, ..blank(key, wire::OP_INCREMENT) }
        },
        Op::Touch { key, ttl } => {
            let (ttl, ttl_ms) = ttl.parts();
            wire::WireOp { ttl_ms, ttl, ..blank(key, wire::OP_TOUCH) }
        },
    }
}
