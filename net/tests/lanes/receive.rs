//! A byte stream becomes the same frames however it arrives, within every bound.

use bowline_env::sim::{Rng, SimEnv};
use bowline_env::{Env, Kind as EnvKind};
use bowline_net::{
    Control, FrameError, FrameHeader, HEADER_LEN, Kind, Msgs, Received, Receiver, Sender,
};
use bowline_raft::{Digest, Message, Row};

use crate::kit::{
    FRAME_MAX, OVERHEAD, Pipe, WINDOW, answer, append, batch, beat, controls, feed, messages,
    on_core, write,
};

const BUFFER: usize = 256 << 10;

/// Bytes of a lane life: small frames, large ones, and frames of the lane between them.
fn stream(bodies: &[u32]) -> Vec<u8> {
    let (mut sender, mut pipe) = (Sender::new(FRAME_MAX, WINDOW), Pipe::new());
    for (nth, body) in (1_u16..).zip(bodies) {
        let now = u64::from(nth);
        sender.control(&Control::Liveness(beat(now)), now, 0);
        sender.push(&answer(now, nth), &[]).unwrap();
        sender.push(&append(now, nth), &[batch(*body, 7), batch(16, 9)]).unwrap();
        sender.seal(now, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
        sender.control(&Control::Digest(Digest { count: 1, hash: now }), now, 0);
    }
    let rows = [Row::default(); 40];
    sender.control(&Control::Rows { rows: &rows, last: true }, 99, 0);
    sender.control(&Control::Goodbye { reason: 1 }, 99, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    pipe.bytes
}

/// One frame with an Append whose body has `body` bytes, numbered `seq`.
fn frame(seq: u64, body: u32) -> Vec<u8> {
    let (mut sender, mut pipe) = (Sender::new(FRAME_MAX, WINDOW), Pipe::new());
    sender.push(&append(1, 1), &[batch(body, 7)]).unwrap();
    sender.seal(0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    renumber(&mut pipe.bytes, |header| header.seq = seq);
    pipe.bytes
}

/// Changes the header of the first frame, with a good checksum.
fn renumber(bytes: &mut [u8], change: impl FnOnce(&mut FrameHeader)) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..][..8].try_into().unwrap());
    let word = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().unwrap());
    let mut header = FrameHeader {
        len: word(4),
        seq: number(8),
        consumed: number(16),
        sent_at: number(24),
        meta_len: word(32),
        kind: Kind::from_byte(bytes[36]).unwrap(),
        meta_crc: word(40),
    };
    change(&mut header);
    bytes[..HEADER_LEN].copy_from_slice(&header.to_bytes());
}

/// What a frame is, for comparison.
fn told(frames: &[Received]) -> Vec<(FrameHeader, Vec<u8>)> {
    frames
        .iter()
        .map(|received| {
            let frame = received.frame();
            assert_eq!(frame.bytes().as_ptr().addr() % 16, 0, "archives lie aligned");
            assert_eq!(frame.bytes().len(), received.len());
            assert_eq!(frame.header(), received.header());
            (*received.header(), frame.bytes().to_vec())
        })
        .collect()
}

#[test]
fn any_split_gives_the_same_frames() {
    let bytes = stream(&[16, 4_000, 300_000, 16, 1_000_000, 250_000, 48]);
    on_core(move |env| {
        let all = feed(&mut Receiver::new(FRAME_MAX, WINDOW), &env, &bytes, usize::MAX).unwrap();
        let want = told(&all);
        assert_eq!(messages(&all).len(), 14);
        assert_eq!(controls(&all).len(), 7 + 7 + 2);
        let joined: Vec<_> = want.iter().flat_map(|(_, frame)| frame.clone()).collect();
        assert!(joined == bytes, "every byte is in one frame, in order");
        for each in [1, 15, 47, 48, 49, 4_096, BUFFER - 1, BUFFER] {
            let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
            let got = told(&feed(&mut receiver, &env, &bytes, each).unwrap());
            assert!(got == want, "{each} bytes at a time");
        }
    });
}

