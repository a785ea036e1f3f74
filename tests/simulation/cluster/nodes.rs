//! The nodes of a run, from start to crash to start.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bowline::{EmbeddedEngine, Error};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, Profile, Rng, SimTask};
use tokio::sync::oneshot;

use super::load::Shared;
use super::plan::Trouble;

/// A start or an orderly stop may take this long, whatever the disk does.
const PATIENCE: Nanos = Nanos(60_000_000_000);
/// A node whose disk failed is started again after this.
const SICK_FOR: Nanos = Nanos(2_000_000_000);

/// What a node does now.
enum Phase {
    Down,
    Starting {
        task: SimTask<Result<EmbeddedEngine, Error>>,
        since: Nanos,
        /// A core of it ran.
        lived: bool,
        /// Nothing that was asked for may make it fail.
        whole: bool,
        /// Dropped with the phase: the start ends.
        _alive: oneshot::Sender<()>,
    },
    Up,
    Stopping {
        task: SimTask<Result<(), Error>>,
        since: Nanos,
    },
}

struct Node {
    phase: Phase,
    life: u64,
    sick_since: Option<Nanos>,
}

impl Node {
    const fn new() -> Self {
        Self { phase: Phase::Down, life: 0, sick_since: None }
    }
}

/// All nodes.
pub(crate) struct Nodes {
    shared: Rc<Shared>,
    rng: Rng,
    all: BTreeMap<u64, Node>,
    /// Handles of lives that are over. To drop one is to stop its node, and there is another life.
    graveyard: Vec<EmbeddedEngine>,
    /// A start that fails is a violation: the disks are good.
    whole: bool,
}

