//! A world: what tests hold in their hands.

use core::fmt;
use core::future::Future;
use core::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use super::device::SimDisk;
use super::env::SimEnv;
use super::inner::Inner;
use super::link::SimLink;
use super::node::{Node, SimFactory, number_world, publish_world, start_core};
use super::profile::Profile;
use super::rng::Rng;
use super::task::{Join, SimTask, Sleep};
use super::trace::Noted;
use crate::{Class, CoreNo, Nanos};

/// How a node crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The machine loses power: what is not durable may be lost, sector by sector.
    Power,
    /// The process dies: what was written stays, what is in flight lands now, late, or never.
    Kill,
}

/// Why a world went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// Nothing is ready and nothing will happen.
    Idle,
    /// The time is over.
    Limit,
}

/// A world that did not reach what it was run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The world's seed.
    pub seed: u64,
    /// When.
    pub at: Nanos,
    /// Why.
    pub why: Why,
    /// What each core waits with.
    pub waiting: Vec<String>,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::Idle => "nothing is ready and nothing will happen",
            Why::Limit => "the time is over",
        };
        write!(f, "seed {}, {} ns: {why}; {}", self.seed, self.at.0, self.waiting.join("; "))
    }
}

impl core::error::Error for Stalled {}

/// A simulated world. The value that [`World::new`] gave owns it: when that one is dropped, every
/// task is, too. Clones are handles; a task of a client may keep one.
pub struct World {
    inner: Rc<Inner>,
    owner: bool,
}

impl Clone for World {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner), owner: false }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.owner {
            self.inner.end();
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World(seed {} at {} ns)", self.seed(), self.now().0)
    }
}

impl World {
    /// A world without nodes.
    #[must_use]
    pub fn new(seed: u64, profile: Profile) -> Self {
        let inner = Rc::new(Inner::new(number_world(), seed, profile));
        publish_world(&inner);
        Self { inner, owner: true }
    }

    /// The node of a number, with an empty disk at its first mention. Its cores belong to the life
    /// that the node is in when they are started.
    #[must_use]
    pub fn node(&self, id: u64) -> SimFactory {
        let node = self.inner.node(id);
        SimFactory::new(self.inner.id(), node.id)
    }

