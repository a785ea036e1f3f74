//! What a crash does to the disk.

use core::task::Waker;

use super::super::slab::Key;
use super::{Action, Disk, Fate, Keep, Op, Tearing};

/// What decides about the rest of a crash.
pub(in super::super) struct Odds<'a> {
    pub(in super::super) tearing: Tearing<'a>,
    /// Any subset of the changes of a directory survives.
    pub(in super::super) scatter: bool,
    /// Writes of 10^9 that land late after a kill.
    pub(in super::super) late: u32,
}

/// What is left to do after a crash.
#[derive(Default)]
pub(in super::super) struct Aftermath {
    /// Nobody is woken: these are only dropped, once nothing is borrowed.
    pub(in super::super) wakers: Vec<Waker>,
    /// Writes that will land, and when.
    pub(in super::super) late: Vec<(Key, u64)>,
}

/// Two seconds: how late a write may land.
const LATE_MAX: u64 = 2_000_000_000;

impl Disk {
    /// The power goes.
    pub(in super::super) fn lose_power(&mut self, odds: &Odds<'_>) -> Aftermath {
        let keep = core::mem::take(&mut self.injected.keep);
        let rng = odds.tearing.rng;
        let mut after = Aftermath::default();
        for op in self.take_ops() {
            after.wakers.extend(op.waker);
            let Some(action) = op.action else { continue };
            let drawn = match keep {
                Keep::Drawn => rng.ratio(1, 2),
                Keep::Nothing => false,
                Keep::Everything => true,
            };
            if let Action::Write { file, first, pages, .. } = &action {
                let Some(inode) = self.files.at_mut(*file) else { continue };
                for (at, page) in (*first..).zip(pages) {
                    inode.fly(at, page);
                }
            } else if drawn && action.changes() && op.fate == Fate::Good {
                // It came as far as the device, but nobody was told.
                let _untold: bool = self.act(&action, op.fate, rng).is_err();
            }
        }
        for key in self.files.keys(|_| true) {
            if let Some(inode) = self.files.at_mut(key) {
                inode.lose_power(keep, odds.tearing);
            }
        }
        for folder in self.folders.values_mut() {
            match keep {
                Keep::Drawn => folder.lose_power(rng, odds.scatter),
                Keep::Nothing => folder.lose_changes(),
                Keep::Everything => folder.settle(u64::MAX),
            }
        }
        self.injected.stuck_until = 0;
        self.injected.slow_until = 0;
        self.sweep();
        after
    }

    /// The process dies; the machine goes on.
    pub(in super::super) fn lose_process(&mut self, now: u64, odds: &Odds<'_>) -> Aftermath {
        let rng = odds.tearing.rng;
        let mut after = Aftermath::default();
        for key in self.ops.keys(|_| true) {
            let Some(op) = self.ops.at_mut(key) else { continue };
            after.wakers.extend(op.waker.take());
            let write = matches!(op.action, Some(Action::Write { .. }));
            if op.orphan && write {
                // A late write of a life before this one goes on. What the process would have done
                // itself, step by step, ends with it.
                continue;
            }
            if write && rng.chance(odds.late) {
                op.orphan = true;
                op.due = now + rng.between(1, LATE_MAX);
                after.late.push((key, op.due));
                continue;
            }
            let op = self.ops.remove(key).expect("it was just seen");
            if let Some(action) = op.action
                && action.changes()
                && rng.ratio(1, 2)
            {
                let _untold: bool = self.act(&action, op.fate, rng).is_err();
            }
        }
        for key in self.files.keys(|_| true) {
            if let Some(inode) = self.files.at_mut(key) {
                inode.opens = 0;
            }
        }
        self.sweep();
        after
    }

    fn take_ops(&mut self) -> Vec<Op> {
        let keys = self.ops.keys(|_| true);
        keys.into_iter().filter_map(|key| self.ops.remove(key)).collect()
    }
}
