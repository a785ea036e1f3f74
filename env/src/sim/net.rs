//! Connections between the nodes of a world: ordered bytes with delay, until they break.
//!
//! ```text
//! writer --> data [ visible | in transit ] --> reader      at most WINDOW bytes in all
//!            transit: (bytes | end | reset), delivered one by one, never out of order
//! ```

use core::net::{IpAddr, SocketAddr};
use core::task::Waker;
use std::collections::VecDeque;
use std::rc::Rc;

use super::inner::Inner;
use super::link::Links;
use super::profile::Fault;
use super::sched::{Event, Life};
use super::slab::{Key, Slab};
use super::world::Crash;
use super::{u64_of, usize_of};
use crate::{Kind, Nanos};

/// Bytes that one direction of a connection holds: both socket buffers.
const WINDOW: usize = 256 << 10;
/// Connections that wait to be accepted, per listener.
const BACKLOG_MAX: usize = 128;
/// After this long without an answer the peer is given up.
pub(super) const PEER_TIMEOUT: u64 = 15_000_000_000;

/// What travels to one side of a connection.
#[derive(Clone, Copy, Debug)]
enum Part {
    Bytes(usize),
    End,
    Reset(Kind),
}

/// One side of a connection.
pub(super) struct End {
    pub(super) life: Rc<Life>,
    pub(super) addr: SocketAddr,
    data: VecDeque<u8>,
    visible: usize,
    transit: VecDeque<Part>,
    /// When the last part arrives.
    pub(super) last: u64,
    /// Parts, the first in transit, that a cut link keeps.
    pub(super) held: usize,
    /// Bytes that were read and whose room the writer does not know of: the way back is cut.
    pub(super) unacked: usize,
    ended: bool,
    broken: Option<Kind>,
    /// Its writing side is shut.
    shut: bool,
    /// Nobody holds it.
    gone: bool,
    pub(super) read_waker: Option<Waker>,
    pub(super) write_waker: Option<Waker>,
}

impl End {
    fn new(life: Rc<Life>, addr: SocketAddr) -> Self {
        Self {
            life,
            addr,
            data: VecDeque::new(),
            visible: 0,
            transit: VecDeque::new(),
            last: 0,
            held: 0,
            unacked: 0,
            ended: false,
            broken: None,
            shut: false,
            gone: false,
            read_waker: None,
            write_waker: None,
        }
    }

    /// Parts on their way.
    pub(super) fn transit_len(&self) -> usize {
        self.transit.len()
    }

    /// Keeps the first `parts` of what is in transit.
    fn cut(&mut self, parts: usize) {
        self.transit.truncate(parts);
        let bytes = |part: &Part| if let Part::Bytes(len) = part { *len } else { 0 };
        self.data.truncate(self.visible + self.transit.iter().map(bytes).sum::<usize>());
    }

    fn wakers(&mut self) -> impl Iterator<Item = Waker> + use<> {
        self.read_waker.take().into_iter().chain(self.write_waker.take())
    }
}

/// A connection.
pub(super) struct Conn {
    pub(super) ends: [End; 2],
}

impl Conn {
    /// From which node to which node the writes of a side go.
    pub(super) fn way(&self, side: usize) -> (u64, u64) {
        (self.ends[side].life.node, self.ends[1 - side].life.node)
    }
}

/// A listening socket.
pub(super) struct Listening {
    life: Rc<Life>,
    at: SocketAddr,
    pub(super) backlog: VecDeque<Key>,
    pub(super) waker: Option<Waker>,
}

/// A connection being made.
pub(super) struct Attempt {
    life: Rc<Life>,
    to: SocketAddr,
    deadline: u64,
    pub(super) waker: Option<Waker>,
    pub(super) answer: Option<Result<Key, Kind>>,
}

/// The connections of a world.
#[derive(Default)]
pub(super) struct Net {
    pub(super) conns: Slab<Conn>,
    pub(super) listening: Slab<Listening>,
    pub(super) attempts: Slab<Attempt>,
    pub(super) links: Links,
    ports: u16,
}

/// The node of an address, seen from `from`.
fn node_of(ip: IpAddr, from: u64) -> Option<u64> {
    if ip.is_loopback() || ip.is_unspecified() {
        return Some(from);
    }
    match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 0, high, low] => Some(u64::from(high) << 8 | u64::from(low)),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

impl Net {
    fn port(&mut self) -> u16 {
        self.ports = (self.ports + 1) % 20_000;
        40_000 + self.ports
    }

