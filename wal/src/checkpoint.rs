//! The bodies of checkpoints: the state of each shard, the slots at its end, and holes.
//!
//! ```text
//! state (96)  0 shard   8 replica  16 term  24 vote  32 commit  40 first  48 prev_term  56 last
//!            64 last_term  72 manifest_lsn: u64   80 damage u8  81 flags u8 (1: manifest lost)
//!            82 zero u16  84 replica_gen u32  88 manifest_index u64
//! slot  (32)  0 slot_no u32  4 live u32  8 epoch u64  16 first_lsn u64  24 last_lsn u64
//! damage      0 state u8, zero to 8;  then 32 a hole:
//!             0 from u64  8 to u64  16 term u64  24 crc u32  28 flags u32 (1 crc, 2 term known)
//! ```
//!
//! A roll opens a checkpoint: a cursor over the places of the index adds a chunk to each frame;
//! each state is true at its own frame.

use bowline_raft::{HardState, LogIndex, ReplicaId, Term};

use crate::field::{put, reachable, u32_at, u64_at};
use crate::geometry::{SLOT_ROW_LEN, STATE_LEN};
use crate::log::{DamageState, Hole};
use crate::shard::{Extent, ShardLog};
use crate::slots::{Life, Slot};

/// Bytes of a hole in a damage body.
pub(crate) const HOLE_LEN: usize = 32;
/// Bytes of a damage body before its holes.
pub(crate) const DAMAGE_HEAD: usize = 8;
const MANIFEST_LOST: u8 = 1;
const HAS_CRC: u32 = 1;
const HAS_TERM: u32 = 2;
/// A configuration is lost: nobody goes on with the one before.
const IS_CONF: u32 = 4;

/// A checkpoint being written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// Next place of the index.
    pub(crate) next: u32,
    /// One past the last place: what was open when it began.
    pub(crate) end: u32,
    /// Frame of the first chunk; 0 until it is sealed.
    pub(crate) first_lsn: u64,
    /// Epoch of its slot.
    pub(crate) epoch: u64,
    /// Bytes that damage bodies may take beside the states.
    pub(crate) damage_bytes: usize,
}

/// A shard as a checkpoint states it.
#[expect(clippy::struct_field_names, reason = "hard state is the word of the format")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) shard: u64,
    pub(crate) replica: u64,
    pub(crate) hard_state: HardState,
    pub(crate) first: u64,
    pub(crate) prev_term: u64,
    pub(crate) last: u64,
    pub(crate) last_term: u64,
    pub(crate) manifest_lsn: u64,
    pub(crate) manifest_index: u64,
    pub(crate) damage: DamageState,
    pub(crate) manifest_lost: bool,
}

impl State {
    pub(crate) fn of(log: &ShardLog) -> Self {
        Self {
            shard: log.shard,
            replica: log.replica,
            hard_state: log.hard_state,
            first: log.first,
            prev_term: log.prev_term,
            last: log.last,
            last_term: log.last_term,
            manifest_lsn: log.manifest_lsn,
            manifest_index: log.manifest_index,
            damage: log.damage,
            manifest_lost: log.manifest_lost,
        }
    }

    pub(crate) fn write(&self, out: &mut [u8]) {
        out.fill(0);
        put(out, 0, self.shard.to_le_bytes());
        put(out, 8, self.replica.to_le_bytes());
        put(out, 16, self.hard_state.term.0.to_le_bytes());
        put(out, 24, self.hard_state.vote.0.to_le_bytes());
        put(out, 32, self.hard_state.commit.0.to_le_bytes());
        put(out, 40, self.first.to_le_bytes());
        put(out, 48, self.prev_term.to_le_bytes());
        put(out, 56, self.last.to_le_bytes());
        put(out, 64, self.last_term.to_le_bytes());
        put(out, 72, self.manifest_lsn.to_le_bytes());
        out[80] = self.damage.byte();
        out[81] = if self.manifest_lost { MANIFEST_LOST } else { 0 };
        put(out, 88, self.manifest_index.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            shard: u64_at(bytes, 0),
            replica: u64_at(bytes, 8),
            hard_state: HardState {
                term: Term(u64_at(bytes, 16)),
                vote: ReplicaId(u64_at(bytes, 24)),
                commit: LogIndex(u64_at(bytes, 32)),
            },
            first: u64_at(bytes, 40),
            prev_term: u64_at(bytes, 48),
            last: u64_at(bytes, 56),
            last_term: u64_at(bytes, 64),
            manifest_lsn: u64_at(bytes, 72),
            manifest_index: u64_at(bytes, 88),
            damage: DamageState::of_byte(bytes[80]),
            manifest_lost: bytes[81] & MANIFEST_LOST != 0,
        }
    }

