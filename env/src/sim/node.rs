//! Nodes: their lives, and the factory that starts their cores.
//!
//! A [`SimFactory`] is `Send + Sync` because production code keeps one across threads, but a world
//! lives on one thread: the factory holds numbers, and finds the world in a table of the thread
//! that made it. On any other thread it finds nothing: `spawn_core` and `drive` fail with
//! `Closed`, and `claim` with `NotADirectory`.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::clock::Clock;
use super::disk::Disk;
use super::env::{Place, SimEnv};
use super::inner::Inner;
use super::sched::{DRIVERS, Life};
use super::slab::Key;
use crate::{
    Claim, ClaimError, CoreFailure, CoreNo, CoreOptions, CoreThread, DirFacts, EnvError,
    EnvFactory, Facts, FileSystem, Kind, Nanos, Op, UringState,
};

/// CPUs of a simulated machine.
const CPUS: u32 = 64;

thread_local! {
    static WORLDS: RefCell<Worlds> = const { RefCell::new(Worlds { next: 0, known: Vec::new() }) };
}

struct Worlds {
    next: u64,
    known: Vec<(u64, Weak<Inner>)>,
}

/// Gives a world its number on this thread.
pub(super) fn number_world() -> u64 {
    WORLDS.with_borrow_mut(|worlds| {
        worlds.next += 1;
        worlds.next
    })
}

/// Makes a world known to the factories of this thread.
pub(super) fn publish_world(inner: &Rc<Inner>) {
    WORLDS.with_borrow_mut(|worlds| {
        worlds.known.retain(|(_, known)| known.strong_count() > 0);
        worlds.known.push((inner.id(), Rc::downgrade(inner)));
    });
}

/// The world of a number, on this thread.
pub(super) fn find_world(id: u64) -> Option<Rc<Inner>> {
    WORLDS
        .try_with(|worlds| {
            let worlds = worlds.borrow();
            worlds.known.iter().find(|(known, _)| *known == id)?.1.upgrade()
        })
        .ok()?
}

/// Whether a life goes on (I2).
pub(super) fn live(life: &Life) -> bool {
    life.alive.get()
}

/// A machine: what survives a crash, and the life it is in.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) life: RefCell<Rc<Life>>,
    pub(super) disk: RefCell<Disk>,
    pub(super) clock: Cell<Clock>,
    /// No power since the last crash.
    pub(super) off: Cell<bool>,
    /// The number of the claim that holds the data directory.
    claim: Cell<Option<u64>>,
    claims: Cell<u64>,
    /// Where driven futures of this life run.
    pub(super) drivers: Cell<Option<Key>>,
}

impl Node {
    pub(super) fn new(id: u64, clock: Clock) -> Self {
        let life = Life { node: id, number: 0, alive: Cell::new(true) };
        Self {
            id,
            life: RefCell::new(Rc::new(life)),
            disk: RefCell::new(Disk::new()),
            clock: Cell::new(clock),
            off: Cell::new(false),
            claim: Cell::new(None),
            claims: Cell::new(0),
            drivers: Cell::new(None),
        }
    }

    /// Boot time at a time of the world.
    pub(super) fn boot(&self, world: u64) -> Nanos {
        self.clock.get().boot(world)
    }

    /// The life it is in.
    pub(super) fn life(&self) -> Rc<Life> {
        Rc::clone(&self.life.borrow())
    }

    /// Ends the life and begins the next. The old one is given.
    pub(super) fn end_life(&self) -> Rc<Life> {
        let mut life = self.life.borrow_mut();
        life.alive.set(false);
        self.claim.set(None);
        self.drivers.set(None);
        let number = life.number + 1;
        let new = Rc::new(Life { node: self.id, number, alive: Cell::new(true) });
        core::mem::replace(&mut *life, new)
    }
}

/// Makes the cores of one simulated node. Usable on the thread of its world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SimFactory {
    world: u64,
    node: u64,
}

impl fmt::Debug for SimFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFactory(node {})", self.node)
    }
}

impl SimFactory {
    pub(super) fn new(world: u64, node: u64) -> Self {
        Self { world, node }
    }

