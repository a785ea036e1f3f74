//! Opening a replica from what its log and state say, and taking it off the core.

use alloc::{vec, vec::Vec};

use crate::{
    ConfError, Configuration, HardState, Log, LogIndex, Lsn, OpenError, Outbox, RaftCore, Reason,
    ReplicaId, Role, RoleChange, ShardId, Slot, StreamNo, Term, What,
    alarm::Alarm,
    core::{Stream, StreamState},
    progress::NO_PEERS,
    replica::{
        BEAT, BROKEN, CAMPAIGN, DIRTY, Interned, NO_LANE, NO_LEASE, OPEN, Replica, STALLED,
        TRANSFER,
    },
};

/// What is known damaged of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Damage {
    /// Nothing.
    #[default]
    Normal = 0,
    /// Tail and vote are known, bodies of entries are lost.
    Repairing = 1,
    /// Vote or tail may be lost: this replica never votes again.
    Retired = 2,
    /// The state machine's data is damaged.
    State = 3,
}

/// What a log and a state machine say of a replica at start.
#[derive(Clone, Copy, Debug)]
pub struct Recovered<'a> {
    /// The shard.
    pub shard: ShardId,
    /// Own replica id.
    pub replica: ReplicaId,
    /// The stream that holds its log.
    pub stream: StreamNo,
    /// Term, vote, commit.
    pub hard_state: HardState,
    /// First index that the log has or would have.
    pub first: LogIndex,
    /// Term of the entry before it.
    pub prev_term: Term,
    /// Last index; `first - 1` if the log is empty.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// The state is as of this index (the manifest's).
    pub applied: LogIndex,
    /// Term of that entry.
    pub applied_term: Term,
    /// The configuration as of the applied index (the manifest's).
    pub conf: &'a [u8],
    /// Payloads of the CONF entries above it, ascending, committed or not.
    pub confs: &'a [(LogIndex, &'a [u8])],
    /// What is damaged.
    pub damage: Damage,
}

impl<'a> Recovered<'a> {
    /// A founding replica: no vote, an empty log, nothing applied. `conf` is the founding
    /// configuration.
    #[must_use]
    pub fn founding(shard: ShardId, replica: ReplicaId, stream: StreamNo, conf: &'a [u8]) -> Self {
        Self {
            shard,
            replica,
            stream,
            hard_state: HardState::default(),
            first: LogIndex(1),
            prev_term: Term(0),
            last: LogIndex(0),
            last_term: Term(0),
            applied: LogIndex(0),
            applied_term: Term(0),
            conf,
            confs: &[],
            damage: Damage::Normal,
        }
    }
}

impl RaftCore {
    /// Takes a replica in. A sole voter stages its next term and its vote at once.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: nothing changed, nothing was staged.
    pub fn open(&mut self, r: Recovered<'_>, log: &mut impl Log) -> Result<Slot, OpenError> {
        if let Some(slot) = self.slot_of(r.shard) {
            return Err(OpenError::AlreadyOpen { slot });
        }
        let confs = configurations(&r)?;
        if r.damage == Damage::Normal && !bounds_agree(&r) {
            return Err(OpenError::Bounds);
        }
        let stream = self.stream_index(r.stream)?;
        let confs = self.intern_all(confs)?;
        let slot = self.fill(&r, stream, confs);
        self.prune_confs(slot);
        self.by_shard.insert(r.shard, slot);
        self.find_promise(slot);
        self.touch(slot);
        let good = self.stream_is_good(slot) && r.damage == Damage::Normal;
        if r.damage == Damage::State {
            let soon = self.now.after(self.config.times.snapshot);
            self.alarms.set(soon, slot, self.replicas[slot].generation, Alarm::Ask);
        }
        if self.is_sole(slot) {
            if good {
                self.replicas[slot].flags |= CAMPAIGN;
                // Nobody else can be asked, so the outbox stays empty.
                self.campaign(slot, None, log, &mut Outbox::default());
            }
        } else if self.may_be_elected(slot) {
            self.await_election(slot);
        }
        Ok(slot)
    }

    /// Takes all configurations in, or none.
    fn intern_all(
        &mut self,
        confs: Vec<(Configuration, LogIndex)>,
    ) -> Result<Vec<(u16, LogIndex)>, OpenError> {
        let mut ids = Vec::with_capacity(confs.len());
        for (conf, index) in confs {
            match self.intern(conf) {
                Ok(id) => ids.push((id, index)),
                Err(why) => {
                    for (id, _) in &ids {
                        self.confs[usize::from(*id)].uses -= 1;
                    }
                    return Err(why);
                },
            }
        }
        Ok(ids)
    }

    /// Makes room for `replicas` more, and no more than that.
    pub fn reserve(&mut self, replicas: usize) {
        self.replicas.reserve(replicas);
    }

