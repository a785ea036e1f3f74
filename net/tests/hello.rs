//! Preamble and hello: their bytes, damaged and forged, and what is held against a hello.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "shared/hello.rs"]
mod shared;

use std::collections::BTreeSet;

use bowline_env::sim::Rng;
use bowline_net::{
    Agreed, Class, HELLO_LEN_MAX, Hello, HelloError, HelloKind, NodeRecord, PREAMBLE_LEN, Preamble,
    Refusal, Versions, judge,
};
use bowline_raft::NodeId;
use shared::{acceptor, dialer};

const PREAMBLE: Preamble = Preamble { class: Class::Bulk, want_core: 0x0102, tls: true };
const REFUSALS: [Refusal; 15] = [
    Refusal::WrongCluster,
    Refusal::WrongNode,
    Refusal::StoreReplaced,
    Refusal::SelfConnection,
    Refusal::VersionMismatch,
    Refusal::FeatureMissing,
    Refusal::Duplicate,
    Refusal::Limit,
    Refusal::NotMember,
    Refusal::Draining,
    Refusal::WrongLane,
    Refusal::WrongIdentity,
    Refusal::OldCopy,
    Refusal::Recall,
    Refusal::FrameCap,
];

/// Gives a preamble the checksum that it should have.
fn sign_preamble(bytes: &mut [u8; PREAMBLE_LEN]) {
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
}

/// Gives a hello the checksum that it should have.
fn sign(bytes: &mut [u8]) {
    let record_len = u32::from_le_bytes(bytes[152..156].try_into().unwrap());
    let record_end = 160 + usize::try_from(record_len).unwrap();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..156]);
    crc.update(&bytes[160..record_end]);
    bytes[156..160].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// A hello with these bytes as its record.
fn with_record(record: &[u8]) -> Vec<u8> {
    let mut bytes = dialer().encode();
    bytes.truncate(160);
    bytes.extend_from_slice(record);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let len = u16::try_from(bytes.len()).unwrap();
    bytes[4..6].copy_from_slice(&len.to_le_bytes());
    bytes[152..156].copy_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
    sign(&mut bytes);
    bytes
}

/// Preamble, hello and refusal of version 1 lie in `golden/`, written from the pictures in the
/// documentation by other means than this code.
#[test]
fn golden_v1() {
    let preamble = include_bytes!("golden/v1-preamble.bin");
    assert_eq!(PREAMBLE.encode(), *preamble);
    assert_eq!(Preamble::decode(preamble), Ok(PREAMBLE));
    let hello = include_bytes!("golden/v1-hello.bin");
    assert_eq!(dialer().encode(), hello);
    assert_eq!(Hello::decode(hello), Ok(dialer()));
    let refusal = include_bytes!("golden/v1-refusal.bin");
    let want = Hello { kind: HelloKind::Refuse(Refusal::StoreReplaced), ..dialer() };
    assert_eq!(want.encode(), refusal);
    assert_eq!(Hello::decode(refusal), Ok(want));
}

#[test]
fn every_preamble_reads_back_as_it_was_written() {
    for class in [Class::Lane, Class::Bulk] {
        for (want_core, tls) in [(0, false), (1, true), (u16::MAX, false)] {
            let preamble = Preamble { class, want_core, tls };
            assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
        }
    }
}

fn any_hello(rng: &Rng) -> Hello {
    let wide = || u128::from(rng.bits()) << 64 | u128::from(rng.bits());
    let half = || u16::try_from(rng.below(1 << 16)).unwrap();
    let word = || u32::try_from(rng.below(1 << 32)).unwrap();
    let text = |len_max: u64| "x".repeat(usize::try_from(rng.below(len_max + 1)).unwrap());
    let kinds = REFUSALS.map(HelloKind::Refuse);
    let kinds = [&[HelloKind::Hello, HelloKind::Welcome], &kinds[..]].concat();
    Hello {
        kind: kinds[rng.index(kinds.len())],
        class: [Class::Lane, Class::Bulk][rng.index(2)],
        versions: Versions { min: half(), max: half() },
        features: rng.bits(),
        required: rng.bits(),
        cluster: wide(),
        from: NodeId(rng.bits()),
        to: NodeId(rng.bits()),
        store: wide(),
        boot: rng.bits(),
        epoch: rng.bits(),
        nonce: rng.bits(),
        echo: rng.bits(),
        from_core: half(),
        want_core: half(),
        cores: half(),
        machine: half(),
        frame_max: word(),
        window: word(),
        table_version: rng.bits(),
        claimed: rng.bits(),
        known: rng.bits(),
        record: NodeRecord {
            node: NodeId(rng.bits()),
            address: text(255),
            client_address: text(240),
            cores: half(),
            streams: half(),
        },
    }
}

