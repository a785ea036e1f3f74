//! `bowline dev`: the nodes of a cluster as child processes on this machine, to try things out.
//!
//! Every child is a `bowline serve` with a configuration of its own, and ends when its standard
//! input does: that is how it is told to stop, and how it notices that its parent is gone.

use core::net::{Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};

use anyhow::Context;
use bowline::config::{ByteCount, CoreCount, CpuList, Peer};
use bowline::{Config, Error, probe};
use tokio::process::{ChildStdin, Command};
use tokio::task::JoinSet;

use crate::cli::Dev;
use crate::orders::Orders;
use crate::out;
use crate::scratch::Scratch;

/// Where the search for free ports begins.
const PEER_PORTS: u16 = 7_500;
const ADMIN_PORTS: u16 = 7_600;

/// Runs the cluster until it is told to end. Failure: a node ended in another way.
pub(crate) fn run(ask: &Dev) -> anyhow::Result<ExitCode> {
    let scratch = match &ask.dir {
        Some(_) => None,
        None => Some(Scratch::below(None, "bowline-dev")?),
    };
    let dir = ask.dir.as_deref().or_else(|| scratch.as_ref().map(Scratch::path));
    let dir = dir.expect("there is one or the other");
    std::fs::create_dir_all(dir).with_context(|| format!("cannot write {}", dir.display()))?;
    let cluster = Cluster::plan(ask, dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended_well = runtime.block_on(cluster.run())?;
    Ok(if ended_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A node that is to be run.
struct Node {
    id: u64,
    peer: SocketAddr,
    admin: SocketAddr,
    file: PathBuf,
    log: PathBuf,
}

struct Cluster {
    dir: PathBuf,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Chooses addresses and writes the configurations.
    fn plan(ask: &Dev, dir: &Path) -> anyhow::Result<Self> {
        let (mut peers, mut admins) = (free_from(PEER_PORTS), free_from(ADMIN_PORTS));
        let mut node = |id: u64| {
            let next = |ports: &mut dyn Iterator<Item = u16>| {
                let port = ports.next().context("no port is free")?;
                anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            };
            let (peer, admin) = (next(&mut peers)?, next(&mut admins)?);
            let file = dir.join(format!("node-{id}.toml"));
            anyhow::Ok(Node { id, peer, admin, file, log: dir.join(format!("node-{id}.log")) })
        };
        let nodes: Vec<_> = (1..=u64::from(ask.nodes)).map(&mut node).collect::<Result<_, _>>()?;
        let cpus = probe::facts(dir).cpus;
        for (node, place) in nodes.iter().zip(0..) {
            let mut config = configuration(node, &nodes, dir)?;
            config.cluster.shards = ask.shards;
            config.cores.cpus = CpuList(cpus.iter().copied().cycle().skip(place).take(1).collect());
            std::fs::write(&node.file, config.to_toml())
                .with_context(|| format!("cannot write {}", node.file.display()))?;
        }
        Ok(Self { dir: dir.to_owned(), nodes })
    }

    /// Whether every node ended as it should.
    async fn run(self) -> anyhow::Result<bool> {
        let mut orders = Orders::listen()?;
        // Dropping this kills who still runs.
        let mut running = JoinSet::new();
        let mut inputs = BTreeMap::new();
        out::line(format_args!("{:<6} {:<22} {:<22} log", "node", "peers", "admin"))?;
        for node in &self.nodes {
            inputs.insert(node.id, spawn(node, &mut running)?);
            let log = node.log.display();
            out::line(format_args!("{:<6} {:<22} {:<22} {log}", node.id, node.peer, node.admin))?;
        }
        let [first, ..] = &*self.nodes else { return Ok(true) };
        out::line(format_args!(
            "\ndata and configurations are in {}\n\
             try:  printf 'leader\\n' | nc -q1 {} {}\n\
             Ctrl-C stops all, a second one at once",
            self.dir.display(),
            first.admin.ip(),
            first.admin.port(),
        ))?;
        let mut ended_well = true;
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    None => return Ok(ended_well),
                    Some(ended) => {
                        let (id, status) = ended?;
                        let told = inputs.remove(&id).is_none();
                        ended_well &= told && status.success();
                        if !told || !status.success() {
                            out::line(format_args!("node {id} ended: {status}; see its log"))?;
                        }
                    },
                },
                () = orders.next() => {
                    if inputs.is_empty() {
                        return Ok(false);
                    }
                    out::line("stopping")?;
                    inputs.clear();
                },
            }
        }
    }
}

/// Starts a node; it runs until the input that is returned is dropped.
fn spawn(node: &Node, running: &mut JoinSet<(u64, ExitStatus)>) -> anyhow::Result<ChildStdin> {
    let log = std::fs::File::create(&node.log)
        .with_context(|| format!("cannot write {}", node.log.display()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg("--until-stdin-ends")
        .arg("--config")
        .arg(&node.file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        // A Ctrl-C of the terminal is for the parent alone.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let input = child.stdin.take().context("a child has its input")?;
    let id = node.id;
    running.spawn(async move {
        let status = child.wait().await;
        (id, status.expect("a child of ours can be waited for"))
    });
    Ok(input)
}

fn configuration(node: &Node, nodes: &[Node], dir: &Path) -> Result<Config, Error> {
    let mut config = Config::default();
    config.node.id = node.id;
    config.node.data_dir = dir.join(format!("node-{}", node.id));
    config.node.app_address = node.admin.to_string();
    config.cluster.name = "dev".into();
    let peer = |node: &Node| Peer { id: node.id, address: node.peer.to_string() };
    config.cluster.peers = nodes.iter().map(peer).collect();
    config.cores.count = CoreCount::Is(1);
    // Small enough that several nodes are founded in a moment.
    config.wal.slot_bytes = ByteCount::mib(8);
    config.wal.log_bytes = ByteCount::mib(256);
    config.listen.peer = node.peer;
    config.set("server.admin", &format!("\"{}\"", node.admin))?;
    config.check()?;
    Ok(config)
}

/// Ports of loopback from `first` on at which nobody listens.
fn free_from(first: u16) -> impl Iterator<Item = u16> {
    (first..=u16::MAX).filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = taken.local_addr().expect("it is bound").port();
        assert!(free_from(port).next().is_none_or(|free| free > port));
    }

    #[test]
    fn the_configuration_of_a_node_reads_back() {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let node = |id: u64, port| Node {
            id,
            peer: at(port),
            admin: at(port + 100),
            file: PathBuf::new(),
            log: PathBuf::new(),
        };
        let nodes = [node(1, 7_500), node(2, 7_501)];
        let config = configuration(&nodes[1], &nodes, Path::new("/d")).expect("accepted");
        let none: [(String, String); 0] = [];
        let text = config.to_toml();
        let read = Config::from_parts(Some(("f", &text)), none).expect("accepted");
        assert_eq!((read.node.id, read.cluster.peers.len()), (2, 2));
        assert_eq!(read.node.data_dir, Path::new("/d/node-2"));
        assert_eq!(read.listen.peer, at(7_501));
    }
}
