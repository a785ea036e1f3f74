//! Logs read from their files, without an engine: no lock, no write, also beside a running node.
//!
//! [`WalReader`] runs the same scan and replay as a start. It reads through a [`Source`], which is
//! whatever can list and read the files of one stream's directory.

pub use bowline_raft::{LogIndex, Lsn, ShardId, Term};
pub use bowline_wal::{
    BadFrame, DamageState, Evidence, Finding, FrameView, Geometry, OpenError, RecordView,
    RecoveryReport, SlotView, Source, Stat, StreamId, Verdict, Verified, WalReader,
};

/// Why a [`Source`] could not read.
pub use bowline_env::Kind as SourceError;