#[test]
fn lives_and_the_machine_stand_where_the_picture_has_them() {
    let hello = Hello { machine: 0x0506, claimed: 0x0102, known: 0x0304, ..dialer() };
    let bytes = hello.encode();
    assert_eq!(bytes[118..120], [6, 5]);
    assert_eq!(bytes[136..152], [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn every_hello_reads_back_as_it_was_written() {
    let rng = Rng::new(1);
    let mut lens = BTreeSet::new();
    for _ in 0..4_000 {
        let hello = any_hello(&rng);
        let bytes = hello.encode();
        assert!(bytes.len() <= HELLO_LEN_MAX && bytes.len().is_multiple_of(16));
        assert_eq!(Hello::len_of(&bytes[..156]), Ok(bytes.len()));
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        lens.insert(bytes.len());
    }
    assert_eq!(lens.first().zip(lens.last()), Some((&192, &HELLO_LEN_MAX)));
}

#[test]
fn every_flipped_bit_is_caught() {
    let good = PREAMBLE.encode();
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Preamble::decode(&bad).is_err(), "bit {bit} of a preamble");
    }
    for hello in [dialer(), acceptor()] {
        let good = hello.encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&bad).is_err(), "bit {bit} of a hello");
        }
    }
}

#[test]
fn every_cut_says_how_much_is_missing_and_nothing_may_follow() {
    let bytes = dialer().encode();
    for cut in 0..bytes.len() {
        let need = if cut < 156 { 156 } else { bytes.len() } - cut;
        assert_eq!(Hello::decode(&bytes[..cut]), Err(HelloError::Truncated { need }), "{cut}");
    }
    let longer = [&bytes[..], &[0; 16]].concat();
    assert_eq!(Hello::decode(&longer), Err(HelloError::Length { len: 208 }));
}

#[test]
fn each_field_of_a_forged_preamble_is_held() {
    let check = |place: usize, byte: u8, want| {
        let mut bad = PREAMBLE.encode();
        bad[place] = byte;
        sign_preamble(&mut bad);
        assert_eq!(Preamble::decode(&bad), Err(want), "{place}");
    };
    check(3, b'2', HelloError::Magic);
    check(4, 0, HelloError::Version { byte: 0 });
    check(4, 2, HelloError::Version { byte: 2 });
    check(5, 2, HelloError::Class { byte: 2 });
    check(8, 3, HelloError::Flags { byte: 3 });
    check(8, 0x80, HelloError::Flags { byte: 0x80 });
    (9..12).for_each(|place| check(place, 1, HelloError::Padding));
}

#[track_caller]
fn forge(place: usize, with: &[u8], want: HelloError) {
    let mut bad = dialer().encode();
    bad[place..place + with.len()].copy_from_slice(with);
    sign(&mut bad);
    assert_eq!(Hello::decode(&bad), Err(want), "{place}");
}

#[test]
fn each_field_of_a_forged_hello_is_held() {
    forge(3, b"2", HelloError::Magic);
    for byte in [0, 4, u8::MAX] {
        forge(6, &[byte], HelloError::Kind { byte });
    }
    forge(7, &[2], HelloError::Class { byte: 2 });
    forge(12, &[1], HelloError::Refusal { code: 1 });
    forge(207, &[1], HelloError::Padding);
    let refuse = |code: u32| [&[3, 0, 1, 0, 1, 0][..], &code.to_le_bytes()].concat();
    for code in [0, 16, u32::MAX] {
        forge(6, &refuse(code), HelloError::Refusal { code });
    }
}

