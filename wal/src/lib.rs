//! The append-only log of a core: one write and one sync per turn cover every shard.

mod error;
mod geometry;
mod log;
mod options;

pub use error::{Foreign, LogError, OpenError, ReadError, StageError};
pub use geometry::{Geometry, GeometryError};
pub use log::*;
pub use options::{SyncChoice, WalOptions};
