//! Elections: asking first, voting, winning. A sole voter needs nobody: its own vote counts once
//! it is durable.

use crate::{
    Ballot, BootTime, Damage, HardState, Log, LogIndex, Message, Origin, Outbox, RaftCore, Reason,
    Record, Role, Rule, Slot, Term, Verdict, VoteReason, What, Why,
    open::NO_MEMBER,
    replica::{BEAT, BROKEN, CAMPAIGN, CLOSING, NO_LEASE, TOUCHED, TRANSFER},
    step::NUMBER_MAX,
};

/// The own vote is durable; above all places, since a replica that leaves has none.
const OWN_VOTE: u16 = 1 << crate::MEMBERS_MAX;
const _: () = assert!(crate::MEMBERS_MAX < 16, "a bit for each place, and one more");

impl RaftCore {
    /// Whether a replica may stand for election.
    pub(crate) fn may_stand(&self, slot: Slot) -> bool {
        let it = &self.replicas[slot];
        self.may_be_elected(slot)
            && it.damage == Damage::Normal
            && it.flags & (BROKEN | CLOSING) == 0
            && it.role != Role::Leader
            && self.log_is_healthy(slot)
    }

    /// What rank and chance delay the campaign of a replica. A rank delays, it never forbids.
    pub(crate) fn delay(&mut self, slot: Slot) -> u64 {
        let times = self.config.times;
        let chance = self.draw() % times.jitter.max(1);
        u64::from(self.rank(slot)).saturating_mul(times.rank).saturating_add(chance)
    }

    /// How many voters within reach are preferred to this replica.
    fn rank(&self, slot: Slot) -> u32 {
        let (conf, it) = (self.conf(slot), &self.replicas[slot]);
        let order = |priority: u8, replica: u64| (priority, mix(it.shard.0, replica));
        let Some(own) = conf.conf.member(it.replica) else {
            return 0;
        };
        let mine = order(own.priority, own.replica.0);
        let mut rank = 0;
        for (place, member) in conf.conf.members.iter().enumerate() {
            let votes = (conf.before | conf.after) & (1 << place) != 0;
            let reached = self.road(member.node, crate::replica::NO_LANE).is_some();
            let before = order(member.priority, member.replica.0) < mine;
            rank += u32::from(votes && reached && before);
        }
        rank
    }

    /// Lets a replica without a leader wait for its turn to stand.
    pub(crate) fn await_election(&mut self, slot: Slot) {
        let deadline = self.bound_until(slot).after(self.delay(slot));
        self.arm(slot, deadline);
    }

    /// Stands for election: asks first whether the others would vote.
    pub(crate) fn stand(&mut self, slot: Slot, log: &mut impl Log, out: &mut Outbox) {
        if self.bound(slot) {
            self.await_election(slot);
            return;
        }
        if !self.may_stand(slot) {
            let later = self.now.after(self.config.times.campaign + self.delay(slot));
            self.arm(slot, later);
            return;
        }
        let own = self.own_bit(slot);
        self.replicas[slot].role = Role::PreCandidate;
        self.unbind(slot);
        let it = &mut self.replicas[slot];
        it.leader = crate::ReplicaId(0);
        it.round = it.round.wrapping_add(1);
        it.granted = own;
        self.counters.pre_campaigns += 1;
        self.tell_role(slot, out);
        if self.elects(slot) {
            self.campaign(slot, None, log, out);
            if self.replicas[slot].role == Role::PreCandidate {
                // The log had no room for the vote.
                let wait = self.campaign_wait(slot);
                self.arm(slot, wait);
            }
            return;
        }
        let it = &self.replicas[slot];
        let (last, last_term) = (it.last, it.last_term);
        self.ask(slot, What::PreVote { last, last_term }, true, out);
        let wait = self.campaign_wait(slot);
        self.arm(slot, wait);
    }

    /// When a campaign without success is over.
    fn campaign_wait(&mut self, slot: Slot) -> BootTime {
        let times = self.config.times;
        let failed = &mut self.replicas[slot].failed;
        let wait = times.campaign.saturating_mul(1 << (*failed).min(16)).min(times.campaign_max);
        *failed = failed.saturating_add(1);
        let chance = self.draw() % times.jitter.max(1);
        self.now.after(wait.saturating_add(chance))
    }

