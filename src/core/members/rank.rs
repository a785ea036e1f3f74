//! Which member is preferred as leader once a change is done.

use bowline_raft::{NodeId, Part, ReplicaId, ShardId};

use crate::config::Leaders;

/// A member as the preference for leadership sees it.
#[derive(Clone, Copy)]
pub(super) struct Rank {
    pub(super) node: NodeId,
    pub(super) replica: ReplicaId,
    pub(super) votes: bool,
    pub(super) priority: u8,
}

impl Rank {
    pub(super) fn of(member: &bowline_raft::Member) -> Self {
        let votes = member.after == Part::Voter;
        Self { node: member.node, replica: member.replica, votes, priority: member.priority }
    }
}

/// Ranks members as founding does: by their ids, those that vote first.
pub(super) fn rank(members: &mut [Rank], leaders: Leaders, shard: ShardId) {
    members.sort_unstable_by_key(|it| (!it.votes, it.node));
    let voters = u64::try_from(members.iter().filter(|it| it.votes).count()).unwrap_or(u64::MAX);
    for (nth, member) in (0..).zip(members) {
        member.priority = if member.votes { leaders.rank(nth, voters, shard) } else { u8::MAX };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_ranked_as_founding_does_and_those_that_vote_come_first() {
        let ranked = |leaders, shard| {
            let member = |node, votes| Rank {
                node: NodeId(node),
                replica: ReplicaId(10 - node),
                votes,
                priority: 0,
            };
            let mut members = [member(4, true), member(1, false), member(2, true), member(3, true)];
            rank(&mut members, leaders, ShardId(shard));
            members.map(|it| (it.node.0, it.priority))
        };
        let learner = (1, u8::MAX);
        assert_eq!(ranked(Leaders::Together, 1), [(2, 0), (3, 1), (4, 2), learner]);
        assert_eq!(ranked(Leaders::Spread, 1), [(2, 2), (3, 0), (4, 1), learner]);
        assert_eq!(ranked(Leaders::Any, 1), [(2, 0), (3, 0), (4, 0), learner]);
    }
}
