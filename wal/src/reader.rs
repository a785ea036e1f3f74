//! Reading a stream offline, or beside a running node: no lock, no ring, no write.
//!
//! It runs the same plan, walk and replay as an open. A slot whose header moved on while it was
//! read makes the reader begin again; a bad tail of the newest slot is one that may be in progress.

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;

use bowline_env::{Buf, EnvError, Kind, Op, SharedBuf};
use bowline_raft::{LogIndex, Lsn, ShardId, Term};

use crate::base::Plan;
use crate::error::OpenError;
use crate::field::len_u64;
use crate::frame::{Row, kind};
use crate::geometry::Geometry;
use crate::head::{SUPER_LEN, Super, SuperCopy, slot_file};
use crate::log::{DamageState, RecoveredShard, RecoveryReport, StreamId};
use crate::recover::{Recovery, read_through};
use crate::replay::Replay;
use crate::scan::{Found, Scanner, SlotRead, SlotState};
use crate::walk::{BadFrame, Event, Outcome, Sink, Verdict};

/// Attempts to read a stream that a running node recycles meanwhile.
const ATTEMPTS: u32 = 5;

/// Files of one stream's directory, to be read.
pub trait Source {
    /// Names and lengths.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    fn list(&self) -> Result<Vec<(String, u64)>, Kind>;

    /// Reads into `out` from `at`; how much was there.
    ///
    /// # Errors
    ///
    /// `NotFound`; anything else makes the reader try smaller parts.
    fn read_at(&self, file: &str, at: u64, out: &mut [u8]) -> Result<usize, Kind>;
}

struct Slots<'a, S>(&'a S);

impl<S: Source> SlotRead for Slots<'_, S> {
    async fn read(&self, slot_no: u32, at: u64, len: usize) -> Result<SharedBuf, Kind> {
        let mut buf = Buf::heap(len);
        let got = self.0.read_at(&slot_file(slot_no), at, &mut buf.rest_mut()[..len])?;
        buf.fill(got.min(len));
        Ok(buf.share(0..got.min(len)))
    }
}

/// The value of a future that never waits: its reads are plain ones.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("plain reads do not wait"),
    }
}

/// A frame, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameView {
    /// Number of the slot file.
    pub slot: u32,
    /// Offset in the file.
    pub offset: u64,
    /// Its number.
    pub lsn: Lsn,
    /// All frames up to this one were durable when it was built.
    pub synced: Lsn,
    /// Process life.
    pub boot: u64,
    /// Wall clock at its writing, in milliseconds.
    pub wall_ms: u64,
    /// Bytes.
    pub bytes: u64,
    /// Records, without echoes.
    pub records: u32,
    /// First of its slot.
    pub first: bool,
    /// First of its life.
    pub boots: bool,
    /// Written only to cover the one before.
    pub cover: bool,
}

/// A record, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// Frame that it is in.
    pub lsn: Lsn,
    /// Its kind by name.
    pub kind: &'static str,
    /// Its shard; 0 for checkpoints.
    pub shard: ShardId,
    /// Index, by kind.
    pub index: LogIndex,
    /// Term, by kind.
    pub term: Term,
    /// Entries, states or slots.
    pub count: u32,
    /// Bytes of its body.
    pub len: u32,
    /// Its body is what its checksum was made over.
    pub good: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A bad frame, with its verdict and the evidence for it.
    Frame(BadFrame),
    /// A bad body in a frame that had been durable.
    Body(RecordView),
    /// Lost frames of which nothing is known.
    Lost {
        /// The first.
        from: Lsn,
        /// The last.
        to: Lsn,
    },
    /// A slot that cannot be read at all.
    Slot {
        /// Number of the slot file.
        slot: u32,
    },
    /// What is lost of a shard.
    Shard {
        /// The shard.
        shard: ShardId,
        /// Its state.
        damage: DamageState,
        /// Lost ranges.
        holes: Vec<(LogIndex, LogIndex)>,
    },
}

/// What a verification came to; its number is the exit code of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verified {
    /// All good.
    Clean = 0,
    /// A tail that was never acknowledged, or is being written.
    TornTail = 1,
    /// Something that had been durable is bad.
    Damage = 2,
}

/// A slot, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Number of the slot file.
    pub slot: u32,
    /// Its use; 0: unknown.
    pub epoch: u64,
    /// Frames it holds that count; none: it is free.
    pub frames: Option<(Lsn, Lsn)>,
    /// Live batches.
    pub batches: u32,
    /// Live manifests.
    pub manifests: u32,
    /// Live bytes.
    pub bytes: u64,
}

