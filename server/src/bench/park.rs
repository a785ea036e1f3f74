//! Drives a window on a plain thread.

use core::future::Future;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use std::sync::Arc;
use std::task::Wake;
use std::thread::{self, Thread};

use super::window::{Tally, Target, Window, clock};

struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

/// Runs the window to its end; sleeps when every client waits.
pub(crate) fn run<T: Target>(mut window: Window<T>) -> Tally {
    let parked = Arc::new(Parked { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&parked));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(tally) = pin!(&mut window).poll(&mut cx) {
            return tally;
        }
        while !parked.woken.swap(false, Ordering::AcqRel) {
            let now = clock();
            if now >= window.give_up_at() {
                return window.give_up();
            }
            let until = window.next_due().unwrap_or_else(|| window.give_up_at());
            if until <= now {
                break;
            }
            thread::park_timeout(until - now);
        }
    }
}