    /// Writes a new replica into a free slot.
    fn fill(&mut self, r: &Recovered<'_>, stream: u8, mut confs: Vec<(u16, LogIndex)>) -> Slot {
        let floor = r.first.prev();
        let lost = r.damage == Damage::State;
        let applied = if lost { floor } else { r.applied.clamp(floor, r.last.max(floor)) };
        let commit = r.hard_state.commit.min(r.last).max(applied);
        let last = r.last.max(floor);
        let slot = self.take_slot();
        let read_seq = self.first_request();
        let (conf, conf_index) = confs.pop().expect("the manifest has a configuration");
        if !confs.is_empty() {
            self.older.insert(slot, confs);
        }
        self.replicas[slot] = Replica {
            term: r.hard_state.term,
            last,
            last_term: r.last_term,
            commit,
            durable: last,
            staged: Lsn(0),
            conf,
            flags: OPEN,
            role: Role::Follower,
            damage: r.damage,
            stream,
            lane: NO_LANE,
            place: NO_MEMBER,
            vote: r.hard_state.vote,
            handed: applied,
            applied,
            floor,
            progress: NO_PEERS,
            shard: r.shard,
            replica: r.replica,
            conf_index,
            staged_commit: r.hard_state.commit,
            generation: self.replicas[slot].generation,
            transfer: NO_MEMBER,
            read_seq,
            ..Replica::default()
        };
        slot
    }

    fn take_slot(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            let slot = Slot(u32::try_from(self.replicas.len()).expect("checked against SLOTS_MAX"));
            self.replicas.add();
            self.wheel.grow(self.replicas.len());
            slot
        })
    }

    /// The place of a stream; a new one is taken in.
    fn stream_index(&mut self, no: StreamNo) -> Result<u8, OpenError> {
        if self.free.is_empty() && self.replicas.len() >= SLOTS_MAX {
            return Err(OpenError::Full);
        }
        let known = self.streams.iter().position(|stream| stream.no == no);
        let place = known.unwrap_or(self.streams.len());
        let index = u8::try_from(place).map_err(|_too_many| OpenError::Full)?;
        if let Some(place) = known {
            self.renew(place);
        } else {
            self.streams.push(Stream {
                no,
                state: StreamState::Good,
                durable: Lsn(0),
                staged: Lsn(0),
                waiting: alloc::collections::VecDeque::new(),
                held: alloc::collections::VecDeque::new(),
            });
        }
        Ok(index)
    }

    /// A failed stream whose replicas are all closed was opened again.
    fn renew(&mut self, place: usize) {
        let uses = |it: &Replica| it.flags & OPEN != 0 && usize::from(it.stream) == place;
        if self.streams[place].state == StreamState::Failed && !self.replicas.iter().any(uses) {
            self.streams[place].state = StreamState::Good;
        }
    }

    /// Shares one copy among the replicas with equal configurations.
    pub(crate) fn intern(&mut self, conf: Configuration) -> Result<u16, OpenError> {
        let bytes = conf.encode().map_err(OpenError::Configuration)?;
        if let Some(&id) = self.conf_ids.get(&bytes) {
            self.confs[usize::from(id)].uses += 1;
            return Ok(id);
        }
        let unused = self.confs.iter().position(|interned| interned.uses == 0);
        let place = unused.unwrap_or(self.confs.len());
        let id = u16::try_from(place).map_err(|_too_many| OpenError::Full)?;
        let interned = Interned::new(conf);
        if unused.is_some() {
            self.conf_ids.retain(|_, known| *known != id);
            self.confs[place] = interned;
        } else {
            self.confs.push(interned);
        }
        self.conf_ids.insert(bytes, id);
        Ok(id)
    }

    /// Takes a replica off the core; its slot may be used again.
    pub(crate) fn release(&mut self, slot: Slot, reason: Reason, out: &mut Outbox) {
        self.say_release(slot, out);
        self.keep_promise(slot);
        self.end_role(slot, None, out);
        self.unbind(slot);
        self.reject_reads(slot, out);
        self.report(slot, reason, out);
        self.disarm(slot);
        let it = &self.replicas[slot];
        self.by_shard.remove(&it.shard);
        self.confs[usize::from(it.conf)].uses -= 1;
        for (id, _) in self.older.remove(&slot).unwrap_or_default() {
            self.confs[usize::from(id)].uses -= 1;
        }
        self.changes.remove(&slot);
        if self.replicas[slot].flags & STALLED != 0 {
            self.stalled.retain(|stalled| *stalled != slot);
        }
        if self.replicas[slot].flags & DIRTY != 0 {
            self.dirty.retain(|dirty| *dirty != slot);
        }
        let it = &mut self.replicas[slot];
        it.flags = 0;
        it.generation = it.generation.wrapping_add(1);
        self.free.push(slot);
    }

    /// Ends a leadership or a campaign, and waits for the next election. A leader says so to all:
    /// nobody stays bound to it.
    pub(crate) fn step_down(&mut self, slot: Slot, reason: Reason, out: &mut Outbox) {
        self.say_release(slot, out);
        self.end_role(slot, Some(reason), out);
        if self.stream_is_good(slot) && self.may_be_elected(slot) {
            self.await_election(slot);
        } else {
            self.disarm(slot);
        }
    }

    /// A leader says that it leads no more.
    pub(crate) fn say_release(&self, slot: Slot, out: &mut Outbox) {
        if self.replicas[slot].role == Role::Leader {
            self.tell_all(slot, What::Release, out);
        }
    }

    /// Where a follower begins to number its questions: never where a former life did, since an
    /// answer to that life may still come.
    fn first_request(&mut self) -> u64 {
        self.draw() >> 2
    }

    /// Becomes a follower of nobody.
    pub(crate) fn end_role(&mut self, slot: Slot, reason: Option<Reason>, out: &mut Outbox) {
        let it = &mut self.replicas[slot];
        let was = core::mem::replace(&mut it.role, Role::Follower);
        let led = was == Role::Leader;
        it.flags &= !(CAMPAIGN | TRANSFER | NO_LEASE | BEAT);
        let had_leader = core::mem::take(&mut it.leader);
        it.transfer = NO_MEMBER;
        self.reject_all(slot, out);
        if led {
            self.reject_reads(slot, out);
            self.replicas[slot].read_seq = self.first_request();
            self.close_peers(slot);
            self.changes.remove(&slot);
        } else {
            self.requeue_reads(slot);
        }
        let it = &mut self.replicas[slot];
        it.place = NO_MEMBER;
        it.uncommitted = 0;
        self.charges.forget(&mut it.charges);
        if was != Role::Follower || had_leader.0 != 0 {
            self.tell_role(slot, out);
        }
        if led {
            self.counters.step_downs += 1;
            if let Some(reason) = reason {
                self.report(slot, reason, out);
            }
        }
    }

    /// Tells what a replica is now.
    pub(crate) fn tell_role(&self, slot: Slot, out: &mut Outbox) {
        let it = &self.replicas[slot];
        let leader = self.leader_of(slot);
        let (shard, role, term) = (it.shard, it.role, it.term);
        out.role.push(RoleChange { slot, shard, role, term, leader });
    }

    /// A snapshot brings the configuration of its index; later ones that stay in the log are
    /// active still.
    pub(crate) fn rebase_confs(
        &mut self,
        slot: Slot,
        conf: Configuration,
        index: LogIndex,
        keep: bool,
    ) {
        let Ok(id) = self.intern(conf) else {
            self.broken(slot, crate::Rule::Configurations);
            return;
        };
        let it = &mut self.replicas[slot];
        let active = (it.conf, it.conf_index);
        let mut all = self.older.remove(&slot).unwrap_or_default();
        all.push(active);
        let stays = |at: LogIndex| keep && at > index;
        for (id, _) in all.iter().filter(|(_, at)| !stays(*at)) {
            self.confs[usize::from(*id)].uses -= 1;
        }
        all.retain(|(_, at)| stays(*at));
        all.insert(0, (id, index));
        (it.conf, it.conf_index) = all.pop().expect("the snapshot's is there");
        if !all.is_empty() {
            self.older.insert(slot, all);
        }
        self.prune_confs(slot);
    }

    /// Whether a slot is shut for good by a broken rule.
    #[inline]
    pub(crate) fn is_broken(&self, slot: Slot) -> bool {
        self.replicas[slot].flags & BROKEN != 0
    }
}

