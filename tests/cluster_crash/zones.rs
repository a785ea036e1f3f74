//! Whether reads and writes of one key could have happened one at a time, each between its start
//! and its end (Gibbons and Korach, for values that are written once). O(n log n).
//!
//! ```text
//! per value:  f = earliest end, s = latest start, over its write and its reads
//!             f < s: the key held it from f to s: a forward zone    else: a backward zone [s, f]
//! not linearizable iff  a read of it ended before its write began
//!                   or  two forward zones overlap
//!                   or  a backward zone lies inside a forward one
//! ```

use core::fmt;
use std::collections::BTreeMap;

/// A moment; 0 is before everything.
pub(crate) type Moment = u64;

/// One call on the key. None is what it holds before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A write that is done, or, without an end, may be done at any time after its start.
    Write { value: u64, start: Moment, end: Option<Moment> },
    /// A read that was answered.
    Read { value: Option<u64>, start: Moment, end: Moment },
}

/// The time of one value.
#[derive(Clone, Copy)]
struct Zone {
    value: Option<u64>,
    earliest_end: Moment,
    latest_start: Moment,
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, earliest_end, latest_start } = self;
        write!(f, "{value:?} (earliest end {earliest_end}, latest start {latest_start})")
    }
}

/// What is wrong with the history of a key.
///
/// # Errors
///
/// The first thing that is.
pub(crate) fn check(calls: &[Call]) -> Result<(), String> {
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for zone in zones(calls)? {
        if zone.earliest_end < zone.latest_start {
            forward.push(zone);
        } else {
            backward.push(zone);
        }
    }
    forward.sort_by_key(|zone| zone.earliest_end);
    for pair in forward.windows(2) {
        if pair[1].earliest_end < pair[0].latest_start {
            return Err(format!("{} and {} were held at once", pair[0], pair[1]));
        }
    }
    for inner in backward {
        // Forward zones are apart, so only the last that begins before it can hold it.
        let after = forward.partition_point(|zone| zone.earliest_end < inner.latest_start);
        let outer = after.checked_sub(1).map(|place| forward[place]);
        if let Some(outer) = outer.filter(|outer| inner.earliest_end < outer.latest_start) {
            return Err(format!("{inner} was there while {outer} was held"));
        }
    }
    Ok(())
}

