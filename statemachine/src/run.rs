//! The run file: its bytes, how they are written, and how they are read.

/// Which way a cursor walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Reverse,
}

/// A deleted range: every key from `start` up to, not including, `end` has no version older than
/// `index`.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RangeTombstone {
    /// First key.
    pub start: Vec<u8>,
    /// End, not included; empty: no end.
    pub end: Vec<u8>,
    /// Index of the entry that deleted it.
    pub index: u64,
}
