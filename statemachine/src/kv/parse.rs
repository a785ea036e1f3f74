//! From a kind and a body to a checked command: the one place where the verdict on bytes is made,
//! for admission, staging and apply alike.

use rkyv::rend::u64_le;

use super::command::{self as wire, access};
use crate::error::{BATCH_GUARDS_MAX, BATCH_OPS_MAX, EXPIRE_KEYS_MAX, KEY_BYTES_MAX, TTL_MS_MAX};
use crate::{BadCommand, Limits, Measured};

/// A command whose bytes are valid and whose numbers are in range.
#[derive(Clone, Copy)]
pub(crate) enum Command<'a> {
    Put(&'a wire::ArchivedPut<'a>),
    Delete(&'a wire::ArchivedDelete<'a>),
    DeleteRange(&'a wire::ArchivedDeleteRange<'a>),
    Cas(&'a wire::ArchivedCas<'a>),
    Batch(&'a wire::ArchivedBatch<'a>),
    Increment(&'a wire::ArchivedIncrement<'a>),
    Touch(&'a wire::ArchivedTouch<'a>),
    Expire(&'a wire::ArchivedExpire<'a>),
}

/// A deadline as commands hold it.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    kind: u8,
    ms: u64,
}

impl Deadline {
    pub(crate) fn new(kind: u8, ms: u64_le) -> Self {
        Self { kind, ms: ms.to_native() }
    }

    /// Whether it depends on the deadline before.
    pub(crate) fn keeps(self) -> bool {
        self.kind == wire::TTL_KEEP
    }

    fn check(self) -> Result<(), BadCommand> {
        match self.kind {
            wire::TTL_NONE | wire::TTL_KEEP | wire::TTL_AT => Ok(()),
            wire::TTL_IN if self.ms <= TTL_MS_MAX => Ok(()),
            wire::TTL_IN => Err(BadCommand::Ttl),
            _ => Err(BadCommand::Archive),
        }
    }

    /// The deadline at log time `clock_ms`, 0 for none. One further off than 100 years is set to
    /// that; one at 0, which stands for none, to 1.
    pub(crate) fn at(self, clock_ms: u64, before_ms: u64) -> u64 {
        let latest = clock_ms.saturating_add(TTL_MS_MAX);
        match self.kind {
            wire::TTL_KEEP => before_ms,
            wire::TTL_IN => clock_ms.saturating_add(self.ms).clamp(1, latest),
            wire::TTL_AT => self.ms.clamp(1, latest),
            _ => 0,
        }
    }
}

fn check_key(key: &[u8]) -> Result<(), BadCommand> {
    BadCommand::check(Measured::Key, key.len(), KEY_BYTES_MAX)
}

fn check_expect(expect: u8) -> Result<(), BadCommand> {
    if expect <= wire::EXPECT_MOD_INDEX { Ok(()) } else { Err(BadCommand::Archive) }
}

fn check_flags(flags: u8, known: u8) -> Result<(), BadCommand> {
    if flags & !known == 0 { Ok(()) } else { Err(BadCommand::Archive) }
}

fn check_op(op: &wire::ArchivedWireOp<'_>) -> Result<(), BadCommand> {
    check_key(&op.key)?;
    Deadline::new(op.ttl, op.ttl_ms).check()?;
    let flags = match op.op {
        wire::OP_PUT | wire::OP_DELETE => wire::FLAG_PREV,
        wire::OP_GET | wire::OP_INCREMENT | wire::OP_TOUCH => 0,
        _ => return Err(BadCommand::Archive),
    };
    check_flags(op.flags, flags)
}

fn parse_batch<'a>(body: &'a [u8]) -> Result<Command<'a>, BadCommand> {
    let batch = access::<wire::ArchivedBatch<'a>>(body)?;
    check_flags(batch.flags, wire::FLAG_ANSWERS)?;
    BadCommand::check(Measured::Guards, batch.guards.len(), BATCH_GUARDS_MAX)?;
    BadCommand::check(Measured::Ops, batch.ops.len(), BATCH_OPS_MAX)?;
    for guard in batch.guards.iter() {
        check_key(&guard.key)?;
        check_expect(guard.expect)?;
    }
    batch.ops.iter().try_for_each(check_op)?;
    Ok(Command::Batch(batch))
}

impl<'a> Command<'a> {
    /// Whether this program knows commands of that kind.
    pub(crate) const fn is_known(kind: u8) -> bool {
        wire::KIND_PUT <= kind && kind <= wire::KIND_EXPIRE
    }

