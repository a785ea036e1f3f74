//! The state of one core, and the loop that turns it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::{Bell, Class, Env, Nanos};
use bowline_raft::{NodeId, Outbox, RaftCore, ReadMode, ShardId, Slot};
use bowline_statemachine::{Limits, Machine, Output};
use bowline_wal::{BatchRef, GcWork, LogStorage};
use bytes::Bytes;

use super::drain::Drain;
use super::jobs::Publishing;
use super::lanes::Lanes;
use super::leaders::Handing;
use super::local::LocalShard;
use super::logs::Logs;
use super::mail::Mail;
use super::members::{Agreed, Members};
use super::queue::Pending;
use super::replica::{Question, Replica, SharedStore};
use super::transfer::Transfers;
use crate::ShardFailure;
use crate::board::{Board, LeaderChange};
use crate::config::Leaders;
use crate::metrics::CoreCounters;
use crate::op::mark_core_thread;
use crate::request::Request;
use crate::ring::Inbox;
use crate::ticket::{Ticket, WakeList};

/// A core with nothing to do looks at the time this often.
const TICK_IDLE: Nanos = Nanos::from_millis(50);
/// No core looks at the time more often than this.
const TICK_MIN: Nanos = Nanos::from_millis(1);
/// A core with tickets or jobs looks at the time this often.
const TICK_BUSY: Nanos = Nanos::from_millis(5);

/// Limits of a core, out of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Client bytes queued, in the log, or not applied.
    pub(crate) core_budget: usize,
    /// Bytes of writes that wait for a leader.
    pub(crate) parked: usize,
    /// How long one of them waits.
    pub(crate) park: Nanos,
    /// How long the idle loop may spin before it sleeps.
    pub(crate) spin: Nanos,
    /// How long handing leaderships over may take when stopping.
    pub(crate) handing: Nanos,
    /// Bytes a second of states that are sent.
    pub(crate) transfer: u64,
    /// Which members are preferred as leaders.
    pub(crate) leaders: Leaders,
    /// How long stopping may take.
    pub(crate) drain: Nanos,
    /// Deadline of a call on the core, in milliseconds.
    pub(crate) timeout_ms: u32,
}

/// How the shards of a node are laid out, and the core's place in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) shards: u32,
    pub(crate) streams: u16,
    pub(crate) cores: u16,
    pub(crate) core: u16,
}

/// A call that waits for a leader.
pub(crate) enum Waits {
    Write(Pending),
    Read(ReadMode, Question),
}

/// A call that waits for a leader, and how long.
pub(crate) struct Parked {
    pub(crate) slot: Slot,
    pub(crate) call: Waits,
    pub(crate) bytes: usize,
    pub(crate) until: Nanos,
}

/// Everything of one core but its tasks.
pub(crate) struct Core<E: Env, L: LogStorage, M: Machine<E>> {
    pub(crate) env: E,
    pub(crate) bell: Bell,
    pub(crate) node: NodeId,
    pub(crate) options: Options,
    pub(crate) limits: Limits,
    pub(crate) raft: RaftCore,
    pub(crate) out: Outbox,
    pub(crate) logs: Logs<L>,
    /// By slot.
    pub(crate) replicas: Vec<Replica<M>>,
    /// By slot: the configuration as of what is applied, encoded.
    pub(crate) confs: Vec<Agreed>,
    /// Of shards that never flushed and whose configuration changed: that of their founding.
    pub(crate) founded_with: BTreeMap<Slot, Bytes>,
    pub(crate) slots: BTreeMap<ShardId, Slot>,
    pub(crate) store: SharedStore<E>,
    pub(crate) mail: Rc<Mail<E>>,
    pub(crate) lanes: Lanes<E>,
    pub(crate) transfers: Transfers<E, M>,
    pub(crate) members: Members<M>,
    /// How shards are laid out, on a node that was added to its cluster.
    pub(crate) join: Option<Layout>,
    pub(crate) inbox: Inbox,
    pub(crate) board: Arc<Board>,
    pub(crate) counters: Arc<CoreCounters>,
    pub(crate) wakes: WakeList,
    /// Replicas whose leadership the board was told of.
    pub(crate) announced: usize,
    /// Leaderships that changed in this pass.
    pub(crate) changes: Vec<LeaderChange>,
    /// Slots with entries to apply, first come first served.
    pub(crate) to_apply: VecDeque<Slot>,
    /// Replicas whose entries are being read from the log's files.
    pub(crate) fetches: usize,
    /// Slots that wait for one of those reads to end.
    pub(crate) unfetched: VecDeque<Slot>,
    /// Slots whose entries wait for room in the core's deltas.
    pub(crate) starved: Vec<Slot>,
    /// Slots that applied something since the last tick, or wait to try a job again.
    pub(crate) touched: Vec<Slot>,
    /// Slots that hold tickets with deadlines.
    pub(crate) ticketed: Vec<Slot>,
    pub(crate) parked: VecDeque<Parked>,
    pub(crate) parked_bytes: usize,
    /// A shard got a leader: what is parked may go on.
    pub(crate) elected: bool,
    pub(crate) publishing: VecDeque<Publishing<E>>,
    pub(crate) unstaged: Vec<super::jobs::Unstaged<E>>,
    pub(crate) flush_waits: Vec<super::jobs::FlushWait>,
    pub(crate) jobs_running: usize,
    pub(crate) local_jobs: Vec<(ShardId, LocalJob)>,
    /// Shards of this core that could not be opened at all, and why.
    pub(crate) lost: BTreeMap<ShardId, ShardFailure>,
    /// Reused by the pass.
    pub(crate) requests: Vec<Request>,
    pub(crate) gc_at: Nanos,
    pub(crate) gc_work: Vec<GcWork>,
    pub(crate) read_token: u64,
    pub(crate) drain: Option<Drain>,
    pub(crate) stop_tickets: Vec<Ticket>,
    /// When preferred leaders are looked for again.
    pub(crate) prefer_at: Nanos,
    /// Callers who wait until another node leads.
    pub(crate) handing: Vec<Handing>,
    /// Reused by apply.
    pub(crate) batches: Vec<BatchRef>,
    pub(crate) outputs: Vec<Output>,
    /// Streams whose failure was told to raft.
    pub(crate) failed_streams: Vec<bool>,
}

