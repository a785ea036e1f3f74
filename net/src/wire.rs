//! The meta of a MSGS frame: one rkyv archive of two flat vectors of integers.
//!
//! ```text
//! messages x 96 | batches x 48 | root: {offset i32, len u32} x 2 (messages, batches)
//!
//! message   0 shard  8 to  16 from  24 term  32 a  40 b  48 c  56 d: u64
//!          64 to_slot  68 to_generation  72 my_slot  76 my_generation  80 batch: u32
//!          84 batches u16  86 kind u8  87 flags u8  88 my_core u16  90 seq u16  92 support u32
//! batch     0 header (40 bytes, as on disk)  40 off u32, from the frame's start  44 zero u32
//! ```
//!
//! The archive is validated before a field is read, always, and never deserialized. No other code
//! sees these types: [`Message`] goes in and comes out.

use bowline_raft::{
    Ballot, BatchHeader, BatchRange, Hint, LogIndex, Message, Mismatch, ReplicaId, ShardId, Slot,
    Term, VoteReason, What,
};
use rkyv::{Archive, Serialize};

/// Flag of `AppendResp` or `ReadIndexResp`: not taken.
const REJECT: u8 = 1;
/// Flag of `AppendResp` or `ReadProbeResp`: counts in no quorum.
const NO_QUORUM: u8 = 2;
/// Reason of a `Vote`: the leader hands over; `d` is the promised term.
const TRANSFER: u64 = 1;

/// The meta of a frame of messages.
#[derive(Archive, Serialize, Debug, Default)]
#[rkyv(derive(Debug))]
pub(crate) struct FrameMeta {
    pub(crate) msgs: Vec<WireMsg>,
    pub(crate) batches: Vec<WireBatch>,
}

/// A message as it is on the wire.
#[derive(Archive, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub(crate) struct WireMsg {
    pub(crate) shard: u64,
    pub(crate) to_replica: u64,
    pub(crate) from_replica: u64,
    pub(crate) term: u64,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    pub(crate) d: u64,
    pub(crate) to_slot: u32,
    pub(crate) to_generation: u32,
    pub(crate) my_slot: u32,
    pub(crate) my_generation: u32,
    pub(crate) batch: u32,
    pub(crate) batches: u16,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) my_core: u16,
    pub(crate) seq: u16,
    pub(crate) support: u32,
}

/// A batch of a frame: the bytes of its header as on disk, and where its body lies.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct WireBatch {
    pub(crate) shard: u64,
    pub(crate) first: u64,
    pub(crate) term: u64,
    pub(crate) count: u32,
    pub(crate) len: u32,
    pub(crate) fmt: u16,
    pub(crate) flags: u16,
    pub(crate) crc: u32,
    pub(crate) off: u32,
    pub(crate) zero: u32,
}

/// Bytes of an archived message.
pub(crate) const MSG_LEN: usize = 96;
/// Bytes of an archived batch.
pub(crate) const BATCH_LEN: usize = 48;
/// Bytes of the archive's root.
pub(crate) const ROOT_LEN: usize = 16;

// The format must not depend on what else is in an application's build.
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ArchivedWireMsg>() == MSG_LEN && align_of::<ArchivedWireMsg>() == 8);
    assert!(size_of::<ArchivedWireBatch>() == BATCH_LEN && align_of::<ArchivedWireBatch>() == 8);
    assert!(offset_of!(ArchivedWireBatch, count) == 24 && offset_of!(ArchivedWireBatch, crc) == 36);
    assert!(size_of::<ArchivedFrameMeta>() == ROOT_LEN && align_of::<ArchivedFrameMeta>() == 4);
    assert!(offset_of!(ArchivedWireMsg, term) == 24 && offset_of!(ArchivedWireMsg, d) == 56);
    assert!(offset_of!(ArchivedWireMsg, to_slot) == 64 && offset_of!(ArchivedWireMsg, batch) == 80);
    assert!(offset_of!(ArchivedWireMsg, kind) == 86 && offset_of!(ArchivedWireMsg, my_core) == 88);
    assert!(offset_of!(ArchivedWireMsg, seq) == 90 && offset_of!(ArchivedWireMsg, support) == 92);
    assert!(
        offset_of!(ArchivedWireBatch, off) == 40 && offset_of!(ArchivedFrameMeta, batches) == 8
    );
};

