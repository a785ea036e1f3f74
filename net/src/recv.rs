//! A byte stream becomes frames: read into large buffers, cut off without a copy.
//!
//! ```text
//! buffer   | frames handed out | started frame | room                |
//!          0                   start           filled                capacity
//! ```
//!
//! * R1 a header is checked once, as soon as it is there, and before a buffer of its length is
//!   taken.
//! * R2 `received - consumed <= window` over the frames that count.
//! * R3 every frame begins at a multiple of 16 in memory: buffers begin at one, and the started
//!   frame is the only thing that moves, to the front.

use core::cell::Cell;
use core::fmt;
use std::rc::Rc;

use bowline_env::{Buf, Env, EnvError, SharedBuf};

use crate::{Expected, Frame, FrameError, FrameHeader, HEADER_LEN, frame::index};

/// Bytes of a receive buffer, unless a frame needs more.
const BUFFER_LEN: usize = 256 << 10;

/// What frames that are still held share with their lane.
#[derive(Debug, Default)]
struct Account {
    /// Bytes of counting frames that were released.
    consumed: Cell<u64>,
    /// Bytes of buffers that the lane or a frame of it has.
    held: Cell<usize>,
}

/// The receiving side of one lane life.
#[derive(Debug)]
pub struct Receiver {
    expected: Expected,
    window: u64,
    /// Bytes of counting frames whose header came.
    received: u64,
    account: Rc<Account>,
    buf: Option<Buf>,
    /// Where the started frame begins in the buffer.
    start: usize,
    /// Its header, once it is there.
    header: Option<FrameHeader>,
    failed: Option<FrameError>,
}

impl Receiver {
    /// A receiver of frames of at most `frame_max` bytes, of which `window` bytes may be held.
    #[must_use]
    pub fn new(frame_max: u32, window: u32) -> Self {
        let window = u64::from(window);
        Self {
            expected: Expected { frame_max, seq: 1, credit: window },
            window,
            received: 0,
            account: Rc::default(),
            buf: None,
            start: 0,
            header: None,
            failed: None,
        }
    }

    /// Where the next bytes of the stream are to be put; never empty. Takes a buffer of 256 KiB, or
    /// of the started frame's length, when the rest of that frame does not fit into the one there
    /// is; then the bytes of the started frame are copied, and nothing else ever is.
    ///
    /// # Errors
    ///
    /// Of [`Env::scratch`]: nothing changed.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than it was asked for: a bug of the environment.
    pub fn room<E: Env>(&mut self, env: &E) -> Result<&mut [u8], EnvError> {
        let need = self.header.as_ref().map_or(HEADER_LEN, |header| index(header.len));
        let filled = self.buf.as_ref().map_or(0, Buf::filled);
        let started = filled - self.start;
        let need = need.max(started + 1);
        if self.buf.as_ref().is_none_or(|buf| buf.capacity() - self.start < need) {
            let mut fresh = env.scratch(need.max(BUFFER_LEN))?;
            if let Some(old) = &self.buf {
                fresh.rest_mut()[..started].copy_from_slice(&old.share(self.start..filled));
                fresh.fill(started);
            }
            self.let_go();
            self.account.held.update(|held| held + fresh.capacity());
            self.buf = Some(fresh);
            self.start = 0;
        }
        Ok(self.buf.as_mut().expect("it was there or was taken").rest_mut())
    }

    /// `bytes` were put to the front of the room.
    ///
    /// # Panics
    ///
    /// If the room was shorter: a bug of the caller.
    pub fn filled(&mut self, bytes: usize) {
        self.buf.as_mut().expect("there was room").fill(bytes);
    }

    /// The next whole frame; none: read on. O(its meta), no copy, no allocation.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the lane is to be closed. The same again from then on.
    #[expect(clippy::should_implement_trait, reason = "it goes on after none")]
    pub fn next(&mut self) -> Result<Option<Received>, FrameError> {
        if let Some(why) = self.failed {
            return Err(why);
        }
        let frame = self.cut();
        self.failed = frame.as_ref().err().copied();
        frame
    }

    /// Bytes of counting frames that were released, in all: the credit that goes to the peer.
    pub fn consumed(&self) -> u64 {
        self.account.consumed.get()
    }

    /// Bytes of the buffers that this lane and its frames have.
    pub fn held(&self) -> usize {
        self.account.held.get()
    }

    fn cut(&mut self) -> Result<Option<Received>, FrameError> {
        let Some(buf) = &self.buf else { return Ok(None) };
        let rest = buf.share(self.start..buf.filled());
        let header = match self.header {
            Some(header) => header,
            None if rest.len() < HEADER_LEN => return Ok(None),
            None => {
                self.expected.credit = self.window - (self.received - self.consumed());
                FrameHeader::decode(&rest, &self.expected)?
            },
        };
        if self.header.is_none() {
            self.header = Some(header);
            self.expected.seq += 1;
            self.received += counted(&header);
        }
        let len = index(header.len);
        if rest.len() < len {
            return Ok(None);
        }
        Frame::open(header, &rest)?;
        self.header = None;
        self.start += len;
        let (buf, buffer_len) = (rest.slice(0..len), buf.capacity());
        Ok(Some(Received { header, buf, buffer_len, account: Rc::clone(&self.account) }))
    }

    /// Gives the buffer up; the frames cut from it keep it.
    fn let_go(&mut self) {
        if let Some(buf) = self.buf.take() {
            let (probe, len) = (buf.share(0..0), buf.capacity());
            drop(buf);
            release(&self.account, &probe, len);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The last one who has a buffer is about to drop it.
fn release(account: &Account, buf: &SharedBuf, buffer_len: usize) {
    if buf.is_last() {
        account.held.update(|held| held - buffer_len);
    }
}

fn counted(header: &FrameHeader) -> u64 {
    if header.kind.counts() { u64::from(header.len) } else { 0 }
}

/// A whole frame that was received. It keeps its buffer; dropping it returns its credit.
pub struct Received {
    header: FrameHeader,
    buf: SharedBuf,
    buffer_len: usize,
    account: Rc<Account>,
}

#[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
impl Received {
    /// Its header.
    #[must_use]
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The frame, whose header and meta match their checksums.
    #[must_use]
    pub fn frame(&self) -> Frame<'_> {
        Frame::checked(self.header, &self.buf)
    }

    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        self.buf.len()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.account.consumed.update(|consumed| consumed + counted(&self.header));
        release(&self.account, &self.buf, self.buffer_len);
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Received").field(&self.header).finish()
    }
}
