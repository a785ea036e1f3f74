//! Several nodes that are one store, in the simulator: real cores, logs, state machines and lanes.
//! Each test is a scenario with a name; random schedules are in `simulation.rs`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is this test failing")]

#[path = "cluster/identity.rs"]
mod identity;
#[path = "cluster/kit.rs"]
mod kit;
#[path = "cluster/leaders.rs"]
mod leaders;
#[path = "cluster/repair.rs"]
mod repair;
#[path = "cluster/replication.rs"]
mod replication;
#[path = "cluster/snapshots.rs"]
mod snapshots;
