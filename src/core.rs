//! One core of a node: its loop over log, raft, state machines and callers.
//!
//! ```text
//! rings ->| pass: durable, mail, requests, raft.flush_pass, log.submit, apply, answers |
//!         |                                                                            |
//! jobs  <-+--- background tasks: flush, merge, cold reads, reads of the log; they only report ---+
//! ```
//!
//! Everything here is synchronous but the loop itself: a pass takes events in and starts
//! operations; the tasks around it perform them and put what happened into the [`mail::Mail`]. The
//! whole state of a core is one [`Core`] behind a `RefCell` that is never borrowed across an await.
//!
//! * C1 a ticket is completed exactly once.
//! * C2 an entry's ticket is answered after it was applied, and it is applied after raft said
//!   that it is committed.
//! * C3 an index is applied once, in order: `machine.applied() + 1` each time.
//! * C4 the log is compacted up to an index only after the manifest of that index is durable.

pub(crate) mod admit;
pub(crate) mod apply;
pub(crate) mod boot;
pub(crate) mod cut;
pub(crate) mod drain;
pub(crate) mod gate;
pub(crate) mod jobs;
mod join;
pub(crate) mod lanes;
pub(crate) mod leaders;
pub(crate) mod ledger;
pub(crate) mod local;
pub(crate) mod logs;
pub(crate) mod mail;
pub(crate) mod members;
pub(crate) mod pass;
pub(crate) mod peers;
pub(crate) mod queue;
pub(crate) mod read;
mod repair;
pub(crate) mod replica;
pub(crate) mod run;
pub(crate) mod transfer;

pub use local::LocalShard;
