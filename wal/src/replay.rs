//! The index made anew from frames, in order; damage stays with the shards it hit.
//!
//! Until its state in the base checkpoint is reached, a shard only collects batches; that state
//! then says what of them counts. A shard that the checkpoint does not name, and that was not
//! opened after its first chunk, does not exist.

use bowline_env::{Buf, SharedBuf};
use bowline_raft::{HardState, LogIndex, ReplicaId, ShardId, Term};

use crate::base::Base;
use crate::checkpoint::{HoleState, State, parse_damage};
use crate::error::OpenError;
use crate::field::countable;
use crate::frame::{Row, kind};
use crate::index::Index;
use crate::log::{DamageState, RecoveredShard};
use crate::scan::Found;
use crate::shard::{CONF, Extent, Kill, ShardLog};
use crate::walk::{Event, Sink};

/// What a replay knows of a shard beside its log.
#[derive(Clone, Debug, Default)]
struct Side {
    /// Its state is whole, not only collected.
    adopted: bool,
    /// Everything up to this frame is known: lost frames before it do not matter.
    known_at: u64,
    manifest: Option<(u64, Vec<u8>)>,
    manifest_term: u64,
}

/// A body and the frame it is in.
#[derive(Clone, Copy)]
struct At<'a> {
    lsn: u64,
    /// None: the body is bad or lost.
    body: Option<&'a [u8]>,
}

/// Replays frames into an index.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) index: Index,
    sides: Vec<Side>,
    base: Option<(u64, u64)>,
    /// Highest lost frame of which nothing is known.
    lost: u64,
    kills: Vec<Kill>,
    pub(crate) records: u64,
    /// Bad bodies: frame, row.
    pub(crate) bad: Vec<(u64, Row)>,
}

impl Replay {
    pub(crate) fn new(base: Option<&Base>) -> Self {
        let base = base.map(|base| (base.first_lsn, base.end_lsn));
        Self { base, ..Self::default() }
    }

    fn side(&mut self, place: u32) -> &mut Side {
        let at = usize::try_from(place).expect("usize holds a u32");
        if at >= self.sides.len() {
            self.sides.resize_with(at + 1, Side::default);
        }
        &mut self.sides[at]
    }

    /// The shard's place; one that is not open yet starts to collect.
    fn place(&mut self, shard: u64) -> u32 {
        self.index.find(ShardId(shard)).unwrap_or_else(|| self.open(shard, ReplicaId(0)))
    }

    fn open(&mut self, shard: u64, replica: ReplicaId) -> u32 {
        let place = self.index.insert(ShardLog::new(shard, replica));
        *self.side(place) = Side::default();
        place
    }

    fn frame(&mut self, found: &Found) {
        let lsn = found.head.lsn;
        for (nth, row) in found.rows().enumerate() {
            if row.is_echo() {
                continue;
            }
            self.records += 1;
            let good = found.bad.binary_search(&nth).is_err();
            if !good {
                self.bad.push((lsn, row));
            }
            let body = good.then(|| found.body(&row));
            self.row(&row, At { lsn, body });
        }
    }

    fn row(&mut self, row: &Row, at: At<'_>) {
        match row.kind {
            kind::CHECKPOINT => self.chunk(row, at),
            kind::CHECKPOINT_END if self.base.is_some_and(|(_, end)| end == at.lsn) => {
                self.drop_collected();
            },
            kind::OPEN_SHARD => {
                if let Some(place) = self.index.find(ShardId(row.shard)) {
                    self.index.remove(place);
                }
                let place = self.open(row.shard, ReplicaId(row.a));
                let adopted = self.base.is_none_or(|(first, _)| at.lsn > first);
                *self.side(place) = Side { adopted, known_at: at.lsn, ..Side::default() };
            },
            kind::TOMBSTONE => {
                if let Some(place) = self.index.find(ShardId(row.shard)) {
                    self.index.remove(place);
                }
            },
            kind::ENTRIES..=kind::MANIFEST | kind::DAMAGE => self.shard_row(row, at),
            _ => {},
        }
    }

    /// A record of one shard's log.
    fn shard_row(&mut self, row: &Row, at: At<'_>) {
        let place = self.place(row.shard);
        let adopted = self.side(place).adopted;
        let mut kills = core::mem::take(&mut self.kills);
        self.index.edit(place, |log| apply(log, row, at, adopted, &mut kills));
        if row.kind == kind::MANIFEST {
            let side = self.side(place);
            side.manifest = at.body.map(|body| (at.lsn, body.to_vec()));
            side.manifest_term = row.term;
        }
        kills.clear();
        self.kills = kills;
    }

    /// States of a checkpoint: of the base, or of a later one to check against.
    fn chunk(&mut self, row: &Row, at: At<'_>) {
        let Some(states) = at.body.and_then(|body| State::parse_chunk(body, row.count)) else {
            return;
        };
        for state in states {
            if self.base.is_some_and(|(first, _)| row.a == first) {
                self.adopt(&state, at.lsn);
            } else if self.base.is_none_or(|(_, end)| at.lsn > end) {
                self.compare(&state, at.lsn);
            }
        }
    }

