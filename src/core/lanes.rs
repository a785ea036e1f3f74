//! The lanes of a core: which there are, connections that come and go, what is sent and taken.
//!
//! ```text
//! connect   dialing and answering; tasks        link   one connection: reader task, sender
//! take      frames -> raft                      post   raft's outbox -> frames -> socket
//! ```
//!
//! A lane is (this core, peer, peer's core), made on first need. Of two nodes the one with the
//! lower id dials; the other answers, and dials only where nothing comes (`docs/decisions/0014`,
//! `0018`).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use bowline_env::{Bell, Class, Env, Nanos};
use bowline_net::{Backoff, Control, DialError, Opened};
use bowline_raft::{LaneEvent, LaneNo, NodeId, ShardId};
use bowline_statemachine::Machine;
use bowline_wal::{BatchRef, LogStorage};

use super::run::Core;
use connect::Doorman;
use fetch::Fetches;
use link::{Link, Nudge};

pub(crate) mod connect;
mod fetch;
pub(crate) mod link;
mod post;
mod take;

pub(crate) use link::Ended;

/// Dials under way at once.
const DIALS_MAX: usize = 8;
/// A node with a lower id is dialed once it has not dialed for so long: it may not know this one.
const LOWER_AFTER: Nanos = Nanos::from_millis(3_000);
/// Time that a node has to hear that it was removed.
const LEFT_AFTER: Nanos = Nanos::from_millis(5_000);

/// A lane, up or not.
pub(crate) struct Lane<E: Env> {
    pub(super) node: NodeId,
    pub(super) core: u16,
    pub(super) link: Option<Link<E>>,
    /// What raft was told of its room.
    room: u32,
    /// A shard of this core needs it.
    wanted: bool,
    backoff: Backoff,
    dialing: bool,
    dial_at: Nanos,
    /// Since when its node is known to be no member any more.
    left_at: Option<Nanos>,
}

/// The lanes of a core.
pub(crate) struct Lanes<E: Env> {
    pub(crate) doorman: Rc<Doorman<E>>,
    pub(super) all: Vec<Lane<E>>,
    /// By peer and its core.
    index: BTreeMap<(NodeId, u16), usize>,
    pub(crate) nudge: Arc<Nudge>,
    waker: Waker,
    life: u32,
    dials: usize,
    /// The lane whose frames are looked at first.
    turn: usize,
    /// Frames wait that nothing keeps from being taken.
    pub(super) waiting: bool,
    fetches: Fetches,
    /// Bytes of entries that raft puts into one Append.
    append_max: usize,
    /// Reused: batches to send.
    batches: Vec<BatchRef>,
}

impl<E: Env> Lanes<E> {
    pub(crate) fn new(doorman: Rc<Doorman<E>>, bell: Bell, append_max: usize) -> Self {
        let nudge = Nudge::new(bell);
        Self {
            doorman,
            append_max,
            all: Vec::new(),
            index: BTreeMap::new(),
            waker: Waker::from(Arc::clone(&nudge)),
            nudge,
            life: 0,
            dials: 0,
            turn: 0,
            waiting: false,
            fetches: Fetches::default(),
            batches: Vec::new(),
        }
    }

    /// The lane to a core of a node, made if there is none.
    fn lane_to(&mut self, node: NodeId, core: u16) -> usize {
        *self.index.entry((node, core)).or_insert_with(|| {
            self.all.push(Lane {
                node,
                core,
                link: None,
                room: 0,
                wanted: true,
                backoff: Backoff::new(),
                dialing: false,
                dial_at: Nanos(0),
                left_at: None,
            });
            self.all.len() - 1
        })
    }

    /// Whether a lane that is to be dialed is down.
    pub(super) fn is_wanting(&self) -> bool {
        let own = self.doorman.roster.borrow().own();
        self.all.iter().any(|lane| lane.wanted && lane.link.is_none() && lane.node > own)
    }

    /// The lane to the core of `node` that has `shard`, if it is up. Another core of a node that
    /// is laid out in another way knows nothing of the shard.
    pub(super) fn road(&self, node: NodeId, shard: ShardId) -> Option<usize> {
        let core = self.doorman.roster.borrow().core_of(node, shard);
        let at = *self.index.get(&(node, core))?;
        self.all[at].link.is_some().then_some(at)
    }

    /// The connection to the core of `node` that has `shard`.
    pub(super) fn link_to(&mut self, node: NodeId, shard: ShardId) -> Option<&mut Link<E>> {
        let at = self.road(node, shard)?;
        self.all[at].link.as_mut()
    }

