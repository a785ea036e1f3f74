#![expect(
    clippy::disallowed_types,
    reason = "an answer is handed from the helper thread to a core under a lock nobody waits at"
)]
//! The node's helper thread: blocking system calls on names, and CPU work of the cores, in the
//! order in which they were sent.
//!
//! The queue has no bound of its own: a job is sent by a future that waits for it, `offload` is
//! bounded per core, and an unmapping stands for a mapping that was made.

use core::future::Future;
use core::panic::AssertUnwindSafe;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use super::errno;
use crate::{EnvError, Op};

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the thread; it ends after the last handle is gone and its queue is empty.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    jobs: mpsc::Sender<Job>,
}

impl Helper {
    /// Starts the thread under `name`.
    pub(super) fn start(name: &str) -> Result<Self, EnvError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || {
            while let Ok(job) = queue.recv() {
                // A job that panics leaves its answer unset; whoever waits for it is told.
                drop(std::panic::catch_unwind(AssertUnwindSafe(job)));
            }
        };
        match thread::Builder::new().name(name.into()).spawn(work) {
            Ok(_detached) => Ok(Self { jobs }),
            Err(error) => Err(errno::io(Op::Spawn, &error)),
        }
    }

    /// Sends a job nobody waits for. Without a thread it runs here.
    pub(super) fn send(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(mpsc::SendError(job)) = self.jobs.send(Box::new(job)) {
            job();
        }
    }

    /// Sends a job and gives the future of its result: none if the job panicked. The job runs to
    /// its end even if the future is dropped.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Answer<T> {
        let slot = Arc::new(Slot(Mutex::new(State { value: None, over: false, waker: None })));
        let filler = Filler(Arc::clone(&slot));
        self.send(move || {
            let value = job();
            filler.0.lock().value = Some(value);
            drop(filler);
        });
        Answer(slot)
    }
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    over: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Slot<T>(Mutex<State<T>>);

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The helper's side of a slot: gone means that the job is over, however it ended.
struct Filler<T>(Arc<Slot<T>>);

impl<T> Drop for Filler<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The result of a job, once it is there.
#[derive(Debug)]
#[must_use = "a future does nothing unless polled"]
pub(super) struct Answer<T>(Arc<Slot<T>>);

impl<T> Future for Answer<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        if state.over {
            return Poll::Ready(state.value.take());
        }
        // A waker of a core is dropped on that core, so it is replaced only when it differs.
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.0.lock().waker = None;
    }
}
