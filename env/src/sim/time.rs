//! Timers, turns, and the helper that runs closures.

use core::task::{Context, Waker};
use std::rc::Rc;

use super::inner::Inner;
use super::node::Node;
use super::profile::Fault;
use super::sched::Event;
use super::slab::Key;
use super::task::{Timer, keep};
use crate::Nanos;

/// Closures that may wait for the helper, per core.
const JOBS_MAX: usize = 64;

/// A closure that waits for the helper.
pub(super) struct Job {
    pub(super) core: Key,
    run: Box<dyn FnOnce()>,
}

impl Inner {
    pub(super) fn set_timer(
        &self,
        node: Option<Rc<Node>>,
        at: Nanos,
        exact: bool,
        waker: Waker,
    ) -> Key {
        let world = match &node {
            Some(node) => node.clock.get().world(at),
            None => at.0,
        };
        let late =
            if node.is_some() && !exact && self.profile.varied() { self.lateness() } else { 0 };
        let waker = Some(waker);
        let key = self.timers.borrow_mut().insert(Timer { at, node, waker, fired: false });
        let due = world.max(self.now()).saturating_add(late);
        self.sched.borrow_mut().schedule(due, Event::Timer(key));
        key
    }

    fn lateness(&self) -> u64 {
        let usual = self.streams.clock.between(0, 40_000);
        if self.hits(Fault::LateTimer) {
            return self.streams.fault(Fault::LateTimer).magnitude(40_000, 4_000_000);
        }
        usual
    }

    pub(super) fn fire(&self, key: Key, at: u64) {
        let waker = {
            let mut timers = self.timers.borrow_mut();
            let Some(timer) = timers.at_mut(key) else { return };
            let early = timer.node.as_ref().and_then(|node| {
                let clock = node.clock.get();
                (clock.boot(at) < timer.at).then(|| clock.world(timer.at))
            });
            self.set_now(at);
            if let Some(again) = early {
                self.sched.borrow_mut().schedule(again.max(at + 1), Event::Timer(key));
                return;
            }
            timer.fired = true;
            timer.waker.take()
        };
        self.trace.mix(at, 1 << 60, key.bits(), 0);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether a timer fired; if not, it will wake the task of `cx`.
    pub(super) fn timer_fired(&self, key: Key, cx: &Context<'_>) -> bool {
        let mut timers = self.timers.borrow_mut();
        let timer = timers.at_mut(key).expect("a sleep owns its timer");
        if !timer.fired {
            keep(&mut timer.waker, cx);
        }
        timer.fired
    }

    pub(super) fn drop_timer(&self, key: Key) {
        let timer = self.timers.borrow_mut().remove(key);
        drop(timer);
    }

    /// The running task wants everything that is ready to run before it.
    pub(super) fn mark_yield(&self) {
        self.yielded.set(self.is_running());
    }

    /// Whether an event is due.
    pub(super) fn event_due(&self) -> bool {
        self.sched.borrow().due().is_some_and(|due| due <= self.now())
    }

    /// Queues a closure behind the others of its core. None: 64 wait already.
    pub(super) fn add_job(&self, core: Key, run: Box<dyn FnOnce()>) -> Option<()> {
        let took = if self.profile.varied() {
            self.streams.sched.magnitude(1_000, 5_000_000)
        } else {
            10_000
        };
        let mut sched = self.sched.borrow_mut();
        let its = sched.cores.at_mut(core)?;
        if its.jobs >= JOBS_MAX {
            drop(sched);
            drop(run);
            return None;
        }
        its.jobs += 1;
        its.helper_free = its.helper_free.max(self.now()) + took;
        let at = its.helper_free;
        let key = self.jobs.borrow_mut().insert(Job { core, run });
        sched.schedule(at, Event::Job(key));
        Some(())
    }

    pub(super) fn run_job(&self, key: Key) {
        let Some(job) = self.jobs.borrow_mut().remove(key) else { return };
        if let Some(core) = self.sched.borrow_mut().cores.at_mut(job.core) {
            core.jobs -= 1;
        }
        self.trace.mix(self.now(), 2 << 60, key.bits(), 0);
        (job.run)();
    }
}
