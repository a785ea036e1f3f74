//! What is known of one shard's log: its bounds, its batches, its holes. Memory only.
//!
//! I5: extents are ascending and contiguous from `first` to `last` but for holes (a lost extent or
//! a gap); terms do not fall.

use std::collections::VecDeque;

use bowline_raft::batch::FLAG_CONF;
use bowline_raft::{BatchHeader, HardState, LogIndex, ReplicaId, ShardId, Term};

use crate::field::len_u64;
use crate::log::{DamageState, Hole, LogBounds};

/// [`FLAG_CONF`], as an extent has it.
pub(crate) const CONF: u8 = u16::to_le_bytes(FLAG_CONF)[0];

/// A batch of the log, or the part of it that still counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) term: u64,
    /// Frame that holds the body; 0: it is lost, and no slot is held for it.
    pub(crate) lsn: u64,
    /// Entries of the whole batch.
    pub(crate) count: u32,
    /// Entries that still count.
    pub(crate) keep: u32,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    /// Offset of the body in its frame.
    pub(crate) off: u32,
    pub(crate) fmt: u16,
    pub(crate) flags: u8,
    /// The body is lost; identity and checksum are known.
    pub(crate) lost: bool,
}

const _: () = assert!(size_of::<Extent>() == 48, "a live batch costs 48 bytes");

impl Extent {
    pub(crate) fn new(head: &BatchHeader, lsn: u64, off: u32) -> Self {
        Self {
            first: head.first.0,
            term: head.term.0,
            lsn,
            count: head.count,
            keep: head.count,
            len: head.len,
            crc: head.crc,
            off,
            fmt: head.fmt,
            flags: head.flags.to_le_bytes()[0],
            lost: false,
        }
    }

    /// Last index that counts.
    pub(crate) fn last(&self) -> u64 {
        self.first + u64::from(self.keep) - 1
    }

    pub(crate) fn head(&self, shard: u64) -> BatchHeader {
        BatchHeader {
            shard: ShardId(shard),
            first: LogIndex(self.first),
            term: Term(self.term),
            count: self.count,
            len: self.len,
            fmt: self.fmt,
            flags: u16::from(self.flags),
            crc: self.crc,
        }
    }

    /// It holds a configuration, alone.
    pub(crate) fn is_conf(&self) -> bool {
        self.flags & CONF != 0
    }

    /// The hole that it is, if it is lost. A cut batch comes back from nobody as it was.
    fn hole(&self) -> Hole {
        let crc = (self.keep == self.count && self.crc != 0).then_some(self.crc);
        Hole { from: LogIndex(self.first), to: LogIndex(self.last()), crc }
    }
}

/// What died in which frame; drained by the owner of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) lsn: u64,
    pub(crate) bytes: u64,
    pub(crate) manifest: bool,
}

/// One shard's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardLog {
    pub(crate) shard: u64,
    pub(crate) replica: u64,
    pub(crate) hard_state: HardState,
    pub(crate) first: u64,
    pub(crate) prev_term: u64,
    pub(crate) last: u64,
    pub(crate) last_term: u64,
    pub(crate) manifest_lsn: u64,
    pub(crate) manifest_index: u64,
    pub(crate) extents: VecDeque<Extent>,
    pub(crate) damage: DamageState,
    /// The latest manifest's body is lost.
    pub(crate) manifest_lost: bool,
}

impl ShardLog {
    pub(crate) fn new(shard: u64, replica: ReplicaId) -> Self {
        Self { shard, replica: replica.0, first: 1, ..Self::default() }
    }

    pub(crate) fn bounds(&self) -> LogBounds {
        LogBounds {
            first: LogIndex(self.first),
            prev_term: Term(self.prev_term),
            last: LogIndex(self.last),
            last_term: Term(self.last_term),
            damage: self.damage,
        }
    }

    /// Position of the first extent that ends at `index` or later.
    pub(crate) fn position(&self, index: u64) -> usize {
        self.extents.partition_point(|extent| extent.last() < index)
    }

    /// Bytes of the bodies that hold an index in `from..=to`.
    pub(crate) fn bytes(&self, from: u64, to: u64) -> u64 {
        let range = self.extents.range(self.position(from)..);
        range.take_while(|extent| extent.first <= to).map(|extent| u64::from(extent.len)).sum()
    }

    /// The extent that holds `index`, lost or not.
    pub(crate) fn extent_at(&self, index: u64) -> Option<&Extent> {
        let extent = self.extents.get(self.position(index))?;
        (extent.first <= index).then_some(extent)
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.last {
            return Some(self.last_term);
        }
        if index + 1 == self.first {
            return Some(self.prev_term);
        }
        if index < self.first || index > self.last {
            return None;
        }
        self.extent_at(index).map(|extent| extent.term)
    }

