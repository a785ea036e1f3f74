//! Elections. A sole voter needs nobody: its own vote counts once it is durable.

use crate::{
    HardState, Log, Lsn, NOOP_BYTES, NewBatch, Outbox, RaftCore, Reason, Record, Refused, Role,
    RoleChange, Rule, Slot, Term,
    batch::FLAG_NOOP,
    core::{CAMPAIGN, StreamState, Waiting, at},
    open::NO_MEMBER,
    pending::Write,
};

impl RaftCore {
    /// Stages the next term and the own vote, in one record. The vote counts when it is durable.
    pub(crate) fn campaign(&mut self, slot: Slot, log: &mut impl Log) {
        let Some(term) = self.hot[at(slot)].term.0.checked_add(1).map(Term) else {
            self.broken(slot, Rule::Term);
            return;
        };
        let vote = self.cold[at(slot)].replica;
        let commit = self.hot[at(slot)].commit;
        assert!(self.hot[at(slot)].role == Role::Follower, "a leader does not campaign");
        match log.stage(self.place(slot), Record::HardState(HardState { term, vote, commit })) {
            Ok(lsn) => {
                let hot = &mut self.hot[at(slot)];
                hot.term = term;
                hot.role = Role::Candidate;
                hot.flags &= !CAMPAIGN;
                self.warm[at(slot)].vote = vote;
                self.cold[at(slot)].staged_commit = commit;
                self.counters.hard_states += 1;
                self.note_write(slot, lsn, 0);
            },
            Err(refused) => self.refused(slot, refused),
        }
    }

    /// Makes a candidate whose vote is durable the leader (I5).
    pub(crate) fn win(&mut self, slot: Slot, out: &mut Outbox) {
        let own = self.cold[at(slot)].replica;
        let members = &self.confs[usize::from(self.hot[at(slot)].conf)].conf.members;
        let place = members.iter().position(|member| member.replica == own);
        let hot = &mut self.hot[at(slot)];
        hot.role = Role::Leader;
        hot.leader = place.and_then(|at| u8::try_from(at).ok()).unwrap_or(NO_MEMBER);
        let warm = &mut self.warm[at(slot)];
        warm.term_start = hot.last.next();
        warm.uncommitted = 0;
        self.counters.elections += 1;
        self.tell_role(slot, out);
        self.report(slot, Reason::Elected, out);
        self.touch(slot);
    }

    /// Appends the first entry of a leader's term, without which nothing of it commits.
    pub(crate) fn append_noop(&mut self, slot: Slot, log: &mut impl Log) {
        let hot = &self.hot[at(slot)];
        let noop = NewBatch {
            at: self.place(slot),
            first: hot.last.next(),
            term: hot.term,
            prev_term: hot.last_term,
            count: 1,
            proposals: 0,
            bytes: NOOP_BYTES,
            flags: FLAG_NOOP,
        };
        match log.append(noop) {
            Ok(lsn) => {
                self.counters.noops += 1;
                self.appended(slot, &noop, 0, lsn);
            },
            Err(refused) => self.refused(slot, refused),
        }
    }

    /// Moves the tail over a batch that the log took.
    pub(crate) fn appended(&mut self, slot: Slot, batch: &NewBatch, charge: u32, lsn: Lsn) {
        let hot = &mut self.hot[at(slot)];
        hot.last = crate::LogIndex(hot.last.0 + u64::from(batch.count));
        hot.last_term = batch.term;
        self.counters.appends += 1;
        self.counters.entries += u64::from(batch.count);
        self.counters.bytes += u64::from(batch.bytes);
        self.note_write(slot, lsn, charge);
    }

    /// Remembers what a write covers, and whom to tell when it is durable.
    pub(crate) fn note_write(&mut self, slot: Slot, lsn: Lsn, bytes: u32) {
        let hot = &mut self.hot[at(slot)];
        let stream = &mut self.streams[usize::from(hot.stream)];
        if lsn < stream.staged || lsn <= stream.durable {
            self.broken(slot, Rule::Lsn);
            return;
        }
        stream.staged = lsn;
        hot.staged = lsn;
        let write = Write { lsn, last: hot.last, bytes };
        if self.writes.note(&mut self.warm[at(slot)].pending, write) {
            let generation = self.cold[at(slot)].generation;
            stream.waiting.push_back(Waiting { lsn, slot, generation });
        }
    }

    /// What follows from a refusal of something that must get into the log.
    pub(crate) fn refused(&mut self, slot: Slot, refused: Refused) {
        match refused {
            Refused::NoRoom | Refused::BadChecksum => {
                self.counters.no_room += 1;
                self.stall(slot);
            },
            Refused::Poisoned => {
                let stream = &mut self.streams[usize::from(self.hot[at(slot)].stream)];
                if stream.state == StreamState::Good {
                    stream.state = StreamState::Failing;
                }
            },
        }
    }

    pub(crate) fn tell_role(&self, slot: Slot, out: &mut Outbox) {
        let hot = &self.hot[at(slot)];
        let leader = self.leader_of(slot);
        let shard = self.cold[at(slot)].shard;
        out.role.push(RoleChange { slot, shard, role: hot.role, term: hot.term, leader });
    }
}
