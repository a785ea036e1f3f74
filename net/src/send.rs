//! Messages become frames, and frames become bytes of a stream: one at a time, bodies in place.
//!
//! ```text
//! push    -> frame being built -seal-> sealed -poll_write-> | header, meta | bodies |
//!            waiting messages
//! control -> waiting frames of the lane ------poll_write-> | frame | frame |, before it
//! ```
//!
//! * S1 `sent - consumed <= window` over the frames that count.
//! * S2 numbers have no gap: a frame is numbered and stamped when its first byte may be written.
//! * S3 the frame being built fits the credit, beside the frames of the lane that wait for some.
//! * S4 at most one frame of messages is unsent; nothing is started while bytes are unsent.
//! * S5 messages leave in the order of [`Sender::push`], but for those that a newer one replaced.
//! * S6 bodies leave some credit: a peer whose log has no room keeps them, and what makes room
//!   comes in messages without.

use core::task::{Context, Poll};
use std::{collections::VecDeque, io::IoSlice};

use bowline_env::{EnvError, Kind as EnvKind, Op, SharedBuf};
use bowline_raft::{BatchHeader, Message};

use crate::{
    Control, FrameError, MsgsWriter, Pipe, PushError, Stamp,
    frame::{index, word},
    msgs::frame_len,
    waiting::{Overrun, WaitingControl, WaitingMessages},
};

/// A frame of messages ends here, unless one Append alone is larger.
const FRAME_TARGET: usize = 256 << 10;
/// Parts of one write at most.
const PARTS_MAX: usize = 128;
/// Credit that bodies do not use: this part of the window, and so many bytes at most.
const SPARED_PART: u32 = 8;
const SPARED_MAX: u32 = 256 << 10;
/// Memory kept for the frames of the lane itself once they are written.
const CONTROL_KEPT: usize = 16 << 10;

/// The sending side of one lane life.
#[derive(Debug)]
pub struct Sender {
    frame_max: usize,
    window: u64,
    /// Credit kept from bodies (S6).
    spared: usize,
    /// Bytes of counting frames that were started.
    sent: u64,
    peer_consumed: u64,
    /// The latest stamp given; `seq` is that of the last started frame.
    stamp: Stamp,
    writer: MsgsWriter,
    /// Bodies of the frame being built, or of the one being written.
    bodies: VecDeque<SharedBuf>,
    sealed: bool,
    messages: WaitingMessages,
    control: WaitingControl,
    unsent: Unsent,
    /// Bytes that the stream took.
    taken: u64,
    overrun: bool,
}

/// What is being written.
#[derive(Debug, Default)]
struct Unsent {
    /// Frames of the lane itself.
    control: Vec<u8>,
    /// A frame of messages follows them.
    messages: bool,
    /// Bytes that were not written yet.
    left: usize,
    /// Bytes of `control`, header and meta that were written.
    head_at: usize,
    /// Bytes of the first body that were written.
    body_at: usize,
}

impl Sender {
    /// A sender of frames of at most `frame_max` bytes to a peer that holds at most `peer_window`
    /// bytes of them.
    #[must_use]
    pub fn new(frame_max: u32, peer_window: u32) -> Self {
        let spared = (peer_window / SPARED_PART).min(SPARED_MAX);
        // What is larger could never leave.
        let frame_max = frame_max.min(peer_window - spared);
        Self {
            frame_max: index(frame_max),
            window: u64::from(peer_window),
            spared: index(spared),
            sent: 0,
            peer_consumed: 0,
            stamp: Stamp::default(),
            writer: MsgsWriter::new(frame_max),
            bodies: VecDeque::new(),
            sealed: false,
            messages: WaitingMessages::default(),
            control: WaitingControl::new(index(frame_max)),
            unsent: Unsent::default(),
            taken: 0,
            overrun: false,
        }
    }

    /// The peer released `consumed` bytes in all: what the header of each of its frames says.
    ///
    /// # Errors
    ///
    /// [`FrameError::Consumed`]: less than it said before, or more than it was sent. The lane is to
    /// be closed.
    pub fn set_peer_consumed(&mut self, consumed: u64) -> Result<(), FrameError> {
        if consumed < self.peer_consumed || self.sent < consumed {
            return Err(FrameError::Consumed { bytes: consumed });
        }
        self.peer_consumed = consumed;
        self.refill();
        Ok(())
    }

    /// Queues a frame of the lane itself, ahead of messages. A newer beat, reply, credit or goodbye
    /// replaces an older one; a credit alone leaves only if nothing else does, for every frame
    /// returns credit. The others wait for credit in a queue of 1 MiB; over it the lane is overrun.
    /// Rows are cut into as many frames as they need.
    pub fn control(&mut self, what: &Control<'_>, now: u64, consumed: u64) {
        self.note(now, consumed);
        self.overrun |= self.control.push(what) == Err(Overrun);
    }