#[test]
fn what_a_later_build_puts_where_zero_stands_is_passed_over() {
    let mut bytes = Hello { versions: Versions { min: 2, max: 3 }, ..dialer() }.encode();
    bytes[207] = 7;
    sign(&mut bytes);
    let hello = Hello::decode(&bytes).unwrap();
    assert_eq!(hello.versions, Versions { min: 2, max: 3 });
    assert_eq!(judge(&acceptor(), &hello, None), Err(Refusal::VersionMismatch));
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_read_or_allocated() {
    let good = dialer().encode();
    let check = |len: u16, record_len: u32, want| {
        let mut bad = good.clone();
        bad[4..6].copy_from_slice(&len.to_le_bytes());
        bad[152..156].copy_from_slice(&record_len.to_le_bytes());
        let counted = allocation_counter::measure(|| {
            assert_eq!(Hello::len_of(&bad[..156]), Err(want));
            assert_eq!(Hello::decode(&bad), Err(want));
        });
        assert_eq!(counted.count_total, 0);
    };
    for len in [0, 16, 160, 192, 207, 209, 224, 672, u16::MAX] {
        check(len, 47, HelloError::Length { len });
    }
    for record_len in [0, 32, 49, 512] {
        check(208, record_len, HelloError::Length { len: 208 });
    }
    for len in [513, 1 << 16, u32::MAX] {
        check(208, len, HelloError::RecordLength { len });
    }
    // A record of another length within the same padded one fails by its checksum.
    for record_len in [33_u32, 46, 48] {
        let mut bad = good.clone();
        bad[152..156].copy_from_slice(&record_len.to_le_bytes());
        assert_eq!(Hello::decode(&bad), Err(HelloError::Checksum));
    }
}

/// Fields as a record has them: each with its length before it.
fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut record = Vec::new();
    for field in fields {
        record.push(u8::try_from(field.len()).unwrap());
        record.extend_from_slice(field);
    }
    record
}

#[test]
fn records_whose_fields_lie_are_refused() {
    let (node, cores, streams) = (1_u64.to_le_bytes(), 4_u16.to_le_bytes(), 8_u16.to_le_bytes());
    let good = fields(&[&node, b"10.0.0.1:7500", b"app-1.example:443", &cores, &streams]);
    assert_eq!(Hello::decode(&with_record(&good)), Ok(dialer()));
    let later = [&good[..], &fields(&[b"", b"of a later build"])].concat();
    assert_eq!(Hello::decode(&with_record(&later)), Ok(dialer()));
    let bad = |record: &[u8]| {
        assert_eq!(Hello::decode(&with_record(record)), Err(HelloError::Record), "{record:?}");
    };
    for cut in 0..good.len() {
        bad(&good[..cut]);
    }
    for cut in good.len() + 2..later.len() {
        bad(&later[..cut]);
    }
    bad(&fields(&[&[1; 9], b"", b"", &cores, &streams]));
    bad(&fields(&[&node, b"", b"", &[4; 3], &streams]));
    bad(&fields(&[&node, b"", b"", &cores, &[8; 3]]));
    // Each length, one too short, one too long, and the longest there is.
    for place in [0, 9, 23, 41, 44] {
        for len in [0, good[place].wrapping_sub(1), good[place] + 1, u8::MAX] {
            let mut record = good.clone();
            record[place] = len;
            bad(&record);
        }
    }
    for text in [&b"a b:1"[..], b"a\n:1", b"a\0:1", b"\x7f:1", b"\xff\xfe:1", "\u{e9}:1".as_bytes()]
    {
        bad(&fields(&[&node, text, b"", &cores, &streams]));
        bad(&fields(&[&node, b"", text, &cores, &streams]));
    }
}

#[test]
fn a_record_that_cannot_be_sent_is_known_before() {
    let check = |address: &str, client_address: &str, want| {
        let (address, client_address) = (address.to_owned(), client_address.to_owned());
        let record = NodeRecord { address, client_address, ..dialer().record };
        assert_eq!(record.check(), want);
    };
    check("", "", Ok(()));
    check(&"x".repeat(255), &"y".repeat(240), Ok(()));
    check(&"x".repeat(255), &"y".repeat(241), Err(HelloError::RecordLength { len: 513 }));
    check(&"x".repeat(256), "", Err(HelloError::Record));
    check("", &"x".repeat(256), Err(HelloError::Record));
    check("two words", "", Err(HelloError::Record));
    check("", "line\n", Err(HelloError::Record));
}

