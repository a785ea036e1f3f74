//! The insides of a world: one step, and what the handles ask for.
//!
//! No code under test runs while a part of the world is borrowed: futures, closures, wakers and
//! their drops run between borrows.

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::panic::AssertUnwindSafe;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use super::clock::Clock;
use super::net::Net;
use super::node::{Node, live};
use super::profile::{Fault, Mix, Profile};
use super::rng::{Rng, Streams};
use super::sched::{Body, Core, DRIVERS, Event, Life, Next, Sched};
use super::slab::{Key, Slab};
use super::task::Timer;
use super::time::Job;
use super::trace::{Noted, Trace};
use crate::{Class, CoreFailure, CoreNo};

/// What one read of the clock costs.
const CLOCK_READ: u64 = 16;
/// What runs just now.
#[derive(Clone, Copy)]
struct Running {
    task: Key,
    core: Key,
}

/// The state of a world.
pub(super) struct Inner {
    id: u64,
    seed: u64,
    pub(super) profile: Profile,
    pub(super) streams: Streams,
    pub(super) load: Rc<Rng>,
    mix: Mix,
    /// The profile's faults are over.
    pub(super) healed: Cell<bool>,
    /// The time of what runs just now.
    now: Cell<u64>,
    /// The latest time reached.
    latest: Cell<u64>,
    pub(super) sched: RefCell<Sched>,
    pub(super) timers: RefCell<Slab<Timer>>,
    pub(super) jobs: RefCell<Slab<Job>>,
    nodes: RefCell<BTreeMap<u64, Rc<Node>>>,
    pub(super) net: RefCell<Net>,
    pub(super) trace: Trace,
    running: Cell<Option<Running>>,
    pub(super) yielded: Cell<bool>,
    /// What the running task waits for, as far as it said.
    wait: Cell<&'static str>,
    /// The tasks that are being dropped are those of a core that failed.
    burying: Cell<bool>,
    /// Cores to remove once the running task is back.
    doomed: RefCell<Vec<Key>>,
    clients: Key,
    pub(super) clients_open: Cell<usize>,
    pub(super) tolerate_panics: Cell<bool>,
    pub(super) tolerate_dropped_writes: Cell<bool>,
    violations: RefCell<Vec<String>>,
}

