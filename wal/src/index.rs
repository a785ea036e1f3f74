//! The shards of a stream, found by id. The places of a shard are stable while it is open.

use bowline_raft::{HardState, LogIndex, ReplicaId, ShardId, Term};
use hashbrown::HashTable;

use crate::error::StageError;
use crate::frame::Row;
use crate::log::{DamageState, LogBounds, Record};
use crate::shard::{Extent, Kill, ShardLog};

/// All shards of a stream.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Places by hash of the id; never iterated.
    table: HashTable<u32>,
    places: Vec<Option<ShardLog>>,
    free: Vec<u32>,
    /// Batches of all shards.
    pub(crate) extents: u64,
}

/// Ids are ours, so a fixed mix is enough; the same ids give the same table in every run.
fn mix(shard: u64) -> u64 {
    let mixed = (shard ^ (shard >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn place_len(place: u32) -> usize {
    usize::try_from(place).expect("usize holds a u32")
}

impl Index {
    /// Opens a shard that is not open, at a place of its own.
    pub(crate) fn insert(&mut self, log: ShardLog) -> u32 {
        let shard = log.shard;
        self.extents += crate::field::len_u64(log.extents.len());
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("shards are below 2^32")
        });
        self.places[place_len(place)] = Some(log);
        let places = &self.places;
        self.table.insert_unique(mix(shard), place, |place| {
            mix(places[place_len(*place)].as_ref().expect("listed places are in use").shard)
        });
        place
    }

    /// Gives back memory that grew ahead of the shards.
    pub(crate) fn fit(&mut self) {
        self.places.shrink_to_fit();
    }

    /// Closes a shard for good.
    pub(crate) fn remove(&mut self, place: u32) -> ShardLog {
        let log = self.places[place_len(place)].take().expect("the place is in use");
        let found = self.table.find_entry(mix(log.shard), |at| *at == place);
        found.expect("an open shard is listed").remove();
        self.free.push(place);
        self.extents -= crate::field::len_u64(log.extents.len());
        log
    }

    pub(crate) fn find(&self, shard: ShardId) -> Option<u32> {
        let is_it = |place: &u32| {
            self.places[place_len(*place)].as_ref().is_some_and(|log| log.shard == shard.0)
        };
        self.table.find(mix(shard.0), is_it).copied()
    }

    pub(crate) fn lookup(&self, shard: ShardId) -> Option<&ShardLog> {
        self.find(shard).map(|place| self.at(place))
    }

    pub(crate) fn at(&self, place: u32) -> &ShardLog {
        self.places[place_len(place)].as_ref().expect("the place is in use")
    }

    pub(crate) fn at_mut(&mut self, place: u32) -> &mut ShardLog {
        self.places[place_len(place)].as_mut().expect("the place is in use")
    }

    /// The shard at a place, if one is open there.
    pub(crate) fn place(&self, place: u32) -> Option<&ShardLog> {
        self.places.get(place_len(place)).and_then(Option::as_ref)
    }

    /// One past the highest place.
    pub(crate) fn places(&self) -> u32 {
        u32::try_from(self.places.len()).expect("shards are below 2^32")
    }

    /// Open shards.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Every open shard, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ShardLog> {
        self.places.iter().flatten()
    }

    /// Whether a batch may be appended; the place of its shard.
    pub(crate) fn check_append(
        &self,
        shard: ShardId,
        first: LogIndex,
        term: Term,
        prev_term: Term,
    ) -> Result<u32, StageError> {
        let place = self.find(shard).ok_or(StageError::NoShard)?;
        let log = self.at(place);
        if first.0 > log.last + 1 {
            return Err(StageError::Gap { expected: LogIndex(log.last + 1) });
        }
        if first.0 < log.first {
            return Err(StageError::Compacted { first: LogIndex(log.first) });
        }
        let have = log.term_at(first.0 - 1).map_or(prev_term, Term);
        if have != prev_term || term < have {
            return Err(StageError::Stale { have });
        }
        if term > log.hard_state.term {
            return Err(StageError::Order);
        }
        Ok(place)
    }

    /// Changes a shard's batches, and counts them.
    pub(crate) fn edit<T>(&mut self, place: u32, change: impl FnOnce(&mut ShardLog) -> T) -> T {
        let log = self.at_mut(place);
        let before = log.extents.len();
        let result = change(log);
        let after = log.extents.len();
        self.extents += crate::field::len_u64(after);
        self.extents -= crate::field::len_u64(before);
        result
    }

    /// Appends a batch that was checked.
    pub(crate) fn append(&mut self, place: u32, extent: Extent, kills: &mut Vec<Kill>) {
        self.edit(place, |log| log.append(extent, kills));
    }

    /// Applies a record that was checked, as of frame `lsn`. True: it needs a write of its own.
    pub(crate) fn apply(
        &mut self,
        shard: ShardId,
        record: &Record<'_>,
        lsn: u64,
        kills: &mut Vec<Kill>,
    ) -> bool {
        if let Record::OpenShard { replica } = record {
            self.insert(ShardLog::new(shard.0, *replica));
            return true;
        }
        let place = self.find(shard).expect("the record was checked");
        if let Record::Tombstone { .. } = record {
            self.remove(place).clear(kills);
            return true;
        }
        self.edit(place, |log| apply_to(log, record, lsn, kills))
    }

    /// A batch that lived in frame `old` lives in `new` now; false: it does not live.
    pub(crate) fn move_batch(&mut self, row: &Row, (old, new): (u64, u64), off: u32) -> bool {
        let Some(place) = self.find(ShardId(row.shard)) else { return false };
        let log = self.at_mut(place);
        let at = log.extents.partition_point(|extent| extent.first < row.index);
        let is_it = |extent: &&mut Extent| {
            (extent.first, extent.lsn, extent.off) == (row.index, old, row.body_off)
        };
        let Some(extent) = log.extents.get_mut(at).filter(is_it) else { return false };
        (extent.lsn, extent.off) = (new, off);
        true
    }

    /// The same for a manifest.
    pub(crate) fn move_manifest(&mut self, shard: u64, (old, new): (u64, u64)) -> bool {
        let Some(place) = self.find(ShardId(shard)) else { return false };
        let log = self.at_mut(place);
        let lives = log.manifest_lsn == old;
        if lives {
            log.manifest_lsn = new;
        }
        lives
    }

    /// Declares bodies lost.
    pub(crate) fn lose(&mut self, place: u32, range: (u64, u64), kills: &mut Vec<Kill>) {
        self.at_mut(place).lose(range.0, range.1, kills);
    }
}

