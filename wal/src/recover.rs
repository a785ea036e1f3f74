//! From the files of a stream to what it holds: plan, walk, replay, and where to go on.

use std::collections::BTreeMap;

use crate::base::{Plan, complete_before, plan};
use crate::error::OpenError;
use crate::geometry::Geometry;
use crate::head::Super;
use crate::log::RecoveryReport;
use crate::replay::Replay;
use crate::scan::{Scanner, SlotRead};
use crate::slots::{LAST_SLOTS, Life, Live, Slot, SlotTable};
use crate::walk::{Outcome, Sink, Verdict, walk};

/// Numbers that a boot leaves unused: a frame of an earlier life that lands late has one of them,
/// or none that this life gives out.
pub(crate) const LSN_SKIP: u64 = 1024;
/// Epochs that a boot leaves unused, for preparations that left no readable header.
pub(crate) const EPOCH_SKIP: u64 = 16;

/// What the files hold.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) plan: Plan,
    pub(crate) outcome: Outcome,
    pub(crate) replay: Replay,
    pub(crate) report: RecoveryReport,
    pub(crate) lsn_seen: u64,
    pub(crate) epoch_seen: u64,
    pub(crate) boot_seen: u64,
    /// The last life of which no write is on its way any more.
    pub(crate) quiet_boot: u64,
    /// Epoch of the slot of the newest complete checkpoint that is proved synced.
    pub(crate) complete_epoch: u64,
    /// Slots that count again should the base, which nothing proves synced, be lost.
    pub(crate) held: Vec<u32>,
}

/// Reads and verifies everything that lives.
pub(crate) async fn recover<R: SlotRead>(
    reader: &R,
    superblock: &Super,
    geometry: Geometry,
) -> Result<Recovery, OpenError> {
    let mut scanner = Scanner::new(reader, superblock, geometry);
    let replay_of = |plan: &Plan| Replay::new(plan.base.as_ref());
    let (plan, outcome, mut replay) = read_through(&mut scanner, superblock, replay_of).await?;
    replay.finish();
    let (complete_epoch, held) = fall_back(&mut scanner, &plan, &outcome).await?;
    let corrupt = outcome.bad.iter().filter(|bad| bad.verdict == Verdict::Corrupt).count();
    let report = RecoveryReport {
        frames: outcome.frames,
        records: replay.records,
        bytes: scanner.bytes,
        torn: outcome.torn,
        corrupt_frames: crate::field::len_u64(corrupt),
        clean: superblock.clean_lsn != 0 && superblock.clean_lsn == outcome.cut,
    };
    let (lsn_seen, epoch_seen) = (scanner.lsn_seen.max(outcome.cut), scanner.epoch_seen);
    let boot_seen = scanner.boot_seen;
    Ok(Recovery {
        plan,
        outcome,
        replay,
        report,
        lsn_seen,
        epoch_seen,
        boot_seen,
        quiet_boot: superblock.quiet_boot,
        complete_epoch,
        held,
    })
}

/// Plans and walks. A checkpoint is complete with a bad body of somebody else's in its frames, and
/// the walk may find that frame torn: what was never durable is none to begin at, so it goes again
/// from the one before.
pub(crate) async fn read_through<R: SlotRead, S: Sink>(
    scanner: &mut Scanner<'_, R>,
    superblock: &Super,
    mut sink_of: impl FnMut(&Plan) -> S,
) -> Result<(Plan, Outcome, S), OpenError> {
    let mut limit = u64::MAX;
    loop {
        let plan = plan(scanner, superblock, limit).await?;
        let mut sink = sink_of(&plan);
        let outcome = walk(scanner, &plan, superblock, &mut sink).await?;
        match &plan.base {
            Some(base) if base.end_lsn > outcome.cut => limit = base.end_lsn - 1,
            _ => return Ok((plan, outcome, sink)),
        }
    }
}

