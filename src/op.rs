//! [`Op`]: the one asynchronous type of the facade. It needs no runtime: any executor polls it, and
//! a plain thread waits for it.

use core::any::Any;
use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::sync::Arc;
use std::task::Wake;
use std::thread::{self, Thread};

use crate::request::Request;
use crate::ring::Hub;
use crate::ticket::{Reply, Waiter, issue};
use crate::{Error, RequestError};

/// How long `wait` waits beyond the deadline of an operation for a core that does not answer.
const BACKSTOP_MS: u64 = 1_000;
/// A thread that waits looks at itself this often.
const SLICE_MS: u64 = 50;

/// A submitted operation: a future that any executor can poll, or [`wait`](Self::wait) for.
///
/// The operation is on its way when the method that made it returns; awaiting only takes the
/// answer. Dropping an `Op` gives up the answer. It does not recall a write.
#[must_use = "an operation may fail; await it or call wait()"]
pub struct Op<T> {
    inner: Inner<T>,
}

enum Inner<T> {
    Ready(Result<T, Error>),
    One {
        waiter: Waiter,
        unsent: Option<Box<Unsent>>,
        map: fn(Reply) -> Result<T, Error>,
        timeout_ms: u32,
    },
    Many(Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>),
    Taken,
}

/// A request that found its ring full.
#[derive(Debug)]
struct Unsent {
    hub: Arc<Hub>,
    request: Request,
}

impl<T> Unpin for Op<T> {}

impl<T> Op<T> {
    /// One that is finished.
    pub(crate) const fn ready(result: Result<T, Error>) -> Self {
        Self { inner: Inner::Ready(result) }
    }

    /// One that has failed.
    pub(crate) fn failed(error: impl Into<Error>) -> Self {
        Self::ready(Err(error.into()))
    }

    /// One that is answered through `waiter`, with no deadline.
    pub(crate) const fn waiting(waiter: Waiter, map: fn(Reply) -> Result<T, Error>) -> Self {
        Self { inner: Inner::One { waiter, unsent: None, map, timeout_ms: u32::MAX } }
    }

    /// One that gathers several answers.
    pub(crate) fn many(future: impl Future<Output = Result<T, Error>> + Send + 'static) -> Self {
        Self { inner: Inner::Many(Box::pin(future)) }
    }

    /// Submits what `make` builds around a ticket to `hub`, and answers as `map` says.
    pub(crate) fn submit(
        hub: &Arc<Hub>,
        make: impl FnOnce(crate::ticket::Ticket) -> Request,
        map: fn(Reply) -> Result<T, Error>,
    ) -> Self {
        let (waiter, ticket) = issue();
        let request = make(ticket);
        let timeout_ms = request.timeout_ms;
        let unsent = hub.push(request).err().map(|request| {
            let hub = Arc::clone(hub);
            Box::new(Unsent { hub, request })
        });
        Self { inner: Inner::One { waiter, unsent, map, timeout_ms } }
    }

    /// Sends it, if it found its ring full before. False: the ring is full still, and `waker` is
    /// woken when there is room.
    pub(crate) fn send(&mut self, waker: &Waker) -> bool {
        let Inner::One { unsent, .. } = &mut self.inner else { return true };
        let Some(waiting) = unsent.take() else { return true };
        let Unsent { hub, request } = *waiting;
        match hub.push_or_register(request, waker) {
            Ok(()) => true,
            Err(request) => {
                *unsent = Some(Box::new(Unsent { hub, request }));
                false
            },
        }
    }

    /// Waits for the answer and blocks this thread meanwhile.
    ///
    /// # Errors
    ///
    /// The operation's own; [`RequestError::OnCore`] on a core's thread, where waiting would stop
    /// the core that must answer: the operation goes on, its answer is given up.
    pub fn wait(mut self) -> Result<T, Error> {
        if let Inner::Ready(_) = self.inner {
            return self.take_ready();
        }
        if on_core_thread() {
            return Err(Error::Request(RequestError::OnCore));
        }
        let deadline_ms = match &self.inner {
            Inner::One { timeout_ms, .. } if *timeout_ms < u32::MAX => {
                Some(u64::from(*timeout_ms) + BACKSTOP_MS)
            },
            Inner::One { .. } | Inner::Ready(_) | Inner::Many(_) | Inner::Taken => None,
        };
        THREAD_WAKER.with(|parked| self.park(parked, deadline_ms))
    }

    fn park(&mut self, parked: &Arc<Parked>, limit_ms: Option<u64>) -> Result<T, Error> {
        let waker = Waker::from(Arc::clone(parked));
        let mut cx = Context::from_waker(&waker);
        let mut slept_ms = 0;
        loop {
            if let Poll::Ready(result) = Pin::new(&mut *self).poll(&mut cx) {
                return result;
            }
            while !parked.woken.swap(false, Ordering::Acquire) {
                thread::park_timeout(Duration::from_millis(SLICE_MS));
                slept_ms += SLICE_MS;
                if limit_ms.is_some_and(|limit| slept_ms > limit) {
                    return Err(self.overdue());
                }
            }
        }
    }

    /// The core does not answer; nobody can say whether it has appended the write.
    fn overdue(&self) -> Error {
        let (shard, sent) = match &self.inner {
            Inner::One { unsent: Some(unsent), .. } => (unsent.request.shard, false),
            Inner::One { .. } | Inner::Ready(_) | Inner::Many(_) | Inner::Taken => {
                (bowline_raft::ShardId(0), true)
            },
        };
        Error::Timeout { shard, maybe_applied: sent }
    }

