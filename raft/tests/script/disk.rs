//! A log whose writes become durable when the script says so.
//!
//! Every call stages one write with an LSN of its own. `memory` is the log as staged, `kept` what a
//! crash falls back to: the writes that are durable without a hole before them.

use std::collections::{BTreeSet, VecDeque};

use bowline_raft::{
    BatchHeader, HardState, LogIndex, ShardId, Term,
    batch::{BodyWriter, FLAG_CONF, FLAG_NOOP, body_len},
};

/// The shard of every script.
pub const SHARD: ShardId = ShardId(1);

/// One entry as a log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: u64,
    pub flags: u16,
    pub payload: Vec<u8>,
    /// It begins a batch.
    pub begins: bool,
}

/// What the state machine made durable, or a snapshot: the state as of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub index: u64,
    pub term: u64,
    /// The configuration as of that index.
    pub conf: Vec<u8>,
}

/// Hard state, entries and manifest.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Manifest,
    pub hard: HardState,
    pub first: u64,
    pub prev_term: u64,
    pub entries: Vec<Entry>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            manifest: Manifest::default(),
            hard: HardState::default(),
            first: 1,
            prev_term: 0,
            entries: Vec::new(),
        }
    }
}

impl Image {
    pub fn last(&self) -> u64 {
        self.first - 1 + u64::try_from(self.entries.len()).expect("a short log")
    }

    fn nth(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.first)?).ok()
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index.checked_add(1) == Some(self.first) {
            return Some(self.prev_term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(self.nth(index)?)
    }

    /// Configurations above the manifest, committed or not.
    pub fn confs(&self) -> Vec<(u64, Vec<u8>)> {
        let entries = self.entries.iter().zip(self.first..);
        let confs =
            entries.filter(|(entry, at)| entry.flags == FLAG_CONF && *at > self.manifest.index);
        confs.map(|(entry, at)| (at, entry.payload.clone())).collect()
    }

    /// The last index of the whole batches from the one that holds `from` on, and their bytes.
    pub fn cached(&self, from: u64, bytes_max: u32) -> Option<(u64, u32)> {
        let end = |at: u64| {
            let mut end = at;
            while self.entry(end + 1).is_some_and(|next| !next.begins) {
                end += 1;
            }
            end
        };
        self.entry(from)?;
        let mut to = end(from);
        let bytes = |to: u64| u32::try_from((to - from + 1) * 64).expect("a short log");
        while self.entry(to + 1).is_some() && bytes(end(to + 1)) <= bytes_max {
            to = end(to + 1);
        }
        Some((to, bytes(to)))
    }

    /// The entries of a range as batches, cut where they were cut when they were appended.
    pub fn batches(&self, from: u64, to: u64) -> Vec<(BatchHeader, Vec<u8>)> {
        let mut batches = Vec::new();
        let mut at = from;
        while at > self.first && self.entry(at).is_some_and(|entry| !entry.begins) {
            at -= 1;
        }
        while at <= to {
            let mut end = at;
            while end < to && self.entry(end + 1).is_some_and(|next| !next.begins) {
                end += 1;
            }
            let entries: Vec<_> = (at..=end).filter_map(|index| self.entry(index)).collect();
            batches.push(encode(at, &entries));
            at = end + 1;
        }
        batches
    }

    /// The log as runs of equal terms: `1..3@1 4@2`.
    pub fn runs(&self) -> String {
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        for (entry, index) in self.entries.iter().zip(self.first..) {
            match runs.last_mut() {
                Some((_, to, term)) if *term == entry.term => *to = index,
                _ => runs.push((index, index, entry.term)),
            }
        }
        let floor = (self.first > 1).then(|| format!("({}@{})", self.first - 1, self.prev_term));
        let runs = runs.iter().map(|(from, to, term)| {
            if from == to { format!("{from}@{term}") } else { format!("{from}..{to}@{term}") }
        });
        let words: Vec<_> = floor.into_iter().chain(runs).collect();
        if words.is_empty() { "-".to_owned() } else { words.join(" ") }
    }

    /// # Panics
    ///
    /// If the write breaks what a log may be asked to keep.
    fn replay(&mut self, op: &Op) {
        match op {
            Op::Entries { first, entries } => {
                assert!(*first > self.first - 1 && *first <= self.last() + 1, "no hole");
                assert!(*first > self.hard.commit.0, "nothing committed is written over");
                let keep = self.nth(*first).expect("above the floor");
                self.entries.truncate(keep);
                for entry in entries {
                    let before = self.term_at(self.last()).expect("the last one");
                    assert!(before <= entry.term, "terms do not fall");
                    assert!(entry.term <= self.hard.term.0, "the term was staged first");
                    self.entries.push(entry.clone());
                }
            },
            Op::Hard(hard) => {
                assert!(hard.term >= self.hard.term, "a term does not fall");
                let moved = hard.term > self.hard.term || self.hard.vote.0 == 0;
                assert!(moved || hard.vote == self.hard.vote, "one vote in a term");
                self.hard = *hard;
            },
            Op::Truncate { from } => {
                assert!(*from > self.hard.commit.0, "nothing committed is cut");
                self.entries.truncate(self.nth(*from).expect("above the floor"));
            },
            Op::Compact { first, prev_term } => {
                assert_eq!(self.term_at(first - 1), Some(*prev_term), "the entry before the first");
                let cut = self.nth(*first).expect("at or above the floor");
                self.entries.drain(..cut);
                (self.first, self.prev_term) = (*first, *prev_term);
            },
            Op::Install { manifest, keep, hard } => {
                let cut = if *keep {
                    assert_eq!(self.term_at(manifest.index), Some(manifest.term), "the same entry");
                    self.nth(manifest.index + 1).expect("at or above the floor")
                } else {
                    self.entries.len()
                };
                self.entries.drain(..cut);
                (self.first, self.prev_term) = (manifest.index + 1, manifest.term);
                self.manifest = manifest.clone();
                self.replay(&Op::Hard(*hard));
            },
            Op::Manifest(manifest) => self.manifest = manifest.clone(),
        }
    }
}

