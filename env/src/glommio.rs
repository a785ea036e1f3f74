//! The production machine: one pinned glommio executor a core, one helper thread a node.
//!
//! ```text
//! core thread (executor)            helper thread (one a node)
//!   File: direct reads and writes     Dir: open by name, create, rename, remove, sync, list, map
//!   Stream, Listener, timers, tasks   offload: CPU work of the cores
//! ```
//!
//! The simulator cannot see this code, so it decides nothing. Each oddity of glommio 0.9 that is
//! worked round here says so where it is.
//!
//! * I1 address, offset and length of direct I/O are multiples of the file's block.
//! * I3 `now` never goes back on a core.
//! * I5 no write future is dropped unfinished; one that is poisons its handle.
//! * I6 the bytes taken from a core's buffer pool never pass its bound.
//! * I8 the poll ring is not used for files.

mod buffer;
mod dir;
mod disk;
mod env;
mod errno;
mod factory;
mod file;
mod helper;
mod net;
mod probe;
mod resolve;
mod tick;

pub use dir::GlommioDir;
pub use env::{GlommioEnv, GlommioTask};
pub use factory::GlommioFactory;
pub use file::GlommioFile;
pub use net::{GlommioListener, GlommioStream};
