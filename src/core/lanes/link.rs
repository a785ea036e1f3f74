//! One connection of a lane: its socket, what came in and waits, what goes out.
//!
//! A task reads and puts whole frames into the core's mail; the loop writes. Frames that wait hold
//! their bytes of the window, so the peer's credit bounds them.

use core::future::poll_fn;
use core::task::Poll;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use bowline_env::{Bell, Env, EnvError, Nanos, SharedBuf};
use bowline_net::{Down, FrameError, LaneLife, Line, Opened, Pipe, Received, Receiver, Sender};
use bowline_raft::{BatchHeader, LogIndex, Message, ShardId, Times};

use crate::core::gate::Gate;
use crate::core::mail::{Event, Mail};
use crate::route::core_of;

/// Rings the core's bell when a socket takes bytes again.
#[derive(Debug)]
pub(crate) struct Nudge {
    rung: AtomicBool,
    bell: Bell,
}

impl Nudge {
    pub(crate) fn new(bell: Bell) -> Arc<Self> {
        Arc::new(Self { rung: AtomicBool::new(false), bell })
    }

    /// Whether it was rung since it was taken last.
    pub(crate) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The peer closed it.
    Closed,
    /// The socket failed.
    Socket(EnvError),
    /// What came is no frame.
    Frame(FrameError),
    /// What came is a frame without a meaning.
    Meaning,
    /// The lane's own rules.
    Down(Down),
    /// The peer said that it goes.
    Goodbye,
    /// More waits to be sent than its bound.
    Overrun,
    /// Raft found the peer false.
    Reset,
    /// The peer is no member any more.
    Left,
    /// The peer began another life on another core of its.
    FormerLife,
    /// This node runs on an old copy of its directory.
    OldCopy,
    /// Another connection took its place.
    Replaced,
}

/// How long what a peer told of its wall clock is gone by: three times the support of a leader, so
/// that who just lost its leader still has that one's word.
const WALL_AGE_MAX: Nanos = Nanos(3 * Times::DEFAULT.support);

/// What the wall clock of a peer showed when it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ToldWall {
    wall_ms: u64,
    /// The own boot clock then.
    pub(super) at: Nanos,
}

impl ToldWall {
    /// What a beat that came at `at` told; 0 tells nothing.
    pub(super) fn of(wall_ms: u64, at: Nanos) -> Option<Self> {
        (wall_ms != 0).then_some(Self { wall_ms, at })
    }

    /// What that clock shows now, if it ran on like the own boot clock; none once it was told too
    /// long ago.
    pub(super) fn now_ms(self, now: Nanos) -> Option<u64> {
        let passed = now.since(self.at);
        let passed_ms = passed.0 / Nanos::from_millis(1).0;
        (passed <= WALL_AGE_MAX).then_some(self.wall_ms.saturating_add(passed_ms))
    }
}

/// Appends in their order, with their batches.
pub(super) type Pending = VecDeque<(Message, Vec<(BatchHeader, SharedBuf)>)>;

/// A connection that is up.
pub(crate) struct Link<E: Env> {
    pub(super) line: Rc<RefCell<Line<E::Stream>>>,
    pub(super) receiver: Rc<RefCell<Receiver>>,
    pub(in crate::core) sender: Sender,
    pub(super) life: u32,
    /// The life of the node at the other end.
    pub(super) boot: u64,
    pub(super) frame_max: u32,
    pub(super) since: Nanos,
    /// The core at the other end, and the cores and streams of its node.
    end: (u16, u16, u16),
    pub(super) liveness: LaneLife,
    /// What the peer's wall clock showed, by the last beat that told it.
    pub(super) wall: Option<ToldWall>,
    /// Appends that the frame being built had no room for, in their order. Their bodies are those
    /// of the log's memory; raft builds no more of them while one waits.
    pub(super) pending: Pending,
    /// Frames of messages, next first.
    pub(super) inbox: VecDeque<Received>,
    /// Messages of the first of them that were taken.
    pub(super) taken: usize,
    /// Of so many frames, the first ones, all was taken but Appends that wait.
    pub(super) passed: usize,
    /// The frame that is looked at next.
    pub(super) next: usize,
    /// Logs that had no room: no Append is put into them before a write became durable.
    pub(super) full: BTreeSet<usize>,
    /// Logs that Appends wait for.
    pub(super) wanted: BTreeSet<usize>,
    /// The highest commit index that a waiting Append of a shard names.
    pub(super) told: BTreeMap<ShardId, LogIndex>,
    /// What the peer was told to be released.
    pub(super) credited: u64,
    /// Closed when the connection is given up: its reader ends.
    ended: Rc<Gate>,
}

