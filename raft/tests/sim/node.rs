//! A node: its clock, its cores, and on each core the replicas' state machines and the inbox of the
//! next pass.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use bowline_raft::{
    Apply, Fetched, LaneNo, LaneWhat, Message, Origin, Outbox, RaftCore, ReadMode, ReplicaId, Role,
    ShardId, Slot, StreamNo, Term,
};

use super::{
    image::{Manifest, Payload, SimBatch},
    log::CoreLog,
};

/// A message on its way, with the bodies that go along.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub message: Message,
    pub batches: Vec<Rc<SimBatch>>,
    /// A byte of the first body is wrong.
    pub damaged: bool,
}

/// What happened to a lane, as it waits for a pass.
#[derive(Clone, Debug)]
pub enum LaneInput {
    Up {
        node: u64,
        core: u16,
        boot: u64,
        life: u32,
    },
    Down,
    Room(u32),
    /// What the peer said, in a life.
    Says(u32, LaneWhat),
}

/// What waits for the next pass of a core, beside messages.
#[derive(Clone, Debug)]
pub enum Input {
    Durable { stream: StreamNo, lsn: u64 },
    Failed { stream: StreamNo },
    Lane { lane: LaneNo, what: LaneInput },
    Fetched { shard: ShardId, replica: ReplicaId, got: Fetched },
    Snapshot { shard: ShardId, to: ReplicaId, from: (usize, ReplicaId), manifest: Rc<Manifest> },
    SnapshotFailed { shard: ShardId, replica: ReplicaId, peer: ReplicaId },
    Repair { shard: ShardId, to: ReplicaId, from: u64, batches: Vec<Rc<SimBatch>> },
    Propose { shard: ShardId, token: u64, count: u32 },
    Read { shard: ShardId, mode: ReadMode, token: u64 },
    Verb { shard: ShardId, verb: Verb },
    Applied { shard: ShardId, replica: ReplicaId, index: u64 },
}

/// What the engine asks of a replica.
#[derive(Clone, Copy, Debug)]
pub enum Verb {
    Compact(u64),
    Repair(u64, u64),
    Transfer(ReplicaId),
    Add {
        node: u64,
        auto: bool,
    },
    Promote(ReplicaId),
    Remove(ReplicaId),
    /// One voter out, another in, at once.
    Swap {
        out: ReplicaId,
        promote: ReplicaId,
    },
    Healthy,
    StateRot,
}

/// An accepted proposal that waits to be applied.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub first: u64,
    pub term: Term,
    pub token: u64,
}

/// What the judge saw of a replica last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub role: Role,
    pub term: Term,
    pub commit: u64,
}

/// A replica of a shard on a node, and its state machine.
#[derive(Debug, Default)]
pub struct Machine {
    /// Open on the core.
    pub slot: Option<Slot>,
    /// 0: the node has none.
    pub replica: ReplicaId,
    pub applied: u64,
    pub term: Term,
    pub value: Payload,
    pub conf: Vec<u8>,
    pub tickets: VecDeque<Ticket>,
    /// What raft handed out and nobody applied yet.
    pub waiting: VecDeque<Apply>,
    pub seen: Seen,
    /// The configuration in force when the judge looked last.
    pub seen_conf: Option<Rc<bowline_raft::Configuration>>,
    /// What it had may be gone, by the simulator's own doing.
    pub charged: bool,
    /// Its state's data is damaged until a snapshot comes.
    pub state_lost: bool,
    /// Whether it opens as retired for ever.
    pub retired: bool,
}

/// One core of a node.
#[derive(Debug)]
pub struct SimCore {
    pub raft: RaftCore,
    pub log: CoreLog,
    pub out: Outbox,
    pub inputs: Vec<Input>,
    pub messages: VecDeque<(Origin, Parcel)>,
    /// Appends that found no room, in order.
    pub kept: VecDeque<(Origin, Parcel)>,
    /// By shard.
    pub machines: Vec<Machine>,
    /// The life of each lane that is up.
    pub lives: BTreeMap<LaneNo, u32>,
    /// When the next pass is; `u64::MAX`: none is due.
    pub pass_at: u64,
    /// True time until which it stands still.
    pub paused_until: u64,
    pub passes: u64,
    /// Bodies read from the disk for a peer, until raft sends them.
    pub fetched: BTreeMap<(ShardId, ReplicaId), Vec<Rc<SimBatch>>>,
    /// It stands still within a turn.
    pub stalled: bool,
    /// Shards to which something was handed out in this turn.
    pub to_apply: Vec<ShardId>,
}

impl SimCore {
    pub fn machine(&self, shard: ShardId) -> &Machine {
        &self.machines[super::disk::shard_place(shard)]
    }
}

/// A clock that runs at its own speed from some moment on.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    since: u64,
    base: u64,
    ppm: i64,
}

impl Clock {
    pub fn new(base: u64) -> Self {
        Self { since: 0, base, ppm: 0 }
    }

    /// One that shows `base` now.
    pub fn at(now: u64, base: u64) -> Self {
        Self { since: now, base, ppm: 0 }
    }

    /// What it shows at a true time.
    pub fn read(&self, now: u64) -> u64 {
        let gone = i128::from(now - self.since);
        let own = gone * (1_000_000 + i128::from(self.ppm)) / 1_000_000;
        self.base + u64::try_from(own).expect("clocks run forward")
    }

    /// When it will show `own`.
    pub fn when(&self, own: u64) -> u64 {
        let left = i128::from(own.saturating_sub(self.base));
        let gone = left * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        self.since + u64::try_from(gone).unwrap_or(u64::MAX / 2) + 1
    }

    pub fn speed(&mut self, now: u64, ppm: i64) {
        *self = Self { since: now, base: self.read(now), ppm };
    }

    pub fn leap(&mut self, now: u64, by: u64) {
        *self = Self { since: now, base: self.read(now) + by, ppm: self.ppm };
    }
}

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    /// Its number is its place + 1.
    pub id: u64,
    pub boot: u64,
    pub alive: bool,
    pub clock: Clock,
    pub cores: Vec<SimCore>,
}

impl Node {
    /// The core that is home to a shard.
    pub fn home(&self, shard: ShardId) -> usize {
        super::disk::shard_place(shard) % self.cores.len()
    }

    pub fn core_of(&self, shard: ShardId) -> &SimCore {
        &self.cores[self.home(shard)]
    }

    pub fn core_of_mut(&mut self, shard: ShardId) -> &mut SimCore {
        let home = self.home(shard);
        &mut self.cores[home]
    }

    pub fn machine(&self, shard: ShardId) -> &Machine {
        &self.core_of(shard).machines[super::disk::shard_place(shard)]
    }

    pub fn machine_mut(&mut self, shard: ShardId) -> &mut Machine {
        &mut self.core_of_mut(shard).machines[super::disk::shard_place(shard)]
    }
}
