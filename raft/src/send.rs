//! How a message gets into the outbox: at once, or when what it says is durable (I4).

use crate::{
    LaneNo, Message, NodeId, Origin, Outbox, RaftCore, ReplicaId, Send, Slot, What,
    message::Hint,
    replica::{NO_LANE, Replica},
};

/// How a message gets to a node: over this lane, or over any road if no lane is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Road(pub(crate) Option<LaneNo>);

impl RaftCore {
    /// A message of a replica as it is now.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    fn letter(&self, (slot, it): (Slot, &Replica), to: ReplicaId, what: What) -> Message {
        Message {
            shard: it.shard,
            to,
            from: it.replica,
            term: it.term,
            hint: Hint {
                my_slot: slot,
                my_generation: it.generation,
                my_core: self.config.core,
                ..Hint::default()
            },
            support: 0,
            seq: 0,
            what,
        }
    }

    /// Sends to another member of the shard, at once.
    pub(crate) fn tell(&self, slot: Slot, place: u8, what: What, out: &mut Outbox) {
        if let Some(send) = self.envelope(slot, place, what) {
            out.send.push(send);
        }
    }

    /// Sends to every other member, at once.
    pub(crate) fn tell_all(&self, slot: Slot, what: What, out: &mut Outbox) {
        for place in 0..self.conf(slot).members {
            if self.conf(slot).conf.members[usize::from(place)].replica
                != self.replicas[slot].replica
            {
                self.tell(slot, place, what, out);
            }
        }
    }

    /// A message to another member, with a road to it; none: there is no road now.
    pub(crate) fn envelope(&self, slot: Slot, place: u8, what: What) -> Option<Send> {
        let member = self.conf(slot).conf.members[usize::from(place)];
        let mut message = self.letter((slot, &self.replicas[slot]), member.replica, what);
        let mut lane = NO_LANE;
        if let Some(peer) = self.peer(slot, place) {
            message.hint.to_slot = peer.slot;
            message.hint.to_generation = peer.generation;
            lane = peer.lane;
        }
        let Road(lane) = self.road(member.node, lane)?;
        Some(Send { slot, node: member.node, lane, message, entries: None })
    }

    /// A message to a replica of the shard that need not be a member.
    pub(crate) fn envelope_to(
        &self,
        slot: Slot,
        (to, node): (ReplicaId, NodeId),
        what: What,
    ) -> Option<Send> {
        let message = self.letter((slot, &self.replicas[slot]), to, what);
        let Road(lane) = self.road(node, NO_LANE)?;
        Some(Send { slot, node, lane, message, entries: None })
    }

    /// The road to a node: the lane used before, else any that is up, or none is known. None: those
    /// that are known are down.
    #[inline]
    pub(crate) fn road(&self, node: NodeId, used: u16) -> Option<Road> {
        match self.lanes.get(usize::from(used)) {
            Some(lane) if lane.up && lane.node == node => Some(Road(Some(LaneNo(used)))),
            None if self.lanes.is_empty() => Some(Road(None)),
            Some(_) | None => self.other_road(node),
        }
    }

    fn other_road(&self, node: NodeId) -> Option<Road> {
        match self.lane_to(node) {
            Some(lane) => Some(Road(Some(lane))),
            None if self.lanes.iter().any(|lane| lane.known && lane.node == node) => None,
            None => Some(Road(None)),
        }
    }

    /// The first lane to a node that is up.
    pub(crate) fn lane_to(&self, node: NodeId) -> Option<LaneNo> {
        let place = self.lanes.iter().position(|lane| lane.up && lane.node == node)?;
        u16::try_from(place).ok().map(LaneNo)
    }

    /// Answers a message, at once.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn answer(&self, slot: Slot, from: Origin, m: &Message, what: What) -> Send {
        let it = &self.replicas[slot];
        let mut message = self.letter((slot, it), m.from, what);
        message.hint.to_slot = m.hint.my_slot;
        message.hint.to_generation = m.hint.my_generation;
        message.seq = m.seq;
        message.support = it.support_over(from.lane);
        Send { slot, node: from.node, lane: from.lane, message, entries: None }
    }

    /// Answers a message when everything staged for this replica is durable (I4).
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn answer_durably(
        &mut self,
        (slot, from): (Slot, Origin),
        m: &Message,
        what: What,
        out: &mut Outbox,
    ) {
        let send = self.answer(slot, from, m, what);
        self.hold(slot, send, out);
    }

    /// Sends when everything staged for this replica is durable (I4).
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn hold(&mut self, slot: Slot, send: Send, out: &mut Outbox) {
        let it = &self.replicas[slot];
        let stream = &mut self.streams[usize::from(it.stream)];
        if it.staged <= stream.durable {
            out.send.push(send);
            return;
        }
        // In LSN order: what is behind a later write leaves with it.
        let newest = stream.held.back().map_or(it.staged, |held| held.0.max(it.staged));
        stream.held.push_back((newest, send));
        self.counters.held += 1;
    }
}