    fn adopt(&mut self, state: &State, lsn: u64) {
        let place = self.place(state.shard);
        let side = self.side(place);
        side.adopted = true;
        side.known_at = lsn;
        let manifest = side.manifest.as_ref().map(|(at, _)| *at);
        self.index.edit(place, |log| adopt_bounds(log, state));
        let log = self.index.at_mut(place);
        log.manifest_lost = state.manifest_lost
            || (state.manifest_lsn != 0 && manifest != Some(state.manifest_lsn));
        if state.manifest_lsn == 0 {
            self.side(place).manifest = None;
        }
        if !state.is_sane() {
            self.index.at_mut(place).damage = DamageState::Retired;
        }
    }

    /// A state of a checkpoint after the base. It settles what lost frames left open; else it
    /// must be what the replay came to.
    fn compare(&mut self, state: &State, lsn: u64) {
        let place = self.index.find(ShardId(state.shard));
        let doubtful = place.is_none_or(|place| {
            let lost = self.lost;
            let side = self.side(place);
            !side.adopted || side.known_at < lost
        });
        if doubtful {
            return self.adopt(state, lsn);
        }
        let log = self.index.at_mut(place.expect("a shard without a place is doubtful"));
        let same = log.hard_state == state.hard_state
            && (log.first, log.last) == (state.first, state.last)
            && log.last_term == state.last_term;
        if !same {
            log.damage = DamageState::Retired;
        }
    }

    /// The base checkpoint is complete: what it does not name does not exist.
    fn drop_collected(&mut self) {
        for place in 0..self.index.places() {
            if self.index.place(place).is_some() && !self.side(place).adopted {
                self.index.remove(place);
            }
        }
    }

    /// Ends the replay: the last checks of each shard.
    pub(crate) fn finish(&mut self) {
        let lost = self.lost;
        if lost == 0 {
            self.drop_collected();
        }
        for place in 0..self.index.places() {
            if self.index.place(place).is_none() {
                continue;
            }
            let side = self.side(place).clone();
            let log = self.index.at_mut(place);
            let holds = log.hard_state.commit.0 <= log.last
                && log.hard_state.term.0 >= log.last_term
                && countable([log.last, log.hard_state.term.0])
                && log.extents.iter().is_sorted_by_key(|extent| extent.term);
            log.judge_anew();
            if !side.adopted || side.known_at < lost || !holds {
                log.damage = DamageState::Retired;
            }
            self.index.edit(place, |log| pass_covered_holes(log, side.manifest_term));
        }
    }

    /// What was found, shard by shard.
    pub(crate) fn recovered(&mut self) -> Vec<RecoveredShard> {
        let mut arena = Arena::default();
        let mut shards = Vec::with_capacity(self.index.len());
        for place in 0..self.index.places() {
            let side = core::mem::take(self.side(place));
            let Some(log) = self.index.place(place) else { continue };
            let manifest = side.manifest.filter(|_| !log.manifest_lost).map(|(_, body)| {
                (LogIndex(log.manifest_index), Term(side.manifest_term), arena.add(&body))
            });
            let confs = log.extents.iter().filter(|extent| extent.is_conf());
            shards.push(RecoveredShard {
                shard: ShardId(log.shard),
                replica: ReplicaId(log.replica),
                hard_state: log.hard_state,
                bounds: log.bounds(),
                manifest,
                holes: log.holes(),
                confs: confs.map(|extent| LogIndex(extent.first)).collect(),
            });
        }
        shards.sort_by_key(|shard| shard.shard);
        shards
    }
}

impl Sink for Replay {
    fn event(&mut self, event: Event<'_>) -> Result<(), OpenError> {
        match event {
            Event::Frame { found, .. } => self.frame(found),
            Event::Echo { lsn, rows } => {
                for row in rows {
                    let body = (row.body_len == 0 && row.kind != kind::ENTRIES).then_some(&[][..]);
                    self.row(row, At { lsn, body });
                    if body.is_none() {
                        self.bad.push((lsn, *row));
                    }
                }
            },
            Event::Lost { to, .. } => self.lost = self.lost.max(to),
        }
        Ok(())
    }
}

/// A record of one shard's log, applied to it.
fn apply(log: &mut ShardLog, row: &Row, at: At<'_>, adopted: bool, kills: &mut Vec<Kill>) {
    match row.kind {
        kind::ENTRIES => entries(log, row, at, adopted, kills),
        kind::HARD_STATE if adopted => {
            log.hard_state = HardState {
                term: Term(row.term),
                vote: ReplicaId(row.a),
                commit: LogIndex(row.index),
            };
        },
        kind::TRUNCATE => log.truncate(row.index.max(1), row.term, kills),
        kind::COMPACT => log.compact(row.index, row.term, kills),
        kind::MANIFEST => {
            log.set_manifest(at.lsn, row.index, kills);
            log.manifest_lost = at.body.is_none();
        },
        kind::DAMAGE if adopted => damage(log, at),
        _ => {},
    }
}

