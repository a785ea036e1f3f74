//! What every log must do, checked from outside: for this crate's logs and an application's own.

use core::future::Future;

use bowline_env::Bell;
use bowline_raft::{BatchHeader, HardState, LogIndex, Lsn, ReplicaId, ShardId, Term};

use crate::error::{ReadError, StageError};
use crate::log::{Durability, LogStorage, NewBatch, Record, Recovered, Staged};

/// A promise that a log broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The promise, in a sentence.
    pub promise: &'static str,
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the log does not keep this: {}", self.promise)
    }
}

impl core::error::Error for Broken {}

const SHARD: ShardId = ShardId(11);
const OTHER: ShardId = ShardId(12);
const REPLICA: ReplicaId = ReplicaId(3);

fn holds(promise: &'static str, truth: bool) -> Result<(), Broken> {
    if truth { Ok(()) } else { Err(Broken { promise }) }
}

/// Checks a log. `open` opens the same log each time, empty at first; each is closed before the
/// next. The bell is the one the log rings.
///
/// # Errors
///
/// [`Broken`]: the first promise that does not hold.
pub async fn check<L, F, O>(mut open: F) -> Result<(), Broken>
where
    L: LogStorage,
    F: FnMut() -> O,
    O: Future<Output = (L, Recovered, Bell)>,
{
    let (mut log, found, bell) = open().await;
    holds("a new log is empty", found.shards.is_empty() && log.bounds(SHARD).is_none())?;
    shards(&mut log)?;
    batches(&mut log)?;
    refusals(&mut log)?;
    tail(&mut log)?;
    let lsn = manifest(&mut log)?;
    durable(&mut log, &bell, lsn).await?;
    reads(&log).await?;
    let synced = log.durability() == Durability::Synced;
    let closed = log.close().await;
    holds("a healthy log closes", closed.is_ok())?;
    let (log, found, _) = open().await;
    if synced {
        reopened(&log, &found)?;
    } else {
        holds("a volatile log comes back empty", found.shards.is_empty())?;
    }
    holds("a log that was not written to closes", log.close().await.is_ok())
}

fn hard(term: u64, vote: u64, commit: u64) -> Record<'static> {
    let (term, vote, commit) = (Term(term), ReplicaId(vote), LogIndex(commit));
    Record::HardState(HardState { term, vote, commit })
}

fn shards<L: LogStorage>(log: &mut L) -> Result<(), Broken> {
    let open = Record::OpenShard { replica: REPLICA };
    let before = log.stage(SHARD, &[hard(1, 0, 0)]);
    holds("records of a shard that is not open are refused", before == Err(StageError::NoShard))?;
    holds("a shard opens", log.stage(SHARD, &[open, hard(2, 0, 0)]).is_ok())?;
    holds("a shard opens once", log.stage(SHARD, &[open]) == Err(StageError::Exists))?;
    let bounds = log.bounds(SHARD).unwrap_or_default();
    holds("an open shard is empty", (bounds.first.0, bounds.last.0) == (1, 0))?;
    holds("another shard opens", log.stage(OTHER, &[open]).is_ok())?;
    let gone = log.stage(OTHER, &[Record::Tombstone { replica: REPLICA }]);
    holds("a tombstone is taken", gone.is_ok())?;
    holds("a shard with a tombstone is gone", log.bounds(OTHER).is_none())
}

fn put<L: LogStorage>(
    log: &mut L,
    (first, term, prev_term): (u64, u64, u64),
    count: u32,
) -> Result<Staged, StageError> {
    let new = NewBatch {
        shard: SHARD,
        first: LogIndex(first),
        term: Term(term),
        prev_term: Term(prev_term),
        count,
        flags: 0,
    };
    log.append(new, 48, |out| out.fill(first.to_le_bytes()[0]))
}

fn batches<L: LogStorage>(log: &mut L) -> Result<(), Broken> {
    let first = put(log, (1, 1, 0), 3);
    let second = put(log, (4, 2, 1), 2);
    let (Ok(first), Ok(second)) = (first, second) else {
        return holds("batches behind the end are taken", false);
    };
    holds("numbers of writes do not fall", first.lsn <= second.lsn)?;
    let body = &first.batch.body;
    holds("a body is what was filled in", body.len() == 48 && body.iter().all(|byte| *byte == 1))?;
    holds("a body is 16-aligned", body.as_ptr().addr().is_multiple_of(16))?;
    holds("a batch carries its checksum", first.batch.head.matches(body))?;
    let mut out = Vec::new();
    let next = log.cached(SHARD, LogIndex(2), 1 << 20, &mut out);
    holds("what was just staged is in memory", next == LogIndex(6) && out.len() == 2)?;
    let terms = [1, 3, 4, 5, 6].map(|index| log.term_at(SHARD, LogIndex(index)));
    let want = [Some(Term(1)), Some(Term(1)), Some(Term(2)), Some(Term(2)), None];
    holds("terms are known", terms == want)
}

