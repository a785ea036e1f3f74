#![no_std]
#![forbid(unsafe_code)]
//! The multi-Raft core: it decides order and does no I/O.
//!
//! One [`RaftCore`] drives every replica at home on a core. It is told what happened (`handle_*`,
//! `propose`, `read`), stages into the log's memory (trait [`Log`]), and hands out what follows in
//! an [`Outbox`]. A sole voter is driven whole: its vote and its entries count once their writes
//! are durable.
//!
//! Imports nothing of ours. No clock, no async, no thread, no chance but its seed.

extern crate alloc;
#[cfg(test)]
extern crate std;

mod admin;
pub mod batch;
mod chain;
mod check;
mod conf;
mod core;
mod digest;
mod durable;
mod error;
mod id;
mod lead;
mod log;
mod message;
mod open;
mod out;
mod pass;
mod pending;
mod read;
pub mod support;
mod time;
mod view;
mod vote;
mod wheel;

pub use crate::core::{CoreConfig, EVENTS_MAX, RaftCore};
pub use admin::Admin;
pub use batch::BatchHeader;
pub use check::{Broken, Rule};
pub use conf::{ConfError, Configuration, MEMBERS_MAX, Member, Part, Phase, VOTERS_MAX};
pub use digest::{Digest, Row};
pub use error::{AdminError, Budget, OpenError, ProposeError, ReadError};
pub use id::{HardState, LogIndex, Lsn, NodeId, ReplicaId, ShardId, Slot, StreamNo, Term};
pub use lead::Proposal;
pub use log::{Log, NOOP_BYTES, NewBatch, Place, Record, Refused};
pub use message::{Ballot, Batch, BatchRange, Hint, Message, Mismatch, VoteReason, What};
pub use open::{Damage, Recovered};
pub use out::{
    Accepted, Apply, Event, Outbox, ReadReady, ReadRejected, Reason, Rejected, Role, RoleChange,
};
pub use read::ReadMode;
pub use time::BootTime;
pub use view::{Counters, ReplicaView};
