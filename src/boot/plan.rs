//! What a node will run on, out of its configuration, its machine and its directory's identity.

use core::time::Duration;

use bowline_env::{Facts, Nanos};
use bowline_statemachine::store::StoreOptions;

use super::identity::Identity;
use crate::config::{Auto, ByteCount, Config, CoreCount, DirectIo};
use crate::core::boot::Plan;
use crate::core::run::Options;

/// A core's budget of client bytes at most, if it is chosen here.
const CORE_BUDGET_MAX: u64 = 1 << 30;
/// Parts of an entry that are not payload: its place in the body, padding.
const ENTRY_OVERHEAD: u64 = 64;

/// The CPUs that the cores are pinned to, one each.
pub(super) fn cpus(config: &Config, facts: &Facts) -> Vec<u32> {
    let allowed = &facts.cpus;
    let named = &config.cores.cpus.0;
    let usable = if named.is_empty() { allowed } else { named };
    let quota = facts.cpu_quota_percent.map_or(usize::MAX, |percent| {
        usize::try_from(percent.div_ceil(100)).unwrap_or(usize::MAX).max(1)
    });
    let most = usable.len().min(quota).max(1);
    let count = match config.cores.count {
        CoreCount::Half => (most / 2).max(1),
        CoreCount::All => most,
        CoreCount::Is(count) => size(u64::from(count)).clamp(1, usable.len().max(1)),
    };
    usable.iter().copied().cycle().take(count).collect()
}

/// Whether files are opened for direct I/O.
pub(super) fn direct_io(config: &Config) -> bool {
    config.wal.direct_io == DirectIo::Required
}

/// Streams of a directory that is founded now: one a core, unless the configuration says.
pub(super) fn streams(config: &Config, cores: u16) -> u16 {
    match config.wal.streams {
        Auto::Auto => cores,
        Auto::Is(count) => u16::try_from(count).unwrap_or(u16::MAX),
    }
}

/// The plan of core 0; the others differ in their number.
pub(super) fn plan(config: &Config, facts: &Facts, identity: &Identity, cpus: usize) -> Plan {
    let node = identity.node();
    // A core without a stream would have nothing to do.
    let cores = u16::try_from(cpus).unwrap_or(u16::MAX).min(node.streams);
    let share = u64::from(cores);
    let limits = &config.limits;
    let chosen = ByteCount((facts.memory / 4 / share).min(CORE_BUDGET_MAX));
    let budget = limits.core_budget.or(chosen).0;
    let entry_bytes_max = config.wal.frame_cap.0.saturating_sub(ENTRY_OVERHEAD);
    Plan {
        node: node.node,
        cluster: node.cluster,
        shards: node.shards,
        streams: node.streams,
        cores,
        core: 0,
        founding: identity.is_new(),
        options: Options {
            core_budget: size(budget),
            parked: size(limits.parked.0),
            park: nanos(limits.park),
            spin: nanos(config.cores.spin),
            drain: nanos(limits.drain_timeout),
            timeout_ms: u32::try_from(limits.op_timeout.as_millis()).unwrap_or(u32::MAX),
        },
        store: StoreOptions {
            delta_bytes: size(config.state.delta.0),
            resident_bytes: config.state.resident.of(facts.memory) / share,
            cluster: node.cluster,
            node: node.node.0,
            ..StoreOptions::default()
        },
        entry_bytes_max: size(entry_bytes_max),
        shard_uncommitted: u32::try_from(limits.shard_uncommitted.0).unwrap_or(u32::MAX),
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn nanos(span: Duration) -> Nanos {
    Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}
