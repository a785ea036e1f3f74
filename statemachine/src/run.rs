//! The run file: its bytes, how they are written, and how they are read.
//!
//! ```text
//! file:    header 4096 | section | section | ... | section table (64 B each) | tail 4096
//! section: data and value extents, in the order they were opened
//!          | index | expiry | ranges | filter | chunk crcs | trailer 4096
//! ```
//!
//! A section has an id of its own and only offsets relative to itself, so that it stays the same
//! section in another file. Everything starts at multiples of 4096; integers are little-endian.
//! Nothing is changed once a run has its final name.

pub(crate) mod extent;
pub(crate) mod file;
pub(crate) mod format;
#[cfg(test)]
mod golden;
pub(crate) mod index;
pub(crate) mod page;
pub(crate) mod reader;
pub(crate) mod writer;

use bowline_env::Name;

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

impl RangeTombstone {
    /// Whether `key` lies in it.
    #[must_use]
    pub fn covers(&self, key: &[u8]) -> bool {
        *self.start <= *key && (self.end.is_empty() || *key < *self.end)
    }
}

/// Index of the range that covers `key`, among disjoint ranges in order; 0: none.
pub(crate) fn tombstone_index(ranges: &[RangeTombstone], key: &[u8]) -> u64 {
    let after = ranges.partition_point(|range| *range.start <= *key);
    after.checked_sub(1).map_or(0, |at| if ranges[at].covers(key) { ranges[at].index } else { 0 })
}

/// Whether ranges run forward, are disjoint and in order.
pub(crate) fn ranges_are_sound(ranges: &[RangeTombstone]) -> bool {
    ranges.iter().all(|range| range.end.is_empty() || range.start < range.end)
        && ranges.windows(2).all(|pair| !pair[0].end.is_empty() && pair[0].end <= pair[1].start)
}

/// The directory of runs.
pub(crate) fn runs_dir() -> Name {
    Name::of("runs")
}

/// A run's final name.
pub(crate) fn run_name(run: u128) -> Name {
    Name::of(&format!("runs/run-{run:032x}.run"))
}

/// A run's name while it is written.
pub(crate) fn temporary_name(run: u128) -> Name {
    Name::of(&format!("runs/run-{run:032x}.tmp"))
}

/// The run that a file of the directory is; none: it is no finished run.
pub(crate) fn run_of(file: &str) -> Option<u128> {
    let digits = file.strip_prefix("run-")?.strip_suffix(".run")?;
    let is_ours =
        digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_ours { u128::from_str_radix(digits, 16).ok() } else { None }
}

/// Whether a file of the directory is a run that was never finished.
pub(crate) fn is_temporary(file: &str) -> bool {
    file.strip_prefix("run-").is_some_and(|rest| rest.strip_suffix(".tmp").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_again_by_its_name() {
        let run = 0x00ff_0000_0000_0000_0000_0000_0000_1234_u128;
        assert_eq!(run_of(run_name(run).file()), Some(run));
        assert_eq!(run_of(temporary_name(run).file()), None);
        assert!(is_temporary(temporary_name(run).file()));
        assert!(!is_temporary(run_name(run).file()));
        for bad in ["run-.run", "run-00FF00000000000000000000000012340.run", "x", "run-+0.run"] {
            assert_eq!(run_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_is_covered_from_the_start_up_to_the_end() {
        let range = |start: &str, end: &str, index| RangeTombstone {
            start: start.into(),
            end: end.into(),
            index,
        };
        let ranges = [range("b", "d", 4), range("d", "e", 9), range("x", "", 5)];
        assert!(ranges_are_sound(&ranges));
        for (key, want) in [("a", 0), ("b", 4), ("czz", 4), ("d", 9), ("e", 0), ("x", 5), ("zz", 5)]
        {
            assert_eq!(tombstone_index(&ranges, key.as_bytes()), want, "{key}");
        }
        assert!(!ranges_are_sound(&[range("x", "", 5), range("y", "z", 1)]));
        assert!(!ranges_are_sound(&[range("b", "b", 5)]));
    }
}
