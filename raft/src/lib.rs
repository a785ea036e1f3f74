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
mod alarm;
pub mod batch;
mod beat;
mod chain;
mod check;
mod commit;
mod conf;
mod config;
mod core;
mod damage;
mod digest;
mod durable;
mod error;
mod feed;
mod follow;
mod id;
mod lane;
mod lead;
mod log;
mod member;
mod message;
mod open;
mod out;
mod pass;
mod progress;
pub mod promise;
mod read;
mod replica;
mod send;
mod snapshot;
mod step;
mod support;
mod time;
mod timer;
mod transfer;
mod view;
mod vote;
mod wheel;

pub use crate::core::{EVENTS_MAX, RaftCore};
pub use admin::Admin;
pub use batch::BatchHeader;
pub use check::{Broken, Rule};
pub use conf::{
    ConfError, Configuration, MEMBERS_MAX, Member, NOTE_LEN_MAX, Part, Phase, VOTERS_MAX,
};
pub use config::{CoreConfig, Liveness, Times};
pub use digest::{Digest, Row};
pub use error::{AdminError, Budget, OpenError, ProposeError, ReadError};
pub use id::{HardState, LogIndex, Lsn, NodeId, ReplicaId, ShardId, Slot, StreamNo, Term};
pub use lane::{Beat, LaneEvent, LaneNo, LaneSend, LaneWhat, Origin};
pub use lead::Proposal;
pub use log::{Log, NOOP_BYTES, NewBatch, Place, Record, Refused};
pub use member::Step;
pub use message::{
    Ballot, Batch, BatchRange, Hint, Message, Mismatch, Received, Verdict, VoteReason, What, Why,
};
pub use open::{Damage, Recovered};
pub use out::{
    Accepted, Apply, Entries, Event, Fetch, Fetched, Outbox, ReadReady, ReadRejected, Reason,
    Rejected, Role, RoleChange, Send, SnapWant,
};
pub use read::ReadMode;
pub use snapshot::SnapshotEvent;
pub use time::BootTime;
pub use view::{Counters, ProgressView, ReplicaView};