    /// Adds a message to the frame being built. One without batches that does not fit waits, in
    /// order, in a queue of 1 MiB of messages as they are on the wire; there, a newer one of the
    /// same shard, receiver, sender and kind replaces an older one. Over it the lane is overrun.
    ///
    /// # Errors
    ///
    /// The message was not taken. [`PushError::Full`]: there is no room for its batches now, or
    /// other messages wait before it; or it has none, and the lane is overrun.
    /// [`PushError::TooLarge`]: it fits no frame of this lane.
    ///
    /// # Panics
    ///
    /// If a body is not as long as its header says or no multiple of 16 bytes long, or a message
    /// other than an Append has batches: bugs of the caller.
    pub fn push(
        &mut self,
        message: &Message,
        batches: &[(BatchHeader, SharedBuf)],
    ) -> Result<(), PushError> {
        for (head, body) in batches {
            assert!(index(head.len) == body.len(), "a body is as long as its header says");
        }
        let busy = !batches.is_empty() && self.is_busy();
        // Nothing passes those that wait (S5).
        let len_max = if busy || !self.messages.is_empty() {
            0
        } else if batches.is_empty() {
            self.len_max().min(FRAME_TARGET)
        } else if !self.bodies.is_empty() {
            self.bodies_max().min(FRAME_TARGET)
        } else {
            self.bodies_max()
        };
        let heads = batches.iter().map(|(head, _)| head);
        match self.writer.push_within(message, heads, len_max) {
            Ok(()) => {
                let bodies = batches.iter().map(|(_, body)| body).filter(|body| !body.is_empty());
                self.bodies.extend(bodies.cloned());
                Ok(())
            },
            Err(PushError::Full) if batches.is_empty() => self.wait(message),
            Err(why) => Err(why),
        }
    }

    /// Ends the frame being built, if there is something in it and nothing is unsent.
    pub fn seal(&mut self, now: u64, consumed: u64) {
        self.note(now, consumed);
        if !self.unsent.is_any() {
            self.sealed |= !self.writer.is_empty();
        }
    }

