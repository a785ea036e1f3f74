//! Tickets: how a core answers a caller, exactly once, without an allocation.
//!
//! ```text
//! caller                                 core
//! issue() -> (Waiter, Ticket)
//!   Waiter waits            Ticket ----> complete(result): Open -> Done, waker into the WakeList
//!   poll: Done -> take
//!   drop: Open -> Abandoned              complete or drop on Abandoned: the slot is free again
//! ```
//!
//! Slots are made 64 at a time, live as long as the process and are used again: there are never
//! more than operations were open at once. Each thread keeps a few; the rest lie in a pool.
//!
//! I1 A ticket is answered exactly once; dropped unanswered, it says `Stopped`.
//! I2 A slot has one waiter and one ticket, and is free when both are gone.

use core::any::Any;
use core::cell::RefCell;
use core::fmt;
use core::mem;
use core::task::{Context, Poll, Waker};
use std::sync::PoisonError;

use bowline_statemachine::{Answer, Output};

use crate::Error;

/// Slots that are made at once.
const CHUNK: usize = 64;
/// Free slots that a thread keeps for itself; half of them go to the pool beyond it.
const KEPT_MAX: usize = 512;

#[expect(clippy::disallowed_types, reason = "held for a few loads and stores, by two threads")]
type Mutex<T> = std::sync::Mutex<T>;

/// What a core answers.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Done; there is nothing to say.
    Unit,
    /// What an applied command answers.
    Output(Output),
    /// The answer to a question.
    Answer(Answer),
    /// Whatever a closure on the core returned.
    Any(Box<dyn Any + Send>),
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Free,
    Open(Option<Waker>),
    Done(Result<Reply, Error>),
    Abandoned,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot {
    state: Mutex<State>,
}

const _: () = assert!(size_of::<Slot>() == 128, "a ticket is two cache lines");

impl Slot {
    fn swap(&self, next: State) -> State {
        mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), next)
    }
}

/// The core's side of an operation.
pub(crate) struct Ticket {
    slot: Option<&'static Slot>,
    appended: bool,
}

/// The caller's side of an operation.
pub(crate) struct Waiter {
    slot: Option<&'static Slot>,
}

/// Makes both sides of an operation.
pub(crate) fn issue() -> (Waiter, Ticket) {
    let slot = take_slot();
    let was = slot.swap(State::Open(None));
    assert!(matches!(was, State::Free), "a slot in the pool is free (I2)");
    (Waiter { slot: Some(slot) }, Ticket { slot: Some(slot), appended: false })
}

impl Ticket {
    /// Says that the write is in the log: from now on it may take effect.
    pub(crate) const fn mark_appended(&mut self) {
        self.appended = true;
    }

    /// Answers. The caller's waker goes on the list, to be woken once at the end of the pass.
    pub(crate) fn complete(mut self, result: Result<Reply, Error>, wakes: &mut WakeList) {
        if let Some(waker) = self.settle(result) {
            wakes.push(waker);
        }
    }

    /// Answers and wakes the caller at once.
    pub(crate) fn complete_now(mut self, result: Result<Reply, Error>) {
        if let Some(waker) = self.settle(result) {
            waker.wake();
        }
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        let slot = self.slot.expect("a ticket has its slot until it is answered (I1)");
        let state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*state, State::Abandoned)
    }

    fn settle(&mut self, result: Result<Reply, Error>) -> Option<Waker> {
        let slot = self.slot.take()?;
        let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        match mem::replace(&mut *state, State::Free) {
            State::Open(waker) => {
                *state = State::Done(result);
                waker
            },
            State::Abandoned => {
                drop(state);
                give_slot(slot);
                None
            },
            State::Free | State::Done(_) => unreachable!("a ticket is answered once (I1)"),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.slot.is_some() {
            let result = Err(Error::Stopped { maybe_applied: self.appended, cause: None });
            if let Some(waker) = self.settle(result) {
                waker.wake();
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("appended", &self.appended).finish_non_exhaustive()
    }
}

impl Waiter {
    /// The answer, once it is there.
    ///
    /// # Panics
    ///
    /// If it was taken before.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Reply, Error>> {
        let slot = self.slot.expect("a finished operation is not polled again");
        let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        match mem::replace(&mut *state, State::Free) {
            State::Done(result) => {
                drop(state);
                self.slot = None;
                give_slot(slot);
                Poll::Ready(result)
            },
            State::Open(before) => {
                // The old waker leaves the lock before it is dropped: that may run foreign code.
                let (kept, old) = match before {
                    Some(waker) if waker.will_wake(cx.waker()) => (waker, None),
                    other => (cx.waker().clone(), other),
                };
                *state = State::Open(Some(kept));
                drop(state);
                drop(old);
                Poll::Pending
            },
            State::Free | State::Abandoned => unreachable!("the waiter is here (I2)"),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was = mem::replace(&mut *state, State::Abandoned);
        if let State::Done(_) = was {
            *state = State::Free;
            drop(state);
            give_slot(slot);
        } else {
            drop(state);
            assert!(matches!(was, State::Open(_)), "the waiter is here (I2)");
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}

/// The callers to wake at the end of a pass.
#[derive(Debug, Default)]
pub(crate) struct WakeList {
    wakers: Vec<Waker>,
}

impl WakeList {
    /// Puts a waker on the list, unless the last one wakes the same task.
    pub(crate) fn push(&mut self, waker: Waker) {
        if self.wakers.last().is_none_or(|last| !last.will_wake(&waker)) {
            self.wakers.push(waker);
        }
    }

    /// Wakes all, and keeps the list's memory.
    pub(crate) fn wake_all(&mut self) -> usize {
        let count = self.wakers.len();
        self.wakers.drain(..).for_each(Waker::wake);
        count
    }

    /// Whether nobody is to be woken.
    pub(crate) const fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }
}

static POOL: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::new(Kept { slots: Vec::with_capacity(KEPT_MAX + 1) });
}

/// A thread's free slots; they go to the pool when the thread ends.
struct Kept {
    slots: Vec<&'static Slot>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        POOL.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.slots);
    }
}

fn take_slot() -> &'static Slot {
    let kept = KEPT.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        if kept.slots.is_empty() {
            refill(&mut kept.slots);
        }
        kept.slots.pop()
    });
    kept.ok().flatten().unwrap_or_else(|| {
        let mut one = Vec::new();
        refill(&mut one);
        let slot = one.pop().expect("a refill gives at least one slot");
        POOL.lock().unwrap_or_else(PoisonError::into_inner).append(&mut one);
        slot
    })
}

