//! From a kind and a body to a checked command: the one place where the verdict on bytes is made,
//! for admission, staging and apply alike.

use rkyv::rend::u64_le;

use super::command::{self as wire, access};
use super::encode::Expect;
use crate::error::{BATCH_GUARDS_MAX, BATCH_OPS_MAX, EXPIRE_KEYS_MAX, KEY_BYTES_MAX, TTL_MS_MAX};
use crate::{BadCommand, Limits, Measured};

/// A command whose bytes are valid and whose numbers are in range.
#[derive(Clone, Copy)]
pub(crate) enum Command<'a> {
    Put(Put<'a>),
    Delete { key: &'a [u8], wants_prev: bool },
    DeleteRange { start: &'a [u8], end: &'a [u8] },
    Cas { guard: Guard<'a>, value: Option<&'a [u8]>, deadline: Deadline },
    Batch(Batch<'a>),
    Increment { key: &'a [u8], by: i64, deadline: Deadline },
    Touch { key: &'a [u8], deadline: Deadline },
    Expire(Keys<'a>),
}

#[derive(Clone, Copy)]
pub(crate) struct Put<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) deadline: Deadline,
    pub(crate) wants_prev: bool,
}

/// A key and what it must be.
#[derive(Clone, Copy)]
pub(crate) struct Guard<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) expect: Expect<'a>,
}

/// An operation of a batch.
#[derive(Clone, Copy)]
pub(crate) enum Op<'a> {
    Get { key: &'a [u8] },
    Put(Put<'a>),
    Delete { key: &'a [u8], wants_prev: bool },
    Increment { key: &'a [u8], by: i64, deadline: Deadline },
    Touch { key: &'a [u8], deadline: Deadline },
}

/// A batch: each guard and operation was read once, so reading it again succeeds.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    archive: &'a wire::ArchivedBatch<'a>,
    body: &'a [u8],
    pub(crate) wants_answers: bool,
}

impl<'a> Batch<'a> {
    pub(crate) fn guards(self) -> impl Iterator<Item = Guard<'a>> {
        let body = self.body;
        self.archive.guards.iter().map(move |guard| Guard::read(guard, body).expect(PARSED))
    }

    pub(crate) fn ops(self) -> impl ExactSizeIterator<Item = Op<'a>> {
        let body = self.body;
        self.archive.ops.iter().map(move |op| Op::read(op, body).expect(PARSED))
    }
}

/// Keys of an Expire, likewise.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    spans: &'a [wire::ArchivedSpan],
    body: &'a [u8],
}

impl<'a> Keys<'a> {
    pub(crate) fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.spans.iter().map(move |span| span.of(self.body).expect(PARSED))
    }
}

const PARSED: &str = "parse has read every part of the command";

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

fn key<'a>(span: &wire::ArchivedSpan, body: &'a [u8]) -> Result<&'a [u8], BadCommand> {
    let key = span.of(body)?;
    BadCommand::check(Measured::Key, key.len(), KEY_BYTES_MAX)?;
    Ok(key)
}

fn deadline(kind: u8, ms: u64_le) -> Result<Deadline, BadCommand> {
    let deadline = Deadline::new(kind, ms);
    deadline.check()?;
    Ok(deadline)
}

/// Whether `known` is set; no other flag may be.
fn flag(flags: u8, known: u8) -> Result<bool, BadCommand> {
    if flags & !known == 0 { Ok(flags != 0) } else { Err(BadCommand::Archive) }
}

fn expect(kind: u8, value: &[u8], mod_index: u64_le) -> Result<Expect<'_>, BadCommand> {
    match kind {
        wire::EXPECT_ABSENT => Ok(Expect::Absent),
        wire::EXPECT_PRESENT => Ok(Expect::Present),
        wire::EXPECT_VALUE => Ok(Expect::Value(value)),
        wire::EXPECT_MOD_INDEX => Ok(Expect::ModIndex(mod_index.to_native())),
        _ => Err(BadCommand::Archive),
    }
}

impl<'a> Guard<'a> {
    fn read(guard: &wire::ArchivedWireGuard, body: &'a [u8]) -> Result<Self, BadCommand> {
        let expect = expect(guard.expect, guard.expected.of(body)?, guard.mod_index)?;
        Ok(Self { key: key(&guard.key, body)?, expect })
    }
}

impl<'a> Op<'a> {
    fn read(op: &wire::ArchivedWireOp, body: &'a [u8]) -> Result<Self, BadCommand> {
        let key = key(&op.key, body)?;
        let deadline = deadline(op.ttl, op.ttl_ms)?;
        match op.op {
            wire::OP_GET => flag(op.flags, 0).map(|_| Self::Get { key }),
            wire::OP_PUT => {
                let (value, wants_prev) = (op.value.of(body)?, flag(op.flags, wire::FLAG_PREV)?);
                Ok(Self::Put(Put { key, value, deadline, wants_prev }))
            },
            wire::OP_DELETE => {
                Ok(Self::Delete { key, wants_prev: flag(op.flags, wire::FLAG_PREV)? })
            },
            wire::OP_INCREMENT => {
                let by = op.by.to_native();
                flag(op.flags, 0).map(|_| Self::Increment { key, by, deadline })
            },
            wire::OP_TOUCH => flag(op.flags, 0).map(|_| Self::Touch { key, deadline }),
            _ => Err(BadCommand::Archive),
        }
    }

