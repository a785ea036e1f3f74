//! What comes from other replicas: the tests that every message has to pass, then its term.

use crate::{
    Batch, LogIndex, Message, Origin, Outbox, RaftCore, Reason, Received, Role, Slot, Term,
    Verdict, What, Why,
    batch::{FLAG_CONF, FLAG_NOOP},
    core::StreamState,
    log::Log,
    message::Mismatch,
    replica::{BROKEN, CLOSING, OPEN},
};

/// Terms and indexes that no honest replica reaches.
pub(crate) const NUMBER_MAX: u64 = u64::MAX >> 1;

impl RaftCore {
    /// Takes a message of another replica.
    pub fn handle_message(
        &mut self,
        from: Origin,
        m: Received<'_>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> Verdict {
        if self.goes_on(from, m, log, out) || self.answers(from, m, log, out) {
            self.settle(out);
            return Verdict::Taken;
        }
        let verdict = self.step(from, m, log, out);
        match verdict {
            Verdict::Taken => {},
            Verdict::NoRoom => self.counters.no_room += 1,
            Verdict::UnknownShard => self.counters.unknown_shard += 1,
            Verdict::False(why) => self.counters.refused[place_of(why)] += 1,
        }
        self.settle(out);
        verdict
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what is left is told apart by its term")]
    fn step(
        &mut self,
        from: Origin,
        m: Received<'_>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> Verdict {
        if !self.is_current(from) {
            return Verdict::False(Why::Life);
        }
        let Some(slot) = self.locate(m.message) else {
            return Verdict::UnknownShard;
        };
        let shut = self.replicas[slot].flags & (OPEN | BROKEN | CLOSING) != OPEN;
        if shut || self.stream(slot).state != StreamState::Good {
            return Verdict::False(Why::Closed);
        }
        let sender = match self.plausible(slot, from, m) {
            Ok(sender) => sender,
            Err(why) => return Verdict::False(why),
        };
        match m.message.what {
            What::PreVote { .. } => self.on_pre_vote(slot, from, m.message, (log, out)),
            What::Vote { .. } => self.on_vote(slot, from, m.message, (log, out)),
            What::Release => self.on_release(slot, m.message, log, out),
            What::Gone { .. } => {
                self.report(slot, Reason::Gone, out);
                Verdict::Taken
            },
            What::FetchEntries { from: first, to } => {
                self.on_fetch((slot, from), m.message, (first, to), out)
            },
            _ if m.message.term < self.replicas[slot].term => {
                self.answer_stale(slot, from, m.message, out)
            },
            _ => self.step_in_term((slot, sender), from, m, (log, out)),
        }
    }

    /// A message that is not of a lower term, and asks for no vote.
    fn step_in_term(
        &mut self,
        (slot, sender): (Slot, Option<u8>),
        from: Origin,
        m: Received<'_>,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Verdict {
        let message = m.message;
        let it = &self.replicas[slot];
        if message.term > it.term {
            let stood = matches!(it.role, Role::Candidate | Role::PreCandidate);
            if let Err(verdict) = self.adopt(slot, message.term, log, out) {
                return verdict;
            }
            if stood && matches!(message.what, What::PreVoteResp(_) | What::VoteResp(_)) {
                // A refusal brought the higher term: ask again above it, at once.
                self.stand(slot, log, out);
                return Verdict::Taken;
            }
        }
        match message.what {
            What::Append { .. } => self.on_append(slot, from, m, (log, out)),
            What::AppendResp { .. } => {
                self.on_append_resp((slot, sender), from, message, (log, out))
            },
            What::PreVoteResp(ballot) => self.on_pre_vote_resp(slot, message, ballot, (log, out)),
            What::VoteResp(ballot) => self.on_vote_resp(slot, message, ballot, out),
            What::CommitHint { commit } => self.on_commit_hint(slot, message, commit),
            What::ReadProbe { commit, read_seq } => {
                let answer = self.read_answer(slot, from, message, read_seq);
                out.send.push(answer);
                self.on_commit_hint(slot, message, commit)
            },
            What::ReadProbeResp { read_seq, no_quorum } => {
                self.on_read_probe_resp((slot, from), message, read_seq, no_quorum)
            },
            What::ReadIndex { request, .. } => {
                self.on_read_index((slot, from), message, request, out)
            },
            What::ReadIndexResp { request, index } => {
                self.on_read_index_resp(slot, message, (request, index), out)
            },
            What::TimeoutNow => self.on_timeout_now(slot, message, log, out),
            What::SnapshotNeeded { .. } => self.on_snapshot_needed(slot, message, out),
            What::PreVote { .. }
            | What::Vote { .. }
            | What::Release
            | What::Gone { .. }
            | What::FetchEntries { .. } => Verdict::False(Why::Unasked),
        }
    }

    /// A request of a lower term is answered with ours; an answer of one says nothing.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other answers say nothing then")]
    fn answer_stale(&mut self, slot: Slot, from: Origin, m: &Message, out: &mut Outbox) -> Verdict {
        match m.what {
            What::Append { .. } | What::CommitHint { .. } | What::ReadProbe { .. } => {
                let reject = Some(Mismatch::default());
                let no_quorum = self.is_retired(slot);
                let what = What::AppendResp { matched: LogIndex(0), reject, no_quorum };
                self.answer_durably((slot, from), m, what, out);
                Verdict::Taken
            },
            What::ReadIndex { request, .. } => {
                let index = Err(self.replicas[slot].leader);
                out.send.push(self.answer(slot, from, m, What::ReadIndexResp { request, index }));
                Verdict::Taken
            },
            _ => Verdict::False(Why::Stale),
        }
    }

    /// The replica that a message of its present term is for, and the sender's place among the
    /// members, if there is nothing to look at more closely: the hint is right, the sender is a
    /// member, the replica and its stream are well.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn addressed(&self, from: Origin, m: &Message) -> Option<(Slot, u8)> {
        let slot = m.hint.to_slot;
        let it = self.replicas.get(slot)?;
        let here = (it.shard, it.generation) == (m.shard, m.hint.to_generation)
            && (it.replica, it.term) == (m.to, m.term)
            && it.flags & (OPEN | BROKEN | CLOSING) == OPEN
            && self.streams[usize::from(it.stream)].state == StreamState::Good
            && self.is_current(from);
        if !here {
            return None;
        }
        let conf = &self.confs[usize::from(it.conf)];
        let place = conf.place(m.from)?;
        let node = conf.conf.members[usize::from(place)].node;
        (node == from.node && it.replica != m.from).then_some((slot, place))
    }

