//! Frames of messages, there and back, damaged and forged.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

use bowline_net::{
    Expected, Frame, FrameError, FrameHeader, HEADER_LEN, Kind, MSGS_MAX, Msgs, MsgsError,
    MsgsWriter, PushError, Stamp,
};
use bowline_raft::{
    Ballot, BatchHeader, BatchRange, Hint, LogIndex, Message, Mismatch, ReplicaId, ShardId, Slot,
    Term, VoteReason, What,
    batch::{BodyWriter, body_len},
};
use rkyv::util::AlignedVec;

const FRAME_MAX: u32 = 1_088 << 10;
const EXPECTED: Expected = Expected { frame_max: FRAME_MAX, seq: 9, credit: 8 << 20 };
const STAMP: Stamp = Stamp { seq: 9, consumed: 1_234_567, sent_at: 42_000_000_007 };

fn message(what: What) -> Message {
    Message {
        shard: ShardId(77),
        to: ReplicaId(2),
        from: ReplicaId(1),
        term: Term(5),
        hint: Hint {
            to_slot: Slot(11),
            to_generation: 3,
            my_slot: Slot(12),
            my_generation: 4,
            my_core: 6,
        },
        support: 99,
        seq: 1_000,
        what,
    }
}

fn append(count: u16, first: u32) -> What {
    What::Append {
        prev: LogIndex(20),
        prev_term: Term(4),
        commit: LogIndex(19),
        read_seq: 7,
        batches: BatchRange { first, count },
    }
}

/// One of each, in each of its variants.
fn every_kind() -> Vec<What> {
    let (last, last_term) = (LogIndex(30), Term(4));
    let ballot = Ballot { granted: true, asked: Term(6), leader: ReplicaId(0) };
    let refusal = Ballot { granted: false, asked: Term(6), leader: ReplicaId(3) };
    let reject = Some(Mismatch { index: LogIndex(8), term: Term(2) });
    vec![
        append(0, 0),
        What::AppendResp { matched: LogIndex(21), reject: None, no_quorum: false },
        What::AppendResp { matched: LogIndex(0), reject, no_quorum: true },
        What::PreVote { last, last_term },
        What::PreVoteResp(ballot),
        What::PreVoteResp(refusal),
        What::Vote { last, last_term, reason: VoteReason::NoLeader },
        What::Vote { last, last_term, reason: VoteReason::Transfer { promised: Term(5) } },
        What::VoteResp(ballot),
        What::VoteResp(refusal),
        What::CommitHint { commit: LogIndex(25) },
        What::ReadProbe { commit: LogIndex(25), read_seq: 8 },
        What::ReadProbeResp { read_seq: 8, no_quorum: false },
        What::ReadProbeResp { read_seq: 8, no_quorum: true },
        What::ReadIndex { request: 5, count: 17 },
        What::ReadIndexResp { request: 5, index: Ok(LogIndex(25)) },
        What::ReadIndexResp { request: 5, index: Err(ReplicaId(3)) },
        What::TimeoutNow,
        What::SnapshotNeeded { floor: LogIndex(12) },
        What::Gone { generation: 2 },
        What::FetchEntries { from: LogIndex(3), to: LogIndex(9) },
        What::Release,
    ]
}

fn batch(first: u64, payloads: &[&[u8]]) -> (BatchHeader, Vec<u8>) {
    let mut body = vec![0; body_len(payloads.iter().map(|payload| payload.len()))];
    let mut writer = BodyWriter::new(&mut body, payloads.len());
    for payload in payloads {
        writer.entry(payload.len(), |out| out.copy_from_slice(payload));
    }
    writer.finish();
    let mut head = BatchHeader {
        shard: ShardId(77),
        first: LogIndex(first),
        term: Term(5),
        count: u32::try_from(payloads.len()).unwrap(),
        len: u32::try_from(body.len()).unwrap(),
        ..BatchHeader::default()
    };
    head.crc = head.checksum(&body);
    (head, body)
}

