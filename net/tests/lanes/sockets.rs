//! Two ends over simulated sockets: slices, stalls and resets.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bowline_env::sim::{Fault, Profile, Rng, SimEnv, World};
use bowline_env::{CoreNo, Env, EnvError, Kind as EnvKind, Listener, Nanos, Op};
use bowline_net::{Control, ControlFrame, Pipe};

use crate::kit::{End, OVERHEAD, answer, append, batch};

const FRAME_MAX: u32 = 160 << 10;
pub(crate) const MESSAGES: usize = 200;
pub(crate) const LIMIT: Nanos = Nanos(60 * Nanos::SECOND.0);
const GOODBYE: ControlFrame = ControlFrame::Goodbye { reason: 3 };

/// One end, its socket, and what is left of its story.
struct Side<P> {
    end: End,
    stream: P,
    env: SimEnv,
    said_goodbye: bool,
}

impl<P: Pipe> Side<P> {
    fn new(env: SimEnv, stream: P, seed: u64) -> Self {
        let (rng, mut end) = (Rng::new(seed), End::new(FRAME_MAX, 2 * FRAME_MAX));
        for shard in (0..).take(MESSAGES) {
            if rng.ratio(1, 2) {
                end.kept.push_back((answer(shard, 1), Vec::new()));
            } else {
                let most = u64::from((FRAME_MAX - OVERHEAD) / 16);
                let body = 16 * u32::try_from(rng.magnitude(1, most)).unwrap();
                end.kept.push_back((append(shard, 1), vec![batch(body, 1)]));
            }
        }
        Self { end, stream, env, said_goodbye: false }
    }

    /// Reads and writes until both have said goodbye.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EnvError>> {
        loop {
            let read = self.poll_read(cx)?;
            self.end.turn(self.env.now().0);
            let all = self.end.kept.is_empty() && self.end.got.len() == MESSAGES;
            if all && self.end.sender.is_clear() && !self.said_goodbye {
                self.said_goodbye = true;
                self.end.sender.control(&Control::Goodbye { reason: 3 }, 0, 0);
            }
            let written = self.end.sender.poll_write(cx, &mut self.stream)?;
            let heard = self.end.controls.contains(&GOODBYE);
            if heard && self.said_goodbye && written.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if read.is_pending() && self.end.inbox.is_empty() {
                return Poll::Pending;
            }
            if read.is_pending() {
                self.end.inbox.clear();
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EnvError>> {
        let room = self.end.receiver.room(&self.env)?;
        match self.stream.poll_read(cx, room)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => Poll::Ready(Err(EnvError::new(Op::Receive, EnvKind::Closed))),
            Poll::Ready(bytes) => {
                self.end.receiver.filled(bytes);
                self.end.hear();
                Poll::Ready(Ok(()))
            },
        }
    }
}

/// How a lane ended on one side, and the shards of the messages that came.
pub(crate) type Told = (Result<(), EnvError>, Vec<u64>);

pub(crate) async fn live<P: Pipe>(env: SimEnv, stream: P, seed: u64, linger: Nanos) -> Told {
    let mut side = Side::new(env, stream, seed);
    let ended = poll_fn(|cx| side.poll(cx)).await;
    // A socket that is dropped with bytes unread takes from its peer what was sent before.
    side.env.sleep_until(side.env.now().after(linger)).await;
    (ended, side.end.got.iter().map(|(shard, _)| *shard).collect())
}

/// Runs a lane between two nodes.
fn run(seed: u64, profile: Profile, linger: Nanos) -> [Told; 2] {
    let world = World::new(seed, profile);
    let at = SocketAddr::new(World::addr(1), 7_000);
    let listens = world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        let listener = env.listen(at).unwrap();
        match listener.accept().await {
            Ok(stream) => live(env, stream, seed, linger).await,
            Err(why) => (Err(why), Vec::new()),
        }
    });
    let dials = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        loop {
            match env.connect(at, Nanos::SECOND).await {
                Ok(stream) => break live(env, stream, seed + 1, linger).await,
                Err(why) if why.kind == EnvKind::Refused => {
                    env.sleep_until(env.now().after(Nanos::MILLI)).await;
                },
                Err(why) => break (Err(why), Vec::new()),
            }
        }
    });
    let ended = world.run_until(|| listens.is_done() && dials.is_done(), LIMIT);
    ended.expect("no end waits for ever");
    [listens.take().unwrap(), dials.take().unwrap()]
}

#[test]
fn every_message_arrives_in_order_over_sockets() {
    let sliced = Profile::swarm().without(Fault::NetReset).without(Fault::NoBuffer);
    for (seed, profile) in [(1, sliced), (2, sliced), (3, sliced), (4, Profile::calm())] {
        for (ended, got) in run(seed, profile, Nanos::SECOND) {
            assert_eq!(ended, Ok(()), "seed {seed}");
            assert!(got.into_iter().eq((0..).take(MESSAGES)), "seed {seed}");
        }
    }
}

#[test]
fn what_arrived_before_a_reset_was_in_order() {
    let (mut resets, mut whole) = (0, 0);
    for seed in 0..10 {
        for (ended, got) in run(seed, Profile::swarm().without(Fault::NoBuffer), Nanos(0)) {
            let came = got.len();
            assert!(got.into_iter().eq((0..).take(came)), "seed {seed}");
            assert!(ended.is_err() || came == MESSAGES, "seed {seed}");
            *(if ended.is_err() { &mut resets } else { &mut whole }) += 1;
        }
    }
    assert!(0 < resets && 0 < whole, "{resets} reset, {whole} whole");
}