impl Nodes {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        let rng = Rng::new(shared.plan.seed ^ 0x6e6f_6465);
        let all = shared.plan.nodes.iter().map(|node| (*node, Node::new())).collect();
        let shared = Rc::clone(shared);
        let fails = shared.plan.troubles.contains(&Trouble::BadDisk);
        let whole = shared.plan.profile == Profile::calm() && !fails;
        Self { shared, rng, all, graveyard: Vec::new(), whole }
    }

    /// From now on every start succeeds.
    pub(crate) fn heal(&mut self) {
        self.whole = true;
    }

    fn node(&mut self, node: u64) -> &mut Node {
        self.all.get_mut(&node).expect("the node is one of the cluster")
    }

    pub(crate) fn start(&mut self, node: u64) {
        // One that left does not come back.
        if !self.all.get(&node).is_some_and(|it| matches!(it.phase, Phase::Down)) {
            return;
        }
        let setup = self.shared.plan.setup(node, &self.rng);
        let world = &self.shared.world;
        let (alive, mut killed) = oneshot::channel::<()>();
        let start = setup.start(world);
        let task = world.spawn_client(async move {
            let mut start = pin!(start);
            // A process that is killed does nothing more, its start neither.
            poll_fn(|cx| match Pin::new(&mut killed).poll(cx) {
                Poll::Ready(_) => {
                    Poll::Ready(Err(Error::Stopped { maybe_applied: false, cause: None }))
                },
                Poll::Pending => start.as_mut().poll(cx),
            })
            .await
        });
        let (since, lived, whole) = (world.now(), false, self.whole);
        let node = self.node(node);
        node.life += 1;
        node.sick_since = None;
        node.phase = Phase::Starting { task, since, lived, whole, _alive: alive };
    }

    /// A node that nobody knows yet.
    pub(crate) fn come(&mut self, node: u64) {
        self.all.insert(node, Node::new());
        self.shared.nodes.borrow_mut().push(node);
        self.start(node);
    }

    /// A node that is down is one of the cluster no more.
    pub(crate) fn go(&mut self, node: u64) {
        self.all.remove(&node);
        self.shared.nodes.borrow_mut().retain(|it| *it != node);
    }

    pub(crate) fn crash(&mut self, node: u64, how: Crash) {
        self.bury(node);
        self.shared.world.crash(node, how);
        self.node(node).phase = Phase::Down;
    }

    /// Begins an orderly stop of a node that is up.
    pub(crate) fn stop(&mut self, node: u64) -> bool {
        let Some((_, engine)) = self.shared.up.borrow().get(&node).cloned() else { return false };
        let stop = async move { engine.stop().await };
        let task = self.shared.world.spawn_client(stop);
        let since = self.shared.world.now();
        self.node(node).phase = Phase::Stopping { task, since };
        true
    }

    /// Takes a node from the clients, with what it counted.
    fn bury(&mut self, node: u64) {
        let Some((_, engine)) = self.shared.up.borrow_mut().remove(&node) else { return };
        self.shared.tally.borrow_mut().harvest(&engine.metrics());
        self.graveyard.push(engine);
    }

    /// Notes what happened by itself: starts and stops that ended, crashes that were ordered. The
    /// nodes that went down are given.
    pub(crate) fn look(&mut self) -> Vec<u64> {
        let mut down = Vec::new();
        for node in self.shared.all() {
            if self.look_at(node) {
                down.push(node);
            }
        }
        down
    }

    /// True: the node went down.
    fn look_at(&mut self, node: u64) -> bool {
        let world = self.shared.world.clone();
        let alive = world.alive(node);
        let late = |since: Nanos| world.now().since(since) > PATIENCE;
        match &mut self.node(node).phase {
            Phase::Down => false,
            Phase::Up => {
                let given_up = self.is_given_up(node);
                if alive && given_up {
                    // As whoever runs it would do.
                    self.crash(node, Crash::Kill);
                } else if !alive {
                    self.bury(node);
                    self.node(node).phase = Phase::Down;
                }
                given_up || !alive
            },
            Phase::Stopping { task, since } => {
                assert!(!late(*since), "node {node} does not stop: {}", waiting(&world));
                let done = task.is_done();
                if done && let Some(Err(error)) = task.take() {
                    println!("  the stop of node {node} is not clean: {error}");
                }
                if done || !alive {
                    self.crash(node, Crash::Kill);
                }
                done || !alive
            },
            Phase::Starting { task, since, lived, .. } => {
                assert!(!late(*since), "node {node} does not start: {}", waiting(&world));
                *lived |= alive;
                let crashed = *lived && !alive && !task.is_done();
                if crashed {
                    // Or a start that fails is about to say so, with its lock still held.
                    self.crash(node, Crash::Kill);
                    return true;
                }
                task.is_done() && self.started(node)
            },
        }
    }

    /// A start ended. True: the node is down.
    fn started(&mut self, node: u64) -> bool {
        let alive = self.shared.world.alive(node);
        let known = self.node(node);
        let Phase::Starting { task, whole, .. } = &known.phase else { return false };
        let whole = *whole;
        match task.take() {
            Some(Ok(engine)) => {
                known.phase = Phase::Up;
                let life = known.life;
                self.shared.up.borrow_mut().insert(node, (life, engine));
                false
            },
            other => {
                if let Some(Err(error)) = other {
                    let wrong = matches!(error, Error::Config(_));
                    assert!(!wrong && (!whole || !alive), "node {node} does not start: {error:#}");
                    println!("  a start of node {node} fails: {error}");
                }
                self.shared.tally.borrow_mut().failed_starts += 1;
                self.crash(node, Crash::Kill);
                true
            },
        }
    }

    /// Whether a fault of its disk closed shards of a node that is up, and they are not back.
    pub(crate) fn is_sick(&self, node: u64) -> bool {
        let up = self.shared.up.borrow();
        let Some((_, engine)) = up.get(&node) else { return false };
        let failed = || engine.metrics().cores.iter().any(|core| core.shards_failed > 0);
        !engine.status().leaderless.is_empty() && failed()
    }

    /// Whether it has been sick for long.
    fn is_given_up(&mut self, node: u64) -> bool {
        let (sick, now) = (self.is_sick(node), self.shared.world.now());
        let known = self.node(node);
        known.sick_since = known.sick_since.or(Some(now)).filter(|_| sick);
        known.sick_since.is_some_and(|since| now.since(since) > SICK_FOR)
    }

    pub(crate) fn is_up(&self, node: u64) -> bool {
        self.all.get(&node).is_some_and(|it| matches!(it.phase, Phase::Up))
    }

    pub(crate) fn is_down(&self, node: u64) -> bool {
        self.all.get(&node).is_none_or(|it| matches!(it.phase, Phase::Down))
    }
}

/// What everything waits with.
fn waiting(world: &bowline_env::sim::World) -> String {
    let stalled = world.run_until(|| false, Nanos(0));
    stalled.map_or_else(|stalled| stalled.to_string(), |()| String::new())
}