/// A frame with one message of every kind and two Appends with batches between them.
fn full_frame() -> (AlignedVec<16>, Vec<Message>) {
    let mut writer = MsgsWriter::new(FRAME_MAX);
    let (mut want, mut bodies) = (Vec::new(), Vec::new());
    let batches = [
        batch(21, &[b"alpha", b"", b"0123456789abcdef"]),
        batch(24, &[b"beta"]),
        batch(25, &[&[0xee; 100]]),
    ];
    let heads: Vec<_> = batches.iter().map(|(head, _)| *head).collect();
    for (nth, what) in every_kind().into_iter().enumerate() {
        writer.push(&message(what), &[]).unwrap();
        want.push(message(what));
        if nth == 3 {
            writer.push(&message(append(0, 0)), &heads[..2]).unwrap();
            want.push(message(append(2, 0)));
        }
    }
    writer.push(&message(append(0, 0)), &heads[2..]).unwrap();
    want.push(message(append(1, 2)));
    for (_, body) in &batches {
        bodies.extend_from_slice(body);
    }
    let len = writer.frame_len();
    let mut frame = AlignedVec::new();
    frame.extend_from_slice(writer.finish(STAMP));
    frame.extend_from_slice(&bodies);
    assert_eq!(frame.len(), len);
    assert!(writer.is_empty());
    (frame, want)
}

/// Reads everything that can be read; the error that the lane would be closed with.
fn read(bytes: &[u8]) -> Result<Vec<(Message, usize)>, String> {
    let header = FrameHeader::decode(bytes, &EXPECTED).map_err(|why| why.to_string())?;
    let frame = Frame::open(header, bytes).map_err(|why| why.to_string())?;
    let msgs = Msgs::open(frame).map_err(|why| why.to_string())?;
    let mut out = Vec::new();
    for message in msgs.iter() {
        let message = message.map_err(|why| why.to_string())?;
        let mut good = 0;
        for batch in msgs.batches(&message) {
            assert_eq!(batch.body.len(), usize::try_from(batch.head.len).unwrap());
            good += usize::from(batch.head.matches(batch.body));
        }
        out.push((message, good));
    }
    Ok(out)
}

#[test]
fn round_trip_every_kind() {
    let (frame, want) = full_frame();
    let got = read(&frame).unwrap();
    assert_eq!(got.iter().map(|(message, _)| *message).collect::<Vec<_>>(), want);
    assert_eq!(got.iter().map(|(_, good)| good).sum::<usize>(), 3, "every body is whole");
    let header = FrameHeader::decode(&frame, &EXPECTED).unwrap();
    assert_eq!((header.consumed, header.sent_at), (STAMP.consumed, STAMP.sent_at));
    assert_eq!(header.kind, Kind::Msgs);
}

