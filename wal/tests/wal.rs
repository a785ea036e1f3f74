//! The log on a simulated machine: crashes, faults, rot, and what is found again.

#[path = "wal/basics.rs"]
mod basics;
#[path = "wal/conform.rs"]
mod conform;
#[path = "wal/crash.rs"]
mod crash;
#[path = "wal/kit.rs"]
mod kit;
#[path = "wal/model.rs"]
mod model;
