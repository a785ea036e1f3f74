//! The nodes that are measured: one, or a cluster of several, all in this process.

use core::net::SocketAddr;
use core::time::Duration;
use std::net::TcpListener;

use anyhow::Context;
use bowline::config::{CoreCount, CpuList, Peer};
use bowline::{Config, EmbeddedEngine, probe};

/// How long fresh nodes may take until one of them leads every shard.
const READY: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Running nodes.
#[derive(Debug)]
pub(crate) struct Nodes(Vec<EmbeddedEngine>);

impl Nodes {
    /// Starts `count` nodes, in directories below that of `base`; cores are dealt out to the CPUs
    /// in turn.
    pub(crate) fn start(base: &Config, count: u16) -> anyhow::Result<Self> {
        let configs = if count == 1 { vec![base.clone()] } else { cluster(base, count)? };
        let start = |config| EmbeddedEngine::builder().config(config).start();
        // All are started before one is waited for.
        let starts: Vec<_> = configs.into_iter().map(start).collect();
        let engines = starts.into_iter().map(bowline::Op::wait).collect::<Result<Vec<_>, _>>()?;
        for engine in &engines {
            engine.wait_ready(READY).wait()?;
        }
        Ok(Self(engines))
    }

    /// The first node, once it leads every shard: it is preferred, so that none moves any more.
    pub(crate) fn leader(&self) -> anyhow::Result<&EmbeddedEngine> {
        let mut looks = READY.as_millis() / LOOK.as_millis();
        loop {
            if let Some(leader) = self.0.first().filter(|engine| engine.is_leader()) {
                return Ok(leader);
            }
            looks = looks.checked_sub(1).context("the first node does not lead every shard")?;
            #[expect(clippy::disallowed_methods, reason = "there is nothing else to do")]
            std::thread::sleep(LOOK);
        }
    }

    /// Stops them.
    pub(crate) fn stop(self) -> Result<(), bowline::Error> {
        #[expect(clippy::needless_collect, reason = "all begin before one is waited for")]
        let stops: Vec<_> = self.0.iter().map(EmbeddedEngine::stop).collect();
        stops.into_iter().try_for_each(bowline::Op::wait)
    }
}

fn cluster(base: &Config, count: u16) -> anyhow::Result<Vec<Config>> {
    let facts = probe::facts(&base.node.data_dir);
    let cpus = if base.cores.cpus.0.is_empty() { facts.cpus } else { base.cores.cpus.0.clone() };
    let each =
        if let CoreCount::Is(cores) = base.cores.count { usize::try_from(cores)? } else { 1 };
    let ports = free_ports(count)?;
    let address = |place: usize| SocketAddr::from(([127, 0, 0, 1], ports[place]));
    let peers: Vec<_> = (1..)
        .zip(0..ports.len())
        .map(|(id, place)| Peer { id, address: address(place).to_string() })
        .collect();
    let configs = peers.iter().enumerate().map(|(place, peer)| {
        let mut config = base.clone();
        config.node.id = peer.id;
        config.node.data_dir = base.node.data_dir.join(peer.id.to_string());
        config.cluster.peers.clone_from(&peers);
        config.listen.peer = address(place);
        let own = cpus.iter().copied().cycle().skip(place * each % cpus.len().max(1));
        config.cores.cpus = CpuList(own.take(each.min(cpus.len())).collect());
        config
    });
    Ok(configs.collect())
}

/// Ports of loopback that are free now.
fn free_ports(count: u16) -> anyhow::Result<Vec<u16>> {
    let bind = |_| TcpListener::bind(("127.0.0.1", 0));
    let held = (0..count).map(bind).collect::<Result<Vec<_>, _>>()?;
    let port = |held: &TcpListener| anyhow::Ok(held.local_addr()?.port());
    held.iter().map(port).collect()
}
