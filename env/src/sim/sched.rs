//! Tasks, cores and events: who runs next, and what happens when.
//!
//! ```text
//! heap    (time, order, event): completions, timers, deliveries
//! core    local time; rounds of ready tasks, any task of the first round may run next
//! step    the core with ready tasks and the smallest local time, or the event that is due first
//! ```
//!
//! A wake puts a task into the last round; a task that yields opens a new round, so everything
//! that was ready when it yielded runs before it, and nothing that became ready later starves it.

use core::cell::Cell;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::task::Wake;

use super::rng::Rng;
use super::slab::{Key, Slab};
use crate::{Class, CoreFailure, CoreNo};

/// The number of the place where a node's driven futures run.
pub(super) const DRIVERS: CoreNo = CoreNo(u16::MAX);
/// Tasks of one core that a description names.
const DESCRIBED_MAX: usize = 16;

/// One life of a node: from its start to its crash.
#[derive(Debug)]
pub(super) struct Life {
    /// The node.
    pub(super) node: u64,
    /// How often the node had crashed before.
    pub(super) number: u32,
    /// False from the crash on.
    pub(super) alive: Cell<bool>,
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A timer.
    Timer(Key),
    /// A disk operation of a node.
    Disk(u64, Key),
    /// A closure handed to the helper.
    Job(Key),
    /// Bytes, an end or a reset reach one side of a connection.
    Deliver(Key, u8),
    /// A connection attempt is answered.
    Answer(Key),
}

/// A future and its waker.
pub(super) struct Body {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) waker: Waker,
}

pub(super) struct Task {
    pub(super) core: Key,
    class: Class,
    /// Taken while it runs.
    body: Option<Body>,
    /// What it waits for.
    waits: &'static str,
    wake: Arc<TaskWake>,
}

/// What a waker does: it queues the key of its task, once until the task runs.
pub(super) struct TaskWake {
    key: Key,
    queued: AtomicBool,
    queue: Sender<Key>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            // The world is gone when nobody receives: nothing is left to wake.
            let _gone: bool = self.queue.send(self.key).is_err();
        }
    }
}

/// Ready tasks in rounds.
#[derive(Default)]
struct Rounds {
    open: VecDeque<Vec<Key>>,
    spare: Vec<Vec<Key>>,
    ready: usize,
}

impl Rounds {
    fn push(&mut self, key: Key, yielded: bool) {
        let opens = match self.open.back() {
            None => true,
            Some(last) => yielded && !last.is_empty(),
        };
        if opens {
            self.open.push_back(self.spare.pop().unwrap_or_default());
        }
        self.open.back_mut().expect("a round is open").push(key);
        self.ready += 1;
    }

    fn pop(&mut self, rng: &Rng) -> Option<Key> {
        loop {
            let round = self.open.front_mut()?;
            if round.is_empty() {
                self.spare.extend(self.open.pop_front());
                continue;
            }
            let at = if round.len() == 1 { 0 } else { rng.index(round.len()) };
            self.ready -= 1;
            return Some(round.swap_remove(at));
        }
    }
}

/// A simulated core, or the place where the tasks of clients run.
pub(super) struct Core {
    /// The life it belongs to; none: clients.
    pub(super) life: Option<Rc<Life>>,
    pub(super) no: CoreNo,
    /// How far it got.
    pub(super) local: u64,
    /// Its main future; its end is the core's end.
    pub(super) root: Option<Key>,
    /// Where its failure is told.
    pub(super) failure: Arc<OnceLock<CoreFailure>>,
    /// When the helper has done the last closure of this core.
    pub(super) helper_free: u64,
    /// Closures waiting for the helper.
    pub(super) jobs: usize,
    main: Rounds,
    background: Rounds,
}

impl Core {
    pub(super) fn new(life: Option<Rc<Life>>, no: CoreNo, local: u64) -> Self {
        Self {
            life,
            no,
            local,
            root: None,
            failure: Arc::default(),
            helper_free: 0,
            jobs: 0,
            main: Rounds::default(),
            background: Rounds::default(),
        }
    }

    fn ready(&self) -> usize {
        self.main.ready + self.background.ready
    }

    fn pop(&mut self, rng: &Rng) -> Option<Key> {
        let background = self.background.ready > 0 && (self.main.ready == 0 || rng.ratio(1, 10));
        if background { self.background.pop(rng) } else { self.main.pop(rng) }
    }
}

/// What comes next.
pub(super) enum Next {
    /// Nothing is ready and nothing will happen.
    Nothing,
    /// Something, after the end.
    Later,
    /// A task runs at a time.
    Run { task: Key, core: Key, at: u64 },
    /// An event happens at a time.
    Happen { event: Event, at: u64 },
}

/// The tasks, cores and events of a world.
pub(super) struct Sched {
    pub(super) cores: Slab<Core>,
    tasks: Slab<Task>,
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    sender: Sender<Key>,
    woken: Receiver<Key>,
}