/// A stream in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Whose stream it is.
    pub id: StreamId,
    /// Sizes.
    pub geometry: Geometry,
    /// The newest life.
    pub boot: u64,
    /// What reading it saw.
    pub report: RecoveryReport,
    /// Every slot.
    pub slots: Vec<SlotView>,
    /// Shards.
    pub shards: u64,
    /// The ten shards with the most live bytes.
    pub heaviest: Vec<(ShardId, u64)>,
}

/// Reads a stream's files.
#[derive(Debug)]
pub struct WalReader<S> {
    source: S,
    superblock: Super,
    geometry: Geometry,
}

impl<S: Source> WalReader<S> {
    /// Reads the superblocks.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unreadable`], [`OpenError::TooNew`], a size out of bounds.
    pub fn open(source: S) -> Result<Self, OpenError> {
        let read = |copy: SuperCopy| {
            let mut bytes = [0; SUPER_LEN];
            let got = source.read_at(copy.file(), 0, &mut bytes).ok()?;
            Super::parse(&bytes[..got.min(SUPER_LEN)])
        };
        let (mut superblock, _) = Super::choose(read(SuperCopy::A), read(SuperCopy::B))?;
        superblock.check_version(false)?;
        let files = source.list().map_err(|kind| EnvError::new(Op::List, kind))?;
        superblock.count_slots(files.iter().map(|(name, len)| (name.as_str(), *len)));
        let geometry = superblock.geometry(0);
        geometry.check()?;
        Ok(Self { source, superblock, geometry })
    }

    /// Whose stream it is.
    pub fn id(&self) -> StreamId {
        self.superblock.id
    }

    /// Every frame that counts, in order.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownRecord`].
    pub fn frames(&self) -> Result<Vec<FrameView>, OpenError> {
        Ok(self.run()?.1.frames)
    }

    /// Every record that counts, in order; of one shard if it is named.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownRecord`].
    pub fn records(&self, shard: Option<ShardId>) -> Result<Vec<RecordView>, OpenError> {
        let mut records = self.run()?.1.records;
        records.retain(|record| shard.is_none_or(|shard| record.shard == shard));
        Ok(records)
    }

    /// Every shard, as a boot would find it.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownRecord`].
    pub fn shards(&self) -> Result<Vec<RecoveredShard>, OpenError> {
        Ok(self.run()?.1.replay.recovered())
    }

    /// What is bad, and what it comes to.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownRecord`].
    pub fn verify(&self) -> Result<(Verified, Vec<Finding>), OpenError> {
        let (read, mut views) = self.run()?;
        let mut findings: Vec<Finding> =
            read.outcome.bad.iter().map(|bad| Finding::Frame(*bad)).collect();
        findings.extend(views.records.iter().filter(|row| !row.good).copied().map(Finding::Body));
        findings.append(&mut views.lost);
        let linked =
            |slot: u32| read.plan.links.iter().any(|link| link.slot_no == slot && link.lost);
        for (slot, state) in (0..).zip(&read.plan.states) {
            if linked(slot) || *state == SlotState::Lost {
                findings.push(Finding::Slot { slot });
            }
        }
        for shard in views.replay.recovered() {
            if shard.bounds.damage != DamageState::Normal {
                let holes = shard.holes.iter().map(|hole| (hole.from, hole.to)).collect();
                let (shard, damage) = (shard.shard, shard.bounds.damage);
                findings.push(Finding::Shard { shard, damage, holes });
            }
        }
        let is_torn = |finding: &Finding| {
            let Finding::Frame(bad) = finding else { return false };
            bad.verdict == Verdict::Torn
        };
        let verified = match findings.iter().find(|finding| !is_torn(finding)) {
            Some(_) => Verified::Damage,
            None if findings.is_empty() => Verified::Clean,
            None => Verified::TornTail,
        };
        Ok((verified, findings))
    }

    /// The stream in numbers.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownRecord`].
    pub fn stat(&self) -> Result<Stat, OpenError> {
        let (read, views) = self.run()?;
        let mut weights = BTreeMap::new();
        for log in views.replay.index.iter() {
            let bytes: u64 = log.extents.iter().map(|extent| u64::from(extent.len)).sum();
            weights.insert(ShardId(log.shard), bytes);
        }
        let mut heaviest: Vec<_> = weights.into_iter().collect();
        heaviest.sort_by_key(|(shard, bytes)| (core::cmp::Reverse(*bytes), *shard));
        heaviest.truncate(10);
        let shards = len_u64(views.replay.index.len());
        let report = views.report(&read);
        let recovery = Recovery {
            plan: read.plan,
            outcome: read.outcome,
            replay: views.replay,
            report: report.clone(),
            lsn_seen: 0,
            epoch_seen: 0,
            quiet_boot: self.superblock.quiet_boot,
            boot_seen: read.boot,
            complete_epoch: 0,
            held: Vec::new(),
        };
        let table = recovery.slot_table(&self.geometry);
        let view = |(slot_no, slot): (u32, &crate::slots::Slot)| SlotView {
            slot: slot_no,
            epoch: slot.epoch,
            frames: slot.in_use().then_some((Lsn(slot.first_lsn), Lsn(slot.last_lsn))),
            batches: slot.live.batches,
            manifests: slot.live.manifests,
            bytes: slot.live.bytes,
        };
        Ok(Stat {
            id: self.superblock.id,
            geometry: self.geometry,
            boot: read.boot,
            report,
            slots: (0..).zip(&table.slots).map(view).collect(),
            shards,
            heaviest,
        })
    }

