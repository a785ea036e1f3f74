//! `bowline bench`: measurements whose figures are ratios to the disk's own, in the same run.

pub(crate) mod disk;
mod json;
pub(crate) mod kv;
mod load;
mod nodes;
mod park;
mod report;
mod used;
mod window;
mod work;

use core::time::Duration;

/// For figures that people read.
pub(crate) fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

/// A count as a figure that people read.
#[expect(clippy::cast_precision_loss, reason = "a figure for people, below 2^53")]
pub(crate) const fn float(count: u64) -> f64 {
    count as f64
}
