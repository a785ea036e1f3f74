//! An embedded, replicated, sharded and durable store for Linux applications.

mod error;

pub use bowline_raft::{NodeId, ShardId, Term};
pub use error::{
    Budget, Code, ConfigError, Error, ErrorRow, ErrorTable, Failure, Finding, Help, LeaderHint,
    Measured, NotReady, Origin, RequestError, Severity, ShardFailure, Unready,
};
