//! Whether calls on one key could have happened one at a time, each between its start and its end
//! (Wing and Gong's search, with Lowe's order: a call is placed when its end is reached, not
//! earlier).
//!
//! ```text
//! configuration   value of the key | calls placed that have not ended | unknown calls placed
//! start of a call it is open
//! end of a call   every configuration: place open calls, in any order, until this one is placed
//! ```
//!
//! After each end the configurations are all that the past left, so a quiet moment needs no
//! special treatment: the search goes on with the values that are possible there. A call whose
//! outcome is unknown stays open for ever and is placed or not. Of two configurations that differ
//! only in the unknown calls placed, the one that placed fewer can do all that the other can: the
//! other is forgotten; and one is placed only if it leads to a value that some open call asks for.
//! That keeps histories with many lost answers short. A call that was certainly refused is not
//! in the history at all; if its value is seen, no order explains it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a key holds; none: it is absent.
pub(crate) type Value = Option<i64>;

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// A write of a value or, of none, a delete.
    Put(Value),
    /// A write of `new` if the key holds `expected`.
    Swap { expected: Value, new: Value },
    /// Adds to the number of the key; an absent one is 0.
    Increment(i64),
    /// A read.
    Get,
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A write took place.
    Done,
    /// Whether a swap took place.
    Swapped(bool),
    /// The value read, or the sum.
    Value(Value),
}

/// One call on the key. Times are places in one order of all starts and ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) what: What,
    /// None: it may have taken effect, or may at any later time, or never.
    pub(crate) answer: Option<Answer>,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// No order of the calls before it explains this call, given by its place in the history.
    Impossible(usize),
    /// The search was given up at this call: the history is too wide to be judged.
    TooWide(usize),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Impossible(call) => write!(f, "nothing explains call {call}"),
            Self::TooWide(call) => write!(f, "too many orders at call {call}"),
        }
    }
}

/// Configurations looked at for one end, at most.
const STEPS_MAX: usize = 4_000_000;
/// Calls open at once, at most: the bits of a set.
const OPEN_MAX: usize = 64;

/// What an order of the past leaves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Left {
    /// Unknown calls placed, in all: first, so that the smallest is looked at first.
    unknown: u32,
    value: Value,
    /// Open calls that are placed, by their bit.
    placed: u64,
    /// Unknown calls placed, by kind.
    used: Vec<u16>,
}

/// Configurations of which none can do all that another can.
#[derive(Default)]
struct Frontier(BTreeMap<(Value, u64), Vec<Vec<u16>>>);

impl Frontier {
    /// False: one that is there can do all that this one can.
    fn insert(&mut self, left: &Left) -> bool {
        let same = self.0.entry((left.value, left.placed)).or_default();
        let fewer = |a: &[u16], b: &[u16]| a.iter().zip(b).all(|(a, b)| a <= b);
        if same.iter().any(|used| fewer(used, &left.used)) {
            return false;
        }
        same.retain(|used| !fewer(&left.used, used));
        same.push(left.used.clone());
        true
    }

    fn into_all(self) -> Vec<Left> {
        let each = |((value, placed), same): (_, Vec<Vec<u16>>)| {
            same.into_iter().map(move |used| {
                let unknown = used.iter().map(|count| u32::from(*count)).sum();
                Left { unknown, value, placed, used }
            })
        };
        self.0.into_iter().flat_map(each).collect()
    }
}

/// Values that open calls ask for, or that lead there by unknown calls: a bound from above.
struct Wanted {
    /// Some unknown call subtracts: every value leads anywhere.
    any: bool,
    values: Vec<Value>,
    /// Values that some call asks not to be there.
    unwanted: Vec<Value>,
    /// What unknown increments add up to at most.
    span: i64,
}

impl Wanted {
    /// Whether an unknown call that makes `to` of `from` may be of use.
    fn has_step(&self, from: Value, to: Value) -> bool {
        from != to && (self.unwanted.contains(&from) || self.has(to))
    }

    fn has(&self, value: Value) -> bool {
        let number = value.unwrap_or(0);
        let leads = |to: &Value| {
            let gap = to.map_or(-1, |to| to.saturating_sub(number));
            *to == value || (0..=self.span).contains(&gap)
        };
        self.any || self.values.iter().any(leads)
    }
}