    /// Opens a listening socket. None: the address is taken or not of this node.
    pub(super) fn listen(
        &mut self,
        life: &Rc<Life>,
        at: SocketAddr,
    ) -> Result<(Key, SocketAddr), Kind> {
        if node_of(at.ip(), life.node) != Some(life.node) {
            return Err(Kind::Refused);
        }
        let clash = |port, its: &Listening| {
            let same = its.at.ip() == at.ip();
            let any = its.at.ip().is_unspecified() || at.ip().is_unspecified();
            its.life.node == life.node && its.at.port() == port && (same || any)
        };
        let mut port = at.port();
        while port == 0 || self.listening.iter().any(|(_, its)| clash(port, its)) {
            if at.port() != 0 {
                return Err(Kind::Exists);
            }
            port = self.port();
        }
        let at = SocketAddr::new(at.ip(), port);
        let (life, backlog) = (Rc::clone(life), VecDeque::new());
        Ok((self.listening.insert(Listening { life, at, backlog, waker: None }), at))
    }

    fn find(&self, to: SocketAddr, from: u64) -> Option<Key> {
        let node = node_of(to.ip(), from)?;
        let fits = |its: &Listening| {
            let ip = its.at.ip();
            its.life.node == node
                && its.at.port() == to.port()
                && (ip == to.ip() || ip.is_unspecified())
        };
        self.listening.iter().find(|(_, its)| fits(its)).map(|(key, _)| key)
    }

    /// Copies what has arrived.
    pub(super) fn read(
        &mut self,
        conn: Key,
        side: usize,
        into: &mut [u8],
    ) -> Option<Result<usize, Kind>> {
        let Some(conn) = self.conns.at_mut(conn) else { return Some(Err(Kind::Reset)) };
        let back = conn.way(side);
        let end = &mut conn.ends[side];
        let len = end.visible.min(into.len());
        if len > 0 {
            if self.links.is_cut(back) {
                end.unacked += len;
            }
            let (front, back) = end.data.as_slices();
            let first = front.len().min(len);
            into[..first].copy_from_slice(&front[..first]);
            into[first..len].copy_from_slice(&back[..len - first]);
            end.data.drain(..len);
            end.visible -= len;
            return Some(Ok(len));
        }
        if end.ended {
            return Some(Ok(0));
        }
        end.broken.map(Err)
    }

    /// Room for writing.
    pub(super) fn room(&self, conn: Key, side: usize) -> Result<usize, Kind> {
        let conn = self.conns.at(conn).ok_or(Kind::Reset)?;
        let end = &conn.ends[side];
        match end.broken {
            Some(kind) => Err(kind),
            None if end.shut => Err(Kind::Closed),
            None => {
                let other = &conn.ends[1 - side];
                Ok(WINDOW.saturating_sub(other.data.len() + other.unacked))
            },
        }
    }
}

impl Inner {
    fn net_delay(&self, loopback: bool) -> u64 {
        let base = if loopback { 20_000 } else { 100_000 };
        if self.profile.varied() { self.streams.net.magnitude(base / 4, base * 16) } else { base }
    }

    /// Sends a part to one side.
    fn net_send(&self, net: &mut Net, (conn, side): (Key, usize), part: Part, after: u64) {
        let Some(its) = net.conns.at_mut(conn) else { return };
        let way = its.way(1 - side);
        let delay = self.net_delay(way.0 == way.1) * net.links.slowness(way);
        let end = &mut its.ends[side];
        end.last = end.last.max(self.now() + after + delay);
        end.transit.push_back(part);
        let no = u8::from(side != 0);
        self.sched.borrow_mut().schedule(end.last, Event::Deliver(conn, no));
    }