/// A batch. Whatever does not fit leaves a hole or retires the shard, never more.
fn entries(log: &mut ShardLog, row: &Row, at: At<'_>, adopted: bool, kills: &mut Vec<Kill>) {
    let head = row.batch();
    let mut extent = Extent::new(&head, at.lsn, row.body_off);
    if at.body.is_none() {
        extent.lost = true;
        extent.lsn = 0;
    }
    if crate::staging::check_batch(&head).is_err() {
        log.damage = DamageState::Retired;
        return;
    }
    if row.is_heal() {
        if !extent.lost {
            log.heal(extent);
        }
        return;
    }
    if row.b != 0 {
        return moved(log, extent, row.b);
    }
    if adopted {
        let before = log.term_at(row.index - 1);
        if row.index < log.first || before.is_some_and(|term| term != row.a) || row.term < row.a {
            log.damage = DamageState::Retired;
        }
        if row.index < log.first {
            return;
        }
    }
    log.append(extent, kills);
}

/// A copy that was moved from an older frame: it stands in for exactly that batch.
fn moved(log: &mut ShardLog, extent: Extent, origin: u64) {
    let at = log.position(extent.first);
    if let Some(have) = log.extents.get_mut(at)
        && (have.first, have.term, have.crc) == (extent.first, extent.term, extent.crc)
        && (have.lost || have.lsn == origin)
        && !extent.lost
    {
        *have = Extent { keep: have.keep, ..extent };
        log.judge();
    }
}

/// The damage on record. `Repairing` is derived at the end, from what then is a hole.
fn damage(log: &mut ShardLog, at: At<'_>) {
    let Some((state, holes)) = at.body.and_then(parse_damage) else { return };
    if state == DamageState::Retired {
        log.damage = state;
    }
    for row in holes {
        let (from, to) = (row.hole.from.0.max(log.first), row.hole.to.0.min(log.last));
        if from > to {
            continue;
        }
        log.mark_lost(from, to, &mut Vec::new());
        match (row.term, row.hole.crc) {
            (Some(term), Some(crc)) => restore_hole(log, &row, (term, crc)),
            // Where it was is not known, so nobody could tell it from an older one.
            _ if row.is_conf => log.damage = DamageState::Retired,
            _ => {},
        }
    }
}

/// A lost batch whose record is gone too: what a healing batch must be is still known, and that no
/// older configuration stands for one.
fn restore_hole(log: &mut ShardLog, row: &HoleState, (term, crc): (u64, u32)) {
    let (from, to) = (row.hole.from.0, row.hole.to.0);
    let at = log.position(from);
    let free = log.extents.get(at).is_none_or(|extent| extent.first > to);
    let count = u32::try_from(to - from + 1).unwrap_or(0);
    if free && count > 0 {
        let (lost, flags) = (true, if row.is_conf { CONF } else { 0 });
        let extent =
            Extent { first: from, term, count, keep: count, crc, lost, flags, ..Extent::default() };
        log.extents.insert(at, extent);
    }
}

/// Takes bounds and numbers of a checkpoint's state, and of the batches what counts.
fn adopt_bounds(log: &mut ShardLog, state: &State) {
    log.replica = state.replica;
    log.hard_state = state.hard_state;
    log.extents.retain(|extent| extent.last() >= state.first && extent.first <= state.last);
    for extent in &mut log.extents {
        if extent.last() > state.last {
            extent.keep = u32::try_from(state.last - extent.first + 1).expect("it was cut");
        }
    }
    // What the cut left of one may lie below the first entry as a whole.
    log.extents.retain(|extent| extent.last() >= state.first);
    (log.first, log.prev_term) = (state.first, state.prev_term);
    (log.last, log.last_term) = (state.last, state.last_term);
    log.manifest_lsn = state.manifest_lsn;
    log.manifest_index = state.manifest_index;
    let retired = state.damage == DamageState::Retired;
    log.damage = if retired { DamageState::Retired } else { DamageState::Normal };
}

/// Holes that the state machine's manifest covers are given up with all that lies below.
fn pass_covered_holes(log: &mut ShardLog, manifest_term: u64) {
    let holes = log.holes();
    let Some(last) = holes.last() else { return };
    if log.manifest_lost || last.to.0 > log.manifest_index {
        return;
    }
    let term = log.term_at(last.to.0);
    let term = term.or_else(|| (last.to.0 == log.manifest_index).then_some(manifest_term));
    if let Some(term) = term {
        log.compact(last.to.0 + 1, term, &mut Vec::new());
    }
}

/// Packs small bodies into few buffers.
#[derive(Debug, Default)]
struct Arena {
    buf: Option<Buf>,
}

const ARENA_LEN: usize = 1 << 20;

impl Arena {
    fn add(&mut self, body: &[u8]) -> SharedBuf {
        let padded = body.len().next_multiple_of(16);
        let room = self.buf.as_ref().map_or(0, |buf| buf.capacity() - buf.filled());
        if room < padded || self.buf.is_none() {
            self.buf = Some(Buf::heap(ARENA_LEN.max(padded)));
        }
        let buf = self.buf.as_mut().expect("it was made");
        let start = buf.filled();
        buf.rest_mut()[..body.len()].copy_from_slice(body);
        buf.fill(padded);
        buf.share(start..start + body.len())
    }
}
