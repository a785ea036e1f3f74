//! Three nodes with one core each and many shards, joined by lanes: everything sent arrives a
//! millisecond later, everything written is durable a millisecond later, unless it is said
//! otherwise. Logs keep terms alone.

use std::collections::VecDeque;

use bowline_raft::{
    Apply, Batch, BatchHeader, BootTime, Configuration, CoreConfig, Damage, HardState, LaneEvent,
    LaneNo, LaneWhat, Log, LogIndex, Lsn, Member, Message, NewBatch, NodeId, Origin, Outbox, Part,
    Phase, Place, RaftCore, Received, Record, Recovered, Refused, ReplicaId, Role, ShardId, Slot,
    StreamNo, Term, Verdict,
};

/// Nanoseconds of a millisecond.
pub const MILLI: u64 = 1_000_000;
const NODES: usize = 3;
const STREAM: StreamNo = StreamNo(0);
const BODY: [u8; 16] = [0; 16];

/// One replica's log: the term of each entry.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    hard: HardState,
    terms: Vec<Term>,
}

/// The log of a core.
#[derive(Debug, Default)]
pub struct TermLog {
    lsn: u64,
    slots: Vec<Terms>,
}

impl TermLog {
    fn at(&mut self, place: Place) -> &mut Terms {
        let nth = usize::try_from(place.slot.0).unwrap();
        if self.slots.len() <= nth {
            self.slots.resize(nth + 1, Terms::default());
        }
        self.lsn += 1;
        &mut self.slots[nth]
    }

    fn terms(&self, slot: Slot) -> &[Term] {
        self.slots.get(usize::try_from(slot.0).unwrap()).map_or(&[], |slot| &slot.terms)
    }
}

fn nth(index: LogIndex) -> usize {
    usize::try_from(index.0).unwrap()
}

impl Log for TermLog {
    fn append(&mut self, batch: NewBatch<'_>) -> Result<Lsn, Refused> {
        let log = self.at(batch.at);
        log.terms.resize(nth(batch.first) - 1 + usize::try_from(batch.count).unwrap(), batch.term);
        Ok(Lsn(self.lsn))
    }

    fn accept(&mut self, at: Place, batch: &Batch<'_>) -> Result<Lsn, Refused> {
        let log = self.at(at);
        log.terms.truncate(nth(batch.head.first) - 1);
        log.terms.resize(nth(batch.head.last()), batch.head.term);
        Ok(Lsn(self.lsn))
    }

    fn stage(&mut self, at: Place, record: Record) -> Result<Lsn, Refused> {
        let log = self.at(at);
        if let Record::HardState(hard) = record {
            log.hard = hard;
        }
        Ok(Lsn(self.lsn))
    }

    fn term_at(&self, at: Place, index: LogIndex) -> Option<Term> {
        if index.0 == 0 {
            return Some(Term(0));
        }
        self.terms(at.slot).get(nth(index) - 1).copied()
    }

    fn cached(&self, at: Place, _from: LogIndex, _bytes_max: u32) -> Option<(LogIndex, u32)> {
        let last = self.terms(at.slot).len();
        Some((LogIndex(u64::try_from(last).unwrap()), 16))
    }

    fn bytes(&self, _at: Place, from: LogIndex, to: LogIndex) -> u64 {
        (to.0 + 1).saturating_sub(from.0) * 16
    }
}

/// Something on its way.
#[derive(Clone, Debug)]
enum Packet {
    Lane(LaneWhat),
    Message(Message, Vec<BatchHeader>),
}

