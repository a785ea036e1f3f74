//! Who leads each shard, as this core knows it, and what callers and the board are told.
//!
//! A shard has a leader *here* once one is known and an entry of its term is applied here.

use std::sync::Arc;

use bowline_env::{Env, Nanos};
use bowline_raft::{Admin, AdminError, NodeId, ProgressView, ReplicaId, Role, RoleChange, Slot};
use bowline_statemachine::Machine;
use bowline_statemachine::envelope::LogClock;
use bowline_wal::LogStorage;

use super::logs::place;
use super::run::Core;
use crate::board::LeaderChange;
use crate::config::Leaders;
use crate::ticket::{Reply, Ticket};
use crate::{Error, LeaderHint, LeaderInfo, RequestError};

/// Between two looks for leaders that are preferred.
const PREFER_EVERY: Nanos = Nanos::SECOND;
/// A preferred member has to be reachable for so long.
const SETTLED: Nanos = Nanos(10 * Nanos::SECOND.0);
/// A member that does not take a leadership is asked again after twice [`PREFER_EVERY`], which
/// doubles so often. Writes wait while it is asked.
const DOUBLINGS_MAX: u32 = 8;
/// Leaderships handed over at a time.
const PREFER_MAX: usize = 16;
/// Entries that a preferred member may be behind.
const LAG_MAX: u64 = 1_024;

/// A caller who waits until another node leads.
pub(crate) struct Handing {
    slot: Slot,
    to: NodeId,
    ticket: Ticket,
    deadline: Nanos,
    /// Raft was told.
    begun: bool,
}

impl Handing {
    pub(crate) fn into_ticket(self) -> Ticket {
        self.ticket
    }
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// A replica leads, follows another, or knows no leader.
    pub(crate) fn role_changed(&mut self, change: &RoleChange) {
        let slot = change.slot;
        let leads = change.role == Role::Leader;
        let node = if leads { Some(self.node) } else { self.node_of(slot, change.leader) };
        let leader = node.map(|node| (change.term, node));
        let replica = &mut self.replicas[place(slot)];
        if replica.leader != leader {
            self.unannounce(slot);
        }
        self.replicas[place(slot)].leader = leader;
        if leads {
            let clock = self.replicas[place(slot)].machine.clock_ms();
            let mut walls = self.voters_walls(slot);
            let now = self.logs.now.0;
            self.logs.queue_mut(slot).clock = LogClock::lead(clock, &mut walls, now);
            self.counters.leader_changes.add(1);
        } else {
            self.forget_answered(slot);
        }
        self.note_agreed(slot);
        self.elected |= leader.is_some();
        self.announce(slot);
        self.answer_handing(slot);
    }

    /// The wall clocks by which log time goes on, in milliseconds: this node's, and those of the
    /// other voters, of either half, whose word came lately.
    fn voters_walls(&self, slot: Slot) -> Vec<u64> {
        let conf = self.raft.view(slot).conf;
        let voters = conf.into_iter().flat_map(|conf| {
            let members = conf.members.iter().filter(|it| conf.is_voter(it.replica));
            members.map(|it| it.node).filter(|node| *node != self.node)
        });
        let told = voters.filter_map(|node| self.lanes.wall_of(node, self.logs.now));
        std::iter::once(self.logs.wall.0).chain(told).collect()
    }

    /// Tells the board of a leader once an entry of its term is applied here.
    pub(crate) fn announce(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        let Some((term, leader_id)) = replica.leader else { return };
        if replica.announced || replica.applied_term != term || replica.closed.is_some() {
            return;
        }
        replica.announced = true;
        self.announced += 1;
        let leader = LeaderInfo { leader_id, term, led: 1, of: 1 };
        self.changes.push(LeaderChange { shard: replica.shard, leader: Some(leader) });
    }

    /// A shard that was closed is open again: whoever leads it meanwhile is told.
    pub(crate) fn announce_again(&mut self, slot: Slot) {
        let view = self.raft.view(slot);
        let leader = view.leader.and_then(|id| view.conf?.member(id));
        let known = leader.map(|member| (view.term, member.node));
        let replica = &mut self.replicas[place(slot)];
        replica.leader = replica.leader.or(known);
        self.elected |= known.is_some();
        self.announce(slot);
    }

