//! What a leader sends: entries are taken behind the place where the logs meet, and acknowledged
//! when they are durable.

use crate::{
    Batch, Configuration, Damage, LaneSend, LaneWhat, Log, LogIndex, Message, Origin, Outbox,
    RaftCore, Reason, Received, Refused, Role, Slot, Term, Verdict, What, Why,
    batch::{Body, FLAG_CONF, FLAG_NOOP},
    message::Mismatch,
    step::NUMBER_MAX,
};

/// Entries of a batch that is taken without a closer look.
const COUNT_MAX: u32 = 1 << 20;

/// What became of the batches of an Append.
enum Took {
    /// All are in the log.
    All,
    /// The log parts from them here.
    Mismatch(Mismatch),
    /// The bytes of a batch are not what they say; up to here they were taken.
    BadBytes(Mismatch),
}

impl RaftCore {
    pub(crate) fn on_append(
        &mut self,
        slot: Slot,
        from: Origin,
        m: Received<'_>,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Verdict {
        let message = m.message;
        let What::Append { prev, prev_term, commit, read_seq, .. } = message.what else {
            return Verdict::False(Why::Unasked);
        };
        if let Err(verdict) = self.follow(slot, message, out) {
            return verdict;
        }
        let took = match self.take(slot, (prev, prev_term), m.batches, (log, out)) {
            Ok(took) => took,
            Err(verdict) => {
                self.on_bind(slot, from, message);
                return verdict;
            },
        };
        self.on_bind(slot, from, message);
        if read_seq != 0 {
            let answer = self.read_answer(slot, from, message, read_seq);
            out.send.push(answer);
        }
        if let (Took::BadBytes(_), Some(lane)) = (&took, from.lane) {
            out.lane.push(LaneSend { lane, what: LaneWhat::Reset });
        }
        let no_quorum = self.is_retired(slot);
        let what = match took {
            Took::All => {
                let matched = m.batches.last().map_or(prev, |batch| batch.head.last());
                self.raise_commit(slot, commit.min(matched));
                What::AppendResp { matched, reject: None, no_quorum }
            },
            Took::Mismatch(part) | Took::BadBytes(part) => {
                self.counters.rejects += 1;
                What::AppendResp { matched: LogIndex(0), reject: Some(part), no_quorum }
            },
        };
        self.answer_durably((slot, from), message, what, out);
        if m.batches.is_empty() {
            self.repeat_question(slot, out);
            self.say_state_is_damaged(slot, from, message, out);
        }
        Verdict::Taken
    }

    /// Takes an Append that just goes on: one batch of the present term behind the end of the log,
    /// from the leader that is followed. False: nothing was done, it is looked at in the long way.
    #[inline]
    pub(crate) fn goes_on(
        &mut self,
        from: Origin,
        m: Received<'_>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> bool {
        let message = m.message;
        let What::Append { prev, prev_term, commit, read_seq: 0, .. } = message.what else {
            return false;
        };
        let [batch] = m.batches else { return false };
        let Some((slot, _)) = self.addressed(from, message) else { return false };
        let (it, head) = (&self.replicas[slot], &batch.head);
        let goes_on = it.leader == message.from
            && (it.role, it.damage) == (Role::Follower, Damage::Normal)
            && (prev, prev_term) == (it.last, it.last_term)
            && (head.first, head.term) == (prev.next(), it.term)
            && head.shard == it.shard
            && head.flags & (FLAG_CONF | FLAG_NOOP) == 0
            && head.count.wrapping_sub(1) < COUNT_MAX
            && usize::try_from(head.len) == Ok(batch.body.len())
            && prev.0.max(commit.0) < NUMBER_MAX - u64::from(COUNT_MAX);
        if !goes_on {
            return false;
        }
        let Ok(lsn) = log.accept(self.place(slot), batch) else { return false };
        self.accepted(slot, batch, lsn);
        self.on_bind(slot, from, message);
        let matched = head.last();
        self.raise_commit(slot, commit.min(matched));
        let what = What::AppendResp { matched, reject: None, no_quorum: false };
        self.answer_durably((slot, from), message, what, out);
        true
    }

    /// Follows the leader of the present term. The vote of this term stays (I2).
    #[inline]
    pub(crate) fn follow(
        &mut self,
        slot: Slot,
        m: &Message,
        out: &mut Outbox,
    ) -> Result<(), Verdict> {
        if self.replicas[slot].leader == m.from { Ok(()) } else { self.follow_anew(slot, m, out) }
    }

