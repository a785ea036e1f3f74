//! Whether the process's limits suffice: BOW-0104 and 0111.

use bowline_env::Facts;

use super::core_count;
use crate::config::{ByteCount, Config};
use crate::{Code, Finding};

/// Bytes that a core locks for its rings.
const LOCKED_PER_CORE: u64 = 512 << 10;
/// Files that are open whatever the configuration: sockets, libraries, the application's own.
const FILES_BASE: u64 = 256;
/// Files of a core's runtime.
const FILES_PER_CORE: u64 = 8;
/// Files of a stream beside its slots.
const FILES_PER_STREAM: u64 = 4;
/// State files of a shard that are open at once.
const FILES_PER_SHARD: u64 = 2;

pub(super) fn memlock(config: &Config, facts: &Facts) -> Option<Finding> {
    let limit = facts.memlock?;
    let cores = core_count(config, facts);
    let need = cores.saturating_mul(LOCKED_PER_CORE);
    if limit >= need {
        return None;
    }
    let (limit, need) = (ByteCount(limit), ByteCount(need));
    let what = format!(
        "locked-memory limit is {limit}; {} {} {need}",
        count(cores, "core"),
        if cores == 1 { "needs" } else { "need" }
    );
    Some(Finding::error(Code::MEMLOCK, what).fact("RLIMIT_MEMLOCK", limit))
}

pub(super) fn open_files(config: &Config, facts: &Facts) -> Option<Finding> {
    let (_, hard) = facts.open_files;
    let cores = core_count(config, facts);
    let streams = streams(config, facts);
    let slots = config.wal.log_bytes.0 / config.wal.slot_bytes.0.max(1);
    let shards = u64::from(config.cluster.shards);
    let need = FILES_BASE
        .saturating_add(cores.saturating_mul(FILES_PER_CORE))
        .saturating_add(streams.saturating_mul(FILES_PER_STREAM.saturating_add(slots)))
        .saturating_add(shards.saturating_mul(FILES_PER_SHARD));
    if hard >= need {
        return None;
    }
    let cause = format!(
        "{}, {} and {} keep files open; the hard limit of RLIMIT_NOFILE does not allow it",
        count(cores, "core"),
        count(streams, "stream"),
        count(shards, "shard")
    );
    let what = format!("open-file limit {hard}; need {need}");
    Some(Finding::error(Code::OPEN_FILES, what).cause(cause).fact("RLIMIT_NOFILE", hard))
}

/// Streams of a directory that is founded now.
pub(super) fn streams(config: &Config, facts: &Facts) -> u64 {
    let cores = u32::try_from(core_count(config, facts)).unwrap_or(u32::MAX);
    config.wal.streams.or(cores).into()
}

/// `1 core`, `2 cores`.
pub(super) fn count(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
