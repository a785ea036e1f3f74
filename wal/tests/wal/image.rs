//! The files of a stream as plain bytes, to be damaged and read offline.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bowline_env::Kind;
use bowline_env::sim::World;
use bowline_wal::{
    FrameView, OpenError, RecoveredShard, RecoveryReport, Source, Verified, WalReader,
};

use crate::kit::*;

#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Source for &Image {
    fn list(&self) -> Result<Vec<(String, u64)>, Kind> {
        Ok(self.files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn read_at(&self, file: &str, at: u64, out: &mut [u8]) -> Result<usize, Kind> {
        let bytes = self.files.get(file).ok_or(Kind::NotFound)?;
        let at = usize::try_from(at).unwrap().min(bytes.len());
        let len = out.len().min(bytes.len() - at);
        out[..len].copy_from_slice(&bytes[at..at + len]);
        Ok(len)
    }
}

/// A source that hands out another image with each pass over the files.
pub(crate) struct Moving {
    pub(crate) images: RefCell<Vec<Image>>,
    pub(crate) reads_each: usize,
    pub(crate) reads: RefCell<usize>,
}

impl Source for Moving {
    fn list(&self) -> Result<Vec<(String, u64)>, Kind> {
        (&self.images.borrow()[0]).list()
    }

    fn read_at(&self, file: &str, at: u64, out: &mut [u8]) -> Result<usize, Kind> {
        let mut reads = self.reads.borrow_mut();
        *reads += 1;
        let mut images = self.images.borrow_mut();
        if *reads > self.reads_each && images.len() > 1 {
            images.remove(0);
            *reads = 0;
        }
        (&images[0]).read_at(file, at, out)
    }
}

/// What a boot would find, in a form to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) shard: u64,
    pub(crate) numbers: [u64; 7],
    pub(crate) damage: u8,
    pub(crate) holes: Vec<(u64, u64, Option<u32>)>,
    pub(crate) manifest: Option<Vec<u8>>,
}

pub(crate) fn line(found: &RecoveredShard) -> Line {
    let (state, bounds) = (found.hard_state, found.bounds);
    Line {
        shard: found.shard.0,
        numbers: [
            found.replica.0,
            state.term.0,
            state.vote.0,
            state.commit.0,
            bounds.first.0,
            bounds.last.0,
            bounds.last_term.0,
        ],
        damage: bounds.damage as u8,
        holes: found.holes.iter().map(|hole| (hole.from.0, hole.to.0, hole.crc)).collect(),
        manifest: found.manifest.as_ref().map(|(_, _, body)| body.to_vec()),
    }
}

impl Image {
    /// What is durable on the node's disk.
    pub(crate) fn of(world: &World) -> Self {
        let disk = world.disk(NODE);
        let mut files = BTreeMap::new();
        for name in disk.files() {
            if name.dir() == Some(dir()) {
                let bytes = disk.durable(&name).expect("a listed file has bytes");
                files.insert(name.file().to_owned(), bytes);
            }
        }
        Self { files }
    }

    pub(crate) fn slot(&mut self, slot: u32) -> &mut Vec<u8> {
        self.files.get_mut(&format!("{slot:03}.slot")).unwrap()
    }

    pub(crate) fn flip(&mut self, slot: u32, at: usize) {
        self.slot(slot)[at] ^= 0x10;
    }

    pub(crate) fn reader(&self) -> Result<WalReader<&Self>, OpenError> {
        WalReader::open(self)
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.reader().unwrap().shards().unwrap().iter().map(line).collect()
    }

    pub(crate) fn frames(&self) -> Vec<FrameView> {
        self.reader().unwrap().frames().unwrap()
    }

    pub(crate) fn report(&self) -> RecoveryReport {
        self.reader().unwrap().stat().unwrap().report
    }

    pub(crate) fn verified(&self) -> Verified {
        self.reader().unwrap().verify().unwrap().0
    }

    /// Destroys a whole frame.
    pub(crate) fn destroy(&mut self, frame: &FrameView) {
        let start = usize::try_from(frame.offset).unwrap();
        let len = usize::try_from(frame.bytes).unwrap();
        self.slot(frame.slot)[start..start + len].fill(0xa5);
    }

    /// The bytes of a frame.
    pub(crate) fn frame(&mut self, frame: &FrameView) -> Vec<u8> {
        let start = usize::try_from(frame.offset).unwrap();
        let len = usize::try_from(frame.bytes).unwrap();
        self.slot(frame.slot)[start..start + len].to_vec()
    }

    /// Puts the node's stream on a disk of another world.
    pub(crate) fn place(&self, world: &World) {
        for (file, bytes) in &self.files {
            world.disk(NODE).place(&dir().join(file), bytes);
        }
    }
}

/// A row of a frame's directory, read from the format's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRow {
    pub(crate) shard: u64,
    pub(crate) index: u64,
    pub(crate) count: u32,
    pub(crate) kind: u8,
    pub(crate) body: (usize, usize),
}

pub(crate) fn raw_rows(frame: &[u8]) -> (usize, Vec<RawRow>) {
    let word = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
    let dir = word(68) as usize;
    let row = |nth: usize| {
        let at = dir + nth * 64;
        let start = word(at + 32) as usize;
        RawRow {
            shard: long(at),
            index: long(at + 8),
            count: word(at + 24),
            kind: frame[at + 28],
            body: (start, start + word(at + 36) as usize),
        }
    };
    (dir, (0..word(60) as usize).map(row).collect())
}