/// Applies a record to an open shard.
fn apply_to(log: &mut ShardLog, record: &Record<'_>, lsn: u64, kills: &mut Vec<Kill>) -> bool {
    match record {
        Record::HardState(state) => {
            let before = log.hard_state;
            log.hard_state = *state;
            return (before.term, before.vote) != (state.term, state.vote);
        },
        Record::Truncate { from } => {
            let term = log.term_at(from.0 - 1).unwrap_or(log.prev_term);
            log.truncate(from.0, term, kills);
        },
        Record::Compact { first, prev_term } => log.compact(first.0, prev_term.0, kills),
        Record::Manifest { index, .. } => log.set_manifest(lsn, index.0, kills),
        Record::Damage { state, holes } => {
            log.damage = *state;
            for hole in *holes {
                log.lose(hole.from.0, hole.to.0, kills);
            }
            log.judge();
        },
        Record::OpenShard { .. } | Record::Tombstone { .. } => {},
    }
    true
}

/// A shard's outline after some of the records of one call, to check the next against.
#[derive(Clone, Copy, Debug)]
struct Draft {
    open: bool,
    replica: ReplicaId,
    bounds: LogBounds,
    hard_state: HardState,
    manifest_index: u64,
    damage: DamageState,
    holes: bool,
}

impl Index {
    /// Whether records of one shard may be staged together, in this order.
    pub(crate) fn check_stage(
        &self,
        shard: ShardId,
        records: &[Record<'_>],
        shards_max: u32,
    ) -> Result<(), StageError> {
        let log = self.lookup(shard);
        let mut draft = draft_of(log);
        for record in records {
            if !draft.open && !matches!(record, Record::OpenShard { .. }) {
                return Err(StageError::NoShard);
            }
            if let Record::OpenShard { .. } = record
                && !draft.open
                && self.len() >= place_len(shards_max)
            {
                return Err(StageError::TooManyShards { max: shards_max });
            }
            check_record(&mut draft, log, record)?;
        }
        // After the whole call: it is what a boot would find.
        let holds = !draft.open
            || (draft.hard_state.commit <= draft.bounds.last
                && draft.bounds.last_term <= draft.hard_state.term);
        if holds { Ok(()) } else { Err(StageError::Order) }
    }
}

fn draft_of(log: Option<&ShardLog>) -> Draft {
    let empty = ShardLog::new(0, ReplicaId(0));
    let from = log.unwrap_or(&empty);
    Draft {
        open: log.is_some(),
        replica: ReplicaId(from.replica),
        bounds: from.bounds(),
        hard_state: from.hard_state,
        manifest_index: from.manifest_index,
        damage: from.damage,
        holes: from.damage != DamageState::Normal && !from.holes().is_empty(),
    }
}

/// Checks one record and moves the draft past it.
fn check_record(
    draft: &mut Draft,
    log: Option<&ShardLog>,
    record: &Record<'_>,
) -> Result<(), StageError> {
    match *record {
        Record::OpenShard { replica } => {
            if draft.open {
                return Err(StageError::Exists);
            }
            *draft = draft_of(None);
            (draft.open, draft.replica) = (true, replica);
        },
        Record::Tombstone { replica } => {
            if replica != draft.replica {
                return Err(StageError::Order);
            }
            draft.open = false;
        },
        Record::HardState(state) => {
            let before = draft.hard_state;
            let vote_holds = state.vote == before.vote || before.vote == ReplicaId(0);
            if state.term < before.term || (state.term == before.term && !vote_holds) {
                return Err(StageError::Order);
            }
            draft.hard_state = state;
        },
        Record::Truncate { from } => {
            if from < draft.bounds.first {
                return Err(StageError::Compacted { first: draft.bounds.first });
            }
            if from <= draft.bounds.last {
                let before = from.prev();
                let known = log.and_then(|log| log.term_at(before.0)).map(Term);
                draft.bounds.last = before;
                draft.bounds.last_term = known.unwrap_or(draft.bounds.prev_term);
            }
        },
        Record::Compact { first, prev_term } => {
            if first.0 > draft.manifest_index + 1 {
                return Err(StageError::Order); // (I7)
            }
            if first > draft.bounds.first {
                draft.bounds.first = first;
                draft.bounds.prev_term = prev_term;
            }
            if first > draft.bounds.last.next() || first == draft.bounds.last.next() {
                draft.bounds.last = first.prev();
                draft.bounds.last_term = prev_term;
            }
        },
        Record::Manifest { index, .. } => {
            let first = draft.bounds.first;
            if index.next() < first {
                // Entries between it and the log's first one would be in neither (I7).
                return Err(StageError::Compacted { first });
            }
            draft.manifest_index = index.0;
        },
        Record::Damage { state, holes } => {
            if state == DamageState::Normal && (draft.holes || !holes.is_empty()) {
                return Err(StageError::Order);
            }
            draft.damage = state;
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(5);

    fn opened() -> Index {
        let mut index = Index::default();
        index.insert(ShardLog::new(SHARD.0, ReplicaId(1)));
        index
    }

    fn hard(term: u64, vote: u64, commit: u64) -> Record<'static> {
        let (term, vote, commit) = (Term(term), ReplicaId(vote), LogIndex(commit));
        Record::HardState(HardState { term, vote, commit })
    }

    #[test]
    fn ten_thousand_shards_are_found_and_removed() {
        let mut index = Index::default();
        for shard in 0..10_000 {
            index.insert(ShardLog::new(shard * 7, ReplicaId(1)));
        }
        for shard in (0..10_000).step_by(2) {
            let place = index.find(ShardId(shard * 7)).unwrap();
            assert_eq!(index.remove(place).shard, shard * 7);
        }
        for shard in 0..10_000 {
            assert_eq!(index.find(ShardId(shard * 7)).is_some(), shard % 2 == 1);
        }
        assert_eq!(index.len(), 5_000);
    }

    #[test]
    fn a_second_vote_in_a_term_is_refused_and_a_first_one_is_not() {
        let mut index = opened();
        let mut kills = Vec::new();
        let mut stage = |record: Record<'static>| {
            index.check_stage(SHARD, &[record], 10)?;
            Ok(index.apply(SHARD, &record, 1, &mut kills))
        };
        assert_eq!(stage(hard(3, 0, 0)), Ok(true));
        assert_eq!(stage(hard(3, 2, 0)), Ok(true));
        assert_eq!(stage(hard(3, 1, 0)), Err(StageError::Order));
        assert_eq!(stage(hard(2, 2, 0)), Err(StageError::Order));
        assert_eq!(stage(hard(3, 2, 0)), Ok(false));
        assert_eq!(stage(hard(3, 2, 1)), Err(StageError::Order));
    }

    #[test]
    fn compaction_beyond_the_manifest_is_refused_and_an_install_in_one_call_is_not() {
        let index = opened();
        let compact = Record::Compact { first: LogIndex(8), prev_term: Term(2) };
        let manifest = Record::Manifest { index: LogIndex(7), term: Term(2), body: b"m" };
        let check = |records: &[Record<'_>]| index.check_stage(SHARD, records, 10);
        assert_eq!(check(&[compact]), Err(StageError::Order));
        assert_eq!(check(&[manifest, compact, hard(2, 0, 7)]), Ok(()));
        assert_eq!(check(&[manifest, compact, hard(2, 0, 8)]), Err(StageError::Order));
    }

    #[test]
    fn shards_beyond_the_bound_and_twice_are_refused() {
        let index = opened();
        let open = [Record::OpenShard { replica: ReplicaId(2) }];
        assert_eq!(index.check_stage(SHARD, &open, 10), Err(StageError::Exists));
        assert_eq!(
            index.check_stage(ShardId(6), &open, 1),
            Err(StageError::TooManyShards { max: 1 })
        );
        assert_eq!(index.check_stage(ShardId(6), &[hard(1, 0, 0)], 9), Err(StageError::NoShard));
    }
}
