//! Messages become frames in order, one at a time, with their bodies in place.

use std::task::Poll;

use bowline_env::{EnvError, Kind as EnvKind, Op};
use bowline_net::{
    Control, ControlFrame, FrameError, Kind, PushError, ROWS_MAX, Received, Receiver, Sender,
};
use bowline_raft::{Digest, LogIndex, Message, ReplicaId, Row, ShardId, What};

use crate::kit::{
    FRAME_MAX, OVERHEAD, Pipe, WINDOW, answer, append, batch, beat, controls, feed, message,
    messages, on_core, write,
};

/// What the peer receives of `bytes`.
fn received<T: 'static>(bytes: Vec<u8>, look: impl FnOnce(&[Received]) -> T + 'static) -> T {
    on_core(move |env| {
        let mut receiver = Receiver::new(FRAME_MAX, WINDOW);
        look(&feed(&mut receiver, &env, &bytes, usize::MAX).unwrap())
    })
}

fn kinds(bytes: Vec<u8>) -> Vec<Kind> {
    received(bytes, |frames| frames.iter().map(|frame| frame.header().kind).collect())
}

fn pair() -> (Sender, Pipe) {
    (Sender::new(FRAME_MAX, WINDOW), Pipe::new())
}

#[test]
fn what_is_pushed_arrives_in_order_with_its_stamp() {
    let (mut sender, mut pipe) = pair();
    assert!(sender.is_clear());
    for nth in 0..10 {
        sender.push(&answer(1, nth), &[]).unwrap();
        sender.push(&append(1, nth), &[batch(64, 1), batch(0, 2), batch(1_024, 3)]).unwrap();
    }
    assert!(!sender.is_clear());
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert!(pipe.bytes.is_empty(), "nothing leaves before it is sealed");
    sender.seal(77, 88);
    assert!(!sender.is_clear());
    assert_eq!(write(&mut sender, &mut pipe), Poll::Ready(Ok(())));
    assert!(sender.is_clear());
    received(pipe.bytes, |frames| {
        assert_eq!(frames.len(), 1);
        let header = frames[0].header();
        assert_eq!((header.seq, header.sent_at, header.consumed), (1, 77, 88));
        let got: Vec<_> = messages(frames).iter().map(|(m, bytes)| (m.seq, *bytes)).collect();
        let want = (0..10).flat_map(|nth| [(nth, 0), (nth, 1_088)]);
        assert_eq!(got, want.collect::<Vec<_>>());
    });
}

#[test]
fn partial_writes_of_every_length_go_on_where_they_stopped() {
    let send = |each: usize, stops: bool| {
        let (mut sender, mut pipe) = pair();
        pipe.each = each;
        sender.control(&Control::Liveness(beat(4)), 5, 6);
        sender.control(&Control::Digest(Digest { count: 1, hash: 2 }), 5, 6);
        for nth in 0..3 {
            sender.push(&append(1, nth), &[batch(48, 1), batch(16, 2)]).unwrap();
        }
        sender.seal(7, 8);
        if !stops {
            assert!(write(&mut sender, &mut pipe).is_ready());
            return pipe.bytes;
        }
        loop {
            pipe.room = each;
            let done = write(&mut sender, &mut pipe).is_ready();
            assert_eq!(done, sender.is_clear());
            if done {
                return pipe.bytes;
            }
            assert_eq!(sender.room(), 0, "bytes are unsent");
            assert_eq!(sender.push(&append(1, 9), &[batch(16, 1)]), Err(PushError::Full));
        }
    };
    let want = send(usize::MAX, false);
    assert!(600 < want.len());
    for each in 1..=want.len() {
        assert!(send(each, false) == want, "{each} bytes a write");
        assert!(send(each, true) == want, "{each} bytes, then full");
    }
}

#[test]
fn bodies_are_written_from_where_they_are_and_dropped_once_written() {
    let (mut sender, mut pipe) = pair();
    let batches = [batch(32, 1), batch(48, 2), batch(64, 3)];
    sender.push(&append(1, 1), &batches).unwrap();
    sender.seal(0, 0);
    let head = usize::try_from(OVERHEAD).unwrap() + 2 * 48;
    pipe.room = head + 32 + 47;
    assert!(write(&mut sender, &mut pipe).is_pending());
    let places: Vec<_> =
        batches.iter().map(|(_, body)| (body.as_ptr().addr(), body.len())).collect();
    assert_eq!(pipe.calls[0][1..], places);
    let is_last: Vec<_> = batches.iter().map(|(_, body)| body.is_last()).collect();
    assert_eq!(is_last, [true, false, false], "the second one lacks a byte");
    pipe.room = usize::MAX;
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert!(batches.iter().all(|(_, body)| body.is_last()));
    assert_eq!(pipe.calls[1], [(places[1].0 + 47, 1), places[2]]);
}