#[test]
fn any_random_split_gives_the_same_frames() {
    let bytes = stream(&[16, 1_008, 48, 70_000, 16, 300_000]);
    on_core(move |env| {
        let want =
            told(&feed(&mut Receiver::new(FRAME_MAX, WINDOW), &env, &bytes, 1 << 20).unwrap());
        for seed in 0..50 {
            let (rng, mut receiver) = (Rng::new(seed), Receiver::new(FRAME_MAX, WINDOW));
            let (mut rest, mut got) = (&bytes[..], Vec::new());
            while !rest.is_empty() {
                let count = usize::try_from(rng.magnitude(1, 100_000)).unwrap().min(rest.len());
                let (now, later) = rest.split_at(count);
                got.extend(told(&feed(&mut receiver, &env, now, usize::MAX).unwrap()));
                rest = later;
            }
            assert!(got == want, "seed {seed}");
            assert!(receiver.held() <= 2 * BUFFER, "what is not held is given back");
        }
    });
}

#[test]
fn a_stream_that_ends_anywhere_gives_only_whole_frames() {
    let bytes = stream(&[16, 64]);
    on_core(move |env| {
        let want = told(&feed(&mut Receiver::new(FRAME_MAX, WINDOW), &env, &bytes, 999).unwrap());
        for cut in 0..bytes.len() {
            let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
            let got = told(&feed(&mut receiver, &env, &bytes[..cut], usize::MAX).unwrap());
            let whole: usize = got.iter().map(|(_, frame)| frame.len()).sum();
            assert!(whole <= cut && got[..] == want[..got.len()]);
            let next = want.get(got.len()).map_or(0, |(_, frame)| frame.len());
            assert!(cut < whole + next, "no frame waits that is whole");
        }
    });
}

#[test]
fn every_flipped_bit_is_caught_or_lies_in_a_body() {
    let bytes = stream(&[16, 64]);
    on_core(move |env| {
        let read = |bytes: &[u8]| {
            let frames = feed(&mut Receiver::new(FRAME_MAX, WINDOW), &env, bytes, usize::MAX)?;
            Ok::<_, FrameError>(told(&frames))
        };
        let want = read(&bytes).unwrap();
        let mut bad = bytes.clone();
        for bit in 0..bytes.len() * 8 {
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(got) = read(&bad) {
                let headers = |frames: &[(FrameHeader, Vec<u8>)]| {
                    frames.iter().map(|(header, _)| *header).collect::<Vec<_>>()
                };
                assert_eq!(headers(&got), headers(&want), "bit {bit}");
                let changed = got.iter().zip(&want).filter(|(got, want)| got != want);
                let kinds: Vec<_> = changed.map(|(got, _)| got.0.kind).collect();
                assert_eq!(kinds, [Kind::Msgs], "bit {bit}: its batch's checksum tells");
            }
            bad[bit / 8] ^= 1 << (bit % 8);
        }
    });
}

#[test]
fn by_01_lengths_at_their_extremes_take_no_buffer() {
    on_core(|env| {
        for len in [0, 32, 47, 49, FRAME_MAX + 16, u32::MAX - 15, u32::MAX] {
            let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
            let mut bad = frame(1, 64);
            renumber(&mut bad, |header| header.len = len);
            receiver.room(&env).unwrap()[..HEADER_LEN].copy_from_slice(&bad[..HEADER_LEN]);
            receiver.filled(HEADER_LEN);
            let counted = allocation_counter::measure(|| {
                let why = receiver.next().err();
                assert_eq!(why, Some(FrameError::Length { len }));
            });
            assert_eq!(counted.count_total, 0);
            assert_eq!(receiver.held(), BUFFER);
        }
    });
}

#[test]
fn an_error_stays() {
    on_core(|env| {
        let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
        let why = feed(&mut receiver, &env, &frame(2, 64), 99).err();
        assert_eq!(why, Some(FrameError::Sequence { want: 1, got: 2 }));
        let again = feed(&mut receiver, &env, &frame(1, 64), 99).err();
        assert_eq!(again, why);
    });
}

#[test]
fn a_frame_returns_its_credit_when_it_is_dropped() {
    on_core(|env| {
        let bytes = stream(&[16, 64, 300_000]);
        let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
        let mut frames = feed(&mut receiver, &env, &bytes, usize::MAX).unwrap();
        assert_eq!(receiver.consumed(), 0);
        let mut want = 0;
        while !frames.is_empty() {
            let received = frames.swap_remove(frames.len() / 2);
            if received.header().kind.counts() {
                want += u64::from(received.header().len);
            }
            drop(received);
            assert_eq!(receiver.consumed(), want);
        }
        assert!(300_000 < want && want < u64::try_from(bytes.len()).unwrap(), "beats are free");
    });
}

