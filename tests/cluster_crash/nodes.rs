//! Three nodes, each a process of its own on loopback with a directory of its own.

use core::net::SocketAddr;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use bowline::Config;
use bowline::config::{ByteCount, CoreCount, CpuList, Peer};
use bowline_env::EnvFactory;
use bowline_env::glommio::GlommioFactory;
use tempfile::TempDir;

use crate::binary;
use crate::space::Space;

pub(crate) const COUNT: usize = 3;
pub(crate) const SHARDS: u32 = 8;

/// Ports of loopback below those that the system gives to outgoing connections.
const PORTS: core::ops::Range<u16> = 20_000..32_000;

/// Where a node is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) peer: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The network namespace that its process and its callers enter.
    pub(crate) space: Space,
}

/// The nodes; those that run are killed when dropped.
pub(crate) struct Nodes {
    dir: Option<TempDir>,
    pub(crate) places: Vec<Place>,
    children: Mutex<Vec<Option<Child>>>,
}

impl Nodes {
    /// Nodes that share this machine's loopback; none is started.
    pub(crate) fn on_loopback() -> Self {
        let at = |()| SocketAddr::from(([127, 0, 0, 1], free_port()));
        let place = |_| Place { peer: at(()), admin: at(()), space: Space::own() };
        Self::at((0..COUNT).map(place).collect())
    }

    /// The same at given places.
    pub(crate) fn at(places: Vec<Place>) -> Self {
        let children = Mutex::new(places.iter().map(|_| None).collect());
        let nodes = Self { dir: Some(TempDir::new().unwrap()), places, children };
        let cpus = GlommioFactory::new(nodes.path()).facts().cpus;
        for node in 0..COUNT {
            let config = nodes.config(node, cpus[node % cpus.len()]);
            std::fs::write(nodes.file(node), config.to_toml()).unwrap();
        }
        nodes
    }

    fn path(&self) -> PathBuf {
        self.dir.as_ref().unwrap().path().to_owned()
    }

    fn file(&self, node: usize) -> PathBuf {
        self.path().join(format!("node-{node}.toml"))
    }

    fn config(&self, node: usize, cpu: u32) -> Config {
        let mut config = Config::default();
        config.node.id = id(node);
        config.node.data_dir = self.path().join(format!("node-{node}"));
        config.node.app_address = self.places[node].admin.to_string();
        let peer = |(node, place): (usize, &Place)| {
            let address = place.peer.to_string();
            Peer { id: id(node), address }
        };
        config.cluster.peers = self.places.iter().enumerate().map(peer).collect();
        config.cluster.shards = SHARDS;
        config.cores.count = CoreCount::Is(1);
        config.cores.cpus = CpuList(vec![cpu]);
        config.wal.allow_cow = true;
        config.wal.slot_bytes = ByteCount::mib(4);
        config.wal.frame_cap = ByteCount::kib(256);
        config.wal.log_bytes = ByteCount::mib(64);
        config.state.delta = ByteCount::mib(16);
        config.listen.peer = self.places[node].peer;
        config.security.insecure = true;
        config.set("server.admin", &format!("\"{}\"", self.places[node].admin)).unwrap();
        config
    }

    /// Starts a process; it need not be ready, or stay alive.
    pub(crate) fn start(&self, node: usize) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join(format!("node-{node}.log")))
            .unwrap();
        let mut command = self.places[node].space.command(binary::path());
        let child = command
            .args(["serve", "--until-stdin-ends", "--config"])
            .arg(self.file(node))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let before = self.children.lock().unwrap()[node].replace(child);
        assert!(before.is_none(), "node {node} runs already");
    }

    /// Kill -9 of a process that runs; it is gone when this returns.
    #[track_caller]
    pub(crate) fn kill(&self, node: usize) {
        let mut child = self.children.lock().unwrap()[node].take().expect("it runs");
        if let Some(status) = child.try_wait().unwrap() {
            panic!("node {node} ended by itself: {status}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM: how it ends.
    #[track_caller]
    pub(crate) fn terminate(&self, node: usize) -> ExitStatus {
        let mut child = self.children.lock().unwrap()[node].take().expect("it runs");
        let sent = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
        child.wait().unwrap()
    }

    /// Fails the test if a process ended by itself.
    #[track_caller]
    pub(crate) fn check_alive(&self) {
        for (node, child) in self.children.lock().unwrap().iter_mut().enumerate() {
            if let Some(child) = child {
                assert!(child.try_wait().unwrap().is_none(), "node {node} ended by itself");
            }
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for mut child in self.children.get_mut().unwrap().drain(..).flatten() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            println!("logs and directories of the nodes are kept in {}", dir.keep().display());
        }
    }
}

/// The number of a node in its cluster.
pub(crate) fn id(node: usize) -> u64 {
    u64::try_from(node).unwrap() + 1
}

/// A port that nobody listens at, and that nobody else of this process is given.
fn free_port() -> u16 {
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
