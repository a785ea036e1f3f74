//! Whether a node is ready, and what it says about itself.

use core::time::Duration;
use std::sync::Arc;

use bowline_raft::{NodeId, ShardId};
use tokio::sync::watch;

use crate::core::LocalShard;
use crate::node::Node;
use crate::request::Call;
use crate::shard::unit;
use crate::ticket::{Reply, issue};
use crate::{Error, LeaderInfo, Op};

/// What a node is and how it does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Its number.
    pub node: NodeId,
    /// Its cluster's name.
    pub cluster: String,
    /// Its cores.
    pub cores: u32,
    /// Log streams.
    pub streams: u32,
    /// Shards.
    pub shards: u32,
    /// Shards that this node leads.
    pub leads: u32,
    /// Who leads, if every shard has a leader.
    pub leader: Option<LeaderInfo>,
    /// Shards without a leader here, up to 8 by number.
    pub leaderless: Vec<ShardId>,
    /// Whether it takes nothing more.
    pub stopping: bool,
}

pub(super) fn status(node: &Node) -> Status {
    let shards = (0..u64::from(node.shards)).map(ShardId);
    let leads = shards.filter(|shard| node.board.leads(*shard)).count();
    let missing = node.board.not_ready();
    Status {
        node: node.id,
        cluster: node.config.cluster.name.clone(),
        cores: u32::try_from(node.hubs.len()).unwrap_or(u32::MAX),
        streams: node.streams.into(),
        shards: node.shards,
        leads: u32::try_from(leads).unwrap_or(u32::MAX),
        leader: node.board.leader(),
        leaderless: missing.shards.iter().map(|(shard, _)| *shard).collect(),
        stopping: node.is_stopping() || node.hubs.iter().any(|hub| hub.is_closed()),
    }
}

/// Waits for a leader of every shard, at most `timeout`.
pub(super) fn wait(node: &Arc<Node>, timeout: Duration) -> Op<LeaderInfo> {
    if let Some(leader) = node.board.leader() {
        return Op::ready(Ok(leader));
    }
    let leaders = node.board.watch();
    let late = alarm(node, timeout);
    let node = Arc::clone(node);
    Op::many(async move {
        match first(leaders, late).await {
            First::Leader(leader) => Ok(leader),
            First::Late(Ok(())) => {
                let leader = node.board.leader();
                leader.ok_or_else(|| Error::NotReady(Arc::new(node.board.not_ready())))
            },
            First::Late(Err(error)) => Err(error),
        }
    })
}

/// An operation that a core finishes after `timeout`: clocks and timers are the cores'.
fn alarm(node: &Node, timeout: Duration) -> Op<()> {
    let (waiter, ticket) = issue();
    let call = Call::Run(Box::new(move |local: LocalShard| {
        let sleep = local.sleep(timeout);
        local.spawn(async move {
            sleep.await;
            ticket.complete_now(Ok(Reply::Unit));
        });
    }));
    let taken = node.submit(ShardId(0), node.timeout_ms(), call, unit);
    drop(taken);
    Op::waiting(waiter, unit)
}

enum First {
    Leader(LeaderInfo),
    Late(Result<(), Error>),
}

async fn first(mut leaders: watch::Receiver<Option<LeaderInfo>>, mut late: Op<()>) -> First {
    let leader = async {
        match leaders.wait_for(Option::is_some).await {
            Ok(leader) => (*leader).map_or(First::Late(Err(Error::stopped())), First::Leader),
            Err(_closed) => First::Late(Err(Error::stopped())),
        }
    };
    let mut leader = core::pin::pin!(leader);
    core::future::poll_fn(|cx| {
        if let core::task::Poll::Ready(first) = leader.as_mut().poll(cx) {
            return core::task::Poll::Ready(first);
        }
        core::pin::Pin::new(&mut late).poll(cx).map(First::Late)
    })
    .await
}
