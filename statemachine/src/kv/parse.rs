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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rkyv::util::AlignedVec;

    use super::*;
    use crate::kv::encode::{self, Expect, Guard, Op, Ttl};

    fn body(write: impl FnOnce(&mut BytesMut)) -> AlignedVec {
        let mut out = BytesMut::from(&b"before"[..]);
        write(&mut out);
        let mut aligned = AlignedVec::new();
        aligned.extend_from_slice(&out[6..]);
        aligned
    }

    /// One body of each kind.
    fn samples() -> Vec<(u8, AlignedVec)> {
        let guards = [
            Guard { key: b"a", expect: Expect::Absent },
            Guard { key: b"bb", expect: Expect::Value(b"old") },
            Guard { key: b"c", expect: Expect::ModIndex(7) },
        ];
        let ops = [
            Op::Get { key: b"a" },
            Op::Put { key: b"bb", value: b"new", ttl: Ttl::In(5), prev: true },
            Op::Delete { key: b"c", prev: false },
            Op::Increment { key: b"d", by: -1, ttl: Ttl::Keep },
            Op::Touch { key: b"e", ttl: Ttl::At(9) },
        ];
        vec![
            (wire::KIND_PUT, body(|out| encode::put(out, b"key", b"value", Ttl::In(5), true))),
            (wire::KIND_DELETE, body(|out| encode::delete(out, b"key", true))),
            (wire::KIND_DELETE_RANGE, body(|out| encode::delete_range(out, b"a", b"b"))),
            (
                wire::KIND_CAS,
                body(|out| {
                    let expect = Expect::Value(b"old");
                    encode::cas(out, b"key", expect, Some(b"new"), Ttl::At(9));
                }),
            ),
            (wire::KIND_BATCH, body(|out| encode::batch(out, &guards, &ops, true))),
            (wire::KIND_INCREMENT, body(|out| encode::increment(out, b"key", -2, Ttl::Keep))),
            (wire::KIND_TOUCH, body(|out| encode::touch(out, b"key", Ttl::None))),
            (wire::KIND_EXPIRE, body(|out| encode::expire(out, &[b"a", b"bb"]))),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// Bodies as the first version wrote them; they are in logs, so they stay readable for ever.
    const GOLDEN: [(u8, &str); 8] = [
        (
            32,
            "6b657976616c7565f8ffffff03000000f3ffffff050000000500000000000000\
             0201000000000000",
        ),
        (33, "6b657900fcffffff0300000001000000"),
        (34, "61620000fcffffff01000000f5ffffff01000000"),
        (
            35,
            "6b65796e65776f6c6400000000000000f0ffffff03000000ebffffff03000000\
             e6ffffff03000000000000000000000009000000000000000302000000000000",
        ),
        (
            36,
            "6162626f6c646300f8ffffff01000000f1ffffff000000000000000000000000\
             0000000000000000d9ffffff02000000d3ffffff030000000000000000000000\
             0200000000000000beffffff01000000b7ffffff000000000700000000000000\
             03000000000000006162626e657763646500000000000000f0ffffff01000000\
             e9ffffff00000000000000000000000000000000000000000000000000000000\
             c9ffffff02000000c3ffffff0300000000000000000000000500000000000000\
             0102010000000000a6ffffff010000009fffffff000000000000000000000000\
             000000000000000002000000000000007fffffff0100000078ffffff00000000\
             ffffffffffffffff0000000000000000030100000000000058ffffff01000000\
             51ffffff00000000000000000000000009000000000000000403000000000000\
             c8feffff0300000030ffffff0500000004000000",
        ),
        (
            37,
            "6b65790000000000f8ffffff03000000feffffffffffffff0000000000000000\
             0100000000000000",
        ),
        (38, "6b65790000000000f8ffffff0300000000000000000000000000000000000000"),
        (39, "61626200fcffffff01000000f5ffffff02000000f0ffffff02000000"),
    ];

    #[test]
    fn golden_command_bytes() {
        for ((kind, body), (golden_kind, golden)) in samples().into_iter().zip(GOLDEN) {
            assert_eq!((kind, &hex(&body)[..]), (golden_kind, golden));
        }
    }

    #[test]
    fn every_command_comes_back_as_it_was_written() {
        for (kind, body) in samples() {
            let command = Command::parse(kind, &body).unwrap();
            match command {
                Command::Put(put) => {
                    assert_eq!((&put.key[..], &put.value[..]), (&b"key"[..], &b"value"[..]));
                    assert_eq!((put.ttl, put.ttl_ms.to_native()), (wire::TTL_IN, 5));
                    assert_eq!(put.flags, wire::FLAG_PREV);
                },
                Command::Delete(delete) => assert_eq!(&delete.key[..], b"key"),
                Command::DeleteRange(range) => {
                    assert_eq!((&range.start[..], &range.end[..]), (&b"a"[..], &b"b"[..]));
                },
                Command::Cas(cas) => {
                    assert_eq!((&cas.key[..], &cas.value[..]), (&b"key"[..], &b"new"[..]));
                    assert_eq!((cas.expect, &cas.expected[..]), (wire::EXPECT_VALUE, &b"old"[..]));
                    assert_eq!((cas.ttl, cas.ttl_ms.to_native()), (wire::TTL_AT, 9));
                },
                Command::Batch(batch) => {
                    assert_eq!((batch.guards.len(), batch.ops.len()), (3, 5));
                    assert_eq!(batch.guards[2].mod_index.to_native(), 7);
                    assert_eq!(&batch.ops[1].value[..], b"new");
                    assert_eq!(batch.ops[3].by.to_native(), -1);
                },
                Command::Increment(increment) => {
                    assert_eq!(increment.by.to_native(), -2);
                    assert_eq!(increment.ttl, wire::TTL_KEEP);
                },
                Command::Touch(touch) => assert_eq!(touch.ttl, wire::TTL_NONE),
                Command::Expire(expire) => assert_eq!(&expire.keys[1].key[..], b"bb"),
            }
        }
    }

    #[test]
    fn a_body_cut_anywhere_is_refused() {
        for (kind, body) in samples() {
            for len in 0..body.len() {
                let cut = Command::parse(kind, &body[..len]);
                assert!(cut.is_err(), "kind {kind} cut at {len}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_gives_a_command_within_the_limits() {
        for (kind, body) in samples() {
            for bit in 0..body.len() * 8 {
                let mut bad = body.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let Ok(command) = Command::parse(kind, &bad) else { continue };
                command.each_read(|key| assert!(key.len() <= KEY_BYTES_MAX));
            }
        }
    }

    #[test]
    fn another_kinds_body_never_panics() {
        for (_, body) in samples() {
            for kind in 0..=u8::MAX {
                let parsed = Command::parse(kind, &body);
                assert!(parsed.is_ok() <= Command::is_known(kind));
            }
        }
    }

    #[track_caller]
    fn check(kind: u8, body: &[u8], want: Result<(), BadCommand>) {
        let got = Command::parse(kind, body).and_then(|command| {
            command.check_values(Limits { value_bytes_max: 100, body_bytes_max: 10_000 })
        });
        assert_eq!(got, want);
    }

    const fn too_large(what: Measured, len: u32, max: u32) -> Result<(), BadCommand> {
        Err(BadCommand::TooLarge { what, len, max })
    }

    #[test]
    fn a_key_of_2048_bytes_is_taken_and_one_more_is_not() {
        let put = |len| body(|out| encode::put(out, &vec![7; len], b"v", Ttl::None, false));
        check(wire::KIND_PUT, &put(2_048), Ok(()));
        check(wire::KIND_PUT, &put(2_049), too_large(Measured::Key, 2_049, 2_048));
        let end = body(|out| encode::delete_range(out, b"", &[7; 2_049]));
        check(wire::KIND_DELETE_RANGE, &end, too_large(Measured::Key, 2_049, 2_048));
    }

    #[test]
    fn a_value_over_the_limit_is_named() {
        let put = body(|out| encode::put(out, b"k", &[7; 101], Ttl::None, false));
        check(wire::KIND_PUT, &put, too_large(Measured::Value, 101, 100));
        let op = Op::Put { key: b"k", value: &[7; 101], ttl: Ttl::None, prev: false };
        let batch = body(|out| encode::batch(out, &[], &[op], false));
        check(wire::KIND_BATCH, &batch, too_large(Measured::Value, 101, 100));
    }

    #[test]
    fn guards_operations_and_keys_are_counted() {
        let guard = Guard { key: b"k", expect: Expect::Present };
        let op = Op::Get { key: b"k" };
        let batch = |guards, ops| {
            body(|out| encode::batch(out, &vec![guard; guards], &vec![op; ops], true))
        };
        check(wire::KIND_BATCH, &batch(128, 1_024), Ok(()));
        check(wire::KIND_BATCH, &batch(129, 1), too_large(Measured::Guards, 129, 128));
        check(wire::KIND_BATCH, &batch(1, 1_025), too_large(Measured::Ops, 1_025, 1_024));
        let keys = vec![&b"k"[..]; 513];
        let expire = body(|out| encode::expire(out, &keys));
        check(wire::KIND_EXPIRE, &expire, too_large(Measured::Keys, 513, 512));
    }

    #[test]
    fn a_ttl_over_100_years_is_refused() {
        let put = |ttl| body(|out| encode::put(out, b"k", b"v", ttl, false));
        check(wire::KIND_PUT, &put(Ttl::In(TTL_MS_MAX)), Ok(()));
        check(wire::KIND_PUT, &put(Ttl::In(TTL_MS_MAX + 1)), Err(BadCommand::Ttl));
    }

    #[test]
    fn a_deadline_is_never_mistaken_for_none() {
        let at = |kind, ms: u64, clock| Deadline::new(kind, ms.into()).at(clock, 77);
        assert_eq!(at(wire::TTL_NONE, 5, 100), 0);
        assert_eq!(at(wire::TTL_KEEP, 5, 100), 77);
        assert_eq!(at(wire::TTL_IN, 5, 100), 105);
        assert_eq!(at(wire::TTL_IN, 0, 0), 1);
        assert_eq!(at(wire::TTL_AT, 0, 100), 1);
        assert_eq!(at(wire::TTL_AT, u64::MAX, 100), 100 + TTL_MS_MAX);
        assert_eq!(at(wire::TTL_IN, TTL_MS_MAX, u64::MAX), u64::MAX);
    }
}