    /// The key, if what the operation does or answers depends on its version before.
    pub(crate) fn reads(self) -> Option<&'a [u8]> {
        match self {
            Self::Get { key } | Self::Increment { key, .. } | Self::Touch { key, .. } => Some(key),
            Self::Put(put) => put.reads(),
            Self::Delete { key, wants_prev } => Some(key).filter(|_| wants_prev),
        }
    }
}

impl<'a> Put<'a> {
    /// The key, if its version before is wanted.
    #[inline]
    pub(crate) fn reads(self) -> Option<&'a [u8]> {
        Some(self.key).filter(|_| self.wants_prev || self.deadline.keeps())
    }
}

fn parse_batch(body: &[u8]) -> Result<Command<'_>, BadCommand> {
    let archive = access::<wire::ArchivedBatch<'_>>(body)?;
    let wants_answers = flag(archive.flags, wire::FLAG_ANSWERS)?;
    BadCommand::check(Measured::Guards, archive.guards.len(), BATCH_GUARDS_MAX)?;
    BadCommand::check(Measured::Ops, archive.ops.len(), BATCH_OPS_MAX)?;
    archive.guards.iter().try_for_each(|guard| Guard::read(guard, body).map(drop))?;
    archive.ops.iter().try_for_each(|op| Op::read(op, body).map(drop))?;
    Ok(Command::Batch(Batch { archive, body, wants_answers }))
}

fn parse_cas(body: &[u8]) -> Result<Command<'_>, BadCommand> {
    let cas = access::<wire::ArchivedCas>(body)?;
    let expect = expect(cas.expect, cas.expected.of(body)?, cas.mod_index)?;
    let guard = Guard { key: key(&cas.key, body)?, expect };
    let (value, removes) = (cas.value.of(body)?, flag(cas.flags, wire::FLAG_REMOVE)?);
    let deadline = deadline(cas.ttl, cas.ttl_ms)?;
    Ok(Command::Cas { guard, value: Some(value).filter(|_| !removes), deadline })
}

fn parse_expire(body: &[u8]) -> Result<Command<'_>, BadCommand> {
    let expire = access::<wire::ArchivedExpire<'_>>(body)?;
    BadCommand::check(Measured::Keys, expire.keys.len(), EXPIRE_KEYS_MAX)?;
    expire.keys.iter().try_for_each(|span| key(span, body).map(drop))?;
    Ok(Command::Expire(Keys { spans: &expire.keys, body }))
}

impl<'a> Command<'a> {
    /// Whether this program knows commands of that kind.
    pub(crate) const fn is_known(kind: u8) -> bool {
        wire::KIND_PUT <= kind && kind <= wire::KIND_EXPIRE
    }

    /// Validates a body in place. `body` is aligned to `BODY_ALIGN`.
    #[inline]
    pub(crate) fn parse(kind: u8, body: &'a [u8]) -> Result<Self, BadCommand> {
        if kind == wire::KIND_PUT {
            let put = access::<wire::ArchivedPut>(body)?;
            let (key, value) = (key(&put.key, body)?, put.value.of(body)?);
            let deadline = deadline(put.ttl, put.ttl_ms)?;
            let wants_prev = flag(put.flags, wire::FLAG_PREV)?;
            return Ok(Self::Put(Put { key, value, deadline, wants_prev }));
        }
        Self::parse_other(kind, body)
    }

    fn parse_other(kind: u8, body: &'a [u8]) -> Result<Self, BadCommand> {
        match kind {
            wire::KIND_DELETE => {
                let delete = access::<wire::ArchivedDelete>(body)?;
                let wants_prev = flag(delete.flags, wire::FLAG_PREV)?;
                Ok(Self::Delete { key: key(&delete.key, body)?, wants_prev })
            },
            wire::KIND_DELETE_RANGE => {
                let range = access::<wire::ArchivedDeleteRange>(body)?;
                let (start, end) = (key(&range.start, body)?, key(&range.end, body)?);
                Ok(Self::DeleteRange { start, end })
            },
            wire::KIND_CAS => parse_cas(body),
            wire::KIND_BATCH => parse_batch(body),
            wire::KIND_INCREMENT => {
                let increment = access::<wire::ArchivedIncrement>(body)?;
                let deadline = deadline(increment.ttl, increment.ttl_ms)?;
                let by = increment.by.to_native();
                Ok(Self::Increment { key: key(&increment.key, body)?, by, deadline })
            },
            wire::KIND_TOUCH => {
                let touch = access::<wire::ArchivedTouch>(body)?;
                let deadline = deadline(touch.ttl, touch.ttl_ms)?;
                Ok(Self::Touch { key: key(&touch.key, body)?, deadline })
            },
            wire::KIND_EXPIRE => parse_expire(body),
            _ => Err(BadCommand::Kind(kind)),
        }
    }