    /// Reads everything; again if the node recycled a slot meanwhile.
    fn run(&self) -> Result<(Read, Views), OpenError> {
        let mut attempt = 1;
        loop {
            let slots = Slots(&self.source);
            let mut scanner = Scanner::new(&slots, &self.superblock, self.geometry);
            let views_of = |plan: &Plan| Views {
                replay: Replay::new(plan.base.as_ref()),
                block: self.geometry.block,
                ..Views::default()
            };
            let (plan, outcome, mut views) =
                now(read_through(&mut scanner, &self.superblock, views_of))?;
            let mut again = Scanner::new(&slots, &self.superblock, self.geometry);
            let moved = plan.links.iter().any(|link| {
                let state = now(again.slot_state(link.slot_no));
                !link.lost && state.epoch() != Some(link.epoch)
            });
            if moved && attempt < ATTEMPTS {
                attempt += 1;
                continue;
            }
            views.replay.finish();
            let (bytes, boot) = (scanner.bytes, scanner.boot_seen);
            let read = Read { plan, outcome, bytes, boot, clean: self.superblock.clean_lsn };
            return Ok((read, views));
        }
    }
}

struct Read {
    plan: Plan,
    outcome: Outcome,
    bytes: u64,
    boot: u64,
    clean: u64,
}

/// Notes what the replay is fed.
#[derive(Default)]
struct Views {
    frames: Vec<FrameView>,
    records: Vec<RecordView>,
    lost: Vec<Finding>,
    replay: Replay,
    block: u32,
}

impl Views {
    fn report(&self, read: &Read) -> RecoveryReport {
        let corrupt = read.outcome.bad.iter().filter(|bad| bad.verdict == Verdict::Corrupt);
        RecoveryReport {
            frames: read.outcome.frames,
            records: self.replay.records,
            bytes: read.bytes,
            torn: read.outcome.torn,
            corrupt_frames: len_u64(corrupt.count()),
            clean: read.clean != 0 && read.clean == read.outcome.cut,
        }
    }
}

impl Sink for Views {
    fn event(&mut self, event: Event<'_>) -> Result<(), OpenError> {
        if let Event::Lost { from, to } = &event {
            self.lost.push(Finding::Lost { from: Lsn(*from), to: Lsn(*to) });
        }
        if let Event::Frame { slot_no, found } = &event {
            self.frames.push(frame_view(*slot_no, found, self.block));
            let rows = found.rows().enumerate().filter(|(_, row)| !row.is_echo());
            for (nth, row) in rows {
                let good = found.bad.binary_search(&nth).is_err();
                self.records.push(record_view(found.head.lsn, &row, good));
            }
        }
        self.replay.event(event)
    }
}

fn frame_view(slot: u32, found: &Found, block: u32) -> FrameView {
    let head = found.head;
    FrameView {
        slot,
        offset: u64::from(head.block_no) * u64::from(block),
        lsn: Lsn(head.lsn),
        synced: Lsn(head.synced),
        boot: head.boot,
        wall_ms: head.wall_ms,
        bytes: u64::from(head.blocks) * u64::from(block),
        records: head.records,
        first: head.flags & crate::frame::FIRST != 0,
        boots: head.flags & crate::frame::BOOT != 0,
        cover: head.flags & crate::frame::COVER != 0,
    }
}

fn record_view(lsn: u64, row: &Row, good: bool) -> RecordView {
    let name = match row.kind {
        kind::ENTRIES if row.is_heal() => "heal",
        kind::ENTRIES => "entries",
        kind::HARD_STATE => "hard-state",
        kind::TRUNCATE => "truncate",
        kind::COMPACT => "compact",
        kind::MANIFEST => "manifest",
        kind::OPEN_SHARD => "open-shard",
        kind::TOMBSTONE => "tombstone",
        kind::CHECKPOINT => "checkpoint",
        kind::CHECKPOINT_END => "checkpoint-end",
        kind::DAMAGE => "damage",
        _ => "unknown",
    };
    RecordView {
        lsn: Lsn(lsn),
        kind: name,
        shard: ShardId(row.shard),
        index: LogIndex(row.index),
        term: Term(row.term),
        count: row.count,
        len: row.body_len,
        good,
    }
}
