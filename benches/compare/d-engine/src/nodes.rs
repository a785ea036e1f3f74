//! Three nodes of d-engine on loopback, in this process.
//!
//! Their settings are those of d-engine's own benchmark of 0.2.4, but for the time a put may take:
//! its default of 50 ms would turn long waits into failures.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use d_engine::{EmbeddedClient, EmbeddedEngine, FileStorageEngine, RocksDBStateMachine};

use crate::Failure;

/// How long fresh nodes may take until one of them leads.
const READY: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// What keeps the log and the state of a node. With neither does a put wait for a disk.
#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum Storage {
    /// The default: two RocksDB instances. Nothing syncs a put for its own sake.
    Rocksdb,
    /// The log in a file, which a thread syncs behind the acknowledgements, as fast as it can; the
    /// state in RocksDB. d-engine's state in files is no choice: it writes all of it anew each
    /// 1,000 entries.
    FileLog,
}

/// Running nodes.
pub(crate) struct Nodes(Vec<EmbeddedEngine>);

impl Nodes {
    /// Starts three in `dir`, which is fresh.
    pub(crate) async fn start(dir: &Path, storage: Storage) -> Result<Self, Failure> {
        let held: Vec<_> =
            (0..3).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
        let ports: Vec<_> = held
            .iter()
            .map(|held| Ok(held.local_addr()?.port()))
            .collect::<Result<_, std::io::Error>>()?;
        drop(held);
        let mut engines = Vec::new();
        for id in 1..=ports.len() {
            let own = dir.join(id.to_string());
            std::fs::create_dir_all(&own)?;
            let config = own.join("node.toml");
            std::fs::write(&config, settings(id, &ports, &own))?;
            let config = config.to_str().ok_or("the directory's name is not UTF-8")?;
            engines.push(match storage {
                Storage::Rocksdb => EmbeddedEngine::start_with(config).await?,
                Storage::FileLog => {
                    let log = FileStorageEngine::new(own.join("storage"))?;
                    let state = RocksDBStateMachine::new(own.join("state_machine"))?;
                    let (log, state) = (Arc::new(log), Arc::new(state));
                    EmbeddedEngine::start_custom(log, state, Some(config)).await?
                },
            });
        }
        Ok(Self(engines))
    }

    /// A client of the node that leads.
    pub(crate) async fn leader(&self) -> Result<Arc<EmbeddedClient>, Failure> {
        for engine in &self.0 {
            engine.wait_ready(READY).await?;
        }
        for _ in 0..READY.as_millis() / LOOK.as_millis() {
            if let Some(leader) = self.0.iter().find(|engine| engine.is_leader()) {
                return Ok(leader.client());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err("no node leads".into())
    }

    /// Stops them. Some of their tasks live on until the runtime ends.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        for engine in &self.0 {
            engine.stop().await?;
        }
        Ok(())
    }
}

/// The settings of one node, as TOML. Role 1 follows, status 3 votes.
fn settings(id: usize, ports: &[u16], dir: &Path) -> String {
    let members: Vec<_> = (1..)
        .zip(ports)
        .map(|(id, port)| {
            format!("{{ id = {id}, address = \"127.0.0.1:{port}\", role = 1, status = 3 }}")
        })
        .collect();
    let (members, port) = (members.join(", "), ports[id - 1]);
    format!(
        "[cluster]
node_id = {id}
listen_address = \"127.0.0.1:{port}\"
initial_cluster = [{members}]
db_root_dir = {dir:?}
log_dir = {dir:?}

[storage]
unified_db = false

[raft]
general_raft_timeout_duration_in_ms = 10000

[raft.persistence]
strategy = \"MemFirst\"
flush_policy = {{ Batch = {{ idle_flush_interval_ms = 1000 }} }}

[raft.batching]
max_batch_size = 200

[raft.snapshot]
enable = false
"
    )
}