/// The search at one point of the history.
struct Search<'h> {
    calls: &'h [Call],
    /// By bit: the call that is open.
    open: Vec<Option<usize>>,
    /// Different unknown calls, and how many of each were started.
    kinds: Vec<What>,
    started: Vec<u16>,
    all: Vec<Left>,
}

/// The value after a call, if its answer fits.
fn step(what: What, value: Value, answer: Option<Answer>) -> Option<Value> {
    let (after, says) = match what {
        What::Put(new) => (new, Answer::Done),
        What::Swap { expected, new } => {
            let fits = value == expected;
            (if fits { new } else { value }, Answer::Swapped(fits))
        },
        What::Increment(by) => {
            let sum = value.unwrap_or(0).checked_add(by)?;
            (Some(sum), Answer::Value(Some(sum)))
        },
        What::Get => (value, Answer::Value(value)),
    };
    answer.is_none_or(|answer| answer == says).then_some(after)
}

/// Whether it costs nothing to place a call here: it fits, and would change no value anywhere.
fn is_free(call: &Call, value: Value) -> bool {
    let reads = call.what == What::Get || call.answer == Some(Answer::Swapped(false));
    reads && step(call.what, value, call.answer).is_some()
}

impl Search<'_> {
    fn begin(&mut self, call: usize) {
        let Call { what, answer, .. } = self.calls[call];
        if answer.is_some() {
            let bit = self.open.iter().position(Option::is_none);
            let bit = bit.expect("few calls on one key are open at once");
            self.open[bit] = Some(call);
            for left in &mut self.all {
                if is_free(&self.calls[call], left.value) {
                    left.placed |= 1 << bit;
                }
            }
            return;
        }
        if what == What::Get {
            return;
        }
        let kind = self.kinds.iter().position(|kind| *kind == what).unwrap_or_else(|| {
            self.kinds.push(what);
            self.started.push(0);
            for left in &mut self.all {
                left.used.push(0);
            }
            self.kinds.len() - 1
        });
        self.started[kind] += 1;
    }

    fn end(&mut self, call: usize) -> Result<(), Violation> {
        let Some(bit) = self.open.iter().position(|open| *open == Some(call)) else {
            return Ok(());
        };
        let mut ended = Frontier::default();
        let mut seen = Frontier::default();
        let mut waiting = BTreeSet::new();
        for left in std::mem::take(&mut self.all) {
            if left.placed & 1 << bit != 0 {
                ended.insert(&Left { placed: left.placed & !(1 << bit), ..left });
            } else if seen.insert(&left) {
                waiting.insert(left);
            }
        }
        let wanted = self.wanted();
        let mut steps = 0;
        while let Some(left) = waiting.pop_first() {
            steps += 1;
            if steps > STEPS_MAX {
                return Err(Violation::TooWide(call));
            }
            self.place(&left, &wanted, |next| {
                if next.placed & 1 << bit != 0 {
                    ended.insert(&Left { placed: next.placed & !(1 << bit), ..next });
                } else if seen.insert(&next) {
                    waiting.insert(next);
                }
            });
        }
        self.open[bit] = None;
        self.all = ended.into_all();
        if self.all.is_empty() { Err(Violation::Impossible(call)) } else { Ok(()) }
    }

    /// Open calls that are not placed, by bit.
    fn unplaced(&self, placed: u64) -> impl Iterator<Item = (usize, Call)> + '_ {
        let open = self.open.iter().enumerate().filter(move |(bit, _)| placed & 1 << bit == 0);
        open.filter_map(|(bit, call)| Some((bit, self.calls[(*call)?])))
    }

    /// The open calls that are placed once the key holds `value`.
    fn placed(&self, value: Value, placed: u64) -> u64 {
        let free = self.unplaced(placed).filter(|(_, call)| is_free(call, value));
        free.fold(placed, |placed, (bit, _)| placed | 1 << bit)
    }

    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted { any: false, values: Vec::new(), unwanted: Vec::new(), span: 0 };
        for (_, call) in self.unplaced(0) {
            match (call.what, call.answer) {
                (What::Get, Some(Answer::Value(value))) => wanted.values.push(value),
                (What::Swap { expected, .. }, Some(Answer::Swapped(true))) => {
                    wanted.values.push(expected);
                },
                (What::Swap { expected, .. }, _) => wanted.unwanted.push(expected),
                (What::Increment(by), Some(Answer::Value(Some(sum)))) => {
                    wanted.values.push(Some(sum - by));
                    // An absent key counts as 0.
                    wanted.values.extend((sum == by).then_some(None));
                },
                _ => {},
            }
        }
        for (kind, count) in self.kinds.iter().zip(&self.started) {
            if let What::Increment(by) = kind {
                wanted.any |= *by < 0;
                wanted.span += by * i64::from(*count);
            }
        }
        loop {
            let leads = |what: &What| {
                let What::Swap { expected, new } = what else { return None };
                wanted.has(*new).then_some(*expected)
            };
            let found = self.kinds.iter().filter_map(leads).find(|it| !wanted.values.contains(it));
            let Some(found) = found else { return wanted };
            wanted.values.push(found);
        }
    }

    /// Every configuration that is one call further.
    fn place(&self, left: &Left, wanted: &Wanted, mut next: impl FnMut(Left)) {
        for (bit, call) in self.unplaced(left.placed) {
            if let Some(value) = step(call.what, left.value, call.answer) {
                let placed = self.placed(value, left.placed | 1 << bit);
                next(Left { value, placed, ..left.clone() });
            }
        }
        for (kind, what) in self.kinds.iter().enumerate() {
            let more = left.used[kind] < self.started[kind];
            if let Some(value) = step(*what, left.value, None)
                && more
                && wanted.has_step(left.value, value)
            {
                let mut used = left.used.clone();
                used[kind] += 1;
                let placed = self.placed(value, left.placed);
                next(Left { unknown: left.unknown + 1, value, placed, used });
            }
        }
    }
}

