//! One shard's copy on its core: the state machine and how far it is applied.

use std::collections::VecDeque;
use std::rc::Rc;

use bowline_env::Nanos;
use bowline_raft::{LogIndex, NodeId, ReadMode, ShardId, Term};
use bowline_statemachine::Query;
use bowline_statemachine::store::Pins;
use bowline_wal::BatchRef;
use bytes::Bytes;

use crate::ShardFailure;
use crate::members::note::VERSION_FIRST;
use crate::ticket::Ticket;

/// What apply waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applying {
    /// Nothing: entries are applied as they commit.
    Ready,
    /// Pages that the next entries need are being read.
    Pages,
    /// The next entries are being read from the log's files, or wait for their turn.
    Entries,
}

/// A read of a caller.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) query: Query,
    pub(crate) ticket: Ticket,
    pub(crate) arrived: Nanos,
    pub(crate) deadline: Nanos,
}

/// A read that waits until its index is applied.
#[derive(Debug)]
pub(crate) struct ReadWait {
    /// None until raft named the index.
    pub(crate) index: Option<LogIndex>,
    pub(crate) token: u64,
    /// How it was asked for.
    pub(crate) mode: ReadMode,
    pub(crate) question: Question,
}

/// One shard on its core.
#[expect(clippy::struct_excessive_bools, reason = "each says that the slot is on one list")]
pub(crate) struct Replica<M> {
    pub(crate) shard: ShardId,
    pub(crate) machine: M,
    /// Counts the states that were installed over it: what was begun before is void.
    pub(crate) epoch: u32,
    /// Everything up to here is committed and may be applied.
    pub(crate) committed: LogIndex,
    pub(crate) applying: Applying,
    /// Pages pinned for the entries that are next.
    pub(crate) pins: Pins,
    /// Entries read from the log's files, next first.
    pub(crate) fetched: VecDeque<BatchRef>,
    pub(crate) reads: VecDeque<ReadWait>,
    pub(crate) flushing: bool,
    /// When the flush under way was begun.
    pub(crate) flush_began: Nanos,
    pub(crate) merging: bool,
    /// No job before this: the disk was full.
    pub(crate) job_not_before: Nanos,
    /// Jobs that failed in a row.
    pub(crate) job_failures: u32,
    /// Entries were applied since the jobs were last looked at.
    pub(crate) touched: bool,
    /// Term of the last entry that was applied.
    pub(crate) applied_term: Term,
    /// The version that the members agree on, by the latest configuration of the log.
    pub(crate) agreed: u16,
    /// Who leads, and in which term.
    pub(crate) leader: Option<(Term, NodeId)>,
    /// The leader was told: an entry of its term is applied.
    pub(crate) announced: bool,
    /// It is offered to no preferred member before this: one did not take it.
    pub(crate) prefer_not_before: Nanos,
    /// Transfers that came to nothing since the leader changed.
    pub(crate) transfers_failed: u32,
    /// Why the shard answers nothing any more.
    pub(crate) closed: Option<ShardFailure>,
    /// The manifest of a state that could not be opened: the log keeps it, whatever the machine
    /// that stands in for that state holds.
    pub(crate) unopened: Option<(LogIndex, Term, Bytes)>,
    /// It is on the list of replicas with entries to apply.
    pub(crate) listed: bool,
}

impl<M> Replica<M> {
    pub(crate) fn new(shard: ShardId, machine: M, applied: (LogIndex, Term)) -> Self {
        Self {
            shard,
            machine,
            epoch: 0,
            committed: applied.0,
            applying: Applying::Ready,
            pins: Pins::default(),
            fetched: VecDeque::new(),
            reads: VecDeque::new(),
            flushing: false,
            flush_began: Nanos(0),
            merging: false,
            job_not_before: Nanos(0),
            job_failures: 0,
            touched: false,
            applied_term: applied.1,
            agreed: VERSION_FIRST,
            leader: None,
            announced: false,
            prefer_not_before: Nanos(0),
            transfers_failed: 0,
            closed: None,
            unopened: None,
            listed: false,
        }
    }
}

/// A reference that background tasks hold to a core's store.
pub(crate) type SharedStore<E> = Rc<bowline_statemachine::store::Store<E>>;