/// Why a message of a frame is none that this build understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// An unknown kind.
    Kind {
        /// What it says.
        byte: u8,
    },
    /// An unknown flag, reason or answer, or a field that this kind does not use is not zero.
    Field,
}

impl core::fmt::Display for MessageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Kind { byte } => write!(f, "unknown kind of message ({byte})"),
            Self::Field => f.write_str("a field of a message has no meaning"),
        }
    }
}

impl core::error::Error for MessageError {}

impl From<&ArchivedWireMsg> for WireMsg {
    #[inline]
    fn from(m: &ArchivedWireMsg) -> Self {
        Self {
            shard: m.shard.to_native(),
            to_replica: m.to_replica.to_native(),
            from_replica: m.from_replica.to_native(),
            term: m.term.to_native(),
            a: m.a.to_native(),
            b: m.b.to_native(),
            c: m.c.to_native(),
            d: m.d.to_native(),
            to_slot: m.to_slot.to_native(),
            to_generation: m.to_generation.to_native(),
            my_slot: m.my_slot.to_native(),
            my_generation: m.my_generation.to_native(),
            batch: m.batch.to_native(),
            batches: m.batches.to_native(),
            kind: m.kind,
            flags: m.flags,
            my_core: m.my_core.to_native(),
            seq: m.seq.to_native(),
            support: m.support.to_native(),
        }
    }
}

impl WireBatch {
    pub(crate) fn new(head: &BatchHeader, off: u32) -> Self {
        Self {
            shard: head.shard.0,
            first: head.first.0,
            term: head.term.0,
            count: head.count,
            len: head.len,
            fmt: head.fmt,
            flags: head.flags,
            crc: head.crc,
            off,
            zero: 0,
        }
    }
}

impl From<&ArchivedWireBatch> for BatchHeader {
    fn from(batch: &ArchivedWireBatch) -> Self {
        Self {
            shard: ShardId(batch.shard.to_native()),
            first: LogIndex(batch.first.to_native()),
            term: Term(batch.term.to_native()),
            count: batch.count.to_native(),
            len: batch.len.to_native(),
            fmt: batch.fmt.to_native(),
            flags: batch.flags.to_native(),
            crc: batch.crc.to_native(),
        }
    }
}

impl From<&Message> for WireMsg {
    fn from(m: &Message) -> Self {
        let plain = Self {
            shard: m.shard.0,
            to_replica: m.to.0,
            from_replica: m.from.0,
            term: m.term.0,
            to_slot: m.hint.to_slot.0,
            to_generation: m.hint.to_generation,
            my_slot: m.hint.my_slot.0,
            my_generation: m.hint.my_generation,
            my_core: m.hint.my_core,
            seq: m.seq,
            support: m.support,
            ..Self::default()
        };
        plain.with(m.what)
    }
}

