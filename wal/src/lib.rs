//! The append-only log of a core: one write and one sync per turn cover every shard.

mod base;
mod cache;
mod checkpoint;
pub mod conformance;
mod error;
mod field;
mod forward;
mod frame;
mod gc;
mod geometry;
#[cfg(test)]
mod golden;
mod head;
mod index;
mod log;
mod memory;
mod open;
mod options;
mod probe;
mod read;
mod reader;
mod recover;
mod replay;
mod scan;
mod seal;
mod shard;
mod shared;
mod slots;
mod staging;
mod stream;
mod tasks;
mod wake;
mod wal;
mod walk;

pub use error::{Foreign, LogError, OpenError, ReadError, StageError};
pub use geometry::{Geometry, GeometryError};
pub use log::*;
pub use memory::{MemoryLog, MemoryLogs};
pub use options::{SyncChoice, WalOptions};
pub use reader::{Finding, FrameView, RecordView, SlotView, Source, Stat, Verified, WalReader};
pub use wal::{Wal, WalCounters, WalLogs};
pub use walk::{BadFrame, Evidence, Verdict};
