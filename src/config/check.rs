//! What keys say together.

use bowline_wal::GeometryError;

use super::Config;
use crate::{Code, ConfigError, Origin};

impl Config {
    /// Whether the node listens for peers: it has some, waits to be added to some, or is told
    /// where.
    pub(crate) fn listens(&self) -> bool {
        let told = self.origin("listen.peer") != Origin::Default;
        !self.cluster.peers.is_empty() || self.cluster.join || told
    }

    /// Where peers find this node, unless they were told otherwise.
    pub(crate) fn advertised(&self) -> String {
        let listen = &self.listen;
        if listen.advertise.is_empty() {
            listen.peer.to_string()
        } else {
            format!("{}:{}", listen.advertise, listen.peer.port())
        }
    }
}

/// The first contradiction.
pub(super) fn contradictions(config: &Config) -> Result<(), ConfigError> {
    let fault = |key: &str, what: String| {
        ConfigError::new(Code::CONFIG_CONTRADICTION, config.origin(key), key, what)
    };
    let cluster = &config.cluster;
    if !cluster.peers.is_empty() {
        check_peers(config, &fault)?;
    }
    let raft = &config.raft;
    if raft.support < raft.heartbeat * 4 {
        let what = format!(
            "{:?} is less than four times raft.heartbeat ({:?})",
            raft.support, raft.heartbeat
        );
        return Err(fault("raft.support", what));
    }
    check_log(config, &fault)?;
    let wal = &config.wal;
    if config.limits.shard_uncommitted < wal.frame_cap {
        let what = format!("it is less than wal.frame_cap ({}), one entry", wal.frame_cap);
        return Err(fault("limits.shard_uncommitted", what));
    }
    let tls = &config.tls;
    let given =
        [&tls.cert_file, &tls.key_file, &tls.ca_file].map(|file| !file.as_os_str().is_empty());
    if given.iter().any(|given| *given) && !given.iter().all(|given| *given) {
        let what = "tls.cert_file, tls.key_file and tls.ca_file are given together or not at all";
        return Err(fault("tls.cert_file", what.into()));
    }
    if given[0] && !cfg!(feature = "tls") {
        let what = "this build of bowline has no TLS";
        let fix = "build it with the feature `tls`, or leave [tls] out";
        return Err(fault("tls.cert_file", what.into()).fix(fix));
    }
    Ok(())
}

/// The log has a say in its sizes; the messages name our keys.
fn check_log(
    config: &Config,
    fault: &dyn Fn(&str, String) -> ConfigError,
) -> Result<(), ConfigError> {
    let wal = &config.wal;
    let geometry = config.geometry();
    let (key, what) = match geometry.check() {
        Ok(()) => {
            let most = geometry.shards_max();
            let streams = wal.streams.or(1);
            if config.cluster.shards.div_ceil(streams) <= most {
                return Ok(());
            }
            let what = format!("a stream of this wal.slot_bytes has room for {most} shards");
            ("cluster.shards", what)
        },
        Err(GeometryError::SlotBytes(_)) => {
            ("wal.slot_bytes", format!("{} is no multiple of 4KiB", wal.slot_bytes))
        },
        Err(GeometryError::FrameCap(_)) => (
            "wal.frame_cap",
            format!(
                "{} is no multiple of 4KiB up to an eighth of wal.slot_bytes ({})",
                wal.frame_cap, wal.slot_bytes
            ),
        ),
        Err(_) => (
            "wal.log_bytes",
            format!(
                "{} is less than eight times wal.slot_bytes ({}), or holds too many of them",
                wal.log_bytes, wal.slot_bytes
            ),
        ),
    };
    Err(fault(key, what))
}

fn check_peers(
    config: &Config,
    fault: &dyn Fn(&str, String) -> ConfigError,
) -> Result<(), ConfigError> {
    let peers = &config.cluster.peers;
    if config.cluster.join {
        let what = "a node that joins is told its peers by the cluster: leave cluster.peers empty";
        return Err(fault("cluster.join", what.into()));
    }
    let mut ids: Vec<u64> = peers.iter().map(|peer| peer.id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) || ids.first() == Some(&0) {
        let what = "ids of peers are different and from 1 on";
        return Err(fault("cluster.peers", what.into()));
    }
    if ids.binary_search(&config.node.id).is_err() {
        let what = format!("node.id = {} is not among cluster.peers", config.node.id);
        return Err(fault("node.id", what).fix("set node.id to the id of this node in the list"));
    }
    Ok(())
}