#[test]
fn a_peer_that_overruns_its_credit_is_caught() {
    on_core(|env| {
        let body = 100_000;
        let len = body + OVERHEAD;
        let mut receiver = Receiver::new(FRAME_MAX, 3 * len + 16);
        let mut held = Vec::new();
        for seq in 1..=3 {
            held.extend(feed(&mut receiver, &env, &frame(seq, body), 4_096).unwrap());
        }
        // It may send just what was given back, not a frame more.
        held.truncate(2);
        assert_eq!(receiver.consumed(), u64::from(len));
        held.extend(feed(&mut receiver, &env, &frame(4, body), 4_096).unwrap());
        assert_eq!(held.len(), 3);
        let over = frame(5, body);
        let why = feed(&mut receiver, &env, &over[..HEADER_LEN], 16).err();
        assert_eq!(why, Some(FrameError::Credit), "the header is enough");
        held.clear();
        let why = feed(&mut receiver, &env, &over[HEADER_LEN..], 4_096).err();
        assert_eq!(why, Some(FrameError::Credit), "and it is not forgiven");
    });
}

#[test]
fn free_frames_need_no_credit_and_are_small() {
    on_core(|env| {
        let mut receiver = Receiver::new(FRAME_MAX, 0);
        let (mut sender, mut pipe) = (Sender::new(FRAME_MAX, WINDOW), Pipe::new());
        for now in 0..1_000 {
            sender.control(&Control::Liveness(beat(now)), now, 0);
            assert!(write(&mut sender, &mut pipe).is_ready());
        }
        let frames = feed(&mut receiver, &env, &pipe.bytes, 1_000).unwrap();
        assert_eq!((frames.len(), receiver.consumed()), (1_000, 0));
        drop(frames);
        let mut large = frame(1_001, 64);
        renumber(&mut large, |header| (header.kind, header.len) = (Kind::Credit, 512));
        let why = feed(&mut receiver, &env, &large, 99).err();
        assert_eq!(why, Some(FrameError::Length { len: 512 }));
    });
}

#[test]
fn buffers_are_held_while_a_frame_of_them_is() {
    on_core(|env| {
        let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
        assert_eq!(receiver.held(), 0);
        let mut frames = Vec::new();
        for seq in 1..=8 {
            frames.extend(feed(&mut receiver, &env, &frame(seq, 100_000), usize::MAX).unwrap());
        }
        // Two whole frames fit a buffer, the third one is started in it and moves.
        assert_eq!(receiver.held(), 4 * BUFFER);
        frames.remove(0);
        assert_eq!(receiver.held(), 4 * BUFFER, "one of its buffer is still there");
        frames.remove(0);
        assert_eq!(receiver.held(), 3 * BUFFER);
        let last = frames.pop().unwrap();
        frames.clear();
        assert_eq!(receiver.held(), BUFFER, "the one that is being filled");
        frames.extend(feed(&mut receiver, &env, &frame(9, 1_000_000), usize::MAX).unwrap());
        let large = (1_000_000 + 208_usize).next_multiple_of(4_096);
        assert_eq!(receiver.held(), BUFFER + large);
        drop(last);
        assert_eq!(receiver.held(), large, "a frame that needs more has a buffer of its length");
        frames.clear();
        assert_eq!(receiver.consumed(), 8 * 100_208 + 1_000_208);
        assert_eq!(messages(&feed(&mut receiver, &env, &frame(10, 64), 99).unwrap()).len(), 1);
    });
}

#[test]
fn there_is_room_even_if_no_frame_is_taken() {
    on_core(|env| {
        let bytes: Vec<_> = (1..=2_000).flat_map(|seq| frame(seq, 64)).collect();
        assert!(2 * BUFFER < bytes.len());
        let (mut receiver, mut rest) = (Receiver::new(FRAME_MAX, WINDOW), &bytes[..]);
        while !rest.is_empty() {
            let room = receiver.room(&env).unwrap();
            let count = room.len().min(rest.len());
            assert!(0 < count);
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            receiver.filled(count);
        }
        for seq in 1..=2_000 {
            assert_eq!(receiver.next().unwrap().unwrap().header().seq, seq);
        }
    });
}

#[test]
fn frames_outlive_their_receiver() {
    on_core(|env| {
        let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
        let frames = feed(&mut receiver, &env, &frame(1, 100_000), usize::MAX).unwrap();
        drop(receiver);
        assert_eq!(messages(&frames)[0].1, 100_000);
    });
}

