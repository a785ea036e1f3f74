//! What scripts are run with: nodes whose disks and lanes move only when told.

#![expect(unreachable_pub, reason = "the toolbox of several test files")]

pub mod blocks;
pub mod commands;
pub mod disk;
mod forge;
pub mod node;
mod show;
mod words;
pub mod world;
