//! What these tests share: messages, batches, a pipe, and an end of a lane.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};

use bowline_env::sim::{Profile, SimEnv, World};
use bowline_env::{Buf, EnvError, Moved, Nanos, SharedBuf, Stream};
use bowline_net::{
    Control, ControlFrame, FrameError, Kind, Msgs, PushError, Received, Receiver, Sender,
};
use bowline_raft::{
    BatchHeader, BatchRange, Beat, Hint, LogIndex, Message, ReplicaId, ShardId, Slot, Term, What,
};

pub(crate) const FRAME_MAX: u32 = 1_088 << 10;
pub(crate) const WINDOW: u32 = 8 << 20;
/// Header, message, batch and root of a frame with one Append of one batch.
pub(crate) const OVERHEAD: u32 = 48 + 96 + 48 + 16;

/// Runs `main` on a core of a simulated node.
#[track_caller]
pub(crate) fn on_core<T: 'static>(main: impl FnOnce(SimEnv) -> T + 'static) -> T {
    let world = World::new(1, Profile::calm());
    world.run_on(1, Nanos::SECOND, async move |env| main(env)).expect("nothing waits")
}

pub(crate) fn message(shard: u64, seq: u16, what: What) -> Message {
    Message {
        shard: ShardId(shard),
        to: ReplicaId(2),
        from: ReplicaId(1),
        term: Term(5),
        hint: Hint { my_slot: Slot(7), ..Hint::default() },
        support: 3,
        seq,
        what,
    }
}

pub(crate) fn answer(shard: u64, seq: u16) -> Message {
    let matched = LogIndex(seq.into());
    message(shard, seq, What::AppendResp { matched, reject: None, no_quorum: false })
}

pub(crate) fn append(shard: u64, seq: u16) -> Message {
    let what = What::Append {
        prev: LogIndex(20),
        prev_term: Term(4),
        commit: LogIndex(19),
        read_seq: 7,
        batches: BatchRange::default(),
    };
    message(shard, seq, what)
}

/// A batch whose body has `len` bytes, each of which is `fill`.
pub(crate) fn batch(len: u32, fill: u8) -> (BatchHeader, SharedBuf) {
    let bytes = usize::try_from(len).unwrap();
    let mut buf = Buf::heap(bytes);
    buf.rest_mut()[..bytes].fill(fill);
    buf.fill(bytes);
    let body = buf.share(0..bytes);
    let mut head =
        BatchHeader { shard: ShardId(1), count: 1, len, term: Term(5), ..BatchHeader::default() };
    head.crc = head.checksum(&body);
    (head, body)
}

pub(crate) fn beat(sent_at: u64) -> Beat {
    Beat { epoch: 1, support: 2, log_progress: 3, sent_at, wall: 5, led_hash: 6 }
}

/// A socket whose kernel is a vector. It takes `each` bytes a call, and `room` in all.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) bytes: Vec<u8>,
    pub(crate) each: usize,
    pub(crate) room: usize,
    /// The addresses and lengths of the parts of each call.
    pub(crate) calls: Vec<Vec<(usize, usize)>>,
    pub(crate) broken: Option<EnvError>,
}

impl Pipe {
    pub(crate) fn new() -> Self {
        let (each, room) = (usize::MAX, usize::MAX);
        Self { bytes: Vec::new(), each, room, calls: Vec::new(), broken: None }
    }
}

impl Stream for Pipe {
    fn poll_read(&mut self, _: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, EnvError>> {
        let count = into.len().min(self.bytes.len());
        into[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes.drain(..count);
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>> {
        if let Some(why) = &self.broken {
            return Poll::Ready(Err(why.clone()));
        }
        if self.room == 0 {
            return Poll::Pending;
        }
        self.calls.push(parts.iter().map(|part| (part.as_ptr().addr(), part.len())).collect());
        let before = self.bytes.len();
        for part in parts {
            let left = self.each.min(self.room) - (self.bytes.len() - before);
            self.bytes.extend_from_slice(&part[..left.min(part.len())]);
        }
        let count = self.bytes.len() - before;
        self.room -= count;
        Poll::Ready(Ok(count))
    }

    fn shutdown_write(&mut self) -> Result<(), EnvError> {
        Ok(())
    }

    fn detach(self) -> Moved {
        Moved::new(self.bytes)
    }

    fn peer(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 1).into()
    }
}

/// Polls the sender once.
pub(crate) fn write<S: Stream>(sender: &mut Sender, stream: &mut S) -> Poll<Result<(), EnvError>> {
    sender.poll_write(&mut Context::from_waker(Waker::noop()), stream)
}

/// Gives `bytes` to a receiver, at most `each` at a time.
pub(crate) fn feed(
    receiver: &mut Receiver,
    env: &SimEnv,
    mut bytes: &[u8],
    each: usize,
) -> Result<Vec<Received>, FrameError> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let room = receiver.room(env).unwrap();
        assert!(!room.is_empty());
        let count = room.len().min(bytes.len()).min(each);
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        receiver.filled(count);
        while let Some(frame) = receiver.next()? {
            out.push(frame);
        }
    }
    Ok(out)
}