/// Where a replay would begin if all that is not proved synced were lost: the epoch of that
/// checkpoint, and the slots that the plan does without.
async fn fall_back<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    plan: &Plan,
    outcome: &Outcome,
) -> Result<(u64, Vec<u32>), OpenError> {
    let Some(base) = &plan.base else { return Ok((0, Vec::new())) };
    let proved = outcome.tail.proved;
    if base.end_lsn <= proved {
        return Ok((base.epoch, Vec::new()));
    }
    let Some(older) = complete_before(scanner, plan, base, proved).await? else {
        return Ok((0, Vec::new()));
    };
    let lives = |slot_no: u32, epoch: u64| {
        let listed = |row: &crate::checkpoint::SlotState| {
            row.slot_no == slot_no && row.live && row.epoch == epoch
        };
        (older.epoch < epoch && epoch < base.epoch) || older.slots.iter().any(listed)
    };
    let placed = |slot_no: u32| outcome.placed.iter().any(|placed| placed.slot_no == slot_no);
    let held = (0..)
        .zip(&plan.states)
        .filter(|(slot_no, state)| {
            state.epoch().is_some_and(|epoch| lives(*slot_no, epoch)) && !placed(*slot_no)
        })
        .map(|(slot_no, _)| slot_no);
    Ok((older.epoch, held.collect()))
}

impl Recovery {
    /// The table of slots to go on with: what holds kept frames is Closed, the rest Free, or Held
    /// until this life is on record.
    pub(crate) fn slot_table(&self, geometry: &Geometry) -> SlotTable {
        let mut slots: Vec<Slot> = self
            .plan
            .states
            .iter()
            .map(|state| Slot { epoch: state.epoch().unwrap_or(0), ..Slot::default() })
            .collect();
        for slot_no in self.last_slots() {
            slots[slot_no].suspect = true;
        }
        for slot_no in &self.held {
            slots[usize::try_from(*slot_no).expect("usize holds a u32")].life = Life::Held;
        }
        for placed in &self.outcome.placed {
            let at = usize::try_from(placed.slot_no).expect("usize holds a u32");
            let slot = &mut slots[at];
            slot.life = Life::Closed;
            slot.first_lsn = placed.first_lsn;
            slot.blocks.clone_from(&placed.blocks);
            slot.last_lsn = placed.first_lsn + crate::field::len_u64(placed.blocks.len()) - 1;
        }
        let next_epoch = self.epoch_seen + EPOCH_SKIP;
        let mut table =
            SlotTable::new(slots, geometry.slot_blocks(), geometry.slots_max(), next_epoch);
        for log in self.replay.index.iter() {
            for extent in &log.extents {
                let live = Live { batches: 1, manifests: 0, bytes: u64::from(extent.len) };
                table.revive(extent.lsn, live);
            }
            if log.manifest_lsn != 0 {
                table.revive(log.manifest_lsn, Live { manifests: 1, ..Live::default() });
            }
        }
        table
    }

    /// Whether a write of an earlier life may be on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet_boot >= self.boot_seen
    }

    /// The newest slots of each life that may have left a write to one of them under way. Lives can
    /// be short, so it is not the last one alone.
    fn last_slots(&self) -> impl Iterator<Item = usize> {
        let mut lives = BTreeMap::<u64, Vec<(u64, usize)>>::new();
        for (at, state) in self.plan.states.iter().enumerate() {
            if let Some(epoch) = state.epoch().filter(|_| state.boot() > self.quiet_boot) {
                lives.entry(state.boot()).or_default().push((epoch, at));
            }
        }
        lives.into_values().flat_map(|mut slots| {
            slots.sort_unstable_by(|a, b| b.cmp(a));
            slots.into_iter().take(LAST_SLOTS).map(|(_, at)| at)
        })
    }

    /// The newest slots that hold frames: what was read of them may be in the device's cache only.
    pub(crate) fn newest_slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.outcome.placed.iter().rev().take(2).map(|placed| placed.slot_no)
    }
}

impl SlotTable {
    /// Counts something found in a frame as living there.
    pub(crate) fn revive(&mut self, lsn: u64, live: Live) {
        if lsn == 0 {
            return;
        }
        if let Some((slot_no, _)) = self.locate(lsn) {
            let at = usize::try_from(slot_no).expect("usize holds a u32");
            self.slots[at].live.add(live);
        }
    }
}
