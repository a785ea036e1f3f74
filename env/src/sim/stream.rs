//! Simulated sockets.

use core::fmt;
use core::future::{Future, poll_fn};
use core::net::SocketAddr;
use core::task::{Context, Poll};
use std::io::IoSlice;
use std::rc::Rc;

use super::env::Place;
use super::node::find_world;
use super::slab::Key;
use super::task::keep;
use crate::{EnvError, Kind, Listener, Moved, Nanos, Op, Stream};

/// A simulated connected socket.
pub struct SimStream {
    place: Rc<Place>,
    conn: Key,
    side: usize,
    peer: SocketAddr,
    /// It moved to another core: dropping this closes nothing.
    moved: bool,
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStream(node {} to {})", self.place.node.id, self.peer)
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        if !self.moved && self.place.live() {
            self.place.inner.net_close(self.conn, self.side);
        }
    }
}

/// A socket between two cores. Plain numbers: it crosses threads in production.
struct Parcel {
    world: u64,
    node: u64,
    life: u32,
    conn: Key,
    side: usize,
    peer: SocketAddr,
    adopted: bool,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if self.adopted {
            return;
        }
        let Some(inner) = find_world(self.world) else { return };
        if inner.node(self.node).life().number == self.life {
            inner.net_close(self.conn, self.side);
        }
    }
}

/// A connection attempt, given up when dropped.
struct Connecting {
    place: Rc<Place>,
    attempt: Option<Key>,
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let Some(key) = self.attempt else { return };
        let inner = &self.place.inner;
        let attempt = inner.net.borrow_mut().attempts.remove(key);
        if let Some(Ok(conn)) = attempt.and_then(|attempt| attempt.answer) {
            inner.net_close(conn, 0);
        }
    }
}

impl Connecting {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Key, Kind>> {
        let (true, Some(key)) = (self.place.live(), self.attempt) else { return Poll::Pending };
        let mut net = self.place.inner.net.borrow_mut();
        let Some(attempt) = net.attempts.at_mut(key) else { return Poll::Pending };
        let Some(answer) = attempt.answer.take() else {
            keep(&mut attempt.waker, cx);
            self.place.inner.waits("a connection");
            return Poll::Pending;
        };
        net.attempts.remove(key);
        self.attempt = None;
        Poll::Ready(answer)
    }
}

impl SimStream {
    fn new(place: &Rc<Place>, conn: Key, side: usize, peer: SocketAddr) -> Self {
        Self { place: Rc::clone(place), conn, side, peer, moved: false }
    }

    pub(super) async fn connect(
        place: Rc<Place>,
        to: SocketAddr,
        limit: Nanos,
    ) -> Result<Self, EnvError> {
        if !place.live() {
            return core::future::pending().await;
        }
        let attempt = Some(place.inner.net_connect(&place.life, to, limit));
        let mut connecting = Connecting { place: Rc::clone(&place), attempt };
        let answer = poll_fn(|cx| connecting.poll(cx)).await;
        let conn = answer.map_err(|kind| EnvError::new(Op::Connect, kind))?;
        Ok(Self::new(&place, conn, 0, to))
    }

    pub(super) fn adopt(place: &Rc<Place>, moved: Moved) -> Result<Self, EnvError> {
        let closed = EnvError::new(Op::Connect, Kind::Closed);
        let Ok(mut parcel) = moved.into_inner().downcast::<Parcel>() else { return Err(closed) };
        let here = parcel.world == place.inner.id()
            && parcel.node == place.node.id
            && parcel.life == place.life.number
            && place.live();
        if !here {
            return Err(closed);
        }
        parcel.adopted = true;
        Ok(Self::new(place, parcel.conn, parcel.side, parcel.peer))
    }
}

impl Stream for SimStream {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, EnvError>> {
        assert!(!into.is_empty(), "there is room to read into: 0 is the end");
        if !self.place.live() {
            return Poll::Pending;
        }
        let mut net = self.place.inner.net.borrow_mut();
        let read = net.read(self.conn, self.side, into);
        let Some(conn) = net.conns.at_mut(self.conn) else {
            return Poll::Ready(Err(EnvError::new(Op::Receive, Kind::Reset)));
        };
        match read {
            None => {
                keep(&mut conn.ends[self.side].read_waker, cx);
                self.place.inner.waits("bytes of a socket");
                Poll::Pending
            },
            Some(Ok(len)) => {
                let writer = conn.ends[1 - self.side].write_waker.take();
                drop(net);
                if let Some(writer) = writer {
                    writer.wake();
                }
                Poll::Ready(Ok(len))
            },
            Some(Err(kind)) => Poll::Ready(Err(EnvError::new(Op::Receive, kind))),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>> {
        if !self.place.live() {
            return Poll::Pending;
        }
        let room = self.place.inner.net.borrow().room(self.conn, self.side);
        match room {
            Err(kind) => Poll::Ready(Err(EnvError::new(Op::Send, kind))),
            Ok(0) => {
                let mut net = self.place.inner.net.borrow_mut();
                if let Some(conn) = net.conns.at_mut(self.conn) {
                    keep(&mut conn.ends[self.side].write_waker, cx);
                    self.place.inner.waits("room in a socket");
                }
                Poll::Pending
            },
            Ok(_) => Poll::Ready(Ok(self.place.inner.net_write(self.conn, self.side, parts))),
        }
    }

    fn shutdown_write(&mut self) -> Result<(), EnvError> {
        if !self.place.live() {
            return Err(EnvError::new(Op::Send, Kind::Closed));
        }
        let shut = self.place.inner.net_shut(self.conn, self.side);
        shut.map_err(|kind| EnvError::new(Op::Send, kind))
    }

    fn detach(mut self) -> Moved {
        self.moved = true;
        Moved::new(Parcel {
            world: self.place.inner.id(),
            node: self.place.node.id,
            life: self.place.life.number,
            conn: self.conn,
            side: self.side,
            peer: self.peer,
            adopted: false,
        })
    }

    fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// A simulated listening socket.
pub struct SimListener {
    place: Rc<Place>,
    key: Key,
    local: SocketAddr,
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimListener(node {} at {})", self.place.node.id, self.local)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if self.place.live() {
            self.place.inner.net_unlisten(self.key);
        }
    }
}

impl SimListener {
    pub(super) fn bind(place: &Rc<Place>, at: SocketAddr) -> Result<Self, EnvError> {
        let error = |kind| EnvError::new(Op::Listen, kind);
        if !place.live() {
            return Err(error(Kind::Closed));
        }
        let bound = place.inner.net.borrow_mut().listen(&place.life, at);
        let (key, local) = bound.map_err(error)?;
        Ok(Self { place: Rc::clone(place), key, local })
    }

    fn poll_accept(&self, cx: &Context<'_>) -> Poll<Result<SimStream, EnvError>> {
        if !self.place.live() {
            return Poll::Pending;
        }
        let mut net = self.place.inner.net.borrow_mut();
        let Some(listening) = net.listening.at_mut(self.key) else {
            return Poll::Ready(Err(EnvError::new(Op::Listen, Kind::Closed)));
        };
        let Some(conn) = listening.backlog.pop_front() else {
            keep(&mut listening.waker, cx);
            self.place.inner.waits("a caller");
            return Poll::Pending;
        };
        let peer = net.conns.at(conn).map_or(self.local, |conn| conn.ends[0].addr);
        Poll::Ready(Ok(SimStream::new(&self.place, conn, 1, peer)))
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn accept(&self) -> impl Future<Output = Result<SimStream, EnvError>> {
        poll_fn(|cx| self.poll_accept(cx))
    }
}
