//! The nodes of a script and the lanes between them. Nothing moves by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bowline_raft::{
    Batch, CoreConfig, LaneEvent, LaneNo, LaneSend, LaneWhat, Liveness, Message, Origin, Received,
    Verdict, What,
};

use super::{
    disk::Manifest,
    node::{Node, Packet},
    show,
};

/// Rounds of a network that does not come to rest.
const ROUNDS_MAX: usize = 2_000;
/// Between two looks at the timers while time passes.
const STEP: u64 = 10_000_000;

/// Messages of one direction, first in first out.
#[derive(Debug, Default)]
pub struct Wire {
    pub queue: VecDeque<Packet>,
    /// Taken out of the network by `hold`.
    pub held: VecDeque<Packet>,
    /// What is sent now is lost.
    pub deaf: bool,
}

/// Everything a script can touch.
#[derive(Debug, Default)]
pub struct World {
    pub nodes: BTreeMap<u64, Node>,
    pub wires: BTreeMap<(u64, u64), Wire>,
    /// Pairs that a script cut.
    pub cut: BTreeSet<(u64, u64)>,
    /// Pairs that are connected.
    up: BTreeSet<(u64, u64)>,
    lives: BTreeMap<(u64, u64), u32>,
    pub config: CoreConfig,
    pub snapshots: BTreeMap<String, Manifest>,
    /// Lines of the answer.
    pub told: Vec<String>,
    /// The state lines shown last.
    pub shown: BTreeMap<u64, String>,
    /// Numbers of followers' questions, in the order they were first seen; an answer shows places.
    pub requests: Vec<u64>,
    /// Who was elected: (term, node), in order.
    pub led: Vec<(u64, u64)>,
}

pub fn pair(one: u64, other: u64) -> (u64, u64) {
    (one.min(other), one.max(other))
}

/// A node's number for its lane to `peer`.
fn lane(peer: u64) -> LaneNo {
    LaneNo(u16::try_from(peer).expect("a few nodes"))
}

/// Where a packet of node `from` came by.
fn origin(from: u64, packet: &Packet) -> Origin {
    let lane = (packet.life != 0).then(|| lane(from));
    Origin { node: bowline_raft::NodeId(from), lane, life: packet.life }
}

impl World {
    pub fn new(lanes: bool) -> Self {
        let liveness = if lanes { Liveness::Lane } else { Liveness::Shard };
        Self { config: CoreConfig { liveness, ..CoreConfig::default() }, ..Self::default() }
    }

    pub fn node(&mut self, id: u64) -> Result<&mut Node, String> {
        self.nodes.get_mut(&id).ok_or_else(|| format!("there is no node {id}"))
    }

