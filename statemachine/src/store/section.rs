//! An open section: what of it is in memory, and how a key is found in it.

use core::marker::PhantomData;
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;

use super::{PageRead, Pins};
use crate::Damage;
use crate::run::{Direction, RangeTombstone};

/// A key's version in a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunVer {
    /// Index of the entry that wrote it.
    pub mod_index: u64,
    /// When it expires, in log time; 0: never.
    pub expiry_ms: u64,
    /// The value; none: deleted.
    pub value: Option<Bytes>,
}

/// What a section has of one key.
#[derive(Debug)]
pub enum Point {
    /// This version.
    Hit(RunVer),
    /// Nothing.
    Miss,
    /// A part that must be loaded first.
    Cold(PageRead),
    /// The part that would tell is damaged.
    Damaged(Damage),
}

/// What a cursor found at its next step.
#[derive(Debug)]
pub enum Step {
    /// It stands on an entry.
    Ready,
    /// A page must be loaded first; the cursor did not move.
    Cold(PageRead),
    /// The next page is damaged; the cursor did not move.
    Damaged(Damage),
    /// No entry is left.
    End,
}

/// The value of the entry that a cursor stands on.
#[derive(Debug)]
pub enum Fetched {
    /// The value; none: deleted.
    Ready(Option<Bytes>),
    /// The value must be loaded first.
    Cold(PageRead),
    /// The value is damaged.
    Damaged(Damage),
}

/// An open section of a run.
pub struct Section<E: Env> {
    marker: PhantomData<E>,
}

impl<E: Env> Section<E> {
    /// The version of `key` that it holds, if any.
    pub fn point(&self, _key: &[u8], _pins: &Pins) -> Point {
        unimplemented!()
    }

    /// Whether it holds a version of `key`, without its value.
    pub fn head(&self, _key: &[u8], _pins: &Pins) -> Point {
        unimplemented!()
    }

    /// Index of the deleted range that covers `key`; 0: none.
    pub fn tombstone_index(&self, _key: &[u8]) -> u64 {
        unimplemented!()
    }

    /// Its deleted ranges, disjoint and in order.
    pub fn ranges(&self) -> &[RangeTombstone] {
        unimplemented!()
    }

    /// First log index whose effect it may hold.
    pub fn min_index(&self) -> u64 {
        unimplemented!()
    }

    /// Last log index whose effect it holds.
    pub fn max_index(&self) -> u64 {
        unimplemented!()
    }

    /// Its id.
    pub fn id(&self) -> u128 {
        unimplemented!()
    }

    /// A cursor before the first entry at or after `from` (forward), or after the last entry
    /// before `from` (reverse; none: the end).
    pub fn cursor(self: &Rc<Self>, _from: Option<&[u8]>, _direction: Direction) -> Cursor<E> {
        unimplemented!()
    }
}

/// Walks a section's entries in key order.
pub struct Cursor<E: Env> {
    marker: PhantomData<E>,
}

impl<E: Env> Cursor<E> {
    /// Goes to the next entry in the cursor's direction.
    pub fn step(&mut self, _pins: &Pins) -> Step {
        unimplemented!()
    }

    /// The entry's key; empty before the first step.
    pub fn key(&self) -> &[u8] {
        unimplemented!()
    }

    /// Index of the entry that wrote it.
    pub fn mod_index(&self) -> u64 {
        unimplemented!()
    }

    /// When it expires, in log time; 0: never.
    pub fn expiry_ms(&self) -> u64 {
        unimplemented!()
    }

    /// Whether it is a deletion.
    pub fn is_deleted(&self) -> bool {
        unimplemented!()
    }

    /// Its value.
    pub fn value(&self, _pins: &Pins) -> Fetched {
        unimplemented!()
    }
}
