//! The engine as an application holds it.
//!
//! E1 No thread of a start that failed, and none of a stop that was answered, is left.
//! E2 The claim on the data directory outlives every core.

mod builder;
mod ready;
mod stop;

use core::any::TypeId;
use core::fmt;
use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use bowline_env::glommio::GlommioEnv;
use bowline_raft::{NodeId, ShardId};
use bowline_wal::OpenLog;
use tokio::sync::watch;

use crate::config::{Auto, Config};
use crate::metrics::ShardMetrics;
use crate::node::{Node, NodeParts};
use crate::started::Started;
use crate::{
    Admin, EmbeddedClient, LeaderInfo, Membership, Metrics, Op, Shard, StateMachine, Term,
};
use stop::{Drive, Running, Shared};

pub use builder::Builder;
pub use ready::Status;

/// The machine that an application runs on.
pub type DefaultEnv = GlommioEnv;

/// A running node. Cheap to clone; the last clone that is dropped stops the node without waiting,
/// and warns (BOW-0902): call [`stop`](Self::stop) and wait for it.
///
/// ```no_run
/// # fn main() -> Result<(), bowline::Error> {
/// let engine = bowline::EmbeddedEngine::start().wait()?;
/// engine.wait_ready(std::time::Duration::from_secs(5)).wait()?;
/// let kv = engine.client();
/// kv.put("greeting", "hello").wait()?;
/// assert_eq!(kv.get("greeting").wait()?.as_deref(), Some(&b"hello"[..]));
/// engine.stop().wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EmbeddedEngine(Arc<Handle>);

/// What clones share; its drop is the drop of the last one.
struct Handle {
    shared: Arc<Shared>,
}

impl EmbeddedEngine {
    /// Starts a node as `$BOWLINE_CONFIG` says, else `$CONFIG_PATH`, else with defaults; variables
    /// `BOWLINE_<SECTION>__<KEY>` come last.
    pub fn start() -> Op<Self> {
        Self::builder().start()
    }

    /// Starts a node as the file says.
    pub fn start_with(config_path: impl AsRef<Path>) -> Op<Self> {
        Self::builder().config_file(config_path).start()
    }

    /// Starts a node with the application's own state machine, and its own log or
    /// [`crate::WalLogs`].
    pub fn start_custom<M, L>(log: L, config_path: Option<&Path>) -> Op<Self>
    where
        M: StateMachine,
        L: OpenLog<DefaultEnv>,
    {
        let builder = Self::builder();
        let builder = match config_path {
            Some(path) => builder.config_file(path),
            None => builder,
        };
        builder.start_custom::<M, L>(log)
    }

    /// A start of which every key can be set.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Resolves once every shard has a leader here. After `timeout`, or once only closed shards are
    /// left without one, [`Error::NotReady`](crate::Error::NotReady) says which they are and why.
    pub fn wait_ready(&self, timeout: Duration) -> Op<LeaderInfo> {
        ready::wait(self.node(), timeout)
    }

    /// Follows [`leader_info`](Self::leader_info); it is `None` between leaders.
    pub fn leader_change_notifier(&self) -> watch::Receiver<Option<LeaderInfo>> {
        self.node().board.watch()
    }

    /// Whether this node leads every shard. A hint: the log decides.
    pub fn is_leader(&self) -> bool {
        self.node().board.is_leader()
    }

    /// Who leads, once every shard has a leader of whose term an entry is applied here.
    pub fn leader_info(&self) -> Option<LeaderInfo> {
        self.node().board.leader()
    }

    /// A client of all keys.
    pub fn client(&self) -> EmbeddedClient {
        EmbeddedClient::new(Arc::clone(self.node()), None)
    }

    /// Stops the node: refuses new work, finishes what is in the log, closes the logs, ends the
    /// threads and gives the data directory back. The first caller gets the error of a node that
    /// failed before; later ones get `Ok` once it is done.
    pub fn stop(&self) -> Op<()> {
        stop::stop(&self.0.shared)
    }

    /// Whether the node takes nothing more: `stop` was called, or a core failed.
    pub fn is_stopped(&self) -> bool {
        self.node().is_stopped()
    }

    /// Number of this node in its cluster.
    pub fn node_id(&self) -> NodeId {
        self.node().id
    }

    /// One shard; none: there is no shard of this number.
    pub fn shard(&self, id: ShardId) -> Option<Shard> {
        Shard::new(Arc::clone(self.node()), id)
    }

    /// How many shards there are; they are numbered from 0.
    pub fn shard_count(&self) -> u32 {
        self.node().shards
    }

    /// The shard of a key: of its `{tag}`, if it has one.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        self.node().shard_of(key)
    }

    /// Whether this node leads the shard of a key. A hint: the log decides.
    pub fn is_leader_of(&self, key: &[u8]) -> bool {
        self.node().board.leads(self.shard_of(key))
    }

    /// Changes of the cluster's members.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(self.node()))
    }

    /// The members of the cluster, as this node knows them.
    pub fn list_members(&self) -> Vec<NodeId> {
        self.client().list_members()
    }

    /// Follows the members of the cluster, as this node knows them.
    pub fn watch_membership(&self) -> watch::Receiver<Arc<Membership>> {
        self.node().roll.watch()
    }

    /// What the node is and how it does.
    pub fn status(&self) -> Status {
        ready::status(self.node())
    }

    /// A copy of all counters.
    pub fn metrics(&self) -> Metrics {
        let node = self.node();
        let cores = (0..).zip(&node.counters).map(|(core, counters)| counters.copy(core));
        let per_shard = match node.config.telemetry.per_shard {
            Auto::Auto => node.shards <= 128,
            Auto::Is(on) => on,
        };
        let shards = if per_shard { 0..u64::from(node.shards) } else { 0..0 };
        let shards = shards.map(ShardId).map(|shard| {
            let term = node.board.shard_leader(shard).map_or(Term(0), |leader| leader.term);
            ShardMetrics::new(shard, node.board.leads(shard), term)
        });
        Metrics { node: node.id, cores: cores.collect(), shards: shards.collect() }
    }

    /// The configuration that the node was started with.
    pub fn config(&self) -> &Config {
        &self.node().config
    }

    /// Takes over a started node.
    fn adopt(started: Started, config: Arc<Config>, machine: TypeId, drive: Drive) -> Self {
        let Started { node: id, hubs, board, roll, counters, cores, claim, .. } = started;
        let Started { streams, shards, frame_cap, .. } = started;
        let parts = NodeParts { id, hubs, board, roll, counters, streams, shards, frame_cap };
        let node = Arc::new(Node::new(parts, config, machine));
        let shared = Arc::new(Shared::new(node, Running { cores, claim }, drive));
        Self(Arc::new(Handle { shared }))
    }

    fn node(&self) -> &Arc<Node> {
        self.0.shared.node()
    }
}

impl fmt::Debug for EmbeddedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedEngine").field("node", &self.node().id).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        stop::abandon(&self.shared);
    }
}
