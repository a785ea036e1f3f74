//! Driving a node's disk: how long operations take, which of them go wrong, and what tests may do
//! to it.

use core::fmt;
use core::ops::Range;
use core::task::{Context, Poll};
use std::rc::Rc;

use super::disk::{
    Action, Aftermath, Answer, Disk, Fate, Image, Injected, Inode, Keep, Odds, SECTOR, Target,
    Tearing,
};
use super::inner::Inner;
use super::node::Node;
use super::profile::Fault;
use super::sched::Event;
use super::slab::Key;
use super::world::Crash;
use super::{u64_of, usize_of};
use crate::{BLOCK, EnvError, Kind, Name, Nanos};

/// No operation of a disk that is well takes longer, in nanoseconds.
const USUAL: u64 = 50_000_000;

impl Inner {
    /// Starts an operation.
    pub(super) fn disk_begins(&self, node: &Rc<Node>, action: Action) -> Key {
        let fate = self.fate(node, &action);
        let took = self.disk_time(node, &action);
        let at = self.now() + took;
        self.say(|| format!("node {} disk {action:?} {fate:?}", node.id));
        let (key, crash) = {
            let mut disk = node.disk.borrow_mut();
            let key = disk.begin(action, fate, at);
            let changes = disk.changes;
            (key, disk.injected.crash_at.take_if(|crash| crash.change <= changes))
        };
        self.sched.borrow_mut().schedule(at, Event::Disk(node.id, key));
        if let Some(crash) = crash {
            self.crash(node, if crash.power { Crash::Power } else { Crash::Kill });
        }
        key
    }

    fn fate(&self, node: &Node, action: &Action) -> Fate {
        let Some(target) = Target::of(action) else { return Fate::Good };
        let mut disk = node.disk.borrow_mut();
        if target.drawn().is_empty() {
            return disk.injected.take(target).unwrap_or(Fate::Good);
        }
        if self.hits(Fault::Rot) {
            disk.rot(self.streams.fault(Fault::Rot));
        }
        let ordered = disk.injected.take(target);
        let drawn = target.drawn().iter().filter(|(class, _)| self.hits(*class));
        // Each class draws, so that one more or less shifts no other.
        let drawn = drawn.fold(Fate::Good, |_, (_, fate)| *fate);
        let fate = ordered.unwrap_or(drawn);
        if let Action::Read { file, at, len } = action
            && fate == Fate::Fails(Kind::Io)
            && let Some(inode) = disk.files.at_mut(*file)
        {
            let block =
                self.streams.fault(Fault::ReadError).below(u64_of(len.div_ceil(BLOCK)).max(1));
            inode.bad.insert(usize_of(*at) / BLOCK + usize_of(block));
        }
        let full = if let Action::Write { file, first, pages, .. } = action {
            let blocks = disk.files.at(*file).map_or(0, |inode| inode.seen.blocks());
            let more = (first + pages.len()).saturating_sub(blocks);
            more > 0 && u64_of(more * BLOCK) > disk.free()
        } else {
            matches!(action, Action::Create { .. }) && disk.free() == 0
        };
        if full { Fate::Fails(Kind::NoSpace) } else { fate }
    }

    /// How long an operation takes.
    fn disk_time(&self, node: &Node, action: &Action) -> u64 {
        let base = action.nanos();
        // A gigabyte a second.
        let moved = action.bytes();
        let paced = if let Action::Fill { rate, .. } = action
            && *rate > 0
        {
            u64::try_from(u128::from(moved) * 1_000_000_000 / u128::from(*rate)).unwrap_or(0)
        } else {
            0
        };
        if !self.profile.varied() {
            let disk = node.disk.borrow();
            let slow =
                if self.now() < disk.injected.slow_until { disk.injected.slow_factor } else { 1 };
            return ((base + moved) * slow).max(paced);
        }
        let mut took = self.streams.disk.magnitude(base / 8, base * 8) + moved;
        if self.hits(Fault::Spike) {
            took *= 100;
        }
        let mut disk = node.disk.borrow_mut();
        if self.hits(Fault::Stuck) {
            let span = self.streams.fault(Fault::Stuck).between(500_000_000, 10_000_000_000);
            disk.injected.stuck_until = self.now() + span;
        }
        if self.hits(Fault::Slow) {
            let span = self.streams.fault(Fault::Slow).between(1_000_000_000, 300_000_000_000);
            disk.injected.slow_until = self.now() + span;
            disk.injected.slow_factor = 20;
        }
        if self.now() < disk.injected.slow_until {
            took *= disk.injected.slow_factor;
        }
        took.max(paced)
    }

