//! Lanes: one per (this core, peer node, peer core). What the transport tells of them, what goes
//! out over them beside messages, and what raft keeps of each.
//!
//! A lane *life* is one connection. `life` counts up with each [`LaneEvent::Up`]; what a former
//! life brought is dropped, so an answer of it counts for nothing.

use crate::{
    BootTime, Digest, Log, NodeId, Outbox, RaftCore, Role, Row, Slot,
    digest::{Jobs, Watch},
    promise::{Belief, Promise},
    replica::NO_ROOM,
};

/// A lane of this core: an index that the transport gives out and may use again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneNo(pub u16);

/// Where a message came from, as the transport knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The node that the hello proved.
    pub node: NodeId,
    /// The lane it came over; none: passed on by another core of this node.
    pub lane: Option<LaneNo>,
    /// The life of that lane.
    pub life: u32,
}

/// Something that happened to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneEvent<'a> {
    /// The hello was exchanged: a new life begins.
    Up {
        /// The peer.
        node: NodeId,
        /// Its core.
        core: u16,
        /// The number of the peer's process; a higher one means that the one before is dead.
        boot: u64,
        /// The number of this life, higher than any before on this lane.
        life: u32,
    },
    /// The connection is gone, and with it everything under way.
    Down,
    /// How many bytes of entries the lane takes now; 0 stops Appends with entries.
    Room(u32),
    /// The peer's beat: it asks for support.
    Liveness(Beat),
    /// The answer to our beat: what the peer grants.
    LivenessReply(Beat),
    /// What the peer says it leads with support from here.
    Digest(Digest),
    /// The peer asks for the rows behind our digest.
    ShardsWanted,
    /// Rows of the peer's digest; `last` ends them.
    Rows {
        /// Shards that the peer leads.
        rows: &'a [Row],
        /// Whether these are the last ones.
        last: bool,
    },
}

/// A beat of a lane, and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The sender's epoch as a supporter of the receiver.
    pub epoch: u64,
    /// Wanted support in a beat, granted support in its answer; nanoseconds.
    pub support: u64,
    /// What the sender's log has written; it stands still when its disk does.
    pub log_progress: u64,
    /// The sender's clock in a beat; repeated by the answer.
    pub sent_at: u64,
    /// The sender's wall clock, milliseconds; raft does not read it.
    pub wall: u64,
    /// Hash over the shards that the sender leads with the receiver's support.
    pub led_hash: u64,
}

/// Something to send over a lane that is no message of a replica. It may leave at once, before
/// messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSend {
    /// The lane.
    pub lane: LaneNo,
    /// What.
    pub what: LaneWhat,
}

/// What a [`LaneSend`] says; the receiver gets the event of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneWhat {
    /// [`LaneEvent::Liveness`].
    Liveness(Beat),
    /// [`LaneEvent::LivenessReply`].
    LivenessReply(Beat),
    /// [`LaneEvent::Digest`].
    Digest(Digest),
    /// [`LaneEvent::ShardsWanted`].
    ShardsWanted,
    /// [`LaneEvent::Rows`].
    Rows {
        /// Shards that this side leads.
        rows: alloc::vec::Vec<Row>,
        /// Whether these are the last ones.
        last: bool,
    },
    /// The transport closes the lane: the peer sent bytes that are not what they say.
    Reset,
}

/// What raft keeps of a lane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lane {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) life: u32,
    pub(crate) core: u16,
    pub(crate) up: bool,
    /// The connection was there once: the fields of a supporter count on over lives.
    pub(crate) known: bool,
    pub(crate) room: u32,
    /// As supporter: what the other end was promised.
    pub(crate) promise: Promise,
    /// As leader: what the other end is believed to promise.
    pub(crate) belief: Belief,
    /// When the latest beat left.
    pub(crate) beat_at: BootTime,
    /// Over the replicas bound under the present epoch, and over the shards led under the present
    /// view.
    pub(crate) followed_hash: u64,
    pub(crate) led_hash: u64,
    pub(crate) watch: Watch,
    /// The sweep that rows are taken in, whether they are still coming, and the last whole one.
    pub(crate) sweep: u16,
    pub(crate) sweeping: bool,
    pub(crate) swept: u16,
    pub(crate) jobs: Jobs,
    /// Where the walk over this lane's replicas goes on; none: no walk.
    pub(crate) cursor: Option<u32>,
}

impl Lane {
    /// Whether the latest beat left `every` ago, or longer.
    pub(crate) fn is_beat_due(&self, now: BootTime, every: u64) -> bool {
        self.up && now >= self.beat_at.after(every)
    }
}

/// Replicas that one pass looks at for one lane.
const WALK_MAX: u32 = 4_096;
/// Lanes of a core at most.
const LANES_MAX: usize = 4_096;