/// No place in a configuration.
pub(crate) const NO_MEMBER: u8 = u8::MAX;
/// Replicas of a core at most.
const SLOTS_MAX: usize = 1 << 24;

/// The configuration of the manifest and those of the log above it, committed or not.
fn configurations(r: &Recovered<'_>) -> Result<Vec<(Configuration, LogIndex)>, OpenError> {
    let decode = |bytes| Configuration::decode(bytes).map_err(OpenError::Configuration);
    let mut all = vec![(decode(r.conf)?, r.applied.min(r.last))];
    for (at, bytes) in r.confs {
        let next = decode(bytes)?;
        let (before, index) = all.last().expect("the manifest's is there");
        if next.epoch != before.epoch.saturating_add(1) || *at <= *index || *at > r.last {
            return Err(OpenError::Configuration(ConfError::Epoch));
        }
        all.push((next, *at));
    }
    Ok(all)
}

/// Whether hard state, bounds and state fit together (I1 as of this start).
fn bounds_agree(r: &Recovered<'_>) -> bool {
    let Some(floor) = r.first.0.checked_sub(1).map(LogIndex) else {
        return false;
    };
    let indexes = floor <= r.applied
        && r.applied <= r.last
        && r.hard_state.commit <= r.last
        && r.last < LogIndex(u64::MAX);
    let terms = r.prev_term <= r.applied_term
        && r.applied_term <= r.last_term
        && r.last_term <= r.hard_state.term
        && r.hard_state.term < Term(u64::MAX);
    let at_floor = r.applied > floor || r.applied_term == r.prev_term;
    let at_last = r.last > r.applied || r.last_term == r.applied_term;
    indexes && terms && at_floor && at_last
}