    /// The time of an operation has come.
    pub(super) fn disk_completes(&self, node: &Rc<Node>, key: Key) {
        let waker = {
            let mut disk = node.disk.borrow_mut();
            let disk = &mut *disk;
            let Some(op) = disk.ops.at_mut(key) else { return };
            if self.now() < op.due {
                return;
            }
            if self.now() < disk.injected.stuck_until {
                let again =
                    disk.injected.stuck_until + self.streams.disk.magnitude(1_000, 1_000_000);
                op.due = again;
                self.sched.borrow_mut().schedule(again, Event::Disk(node.id, key));
                return;
            }
            let Some(action) = op.action.take() else { return };
            let fate = op.fate;
            let result = disk.act(&action, fate, &self.streams.crash).map_err(|kind| {
                let error = EnvError::new(action.call(), kind);
                action.name().map_or_else(|| error.clone(), |name| error.clone().named(name))
            });
            self.trace.mix(self.now(), 3 << 60, key.bits(), u64::from(result.is_ok()));
            self.say(|| {
                format!(
                    "node {} disk done {:?} {:?}",
                    node.id,
                    action.call(),
                    result.as_ref().err()
                )
            });
            let Some(op) = disk.ops.at_mut(key) else { return };
            if op.orphan {
                disk.ops.remove(key).and_then(|op| op.waker)
            } else {
                op.answer = Some(result);
                op.waker.take()
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the answer of an operation.
    pub(super) fn disk_answer(
        &self,
        node: &Node,
        key: Key,
        cx: &Context<'_>,
    ) -> Poll<Result<Answer, EnvError>> {
        let mut disk = node.disk.borrow_mut();
        let Some(op) = disk.ops.at_mut(key) else { return Poll::Pending };
        if let Some(answer) = op.answer.take() {
            disk.ops.remove(key);
            return Poll::Ready(answer);
        }
        super::task::keep(&mut op.waker, cx);
        self.waits(op.action.as_ref().map_or("the disk", Action::what));
        Poll::Pending
    }

    /// A write was dropped in flight: a bug of the code under test (I5).
    pub(super) fn dropped_write(&self, name: &Name) {
        if !self.tolerate_dropped_writes.get() && !self.is_burying() {
            self.violate(format!("a write to {name} was dropped in flight (env I5)"));
        }
    }

    /// The node crashes now.
    pub(super) fn crash(&self, node: &Rc<Node>, how: Crash) {
        self.say(|| format!("node {} crashes: {how:?}", node.id));
        self.trace.mix(self.now(), 4 << 60, node.id, u64::from(how == Crash::Power));
        let life = node.end_life();
        let odds = Odds {
            tearing: Tearing {
                rng: &self.streams.crash,
                sectors: self.rate(Fault::Tear) > 0,
                noise: self.rate(Fault::Noise),
            },
            scatter: self.hits(Fault::Scatter),
            late: self.rate(Fault::LateWrite),
        };
        let Aftermath { wakers, late } = match how {
            Crash::Power => {
                node.off.set(true);
                node.disk.borrow_mut().lose_power(&odds)
            },
            Crash::Kill => node.disk.borrow_mut().lose_process(self.now(), &odds),
        };
        drop(wakers);
        for (key, at) in late {
            self.sched.borrow_mut().schedule(at, Event::Disk(node.id, key));
        }
        self.net_crash(&life, how);
        self.end_cores(&life);
    }
}

impl Node {
    /// Nobody waits for an operation any more. Whether it was still in flight.
    pub(super) fn abandons(&self, key: Key) -> bool {
        let mut disk = self.disk.borrow_mut();
        let Some(op) = disk.ops.at_mut(key) else { return false };
        if op.action.is_some() {
            op.orphan = true;
            let waker = op.waker.take();
            drop(disk);
            drop(waker);
            return true;
        }
        let op = disk.ops.remove(key);
        drop(disk);
        drop(op);
        false
    }
}

/// How a write goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteFault {
    /// It fails; its sectors are old, new or garbage.
    Error,
    /// It stops in its middle.
    Short,
    /// The disk is full.
    NoSpace,
    /// It is acknowledged and not done.
    Lost,
    /// It lands somewhere else.
    Misdirected,
}

/// A disk as tests see it: what stands on it, and what shall go wrong. Operations are counted from
/// the call on, the next one is 1.
#[derive(Clone)]
pub struct SimDisk {
    inner: Rc<Inner>,
    node: Rc<Node>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk(node {})", self.node.id)
    }
}

impl SimDisk {
    pub(super) fn new(inner: &Rc<Inner>, node: &Rc<Node>) -> Self {
        Self { inner: Rc::clone(inner), node: Rc::clone(node) }
    }

