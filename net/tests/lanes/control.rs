//! Frames of the lane itself: there and back, damaged and forged.

use bowline_env::sim::Rng;
use bowline_net::{
    Control, ControlError, ControlFrame, Expected, Frame, FrameHeader, HEADER_LEN, Kind, ROWS_MAX,
    Stamp,
};
use bowline_raft::{Digest, LogIndex, ReplicaId, Row, ShardId, Term};

use crate::kit::beat;

const STAMP: Stamp = Stamp { seq: 9, consumed: 1_234_567, sent_at: 42_000_000_007 };
const EXPECTED: Expected = Expected { frame_max: 1 << 20, seq: 9, credit: 1 << 20 };

fn row(nth: u64) -> Row {
    Row {
        shard: ShardId(nth),
        term: Term(nth + 1),
        commit: LogIndex(nth + 2),
        last: LogIndex(nth + 3),
        from: ReplicaId(0x0506_0708_0102_0304),
        to: ReplicaId(nth + 4),
    }
}

fn every_kind() -> Vec<ControlFrame> {
    vec![
        ControlFrame::Liveness(beat(4)),
        ControlFrame::LivenessReply(beat(0x1122_3344_5566_7788)),
        ControlFrame::Digest(Digest { count: 3, hash: 0xfeed_beef }),
        ControlFrame::ShardsWanted,
        ControlFrame::Rows { rows: vec![row(1), row(1 << 60)], last: false },
        ControlFrame::Rows { rows: Vec::new(), last: true },
        ControlFrame::Credit,
        ControlFrame::Goodbye { reason: 0x0203 },
    ]
}

fn encode(what: &ControlFrame) -> Vec<u8> {
    let mut out = vec![0xaa; 5];
    what.as_control().encode(STAMP, &mut out);
    assert_eq!(out.drain(..5).collect::<Vec<_>>(), [0xaa; 5], "it only appends");
    out
}

/// Reads a frame as a lane does; the error that the lane would be closed with.
fn read(bytes: &[u8]) -> Result<Option<ControlFrame>, String> {
    let header = FrameHeader::decode(bytes, &EXPECTED).map_err(|why| why.to_string())?;
    let frame = Frame::open(header, bytes).map_err(|why| why.to_string())?;
    ControlFrame::decode(&frame).map_err(|why| why.to_string())
}

/// A frame of `kind` with any meta and what follows it, and good checksums.
fn forge(kind: Kind, meta: &[u8], after: usize) -> Vec<u8> {
    let len = (HEADER_LEN + meta.len()).next_multiple_of(16) + after;
    let header = FrameHeader {
        len: u32::try_from(len).unwrap(),
        seq: STAMP.seq,
        consumed: STAMP.consumed,
        sent_at: STAMP.sent_at,
        meta_len: u32::try_from(meta.len()).unwrap(),
        kind,
        meta_crc: crc32fast::hash(meta),
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(meta);
    bytes.resize(len, 0);
    bytes
}

fn meta(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn every_kind_reads_back_as_it_was_written() {
    for what in every_kind() {
        let bytes = encode(&what);
        assert_eq!(read(&bytes), Ok(Some(what.clone())));
        let header = FrameHeader::decode(&bytes, &EXPECTED).unwrap();
        assert_eq!(header.kind, what.as_control().kind());
        let stamp = (header.seq, header.consumed, header.sent_at);
        assert_eq!(stamp, (STAMP.seq, STAMP.consumed, STAMP.sent_at));
        assert_eq!(bytes.len() % 16, 0);
    }
}

#[test]
fn every_kind_has_the_bytes_that_its_picture_shows() {
    let from = 0x0506_0708_0102_0304;
    let metas = [
        meta(&[1, 2, 3, 4, 5, 6]),
        meta(&[1, 2, 3, 0x1122_3344_5566_7788, 5, 6]),
        meta(&[3, 0xfeed_beef]),
        Vec::new(),
        meta(&[
            2,
            1,
            2,
            3,
            4,
            from,
            5,
            1 << 60,
            (1 << 60) + 1,
            (1 << 60) + 2,
            (1 << 60) + 3,
            from,
            (1 << 60) + 4,
        ]),
        meta(&[1 << 32]),
        Vec::new(),
        vec![3, 2],
    ];
    for (what, meta) in every_kind().iter().zip(metas) {
        assert_eq!(encode(what), forge(what.as_control().kind(), &meta, 0));
    }
}

/// The frames of each release lie in `golden/`: later releases read them and write them again.
#[test]
fn golden_control_v1() {
    let golden = include_bytes!("../golden/v1-control.bin");
    let mut rest = &golden[..];
    for what in every_kind() {
        let bytes = encode(&what);
        let (one, after) = rest.split_at(bytes.len());
        assert!(one == bytes, "the format of {:?} changed", what.as_control().kind());
        assert_eq!(read(one), Ok(Some(what)));
        rest = after;
    }
    assert!(rest.is_empty());
}

#[test]
fn every_flipped_bit_is_caught() {
    for what in every_kind() {
        let good = encode(&what);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "{what:?} bit {bit}");
        }
    }
}

