//! What a core's background tasks report to its loop.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bowline_env::{Bell, Env, SharedBuf};
use bowline_net::{DialError, Opened, Received};
use bowline_raft::{LogIndex, NodeId, ReplicaId, ShardId, Slot};
use bowline_statemachine::Damage;
use bowline_statemachine::store::{JobDone, JobError, Pins};
use bowline_wal::{BatchRef, ReadError};

use super::lanes::Ended;
use super::replica::Question;

/// Something a background task finished.
pub(crate) enum Event<E: Env> {
    /// A flush or merge ended.
    Job { slot: Slot, epoch: u32, flush: bool, result: Result<JobDone<E>, JobError> },
    /// Pages that entries need were read.
    PagesForApply { slot: Slot, epoch: u32, result: Result<Pins, Damage> },
    /// Pages that a read needs were read.
    PagesForRead { slot: Slot, epoch: u32, question: Question, result: Result<Pins, Damage> },
    /// Entries that memory no longer held were read from the log.
    Entries { slot: Slot, epoch: u32, to: LogIndex, result: Result<Vec<BatchRef>, ReadError> },
    /// The same, for a peer.
    EntriesForPeer {
        slot: Slot,
        peer: ReplicaId,
        from: LogIndex,
        /// What was set aside for them.
        bytes: usize,
        result: Result<Vec<BatchRef>, ReadError>,
    },
    /// A transfer wants a piece of a section: id, first byte, length.
    AskForPiece { slot: Slot, node: NodeId, piece: (u128, u64, u32) },
    /// A section that a peer got damaged is so on the disk here.
    FoundDamaged { slot: Slot, epoch: u32, damage: Damage },
    /// A piece for a peer was read.
    PieceRead {
        shard: ShardId,
        node: NodeId,
        section: u128,
        off: u64,
        result: Result<SharedBuf, Damage>,
    },
    /// A state that was offered to a peer did not get there.
    TransferFailed { slot: Slot, peer: ReplicaId },
    /// A state was received, or not.
    TransferEnded { slot: Slot },
    /// A dial ended.
    Dialed { node: NodeId, core: u16, result: Result<Box<Opened<E::Stream>>, DialError> },
    /// A peer dialed and was let in.
    Received(Box<Opened<E::Stream>>),
    /// A frame came over a lane.
    Frame { lane: usize, life: u32, frame: Received },
    /// The empty state of a shard that is made here is open, or cannot be.
    Founded { shard: ShardId, is_open: bool },
    /// A lane's connection ended.
    LaneEnded { lane: usize, life: u32, why: Ended },
}

/// The inbox of a core's loop for its own tasks. Same thread, no lock.
pub(crate) struct Mail<E: Env> {
    events: RefCell<VecDeque<Event<E>>>,
    tick: Cell<bool>,
    bell: Bell,
}

impl<E: Env> Mail<E> {
    pub(crate) fn new(bell: Bell) -> Self {
        Self { events: RefCell::default(), tick: Cell::new(false), bell }
    }

    pub(crate) fn push(&self, event: Event<E>) {
        self.events.borrow_mut().push_back(event);
        self.bell.ring();
    }

    pub(crate) fn pop(&self) -> Option<Event<E>> {
        self.events.borrow_mut().pop_front()
    }

    /// Says that time passed.
    pub(crate) fn tick(&self) {
        self.tick.set(true);
        self.bell.ring();
    }

    pub(crate) fn take_tick(&self) -> bool {
        self.tick.take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.tick.get() && self.events.borrow().is_empty()
    }
}
