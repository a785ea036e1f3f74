//! Random calls against a plain model, opened again every few steps.

use std::collections::BTreeMap;

use bowline_env::sim::Rng;
use bowline_raft::{LogIndex, Lsn, ReplicaId, ShardId, Term};
use bowline_wal::{DamageState, LogStorage, NewBatch, Record, StageError};

use crate::kit::*;

/// One shard, entry by entry: a term and a mark that says which batch it came with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) replica: u64,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
    pub(crate) first: u64,
    pub(crate) prev_term: u64,
    pub(crate) manifest: Option<(u64, u64)>,
    pub(crate) entries: BTreeMap<u64, (u64, u64)>,
}

impl Model {
    pub(crate) fn new(replica: u64) -> Self {
        Self { replica, first: 1, ..Self::default() }
    }

    pub(crate) fn last(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(self.first - 1)
    }

    pub(crate) fn term_at(&self, index: u64) -> u64 {
        self.entries.get(&index).map_or(self.prev_term, |entry| entry.0)
    }
}

pub(crate) type Models = BTreeMap<u64, Model>;

/// Compares one log with the models, every byte.
pub(crate) async fn compare(log: &Log, models: &Models) {
    let found: Vec<u64> = log.found.shards.iter().map(|shard| shard.shard.0).collect();
    assert_eq!(found, models.keys().copied().collect::<Vec<_>>());
    for (shard, model) in models {
        let got = log.shard(*shard).unwrap();
        assert_eq!(got.replica, ReplicaId(model.replica));
        let state = (got.hard_state.term.0, got.hard_state.vote.0, got.hard_state.commit.0);
        assert_eq!(state, (model.term, model.vote, model.commit), "shard {shard}");
        let bounds = (got.bounds.first.0, got.bounds.prev_term.0, got.bounds.last.0);
        assert_eq!(bounds, (model.first, model.prev_term, model.last()), "shard {shard}");
        assert_eq!((got.bounds.damage, &got.holes[..]), (DamageState::Normal, &[][..]));
        let manifest = got
            .manifest
            .as_ref()
            .map(|(index, _, body)| (index.0, u64::from_le_bytes(body[..8].try_into().unwrap())));
        assert_eq!(manifest, model.manifest, "shard {shard}");
        for index in model.first..=model.last() {
            let term = log.wal.term_at(ShardId(*shard), LogIndex(index));
            assert_eq!(term, Some(Term(model.term_at(index))));
        }
        for batch in log.all(*shard).await {
            let mark = u64::from_le_bytes(batch.body[8..16].try_into().unwrap());
            for nth in 0..u64::from(batch.keep) {
                let index = batch.head.first.0 + nth;
                if index >= model.first {
                    let entry = model.entries.get(&index).copied();
                    assert_eq!(entry, Some((batch.head.term.0, mark)), "{shard}/{index}");
                }
            }
        }
    }
}

/// Does one random thing to the log and to the model.
pub(crate) fn act(
    log: &mut Log,
    models: &mut Models,
    rng: &Rng,
    mark: u64,
) -> Result<Lsn, StageError> {
    let shard = rng.below(5);
    let id = ShardId(shard);
    let Some(model) = models.get(&shard).cloned() else {
        let replica = mark + 1;
        let open = Record::OpenShard { replica: ReplicaId(replica) };
        let lsn = log.wal.stage(id, &[open, hard(1, 0, 0)])?;
        models.insert(shard, Model { term: 1, ..Model::new(replica) });
        return Ok(lsn);
    };
    let mut next = model.clone();
    let uncommitted = model.commit.max(model.first - 1) + 1;
    let result = match rng.below(20) {
        0..=8 => append(log, &mut next, (shard, mark), rng),
        9..=10 => {
            next.term += 1;
            next.vote = rng.below(3);
            log.wal.stage(id, &[hard(next.term, next.vote, next.commit)])
        },
        11..=13 => {
            next.commit = rng.between(model.commit, model.last().max(model.commit));
            log.wal.stage(id, &[hard(next.term, next.vote, next.commit)])
        },
        14 if uncommitted <= model.last() => {
            let from = rng.between(uncommitted, model.last());
            next.entries.split_off(&from);
            log.wal.truncate(id, LogIndex(from))
        },
        15..=17 if model.commit >= model.first => {
            let upto = rng.between(model.first, model.commit);
            next.prev_term = model.term_at(upto);
            next.first = upto + 1;
            next.entries = next.entries.split_off(&(upto + 1));
            next.manifest = Some((upto, mark));
            let index = LogIndex(upto);
            let term = Term(next.prev_term);
            let body = mark.to_le_bytes();
            let manifest = Record::Manifest { index, term, body: &body };
            let compact = Record::Compact { first: index.next(), prev_term: term };
            log.wal.stage(id, &[manifest, compact])
        },
        18 if rng.ratio(1, 4) => {
            let replica = ReplicaId(model.replica);
            let lsn = log.wal.stage(id, &[Record::Tombstone { replica }])?;
            models.remove(&shard);
            return Ok(lsn);
        },
        19 => install(log, &mut next, (shard, mark), rng),
        _ => return Ok(Lsn(0)),
    };
    let lsn = result?;
    models.insert(shard, next);
    Ok(lsn)
}