#[test]
fn every_other_length_of_a_kind_is_refused() {
    let plain = [
        (Kind::Liveness, 48),
        (Kind::LivenessReply, 48),
        (Kind::Digest, 16),
        (Kind::ShardsWanted, 0),
        (Kind::Credit, 0),
    ];
    let refused = Err(ControlError::Length.to_string());
    for (kind, right) in plain {
        for len in 0..128 {
            let got = read(&forge(kind, &vec![0; len], 0));
            assert_eq!(got.is_ok(), len == right, "{kind:?} with {len} bytes");
        }
        assert_eq!(read(&forge(kind, &vec![0; right], 16)), refused, "nothing follows the meta");
    }
    for len in 0..=208 {
        let got = read(&forge(Kind::Goodbye, &vec![0; len], 0));
        let good = (2..=202).contains(&len);
        assert_eq!(got == Ok(Some(ControlFrame::Goodbye { reason: 0 })), good, "{len} bytes");
    }
}

#[test]
fn fields_without_meaning_are_refused() {
    let refused = Err(ControlError::Field.to_string());
    assert_eq!(read(&forge(Kind::Digest, &meta(&[1 << 32, 0]), 0)), refused);
    assert_eq!(read(&forge(Kind::Shards, &meta(&[2 << 32]), 0)), refused);
}

#[test]
fn other_kinds_are_no_control() {
    let refused = Err(ControlError::Kind.to_string());
    assert_eq!(read(&forge(Kind::Msgs, &[], 0)), refused);
    assert_eq!(read(&forge(Kind::Bulk(16), &[], 0)), refused);
    assert_eq!(read(&forge(Kind::Unknown(0x85), &[1, 2, 3], 32)), Ok(None));
}

/// Bug: a length prefix was believed and 699,678,720 bytes were read (`TigerBeetle` #200).
#[test]
fn counts_of_rows_at_their_extremes_allocate_nothing() {
    let rows_max = u64::try_from(ROWS_MAX).unwrap();
    for count in [1, 2, rows_max, rows_max + 1, u64::from(u32::MAX)] {
        let bytes = forge(Kind::Shards, &meta(&[count, 0, 0, 0, 0, 0]), 0);
        let header = FrameHeader::decode(&bytes, &EXPECTED).unwrap();
        let frame = Frame::open(header, &bytes).unwrap();
        let counted = allocation_counter::measure(|| {
            assert_eq!(ControlFrame::decode(&frame), Err(ControlError::Length));
        });
        assert_eq!(counted.count_total, 0);
    }
}

#[test]
fn a_frame_of_rows_has_at_most_256_kib() {
    let mut rows: Vec<_> = (0..ROWS_MAX).map(|nth| row(u64::try_from(nth).unwrap())).collect();
    let bytes = encode(&ControlFrame::Rows { rows: rows.clone(), last: true });
    assert!((256 << 10) - 48 < bytes.len() && bytes.len() <= 256 << 10, "{}", bytes.len());
    assert_eq!(read(&bytes), Ok(Some(ControlFrame::Rows { rows: rows.clone(), last: true })));
    let words = meta(&vec![0; 6 * (ROWS_MAX + 1)]);
    let count = u64::try_from(ROWS_MAX + 1).unwrap();
    let more = [meta(&[count]), words].concat();
    assert_eq!(read(&forge(Kind::Shards, &more, 0)), Err(ControlError::Length.to_string()));
    rows.push(row(0));
    let panics = std::panic::catch_unwind(|| {
        Control::Rows { rows: &rows, last: true }.encode(STAMP, &mut Vec::new());
    });
    assert!(panics.is_err(), "the caller cuts rows into frames");
}

/// Any bytes under good checksums are refused, or mean one thing and are written the same again.
#[test]
fn forged_metas_have_one_meaning_or_none() {
    let rng = Rng::new(0x0c01);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..40_000 {
        let what = &every_kind()[rng.index(8)];
        let mut bytes = encode(what);
        let header = FrameHeader::decode(&bytes, &EXPECTED).unwrap();
        let meta_len = usize::try_from(header.meta_len).unwrap();
        let mut meta = bytes[HEADER_LEN..][..meta_len].to_vec();
        if rng.ratio(1, 3) {
            meta.resize(rng.index(160), 0);
        }
        for _ in 0..rng.below(4) {
            if !meta.is_empty() {
                let at = rng.index(meta.len());
                meta[at] ^= 1 << rng.below(8);
            }
        }
        bytes = forge(header.kind, &meta, 0);
        match read(&bytes) {
            Ok(Some(ControlFrame::Goodbye { reason })) => {
                assert_eq!(reason.to_le_bytes()[..], meta[..2]);
                taken += 1;
            },
            Ok(got) => {
                assert_eq!(encode(&got.unwrap()), bytes);
                taken += 1;
            },
            Err(_) => refused += 1,
        }
    }
    assert!(1_000 < taken && 1_000 < refused, "{taken} taken, {refused} refused");
}