/// One process.
#[derive(Debug)]
pub struct Node {
    /// Its core.
    pub core: RaftCore,
    /// Its log.
    pub log: TermLog,
    /// What the latest pass put out.
    pub out: Outbox,
    /// Whether its disk completes nothing.
    pub hangs: bool,
    /// Whether its process runs.
    pub alive: bool,
    boot: u64,
    durable: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Cluster {
    /// By number, from 0; node ids and replica ids are one higher.
    pub nodes: Vec<Node>,
    /// The time.
    pub now: u64,
    /// `cut[from][to]`: what is sent is lost, and nobody is told.
    pub cut: [[bool; NODES]; NODES],
    /// Messages of replicas that were delivered.
    pub messages: u64,
    /// Packets that are no messages of replicas.
    pub lane_packets: u64,
    config: CoreConfig,
    shards: u32,
    life: u32,
    linked: [[bool; NODES]; NODES],
    lives: [[u32; NODES]; NODES],
    wires: VecDeque<(u64, usize, usize, Packet)>,
}

fn founding() -> Configuration {
    let member = |id: u64| Member {
        node: NodeId(id),
        replica: ReplicaId(id),
        before: Part::Voter,
        after: Part::Voter,
        priority: 0,
        auto_promote: false,
    };
    Configuration {
        phase: Phase::Stable,
        auto_leave: false,
        epoch: 1,
        next_replica: ReplicaId(4),
        generation: 0,
        members: (1..=3).map(member).collect(),
        note: Vec::new(),
    }
}

fn id(node: usize) -> u64 {
    u64::try_from(node).unwrap() + 1
}

fn lane(node: usize) -> LaneNo {
    LaneNo(u16::try_from(node).unwrap())
}

fn open(core: &mut RaftCore, log: &mut TermLog, node: usize, shard: u32) -> Slot {
    let conf = founding().encode().unwrap();
    let old = log.slots.get(usize::try_from(shard).unwrap()).cloned().unwrap_or_default();
    let recovered = Recovered {
        shard: ShardId(u64::from(shard)),
        replica: ReplicaId(id(node)),
        stream: STREAM,
        hard_state: HardState { commit: LogIndex(0), ..old.hard },
        first: LogIndex(1),
        prev_term: Term(0),
        last: LogIndex(u64::try_from(old.terms.len()).unwrap()),
        last_term: old.terms.last().copied().unwrap_or_default(),
        applied: LogIndex(0),
        applied_term: Term(0),
        conf: &conf,
        confs: &[],
        damage: Damage::Normal,
    };
    core.open(recovered, log).unwrap()
}

impl Cluster {
    /// Starts three nodes with `shards` empty shards each, and their lanes.
    pub fn new(shards: u32, config: CoreConfig) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            now: 1_000 * MILLI,
            cut: [[false; NODES]; NODES],
            messages: 0,
            lane_packets: 0,
            config,
            shards,
            life: 0,
            linked: [[false; NODES]; NODES],
            lives: [[0; NODES]; NODES],
            wires: VecDeque::new(),
        };
        for node in 0..NODES {
            let started = cluster.process(node, 1, TermLog { lsn: 1, slots: Vec::new() }, config);
            cluster.nodes.push(started);
        }
        cluster.link_all();
        cluster
    }

    fn process(&self, node: usize, boot: u64, mut log: TermLog, config: CoreConfig) -> Node {
        let mut core = RaftCore::new(config, id(node) * 1_000 + boot);
        core.begin_pass(BootTime(self.now), &mut Outbox::default());
        for shard in 0..self.shards {
            assert_eq!(open(&mut core, &mut log, node, shard), Slot(shard));
        }
        let out = Outbox::default();
        Node { core, durable: log.lsn, log, out, hangs: false, alive: true, boot }
    }

    /// Ends a process; its lanes are gone.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node].alive = false;
        for peer in (0..NODES).filter(|peer| *peer != node) {
            self.unlink(node, peer);
        }
    }

    /// Starts a process on the log of the one that ended. It keeps its promises by silence.
    pub fn restart(&mut self, node: usize) {
        let boot = self.nodes[node].boot + 1;
        let log = std::mem::take(&mut self.nodes[node].log);
        let quiet_until = BootTime(self.now + self.config.times.support);
        let config = CoreConfig { quiet_until, ..self.config };
        self.nodes[node] = self.process(node, boot, log, config);
    }

    /// Opens a shard again that was closed on a node that runs.
    pub fn reopen(&mut self, node: usize, shard: u32) {
        let Node { core, log, .. } = &mut self.nodes[node];
        open(core, log, node, shard);
    }

    /// Connects all that are alive and not connected.
    pub fn link_all(&mut self) {
        for a in 0..NODES {
            for b in a + 1..NODES {
                if self.nodes[a].alive && self.nodes[b].alive && !self.linked[a][b] {
                    self.link(a, b);
                }
            }
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        self.life += 1;
        for (node, peer) in [(a, b), (b, a)] {
            self.linked[node][peer] = true;
            self.lives[node][peer] = self.life;
            let up = LaneEvent::Up {
                node: NodeId(id(peer)),
                core: 0,
                boot: self.nodes[peer].boot,
                life: self.life,
            };
            self.lane_event(node, peer, up);
        }
    }

    /// Cuts a lane; both ends are told, and what is on its way is lost.
    pub fn unlink(&mut self, a: usize, b: usize) {
        for (node, peer) in [(a, b), (b, a)] {
            if std::mem::take(&mut self.linked[node][peer]) && self.nodes[node].alive {
                self.lane_event(node, peer, LaneEvent::Down);
            }
        }
        self.wires.retain(|(_, from, to, _)| !(*from == a && *to == b || *from == b && *to == a));
    }

    /// Something happens on the lane of `node` to `peer`.
    pub fn lane_event(&mut self, node: usize, peer: usize, event: LaneEvent<'_>) {
        let Node { core, log, out, .. } = &mut self.nodes[node];
        core.handle_lane(lane(peer), event, log, out);
    }

    /// Lets `millis` milliseconds pass, a pass of each node in each.
    pub fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now += MILLI;
            for node in 0..NODES {
                if self.nodes[node].alive {
                    self.pass(node);
                }
            }
        }
    }

    fn pass(&mut self, node: usize) {
        let now = BootTime(self.now);
        let Node { core, out, .. } = &mut self.nodes[node];
        core.begin_pass(now, out);
        if !self.nodes[node].hangs {
            let Node { core, out, durable, log, .. } = &mut self.nodes[node];
            core.handle_durable(STREAM, Lsn(*durable), out);
            *durable = log.lsn;
        }
        let due: Vec<_> = {
            let count = self.wires.iter().take_while(|wire| wire.0 <= self.now).count();
            let mine = |wire: &(u64, usize, usize, Packet)| wire.2 == node;
            let mut due = Vec::new();
            for _ in 0..count {
                let wire = self.wires.pop_front().unwrap();
                if mine(&wire) { due.push(wire) } else { self.wires.push_back(wire) }
            }
            self.wires.make_contiguous().sort_by_key(|wire| wire.0);
            due
        };
        for (_, from, _, packet) in due {
            self.deliver(from, node, packet);
        }
        let Node { core, log, out, .. } = &mut self.nodes[node];
        core.handle_timer(100_000, log, out);
        core.flush_pass(now, log, out);
        self.drain(node);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow")]
    fn deliver(&mut self, from: usize, to: usize, packet: Packet) {
        let life = self.lives[from][to];
        match packet {
            Packet::Lane(what) => {
                self.lane_packets += 1;
                let event = match &what {
                    LaneWhat::Liveness(beat) => LaneEvent::Liveness(*beat),
                    LaneWhat::LivenessReply(beat) => LaneEvent::LivenessReply(*beat),
                    LaneWhat::Digest(digest) => LaneEvent::Digest(*digest),
                    LaneWhat::ShardsWanted => LaneEvent::ShardsWanted,
                    LaneWhat::Rows { rows, last } => LaneEvent::Rows { rows, last: *last },
                    _ => unreachable!("no lane is reset here"),
                };
                self.lane_event(to, from, event);
            },
            Packet::Message(message, heads) => {
                self.messages += 1;
                let batches: Vec<_> =
                    heads.iter().map(|head| Batch { head: *head, body: &BODY }).collect();
                let origin = Origin { node: NodeId(id(from)), lane: Some(lane(from)), life };
                let received = Received { message: &message, batches: &batches };
                let Node { core, log, out, .. } = &mut self.nodes[to];
                let verdict = core.handle_message(origin, received, log, out);
                assert!(!matches!(verdict, Verdict::NoRoom), "the log has room");
            },
        }
    }

    fn drain(&mut self, node: usize) {
        let mut out = std::mem::take(&mut self.nodes[node].out);
        let due = self.now + MILLI;
        for send in out.lane.drain(..) {
            self.send(due, node, usize::from(send.lane.0), Packet::Lane(send.what));
        }
        for send in out.send.drain(..) {
            let to = usize::try_from(send.node.0).unwrap() - 1;
            let terms = self.nodes[node].log.terms(send.slot);
            let heads = send.entries.map_or_else(Vec::new, |entries| {
                let head = |index: u64| BatchHeader {
                    shard: send.message.shard,
                    first: LogIndex(index),
                    term: terms[nth(LogIndex(index)) - 1],
                    count: 1,
                    len: 16,
                    ..BatchHeader::default()
                };
                (entries.from.0..=entries.to.0).map(head).collect()
            });
            self.send(due, node, to, Packet::Message(send.message, heads));
        }
        for apply in out.apply.drain(..) {
            if let Apply::Range { slot, to, .. } = apply {
                self.nodes[node].core.handle_applied(slot, to);
            }
        }
        self.nodes[node].out = out;
    }

    fn send(&mut self, due: u64, from: usize, to: usize, packet: Packet) {
        if self.linked[from][to] && !self.cut[from][to] {
            self.wires.push_back((due, from, to, packet));
        }
    }

    /// Shards that a node leads.
    pub fn led(&self, node: usize) -> u32 {
        let core = &self.nodes[node].core;
        let leads = |slot: &u32| core.view(Slot(*slot)).role == Role::Leader;
        u32::try_from((0..self.shards).filter(leads).count()).unwrap()
    }

    /// Who leads a shard, in the highest term.
    pub fn leader(&self, shard: u32) -> Option<usize> {
        let alive = (0..NODES).filter(|node| self.nodes[*node].alive);
        let views = alive.map(|node| (node, self.nodes[node].core.view(Slot(shard))));
        let led = views.filter(|(_, view)| view.role == Role::Leader);
        led.max_by_key(|(_, view)| view.term).map(|(node, _)| node)
    }

    /// Runs until every shard has a leader among the living. The milliseconds it took.
    pub fn elect(&mut self, millis_max: u64) -> u64 {
        for millis in 0..millis_max {
            if (0..self.shards).all(|shard| self.leader(shard).is_some()) {
                return millis;
            }
            self.run(1);
        }
        let missing = (0..self.shards).filter(|shard| self.leader(*shard).is_none()).count();
        assert_eq!(missing, 0, "shards without a leader after {millis_max} ms");
        millis_max
    }

    /// Checks every rule of every core.
    pub fn check(&self) {
        for node in self.nodes.iter().filter(|node| node.alive) {
            assert_eq!(node.core.check(), Ok(()));
        }
    }

    /// What has happened at all cores: (elections, Appends sent, slots looked at).
    pub fn work(&self) -> (u64, u64, u64) {
        let sum = |of: fn(&bowline_raft::Counters) -> u64| {
            self.nodes.iter().map(|node| of(node.core.counters())).sum()
        };
        (sum(|all| all.elections), sum(|all| all.sent_appends), sum(|all| all.audited))
    }
}
