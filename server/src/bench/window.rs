//! C clients as one future: each has one call outstanding, all are polled on one thread or core.
//!
//! ```text
//!   slot 0   call ----- waker 0 --+
//!   slot 1   call ----- waker 1 --+--> bit in a word --> the one waker of the window
//!   slot 2   idle                 |
//! ```
//!
//! A client's waker sets its bit and wakes the window; the window polls the calls whose bits are
//! set. Nothing is allocated per call, so 512 clients cost no more than one call each.
//!
//! Closed loop: a client submits again as soon as its answer is seen. Open loop: calls are due at
//! fixed times whatever the answers do, and each is measured from when it was due, so a stall is
//! seen by every call that it delayed.

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::task::Wake;
use std::time::Instant;

use atomic_waker::AtomicWaker;
use bowline::Code;
use hdrhistogram::Histogram;

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered as it should be.
    Done,
    /// Turned away, nothing done: the client makes its call again after this time, and measures
    /// from the first attempt.
    Again(Duration),
    /// Failed, or answered with something else.
    Failed(Option<Code>),
}

/// What the clients call.
pub(crate) trait Target {
    /// One call.
    type Call: Future<Output = Outcome> + Unpin;

    /// Resolves after a time; where the one who polls has a clock ([`Window::next_due`]), never.
    type Timer: Future<Output = ()>;

    /// Submits the next call.
    fn submit(&mut self) -> Self::Call;

    /// Wakes the window after `span`.
    fn timer(&self, span: Duration) -> Self::Timer;
}

/// When the clients begin, count and stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// The first call.
    pub(crate) begin: Instant,
    /// Calls that are answered before it are not counted.
    pub(crate) count_from: Instant,
    /// Nothing is submitted after it.
    pub(crate) end: Instant,
    /// Open loop: the time between two calls of this window. None: closed loop.
    pub(crate) interval: Option<Duration>,
}

/// What a window measured.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Nanoseconds of calls that were answered as they should be.
    pub(crate) latency: Histogram<u64>,
    /// Calls that were not.
    pub(crate) errors: u64,
    /// What the first of them failed with, if it was an error of the library.
    pub(crate) failure: Option<Code>,
    /// Times that a call was turned away and made again.
    pub(crate) busy: u64,
    /// Open loop: calls that were due but found no free client before the end.
    pub(crate) unsent: u64,
}

impl Tally {
    /// Nothing yet; three digits, up to a minute.
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Self {
            latency: latency.expect("bounds are in order"),
            errors: 0,
            failure: None,
            busy: 0,
            unsent: 0,
        }
    }

    /// Both together.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.errors += other.errors;
        self.failure = self.failure.or(other.failure);
        self.busy += other.busy;
        self.unsent += other.unsent;
    }
}

/// How long a client waits after a failure.
const PAUSE: Duration = Duration::from_millis(1);
/// Calls that one poll of a window may finish before others have their turn.
const TURNS_MAX: u32 = 1_024;

/// How long answers are waited for after the end: longer than an operation may take.
const GRACE: Duration = Duration::from_secs(15);

/// Which slots have something to do.
struct Ready {
    words: Box<[AtomicU64]>,
    window: AtomicWaker,
}

impl Ready {
    fn set(&self, slot: usize) {
        self.words[slot / 64].fetch_or(1 << (slot % 64), Ordering::Release);
    }
}

/// The waker of one client.
struct Bit {
    ready: Arc<Ready>,
    slot: usize,
}

impl Wake for Bit {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.set(self.slot);
        self.ready.window.wake();
    }
}

struct Slot<C> {
    call: Option<C>,
    began: Instant,
    waker: Waker,
}

/// C clients; resolves when the schedule is over and every call is answered.
pub(crate) struct Window<T: Target> {
    target: T,
    schedule: Schedule,
    slots: Vec<Slot<T::Call>>,
    ready: Arc<Ready>,
    /// Open loop: slots without a call, and when the next call is due.
    idle: Vec<usize>,
    due: Instant,
    /// Slots that make a call after a pause, the next one first; and what wakes for it.
    paused: BinaryHeap<Reverse<(Instant, usize)>>,
    timer: Option<Pin<Box<T::Timer>>>,
    /// Calls without an answer.
    open: usize,
    tally: Tally,
}

