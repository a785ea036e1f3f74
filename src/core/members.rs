//! Changes of a shard's members: carried out where the shard is led, asked for from anywhere.
//!
//! ```text
//! caller -> home core of the shard --leads--> changing: looked at each tick until it is so
//!                                  \--else--> ASK over the lane to the leader's core, ANSWER back
//! ```
//!
//! A change is a goal, not a step: it is done once the committed, stable configuration says so. So
//! it may be asked for again at any time, and asking again ends what was interrupted.

mod agree;
mod follow;
mod rank;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_env::{Env, Nanos};
use bowline_net::Bulk;
use bowline_raft::{
    Admin, AdminError, Configuration, NodeId, Part, Phase, ReplicaId, Role, ShardId, Slot, Step,
};
use bowline_statemachine::Machine;
use bowline_wal::LogStorage;

use super::join::Founding;
use super::logs::place;
use super::run::Core;
use crate::members::Roll;
use crate::members::change::{Change, Outcome, Refused, Verb, from_wire, to_wire};
use crate::members::note::Note;
use crate::ticket::{Reply, Ticket};
pub(crate) use agree::Agreed;
use rank::{Rank, rank};

/// Changes under way on a core, and questions to other nodes, at most each.
const UNDER_WAY_MAX: usize = 8_192;

/// Who waits for a change.
enum Asker {
    Caller(Ticket),
    Peer { node: NodeId, id: u64 },
}

/// A change of a shard that is led here.
struct Changing {
    slot: Slot,
    change: Change,
    asker: Asker,
    deadline: Nanos,
    /// It was begun here, so what it comes to is a change.
    begun: bool,
    /// What kept it from being begun when it was tried last.
    kept: Option<Refused>,
}

/// A question that another node has.
struct Asked {
    shard: ShardId,
    node: NodeId,
    ticket: Ticket,
    deadline: Nanos,
}

/// What a core knows of members and changes of them.
pub(crate) struct Members<M> {
    roll: Arc<Roll>,
    /// Shards that are made here, because a leader has a replica of them on this node.
    pub(super) founding: BTreeMap<ShardId, Founding<M>>,
    changing: Vec<Changing>,
    asked: BTreeMap<u64, Asked>,
    next_ask: u64,
    /// Replicas whose configuration moved since it was looked at.
    moved: BTreeSet<Slot>,
    /// Those whose latest configuration is not committed.
    unsettled: BTreeSet<Slot>,
    /// Those that are led here and whose members agree on less than this node runs.
    behind: BTreeSet<Slot>,
    /// When those are looked at next.
    agree_at: Nanos,
    /// The highest version that is durable here as agreed on.
    agreed: u16,
    /// Those of which the list of members was told something.
    told: BTreeSet<Slot>,
    /// It was said that the cluster has shards which this node was not founded for.
    pub(super) told_of_shards: bool,
    /// Events that raft had no room for, when they were counted last.
    events_dropped: u64,
}

impl<M> Members<M> {
    pub(crate) fn new(roll: Arc<Roll>) -> Self {
        Self {
            roll,
            founding: BTreeMap::new(),
            changing: Vec::new(),
            asked: BTreeMap::new(),
            next_ask: 0,
            moved: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            behind: BTreeSet::new(),
            agree_at: Nanos(0),
            agreed: 0,
            told: BTreeSet::new(),
            told_of_shards: false,
            events_dropped: 0,
        }
    }

    /// A replica's configuration is another one.
    pub(super) fn conf_moved(&mut self, slot: Slot) {
        self.moved.insert(slot);
    }

    /// Whether somebody waits for something here.
    pub(super) fn is_busy(&self) -> bool {
        !self.changing.is_empty()
            || !self.asked.is_empty()
            || !self.founding.is_empty()
            || !self.unsettled.is_empty()
    }

