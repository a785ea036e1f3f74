//! What a started node consists of: what the start sequence hands to the engine.

use std::sync::Arc;

use bowline_env::{Claim, CoreThread};
use bowline_raft::NodeId;

use crate::board::Board;
use crate::config::ByteCount;
use crate::members::Roll;
use crate::metrics::CoreCounters;
use crate::ring::Hub;

/// A node whose cores are all ready.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its id.
    pub(crate) node: NodeId,
    /// By core.
    pub(crate) hubs: Vec<Arc<Hub>>,
    /// Who leads what.
    pub(crate) board: Arc<Board>,
    /// Who the members are.
    pub(crate) roll: Arc<Roll>,
    /// By core.
    pub(crate) counters: Vec<Arc<CoreCounters>>,
    /// By core; joined by stop.
    pub(crate) cores: Vec<CoreThread>,
    /// The right to the data directory; given back after the cores are joined.
    pub(crate) claim: Claim,
    /// Log streams; shard s lies in stream s mod streams, which lies on core stream mod cores.
    pub(crate) streams: u16,
    /// Shards.
    pub(crate) shards: u32,
    /// Bound of an entry, as its logs were made with it.
    pub(crate) frame_cap: ByteCount,
}
