//! NODE: read on core 0, or made up for a directory that is new. What the logs fix beside it is
//! read along.

use std::sync::Arc;

use bowline_env::{Dir, Env, Kind};
use bowline_raft::NodeId;
use bowline_wal::{OpenLog, StreamId};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::{faults, plan};
use crate::Error;
use crate::config::{ByteCount, Config};
use crate::members::note::VERSION_FIRST;
use crate::node_file::{NO_CLUSTER, NODE_LEN_MAX, NodeFile, node_name};

/// Who the node is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// As its directory says, or will say.
    node: NodeFile,
    /// The directory says nothing yet.
    is_new: bool,
    /// The bound of an entry: as the logs were made with it, or will be.
    frame_cap: ByteCount,
}

impl Identity {
    pub(super) const fn node(&self) -> &NodeFile {
        &self.node
    }

    pub(super) const fn is_new(&self) -> bool {
        self.is_new
    }

    pub(super) const fn frame_cap(&self) -> ByteCount {
        self.frame_cap
    }

    /// NODE as this start writes it: promises may hold longer than ever before.
    pub(super) fn to_write(&self, support_ms: u64) -> NodeFile {
        let node = self.node();
        let support_ms = support_ms.max(node.support_ms);
        NodeFile { support_ms, ..node.clone() }
    }
}

/// The question that core 0 answers before anything else.
pub(super) struct Ask<O> {
    pub(super) logs: O,
    pub(super) machine: (&'static str, u16),
    pub(super) config: Arc<Config>,
    pub(super) cores: u16,
    pub(super) answer: oneshot::Sender<Result<Identity, Error>>,
}

impl<O> Ask<O> {
    pub(super) async fn run<E: Env>(self, env: &E)
    where
        O: OpenLog<E>,
    {
        let result = identify(env, &self).await;
        if self.answer.send(result).is_err() {
            tracing::debug!("the start was given up before");
        }
    }
}

async fn identify<E: Env, O: OpenLog<E>>(env: &E, ask: &Ask<O>) -> Result<Identity, Error> {
    let (config, machine) = (&*ask.config, ask.machine);
    match env.dir().read_whole(&node_name(), NODE_LEN_MAX).await {
        Ok(bytes) => {
            let node = NodeFile::decode(&bytes).map_err(faults::node_file)?;
            faults::check_identity(config, &node, machine)?;
            if node.old_copy {
                return Err(faults::old_copy());
            }
            let frame_cap = frame_cap(env, &ask.logs, &node, config).await?;
            Ok(Identity { node, is_new: false, frame_cap })
        },
        Err(error) if error.kind == Kind::NotFound => {
            let node = make_up(env, config, machine, ask.cores);
            Ok(Identity { node, is_new: true, frame_cap: config.wal.frame_cap })
        },
        Err(error) => Err(faults::env(&error)),
    }
}

/// What the logs of a known node take at most. NODE is written after all of them are made, by one
/// start and with the same sizes, so the first speaks for all.
async fn frame_cap<E: Env, O: OpenLog<E>>(
    env: &E,
    logs: &O,
    node: &NodeFile,
    config: &Config,
) -> Result<ByteCount, Error> {
    let id = StreamId {
        cluster: node.bound_to(),
        node: node.node.0,
        stream: 0,
        streams: u32::from(node.streams),
    };
    let founded = logs.frame_cap(env, id).await.map_err(|error| faults::log(0, &error))?;
    let Some(bytes) = founded else { return Ok(config.wal.frame_cap) };
    let founded = ByteCount(u64::from(bytes));
    faults::check_frame_cap(config, founded)?;
    Ok(founded)
}

/// A node that is founded: its store's id is drawn. Founding members come to the same cluster id
/// without asking each other; that of a node alone is drawn, and one that waits to be added has
/// none yet.
fn make_up<E: Env>(env: &E, config: &Config, machine: (&'static str, u16), cores: u16) -> NodeFile {
    let draw = || {
        let mut bytes = [0; 16];
        env.fill_random(&mut bytes);
        u128::from_le_bytes(bytes)
    };
    NodeFile {
        cluster: match (config.cluster.join, config.cluster.peers.is_empty()) {
            (true, _) => NO_CLUSTER,
            (false, true) => draw(),
            (false, false) => cluster_id(config, machine.1),
        },
        joined: config.cluster.join,
        node: NodeId(config.node.id),
        store: draw(),
        shards: config.cluster.shards,
        streams: plan::streams(config, cores),
        machine: machine.0.to_owned(),
        // One that is added takes part in what its cluster agrees on.
        machine_version: if config.cluster.join { VERSION_FIRST } else { machine.1 },
        support_ms: u64::try_from(config.raft.support.as_millis()).unwrap_or(u64::MAX),
        founded_ms: env.wall().0,
        old_copy: false,
        peers: Vec::new(),
        lives: Vec::new(),
    }
}

/// The first bytes of a hash over what the founding members agree on: those with different versions
/// of the state machine found no cluster together.
fn cluster_id(config: &Config, machine_version: u16) -> u128 {
    let mut hash = Sha256::new();
    hash.update(config.cluster.name.len().to_le_bytes());
    hash.update(config.cluster.name.as_bytes());
    hash.update(config.cluster.shards.to_le_bytes());
    hash.update(plan::founding(config).encode().expect("the configuration was checked"));
    if machine_version > VERSION_FIRST {
        hash.update(machine_version.to_le_bytes());
    }
    let digest = hash.finalize();
    u128::from_le_bytes(digest[..16].try_into().expect("a digest has 32 bytes"))
}
