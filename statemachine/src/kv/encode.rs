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

/// A body that is being appended.
struct BodyWriter<'a> {
    out: &'a mut BytesMut,
    start: usize,
}

impl<'a> BodyWriter<'a> {
    /// Begins a body of about `len` bytes of keys and values.
    fn begin(out: &'a mut BytesMut, len: usize) -> Self {
        out.reserve(len.saturating_add(ROOT_ROOM));
        let start = out.len();
        Self { out, start }
    }

    /// Appends a key or value. One that lies past 4 GiB gets a span that is refused by `admit`.
    fn span(&mut self, bytes: &[u8]) -> wire::Span {
        let short = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let span = wire::Span { off: short(self.out.len() - self.start), len: short(bytes.len()) };
        self.out.extend_from_slice(bytes);
        span
    }

    /// Ends the body with its root structure.
    fn finish<T>(self, root: &T)
    where
        T: for<'w> Serialize<Plain<'w>>,
    {
        let mut serializer = Serializer::new(self, SubAllocator::empty(), ());
        serialize_using::<_, Failure>(root, &mut serializer)
            .expect("writing to memory does not fail, and spans need no scratch memory");
    }

    /// The same for a root that has lists.
    fn finish_lists<T>(self, root: &T)
    where
        T: for<'w, 's> Serialize<WithScratch<'w, 's>>,
    {
        let mut arena = Arena::new();
        let mut serializer = Serializer::new(self, arena.acquire(), ());
        serialize_using::<_, Failure>(root, &mut serializer)
            .expect("writing to memory does not fail, and the arena grows");
    }
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
type WithScratch<'a, 's> = Strategy<Serializer<BodyWriter<'a>, ArenaHandle<'s>, ()>, Failure>;

const fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// Put: sets `key` to `value`; `prev` asks for the value before. Kind [`wire::KIND_PUT`].
pub fn put(out: &mut BytesMut, key: &[u8], value: &[u8], ttl: Ttl, prev: bool) {
    let (ttl, ttl_ms) = ttl.parts();
    let flags = flag(prev, wire::FLAG_PREV);
    let mut body = BodyWriter::begin(out, key.len() + value.len());
    let (key, value) = (body.span(key), body.span(value));
    body.finish(&wire::Put { key, value, ttl_ms, ttl, flags });
}

/// Delete: removes `key`; `prev` asks for the value before. Kind [`wire::KIND_DELETE`].
pub fn delete(out: &mut BytesMut, key: &[u8], prev: bool) {
    let mut body = BodyWriter::begin(out, key.len());
    let key = body.span(key);
    body.finish(&wire::Delete { key, flags: flag(prev, wire::FLAG_PREV) });
}

/// `DeleteRange`: removes `start <= key < end`; an empty `end` is the end of all keys. Kind
/// [`wire::KIND_DELETE_RANGE`].
pub fn delete_range(out: &mut BytesMut, start: &[u8], end: &[u8]) {
    let mut body = BodyWriter::begin(out, start.len() + end.len());
    let (start, end) = (body.span(start), body.span(end));
    body.finish(&wire::DeleteRange { start, end });
}

/// Cas: sets `key` to `value`, or removes it if there is none, when it is as expected. Kind
/// [`wire::KIND_CAS`].
pub fn cas(out: &mut BytesMut, key: &[u8], expect: Expect<'_>, value: Option<&[u8]>, ttl: Ttl) {
    let (ttl, ttl_ms) = ttl.parts();
    let (expect, expected, mod_index) = expect.parts();
    let flags = flag(value.is_none(), wire::FLAG_REMOVE);
    let value = value.unwrap_or_default();
    let mut body = BodyWriter::begin(out, key.len() + value.len() + expected.len());
    let (key, value, expected) = (body.span(key), body.span(value), body.span(expected));
    body.finish(&wire::Cas { key, value, expected, mod_index, ttl_ms, ttl, expect, flags });
}

/// Batch: all of `ops` if all of `guards` hold, else nothing; `answers` asks for one answer per
/// operation. Kind [`wire::KIND_BATCH`].
pub fn batch(out: &mut BytesMut, guards: &[Guard<'_>], ops: &[Op<'_>], answers: bool) {
    let mut body = BodyWriter::begin(out, 48 * (guards.len() + ops.len()));
    let guards: Vec<_> = guards.iter().map(|guard| wire_guard(&mut body, guard)).collect();
    let ops: Vec<_> = ops.iter().map(|op| wire_op(&mut body, op)).collect();
    let flags = flag(answers, wire::FLAG_ANSWERS);
    body.finish_lists(&wire::Batch { guards: &guards, ops: &ops, flags });
}

/// Increment: adds `by` to a decimal number; an absent one is 0. Kind [`wire::KIND_INCREMENT`].
pub fn increment(out: &mut BytesMut, key: &[u8], by: i64, ttl: Ttl) {
    let (ttl, ttl_ms) = ttl.parts();
    let mut body = BodyWriter::begin(out, key.len());
    let key = body.span(key);
    body.finish(&wire::Increment { key, by, ttl_ms, ttl });
}

/// Touch: changes the deadline of `key`. Kind [`wire::KIND_TOUCH`].
pub fn touch(out: &mut BytesMut, key: &[u8], ttl: Ttl) {
    let (ttl, ttl_ms) = ttl.parts();
    let mut body = BodyWriter::begin(out, key.len());
    let key = body.span(key);
    body.finish(&wire::Touch { key, ttl_ms, ttl });
}

/// Expire: removes those of `keys` whose deadline has passed. Kind [`wire::KIND_EXPIRE`].
pub fn expire(out: &mut BytesMut, keys: &[&[u8]]) {
    let mut body = BodyWriter::begin(out, 24 * keys.len());
    let keys: Vec<_> = keys.iter().map(|key| body.span(key)).collect();
    body.finish_lists(&wire::Expire { keys: &keys });
}

fn wire_guard(body: &mut BodyWriter<'_>, guard: &Guard<'_>) -> wire::WireGuard {
    let (expect, expected, mod_index) = guard.expect.parts();
    let (key, expected) = (body.span(guard.key), body.span(expected));
    wire::WireGuard { key, expected, mod_index, expect }
}

fn wire_op(body: &mut BodyWriter<'_>, op: &Op<'_>) -> wire::WireOp {
    let mut blank = |key: &[u8], value: &[u8], op| {
        let (key, value) = (body.span(key), body.span(value));
        wire::WireOp { key, value, by: 0, ttl_ms: 0, op, ttl: 0, flags: 0 }
    };
    match *op {
        Op::Get { key } => blank(key, &[], wire::OP_GET),
        Op::Put { key, value, ttl, prev } => {
            let (ttl, ttl_ms) = ttl.parts();
            let flags = flag(prev, wire::FLAG_PREV);
            wire::WireOp { ttl_ms, ttl, flags, ..blank(key, value, wire::OP_PUT) }
        },
        Op::Delete { key, prev } => {
            let flags = flag(prev, wire::FLAG_PREV);
            wire::WireOp { flags, ..blank(key, &[], wire::OP_DELETE) }
        },
        Op::Increment { key, by, ttl } => {
            let (ttl, ttl_ms) = ttl.parts();
            wire::WireOp { by, ttl_ms, ttl, ..blank(key, &[], wire::OP_INCREMENT) }
        },
        Op::Touch { key, ttl } => {
            let (ttl, ttl_ms) = ttl.parts();
            wire::WireOp { ttl_ms, ttl, ..blank(key, &[], wire::OP_TOUCH) }
        },
    }
}
