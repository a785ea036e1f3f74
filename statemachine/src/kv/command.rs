//! The bytes of the key-value commands: one frozen rkyv structure per kind.
//!
//! A structure never changes: another layout is another kind. There is no enum around them,
//! because an archived enum grows with its largest variant and old entries would not parse.
//! Numbers stand for variants (`expect`, `ttl`, `op`); their values are frozen too.
//!
//! ```text
//! body = keys and values | padding to 8 | guards, operations | root structure, at the end
//! span = off u32 (in the body) | len u32
//! ```
//!
//! Keys and values are spans, not archived slices: the validation of an archived slice looks at
//! each byte, that of a span at two bounds.

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Portable, Serialize};

use crate::BadCommand;

/// Sets a value.
pub const KIND_PUT: u8 = 32;
/// Removes a key.
pub const KIND_DELETE: u8 = 33;
/// Removes a range of keys.
pub const KIND_DELETE_RANGE: u8 = 34;
/// Sets or removes a value if the key is as expected.
pub const KIND_CAS: u8 = 35;
/// Guards and operations, all or nothing.
pub const KIND_BATCH: u8 = 36;
/// Adds to a decimal number.
pub const KIND_INCREMENT: u8 = 37;
/// Changes a key's deadline.
pub const KIND_TOUCH: u8 = 38;
/// Removes keys whose deadline has passed; proposed by the leader alone.
pub const KIND_EXPIRE: u8 = 39;

/// Version of the key-value commands, in each envelope.
pub const KV_VERSION: u16 = 1;

/// `ttl`: no deadline.
pub const TTL_NONE: u8 = 0;
/// `ttl`: the deadline stays as it is.
pub const TTL_KEEP: u8 = 1;
/// `ttl`: `ttl_ms` after the entry's log time.
pub const TTL_IN: u8 = 2;
/// `ttl`: at log time `ttl_ms`.
pub const TTL_AT: u8 = 3;

/// `expect`: no such key.
pub const EXPECT_ABSENT: u8 = 0;
/// `expect`: some value.
pub const EXPECT_PRESENT: u8 = 1;
/// `expect`: this value.
pub const EXPECT_VALUE: u8 = 2;
/// `expect`: the version `mod_index`.
pub const EXPECT_MOD_INDEX: u8 = 3;

/// `flags`: answer the value before.
pub const FLAG_PREV: u8 = 1;
/// `flags` of Cas: there is no new value, remove the key.
pub const FLAG_REMOVE: u8 = 2;
/// `flags` of Batch: answer each operation.
pub const FLAG_ANSWERS: u8 = 4;

/// `op`: read a key.
pub const OP_GET: u8 = 0;
/// `op`: as Put.
pub const OP_PUT: u8 = 1;
/// `op`: as Delete.
pub const OP_DELETE: u8 = 2;
/// `op`: as Increment.
pub const OP_INCREMENT: u8 = 3;
/// `op`: as Touch.
pub const OP_TOUCH: u8 = 4;

/// A key or a value: where it lies in the body.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Its first byte.
    pub(crate) off: u32,
    /// Its length.
    pub(crate) len: u32,
}

impl ArchivedSpan {
    /// The bytes, if they lie in the body.
    #[inline]
    pub(crate) fn of<'a>(&self, body: &'a [u8]) -> Result<&'a [u8], BadCommand> {
        let off = usize::try_from(self.off.to_native()).unwrap_or(usize::MAX);
        let len = usize::try_from(self.len.to_native()).unwrap_or(usize::MAX);
        let end = off.checked_add(len).ok_or(BadCommand::Archive)?;
        body.get(off..end).ok_or(BadCommand::Archive)
    }
}

/// Kind 32.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Put {
    /// The key.
    pub(crate) key: Span,
    /// The value.
    pub(crate) value: Span,
    /// See `ttl`.
    pub(crate) ttl_ms: u64,
    /// `TTL_*`.
    pub(crate) ttl: u8,
    /// `FLAG_PREV` or 0.
    pub(crate) flags: u8,
}

/// Kind 33.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Delete {
    /// The key.
    pub(crate) key: Span,
    /// `FLAG_PREV` or 0.
    pub(crate) flags: u8,
}

/// Kind 34.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct DeleteRange {
    /// First key.
    pub(crate) start: Span,
    /// First key after the range; empty: to the end.
    pub(crate) end: Span,
}

/// Kind 35.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Cas {
    /// The key.
    pub(crate) key: Span,
    /// The new value.
    pub(crate) value: Span,
    /// What the value must be, for `EXPECT_VALUE`.
    pub(crate) expected: Span,
    /// What the version must be, for `EXPECT_MOD_INDEX`.
    pub(crate) mod_index: u64,
    /// See `ttl`.
    pub(crate) ttl_ms: u64,
    /// `TTL_*`.
    pub(crate) ttl: u8,
    /// `EXPECT_*`.
    pub(crate) expect: u8,
    /// `FLAG_REMOVE` or 0.
    pub(crate) flags: u8,
}

/// A condition of a batch on the state before it.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct WireGuard {
    /// The key.
    pub(crate) key: Span,
    /// What the value must be, for `EXPECT_VALUE`.
    pub(crate) expected: Span,
    /// What the version must be, for `EXPECT_MOD_INDEX`.
    pub(crate) mod_index: u64,
    /// `EXPECT_*`.
    pub(crate) expect: u8,
}

/// An operation of a batch.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct WireOp {
    /// The key.
    pub(crate) key: Span,
    /// The value, for `OP_PUT`.
    pub(crate) value: Span,
    /// What is added, for `OP_INCREMENT`.
    pub(crate) by: i64,
    /// See `ttl`.
    pub(crate) ttl_ms: u64,
    /// `OP_*`.
    pub(crate) op: u8,
    /// `TTL_*`.
    pub(crate) ttl: u8,
    /// `FLAG_PREV` or 0.
    pub(crate) flags: u8,
}

/// Kind 36.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Batch<'a> {
    /// All of them must hold.
    #[rkyv(with = InlineAsBox)]
    pub(crate) guards: &'a [WireGuard],
    /// Done in order; each sees what those before it did.
    #[rkyv(with = InlineAsBox)]
    pub(crate) ops: &'a [WireOp],
    /// `FLAG_ANSWERS` or 0.
    pub(crate) flags: u8,
}

/// Kind 37.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Increment {
    /// The key.
    pub(crate) key: Span,
    /// What is added.
    pub(crate) by: i64,
    /// See `ttl`.
    pub(crate) ttl_ms: u64,
    /// `TTL_*`.
    pub(crate) ttl: u8,
}

/// Kind 38.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Touch {
    /// The key.
    pub(crate) key: Span,
    /// See `ttl`.
    pub(crate) ttl_ms: u64,
    /// `TTL_*`.
    pub(crate) ttl: u8,
}

/// Kind 39.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Expire<'a> {
    /// Keys that may be due.
    #[rkyv(with = InlineAsBox)]
    pub(crate) keys: &'a [Span],
}

/// Reads a body in place after validating it. `body` is aligned.
pub(crate) fn access<'a, T>(body: &'a [u8]) -> Result<&'a T, BadCommand>
where
    T: Portable + for<'c> CheckBytes<rkyv::api::low::LowValidator<'c, Failure>>,
{
    rkyv::api::low::access::<T, Failure>(body).map_err(|Failure| BadCommand::Archive)
}
