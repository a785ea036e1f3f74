//! Changing the members of a cluster: one call goes to every shard, wherever it is led.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_env::Nanos;
use bowline_raft::{NodeId, ShardId};

use crate::members::change::{Change, Outcome, Verb};
use crate::members::note::is_address;
use crate::node::Node;
use crate::request::Call;
use crate::shard::unit;
use crate::{Error, Member, Op, RequestError};

/// Shards that are asked at a time.
const AT_ONCE: usize = 64;
/// Time that one attempt at a shard may take.
const ATTEMPT_MS: u32 = 1_000;
/// Between two attempts.
const PAUSE_MS: u32 = 50;
/// Time that a change may take, unless the caller says otherwise.
const TIMEOUT_MS: u32 = 60_000;

/// Changes of the members of a cluster. Cheap to clone; does not keep the engine alive.
///
/// A change goes to every shard; each shard's leader carries it out, on whatever node that is. A
/// shard that is done stays done, so a change that failed half-way, or whose caller went away, is
/// ended by asking for it again, at any member. Dropping the [`Op`] recalls nothing.
///
/// ```no_run
/// # async fn grow(engine: bowline::EmbeddedEngine) -> Result<(), bowline::Error> {
/// let admin = engine.admin();
/// let four = bowline::NodeId(4);
/// // Node 4 was started with `cluster.join = true` and listens there.
/// admin.add_learner(four, "10.0.0.4:7500").await?.complete()?;
/// admin.promote(four).await?.complete()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    node: Arc<Node>,
    timeout_ms: u32,
}

/// What a change came to, by shard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "some shards may have refused"]
pub struct ChangeReport {
    shards: BTreeMap<ShardId, Result<Outcome, Error>>,
}

impl ChangeReport {
    /// Every shard that was asked, ascending, and what it said.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Result<Outcome, Error>)> {
        self.shards.iter().map(|(shard, result)| (*shard, result))
    }

    /// Whether every shard did it, now or before.
    pub fn is_complete(&self) -> bool {
        self.shards.values().all(Result::is_ok)
    }

    /// How many shards did it now; the others had done it before.
    ///
    /// # Errors
    ///
    /// The first shard's that did not do it.
    pub fn complete(self) -> Result<u32, Error> {
        let mut changed = 0;
        for result in self.shards.into_values() {
            changed += u32::from(result? == Outcome::Changed);
        }
        Ok(changed)
    }
}

impl Admin {
    pub(crate) const fn new(node: Arc<Node>) -> Self {
        Self { node, timeout_ms: TIMEOUT_MS }
    }

    /// The same with another limit for a whole change; 60 s unless this is called.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// The members of the cluster, as this node knows them.
    pub fn members(&self) -> Vec<Member> {
        self.node.roll.now().members.clone()
    }

    /// Adds a node that gets every entry and votes in nothing yet. It was started, or will be, with
    /// `cluster.join = true`, `node.id` of `node`, and as many `cluster.shards` as the cluster has;
    /// `address` is where it listens for peers, `host:port`. It need not be there yet.
    ///
    /// Fails with BOW-0405 if the address is none, and with BOW-0507 if the node is a member at
    /// another address, or was a member once: an id is not used twice.
    pub fn add_learner(&self, node: NodeId, address: impl Into<String>) -> Op<ChangeReport> {
        let address: String = address.into();
        if !is_address(address.as_bytes()) || node.0 == 0 {
            return Op::failed(Error::invalid("a node from 1 on, and host:port"));
        }
        if self.node.roll.has_left(node) {
            let text = "the node was a member and left: add it under a new id";
            return Op::failed(Error::Request(RequestError::Membership(text)));
        }
        self.change(Verb::Add(address.into()), node)
    }

    /// Lets a node vote in every shard, once it has caught up; waits for that up to the timeout.
    ///
    /// Fails with BOW-0507 if the node is no member, if it did not catch up (the error says how far
    /// it is behind), or if too few of the voters can be reached.
    pub fn promote(&self, node: NodeId) -> Op<ChangeReport> {
        self.change(Verb::Promote, node)
    }

    /// Takes a node out of every shard; a shard that it leads is led by another one first. Its
    /// copies stay on its disk and are of no more use.
    ///
    /// Fails with BOW-0507 if it is no member, if no voter would be left, or if too few of those
    /// left can be reached.
    pub fn remove(&self, node: NodeId) -> Op<ChangeReport> {
        self.change(Verb::Remove, node)
    }

    /// Hands the leadership of every shard to a voter.
    ///
    /// Fails with BOW-0507 if it is no voter, is behind, or cannot be reached.
    pub fn transfer(&self, to: NodeId) -> Op<ChangeReport> {
        self.change(Verb::Lead, to)
    }