    /// Takes bytes to send, as many as there is room for.
    pub(super) fn net_write(
        &self,
        conn: Key,
        side: usize,
        parts: &[std::io::IoSlice<'_>],
    ) -> usize {
        let mut net = self.net.borrow_mut();
        let room = net.room(conn, side).unwrap_or(0);
        let Some(its) = net.conns.at_mut(conn) else { return 0 };
        let data = &mut its.ends[1 - side].data;
        let before = data.len();
        for part in parts {
            let left = room - (data.len() - before);
            data.extend(&part[..part.len().min(left)]);
        }
        let taken = data.len() - before;
        let mut left = taken;
        while left > 0 {
            let slice = if self.hits(Fault::NetSlices) {
                usize_of(self.streams.fault(Fault::NetSlices).magnitude(1, 64 << 10)).min(left)
            } else {
                left
            };
            self.net_send(&mut net, (conn, 1 - side), Part::Bytes(slice), 0);
            left -= slice;
        }
        if self.hits(Fault::NetReset) {
            self.net_reset(&mut net, conn);
        }
        taken
    }

    /// Both sides lose the connection after some of what is in transit.
    pub(super) fn net_reset(&self, net: &mut Net, conn: Key) {
        for side in [0, 1] {
            self.net_break(net, (conn, side), Kind::Reset, 0);
        }
    }

    /// One side loses the connection after some of what is in transit to it.
    fn net_break(&self, net: &mut Net, (conn, side): (Key, usize), kind: Kind, after: u64) {
        let Some(its) = net.conns.at_mut(conn) else { return };
        let end = &mut its.ends[side];
        let kept = usize_of(self.streams.net.below(u64_of(end.transit.len()) + 1));
        end.cut(kept);
        self.net_send(net, (conn, side), Part::Reset(kind), after);
    }

    /// Ends the writing of one side.
    pub(super) fn net_shut(&self, conn: Key, side: usize) -> Result<(), Kind> {
        let mut net = self.net.borrow_mut();
        let its = net.conns.at_mut(conn).ok_or(Kind::Closed)?;
        let end = &mut its.ends[side];
        if end.broken.is_some() {
            return Err(Kind::Closed);
        }
        if !core::mem::replace(&mut end.shut, true) {
            self.net_send(&mut net, (conn, 1 - side), Part::End, 0);
        }
        Ok(())
    }

    /// Nobody holds one side any more. Unread input resets the connection.
    pub(super) fn net_close(&self, conn: Key, side: usize) {
        let mut net = self.net.borrow_mut();
        let Some(its) = net.conns.at_mut(conn) else { return };
        let end = &mut its.ends[side];
        if core::mem::replace(&mut end.gone, true) {
            return;
        }
        let wakers: Vec<_> = end.wakers().collect();
        let (unread, shut) = (end.visible > 0, core::mem::replace(&mut end.shut, true));
        if unread {
            self.net_break(&mut net, (conn, 1 - side), Kind::Reset, 0);
        } else if !shut {
            self.net_send(&mut net, (conn, 1 - side), Part::End, 0);
        }
        Self::net_forget(&mut net, conn);
        drop(net);
        drop(wakers);
    }

    fn net_forget(net: &mut Net, conn: Key) {
        if net.conns.at(conn).is_some_and(|conn| conn.ends.iter().all(|end| end.gone)) {
            let _conn: Option<Conn> = net.conns.remove(conn);
        }
    }

    /// The next part reaches one side.
    pub(super) fn net_deliver(&self, conn: Key, no: u8) {
        let mut wakers = Vec::new();
        {
            let net = &mut *self.net.borrow_mut();
            let Some(its) = net.conns.at_mut(conn) else { return };
            let side = usize::from(no);
            let way = its.way(1 - side);
            let end = &mut its.ends[side];
            if net.links.is_cut(way) {
                end.held += 1;
                return;
            }
            let Some(part) = end.transit.pop_front() else { return };
            self.trace.mix(self.now(), 5 << 60, conn.bits(), u64::from(no));
            match part {
                Part::Bytes(len) if end.gone => {
                    end.data.drain(..len);
                    self.net_break(net, (conn, 1 - side), Kind::Reset, 0);
                    return;
                },
                Part::Bytes(len) => end.visible += len,
                Part::End => end.ended = true,
                Part::Reset(kind) => {
                    end.broken = Some(kind);
                    end.cut(0);
                },
            }
            wakers.extend(end.wakers());
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Begins a connection.
    pub(super) fn net_connect(&self, life: &Rc<Life>, to: SocketAddr, limit: Nanos) -> Key {
        let deadline = self.now().saturating_add(limit.0);
        let life = Rc::clone(life);
        let loopback = node_of(to.ip(), life.node) == Some(life.node);
        let attempt = Attempt { life, to, deadline, waker: None, answer: None };
        let key = self.net.borrow_mut().attempts.insert(attempt);
        let at = (self.now() + 2 * self.net_delay(loopback)).min(deadline);
        self.sched.borrow_mut().schedule(at, Event::Answer(key));
        key
    }

    /// A connection attempt reaches its target.
    pub(super) fn net_answer(&self, key: Key) {
        let mut wakers = Vec::new();
        {
            let mut net = self.net.borrow_mut();
            let Some(attempt) = net.attempts.at(key) else { return };
            let (to, life, deadline) = (attempt.to, Rc::clone(&attempt.life), attempt.deadline);
            let target = node_of(to.ip(), life.node).map(|id| self.node(id));
            let up =
                target.is_some_and(|node| !node.off.get() && net.links.meet(life.node, node.id));
            let answer = if self.now() >= deadline {
                Err(Kind::TimedOut)
            } else if up {
                self.net_accepts(&mut net, &life, to, &mut wakers)
            } else {
                self.sched.borrow_mut().schedule(deadline, Event::Answer(key));
                return;
            };
            self.trace.mix(self.now(), 6 << 60, key.bits(), u64::from(answer.is_ok()));
            if let Some(attempt) = net.attempts.at_mut(key) {
                attempt.answer = Some(answer);
                wakers.extend(attempt.waker.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn net_accepts(
        &self,
        net: &mut Net,
        life: &Rc<Life>,
        to: SocketAddr,
        wakers: &mut Vec<Waker>,
    ) -> Result<Key, Kind> {
        let key = net.find(to, life.node).ok_or(Kind::Refused)?;
        let port = net.port();
        let listening = net.listening.at_mut(key).ok_or(Kind::Refused)?;
        if listening.backlog.len() >= BACKLOG_MAX {
            return Err(Kind::TimedOut);
        }
        let ip = if to.ip().is_loopback() {
            to.ip()
        } else {
            let [high, low] = u16::try_from(life.node).unwrap_or(0).to_le_bytes();
            IpAddr::from([10, 0, low, high])
        };
        let from = End::new(Rc::clone(life), SocketAddr::new(ip, port));
        let into = End::new(Rc::clone(&listening.life), to);
        let conn = net.conns.insert(Conn { ends: [from, into] });
        let listening = net.listening.at_mut(key).ok_or(Kind::Refused)?;
        listening.backlog.push_back(conn);
        wakers.extend(listening.waker.take());
        self.say(|| format!("node {} connects to {to}", life.node));
        Ok(conn)
    }

    /// A listening socket is gone, with the connections nobody accepted.
    pub(super) fn net_unlisten(&self, key: Key) {
        let listening = self.net.borrow_mut().listening.remove(key);
        for conn in listening.iter().flat_map(|listening| &listening.backlog) {
            self.net_close(*conn, 1);
        }
    }

    /// Everything that a life held is gone.
    pub(super) fn net_crash(&self, life: &Rc<Life>, how: Crash) {
        let of_life = |its: &Rc<Life>| Rc::ptr_eq(its, life);
        let (listening, attempts, ends) = {
            let net = self.net.borrow();
            let ends: Vec<_> = net
                .conns
                .iter()
                .flat_map(|(key, conn)| [(key, 0, &conn.ends[0]), (key, 1, &conn.ends[1])])
                .filter(|(_, _, end)| of_life(&end.life) && !end.gone)
                .map(|(key, side, _)| (key, side))
                .collect();
            let attempts = net.attempts.keys(|attempt| of_life(&attempt.life));
            (net.listening.keys(|listening| of_life(&listening.life)), attempts, ends)
        };
        for key in attempts {
            let attempt = self.net.borrow_mut().attempts.remove(key);
            drop(attempt);
        }
        for (conn, side) in ends {
            match how {
                Crash::Kill => self.net_close(conn, side),
                Crash::Power => self.net_vanish(conn, side),
            }
        }
        for key in listening {
            let listening = self.net.borrow_mut().listening.remove(key);
            drop(listening);
        }
    }

    /// One side's machine is gone without a word: the other gives it up after a while.
    fn net_vanish(&self, conn: Key, side: usize) {
        let mut net = self.net.borrow_mut();
        let Some(its) = net.conns.at_mut(conn) else { return };
        let end = &mut its.ends[side];
        end.gone = true;
        end.shut = true;
        let wakers: Vec<_> = end.wakers().collect();
        let other_gone = its.ends[1 - side].gone;
        if !other_gone {
            self.net_break(&mut net, (conn, 1 - side), Kind::TimedOut, PEER_TIMEOUT);
        }
        Self::net_forget(&mut net, conn);
        drop(net);
        drop(wakers);
    }
}
