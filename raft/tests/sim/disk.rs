//! The log streams of one core and the disk below them.
//!
//! What raft stages sits in an open frame; a pass closes it, its write ends later, in any order,
//! and is durable as part of a prefix without gap. A crash keeps the durable prefix and perhaps
//! some frames whose end nobody was told.

use std::collections::VecDeque;

use bowline_raft::{Lsn, Refused, ShardId};

use super::{
    image::{Image, Op},
    rng::{Rng, place},
};

/// A closed frame on its way.
#[derive(Debug)]
pub struct Frame {
    pub lsn: u64,
    pub done: bool,
    pub ops: Vec<(usize, Op)>,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// Number of the open frame.
    pub open: u64,
    pub ops: Vec<(usize, Op)>,
    /// In the order of their numbers.
    pub frames: VecDeque<Frame>,
    /// Every frame up to here is on the disk.
    pub durable: u64,
    /// A write failed: nothing is taken, nothing more becomes durable.
    pub failed: bool,
    /// Frames that may be under way before the log is at its mark.
    pub frames_max: usize,
    /// The disk ends no write while this is set.
    pub stuck: bool,
}

impl Stream {
    fn new() -> Self {
        Self {
            open: 1,
            ops: Vec::new(),
            frames: VecDeque::new(),
            durable: 0,
            failed: false,
            frames_max: usize::MAX,
            stuck: false,
        }
    }

    /// Why nothing is taken now.
    pub fn refusal(&self) -> Option<Refused> {
        if self.failed {
            return Some(Refused::Poisoned);
        }
        (self.frames.len() >= self.frames_max).then_some(Refused::NoRoom)
    }
}

/// All streams of a core, the logs' memory and what the disk holds.
#[derive(Debug)]
pub struct Disk {
    pub streams: Vec<Stream>,
    /// By shard, as staged.
    pub memory: Vec<Image>,
    /// By shard, as durable.
    pub durable: Vec<Image>,
}

impl Disk {
    pub fn new(streams: usize, shards: usize) -> Self {
        Self {
            streams: (0..streams).map(|_| Stream::new()).collect(),
            memory: vec![Image::default(); shards],
            durable: vec![Image::default(); shards],
        }
    }

    pub fn memory_of(&self, shard: ShardId) -> &Image {
        &self.memory[shard_place(shard)]
    }

    pub fn durable_of(&self, shard: ShardId) -> &Image {
        &self.durable[shard_place(shard)]
    }

    /// Takes one operation into the open frame.
    pub fn take(&mut self, stream: usize, shard: ShardId, op: Op) -> Result<Lsn, Refused> {
        let at = &mut self.streams[stream];
        if let Some(why) = at.refusal() {
            return Err(why);
        }
        let shard = shard_place(shard);
        self.memory[shard].replay(&op);
        at.ops.push((shard, op));
        Ok(Lsn(at.open))
    }

    /// Closes the open frame if it holds anything; its number.
    pub fn seal(&mut self, stream: usize) -> Option<u64> {
        let at = &mut self.streams[stream];
        if at.ops.is_empty() {
            return None;
        }
        let lsn = at.open;
        at.open += 1;
        let ops = std::mem::take(&mut at.ops);
        at.frames.push_back(Frame { lsn, done: false, ops });
        Some(lsn)
    }

    /// The write of a frame ended; the number up to which everything is durable, if it moved.
    pub fn complete(&mut self, stream: usize, lsn: u64) -> Option<u64> {
        let at = &mut self.streams[stream];
        if at.failed {
            return None;
        }
        let nth = at.frames.partition_point(|frame| frame.lsn < lsn);
        let frame = at.frames.get_mut(nth).filter(|frame| frame.lsn == lsn)?;
        frame.done = true;
        let before = at.durable;
        while self.streams[stream].frames.front().is_some_and(|frame| frame.done) {
            self.retire_front(stream);
        }
        let durable = self.streams[stream].durable;
        (durable > before).then_some(durable)
    }

    fn retire_front(&mut self, stream: usize) {
        let at = &mut self.streams[stream];
        let frame = at.frames.pop_front().expect("the caller looked");
        at.durable = frame.lsn;
        for (shard, op) in &frame.ops {
            self.durable[*shard].replay(op);
        }
    }

    /// The process or the power is gone. `extra`: chance decides how many frames got through
    /// without anybody being told.
    pub fn crash(&mut self, extra: Option<&mut Rng>) {
        let mut none = Rng::named(0, "none");
        let (rng, lucky) = match extra {
            Some(rng) => (rng, true),
            None => (&mut none, false),
        };
        for stream in 0..self.streams.len() {
            let under_way = self.streams[stream].frames.len();
            let through = if lucky && !self.streams[stream].failed {
                place(rng.below(under_way as u64 + 1))
            } else {
                0
            };
            for _ in 0..through {
                self.retire_front(stream);
            }
            let at = &mut self.streams[stream];
            at.frames.clear();
            at.ops.clear();
            at.open += 1_024;
            at.durable = at.open - 1;
            at.failed = false;
            at.stuck = false;
        }
        self.memory.clone_from(&self.durable);
    }

    /// Lets a failed stream be opened again, as the disk has it.
    pub fn reopen(&mut self, stream: usize, shards: impl Iterator<Item = usize>) {
        let at = &mut self.streams[stream];
        at.frames.clear();
        at.ops.clear();
        at.open += 1_024;
        at.durable = at.open - 1;
        at.failed = false;
        for shard in shards {
            self.memory[shard] = self.durable[shard].clone();
        }
    }

    /// Nothing of a shard is left, on its way or on the disk.
    pub fn erase(&mut self, shard: usize) {
        for stream in &mut self.streams {
            stream.ops.retain(|(of, _)| *of != shard);
            for frame in &mut stream.frames {
                frame.ops.retain(|(of, _)| *of != shard);
            }
        }
        self.memory[shard] = Image::default();
        self.durable[shard] = Image::default();
    }
}

/// Shards are numbered from 1.
pub fn shard_place(shard: ShardId) -> usize {
    place(shard.0 - 1)
}
