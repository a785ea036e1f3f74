//! Walking frames in order, and the verdict on the first bad one: torn or corrupt.
//!
//! ```text
//! P = max(synced of later frames of this life, prev_lsn of later lives, clean_lsn)
//! n > prev_lsn of the next BOOT frame                -> cut by an earlier boot: ignored
//! P >= n, or a valid frame >= n+2 of the same boot   -> CORRUPT(n): it had been durable (I13)
//! otherwise                                          -> TORN(n): keep up to n-1
//! ```
//!
//! `prev_lsn` of a BOOT frame is no more than what was proved synced when it was written; good
//! frames beyond it were copied by that life and do not count where they lie.
//!
//! A corrupt frame whose directory is gone is known from the echo in the next one.

use crate::base::{Link, Plan};
use crate::error::OpenError;
use crate::forward::Tail;
use crate::frame::{BOOT, Row};
use crate::head::Super;
use crate::scan::{Expect, Found, Scanner, SlotRead};

/// What the walk met, in order.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A frame that had been durable, or whole at the tail; some bodies may be bad.
    Frame { slot_no: u32, found: &'a Found },
    /// A lost frame whose rows the next one repeats.
    Echo { lsn: u64, rows: &'a [Row] },
    /// Lost frames of which nothing is known.
    Lost { from: u64, to: u64 },
}

/// Takes the events of a walk.
pub(crate) trait Sink {
    fn event(&mut self, event: Event<'_>) -> Result<(), OpenError>;
}

/// Why a frame was judged as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Highest `synced` of a later frame.
    pub synced: u64,
    /// Highest cut named by a later life.
    pub cut: u64,
    /// Highest later frame of the same life.
    pub later: u64,
    /// The number at which the stream was closed cleanly; 0: it was not.
    pub clean: u64,
}

impl Evidence {
    fn proves(&self, lsn: u64) -> bool {
        self.synced.max(self.cut).max(self.clean) >= lsn || self.later >= lsn + 2
    }
}

/// The verdict on a bad frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Never acknowledged: cut here.
    Torn,
    /// It had been durable.
    Corrupt,
}

/// A bad frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// Number of the slot file.
    pub slot: u32,
    /// Offset in the file.
    pub offset: u64,
    /// Its number.
    pub lsn: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// What it rests on.
    pub evidence: Evidence,
}

/// Where the kept frames of a slot lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) slot_no: u32,
    pub(crate) epoch: u64,
    pub(crate) first_lsn: u64,
    pub(crate) blocks: Vec<u32>,
}

/// What a walk ends with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The last frame that counts.
    pub(crate) cut: u64,
    pub(crate) frames: u64,
    /// A bad frame at the end that was not an unwritten block.
    pub(crate) torn: bool,
    pub(crate) bad: Vec<BadFrame>,
    pub(crate) placed: Vec<Placed>,
    pub(crate) tail: Tail,
}

/// A later valid head of the same walk.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    link: usize,
    block_no: u32,
    lsn: u64,
}

struct Walk<'w, 's, R, S> {
    scanner: &'w mut Scanner<'s, R>,
    links: &'w [Link],
    sink: &'w mut S,
    clean_lsn: u64,
    /// The life whose checkpoint lists the slots; 0: none does.
    lister: u64,
    out: Outcome,
    /// Position: link, block, number, checksum of the frame before.
    link: usize,
    block_no: u32,
    lsn: Option<u64>,
    prev_crc: Option<u32>,
    boot: u64,
    /// Lost frames not yet told, waiting for an echo.
    lost: Option<(u64, u64)>,
}

/// Walks everything that a plan names.
pub(crate) async fn walk<R: SlotRead, S: Sink>(
    scanner: &mut Scanner<'_, R>,
    plan: &Plan,
    superblock: &Super,
    sink: &mut S,
) -> Result<Outcome, OpenError> {
    let mut walk = Walk {
        scanner,
        links: &plan.links,
        sink,
        clean_lsn: superblock.clean_lsn,
        lister: plan.base.as_ref().map_or(0, |base| base.boot),
        out: Outcome::default(),
        link: 0,
        block_no: 1,
        lsn: None,
        prev_crc: None,
        boot: 0,
        lost: None,
    };
    while walk.link < walk.links.len() {
        walk.enter()?;
        while walk.step().await? {}
    }
    walk.tell_lost(None)?;
    walk.out.tail.close(superblock.clean_lsn, walk.out.cut);
    let closed = superblock.clean_lsn == walk.out.cut && superblock.boot == walk.boot;
    if plan.newest_lost && !closed {
        let from = walk.out.cut + 1;
        walk.sink.event(Event::Lost { from, to: from })?;
    }
    Ok(walk.out)
}

