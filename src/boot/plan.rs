//! What a node will run on, out of its configuration, its machine and its directory's identity.

use core::time::Duration;

use std::sync::Arc;

use bowline_env::{Facts, Nanos};
use bowline_net::{NodeRecord, Security};
use bowline_raft::{Configuration, Member, NodeId, Part, Phase, ReplicaId};
use bowline_statemachine::store::StoreOptions;

use super::identity::Identity;
use crate::config::{Auto, ByteCount, Config, CoreCount, DirectIo};
use crate::core::boot::Plan;
use crate::core::peers::Known;
use crate::core::run::Options;
use crate::members::note::Note;
use crate::node_file::NodeFile;

/// A core's budget of client bytes at most, if it is chosen here.
const CORE_BUDGET_MAX: u64 = 1 << 30;
/// Parts of an entry that are not payload: its place in the body, padding.
const ENTRY_OVERHEAD: u64 = 64;
/// Parts of a lane's frame that are no body.
const FRAME_OVERHEAD: u64 = 64 << 10;

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

/// The plan of core 0; the others differ in their number. `machine` is the version of the state
/// machine that this node runs.
pub(super) fn plan(
    config: &Config,
    facts: &Facts,
    identity: &Identity,
    cpus: usize,
    machine: u16,
) -> Plan {
    let node = identity.node();
    // A core without a stream would have nothing to do.
    let cores = u16::try_from(cpus).unwrap_or(u16::MAX).min(node.streams);
    let share = u64::from(cores);
    let limits = &config.limits;
    let chosen = ByteCount((facts.memory / 4 / share).min(CORE_BUDGET_MAX));
    let budget = limits.core_budget.or(chosen).0;
    let frame_cap = identity.frame_cap();
    let entry_bytes_max = frame_cap.0.saturating_sub(ENTRY_OVERHEAD);
    // The configuration was checked against its own frame cap; that of the logs may be larger.
    let uncommitted = limits.shard_uncommitted.max(frame_cap);
    let members = members(config, node, cores, machine);
    Plan {
        node: node.node,
        cluster: node.cluster,
        bound_to: node.bound_to(),
        joined: node.joined,
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
            handing: nanos(config.raft.support),
            drain: nanos(limits.drain_timeout),
            transfer: (limits.transfer.0 / share).max(1),
            leaders: config.cluster.leaders,
            timeout_ms: u32::try_from(limits.op_timeout.as_millis()).unwrap_or(u32::MAX),
        },
        store: StoreOptions {
            delta_bytes: size(config.state.delta.0),
            resident_bytes: config.state.resident.of(facts.memory) / share,
            cluster: node.bound_to(),
            node: node.node.0,
            ..StoreOptions::default()
        },
        entry_bytes_max: size(entry_bytes_max),
        shard_uncommitted: u32::try_from(uncommitted.0).unwrap_or(u32::MAX),
        members_at_founding: noted(founding(config), &members, node.machine_version),
        members,
        replica: replica_of(config),
        listen: config.listens().then_some(config.listen.peer),
        security: Security::Plain,
        frame_max: u32::try_from(frame_cap.0 + FRAME_OVERHEAD).unwrap_or(u32::MAX),
        support: nanos(config.raft.support),
        beat: nanos(config.raft.heartbeat),
        life: 0,
        quiet: Nanos::from_millis(node.support_ms),
        lease_reads: config.raft.lease_reads,
    }
}

/// The members that found the cluster: the peers, or this node alone. Replica ids are their places
/// in the order of their ids, so that every node founds the same configuration.
pub(super) fn founding(config: &Config) -> Configuration {
    let mut ids: Vec<u64> = config.cluster.peers.iter().map(|peer| peer.id).collect();
    if ids.is_empty() {
        ids.push(config.node.id);
    }
    ids.sort_unstable();
    let member = |(place, id): (u64, &u64)| Member {
        node: NodeId(*id),
        replica: ReplicaId(place),
        before: Part::Voter,
        after: Part::Voter,
        priority: 0,
        auto_promote: false,
    };
    let members: Vec<_> = (1..).zip(&ids).map(member).collect();
    Configuration {
        phase: Phase::Stable,
        auto_leave: false,
        epoch: 1,
        next_replica: ReplicaId(1 + u64::try_from(members.len()).expect("members are few")),
        generation: 0,
        members,
        note: Vec::new(),
    }
}

/// This node's replica id in what it founds.
fn replica_of(config: &Config) -> ReplicaId {
    let founding = founding(config);
    let own = founding.members.iter().find(|member| member.node.0 == config.node.id);
    own.map_or(ReplicaId(1), |member| member.replica)
}

/// A configuration with the members' addresses, and the version of the state machine that all have.
fn noted(mut conf: Configuration, known: &Known, machine: u16) -> Configuration {
    let own = (known.record.node, Arc::from(&*known.record.address));
    let note = Note::of(known.peers.iter().cloned().chain([own]), machine);
    // What is too long together comes from the members' hellos alone.
    let short = || Note::of([], machine).encode();
    conf.note = note.encode().or_else(short).unwrap_or_default();
    conf
}

fn members(config: &Config, node: &NodeFile, cores: u16, machine: u16) -> Known {
    let mut peers: Vec<_> = config.cluster.peers.iter().collect();
    peers.sort_unstable_by_key(|peer| peer.id);
    let own = peers.iter().find(|peer| peer.id == node.node.0);
    let address = own.map_or_else(|| config.advertised(), |own| own.address.clone());
    Known {
        peers: peers
            .iter()
            .filter(|peer| peer.id != node.node.0)
            .map(|peer| (NodeId(peer.id), Arc::from(&*peer.address)))
            .collect(),
        met: node.peers.clone(),
        store: node.store,
        machine,
        record: NodeRecord {
            node: node.node,
            address,
            client_address: config.node.app_address.clone(),
            cores,
            streams: node.streams,
        },
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn nanos(span: Duration) -> Nanos {
    Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}
