//! Everything the engine asks of the machine: files, mappings, sockets, clocks, chance, tasks.
//!
//! Two implementations of one trait, [`Env`]: `glommio` (one pinned executor a core, one
//! io_uring set) and `sim` (many nodes and cores in one thread, virtual time, faults, one seed).
//! The log, the state machine, the transport and the core loop are written once, over `E: Env`.
//!
//! The rule: what can block, fail, be reordered, be lost or differ between two runs is a call
//! here. Everything else is plain code. This crate imports nothing of ours and decides nothing
//! about order.

mod bell;
mod buffer;
mod error;
mod facts;
mod name;
mod traits;
mod values;

#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "glommio")]
pub mod glommio;
#[cfg(feature = "sim")]
pub mod sim;

pub use bell::{Bell, Park};
pub use buffer::{BLOCK, Buf, Memory, SharedBuf, Shelf};
pub use error::{EnvError, Kind, Op};
pub use facts::{ClaimError, DirFacts, Facts, FileSystem, UringState};
pub use name::{Name, NameError};
pub use traits::{Dir, Env, EnvFactory, File, Listener, Stream};
pub use values::{
    Claim, Class, CoreFailure, CoreNo, CoreOptions, CoreThread, Fact, Millis, Mode, Moved, Nanos,
};