    /// Takes an answer to an Append of this term that was taken. False: nothing was done, it is
    /// looked at in the long way.
    #[inline]
    fn answers(
        &mut self,
        from: Origin,
        m: Received<'_>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> bool {
        let What::AppendResp { matched, reject: None, .. } = m.message.what else { return false };
        let Some((slot, sender)) = self.addressed(from, m.message) else { return false };
        let it = &self.replicas[slot];
        if it.role != Role::Leader || matched > it.last || !m.batches.is_empty() {
            return false;
        }
        self.on_append_resp((slot, Some(sender)), from, m.message, (log, out));
        true
    }

    /// The replica that a message is for: by its hint, else by its shard.
    #[inline]
    fn locate(&self, m: &Message) -> Option<Slot> {
        let hint = m.hint.to_slot;
        if let Some(it) = self.replicas.get(hint)
            && it.shard == m.shard
            && it.generation == m.hint.to_generation
            && it.flags & OPEN != 0
        {
            return Some(hint);
        }
        self.slot_of(m.shard)
    }

    /// Whether a replica belonged to the shard and does no more.
    pub(crate) fn is_gone(&self, slot: Slot, m: &Message) -> bool {
        let conf = &self.conf(slot).conf;
        let older = self.older.get(&slot).map_or(&[][..], |older| older);
        m.from < conf.next_replica
            && conf.member(m.from).is_none()
            && older
                .iter()
                .all(|(id, _)| self.confs[usize::from(*id)].conf.member(m.from).is_none())
    }

    /// Whether a message came over a lane life that is the present one.
    #[inline]
    pub(crate) fn is_current(&self, from: Origin) -> bool {
        from.lane.is_none_or(|lane| {
            self.lanes
                .get(usize::from(lane.0))
                .is_some_and(|known| known.up && known.life == from.life && known.node == from.node)
        })
    }

