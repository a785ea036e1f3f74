//! Connections between cores of different nodes: first in, first out, broken as a whole.

use std::collections::VecDeque;

use bowline_raft::{LaneNo, LaneWhat};

use super::{
    node::{Input, LaneInput, Parcel},
    plan::{Class, MICRO, MILLI, SECOND},
    world::{Event, World},
};

/// What one pass sent over a connection.
#[derive(Debug)]
pub struct Frame {
    pub lanes: Vec<LaneWhat>,
    pub parcels: Vec<Parcel>,
}

/// A connection between core `core` of two nodes.
#[derive(Debug)]
pub struct Link {
    /// Places of the nodes.
    pub ends: [usize; 2],
    pub core: usize,
    pub up: bool,
    /// Counts up with each life.
    pub life: u32,
    /// By receiving end.
    pub queues: [VecDeque<Frame>; 2],
    /// When the last frame to that end arrives.
    pub last_at: [u64; 2],
    /// Frames to that end do not arrive.
    pub blocked: [bool; 2],
    /// Whether that end was told of this life.
    pub told: [bool; 2],
}

impl Link {
    pub fn end_of(&self, node: usize) -> usize {
        usize::from(self.ends[1] == node)
    }
}

impl World {
    /// Makes one connection for each pair of cores with the same number.
    pub fn wire(&mut self) {
        let count = self.nodes.len();
        self.link_at = vec![Vec::new(); count * count];
        for a in 0..count {
            for b in a + 1..count {
                let both = self.nodes[a].cores.len().min(self.nodes[b].cores.len());
                for core in 0..both {
                    let at = self.links.len();
                    self.links.push(Link {
                        ends: [a, b],
                        core,
                        up: false,
                        life: 0,
                        queues: [VecDeque::new(), VecDeque::new()],
                        last_at: [0; 2],
                        blocked: [false; 2],
                        told: [false; 2],
                    });
                    self.link_at[a * count + b].push(at);
                    self.link_at[b * count + a].push(at);
                    self.dial(at, 0);
                }
            }
        }
    }

    pub fn links_between(&self, a: usize, b: usize) -> &[usize] {
        &self.link_at[a * self.nodes.len() + b]
    }

    /// Tries to connect after `delay`.
    pub fn dial(&mut self, link: usize, delay: u64) {
        let own = self.delay();
        self.at(self.now + delay + own, Event::Dial { link });
    }

    pub fn handle_dial(&mut self, link: usize) {
        let at = &self.links[link];
        let [a, b] = at.ends;
        let reachable = self.nodes[a].alive && self.nodes[b].alive && at.blocked == [false; 2];
        if at.up {
            return;
        }
        if !reachable {
            self.dial(link, 150 * MILLI);
            return;
        }
        let life = self.links[link].life + 1;
        self.links[link].life = life;
        self.links[link].up = true;
        self.links[link].told = [false; 2];
        self.note("up", link as u64, u64::from(life), 0);
        for end in 0..2 {
            let when = self.now + self.delay();
            self.links[link].last_at[end] = when;
            self.at(when, Event::Told { link, end, life });
        }
    }

    /// One end learns that the connection is there.
    pub fn handle_told(&mut self, link: usize, end: usize, life: u32) {
        let at = &mut self.links[link];
        if at.life != life || !at.up {
            return;
        }
        at.told[end] = true;
        let (me, peer, core) = (at.ends[end], at.ends[1 - end], at.core);
        let what = LaneInput::Up {
            node: peer as u64 + 1,
            core: u16::try_from(core).expect("few cores"),
            boot: self.nodes[peer].boot,
            life,
        };
        self.lane_input(me, core, peer, what);
    }

    fn lane_input(&mut self, node: usize, core: usize, peer: usize, what: LaneInput) {
        if !self.nodes[node].alive {
            return;
        }
        let lane = lane_no(peer);
        self.nodes[node].cores[core].inputs.push(Input::Lane { lane, what });
        self.wake(node, core);
    }

    /// Breaks a connection: what is under way is lost.
    pub fn reset(&mut self, link: usize) {
        if !self.links[link].up {
            return;
        }
        self.cover.resets += 1;
        self.note("reset", link as u64, u64::from(self.links[link].life), 0);
        self.links[link].up = false;
        let (ends, core) = (self.links[link].ends, self.links[link].core);
        for end in 0..2 {
            let at = &mut self.links[link];
            at.queues[end].clear();
            if std::mem::take(&mut at.told[end]) {
                self.lane_input(ends[end], core, ends[1 - end], LaneInput::Down);
            }
        }
        let wait = self.rng.net.log_uniform(MILLI, 400 * MILLI);
        self.dial(link, wait);
    }