    /// Since when there is a connection to `node`.
    pub(super) fn up_since(&self, node: NodeId) -> Option<Nanos> {
        self.any_to(node).and_then(|at| self.all[at].link.as_ref()).map(|link| link.since)
    }

    /// What the wall clock of `node` shows in milliseconds, by the last word that came over its
    /// lanes; none if there is none, or none lately. O(cores of the node).
    pub(super) fn wall_of(&self, node: NodeId, now: Nanos) -> Option<u64> {
        let of = self.index.range((node, 0)..=(node, u16::MAX));
        let told = of.filter_map(|(_, at)| self.all[*at].link.as_ref()?.wall);
        told.max_by_key(|told| told.at)?.now_ms(now)
    }

    /// Largest frame of the lane to the core of `node` that has `shard`.
    pub(super) fn frame_max_to(&self, node: NodeId, shard: ShardId) -> Option<u32> {
        self.road(node, shard).and_then(|at| self.all[at].link.as_ref()).map(|link| link.frame_max)
    }

    /// A lane to `node` that is up.
    fn any_to(&self, node: NodeId) -> Option<usize> {
        let of = self.index.range((node, 0)..=(node, u16::MAX));
        of.map(|(_, at)| *at).find(|at| self.all[*at].link.is_some())
    }
}