/// Stands for every value that nobody saw or asked for.
const JUNK: Value = Some(i64::MIN / 2);

/// The same history, with one value for all that unknown writes wrote and nobody saw: they are
/// one kind then, however many there are.
fn with_junk(calls: &[Call]) -> Vec<Call> {
    let mut seen = BTreeSet::new();
    let mut span = 0;
    for call in calls {
        match (call.what, call.answer) {
            (What::Swap { expected: Some(number), .. }, _)
            | (What::Get | What::Increment(_), Some(Answer::Value(Some(number)))) => {
                seen.insert(number);
            },
            _ => {},
        }
        if let What::Increment(by) = call.what {
            if by < 0 {
                return calls.to_vec();
            }
            span += by;
        }
    }
    let is_junk = |number: i64| seen.range(number..=number.saturating_add(span)).next().is_none();
    let each = |mut call: Call| {
        if call.answer.is_none()
            && let What::Put(value) | What::Swap { new: value, .. } = &mut call.what
            && value.is_some_and(is_junk)
        {
            *value = JUNK;
        }
        call
    };
    calls.iter().copied().map(each).collect()
}

/// Whether the history of a key that is absent at first is linearizable.
///
/// # Errors
///
/// The first call, by its end, that no order explains.
///
/// # Panics
///
/// If more than 64 calls with a known answer are open at once.
pub(crate) fn check(calls: &[Call]) -> Result<(), Violation> {
    let calls = &with_junk(calls)[..];
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
    for (nth, call) in calls.iter().enumerate() {
        assert!(call.start <= call.end, "a call starts before it ends");
        events.push((call.start, false, nth));
        if call.answer.is_some() {
            events.push((call.end, true, nth));
        }
    }
    events.sort_unstable();
    let all = vec![Left { unknown: 0, value: None, placed: 0, used: Vec::new() }];
    let (kinds, started) = (Vec::new(), Vec::new());
    let mut search = Search { calls, open: vec![None; OPEN_MAX], kinds, started, all };
    for (_, is_end, call) in events {
        if is_end {
            search.end(call)?;
        } else {
            search.begin(call);
        }
    }
    Ok(())
}

