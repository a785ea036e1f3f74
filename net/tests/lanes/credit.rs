//! Credit: never overrun, never lost, and never in the way of what is free.

use bowline_env::sim::{Rng, SimEnv};
use bowline_net::{Control, ControlFrame, PushError};
use bowline_raft::{Digest, Row};

use crate::kit::{End, OVERHEAD, answer, append, batch, beat, carry, on_core};

/// Gives an end `count` messages of distinct shards, from 0; some with batches.
fn offer(end: &mut End, rng: &Rng, count: u64, body_max: u32) -> Vec<(u64, usize)> {
    let mut want = Vec::new();
    for shard in 0..count {
        if rng.ratio(1, 2) {
            end.kept.push_back((answer(shard, 1), Vec::new()));
            want.push((shard, 0));
            continue;
        }
        let most = u64::from(body_max / 16);
        let body = 16 * u32::try_from(rng.magnitude(1, most)).unwrap();
        end.kept.push_back((append(shard, 1), vec![batch(body, 1)]));
        want.push((shard, usize::try_from(body).unwrap()));
    }
    want
}

/// Two ends with any frame size, any pieces, and frames that are held for any time.
fn story(seed: u64, env: &SimEnv) {
    let rng = Rng::new(seed);
    let frame_max = 16 * u32::try_from(rng.between(256, 20_000)).unwrap();
    let window = u32::try_from(rng.between(2, 6)).unwrap() * frame_max;
    let mut ends = [End::new(frame_max, window), End::new(frame_max, window)];
    let body_max = frame_max - OVERHEAD;
    let wants = [0, 1].map(|nth| offer(&mut ends[1 - nth], &rng, 60, body_max));
    let mut now = 0;
    while ends.iter().zip(&wants).any(|(end, want)| end.got.len() < want.len()) {
        now += 1;
        assert!(now < 20_000, "seed {seed}: it goes on");
        let [one, two] = &mut ends;
        let (from, to) = if rng.ratio(1, 2) { (one, two) } else { (two, one) };
        if rng.ratio(1, 8) {
            from.sender.control(&Control::Digest(Digest { count: 1, hash: now }), now, 0);
            from.sender.control(&Control::Liveness(beat(now)), now, 0);
        }
        if rng.ratio(1, 20) {
            let rows = [Row::default(); 30];
            from.sender.control(&Control::Rows { rows: &rows, last: true }, now, 0);
        }
        from.turn(now);
        let room = usize::try_from(rng.magnitude(1, 1 << 20)).unwrap();
        carry(from, to, env, room);
        let held: u64 = to.inbox.iter().map(|frame| u64::from(frame.header().len)).sum();
        assert!(held <= u64::from(window), "seed {seed}");
        if rng.ratio(1, 2) {
            let count = rng.index(to.inbox.len() + 1);
            drop(to.inbox.drain(..count));
        }
    }
    for (end, want) in ends.iter().zip(&wants) {
        assert!(end.got == *want, "seed {seed}: in order, with every byte");
        assert!(!end.sender.is_overrun());
    }
}

#[test]
fn credit_is_never_overrun_and_never_lost() {
    on_core(|env| (0..40).for_each(|seed| story(seed, &env)));
}

#[test]
fn whatever_fits_the_room_is_taken() {
    on_core(|env| {
        let (rng, window) = (Rng::new(7), 300_000);
        let (mut one, mut two) = (End::new(100_000, window), End::new(100_000, window));
        let mut taken = 0;
        for now in 0..2_000 {
            let room = one.sender.room();
            if rng.ratio(1, 4) {
                one.sender.push(&answer(now, 1), &[]).unwrap();
            } else if 16 <= room {
                let body = 16 * u32::try_from(rng.between(1, u64::from(room / 16))).unwrap();
                assert_eq!(one.sender.push(&append(now, 1), &[batch(body, 1)]), Ok(()));
                taken += 1;
            }
            one.sender.seal(now, 0);
            carry(&mut one, &mut two, &env, usize::MAX);
            two.inbox.truncate(rng.index(two.inbox.len() + 1));
            two.sender.control(&Control::Credit, now, two.receiver.consumed());
            carry(&mut two, &mut one, &env, usize::MAX);
        }
        assert!(500 < taken, "{taken}");
    });
}