impl<R: SlotRead, S: Sink> Walk<'_, '_, R, S> {
    /// Sets the expectations at the head of a slot.
    fn enter(&mut self) -> Result<(), OpenError> {
        let link = &self.links[self.link];
        if let Some((first, cut)) = link.birth {
            self.out.tail.begin(link.head.map_or(link.boot, |head| head.boot), cut);
            self.lsn = Some(first);
            self.prev_crc = None;
        } else if let Some(first) = link.first_lsn {
            if self.lsn != Some(first) {
                self.prev_crc = None;
            }
            self.lsn = Some(first);
        } else if self.lsn.is_none() {
            self.lsn = link.head.map(|head| head.lsn);
        }
        self.boot = link.head.map_or(link.boot, |head| head.boot);
        if link.lost {
            let (from, to) = (link.first_lsn.unwrap_or(0), link.last_lsn.unwrap_or(0));
            self.tell_lost(None)?;
            self.sink.event(Event::Lost { from, to })?;
            self.lsn = Some(to + 1);
            self.prev_crc = None;
        }
        Ok(())
    }

    /// Looks at the next frame of the slot. False: go on with the slot that `link` names now.
    async fn step(&mut self) -> Result<bool, OpenError> {
        let link = &self.links[self.link];
        let Some(lsn) = self.lsn.filter(|_| !link.lost) else {
            return Ok(self.go_to(self.link + 1));
        };
        if let Some((next, cut)) = self.next_boot()
            && lsn > cut
        {
            return Ok(self.go_to(next));
        }
        if link.last_lsn.is_some_and(|last| lsn > last) {
            return Ok(self.go_to(self.link + 1));
        }
        let expect = Expect { epoch: link.epoch, lsn: Some(lsn), prev_crc: self.prev_crc };
        let (slot_no, block_no) = (link.slot_no, self.block_no);
        let found = self.scanner.frame_at(slot_no, block_no, &expect).await?;
        let found = found.filter(|_| self.has_room(lsn));
        if let Some(found) = found.as_ref().filter(|found| found.is_good()) {
            self.take(found)?;
            return Ok(true);
        }
        if found.is_none()
            && let Some(block_no) = self.moved_first(lsn).await
        {
            (self.block_no, self.prev_crc) = (block_no, None);
            return Ok(true);
        }
        if found.is_none()
            && let Some(next) = self.next_used()
            && self.links[next].head.is_some_and(|head| head.lsn == lsn)
        {
            return Ok(self.go_to(next));
        }
        self.judge(lsn, found).await
    }

    /// Where the first frame lies that a checkpoint lists of this slot, if not at its head: those
    /// before it were lost when the checkpoint was written.
    async fn moved_first(&mut self, lsn: u64) -> Option<u32> {
        let link = &self.links[self.link];
        if link.first_lsn != Some(lsn) || self.block_no != 1 || self.placed_here().is_some() {
            return None;
        }
        let hits = self.scanner.hits(link.slot_no).await;
        let hit = hits.iter().find(|hit| (hit.epoch, hit.lsn) == (link.epoch, lsn));
        hit.map(|hit| hit.block_no).filter(|block_no| *block_no > 1)
    }

    /// Whether a frame of this number can lie here: each between it and the first of its slot takes
    /// a block at least. A liar's number is no length of a table.
    fn has_room(&self, lsn: u64) -> bool {
        self.placed_here().is_none_or(|placed| {
            let before = lsn.checked_sub(placed.first_lsn);
            before.is_some_and(|count| count < u64::from(self.block_no))
        })
    }