    /// Stages the next term and the own vote, in one record, and asks for votes. The own vote
    /// counts, and the request leaves, when it is durable.
    pub(crate) fn campaign(
        &mut self,
        slot: Slot,
        promised: Option<Term>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) {
        let it = &self.replicas[slot];
        let (term, vote, commit) = (Term(it.term.0.saturating_add(1)), it.replica, it.commit);
        if term.0 > NUMBER_MAX {
            self.broken(slot, Rule::Term);
            return;
        }
        assert!(it.role != Role::Leader, "a leader does not campaign");
        match log.stage(self.place(slot), Record::HardState(HardState { term, vote, commit })) {
            Ok(lsn) => {
                let it = &mut self.replicas[slot];
                it.term = term;
                it.role = Role::Candidate;
                it.flags &= !CAMPAIGN;
                it.vote = vote;
                it.staged_commit = commit;
                it.leader = crate::ReplicaId(0);
                it.granted = 0;
                self.counters.hard_states += 1;
                self.counters.campaigns += 1;
                self.note_write(slot, lsn);
                self.ask_for_votes(slot, promised, out);
            },
            Err(refused) => self.refused(slot, refused),
        }
    }

    fn ask_for_votes(&mut self, slot: Slot, promised: Option<Term>, out: &mut Outbox) {
        let reason =
            promised.map_or(VoteReason::NoLeader, |promised| VoteReason::Transfer { promised });
        let it = &self.replicas[slot];
        let (last, last_term) = (it.last, it.last_term);
        self.ask(slot, What::Vote { last, last_term, reason }, false, out);
        if !self.is_sole(slot) {
            let chance = self.draw() % self.config.times.jitter.max(1);
            let void = self.now.after(self.config.times.campaign.saturating_add(chance));
            self.arm(slot, void);
        }
    }

    /// Sends a request to the other voters of both halves.
    fn ask(&mut self, slot: Slot, what: What, at_once: bool, out: &mut Outbox) {
        let voters = self.conf(slot).before | self.conf(slot).after;
        let own = self.own_bit(slot);
        for place in 0..self.conf(slot).members {
            if voters & !own & (1 << place) == 0 {
                continue;
            }
            let Some(mut send) = self.envelope(slot, place, what) else { continue };
            send.message.seq = self.replicas[slot].round;
            if at_once {
                out.send.push(send);
            } else {
                self.hold(slot, send, out);
            }
        }
    }

    /// The bit of this replica's own place; none if it is no member.
    fn own_bit(&self, slot: Slot) -> u16 {
        self.conf(slot).place(self.replicas[slot].replica).map_or(0, |place| 1 << place)
    }

    /// Whether those that granted are a quorum of each half.
    fn elects(&self, slot: Slot) -> bool {
        let granted = self.replicas[slot].granted;
        self.quorum(slot, |place| granted & (1 << place) != 0)
    }

    /// Whether this replica is the only voter.
    pub(crate) fn is_sole(&self, slot: Slot) -> bool {
        let (conf, own) = (self.conf(slot), self.own_bit(slot));
        conf.before == own && conf.after == own
    }

