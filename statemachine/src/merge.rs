//! Which sections to merge, and merging them.
//!
//! Only neighbours are merged, so index ranges stay disjoint and in order. Deletions and deleted
//! ranges go only when the oldest section is an input: below any other they still hide something.
//! What the inputs say about time is nothing: an expired value is a value here.

mod input;

use core::ops::Range;
use std::rc::Rc;

use bowline_env::{Dir as _, Env};

use self::input::Input;
use crate::job::{JobError, NewRun};
use crate::manifest::SECTIONS_MAX;
use crate::run::writer::{NewVersion, SectionWriter};
use crate::run::{RangeTombstone, tombstone_index};
use crate::store::{Pace, Section, Store};

/// Sections from which on some must be merged, and how many are left then.
const MANY: usize = 8;
const FEW: usize = 6;
/// Neighbours of one size class that are merged.
const SAME_CLASS: usize = 4;
/// Upper end of the smallest size class.
const SMALLEST: u64 = 4 << 20;
/// Share of deletions, in percent, over which the oldest section is merged too.
const TOMBSTONES_PERCENT: u64 = 30;

/// What the choice rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Length of the section.
    pub len: u64,
    /// Puts in it.
    pub puts: u64,
    /// Deletions and deleted ranges in it.
    pub tombstones: u64,
    /// It must not be read.
    pub damaged: bool,
}

/// The adjacent sections (newest first) to merge now, if any.
///
/// # Panics
///
/// If there are more than a manifest may hold: a bug of the caller.
pub fn pick<E: Env>(sections: &[Rc<Section<E>>]) -> Option<Range<usize>> {
    let mut all = [Candidate::default(); SECTIONS_MAX];
    let all = &mut all[..sections.len()];
    for (candidate, section) in all.iter_mut().zip(sections) {
        *candidate = Candidate {
            len: section.len(),
            puts: section.puts(),
            tombstones: section.tombstones(),
            damaged: section.is_damaged() || section.is_blob(),
        };
    }
    pick_of(all)
}

/// The neighbours to merge now, newest first: over 8 sections the cheapest group that leaves 6;
/// else 4 of one size class; else, if over 30 % are deletions, everything that has some.
#[must_use]
pub fn pick_of(sections: &[Candidate]) -> Option<Range<usize>> {
    if sections.len() > MANY {
        let cheapest = cheapest(sections, sections.len() - FEW + 1);
        if cheapest.is_some() {
            return cheapest;
        }
    }
    let class = |range: &Range<usize>| {
        let class = size_class(sections[range.start].len);
        sections[range.clone()].iter().all(|section| size_class(section.len) == class)
    };
    let same = windows(sections, SAME_CLASS).find(class);
    same.or_else(|| pick_tombstones(sections))
}

fn pick_tombstones(sections: &[Candidate]) -> Option<Range<usize>> {
    let puts: u64 = sections.iter().map(|section| section.puts).sum();
    let tombstones: u64 = sections.iter().map(|section| section.tombstones).sum();
    if tombstones * 100 <= (puts + tombstones) * TOMBSTONES_PERCENT {
        return None;
    }
    let newest = sections.iter().position(|section| section.tombstones > 0)?;
    let range = newest..sections.len();
    sections[range.clone()].iter().all(|section| !section.damaged).then_some(range)
}

fn cheapest(sections: &[Candidate], count: usize) -> Option<Range<usize>> {
    let cost = |range: &Range<usize>| sections[range.clone()].iter().map(|s| s.len).sum::<u64>();
    windows(sections, count).min_by_key(cost)
}

/// Groups of `count` neighbours without a damaged one, newest first.
fn windows(sections: &[Candidate], count: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = 0..(sections.len() + 1).saturating_sub(count);
    starts
        .map(move |start| start..start + count)
        .filter(|range| sections[range.clone()].iter().all(|section| !section.damaged))
}

/// `log4(len / 4 MiB)`, from 0.
const fn size_class(len: u64) -> u32 {
    match len / SMALLEST {
        0 => 0,
        times => times.ilog2() / 2,
    }
}

/// Deleted ranges of several levels, newest first, as one list: where they overlap the newer one
/// counts.
pub(crate) fn overlay<'a>(
    levels: impl IntoIterator<Item = &'a [RangeTombstone]>,
) -> Vec<RangeTombstone> {
    let mut all: Vec<RangeTombstone> = Vec::new();
    for level in levels {
        let mut rest = Vec::new();
        for range in level {
            uncovered(range, &all, &mut rest);
        }
        all.append(&mut rest);
        all.sort_unstable_by(|a, b| a.start.cmp(&b.start));
    }
    all
}