    /// Every state of a chunk; none if the bytes are not `count` states, or no stream reaches what
    /// they say.
    pub(crate) fn parse_chunk(bytes: &[u8], count: u32) -> Option<impl Iterator<Item = Self>> {
        let count = usize::try_from(count).ok()?;
        let whole = count.checked_mul(STATE_LEN)? == bytes.len();
        let states = || bytes.chunks_exact(STATE_LEN).map(Self::read);
        (whole && states().all(|state| state.is_reachable())).then(states)
    }

    fn is_reachable(&self) -> bool {
        let HardState { term, commit, .. } = self.hard_state;
        reachable([term.0, commit.0])
            && reachable([self.first, self.prev_term, self.last, self.last_term])
            && reachable([self.manifest_lsn, self.manifest_index])
    }

    /// Whether its numbers can stand together.
    pub(crate) fn is_sane(&self) -> bool {
        self.first > 0
            && self.last != u64::MAX
            && self.first <= self.last + 1
            && self.prev_term <= self.last_term
    }
}

/// A slot as the end of a checkpoint states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotState {
    pub(crate) slot_no: u32,
    pub(crate) live: bool,
    pub(crate) epoch: u64,
    pub(crate) first_lsn: u64,
    pub(crate) last_lsn: u64,
}

impl SlotState {
    /// `keep_from`: epoch of the slot of the previous complete checkpoint.
    pub(crate) fn of(slot_no: u32, slot: &Slot, keep_from: u64) -> Self {
        let live = match slot.life {
            Life::Active => true,
            Life::Closed => !slot.live.is_dead() || slot.epoch >= keep_from,
            Life::Free | Life::Preparing | Life::Prepared | Life::Held => false,
        };
        let (first_lsn, last_lsn) =
            if slot.in_use() { (slot.first_lsn, slot.last_lsn) } else { (0, 0) };
        Self { slot_no, live, epoch: slot.epoch, first_lsn, last_lsn }
    }

    pub(crate) fn write(&self, out: &mut [u8]) {
        put(out, 0, self.slot_no.to_le_bytes());
        put(out, 4, u32::from(self.live).to_le_bytes());
        put(out, 8, self.epoch.to_le_bytes());
        put(out, 16, self.first_lsn.to_le_bytes());
        put(out, 24, self.last_lsn.to_le_bytes());
    }

    /// Every slot of an end; none if the bytes are not whole rows, or no stream reaches what they
    /// say.
    pub(crate) fn parse_end(bytes: &[u8]) -> Option<Vec<Self>> {
        if !bytes.len().is_multiple_of(SLOT_ROW_LEN) {
            return None;
        }
        let row = |bytes: &[u8]| Self {
            slot_no: u32_at(bytes, 0),
            live: u32_at(bytes, 4) != 0,
            epoch: u64_at(bytes, 8),
            first_lsn: u64_at(bytes, 16),
            last_lsn: u64_at(bytes, 24),
        };
        let rows: Vec<_> = bytes.chunks_exact(SLOT_ROW_LEN).map(row).collect();
        let reached = |row: &Self| reachable([row.epoch, row.first_lsn, row.last_lsn]);
        rows.iter().all(reached).then_some(rows)
    }
}

/// A hole as a damage body states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HoleState {
    pub(crate) hole: Hole,
    pub(crate) term: Option<u64>,
    /// A configuration is among what is lost.
    pub(crate) is_conf: bool,
}

