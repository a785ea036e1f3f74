//! Taking batches and records into the open frame, and what the log answers from memory.

use bowline_raft::batch::{FLAG_CONF, FLAG_NOOP};
use bowline_raft::{BatchHeader, LogIndex, Lsn, ShardId, Term};

use crate::checkpoint::{HoleState, damage_body};
use crate::error::StageError;
use crate::field::{len_u32, len_u64};
use crate::frame::{BATCH_FLAGS, HEAL, Row, kind};
use crate::log::{BatchRef, Hole, NewBatch, Record, Staged};
use crate::seal::{push_body, write_body};
use crate::shard::{Extent, index_bytes};
use crate::stream::{Open, Stream};

/// Who asks for room; each has a mark of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    Proposal,
    Received,
    Other,
}

/// Slots that only records other than batches may use up.
const RESERVE_SLOTS: u32 = 2;
/// Used slots, or index memory, from which on proposals are refused; in thousandths.
const HARD_PERMILLE: u32 = 850;

impl Stream {
    pub(crate) fn append(
        &mut self,
        new: NewBatch,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Staged, StageError> {
        // A leader's first entry and a configuration are no client's: without them a full log could
        // never commit, apply, flush and compact again.
        let is_own = new.flags & (FLAG_NOOP | FLAG_CONF) != 0;
        self.admit(if is_own { Intake::Other } else { Intake::Proposal }, len)?;
        let head = BatchHeader {
            shard: new.shard,
            first: new.first,
            term: new.term,
            count: new.count,
            len: self.batch_len(len)?,
            fmt: 0,
            flags: new.flags,
            crc: 0,
        };
        check_batch(&head)?;
        let place = self.index.check_append(new.shard, new.first, new.term, new.prev_term)?;
        self.reserve(len, 1)?;
        let open = self.open.as_mut().expect("room was reserved");
        fill(&mut open.buf.rest_mut()[..len]);
        let head = BatchHeader { crc: head.checksum(&open.buf.rest_mut()[..len]), ..head };
        Ok(self.take(place, &head, new.prev_term))
    }

    pub(crate) fn append_copy(
        &mut self,
        head: &BatchHeader,
        prev_term: Term,
        body: &[u8],
    ) -> Result<Staged, StageError> {
        self.admit(Intake::Received, body.len())?;
        if self.batch_len(body.len())? != head.len {
            return Err(StageError::BadChecksum);
        }
        check_batch(head)?;
        let place = self.index.check_append(head.shard, head.first, head.term, prev_term)?;
        self.copy(head, body)?;
        Ok(self.take(place, head, prev_term))
    }

    pub(crate) fn heal(&mut self, head: &BatchHeader, body: &[u8]) -> Result<Staged, StageError> {
        self.admit(Intake::Received, body.len())?;
        if self.batch_len(body.len())? != head.len {
            return Err(StageError::BadChecksum);
        }
        check_batch(head)?;
        let place = self.index.find(head.shard).ok_or(StageError::NoShard)?;
        // Asked of a copy: the log itself changes only once the bytes are proved.
        let fits = self.index.at(place).clone().heal(Extent::new(head, 1, 0));
        if !fits {
            return Err(StageError::NoHole);
        }
        self.copy(head, body)?;
        let open = self.open.as_mut().expect("room was reserved");
        let start = open.buf.filled();
        let mut row = Row::entries(head, Term(0), len_u32(start));
        row.flags |= HEAL;
        let extent = Extent::new(head, open.lsn, len_u32(start));
        let staged = self.commit_body(row, head);
        assert!(self.index.at_mut(place).heal(extent), "the hole was there");
        Ok(staged)
    }

    pub(crate) fn stage(
        &mut self,
        shard: ShardId,
        records: &[Record<'_>],
    ) -> Result<Lsn, StageError> {
        self.admit(Intake::Other, 0)?;
        let len = self.bodies_len(records)?;
        self.index.check_stage(shard, records, self.geometry.shards_max())?;
        self.reserve(len, records.len())?;
        let mut open = self.open.take().expect("room was reserved");
        let lsn = open.lsn;
        let before = open.bodies;
        let mut kills = core::mem::take(&mut self.kills);
        for record in records {
            write_record(&mut open, shard, record, self.geometry.chunk_max());
            open.needs |= self.index.apply(shard, record, lsn, &mut kills);
            if let Record::Truncate { .. } = record {
                self.note_last_term(&mut open, shard);
            }
        }
        self.note_staged(open.bodies - before);
        self.open = Some(open);
        self.kills = kills;
        self.bury();
        Ok(Lsn(lsn))
    }

    /// Declares a batch on disk bad, durably. Nothing if the log takes no more.
    pub(crate) fn note_damage(&mut self, shard: ShardId, from: u64, to: u64) {
        let Some(place) = self.index.find(shard) else { return };
        let mut kills = core::mem::take(&mut self.kills);
        self.index.lose(place, (from, to), &mut kills);
        self.kills = kills;
        self.bury();
        let log = self.index.at(place);
        let body = damage_body(log.damage, &log.hole_states(), self.geometry.chunk_max());
        if self.poisoned().is_none() && self.reserve(body.len().next_multiple_of(16), 1).is_ok() {
            let open = self.open.as_mut().expect("room was reserved");
            let before = open.buf.filled();
            let start = write_body(open, &body);
            let row = Row { shard: shard.0, kind: kind::DAMAGE, ..Row::default() };
            push_body(open, row, start, body.len());
            open.bodies += open.buf.filled() - before;
            open.needs = true;
            let added = open.buf.filled() - before;
            self.note_staged(added);
        }
    }

    /// Batches from `from` on that are in memory; the next index that is missing.
    pub(crate) fn cached(
        &self,
        shard: ShardId,
        from: LogIndex,
        bytes_max: usize,
        out: &mut Vec<BatchRef>,
    ) -> LogIndex {
        let Some(log) = self.index.lookup(shard) else { return from };
        let (mut next, mut bytes) = (from.0, 0);
        for extent in log.extents.range(log.position(from.0)..) {
            let holds = extent.first <= next && !extent.lost;
            if !holds || (bytes > 0 && bytes + crate::field::len_of(extent.len) > bytes_max) {
                break;
            }
            let Some(body) = self.body(extent.lsn, extent.off, extent.len) else { break };
            bytes += body.len().max(1);
            out.push(BatchRef { head: extent.head(shard.0), keep: extent.keep, body });
            next = extent.last() + 1;
        }
        LogIndex(next)
    }

    /// Refuses what the log has no room for.
    fn admit(&self, intake: Intake, len: usize) -> Result<(), StageError> {
        if let Some(cause) = self.poisoned() {
            return Err(StageError::Poisoned(cause));
        }
        let left = self.slots.left();
        let full = match intake {
            Intake::Proposal => {
                let used = self.slots.used_permille().max(self.index_permille());
                left <= RESERVE_SLOTS || used >= HARD_PERMILLE
            },
            Intake::Received => left <= RESERVE_SLOTS,
            Intake::Other => false,
        };
        if full {
            return Err(StageError::Full);
        }
        if self.staged() > 0 && self.staged() + len > self.options.staged_bytes {
            return Err(StageError::Busy);
        }
        Ok(())
    }

    /// Index memory in thousandths of its bound.
    pub(crate) fn index_permille(&self) -> u32 {
        let bytes = index_bytes(self.index.extents, len_u64(self.index.len()));
        let permille = bytes * 1000 / len_u64(self.options.index_bytes.max(1));
        u32::try_from(permille).unwrap_or(u32::MAX)
    }

    fn batch_len(&self, len: usize) -> Result<u32, StageError> {
        let max = u64::from(self.geometry.frame_cap);
        let fits = u32::try_from(len).ok().filter(|len| u64::from(*len) <= max);
        fits.ok_or(StageError::TooLarge { max })
    }

    /// Bytes that the bodies of `records` take, if they fit one frame.
    fn bodies_len(&self, records: &[Record<'_>]) -> Result<usize, StageError> {
        let rows_max = self.geometry.records_max();
        if records.len() > rows_max {
            return Err(StageError::TooLarge { max: len_u64(rows_max) });
        }
        let mut sum = 0;
        for record in records {
            let (len, max) = match record {
                Record::Manifest { body, .. } => (body.len(), self.geometry.manifest_max()),
                Record::Damage { .. } => (self.geometry.chunk_max(), self.geometry.chunk_max()),
                Record::HardState(_)
                | Record::Truncate { .. }
                | Record::Compact { .. }
                | Record::OpenShard { .. }
                | Record::Tombstone { .. } => (0, 0),
            };
            if len > max {
                return Err(StageError::TooLarge { max: len_u64(max) });
            }
            sum += len.next_multiple_of(16);
        }
        let max = self.geometry.cap();
        if sum <= max { Ok(sum) } else { Err(StageError::TooLarge { max: len_u64(max) }) }
    }

    /// Makes the open frame one that `len` bytes and `rows` rows fit in.
    fn reserve(&mut self, len: usize, rows: usize) -> Result<(), StageError> {
        let len = len.next_multiple_of(16);
        if let Some(open) = &self.open {
            if open.fits(len, rows, &self.geometry) {
                return Ok(());
            }
            if open.bodies < self.geometry.cap() {
                self.grow_class();
            }
            if !self.seal(false) {
                return Err(self.poisoned().map_or(StageError::Busy, StageError::Poisoned));
            }
        }
        self.open_frame(len, rows)?;
        let open = self.open.as_ref().expect("it was opened");
        assert!(open.fits(len, rows, &self.geometry), "a new frame has the room asked for");
        Ok(())
    }

    /// Copies a received body behind what is filled and verifies the copy.
    fn copy(&mut self, head: &BatchHeader, body: &[u8]) -> Result<(), StageError> {
        self.reserve(body.len(), 1)?;
        let open = self.open.as_mut().expect("room was reserved");
        let copy = &mut open.buf.rest_mut()[..body.len()];
        copy.copy_from_slice(body);
        if head.matches(copy) { Ok(()) } else { Err(StageError::BadChecksum) }
    }

    /// Takes the batch whose body stands behind what is filled.
    fn take(&mut self, place: u32, head: &BatchHeader, prev_term: Term) -> Staged {
        let open = self.open.as_ref().expect("the body is in the open frame");
        let off = len_u32(open.buf.filled());
        let extent = Extent::new(head, open.lsn, off);
        let staged = self.commit_body(Row::entries(head, prev_term, off), head);
        let mut kills = core::mem::take(&mut self.kills);
        self.index.append(place, extent, &mut kills);
        self.kills = kills;
        self.bury();
        staged
    }

    /// Declares the body behind what is filled part of the frame.
    fn commit_body(&mut self, row: Row, head: &BatchHeader) -> Staged {
        let open = self.open.as_mut().expect("the body is in the open frame");
        let start = open.buf.filled();
        let len = crate::field::len_of(head.len);
        let padded = len.next_multiple_of(16);
        open.buf.rest_mut()[len..padded].fill(0);
        open.buf.fill(padded);
        open.dir.extend_from_slice(&row.to_bytes());
        open.bodies += padded;
        open.needs = true;
        open.live.batches += 1;
        open.live.bytes += u64::from(head.len);
        let body = open.buf.share(start..start + len);
        let lsn = Lsn(open.lsn);
        self.note_staged(padded);
        Staged { lsn, batch: BatchRef { head: *head, keep: head.count, body } }
    }

    /// Takes what died off the frames that held it.
    fn bury(&mut self) {
        for kill in self.kills.drain(..) {
            match &mut self.open {
                Some(open) if open.lsn == kill.lsn => open.live.kill(&kill),
                _ => self.slots.kill(&kill),
            }
        }
    }

    /// A TRUNCATE row states the term that its log ends in.
    fn note_last_term(&self, open: &mut Open, shard: ShardId) {
        let log = self.index.lookup(shard).expect("the record was checked");
        let at = open.dir.len() - crate::geometry::RECORD_LEN;
        crate::field::put(&mut open.dir, at + 16, log.last_term.to_le_bytes());
    }
}

/// A batch has an entry, its numbers do not run over, and its flags fit a row.
pub(crate) fn check_batch(head: &BatchHeader) -> Result<(), StageError> {
    let fits = head.first.0 > 0 && head.first.0.checked_add(u64::from(head.count)).is_some();
    if head.count == 0 || !fits || head.flags & !BATCH_FLAGS != 0 {
        return Err(StageError::Order);
    }
    Ok(())
}

/// Adds one record of `stage`.
fn write_record(open: &mut Open, shard: ShardId, record: &Record<'_>, damage_max: usize) {
    let row = Row { shard: shard.0, ..Row::default() };
    let row = match *record {
        Record::HardState(state) => Row {
            kind: kind::HARD_STATE,
            term: state.term.0,
            a: state.vote.0,
            index: state.commit.0,
            ..row
        },
        Record::Truncate { from } => Row { kind: kind::TRUNCATE, index: from.0, ..row },
        Record::Compact { first, prev_term } => {
            Row { kind: kind::COMPACT, index: first.0, term: prev_term.0, ..row }
        },
        Record::OpenShard { replica } => Row { kind: kind::OPEN_SHARD, a: replica.0, ..row },
        Record::Tombstone { replica } => Row { kind: kind::TOMBSTONE, a: replica.0, ..row },
        Record::Manifest { index, term, body } => {
            let row = Row { kind: kind::MANIFEST, index: index.0, term: term.0, ..row };
            open.live.manifests += 1;
            return add_body(open, row, body);
        },
        Record::Damage { state, holes } => {
            let unknown = |hole: &Hole| HoleState { hole: *hole, term: None, is_conf: false };
            let holes: Vec<_> = holes.iter().map(unknown).collect();
            let body = damage_body(state, &holes, damage_max);
            return add_body(open, Row { kind: kind::DAMAGE, ..row }, &body);
        },
    };
    open.dir.extend_from_slice(&row.to_bytes());
}

fn add_body(open: &mut Open, row: Row, body: &[u8]) {
    let before = open.buf.filled();
    let start = write_body(open, body);
    push_body(open, row, start, body.len());
    open.bodies += open.buf.filled() - before;
}