    /// Replaces everything from the extent's first index on. I5 is the caller's, who checked.
    pub(crate) fn append(&mut self, extent: Extent, kills: &mut Vec<Kill>) {
        let replaces = extent.first <= self.last;
        if replaces {
            self.drop_from(extent.first, kills);
        }
        self.last = extent.last();
        self.last_term = extent.term;
        self.extents.push_back(extent);
        if replaces {
            self.judge();
        }
    }

    /// Voids every entry from `from` on; `last_term` becomes `term`.
    pub(crate) fn truncate(&mut self, from: u64, term: u64, kills: &mut Vec<Kill>) {
        if from > self.last {
            return;
        }
        self.drop_from(from, kills);
        self.last = from - 1;
        self.last_term = term;
        self.judge();
    }

    /// Gives up the entries below `first`.
    pub(crate) fn compact(&mut self, first: u64, prev_term: u64, kills: &mut Vec<Kill>) {
        if first <= self.first {
            return;
        }
        while let Some(extent) = self.extents.front() {
            if extent.last() >= first {
                break;
            }
            kill_extent(extent, kills);
            self.extents.pop_front();
        }
        self.first = first;
        self.prev_term = prev_term;
        if first > self.last {
            self.last = first - 1;
            self.last_term = prev_term;
        }
        self.judge();
    }

    /// Takes a new manifest at `lsn`.
    pub(crate) fn set_manifest(&mut self, lsn: u64, index: u64, kills: &mut Vec<Kill>) {
        if self.manifest_lsn != 0 {
            kills.push(Kill { lsn: self.manifest_lsn, bytes: 0, manifest: true });
        }
        self.manifest_lsn = lsn;
        self.manifest_index = index;
        self.manifest_lost = false;
        self.judge();
    }

    /// Fills the hole that `extent` fits exactly; false: there is none.
    pub(crate) fn heal(&mut self, extent: Extent) -> bool {
        let at = self.position(extent.first);
        let Some(lost) = self.extents.get_mut(at) else { return false };
        let same = lost.lost
            && lost.first == extent.first
            && lost.term == extent.term
            && lost.keep == lost.count
            && lost.count == extent.count
            && lost.crc == extent.crc;
        if same {
            *lost = extent;
            self.judge();
        }
        same
    }

    /// Declares the bodies of `from..=to` lost, batch by batch.
    pub(crate) fn lose(&mut self, from: u64, to: u64, kills: &mut Vec<Kill>) {
        self.mark_lost(from, to, kills);
        self.judge_anew();
    }

    /// The same without a judgement.
    pub(crate) fn mark_lost(&mut self, from: u64, to: u64, kills: &mut Vec<Kill>) {
        for extent in &mut self.extents {
            if extent.last() >= from && extent.first <= to && !extent.lost {
                kill_extent(extent, kills);
                extent.lost = true;
                extent.lsn = 0;
            }
        }
    }

    /// Every body and manifest is dead: the shard ends here.
    pub(crate) fn clear(&mut self, kills: &mut Vec<Kill>) {
        self.extents.iter().for_each(|extent| kill_extent(extent, kills));
        self.extents.clear();
        if self.manifest_lsn != 0 {
            kills.push(Kill { lsn: self.manifest_lsn, bytes: 0, manifest: true });
            self.manifest_lsn = 0;
        }
    }

    /// The holes, ascending: lost batches and gaps.
    pub(crate) fn holes(&self) -> Vec<Hole> {
        let mut holes = Vec::new();
        let mut next = self.first;
        for extent in &self.extents {
            if extent.first > next {
                let to = LogIndex(extent.first - 1);
                holes.push(Hole { from: LogIndex(next), to, crc: None });
            }
            if extent.lost {
                holes.push(extent.hole());
            }
            next = extent.last() + 1;
        }
        if next <= self.last {
            holes.push(Hole { from: LogIndex(next), to: LogIndex(self.last), crc: None });
        }
        holes
    }

    /// Derives `Repairing` and `Normal` anew; `Retired` stays. Only a shard that was damaged is
    /// looked at, so that a sound one pays nothing.
    pub(crate) fn judge(&mut self) {
        if self.damage == DamageState::Repairing {
            let open = self.manifest_lost
                || self.holes().iter().any(|hole| hole.to.0 > self.manifest_index);
            if !open {
                self.damage = DamageState::Normal;
            }
        }
    }

    /// Sets `Repairing` if there is a reason for it.
    pub(crate) fn judge_anew(&mut self) {
        self.damage = self.damage.max_of(DamageState::Repairing);
        self.judge();
    }