/// The damage body of a state and its holes, at most `bytes_max`. Holes beyond it become one.
pub(crate) fn damage_body(state: DamageState, holes: &[HoleState], bytes_max: usize) -> Vec<u8> {
    let room = (bytes_max - DAMAGE_HEAD) / HOLE_LEN;
    assert!(room > 0, "a damage body has room for a hole");
    let mut out = vec![0; DAMAGE_HEAD];
    out[0] = state.byte();
    for (nth, row) in holes.iter().take(room).enumerate() {
        let mut row = *row;
        if nth + 1 == room && holes.len() > room {
            row.hole.to = holes.last().expect("there is a hole").hole.to;
            row.hole.crc = None;
            row.term = None;
            row.is_conf = holes[nth..].iter().any(|hole| hole.is_conf);
        }
        let flags = if row.hole.crc.is_some() { HAS_CRC } else { 0 }
            | if row.term.is_some() { HAS_TERM } else { 0 }
            | if row.is_conf { IS_CONF } else { 0 };
        let mut bytes = [0; HOLE_LEN];
        put(&mut bytes, 0, row.hole.from.0.to_le_bytes());
        put(&mut bytes, 8, row.hole.to.0.to_le_bytes());
        put(&mut bytes, 16, row.term.unwrap_or(0).to_le_bytes());
        put(&mut bytes, 24, row.hole.crc.unwrap_or(0).to_le_bytes());
        put(&mut bytes, 28, flags.to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// Reads a damage body; none if it is not one.
pub(crate) fn parse_damage(bytes: &[u8]) -> Option<(DamageState, Vec<HoleState>)> {
    let holes = bytes.get(DAMAGE_HEAD..)?;
    if !holes.len().is_multiple_of(HOLE_LEN) {
        return None;
    }
    let row = |bytes: &[u8]| {
        let flags = u32_at(bytes, 28);
        let crc = (flags & HAS_CRC != 0).then(|| u32_at(bytes, 24));
        let (from, to) = (LogIndex(u64_at(bytes, 0)), LogIndex(u64_at(bytes, 8)));
        let term = (flags & HAS_TERM != 0).then(|| u64_at(bytes, 16));
        HoleState { hole: Hole { from, to, crc }, term, is_conf: flags & IS_CONF != 0 }
    };
    let rows: Vec<_> = holes.chunks_exact(HOLE_LEN).map(row).collect();
    let forward = |row: &HoleState| 0 < row.hole.from.0 && row.hole.from <= row.hole.to;
    let reached = |row: &HoleState| reachable([row.hole.to.0, row.term.unwrap_or(0)]);
    let good = rows.iter().all(|row| forward(row) && reached(row));
    good.then_some((DamageState::of_byte(bytes[0]), rows))
}

impl ShardLog {
    /// The holes with what is known of their batches.
    pub(crate) fn hole_states(&self) -> Vec<HoleState> {
        let state = |hole: Hole| {
            let extent = self.extent_at(hole.from.0);
            let is_conf = extent.is_some_and(Extent::is_conf);
            HoleState { hole, term: extent.map(|extent| extent.term), is_conf }
        };
        self.holes().into_iter().map(state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_and_every_cut_is_refused() {
        let mut log = ShardLog::new(7, ReplicaId(3));
        log.last = 9;
        log.last_term = 4;
        log.manifest_lsn = 12;
        log.manifest_index = 5;
        log.damage = DamageState::Retired;
        log.manifest_lost = true;
        let state = State::of(&log);
        let mut bytes = [0xff; STATE_LEN];
        state.write(&mut bytes);
        assert_eq!(State::parse_chunk(&bytes, 1).unwrap().next(), Some(state));
        for cut in 0..STATE_LEN {
            assert!(State::parse_chunk(&bytes[..cut], 1).is_none());
        }
        assert!(State::parse_chunk(&bytes, u32::MAX).is_none());
        assert!(state.is_sane());
        assert!(!State { first: 11, ..state }.is_sane());
    }

    #[test]
    fn what_no_stream_reaches_is_not_read() {
        let state = State::of(&ShardLog::new(7, ReplicaId(3)));
        let mut bytes = [0; STATE_LEN];
        for at in [16, 32, 40, 48, 56, 64, 72, 88] {
            state.write(&mut bytes);
            put(&mut bytes, at, u64::MAX.to_le_bytes());
            assert!(State::parse_chunk(&bytes, 1).is_none(), "{at}");
        }
        for at in [8, 16, 24] {
            let mut bytes = [0; SLOT_ROW_LEN];
            put(&mut bytes, at, u64::MAX.to_le_bytes());
            assert_eq!(SlotState::parse_end(&bytes), None, "{at}");
        }
        let hole = Hole { from: LogIndex(1), to: LogIndex(u64::MAX), crc: None };
        let body = damage_body(
            DamageState::Repairing,
            &[HoleState { hole, term: None, is_conf: false }],
            4096,
        );
        assert_eq!(parse_damage(&body), None);
    }

    #[test]
    fn damage_reads_back_and_every_cut_is_refused_or_shorter() {
        let hole = |from, to, crc, term| HoleState {
            hole: Hole { from: LogIndex(from), to: LogIndex(to), crc },
            term,
            is_conf: from == 6,
        };
        let holes = [hole(1, 2, Some(9), Some(3)), hole(4, 4, None, None), hole(6, 9, None, None)];
        let body = damage_body(DamageState::Repairing, &holes, 4096);
        assert_eq!(parse_damage(&body), Some((DamageState::Repairing, holes.to_vec())));
        for cut in 0..body.len() {
            if let Some((_, found)) = parse_damage(&body[..cut]) {
                assert!(found.len() < holes.len());
            }
        }
        let body = damage_body(DamageState::Repairing, &holes, DAMAGE_HEAD + 2 * HOLE_LEN);
        let (_, found) = parse_damage(&body).unwrap();
        assert_eq!(found, [holes[0], HoleState { is_conf: true, ..hole(4, 9, None, None) }]);
    }

    #[test]
    fn the_end_lists_slots_and_a_cut_row_is_refused() {
        let slot =
            Slot { life: Life::Closed, epoch: 4, first_lsn: 9, last_lsn: 12, ..Slot::default() };
        let state = SlotState::of(3, &slot, 4);
        assert!(state.live);
        assert!(!SlotState::of(3, &slot, 5).live);
        let mut bytes = [0; SLOT_ROW_LEN];
        state.write(&mut bytes);
        assert_eq!(SlotState::parse_end(&bytes), Some(vec![state]));
        assert_eq!(SlotState::parse_end(&bytes[..31]), None);
    }
}