    /// The first test of any message: what no honest replica sends. The sender's place among the
    /// members, if it has one.
    #[inline]
    pub(crate) fn plausible(
        &self,
        slot: Slot,
        from: Origin,
        m: Received<'_>,
    ) -> Result<Option<u8>, Why> {
        let (it, message) = (&self.replicas[slot], m.message);
        ensure(message.to == it.replica, Why::Receiver)?;
        ensure(message.from != it.replica && message.from.0 != 0, Why::Sender)?;
        let conf = self.conf(slot);
        let node = |place: u8| conf.conf.members[usize::from(place)].node;
        let named = conf.place(message.from);
        let sender = named.filter(|place| node(*place) == from.node);
        // The id of a member whose configuration is cut off goes to somebody else.
        ensure(sender == named || it.conf_index > it.commit, Why::Sender)?;
        says_what_may_be(message, m.batches)?;
        Ok(sender)
    }
}

/// Whether a message can come from an honest replica, by itself.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the others have nothing that could be false by itself"
)]
#[inline]
fn says_what_may_be(message: &Message, batches: &[Batch<'_>]) -> Result<(), Why> {
    ensure(message.term.0 <= NUMBER_MAX, Why::Term)?;
    let leads = matches!(
        message.what,
        What::Append { .. }
            | What::Vote { .. }
            | What::CommitHint { .. }
            | What::ReadProbe { .. }
            | What::TimeoutNow
    );
    ensure(!leads || message.term.0 > 0, Why::Term)?;
    ensure(batches.is_empty() || matches!(message.what, What::Append { .. }), Why::Batches)?;
    let below = |index: LogIndex| ensure(index.0 <= NUMBER_MAX, Why::Index);
    match message.what {
        What::Append { prev, prev_term, commit, .. } => {
            below(commit)?;
            stands(prev, prev_term, message.term)?;
            chained(message, prev, prev_term, batches)
        },
        What::AppendResp { matched, reject, .. } => {
            below(matched)?;
            reject.map_or(Ok(()), |part| below(part.index))
        },
        What::PreVote { last, last_term } | What::Vote { last, last_term, .. } => {
            stands(last, last_term, message.term)
        },
        What::CommitHint { commit } | What::ReadProbe { commit, .. } => below(commit),
        What::ReadIndexResp { index: Ok(index), .. } => below(index),
        What::SnapshotNeeded { floor } => below(floor),
        What::FetchEntries { from: first, to } => {
            below(to)?;
            ensure(first.0 > 0 && first <= to, Why::Index)
        },
        _ => Ok(()),
    }
}

#[inline]
fn ensure(holds: bool, why: Why) -> Result<(), Why> {
    if holds { Ok(()) } else { Err(why) }
}

/// Whether an index and its term can stand in a log of `term`.
#[inline]
fn stands(index: LogIndex, its: Term, term: Term) -> Result<(), Why> {
    ensure(index.0 <= NUMBER_MAX && its <= term && (index.0 == 0) == (its.0 == 0), Why::Index)
}

/// Whether the batches of an Append follow `prev` without a hole. The first may begin before it.
#[inline]
fn chained(
    message: &Message,
    prev: LogIndex,
    prev_term: Term,
    batches: &[Batch<'_>],
) -> Result<(), Why> {
    let (mut last, mut term) = (prev, prev_term);
    for (nth, batch) in batches.iter().enumerate() {
        let head = &batch.head;
        let end = head.first.0.checked_add(u64::from(head.count)).ok_or(Why::Index)?;
        ensure(head.count > 0 && head.first.0 > 0 && end <= NUMBER_MAX, Why::Batches)?;
        let next = last.next();
        let starts = if nth == 0 { head.first <= next } else { head.first == next };
        ensure(starts && end > next.0 && head.shard == message.shard, Why::Batches)?;
        let overlaps = head.first < next;
        ensure(head.term >= term && head.term <= message.term, Why::Batches)?;
        ensure(!overlaps || head.term == prev_term, Why::Batches)?;
        let own = head.flags & (FLAG_CONF | FLAG_NOOP) != 0;
        ensure(!own || head.count == 1, Why::Batches)?;
        ensure(usize::try_from(head.len) == Ok(batch.body.len()), Why::Bytes)?;
        (last, term) = (LogIndex(end - 1), head.term);
    }
    Ok(())
}

/// Where a reason is counted.
pub(crate) fn place_of(why: Why) -> usize {
    match why {
        Why::Life => 0,
        Why::Receiver => 1,
        Why::Sender => 2,
        Why::Term => 3,
        Why::Index => 4,
        Why::Batches => 5,
        Why::Bytes => 6,
        Why::Configuration => 7,
        Why::Committed => 8,
        Why::Leader => 9,
        Why::Unasked => 10,
        Why::Stale => 11,
        Why::Closed => 12,
    }
}