/// Encodes consecutive entries of one term as one batch.
pub fn encode(first: u64, entries: &[&Entry]) -> (BatchHeader, Vec<u8>) {
    let mut body = vec![0; body_len(entries.iter().map(|entry| entry.payload.len()))];
    let mut writer = BodyWriter::new(&mut body, entries.len());
    for entry in entries {
        writer.entry(entry.payload.len(), |out| out.copy_from_slice(&entry.payload));
    }
    writer.finish();
    let mut header = BatchHeader {
        shard: SHARD,
        first: LogIndex(first),
        term: Term(entries.first().map_or(0, |entry| entry.term)),
        count: u32::try_from(entries.len()).expect("a short batch"),
        len: u32::try_from(body.len()).expect("a short batch"),
        flags: entries.first().map_or(0, |entry| entry.flags),
        ..BatchHeader::default()
    };
    header.crc = header.checksum(&body);
    (header, body)
}

/// One write.
#[derive(Clone, Debug)]
pub enum Op {
    Entries { first: u64, entries: Vec<Entry> },
    Hard(HardState),
    Truncate { from: u64 },
    Compact { first: u64, prev_term: u64 },
    Install { manifest: Manifest, keep: bool, hard: HardState },
    Manifest(Manifest),
}

impl Op {
    fn told(&self) -> String {
        match self {
            Self::Entries { first, entries } => {
                let image = Image { first: *first, entries: entries.clone(), ..Image::default() };
                let runs = Image { prev_term: 0, ..image }.runs();
                let runs = runs.split_once(") ").map_or(runs.as_str(), |(_, runs)| runs);
                let kind = match entries.first().map_or(0, |entry| entry.flags) {
                    FLAG_NOOP => " noop",
                    FLAG_CONF => " conf",
                    _ => "",
                };
                format!("entries {runs}{kind}")
            },
            Self::Hard(hard) => {
                format!("term {} vote {} commit {}", hard.term.0, hard.vote.0, hard.commit.0)
            },
            Self::Truncate { from } => format!("truncate from {from}"),
            Self::Compact { first, prev_term } => format!("compact to {}@{prev_term}", first - 1),
            Self::Install { manifest, keep, .. } => {
                let keep = if *keep { " keeping what is after it" } else { "" };
                format!("install {}@{}{keep}", manifest.index, manifest.term)
            },
            Self::Manifest(manifest) => format!("manifest {}@{}", manifest.index, manifest.term),
        }
    }
}

/// The stream of one node.
#[derive(Debug, Default)]
pub struct Disk {
    /// LSN of the latest write.
    pub staged: u64,
    /// Every write up to this one is durable.
    pub durable: u64,
    /// Writes that are not, with those that completed before their turn.
    waiting: VecDeque<(u64, Op)>,
    complete: BTreeSet<u64>,
    pub memory: Image,
    pub kept: Image,
    /// Entries up to this one are not in memory.
    pub cold: u64,
    /// What was written since this was last drained.
    pub told: Vec<String>,
}

impl Disk {
    /// Stages one write and names it.
    pub fn stage(&mut self, op: Op) -> u64 {
        self.staged += 1;
        self.memory.replay(&op);
        self.told.push(format!("writes #{} {}", self.staged, op.told()));
        self.waiting.push_back((self.staged, op));
        self.staged
    }

    /// Writes up to `lsn` are on the disk.
    pub fn sync(&mut self, lsn: u64) {
        self.complete.extend(self.durable + 1..=lsn.min(self.staged));
        self.settle();
    }

    /// One write is on the disk, those before it perhaps not.
    pub fn complete(&mut self, lsn: u64) {
        self.complete.insert(lsn);
        self.settle();
    }

    /// Advances over the writes that have no hole before them.
    fn settle(&mut self) {
        while self.waiting.front().is_some_and(|(lsn, _)| self.complete.contains(lsn)) {
            let (lsn, op) = self.waiting.pop_front().expect("there is one");
            self.complete.remove(&lsn);
            self.kept.replay(&op);
            self.durable = lsn;
        }
    }

    /// Loses what is not durable. No LSN is used twice.
    pub fn crash(&mut self) {
        self.waiting.clear();
        self.complete.clear();
        self.durable = self.staged;
        self.memory = self.kept.clone();
    }

    /// The manifest of a founding replica.
    pub fn found(&mut self, conf: &[u8]) {
        self.given(Image {
            manifest: Manifest { conf: conf.to_vec(), ..Manifest::default() },
            ..Image::default()
        });
    }

    /// What the disk holds before the story begins.
    pub fn given(&mut self, image: Image) {
        self.memory = image.clone();
        self.kept = image;
    }

    /// The state machine writes down the state as of `index`.
    pub fn manifest(&mut self, index: u64) {
        let image = &self.memory;
        let confs = image.confs();
        let conf = confs.iter().rev().find(|(at, _)| *at <= index);
        let manifest = Manifest {
            index,
            term: image.term_at(index).expect("an applied entry"),
            conf: conf.map_or_else(|| image.manifest.conf.clone(), |(_, conf)| conf.clone()),
        };
        self.stage(Op::Manifest(manifest));
    }
}