    /// Drops what begins at `from` or later and cuts the batch that spans it.
    fn drop_from(&mut self, from: u64, kills: &mut Vec<Kill>) {
        while let Some(extent) = self.extents.back_mut() {
            if extent.first >= from {
                kill_extent(extent, kills);
                self.extents.pop_back();
            } else {
                if extent.last() >= from {
                    let keep = from - extent.first;
                    extent.keep = u32::try_from(keep).expect("a cut keeps fewer than there were");
                }
                break;
            }
        }
    }
}

impl DamageState {
    /// The worse of the two.
    pub(crate) fn max_of(self, other: Self) -> Self {
        if self.byte() >= other.byte() { self } else { other }
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Repairing => 1,
            Self::Retired => 2,
        }
    }

    /// A byte that nobody writes is read as the worst.
    pub(crate) fn of_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Normal,
            1 => Self::Repairing,
            _ => Self::Retired,
        }
    }
}

fn kill_extent(extent: &Extent, kills: &mut Vec<Kill>) {
    if extent.lsn != 0 {
        kills.push(Kill { lsn: extent.lsn, bytes: u64::from(extent.len), manifest: false });
    }
}

/// Index memory of `extents` batches and `shards` shards.
pub(crate) fn index_bytes(extents: u64, shards: u64) -> u64 {
    let (extent, shard) = (size_of::<Extent>(), size_of::<ShardLog>());
    extents * len_u64(extent) + shards * len_u64(shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: u64, count: u32, term: u64, lsn: u64) -> Extent {
        Extent { first, term, lsn, count, keep: count, len: 16, crc: 7, ..Extent::default() }
    }

    fn log() -> (ShardLog, Vec<Kill>) {
        let (mut log, mut kills) = (ShardLog::new(1, ReplicaId(1)), Vec::new());
        log.append(extent(1, 4, 1, 10), &mut kills);
        log.append(extent(5, 4, 2, 11), &mut kills);
        log.append(extent(9, 4, 2, 12), &mut kills);
        assert_eq!(kills, []);
        (log, kills)
    }

    #[test]
    fn appending_inside_replaces_the_tail_and_cuts_the_batch_it_hits() {
        let (mut log, mut kills) = log();
        log.append(extent(7, 2, 3, 13), &mut kills);
        assert_eq!((log.last, log.last_term), (8, 3));
        assert_eq!(kills, [Kill { lsn: 12, bytes: 16, manifest: false }]);
        assert_eq!(log.extents[1].keep, 2);
        assert_eq!(log.term_at(6), Some(2));
        assert_eq!(log.term_at(7), Some(3));
        assert_eq!(log.term_at(9), None);
        assert_eq!(log.holes(), []);
    }

    #[test]
    fn compaction_keeps_the_batch_it_hits_and_beyond_the_end_leaves_an_empty_log() {
        let (mut log, mut kills) = log();
        log.compact(6, 2, &mut kills);
        assert_eq!(kills.len(), 1);
        assert_eq!((log.first, log.extents[0].first), (6, 5));
        assert_eq!(log.term_at(5), Some(2));
        assert_eq!(log.holes(), []);
        log.compact(100, 9, &mut kills);
        assert_eq!((log.first, log.last, log.last_term), (100, 99, 9));
        assert!(log.extents.is_empty());
        assert_eq!(kills.len(), 3);
    }

    #[test]
    fn a_lost_batch_is_a_hole_until_the_same_batch_comes_back() {
        let (mut log, mut kills) = log();
        log.lose(6, 6, &mut kills);
        assert_eq!(log.damage, DamageState::Repairing);
        let hole = Hole { from: LogIndex(5), to: LogIndex(8), crc: Some(7) };
        assert_eq!(log.holes(), [hole]);
        assert_eq!(log.term_at(6), Some(2));
        assert!(!log.heal(Extent { crc: 8, ..extent(5, 4, 2, 13) }));
        assert!(!log.heal(extent(5, 4, 3, 13)));
        assert!(log.heal(extent(5, 4, 2, 13)));
        assert_eq!(log.damage, DamageState::Normal);
    }

    #[test]
    fn a_hole_below_the_manifest_is_no_damage_and_retired_stays() {
        let (mut log, mut kills) = log();
        log.lose(5, 8, &mut kills);
        log.set_manifest(14, 8, &mut kills);
        assert_eq!(log.damage, DamageState::Normal);
        log.damage = DamageState::Retired;
        log.compact(9, 2, &mut kills);
        assert_eq!(log.damage, DamageState::Retired);
    }
}
