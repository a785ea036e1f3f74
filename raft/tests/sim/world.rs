//! The world of one run: everything in it, and its order of events.
//!
//! An event has a true time; those of one instant are ordered by a draw from the seed. Nothing
//! else decides what happens next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use bowline_raft::{ReadMode, ReplicaId, ShardId};

use super::{
    cover::Cover,
    net::{Bulk, Link},
    node::Node,
    oracle::{Oracle, Violation},
    plan::{Class, MICRO, Plan},
    rng::{Rng, mix},
};

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A core's loop turns.
    Pass {
        node: usize,
        core: usize,
        boot: u64,
    },
    /// A core's loop that stood still within a turn goes on.
    EndTurn {
        node: usize,
        core: usize,
        boot: u64,
    },
    /// A frame reaches an end of a connection.
    Arrive {
        link: usize,
        end: usize,
        life: u32,
    },
    Dial {
        link: usize,
    },
    Told {
        link: usize,
        end: usize,
        life: u32,
    },
    GiveUp,
    Bulk(Box<Bulk>),
    /// The disk has written a frame of a stream.
    Written {
        node: usize,
        boot: u64,
        core: usize,
        stream: usize,
        lsn: u64,
    },
    /// A failed stream is opened again.
    Reopen {
        node: usize,
        boot: u64,
        core: usize,
        stream: usize,
    },
    Restart {
        node: usize,
    },
    /// The next fault of a class.
    Fault(Class),
    /// The end of a fault.
    Mend(Mend),
    /// A client asks for something.
    Load,
    /// The engine looks after replicas and members.
    Keep,
}

/// What ends with a fault.
#[derive(Clone, Copy, Debug)]
pub enum Mend {
    /// Frames from one node to another.
    Way(usize, usize),
    Stuck {
        node: usize,
        boot: u64,
        core: usize,
        stream: usize,
    },
    Room {
        link: usize,
    },
}

#[derive(Debug)]
struct Due {
    at: u64,
    tie: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.tie) == (other.at, other.tie)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie).cmp(&(other.at, other.tie))
    }
}

/// One generator a purpose.
#[derive(Debug)]
pub struct Streams {
    pub tie: Rng,
    pub net: Rng,
    pub disk: Rng,
    pub load: Rng,
    pub fault: Rng,
    pub seeds: Rng,
    pub engine: Rng,
}

/// A read that a client waits for.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub shard: ShardId,
    pub node: usize,
    pub mode: ReadMode,
    /// What a client knew applied when it asked.
    pub floor: u64,
    /// The turn in which raft was asked: an answer of the same turn needed no message.
    pub pass: u64,
}

