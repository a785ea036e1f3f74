//! Waking one task of this core from another: a flag and a waker, no thread.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

/// Wakes the one task that waits here. A call with nobody waiting is kept for the next wait.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wake {
    pub(crate) fn call(&self) {
        self.called.set(true);
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Has the task of `cx` woken by the next call.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut held = self.waker.borrow_mut();
        if !held.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *held = Some(cx.waker().clone());
        }
    }

    /// Waits for a call since the last wait.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            self.register(cx);
            if self.called.take() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