    pub fn running(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.core.is_some()).map(|node| node.id).collect()
    }

    pub fn start(&mut self, id: u64) -> Result<(), String> {
        let config = self.config;
        let node = self.node(id)?;
        if node.core.is_some() {
            return Err(format!("{id} runs already"));
        }
        node.start(config)?;
        self.collect(id);
        for peer in self.running() {
            self.connect(id, peer);
        }
        Ok(())
    }

    pub fn crash(&mut self, id: u64) -> Result<(), String> {
        self.node(id)?.crash();
        let peers: Vec<_> = self.nodes.keys().copied().filter(|peer| *peer != id).collect();
        for peer in peers {
            self.disconnect(id, peer);
        }
        Ok(())
    }

    /// Both ends learn of a connection, if nothing is in its way.
    pub fn connect(&mut self, one: u64, other: u64) {
        let key = pair(one, other);
        let runs = |id| self.nodes.get(&id).is_some_and(|node| node.core.is_some());
        let possible = one != other && runs(one) && runs(other) && !self.cut.contains(&key);
        if !possible || !self.up.insert(key) {
            return;
        }
        let life = self.lives.entry(key).or_insert(0);
        *life += 1;
        let life = *life;
        for (id, peer) in [key, (key.1, key.0)] {
            let (node, boot) = (self.nodes[&peer].node_id(), self.nodes[&peer].boot);
            self.lane_event(id, peer, LaneEvent::Up { node, core: 0, boot, life });
        }
    }

    /// The connection breaks; what was under way is lost.
    pub fn disconnect(&mut self, one: u64, other: u64) {
        let key = pair(one, other);
        if !self.up.remove(&key) {
            return;
        }
        for (id, peer) in [key, (key.1, key.0)] {
            self.wires.entry((id, peer)).or_default().queue.clear();
        }
        for (id, peer) in [key, (key.1, key.0)] {
            self.lane_event(id, peer, LaneEvent::Down);
        }
    }

    fn lane_event(&mut self, id: u64, peer: u64, event: LaneEvent<'_>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.pass(|core, log, out| core.handle_lane(lane(peer), event, log, out));
        self.collect(id);
    }

    /// Takes in what a node said and sent.
    pub fn collect(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        self.told.extend(node.told.drain(..).map(|line| format!("{id} {line}")));
        self.led.extend(node.led.drain(..).map(|term| (term.0, id)));
        let (sent, beats) = (core::mem::take(&mut node.sent), core::mem::take(&mut node.beats));
        for (to, packet) in sent {
            self.post(id, to, packet);
        }
        for beat in beats {
            self.beat(id, &beat);
        }
    }

    fn post(&mut self, from: u64, to: u64, packet: Packet) {
        let key = pair(from, to);
        let heads: Vec<_> = packet.batches.iter().map(|(head, _)| *head).collect();
        let line = show::message(&self.plain(packet.message), &heads);
        let wire = self.wires.entry((from, to)).or_default();
        let lost = if wire.deaf || !self.up.contains(&key) { " (lost)" } else { "" };
        self.told.push(format!("{from}->{to} {line}{lost}"));
        if lost.is_empty() {
            let life = self.lives.get(&key).copied().unwrap_or_default();
            wire.queue.push_back(Packet { life, ..packet });
        }
    }

    /// The message with small numbers for questions; those of the core are drawn.
    fn plain(&mut self, mut message: Message) -> Message {
        if let What::ReadIndex { request, .. } | What::ReadIndexResp { request, .. } =
            &mut message.what
        {
            let known = self.requests.iter().position(|known| known == request);
            let place = known.unwrap_or(self.requests.len());
            if known.is_none() {
                self.requests.push(*request);
            }
            *request = u64::try_from(place + 1).expect("a few");
        }
        message
    }

    /// Beats and digests take no time.
    fn beat(&mut self, from: u64, beat: &LaneSend) {
        let to = u64::from(beat.lane.0);
        let deaf = self.wires.get(&(from, to)).is_some_and(|wire| wire.deaf);
        if deaf || !self.up.contains(&pair(from, to)) {
            return;
        }
        let event = match &beat.what {
            LaneWhat::Liveness(beat) => LaneEvent::Liveness(*beat),
            LaneWhat::LivenessReply(beat) => LaneEvent::LivenessReply(*beat),
            LaneWhat::Digest(digest) => LaneEvent::Digest(*digest),
            LaneWhat::ShardsWanted => LaneEvent::ShardsWanted,
            LaneWhat::Rows { rows, last } => LaneEvent::Rows { rows, last: *last },
            LaneWhat::Reset => {
                self.told.push(format!("{from} resets its lane to {to}"));
                self.disconnect(from, to);
                self.connect(from, to);
                return;
            },
            other => unreachable!("{other:?}"),
        };
        self.lane_event(to, from, event);
    }

    /// Hands the first messages of a wire over; an Append that a full log refuses stays, and those
    /// behind it, and nothing else does. Returns how many left the wire.
    pub fn deliver(&mut self, from: u64, to: u64, count: usize) -> usize {
        let mut kept = VecDeque::new();
        for _ in 0..count {
            let wire = self.wires.entry((from, to)).or_default();
            let Some(packet) = wire.queue.pop_front() else { break };
            let append = matches!(packet.message.what, What::Append { .. });
            let behind = append && !kept.is_empty();
            if behind || self.hand(from, to, &packet) == Some(Verdict::NoRoom) {
                self.tell_kept(from, to, &packet);
                kept.push_back(packet);
            }
        }
        let stayed = kept.len();
        let wire = self.wires.entry((from, to)).or_default();
        for packet in kept.into_iter().rev() {
            wire.queue.push_front(packet);
        }
        count - stayed
    }

    /// An Append waits for the log; what it says of the commit does not.
    fn tell_kept(&mut self, from: u64, to: u64, packet: &Packet) {
        let What::Append { commit, .. } = packet.message.what else { return };
        let origin = origin(from, packet);
        if let Some(node) = self.nodes.get_mut(&to) {
            node.pass(|core, _, _| {
                core.handle_kept(origin, &packet.message, commit);
            });
        }
        self.collect(to);
    }

    /// A message reaches a node.
    pub fn hand(&mut self, from: u64, to: u64, packet: &Packet) -> Option<Verdict> {
        let batches: Vec<_> =
            packet.batches.iter().map(|(head, body)| Batch { head: *head, body }).collect();
        let origin = origin(from, packet);
        let node = self.nodes.get_mut(&to)?;
        let mut verdict = None;
        node.pass(|core, log, out| {
            let received = Received { message: &packet.message, batches: &batches };
            verdict = Some(core.handle_message(origin, received, log, out));
        });
        let name = show::name(&packet.message.what);
        match verdict {
            Some(Verdict::Taken) | None => {},
            Some(Verdict::False(why)) => self.told.push(format!("{to} drops {name}: {why:?}")),
            Some(other) => self.told.push(format!("{to} leaves {name}: {other:?}")),
        }
        self.collect(to);
        verdict
    }

    /// A message that nobody sent, over the lane as it is now, or over none.
    pub fn forge(&mut self, from: u64, to: u64, message: Message, packet: Packet) {
        let key = pair(from, to);
        let life = if self.up.contains(&key) { self.lives[&key] } else { 0 };
        self.hand(from, to, &Packet { message, life, ..packet });
    }

    /// Everything is written and delivered until nothing is under way.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for id in self.running() {
                let node = self.node(id)?;
                if node.log.disk.durable < node.log.disk.staged {
                    node.durable(None);
                    self.collect(id);
                    moved = true;
                }
            }
            let links: Vec<_> = self.wires.keys().copied().collect();
            for (from, to) in links {
                let waiting = self.wires[&(from, to)].queue.len();
                moved |= self.deliver(from, to, waiting) > 0;
            }
            if !moved {
                return Ok(());
            }
        }
        Err("the network does not come to rest".to_owned())
    }

    /// Time passes for `ids`; network and disks of all do their work.
    pub fn advance(&mut self, nanos: u64, ids: &[u64]) -> Result<(), String> {
        for _ in 0..nanos / STEP {
            for id in ids {
                let node = self.node(*id)?;
                let now = node.now + STEP;
                node.timer(now);
                self.collect(*id);
            }
            self.settle()?;
        }
        Ok(())
    }

    /// The state lines that are not as they were shown last.
    pub fn changed(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for node in self.nodes.values() {
            let line = node.state();
            if self.shown.get(&node.id) != Some(&line) {
                lines.push(line.clone());
                self.shown.insert(node.id, line);
            }
        }
        lines
    }
}