    /// What is noted of the slot that is walked.
    fn placed_here(&self) -> Option<&Placed> {
        let link = &self.links[self.link];
        let last = self.out.placed.last()?;
        ((last.slot_no, last.epoch) == (link.slot_no, link.epoch)).then_some(last)
    }

    /// Goes to the head of another slot.
    fn go_to(&mut self, link: usize) -> bool {
        self.link = link;
        self.block_no = 1;
        false
    }

    /// The next slot with a first frame.
    fn next_used(&self) -> Option<usize> {
        let after = self.link + 1;
        let at = self.links[after..].iter().position(|link| link.head.is_some())?;
        Some(after + at)
    }

    /// The next life: its slot, and where it cut this one.
    fn next_boot(&self) -> Option<(usize, u64)> {
        let after = self.link + 1;
        let at = self.links[after..].iter().position(|link| link.birth.is_some())?;
        self.links[after + at].birth.map(|(_, cut)| (after + at, cut))
    }

    /// Takes a frame with a directory.
    fn take(&mut self, found: &Found) -> Result<(), OpenError> {
        let head = found.head;
        self.tell_lost(Some(found))?;
        let link = &self.links[self.link];
        self.sink.event(Event::Frame { slot_no: link.slot_no, found })?;
        self.note_place(head.lsn, self.block_no);
        self.out.frames += 1;
        self.out.tail.take(found);
        self.pass(head.lsn, self.block_no + head.blocks, Some(head.crc()));
        self.boot = head.boot;
        Ok(())
    }

    /// Moves on behind frame `lsn`.
    fn pass(&mut self, lsn: u64, block_no: u32, crc: Option<u32>) {
        self.out.cut = lsn;
        self.lsn = Some(lsn + 1);
        self.prev_crc = crc;
        self.block_no = block_no;
    }

    fn note_place(&mut self, lsn: u64, block_no: u32) {
        let link = &self.links[self.link];
        if self.placed_here().is_none() {
            self.out.placed.push(Placed {
                slot_no: link.slot_no,
                epoch: link.epoch,
                first_lsn: lsn,
                blocks: Vec::new(),
            });
        }
        let placed = self.out.placed.last_mut().expect("it was pushed");
        let nth = crate::scan::span(placed.first_lsn, lsn) - 1;
        placed.blocks.resize(nth, 0);
        placed.blocks.push(block_no);
    }

    /// Decides on a bad frame and goes on where there is something to go on with.
    async fn judge(&mut self, lsn: u64, found: Option<Found>) -> Result<bool, OpenError> {
        let (evidence, ahead) = self.look_ahead(lsn).await;
        let link = &self.links[self.link];
        let offset = u64::from(self.block_no) * u64::from(self.scanner.geometry.block);
        let is_proven = evidence.proves(lsn);
        // A checkpoint of a later life says that the slot has it, whoever else may be gone. One of
        // the same life may have been in flight together with it, and proves what any frame does.
        let is_later = self.boot < self.lister;
        let listed = link.last_lsn.filter(|last| is_later && !is_proven && lsn <= *last);
        let is_corrupt = is_proven || listed.is_some();
        let verdict = if is_corrupt { Verdict::Corrupt } else { Verdict::Torn };
        let bad = BadFrame { slot: link.slot_no, offset, lsn, verdict, evidence };
        if verdict == Verdict::Torn {
            self.out.torn = found.is_some() || ahead.is_some();
            if self.out.torn {
                self.out.bad.push(bad);
            }
            return Ok(self.go_to(self.links.len()));
        }
        self.out.bad.push(bad);
        let Some(found) = found else {
            let elsewhere = ahead.is_none_or(|ahead| ahead.link != self.link);
            if let Some(last) = listed.filter(|_| elsewhere) {
                self.lose(lsn, last)?;
                self.pass(last, 1, None);
                self.out.tail.prove(lsn);
                return Ok(self.go_to(self.link + 1));
            }
            return self.skip(lsn, &evidence, ahead);
        };
        if found.dir_good {
            self.take(&found)?;
        } else {
            self.lose(lsn, lsn)?;
            self.pass(lsn, self.block_no + found.head.blocks, Some(found.head.crc()));
        }
        self.out.tail.prove(lsn);
        Ok(true)
    }