/// Random bytes, and good ones with random damage, signed again: whatever is read is what a hello
/// of the same content says, and nothing is allocated but its two addresses.
#[test]
fn no_bytes_break_the_decoders() {
    let rng = Rng::new(0x00c0_ffee);
    let mut outcomes = [0; 3];
    for turn in 0..60_000 {
        let mut bytes = any_hello(&rng).encode();
        if turn % 3 == 0 {
            bytes.resize(rng.index(HELLO_LEN_MAX + 64), 0);
            rng.fill(&mut bytes);
        }
        for _ in 0..rng.below(4) {
            let place = rng.index(bytes.len().max(1));
            let byte = u8::try_from(rng.below(256)).unwrap();
            bytes.get_mut(place).into_iter().for_each(|its| *its = byte);
        }
        if Hello::len_of(&bytes).is_ok_and(|len| len == bytes.len()) {
            sign(&mut bytes);
        }
        let mut read = Err(HelloError::Magic);
        let counted = allocation_counter::measure(|| read = Hello::decode(&bytes));
        assert!(counted.count_total <= 2 && counted.bytes_total <= 512, "{counted:?}");
        match read {
            Ok(hello) => {
                assert_eq!(Hello::decode(&hello.encode()), Ok(hello.clone()));
                let judged = judge(&acceptor(), &hello, None);
                outcomes[usize::from(judged.is_err())] += 1;
            },
            Err(_) => outcomes[2] += 1,
        }
        let mut preamble = [0; PREAMBLE_LEN];
        rng.fill(&mut preamble);
        if turn % 2 == 0 {
            let good = PREAMBLE.encode();
            preamble[..4].copy_from_slice(&good[..4]);
            let keep = rng.index(12);
            preamble[keep..12].copy_from_slice(&good[keep..12]);
            sign_preamble(&mut preamble);
        }
        if let Ok(read) = Preamble::decode(&preamble) {
            assert_eq!(read.encode(), preamble, "one preamble, one form");
        }
    }
    let [agreed, refused, unread] = outcomes;
    assert!(agreed == 0 && refused > 10_000 && unread > 10_000, "{outcomes:?}");
}

#[test]
fn two_sides_that_fit_agree_on_what_both_can() {
    let (frame_max, window) = (1_088 << 10, 2_176 << 10);
    let agreed = Agreed { version: 1, features: 0b0010, frame_max, window };
    assert_eq!(judge(&dialer(), &acceptor(), None), Ok(agreed));
    assert_eq!(judge(&dialer(), &acceptor(), Some(acceptor().store)), Ok(agreed));
    let agreed = Agreed { window: 8 << 20, ..agreed };
    assert_eq!(judge(&acceptor(), &dialer(), None), Ok(agreed));
    assert_eq!(judge(&acceptor(), &dialer(), Some(dialer().store)), Ok(agreed));
    let versions = Versions { min: 1, max: 7 };
    assert_eq!(judge(&dialer(), &Hello { versions, ..acceptor() }, None).unwrap().version, 1);
}

/// What makes the dialer refuse the acceptor and the other way round.
#[track_caller]
fn refuses(change: impl Fn(&mut Hello), want: Refusal) {
    for (own, mut theirs) in [(dialer(), acceptor()), (acceptor(), dialer())] {
        change(&mut theirs);
        assert_eq!(judge(&own, &theirs, None), Err(want), "node {}", own.from);
    }
}