    /// Writes what is sealed or queued, at most 128 parts a call of the stream. Bodies are written
    /// from where they are, and dropped once they are written. `Ready(Ok)`: all of it is written.
    /// Nothing is lost if it is not polled again; it goes on where it stopped.
    ///
    /// # Errors
    ///
    /// Of the stream: an unknown prefix arrived. The lane is to be closed.
    pub fn poll_write<P: Pipe>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut P,
    ) -> Poll<Result<(), EnvError>> {
        while self.unsent.is_any() || self.start() {
            let (mut parts, mut count) = ([IoSlice::new(&[]); PARTS_MAX], 0);
            for part in self.unsent.parts(&self.writer, &self.bodies).take(PARTS_MAX) {
                parts[count] = IoSlice::new(part);
                count += 1;
            }
            match stream.poll_write(cx, &parts[..count]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(EnvError::new(Op::Send, EnvKind::Closed)));
                },
                Poll::Ready(Ok(bytes)) => {
                    self.taken = self.taken.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                    self.unsent.advance(bytes, &self.writer, &mut self.bodies);
                },
                Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that the stream took so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes of counting frames that may still be sent.
    pub fn credit(&self) -> u64 {
        self.window - (self.sent - self.peer_consumed)
    }

    /// Bytes of the body of one batch that the frame being built can take; 0 while bytes are
    /// unsent, the frame is full, or the credit is used up. At most 256 KiB; one Append with more
    /// is taken if it is the first in its frame and fits credit and `frame_max`.
    pub fn room(&self) -> u32 {
        if self.is_busy() {
            return 0;
        }
        let one_more = frame_len(1, 1) - frame_len(0, 0);
        let used = self.writer.frame_len() + one_more;
        word(self.bodies_max().min(FRAME_TARGET).saturating_sub(used))
    }

    /// Whether nothing is built, queued or unsent.
    pub fn is_clear(&self) -> bool {
        let built = !self.writer.is_empty() || !self.messages.is_empty();
        !built && self.control.is_empty() && !self.unsent.is_any()
    }

    /// Whether no frame of the lane itself waits for credit: a transfer may add one.
    pub fn takes_bulk(&self) -> bool {
        self.control.counted_len() == 0
    }

    /// Whether a queue was full: something was lost, and the lane is to be reset.
    pub fn is_overrun(&self) -> bool {
        self.overrun
    }

    /// Whether the frame being built takes no bodies now.
    fn is_busy(&self) -> bool {
        self.sealed || self.unsent.is_any()
    }

    /// Bytes that the frame being built may have (S3).
    fn len_max(&self) -> usize {
        self.len_beside(0)
    }

    /// The same, if it gets bodies (S6).
    fn bodies_max(&self) -> usize {
        self.len_beside(self.spared)
    }

    /// Bytes of a frame that leaves `spared` bytes of the credit.
    fn len_beside(&self, spared: usize) -> usize {
        let credit = usize::try_from(self.credit()).expect("a window is a u32");
        credit.saturating_sub(self.control.counted_len() + spared).min(self.frame_max)
    }

    fn note(&mut self, now: u64, consumed: u64) {
        self.stamp.sent_at = self.stamp.sent_at.max(now);
        self.stamp.consumed = self.stamp.consumed.max(consumed);
    }

    fn wait(&mut self, message: &Message) -> Result<(), PushError> {
        if self.messages.push(message) == Err(Overrun) {
            self.overrun = true;
            return Err(PushError::Full);
        }
        Ok(())
    }

    /// Moves messages that wait into the frame being built.
    fn refill(&mut self) {
        let len_max = self.len_max().min(FRAME_TARGET);
        while let Some(message) = self.messages.first() {
            if self.writer.push_within(message, [].iter(), len_max).is_err() {
                break;
            }
            self.messages.pop();
        }
    }

    /// Numbers and stamps what leaves next. Whether there is something.
    fn start(&mut self) -> bool {
        let liveness = self.control.liveness.take().map(Control::Liveness);
        let reply = self.control.reply.take().map(Control::LivenessReply);
        liveness.iter().chain(&reply).for_each(|what| self.start_control(what));
        while self.unsent.control.len() < FRAME_TARGET
            && let Some(frame) = self.control.pop_counted(self.spare_credit())
        {
            self.start_control(&frame.as_control());
        }
        if self.sealed {
            self.start_messages();
        } else if let Some(reason) = self.control.goodbye.take() {
            self.start_control(&Control::Goodbye { reason });
        }
        let alone = !self.unsent.is_any();
        if core::mem::take(&mut self.control.credit) && alone {
            self.start_control(&Control::Credit);
        }
        self.refill();
        self.unsent.is_any()
    }

    fn start_control(&mut self, what: &Control<'_>) {
        self.stamp.seq += 1;
        what.encode(self.stamp, &mut self.unsent.control);
        self.unsent.left += what.frame_len();
        if what.kind().counts() {
            self.count(what.frame_len());
        }
    }

    fn start_messages(&mut self) {
        let len = self.writer.frame_len();
        self.stamp.seq += 1;
        self.writer.finish(self.stamp);
        self.sealed = false;
        self.unsent.messages = true;
        self.unsent.left += len;
        self.count(len);
    }

    fn count(&mut self, len: usize) {
        self.sent += u64::from(word(len));
        assert!(self.sent - self.peer_consumed <= self.window, "credit is never overrun (S1)");
    }

    /// Credit that the frame being built does not need.
    fn spare_credit(&self) -> usize {
        let built = if self.writer.is_empty() { 0 } else { self.writer.frame_len() };
        usize::try_from(self.credit()).expect("a window is a u32").saturating_sub(built)
    }
}

impl Unsent {
    fn is_any(&self) -> bool {
        self.left != 0
    }

    /// What is left, in order.
    fn parts<'a>(
        &'a self,
        writer: &'a MsgsWriter,
        bodies: &'a VecDeque<SharedBuf>,
    ) -> impl Iterator<Item = &'a [u8]> {
        let meta = if self.messages { writer.finished() } else { &[] };
        let at = self.head_at.min(self.control.len());
        let heads = [&self.control[at..], &meta[self.head_at - at..]];
        let bodies = bodies.iter().take(if self.messages { usize::MAX } else { 0 });
        let body_ats = core::iter::once(self.body_at).chain(core::iter::repeat(0));
        let bodies = bodies.zip(body_ats).map(|(body, at)| &body[at..]);
        heads.into_iter().filter(|head| !head.is_empty()).chain(bodies)
    }

    /// `bytes` of what is left were written.
    fn advance(&mut self, bytes: usize, writer: &MsgsWriter, bodies: &mut VecDeque<SharedBuf>) {
        assert!(bytes <= self.left, "a stream takes no more than it is given");
        self.left -= bytes;
        let meta_len = if self.messages { writer.finished().len() } else { 0 };
        let heads = bytes.min(self.control.len() + meta_len - self.head_at);
        self.head_at += heads;
        self.body_at += bytes - heads;
        while let Some(body) = bodies.front()
            && body.len() <= self.body_at
        {
            self.body_at -= body.len();
            bodies.pop_front();
        }
        if self.left == 0 {
            self.control.clear();
            self.control.shrink_to(CONTROL_KEPT);
            self.messages = false;
            self.head_at = 0;
        }
    }
}
