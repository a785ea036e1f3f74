//! Several nodes that are one store, in the simulator: real cores, logs, state machines and lanes.
//! Each test is a scenario with a name; random schedules are in `simulation.rs`.
//! `BOWLINE_TRACE=info` tells what the nodes say.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is this test failing")]
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "what nodes say is for people")]
#![expect(clippy::needless_collect, reason = "all are begun before one is waited for")]

#[path = "cluster/changes.rs"]
mod changes;
#[path = "cluster/disks.rs"]
mod disks;
#[path = "cluster/halts.rs"]
mod halts;
#[path = "cluster/identity.rs"]
mod identity;
#[path = "cluster/kit.rs"]
mod kit;
#[path = "cluster/leaders.rs"]
mod leaders;
#[path = "cluster/liveness.rs"]
mod liveness;
#[path = "cluster/lives.rs"]
mod lives;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/members.rs"]
mod members;
#[path = "kit/node.rs"]
mod node;
#[path = "cluster/overload.rs"]
mod overload;
#[path = "cluster/partitions.rs"]
mod partitions;
#[path = "cluster/reads.rs"]
mod reads;
#[path = "cluster/repair.rs"]
mod repair;
#[path = "cluster/replication.rs"]
mod replication;
#[path = "cluster/snapshots.rs"]
mod snapshots;
#[path = "cluster/strangers.rs"]
mod strangers;
#[path = "kit/trace.rs"]
mod trace;
#[path = "cluster/upgrades.rs"]
mod upgrades;
