//! Whether a node is ready, and what it says about itself.

use core::time::Duration;
use std::sync::Arc;

use bowline_env::Nanos;
use bowline_raft::{NodeId, ShardId};
use tokio::sync::watch;

use crate::node::Node;
use crate::request::Call;
use crate::shard::unit;
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
        stopping: node.is_stopped(),
    }
}

/// Waits until every shard is led, at most `timeout`. A closed shard gets no leader: then it
/// ends as soon as the others are led.
pub(super) fn wait(node: &Arc<Node>, timeout: Duration) -> Op<LeaderInfo> {
    if let Some(leader) = node.board.leader() {
        return Op::ready(Ok(leader));
    }
    let mut settled = node.board.watch_settled();
    let mut late = alarm(node, timeout);
    let node = Arc::clone(node);
    Op::many(async move {
        loop {
            let is_late = first(&mut settled, &mut late).await?;
            if let Some(leader) = node.board.leader() {
                return Ok(leader);
            }
            if is_late || node.board.any_closed() {
                return Err(Error::NotReady(Arc::new(node.board.not_ready())));
            }
        }
    })
}

/// An operation that a core finishes after `timeout`: clocks and timers are the cores'.
fn alarm(node: &Node, timeout: Duration) -> Op<()> {
    let after = Nanos(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
    node.submit(ShardId(0), node.timeout_ms(), Call::Alarm(after), unit)
}

/// Waits for whichever comes first. Whether it was the alarm.
async fn first(settled: &mut watch::Receiver<bool>, late: &mut Op<()>) -> Result<bool, Error> {
    let settled = async { settled.wait_for(|now| *now).await.map(drop) };
    let mut settled = core::pin::pin!(settled);
    core::future::poll_fn(|cx| {
        if let core::task::Poll::Ready(seen) = settled.as_mut().poll(cx) {
            let seen = seen.map(|()| false).map_err(|_closed| Error::stopped());
            return core::task::Poll::Ready(seen);
        }
        core::pin::Pin::new(&mut *late).poll(cx).map_ok(|()| true)
    })
    .await
}
