//! A cluster in a simulated world.

use std::future::Future;
use std::time::Duration;

use bowline::config::Peer;
use bowline::{Config, EmbeddedEngine, Error, ShardId};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, Profile, World};
use bowline_wal::{Geometry, SyncChoice, WalLogs, WalOptions};

/// Virtual time that one step of a scenario may take.
pub(crate) const LIMIT: Nanos = Nanos(120_000_000_000);
const PORT: u16 = 7_500;

/// A cluster of nodes numbered from 1.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) nodes: Vec<u64>,
    pub(crate) shards: u32,
    pub(crate) cores: Vec<u32>,
    settings: Vec<(&'static str, String)>,
    engines: Vec<Option<EmbeddedEngine>>,
}

impl Cluster {
    /// So many nodes, all down.
    pub(crate) fn new(seed: u64, nodes: u64, shards: u32) -> Self {
        let world = World::new(seed, Profile::calm());
        let nodes: Vec<u64> = (1..=nodes).collect();
        let engines = nodes.iter().map(|_| None).collect();
        let cores = nodes.iter().map(|_| 1).collect();
        Self { world, nodes, shards, cores, settings: Vec::new(), engines }
    }

    /// The same, all up and led.
    pub(crate) fn up(seed: u64, nodes: u64, shards: u32) -> Self {
        let mut cluster = Self::new(seed, nodes, shards);
        cluster.start_all();
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        for node in self.nodes.clone() {
            self.start(node);
        }
        for node in self.nodes.clone() {
            self.ready(node);
        }
    }

    /// Changes a setting of every node that is started from now on.
    pub(crate) fn set(&mut self, key: &'static str, value: &str) {
        self.settings.push((key, value.to_owned()));
    }

    fn config(&self, node: u64) -> Config {
        let mut config = Config::default();
        let peer = |id: &u64| Peer { id: *id, address: format!("{}:{PORT}", World::addr(*id)) };
        let streams = self.cores[place(node)];
        for (key, value) in [
            ("node.id", node.to_string()),
            ("node.app_address", format!("\"app-{node}:80\"")),
            ("cluster.shards", self.shards.to_string()),
            ("cores.count", streams.to_string()),
            ("wal.streams", streams.to_string()),
            ("wal.slot_bytes", "\"128KiB\"".to_owned()),
            ("wal.frame_cap", "\"16KiB\"".to_owned()),
            ("wal.log_bytes", "\"2MiB\"".to_owned()),
            ("state.delta", "\"256KiB\"".to_owned()),
            ("listen.peer", format!("\"{}:{PORT}\"", World::addr(node))),
        ] {
            config.set(key, &value).unwrap();
        }
        for (key, value) in &self.settings {
            config.set(key, value).unwrap();
        }
        config.cluster.peers = self.nodes.iter().map(peer).collect();
        config.security.insecure = true;
        config
    }

    /// Starts a node; it need not be ready.
    #[track_caller]
    pub(crate) fn start(&mut self, node: u64) {
        let (config, factory) = (self.config(node), self.world.node(node));
        let start = async move {
            let options = WalOptions { sync: SyncChoice::Dsync, ..WalOptions::small() };
            let geometry = Geometry {
                slot_bytes: config.wal.slot_bytes.0,
                frame_cap: 16 << 10,
                log_bytes: config.wal.log_bytes.0,
                ..Geometry::small()
            };
            EmbeddedEngine::builder()
                .configure(|all| *all = config)
                .start_in_with(factory, WalLogs { geometry, options })
                .await
        };
        self.engines[place(node)] = Some(self.run(start).unwrap());
    }

    /// Waits until every shard has a leader as `node` sees it.
    #[track_caller]
    pub(crate) fn ready(&self, node: u64) {
        let engine = self.engine(node).clone();
        let ready = async move { engine.wait_ready(Duration::from_mins(1)).await };
        self.run(ready).unwrap_or_else(|error| panic!("node {node}: {error:#}"));
    }

    #[track_caller]
    pub(crate) fn engine(&self, node: u64) -> &EmbeddedEngine {
        self.engines[place(node)].as_ref().expect("the node is up")
    }

    pub(crate) fn crash(&mut self, node: u64, how: Crash) {
        self.world.crash(node, how);
        self.engines[place(node)] = None;
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, node: u64) {
        let engine = self.engines[place(node)].take().expect("the node is up");
        self.run(async move { engine.stop().await }).unwrap();
    }

    /// Runs a task of a client to its end.
    #[track_caller]
    pub(crate) fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.world.block_on(LIMIT, task).unwrap()
    }

    /// The node that leads every shard.
    #[track_caller]
    pub(crate) fn leader(&self) -> u64 {
        let up = || self.nodes.iter().filter(|node| self.engines[place(**node)].is_some());
        let leads = || up().find(|node| self.engine(**node).is_leader()).copied();
        self.world.run_until(|| leads().is_some(), LIMIT).unwrap();
        leads().unwrap()
    }

    /// Puts through one node.
    #[track_caller]
    pub(crate) fn put(&self, node: u64, key: &str, value: &str) -> Result<(), Error> {
        let (client, key, value) = (self.engine(node).client(), key.to_owned(), value.to_owned());
        self.run(async move { client.put(key, value).await })
    }

    /// Makes a node's state durable in runs.
    #[track_caller]
    pub(crate) fn flush(&self, node: u64) {
        let engine = self.engine(node).clone();
        let shards = u64::from(self.shards);
        let flush = async move {
            for shard in 0..shards {
                engine.shard(ShardId(shard)).unwrap().flush().await.unwrap();
            }
        };
        self.run(flush);
    }

    /// Reads through one node.
    #[track_caller]
    pub(crate) fn get(&self, node: u64, key: &str) -> Option<String> {
        let (client, key) = (self.engine(node).client(), key.to_owned());
        let value = self.run(async move { client.get(key).await }).unwrap();
        value.map(|value| String::from_utf8_lossy(&value).into_owned())
    }
}

pub(crate) fn place(node: u64) -> usize {
    usize::try_from(node - 1).unwrap()
}
