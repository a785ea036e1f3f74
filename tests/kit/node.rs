//! One node of a simulated cluster: its configuration and its start.

use std::future::Future;

use bowline::config::Peer;
use bowline::{Config, EmbeddedEngine, Error};
use bowline_env::sim::World;
use bowline_wal::{Geometry, SyncChoice, WalLogs, WalOptions};

/// Where every node listens for its peers.
pub(crate) const PORT: u16 = 7_500;
/// Bound of an entry: the smallest there is.
const FRAME_CAP: u64 = 16 << 10;

/// How a node is started. All sizes are small, so that limits are met.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) node: u64,
    /// Every node of the cluster; of one alone, none is named.
    pub(crate) nodes: Vec<u64>,
    pub(crate) cluster: &'static str,
    /// It waits to be added.
    pub(crate) join: bool,
    pub(crate) shards: u32,
    pub(crate) cores: u32,
    /// Fixed when the node's directory is founded.
    pub(crate) streams: u32,
    pub(crate) support_ms: u64,
    pub(crate) op_timeout_ms: u64,
    pub(crate) lease_reads: bool,
    pub(crate) slot_bytes: u64,
    /// Bound of an entry; none: the configuration does not say.
    pub(crate) frame_cap: Option<u64>,
    /// The space of a log, and the state in memory: what makes a node flush.
    pub(crate) log_bytes: u64,
    pub(crate) delta_bytes: u64,
    /// The log's memory: for its newest frames, and for what waits for the disk.
    pub(crate) cache_bytes: usize,
    pub(crate) staged_bytes: usize,
    pub(crate) sync: SyncChoice,
    /// More settings.
    pub(crate) more: Vec<(&'static str, String)>,
}

impl Setup {
    /// A node with one core.
    pub(crate) fn new(node: u64, nodes: &[u64], shards: u32) -> Self {
        Self {
            node,
            nodes: nodes.to_vec(),
            cluster: "sim",
            join: false,
            shards,
            cores: 1,
            streams: 1,
            support_ms: 600,
            op_timeout_ms: 5_000,
            lease_reads: false,
            slot_bytes: 128 << 10,
            frame_cap: Some(FRAME_CAP),
            log_bytes: 2 << 20,
            delta_bytes: 256 << 10,
            cache_bytes: 64 << 10,
            staged_bytes: 8 << 20,
            sync: SyncChoice::Dsync,
            more: Vec::new(),
        }
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        let node = self.node;
        for (key, value) in [
            ("node.id", node.to_string()),
            ("node.app_address", format!("\"app-{node}:80\"")),
            ("cluster.name", format!("{:?}", self.cluster)),
            ("cluster.shards", self.shards.to_string()),
            ("cores.count", self.cores.to_string()),
            ("wal.streams", self.streams.to_string()),
            ("wal.slot_bytes", format!("\"{}KiB\"", self.slot_bytes >> 10)),
            ("wal.log_bytes", format!("\"{}KiB\"", self.log_bytes >> 10)),
            ("state.delta", format!("\"{}KiB\"", self.delta_bytes >> 10)),
            ("raft.support", format!("\"{}ms\"", self.support_ms)),
            ("raft.lease_reads", self.lease_reads.to_string()),
            ("limits.op_timeout", format!("\"{}ms\"", self.op_timeout_ms)),
            ("listen.peer", format!("\"{}:{PORT}\"", World::addr(node))),
        ] {
            config.set(key, &value).unwrap();
        }
        if let Some(bytes) = self.frame_cap {
            config.set("wal.frame_cap", &format!("\"{}KiB\"", bytes >> 10)).unwrap();
        }
        for (key, value) in &self.more {
            config.set(key, value).unwrap();
        }
        if self.nodes.len() > 1 {
            let peer = |id: &u64| Peer { id: *id, address: format!("{}:{PORT}", World::addr(*id)) };
            config.cluster.peers = self.nodes.iter().map(peer).collect();
        }
        config.cluster.join = self.join;
        config.security.insecure = true;
        config
    }

    /// Starts the node in its world; it need not be ready when it is up.
    pub(crate) fn start(
        &self,
        world: &World,
    ) -> impl Future<Output = Result<EmbeddedEngine, Error>> + 'static {
        let (config, factory, logs) = (self.config(), world.node(self.node), self.logs());
        async move {
            let builder = EmbeddedEngine::builder().configure(|all| *all = config);
            builder.start_in_with(factory, logs).await
        }
    }

    /// What its logs are opened with.
    pub(crate) fn logs(&self) -> WalLogs {
        let log_bytes = self.log_bytes;
        // No probe: the simulated disk tells nothing by its speed.
        let options = WalOptions {
            sync: self.sync,
            log_bytes,
            cache_bytes: self.cache_bytes,
            staged_bytes: self.staged_bytes,
            ..WalOptions::small()
        };
        let geometry = Geometry {
            slot_bytes: self.slot_bytes,
            frame_cap: u32::try_from(self.frame_cap.unwrap_or(FRAME_CAP)).unwrap(),
            log_bytes,
            ..Geometry::small()
        };
        WalLogs { geometry, options }
    }
}