    /// The board's leader of a shard is one no more.
    pub(crate) fn unannounce(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        replica.leader = None;
        (replica.prefer_not_before, replica.transfers_failed) = (Nanos(0), 0);
        if std::mem::take(&mut replica.announced) {
            self.announced -= 1;
            self.changes.push(LeaderChange { shard: replica.shard, leader: None });
        }
    }

    /// Hands a leadership to another node; the ticket is answered once that node leads.
    pub(crate) fn transfer_leadership(
        &mut self,
        slot: Slot,
        to: NodeId,
        ticket: Ticket,
        deadline: Nanos,
    ) {
        let view = self.raft.view(slot);
        if view.role != Role::Leader {
            ticket.complete(Err(self.not_leader(slot)), &mut self.wakes);
            return;
        }
        if to == self.node {
            ticket.complete(Ok(Reply::Unit), &mut self.wakes);
            return;
        }
        self.handing.push(Handing { slot, to, ticket, deadline, begun: false });
        self.begin_handing();
    }

    /// Whether a node may have begun its life so lately that promises of the one before keep it
    /// from standing: told to take over, it would leave the shard without a leader meanwhile.
    pub(super) fn is_fresh(&self, node: NodeId) -> bool {
        let since = self.lanes.up_since(node);
        since.is_some_and(|since| self.logs.now.since(since) < self.options.handing)
    }

    /// Begins the transfers whose target can take over at once; the others wait, and the shards
    /// take writes.
    pub(crate) fn begin_handing(&mut self) {
        for mut handing in std::mem::take(&mut self.handing) {
            if !handing.begun && !self.is_fresh(handing.to) {
                if let Err(why) = self.begin_transfer(handing.slot, handing.to) {
                    let error = Error::Request(RequestError::Membership(refusal(why)));
                    handing.ticket.complete(Err(error), &mut self.wakes);
                    continue;
                }
                handing.begun = true;
            }
            self.handing.push(handing);
        }
    }

    fn begin_transfer(&mut self, slot: Slot, to: NodeId) -> Result<(), AdminError> {
        let members = self.raft.view(slot).conf.map_or(&[][..], |conf| &conf.members);
        let member = members.iter().find(|member| member.node == to);
        let unknown = AdminError::UnknownMember { replica: ReplicaId(0) };
        let to = member.map(|member| member.replica).ok_or(unknown)?;
        self.raft.admin(slot, Admin::Transfer { to })
    }

    /// Answers who waits for another node to lead, once one does or the deadline passed.
    fn answer_handing(&mut self, slot: Slot) {
        let Some((_, leader)) = self.replicas[place(slot)].leader else { return };
        for handing in self.handing.extract_if(.., |handing| handing.slot == slot) {
            let result = if leader == handing.to {
                Ok(Reply::Unit)
            } else {
                Err(Error::Request(RequestError::Membership("another node was elected")))
            };
            handing.ticket.complete(result, &mut self.wakes);
        }
    }

    /// Gives up waiting for leaders that do not come.
    pub(crate) fn expire_handing(&mut self) {
        let now = self.logs.now;
        self.fail_handing(|handing| handing.deadline <= now);
    }

    /// The time of a transfer is over, and this node leads still. Who was told to take over may do
    /// it yet.
    pub(crate) fn give_up_handing(&mut self, slot: Slot) {
        self.fail_handing(|handing| handing.slot == slot && handing.begun);
    }

    fn fail_handing(&mut self, which: impl Fn(&Handing) -> bool) {
        for handing in self.handing.extract_if(.., |handing| which(handing)) {
            let shard = self.replicas[place(handing.slot)].shard;
            let error = Error::Timeout { shard, maybe_applied: true };
            handing.ticket.complete(Err(error), &mut self.wakes);
        }
    }

    /// Hands every leadership to another voter that can take it. True: some are on their way.
    pub(crate) fn hand_over_all(&mut self) -> bool {
        let mut waits = false;
        for at in 0..self.replicas.len() {
            let slot = Slot(u32::try_from(at).expect("slots are u32"));
            if self.replicas[at].leader.is_none_or(|(_, node)| node != self.node) {
                continue;
            }
            waits |= self.hand_over(slot);
        }
        waits
    }