#[test]
fn a_write_has_at_most_128_parts() {
    let (mut sender, mut pipe) = pair();
    for nth in 0..500 {
        sender.push(&append(1, nth), &[batch(16, 1)]).unwrap();
    }
    sender.control(&Control::Liveness(beat(4)), 0, 0);
    sender.seal(0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    let parts: Vec<_> = pipe.calls.iter().map(Vec::len).collect();
    assert_eq!(parts, [128, 128, 128, 118], "502 parts");
    assert_eq!(received(pipe.bytes, |frames| messages(frames).len()), 500);
}

#[test]
fn a_frame_ends_at_256_kib_unless_one_append_is_larger() {
    let (mut sender, mut pipe) = pair();
    let room = (256 << 10) - OVERHEAD;
    assert_eq!(sender.room(), room);
    sender.push(&append(1, 1), &[batch(1_040, 1)]).unwrap();
    assert_eq!(sender.room(), room - 1_040 - 96 - 48);
    let more = sender.room();
    assert_eq!(sender.push(&append(1, 2), &[batch(more + 16, 1)]), Err(PushError::Full));
    sender.push(&append(1, 2), &[batch(more, 1)]).unwrap();
    assert_eq!(sender.room(), 0);
    sender.push(&answer(1, 3), &[]).unwrap();
    sender.seal(0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert_eq!(pipe.bytes.len(), 256 << 10, "the answer waits for the next one");
    sender.seal(0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());

    let most = FRAME_MAX - OVERHEAD;
    assert_eq!(sender.push(&append(1, 4), &[batch(most + 16, 1)]), Err(PushError::TooLarge));
    sender.push(&append(1, 4), &[batch(most, 1)]).unwrap();
    assert_eq!(sender.room(), 0);
    assert_eq!(sender.push(&append(1, 5), &[batch(16, 1)]), Err(PushError::Full));
    sender.seal(0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    let seqs = received(pipe.bytes, |frames| {
        messages(frames).iter().map(|(message, _)| message.seq).collect::<Vec<_>>()
    });
    assert_eq!(seqs, [1, 2, 3, 4]);
}

#[test]
fn what_is_larger_than_the_window_is_no_message_of_the_lane() {
    let mut sender = Sender::new(FRAME_MAX, 4_096);
    let most = 4_096 - 512 - OVERHEAD;
    assert_eq!(sender.room(), most, "an eighth is for what has no body");
    assert_eq!(sender.push(&append(1, 1), &[batch(most + 16, 1)]), Err(PushError::TooLarge));
    assert_eq!(sender.push(&append(1, 1), &[batch(most, 1)]), Ok(()));
}

/// The shards of the messages, in order.
fn shards(frames: &[Received]) -> Vec<u64> {
    messages(frames).iter().map(|(message, _)| message.shard.0).collect()
}

#[test]
fn messages_beyond_a_full_frame_wait_in_order() {
    let (mut sender, mut pipe) = pair();
    let count = 10_000;
    for shard in 0..count {
        sender.push(&answer(shard, 1), &[]).unwrap();
    }
    assert_eq!(sender.room(), 0, "nothing passes those that wait");
    assert_eq!(sender.push(&append(1, 1), &[batch(16, 1)]), Err(PushError::Full));
    let mut frames = 0;
    while !sender.is_clear() {
        sender.seal(0, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
        frames += 1;
    }
    assert_eq!(frames, 4, "2,730 messages a frame");
    assert!(0 < sender.room() && !sender.is_overrun());
    let got = received(pipe.bytes, shards);
    assert_eq!(got, (0..count).collect::<Vec<_>>());
}

#[test]
fn while_bytes_are_unsent_messages_go_into_the_next_frame() {
    let (mut sender, mut pipe) = pair();
    sender.push(&answer(0, 1), &[]).unwrap();
    sender.seal(0, 0);
    pipe.room = 5;
    assert!(write(&mut sender, &mut pipe).is_pending());
    for shard in 1..4_000 {
        sender.push(&answer(shard, 1), &[]).unwrap();
        sender.seal(0, 0);
    }
    pipe.room = usize::MAX;
    assert!(write(&mut sender, &mut pipe).is_ready());
    while !sender.is_clear() {
        sender.seal(0, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
    }
    received(pipe.bytes, |frames| {
        assert_eq!(frames.len(), 3, "one, a full one, the rest");
        assert_eq!(shards(frames), (0..4_000).collect::<Vec<_>>());
    });
}

/// A sender whose window is used up.
fn without_credit() -> (Sender, Pipe) {
    let (mut sender, mut pipe) = (Sender::new(4_096, 8_192), Pipe::new());
    while 0 < sender.room() {
        let body = sender.room().min(2_048) & !15;
        sender.push(&append(0, 1), &[batch(body, 1)]).unwrap();
        sender.seal(0, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
    }
    // Bodies leave credit for what has none.
    while 160 <= sender.credit() {
        sender.push(&answer(0, 1), &[]).unwrap();
        sender.seal(0, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
    }
    while 64 <= sender.credit() {
        sender.control(&Control::Digest(Digest { count: 1, hash: 2 }), 0, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
    }
    (sender, pipe)
}

#[test]
fn of_waiting_messages_the_newest_of_a_kind_wins() {
    let (mut sender, mut pipe) = without_credit();
    let before = core::mem::take(&mut pipe.bytes);
    let hint = |seq: u16| message(1, seq, What::CommitHint { commit: LogIndex(seq.into()) });
    let other = |seq: u16| Message { from: ReplicaId(9), ..answer(1, seq) };
    let pushed = [answer(1, 1), hint(2), answer(2, 3), other(4), answer(1, 5), hint(6)];
    for message in &pushed {
        sender.push(message, &[]).unwrap();
    }
    sender.seal(0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert!(pipe.bytes.is_empty(), "there is no credit for it");
    sender.set_peer_consumed(8_192 - sender.credit()).unwrap();
    sender.seal(0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    let seqs = received([before, pipe.bytes].concat(), |frames| {
        let last = messages(&frames[frames.len() - 1..]);
        last.iter().map(|(message, _)| message.seq).collect::<Vec<_>>()
    });
    assert_eq!(seqs, [3, 4, 5, 6], "those that nothing replaced, in order");
}

#[test]
fn too_many_waiting_messages_overrun_the_lane() {
    let (mut sender, _pipe) = without_credit();
    let fit = (1 << 20) / 96;
    for round in 0..3 {
        for shard in 0..fit {
            sender.push(&answer(shard, round), &[]).unwrap();
        }
    }
    assert!(!sender.is_overrun(), "newer ones replace older ones");
    assert_eq!(sender.push(&answer(fit, 1), &[]), Err(PushError::Full));
    assert!(sender.is_overrun());
    sender.push(&answer(0, 9), &[]).unwrap();
    assert!(sender.is_overrun(), "it stays");
}

#[test]
fn too_many_waiting_rows_overrun_the_lane() {
    let (mut sender, _pipe) = pair();
    let rows = vec![Row::default(); 1_000];
    let fit = (1 << 20) / (64 + 48 * 1_000);
    for _ in 0..fit {
        sender.control(&Control::Rows { rows: &rows, last: false }, 0, 0);
        sender.control(&Control::Liveness(beat(4)), 0, 0);
        sender.control(&Control::Credit, 0, 0);
    }
    assert!(!sender.is_overrun());
    sender.control(&Control::Rows { rows: &rows, last: false }, 0, 0);
    assert!(sender.is_overrun());
}

#[test]
fn frames_of_the_lane_leave_first_and_the_newest_beat_alone() {
    let (mut sender, mut pipe) = pair();
    sender.push(&append(1, 1), &[batch(64, 1)]).unwrap();
    sender.seal(9, 0);
    let digest = Digest { count: 1, hash: 2 };
    for at in [3, 4] {
        sender.control(&Control::Goodbye { reason: 1 }, at, 0);
        sender.control(&Control::Digest(digest), at, 0);
        sender.control(&Control::Credit, at, 5);
        sender.control(&Control::LivenessReply(beat(at + 10)), at, 0);
        sender.control(&Control::Liveness(beat(at)), at, 0);
    }
    assert!(write(&mut sender, &mut pipe).is_ready());
    received(pipe.bytes, move |frames| {
        let kinds: Vec<_> = frames.iter().map(|frame| frame.header().kind).collect();
        let lane = [Kind::Liveness, Kind::LivenessReply, Kind::Digest, Kind::Digest];
        assert_eq!(kinds, [&lane[..], &[Kind::Msgs, Kind::Goodbye]].concat());
        let stamp = |frame: &Received| (frame.header().sent_at, frame.header().consumed);
        assert!(frames.iter().all(|frame| stamp(frame) == (9, 5)), "the latest, on each of them");
        let beats = [ControlFrame::Liveness(beat(4)), ControlFrame::LivenessReply(beat(14))];
        assert_eq!(controls(frames)[..2], beats);
    });
}

#[test]
fn without_any_credit_beats_leave_at_once_and_with_some_they_leave_first() {
    let (mut sender, mut pipe) = without_credit();
    let (before, digest) = (core::mem::take(&mut pipe.bytes), Digest { count: 1, hash: 2 });
    sender.push(&answer(1, 3), &[]).unwrap();
    sender.control(&Control::Digest(digest), 1, 0);
    for (at, consumed) in [(2, 0), (3, 4_096)] {
        sender.set_peer_consumed(consumed).unwrap();
        sender.control(&Control::LivenessReply(beat(at)), at, 0);
        sender.control(&Control::Liveness(beat(at)), at, 0);
        sender.seal(at, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
    }
    let beats = [Kind::Liveness, Kind::LivenessReply];
    let used = kinds(before.clone());
    let want = [&used[..], &beats[..], &beats[..], &[Kind::Digest, Kind::Msgs]].concat();
    assert_eq!(kinds([before, pipe.bytes].concat()), want, "the others wait for credit");
}

#[test]
fn a_credit_leaves_when_nothing_else_does() {
    let (mut sender, mut pipe) = pair();
    sender.control(&Control::Credit, 1, 5);
    sender.control(&Control::Credit, 2, 6);
    assert!(write(&mut sender, &mut pipe).is_ready());
    sender.control(&Control::Credit, 3, 7);
    sender.control(&Control::Liveness(beat(3)), 3, 7);
    assert!(write(&mut sender, &mut pipe).is_ready());
    received(pipe.bytes, |frames| {
        let told = |frame: &Received| (frame.header().kind, frame.header().consumed);
        let got: Vec<_> = frames.iter().map(told).collect();
        assert_eq!(got, [(Kind::Credit, 6), (Kind::Liveness, 7)]);
    });
}

#[test]
fn a_frame_of_the_lane_waits_for_the_frame_that_is_being_written() {
    let (mut sender, mut pipe) = pair();
    sender.push(&append(1, 1), &[batch(4_096, 1)]).unwrap();
    sender.push(&append(1, 2), &[batch(4_096, 1)]).unwrap();
    sender.seal(0, 0);
    pipe.room = 1_000;
    assert!(write(&mut sender, &mut pipe).is_pending());
    sender.control(&Control::Liveness(beat(3)), 3, 7);
    sender.push(&answer(1, 3), &[]).unwrap();
    sender.seal(3, 0);
    pipe.room = usize::MAX;
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert_eq!(kinds(pipe.bytes.clone()), [Kind::Msgs, Kind::Liveness], "one frame is unsent");
    sender.seal(3, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert_eq!(kinds(pipe.bytes), [Kind::Msgs, Kind::Liveness, Kind::Msgs]);
}

#[test]
fn the_frame_being_built_keeps_the_credit_that_it_was_given() {
    let (mut sender, mut pipe) = (Sender::new(4_096, 8_064), Pipe::new());
    for _ in 0..2 {
        sender.push(&append(1, 1), &[batch(3_088, 1)]).unwrap();
        sender.seal(0, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
    }
    sender.push(&append(1, 1), &[batch(256, 1)]).unwrap();
    (0..10).for_each(|shard| sender.push(&answer(shard, 1), &[]).unwrap());
    sender.seal(0, 0);
    assert!(sender.credit() < 256 + u64::from(OVERHEAD) + 10 * 96 + 64);
    sender.control(&Control::Digest(Digest { count: 1, hash: 2 }), 0, 0);
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert!(!sender.is_clear(), "the digest waits for credit");
    sender.set_peer_consumed(64).unwrap();
    assert!(write(&mut sender, &mut pipe).is_ready());
    assert!(sender.is_clear());
    assert_eq!(kinds(pipe.bytes), [Kind::Msgs, Kind::Msgs, Kind::Msgs, Kind::Digest]);
}

#[test]
fn rows_are_cut_into_frames_that_the_peer_takes() {
    let row = |shard| Row { shard: ShardId(shard), ..Row::default() };
    let rows: Vec<_> = (0..).take(2 * ROWS_MAX).map(row).collect();
    for (frame_max, want) in [(FRAME_MAX, 2), (100_000, 6)] {
        let (mut sender, mut pipe) = (Sender::new(frame_max, WINDOW), Pipe::new());
        sender.control(&Control::Rows { rows: &rows, last: true }, 0, 0);
        sender.control(&Control::Rows { rows: &[], last: true }, 0, 0);
        assert!(write(&mut sender, &mut pipe).is_ready());
        let rows = rows.clone();
        on_core(move |env| {
            let mut receiver = Receiver::new(frame_max, WINDOW);
            let frames = feed(&mut receiver, &env, &pipe.bytes, usize::MAX).unwrap();
            assert_eq!(frames.len(), want + 1);
            let (mut got, mut lasts) = (Vec::new(), Vec::new());
            for frame in controls(&frames) {
                if let ControlFrame::Rows { rows, last } = frame {
                    got.extend(rows);
                    lasts.push(last);
                }
            }
            assert!(got == rows);
            let last = |nth| nth + 2 > want;
            assert_eq!(lasts, (0..=want).map(last).collect::<Vec<_>>(), "only the last one");
        });
    }
}

#[test]
fn what_the_peer_released_grows_and_is_never_more_than_was_sent() {
    let (mut sender, mut pipe) = pair();
    sender.push(&append(1, 1), &[batch(64, 1)]).unwrap();
    sender.seal(0, 0);
    let refused = |bytes| Err(FrameError::Consumed { bytes });
    assert_eq!(sender.set_peer_consumed(1), refused(1), "nothing was sent");
    assert!(write(&mut sender, &mut pipe).is_ready());
    let sent = u64::from(64 + OVERHEAD);
    assert_eq!(sender.credit(), u64::from(WINDOW) - sent);
    assert_eq!(sender.set_peer_consumed(sent + 1), refused(sent + 1));
    sender.set_peer_consumed(100).unwrap();
    assert_eq!(sender.set_peer_consumed(99), refused(99));
    assert_eq!(sender.set_peer_consumed(u64::MAX), refused(u64::MAX));
    sender.set_peer_consumed(100).unwrap();
    assert_eq!(sender.credit(), u64::from(WINDOW) - sent + 100, "a refusal changes nothing");
    sender.set_peer_consumed(sent).unwrap();
    assert_eq!(sender.credit(), u64::from(WINDOW));
}

#[test]
fn an_error_of_the_stream_is_handed_on() {
    let (mut sender, mut pipe) = pair();
    let why = EnvError::new(Op::Send, EnvKind::Reset);
    pipe.broken = Some(why.clone());
    sender.control(&Control::Credit, 0, 0);
    assert_eq!(write(&mut sender, &mut pipe), Poll::Ready(Err(why)));
    pipe.broken = None;
    pipe.each = 0;
    let closed = EnvError::new(Op::Send, EnvKind::Closed);
    assert_eq!(write(&mut sender, &mut pipe), Poll::Ready(Err(closed)), "it takes nothing");
}

#[test]
fn sending_allocates_nothing_once_warm() {
    let (mut sender, mut pipe) = pair();
    pipe.bytes.reserve(1 << 20);
    pipe.calls.reserve(100);
    let batches = [batch(256, 1)];
    let mut turn = |now: u64| {
        pipe.bytes.clear();
        sender.control(&Control::Liveness(beat(now)), now, now);
        sender.control(&Control::LivenessReply(beat(now)), now, now);
        for nth in 0..64 {
            sender.push(&append(1, nth), &batches).unwrap();
            sender.push(&answer(1, nth), &[]).unwrap();
        }
        sender.seal(now, now);
        assert!(write(&mut sender, &mut pipe).is_ready());
        sender.set_peer_consumed(u64::from(WINDOW) - sender.credit()).unwrap();
        // What the pipe itself keeps of its calls.
        pipe.calls.len()
    };
    turn(1);
    let counted = allocation_counter::measure(|| {
        for now in 2..20 {
            assert_eq!(turn(now), usize::try_from(now).unwrap());
        }
    });
    assert_eq!(counted.count_total, 18, "one of the pipe for each call");
}
