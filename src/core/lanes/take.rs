//! What other nodes sent, into raft. Frames of a lane in their order, lanes in turn.
//!
//! A log without room keeps the Appends of a lane in their frames, and with these the peer's
//! credit. What else comes passes them, and what they say of commits is taken at once: the log gets
//! room again by what is committed, applied and flushed, and the peer's own log may wait for an
//! answer.

use bowline_env::Env;
use bowline_net::{ControlFrame, Kind, Msgs, Received};
use bowline_raft::{Batch, LaneEvent, Message, NodeId, Origin, ShardId, Verdict, What};
use bowline_statemachine::Machine;
use bowline_wal::LogStorage;

use super::link::ToldWall;
use super::{Ended, lane_no};
use crate::core::run::Core;

/// Frames and bytes taken in one pass.
const FRAMES_MAX: usize = 64;
const BYTES_MAX: usize = 2 << 20;

/// What became of a frame of messages.
enum Taken {
    Whole,
    /// The log has no room; before so many of its messages no Append is left, and only Appends are
    /// behind.
    Part(usize),
    /// It has no meaning: the lane ends.
    False,
}

/// What of a frame was taken before.
#[derive(Clone, Copy)]
struct Part {
    /// So many messages, the first ones.
    taken: usize,
    /// And of the others all but Appends.
    passed: bool,
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
        if let Some(ControlFrame::Liveness(beat) | ControlFrame::LivenessReply(beat)) = &event {
            link.wall = ToldWall::of(beat.wall, now).or(link.wall);
        }
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
            if !link.full.is_empty() {
                link.full.clear();
                link.next = 0;
                self.lanes.waiting = true;
            }
        }
    }

    /// Takes what can be taken of one frame of a lane: its bytes; none if there is no frame that
    /// was not looked at.
    fn take_frame(&mut self, at: usize) -> Option<usize> {
        let lane = &mut self.lanes.all[at];
        let node = lane.node;
        let link = lane.link.as_mut()?;
        if link.next < link.passed && link.wanted.is_subset(&link.full) {
            link.next = link.passed;
        }
        let nth = link.next;
        let frame = link.inbox.remove(nth)?;
        let passed = nth < link.passed;
        link.passed -= usize::from(passed);
        let part =
            Part { taken: if nth == 0 { std::mem::take(&mut link.taken) } else { 0 }, passed };
        let (life, len) = (link.life, frame.len());
        let became = self.take_msgs(at, (node, life), &frame, part);
        let link = self.lanes.all[at].link.as_mut()?;
        match became {
            Taken::Whole if link.inbox.is_empty() => {
                link.told.clear();
                link.wanted.clear();
            },
            Taken::Whole => {},
            Taken::Part(taken) => {
                link.inbox.insert(nth, frame);
                link.passed += 1;
                link.next += 1;
                if nth == 0 {
                    link.taken = taken;
                }
            },
            Taken::False => {
                self.end_lane(at, &Ended::Meaning);
                return None;
            },
        }
        Some(len)
    }

    fn take_msgs(
        &mut self,
        at: usize,
        (node, life): (NodeId, u32),
        frame: &Received,
        part: Part,
    ) -> Taken {
        let Ok(msgs) = Msgs::open(frame.frame()) else { return Taken::False };
        let origin = Origin { node, lane: Some(lane_no(at)), life };
        let mut batches: Vec<Batch<'_>> = Vec::new();
        let mut kept = None;
        for (nth, message) in msgs.iter().enumerate().skip(part.taken) {
            let append = message.as_ref().is_ok_and(|it| matches!(it.what, What::Append { .. }));
            if part.passed && !append {
                continue;
            }
            let Ok(message) = message else {
                self.counters.messages_refused.add(1);
                continue;
            };
            batches.clear();
            batches.extend(msgs.batches(&message));
            if append {
                match self.keep(at, origin, &message) {
                    Some(_) if !batches.is_empty() => {
                        kept.get_or_insert(nth);
                        continue;
                    },
                    // It asks whether the logs meet where this one is not yet: it is lost.
                    Some(true) => continue,
                    Some(false) | None => {},
                }
            }
            let received = bowline_raft::Received { message: &message, batches: &batches };
            let (logs, out) = (&mut self.logs, &mut self.out);
            match self.raft.handle_message(origin, received, logs, out) {
                Verdict::Taken => {},
                Verdict::NoRoom if append => {
                    kept.get_or_insert(nth);
                    self.note_full(at, message.shard);
                    self.keep(at, origin, &message);
                },
                Verdict::NoRoom => self.counters.messages_refused.add(1),
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
        kept.map_or(Taken::Whole, Taken::Part)
    }

    fn note_full(&mut self, at: usize, shard: ShardId) {
        let Some(slot) = self.raft.slot_of(shard) else { return };
        let stream = self.logs.queue(slot).stream;
        let Some(link) = self.lanes.all[at].link.as_mut() else { return };
        link.full.insert(stream);
        link.wanted.insert(stream);
    }

    /// Tells raft of an Append to a log that has no room what it may know at once. Whether it comes
    /// behind the end of the log; nothing if it has to be handed on.
    fn keep(&mut self, at: usize, origin: Origin, message: &Message) -> Option<bool> {
        let What::Append { commit, .. } = message.what else { return None };
        let link = self.lanes.all[at].link.as_mut().filter(|link| !link.full.is_empty())?;
        let stream = self.logs.queue(self.raft.slot_of(message.shard)?).stream;
        if !link.full.contains(&stream) {
            return None;
        }
        let told = link.told.entry(message.shard).or_default();
        *told = commit.max(*told);
        self.raft.handle_kept(origin, message, *told)
    }
}
