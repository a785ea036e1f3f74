//! Opening a replica from what its log and state say, and taking it off the core.

use crate::{
    ConfError, Configuration, HardState, Log, LogIndex, Lsn, OpenError, Outbox, RaftCore, Reason,
    ReplicaId, Role, ShardId, Slot, StreamNo, Term,
    core::{
        BROKEN, CAMPAIGN, Cold, DIRTY, Hot, Interned, OPEN, STALLED, Stream, StreamState, Warm, at,
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
///
/// A founding replica: hard state zero, `first` 1, `last` 0, nothing applied, the founding
/// configuration.
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
        let (conf, conf_index) = active_configuration(&r)?;
        if !conf.is_voter(r.replica) {
            return Err(OpenError::NotMember);
        }
        if conf.members.len() != 1 {
            return Err(OpenError::Members);
        }
        if r.damage == Damage::Normal && !bounds_agree(&r) {
            return Err(OpenError::Bounds);
        }
        let stream = self.stream_index(r.stream)?;
        let conf = self.intern(conf)?;
        let slot = self.fill(&r, stream, conf, conf_index);
        self.by_shard.insert(r.shard, slot);
        self.touch(slot);
        let good = self.stream_is_good(slot) && r.damage == Damage::Normal;
        if good {
            self.hot[at(slot)].flags |= CAMPAIGN;
            self.campaign(slot, log);
        }
        Ok(slot)
    }

    /// Makes room for `replicas` more, and no more than that.
    pub fn reserve(&mut self, replicas: usize) {
        self.hot.reserve_exact(replicas);
        self.warm.reserve_exact(replicas);
        self.cold.reserve_exact(replicas);
    }

    /// Writes the arrays of a new replica.
    fn fill(&mut self, r: &Recovered<'_>, stream: u8, conf: u16, conf_index: LogIndex) -> Slot {
        let floor = r.first.prev();
        let applied = if r.damage == Damage::Normal { r.applied } else { floor };
        let commit = r.hard_state.commit.min(r.last).max(applied);
        let last = r.last.max(floor);
        let slot = self.take_slot();
        self.hot[at(slot)] = Hot {
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
            leader: NO_MEMBER,
        };
        self.warm[at(slot)] =
            Warm { vote: r.hard_state.vote, handed: applied, applied, floor, ..Warm::default() };
        self.cold[at(slot)] = Cold {
            shard: r.shard,
            replica: r.replica,
            conf_index,
            staged_commit: r.hard_state.commit,
            generation: self.cold[at(slot)].generation,
            ..Cold::default()
        };
        slot
    }

    fn take_slot(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            let slot = Slot(u32::try_from(self.hot.len()).expect("checked against SLOTS_MAX"));
            self.hot.push(Hot::default());
            self.warm.push(Warm::default());
            self.cold.push(Cold::default());
            slot
        })
    }

    /// The place of a stream; a new one is taken in.
    fn stream_index(&mut self, no: StreamNo) -> Result<u8, OpenError> {
        if self.free.is_empty() && self.hot.len() >= SLOTS_MAX {
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
            });
        }
        Ok(index)
    }

    /// A failed stream whose replicas are all closed was opened again.
    fn renew(&mut self, place: usize) {
        let uses = |hot: &Hot| hot.flags & OPEN != 0 && usize::from(hot.stream) == place;
        if self.streams[place].state == StreamState::Failed && !self.hot.iter().any(uses) {
            self.streams[place].state = StreamState::Good;
        }
    }

    /// Shares one copy among the replicas with equal configurations.
    fn intern(&mut self, conf: Configuration) -> Result<u16, OpenError> {
        let bytes = conf.encode().map_err(OpenError::Configuration)?;
        if let Some(&id) = self.conf_ids.get(&bytes) {
            self.confs[usize::from(id)].uses += 1;
            return Ok(id);
        }
        let unused = self.confs.iter().position(|interned| interned.uses == 0);
        let place = unused.unwrap_or(self.confs.len());
        let id = u16::try_from(place).map_err(|_too_many| OpenError::Full)?;
        let interned = Interned { conf, uses: 1 };
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
        self.step_down(slot, out);
        self.report(slot, reason, out);
        self.writes.forget(&mut self.warm[at(slot)].pending);
        self.by_shard.remove(&self.cold[at(slot)].shard);
        self.confs[usize::from(self.hot[at(slot)].conf)].uses -= 1;
        if self.hot[at(slot)].flags & STALLED != 0 {
            self.stalled.retain(|stalled| *stalled != slot);
        }
        if self.hot[at(slot)].flags & DIRTY != 0 {
            self.dirty.retain(|dirty| *dirty != slot);
        }
        self.hot[at(slot)].flags = 0;
        let cold = &mut self.cold[at(slot)];
        cold.generation = cold.generation.wrapping_add(1);
        self.free.push(slot);
    }

    /// Ends what a replica was doing for clients. It leads nothing after this.
    pub(crate) fn step_down(&mut self, slot: Slot, out: &mut Outbox) {
        let was = self.hot[at(slot)].role;
        self.hot[at(slot)].role = Role::Follower;
        self.hot[at(slot)].leader = NO_MEMBER;
        self.hot[at(slot)].flags &= !CAMPAIGN;
        self.reject_all(slot, out);
        self.reject_reads(slot, out);
        self.warm[at(slot)].uncommitted = 0;
        if was != Role::Follower {
            self.counters.step_downs += u64::from(was == Role::Leader);
            self.tell_role(slot, out);
        }
    }

    /// Whether a slot is shut for good by a broken rule.
    pub(crate) fn is_broken(&self, slot: Slot) -> bool {
        self.hot[at(slot)].flags & BROKEN != 0
    }
}

/// No place in a configuration.
pub(crate) const NO_MEMBER: u8 = u8::MAX;
/// Replicas of a core at most.
const SLOTS_MAX: usize = 1 << 24;

/// The latest configuration, committed or not, and where it stands.
fn active_configuration(r: &Recovered<'_>) -> Result<(Configuration, LogIndex), OpenError> {
    let decode = |bytes| Configuration::decode(bytes).map_err(OpenError::Configuration);
    let (mut conf, mut index) = (decode(r.conf)?, r.applied.min(r.last));
    for (nth, (at, bytes)) in r.confs.iter().enumerate() {
        let next = decode(bytes)?;
        let ascends = nth == 0 || *at > index;
        if next.epoch != conf.epoch.saturating_add(1) || !ascends || *at > r.last {
            return Err(OpenError::Configuration(ConfError::Epoch));
        }
        (conf, index) = (next, *at);
    }
    Ok((conf, index))
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
