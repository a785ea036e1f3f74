//! What comes over a connection: preamble and hello, then frames and all that is in them.

use bowline_env::sim::{Profile, SimEnv, World};
use bowline_env::{Env, Nanos};
use bowline_net::{
    Bulk, Control, ControlFrame, Expected, Frame, FrameHeader, HEADER_LEN, Hello, HelloKind, Kind,
    Msgs, MsgsWriter, NodeRecord, PREAMBLE_LEN, Preamble, Received, Receiver, Stamp, Versions,
    judge,
};
use bowline_raft::{BatchRange, Message, What};
use rkyv::util::AlignedVec;

use super::{checksum, len_at, put_len, put_u32};

const FRAME_MAX: u32 = 64 << 10;
const WINDOW: u32 = 256 << 10;
/// Bytes of a hello before its record, and before the checksum that ends them.
const HELLO_HEAD: usize = 160;
const HELLO_CRC: usize = 156;

/// A preamble, and then a hello.
pub(crate) fn opening(bytes: &[u8]) -> bool {
    let mut signed = bytes.to_vec();
    sign_opening(&mut signed);
    read_opening(bytes) | read_opening(&signed)
}

/// Makes the lengths and checksums fit what is there.
fn sign_opening(bytes: &mut Vec<u8>) {
    if bytes.len() < PREAMBLE_LEN + HELLO_HEAD {
        return;
    }
    let crc = crc32fast::hash(&bytes[0..PREAMBLE_LEN - 4]);
    put_u32(bytes, PREAMBLE_LEN - 4, crc);
    let mut hello = bytes.split_off(PREAMBLE_LEN);
    let record = (hello.len() - HELLO_HEAD).min(NodeRecord::LEN_MAX);
    let record = len_at(&hello, HELLO_CRC - 4).min(record);
    let len = (HELLO_HEAD + record).next_multiple_of(bowline_net::ALIGN);
    hello.resize(len, 0);
    hello[4..6].copy_from_slice(&u16::try_from(len).expect("a hello is short").to_le_bytes());
    put_len(&mut hello, HELLO_CRC - 4, record);
    let crc = checksum(&[&hello[0..HELLO_CRC], &hello[HELLO_HEAD..HELLO_HEAD + record]]);
    put_u32(&mut hello, HELLO_CRC, crc);
    bytes.extend(hello);
}

fn read_opening(bytes: &[u8]) -> bool {
    let Some((preamble, hello)) = bytes.split_first_chunk::<PREAMBLE_LEN>() else { return false };
    if let Ok(read) = Preamble::decode(preamble) {
        assert_eq!(read.encode(), *preamble, "one preamble, one form");
    }
    let Ok(theirs) = Hello::decode(hello) else { return false };
    assert_eq!(Hello::len_of(hello), Ok(hello.len()));
    assert_eq!(Hello::decode(&theirs.encode()), Ok(theirs.clone()));
    assert_eq!(theirs.record.check(), Ok(()));
    // Somebody who may well agree with it.
    let own = Hello {
        kind: HelloKind::Welcome,
        versions: Versions::OURS,
        from: theirs.to,
        to: theirs.from,
        store: !theirs.store,
        nonce: !theirs.nonce,
        cores: 4,
        from_core: theirs.want_core % 4,
        want_core: theirs.from_core,
        window: WINDOW,
        ..theirs.clone()
    };
    for known in [None, Some(theirs.store), Some(own.store)] {
        if let Ok(agreed) = judge(&own, &theirs, known) {
            assert_eq!((agreed.frame_max, agreed.version), (theirs.frame_max, 1));
            assert!(agreed.frame_max <= agreed.window / 2, "two frames fit the window");
        }
    }
    true
}

/// A byte that says how the stream is cut, and a stream of frames.
pub(crate) fn frames(bytes: &[u8]) -> bool {
    let Some((cut, stream)) = bytes.split_first() else { return false };
    let each = usize::from(*cut).pow(2) + 1;
    let mut signed = stream.to_vec();
    sign_frames(&mut signed);
    let streams = [stream.to_vec(), signed];
    let world = World::new(1, Profile::calm());
    let read = async move |env: SimEnv| {
        streams.iter().filter(|stream| read_frames(&env, stream, each) > 0).count()
    };
    world.run_on(1, Nanos::SECOND, read).expect("nothing waits") > 0
}

/// Numbers the frames of a stream and makes their lengths and checksums fit.
fn sign_frames(stream: &mut [u8]) {
    let (mut rest, mut seq) = (stream, 0_u64);
    while rest.len() >= HEADER_LEN {
        seq += 1;
        let most = rest.len().min(len_at(rest, 4).max(HEADER_LEN));
        let len = most / bowline_net::ALIGN * bowline_net::ALIGN;
        let (frame, after) = rest.split_at_mut(len);
        let meta = len_at(frame, 32).min(len - HEADER_LEN);
        frame[..4].copy_from_slice(&bowline_net::MAGIC);
        frame[8..16].copy_from_slice(&seq.to_le_bytes());
        put_len(frame, 4, len);
        put_len(frame, 32, meta);
        let crc = crc32fast::hash(&frame[HEADER_LEN..HEADER_LEN + meta]);
        put_u32(frame, 40, crc);
        let crc = crc32fast::hash(&frame[0..HEADER_LEN - 4]);
        put_u32(frame, HEADER_LEN - 4, crc);
        rest = after;
    }
}

