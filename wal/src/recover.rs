//! From the files of a stream to what it holds: plan, walk, replay, and where to go on.

use crate::base::{Plan, plan};
use crate::error::OpenError;
use crate::geometry::Geometry;
use crate::head::Super;
use crate::log::RecoveryReport;
use crate::replay::Replay;
use crate::scan::{Scanner, SlotRead};
use crate::slots::{Life, Live, Slot, SlotTable};
use crate::walk::{Outcome, Verdict, walk};

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
}

/// Reads and verifies everything that lives.
pub(crate) async fn recover<R: SlotRead>(
    reader: &R,
    superblock: &Super,
    geometry: Geometry,
) -> Result<Recovery, OpenError> {
    let mut scanner = Scanner::new(reader, superblock, geometry);
    let plan = plan(&mut scanner, superblock.slot_count, superblock.clean_lsn).await?;
    let mut replay = Replay::new(plan.base.as_ref());
    let outcome = walk(&mut scanner, &plan, superblock, &mut replay).await?;
    replay.finish();
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
    Ok(Recovery { plan, outcome, replay, report, lsn_seen, epoch_seen, boot_seen })
}

impl Recovery {
    /// The table of slots to go on with: what holds kept frames is Closed, the rest Free.
    pub(crate) fn slot_table(&self, geometry: &Geometry) -> SlotTable {
        let mut slots: Vec<Slot> = self
            .plan
            .states
            .iter()
            .map(|state| Slot { epoch: state.epoch().unwrap_or(0), ..Slot::default() })
            .collect();
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
