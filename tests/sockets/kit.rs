//! Three nodes on loopback, one core each, every one in a directory of its own.

use core::sync::atomic::{AtomicU32, Ordering};
use std::net::TcpListener;
use std::time::Duration;

use bowline::config::{ByteCount, CoreCount, CpuList, Peer};
use bowline::{Config, EmbeddedClient, EmbeddedEngine, Error, NodeId, ShardId};
use bowline_env::glommio::GlommioFactory;
use bowline_env::{EnvFactory, UringState};
use tempfile::TempDir;

const READY: Duration = Duration::from_secs(30);
const KEYS: u32 = 100;
const SHARDS: u32 = 4;

/// Ports of loopback below those that the system gives to outgoing connections.
const PORTS: core::ops::Range<u16> = 20_000..32_000;

pub(crate) struct Trio {
    _dir: TempDir,
    ports: [u16; 3],
    configs: [Config; 3],
    engines: [Option<EmbeddedEngine>; 3],
}

impl Trio {
    pub(crate) const NODES: [u64; 3] = [1, 2, 3];

    /// None: the tests were told that `io_uring` is missing.
    #[expect(clippy::disallowed_methods, reason = "whether to skip is said by the environment")]
    pub(crate) fn new() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let facts = GlommioFactory::new(dir.path()).facts();
        if facts.io_uring != UringState::Ready {
            let skip = std::env::var("BOWLINE_NO_URING").is_ok_and(|value| value == "1");
            assert!(skip, "io_uring cannot be used here; BOWLINE_NO_URING=1 skips these tests");
            return None;
        }
        let ports = free_ports();
        let configs = Self::NODES.map(|node| config(&dir, ports, &facts.cpus, node));
        Some(Self { _dir: dir, ports, configs, engines: [None, None, None] })
    }

    pub(crate) fn port(&self, node: u64) -> u16 {
        self.ports[place(node)]
    }

    pub(crate) fn app(node: u64) -> String {
        format!("app-{node}:80")
    }

    /// How the node is started next.
    pub(crate) fn config(&mut self, node: u64) -> &mut Config {
        &mut self.configs[place(node)]
    }

    pub(crate) fn try_start(&mut self, node: u64) -> Result<(), Error> {
        let engine =
            EmbeddedEngine::builder().config(self.configs[place(node)].clone()).start().wait()?;
        self.engines[place(node)] = Some(engine);
        Ok(())
    }

    #[track_caller]
    pub(crate) fn start(&mut self, node: u64) {
        self.try_start(node).unwrap_or_else(|error| panic!("node {node}: {error:#}"));
    }

    #[track_caller]
    pub(crate) fn start_all(&mut self) {
        for node in Self::NODES {
            self.start(node);
        }
        for node in Self::NODES {
            self.ready(node);
        }
    }

    #[track_caller]
    pub(crate) fn ready(&self, node: u64) {
        let ready = self.engine(node).wait_ready(READY).wait();
        ready.unwrap_or_else(|error| panic!("node {node}: {error:#}"));
    }

    #[track_caller]
    pub(crate) fn engine(&self, node: u64) -> &EmbeddedEngine {
        self.engines[place(node)].as_ref().expect("the node is up")
    }

    /// Lanes that came up at a node since it started.
    #[track_caller]
    pub(crate) fn lanes_up(&self, node: u64) -> u64 {
        self.engine(node).metrics().cores[0].lanes_up
    }

    /// Waits for the lanes of a node to both others: shards are led without one of them.
    #[track_caller]
    pub(crate) fn wait_lanes(&self, node: u64) {
        while self.lanes_up(node) < u64::try_from(Self::others(node).len()).unwrap() {
            std::thread::yield_now();
        }
    }

    pub(crate) fn client(&self, node: u64) -> EmbeddedClient {
        self.engine(node).client()
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, node: u64) {
        if let Some(engine) = self.engines[place(node)].take() {
            engine.stop().wait().unwrap();
        }
    }

    pub(crate) fn stop_all(&mut self) {
        for node in Self::NODES {
            self.stop(node);
        }
    }

    pub(crate) const fn others(node: u64) -> [u64; 2] {
        match node {
            1 => [2, 3],
            2 => [1, 3],
            _ => [1, 2],
        }
    }

    /// The node that leads the most shards, once all are led by nodes that are up.
    #[track_caller]
    pub(crate) fn leader(&self) -> u64 {
        let seen = self.engines.iter().flatten().next().expect("a node is up");
        let is_up = |node: NodeId| self.engines[place(node.0)].is_some();
        let all_up = || {
            let shards = (0..u64::from(SHARDS)).map(|id| seen.shard(ShardId(id)).unwrap());
            shards.filter_map(|shard| shard.leader_info()).all(|info| is_up(info.leader_id))
        };
        let mut notices = seen.leader_change_notifier();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let leader = runtime.block_on(async {
            let led = notices.wait_for(|info| info.is_some() && all_up());
            tokio::time::timeout(READY, led).await.expect("a leader in time").unwrap().unwrap()
        });
        leader.leader_id.0
    }

    /// A key of a shard that `node` leads.
    #[track_caller]
    pub(crate) fn key_led_by(&self, node: u64) -> String {
        let engine = self.engine(node);
        let led = (0..KEYS).map(name).find(|key| engine.is_leader_of(key.as_bytes()));
        led.expect("a node that leads the most shards leads one of a key")
    }

    /// Waits until `node` knows that no shard is led: it hears nobody.
    #[track_caller]
    pub(crate) fn wait_leaderless(&self, node: u64) {
        let shards = (0..u64::from(SHARDS)).map(|id| self.engine(node).shard(ShardId(id)).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for shard in shards {
            let mut notices = shard.leader_change_notifier();
            runtime.block_on(async {
                let gone = notices.wait_for(Option::is_none);
                drop(tokio::time::timeout(READY, gone).await.expect("in time").unwrap());
            });
        }
    }

    /// Writes every key, each through the node that leads its shard.
    #[track_caller]
    pub(crate) fn fill(&self, value: &str) {
        self.fill_through(self.leader(), value);
    }

    /// The same, beginning at `node`.
    #[track_caller]
    pub(crate) fn fill_through(&self, mut node: u64, value: &str) {
        for key in 0..KEYS {
            while let Err(error) = self.client(node).put(name(key), value).wait() {
                let leader = error.leader_hint().map(|leader| leader.id.0);
                let other = leader.filter(|leader| *leader != node);
                node = other.unwrap_or_else(|| panic!("node {node}: {error:#}"));
            }
        }
    }

    /// Reads every key through one node.
    #[track_caller]
    pub(crate) fn check(&self, node: u64, value: &str) {
        let client = self.client(node);
        for key in 0..KEYS {
            let got = client.get(name(key)).wait();
            let got = got.unwrap_or_else(|error| panic!("node {node}: {error:#}"));
            assert_eq!(got.as_deref(), Some(value.as_bytes()), "node {node}, key {key}");
        }
    }
}

