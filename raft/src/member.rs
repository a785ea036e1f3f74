//! Membership: a change is an entry with the whole next configuration, active when it is staged.
//! Those before it are kept while it is above commit, and come back when it is truncated.
//!
//! Voters change through a joint configuration only. One change at a time, and none before an
//! entry of the leader's own term is committed.

use crate::{
    AdminError, ConfError, Configuration, Log, LogIndex, Member, NewBatch, NodeId, Outbox, Part,
    Phase, RaftCore, Reason, Refused, ReplicaId, Role, Slot, What,
    batch::{ALIGN_U32, FLAG_CONF, entry_len},
    replica::{CAUGHT_UP, TRANSFER},
};

/// One thing to change in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A new learner, under the configuration's next replica id.
    Add {
        /// Where it lives.
        node: NodeId,
        /// Preference for leadership; lower is preferred.
        priority: u8,
        /// It becomes a voter by itself once it has caught up.
        auto_promote: bool,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// Which.
        replica: ReplicaId,
    },
    /// A voter becomes a learner.
    Demote {
        /// Which.
        replica: ReplicaId,
    },
    /// A member leaves.
    Remove {
        /// Which.
        replica: ReplicaId,
    },
    /// Another preference for leadership.
    Prefer {
        /// Which.
        replica: ReplicaId,
        /// Lower is preferred.
        priority: u8,
    },
}

impl RaftCore {
    /// Works out the configuration that `steps` lead to; the next flush appends it.
    pub(crate) fn change(
        &mut self,
        slot: Slot,
        steps: &[Step],
        note: Option<&[u8]>,
    ) -> Result<(), AdminError> {
        if !self.serves(slot) {
            return Err(AdminError::NotLeader);
        }
        if !self.may_change(slot) {
            return Err(AdminError::Busy);
        }
        let mut next = self.conf(slot).conf.clone();
        for step in steps {
            self.apply_step(slot, &mut next, *step)?;
        }
        if let Some(note) = note {
            next.note = note.to_vec();
        }
        let conf = &self.conf(slot).conf;
        if (&next.members, &next.note) == (&conf.members, &conf.note) {
            return Err(AdminError::NoChange);
        }
        let next = joined(next).map_err(AdminError::Configuration)?;
        self.changes.insert(slot, next);
        Ok(())
    }

    /// Whether a change may begin: no other is under way, and the own term has committed.
    pub(crate) fn may_change(&self, slot: Slot) -> bool {
        let it = &self.replicas[slot];
        self.conf(slot).conf.phase == Phase::Stable
            && it.conf_index <= it.commit
            && it.commit >= it.term_start
            && !self.changes.contains_key(&slot)
            && !self.is_leaving(slot)
            && it.flags & TRANSFER == 0
    }

    fn apply_step(
        &self,
        slot: Slot,
        next: &mut Configuration,
        step: Step,
    ) -> Result<(), AdminError> {
        match step {
            Step::Add { node, priority, auto_promote } => {
                if next.members.iter().any(|member| member.node == node) {
                    return Err(AdminError::Duplicate { node });
                }
                let replica = next.next_replica;
                next.next_replica = ReplicaId(replica.0.saturating_add(1));
                let (before, after) = (Part::Absent, Part::Learner);
                let member = Member { node, replica, before, after, priority, auto_promote };
                next.members.push(member);
            },
            Step::Promote { replica } => {
                let member = known(next, replica)?;
                if member.after != Part::Voter && !self.is_caught_up(slot, replica) {
                    return Err(AdminError::NotCaughtUp { replica });
                }
                member.after = Part::Voter;
                member.auto_promote = false;
            },
            Step::Demote { replica } => {
                let member = known(next, replica)?;
                member.after = Part::Learner;
                member.auto_promote = false;
            },
            Step::Remove { replica } => {
                let member = known(next, replica)?;
                member.after = Part::Absent;
                member.auto_promote = false;
            },
            Step::Prefer { replica, priority } => known(next, replica)?.priority = priority,
        }
        Ok(())
    }

    /// Whether a learner has all that is needed to become a voter: its lag was small twice in a
    /// row, and it is there.
    fn is_caught_up(&self, slot: Slot, replica: ReplicaId) -> bool {
        self.conf(slot).place(replica).is_some_and(|place| {
            self.peer(slot, place).is_some_and(|peer| peer.flags & CAUGHT_UP != 0)
                && self.supports(slot, place)
        })
    }