impl<T: Target> Window<T> {
    /// `clients` clients of `target`.
    pub(crate) fn new(target: T, clients: usize, schedule: Schedule) -> Self {
        let words = (0..clients.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let ready = Arc::new(Ready { words, window: AtomicWaker::new() });
        let slot = |slot| {
            let waker = Waker::from(Arc::new(Bit { ready: Arc::clone(&ready), slot }));
            ready.set(slot);
            Slot { call: None, began: schedule.begin, waker }
        };
        let slots = (0..clients).map(slot).collect();
        let (idle, due) = (Vec::with_capacity(clients), schedule.begin);
        let (paused, timer) = (BinaryHeap::new(), None);
        let tally = Tally::new();
        Self { target, schedule, slots, ready, idle, due, paused, timer, open: 0, tally }
    }

    /// When the window has something to do that no answer tells of; none: never.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let end = self.schedule.end;
        let due = self.schedule.interval.filter(|_| !self.idle.is_empty()).map(|_| self.due);
        let paused = self.paused.peek().map(|Reverse((at, _))| *at);
        due.into_iter().chain(paused).min().map(|at| at.min(end))
    }

    /// When the window is given up: answers that are not there by then never come.
    pub(crate) fn give_up_at(&self) -> Instant {
        self.schedule.end + GRACE
    }

    /// Ends without the answers that are still open; they count as errors.
    pub(crate) fn give_up(mut self) -> Tally {
        let mut tally = self.finish();
        tally.errors += u64::try_from(self.open).expect("a count of clients");
        tally
    }

    /// Finishes and submits calls of one client until it has to wait. Gives the turns it took.
    fn turn(&mut self, at: usize, turns_max: u32) -> u32 {
        let mut turns = 0;
        while turns < turns_max {
            let slot = &mut self.slots[at];
            if let Some(call) = &mut slot.call {
                let mut cx = Context::from_waker(&slot.waker);
                let Poll::Ready(outcome) = Pin::new(call).poll(&mut cx) else { return turns };
                slot.call = None;
                self.open -= 1;
                self.answered(at, outcome);
            } else {
                self.submit(at, clock());
            }
            if self.slots[at].call.is_none() {
                return turns;
            }
            turns += 1;
        }
        self.ready.set(at);
        turns
    }

    fn answered(&mut self, at: usize, outcome: Outcome) {
        let began = self.slots[at].began;
        let now = clock();
        match outcome {
            Outcome::Done => {
                self.count(outcome, began, now);
                self.submit(at, now);
            },
            Outcome::Again(pause) => {
                self.tally.busy += 1;
                self.pause(at, now + pause);
            },
            Outcome::Failed(_) => {
                self.count(outcome, began, now);
                if self.schedule.interval.is_some() {
                    return self.submit(at, now);
                }
                // What fails at once would fail as often as it can.
                self.slots[at].began = now + PAUSE;
                self.pause(at, now + PAUSE);
            },
        }
    }

    fn pause(&mut self, at: usize, until: Instant) {
        self.paused.push(Reverse((until, at)));
        self.timer = None;
    }

    /// Lets clients whose pause is over make their calls.
    fn wake_paused(&mut self) {
        if self.paused.is_empty() {
            return;
        }
        let now = clock();
        while let Some(Reverse((until, at))) = self.paused.peek().copied()
            && (until <= now || now >= self.schedule.end)
        {
            self.paused.pop();
            if now < self.schedule.end {
                self.slots[at].call = Some(self.target.submit());
                self.open += 1;
                self.ready.set(at);
            } else if self.schedule.interval.is_some() {
                self.tally.unsent += 1;
            }
        }
    }