    /// Takes every ticket that waits.
    pub(super) fn tickets(&mut self) -> impl Iterator<Item = Ticket> + '_ {
        let asked = std::mem::take(&mut self.asked).into_values().map(|asked| asked.ticket);
        let changing = self.changing.drain(..).filter_map(|it| match it.asker {
            Asker::Caller(ticket) => Some(ticket),
            Asker::Peer { .. } => None,
        });
        asked.chain(changing)
    }
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// A caller wants a change: it is begun here, or asked of the node that leads.
    pub(crate) fn change_members(
        &mut self,
        slot: Slot,
        change: Change,
        ticket: Ticket,
        deadline: Nanos,
    ) {
        let shard = self.logs.shard(slot);
        let leader = self.leader_node(slot);
        let refused = match leader {
            None => Refused::NotLeader,
            Some(node) if node == self.node => {
                return self.begin_change(slot, change, Asker::Caller(ticket), deadline);
            },
            Some(node) => {
                let id = self.members.next_ask;
                // The answer is on its way before nobody waits for it.
                let limit_ms = deadline.since(self.logs.now).0 / 1_000_000 * 3 / 4;
                let (verb, bytes) = change.to_parts();
                let ask = Bulk::Ask { shard, id, verb, node: change.node, limit_ms, bytes };
                if self.members.asked.len() >= UNDER_WAY_MAX {
                    Refused::Busy
                } else if self.send_bulk(node, ask) {
                    self.members.next_ask += 1;
                    let asked = Asked { shard, node, ticket, deadline };
                    self.members.asked.insert(id, asked);
                    return;
                } else {
                    Refused::NotLeader
                }
            },
        };
        ticket.complete(Err(refused.error(shard)), &mut self.wakes);
    }

    /// A node asks for a change, or says what became of one.
    pub(super) fn change_came(&mut self, from: NodeId, what: Bulk<&[u8]>) {
        if let Bulk::Ask { shard, id, verb, node, limit_ms, bytes } = what {
            let change = Change::from_parts(verb, node, bytes);
            self.asked_to_change(from, (shard, id), change, limit_ms);
        } else if let Bulk::Answer { id, outcome, number, .. } = what {
            self.change_answered(from, id, outcome, number);
        }
    }

    /// A node asks for a change of a shard that it thinks is led here.
    fn asked_to_change(
        &mut self,
        node: NodeId,
        (shard, id): (ShardId, u64),
        change: Option<Change>,
        limit_ms: u64,
    ) {
        let asker = Asker::Peer { node, id };
        let slot = self.slot_of(shard).filter(|slot| self.replicas[place(*slot)].closed.is_none());
        match (slot, change) {
            (Some(slot), Some(change)) => {
                let deadline = self.logs.now.after(Nanos::from_millis(limit_ms.min(1 << 32)));
                self.begin_change(slot, change, asker, deadline);
            },
            (None, _) => self.answer_change(shard, asker, Err(Refused::Closed)),
            (_, None) => self.answer_change(shard, asker, Err(Refused::NotLeader)),
        }
    }

    /// Another node says what became of a change.
    fn change_answered(&mut self, node: NodeId, id: u64, outcome: u64, number: u64) {
        if self.members.asked.get(&id).is_none_or(|asked| asked.node != node) {
            return;
        }
        let Some(asked) = self.members.asked.remove(&id) else { return };
        let result = from_wire(outcome, number);
        self.answer_change(asked.shard, Asker::Caller(asked.ticket), result);
    }

    fn begin_change(&mut self, slot: Slot, change: Change, asker: Asker, deadline: Nanos) {
        if self.members.changing.len() >= UNDER_WAY_MAX {
            let shard = self.logs.shard(slot);
            return self.answer_change(shard, asker, Err(Refused::Busy));
        }
        let waits = Changing { slot, change, asker, deadline, begun: false, kept: None };
        self.members.changing.push(waits);
        self.carry_changes();
    }

    /// Carries changes on: what is done or cannot be is answered.
    pub(crate) fn carry_changes(&mut self) {
        if self.members.changing.is_empty() && self.members.asked.is_empty() {
            return;
        }
        let now = self.logs.now;
        for mut waits in std::mem::take(&mut self.members.changing) {
            let result = self.carry(&mut waits).or_else(|| {
                let late = waits.deadline <= now;
                late.then(|| Err(waits.kept.unwrap_or(Refused::Late)))
            });
            match result {
                Some(result) => {
                    let shard = self.logs.shard(waits.slot);
                    self.answer_change(shard, waits.asker, result);
                },
                None => self.members.changing.push(waits),
            }
        }
        let late = self.members.asked.extract_if(.., |_, asked| asked.deadline <= now);
        for (_, Asked { shard, ticket, .. }) in late {
            ticket.complete(Err(Refused::Late.error(shard)), &mut self.wakes);
        }
    }

    fn answer_change(&mut self, shard: ShardId, asker: Asker, result: Result<Outcome, Refused>) {
        match asker {
            Asker::Caller(ticket) => {
                let result = result.map_err(|why| why.error(shard));
                let reply = result.map(|outcome| Reply::Any(Box::new(outcome)));
                ticket.complete(reply, &mut self.wakes);
            },
            Asker::Peer { node, id } => {
                let (outcome, number) = to_wire(result);
                // Without a lane the asker's deadline ends its wait.
                self.send_bulk(node, Bulk::Answer { shard, id, outcome, number });
            },
        }
    }

    /// Looks at one change, and takes its next step if there is one. None: it goes on.
    fn carry(&mut self, waits: &mut Changing) -> Option<Result<Outcome, Refused>> {
        let (slot, node) = (waits.slot, waits.change.node);
        let view = self.raft.view(slot);
        let Some(conf) = view.conf.filter(|_| view.open) else {
            return Some(Err(waits.lost(Refused::Closed)));
        };
        let note = Note::decode(&conf.note).unwrap_or_default();
        let settled = conf.phase == Phase::Stable && view.conf_index <= view.commit;
        let leads = view.role == Role::Leader;
        let member = conf.members.iter().find(|member| member.node == node).copied();
        if let Verb::Lead = waits.change.verb {
            if self.leader_node(slot) == Some(node) {
                return Some(Ok(waits.outcome()));
            }
        } else if settled && let Some(result) = waits.is_so(member, &note) {
            return Some(result);
        }
        if !leads {
            return Some(Err(waits.lost(Refused::NotLeader)));
        }
        let later = matches!(waits.change.verb, Verb::Lead) && self.is_fresh(node);
        if !settled || later {
            return None;
        }
        let next = match self.next_step(slot, (conf, note), member, &waits.change) {
            Ok(next) => next,
            Err(why @ (Refused::Behind(_) | Refused::Quorum)) => {
                // Both may pass.
                waits.kept = Some(why);
                return None;
            },
            Err(why) => return Some(Err(why)),
        };
        let begun = match &next {
            Next::Transfer { to } => self.raft.admin(slot, Admin::Transfer { to: *to }),
            Next::Change { steps, note } => {
                self.raft.admin(slot, Admin::ChangeNoted { steps, note })
            },
        };
        match begun {
            Ok(()) => {
                let shard = self.logs.shard(slot).0;
                tracing::info!(shard, node = node.0, verb = ?waits.change.verb, "members change");
                (waits.begun, waits.kept) = (true, None);
                None
            },
            Err(AdminError::Busy) => None,
            Err(AdminError::NotCaughtUp { .. }) => {
                waits.kept = Some(Refused::Behind(self.lag(slot, member.map(|it| it.replica))));
                None
            },
            Err(AdminError::NotLeader) => Some(Err(Refused::NotLeader)),
            Err(AdminError::UnknownMember { .. }) => Some(Err(Refused::NoMember)),
            Err(AdminError::Duplicate { .. }) => Some(Err(Refused::OtherAddress)),
            Err(AdminError::Configuration(_) | AdminError::NoChange) => Some(Err(Refused::TooMany)),
            Err(AdminError::BeyondApplied { .. } | AdminError::Closed | _) => {
                Some(Err(Refused::Closed))
            },
        }
    }

    /// What has to be done next for a change, by a leader whose configuration is settled.
    fn next_step(
        &self,
        slot: Slot,
        (conf, mut note): (&Configuration, Note),
        member: Option<bowline_raft::Member>,
        change: &Change,
    ) -> Result<Next, Refused> {
        let node = change.node;
        note.keep(&conf.members);
        let mut members: Vec<_> = conf.members.iter().map(Rank::of).collect();
        let replica = member.map(|member| member.replica);
        let first = match (&change.verb, replica) {
            (Verb::Lead, Some(to)) => {
                let votes = member.is_some_and(|member| member.after == Part::Voter);
                return if votes { Ok(Next::Transfer { to }) } else { Err(Refused::NoVoter) };
            },
            (Verb::Add(address), _) => {
                note.add(node, Arc::clone(address));
                members.push(Rank { node, replica: conf.next_replica, votes: false, priority: 0 });
                Step::Add { node, priority: 0, auto_promote: false }
            },
            (Verb::Promote, Some(replica)) => {
                members.iter_mut().filter(|it| it.node == node).for_each(|it| it.votes = true);
                Step::Promote { replica }
            },
            (Verb::Remove, Some(replica)) => {
                note.remove(node);
                members.retain(|it| it.node != node);
                Step::Remove { replica }
            },
            (Verb::Lead | Verb::Promote | Verb::Remove, None) => return Err(Refused::NoMember),
        };
        if !members.iter().any(|it| it.votes) {
            return Err(Refused::LastVoter);
        }
        if !matches!(change.verb, Verb::Add(_)) {
            self.would_stand(slot, &members)?;
        }
        let old = self.version_of(node).is_some_and(|version| version < note.version());
        if old && matches!(change.verb, Verb::Add(_) | Verb::Promote) {
            return Err(Refused::OldVersion);
        }
        let note = note.encode().ok_or(Refused::TooLong)?;
        let mut steps = vec![first];
        rank(&mut members, self.options.leaders, self.logs.shard(slot));
        let ranked = members.iter().filter(|it| {
            let before = conf.member(it.replica).map_or(0, |before| before.priority);
            before != it.priority
        });
        steps.extend(ranked.map(|it| {
            let Rank { replica, priority, .. } = *it;
            Step::Prefer { replica, priority }
        }));
        Ok(Next::Change { steps, note })
    }

    /// Whether a majority of those that vote after a change can be reached. Without it the change
    /// would be the last one that the shard ever begins.
    fn would_stand(&self, slot: Slot, members: &[Rank]) -> Result<(), Refused> {
        let own = self.raft.view(slot).replica;
        let voters = members.iter().filter(|it| it.votes);
        let there = |it: &&Rank| {
            let peer = self.raft.progress(slot, it.replica);
            it.replica == own || peer.is_some_and(|peer| peer.supports && !peer.no_quorum)
        };
        let (all, live) = (voters.clone().count(), voters.filter(there).count());
        if live * 2 > all { Ok(()) } else { Err(Refused::Quorum) }
    }

    /// Entries that a peer lacks.
    fn lag(&self, slot: Slot, replica: Option<ReplicaId>) -> u64 {
        let peer = replica.and_then(|replica| self.raft.progress(slot, replica));
        let matched = peer.map_or(0, |peer| peer.matched.0);
        self.raft.view(slot).last.0.saturating_sub(matched)
    }

    fn leader_node(&self, slot: Slot) -> Option<NodeId> {
        let view = self.raft.view(slot);
        if view.role == Role::Leader {
            return Some(self.node);
        }
        self.node_of(slot, view.leader)
    }
}

