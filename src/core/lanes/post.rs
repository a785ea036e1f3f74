//! What raft puts out for other nodes, into frames and onto sockets: one frame of messages per
//! lane at a time, with the bodies as they stand in the log's buffers.

use std::task::{Context, Poll};

use bowline_env::{Env, SharedBuf};
use bowline_net::{Control, PushError, Sender};
use bowline_raft::{BatchHeader, Entries, LaneEvent, LaneSend, LaneWhat, LogIndex, Send, What};
use bowline_statemachine::Machine;
use bowline_wal::{BatchRef, LogStorage};

use super::link::Pending;
use super::{Ended, lane_no};
use crate::core::cut::cut;
use crate::core::mail::Event;
use crate::core::run::Core;

/// A credit frame goes out when this part of the window was released and nothing else is sent.
const CREDIT_PART: u64 = 4;

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Tells raft how much each lane takes now.
    pub(in crate::core) fn tell_room(&mut self) {
        for at in 0..self.lanes.all.len() {
            let lane = &mut self.lanes.all[at];
            let Some(link) = &lane.link else { continue };
            let room = if link.pending.is_empty() { link.sender.room() } else { 0 };
            if (room == 0) != (lane.room == 0) {
                lane.room = room;
                let event = LaneEvent::Room(room);
                self.raft.handle_lane(lane_no(at), event, &mut self.logs, &mut self.out);
            }
        }
    }

    /// Puts a message into its lane's next frame. Without a lane, or with entries that are gone
    /// from memory, it is dropped as a network may: raft asks again.
    pub(in crate::core) fn post(&mut self, send: &Send) {
        let shard = send.message.shard;
        // Raft names the lane that it knows best, and learns from the answer which was right.
        let leads = |at: &usize| {
            let link = self.lanes.all.get(*at).and_then(|lane| lane.link.as_ref());
            link.is_some_and(|link| link.leads_to(shard))
        };
        let named = send.lane.map(|lane| usize::from(lane.0)).filter(leads);
        let Some(at) = named.or_else(|| self.lanes.road(send.node, shard)) else {
            if send.entries.is_some_and(|entries| entries.bulk) {
                drop(self.lanes.fetches.take(send.slot, send.message.to));
            }
            self.counters.messages_dropped.add(1);
            return;
        };
        let mut batches = std::mem::take(&mut self.lanes.batches);
        let whole = send.entries.is_none_or(|entries| self.collect(send, entries, &mut batches));
        if whole && let Some(link) = self.lanes.all[at].link.as_mut() {
            let parts: Vec<_> = batches.drain(..).map(part).collect();
            // Appends keep their order: a gap costs the receiver a round trip.
            let append = matches!(send.message.what, What::Append { .. });
            let behind = append && !link.pending.is_empty();
            let pushed =
                if behind { Err(PushError::Full) } else { link.sender.push(&send.message, &parts) };
            match pushed {
                Ok(()) => self.counters.messages_sent.add(1),
                Err(PushError::Full) if append => link.pending.push_back((send.message, parts)),
                Err(PushError::Full | PushError::TooLarge | _) => {
                    self.counters.messages_dropped.add(1);
                },
            }
        } else {
            self.counters.messages_dropped.add(1);
        }
        batches.clear();
        self.lanes.batches = batches;
    }

    /// The batches of a message; false if some are not at hand.
    fn collect(&mut self, send: &Send, entries: Entries, out: &mut Vec<BatchRef>) -> bool {
        let Entries { from, to, bulk } = entries;
        if bulk {
            let read = self.lanes.fetches.take(send.slot, send.message.to);
            let (stream, shard) = (self.logs.stream(send.slot), send.message.shard);
            // What was read may have been cut off and replaced since.
            let stands = |batch: &BatchRef| {
                let term = Some(batch.head.term);
                stream.term_at(shard, batch.last()) == term
                    && stream.term_at(shard, batch.head.first.max(from)) == term
            };
            out.extend(read.into_iter().flatten().take_while(stands));
        } else {
            let stream = self.logs.stream(send.slot);
            let _: LogIndex = stream.cached(send.message.shard, from, self.lanes.append_max, out);
            let beyond = out.iter().position(|batch| batch.head.first > to);
            out.truncate(beyond.unwrap_or(out.len()));
        }
        let last = out.last().map(BatchRef::last);
        out.first().is_some_and(|batch| batch.head.first <= from) && last == Some(to)
    }

    /// Puts what is no message of a replica onto its lane.
    pub(in crate::core) fn post_lane(&mut self, sent: LaneSend) {
        let at = usize::from(sent.lane.0);
        let (now, wall) = (self.logs.now.0, self.logs.wall.0);
        let Some(link) = self.lanes.all.get_mut(at).and_then(|lane| lane.link.as_mut()) else {
            return;
        };
        let consumed = link.consumed();
        let mut put = |what: &Control<'_>| link.sender.control(what, now, consumed);
        match sent.what {
            LaneWhat::Liveness(mut beat) => {
                beat.wall = wall;
                put(&Control::Liveness(beat));
            },
            LaneWhat::LivenessReply(mut beat) => {
                beat.wall = wall;
                put(&Control::LivenessReply(beat));
            },
            LaneWhat::Digest(digest) => put(&Control::Digest(digest)),
            LaneWhat::ShardsWanted => put(&Control::ShardsWanted),
            LaneWhat::Rows { rows, last } => put(&Control::Rows { rows: &rows, last }),
            LaneWhat::Reset | _ => {
                let (lane, life, why) = (at, link.life, Ended::Reset);
                self.mail.push(Event::LaneEnded { lane, life, why });
            },
        }
    }

    /// Makes a frame per lane of what waits, and gives the sockets what they take.
    pub(in crate::core) fn send_lanes(&mut self) {
        let now = self.logs.now;
        self.lanes.nudge.take();
        let waker = self.lanes.waker.clone();
        let mut cx = Context::from_waker(&waker);
        for at in 0..self.lanes.all.len() {
            let Some(link) = self.lanes.all[at].link.as_mut() else { continue };
            let consumed = link.consumed();
            let idle = link.sender.is_clear();
            let window = u64::from(self.lanes.doorman.roster.borrow().window());
            if idle && consumed - link.credited >= window / CREDIT_PART {
                link.sender.control(&Control::Credit, now.0, consumed);
            }
            if link.sender.is_clear() && link.pending.is_empty() {
                link.liveness.note_unsent(now, false);
                continue;
            }
            link.credited = consumed;
            let mut line = link.line.borrow_mut();
            let taken = link.sender.taken();
            let written = loop {
                let credit = link.sender.credit();
                let pushed = push_pending(&mut link.pending, &mut link.sender);
                self.counters.messages_sent.add(pushed);
                link.sender.seal(now.0, consumed);
                let written = link.sender.poll_write(&mut cx, &mut *line);
                // What came up while the frame before was under way makes the next one.
                let more = !link.sender.is_clear() || !link.pending.is_empty();
                let went = link.sender.credit() != credit && more;
                if !went || !matches!(written, Poll::Ready(Ok(()))) {
                    break written;
                }
            };
            drop(line);
            let stands = written.is_pending() && link.sender.taken() == taken;
            link.liveness.note_unsent(now, stands);
            let why = match written {
                Poll::Ready(Err(error)) => Some(Ended::Socket(error)),
                Poll::Ready(Ok(())) | Poll::Pending if link.sender.is_overrun() => {
                    Some(Ended::Overrun)
                },
                Poll::Ready(Ok(())) | Poll::Pending => None,
            };
            if let Some(why) = why {
                self.end_lane(at, &why);
            }
        }
    }
}

/// Moves Appends that waited into the frame being built: how many.
fn push_pending(pending: &mut Pending, sender: &mut Sender) -> u64 {
    let mut count = 0;
    while let Some((message, parts)) = pending.front()
        && sender.push(message, parts) != Err(PushError::Full)
    {
        pending.pop_front();
        count += 1;
    }
    count
}

/// A batch as it is sent: as it stands in the log, or made anew of what a truncation left of it.
fn part(batch: BatchRef) -> (BatchHeader, SharedBuf) {
    let BatchRef { head, keep, body } = batch;
    if keep == head.count {
        return (head, body);
    }
    let to = LogIndex(head.first.0 + u64::from(keep) - 1);
    cut(&head, &body, head.first, to).expect("a batch was checked when it was taken")
}