#[test]
fn nw_06_each_reason_to_refuse_is_found() {
    refuses(|theirs| theirs.cluster ^= 1, Refusal::WrongCluster);
    refuses(|theirs| theirs.to = NodeId(3), Refusal::WrongNode);
    let other = |theirs: &mut Hello| (theirs.from, theirs.record.node) = (NodeId(3), NodeId(3));
    refuses(other, Refusal::WrongNode);
    refuses(|theirs| theirs.from = NodeId(3), Refusal::WrongNode);
    refuses(|theirs| theirs.record.node = NodeId(3), Refusal::WrongNode);
    refuses(|theirs| theirs.from = theirs.to, Refusal::StoreReplaced);
    refuses(|theirs| theirs.versions = Versions { min: 2, max: 9 }, Refusal::VersionMismatch);
    refuses(|theirs| theirs.versions = Versions { min: 0, max: 0 }, Refusal::VersionMismatch);
    refuses(|theirs| theirs.versions = Versions { min: 9, max: 1 }, Refusal::VersionMismatch);
    refuses(|theirs| theirs.features = 0b1001, Refusal::FeatureMissing);
    refuses(|theirs| theirs.required = 1 << 63, Refusal::FeatureMissing);
    refuses(|theirs| theirs.class = Class::Bulk, Refusal::WrongLane);
    refuses(|theirs| theirs.want_core += 1, Refusal::WrongLane);
    refuses(|theirs| theirs.from_core += 1, Refusal::WrongLane);
    refuses(|theirs| theirs.cores = 0, Refusal::WrongLane);
    refuses(|theirs| theirs.window = theirs.frame_max * 2 - 1, Refusal::Limit);
    refuses(|theirs| theirs.frame_max = u32::MAX, Refusal::Limit);
    refuses(|theirs| theirs.frame_max = 47, Refusal::Limit);
    refuses(|theirs| theirs.frame_max -= 16, Refusal::FrameCap);
    refuses(
        |theirs| (theirs.frame_max, theirs.window) = (4_160 << 10, 8_320 << 10),
        Refusal::FrameCap,
    );
    for refusal in REFUSALS {
        refuses(|theirs| theirs.kind = HelloKind::Refuse(refusal), refusal);
    }
}

#[test]
fn a_node_is_not_its_own_peer() {
    let own = dialer();
    let echo = |change: fn(&mut Hello)| {
        let mut theirs = Hello { kind: HelloKind::Welcome, ..dialer() };
        change(&mut theirs);
        judge(&own, &theirs, None)
    };
    assert_eq!(echo(|_| ()), Err(Refusal::SelfConnection));
    assert_eq!(echo(|theirs| theirs.nonce = 1), Err(Refusal::SelfConnection), "by its storage");
    assert_eq!(echo(|theirs| theirs.store = 1), Err(Refusal::SelfConnection), "by its nonce");
}

/// An empty disk under an old id could vote twice.
#[test]
fn a_node_with_another_storage_than_it_was_first_seen_with_is_refused() {
    let known = acceptor().store;
    let theirs = Hello { store: known ^ 1, ..acceptor() };
    assert_eq!(judge(&dialer(), &theirs, Some(known)), Err(Refusal::StoreReplaced));
    assert!(judge(&dialer(), &theirs, None).is_ok(), "nothing is known of it");
}

#[test]
fn nobody_is_no_peer() {
    let mut theirs = Hello { from: NodeId(0), ..dialer() };
    theirs.record.node = NodeId(0);
    let own = Hello { to: NodeId(0), ..acceptor() };
    assert_eq!(judge(&own, &theirs, None), Err(Refusal::WrongNode));
}

#[test]
fn each_refusal_has_one_code_and_says_what_to_do() {
    let mut codes = BTreeSet::new();
    for refusal in REFUSALS {
        assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
        assert!(codes.insert(refusal.code()), "{refusal:?}");
        let text = refusal.to_string();
        assert!(text.split_once("; ").is_some_and(|(cause, fix)| cause != fix), "{text}");
    }
    assert_eq!((codes.first(), codes.last()), (Some(&1), Some(&15)));
    assert_eq!((Refusal::from_code(0), Refusal::from_code(16)), (None, None));
    let lasting: Vec<_> = REFUSALS.into_iter().filter(|refusal| refusal.is_lasting()).collect();
    let others = [Refusal::WrongIdentity, Refusal::OldCopy, Refusal::FrameCap];
    assert_eq!(lasting, [&REFUSALS[..6], &others].concat());
    assert!(Refusal::FrameCap.to_string().contains("wal.frame_cap"), "the setting is named");
}
