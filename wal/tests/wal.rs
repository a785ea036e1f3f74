//! The log on a simulated machine: crashes, faults, rot, and what is found again.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::excessive_nesting,
    reason = "a test fails by panicking, and tells its story in one piece"
)]

#[path = "wal/basics.rs"]
mod basics;
#[path = "wal/conform.rs"]
mod conform;
#[path = "wal/crash.rs"]
mod crash;
#[path = "wal/faults.rs"]
mod faults;
#[path = "wal/forward.rs"]
mod forward;
#[path = "wal/garbage.rs"]
mod garbage;
#[path = "wal/image.rs"]
mod image;
#[path = "wal/kit.rs"]
mod kit;
#[path = "wal/model.rs"]
mod model;
#[path = "wal/rot.rs"]
mod rot;
#[path = "wal/stories.rs"]
mod stories;
