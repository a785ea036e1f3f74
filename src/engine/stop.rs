//! Stopping a node, with and without waiting for it.

use core::future::Future;
use core::pin::Pin;
use std::sync::{Arc, PoisonError};

use bowline_env::{Claim, CoreThread, EnvError};
use bowline_raft::ShardId;
use tokio::sync::watch;

use crate::node::Node;
use crate::request::{Call, Request};
use crate::shard::unit;
use crate::ticket::{Reply, Ticket, issue};
use crate::{Code, Error, Failure, Finding, Op};

#[expect(clippy::disallowed_types, reason = "taken twice in the life of a node")]
type Mutex<T> = std::sync::Mutex<T>;

/// Work that runs off the cores.
type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How work is run off the cores, whatever the machine is.
pub(super) type Drive = Box<dyn Fn(&'static str, Job) -> Result<(), EnvError> + Send + Sync>;

/// What only a stop ends.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) cores: Vec<CoreThread>,
    pub(super) claim: Claim,
}

/// A node and the way to end it.
pub(super) struct Shared {
    node: Arc<Node>,
    /// None once a stop has begun.
    running: Mutex<Option<Running>>,
    drive: Drive,
    stopped: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(node: Arc<Node>, running: Running, drive: Drive) -> Self {
        let running = Mutex::new(Some(running));
        Self { node, running, drive, stopped: watch::Sender::new(false) }
    }

    pub(super) const fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn take(&self) -> Option<Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the node off the cores; `ticket` is told how it went.
    fn begin(self: &Arc<Self>, ticket: Ticket) -> Result<(), EnvError> {
        let shared = Arc::clone(self);
        let job = async move {
            // Taken only now: were there no thread to run this, the cores would still be held.
            let Some(running) = shared.take() else { return };
            let result = end(&shared.node, running).await;
            shared.stopped.send_replace(true);
            ticket.complete_now(result.map(|()| Reply::Unit));
        };
        (self.drive)("bowline-stop", Box::pin(job))
    }
}

/// Stops the node; the first caller does, the others wait for it.
pub(super) fn stop(shared: &Arc<Shared>) -> Op<()> {
    if !shared.node.refuse() {
        let mut stopped = shared.stopped.subscribe();
        return Op::many(async move {
            // The sender is gone only with the engine, and then it is stopped too.
            drop(stopped.wait_for(|stopped| *stopped).await);
            Ok(())
        });
    }
    let (waiter, ticket) = issue();
    match shared.begin(ticket) {
        Ok(()) => Op::waiting(waiter, unit),
        Err(error) => {
            let what = format!("no thread could be started to stop the node: {error}");
            Op::failed(Error::Environment(Arc::new(Finding::error(Code::CORE_PANIC, what))))
        },
    }
}

/// The last handle is gone: stops a running node without waiting.
pub(super) fn abandon(shared: &Arc<Shared>) {
    if !shared.node.refuse() {
        return;
    }
    let node = shared.node.id.0;
    tracing::warn!(code = %Code::DROPPED, node, "the engine was dropped without stop");
    let (_, ticket) = issue();
    if let Err(error) = shared.begin(ticket) {
        tracing::error!(code = %Code::DROPPED, node, %error, "the node could not be stopped");
    }
}

async fn end(node: &Node, running: Running) -> Result<(), Error> {
    let asked = node.hubs.iter().map(|hub| {
        let make =
            |ticket| Request { shard: ShardId(0), timeout_ms: u32::MAX, call: Call::Stop, ticket };
        Op::submit(hub, make, unit)
    });
    // All are asked before one is waited for.
    let asked: Vec<_> = asked.collect();
    let mut refused = None;
    for answer in asked {
        if let Err(error) = answer.await {
            refused.get_or_insert(error);
        }
    }
    let mut cause = None;
    for (core, thread) in (0_u16..).zip(running.cores) {
        if let Err(failure) = thread.join() {
            tracing::error!(core, code = %Code::CORE_PANIC, "a core failed: {}", failure.message);
            cause
                .get_or_insert_with(|| Failure::new(Some(core), Code::CORE_PANIC, failure.message));
        }
    }
    // Every core is gone: only now may another process open the directory (E2).
    drop(running.claim);
    match (cause, refused) {
        (Some(cause), _) => {
            Err(Error::Stopped { maybe_applied: false, cause: Some(Arc::new(cause)) })
        },
        (None, Some(error)) => Err(error),
        (None, None) => Ok(()),
    }
}