impl RaftCore {
    /// Takes what happened to a lane.
    pub fn handle_lane(
        &mut self,
        lane: LaneNo,
        event: LaneEvent<'_>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) {
        let place = usize::from(lane.0);
        if place >= LANES_MAX {
            return;
        }
        if self.lanes.len() <= place {
            self.lanes.resize(place + 1, Lane::default());
        }
        match event {
            LaneEvent::Up { node, core, boot, life } => {
                let known = &mut self.lanes[place];
                let moved = known.node != node;
                known.node = node;
                known.core = core;
                known.life = life;
                known.up = true;
                known.known = true;
                known.room = u32::MAX;
                known.cursor = Some(0);
                self.lane_up(lane, boot, moved);
                self.uncrowd(lane);
                self.walk_lane(lane);
            },
            LaneEvent::Down => {
                self.lanes[place].up = false;
                self.lanes[place].room = 0;
                self.lanes[place].cursor = Some(0);
                self.walk_lane(lane);
            },
            LaneEvent::Room(room) => {
                self.lanes[place].room = room;
                if room > 0 {
                    self.uncrowd(lane);
                }
            },
            LaneEvent::Liveness(_)
            | LaneEvent::LivenessReply(_)
            | LaneEvent::Digest(_)
            | LaneEvent::ShardsWanted
            | LaneEvent::Rows { .. } => {
                if self.lanes[place].up {
                    self.lane_event(lane, event, log, out);
                }
            },
        }
        self.settle(out);
    }

    /// Looks at the leaders that waited for room in a lane.
    fn uncrowd(&mut self, lane: LaneNo) {
        let mut crowded = core::mem::take(&mut self.crowded);
        crowded.retain(|(crowd, slot)| {
            if *crowd != lane.0 {
                return true;
            }
            for place in 0..self.conf(*slot).members {
                if let Some(peer) = self.peer_mut(*slot, place).filter(|it| it.lane == lane.0) {
                    peer.flags &= !NO_ROOM;
                }
            }
            self.touch(*slot);
            false
        });
        self.crowded = crowded;
    }

    /// Goes on with the walks over the replicas of lanes that came up.
    pub(crate) fn walk_lanes(&mut self) {
        for place in 0..self.lanes.len() {
            if self.lanes[place].cursor.is_some()
                && let Ok(lane) = u16::try_from(place)
            {
                self.walk_lane(LaneNo(lane));
            }
        }
    }

    /// Whether a walk over the replicas of a lane is not at its end.
    pub(crate) fn is_walking(&self) -> bool {
        self.lanes.iter().any(|lane| lane.cursor.is_some())
    }

    /// Some replicas of a lane that came up: what was under way is sent again, who waits for
    /// votes asks again. Of one that went down: what was under way is lost.
    fn walk_lane(&mut self, lane: LaneNo) {
        let Some(from) = self.lanes[usize::from(lane.0)].cursor else { return };
        let end = u32::try_from(self.replicas.len()).expect("slots are numbered by u32");
        let to = from.saturating_add(WALK_MAX).min(end);
        let (node, up) = (self.lanes[usize::from(lane.0)].node, self.lanes[usize::from(lane.0)].up);
        for nth in from..to {
            if self.is_open(Slot(nth)) && up {
                self.meet_again(Slot(nth), lane, node);
            } else if self.is_open(Slot(nth)) {
                self.part_with(Slot(nth), lane);
            }
        }
        self.lanes[usize::from(lane.0)].cursor = (to < end).then_some(to);
    }

    /// A lane went down: what is under way over it is lost, and what goes on goes over another
    /// lane to the same node, if there is one.
    fn part_with(&mut self, slot: Slot, lane: LaneNo) {
        if self.replicas[slot].role != Role::Leader {
            return;
        }
        let other = self.lane_to(self.lanes[usize::from(lane.0)].node);
        for place in 0..self.conf(slot).members {
            let Some(peer) = self.peer(slot, place) else { continue };
            if peer.lane != lane.0 {
                continue;
            }
            if peer.waiting() > 0 {
                self.reset_peer(slot, place);
            }
            if let Some(other) = other {
                self.reset_peer(slot, place);
                self.move_peer(slot, place, other.0);
                self.touch(slot);
            }
        }
    }

    fn meet_again(&mut self, slot: Slot, lane: LaneNo, node: NodeId) {
        let members = &self.conf(slot).conf.members;
        let Some(place) = members.iter().position(|member| member.node == node) else { return };
        let Ok(place) = u8::try_from(place) else { return };
        let replica = self.conf(slot).conf.members[usize::from(place)].replica;
        match self.replicas[slot].role {
            Role::Leader => {
                let Some(peer) = self.peer(slot, place) else { return };
                // Bound over another lane of the same process it stays there. The other lanes may
                // lead to cores that do not have it, or to a process that is dead.
                let boot = self.lanes[usize::from(lane.0)].boot;
                let used = self.lanes.get(usize::from(peer.lane));
                let stays = used.is_some_and(|used| used.up && used.boot >= boot);
                if peer.lane == lane.0 || !(stays && self.lane_supports(peer)) {
                    self.reset_peer(slot, place);
                    self.move_peer(slot, place, lane.0);
                    self.touch(slot);
                }
            },
            Role::Follower | Role::PreCandidate | Role::Candidate => {
                if self.replicas[slot].leader == replica {
                    self.requeue_reads(slot);
                }
                let waits = self.replicas[slot].leader.0 == 0 && self.armed(slot);
                if waits && self.replicas[slot].role != Role::Candidate {
                    self.replicas[slot].failed = 0;
                    if self.replicas[slot].role == Role::PreCandidate {
                        // It asks again at once: the wait was for a voter like this.
                        self.eager.push(slot);
                    }
                    let soon = self.bound_until(slot).after(self.delay(slot));
                    if self.wheel.deadline(slot).is_none_or(|due| soon < due) {
                        self.arm(slot, soon);
                    }
                }
            },
        }
    }
}