    /// Validates a body in place. `body` is aligned to `BODY_ALIGN`.
    #[inline]
    pub(crate) fn parse(kind: u8, body: &'a [u8]) -> Result<Self, BadCommand> {
        match kind {
            wire::KIND_PUT => {
                let put = access::<wire::ArchivedPut<'a>>(body)?;
                check_key(&put.key)?;
                check_flags(put.flags, wire::FLAG_PREV)?;
                Deadline::new(put.ttl, put.ttl_ms).check()?;
                Ok(Self::Put(put))
            },
            wire::KIND_BATCH => parse_batch(body),
            _ => Self::parse_other(kind, body),
        }
    }

    fn parse_other(kind: u8, body: &'a [u8]) -> Result<Self, BadCommand> {
        match kind {
            wire::KIND_DELETE => {
                let delete = access::<wire::ArchivedDelete<'a>>(body)?;
                check_key(&delete.key)?;
                check_flags(delete.flags, wire::FLAG_PREV)?;
                Ok(Self::Delete(delete))
            },
            wire::KIND_DELETE_RANGE => {
                let range = access::<wire::ArchivedDeleteRange<'a>>(body)?;
                check_key(&range.start)?;
                check_key(&range.end)?;
                Ok(Self::DeleteRange(range))
            },
            wire::KIND_CAS => {
                let cas = access::<wire::ArchivedCas<'a>>(body)?;
                check_key(&cas.key)?;
                check_flags(cas.flags, wire::FLAG_REMOVE)?;
                check_expect(cas.expect)?;
                Deadline::new(cas.ttl, cas.ttl_ms).check()?;
                Ok(Self::Cas(cas))
            },
            wire::KIND_INCREMENT => {
                let increment = access::<wire::ArchivedIncrement<'a>>(body)?;
                check_key(&increment.key)?;
                Deadline::new(increment.ttl, increment.ttl_ms).check()?;
                Ok(Self::Increment(increment))
            },
            wire::KIND_TOUCH => {
                let touch = access::<wire::ArchivedTouch<'a>>(body)?;
                check_key(&touch.key)?;
                Deadline::new(touch.ttl, touch.ttl_ms).check()?;
                Ok(Self::Touch(touch))
            },
            wire::KIND_EXPIRE => {
                let expire = access::<wire::ArchivedExpire<'a>>(body)?;
                BadCommand::check(Measured::Keys, expire.keys.len(), EXPIRE_KEYS_MAX)?;
                expire.keys.iter().try_for_each(|key| check_key(&key.key))?;
                Ok(Self::Expire(expire))
            },
            _ => Err(BadCommand::Kind(kind)),
        }
    }

    /// Holds the values to the configured limits. Not asked at apply: limits may differ between
    /// replicas.
    pub(crate) fn check_values(self, limits: Limits) -> Result<(), BadCommand> {
        let check =
            |value: &[u8]| BadCommand::check(Measured::Value, value.len(), limits.value_bytes_max);
        match self {
            Self::Put(put) => check(&put.value),
            Self::Cas(cas) => check(&cas.value),
            Self::Batch(batch) => batch.ops.iter().try_for_each(|op| check(&op.value)),
            Self::Delete(_)
            | Self::DeleteRange(_)
            | Self::Increment(_)
            | Self::Touch(_)
            | Self::Expire(_) => Ok(()),
        }
    }

    /// Calls `read` with each key whose current version decides what the command does.
    #[inline]
    pub(crate) fn each_read(self, mut read: impl FnMut(&'a [u8])) {
        match self {
            Self::Put(put) => {
                if put.flags & wire::FLAG_PREV != 0 || put.ttl == wire::TTL_KEEP {
                    read(&put.key);
                }
            },
            Self::Delete(delete) => {
                if delete.flags & wire::FLAG_PREV != 0 {
                    read(&delete.key);
                }
            },
            Self::DeleteRange(_) => {},
            Self::Cas(cas) => read(&cas.key),
            Self::Batch(batch) => {
                batch.guards.iter().for_each(|guard| read(&guard.key));
                batch.ops.iter().filter(|op| op_reads(op)).for_each(|op| read(&op.key));
            },
            Self::Increment(increment) => read(&increment.key),
            Self::Touch(touch) => read(&touch.key),
            Self::Expire(expire) => expire.keys.iter().for_each(|key| read(&key.key)),
        }
    }
}

/// Whether what an operation does or answers depends on the key's version before it.
pub(crate) fn op_reads(op: &wire::ArchivedWireOp<'_>) -> bool {
    match op.op {
        wire::OP_PUT => op.flags & wire::FLAG_PREV != 0 || op.ttl == wire::TTL_KEEP,
        wire::OP_DELETE => op.flags & wire::FLAG_PREV != 0,
        _ => true,
    }
}