fn refusals<L: LogStorage>(log: &mut L) -> Result<(), Broken> {
    let before = log.bounds(SHARD);
    let gap = put(log, (9, 2, 2), 1).map(|_| ());
    holds("a gap is refused", gap == Err(StageError::Gap { expected: LogIndex(6) }))?;
    let stale = put(log, (6, 1, 2), 1).map(|_| ());
    holds("a falling term is refused", matches!(stale, Err(StageError::Stale { .. })))?;
    let mut head = BatchHeader {
        shard: SHARD,
        first: LogIndex(6),
        term: Term(2),
        count: 1,
        len: 16,
        ..BatchHeader::default()
    };
    head.crc = head.checksum(&[7; 16]) ^ 1;
    let bad = log.append_copy(&head, Term(2), &[7; 16]).map(|_| ());
    holds("a bad checksum is refused", bad == Err(StageError::BadChecksum))?;
    let heal = log.heal(&BatchHeader { crc: head.crc ^ 1, ..head }, &[7; 16]).map(|_| ());
    holds("a batch that fills no hole is refused", heal == Err(StageError::NoHole))?;
    let early = log.compact(SHARD, LogIndex(3), Term(1));
    holds("compaction waits for a manifest", early == Err(StageError::Order))?;
    let half = log.stage(SHARD, &[hard(3, 1, 0), Record::OpenShard { replica: REPLICA }]);
    holds("records are taken together or not at all", half == Err(StageError::Exists))?;
    let mut called = false;
    let new = NewBatch {
        shard: OTHER,
        first: LogIndex(1),
        term: Term(1),
        prev_term: Term(0),
        count: 1,
        flags: 0,
    };
    let refused = log.append(new, 16, |_| called = true).is_err();
    holds("a refused batch is not encoded", refused && !called)?;
    holds("a refusal changes nothing", log.bounds(SHARD) == before)
}

fn tail<L: LogStorage>(log: &mut L) -> Result<(), Broken> {
    holds("a higher term is taken", log.stage(SHARD, &[hard(3, 2, 0)]).is_ok())?;
    let second = log.stage(SHARD, &[hard(3, 1, 0)]);
    holds("a second vote in a term is refused", second == Err(StageError::Order))?;
    holds("the tail is replaced", put(log, (3, 3, 1), 1).is_ok())?;
    let bounds = log.bounds(SHARD).unwrap_or_default();
    holds("a replaced tail ends where it ends", (bounds.last.0, bounds.last_term.0) == (3, 3))?;
    let mut out = Vec::new();
    log.cached(SHARD, LogIndex(1), 1 << 20, &mut out);
    let keeps: Vec<u32> = out.iter().map(|batch| batch.keep).collect();
    holds("a batch that was cut says how much is left", keeps == [2, 1])?;
    let bytes: u64 = out.iter().map(|batch| u64::from(batch.head.len)).sum();
    let all = log.bytes(SHARD, LogIndex(1), LogIndex(3));
    holds("the bytes of a range are those of its batches", all == bytes)?;
    holds("a tail is cut", log.truncate(SHARD, LogIndex(3)).is_ok())?;
    let bounds = log.bounds(SHARD).unwrap_or_default();
    holds("a cut tail is gone", (bounds.last.0, bounds.last_term.0) == (2, 1))?;
    holds("entries follow the cut", put(log, (3, 3, 1), 4).is_ok())
}

fn manifest<L: LogStorage>(log: &mut L) -> Result<Lsn, Broken> {
    let manifest = Record::Manifest { index: LogIndex(4), term: Term(3), body: b"state" };
    let compact = Record::Compact { first: LogIndex(5), prev_term: Term(3) };
    let staged = log.stage(SHARD, &[manifest, compact, hard(3, 2, 5)]);
    let Ok(lsn) = staged else { return Err(Broken { promise: "a manifest is taken" }) };
    let bounds = log.bounds(SHARD).unwrap_or_default();
    holds(
        "a compacted log begins where it begins",
        (bounds.first.0, bounds.prev_term.0) == (5, 3),
    )?;
    let below = log.term_at(SHARD, LogIndex(3));
    holds("terms below the entry before the first are gone", below.is_none())?;
    Ok(lsn)
}

async fn durable<L: LogStorage>(log: &mut L, bell: &Bell, lsn: Lsn) -> Result<(), Broken> {
    holds("nothing is durable before it is submitted", log.durable() < lsn)?;
    log.submit();
    while log.durable() < lsn {
        let log = &*log;
        bell.park(|| log.durable() < lsn).await;
    }
    Ok(())
}

async fn reads<L: LogStorage>(log: &L) -> Result<(), Broken> {
    let got = log.read(SHARD, LogIndex(5)..LogIndex(7), 1 << 20).await;
    let batch = got.as_ref().ok().and_then(|batches| batches.first());
    let good = batch.is_some_and(|batch| batch.head.matches(&batch.body));
    holds("a read gives verified batches", good)?;
    let below = log.read(SHARD, LogIndex(1)..LogIndex(7), 1 << 20).await.map(|_| ());
    let want = Err(ReadError::Compacted { first: LogIndex(5) });
    holds("a read below the first index says so", below == want)?;
    let above = log.read(SHARD, LogIndex(7)..LogIndex(9), 1 << 20).await.map(|_| ());
    holds("a read above the last index says so", above == Err(ReadError::Missing))?;
    let nobody = log.read(OTHER, LogIndex(1)..LogIndex(2), 1).await.map(|_| ());
    holds("a read of no shard says so", nobody == Err(ReadError::NoShard))
}

fn reopened<L: LogStorage>(log: &L, found: &Recovered) -> Result<(), Broken> {
    let [shard] = found.shards.as_slice() else {
        return holds("a synced log comes back with its shards", false);
    };
    holds("the shard that was removed stays away", shard.shard == SHARD)?;
    holds("the replica comes back", shard.replica == REPLICA)?;
    let state = HardState { term: Term(3), vote: ReplicaId(2), commit: LogIndex(5) };
    holds("the vote comes back", shard.hard_state == state)?;
    let bounds = (shard.bounds.first.0, shard.bounds.last.0, shard.bounds.last_term.0);
    holds("the bounds come back", bounds == (5, 6, 3))?;
    let manifest = shard.manifest.as_ref().map(|(index, term, body)| (index.0, term.0, &**body));
    holds("the manifest comes back", manifest == Some((4, 3, &b"state"[..])))?;
    holds("the log agrees with what it found", log.bounds(SHARD) == Some(shard.bounds))
}
