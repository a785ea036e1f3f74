//! A shard as its home core sees it: no ring, no wake of another thread.
//!
//! Calls go straight into the core's state; a write leaves with the pass that follows, a read that
//! needs nothing is answered in the call.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bowline_env::{Bell, Class, Env, Nanos};
use bowline_raft::{ShardId, Slot};
use bowline_statemachine::kv::Item;
use bowline_statemachine::{Answer, Machine, Query};
use bowline_wal::LogStorage;

use super::gate::Gate;
use super::read::Later;
use super::run::{Core, SharedCore};
use crate::op::Op;
use crate::request::{Call, Consistency, Request};
use crate::shard::to_end;
use crate::ticket::{Reply, issue};
use crate::{Budget, Error};

/// What a [`LocalShard`] asks of its core, whatever log and machine that has.
pub(crate) trait LocalCore {
    /// Answers a read in the call; none: it has to wait.
    fn read_at_once(
        &self,
        slot: Slot,
        consistency: Consistency,
        query: &Query,
    ) -> Option<Result<Answer, Error>>;
    /// As a read of [`Query::Get`], of a key that nobody copies.
    fn item_at_once(
        &self,
        slot: Slot,
        consistency: Consistency,
        key: &[u8],
    ) -> Result<Option<Item>, Later>;
    /// Takes a request.
    fn take(&self, request: Request);
    /// Runs a task on the core.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>);
    /// Resolves after `span`.
    fn sleep(&self, span: Nanos) -> Pin<Box<dyn Future<Output = ()>>>;
}

struct Shared<E: Env, L: LogStorage, M: Machine<E>> {
    core: SharedCore<E, L, M>,
    env: E,
    bell: Bell,
    gate: Rc<Gate>,
}

impl<E: Env, L: LogStorage, M: Machine<E>> Shared<E, L, M> {
    fn slot_and_core<R>(&self, f: impl FnOnce(&mut Core<E, L, M>) -> R) -> Option<R> {
        // A user's `apply` runs while the core is borrowed; a call from there is turned away.
        self.core.try_borrow_mut().ok().map(|mut core| f(&mut core))
    }
}

impl<E: Env, L: LogStorage, M: Machine<E>> LocalCore for Shared<E, L, M> {
    fn read_at_once(
        &self,
        slot: Slot,
        consistency: Consistency,
        query: &Query,
    ) -> Option<Result<Answer, Error>> {
        self.core.try_borrow().ok()?.read_at_once(slot, consistency, query)
    }

    fn item_at_once(
        &self,
        slot: Slot,
        consistency: Consistency,
        key: &[u8],
    ) -> Result<Option<Item>, Later> {
        let core = self.core.try_borrow().map_err(|_applying| Later)?;
        core.item_at_once(slot, consistency, key)
    }

    fn take(&self, request: Request) {
        let mut request = Some(request);
        let taken = self.slot_and_core(|core| {
            core.logs.now = core.env.now();
            if let Some(request) = request.take() {
                core.admit(request);
            }
        });
        if taken.is_none()
            && let Some(request) = request
        {
            let error = super::admit::busy(Budget::Core);
            request.ticket.complete_now(Err(error));
        }
        self.bell.ring();
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>) {
        // What sleeps when the executor ends would never be dropped, nor its callers answered.
        let gate = Rc::clone(&self.gate);
        drop(self.env.spawn(Class::Core, async move {
            let _: Option<()> = gate.or(task).await;
        }));
    }

    fn sleep(&self, span: Nanos) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.env.sleep_until(self.env.now().after(span)))
    }
}

/// A shard on its home core. Not `Send`; made by `Shard::run_local`.
#[derive(Clone)]
pub struct LocalShard {
    shard: ShardId,
    core: Rc<dyn LocalCore>,
    /// Where the core has it; none: the core could not open it.
    slot: Option<Slot>,
    timeout_ms: u32,
    /// Shards of the node: whose key it is depends on them. 0: not known, nothing is checked.
    shards: u32,
}

impl std::fmt::Debug for LocalShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalShard({})", self.shard)
    }
}

impl LocalShard {
    pub(crate) fn new<E: Env, L: LogStorage, M: Machine<E>>(
        core: &SharedCore<E, L, M>,
        shard: ShardId,
    ) -> Self {
        let (env, bell, gate, slot, timeout_ms) = {
            let held: std::cell::Ref<'_, Core<E, L, M>> = RefCell::borrow(core);
            let gate = Rc::clone(&held.lanes.doorman.gate);
            let timeout_ms = held.options.timeout_ms;
            (held.env.clone(), held.bell.clone(), gate, held.slot_of(shard), timeout_ms)
        };
        let core = Rc::new(Shared { core: Rc::clone(core), env, bell, gate });
        Self { shard, core, slot, timeout_ms, shards: 0 }
    }

    /// The same, which refuses keys of the other of `shards` shards.
    #[must_use]
    pub(crate) fn of(self, shards: u32) -> Self {
        Self { shards, ..self }
    }

    /// Shards of the node; 0: not known.
    pub(crate) fn shards(&self) -> u32 {
        self.shards
    }

    /// Resolves after `span`, by the core's clock.
    pub fn sleep(&self, span: Duration) -> impl Future<Output = ()> + 'static {
        self.core.sleep(Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The shard.
    pub fn id(&self) -> ShardId {
        self.shard
    }

    /// Runs a task on this core until it ends or the engine stops.
    /// A panic ends the task alone.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let shard = self.shard.0;
        self.core.spawn(Box::pin(async move {
            if to_end(task).await.is_err() {
                tracing::error!(shard, "a task of the application panicked");
            }
        }));
    }

    /// Hands a call to the core.
    pub(crate) fn submit<T>(&self, call: Call, map: fn(Reply) -> Result<T, Error>) -> Op<T> {
        let (waiter, ticket) = issue();
        let request = Request { shard: self.shard, timeout_ms: self.timeout_ms, call, ticket };
        self.core.take(request);
        Op::waiting(waiter, map)
    }

    /// The value of a key, if the core can say it in the call and needs no copy of the key.
    pub(crate) fn item(&self, key: &[u8], how: Consistency) -> Result<Option<Item>, Later> {
        self.core.item_at_once(self.slot.ok_or(Later)?, how, key)
    }

    /// Asks the core, which answers in the call if nothing has to be waited for.
    pub(crate) fn ask<T>(
        &self,
        query: Query,
        consistency: Consistency,
        map: fn(Reply) -> Result<T, Error>,
    ) -> Op<T> {
        let answer = self.slot.and_then(|slot| self.core.read_at_once(slot, consistency, &query));
        match answer {
            Some(result) => Op::ready(result.and_then(|answer| map(Reply::Answer(answer)))),
            None => self.submit(Call::Read { query, consistency }, map),
        }
    }
}
