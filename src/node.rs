//! A running node as clients share it: routes, limits, boards. It does not keep the engine alive.

use core::any::TypeId;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bowline_raft::{NodeId, ShardId};
use bowline_statemachine::{KEY_BYTES_MAX, Limits, Measured};

use crate::board::Board;
use crate::config::{ByteCount, Config};
use crate::members::Roll;
use crate::metrics::CoreCounters;
use crate::request::{Call, Request};
use crate::ring::Hub;
use crate::route::{core_of, shard_of};
use crate::ticket::Reply;
use crate::{Error, Op, RequestError};

/// What every handle of a node shares.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// The members of the cluster.
    pub(crate) roll: Arc<Roll>,
    pub(crate) hubs: Vec<Arc<Hub>>,
    pub(crate) board: Arc<Board>,
    pub(crate) counters: Vec<Arc<CoreCounters>>,
    pub(crate) streams: u16,
    pub(crate) shards: u32,
    pub(crate) config: Arc<Config>,
    /// The state machine's type, for typed clients.
    pub(crate) machine: TypeId,
    pub(crate) limits: Limits,
    stopping: AtomicBool,
}

impl Node {
    /// A node out of what the start sequence handed over.
    pub(crate) fn new(started: NodeParts, config: Arc<Config>, machine: TypeId) -> Self {
        let NodeParts { id, hubs, board, roll, counters, streams, shards, frame_cap } = started;
        let entry = usize::try_from(frame_cap.0).unwrap_or(usize::MAX);
        assert!(!hubs.is_empty(), "a node has cores");
        assert!(streams > 0, "a node has streams");
        assert_eq!(board.of(), shards, "the board has every shard");
        let limits = Limits::of_entry(entry.saturating_sub(ENTRY_OVERHEAD));
        let stopping = AtomicBool::new(false);
        Self { id, roll, hubs, board, counters, streams, shards, config, machine, limits, stopping }
    }

    /// The shard of a key.
    pub(crate) fn shard_of(&self, key: &[u8]) -> ShardId {
        shard_of(key, self.shards)
    }

    /// The core of a shard.
    pub(crate) fn hub(&self, shard: ShardId) -> &Arc<Hub> {
        &self.hubs[core_of(shard, self.streams, self.hubs.len())]
    }

    /// Sends a call to the home core of `shard`.
    pub(crate) fn submit<T>(
        &self,
        shard: ShardId,
        timeout_ms: u32,
        call: Call,
        map: fn(Reply) -> Result<T, Error>,
    ) -> Op<T> {
        if self.is_stopping() {
            return Op::failed(Error::stopped());
        }
        Op::submit(self.hub(shard), |ticket| Request { shard, timeout_ms, call, ticket }, map)
    }

    /// From now on nothing is accepted. False: it was so before.
    pub(crate) fn refuse(&self) -> bool {
        !self.stopping.swap(true, Ordering::SeqCst)
    }

    /// Whether nothing is accepted: stopped, stopping, or a core is gone.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) || self.board.has_failed()
    }

    /// Whether the node takes nothing more: it stops, or a core is closed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopping() || self.hubs.iter().any(|hub| hub.is_closed())
    }

    /// Time that an operation may take, unless its client says otherwise.
    pub(crate) fn timeout_ms(&self) -> u32 {
        u32::try_from(self.config.limits.op_timeout.as_millis()).unwrap_or(u32::MAX)
    }
}

/// Parts of an entry that are not payload: its place in the batch, padding. The same as the core
/// takes off.
const ENTRY_OVERHEAD: usize = 4_096;

/// The shared parts of a started node.
#[derive(Debug)]
pub(crate) struct NodeParts {
    pub(crate) id: NodeId,
    pub(crate) hubs: Vec<Arc<Hub>>,
    pub(crate) board: Arc<Board>,
    pub(crate) roll: Arc<Roll>,
    pub(crate) counters: Vec<Arc<CoreCounters>>,
    pub(crate) streams: u16,
    pub(crate) shards: u32,
    pub(crate) frame_cap: ByteCount,
}

/// Refuses a key that is too long before anything is queued.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    check(Measured::Key, key.len(), KEY_BYTES_MAX)
}

/// Refuses what is over its limit.
pub(crate) fn check(what: Measured, len: usize, max: usize) -> Result<(), Error> {
    if len <= max {
        return Ok(());
    }
    let (len, max) = (u32::try_from(len), u32::try_from(max));
    let (len, max) = (len.unwrap_or(u32::MAX), max.unwrap_or(u32::MAX));
    Err(Error::Request(RequestError::TooLarge { what, len, max }))
}