impl<E: Env> Drop for Link<E> {
    fn drop(&mut self) {
        self.ended.close();
    }
}

impl<E: Env> Link<E> {
    /// Takes a connection over and starts its reader.
    pub(super) fn open(
        env: &E,
        mail: &Rc<Mail<E>>,
        opened: Opened<E::Stream>,
        (lane, life, window): (usize, u32, u32),
        now: Nanos,
    ) -> Self {
        let (agreed, boot) = (opened.agreed, opened.theirs.boot);
        let record = &opened.theirs.record;
        let end = (opened.theirs.from_core, record.cores.max(1), record.streams.max(1));
        let line = Rc::new(RefCell::new(opened.line));
        let receiver = Rc::new(RefCell::new(Receiver::new(agreed.frame_max, window)));
        let ended = Rc::new(Gate::default());
        let reader = Reader {
            env: env.clone(),
            mail: Rc::clone(mail),
            line: Rc::clone(&line),
            receiver: Rc::clone(&receiver),
            lane,
            life,
        };
        let gate = Rc::clone(&ended);
        drop(env.spawn(bowline_env::Class::Core, async move {
            let _: Option<()> = gate.or(reader.run()).await;
        }));
        Self {
            line,
            receiver,
            sender: Sender::new(agreed.frame_max, agreed.window),
            life,
            boot,
            frame_max: agreed.frame_max,
            since: now,
            end,
            liveness: LaneLife::new(now),
            wall: None,
            pending: VecDeque::new(),
            inbox: VecDeque::new(),
            taken: 0,
            passed: 0,
            next: 0,
            full: BTreeSet::new(),
            wanted: BTreeSet::new(),
            told: BTreeMap::new(),
            credited: 0,
            ended,
        }
    }

    /// Whether the core at the other end has `shard`.
    pub(super) fn leads_to(&self, shard: ShardId) -> bool {
        let (core, cores, streams) = self.end;
        core_of(shard, streams, usize::from(cores)) == usize::from(core)
    }

    /// Bytes of the peer's frames that were released.
    pub(in crate::core) fn consumed(&self) -> u64 {
        self.receiver.borrow().consumed()
    }
}

/// Moves bytes from a socket to frames.
struct Reader<E: Env> {
    env: E,
    mail: Rc<Mail<E>>,
    line: Rc<RefCell<Line<E::Stream>>>,
    receiver: Rc<RefCell<Receiver>>,
    lane: usize,
    life: u32,
}

impl<E: Env> Reader<E> {
    async fn run(self) {
        let (lane, life) = (self.lane, self.life);
        loop {
            if let Err(why) = self.read_some().await {
                self.mail.push(Event::LaneEnded { lane, life, why });
                return;
            }
        }
    }

    /// Reads what is there and hands on the frames that are whole.
    async fn read_some(&self) -> Result<(), Ended> {
        let read = poll_fn(|cx| {
            let mut receiver = self.receiver.borrow_mut();
            let room = match receiver.room(&self.env) {
                Ok(room) => room,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let read = self.line.borrow_mut().poll_read(cx, room);
            read.map(|read| read.inspect(|bytes| receiver.filled(*bytes)))
        });
        match read.await {
            Ok(0) => return Err(Ended::Closed),
            Ok(_) => {},
            Err(error) => return Err(Ended::Socket(error)),
        }
        loop {
            let next = self.receiver.borrow_mut().next();
            match next {
                Ok(Some(frame)) => {
                    let (lane, life) = (self.lane, self.life);
                    self.mail.push(Event::Frame { lane, life, frame });
                },
                Ok(None) => return Ok(()),
                Err(error) => return Err(Ended::Frame(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(told: u64, later: Nanos, want: Option<u64>) {
        let at = Nanos(77);
        let wall = ToldWall::of(told, at).and_then(|wall| wall.now_ms(at.after(later)));
        assert_eq!(wall, want, "{told} ms, {later:?} later");
    }

    #[test]
    fn a_peers_wall_clock_runs_on_and_is_forgotten() {
        check(5_000, Nanos(0), Some(5_000));
        check(5_000, Nanos(1_999_999), Some(5_001));
        check(5_000, WALL_AGE_MAX, Some(6_800));
        check(5_000, WALL_AGE_MAX.after(Nanos(1)), None);
        check(u64::MAX, Nanos::SECOND, Some(u64::MAX));
    }

    #[test]
    fn a_wall_clock_of_zero_was_not_told() {
        check(0, Nanos(0), None);
    }
}