#[test]
fn a_receiver_without_a_buffer_goes_on_when_there_is_one() {
    on_core(|env| {
        let bytes = frame(1, 700_000);
        let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
        let (first, rest) = bytes.split_at(100_000);
        assert!(feed(&mut receiver, &env, first, usize::MAX).unwrap().is_empty());
        let mut all = Vec::new();
        let why = loop {
            match env.buffer(64 << 10) {
                Ok(buf) => all.push(buf),
                Err(why) => break why,
            }
        };
        assert_eq!(why.kind, EnvKind::NoMemory);
        let held = receiver.held();
        assert_eq!(receiver.room(&env).err(), Some(why));
        assert_eq!(receiver.held(), held);
        all.truncate(all.len() - 11);
        let frames = feed(&mut receiver, &env, rest, usize::MAX).unwrap();
        assert_eq!(messages(&frames)[0].1, 700_000);
    });
}

#[test]
fn receiving_allocates_nothing_but_buffers() {
    on_core(|env| {
        let bytes: Vec<_> = (1..=400).flat_map(|seq| frame(seq, 64)).collect();
        assert!(bytes.len() < BUFFER);
        let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
        assert!(!receiver.room(&env).unwrap().is_empty(), "the buffer is there");
        let mut frames = Vec::with_capacity(400);
        let counted = allocation_counter::measure(|| {
            for chunk in bytes.chunks(1_000) {
                receiver.room(&env).unwrap()[..chunk.len()].copy_from_slice(chunk);
                receiver.filled(chunk.len());
                while let Some(frame) = receiver.next().unwrap() {
                    let msgs = Msgs::open(frame.frame()).unwrap();
                    assert!(msgs.iter().all(|message| message.is_ok()));
                    frames.push(frame);
                }
            }
            frames.clear();
        });
        assert_eq!((counted.count_total, receiver.consumed()), (0, 400 * 272));
    });
}

/// Random damage: right frames, then an error or silence; never a panic, never a wild length.
#[test]
fn sc_04_damaged_streams_are_refused_within_the_bounds() {
    let bytes = stream(&[16, 48, 3_008, 16]);
    on_core(move |env| {
        let want: Vec<Message> = {
            let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
            let frames = feed(&mut receiver, &env, &bytes, usize::MAX).unwrap();
            messages(&frames).into_iter().map(|(message, _)| message).collect()
        };
        let (mut caught, rng) = (0, Rng::new(0x0dec));
        for _ in 0..3_000 {
            let mut bad = bytes.clone();
            damage(&rng, &mut bad);
            let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
            let each = usize::try_from(rng.magnitude(1, 10_000)).unwrap();
            match feed(&mut receiver, &env, &bad, each) {
                Ok(frames) => check_prefix(&frames, &want),
                Err(_) => caught += 1,
            }
            assert!(receiver.held() <= BUFFER);
        }
        assert!(1_000 < caught, "{caught}");
        noise(&env, &rng);
    });
}

fn damage(rng: &Rng, bytes: &mut Vec<u8>) {
    match rng.below(4) {
        0 => {
            let at = rng.index(bytes.len());
            bytes[at] = bytes[at].wrapping_add(1);
        },
        1 => bytes.truncate(rng.index(bytes.len())),
        2 => {
            let at = rng.index(bytes.len());
            bytes.drain(..at);
        },
        _ => {
            let at = rng.index(bytes.len() - 64);
            rng.fill(&mut bytes[at..][..64]);
        },
    }
}

/// What was read of a damaged stream is what was sent, up to somewhere.
fn check_prefix(frames: &[Received], want: &[Message]) {
    let mut got = Vec::new();
    for received in frames.iter().filter(|received| received.header().kind == Kind::Msgs) {
        let Ok(msgs) = Msgs::open(received.frame()) else { return };
        got.extend(msgs.iter().map(|message| message.unwrap()));
    }
    assert!(got[..] == want[..got.len()]);
}

/// Bytes without any sense.
fn noise(env: &SimEnv, rng: &Rng) {
    for _ in 0..2_000 {
        let mut bytes = vec![0; rng.index(4_096)];
        rng.fill(&mut bytes);
        let got = feed(&mut Receiver::new(FRAME_MAX, WINDOW), env, &bytes, usize::MAX);
        let refused = matches!(got, Err(FrameError::Magic));
        assert!(refused || bytes.len() < HEADER_LEN);
    }
}