    fn take_ready(&mut self) -> Result<T, Error> {
        match core::mem::replace(&mut self.inner, Inner::Taken) {
            Inner::Ready(result) => result,
            Inner::One { .. } | Inner::Many(_) | Inner::Taken => {
                unreachable!("the caller has seen the result")
            },
        }
    }
}

impl<T: 'static> Op<T> {
    /// How a `Reply::Any` becomes a `T`.
    pub(crate) fn unbox(reply: Reply) -> Result<T, Error> {
        let Reply::Any(value) = reply else { return Err(unexpected(reply)) };
        let value: Box<dyn Any + Send> = value;
        let value = value.downcast::<T>().map(|value| *value);
        value.map_err(|_other| Error::broken("a reply of another type"))
    }
}

/// A reply that the operation cannot have: a defect, reported as such.
pub(crate) fn unexpected(reply: Reply) -> Error {
    tracing::error!(code = %crate::Code::INVARIANT, ?reply, "a reply of another kind");
    drop(reply);
    Error::broken("a reply of another kind")
}

impl<T> Future for Op<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.send(cx.waker()) {
            return Poll::Pending;
        }
        let result = match &mut self.inner {
            Inner::Ready(_) => return Poll::Ready(self.take_ready()),
            Inner::Many(future) => core::task::ready!(future.as_mut().poll(cx)),
            Inner::One { waiter, map, .. } => core::task::ready!(waiter.poll(cx)).and_then(*map),
            Inner::Taken => panic_taken(),
        };
        self.inner = Inner::Taken;
        Poll::Ready(result)
    }
}

#[expect(clippy::panic, reason = "as every future: polled after its end is a bug of the caller")]
fn panic_taken() -> ! {
    panic!("an operation is not polled again after its end")
}

impl<T> fmt::Debug for Op<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.inner {
            Inner::Ready(_) => "Op(ready)",
            Inner::One { unsent: Some(_), .. } => "Op(unsent)",
            Inner::One { .. } | Inner::Many(_) => "Op(waiting)",
            Inner::Taken => "Op(taken)",
        })
    }
}

/// A thread inside `wait`.
struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

thread_local! {
    static THREAD_WAKER: Arc<Parked> =
        Arc::new(Parked { thread: thread::current(), woken: AtomicBool::new(false) });
    static CORES_HERE: Cell<u32> = const { Cell::new(0) };
}

/// Says that this thread runs a core, until the mark is dropped. In the simulator one thread runs
/// many.
pub(crate) fn mark_core_thread() -> CoreThreadMark {
    CORES_HERE.set(CORES_HERE.get() + 1);
    CoreThreadMark { here: PhantomData }
}

/// Whether this thread runs a core.
pub(crate) fn on_core_thread() -> bool {
    CORES_HERE.get() > 0
}

/// The thread runs a core while this lives.
#[derive(Debug)]
#[must_use = "the mark ends when it is dropped"]
pub(crate) struct CoreThreadMark {
    here: PhantomData<*const ()>,
}

impl Drop for CoreThreadMark {
    fn drop(&mut self) {
        CORES_HERE.set(CORES_HERE.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Ticket;

    fn unit(reply: Reply) -> Result<(), Error> {
        if let Reply::Unit = reply { Ok(()) } else { Err(unexpected(reply)) }
    }

    fn pair() -> (Op<()>, Ticket) {
        let (waiter, ticket) = issue();
        (Op::waiting(waiter, unit), ticket)
    }

    #[test]
    fn a_thread_waits_until_another_answers() {
        let (op, ticket) = pair();
        thread::scope(|scope| {
            scope.spawn(|| ticket.complete_now(Ok(Reply::Unit)));
            assert_eq!(op.wait(), Ok(()));
        });
    }

    #[test]
    fn wait_on_a_core_is_refused_until_the_mark_ends() {
        let mark = mark_core_thread();
        let (op, ticket) = pair();
        assert_eq!(op.wait(), Err(Error::Request(RequestError::OnCore)));
        assert!(ticket.is_abandoned());
        assert_eq!(Op::ready(Ok(5)).wait(), Ok(5), "a finished operation waits for nothing");
        drop(mark);
        assert!(!on_core_thread());
        let (op, ticket) = pair();
        ticket.complete_now(Ok(Reply::Unit));
        assert_eq!(op.wait(), Ok(()));
    }

    #[test]
    fn an_unanswered_wait_ends_after_the_deadline_and_a_second() {
        let (waiter, _ticket) = issue();
        let inner = Inner::One { waiter, unsent: None, map: unit, timeout_ms: 1 };
        let error = Op { inner }.wait().expect_err("nobody answers");
        assert!(error.maybe_applied(), "{error}");
        assert_eq!(error.code(), crate::Code::TIMEOUT);
    }

    #[test]
    fn a_value_of_any_type_comes_back() {
        let (waiter, ticket) = issue();
        ticket.complete_now(Ok(Reply::Any(Box::new(String::from("core 3")))));
        assert_eq!(Op::<String>::waiting(waiter, Op::unbox).wait(), Ok("core 3".into()));
        let (waiter, ticket) = issue();
        ticket.complete_now(Ok(Reply::Unit));
        let error = Op::<String>::waiting(waiter, Op::unbox).wait().expect_err("another kind");
        assert_eq!(error.code(), crate::Code::INVARIANT);
    }

    #[test]
    fn operations_are_send() {
        fn is_send<T: Send>() {}
        is_send::<Op<()>>();
    }
}
