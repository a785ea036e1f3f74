//! One shard of a node: its leadership, its client, and its home core.

use core::future::{Future, poll_fn};
use core::pin::pin;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use bowline_raft::{NodeId, ShardId};
use tokio::sync::watch;

use crate::core::LocalShard;
use crate::node::Node;
use crate::op::{mark_core_thread, unexpected};
use crate::request::Call;
use crate::ticket::{Reply, issue};
use crate::{EmbeddedClient, Error, LeaderInfo, Op};

/// One shard. Cheap to clone; does not keep the engine alive.
#[derive(Clone, Debug)]
pub struct Shard {
    node: Arc<Node>,
    id: ShardId,
}

impl Shard {
    /// None: there is no such shard.
    pub(crate) fn new(node: Arc<Node>, id: ShardId) -> Option<Self> {
        (id.0 < u64::from(node.shards)).then_some(Self { node, id })
    }

    /// Its number.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Whether this node leads it. A hint: the log decides.
    pub fn is_leader(&self) -> bool {
        self.node.board.leads(self.id)
    }

    /// Who leads it: once a leader is known and an entry of its term is applied here.
    pub fn leader_info(&self) -> Option<LeaderInfo> {
        self.node.board.shard_leader(self.id)
    }

    /// Follows [`leader_info`](Self::leader_info); it is `None` between leaders.
    pub fn leader_change_notifier(&self) -> watch::Receiver<Option<LeaderInfo>> {
        self.node.board.watch_shard(self.id)
    }

    /// A client that refuses keys of other shards.
    pub fn client(&self) -> EmbeddedClient {
        EmbeddedClient::new(Arc::clone(&self.node), Some(self.id))
    }

    /// Writes the shard's state to disk now. Nothing depends on it: what is only in memory is in
    /// the log too.
    pub fn flush(&self) -> Op<()> {
        self.node.submit(self.id, self.node.timeout_ms(), Call::Flush, unit)
    }

    /// Hands the leadership to another voter, without an error for callers: writes wait until it
    /// leads. Resolves once this node knows that it does.
    ///
    /// Fails with BOW-0503 if this node does not lead, and with BOW-0507 if `to` is no voter, is
    /// behind, or cannot be reached.
    pub fn transfer(&self, to: NodeId) -> Op<()> {
        self.node.submit(self.id, self.node.timeout_ms(), Call::Transfer(to), unit)
    }

    /// Runs `job` on the shard's home core, and answers what its future returns. The future need
    /// not be `Send`; it shares the core with everything else there, so it must not block. It runs
    /// to its end even if the `Op` is dropped. A panic of the job comes out where the `Op` is
    /// awaited; the core goes on.
    pub fn run_local<R, J, F>(&self, job: J) -> Op<R>
    where
        J: FnOnce(LocalShard) -> F + Send + 'static,
        F: Future<Output = R> + 'static,
        R: Send + 'static,
    {
        let (waiter, ticket) = issue();
        let shards = self.node.shards;
        let call = Call::Run(Box::new(move |local: LocalShard| {
            let local = local.of(shards);
            let task = catch_unwind(AssertUnwindSafe(|| job(local.clone())));
            local.spawn(async move {
                let result = match task {
                    Ok(task) => to_end(task).await,
                    Err(panic) => Err(panic),
                };
                ticket.complete_now(Ok(Reply::Any(Box::new(result))));
            });
        }));
        let taken = self.node.submit(self.id, self.node.timeout_ms(), call, unit);
        let done: Op<std::thread::Result<R>> = Op::waiting(waiter, Op::unbox);
        // The core says first whether it has the shard; only then is there a result to wait for.
        Op::many(async move {
            taken.await?;
            done.await.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }
}

/// Runs a caller's future on a core; a panic ends the future alone.
pub(crate) async fn to_end<F: Future>(task: F) -> std::thread::Result<F::Output> {
    let mut task = pin!(task);
    let guarded = poll_fn(|cx| {
        // A blocking wait inside would stop the core that must answer it.
        let _mark = mark_core_thread();
        let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    });
    guarded.await
}

/// A reply that says only that it is done.
pub(crate) fn unit(reply: Reply) -> Result<(), Error> {
    if let Reply::Unit = reply { Ok(()) } else { Err(unexpected(reply)) }
}