    /// Holds the values to the configured limits. Not asked at apply: limits may differ between
    /// replicas.
    pub(crate) fn check_values(self, limits: Limits) -> Result<(), BadCommand> {
        let check =
            |value: &[u8]| BadCommand::check(Measured::Value, value.len(), limits.value_bytes_max);
        match self {
            Self::Put(put) => check(put.value),
            Self::Cas { value, .. } => check(value.unwrap_or_default()),
            Self::Batch(batch) => batch.ops().try_for_each(|op| match op {
                Op::Put(put) => check(put.value),
                Op::Get { .. } | Op::Delete { .. } | Op::Increment { .. } | Op::Touch { .. } => {
                    Ok(())
                },
            }),
            Self::Delete { .. }
            | Self::DeleteRange { .. }
            | Self::Increment { .. }
            | Self::Touch { .. }
            | Self::Expire(_) => Ok(()),
        }
    }

    /// Calls `read` with each key whose current version decides what the command does.
    #[inline]
    pub(crate) fn each_read(self, mut read: impl FnMut(&'a [u8])) {
        match self {
            Self::Put(put) => put.reads().into_iter().for_each(read),
            Self::Delete { key, wants_prev } => {
                Some(key).filter(|_| wants_prev).into_iter().for_each(read);
            },
            Self::DeleteRange { .. } => {},
            Self::Cas { guard, .. } => read(guard.key),
            Self::Batch(batch) => {
                batch.guards().for_each(|guard| read(guard.key));
                batch.ops().filter_map(Op::reads).for_each(read);
            },
            Self::Increment { key, .. } | Self::Touch { key, .. } => read(key),
            Self::Expire(keys) => keys.iter().for_each(read),
        }
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
            "6b657976616c7565000000000300000003000000050000000500000000000000\
             0201000000000000",
        ),
        (33, "6b657900000000000300000001000000"),
        (34, "6162000000000000010000000100000001000000"),
        (
            35,
            "6b65796e65776f6c640000000000000000000000030000000300000003000000\
             0600000003000000000000000000000009000000000000000302000000000000",
        ),
        (
            36,
            "6162626f6c64636162626e657763646500000000010000000100000000000000\
             0000000000000000000000000000000001000000020000000300000003000000\
             0000000000000000020000000000000006000000010000000700000000000000\
             0700000000000000030000000000000007000000010000000800000000000000\
             0000000000000000000000000000000000000000000000000800000002000000\
             0a00000003000000000000000000000005000000000000000102010000000000\
             0d000000010000000e0000000000000000000000000000000000000000000000\
             02000000000000000e000000010000000f00000000000000ffffffffffffffff\
             000000000000000003010000000000000f000000010000001000000000000000\
             000000000000000009000000000000000403000000000000d8feffff03000000\
             30ffffff0500000004000000",
        ),
        (
            37,
            "6b657900000000000000000003000000feffffffffffffff0000000000000000\
             0100000000000000",
        ),
        (38, "6b65790000000000000000000300000000000000000000000000000000000000"),
        (39, "6162620000000000010000000100000002000000f0ffffff02000000"),
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
                    assert_eq!((put.key, put.value), (&b"key"[..], &b"value"[..]));
                    assert_eq!((put.deadline.at(100, 0), put.wants_prev), (105, true));
                },
                Command::Delete { key, wants_prev } => {
                    assert_eq!((key, wants_prev), (&b"key"[..], true));
                },
                Command::DeleteRange { start, end } => {
                    assert_eq!((start, end), (&b"a"[..], &b"b"[..]));
                },
                Command::Cas { guard, value, deadline } => {
                    assert_eq!((guard.key, value), (&b"key"[..], Some(&b"new"[..])));
                    assert_eq!(guard.expect, Expect::Value(b"old"));
                    assert_eq!(deadline.at(100, 0), 9);
                },
                Command::Batch(batch) => {
                    let guards: Vec<_> = batch.guards().map(|g| (g.key, g.expect)).collect();
                    let want: [(&[u8], _); 3] = [
                        (b"a", Expect::Absent),
                        (b"bb", Expect::Value(b"old")),
                        (b"c", Expect::ModIndex(7)),
                    ];
                    assert_eq!(guards, want);
                    let reads: Vec<_> = batch.ops().map(super::Op::reads).collect();
                    let want: [Option<&[u8]>; 5] =
                        [Some(b"a"), Some(b"bb"), None, Some(b"d"), Some(b"e")];
                    assert_eq!(reads, want);
                    assert!(batch.wants_answers);
                },
                Command::Increment { key, by, deadline } => {
                    assert_eq!((key, by, deadline.keeps()), (&b"key"[..], -2, true));
                },
                Command::Touch { key, deadline } => {
                    assert_eq!((key, deadline.at(100, 50)), (&b"key"[..], 0));
                },
                Command::Expire(keys) => {
                    assert!(keys.iter().eq([&b"a"[..], b"bb"]));
                },
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
