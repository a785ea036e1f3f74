//! The simulated machine: many nodes and cores in one thread, virtual time, one seed.
//!
//! ```text
//! World --node(1)--> SimFactory --spawn_core--> SimEnv --> SimDir, SimFile, SimStream
//!   |                                            (ends with its node's life)
//!   +-- crash, disk(1), clock(1), spawn_client, run_until, trace_hash
//! ```
//!
//! Time moves only through what tasks cost and through events. Which ready task runs, how long
//! everything takes and what goes wrong is drawn from named streams of the seed; the same seed
//! and profile give the same run, and switching a class of faults off shifts nothing else.
//!
//! A world and its handles live on one thread. A write future that is dropped in flight, and a
//! panic of a task, end the step that met them.

#![forbid(unsafe_code)]

mod clock;
mod device;
mod disk;
mod env;
mod files;
mod inner;
mod link;
mod net;
mod node;
mod profile;
mod rng;
mod sched;
mod slab;
mod stream;
mod task;
mod time;
mod trace;
mod world;

pub use device::{SimDisk, WriteFault};
pub use disk::Keep;
pub use env::SimEnv;
pub use files::{SimDir, SimFile};
pub use link::SimLink;
pub use node::SimFactory;
pub use profile::{Fault, FaultSet, Profile};
pub use rng::Rng;
pub use stream::{SimListener, SimStream};
pub use task::SimTask;
pub use trace::Noted;
pub use world::{Crash, SimClock, Stalled, Why, World};

/// A count of bytes or places as an index.
fn usize_of(count: u64) -> usize {
    usize::try_from(count).expect("the simulator runs on 64-bit machines")
}

/// An index as a count.
fn u64_of(index: usize) -> u64 {
    u64::try_from(index).expect("an index is at most 64 bits")
}