impl WireMsg {
    fn with(self, what: What) -> Self {
        match what {
            What::Append { prev, prev_term, commit, read_seq, batches } => Self {
                batch: batches.first,
                batches: batches.count,
                ..self.of(1, [prev.0, prev_term.0, commit.0, read_seq])
            },
            What::AppendResp { matched, reject, no_quorum } => {
                let at = reject.unwrap_or_default();
                let flags = flag(reject.is_some(), REJECT) | flag(no_quorum, NO_QUORUM);
                Self { flags, ..self.of(2, [matched.0, at.index.0, at.term.0, 0]) }
            },
            What::PreVote { last, last_term } => self.of(3, [last.0, last_term.0, 0, 0]),
            What::PreVoteResp(ballot) => self.ballot(4, ballot),
            What::Vote { last, last_term, reason } => {
                let (c, d) = match reason {
                    VoteReason::NoLeader => (0, 0),
                    VoteReason::Transfer { promised } => (TRANSFER, promised.0),
                };
                self.of(5, [last.0, last_term.0, c, d])
            },
            What::VoteResp(ballot) => self.ballot(6, ballot),
            What::CommitHint { commit } => self.of(7, [commit.0, 0, 0, 0]),
            What::ReadProbe { commit, read_seq } => self.of(8, [commit.0, read_seq, 0, 0]),
            What::ReadProbeResp { read_seq, no_quorum } => {
                Self { flags: flag(no_quorum, NO_QUORUM), ..self.of(9, [0, read_seq, 0, 0]) }
            },
            What::ReadIndex { request, count } => self.of(10, [request, 0, count, 0]),
            What::ReadIndexResp { request, index } => match index {
                Ok(index) => self.of(11, [request, index.0, 0, 0]),
                Err(leader) => Self { flags: REJECT, ..self.of(11, [request, leader.0, 0, 0]) },
            },
            What::TimeoutNow => self.of(12, [0; 4]),
            What::SnapshotNeeded { floor } => self.of(13, [floor.0, 0, 0, 0]),
            What::Gone { generation } => self.of(14, [0, 0, generation, 0]),
            What::FetchEntries { from, to } => self.of(15, [from.0, to.0, 0, 0]),
            What::Release => self.of(16, [0; 4]),
        }
    }

    fn of(self, kind: u8, [a, b, c, d]: [u64; 4]) -> Self {
        Self { a, b, c, d, kind, ..self }
    }

    fn ballot(self, kind: u8, ballot: Ballot) -> Self {
        let granted = u64::from(ballot.granted);
        self.of(kind, [granted, ballot.asked.0, ballot.leader.0, 0])
    }
}

impl TryFrom<&WireMsg> for Message {
    type Error = MessageError;

    #[inline]
    fn try_from(m: &WireMsg) -> Result<Self, MessageError> {
        let (what, unused) = what(m)?;
        if unused != 0 {
            return Err(MessageError::Field);
        }
        Ok(Self {
            shard: ShardId(m.shard),
            to: ReplicaId(m.to_replica),
            from: ReplicaId(m.from_replica),
            term: Term(m.term),
            hint: Hint {
                to_slot: Slot(m.to_slot),
                to_generation: m.to_generation,
                my_slot: Slot(m.my_slot),
                my_generation: m.my_generation,
                my_core: m.my_core,
            },
            support: m.support,
            seq: m.seq,
            what,
        })
    }
}

/// What a message says, and every bit set that its kind does not use: zero, so that a message has
/// one encoding.
#[inline]
fn what(m: &WireMsg) -> Result<(What, u64), MessageError> {
    let (rejected, no_quorum) = (m.flags & REJECT != 0, m.flags & NO_QUORUM != 0);
    let WireMsg { a, b, c, d, .. } = *m;
    let no_batch = u64::from(m.batch) | u64::from(m.batches);
    let plain = no_batch | u64::from(m.flags);
    let flagged = |known: u8| no_batch | u64::from(m.flags & !known);
    Ok(match m.kind {
        1 => append(m),
        2 => {
            let reject = rejected.then_some(Mismatch { index: LogIndex(b), term: Term(c) });
            let unused = if rejected { d } else { b | c | d };
            let what = What::AppendResp { matched: LogIndex(a), reject, no_quorum };
            (what, unused | flagged(REJECT | NO_QUORUM))
        },
        3 => (What::PreVote { last: LogIndex(a), last_term: Term(b) }, c | d | plain),
        4 => (What::PreVoteResp(ballot(m)), (a & !1) | d | plain),
        5 => vote(m, plain),
        6 => (What::VoteResp(ballot(m)), (a & !1) | d | plain),
        7 => (What::CommitHint { commit: LogIndex(a) }, b | c | d | plain),
        8 => (What::ReadProbe { commit: LogIndex(a), read_seq: b }, c | d | plain),
        9 => (What::ReadProbeResp { read_seq: b, no_quorum }, a | c | d | flagged(NO_QUORUM)),
        10 => (What::ReadIndex { request: a, count: c }, b | d | plain),
        11 => {
            let index = if rejected { Err(ReplicaId(b)) } else { Ok(LogIndex(b)) };
            (What::ReadIndexResp { request: a, index }, c | d | flagged(REJECT))
        },
        12 => (What::TimeoutNow, a | b | c | d | plain),
        13 => (What::SnapshotNeeded { floor: LogIndex(a) }, b | c | d | plain),
        14 => (What::Gone { generation: c }, a | b | d | plain),
        15 => (What::FetchEntries { from: LogIndex(a), to: LogIndex(b) }, c | d | plain),
        16 => (What::Release, a | b | c | d | plain),
        byte => return Err(MessageError::Kind { byte }),
    })
}

