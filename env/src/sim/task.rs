//! What waits inside a task: the end of another task, a time, a turn.

use core::cell::RefCell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::rc::Rc;

use super::inner::Inner;
use super::node::{Node, live};
use super::sched::Life;
use super::slab::Key;
use crate::Nanos;

/// A value on its way from a task to whoever waits for it.
pub(super) struct Join<T> {
    state: RefCell<JoinState<T>>,
}

struct JoinState<T> {
    value: Option<T>,
    waker: Option<Waker>,
    done: bool,
}

impl<T> Join<T> {
    pub(super) fn new() -> Rc<Self> {
        let state = RefCell::new(JoinState { value: None, waker: None, done: false });
        Rc::new(Self { state })
    }

    /// Puts the value and wakes who waits.
    pub(super) fn set(&self, value: T) {
        let waker = {
            let mut state = self.state.borrow_mut();
            state.value = Some(value);
            state.done = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        let mut state = self.state.borrow_mut();
        if let Some(value) = state.value.take() {
            return Poll::Ready(value);
        }
        keep(&mut state.waker, cx);
        Poll::Pending
    }
}

/// Keeps the waker of `cx`, unless the kept one wakes the same task.
pub(super) fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

/// A spawned task of a simulated core or of a client. Dropping it detaches the task. It never
/// resolves if the task's node crashed.
#[must_use = "await it, or drop it to detach the task"]
pub struct SimTask<T> {
    join: Rc<Join<T>>,
}

impl<T> SimTask<T> {
    pub(super) fn new(join: Rc<Join<T>>) -> Self {
        Self { join }
    }

    /// Whether the task has ended.
    pub fn is_done(&self) -> bool {
        self.join.state.borrow().done
    }

    /// What the task gave, if it has ended and nobody took it.
    pub fn take(&self) -> Option<T> {
        self.join.state.borrow_mut().value.take()
    }
}

impl<T> Future for SimTask<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.join.poll(cx)
    }
}

impl<T> fmt::Debug for SimTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTask").field("done", &self.is_done()).finish()
    }
}

/// A timer of the world.
pub(super) struct Timer {
    /// Boot time of `node`, or time of the world.
    pub(super) at: Nanos,
    pub(super) node: Option<Rc<Node>>,
    pub(super) waker: Option<Waker>,
    pub(super) fired: bool,
}

/// Resolves at a time.
pub(super) struct Sleep {
    inner: Rc<Inner>,
    /// The sleeper's node and life; none: a client, by the world's clock.
    whose: Option<(Rc<Node>, Rc<Life>)>,
    at: Nanos,
    /// Also wait if the time has come already.
    always: bool,
    timer: Option<Key>,
}

impl Sleep {
    pub(super) fn new(
        inner: &Rc<Inner>,
        whose: Option<(Rc<Node>, Rc<Life>)>,
        at: Nanos,
        always: bool,
    ) -> Self {
        Self { inner: Rc::clone(inner), whose, at, always, timer: None }
    }

    fn due(&self) -> bool {
        let now = self.inner.now();
        match &self.whose {
            Some((node, _)) => node.boot(now) >= self.at,
            None => Nanos(now) >= self.at,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.whose.as_ref().is_some_and(|(_, life)| !live(life)) {
            return Poll::Pending;
        }
        let Some(key) = self.timer else {
            if !self.always && self.due() {
                return Poll::Ready(());
            }
            let node = self.whose.as_ref().map(|(node, _)| Rc::clone(node));
            let (at, exact) = (self.at, self.always);
            self.timer = Some(self.inner.set_timer(node, at, exact, cx.waker().clone()));
            self.inner.waits("a time");
            return Poll::Pending;
        };
        if self.inner.timer_fired(key, cx) {
            self.inner.drop_timer(key);
            self.timer = None;
            self.always = false;
            return Poll::Ready(());
        }
        self.inner.waits("a time");
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            self.inner.drop_timer(key);
        }
    }
}

/// Resolves at its second poll, after everything that was ready at the first.
pub(super) struct Yield {
    inner: Rc<Inner>,
    life: Rc<Life>,
    yielded: bool,
}

impl Yield {
    pub(super) fn new(inner: &Rc<Inner>, life: &Rc<Life>) -> Self {
        Self { inner: Rc::clone(inner), life: Rc::clone(life), yielded: false }
    }
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !live(&self.life) {
            return Poll::Pending;
        }
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        self.inner.mark_yield();
        self.inner.waits("its turn");
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
