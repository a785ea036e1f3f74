//! The engine as an application embeds it: on a real directory from plain threads, and in the
//! simulator where no I/O is real.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "embedding/disk.rs"]
mod disk;
#[path = "embedding/sim.rs"]
mod sim;
#[path = "embedding/warnings.rs"]
mod warnings;
