//! What other nodes sent, into raft. Frames of a lane in their order, lanes in turn; a log without
//! room keeps a frame, and with it the peer's credit.

use bowline_env::Env;
use bowline_net::{ControlFrame, Kind, Msgs, Received};
use bowline_raft::{Batch, LaneEvent, NodeId, Origin, Verdict};
use bowline_statemachine::Machine;
use bowline_wal::LogStorage;

use super::{Ended, lane_no};
use crate::core::run::Core;

/// Frames and bytes taken in one pass.
const FRAMES_MAX: usize = 64;
const BYTES_MAX: usize = 2 << 20;

/// What became of a frame of messages.
enum Taken {
    Whole,
    /// The log has no room; so many of its messages are taken.
    Part(usize),
    /// It has no meaning: the lane ends.
    False,
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// A frame came in. What is no message of a replica goes to raft at once, ahead of frames that
    /// wait.
    pub(in crate::core) fn frame_came(&mut self, at: usize, life: u32, frame: Received) {
        let now = self.logs.now;
        let lane = &mut self.lanes.all[at];
        let Some(link) = lane.link.as_mut().filter(|link| link.life == life) else { return };
        link.liveness.note_received(now);
        lane.backoff.reset();
        let credited = link.sender.set_peer_consumed(frame.header().consumed);
        if let Err(error) = credited {
            self.end_lane(at, &Ended::Frame(error));
            return;
        }
        if frame.header().kind == Kind::Msgs {
            link.inbox.push_back(frame);
            self.lanes.waiting = true;
            return;
        }
        if let Kind::Bulk(_) = frame.header().kind {
            let node = lane.node;
            if !self.bulk_came(node, frame) {
                self.end_lane(at, &Ended::Meaning);
            }
            return;
        }
        let event = ControlFrame::decode(&frame.frame());
        let Ok(event) = event else {
            self.end_lane(at, &Ended::Meaning);
            return;
        };
        let no = lane_no(at);
        let (logs, out) = (&mut self.logs, &mut self.out);
        let mut tell = |event: LaneEvent<'_>| self.raft.handle_lane(no, event, logs, out);
        match event {
            Some(ControlFrame::Liveness(beat)) => tell(LaneEvent::Liveness(beat)),
            Some(ControlFrame::LivenessReply(beat)) => tell(LaneEvent::LivenessReply(beat)),
            Some(ControlFrame::Digest(digest)) => tell(LaneEvent::Digest(digest)),
            Some(ControlFrame::ShardsWanted) => tell(LaneEvent::ShardsWanted),
            Some(ControlFrame::Rows { rows, last }) => tell(LaneEvent::Rows { rows: &rows, last }),
            Some(ControlFrame::Goodbye { .. }) => self.end_lane(at, &Ended::Goodbye),
            Some(ControlFrame::Credit | _) | None => {},
        }
    }

    /// Hands frames of messages to raft. Answers whether some are left that wait for nothing.
    pub(in crate::core) fn take_frames(&mut self) -> bool {
        if !std::mem::take(&mut self.lanes.waiting) {
            return false;
        }
        let count = self.lanes.all.len();
        let (mut frames, mut bytes) = (0, 0);
        let mut idle = 0;
        while idle < count {
            let at = self.lanes.turn % count;
            self.lanes.turn = (at + 1) % count;
            let Some(len) = self.take_frame(at) else {
                idle += 1;
                continue;
            };
            idle = 0;
            frames += 1;
            bytes += len;
            if frames >= FRAMES_MAX || bytes >= BYTES_MAX {
                self.lanes.waiting = true;
                return true;
            }
        }
        false
    }

    /// Logs have room again.
    pub(in crate::core) fn unstall_lanes(&mut self) {
        for link in self.lanes.all.iter_mut().filter_map(|lane| lane.link.as_mut()) {
            if std::mem::take(&mut link.stalled) {
                self.lanes.waiting = true;
            }
        }
    }

    /// Takes one frame of a lane: its bytes; none if there is none that can be taken.
    fn take_frame(&mut self, at: usize) -> Option<usize> {
        let lane = &mut self.lanes.all[at];
        let node = lane.node;
        let link = lane.link.as_mut().filter(|link| !link.stalled)?;
        let frame = link.inbox.pop_front()?;
        let (taken, life, len) = (std::mem::take(&mut link.taken), link.life, frame.len());
        match self.take_msgs(at, (node, life), &frame, taken) {
            Taken::Whole => Some(len),
            Taken::Part(taken) => {
                let link = self.lanes.all[at].link.as_mut()?;
                link.inbox.push_front(frame);
                link.taken = taken;
                link.stalled = true;
                None
            },
            Taken::False => {
                self.end_lane(at, &Ended::Meaning);
                None
            },
        }
    }

    fn take_msgs(
        &mut self,
        at: usize,
        (node, life): (NodeId, u32),
        frame: &Received,
        skip: usize,
    ) -> Taken {
        let Ok(msgs) = Msgs::open(frame.frame()) else { return Taken::False };
        let origin = Origin { node, lane: Some(lane_no(at)), life };
        let mut batches: Vec<Batch<'_>> = Vec::new();
        for (nth, message) in msgs.iter().enumerate().skip(skip) {
            let Ok(message) = message else {
                self.counters.messages_refused.add(1);
                continue;
            };
            batches.clear();
            batches.extend(msgs.batches(&message));
            let received = bowline_raft::Received { message: &message, batches: &batches };
            let (logs, out) = (&mut self.logs, &mut self.out);
            match self.raft.handle_message(origin, received, logs, out) {
                Verdict::Taken => {},
                Verdict::NoRoom => return Taken::Part(nth),
                Verdict::False(why) => {
                    tracing::debug!(peer = node.0, ?why, "a message was refused");
                    self.counters.messages_refused.add(1);
                },
                Verdict::UnknownShard => {
                    self.counters.messages_refused.add(1);
                    self.unknown_shard(node, &message);
                },
            }
        }
        Taken::Whole
    }
}