    /// A random time on the wire.
    pub fn delay(&mut self) -> u64 {
        let usual = self.plan.delay;
        let late = !self.healing && self.plan.classes.has(Class::Delay) && self.rng.net.one_in(30);
        let own = usual / 2 + self.rng.net.below(usual);
        own + if late { self.rng.net.log_uniform(MILLI, 700 * MILLI) } else { 0 }
    }

    /// Sends a frame over a connection that is up.
    pub fn transmit(&mut self, link: usize, from: usize, frame: Frame) {
        let end = 1 - self.links[link].end_of(from);
        let delay = self.delay();
        let at = &mut self.links[link];
        let when = (self.now + delay).max(at.last_at[end] + 1);
        at.last_at[end] = when;
        at.queues[end].push_back(frame);
        let life = at.life;
        self.at(when, Event::Arrive { link, end, life });
    }

    pub fn handle_arrive(&mut self, link: usize, end: usize, life: u32) {
        let at = &mut self.links[link];
        if at.life != life || !at.up || at.blocked[end] {
            return;
        }
        let Some(frame) = at.queues[end].pop_front() else { return };
        let (me, peer, core) = (at.ends[end], at.ends[1 - end], at.core);
        self.note("arrive", me as u64, peer as u64, frame.parcels.len() as u64);
        self.deliver((me, peer, core), life, frame);
    }

    fn deliver(&mut self, way: (usize, usize, usize), life: u32, frame: Frame) {
        let (me, peer, core) = way;
        if !self.nodes[me].alive {
            return;
        }
        let lane = lane_no(peer);
        for what in frame.lanes {
            let what = LaneInput::Says(life, what);
            self.nodes[me].cores[core].inputs.push(Input::Lane { lane, what });
        }
        for parcel in frame.parcels {
            let home = self.nodes[me].home(parcel.message.shard);
            let lane = (home == core).then_some(lane);
            self.arrived((me, home), peer, lane.map(|lane| (lane, life)), parcel);
        }
        self.wake(me, core);
    }

    /// Puts a message before a core.
    pub fn arrived(
        &mut self,
        (me, home): (usize, usize),
        peer: usize,
        lane: Option<(LaneNo, u32)>,
        parcel: Parcel,
    ) {
        let origin = bowline_raft::Origin {
            node: bowline_raft::NodeId(peer as u64 + 1),
            lane: lane.map(|lane| lane.0),
            life: lane.map_or(0, |lane| lane.1),
        };
        self.nodes[me].cores[home].messages.push_back((origin, parcel));
        self.wake(me, home);
    }

    /// Frames to one end of every connection between two nodes stand still, or go on.
    pub fn block(&mut self, from: usize, to: usize, blocked: bool) {
        for nth in 0..self.links_between(from, to).len() {
            let link = self.links_between(from, to)[nth];
            let end = self.links[link].end_of(to);
            let was = std::mem::replace(&mut self.links[link].blocked[end], blocked);
            if was && !blocked {
                let life = self.links[link].life;
                for _ in 0..self.links[link].queues[end].len() {
                    let when = (self.now + self.plan.delay).max(self.links[link].last_at[end]) + 1;
                    self.links[link].last_at[end] = when;
                    self.at(when, Event::Arrive { link, end, life });
                }
            }
        }
    }

    /// A transport gives a connection up whose peer reads nothing.
    pub fn give_up_blocked(&mut self) {
        for link in 0..self.links.len() {
            let at = &self.links[link];
            if at.up && at.blocked != [false; 2] && self.rng.net.one_in(8) {
                self.reset(link);
            }
        }
        let again = 300 * MILLI + self.rng.net.below(SECOND / 2);
        self.at(self.now + again, Event::GiveUp);
    }

    /// Something that goes over another connection: lost with either end, in no order.
    pub fn bulk(&mut self, from: usize, to: usize, input: BulkWhat) {
        let delay = self.delay() + self.rng.net.below(10 * MILLI) + 100 * MICRO;
        let boots = (self.nodes[from].boot, self.nodes[to].boot);
        let event = Event::Bulk(Box::new(Bulk { from, to, boots, what: input }));
        self.at(self.now + delay, event);
    }
}

/// Something on a bulk connection.
#[derive(Debug)]
pub struct Bulk {
    pub from: usize,
    pub to: usize,
    pub boots: (u64, u64),
    pub what: BulkWhat,
}

#[derive(Debug)]
pub enum BulkWhat {
    Message(Parcel),
    /// For a core of the receiver.
    Input(bowline_raft::ShardId, Input),
}

/// Each core has at most one lane to each node.
pub fn lane_no(peer: usize) -> LaneNo {
    LaneNo(u16::try_from(peer).expect("few nodes"))
}

/// The node at the other end of a lane.
pub fn peer_of(lane: LaneNo) -> usize {
    usize::from(lane.0)
}