fn refill(slots: &mut Vec<&'static Slot>) {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let from = pool.len().saturating_sub(CHUNK);
    if pool.is_empty() {
        drop(pool);
        let chunk: Vec<Slot> = (0..CHUNK).map(|_| Slot::default()).collect();
        slots.extend(Vec::leak(chunk).iter());
    } else {
        slots.extend(pool.drain(from..));
    }
}

fn give_slot(slot: &'static Slot) {
    let kept = KEPT.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        kept.slots.push(slot);
        if kept.slots.len() > KEPT_MAX {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            pool.extend(kept.slots.drain(KEPT_MAX / 2..));
        }
    });
    if kept.is_err() {
        POOL.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }
}

#[cfg(test)]
#[expect(clippy::excessive_nesting, reason = "threads in a scope")]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(waiter: &mut Waiter, count: &Arc<Count>) -> Poll<Result<Reply, Error>> {
        let waker = Waker::from(Arc::clone(count));
        waiter.poll(&Context::from_waker(&waker))
    }

    fn number(poll: Poll<Result<Reply, Error>>) -> Option<i64> {
        match poll {
            Poll::Ready(Ok(Reply::Output(Output::Number(number)))) => Some(number),
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => None,
        }
    }

    #[test]
    fn an_answer_arrives_once_and_wakes_once() {
        let count = Arc::new(Count::default());
        let mut wakes = WakeList::default();
        let (mut waiter, ticket) = issue();
        assert_eq!(number(poll(&mut waiter, &count)), None);
        ticket.complete(Ok(Reply::Output(Output::Number(7))), &mut wakes);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert_eq!(wakes.wake_all(), 1);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(number(poll(&mut waiter, &count)), Some(7));
    }

    #[test]
    fn a_task_that_waits_for_many_is_woken_once() {
        let count = Arc::new(Count::default());
        let mut wakes = WakeList::default();
        let mut pairs: Vec<_> = (0..64).map(|_| issue()).collect();
        for (waiter, _) in &mut pairs {
            assert!(poll(waiter, &count).is_pending());
        }
        let mut waiters = Vec::new();
        for (waiter, ticket) in pairs {
            ticket.complete(Ok(Reply::Unit), &mut wakes);
            waiters.push(waiter);
        }
        assert_eq!(wakes.wake_all(), 1);
        assert!(waiters.iter_mut().all(|waiter| poll(waiter, &count).is_ready()));
    }

    #[test]
    fn a_dropped_ticket_says_stopped_and_whether_it_may_be_applied() {
        let count = Arc::new(Count::default());
        for appended in [false, true] {
            let (mut waiter, mut ticket) = issue();
            if appended {
                ticket.mark_appended();
            }
            assert!(poll(&mut waiter, &count).is_pending());
            drop(ticket);
            let Poll::Ready(Err(error)) = poll(&mut waiter, &count) else { panic!("no answer") };
            assert_eq!(error, Error::Stopped { maybe_applied: appended, cause: None });
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn an_abandoned_ticket_frees_its_slot_and_drops_the_reply() {
        let held = Arc::new(());
        let (waiter, ticket) = issue();
        assert!(!ticket.is_abandoned());
        drop(waiter);
        assert!(ticket.is_abandoned());
        ticket.complete_now(Ok(Reply::Any(Box::new(Arc::clone(&held)))));
        assert_eq!(Arc::strong_count(&held), 1);
        let (waiter, ticket) = issue();
        ticket.complete_now(Ok(Reply::Any(Box::new(Arc::clone(&held)))));
        drop(waiter);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn slots_are_used_again() {
        std::thread::scope(|scope| {
            let run = || {
                let (waiter, ticket) = issue();
                let slot = waiter.slot.expect("open");
                ticket.complete_now(Ok(Reply::Unit));
                drop(waiter);
                let (waiter, _ticket) = issue();
                assert!(core::ptr::eq(waiter.slot.expect("open"), slot));
            };
            scope.spawn(run).join().expect("the thread ends well");
        });
    }

    #[test]
    fn a_ticket_crosses_threads_and_is_answered_exactly_once() {
        const COUNT: i64 = if cfg!(miri) { 50 } else { 20_000 };
        let (give, take) = std::sync::mpsc::sync_channel::<(i64, Ticket)>(256);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut wakes = WakeList::default();
                for (number, ticket) in take {
                    ticket.complete(Ok(Reply::Output(Output::Number(number))), &mut wakes);
                    wakes.wake_all();
                }
            });
            scope.spawn(move || {
                let count = Arc::new(Count::default());
                for want in 0..COUNT {
                    let (mut waiter, ticket) = issue();
                    give.send((want, ticket)).expect("the core runs");
                    if want % 7 == 0 {
                        continue;
                    }
                    loop {
                        if let Some(got) = number(poll(&mut waiter, &count)) {
                            assert_eq!(got, want);
                            break;
                        }
                        std::hint::spin_loop();
                    }
                }
            });
        });
    }
}
