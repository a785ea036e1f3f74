//! What must be true of a cluster, judged from outside: from the bytes of the logs and disks and
//! from the answers, never from what a core believes.

use std::collections::BTreeMap;

use bowline_raft::{Configuration, Part, ReplicaId, ShardId, Term};

use super::{
    disk::shard_place,
    image::{Image, Payload, SimBatch},
    rng::place,
};

/// What went wrong, as one line.
pub type Violation = String;

/// An entry that was committed: nobody may ever say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub term: Term,
    pub payload: Payload,
    /// The term of the leader that committed it first.
    pub under: Term,
    /// True time.
    pub at: u64,
}

/// One version of an entry; there is one for each term that put something there.
#[derive(Clone, Copy, Debug)]
struct Version {
    term: Term,
    payload: Payload,
    before: Term,
}

/// What is known of one shard.
#[derive(Debug, Default)]
pub struct Table {
    /// By index - 1.
    versions: Vec<Vec<Version>>,
    /// By index - 1.
    pub committed: Vec<Committed>,
    pub leaders: BTreeMap<Term, ReplicaId>,
    pub top_term: Term,
    /// The highest index that a client knows applied.
    pub seen: u64,
    /// Entries of clients that were committed.
    pub writes: u64,
}

/// The judge.
#[derive(Debug)]
pub struct Oracle {
    pub tables: Vec<Table>,
}

/// A copy of a shard as the judge sees it.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    pub replica: ReplicaId,
    pub disk: &'a Image,
    /// What it had may be gone: it was charged for that.
    pub charged: bool,
}

fn ensure(holds: bool, what: impl FnOnce() -> Violation) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Oracle {
    pub fn new(shards: usize) -> Self {
        Self { tables: (0..shards).map(|_| Table::default()).collect() }
    }

    pub fn table(&self, shard: ShardId) -> &Table {
        &self.tables[shard_place(shard)]
    }

    /// Election safety and leader completeness.
    pub fn elected(
        &mut self,
        shard: ShardId,
        term: Term,
        who: ReplicaId,
        log: &Image,
    ) -> Result<(), Violation> {
        let table = &mut self.tables[shard_place(shard)];
        let other = *table.leaders.entry(term).or_insert(who);
        ensure(other == who, || {
            format!("election safety: shard {shard} term {term} is led by {other} and {who}")
        })?;
        table.top_term = table.top_term.max(term);
        for (nth, entry) in table.committed.iter().enumerate() {
            let index = nth as u64 + 1;
            let before = entry.under < term;
            let there = index <= log.floor || log.entry(index) == Some((entry.term, entry.payload));
            ensure(!before || there, || {
                format!(
                    "leader completeness: shard {shard}: {who} leads term {term} without \
                     index {index} of term {} (has {:?})",
                    entry.term,
                    log.entry(index)
                )
            })?;
        }
        Ok(())
    }

    /// Log matching: an (index, term) has one payload and one entry before it, in every log.
    pub fn appended(&mut self, batch: &SimBatch, before: Term) -> Result<(), Violation> {
        let table = &mut self.tables[shard_place(batch.head.shard)];
        let mut before = before;
        for index in batch.head.first.0..=batch.head.last().0 {
            let nth = place(index - 1);
            if table.versions.len() <= nth {
                table.versions.resize_with(nth + 1, Vec::new);
            }
            let new = Version { term: batch.head.term, payload: batch.payload(index), before };
            let known = table.versions[nth].iter().find(|version| version.term == new.term);
            match known {
                None => table.versions[nth].push(new),
                Some(known) => {
                    let same = known.payload == new.payload && known.before == new.before;
                    ensure(same, || {
                        format!(
                            "log matching: shard {} index {index}: {known:?} and {new:?}",
                            batch.head.shard
                        )
                    })?;
                },
            }
            before = batch.head.term;
        }
        Ok(())
    }

    /// A replica holds everything up to `upto` for committed: the first one to say so writes the
    /// table, all others agree with it. True if the table grew.
    pub fn committed(
        &mut self,
        shard: ShardId,
        upto: u64,
        log: &Image,
        (under, now): (Term, u64),
    ) -> Result<bool, Violation> {
        let table = &mut self.tables[shard_place(shard)];
        let before = table.committed.len() as u64;
        for index in before + 1..=upto {
            let (term, payload) = log.entry(index).ok_or_else(|| {
                format!("shard {shard}: index {index} is committed and in nobody's log")
            })?;
            table.committed.push(Committed { term, payload, under, at: now });
            table.writes += u64::from(payload != 0 && payload >> 63 == 0);
        }
        Ok(upto > before)
    }

    /// State machine safety: what a log holds at or below its commit index is what was committed.
    pub fn agrees(&self, shard: ShardId, from: u64, to: u64, log: &Image) -> Result<(), Violation> {
        let table = self.table(shard);
        for index in from.max(log.floor + 1)..=to {
            let got = log.entry(index);
            let want = table.committed.get(place(index - 1)).map(|e| (e.term, e.payload));
            ensure(got == want, || {
                format!(
                    "state machine safety: shard {shard} index {index}: a replica commits \
                     {got:?}, committed is {want:?}"
                )
            })?;
        }
        Ok(())
    }

    /// What a leader holds for committed is on the disks of a majority of both halves.
    pub fn on_majority(
        &self,
        shard: ShardId,
        index: u64,
        conf: &Configuration,
        copies: &[Copy<'_>],
    ) -> Result<(), Violation> {
        let entry = self.table(shard).committed[place(index - 1)];
        let holds = |replica: ReplicaId| {
            copies.iter().any(|copy| {
                let at = copy.disk.entry(index);
                let below = index <= copy.disk.floor;
                let has = below || at == Some((entry.term, entry.payload));
                copy.replica == replica && (copy.charged || has)
            })
        };
        let majority = |part: fn(&bowline_raft::Member) -> Part| {
            let voters = conf.members.iter().filter(|member| part(member) == Part::Voter);
            let (all, have) = voters.fold((0, 0), |(all, have), member| {
                (all + 1, have + u32::from(holds(member.replica)))
            });
            have * 2 > all
        };
        ensure(majority(|m| m.before) && majority(|m| m.after), || {
            format!("committed never lost: shard {shard} index {index} is on no majority of disks")
        })
    }

    /// A client learned that `index` is applied.
    pub fn learned(&mut self, shard: ShardId, index: u64) {
        let table = &mut self.tables[shard_place(shard)];
        table.seen = table.seen.max(index);
    }

    /// A read that started when a client knew `floor` was served from the state as of `applied`.
    pub fn read(
        &mut self,
        shard: ShardId,
        floor: u64,
        applied: u64,
        mode: &str,
    ) -> Result<(), Violation> {
        ensure(applied >= floor, || {
            format!("linearizability: shard {shard}: a {mode} read saw {applied}, not {floor}")
        })?;
        self.learned(shard, applied);
        Ok(())
    }

    /// Lease exclusivity: whoever answers from a lease is the leader of the highest term there is.
    pub fn lease(&self, shard: ShardId, term: Term) -> Result<(), Violation> {
        let top = self.table(shard).top_term;
        ensure(top <= term, || {
            format!("lease exclusivity: shard {shard}: term {term} answers, {top} was elected")
        })
    }
}
