//! The members of a cluster, as this node knows them: told by the cores, read by every thread.
//!
//! Every shard has its own configuration and changes it by itself, so a node may be a voter of some
//! shards and not yet of others while a change goes from shard to shard.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use bowline_raft::{Configuration, NodeId, Part, ShardId};
use tokio::sync::watch;

pub(crate) mod change;
pub(crate) mod note;

use note::{Departed, Note};

#[expect(clippy::disallowed_types, reason = "taken once a pass in which members changed")]
type Mutex<T> = std::sync::Mutex<T>;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// Where its peers find it; none: it was never told.
    pub address: Option<Arc<str>>,
    /// Shards in which it votes.
    pub votes: u32,
    /// Shards of which it only gets the entries.
    pub learns: u32,
    /// Shards in all.
    pub of: u32,
}

impl Member {
    /// Whether it votes in every shard.
    #[must_use]
    pub const fn is_voter(&self) -> bool {
        self.votes == self.of
    }
}

/// The members of the cluster, ascending by node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Membership {
    /// Them.
    pub members: Vec<Member>,
}

impl Membership {
    /// One of them.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }
}

/// Who belongs to a shard, by its committed configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seats {
    /// By node: where it is, and whether it votes.
    members: BTreeMap<NodeId, (Option<Arc<str>>, bool)>,
    left: Departed,
}

impl Seats {
    pub(crate) fn of(conf: &Configuration, note: &Note) -> Self {
        let seat = |member: &bowline_raft::Member| {
            let address = note.address(member.node).cloned();
            (member.node, (address, member.before == Part::Voter))
        };
        let here = |member: &&bowline_raft::Member| member.before != Part::Absent;
        let members = conf.members.iter().filter(here).map(seat).collect();
        Self { members, left: note.left().clone() }
    }

    /// The same without a node that was told that it left.
    pub(crate) fn without(mut self, node: NodeId) -> Self {
        self.members.remove(&node);
        self
    }
}

/// The members of every shard.
pub(crate) struct Roll {
    of: u32,
    seats: Mutex<BTreeMap<ShardId, Arc<Seats>>>,
    total: watch::Sender<Arc<Membership>>,
}

impl Roll {
    /// Of a node with so many shards; nothing is known of them.
    pub(crate) fn new(of: u32) -> Self {
        let seats = Mutex::new(BTreeMap::new());
        Self { of, seats, total: watch::Sender::new(Arc::default()) }
    }

    /// Takes what a pass of a core changed. O(shards * members).
    pub(crate) fn update(&self, changes: Vec<(ShardId, Seats)>) {
        let mut seats = self.lock();
        for (shard, now) in changes {
            let last = seats.values().next_back().filter(|last| ***last == now);
            // As a rule all shards have the same members.
            let now = last.map_or_else(|| Arc::new(now), Arc::clone);
            seats.insert(shard, now);
        }
        let now = self.add_up(&seats);
        // Under the lock, so that two cores' changes reach the watchers in their order.
        self.total.send_if_modified(|seen| {
            let changed = **seen != now;
            if changed {
                *seen = Arc::new(now);
            }
            changed
        });
    }

    /// The members now.
    pub(crate) fn now(&self) -> Arc<Membership> {
        Arc::clone(&self.total.borrow())
    }

    /// Follows them.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Membership>> {
        self.total.subscribe()
    }

    /// Whether a node was a member of some shard and is one of none.
    pub(crate) fn has_left(&self, node: NodeId) -> bool {
        let seats = self.lock();
        let left = seats.values().any(|seats| seats.left.contains(node));
        left && !seats.values().any(|seats| seats.members.contains_key(&node))
    }

    fn add_up(&self, seats: &BTreeMap<ShardId, Arc<Seats>>) -> Membership {
        let mut by_node: BTreeMap<NodeId, Member> = BTreeMap::new();
        for (node, (address, votes)) in seats.values().flat_map(|seats| &seats.members) {
            let node = *node;
            let none = Member { node, address: None, votes: 0, learns: 0, of: self.of };
            let member = by_node.entry(node).or_insert(none);
            member.address = member.address.take().or_else(|| address.clone());
            *(if *votes { &mut member.votes } else { &mut member.learns }) += 1;
        }
        Membership { members: by_node.into_values().collect() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Arc<Seats>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roll").field("members", &self.now().members.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bowline_raft::ReplicaId;

    use super::*;

    fn seats(voters: &[u64], learners: &[u64], left: &[u64]) -> Seats {
        let mut conf = Configuration::sole_voter(NodeId(1), ReplicaId(1));
        let like = conf.members[0];
        let member = |(nth, node): (u64, &u64), part| bowline_raft::Member {
            node: NodeId(*node),
            replica: ReplicaId(nth),
            before: part,
            after: part,
            ..like
        };
        conf.members = (1..).zip(voters).map(|it| member(it, Part::Voter)).collect();
        conf.members.extend((9..).zip(learners).map(|it| member(it, Part::Learner)));
        let mut note = Note::of(voters.iter().map(|id| (NodeId(*id), format!("n{id}").into())), 1);
        for id in left {
            note.remove(NodeId(*id));
        }
        Seats::of(&conf, &note)
    }

    #[test]
    fn members_are_added_up_over_shards_and_watchers_see_changes_alone() {
        let roll = Roll::new(2);
        let mut watch = roll.watch();
        roll.update(vec![
            (ShardId(0), seats(&[1, 2], &[4], &[])),
            (ShardId(1), seats(&[1, 2, 4], &[], &[])),
        ]);
        let now = watch.borrow_and_update().clone();
        let counts: Vec<_> =
            now.members.iter().map(|it| (it.node.0, it.votes, it.learns)).collect();
        assert_eq!(counts, [(1, 2, 0), (2, 2, 0), (4, 1, 1)]);
        let four = now.member(NodeId(4)).unwrap();
        assert!(!four.is_voter() && now.members[0].is_voter());
        assert_eq!(four.address.as_deref(), Some("n4"), "one shard knows it");
        roll.update(vec![(ShardId(1), seats(&[1, 2, 4], &[], &[]))]);
        assert!(!watch.has_changed().unwrap());
    }

    #[test]
    fn a_node_has_left_once_no_shard_has_it() {
        let roll = Roll::new(2);
        roll.update(vec![
            (ShardId(0), seats(&[1], &[], &[4])),
            (ShardId(1), seats(&[1, 4], &[], &[])),
        ]);
        assert!(!roll.has_left(NodeId(4)), "one shard is left");
        roll.update(vec![(ShardId(1), seats(&[1], &[], &[4]))]);
        assert!(roll.has_left(NodeId(4)));
        assert!(!roll.has_left(NodeId(5)), "it never came");
    }
}