#[test]
fn every_bit_flip_is_caught_or_harmless() {
    let (frame, want) = full_frame();
    let header = FrameHeader::decode(&frame, &EXPECTED).unwrap();
    let bodies_at = Frame::open(header, &frame).unwrap().bodies_at();
    let mut bad = frame.clone();
    for bit in 0..frame.len() * 8 {
        bad[bit / 8] ^= 1 << (bit % 8);
        match read(&bad) {
            Err(_) => assert!(bit / 8 < bodies_at, "a body is not looked at before it is staged"),
            Ok(got) => {
                assert!(bit / 8 >= bodies_at, "bit {bit}");
                assert_eq!(got.iter().map(|(_, good)| good).sum::<usize>(), 2, "its crc tells");
                assert_eq!(got.iter().map(|(message, _)| *message).collect::<Vec<_>>(), want);
            },
        }
        bad[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_cut_asks_for_more() {
    let (frame, _) = full_frame();
    for cut in 0..frame.len() {
        let got = FrameHeader::decode(&frame[..cut], &EXPECTED)
            .and_then(|header| Frame::open(header, &frame[..cut]).map(|_| ()));
        assert!(matches!(got, Err(FrameError::Truncated { .. })), "{cut}");
    }
}

/// Bug: crafted archives passed a checked access (RUSTSEC-2026-0233 to -0235). So: valid
/// checksums, wrong meta.
#[test]
fn by_02_a_forged_meta_with_good_checksums_is_refused_or_in_bounds() {
    let (frame, _) = full_frame();
    let meta_len =
        usize::try_from(FrameHeader::decode(&frame, &EXPECTED).unwrap().meta_len).unwrap();
    let mut refused = 0;
    for bit in 0..meta_len * 8 {
        let mut bad = frame.clone();
        bad[HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
        sign(&mut bad, meta_len);
        refused += usize::from(read(&bad).is_err());
    }
    assert!(refused > 1_000, "{refused}");
    for keep in (0..meta_len).step_by(4) {
        let mut bad = AlignedVec::<16>::new();
        bad.extend_from_slice(&frame[..HEADER_LEN + keep]);
        bad.resize((HEADER_LEN + keep).next_multiple_of(16), 0);
        let len = u32::try_from(bad.len()).unwrap();
        bad[4..8].copy_from_slice(&len.to_le_bytes());
        sign(&mut bad, keep);
        assert!(read(&bad).is_err(), "{keep} bytes of meta");
    }
}

/// Gives header and meta the checksums that they should have.
fn sign(frame: &mut [u8], meta_len: usize) {
    let meta = crc32fast::hash(&frame[HEADER_LEN..][..meta_len]);
    let len = u32::try_from(meta_len).unwrap();
    frame[32..36].copy_from_slice(&len.to_le_bytes());
    frame[40..44].copy_from_slice(&meta.to_le_bytes());
    let crc = crc32fast::hash(&frame[..44]);
    frame[44..48].copy_from_slice(&crc.to_le_bytes());
}

#[track_caller]
fn forge(place: usize, bytes: &[u8], want: MsgsError) {
    let mut writer = MsgsWriter::new(FRAME_MAX);
    let batches = [batch(21, &[b"one"]), batch(22, &[b"two"])];
    writer.push(&message(append(0, 0)), &[batches[0].0]).unwrap();
    writer.push(&message(append(0, 0)), &[batches[1].0]).unwrap();
    let mut frame = AlignedVec::<16>::new();
    frame.extend_from_slice(writer.finish(STAMP));
    let meta_len = frame.len() - HEADER_LEN;
    for (_, body) in &batches {
        frame.extend_from_slice(body);
    }
    frame[HEADER_LEN + place..][..bytes.len()].copy_from_slice(bytes);
    sign(&mut frame, meta_len);
    let header = FrameHeader::decode(&frame, &EXPECTED).unwrap();
    let got = Msgs::open(Frame::open(header, &frame).unwrap())
        .and_then(|msgs| msgs.iter().try_for_each(|message| message.map(|_| ())));
    assert_eq!(got, Err(want));
}

#[test]
fn each_limit_of_a_forged_frame_is_held() {
    // Two messages of 96 bytes, then two batches of 48, then the root.
    forge(80, &1_u32.to_le_bytes(), MsgsError::Batches);
    forge(84, &0_u16.to_le_bytes(), MsgsError::Batches);
    forge(84, &2_u16.to_le_bytes(), MsgsError::Batches);
    forge(96 + 84, &9_u16.to_le_bytes(), MsgsError::Batches);
    let (off, len) = (192 + 40, 192 + 28);
    forge(off, &0_u32.to_le_bytes(), MsgsError::Body);
    forge(off, &u32::MAX.to_le_bytes(), MsgsError::Body);
    forge(len, &0_u32.to_le_bytes(), MsgsError::Body);
    forge(len, &48_u32.to_le_bytes(), MsgsError::Body);
    forge(len, &u32::MAX.to_le_bytes(), MsgsError::Body);
    forge(off + 4, &[1], MsgsError::Padding);
    forge(len, &17_u32.to_le_bytes(), MsgsError::Body);
    forge(288 + 4, &u32::MAX.to_le_bytes(), MsgsError::Archive);
    forge(288, &0_i32.to_le_bytes(), MsgsError::Archive);
    forge(288, &i32::MIN.to_le_bytes(), MsgsError::Archive);
}

/// Such a body was taken, with zeros behind it, and went into the log: the node that then led and
/// sent it on panicked.
#[test]
fn a_body_that_ends_unaligned_is_refused() {
    let mut writer = MsgsWriter::new(FRAME_MAX);
    let (head, body) = batch(21, &[b"one"]);
    writer.push(&message(append(0, 0)), &[head]).unwrap();
    let mut frame = AlignedVec::<16>::new();
    frame.extend_from_slice(writer.finish(STAMP));
    let meta_len = frame.len() - HEADER_LEN;
    frame.extend_from_slice(&body);
    // The payload's three bytes stay; the zeros behind it are the frame's then.
    let len = head.len - 13;
    frame[HEADER_LEN + 96 + 28..][..4].copy_from_slice(&len.to_le_bytes());
    sign(&mut frame, meta_len);
    assert_eq!(read(&frame), Err(MsgsError::Body.to_string()));
}

#[test]
fn a_frame_has_at_most_4096_messages_and_frame_max_bytes() {
    let mut writer = MsgsWriter::new(FRAME_MAX);
    let release = message(What::Release);
    (0..MSGS_MAX).for_each(|_| writer.push(&release, &[]).unwrap());
    assert_eq!(writer.push(&release, &[]), Err(PushError::Full));
    let frame: AlignedVec<16> = {
        let mut frame = AlignedVec::new();
        frame.extend_from_slice(writer.finish(STAMP));
        frame
    };
    assert_eq!(read(&frame).unwrap().len(), MSGS_MAX);
    let mut writer = MsgsWriter::new(1_024);
    let head = BatchHeader { len: 800, ..BatchHeader::default() };
    writer.push(&message(append(0, 0)), &[head]).unwrap();
    assert_eq!(writer.push(&message(append(0, 0)), &[head]), Err(PushError::Full));
    let head = BatchHeader { len: 1_008, ..BatchHeader::default() };
    assert_eq!(writer.push(&message(append(0, 0)), &[head]), Err(PushError::TooLarge));
    assert_eq!(writer.len(), 1, "a refusal changes nothing");
}

#[test]
fn a_misaligned_buffer_is_an_error_and_no_panic() {
    let (frame, _) = full_frame();
    let mut shifted = AlignedVec::<16>::new();
    shifted.extend_from_slice(&[0]);
    shifted.extend_from_slice(&frame);
    assert_eq!(read(&shifted[1..]), Err(MsgsError::Archive.to_string()));
}

#[test]
fn a_frame_of_another_kind_has_no_messages() {
    let header = FrameHeader {
        len: 48,
        seq: 9,
        consumed: 0,
        sent_at: 0,
        meta_len: 0,
        kind: Kind::Credit,
        meta_crc: crc32fast::hash(&[]),
    };
    let bytes = header.to_bytes();
    let frame = Frame::open(header, &bytes).unwrap();
    assert_eq!(Msgs::open(frame).map(|msgs| msgs.len()), Err(MsgsError::Kind));
}

#[test]
fn building_and_reading_a_frame_allocates_nothing_once_warm() {
    let mut writer = MsgsWriter::new(FRAME_MAX);
    let (head, body) = batch(21, &[b"payload"]);
    let mut frame = AlignedVec::<16>::with_capacity(64 << 10);
    let mut turn = || {
        (0..64).for_each(|_| writer.push(&message(append(0, 0)), &[head]).unwrap());
        frame.clear();
        frame.extend_from_slice(writer.finish(STAMP));
        (0..64).for_each(|_| frame.extend_from_slice(&body));
        let header = FrameHeader::decode(&frame, &EXPECTED).unwrap();
        let msgs = Msgs::open(Frame::open(header, &frame).unwrap()).unwrap();
        msgs.iter().map(|message| msgs.batches(&message.unwrap()).len()).sum::<usize>()
    };
    assert_eq!(turn(), 64);
    let counted = allocation_counter::measure(|| assert_eq!(turn(), 64));
    assert_eq!(counted.count_total, 0);
}

/// The frames of each release lie in `golden/`: later releases read them and write them again.
#[test]
fn up_03_golden_frames_v1() {
    let golden = include_bytes!("golden/v1-msgs.bin");
    let (frame, want) = full_frame();
    assert!(frame[..] == golden[..], "the format changed");
    let mut aligned = AlignedVec::<16>::new();
    aligned.extend_from_slice(golden);
    let got = read(&aligned).unwrap();
    assert_eq!(got.iter().map(|(message, _)| *message).collect::<Vec<_>>(), want);
}