/// Appends a batch behind the end, or over a tail that is not committed.
fn append(
    log: &mut Log,
    next: &mut Model,
    (shard, mark): (u64, u64),
    rng: &Rng,
) -> Result<Lsn, StageError> {
    let uncommitted = next.commit.max(next.first - 1) + 1;
    let replace = rng.ratio(1, 5) && uncommitted <= next.last();
    let first = if replace { rng.between(uncommitted, next.last()) } else { next.last() + 1 };
    let count = u32::try_from(rng.between(1, 4)).unwrap();
    let new = NewBatch {
        shard: ShardId(shard),
        first: LogIndex(first),
        term: Term(next.term),
        prev_term: Term(next.term_at(first - 1)),
        count,
        flags: 0,
    };
    let bytes = body(shard, mark, usize::try_from(rng.between(16, 1200)).unwrap());
    next.entries.split_off(&first);
    for index in first..first + u64::from(count) {
        next.entries.insert(index, (next.term, mark));
    }
    let staged = log.wal.append(new, bytes.len(), |out| out.copy_from_slice(&bytes));
    staged.map(|staged| staged.lsn)
}

/// Installs a snapshot beyond the end, in one call.
fn install(
    log: &mut Log,
    next: &mut Model,
    (shard, mark): (u64, u64),
    rng: &Rng,
) -> Result<Lsn, StageError> {
    let upto = next.last() + rng.between(1, 9);
    next.entries.clear();
    (next.first, next.prev_term, next.commit) = (upto + 1, next.term, upto);
    next.manifest = Some((upto, mark));
    let (index, term) = (LogIndex(upto), Term(next.term));
    let body = mark.to_le_bytes();
    let manifest = Record::Manifest { index, term, body: &body };
    let compact = Record::Compact { first: index.next(), prev_term: term };
    log.wal.stage(ShardId(shard), &[manifest, compact, hard(next.term, next.vote, upto)])
}

/// Frees what `gc` names, as an engine would, in log and model.
pub(crate) fn collect(log: &mut Log, models: &mut Models, mark: u64) {
    let mut work = Vec::new();
    log.wal.gc(&mut work);
    for work in work {
        let Some(model) = models.get_mut(&work.shard.0) else { continue };
        let upto = work.upto.0.max(model.first - 1).min(model.last());
        let mut next = model.clone();
        next.prev_term = model.term_at(upto);
        next.entries = next.entries.split_off(&(upto + 1));
        next.first = upto + 1;
        next.commit = next.commit.max(upto);
        next.manifest = Some((upto, mark));
        let (index, term) = (LogIndex(upto), Term(next.prev_term));
        let body = mark.to_le_bytes();
        let manifest = Record::Manifest { index, term, body: &body };
        let compact = Record::Compact { first: index.next(), prev_term: term };
        let state = hard(next.term, next.vote, next.commit);
        if log.wal.stage(work.shard, &[manifest, compact, state]).is_ok() {
            *model = next;
        }
    }
}

#[test]
fn what_is_found_after_a_close_is_what_a_plain_model_says() {
    for seed in 0..6 {
        let world = calm(seed);
        live(&world, async move |env| {
            format(&env).await;
            let rng = Rng::new(seed);
            let mut models = Models::new();
            let mut mark = 0;
            for _ in 0..8 {
                let mut log = open(&env).await;
                compare(&log, &models).await;
                for step in 0..150 {
                    mark += 1;
                    match act(&mut log, &mut models, &rng, mark) {
                        Ok(lsn) if step % 10 == 9 => log.sync(Lsn(lsn.0.min(1))).await,
                        Ok(_) => {},
                        Err(StageError::Busy | StageError::Full) => {
                            let lsn = log.wal.durable();
                            log.sync(lsn).await;
                            collect(&mut log, &mut models, mark);
                            settle(&env, &mut log).await;
                        },
                        Err(error) => panic!("seed {seed}, step {step}: {error}"),
                    }
                    if step % 5 == 0 {
                        log.wal.submit();
                    }
                }
                log.wal.close().await.unwrap();
            }
        });
    }
}

/// Lets background work of the log catch up.
pub(crate) async fn settle(env: &bowline_env::sim::SimEnv, log: &mut Log) {
    use bowline_env::{Env, Nanos};
    log.wal.submit();
    env.sleep_until(env.now().after(Nanos::from_millis(30))).await;
}