/// Bug: one write too large for its semaphore closed a partition (Redpanda #1503).
#[test]
fn the_largest_batch_fits_through_the_smallest_window() {
    on_core(|env| {
        let frame_max = 1_088 << 10;
        let (mut one, mut two) =
            (End::new(frame_max, 2 * frame_max), End::new(frame_max, 2 * frame_max));
        let largest = vec![batch(frame_max - OVERHEAD, 1)];
        for shard in 0..20 {
            one.kept.push_back((append(shard, 1), largest.clone()));
            one.kept.push_back((answer(shard, 2), Vec::new()));
        }
        let mut now = 0;
        while two.got.len() < 40 {
            now += 1;
            assert!(now < 200, "it goes on");
            one.turn(now);
            carry(&mut one, &mut two, &env, 300_000);
            two.inbox.clear();
            two.turn(now);
            carry(&mut two, &mut one, &env, usize::MAX);
        }
        let bytes = usize::try_from(frame_max - OVERHEAD).unwrap();
        let want = (0..20).flat_map(|shard| [(shard, bytes), (shard, 0)]);
        assert_eq!(two.got, want.collect::<Vec<_>>());
    });
}

/// Two ends that hold all they get, until neither sends any more.
fn stuck(env: &SimEnv) -> (End, End) {
    let (mut one, mut two) = (End::new(65_536, 200_000), End::new(65_536, 200_000));
    for shard in 0..40 {
        one.kept.push_back((append(shard, 1), vec![batch(20_000, 1)]));
        two.kept.push_back((append(shard, 1), vec![batch(20_000, 1)]));
    }
    for now in 0..20 {
        one.turn(now);
        assert!(carry(&mut one, &mut two, env, usize::MAX));
        two.turn(now);
        assert!(carry(&mut two, &mut one, env, usize::MAX));
    }
    assert_eq!((one.got.len(), two.got.len()), (8, 8), "a window holds no more");
    (one, two)
}

#[test]
fn with_both_windows_full_beats_answers_and_credit_go_through() {
    on_core(|env| {
        let (mut one, mut two) = stuck(&env);
        one.sender.push(&answer(99, 1), &[]).unwrap();
        assert_eq!(one.sender.push(&append(99, 1), &[batch(20_000, 1)]), Err(PushError::Full));
        one.sender.seal(99, 0);
        assert!(carry(&mut one, &mut two, &env, usize::MAX));
        assert_eq!(two.got.pop(), Some((99, 0)), "bodies leave credit for what has none");
        for now in 100..200 {
            one.sender.control(&Control::Liveness(beat(now)), now, 0);
            assert!(carry(&mut one, &mut two, &env, usize::MAX));
            assert_eq!(two.controls.pop(), Some(ControlFrame::Liveness(beat(now))));
            two.sender.control(&Control::LivenessReply(beat(now)), now, 0);
            assert!(carry(&mut two, &mut one, &env, usize::MAX));
            assert_eq!(one.controls.pop(), Some(ControlFrame::LivenessReply(beat(now))));
        }
        assert_eq!((one.got.len(), two.got.len()), (8, 8), "no body did");
        // One end is released: its credit crosses, and the other one goes on.
        two.inbox.clear();
        two.turn(300);
        assert!(carry(&mut two, &mut one, &env, usize::MAX));
        assert_eq!(one.controls, [ControlFrame::Credit]);
        one.turn(301);
        carry(&mut one, &mut two, &env, usize::MAX);
        assert!(8 < two.got.len());
        for now in 400..500 {
            one.inbox.clear();
            one.turn(now);
            carry(&mut one, &mut two, &env, usize::MAX);
            two.inbox.clear();
            two.turn(now);
            carry(&mut two, &mut one, &env, usize::MAX);
        }
        assert_eq!((one.got.len(), two.got.len()), (40, 40), "and both to the end");
    });
}

#[test]
fn frames_of_the_lane_that_need_credit_get_the_first_that_comes() {
    on_core(|env| {
        let (mut one, mut two) = stuck(&env);
        let rows = vec![Row::default(); 1_000];
        one.sender.control(&Control::Rows { rows: &rows, last: true }, 20, 0);
        assert!(carry(&mut one, &mut two, &env, usize::MAX));
        assert!(two.controls.is_empty(), "there is no credit for it");
        let mut released = 0;
        while two.controls.is_empty() {
            released += two.inbox.pop_front().map_or(0, |frame| frame.len());
            two.sender.control(&Control::Credit, 21, two.receiver.consumed());
            carry(&mut two, &mut one, &env, usize::MAX);
            one.turn(21);
            carry(&mut one, &mut two, &env, usize::MAX);
        }
        assert!(released < 2 * 65_536, "messages leave it to them: {released}");
        assert_eq!(two.controls, [ControlFrame::Rows { rows, last: true }]);
    });
}