    /// What a leader does by itself: ends a joint configuration that is committed, promotes
    /// learners that have caught up.
    pub(crate) fn next_change(&mut self, slot: Slot) {
        let it = &self.replicas[slot];
        let settled = it.conf_index <= it.commit && it.commit >= it.term_start;
        if !settled || self.changes.contains_key(&slot) || self.is_leaving(slot) {
            return;
        }
        let conf = &self.conf(slot).conf;
        if conf.phase == Phase::Joint {
            if conf.auto_leave {
                let stable = left(conf);
                self.changes.insert(slot, stable);
            }
        } else if self.replicas[slot].flags & TRANSFER == 0 {
            self.promote_learners(slot);
        }
    }

    fn promote_learners(&mut self, slot: Slot) {
        let conf = &self.conf(slot).conf;
        if !conf.members.iter().any(|member| member.auto_promote) {
            return;
        }
        let mut next = conf.clone();
        let mut promoted = false;
        for member in &mut next.members {
            if member.auto_promote && self.is_caught_up(slot, member.replica) {
                member.after = Part::Voter;
                member.auto_promote = false;
                promoted = true;
            }
        }
        if let Some(next) = promoted.then(|| joined(next).ok()).flatten() {
            self.changes.insert(slot, next);
        }
    }

    /// Appends the configuration that waits, if there is one. It is active from then on.
    pub(crate) fn append_change(&mut self, slot: Slot, log: &mut impl Log, out: &mut Outbox) {
        let Some(conf) = self.changes.remove(&slot) else { return };
        let Ok(payload) = conf.encode() else {
            self.report(slot, Reason::ChangeDropped, out);
            return;
        };
        let bytes = u32::try_from(entry_len(payload.len())).expect("a few hundred bytes");
        let bytes = bytes.next_multiple_of(ALIGN_U32);
        let batch = NewBatch { payload: &payload, ..self.tail_batch(slot, bytes, FLAG_CONF) };
        match log.append(batch) {
            Ok(lsn) => {
                let index = batch.first;
                self.appended(slot, &batch, 0, lsn);
                self.push_conf(slot, conf, index, out);
            },
            Err(Refused::NoRoom | Refused::BadChecksum) => {
                self.changes.insert(slot, conf);
                self.refused(slot, Refused::NoRoom);
            },
            Err(Refused::Poisoned) => {
                self.report(slot, Reason::ChangeDropped, out);
                self.refused(slot, Refused::Poisoned);
            },
        }
    }

    /// A configuration was staged at `index`: it is active.
    pub(crate) fn push_conf(
        &mut self,
        slot: Slot,
        conf: Configuration,
        index: LogIndex,
        out: &mut Outbox,
    ) {
        let Ok(id) = self.intern(conf) else {
            self.broken(slot, crate::Rule::Configurations);
            return;
        };
        let it = &self.replicas[slot];
        self.older.entry(slot).or_default().push((it.conf, it.conf_index));
        self.activate_conf(slot, id, index);
        self.prune_confs(slot);
        self.report(slot, Reason::Configuration, out);
    }

    /// The log is cut from `from` on: configurations in what goes are no more.
    pub(crate) fn pop_confs(&mut self, slot: Slot, from: LogIndex, out: &mut Outbox) {
        while self.replicas[slot].conf_index >= from {
            let Some((id, index)) = self.older.get_mut(&slot).and_then(alloc::vec::Vec::pop) else {
                self.broken(slot, crate::Rule::Configurations);
                return;
            };
            let gone = self.replicas[slot].conf;
            self.activate_conf(slot, id, index);
            self.confs[usize::from(gone)].uses -= 1;
            self.report(slot, Reason::ConfigurationUndone, out);
        }
        if self.older.get(&slot).is_some_and(alloc::vec::Vec::is_empty) {
            self.older.remove(&slot);
        }
    }

    /// Forgets configurations that cannot come back.
    #[inline]
    pub(crate) fn prune_confs(&mut self, slot: Slot) {
        if !self.older.is_empty() {
            self.prune_confs_of(slot);
        }
    }

    fn prune_confs_of(&mut self, slot: Slot) {
        let it = &self.replicas[slot];
        let (commit, active) = (it.commit, it.conf_index);
        let Some(older) = self.older.get_mut(&slot) else { return };
        let keep = if active <= commit {
            older.len()
        } else {
            older.iter().rposition(|(_, index)| *index <= commit).unwrap_or(0)
        };
        for (id, _) in older.drain(..keep) {
            self.confs[usize::from(id)].uses -= 1;
        }
        if older.is_empty() {
            self.older.remove(&slot);
        }
    }