    /// The address at which other nodes find a node.
    ///
    /// # Panics
    ///
    /// If `id` is above 65,535.
    pub fn addr(id: u64) -> IpAddr {
        let [high, low] = u16::try_from(id).expect("a node has a 16-bit number").to_le_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 0, low, high))
    }

    /// Runs `task` outside the nodes: crashes leave it alone.
    pub fn spawn_client<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> SimTask<T> {
        let join = Join::new();
        let result = Rc::clone(&join);
        let inner = Rc::downgrade(&self.inner);
        self.inner.clients_open.set(self.inner.clients_open.get() + 1);
        let body = Box::pin(async move {
            let value = task.await;
            if let Some(inner) = inner.upgrade() {
                inner.clients_open.set(inner.clients_open.get() - 1);
            }
            result.set(value);
        });
        self.inner.spawn(self.inner.clients(), Class::Core, body);
        SimTask::new(join)
    }

    /// Runs `main` on a new core of a node: as `spawn_core`, for values that are not `Send`. The
    /// core ends with `main`.
    pub fn spawn_on<F, T>(&self, id: u64, core: CoreNo, main: F) -> SimTask<T::Output>
    where
        F: FnOnce(SimEnv) -> T + 'static,
        T: Future + 'static,
        T::Output: 'static,
    {
        let join = Join::new();
        let result = Rc::clone(&join);
        let (env, _failure) = start_core(&self.inner, &self.inner.node(id), core);
        let root = env.place().core;
        let body = Box::pin(async move { result.set(main(env).await) });
        self.inner.set_root(root, body);
        SimTask::new(join)
    }

    /// Runs `main` on core 0 of a node to its end.
    ///
    /// # Errors
    ///
    /// [`Stalled`]: it did not end within `limit`, or can never end.
    pub fn run_on<F, T>(&self, id: u64, limit: Nanos, main: F) -> Result<T::Output, Stalled>
    where
        F: FnOnce(SimEnv) -> T + 'static,
        T: Future + 'static,
        T::Output: 'static,
    {
        let task = self.spawn_on(id, CoreNo(0), main);
        self.finish(&task, limit)
    }

    /// Runs a client's `task` to its end.
    ///
    /// # Errors
    ///
    /// [`Stalled`]: it did not end within `limit`, or can never end.
    pub fn block_on<T: 'static>(
        &self,
        limit: Nanos,
        task: impl Future<Output = T> + 'static,
    ) -> Result<T, Stalled> {
        let task = self.spawn_client(task);
        self.finish(&task, limit)
    }

    fn finish<T>(&self, task: &SimTask<T>, limit: Nanos) -> Result<T, Stalled> {
        self.run_until(|| task.is_done(), limit)?;
        Ok(task.take().expect("a task that is done has a value that nobody took"))
    }

    /// Whether every client's task has ended.
    pub fn clients_done(&self) -> bool {
        self.inner.clients_open.get() == 0
    }

    /// Steps until `done`, for at most `limit` of the world's time.
    ///
    /// # Errors
    ///
    /// [`Stalled`]: the time is over, or nothing will ever happen.
    pub fn run_until(&self, done: impl Fn() -> bool, limit: Nanos) -> Result<(), Stalled> {
        let end = self.now().after(limit);
        loop {
            if done() {
                return Ok(());
            }
            if self.inner.step(end.0) {
                continue;
            }
            let why = if self.now() < end { Why::Idle } else { Why::Limit };
            let waiting = self.inner.describe();
            return Err(Stalled { seed: self.seed(), at: self.now(), why, waiting });
        }
    }

    /// Lets everything happen that happens within `span` of the world's time.
    pub fn run_for(&self, span: Nanos) {
        let end = self.now().after(span);
        while self.inner.step(end.0) {}
    }

    /// Runs one task once, or lets one event happen. False: there is neither.
    ///
    /// # Panics
    ///
    /// If a task panics (unless tolerated), or a rule of the seam is broken.
    pub fn step(&self) -> bool {
        self.inner.step(u64::MAX)
    }

    /// The world's time.
    pub fn now(&self) -> Nanos {
        Nanos(self.inner.latest())
    }

    /// Resolves after `span`, for clients.
    pub fn sleep(&self, span: Nanos) -> impl Future<Output = ()> + 'static {
        let at = Nanos(self.inner.now()).after(span);
        Sleep::new(&self.inner, None, at, false)
    }

    /// Ends the profile's faults for the rest of the run: what is asked of a disk by name stays.
    /// Latencies go on varying.
    pub fn heal(&self) {
        self.inner.healed.set(true);
    }

    /// Crashes a node. Its tasks are gone, its claim is free, its handles do nothing; the cores
    /// that are started from now on live its next life.
    pub fn crash(&self, id: u64, how: Crash) {
        let node = self.inner.node(id);
        self.inner.crash(&node, how);
    }

    /// Whether a core of the node runs.
    pub fn alive(&self, id: u64) -> bool {
        self.inner.alive(id)
    }

    /// A node's disk.
    #[must_use]
    pub fn disk(&self, id: u64) -> SimDisk {
        SimDisk::new(&self.inner, &self.inner.node(id))
    }

    /// A node's clocks.
    #[must_use]
    pub fn clock(&self, id: u64) -> SimClock {
        SimClock { inner: Rc::clone(&self.inner), node: self.inner.node(id) }
    }

    /// The way from one node to another; the way back is another link.
    #[must_use]
    pub fn link(&self, from: u64, to: u64) -> SimLink {
        SimLink::new(&self.inner, (from, to))
    }

    /// Lets a panic of a node's task end its core, as in production, instead of the step. The
    /// core's failure is told by `CoreThread::join`.
    pub fn tolerate_panics(&self, on: bool) {
        self.inner.tolerate_panics.set(on);
    }

    /// Lets a write future be dropped in flight; its file is poisoned all the same.
    pub fn tolerate_dropped_writes(&self, on: bool) {
        self.inner.tolerate_dropped_writes.set(on);
    }

    /// Chance for the test's own choices, from the same seed; drawing shifts nothing else.
    pub fn rng(&self) -> Rc<Rng> {
        Rc::clone(&self.inner.load)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.inner.seed()
    }

    /// The time, and which core of which node runs just now, for people.
    pub fn whereabouts(&self) -> String {
        let now = self.inner.now();
        let place = self
            .inner
            .running_at()
            .map_or_else(String::new, |(node, core)| format!(" node {node} core {core}"));
        format!("{:>6}.{:06} s{place}", now / 1_000_000_000, now / 1_000 % 1_000_000)
    }

    /// A hash over everything that happened: time, core, task, operation, result.
    pub fn trace_hash(&self) -> u64 {
        self.inner.trace.hash()
    }

    /// Polls and events so far.
    pub fn steps(&self) -> u64 {
        self.inner.trace.steps()
    }

    /// Keeps a line of text per operation from now on, the last million of them; or stops.
    pub fn set_trace(&self, on: bool) {
        self.inner.trace.keep_text(on);
    }

    /// Takes the lines kept.
    pub fn take_trace(&self) -> Vec<String> {
        self.inner.trace.take_text()
    }

    /// Takes the facts that the code under test stated, the last million of them.
    pub fn facts(&self) -> Vec<Noted> {
        self.inner.trace.take_facts()
    }
}

/// The clocks of a node, for tests.
pub struct SimClock {
    inner: Rc<Inner>,
    node: Rc<Node>,
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimClock(node {})", self.node.id)
    }
}

impl SimClock {
    fn change(&self, change: impl FnOnce(&mut super::clock::Clock, u64)) {
        let mut clock = self.node.clock.get();
        change(&mut clock, self.inner.latest());
        self.node.clock.set(clock);
    }

    /// Boot time of the node.
    pub fn boot(&self) -> Nanos {
        self.node.boot(self.inner.latest())
    }

    /// Runs the boot clock `ppm` millionths fast (or slow).
    pub fn set_rate(&self, ppm: i32) {
        self.change(|clock, now| clock.set_rate(now, ppm));
    }

    /// The machine sleeps: its boot clock moves on by `span`, and nothing ran meanwhile. No time
    /// passes elsewhere, so this node's promises end early in the eyes of the others.
    pub fn suspend(&self, span: Nanos) {
        self.change(|clock, now| clock.jump(now, span));
    }

    /// No core of the node runs for `span`; its clock goes on.
    pub fn pause(&self, span: Nanos) {
        self.inner.freeze(&self.node, self.inner.latest() + span.0);
    }

    /// No core of the node runs for `span`, and its clock does not see it.
    pub fn hide_pause(&self, span: Nanos) {
        self.pause(span);
        self.change(|clock, now| clock.hide(now, span));
    }

    /// Moves the wall clock by milliseconds.
    pub fn jump_wall(&self, by_ms: i64) {
        self.change(|clock, _| clock.jump_wall(by_ms));
    }
}