    /// Passes over frames that left no trace, to the next one there is.
    fn skip(
        &mut self,
        lsn: u64,
        evidence: &Evidence,
        ahead: Option<Ahead>,
    ) -> Result<bool, OpenError> {
        let limit = self.next_boot();
        let Some(ahead) = ahead.filter(|ahead| limit.is_none_or(|(at, _)| ahead.link < at)) else {
            // Nothing more of this life: all that is known to have been durable is lost.
            let known = evidence.synced.max(evidence.clean).max(evidence.later.saturating_sub(2));
            let to = limit.map_or(known, |(_, cut)| cut).max(lsn);
            self.lose(lsn, to)?;
            self.pass(to, 1, None);
            self.out.tail.prove(to);
            let next = limit.map_or(self.links.len(), |(at, _)| at);
            return Ok(self.go_to(next));
        };
        self.lose(lsn, ahead.lsn - 1)?;
        self.link = ahead.link;
        self.pass(ahead.lsn - 1, ahead.block_no, None);
        self.out.tail.prove(lsn);
        Ok(true)
    }

    /// Whether any later frame lies behind this place, or at the head of a later slot. If not, this
    /// is the end: nothing was written beyond the window of a writer.
    async fn goes_on(&mut self, lsn: u64) -> bool {
        for at in self.link..self.links.len() {
            let link = &self.links[at];
            if link.lost {
                continue;
            }
            if at > self.link && link.head.is_some() {
                return true;
            }
            let from = if at == self.link { self.block_no } else { 1 };
            let hits = self.scanner.hits_near(link.slot_no, from).await;
            if hits.iter().any(|hit| hit.epoch == link.epoch && hit.lsn > lsn) {
                return true;
            }
        }
        false
    }

    /// What later frames say of frame `lsn`, and the next valid one.
    async fn look_ahead(&mut self, lsn: u64) -> (Evidence, Option<Ahead>) {
        let mut evidence = Evidence { clean: self.clean_lsn, ..Evidence::default() };
        let mut next: Option<Ahead> = None;
        let goes_on = self.goes_on(lsn).await;
        for at in self.link..self.links.len() {
            let link = &self.links[at];
            if link.lost {
                continue;
            }
            if let Some((_, cut)) = link.birth.filter(|_| at > self.link) {
                evidence.cut = evidence.cut.max(cut);
            }
            let hits = if goes_on { self.scanner.hits(link.slot_no).await } else { Vec::new() };
            for hit in hits {
                if hit.epoch != link.epoch || hit.lsn <= lsn {
                    continue;
                }
                if hit.boot == self.boot {
                    evidence.synced = evidence.synced.max(hit.synced);
                    evidence.later = evidence.later.max(hit.lsn);
                }
                if next.is_none_or(|next| hit.lsn < next.lsn) {
                    next = Some(Ahead { link: at, block_no: hit.block_no, lsn: hit.lsn });
                }
            }
        }
        (evidence, next)
    }

    /// Notes frames as lost; told once it is known whether the next one repeats the last of them.
    fn lose(&mut self, from: u64, to: u64) -> Result<(), OpenError> {
        if let Some((start, end)) = self.lost
            && end + 1 == from
        {
            self.lost = Some((start, to));
            return Ok(());
        }
        self.tell_lost(None)?;
        self.lost = Some((from, to));
        Ok(())
    }

    /// Tells the lost frames before `next`, the last of them from its echoes.
    fn tell_lost(&mut self, next: Option<&Found>) -> Result<(), OpenError> {
        let Some((from, to)) = self.lost.take() else { return Ok(()) };
        let echoes = next.filter(|found| {
            found.head.lsn == to + 1 && found.head.flags & BOOT == 0 && found.dir_good
        });
        let Some(found) = echoes else {
            return self.sink.event(Event::Lost { from, to });
        };
        if from < to {
            self.sink.event(Event::Lost { from, to: to - 1 })?;
        }
        let rows: Vec<Row> = found.rows().filter(Row::is_echo).collect();
        self.sink.event(Event::Echo { lsn: to, rows: &rows })
    }
}