    /// Whether this replica may be elected: as a voter of its latest configuration, or of the one
    /// before as long as the latest is not committed. Without the latter a replica that alone has
    /// the entry which removes it would keep everybody from being elected.
    pub(crate) fn may_be_elected(&self, slot: Slot) -> bool {
        let it = &self.replicas[slot];
        let own = it.replica;
        if self.conf(slot).conf.is_voter(own) {
            return true;
        }
        let open = it.conf_index > it.commit;
        let older = self.older.get(&slot).map_or(&[][..], |older| older);
        open && older.iter().any(|(id, _)| self.confs[usize::from(*id)].conf.is_voter(own))
    }

    /// Places of the learners that no committed configuration has. They hear nothing: whoever hears
    /// keeps the replica's id, and the id may still be given to somebody else.
    #[inline]
    pub(crate) fn uncommitted_learners(&self, slot: Slot) -> u16 {
        let it = &self.replicas[slot];
        if it.conf_index <= it.commit { 0 } else { self.learners_since_commit(slot) }
    }

    #[cold]
    fn learners_since_commit(&self, slot: Slot) -> u16 {
        let committed = self.older.get(&slot).and_then(|older| older.first());
        let Some((committed, _)) = committed else { return 0 };
        let (committed, active) = (&self.confs[usize::from(*committed)], self.conf(slot));
        let all = (1_u16 << active.members) - 1;
        let learners = all & !active.before & !active.after;
        let is_new = |place: &u8| {
            committed.place(active.conf.members[usize::from(*place)].replica).is_none()
        };
        let new = (0..active.members).filter(|place| learners >> place & 1 == 1).filter(is_new);
        new.fold(0, |places, place| places | 1 << place)
    }

    /// Whether the committed configuration does not have this replica as a voter.
    fn is_leaving(&self, slot: Slot) -> bool {
        let (it, conf) = (&self.replicas[slot], &self.conf(slot).conf);
        it.conf_index <= it.commit && conf.phase == Phase::Stable && !conf.is_voter(it.replica)
    }

    fn activate_conf(&mut self, slot: Slot, id: u16, index: LogIndex) {
        if self.replicas[slot].role == Role::Leader {
            self.move_peers(slot, id);
        } else {
            self.replicas[slot].conf = id;
        }
        let it = &mut self.replicas[slot];
        it.conf_index = index;
        let follows = it.role == Role::Follower;
        if follows && !self.armed(slot) && self.may_be_elected(slot) {
            self.await_election(slot);
        }
    }

    /// The configuration that is active just below `index`.
    pub(crate) fn conf_before(&self, slot: Slot, index: LogIndex) -> u16 {
        let it = &self.replicas[slot];
        if it.conf_index < index {
            return it.conf;
        }
        let older = self.older.get(&slot).map_or(&[][..], |older| older);
        let before = older.iter().rev().find(|(_, at)| *at < index);
        before.map_or(it.conf, |(id, _)| *id)
    }

    /// A leader that the committed configuration does not have as a voter hands over and leaves.
    pub(crate) fn leave_if_removed(&mut self, slot: Slot, out: &mut Outbox) {
        if !self.is_leaving(slot) {
            return;
        }
        let it = &self.replicas[slot];
        if it.handed < it.commit {
            // It ends as a leader whose last entry is handed out.
            self.touch(slot);
        } else {
            let commit = it.commit;
            for place in 0..self.conf(slot).members {
                let matched = self.peer(slot, place).map_or(LogIndex(0), |peer| peer.matched);
                self.tell(slot, place, What::CommitHint { commit: commit.min(matched) }, out);
            }
            self.hand_over(slot, Reason::Removed, out);
        }
    }
}

fn known(conf: &mut Configuration, replica: ReplicaId) -> Result<&mut Member, AdminError> {
    let member = conf.members.iter_mut().find(|member| member.replica == replica);
    member.ok_or(AdminError::UnknownMember { replica })
}

/// The configuration that begins a change whose end is in the members' `after`: joint if voters
/// change, else the end itself.
fn joined(mut next: Configuration) -> Result<Configuration, ConfError> {
    next.epoch = next.epoch.saturating_add(1);
    let moved = |member: &Member| (member.before == Part::Voter) != (member.after == Part::Voter);
    if next.members.iter().any(moved) {
        next.phase = Phase::Joint;
        next.auto_leave = true;
    } else {
        end(&mut next);
    }
    next.validate()?;
    Ok(next)
}

/// The stable configuration that ends a joint one.
fn left(joint: &Configuration) -> Configuration {
    let mut next = joint.clone();
    next.epoch = next.epoch.saturating_add(1);
    end(&mut next);
    next
}

fn end(next: &mut Configuration) {
    next.members.retain(|member| member.after != Part::Absent);
    for member in &mut next.members {
        member.before = member.after;
    }
    next.phase = Phase::Stable;
    next.auto_leave = false;
}
