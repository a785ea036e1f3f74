//! An embedded, replicated, sharded and durable store for Linux applications.
//!
//! An application starts an [`EmbeddedEngine`] and writes through an [`EmbeddedClient`] from any
//! thread, or on a core through [`Shard::run_local`]. Keys are spread over shards; every shard
//! lives on one pinned core, and a write is answered once it is synced and applied.
//!
//! * Every method that does something returns an [`Op`]: a future for any runtime, or
//!   [`Op::wait`] for a plain thread.
//! * Every failure is an [`Error`] with a code, a cause and a fix; [`Error::maybe_applied`] says
//!   whether a write could still take effect.
//! * An application's own [`StateMachine`] takes the place of the key-value one with
//!   [`EmbeddedEngine::start_custom`].

mod admin;
mod arena;
mod board;
mod boot;
mod client;
pub mod config;
mod core;
mod engine;
mod error;
mod members;
mod metrics;
mod node;
mod node_file;
pub mod offline;
mod op;
mod preflight;
pub mod probe;
mod request;
mod ring;
mod route;
mod shard;
mod started;
mod ticket;

pub use admin::{Admin, ChangeReport};
pub use board::LeaderInfo;
pub use bowline_raft::{LogIndex, NodeId, ShardId, Term};
pub use bowline_statemachine::kv::Item;
pub use bowline_statemachine::{Apply, Measured, ReadCtx, SmError, StateMachine};
pub use bowline_wal::{OpenLog, WalLogs};
#[doc(hidden)]
pub use client::Caller;
pub use client::{
    ClientApi, EmbeddedClient, ReadBack, ScanOptions, ScanPage, TypedClient, WriteBatch,
};
pub use config::Config;
pub use core::LocalShard;
pub use engine::{Builder, DefaultEnv, EmbeddedEngine, Status};
pub use error::{
    Budget, Code, ConfigError, ConfigFault, Error, ErrorRow, ErrorTable, Failure, Finding, Help,
    LeaderHint, NotReady, Origin, RequestError, Severity, ShardFailure, Unready,
};
pub use members::change::Outcome;
pub use members::{Member, Membership};
pub use metrics::{
    CoreMetrics, Kind as MetricKind, Latency, Metrics, PeerFault, Sample, ShardMetrics,
};
pub use op::Op;
pub use preflight::{Report, preflight};
pub use request::Consistency;
/// What a [`StateMachine`] derives for its commands, queries and answers.
#[doc(no_inline)]
pub use rkyv;
pub use shard::Shard;