/// The parts of `range` that `newer` (disjoint, in order) leaves.
fn uncovered(range: &RangeTombstone, newer: &[RangeTombstone], out: &mut Vec<RangeTombstone>) {
    let ends_after = |end: &[u8], key: &[u8]| end.is_empty() || end > key;
    let mut start = range.start.clone();
    let first = newer.partition_point(|other| !ends_after(&other.end, &start));
    for other in &newer[first..] {
        if !ends_after(&range.end, &other.start) {
            break;
        }
        if other.start > start {
            let end = other.start.clone();
            out.push(RangeTombstone { start: start.clone(), end, index: range.index });
        }
        if other.end.is_empty() {
            return;
        }
        start.clone_from(&other.end);
    }
    if ends_after(&range.end, &start) {
        out.push(RangeTombstone { start, end: range.end.clone(), index: range.index });
    }
}

/// Merges sections, newest first, into one; none: nothing was left.
pub(crate) async fn run<E: Env>(
    store: &Rc<Store<E>>,
    shard: u64,
    sections: &[Rc<Section<E>>],
    bottom: bool,
) -> Result<Option<Rc<Section<E>>>, JobError> {
    let inputs_len: u64 = sections.iter().map(|section| section.len()).sum();
    let free = store.env().dir().free_space().await?;
    if free < inputs_len.saturating_add(store.options().reserve_bytes) {
        return Err(JobError::NoSpace);
    }
    let (newest, oldest) = (&sections[0], &sections[sections.len() - 1]);
    let writer = SectionWriter::kv(store.fresh_id(), oldest.min_index(), newest.max_index());
    let ranges = overlay(sections.iter().map(|section| section.ranges()));
    let mut run = NewRun::create(store, shard).await?;
    let mut merge = Merge {
        inputs: sections.iter().map(|section| Input::new(store, section)).collect(),
        ranges,
        bottom,
        pace: Pace::new(store.env()),
        writer,
    };
    if let Err(error) = merge.copy(&mut run).await {
        run.abandon().await;
        return Err(error);
    }
    let kept = if bottom { Vec::new() } else { merge.ranges };
    if merge.writer.is_empty() && kept.is_empty() {
        run.abandon().await;
        return Ok(None);
    }
    run.finish(merge.writer, &kept).await.map(Some)
}

struct Merge<E: Env> {
    inputs: Vec<Input<E>>,
    ranges: Vec<RangeTombstone>,
    bottom: bool,
    pace: Pace<E>,
    writer: SectionWriter,
}

impl<E: Env> Merge<E> {
    async fn copy(&mut self, run: &mut NewRun<E>) -> Result<(), JobError> {
        for input in &mut self.inputs {
            input.advance().await.map_err(JobError::Damaged)?;
        }
        while let Some(newest) = self.least() {
            self.keep(newest).await?;
            run.drain(&mut self.writer).await?;
            self.pass(newest).await?;
            self.pace.step().await;
        }
        Ok(())
    }

    /// The input with the least key; of equal ones the newest.
    fn least(&self) -> Option<usize> {
        let keys = self.inputs.iter().enumerate();
        let keys = keys.filter_map(|(n, input)| Some((input.key()?, n)));
        keys.min().map(|(_, n)| n)
    }

    /// Copies the entry that input `n` stands on, unless it is hidden.
    async fn keep(&mut self, n: usize) -> Result<(), JobError> {
        let input = &mut self.inputs[n];
        let key = input.key().expect("the input stands on an entry");
        let is_hidden = tombstone_index(&self.ranges, key) > input.mod_index();
        if is_hidden || (self.bottom && input.is_deleted()) {
            return Ok(());
        }
        let value = input.value().await.map_err(JobError::Damaged)?;
        self.writer.push(NewVersion {
            key: input.key().expect("the input stands on an entry"),
            mod_index: input.mod_index(),
            expiry_ms: input.expiry_ms(),
            value: value.as_deref(),
        });
        Ok(())
    }

    /// Passes the key that input `n` stands on, in every input.
    async fn pass(&mut self, n: usize) -> Result<(), JobError> {
        for older in n + 1..self.inputs.len() {
            let (newer, rest) = self.inputs.split_at_mut(older);
            if rest[0].key().is_some() && rest[0].key() == newer[n].key() {
                rest[0].advance().await.map_err(JobError::Damaged)?;
            }
        }
        self.inputs[n].advance().await.map_err(JobError::Damaged)
    }
}