/// Frames that had a meaning. All of them are held until the stream ends or is refused.
fn read_frames<E: Env>(env: &E, mut stream: &[u8], each: usize) -> usize {
    let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
    let (mut held, mut taken) = (Vec::new(), 0);
    while !stream.is_empty() {
        let room = receiver.room(env).expect("memory is not short");
        let count = room.len().min(stream.len()).min(each);
        room[..count].copy_from_slice(&stream[..count]);
        stream = &stream[count..];
        receiver.filled(count);
        loop {
            match receiver.next() {
                Ok(Some(frame)) => {
                    taken += usize::from(read_frame(&frame));
                    held.push(frame);
                },
                Ok(None) => break,
                Err(why) => {
                    assert_eq!(receiver.next().err(), Some(why), "a failed lane stays so");
                    return taken;
                },
            }
        }
    }
    let bytes: usize = held.iter().map(Received::len).sum();
    drop(held);
    assert!(receiver.held() <= (512 << 10), "{} held after {bytes}", receiver.held());
    taken
}

/// Reads a frame and writes it again; whether it had a meaning.
fn read_frame(received: &Received) -> bool {
    let frame = received.frame();
    if frame.header().kind == Kind::Msgs {
        return Msgs::open(frame).is_ok_and(|msgs| read_msgs(&frame, &msgs));
    }
    if let Ok(bulk) = Bulk::decode(&frame) {
        assert_eq!(encoded(&Control::Bulk(bulk), &frame), frame.bytes());
        return true;
    }
    let Ok(Some(control)) = ControlFrame::decode(&frame) else { return false };
    let again = encoded(&control.as_control(), &frame);
    let exact = !matches!(control, ControlFrame::Goodbye { .. });
    assert!(!exact || again == frame.bytes(), "one frame, one form");
    with_frame(&again, |again| assert_eq!(ControlFrame::decode(again), Ok(Some(control))));
    true
}

fn stamp(header: &FrameHeader) -> Stamp {
    Stamp { seq: header.seq, consumed: header.consumed, sent_at: header.sent_at }
}

fn encoded(control: &Control<'_>, frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    control.encode(stamp(frame.header()), &mut out);
    out
}

/// Opens a frame that was written here.
fn with_frame(bytes: &[u8], read: impl FnOnce(&Frame<'_>)) {
    let mut aligned = AlignedVec::<16>::new();
    aligned.extend_from_slice(bytes);
    let seq = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes are eight bytes"));
    let expected = Expected { frame_max: FRAME_MAX, seq, credit: u64::from(FRAME_MAX) };
    let header = FrameHeader::decode(&aligned, &expected).expect("what is written is read");
    read(&Frame::open(header, &aligned).expect("what is written is whole"));
}

/// Messages with the place of their batches left out.
fn unplaced(message: Message) -> Message {
    let What::Append { prev, prev_term, commit, read_seq, batches } = message.what else {
        return message;
    };
    let batches = BatchRange { count: batches.count, ..BatchRange::default() };
    Message { what: What::Append { prev, prev_term, commit, read_seq, batches }, ..message }
}

/// Reads what messages say and all of their batches, and builds the frame anew of those that have
/// a meaning.
fn read_msgs(frame: &Frame<'_>, msgs: &Msgs<'_>) -> bool {
    let mut writer = MsgsWriter::new(FRAME_MAX);
    let (mut told, mut bodies) = (Vec::new(), Vec::new());
    for message in msgs.iter() {
        let Ok(message) = message else { continue };
        let batches: Vec<_> = msgs.batches(&message).collect();
        let heads: Vec<_> = batches.iter().map(|batch| batch.head).collect();
        writer.push(&message, &heads).expect("a frame that came is not too large to send");
        for batch in &batches {
            assert_eq!(usize::try_from(batch.head.len), Ok(batch.body.len()));
            super::raft::batch(&[&batch.head.to_bytes(), batch.body].concat());
            bodies.extend_from_slice(batch.body);
        }
        told.push((unplaced(message), heads));
    }
    let mut again = writer.finish(stamp(frame.header())).to_vec();
    again.extend_from_slice(&bodies);
    with_frame(&again, |again| {
        let msgs = Msgs::open(*again).expect("what is written is read");
        let told_again = msgs.iter().map(|message| {
            let message = message.expect("what is written has a meaning");
            (unplaced(message), msgs.batches(&message).map(|batch| batch.head).collect())
        });
        assert!(told_again.eq(told.iter().cloned()));
    });
    !told.is_empty()
}