    /// Hands leaderships to members that are preferred to this one, have been reachable for a while
    /// and have the log; some at a time.
    pub(crate) fn prefer_leaders(&mut self) {
        let now = self.logs.now;
        if self.options.leaders == Leaders::Any || now < self.prefer_at || self.drain.is_some() {
            return;
        }
        self.prefer_at = now.after(PREFER_EVERY);
        let mut left = PREFER_MAX;
        for at in 0..self.replicas.len() {
            let slot = Slot(u32::try_from(at).expect("slots are u32"));
            let replica = &self.replicas[at];
            let leads = replica.leader.is_some_and(|(_, node)| node == self.node);
            let due = replica.announced && now >= replica.prefer_not_before;
            if leads && due && self.prefer(slot) {
                left -= 1;
            }
            if left == 0 {
                return;
            }
        }
    }

    /// Begins to hand one leadership to the most preferred member, if that is another one.
    fn prefer(&mut self, slot: Slot) -> bool {
        let now = self.logs.now;
        let view = self.raft.view(slot);
        let members = view.conf.map_or(&[][..], |conf| &conf.members);
        let own = members.iter().find(|it| it.replica == view.replica);
        let Some(rank) = own.map(|own| own.priority) else { return false };
        let settled = |node| {
            let since = self.lanes.up_since(node);
            since.is_some_and(|since| now.since(since) >= SETTLED)
        };
        let better = members.iter().filter(|it| it.priority < rank && settled(it.node));
        let Some(to) = better.min_by_key(|it| it.priority).map(|it| it.replica) else {
            return false;
        };
        let lag = |it: ProgressView| view.last.0.saturating_sub(it.matched.0);
        let near = self.raft.progress(slot, to).is_some_and(|it| lag(it) <= LAG_MAX);
        near && self.raft.admin(slot, Admin::Transfer { to }).is_ok()
    }

    /// Who was to take over did not: it may be closed there, and is not asked again soon.
    pub(crate) fn prefer_later(&mut self, slot: Slot) {
        let replica = &mut self.replicas[place(slot)];
        replica.transfers_failed += 1;
        let wait = Nanos(PREFER_EVERY.0 << replica.transfers_failed.min(DOUBLINGS_MAX));
        replica.prefer_not_before = self.logs.now.after(wait);
    }

    fn hand_over(&mut self, slot: Slot) -> bool {
        let view = self.raft.view(slot);
        let own = view.replica;
        let members = view.conf.map_or(&[][..], |conf| &conf.members);
        // Those that can take over at once, then the most preferred.
        let rank = |it: &bowline_raft::Member| (self.is_fresh(it.node), it.priority, it.replica);
        let mut order: Vec<_> = members.iter().map(rank).collect();
        order.sort_unstable();
        let others = order.into_iter().map(|(_, _, replica)| replica).filter(|it| *it != own);
        for to in others {
            match self.raft.admin(slot, Admin::Transfer { to }) {
                // One that is under way already is as good.
                Ok(()) | Err(AdminError::Busy) => return true,
                Err(_) => {},
            }
        }
        false
    }

    /// Whether somebody is known to lead.
    pub(crate) fn has_leader(&self, slot: Slot) -> bool {
        self.raft.view(slot).leader.is_some()
    }

    /// What a caller is told whose shard another node leads.
    pub(crate) fn not_leader(&self, slot: Slot) -> Error {
        let shard = self.logs.shard(slot);
        let view = self.raft.view(slot);
        let node = self.node_of(slot, view.leader).filter(|node| *node != self.node);
        let roster = self.lanes.doorman.roster.borrow();
        let hint: Option<LeaderHint> = node.map(|node| roster.hint(node, view.term));
        let address = |hint: &LeaderHint| hint.app.clone().or_else(|| hint.peer.clone());
        let leader_address = hint.as_ref().and_then(address);
        Error::NotLeader { shard, leader_address, leader: hint.map(Arc::new) }
    }

    /// Where a member of a shard lives.
    pub(super) fn node_of(&self, slot: Slot, replica: Option<ReplicaId>) -> Option<NodeId> {
        self.raft.view(slot).conf?.member(replica?).map(|member| member.node)
    }
}

/// Why a transfer is refused, for people.
fn refusal(why: AdminError) -> &'static str {
    match why {
        AdminError::NotCaughtUp { .. } => "the node is behind or cannot be reached",
        AdminError::Busy => "a change or transfer is under way",
        AdminError::UnknownMember { .. } => "the node is no member of the shard",
        AdminError::NoChange => "nothing would change",
        AdminError::NotLeader => "another node leads",
        AdminError::BeyondApplied { .. }
        | AdminError::Duplicate { .. }
        | AdminError::Configuration(_)
        | AdminError::Closed
        | _ => "the shard is closed",
    }
}