    /// The node's number.
    pub fn number(self) -> u64 {
        self.node
    }

    fn find(self) -> Option<(Rc<Inner>, Rc<Node>)> {
        let inner = find_world(self.world)?;
        let node = inner.node(self.node);
        Some((inner, node))
    }
}

/// The held claim: gives it back when dropped in the life that took it.
struct Held {
    world: u64,
    node: u64,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(inner) = find_world(self.world) else { return };
        let node = inner.node(self.node);
        if node.claim.get() == Some(self.number) {
            node.claim.set(None);
        }
    }
}

impl EnvFactory for SimFactory {
    type Env = SimEnv;

    fn facts(&self) -> Facts {
        let (empty, founded, free) = self.find().map_or((true, false, 0), |(_, node)| {
            let disk = node.disk.borrow();
            (disk.is_empty(), disk.has("NODE"), disk.free())
        });
        Facts {
            cpus: (0..CPUS).collect(),
            cpu_quota_percent: None,
            memory: 16 << 30,
            memlock: None,
            open_files: (65_536, 65_536),
            kernel: "6.12.0".to_owned(),
            io_uring: UringState::Ready,
            dir: DirFacts {
                path: format!("/sim/{}", self.node),
                exists: true,
                empty,
                founded,
                writable: Ok(()),
                open_to_others: false,
                file_system: FileSystem::Ext4,
                direct_io: true,
                align: 512,
                free,
            },
            disk_irq_cpus: Vec::new(),
        }
    }

    fn claim(&self) -> Result<Claim, ClaimError> {
        let (inner, node) = self.find().ok_or(ClaimError::NotADirectory)?;
        inner.power_on(&node);
        if node.claim.get().is_some() {
            let pid = u32::try_from(self.node).unwrap_or(u32::MAX);
            return Err(ClaimError::InUse { holder: Some((pid, "bowline".to_owned())) });
        }
        node.disk.borrow_mut().lock_file();
        let number = node.claims.get() + 1;
        node.claims.set(number);
        node.claim.set(Some(number));
        Ok(Claim::new(Held { world: self.world, node: self.node, number }))
    }

    fn spawn_core<F, T>(&self, options: CoreOptions, main: F) -> Result<CoreThread, EnvError>
    where
        F: FnOnce(Self::Env) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let found = self.find().ok_or(EnvError::new(Op::Spawn, Kind::Closed))?;
        let (inner, node) = found;
        if options.cpu >= CPUS {
            return Err(EnvError::new(Op::Spawn, Kind::Unsupported));
        }
        let (env, failure) = start_core(&inner, &node, options.core);
        let root = env.place().core;
        inner.set_root(root, Box::pin(async move { main(env).await }));
        Ok(CoreThread::new(move || {
            failure.get().map_or(Ok(()), |failure: &CoreFailure| Err(failure.clone()))
        }))
    }

    fn drive(
        &self,
        name: &'static str,
        job: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), EnvError> {
        let found = self.find().ok_or(EnvError::new(Op::Spawn, Kind::Closed))?;
        let (inner, node) = found;
        inner.power_on(&node);
        inner.say(|| format!("node {} drives {name}", node.id));
        let core = node.drivers.get().unwrap_or_else(|| {
            let core = inner.add_core(Some(node.life()), DRIVERS).0;
            node.drivers.set(Some(core));
            core
        });
        inner.spawn(core, crate::Class::Core, Box::pin(job));
        Ok(())
    }
}

/// Starts a core without a main future.
pub(super) fn start_core(
    inner: &Rc<Inner>,
    node: &Rc<Node>,
    no: CoreNo,
) -> (SimEnv, Arc<std::sync::OnceLock<CoreFailure>>) {
    inner.power_on(node);
    let life = node.life();
    let (core, failure) = inner.add_core(Some(Rc::clone(&life)), no);
    inner.say(|| format!("node {} life {} core {} starts", node.id, life.number, no.0));
    (SimEnv::new(Place::new(inner, node, life, (core, no))), failure)
}
