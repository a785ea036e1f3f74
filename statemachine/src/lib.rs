//! What a shard's log means: committed entries become state, kept in a memory delta over immutable
//! runs.
//!
//! Apply never syncs: the log is the redo log. A run holds exactly the state at one index, and
//! nothing in apply may differ between replicas. This crate writes no log record and reads no
//! clock; indexes, terms and shards are plain `u64`.

mod align;
mod delta;
pub mod envelope;
mod error;
mod flush;
pub mod hosted;
mod job;
pub mod kv;
mod machine;
pub mod manifest;
pub mod merge;
pub mod run;
mod shell;
pub mod store;
pub mod testing;
pub mod transfer;
mod version;

pub use error::{
    Area, BATCH_GUARDS_MAX, BATCH_OPS_MAX, BadCommand, Damage, EXPIRE_KEYS_MAX, KEY_BYTES_MAX,
    Limits, MULTI_GET_KEYS_MAX, Measured, OpenFailure, SmError, TTL_MS_MAX,
};
pub use hosted::Hosted;
pub use kv::Kv;
pub use machine::{
    Answer, Apply, AsOf, CustomSerializer, CustomValidator, EntryRef, Machine, OpAnswer, OpFault,
    Output, Pressure, Query, Read, ReadCtx, Staged, StateMachine, Touched,
};
pub use shell::name_hash;
