//! What waits for its frame: messages that the frame being built has no room for, and frames of the
//! lane itself. Bounded in bytes, and the newest wins where an older one says nothing more.

use std::collections::{BTreeMap, VecDeque};

use bowline_raft::{Beat, Message, ReplicaId, Row, ShardId};

use crate::{
    Control, ControlFrame,
    control::ROWS_MAX,
    wire::{MSG_LEN, WireMsg},
};

/// Bytes of waiting messages, and of waiting frames, at most: as they are on the wire.
const WAITING_MAX: usize = 1 << 20;

/// Messages of which the newest says it all: shard, receiver, sender, kind.
type Key = (ShardId, ReplicaId, ReplicaId, u8);

/// The queue has no room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// Messages without batches, in the order in which they were pushed.
#[derive(Debug, Default)]
pub(crate) struct WaitingMessages {
    by_turn: BTreeMap<u64, Message>,
    turns: BTreeMap<Key, u64>,
    next: u64,
}

impl WaitingMessages {
    /// Takes a message at the end; an older one of its key goes. O(log n).
    pub(crate) fn push(&mut self, message: &Message) -> Result<(), Overrun> {
        let older = self.turns.insert(key(message), self.next);
        if let Some(turn) = older {
            self.by_turn.remove(&turn);
        } else if WAITING_MAX < (self.by_turn.len() + 1) * MSG_LEN {
            self.turns.remove(&key(message));
            return Err(Overrun);
        }
        self.by_turn.insert(self.next, *message);
        self.next += 1;
        Ok(())
    }

    /// The one that waits longest.
    pub(crate) fn first(&self) -> Option<&Message> {
        self.by_turn.first_key_value().map(|(_, message)| message)
    }

    /// Removes the one that waits longest.
    pub(crate) fn pop(&mut self) {
        if let Some((_, message)) = self.by_turn.pop_first() {
            self.turns.remove(&key(&message));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }
}

fn key(message: &Message) -> Key {
    (message.shard, message.to, message.from, WireMsg::from(message).kind)
}

/// Frames of the lane itself.
#[derive(Debug)]
pub(crate) struct WaitingControl {
    pub(crate) liveness: Option<Beat>,
    pub(crate) reply: Option<Beat>,
    pub(crate) credit: bool,
    pub(crate) goodbye: Option<u16>,
    /// Those that need credit, in order.
    counted: VecDeque<ControlFrame>,
    counted_len: usize,
    rows_max: usize,
}

impl WaitingControl {
    /// For a lane whose frames have at most `frame_max` bytes.
    pub(crate) fn new(frame_max: usize) -> Self {
        let none = Control::Rows { rows: &[], last: true }.frame_len();
        let one = Control::Rows { rows: &[Row::default()], last: true }.frame_len();
        Self {
            liveness: None,
            reply: None,
            credit: false,
            goodbye: None,
            counted: VecDeque::new(),
            counted_len: 0,
            rows_max: (frame_max.saturating_sub(none) / (one - none)).clamp(1, ROWS_MAX),
        }
    }

    /// Takes a frame; an older one goes if this one says more.
    pub(crate) fn push(&mut self, what: &Control<'_>) -> Result<(), Overrun> {
        match *what {
            Control::Liveness(beat) => self.liveness = Some(beat),
            Control::LivenessReply(beat) => self.reply = Some(beat),
            Control::Credit => self.credit = true,
            Control::Goodbye { reason } => self.goodbye = Some(reason),
            Control::Digest(digest) => self.push_counted(ControlFrame::Digest(digest))?,
            Control::ShardsWanted => self.push_counted(ControlFrame::ShardsWanted)?,
            Control::Rows { rows, last } => return self.push_rows(rows, last),
            Control::Bulk(bulk) => {
                self.push_counted(ControlFrame::Bulk(bulk.map(|bytes| bytes.to_vec())))?;
            },
        }
        Ok(())
    }

    /// Bytes of the frames that need credit.
    pub(crate) fn counted_len(&self) -> usize {
        self.counted_len
    }

    /// The next frame that needs credit, if it has at most `len_max` bytes.
    pub(crate) fn pop_counted(&mut self, len_max: usize) -> Option<ControlFrame> {
        let len = self.counted.front()?.as_control().frame_len();
        if len_max < len {
            return None;
        }
        self.counted_len -= len;
        self.counted.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let free = self.liveness.is_none() && self.reply.is_none() && self.goodbye.is_none();
        free && !self.credit && self.counted.is_empty()
    }

    /// Rows go in as many frames as they need, at least one.
    fn push_rows(&mut self, rows: &[Row], last: bool) -> Result<(), Overrun> {
        let (whole, rest) =
            rows.split_at(rows.len().saturating_sub(1) / self.rows_max * self.rows_max);
        for rows in whole.chunks(self.rows_max) {
            self.push_counted(ControlFrame::Rows { rows: rows.to_vec(), last: false })?;
        }
        self.push_counted(ControlFrame::Rows { rows: rest.to_vec(), last })
    }

    fn push_counted(&mut self, frame: ControlFrame) -> Result<(), Overrun> {
        let len = frame.as_control().frame_len();
        if WAITING_MAX < self.counted_len + len {
            return Err(Overrun);
        }
        self.counted_len += len;
        self.counted.push_back(frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bowline_raft::{Hint, Term, What};

    use super::*;

    fn release(shard: u64) -> Message {
        Message {
            shard: ShardId(shard),
            to: ReplicaId(2),
            from: ReplicaId(1),
            term: Term(5),
            hint: Hint::default(),
            support: 0,
            seq: 0,
            what: What::Release,
        }
    }

    #[test]
    fn messages_that_left_make_room_for_as_many_others() {
        let mut waiting = WaitingMessages::default();
        let fit = u64::try_from(WAITING_MAX / MSG_LEN).unwrap();
        for round in 0..3 {
            for shard in round * fit..(round + 1) * fit {
                assert_eq!(waiting.push(&release(shard)), Ok(()));
            }
            assert_eq!(waiting.push(&release(u64::MAX)), Err(Overrun));
            assert_eq!(waiting.push(&release(0)), if round == 0 { Ok(()) } else { Err(Overrun) });
            while waiting.first().is_some() {
                waiting.pop();
            }
            assert!(waiting.is_empty());
        }
    }

    #[test]
    fn frames_that_left_make_room_for_as_many_others() {
        let mut waiting = WaitingControl::new(1 << 20);
        let rows = vec![Row::default(); ROWS_MAX];
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(waiting.push(&Control::Rows { rows: &rows, last: true }), Ok(()));
            }
            assert_eq!(waiting.counted_len(), WAITING_MAX);
            assert_eq!(waiting.push(&Control::ShardsWanted), Err(Overrun));
            assert_eq!(waiting.pop_counted((256 << 10) - 1), None);
            while waiting.pop_counted(256 << 10).is_some() {}
            assert!(waiting.is_empty() && waiting.counted_len() == 0);
        }
    }
}