    /// Stages a higher term without a vote, and follows nobody in it.
    pub(crate) fn adopt(
        &mut self,
        slot: Slot,
        term: Term,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> Result<(), Verdict> {
        self.adopt_with_vote(slot, (term, crate::ReplicaId(0)), log, out)
    }

    /// Stages a term and a vote in it, in one record (I2).
    fn adopt_with_vote(
        &mut self,
        slot: Slot,
        (term, vote): (Term, crate::ReplicaId),
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> Result<(), Verdict> {
        let it = &self.replicas[slot];
        assert!(term >= it.term, "a term never falls (I2)");
        assert!(term > it.term || it.vote.0 == 0, "a vote never changes in its term (I2)");
        let commit = it.commit;
        let record = Record::HardState(HardState { term, vote, commit });
        let lsn = log.stage(self.place(slot), record).map_err(|why| self.deny(slot, why))?;
        let higher = term > self.replicas[slot].term;
        if higher {
            // The Release, and the sums of the lanes, name the term that ends.
            self.say_release(slot, out);
            self.close_peers(slot);
        }
        self.replicas[slot].term = term;
        if higher {
            self.end_role(slot, Some(Reason::HigherTerm), out);
        }
        let it = &mut self.replicas[slot];
        (it.vote, it.staged_commit) = (vote, commit);
        self.counters.hard_states += 1;
        self.note_write(slot, lsn);
        self.await_election(slot);
        Ok(())
    }

    pub(crate) fn on_pre_vote(
        &mut self,
        slot: Slot,
        from: Origin,
        m: &Message,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Verdict {
        let What::PreVote { last, last_term } = m.what else {
            return Verdict::False(Why::Unasked);
        };
        if self.is_gone(slot, m) {
            return self.answer_gone(slot, from, m, out);
        }
        let bound = self.bound(slot);
        if m.term > self.replicas[slot].term
            && !bound
            && let Err(verdict) = self.adopt(slot, m.term, log, out)
        {
            return verdict;
        }
        let granted = !bound
            && m.term == self.replicas[slot].term
            && self.is_as_long(slot, last_term, last)
            && self.may_vote(slot);
        let asked = Term(m.term.0.saturating_add(1));
        let leader = self.replicas[slot].leader;
        let what = What::PreVoteResp(Ballot { granted, asked, leader });
        self.answer_durably((slot, from), m, what, out);
        Verdict::Taken
    }

    pub(crate) fn on_vote(
        &mut self,
        slot: Slot,
        from: Origin,
        m: &Message,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Verdict {
        let What::Vote { last, last_term, reason } = m.what else {
            return Verdict::False(Why::Unasked);
        };
        if self.is_gone(slot, m) {
            return self.answer_gone(slot, from, m, out);
        }
        let it = &self.replicas[slot];
        let (term, voted) = (it.term, it.vote);
        let repeats = m.term == term && voted == m.from && self.may_vote(slot);
        let free = !self.bound(slot) || self.is_handed(slot, reason);
        let fits = free && self.is_as_long(slot, last_term, last) && self.may_vote(slot);
        let mut granted = repeats;
        if m.term > term && free {
            let vote = if fits { m.from } else { crate::ReplicaId(0) };
            if let Err(verdict) = self.adopt_with_vote(slot, (m.term, vote), log, out) {
                return verdict;
            }
            granted = fits;
        } else if m.term == term && fits && voted.0 == 0 {
            if let Err(verdict) = self.adopt_with_vote(slot, (m.term, m.from), log, out) {
                return verdict;
            }
            granted = true;
        }
        self.counters.votes += u64::from(granted);
        let leader = self.replicas[slot].leader;
        let what = What::VoteResp(Ballot { granted, asked: m.term, leader });
        self.answer_durably((slot, from), m, what, out);
        Verdict::Taken
    }

    /// Whether a vote is asked for by the target of a transfer, in the promise's own term.
    fn is_handed(&self, slot: Slot, reason: VoteReason) -> bool {
        let VoteReason::Transfer { promised } = reason else {
            return false;
        };
        if self.now < self.config.quiet_until {
            return false;
        }
        let it = &self.replicas[slot];
        if it.role == Role::Leader {
            return promised == it.term && it.flags & NO_LEASE != 0;
        }
        promised == it.bound_term
    }

    /// Whether a log that ends like this has everything that ours has.
    fn is_as_long(&self, slot: Slot, last_term: Term, last: LogIndex) -> bool {
        let it = &self.replicas[slot];
        (last_term, last) >= (it.last_term, it.last)
    }

    /// Whether this replica's vote counts (I14).
    fn may_vote(&self, slot: Slot) -> bool {
        !self.is_retired(slot) && self.log_is_healthy(slot)
    }

    #[inline]
    pub(crate) fn is_retired(&self, slot: Slot) -> bool {
        self.replicas[slot].damage == Damage::Retired
    }

    fn answer_gone(&self, slot: Slot, from: Origin, m: &Message, out: &mut Outbox) -> Verdict {
        let generation = self.conf(slot).conf.generation;
        out.send.push(self.answer(slot, from, m, What::Gone { generation }));
        Verdict::Taken
    }

    pub(crate) fn on_pre_vote_resp(
        &mut self,
        slot: Slot,
        m: &Message,
        ballot: Ballot,
        (log, out): (&mut impl Log, &mut Outbox),
    ) -> Verdict {
        let it = &self.replicas[slot];
        let counts = it.role == Role::PreCandidate
            && ballot.asked == Term(it.term.0 + 1)
            && m.seq == it.round;
        if !counts {
            return Verdict::False(Why::Unasked);
        }
        self.count_ballot(slot, m, ballot);
        if self.elects(slot) {
            self.campaign(slot, None, log, out);
        }
        Verdict::Taken
    }

    pub(crate) fn on_vote_resp(
        &mut self,
        slot: Slot,
        m: &Message,
        ballot: Ballot,
        out: &mut Outbox,
    ) -> Verdict {
        let it = &self.replicas[slot];
        let counts = it.role == Role::Candidate && ballot.asked == it.term && m.seq == it.round;
        if !counts {
            return Verdict::False(Why::Unasked);
        }
        self.count_ballot(slot, m, ballot);
        self.try_win(slot, out);
        Verdict::Taken
    }

    fn count_ballot(&mut self, slot: Slot, m: &Message, ballot: Ballot) {
        if let Some(place) = self.conf(slot).place(m.from)
            && ballot.granted
        {
            self.replicas[slot].granted |= 1 << place;
        }
    }

    /// The own vote of a candidate is durable: it counts.
    pub(crate) fn own_vote(&mut self, slot: Slot, out: &mut Outbox) {
        self.replicas[slot].granted |= self.own_bit(slot) | OWN_VOTE;
        self.try_win(slot, out);
    }

    /// Makes a candidate with a quorum, its own durable vote among it or not needed, the leader
    /// (I5).
    fn try_win(&mut self, slot: Slot, out: &mut Outbox) {
        let durable = self.replicas[slot].granted & OWN_VOTE != 0;
        // A campaign is void after a while, whether the timers have been looked at or not.
        let due = self.wheel.deadline(slot);
        let void = !self.is_sole(slot) && due.is_none_or(|due| self.now >= due);
        if durable && !void && self.elects(slot) {
            self.win(slot, out);
        }
    }

    fn win(&mut self, slot: Slot, out: &mut Outbox) {
        assert!(self.replicas[slot].role == Role::Candidate, "only a candidate wins");
        self.unbind(slot);
        let own = self.replicas[slot].replica;
        let place = self.conf(slot).place(own).unwrap_or(NO_MEMBER);
        let it = &mut self.replicas[slot];
        it.role = Role::Leader;
        it.place = place;
        it.flags &= !(TRANSFER | NO_LEASE | TOUCHED);
        it.term_start = it.last.next();
        it.uncommitted = 0;
        it.leader = own;
        it.read_seq = 0;
        it.failed = 0;
        self.requeue_reads(slot);
        self.open_peers(slot);
        self.disarm(slot);
        self.begin_lead(slot);
        self.counters.elections += 1;
        self.tell_role(slot, out);
        self.report(slot, Reason::Elected, out);
        self.replicas[slot].flags |= BEAT;
        self.touch(slot);
    }

    /// A leader says that it leads no more: whoever is bound to it is free.
    pub(crate) fn on_release(
        &mut self,
        slot: Slot,
        m: &Message,
        log: &mut impl Log,
        out: &mut Outbox,
    ) -> Verdict {
        if m.term > self.replicas[slot].term
            && let Err(verdict) = self.adopt(slot, m.term, log, out)
        {
            return verdict;
        }
        let it = &self.replicas[slot];
        let known = it.leader == m.from || (it.leader.0 == 0 && it.bound_to == m.from);
        if !known || m.term < it.bound_term || it.role == Role::Leader {
            return Verdict::False(Why::Stale);
        }
        self.unbind(slot);
        if self.replicas[slot].role == Role::Follower {
            self.lose_leader(slot, out);
            self.await_election(slot);
        }
        Verdict::Taken
    }

    /// Nobody is known to lead.
    pub(crate) fn lose_leader(&mut self, slot: Slot, out: &mut Outbox) {
        if self.replicas[slot].leader.0 != 0 {
            self.replicas[slot].leader = crate::ReplicaId(0);
            self.requeue_reads(slot);
            self.tell_role(slot, out);
        }
    }
}

/// A number that spreads the replicas of shards evenly.
fn mix(shard: u64, replica: u64) -> u64 {
    let z = shard.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ replica.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