/// A lane as raft numbers it.
fn lane_no(at: usize) -> LaneNo {
    LaneNo(u16::try_from(at).expect("lanes are few"))
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Makes the lanes that the shards of this core need, as far as the peers' layouts are known.
    pub(crate) fn want_lanes(&mut self) {
        let roster = Rc::clone(&self.lanes.doorman.roster);
        let roster = roster.borrow();
        let core_of = |node, shard: &ShardId| (node, roster.core_of(node, *shard));
        let of = |node| self.slots.keys().map(move |shard| core_of(node, shard));
        let wanted: BTreeSet<_> = roster.nodes().flat_map(of).collect();
        for (node, core) in &wanted {
            let _: usize = self.lanes.lane_to(*node, *core);
        }
        for lane in &mut self.lanes.all {
            lane.wanted = wanted.contains(&(lane.node, lane.core));
        }
    }

    /// Dials what is down and due; gives up connections that are silent.
    pub(super) fn lanes_tick(&mut self) {
        let now = self.logs.now;
        let own = self.node;
        if self.lanes.doorman.ledger.is_old_copy() {
            // Who met no later life of this node does not know that it is not to be heard.
            (0..self.lanes.all.len()).for_each(|at| self.end_lane(at, &Ended::OldCopy));
        }
        // Room may have come by compaction alone.
        self.unstall_lanes();
        for at in 0..self.lanes.all.len() {
            let expired = self.lanes.all[at].link.as_ref().and_then(|it| it.liveness.expired(now));
            if let Some(down) = expired {
                self.end_lane(at, &Ended::Down(down));
            }
            self.end_departed(at);
            let lane = &mut self.lanes.all[at];
            let due = lane.wanted && lane.link.is_none() && !lane.dialing;
            if due && lane.node < own && lane.dial_at == Nanos(0) {
                lane.dial_at = now.after(LOWER_AFTER);
            }
            if due && now >= lane.dial_at && self.lanes.dials < DIALS_MAX && self.drain.is_none() {
                lane.dialing = true;
                self.lanes.dials += 1;
                let (node, core) = (lane.node, lane.core);
                let doorman = Rc::clone(&self.lanes.doorman);
                drop(self.env.spawn(Class::Core, doorman.dial(node, core)));
            }
        }
    }

    /// Ends the lane of a node that was removed, once it had time to hear of it.
    fn end_departed(&mut self, at: usize) {
        let lane = &mut self.lanes.all[at];
        if lane.link.is_none() || !self.lanes.doorman.roster.borrow().has_left(lane.node) {
            lane.left_at = None;
        } else if self.logs.now.since(*lane.left_at.get_or_insert(self.logs.now)) >= LEFT_AFTER {
            self.end_lane(at, &Ended::Left);
        }
    }

    /// A dial ended.
    pub(super) fn dialed(
        &mut self,
        (node, core): (NodeId, u16),
        result: Result<Box<Opened<E::Stream>>, DialError>,
    ) {
        let at = self.lanes.lane_to(node, core);
        self.lanes.dials -= 1;
        self.lanes.all[at].dialing = false;
        match result {
            Ok(opened) => self.received(*opened),
            Err(error) => {
                let wait = self.wait_of(at, error.is_lasting());
                self.lanes.all[at].dial_at = self.logs.now.after(wait);
                tracing::debug!(peer = node.0, core, %error, "a peer was not reached");
            },
        }
    }

    /// Two cores shook hands: the lane is that of the core which the peer named.
    pub(super) fn received(&mut self, opened: Opened<E::Stream>) {
        let at = self.lanes.lane_to(opened.theirs.from, opened.theirs.from_core);
        self.lane_opened(at, opened);
    }

    fn lane_opened(&mut self, at: usize, opened: Opened<E::Stream>) {
        if self.drain.is_some() {
            return;
        }
        self.end_lane(at, &Ended::Replaced);
        self.want_lanes();
        self.lanes.life += 1;
        let (life, now) = (self.lanes.life, self.logs.now);
        let window = self.lanes.doorman.roster.borrow().window();
        let boot = opened.theirs.boot;
        self.end_former_life(opened.theirs.from, boot);
        let lane = &mut self.lanes.all[at];
        let (node, core) = (lane.node, lane.core);
        let address = &opened.theirs.record.address;
        tracing::info!(peer = node.0, core, %address, "a lane is up");
        lane.link = Some(Link::open(&self.env, &self.mail, opened, (at, life, window), now));
        lane.room = u32::MAX;
        self.lanes.doorman.roster.borrow_mut().set_up((node, core), true);
        let event = LaneEvent::Up { node, core, boot, life };
        self.raft.handle_lane(lane_no(at), event, &mut self.logs, &mut self.out);
        self.counters.lanes_up.add(1);
    }

    /// Ends what is up with cores that a node had before its life `boot`. It may have fewer
    /// now; a machine that lost power resets no connection: what is sent there is lost.
    fn end_former_life(&mut self, node: NodeId, boot: u64) {
        for at in 0..self.lanes.all.len() {
            let lane = &self.lanes.all[at];
            let former = lane.link.as_ref().is_some_and(|link| link.boot < boot);
            if lane.node == node && former {
                self.end_lane(at, &Ended::FormerLife);
            }
        }
    }

    /// Gives a connection up, if there is one.
    pub(super) fn end_lane(&mut self, at: usize, why: &Ended) {
        let lane = &mut self.lanes.all[at];
        let Some(link) = lane.link.take() else { return };
        drop(link);
        let (node, core) = (lane.node, lane.core);
        tracing::info!(peer = node.0, core, ?why, "a lane is down");
        self.counters.lanes_down.add(1);
        self.lanes.doorman.roster.borrow_mut().set_up((node, core), false);
        let wait = self.wait_of(at, false);
        self.lanes.all[at].dial_at = self.logs.now.after(wait);
        self.raft.handle_lane(lane_no(at), LaneEvent::Down, &mut self.logs, &mut self.out);
    }

    /// How long to wait before the next dial.
    fn wait_of(&mut self, at: usize, lasting: bool) -> Nanos {
        let mut chance = [0; 8];
        self.env.fill_random(&mut chance);
        let lane = &mut self.lanes.all[at];
        let backoff = &mut lane.backoff;
        let wait = if lasting { backoff.slow() } else { backoff.next(u64::from_le_bytes(chance)) };
        if lane.node > self.node { wait } else { Nanos(wait.0 + LOWER_AFTER.0) }
    }

    /// Tells the peers that this node goes, and ends every task of the network.
    pub(crate) fn close_lanes(&mut self) {
        let now = self.logs.now;
        for lane in &mut self.lanes.all {
            let Some(mut link) = lane.link.take() else { continue };
            let consumed = link.consumed();
            link.sender.control(&Control::Goodbye { reason: 0 }, now.0, consumed);
            let mut cx = Context::from_waker(Waker::noop());
            // What the kernel does not take at once is not waited for: the peer sees the end.
            let mut line = link.line.borrow_mut();
            let said = link.sender.poll_write(&mut cx, &mut *line);
            if said.is_pending() || line.poll_close(&mut cx).is_pending() {
                tracing::debug!(peer = lane.node.0, "a lane ends without a goodbye");
            }
        }
        self.close_transfers();
        self.lanes.doorman.gate.close();
    }

    /// A reader ended.
    pub(super) fn lane_ended(&mut self, at: usize, life: u32, why: &Ended) {
        if self.lanes.all[at].link.as_ref().is_some_and(|link| link.life == life) {
            self.end_lane(at, why);
        }
    }
}
