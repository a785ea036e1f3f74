//! The key-value machine: keys and values are bytes, every write is one entry.

mod apply;
pub mod command;
pub mod encode;
mod frozen;
mod machine;
mod parse;
mod scan;
mod token;

use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;

use crate::delta::Delta;
use crate::shell::Shell;

/// A value and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// Index of the entry that wrote it: its version for Cas.
    pub rev: u64,
    /// Log time at which it expires, in milliseconds; 0: never.
    pub expires_ms: u64,
}

/// A range of keys, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// Every key.
    All,
    /// Keys that begin with these bytes.
    Prefix(Bytes),
    /// `start <= key < end`.
    Between {
        /// First key.
        start: Bytes,
        /// First key after the range; empty: to the end.
        end: Bytes,
    },
}

/// Most items of a page.
pub const SCAN_ITEMS_MAX: u32 = 1_000;
/// Bytes of keys and values after which a page ends.
pub const SCAN_BYTES_MAX: usize = 1 << 20;

/// A question for one page of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanQuery {
    /// Which keys.
    pub range: KeyRange,
    /// From the last key to the first.
    pub reverse: bool,
    /// Keys alone; the items' values are empty.
    pub keys_only: bool,
    /// Only count; the page has no items. [`SCAN_ITEMS_MAX`] bounds it too.
    pub count_only: bool,
    /// Most items; 0 or more than [`SCAN_ITEMS_MAX`]: that many.
    pub limit: u32,
    /// Goes on after the page that gave this token.
    pub token: Option<Bytes>,
}

impl Default for ScanQuery {
    /// The first page of everything.
    fn default() -> Self {
        Self {
            range: KeyRange::All,
            reverse: false,
            keys_only: false,
            count_only: false,
            limit: 0,
            token: None,
        }
    }
}

/// One page of a range: one state at one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and items, in the order asked for.
    pub items: Vec<(Bytes, Item)>,
    /// Keys found: `items.len()`, or their count alone.
    pub count: u64,
    /// Index of the state that was read.
    pub rev: u64,
    /// For the next page; none: this was the last.
    pub next: Option<Bytes>,
}

/// The key-value state of one shard.
pub struct Kv<E: Env> {
    shell: Shell<E, Rc<Delta>>,
    delta: Delta,
}

impl<E: Env> core::fmt::Debug for Kv<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Kv")
            .field("shard", &self.shell.shard())
            .field("applied", &self.shell.applied())
            .field("flushed", &self.shell.flushed())
            .field("keys", &self.delta.len())
            .finish_non_exhaustive()
    }
}
