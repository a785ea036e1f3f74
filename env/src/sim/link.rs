//! Faults of the way from one node to another: cut, slow, reset.
//!
//! ```text
//! cut     what is sent waits in the sender's socket, as with a real TCP; so do acknowledgements
//!         of what comes the other way, and new connections time out
//! mend    what waited arrives; connections that were cut for too long are reset
//! ```

use core::fmt;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::inner::Inner;
use super::net::PEER_TIMEOUT;
use super::sched::Event;

/// A node to another.
type Way = (u64, u64);

/// How long a sender waits at most before it tries again what was cut off.
const RETRANSMIT: (u64, u64) = (1_000_000, 400_000_000);

/// The ways that are not as they should be.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Since when.
    cut: BTreeMap<Way, u64>,
    /// How many times as long everything takes.
    slow: BTreeMap<Way, u64>,
}

impl Links {
    pub(super) fn is_cut(&self, way: Way) -> bool {
        self.cut.contains_key(&way)
    }

    /// Whether two nodes can make a connection: that needs both ways.
    pub(super) fn meet(&self, a: u64, b: u64) -> bool {
        !self.is_cut((a, b)) && !self.is_cut((b, a))
    }

    pub(super) fn slowness(&self, way: Way) -> u64 {
        self.slow.get(&way).copied().unwrap_or(1)
    }
}

/// The way from one node to another, as tests see it.
#[derive(Clone)]
pub struct SimLink {
    inner: Rc<Inner>,
    way: Way,
}

impl fmt::Debug for SimLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLink({} to {})", self.way.0, self.way.1)
    }
}

impl SimLink {
    pub(super) fn new(inner: &Rc<Inner>, way: Way) -> Self {
        Self { inner: Rc::clone(inner), way }
    }

    /// Nothing that is sent this way arrives from now on; nobody is told.
    pub fn cut(&self) {
        self.inner.say(|| format!("{self:?} is cut"));
        let now = self.inner.latest();
        self.inner.net.borrow_mut().links.cut.entry(self.way).or_insert(now);
    }

    /// Lets through what waited, and everything from now on. What was cut off for as long as a
    /// peer is waited for, is reset.
    pub fn mend(&self) {
        let Some(since) = self.inner.net.borrow_mut().links.cut.remove(&self.way) else { return };
        self.inner.say(|| format!("{self:?} is mended"));
        let over = self.inner.latest().saturating_sub(since) >= PEER_TIMEOUT;
        let wakers = self.resume(over);
        wakers.into_iter().for_each(core::task::Waker::wake);
    }

    /// Gives the connections of this way what waited; answers who may write again.
    fn resume(&self, over: bool) -> Vec<core::task::Waker> {
        let mut wakers = Vec::new();
        let mut net = self.inner.net.borrow_mut();
        for conn in net.conns.keys(|_| true) {
            let Some(its) = net.conns.at_mut(conn) else { continue };
            for side in [0, 1] {
                if its.way(side) != self.way {
                    continue;
                }
                if core::mem::take(&mut its.ends[side].unacked) > 0 {
                    wakers.extend(its.ends[1 - side].write_waker.take());
                }
                let end = &mut its.ends[1 - side];
                let held = core::mem::take(&mut end.held).min(end.transit_len());
                if held == 0 {
                    continue;
                }
                let (low, high) = RETRANSMIT;
                let wait = self.inner.streams.net.magnitude(low, high);
                end.last = end.last.max(self.inner.latest() + wait);
                let no = u8::from(side == 0);
                for _ in 0..held {
                    let event = Event::Deliver(conn, no);
                    self.inner.sched.borrow_mut().schedule(end.last, event);
                }
                if over {
                    self.inner.net_reset(&mut net, conn);
                    break;
                }
            }
        }
        wakers
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.inner.net.borrow().links.is_cut(self.way)
    }

    /// Everything takes `factor` times as long from now on; 1: as it should.
    ///
    /// # Panics
    ///
    /// If `factor` is 0.
    pub fn slow(&self, factor: u64) {
        assert!(factor > 0, "nothing arrives before it was sent");
        self.inner.net.borrow_mut().links.slow.insert(self.way, factor);
    }

    /// Resets every connection between the two nodes, whoever made it.
    pub fn reset(&self) {
        let (from, to) = self.way;
        let mut net = self.inner.net.borrow_mut();
        let between = |conn: &super::net::Conn| {
            let way = conn.way(0);
            way == (from, to) || way == (to, from)
        };
        for conn in net.conns.keys(between) {
            self.inner.net_reset(&mut net, conn);
        }
    }
}
