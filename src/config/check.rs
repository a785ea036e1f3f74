//! What keys say together.

use super::Config;
use crate::{Code, ConfigError};

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
    let wal = &config.wal;
    if wal.frame_cap.0.saturating_mul(4) > wal.slot_bytes.0 {
        let what =
            format!("{} is over a quarter of wal.slot_bytes ({})", wal.frame_cap, wal.slot_bytes);
        return Err(fault("wal.frame_cap", what));
    }
    if wal.slot_bytes.0.saturating_mul(4) > wal.log_bytes.0 {
        let what = format!(
            "{} is less than four times wal.slot_bytes ({})",
            wal.log_bytes, wal.slot_bytes
        );
        return Err(fault("wal.log_bytes", what));
    }
    if !wal.slot_bytes.0.is_multiple_of(4_096) || !wal.frame_cap.0.is_multiple_of(4_096) {
        let key =
            if wal.slot_bytes.0.is_multiple_of(4_096) { "wal.frame_cap" } else { "wal.slot_bytes" };
        return Err(fault(key, "it is no multiple of 4KiB".into()));
    }
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
    Ok(())
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