    fn count(&mut self, outcome: Outcome, began: Instant, now: Instant) {
        // Open loop: a call belongs to the time at which it was due, however late its answer is.
        let at = if self.schedule.interval.is_some() { began } else { now };
        if at < self.schedule.count_from || at >= self.schedule.end {
            return;
        }
        match outcome {
            Outcome::Done => {
                let nanos = now.saturating_duration_since(began).as_nanos();
                self.tally.latency.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
            },
            Outcome::Failed(code) => {
                self.tally.errors += 1;
                self.tally.failure = self.tally.failure.or(code);
            },
            Outcome::Again(_) => {},
        }
    }

    /// The client's next call, unless the schedule is over or nothing is due.
    fn submit(&mut self, at: usize, now: Instant) {
        if now >= self.schedule.end {
            return;
        }
        let began = match self.schedule.interval {
            None => now,
            Some(_) if now < self.due => return self.idle.push(at),
            Some(interval) => {
                let due = self.due;
                self.due += interval;
                due
            },
        };
        let call = Some(self.target.submit());
        self.open += 1;
        let slot = &mut self.slots[at];
        (slot.call, slot.began) = (call, began);
    }

    /// Open loop: lets idle clients make the calls that are due.
    fn wake_idle(&mut self) {
        let now = clock();
        while now >= self.due && now < self.schedule.end {
            let Some(at) = self.idle.pop() else { return };
            self.submit(at, now);
            self.ready.set(at);
        }
    }

    /// Gives every slot whose bit is set its turn. None: no bit was set; else the turns left.
    fn sweep(&mut self, mut left: u32) -> Option<u32> {
        let ready = Arc::clone(&self.ready);
        let mut met = false;
        for (place, word) in ready.words.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                met = true;
                let at = place * 64 + usize::try_from(bit).expect("a bit of 64");
                left -= self.turn(at, left);
                if left == 0 {
                    ready.words[place].fetch_or(bits, Ordering::Release);
                    return Some(0);
                }
            }
        }
        met.then_some(left)
    }

    /// The end: counts the calls that were due and not made.
    fn finish(&mut self) -> Tally {
        if let Some(interval) = self.schedule.interval {
            let late = self.schedule.end.saturating_duration_since(self.due);
            let unsent = late.as_nanos().div_ceil(interval.as_nanos().max(1));
            self.tally.unsent += u64::try_from(unsent).unwrap_or(u64::MAX);
        }
        core::mem::replace(&mut self.tally, Tally::new())
    }
}

impl<T: Target> Unpin for Window<T> {}