    fn follow_anew(&mut self, slot: Slot, m: &Message, out: &mut Outbox) -> Result<(), Verdict> {
        let it = &self.replicas[slot];
        if it.role == Role::Leader || it.leader.0 != 0 {
            return Err(Verdict::False(Why::Leader));
        }
        if it.role == Role::Candidate {
            // It asks for no votes any longer, and what its log ends with may change now.
            let stream = &mut self.streams[usize::from(it.stream)];
            stream.held.retain(|(_, send)| {
                send.slot != slot || !matches!(send.message.what, What::Vote { .. })
            });
        }
        let it = &mut self.replicas[slot];
        it.role = Role::Follower;
        it.flags &= !(crate::replica::CAMPAIGN | crate::replica::TOUCHED);
        self.unbind(slot);
        self.disarm(slot);
        let it = &mut self.replicas[slot];
        it.leader = m.from;
        it.failed = 0;
        self.requeue_reads(slot);
        self.tell_role(slot, out);
        self.report(slot, Reason::Follows, out);
        Ok(())
    }

    /// Takes what is new of these batches.
    #[inline]
    fn take(
        &mut self,
        slot: Slot,
        (prev, prev_term): (LogIndex, Term),
        batches: &[Batch<'_>],
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Result<Took, Verdict> {
        if let Some(part) = self.parts_at(slot, prev, prev_term, log) {
            if part.index < self.replicas[slot].commit.min(prev) {
                self.report(slot, Reason::Conflict, out);
                return Err(Verdict::False(Why::Committed));
            }
            return Ok(Took::Mismatch(part));
        }
        for batch in batches {
            let Some(differs) = self.first_difference(slot, batch, log) else { continue };
            if differs <= self.replicas[slot].commit {
                // Nothing committed is ever replaced (I3): a peer or this log is at fault.
                self.report(slot, Reason::Conflict, out);
                return Err(Verdict::False(Why::Committed));
            }
            let conf = self.configuration_of(slot, batch)?;
            match log.accept(self.place(slot), batch) {
                Ok(lsn) => {
                    self.cut(slot, differs, out);
                    self.accepted(slot, batch, lsn);
                    if let Some(conf) = conf {
                        self.push_conf(slot, conf, batch.head.first, out);
                    }
                },
                Err(Refused::BadChecksum) => {
                    let it = &self.replicas[slot];
                    let (index, term) = if batch.head.first > it.last {
                        (it.last, it.last_term)
                    } else {
                        (prev, prev_term)
                    };
                    self.counters.bad_checksums += 1;
                    return Ok(Took::BadBytes(Mismatch { index, term }));
                },
                Err(refused) => return Err(self.deny(slot, refused)),
            }
        }
        Ok(Took::All)
    }

    /// Where the log parts from one that has `prev` in `prev_term`; none: it has it.
    ///
    /// Everything up to the own commit index is in the log of every leader.
    #[inline]
    fn parts_at(
        &self,
        slot: Slot,
        prev: LogIndex,
        prev_term: Term,
        log: &impl Log,
    ) -> Option<Mismatch> {
        let it = &self.replicas[slot];
        if prev == it.last && prev_term == it.last_term {
            return None;
        }
        self.parts_below(slot, prev, prev_term, log)
    }

    /// The same, for a place below the end of the log.
    fn parts_below(
        &self,
        slot: Slot,
        prev: LogIndex,
        prev_term: Term,
        log: &impl Log,
    ) -> Option<Mismatch> {
        let (it, here) = (&self.replicas[slot], self.place(slot));
        if prev <= it.last {
            match log.term_at(here, prev) {
                Some(term) if term == prev_term => return None,
                // Compacted, hence committed, hence equal.
                None if prev <= it.commit => return None,
                Some(_) if prev <= it.commit => {
                    return Some(Mismatch { index: prev.prev(), term: Term(0) });
                },
                Some(_) | None => {},
            }
        }
        // The largest index not above prev whose term is not above prev's: terms ascend.
        let (mut low, mut high) = (it.commit, prev.min(it.last));
        while low < high {
            let middle = LogIndex(low.0 + (high.0 - low.0).div_ceil(2));
            if log.term_at(here, middle).is_some_and(|term| term > prev_term) {
                high = middle.prev();
            } else {
                low = middle;
            }
        }
        let term = log.term_at(here, low).unwrap_or(Term(0));
        Some(Mismatch { index: low, term })
    }

    /// The first index at which a batch says something else than the log; none: it has the batch,
    /// and a late copy of it must not cut what came after.
    #[inline]
    fn first_difference(&self, slot: Slot, batch: &Batch<'_>, log: &impl Log) -> Option<LogIndex> {
        let (it, head) = (&self.replicas[slot], &batch.head);
        if head.first > it.last {
            return Some(head.first);
        }
        let (here, end) = (self.place(slot), head.last().min(it.last));
        let agrees =
            |index: LogIndex| index <= it.floor || log.term_at(here, index) == Some(head.term);
        // Terms ascend on both sides, so an equal end means that all before it is equal.
        if agrees(end) {
            return (end < head.last()).then(|| end.next());
        }
        let (mut low, mut high) = (head.first, end);
        while low < high {
            let middle = LogIndex(low.0 + (high.0 - low.0) / 2);
            if agrees(middle) { low = middle.next() } else { high = middle }
        }
        Some(low)
    }

    /// The configuration that a batch brings, if it is one that may follow the one before it.
    #[inline]
    fn configuration_of(
        &self,
        slot: Slot,
        batch: &Batch<'_>,
    ) -> Result<Option<Configuration>, Verdict> {
        if batch.head.flags & FLAG_CONF == 0 {
            return Ok(None);
        }
        self.next_configuration(slot, batch)
    }

    fn next_configuration(
        &self,
        slot: Slot,
        batch: &Batch<'_>,
    ) -> Result<Option<Configuration>, Verdict> {
        if !batch.head.matches(batch.body) {
            return Ok(None);
        }
        let body =
            Body::parse(&batch.head, batch.body).map_err(|_no_body| Verdict::False(Why::Bytes))?;
        let conf = Configuration::decode(body.payload(0))
            .map_err(|_none| Verdict::False(Why::Configuration))?;
        let before = self.conf_before(slot, batch.head.first);
        if conf.epoch != self.confs[usize::from(before)].conf.epoch.saturating_add(1) {
            return Err(Verdict::False(Why::Configuration));
        }
        Ok(Some(conf))
    }

    /// The log replaces what it has from `from` on.
    #[inline]
    fn cut(&mut self, slot: Slot, from: LogIndex, out: &mut Outbox) {
        if from <= self.replicas[slot].last {
            self.cut_below(slot, from, out);
        }
    }

    fn cut_below(&mut self, slot: Slot, from: LogIndex, out: &mut Outbox) {
        let it = &mut self.replicas[slot];
        assert!(from > it.commit, "nothing committed is truncated (I3)");
        it.durable = it.durable.min(from.prev());
        it.last = from.prev();
        self.lower_writes(slot, from.prev());
        self.counters.truncations += 1;
        self.report(slot, Reason::Truncated, out);
        self.pop_confs(slot, from, out);
    }

    /// Moves the tail over a batch that the log took.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    fn accepted(&mut self, slot: Slot, batch: &Batch<'_>, lsn: crate::Lsn) {
        let it = &mut self.replicas[slot];
        it.last = batch.head.last();
        it.last_term = batch.head.term;
        self.counters.accepts += 1;
        self.note_write(slot, lsn);
    }

    /// A follower learns what is committed.
    #[expect(clippy::inline_always, reason = "the way that every entry goes; measured")]
    #[inline(always)]
    pub(crate) fn raise_commit(&mut self, slot: Slot, commit: LogIndex) {
        let it = &mut self.replicas[slot];
        if commit > it.commit {
            assert!(commit <= it.last, "only what is in the log is committed (I1)");
            it.commit = commit;
            self.counters.commits += 1;
            if it.set_dirty() {
                self.dirty.push(slot);
            }
            self.prune_confs(slot);
        }
    }

    /// An Append that waits for room in the log, and `commit`: the highest commit index that it, or
    /// another of its shard that waits, names. It is taken: else the log could wait for entries to
    /// be applied and them for what waits. Answers whether the Append comes behind the end of the
    /// log; nothing if it is not the present leader's, which is to be told to the replica.
    pub fn handle_kept(&mut self, from: Origin, m: &Message, commit: LogIndex) -> Option<bool> {
        let What::Append { prev, .. } = m.what else { return None };
        let (slot, _) = self.addressed(from, m)?;
        let it = &self.replicas[slot];
        if (it.leader, it.role) != (m.from, Role::Follower) {
            return None;
        }
        let last = it.last;
        // A log that ends with an entry of the leader's term is the leader's up to there.
        if it.last_term == it.term && it.damage == Damage::Normal {
            self.raise_commit(slot, commit.min(last));
        }
        Some(prev > last)
    }

    /// A leader tells what is committed; it names nothing that it does not know to be here.
    pub(crate) fn on_commit_hint(&mut self, slot: Slot, m: &Message, commit: LogIndex) -> Verdict {
        let it = &self.replicas[slot];
        if it.role == Role::Leader {
            return Verdict::False(Why::Leader);
        }
        if it.leader != m.from {
            return Verdict::False(Why::Unasked);
        }
        if commit > it.last {
            return Verdict::False(Why::Index);
        }
        self.raise_commit(slot, commit);
        Verdict::Taken
    }

    /// What a refusal of the log means for the message that brought it on.
    pub(crate) fn deny(&mut self, slot: Slot, refused: Refused) -> Verdict {
        match refused {
            Refused::NoRoom => Verdict::NoRoom,
            Refused::BadChecksum => Verdict::False(Why::Bytes),
            Refused::Poisoned => {
                self.poison(slot);
                Verdict::False(Why::Closed)
            },
        }
    }
}