fn zones(calls: &[Call]) -> Result<Vec<Zone>, String> {
    let mut writes = BTreeMap::from([(None, (0, Some(0)))]);
    for call in calls {
        if let Call::Write { value, start, end } = *call {
            let twice = writes.insert(Some(value), (start, end)).is_some();
            assert!(!twice, "each value is written once");
        }
    }
    let mut zones: BTreeMap<Option<u64>, Zone> = BTreeMap::new();
    for (value, (start, end)) in &writes {
        // One that is done was there at its end; another one may never have been.
        if let Some(end) = end {
            let zone = Zone { value: *value, earliest_end: *end, latest_start: *start };
            zones.insert(*value, zone);
        }
    }
    for call in calls {
        let Call::Read { value, start, end } = *call else { continue };
        let Some((written, _)) = writes.get(&value) else {
            return Err(format!("{value:?} was read and never written, or certainly not done"));
        };
        if end < *written {
            return Err(format!("{value:?} was read before it was written"));
        }
        let unseen = Zone { value, earliest_end: Moment::MAX, latest_start: *written };
        let zone = zones.entry(value).or_insert(unseen);
        zone.earliest_end = zone.earliest_end.min(end);
        zone.latest_start = zone.latest_start.max(start);
    }
    Ok(zones.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, start: Moment, end: Moment) -> Call {
        Call::Write { value, start, end: Some(end) }
    }

    fn lost(value: u64, start: Moment) -> Call {
        Call::Write { value, start, end: None }
    }

    fn read(value: u64, start: Moment, end: Moment) -> Call {
        let value = (value > 0).then_some(value);
        Call::Read { value, start, end }
    }

    #[track_caller]
    fn good(calls: &[Call]) {
        assert_eq!(check(calls), Ok(()), "{calls:?}");
    }

    #[track_caller]
    fn bad(calls: &[Call]) {
        assert!(check(calls).is_err(), "{calls:?}");
    }

    #[test]
    fn a_read_sees_the_last_write_that_ended_or_one_that_overlaps() {
        good(&[read(0, 1, 2), write(1, 3, 4), read(1, 5, 6)]);
        good(&[write(1, 1, 4), read(0, 2, 3)]);
        good(&[write(1, 1, 4), read(1, 2, 3)]);
        good(&[write(1, 1, 10), write(2, 2, 9), read(1, 3, 4), read(2, 5, 6)]);
        bad(&[write(1, 1, 2), read(0, 3, 4)]);
        bad(&[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]);
        bad(&[read(1, 1, 2), write(1, 3, 4)]);
        bad(&[read(7, 1, 2)]);
    }

    #[test]
    fn what_was_seen_is_not_unseen() {
        bad(&[write(1, 1, 2), write(2, 3, 9), read(2, 4, 5), read(1, 6, 7)]);
        bad(&[write(1, 1, 2), lost(2, 3), read(2, 4, 5), read(1, 6, 7)]);
        bad(&[lost(1, 1), read(1, 2, 3), read(0, 4, 5)]);
    }

    #[test]
    fn a_write_without_an_answer_is_done_late_or_never() {
        good(&[lost(1, 1), read(0, 2, 3), read(1, 4, 5)]);
        good(&[lost(1, 1), write(2, 2, 3), read(2, 4, 5)]);
        good(&[lost(1, 1), write(2, 2, 3), read(2, 4, 5), read(1, 6, 7)]);
        bad(&[lost(1, 1), write(2, 2, 3), read(1, 6, 7), read(2, 8, 9)]);
    }

    /// Whether some order of the calls explains the reads, by trying all of them.
    fn by_every_order(rest: &[Call], done: u32, value: Option<u64>) -> bool {
        let open = |nth: &usize| done & 1 << nth == 0;
        let end = |call: &Call| match call {
            Call::Write { end, .. } => end.unwrap_or(Moment::MAX),
            Call::Read { end, .. } => *end,
        };
        let first_end = (0..rest.len()).filter(open).map(|nth| end(&rest[nth])).min();
        let Some(first_end) = first_end.filter(|end| *end < Moment::MAX) else { return true };
        (0..rest.len()).filter(open).any(|nth| match rest[nth] {
            Call::Write { start, .. } | Call::Read { start, .. } if start > first_end => false,
            Call::Write { value, .. } => by_every_order(rest, done | 1 << nth, Some(value)),
            Call::Read { value: seen, .. } => {
                seen == value && by_every_order(rest, done | 1 << nth, value)
            },
        })
    }

    #[test]
    fn zones_agree_with_trying_every_order() {
        let mut seed = 9_u64;
        let mut draw = |bound: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % bound
        };
        let mut refused = 0;
        for _ in 0..5_000 {
            let mut calls = Vec::new();
            for value in 1..=draw(3) + 1 {
                let start = draw(12) + 1;
                let end = (draw(4) > 0).then(|| start + draw(5) + 1);
                calls.push(Call::Write { value, start: 2 * start, end: end.map(|at| 2 * at + 1) });
            }
            let written = u64::try_from(calls.len()).unwrap();
            for _ in 0..=draw(4) {
                let start = draw(14) + 1;
                calls.push(read(draw(written + 1), 2 * start, 2 * (start + draw(4) + 1) + 1));
            }
            let want = by_every_order(&calls, 0, None);
            refused += u32::from(!want);
            assert_eq!(check(&calls).is_ok(), want, "{calls:?}");
        }
        assert!((500..4_500).contains(&refused), "both answers are tried: {refused}");
    }
}