    fn inject<T>(&self, change: impl FnOnce(&mut Injected) -> T) -> T {
        change(&mut self.node.disk.borrow_mut().injected)
    }

    fn order(&self, target: Target, nth: u64, fate: Fate) {
        assert!(nth > 0, "the next operation is the first");
        self.inject(|injected| injected.ordered.push((target, nth, fate)));
    }

    // ---- faults

    /// The `nth` write from now goes wrong.
    pub fn fail_write(&self, nth: u64, how: WriteFault) {
        let fate = match how {
            WriteFault::Error => Fate::Fails(Kind::Io),
            WriteFault::Short => Fate::Fails(Kind::Short),
            WriteFault::NoSpace => Fate::Fails(Kind::NoSpace),
            WriteFault::Lost => Fate::Lost,
            WriteFault::Misdirected => Fate::Misdirected,
        };
        self.order(Target::Write, nth, fate);
    }

    /// The `nth` sync of a file from now fails, and loses what it should have made durable.
    pub fn fail_sync(&self, nth: u64) {
        self.order(Target::Sync, nth, Fate::Fails(Kind::Io));
    }

    /// The `nth` sync of a directory from now fails.
    pub fn fail_sync_dir(&self, nth: u64) {
        self.order(Target::SyncDir, nth, Fate::Fails(Kind::Io));
    }

    /// The `nth` create, rename, remove or new directory from now fails.
    pub fn fail_names(&self, nth: u64, kind: Kind) {
        self.order(Target::Names, nth, Fate::Fails(kind));
    }

    /// The `nth` opening of a file from now fails.
    pub fn fail_open(&self, nth: u64, kind: Kind) {
        self.order(Target::Open, nth, Fate::Fails(kind));
    }

    /// The `nth` read from now fails once; one of its blocks stays unreadable until written.
    pub fn fail_read(&self, nth: u64) {
        self.order(Target::Read, nth, Fate::Fails(Kind::Io));
    }

    /// The `nth` read from now gives each block as it was before its last write.
    pub fn stale_read(&self, nth: u64) {
        self.order(Target::Read, nth, Fate::Stale);
    }

    /// The blocks of a byte range cannot be read until they are written. False: no such file.
    pub fn unreadable(&self, name: &Name, range: Range<u64>) -> bool {
        self.with_file(name, |inode| {
            let blocks = usize_of(range.start) / BLOCK..usize_of(range.end).div_ceil(BLOCK);
            inode.bad.extend(blocks);
        })
    }

    /// How many bytes of files fit; none: no bound.
    pub fn capacity(&self, bytes: Option<u64>) {
        self.inject(|injected| injected.capacity = bytes);
    }

    /// Nothing completes for `span`.
    pub fn stuck(&self, span: Nanos) {
        let until = self.inner.now() + span.0;
        self.inject(|injected| injected.stuck_until = until);
    }

    /// What starts within `span` takes `factor` times as long.
    pub fn slow(&self, factor: u64, span: Nanos) {
        let until = self.inner.now() + span.0;
        self.inject(|injected| {
            injected.slow_until = until;
            injected.slow_factor = factor;
        });
    }

    /// What the next power loss leaves of what is not durable; drawn by default.
    pub fn next_power_loss(&self, keep: Keep) {
        self.inject(|injected| injected.keep = keep);
    }

    /// The node crashes when the `nth` operation from now that changes the disk starts: it is in
    /// flight then.
    ///
    /// # Panics
    ///
    /// If `nth` is 0.
    pub fn crash_at(&self, nth: u64, how: Crash) {
        assert!(nth > 0, "the next operation is the first");
        let mut disk = self.node.disk.borrow_mut();
        let change = disk.changes + nth;
        disk.injected.crash_at = Some(super::disk::CrashAt { change, power: how == Crash::Power });
    }