impl Sched {
    pub(super) fn new() -> Self {
        let (sender, woken) = channel();
        Self {
            cores: Slab::default(),
            tasks: Slab::default(),
            heap: BinaryHeap::new(),
            order: 0,
            sender,
            woken,
        }
    }

    /// Adds an event.
    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.heap.push(Reverse((at, self.order, event)));
    }

    /// When the first event is due.
    pub(super) fn due(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Adds a task and makes it ready. None: the core is gone, `future` comes back.
    pub(super) fn spawn(
        &mut self,
        core: Key,
        class: Class,
        future: Pin<Box<dyn Future<Output = ()>>>,
    ) -> Result<Key, Pin<Box<dyn Future<Output = ()>>>> {
        if self.cores.at(core).is_none() {
            return Err(future);
        }
        let queue = Sender::clone(&self.sender);
        let key = self.tasks.insert_with(|key| {
            let wake = Arc::new(TaskWake { key, queued: AtomicBool::new(false), queue });
            let waker = Waker::from(Arc::clone(&wake));
            Task { core, class, body: Some(Body { future, waker }), waits: "its first turn", wake }
        });
        self.tasks.at(key).expect("it was inserted").wake.wake_by_ref();
        Ok(key)
    }

    /// Makes the woken tasks ready; `yielder` opens a new round.
    pub(super) fn take_wakes(&mut self, now: u64, yielder: Option<Key>) {
        while let Ok(key) = self.woken.try_recv() {
            let Some(task) = self.tasks.at(key) else { continue };
            let (core, class) = (task.core, task.class);
            let Some(core) = self.cores.at_mut(core) else { continue };
            if core.ready() == 0 {
                core.local = core.local.max(now);
            }
            let rounds = match class {
                Class::Core => &mut core.main,
                Class::Background => &mut core.background,
            };
            rounds.push(key, yielder == Some(key));
        }
    }

    /// Chooses what comes next, up to `end`, and takes it.
    pub(super) fn next(&mut self, rng: &Rng, end: u64) -> Next {
        let mut best: Option<(u64, Key)> = None;
        let mut ties = 1;
        for (key, core) in self.cores.iter() {
            if core.ready() == 0 {
                continue;
            }
            match best {
                Some((local, _)) if local < core.local => {},
                Some((local, _)) if local == core.local => {
                    ties += 1;
                    if rng.ratio(1, ties) {
                        best = Some((local, key));
                    }
                },
                _ => {
                    ties = 1;
                    best = Some((core.local, key));
                },
            }
        }
        if let Some(due) = self.due()
            && best.is_none_or(|(local, _)| due <= local)
        {
            if due > end {
                return Next::Later;
            }
            let Reverse((at, _, event)) = self.heap.pop().expect("one is due");
            return Next::Happen { event, at };
        }
        let Some((at, key)) = best else { return Next::Nothing };
        if at > end {
            return Next::Later;
        }
        let core = self.cores.at_mut(key).expect("it was just seen");
        let task = core.pop(rng).expect("a task of it is ready");
        Next::Run { task, core: key, at }
    }

    /// Takes the body of a task that is about to run.
    pub(super) fn take(&mut self, key: Key) -> Option<Body> {
        let task = self.tasks.at_mut(key)?;
        task.wake.queued.store(false, Ordering::Release);
        task.body.take()
    }

    /// Gives a body back. It comes back if the task is gone.
    pub(super) fn put(&mut self, key: Key, body: Body, waits: &'static str) -> Option<Body> {
        match self.tasks.at_mut(key) {
            Some(task) => {
                task.body = Some(body);
                task.waits = waits;
                None
            },
            None => Some(body),
        }
    }

    /// Removes a task.
    pub(super) fn remove(&mut self, key: Key) -> Option<Task> {
        self.tasks.remove(key)
    }

    /// Removes a core and its tasks.
    pub(super) fn remove_core(&mut self, core: Key) -> Vec<Task> {
        let _core: Option<Core> = self.cores.remove(core);
        let keys = self.tasks.keys(|task| task.core == core);
        keys.into_iter().filter_map(|key| self.tasks.remove(key)).collect()
    }

    /// What every core waits with, for people.
    pub(super) fn describe(&self) -> Vec<String> {
        let line = |(key, core): (Key, &Core)| {
            let mut waits: Vec<_> =
                self.tasks.iter().filter(|(_, task)| task.core == key).collect();
            waits.truncate(DESCRIBED_MAX);
            let waits: Vec<_> = waits.into_iter().map(|(_, task)| task.waits).collect();
            let whose = match &core.life {
                None => "clients".to_owned(),
                Some(life) if core.no == DRIVERS => format!("node {} drivers", life.node),
                Some(life) => {
                    format!("node {} life {} core {}", life.node, life.number, core.no.0)
                },
            };
            (!waits.is_empty()).then(|| format!("{whose} waits for {}", waits.join(", ")))
        };
        self.cores.iter().filter_map(line).collect()
    }
}