impl Inner {
    pub(super) fn new(id: u64, seed: u64, profile: Profile) -> Self {
        let mut sched = Sched::new();
        let clients = sched.cores.insert(Core::new(None, CoreNo(0), 0));
        Self {
            id,
            seed,
            profile,
            streams: Streams::new(seed),
            load: Rc::new(Streams::load(seed)),
            mix: Mix::draw(seed, profile),
            healed: Cell::new(false),
            now: Cell::new(0),
            latest: Cell::new(0),
            sched: RefCell::new(sched),
            timers: RefCell::default(),
            jobs: RefCell::default(),
            nodes: RefCell::default(),
            net: RefCell::default(),
            trace: Trace::default(),
            running: Cell::new(None),
            yielded: Cell::new(false),
            wait: Cell::new(""),
            burying: Cell::new(false),
            doomed: RefCell::default(),
            clients,
            clients_open: Cell::new(0),
            tolerate_panics: Cell::new(false),
            tolerate_dropped_writes: Cell::new(false),
            violations: RefCell::default(),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The time of what runs just now.
    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    /// The latest time reached.
    pub(super) fn latest(&self) -> u64 {
        self.latest.get().max(self.now.get())
    }

    /// Reads the clock from a task: reading costs time, so a loop that waits for time ends.
    pub(super) fn read_clock(&self) -> u64 {
        if self.running.get().is_some() {
            self.now.set(self.now.get() + CLOCK_READ);
        }
        self.now.get()
    }

    /// Draws whether a fault happens now.
    pub(super) fn hits(&self, class: Fault) -> bool {
        let rate = self.rate(class);
        rate > 0 && self.streams.fault(class).chance(rate)
    }

    pub(super) fn rate(&self, class: Fault) -> u32 {
        if self.healed.get() { 0 } else { self.mix.rate(class) }
    }

    pub(super) fn say(&self, line: impl FnOnce() -> String) {
        self.trace.say(self.now(), line);
    }

    /// The running task waits for `what`.
    pub(super) fn waits(&self, what: &'static str) {
        self.wait.set(what);
    }

    pub(super) fn is_burying(&self) -> bool {
        self.burying.get()
    }

    /// Keeps a broken rule of the seam; the world's next step ends with it.
    pub(super) fn violate(&self, what: String) {
        self.say(|| format!("violation: {what}"));
        self.violations.borrow_mut().push(what);
    }

    pub(super) fn note(&self, noted: Noted) {
        self.trace.mix(noted.at.0, u64::from(noted.fact.kind), noted.fact.shard, noted.fact.index);
        self.trace.say(noted.at.0, || {
            format!("node {} core {} {:?}", noted.node, noted.core.0, noted.fact)
        });
        self.trace.note(noted);
    }

    // ---- nodes and cores

    /// The node of a number; made at its first mention.
    pub(super) fn node(&self, id: u64) -> Rc<Node> {
        let make = || Rc::new(Node::new(id, self.fresh_clock()));
        Rc::clone(self.nodes.borrow_mut().entry(id).or_insert_with(make))
    }

    pub(super) fn nodes(&self) -> Vec<Rc<Node>> {
        self.nodes.borrow().values().map(Rc::clone).collect()
    }

    fn fresh_clock(&self) -> Clock {
        if !self.profile.varied() {
            return Clock::exact();
        }
        let boot = self.streams.clock.between(1_000_000_000, 100_000_000_000);
        let drift = i32::try_from(self.streams.fault(Fault::ClockRate).below(2_001)).unwrap_or(0);
        let ppm = if self.hits(Fault::ClockRate) { drift - 1_000 } else { 0 };
        Clock::started(self.now(), boot, ppm)
    }

    /// The machine runs again, with a new boot clock, if it had no power.
    pub(super) fn power_on(&self, node: &Node) {
        if node.off.replace(false) && self.profile.varied() {
            node.clock.set(self.fresh_clock());
        }
    }

    pub(super) fn add_core(
        &self,
        life: Option<Rc<Life>>,
        no: CoreNo,
    ) -> (Key, Arc<OnceLock<CoreFailure>>) {
        let core = Core::new(life, no, self.now());
        let failure = Arc::clone(&core.failure);
        (self.sched.borrow_mut().cores.insert(core), failure)
    }

    pub(super) fn clients(&self) -> Key {
        self.clients
    }

    /// Adds a task. None: the core is gone and the future was dropped.
    pub(super) fn spawn(
        &self,
        core: Key,
        class: Class,
        future: Pin<Box<dyn Future<Output = ()>>>,
    ) -> Option<Key> {
        let spawned = self.sched.borrow_mut().spawn(core, class, future);
        spawned.ok()
    }

    /// Makes `future` the main future of a core.
    pub(super) fn set_root(&self, core: Key, future: Pin<Box<dyn Future<Output = ()>>>) {
        let task = self.spawn(core, Class::Core, future);
        if let Some(core) = self.sched.borrow_mut().cores.at_mut(core) {
            assert!(core.root.is_none(), "a core has one main future");
            core.root = task;
        }
    }

    /// Removes a core with its tasks and closures.
    fn end_core(&self, core: Key) {
        let tasks = self.sched.borrow_mut().remove_core(core);
        drop(tasks);
        let keys = self.jobs.borrow().keys(|job| job.core == core);
        for key in keys {
            let job = self.jobs.borrow_mut().remove(key);
            drop(job);
        }
    }

    /// Removes the cores of a life, now or when the running task is back.
    pub(super) fn end_cores(&self, life: &Rc<Life>) {
        let of_life = |core: &Core| core.life.as_ref().is_some_and(|its| Rc::ptr_eq(its, life));
        let cores = self.sched.borrow().cores.keys(of_life);
        self.doomed.borrow_mut().extend(cores);
        if self.running.get().is_none() {
            self.bury();
        }
    }

    fn bury(&self) {
        loop {
            let Some(core) = self.doomed.borrow_mut().pop() else { return };
            self.end_core(core);
        }
    }

    /// Ends everything that runs.
    pub(super) fn end(&self) {
        for node in self.nodes() {
            let life = node.end_life();
            self.end_cores(&life);
        }
        self.doomed.borrow_mut().push(self.clients);
        if !self.is_running() {
            self.bury();
        }
    }

    /// No core of the node runs before `until`.
    pub(super) fn freeze(&self, node: &Node, until: u64) {
        let life = node.life();
        let mut sched = self.sched.borrow_mut();
        for (_, core) in sched.cores.iter_mut() {
            if core.life.as_ref().is_some_and(|its| Rc::ptr_eq(its, &life)) {
                core.local = core.local.max(until);
            }
        }
    }

    // ---- one step

    /// Runs one task once, or lets one event happen, if that is before `end`. False: there is
    /// neither.
    pub(super) fn step(&self, end: u64) -> bool {
        let next = {
            let mut sched = self.sched.borrow_mut();
            sched.take_wakes(self.now(), None);
            sched.next(&self.streams.sched, end)
        };
        match next {
            Next::Nothing => return false,
            Next::Later => {
                self.set_now(end);
                return false;
            },
            Next::Run { task, core, at } => self.run(Running { task, core }, at),
            Next::Happen { event, at } => self.happen(event, at),
        }
        let broken = self.violations.borrow().first().cloned();
        assert!(broken.is_none(), "seed {}: {}", self.seed, broken.unwrap_or_default());
        true
    }

    fn run(&self, running: Running, at: u64) {
        let Some(mut body) = self.sched.borrow_mut().take(running.task) else { return };
        self.set_now(at);
        self.wait.set("a wake");
        self.running.set(Some(running));
        let Body { future, waker } = &mut body;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(waker))
        }));
        self.running.set(None);
        let spent = self.charge(running.core);
        let end = self.now() + spent;
        let yielder = self.yielded.replace(false).then_some(running.task);
        let root = {
            let mut sched = self.sched.borrow_mut();
            let core = sched.cores.at_mut(running.core);
            let root = core.is_some_and(|core| {
                core.local = core.local.max(end);
                core.root == Some(running.task)
            });
            sched.take_wakes(self.now(), yielder);
            root
        };
        let ended = match &polled {
            Ok(Poll::Pending) => 0,
            Ok(Poll::Ready(())) => 1,
            Err(_) => 2,
        };
        self.trace.mix(at, running.core.bits(), running.task.bits(), ended);
        match polled {
            Ok(Poll::Pending) => {
                let orphan = self.sched.borrow_mut().put(running.task, body, self.wait.get());
                drop(orphan);
            },
            Ok(Poll::Ready(())) => {
                self.remove_task(running.task, body);
                if root {
                    self.end_core(running.core);
                }
            },
            Err(panic) => {
                self.remove_task(running.task, body);
                self.core_panicked(running.core, panic);
            },
        }
        self.bury();
    }

    fn remove_task(&self, task: Key, body: Body) {
        let task = self.sched.borrow_mut().remove(task);
        drop(task);
        drop(body);
    }

    fn core_panicked(&self, core: Key, panic: Box<dyn Any + Send>) {
        if !self.tolerate_panics.get() || core == self.clients {
            resume_unwind(panic);
        }
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        let message = text.unwrap_or_else(|| "a panic without text".to_owned());
        self.say(|| format!("panic: {message}"));
        if let Some(core) = self.sched.borrow().cores.at(core) {
            // The first panic of a core is the one that is told.
            let _again: bool = core.failure.set(CoreFailure { message }).is_err();
        }
        self.end_core(core);
    }

    /// CPU time of one poll.
    fn charge(&self, core: Key) -> u64 {
        if core == self.clients {
            return 100;
        }
        if !self.profile.varied() {
            return 1_000;
        }
        if self.hits(Fault::CpuStall) {
            return self.streams.fault(Fault::CpuStall).magnitude(1_000_000, 50_000_000);
        }
        self.streams.sched.magnitude(200, 20_000)
    }

    pub(super) fn set_now(&self, at: u64) {
        self.latest.set(self.latest().max(at));
        self.now.set(at);
    }

    fn happen(&self, event: Event, at: u64) {
        match event {
            Event::Timer(key) => self.fire(key, at),
            Event::Disk(node, key) => {
                self.set_now(at);
                let node = self.node(node);
                self.disk_completes(&node, key);
            },
            Event::Job(key) => {
                self.set_now(at);
                self.run_job(key);
            },
            Event::Deliver(key, side) => {
                self.set_now(at);
                self.net_deliver(key, side);
            },
            Event::Answer(key) => {
                self.set_now(at);
                self.net_answer(key);
            },
        }
    }

    /// What every core waits with, for people.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut lines = self.sched.borrow().describe();
        lines.extend(self.nodes().iter().filter_map(|node| {
            let open = node.disk.borrow().in_flight();
            (open > 0).then(|| format!("node {}: {open} disk operations in flight", node.id))
        }));
        lines
    }

    /// The node and core of the running task; none: it is a client's.
    pub(super) fn running_at(&self) -> Option<(u64, u16)> {
        let running = self.running.get()?;
        let sched = self.sched.borrow();
        let core = sched.cores.at(running.core)?;
        Some((core.life.as_ref()?.node, core.no.0))
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.get().is_some()
    }

    /// Whether a core of the node runs; driven futures do not count.
    pub(super) fn alive(&self, node: u64) -> bool {
        let life = self.node(node).life();
        let runs = |core: &Core| {
            core.no != DRIVERS && core.life.as_ref().is_some_and(|its| Rc::ptr_eq(its, &life))
        };
        live(&life) && self.sched.borrow().cores.iter().any(|(_, core)| runs(core))
    }
}