/// A closure that a caller sent to run here.
pub(crate) type LocalJob = Box<dyn FnOnce(LocalShard) + Send>;

/// A core shared by its loop and the tasks of its own thread.
pub(crate) type SharedCore<E, L, M> = Rc<RefCell<Core<E, L, M>>>;

/// What a pass leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Work that waits for nothing.
    Work,
    /// Nothing until something arrives.
    Nothing,
    /// Nothing, ever: it is drained.
    Drained,
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    pub(crate) fn slot_of(&self, shard: ShardId) -> Option<Slot> {
        self.slots.get(&shard).copied()
    }

    /// Whether nothing has arrived that a pass would take.
    pub(crate) fn is_idle(&self) -> bool {
        self.mail.is_empty() && self.inbox.is_empty() && !self.lanes.nudge.is_rung()
    }

    fn is_busy(&self) -> bool {
        !self.ticketed.is_empty()
            || !self.starved.is_empty()
            || !self.parked.is_empty()
            || !self.handing.is_empty()
            || self.members.is_busy()
            || !self.jobs_are_over()
            || self.drain.is_some()
            || self.lanes.is_wanting()
    }

    /// How long the core may sleep.
    fn period(&self) -> Nanos {
        if self.is_busy() {
            return TICK_BUSY;
        }
        let now = self.env.now().0;
        let due = self.raft.next_deadline().map_or(u64::MAX, |due| due.0.saturating_sub(now));
        Nanos(due.clamp(TICK_MIN.0, TICK_IDLE.0))
    }
}

/// Turns a core until it is drained.
pub(crate) async fn run<E: Env, L: LogStorage, M: Machine<E>>(
    core: &SharedCore<E, L, M>,
    bell: &Bell,
) {
    let (env, mail, spin, counters) = {
        let core = core.borrow();
        let counters = Arc::clone(&core.counters);
        (core.env.clone(), Rc::clone(&core.mail), core.options.spin, counters)
    };
    drop(env.spawn(Class::Core, tick(env.clone(), Rc::downgrade(core), mail)));
    let mut idle = Idle { cap: spin, gap: spin.0 / 2, counters };
    loop {
        let left = pass(core);
        match left {
            Left::Work => env.breathe().await,
            Left::Nothing => idle.wait(&env, bell, || core.borrow().is_idle()).await,
            Left::Drained => return,
        }
    }
}

/// One pass, on a thread marked as a core's; wakes callers once at its end.
pub(crate) fn pass<E: Env, L: LogStorage, M: Machine<E>>(core: &SharedCore<E, L, M>) -> Left {
    let mark = mark_core_thread();
    let mut held = core.borrow_mut();
    // A defect ends this core, not the callers that wait for it.
    let left = catch_unwind(AssertUnwindSafe(|| held.pass())).unwrap_or_else(|panic| {
        held.abandon();
        resume_unwind(panic)
    });
    let jobs = std::mem::take(&mut held.local_jobs);
    let mut wakes = std::mem::take(&mut held.wakes);
    drop(held);
    for (shard, job) in jobs {
        job(LocalShard::new(core, shard));
    }
    wakes.wake_all();
    let mut held = core.borrow_mut();
    if held.wakes.is_empty() {
        held.wakes = wakes;
    }
    drop(mark);
    left
}

/// Tells the loop that time passed, often while something has a deadline.
async fn tick<E: Env, L: LogStorage, M: Machine<E>>(
    env: E,
    core: std::rc::Weak<RefCell<Core<E, L, M>>>,
    mail: Rc<Mail<E>>,
) {
    while let Some(core) = core.upgrade() {
        let period = core.borrow().period();
        drop(core);
        env.sleep_until(env.now().after(period)).await;
        mail.tick();
    }
}

/// How a loop with nothing to do waits: it spins if what it waits for tends to come soon.
struct Idle {
    cap: Nanos,
    /// Moving average of the time until the next event, in nanoseconds.
    gap: u64,
    counters: Arc<CoreCounters>,
}

impl Idle {
    async fn wait<E: Env>(&mut self, env: &E, bell: &Bell, idle: impl Fn() -> bool + Unpin) {
        if self.cap.0 == 0 {
            self.counters.parks.add(1);
            bell.park(idle).await;
            return;
        }
        let start = env.now();
        if self.gap <= self.cap.0 {
            env.yield_now().await;
            let until = start.after(Nanos(2 * self.gap));
            while env.now() < until {
                if !idle() || env.io_ready() {
                    self.learn(env.now().since(start).0);
                    env.yield_now().await;
                    return;
                }
                core::hint::spin_loop();
            }
        }
        self.counters.parks.add(1);
        bell.park(idle).await;
        self.learn(env.now().since(start).0);
    }

    const fn learn(&mut self, gap: u64) {
        self.gap = (self.gap * 7 + gap) / 8;
    }
}