impl<T: Target> Future for Window<T> {
    type Output = Tally;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Tally> {
        let this = &mut *self;
        this.ready.window.register(cx.waker());
        let mut left = TURNS_MAX;
        loop {
            this.wake_paused();
            if this.schedule.interval.is_some() {
                this.wake_idle();
            }
            match this.sweep(left) {
                None => break,
                Some(0) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                },
                Some(rest) => left = rest,
            }
        }
        let now = clock();
        if this.open == 0 && now >= this.schedule.end {
            return Poll::Ready(this.finish());
        }
        if let Some(due) = this.next_due() {
            let span = due.saturating_duration_since(now);
            let timer = this.timer.get_or_insert_with(|| Box::pin(this.target.timer(span)));
            if timer.as_mut().poll(cx).is_ready() {
                this.timer = None;
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

/// The clock of the measurement.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// Answers at once, a given number of times in all; then `Failed`.
    struct AtOnce(u32);

    impl Target for AtOnce {
        type Call = core::future::Ready<Outcome>;
        type Timer = core::future::Pending<()>;

        fn submit(&mut self) -> Self::Call {
            self.0 = self.0.saturating_sub(1);
            core::future::ready(if self.0 == 0 { Outcome::Failed(None) } else { Outcome::Done })
        }

        fn timer(&self, _: Duration) -> Self::Timer {
            core::future::pending()
        }
    }

    /// Answers when it is polled the second time, and says how many were open at most.
    struct Second {
        open: Rc<Cell<(u32, u32)>>,
    }

    struct SecondCall(Rc<Cell<(u32, u32)>>, bool);

    impl Future for SecondCall {
        type Output = Outcome;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
            if self.1 {
                let (now, most) = self.0.get();
                self.0.set((now - 1, most));
                return Poll::Ready(Outcome::Done);
            }
            self.1 = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    impl Target for Second {
        type Call = SecondCall;
        type Timer = core::future::Pending<()>;

        fn submit(&mut self) -> SecondCall {
            let (now, most) = self.open.get();
            self.open.set((now + 1, most.max(now + 1)));
            SecondCall(Rc::clone(&self.open), false)
        }

        fn timer(&self, _: Duration) -> Self::Timer {
            core::future::pending()
        }
    }

    /// Turned away twice, 5 ms each, then done; and so on.
    struct TurnedAway(u32);

    impl Target for TurnedAway {
        type Call = core::future::Ready<Outcome>;
        type Timer = core::future::Pending<()>;

        fn submit(&mut self) -> Self::Call {
            self.0 += 1;
            let pause = Duration::from_millis(5);
            let done = self.0.is_multiple_of(3);
            core::future::ready(if done { Outcome::Done } else { Outcome::Again(pause) })
        }

        fn timer(&self, _: Duration) -> Self::Timer {
            core::future::pending()
        }
    }

    #[test]
    fn a_call_that_is_turned_away_is_measured_from_its_first_attempt() {
        let tally = run(Window::new(TurnedAway(0), 1, schedule(100, None)));
        assert_eq!(tally.errors, 0);
        assert!(tally.busy >= 2 * tally.latency.len(), "{} {}", tally.busy, tally.latency.len());
        let shortest = Duration::from_nanos(tally.latency.min());
        assert!(shortest >= Duration::from_millis(9), "two pauses are in it: {shortest:?}");
    }

    fn schedule(millis: u64, interval: Option<Duration>) -> Schedule {
        let begin = clock();
        let end = begin + Duration::from_millis(millis);
        Schedule { begin, count_from: begin, end, interval }
    }

    fn run<T: Target>(mut window: Window<T>) -> Tally {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(tally) = Pin::new(&mut window).poll(&mut cx) {
                return tally;
            }
        }
    }

    #[test]
    fn every_client_has_one_call_open_and_none_is_left() {
        let open = Rc::new(Cell::new((0, 0)));
        let target = Second { open: Rc::clone(&open) };
        let tally = run(Window::new(target, 130, schedule(30, None)));
        assert_eq!(open.get(), (0, 130), "open at the end, open at most");
        assert!(tally.latency.len() > 130, "{}", tally.latency.len());
        assert_eq!((tally.errors, tally.unsent), (0, 0));
    }

    #[test]
    fn failures_are_counted_apart() {
        let tally = run(Window::new(AtOnce(100), 1, schedule(5, None)));
        assert_eq!(tally.latency.len(), 99);
        assert!(tally.errors > 0);
    }

    #[test]
    fn what_is_answered_at_once_lets_others_have_their_turn() {
        let mut window = Window::new(AtOnce(u32::MAX), 2, schedule(10_000, None));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut window).poll(&mut cx).is_pending());
        assert!(window.tally.latency.len() <= u64::from(TURNS_MAX));
    }

    #[test]
    fn an_open_loop_keeps_its_rate() {
        let interval = Some(Duration::from_millis(1));
        let tally = run(Window::new(AtOnce(u32::MAX), 4, schedule(50, interval)));
        assert_eq!(tally.latency.len() + tally.unsent, 50, "50 ms, one a millisecond");
    }

    #[test]
    fn a_call_is_measured_from_when_it_was_due() {
        let mut late = schedule(60, Some(Duration::from_millis(1)));
        late.begin -= Duration::from_millis(40);
        late.count_from = late.begin;
        let tally = run(Window::new(AtOnce(u32::MAX), 1, late));
        let longest = Duration::from_nanos(tally.latency.max());
        assert!(longest >= Duration::from_millis(39), "the first was due long ago: {longest:?}");
    }
}
