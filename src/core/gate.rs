//! The end of a core's tasks.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Tells a core's tasks to end.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: Cell<bool>,
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

/// A task's place at a gate: given back when the task ends.
struct Place<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.closed.set(true);
        for waker in self.waiting.take().into_values() {
            waker.wake();
        }
    }

    /// Resolves to none once the gate is closed, else to what `future` gives.
    pub(crate) async fn or<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let number = self.next.get();
        self.next.set(number + 1);
        let place = Place { gate: self, number };
        let mut future = pin!(future);
        poll_fn(|cx| {
            if place.is_closed(cx) {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl Place<'_> {
    /// Whether the gate is closed; if not, the task is woken when it is.
    fn is_closed(&self, cx: &Context<'_>) -> bool {
        if !self.gate.closed.get() {
            let mut waiting = self.gate.waiting.borrow_mut();
            let known = waiting.get(&self.number);
            if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
                waiting.insert(self.number, cx.waker().clone());
            }
        }
        self.gate.closed.get()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.waiting.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_ended_leaves_nothing_at_the_gate() {
        let gate = Gate::default();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let mut open = pin!(gate.or(core::future::pending::<()>()));
            assert!(open.as_mut().poll(&mut cx).is_pending());
            let mut done = pin!(gate.or(core::future::ready(1)));
            assert_eq!(done.as_mut().poll(&mut cx), Poll::Ready(Some(1)));
        }
        assert!(gate.waiting.borrow().is_empty());
        let mut cut = pin!(gate.or(core::future::pending::<()>()));
        assert!(cut.as_mut().poll(&mut cx).is_pending());
        gate.close();
        assert_eq!(cut.as_mut().poll(&mut cx), Poll::Ready(None));
    }
}