/// What became of a proposal's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Unknown,
    /// Raft said that it is not in the log and never will be.
    Rejected,
    Committed,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    /// True time, ns.
    pub now: u64,
    heap: BinaryHeap<Reverse<Due>>,
    pub nodes: Vec<Node>,
    pub links: Vec<Link>,
    pub link_at: Vec<Vec<usize>>,
    pub oracle: Oracle,
    pub rng: Streams,
    pub reads: BTreeMap<u64, Read>,
    /// By token.
    pub fates: Vec<Fate>,
    pub next_read: u64,
    pub cover: Cover,
    pub healing: bool,
    /// Nodes that stay dead after healing.
    pub dead: Vec<bool>,
    pub hash: u64,
    /// Lines are printed as things happen.
    pub trace: bool,
    pub failed: Option<Violation>,
    /// By shard: who founded it.
    pub founders: Vec<Vec<u8>>,
    /// By shard: the latest configuration that somebody applied.
    pub confs: Vec<bowline_raft::Configuration>,
    /// By shard, of every replica that ever was: node.
    pub homes: Vec<BTreeMap<ReplicaId, usize>>,
    /// Old messages, for those that come again.
    pub stale: Vec<(usize, super::node::Parcel)>,
    /// Whether the engine spreads members and compacts by itself.
    pub keeps: bool,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let seed = plan.seed;
        let named = |name| Rng::named(seed, name);
        let rng = Streams {
            tie: named("tie"),
            net: named("net"),
            disk: named("disk"),
            load: named("load"),
            fault: named("fault"),
            seeds: named("seeds"),
            engine: named("engine"),
        };
        let (nodes, shards) = (plan.nodes, plan.shards);
        let mut world = Self {
            now: 0,
            heap: BinaryHeap::new(),
            nodes: Vec::new(),
            links: Vec::new(),
            link_at: Vec::new(),
            oracle: Oracle::new(shards),
            rng,
            reads: BTreeMap::new(),
            fates: vec![Fate::Rejected],
            next_read: 1,
            cover: Cover::default(),
            healing: false,
            dead: vec![false; nodes],
            hash: seed,
            trace: false,
            failed: None,
            founders: Vec::new(),
            confs: Vec::new(),
            homes: vec![BTreeMap::new(); shards],
            stale: Vec::new(),
            keeps: true,
            plan,
        };
        world.found();
        world.wire();
        world
    }

    /// Schedules an event.
    pub fn at(&mut self, at: u64, event: Event) {
        let tie = self.rng.tie.draw();
        self.heap.push(Reverse(Due { at: at.max(self.now), tie, event }));
    }

    /// Takes the next event; false if there is none before `until`.
    pub fn step(&mut self, until: u64) -> bool {
        let Some(Reverse(due)) = self.heap.peek() else { return false };
        if due.at > until {
            self.now = until.max(self.now);
            return false;
        }
        let Reverse(due) = self.heap.pop().expect("it was there");
        self.now = due.at;
        self.handle(due.event);
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Pass { node, core, boot } => {
                let due = self.nodes[node].cores.get(core).is_some_and(|c| c.pass_at == self.now);
                if self.lives(node, boot) && due {
                    self.turn(node, core);
                }
            },
            Event::EndTurn { node, core, boot } => {
                if self.lives(node, boot) && self.nodes[node].cores[core].stalled {
                    self.end_turn(node, core);
                }
            },
            Event::Arrive { link, end, life } => self.handle_arrive(link, end, life),
            Event::Dial { link } => self.handle_dial(link),
            Event::Told { link, end, life } => self.handle_told(link, end, life),
            Event::GiveUp => self.give_up_blocked(),
            Event::Bulk(bulk) => self.handle_bulk(*bulk),
            Event::Written { node, boot, core, stream, lsn } => {
                if self.lives(node, boot) {
                    self.handle_written(node, core, stream, lsn);
                }
            },
            Event::Reopen { node, boot, core, stream } => {
                if self.lives(node, boot) {
                    self.reopen_stream(node, core, stream);
                }
            },
            Event::Restart { node } => self.restart(node),
            Event::Fault(class) => self.fault(class),
            Event::Mend(mend) => self.mend(mend),
            Event::Load => self.load(),
            Event::Keep => self.keep(),
        }
    }

    /// Whether a node is in the life with this number.
    pub fn lives(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].alive && self.nodes[node].boot == boot
    }

    /// A core has something to do.
    pub fn wake(&mut self, node: usize, core: usize) {
        let delay = 2 * MICRO + self.rng.tie.below(40 * MICRO);
        self.wake_at(node, core, self.now + delay);
    }

    pub fn wake_at(&mut self, node: usize, core: usize, at: u64) {
        let boot = self.nodes[node].boot;
        let turn = &mut self.nodes[node].cores[core];
        let at = at.max(turn.paused_until).max(self.now);
        if self.nodes[node].alive && at < self.nodes[node].cores[core].pass_at {
            self.nodes[node].cores[core].pass_at = at;
            self.at(at, Event::Pass { node, core, boot });
        }
    }

    /// Takes something into the hash of the run, and prints it if asked.
    pub fn note(&mut self, what: &str, a: u64, b: u64, c: u64) {
        let word = mix(self.now) ^ a.wrapping_mul(3) ^ b.wrapping_mul(5) ^ c.wrapping_mul(7);
        let kind = what.as_bytes().iter().fold(0, |sum, byte| sum * 31 + u64::from(*byte));
        self.hash = mix(self.hash ^ word ^ kind << 32);
        if self.trace {
            println!("{:>14} {what} {a} {b} {c}", micros(self.now));
        }
    }

    /// Prints a line of the trace.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>14} {}", micros(self.now), line());
        }
    }

    /// The first violation counts.
    pub fn judge(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.tell(|| format!("VIOLATION {violation}"));
            self.failed.get_or_insert(violation);
        }
    }
}

fn micros(nanos: u64) -> String {
    format!("{}.{:03}us", nanos / 1_000, nanos % 1_000)
}
