#![no_std]
#![forbid(unsafe_code)]
//! The multi-Raft core: it decides order and does no I/O.
//!
//! Imports nothing of ours. No clock, no async, no thread, no chance but its seed.

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod batch;
mod id;

pub use batch::BatchHeader;
pub use id::{HardState, LogIndex, Lsn, NodeId, ReplicaId, ShardId, Slot, StreamNo, Term};