fn config(dir: &TempDir, ports: [u16; 3], cpus: &[u32], node: u64) -> Config {
    let address = |id| format!("127.0.0.1:{}", ports[place(id)]);
    let mut config = Config::default();
    config.node.id = node;
    config.node.data_dir = dir.path().join(format!("node-{node}"));
    config.node.app_address = Trio::app(node);
    config.cluster.peers =
        Trio::NODES.into_iter().map(|id| Peer { id, address: address(id) }).collect();
    config.cluster.shards = SHARDS;
    config.cores.count = CoreCount::Is(1);
    config.cores.cpus = CpuList(vec![cpus[place(node) % cpus.len()]]);
    config.wal.allow_cow = true;
    config.wal.slot_bytes = ByteCount::mib(1);
    config.wal.frame_cap = ByteCount::kib(64);
    config.wal.log_bytes = ByteCount::mib(16);
    config.listen.peer = address(node).parse().unwrap();
    config
}

fn name(key: u32) -> String {
    format!("key-{key}")
}

fn place(node: u64) -> usize {
    usize::try_from(node - 1).unwrap()
}

fn free_ports() -> [u16; 3] {
    std::array::from_fn(|_| free_port())
}

/// A port that nobody listens at, and that no other test of this process is given.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(37);
    let span = u32::from(PORTS.end - PORTS.start);
    loop {
        let nth = first.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % span;
        let port = PORTS.start + u16::try_from(nth).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