/// The messages of frames, each with the bytes of its bodies; control frames are none.
pub(crate) fn messages(frames: &[Received]) -> Vec<(Message, usize)> {
    let mut out = Vec::new();
    for received in frames.iter().filter(|received| received.header().kind == Kind::Msgs) {
        let msgs = Msgs::open(received.frame()).unwrap();
        for message in msgs.iter() {
            let message = message.unwrap();
            let batches = msgs.batches(&message);
            let bytes = batches.map(|batch| {
                assert!(batch.head.matches(batch.body), "the body is whole");
                batch.body.len()
            });
            out.push((message, bytes.sum()));
        }
    }
    out
}

/// The control frames among frames.
pub(crate) fn controls(frames: &[Received]) -> Vec<ControlFrame> {
    let others = frames.iter().filter(|received| received.header().kind != Kind::Msgs);
    others.map(|received| ControlFrame::decode(&received.frame()).unwrap().unwrap()).collect()
}

/// One end of a lane and what a core keeps beside it.
pub(crate) struct End {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    /// Messages that the sender has no room for yet.
    pub(crate) kept: VecDeque<(Message, Vec<(BatchHeader, SharedBuf)>)>,
    /// Frames of messages that are not released yet.
    pub(crate) inbox: VecDeque<Received>,
    /// Shards and bytes of the messages that came.
    pub(crate) got: Vec<(u64, usize)>,
    pub(crate) controls: Vec<ControlFrame>,
    window: u32,
    told: u64,
}

impl End {
    pub(crate) fn new(frame_max: u32, window: u32) -> Self {
        Self {
            sender: Sender::new(frame_max, window),
            receiver: Receiver::new(frame_max, window),
            kept: VecDeque::new(),
            inbox: VecDeque::new(),
            got: Vec::new(),
            controls: Vec::new(),
            window,
            told: 0,
        }
    }

    /// Pushes what there is room for, in order, and returns credit when a quarter is due.
    pub(crate) fn turn(&mut self, now: u64) {
        while let Some((message, batches)) = self.kept.front() {
            match self.sender.push(message, batches) {
                Ok(()) => drop(self.kept.pop_front()),
                Err(why) => {
                    assert_eq!((why, batches.is_empty()), (PushError::Full, false));
                    break;
                },
            }
        }
        let consumed = self.receiver.consumed();
        if u64::from(self.window / 4) <= consumed - self.told {
            self.told = consumed;
            self.sender.control(&Control::Credit, now, consumed);
        }
        self.sender.seal(now, consumed);
    }

    /// Takes the frames that are whole.
    pub(crate) fn hear(&mut self) {
        while let Some(frame) = self.receiver.next().unwrap() {
            self.sender.set_peer_consumed(frame.header().consumed).unwrap();
            let one = core::slice::from_ref(&frame);
            self.got.extend(messages(one).iter().map(|(message, len)| (message.shard.0, *len)));
            self.controls.extend(controls(one));
            if frame.header().kind == Kind::Msgs {
                self.inbox.push_back(frame);
            }
        }
    }

    /// Takes bytes of the peer.
    pub(crate) fn read(&mut self, env: &SimEnv, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.receiver.room(env).unwrap();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.receiver.filled(count);
            self.hear();
        }
    }
}

/// At most `room` bytes go from one end to the other. Whether all that was sealed went.
pub(crate) fn carry(from: &mut End, to: &mut End, env: &SimEnv, room: usize) -> bool {
    let mut pipe = Pipe { room, ..Pipe::new() };
    let done = write(&mut from.sender, &mut pipe).is_ready();
    to.read(env, &pipe.bytes);
    done
}
