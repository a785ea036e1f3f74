//! Waking one core from any thread, and the core's going to sleep.
//!
//! ```text
//! producer: push; ring():  fence(SeqCst); if state == PARKED && swap(AWAKE) == PARKED: wake
//! core:     park(idle):    register waker; state = PARKED; fence(SeqCst);
//!                          if !idle(): state = AWAKE, go on; else Pending
//! ```
//!
//! Either the producer sees `PARKED`, or the core sees the push: no wake is lost, and a ring to a
//! running core costs a fence and a load. At most one wake is outstanding per core.

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use core::task::{Context, Poll};
use std::sync::Arc;

use atomic_waker::AtomicWaker;

const AWAKE: u32 = 0;
const PARKED: u32 = 1;

#[derive(Debug, Default)]
#[repr(align(128))]
struct State {
    parked: AtomicU32,
    waker: AtomicWaker,
}

/// Wakes one core. Cheap to clone; rung from any thread, also after the core is gone.
#[derive(Clone, Debug, Default)]
pub struct Bell {
    state: Arc<State>,
}

impl Bell {
    /// A bell nobody waits at yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the core run again if it is parked. Call it after the push it announces.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.state.parked.load(Ordering::Relaxed) == PARKED
            && self.state.parked.swap(AWAKE, Ordering::AcqRel) == PARKED
        {
            self.state.waker.wake();
        }
    }

    /// Sleeps until rung, unless `idle` says that there is work. Wakes up for no reason at times.
    /// One task at a time may park at a bell.
    pub fn park<F: Fn() -> bool>(&self, idle: F) -> Park<'_, F> {
        Park { bell: self, idle, slept: false }
    }
}

/// The future of [`Bell::park`]. Safe to drop: the bell is then awake.
#[derive(Debug)]
#[must_use = "a future does nothing unless polled"]
pub struct Park<'a, F> {
    bell: &'a Bell,
    idle: F,
    slept: bool,
}

impl<F: Fn() -> bool + Unpin> Future for Park<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let state = &*self.bell.state;
        if self.slept {
            state.parked.store(AWAKE, Ordering::Relaxed);
            return Poll::Ready(());
        }
        state.waker.register(cx.waker());
        state.parked.store(PARKED, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if (self.idle)() {
            self.slept = true;
            return Poll::Pending;
        }
        state.parked.store(AWAKE, Ordering::Relaxed);
        Poll::Ready(())
    }
}

impl<F> Drop for Park<'_, F> {
    fn drop(&mut self) {
        self.bell.state.parked.store(AWAKE, Ordering::Relaxed);
        // The waker goes where its core is: a bell may outlive it on another thread.
        drop(self.bell.state.waker.take());
    }
}
