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
            match window.next_due() {
                None => thread::park(),
                Some(due) => {
                    let now = clock();
                    if due <= now {
                        break;
                    }
                    thread::park_timeout(due - now);
                },
            }
        }
    }
}