/// The next step of a change.
enum Next {
    Change { steps: Vec<Step>, note: Vec<u8> },
    Transfer { to: ReplicaId },
}

impl Changing {
    fn outcome(&self) -> Outcome {
        if self.begun { Outcome::Changed } else { Outcome::Already }
    }

    /// Why it goes on here no more. What is in the log the next leader may end.
    fn lost(&self, why: Refused) -> Refused {
        if self.begun { Refused::Late } else { why }
    }

    /// What the settled configuration says of the goal; none: it is not reached.
    fn is_so(
        &self,
        member: Option<bowline_raft::Member>,
        note: &Note,
    ) -> Option<Result<Outcome, Refused>> {
        let node = self.change.node;
        match (&self.change.verb, member) {
            (Verb::Add(address), Some(_)) => {
                let same = note.address(node).is_none_or(|known| known == address);
                Some(if same { Ok(self.outcome()) } else { Err(Refused::OtherAddress) })
            },
            (Verb::Add(_), None) => note.left().contains(node).then_some(Err(Refused::WasMember)),
            (Verb::Promote, Some(member)) => {
                (member.after == Part::Voter).then(|| Ok(self.outcome()))
            },
            (Verb::Promote, None) => Some(Err(Refused::NoMember)),
            (Verb::Remove, None) if note.left().contains(node) => Some(Ok(self.outcome())),
            (Verb::Remove, None) => Some(Ok(Outcome::Never)),
            (Verb::Remove, Some(_)) | (Verb::Lead, _) => None,
        }
    }
}