fn append(m: &WireMsg) -> (What, u64) {
    let what = What::Append {
        prev: LogIndex(m.a),
        prev_term: Term(m.b),
        commit: LogIndex(m.c),
        read_seq: m.d,
        batches: BatchRange { first: m.batch, count: m.batches },
    };
    let nowhere = if m.batches == 0 { u64::from(m.batch) } else { 0 };
    (what, nowhere | u64::from(m.flags))
}

fn vote(m: &WireMsg, plain: u64) -> (What, u64) {
    let (reason, unused) = if m.c == TRANSFER {
        (VoteReason::Transfer { promised: Term(m.d) }, 0)
    } else {
        (VoteReason::NoLeader, m.c | m.d)
    };
    (What::Vote { last: LogIndex(m.a), last_term: Term(m.b), reason }, unused | plain)
}

fn ballot(m: &WireMsg) -> Ballot {
    Ballot { granted: m.a == 1, asked: Term(m.b), leader: ReplicaId(m.c) }
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of `kind` with the fields of `mask` filled.
    fn filled(kind: u8, mask: u32) -> WireMsg {
        let bit = |nth: u32| u64::from(mask >> nth & 1);
        WireMsg {
            kind,
            a: bit(0),
            b: bit(1),
            c: bit(2),
            d: bit(3),
            flags: u8::try_from(bit(4) + 2 * bit(5) + 4 * bit(6)).unwrap(),
            batch: u32::try_from(bit(7)).unwrap(),
            batches: u16::try_from(bit(8)).unwrap(),
            ..WireMsg::default()
        }
    }

    #[test]
    fn a_message_has_one_encoding() {
        for kind in 1..=16 {
            let mut meanings = 0;
            for mask in 0..1 << 9 {
                let wire = filled(kind, mask);
                match Message::try_from(&wire) {
                    Ok(message) => {
                        assert_eq!(WireMsg::from(&message), wire, "kind {kind} mask {mask}");
                        meanings += 1;
                    },
                    Err(why) => assert_eq!(why, MessageError::Field),
                }
            }
            assert!((1..512).contains(&meanings), "kind {kind}: {meanings}");
        }
        let large = WireMsg { kind: 4, a: 2, ..WireMsg::default() };
        assert_eq!(Message::try_from(&large), Err(MessageError::Field));
        let large = WireMsg { kind: 5, c: 2, ..WireMsg::default() };
        assert_eq!(Message::try_from(&large), Err(MessageError::Field));
    }

    #[test]
    fn unknown_and_reserved_kinds_are_refused() {
        for byte in [0, 17, 32, 33, 127, 255] {
            let wire = WireMsg { kind: byte, ..WireMsg::default() };
            assert_eq!(Message::try_from(&wire), Err(MessageError::Kind { byte }));
        }
    }

    #[test]
    fn a_batch_has_the_bytes_of_its_header() {
        let head = BatchHeader {
            shard: ShardId(1 << 60),
            first: LogIndex(2 << 50),
            term: Term(3),
            count: 4,
            len: 5 << 20,
            fmt: 6,
            flags: 7,
            crc: 0xdead_beef,
        };
        let meta = FrameMeta { msgs: Vec::new(), batches: vec![WireBatch::new(&head, 9)] };
        let bytes = rkyv::to_bytes::<rkyv::rancor::Failure>(&meta).unwrap();
        assert_eq!(bytes[..40], head.to_bytes());
        let archived = rkyv::access::<ArchivedFrameMeta, rkyv::rancor::Failure>(&bytes).unwrap();
        assert_eq!(BatchHeader::from(&archived.batches[0]), head);
    }
}
