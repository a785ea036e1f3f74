//! NODE: read on core 0, or made up for a directory that is new.

use std::sync::Arc;

use bowline_env::{Dir, Env, Kind, Name};
use bowline_raft::NodeId;
use tokio::sync::oneshot;

use super::{faults, plan};
use crate::Error;
use crate::config::Config;
use crate::node_file::{NODE_LEN_MAX, NodeFile};

/// Who the node is.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    /// As its directory says.
    Known(NodeFile),
    /// As it will say.
    New(NodeFile),
}

impl Identity {
    pub(super) const fn node(&self) -> &NodeFile {
        match self {
            Self::Known(node) | Self::New(node) => node,
        }
    }

    pub(super) const fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }

    /// NODE, if it has to be written.
    pub(super) fn to_write(&self) -> Option<NodeFile> {
        self.is_new().then(|| self.node().clone())
    }
}

/// The question that core 0 answers before anything else.
pub(super) struct Ask {
    pub(super) machine: (&'static str, u16),
    pub(super) config: Arc<Config>,
    pub(super) cores: u16,
    pub(super) answer: oneshot::Sender<Result<Identity, Error>>,
}

impl Ask {
    pub(super) async fn run<E: Env>(self, env: &E) {
        let result = identify(env, &self.config, self.machine, self.cores).await;
        if self.answer.send(result).is_err() {
            tracing::debug!("the start was given up before");
        }
    }
}

fn name() -> Name {
    Name::of("NODE")
}

async fn identify<E: Env>(
    env: &E,
    config: &Config,
    machine: (&'static str, u16),
    cores: u16,
) -> Result<Identity, Error> {
    match env.dir().read_whole(&name(), NODE_LEN_MAX).await {
        Ok(bytes) => {
            let node = NodeFile::decode(&bytes).map_err(faults::node_file)?;
            faults::check_identity(config, &node, machine)?;
            Ok(Identity::Known(node))
        },
        Err(error) if error.kind == Kind::NotFound => {
            Ok(Identity::New(make_up(env, config, machine, cores)))
        },
        Err(error) => Err(faults::env(&error)),
    }
}

/// A node that is founded alone: cluster and store ids are drawn.
fn make_up<E: Env>(env: &E, config: &Config, machine: (&'static str, u16), cores: u16) -> NodeFile {
    let draw = || {
        let mut bytes = [0; 16];
        env.fill_random(&mut bytes);
        u128::from_le_bytes(bytes)
    };
    NodeFile {
        cluster: draw(),
        node: NodeId(config.node.id),
        store: draw(),
        shards: config.cluster.shards,
        streams: plan::streams(config, cores),
        machine: machine.0.to_owned(),
        machine_version: machine.1,
        support_ms: u64::try_from(config.raft.support.as_millis()).unwrap_or(u64::MAX),
        founded_ms: env.wall().0,
        peers: Vec::new(),
    }
}

/// Makes NODE durable: from now on the directory has this identity.
pub(super) async fn write<E: Env>(env: &E, node: &NodeFile) -> Result<(), Error> {
    let bytes = node.encode();
    env.dir().write_whole(&name(), bytes.into()).await.map_err(|error| faults::env(&error))
}