/// The calls of a history that overlap or follow closely before `at`, for people.
pub(crate) fn around(calls: &[Call], at: usize) -> String {
    let Some(last) = calls.get(at) else { return String::new() };
    let mut near: Vec<_> = calls.iter().filter(|call| call.start <= last.end).collect();
    near.sort_by_key(|call| (call.answer.is_none(), call.end));
    let known = near.iter().rposition(|call| call.answer.is_some()).map_or(0, |at| at + 1);
    let lines = near[known.saturating_sub(24)..].iter().map(|call| {
        let Call { client, start, end, what, answer } = call;
        let mark = if *start == last.start { " <--" } else { "" };
        format!("  [{start}, {end}] client {client}: {what:?} -> {answer:?}{mark}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use bowline_env::sim::Rng;

    use super::*;

    const UNKNOWN: Option<Answer> = None;

    fn done(start: u64, end: u64, new: i64) -> Call {
        call(start, end, What::Put(Some(new)), Some(Answer::Done))
    }

    fn read(start: u64, end: u64, value: Value) -> Call {
        call(start, end, What::Get, Some(Answer::Value(value)))
    }

    fn sum(start: u64, end: u64, by: i64, sum: i64) -> Call {
        call(start, end, What::Increment(by), Some(Answer::Value(Some(sum))))
    }

    fn swap(start: u64, end: u64, expected: Value, new: Value, done: bool) -> Call {
        call(start, end, What::Swap { expected, new }, Some(Answer::Swapped(done)))
    }

    fn call(start: u64, end: u64, what: What, answer: Option<Answer>) -> Call {
        Call { client: 0, start, end, what, answer }
    }

    #[track_caller]
    fn good(calls: &[Call]) {
        assert_eq!(check(calls), Ok(()));
    }

    #[track_caller]
    fn bad(calls: &[Call]) {
        assert!(matches!(check(calls), Err(Violation::Impossible(_))), "{calls:?}");
    }

    #[test]
    fn a_read_sees_the_last_write_that_ended_or_one_that_overlaps() {
        good(&[read(1, 2, None), done(3, 4, 7), read(5, 6, Some(7))]);
        good(&[done(1, 9, 7), read(2, 3, None), read(4, 5, Some(7)), read(6, 7, Some(7))]);
        bad(&[done(1, 2, 7), read(3, 4, None)]);
        bad(&[done(1, 9, 7), read(2, 3, Some(7)), read(4, 5, None)]);
        bad(&[done(1, 2, 7), done(3, 4, 8), read(5, 6, Some(7))]);
        bad(&[read(1, 2, Some(5))]);
    }

    #[test]
    fn two_readers_agree_on_the_order_of_two_writers() {
        let writers = [done(1, 20, 7), done(2, 20, 8)];
        let seen = |first, then| [read(3, 4, Some(first)), read(5, 6, Some(then))];
        good(&[writers, seen(7, 8)].concat());
        bad(&[&writers[..], &seen(7, 8), &[read(7, 8, Some(7))]].concat());
    }

    #[test]
    fn a_swap_tells_the_truth_about_what_was_there() {
        good(&[done(1, 2, 7), swap(3, 4, Some(7), Some(8), true), read(5, 6, Some(8))]);
        good(&[done(1, 2, 7), swap(3, 4, Some(6), Some(8), false), read(5, 6, Some(7))]);
        bad(&[done(1, 2, 7), swap(3, 4, Some(6), Some(8), true)]);
        bad(&[done(1, 2, 7), swap(3, 4, Some(7), Some(8), false)]);
        bad(&[swap(1, 9, None, Some(1), true), swap(2, 8, None, Some(2), true)]);
        good(&[swap(1, 9, None, Some(1), true), swap(2, 8, None, Some(2), false)]);
    }

    #[test]
    fn each_increment_takes_place_once() {
        good(&[sum(1, 9, 2, 5), sum(2, 8, 3, 3)]);
        bad(&[sum(1, 2, 1, 1), sum(3, 4, 1, 1)]);
        bad(&[sum(1, 2, 1, 1), read(3, 4, Some(2))]);
        bad(&[sum(1, 9, 1, 1), sum(2, 8, 1, 1)]);
        let lost = call(3, 4, What::Increment(1), UNKNOWN);
        good(&[sum(1, 2, 1, 1), lost, read(5, 6, Some(1)), read(7, 8, Some(2))]);
        bad(&[sum(1, 2, 1, 1), lost, read(5, 6, Some(3))]);
    }

    #[test]
    fn a_write_without_an_answer_takes_place_late_or_never_but_once() {
        let lost = call(3, 4, What::Put(Some(8)), UNKNOWN);
        good(&[done(1, 2, 7), lost, read(5, 6, Some(7)), read(7, 8, Some(8))]);
        good(&[done(1, 2, 7), lost, read(5, 6, Some(7))]);
        bad(&[done(1, 2, 7), lost, read(5, 6, Some(8)), read(7, 8, Some(7))]);
        bad(&[done(1, 2, 7), lost, read(5, 6, Some(8)), done(7, 8, 9), read(9, 10, Some(8))]);
        bad(&[done(1, 2, 7), read(3, 3, Some(8)), call(4, 4, What::Put(Some(8)), UNKNOWN)]);
        let gone = call(3, 4, What::Put(None), UNKNOWN);
        good(&[done(1, 2, 7), gone, read(5, 6, Some(7)), read(7, 8, None)]);
        bad(&[done(1, 2, 7), gone, read(5, 6, None), done(7, 8, 9), read(9, 10, None)]);
    }

    #[test]
    fn a_swap_without_an_answer_takes_place_if_its_guard_holds() {
        let lost = call(3, 4, What::Swap { expected: Some(7), new: Some(8) }, UNKNOWN);
        good(&[done(1, 2, 7), lost, read(5, 6, Some(8))]);
        bad(&[done(1, 2, 6), lost, read(5, 6, Some(8))]);
        good(&[done(1, 2, 6), lost, done(5, 6, 7), read(7, 8, Some(8))]);
    }

    #[test]
    fn hundreds_of_lost_answers_are_judged_quickly() {
        let mut calls = Vec::new();
        for nth in 0..300 {
            let at = 10 * nth;
            let value = 1_000_000 * i64::try_from(nth).unwrap();
            calls.push(call(at, at + 1, What::Put(Some(value)), UNKNOWN));
            calls.push(call(at, at + 1, What::Put(None), UNKNOWN));
            calls.push(call(at, at + 1, What::Increment(1), UNKNOWN));
            calls.push(read(at + 2, at + 3, if nth % 3 == 0 { None } else { Some(value) }));
        }
        good(&calls);
        calls.push(read(9_000, 9_001, Some(5_000)));
        bad(&calls);
    }

    /// Tries every order, with and without each unknown call.
    fn by_every_order(calls: &[Call], placed: u32, value: Value) -> bool {
        let rest = |nth: &usize| placed & 1 << nth == 0;
        let known = |nth: &usize| calls[*nth].answer.is_some();
        let left: Vec<usize> = (0..calls.len()).filter(rest).collect();
        if !left.iter().any(known) {
            return true;
        }
        let first_end = left.iter().filter(|nth| known(nth)).map(|nth| calls[*nth].end).min();
        left.iter().any(|nth| {
            let call = calls[*nth];
            let may_be_next = Some(call.start) <= first_end;
            let after = step(call.what, value, call.answer);
            may_be_next && after.is_some_and(|it| by_every_order(calls, placed | 1 << nth, it))
        })
    }

    fn drawn(rng: &Rng) -> Vec<Call> {
        let mut clock: Vec<u64> = vec![0; 3];
        let draw = |_| {
            let client = rng.index(3);
            let start = clock[client] + 1 + rng.below(3);
            let end = start + rng.below(6);
            clock[client] = end;
            let value = |rng: &Rng| [None, Some(1), Some(2), Some(50), Some(60)][rng.index(5)];
            let (what, answer) = match rng.below(4) {
                0 => (What::Put(value(rng)), Answer::Done),
                1 => {
                    let (expected, new) = (value(rng), value(rng));
                    (What::Swap { expected, new }, Answer::Swapped(rng.ratio(1, 2)))
                },
                2 => (What::Increment(1), Answer::Value(Some(1 + i64::from(rng.ratio(1, 2))))),
                _ => (What::Get, Answer::Value(value(rng))),
            };
            Call { client, start, end, what, answer: rng.ratio(3, 4).then_some(answer) }
        };
        (0..3 + rng.below(5)).map(draw).collect()
    }

    #[test]
    fn the_search_agrees_with_trying_every_order() {
        let mut verdicts = [0; 2];
        for seed in 0..4_000 {
            let calls = drawn(&Rng::new(seed));
            let want = by_every_order(&calls, 0, None);
            verdicts[usize::from(want)] += 1;
            assert_eq!(check(&calls).is_ok(), want, "seed {seed}: {calls:?}");
        }
        assert!(verdicts.iter().all(|count| *count > 400), "both occur: {verdicts:?}");
    }
}
