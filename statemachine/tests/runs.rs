//! Runs on the simulated disk: what is written is read again, whatever is resident, whatever
//! crashes, and damage is told.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]
#![expect(clippy::panic, reason = "a panic is this test failing")]

#[path = "runs/crash.rs"]
mod crash;
#[path = "runs/damage.rs"]
mod damage;
#[path = "runs/jobs.rs"]
mod jobs;
#[path = "runs/merges.rs"]
mod merges;
#[path = "runs/reads.rs"]
mod reads;
#[path = "runs/support.rs"]
mod support;
#[path = "runs/swarm.rs"]
mod swarm;