    /// Operations that change the disk, started since the world began.
    pub fn changes(&self) -> u64 {
        self.node.disk.borrow().changes
    }

    /// Takes back every fault and crash that was asked for. What is stuck or slow completes now.
    pub fn heal(&self) {
        self.inject(|injected| drop(core::mem::take(injected)));
        let now = self.inner.now();
        let mut disk = self.node.disk.borrow_mut();
        let stuck = disk.ops.iter().filter(|(_, op)| op.due >= now + USUAL);
        let keys: Vec<Key> = stuck.map(|(key, _)| key).collect();
        for key in keys {
            let Some(op) = disk.ops.at_mut(key) else { continue };
            op.due = now;
            self.inner.sched.borrow_mut().schedule(now, Event::Disk(self.node.id, key));
        }
    }

    // ---- damage at rest

    fn with_file(&self, name: &Name, change: impl FnOnce(&mut Inode)) -> bool {
        let mut disk = self.node.disk.borrow_mut();
        let key = disk.find(name).or_else(|| disk.find_durable(name));
        key.and_then(|key| disk.files.at_mut(key)).map(change).is_some()
    }

    /// Turns one bit, for readers and on the platter. False: no such file.
    pub fn flip_bit(&self, name: &Name, at: u64, bit: u32) -> bool {
        let at = usize_of(at);
        self.with_file(name, |inode| inode.damage(at / BLOCK, |b| b[at % BLOCK] ^= 1 << (bit % 8)))
    }

    /// Zeros the 512-byte sector of that number. False: no such file.
    pub fn zero_sector(&self, name: &Name, sector: u64) -> bool {
        self.write_at_rest(name, sector * u64_of(SECTOR), &[0; SECTOR])
    }

    /// Overwrites bytes inside the file, for readers and on the platter. False: no such file.
    pub fn write_at_rest(&self, name: &Name, at: u64, bytes: &[u8]) -> bool {
        self.with_file(name, |inode| {
            let mut at = usize_of(at);
            let mut rest = bytes;
            while !rest.is_empty() {
                let skip = at % BLOCK;
                let (part, next) = rest.split_at(rest.len().min(BLOCK - skip));
                inode.damage(at / BLOCK, |b| b[skip..skip + part.len()].copy_from_slice(part));
                at += part.len();
                rest = next;
            }
        })
    }

    /// Puts a whole file in place, durable, past every rule.
    pub fn place(&self, name: &Name, content: &[u8]) {
        self.node.disk.borrow_mut().place(name, Image::of(content));
    }

    /// Takes a file away, past every rule.
    pub fn take_away(&self, name: &Name) {
        self.node.disk.borrow_mut().take_away(name);
    }

    /// Empties the disk.
    pub fn wipe(&self) {
        *self.node.disk.borrow_mut() = Disk::new();
    }

    // ---- what stands on it

    /// Names of the durable files, sorted.
    pub fn files(&self) -> Vec<Name> {
        let disk = self.node.disk.borrow();
        disk.folders.values().flat_map(|folder| folder.durable.keys().cloned()).collect()
    }

    /// What a power loss would leave of a file at least.
    pub fn durable(&self, name: &Name) -> Option<Vec<u8>> {
        let disk = self.node.disk.borrow();
        Some(disk.files.at(disk.find_durable(name)?)?.durable.bytes())
    }

    /// What a program would read.
    pub fn seen(&self, name: &Name) -> Option<Vec<u8>> {
        let disk = self.node.disk.borrow();
        Some(disk.files.at(disk.find(name)?)?.seen.bytes())
    }

    /// Blocks of a file that were written and are not durable.
    pub fn unsettled(&self, name: &Name) -> usize {
        let disk = self.node.disk.borrow();
        disk.find(name).and_then(|key| disk.files.at(key)).map_or(0, Inode::unsettled)
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.node.disk.borrow().in_flight()
    }

    /// Makes this disk a copy of the durable files of another.
    ///
    /// # Panics
    ///
    /// If a core of this node runs.
    pub fn copy_from(&self, other: &Self) {
        assert!(!self.inner.alive(self.node.id), "a disk is replaced while its node is down");
        let copy = Disk::copied(&other.node.disk.borrow());
        *self.node.disk.borrow_mut() = copy;
    }
}