    /// Hands the leadership of one shard to a voter, wherever it is led now.
    ///
    /// Fails with BOW-0405 if there is no such shard, else as [`transfer`](Self::transfer).
    pub fn transfer_shard(&self, shard: ShardId, to: NodeId) -> Op<ChangeReport> {
        if shard.0 >= u64::from(self.node.shards) {
            return Op::failed(RequestError::UnknownShard(shard));
        }
        self.change_of(vec![shard], Verb::Lead, to)
    }

    fn change(&self, verb: Verb, node: NodeId) -> Op<ChangeReport> {
        let shards = (0..u64::from(self.node.shards)).map(ShardId).collect();
        self.change_of(shards, verb, node)
    }

    fn change_of(&self, shards: Vec<ShardId>, verb: Verb, node: NodeId) -> Op<ChangeReport> {
        let change = Change { verb, node };
        Op::many(carry_out(Arc::clone(&self.node), shards, change, self.timeout_ms))
    }
}

/// Asks every shard until all have answered for good, or the time is up.
async fn carry_out(
    node: Arc<Node>,
    mut left: Vec<ShardId>,
    change: Change,
    timeout_ms: u32,
) -> Result<ChangeReport, Error> {
    let mut shards = BTreeMap::new();
    // Clocks are the cores'; what attempts may have taken is counted instead.
    let mut spent_ms = 0_u32;
    loop {
        let mut again = Vec::new();
        for some in left.chunks(AT_ONCE) {
            let limit_ms = ATTEMPT_MS.min(timeout_ms);
            let submit = |shard: &ShardId| {
                let call = Call::Change(Box::new(change.clone()));
                (*shard, node.submit(*shard, limit_ms, call, Op::<Outcome>::unbox))
            };
            let asked: Vec<_> = some.iter().map(submit).collect();
            let mut waited = 0;
            for (shard, answer) in asked {
                let result = answer.await;
                waited = waited.max(result.as_ref().err().map_or(0, waited_for));
                if result.as_ref().is_err_and(may_pass) {
                    again.push(shard);
                }
                shards.insert(shard, result);
            }
            spent_ms = spent_ms.saturating_add(waited);
        }
        spent_ms = spent_ms.saturating_add(PAUSE_MS);
        if again.is_empty() || spent_ms >= timeout_ms {
            return judged(ChangeReport { shards });
        }
        let pause = Call::Alarm(Nanos::from_millis(u64::from(PAUSE_MS)));
        node.submit(ShardId(0), node.timeout_ms(), pause, unit).await?;
        left = again;
    }
}

/// An error only if no shard did it.
fn judged(report: ChangeReport) -> Result<ChangeReport, Error> {
    let mut results = report.shards.values();
    if results.clone().all(|result| *result == Ok(Outcome::Never)) {
        let text = "the node is no member";
        return Err(Error::Request(RequestError::Membership(text)));
    }
    match results.find_map(|result| result.as_ref().err()) {
        Some(error) if report.shards.values().all(Result::is_err) => Err(error.clone()),
        Some(_) | None => Ok(report),
    }
}

/// Whether asking again may help. Every change may be asked for twice.
fn may_pass(error: &Error) -> bool {
    matches!(
        error,
        Error::NoLeader { .. }
            | Error::NotLeader { .. }
            | Error::Busy { .. }
            | Error::Timeout { .. }
            | Error::Request(RequestError::Behind { .. })
    )
}

/// The time that an attempt which failed so took.
const fn waited_for(error: &Error) -> u32 {
    let late = matches!(error, Error::Timeout { .. } | Error::Request(RequestError::Behind { .. }));
    if late { ATTEMPT_MS } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(results: &[Result<Outcome, Error>]) -> ChangeReport {
        ChangeReport { shards: (0..).map(ShardId).zip(results.iter().cloned()).collect() }
    }

    #[test]
    fn a_change_that_one_shard_did_is_a_report_and_one_that_none_did_an_error() {
        let no_leader = || Err(Error::NoLeader { shard: ShardId(1) });
        let part = judged(report(&[Ok(Outcome::Changed), no_leader()])).unwrap();
        assert!(!part.is_complete());
        assert_eq!(part.complete(), no_leader().map(|_: Outcome| 0));
        assert_eq!(judged(report(&[no_leader(), no_leader()])).err(), no_leader().err());
        let whole = judged(report(&[Ok(Outcome::Changed), Ok(Outcome::Already)])).unwrap();
        assert_eq!(whole.complete(), Ok(1));
        let never = judged(report(&[Ok(Outcome::Never), Ok(Outcome::Never)]));
        assert!(never.is_err(), "it was a member of nothing");
        let half = judged(report(&[Ok(Outcome::Never), Ok(Outcome::Changed)]));
        assert!(half.is_ok(), "it was added half-way");
    }
}
