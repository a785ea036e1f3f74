//! One node of a script: a core, its disk, and the passes in which it is told things.

use std::collections::{BTreeMap, VecDeque};

use bowline_raft::{
    Apply, Batch, BatchHeader, BootTime, Configuration, CoreConfig, Damage, Fetch, Fetched,
    LaneSend, Log, LogIndex, Lsn, Message, NewBatch, NodeId, Outbox, Place, Proposal, RaftCore,
    ReadMode, Record, Recovered, Refused, ReplicaId, Role, Slot, StreamNo, Term,
    batch::{Body, FLAG_CONF, FLAG_NOOP},
};

use super::disk::{Disk, Entry, Manifest, Op, SHARD};

/// The only stream of a node.
const STREAM: StreamNo = StreamNo(0);
/// Passes in a row that still have work.
const PASSES_MAX: usize = 32;

/// A node's disk and its proposals that have no place yet.
#[derive(Debug, Default)]
pub struct NodeLog {
    pub disk: Disk,
    queue: VecDeque<String>,
    pub refuse: Option<Refused>,
    /// The snapshot that is being installed.
    offered: Option<Manifest>,
}

impl NodeLog {
    fn take(&mut self, op: Op) -> Result<Lsn, Refused> {
        self.refuse.map_or(Ok(()), Err)?;
        Ok(Lsn(self.disk.stage(op)))
    }
}

impl Log for NodeLog {
    fn append(&mut self, batch: NewBatch<'_>) -> Result<Lsn, Refused> {
        self.refuse.map_or(Ok(()), Err)?;
        assert_eq!(batch.first.0, self.disk.memory.last() + 1, "a leader appends at the end");
        let mut payloads = vec![batch.payload.to_vec()];
        if batch.proposals > 0 {
            let taken = usize::try_from(batch.proposals).expect("a few");
            payloads = self.queue.drain(..taken).map(String::into_bytes).collect();
        }
        assert_eq!(Ok(payloads.len()), usize::try_from(batch.count), "one entry a proposal");
        let entries = entries(batch.term.0, batch.flags, payloads);
        self.take(Op::Entries { first: batch.first.0, entries })
    }

    fn accept(&mut self, _at: Place, batch: &Batch<'_>) -> Result<Lsn, Refused> {
        if !batch.head.matches(batch.body) {
            return Err(Refused::BadChecksum);
        }
        let body = Body::parse(&batch.head, batch.body).map_err(|_bad| Refused::BadChecksum)?;
        let payloads = (0..body.len()).map(|nth| body.payload(nth).to_vec()).collect();
        let mut entries = entries(batch.head.term.0, batch.head.flags, payloads);
        let floor = self.disk.memory.first - 1;
        let below = (floor + 1).saturating_sub(batch.head.first.0);
        entries.drain(..usize::try_from(below).expect("a short batch").min(entries.len()));
        self.take(Op::Entries { first: batch.head.first.0.max(floor + 1), entries })
    }

    fn stage(&mut self, _at: Place, record: Record) -> Result<Lsn, Refused> {
        self.take(match record {
            Record::HardState(hard) => Op::Hard(hard),
            Record::Compact { first, prev_term } => {
                Op::Compact { first: first.0, prev_term: prev_term.0 }
            },
            Record::Truncate { from } => Op::Truncate { from: from.0 },
            Record::Install { index, term, keep, hard_state } => {
                let manifest = self.offered.clone().expect("only what was offered is installed");
                assert_eq!((manifest.index, manifest.term), (index.0, term.0), "this snapshot");
                Op::Install { manifest, keep, hard: hard_state }
            },
        })
    }

    fn term_at(&self, _at: Place, index: LogIndex) -> Option<Term> {
        self.disk.memory.term_at(index.0).map(Term)
    }

    fn cached(&self, _at: Place, from: LogIndex, bytes_max: u32) -> Option<(LogIndex, u32)> {
        let warm = from.0 > self.disk.cold;
        let cached = warm.then(|| self.disk.memory.cached(from.0, bytes_max)).flatten();
        cached.map(|(to, bytes)| (LogIndex(to), bytes))
    }

    fn bytes(&self, _at: Place, from: LogIndex, to: LogIndex) -> u64 {
        (to.0 + 1).saturating_sub(from.0) * 64
    }
}

fn entries(term: u64, flags: u16, payloads: Vec<Vec<u8>>) -> Vec<Entry> {
    let payloads = payloads.into_iter().enumerate();
    payloads.map(|(nth, payload)| Entry { term, flags, payload, begins: nth == 0 }).collect()
}

/// A message under way, with the bodies that go along.
#[derive(Clone, Debug)]
pub struct Packet {
    pub message: Message,
    pub batches: Vec<(BatchHeader, Vec<u8>)>,
    /// The life of the lane it was sent in; 0: it goes another way.
    pub life: u32,
}

/// A process and its disk.
#[derive(Debug)]
pub struct Node {
    pub id: u64,
    pub founding: Vec<u8>,
    /// None: it is not running.
    pub core: Option<RaftCore>,
    pub slot: Slot,
    pub out: Outbox,
    pub log: NodeLog,
    pub now: u64,
    pub boot: u64,
    pub damage: Damage,
    /// Every write is durable at once.
    pub fast: bool,
    /// What was handed out and is not applied: the state machine is held.
    pub slow: Option<Vec<Apply>>,
    names: Vec<String>,
    /// What happened since this was last drained.
    pub told: Vec<String>,
    pub sent: Vec<(u64, Packet)>,
    pub beats: Vec<LaneSend>,
    pub led: Vec<Term>,
    /// What is being read from disk, by peer.
    fetches: BTreeMap<u64, Fetch>,
    /// Messages that had to wait for a write so far.
    held: u64,
}

impl Node {
    pub fn new(id: u64, founding: &Configuration, fast: bool) -> Self {
        let founding = founding.encode().expect("a founding configuration is valid");
        let mut log = NodeLog::default();
        log.disk.found(&founding);
        Self {
            id,
            founding,
            core: None,
            slot: Slot(0),
            out: Outbox::default(),
            log,
            now: 1_000_000_000,
            boot: 0,
            damage: Damage::Normal,
            fast,
            slow: None,
            names: Vec::new(),
            told: Vec::new(),
            sent: Vec::new(),
            beats: Vec::new(),
            led: Vec::new(),
            fetches: BTreeMap::new(),
            held: 0,
        }
    }

    /// Starts a process over what is on the disk.
    pub fn start(&mut self, config: CoreConfig) -> Result<(), String> {
        self.boot += 1;
        let image = &self.log.disk.memory;
        let fresh = image.hard.term == Term(0) && image.last() == 0;
        let quiet_until = if fresh { 0 } else { self.now + config.times.support };
        let config = CoreConfig { quiet_until: BootTime(quiet_until), ..config };
        let mut core = RaftCore::new(config, self.id * 100 + self.boot);
        core.begin_pass(BootTime(self.now), &mut self.out);
        let confs = image.confs();
        let confs: Vec<_> =
            confs.iter().map(|(at, conf)| (LogIndex(*at), conf.as_slice())).collect();
        let manifest = image.manifest.clone();
        let recovered = Recovered {
            shard: SHARD,
            replica: ReplicaId(self.id),
            stream: STREAM,
            hard_state: image.hard,
            first: LogIndex(image.first),
            prev_term: Term(image.prev_term),
            last: LogIndex(image.last()),
            last_term: Term(image.term_at(image.last()).expect("the last one")),
            applied: LogIndex(manifest.index),
            applied_term: Term(manifest.term),
            conf: &manifest.conf,
            confs: &confs,
            damage: self.damage,
        };
        self.held = 0;
        self.slot = core.open(recovered, &mut self.log).map_err(|error| error.to_string())?;
        self.core = Some(core);
        self.pass(|_, _, _| ());
        Ok(())
    }

    /// The power is gone: what is not durable is lost.
    pub fn crash(&mut self) {
        self.core = None;
        self.out.clear();
        self.log.queue.clear();
        self.log.refuse = None;
        self.log.disk.crash();
        self.slow = None;
    }

    /// A pass in which `act` happens, and those after it that still have work.
    pub fn pass(&mut self, act: impl FnOnce(&mut RaftCore, &mut NodeLog, &mut Outbox)) {
        let Some(core) = self.core.as_mut() else { return };
        core.begin_pass(BootTime(self.now), &mut self.out);
        act(core, &mut self.log, &mut self.out);
        self.flush();
        for _ in 0..PASSES_MAX {
            let disk = &self.log.disk;
            let syncs = self.fast && disk.durable < disk.staged;
            let core = self.core.as_mut().expect("it runs");
            if syncs {
                self.log.disk.sync(self.log.disk.staged);
                core.handle_durable(STREAM, Lsn(self.log.disk.durable), &mut self.out);
            } else if !core.has_work() {
                break;
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        let core = self.core.as_mut().expect("it runs");
        core.flush_pass(BootTime(self.now), &mut self.log, &mut self.out);
        let rule = core.check();
        assert_eq!(rule, Ok(()), "node {} after {:?}", self.id, self.told);
        self.told.append(&mut self.log.disk.told);
        self.tell_held();
        self.drain_sends();
        self.drain_apply();
        self.drain_answers();
    }

    /// Tells which messages wait for which write.
    fn tell_held(&mut self) {
        let core = self.core.as_ref().expect("it runs");
        let now = core.counters().held;
        let new = usize::try_from(now - self.held).expect("a few");
        self.held = now;
        let held: Vec<_> = core.held().collect();
        for (_, lsn, send) in &held[held.len().saturating_sub(new)..] {
            let line = super::show::message(&send.message, &[]);
            let (from, to) = (self.id, send.node);
            self.told.push(format!("holds {from}->{to} {line} until #{lsn} is durable"));
        }
    }

    fn drain_sends(&mut self) {
        self.beats.append(&mut self.out.lane);
        for send in self.out.send.drain(..) {
            let batches = send.entries.map_or(Vec::new(), |entries| {
                self.log.disk.memory.batches(entries.from.0, entries.to.0)
            });
            let packet = Packet { message: send.message, batches, life: 0 };
            self.sent.push((send.node.0, packet));
        }
        for fetch in self.out.fetch.drain(..) {
            self.told.push(format!("reads from {} on for {}", fetch.from, fetch.peer));
            self.fetches.insert(fetch.peer.0, fetch);
        }
        for want in self.out.snapshot.drain(..) {
            self.told.push(format!("offers a snapshot to {} above {}", want.peer, want.floor));
        }
    }

    fn drain_apply(&mut self) {
        let ranges: Vec<_> = self.out.apply.drain(..).collect();
        if let Some(slow) = self.slow.as_mut() {
            slow.extend(ranges);
            return;
        }
        for range in ranges {
            self.apply(range);
        }
    }

    /// The state machine takes what was handed out.
    pub fn apply(&mut self, range: Apply) {
        let index = match range {
            Apply::Range { from, to, .. } => {
                let said = (from.0..=to.0).map(|index| self.said(index));
                let said = said.collect::<Vec<_>>().join(", ");
                self.told.push(format!("applies {said}"));
                to
            },
            Apply::Install { index, .. } => {
                self.told.push(format!("becomes the snapshot of {index}"));
                index
            },
            other => unreachable!("{other:?}"),
        };
        let core = self.core.as_mut().expect("it runs");
        core.handle_applied(self.slot, index);
    }

    /// `2 x`: an entry and what it says.
    fn said(&self, index: u64) -> String {
        let entry = self.log.disk.memory.entry(index).expect("only entries of the log are applied");
        match entry.flags {
            FLAG_NOOP => format!("{index} noop"),
            FLAG_CONF => format!("{index} conf"),
            _ => format!("{index} {}", String::from_utf8_lossy(&entry.payload)),
        }
    }

    fn drain_answers(&mut self) {
        for accepted in self.out.accepted.drain(..) {
            let name = name_of(&self.names, accepted.token);
            self.told.push(format!("takes {name} at {}@{}", accepted.first, accepted.term));
        }
        for rejected in self.out.rejected.drain(..) {
            let name = self.log.queue.pop_front().expect("it waited");
            assert_eq!(name, name_of(&self.names, rejected.token), "in the order of propose");
            self.told.push(format!("turns {name} away: {}", rejected.why));
        }
        for read in self.out.reads.drain(..) {
            let name = name_of(&self.names, read.token);
            self.told.push(format!("serves {name} at {}", read.index));
        }
        for read in self.out.reads_rejected.drain(..) {
            let name = name_of(&self.names, read.token);
            self.told.push(format!("turns {name} away: {}", read.why));
        }
        for role in self.out.role.drain(..) {
            let leader = role.leader.map_or(String::new(), |leader| format!(", leader {leader}"));
            self.told.push(format!("is {} of term {}{leader}", shown(role.role), role.term));
            if role.role == Role::Leader {
                self.led.push(role.term);
            }
        }
        for event in self.out.event.drain(..) {
            self.told.push(format!("event {:?}", event.reason));
        }
    }

    pub fn propose(&mut self, name: &str) -> Result<(), String> {
        let bytes = bowline_raft::batch::entry_len(name.len());
        let bytes = u32::try_from(bytes).expect("a short name");
        let proposal = Proposal { count: 1, bytes, token: self.token(name) };
        let core = self.core.as_mut().ok_or("it is not running")?;
        core.propose(self.slot, proposal).map_err(|error| error.to_string())?;
        self.log.queue.push_back(name.to_owned());
        Ok(())
    }

    /// Returns the name that the answer will have.
    pub fn read(&mut self, mode: ReadMode) -> Result<String, String> {
        let name = format!("read-{}", self.names.len());
        let token = self.token(&name);
        let core = self.core.as_mut().ok_or("it is not running")?;
        core.read(self.slot, mode, token).map_err(|error| error.to_string())?;
        Ok(name)
    }

    fn token(&mut self, name: &str) -> u64 {
        self.names.push(name.to_owned());
        u64::try_from(self.names.len() - 1).expect("a few")
    }

    /// The writes up to `lsn` are durable; none: all.
    pub fn durable(&mut self, lsn: Option<u64>) {
        self.log.disk.sync(lsn.unwrap_or(self.log.disk.staged));
        self.report(self.log.disk.durable);
    }

    /// One write is complete, whatever is before it.
    pub fn complete(&mut self, lsn: u64) {
        self.log.disk.complete(lsn);
        self.report(self.log.disk.durable);
    }

    /// Raft is told of an LSN.
    pub fn report(&mut self, lsn: u64) {
        self.pass(|core, _, out| core.handle_durable(STREAM, Lsn(lsn), out));
    }

    pub fn fail(&mut self) {
        self.log.refuse = Some(Refused::Poisoned);
        self.pass(|core, _, out| core.handle_stream_failed(STREAM, out));
    }

    /// The clock goes on to `now` and the timers are looked at.
    pub fn timer(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.pass(|core, log, out| core.handle_timer(1_024, log, out));
    }

    /// The state machine writes a manifest of what is applied.
    pub fn flush_state(&mut self) {
        let Some(core) = self.core.as_ref() else { return };
        let applied = core.view(self.slot).applied.0;
        self.log.disk.manifest(applied);
        self.pass(|_, _, _| ());
    }

    /// Entries up to `to` were read for a peer, or could not be.
    pub fn fetched(&mut self, peer: u64, to: Option<u64>) -> Result<(), String> {
        let fetch = self.fetches.remove(&peer).ok_or("nothing is being read for it")?;
        let (peer, from) = (fetch.peer, fetch.from);
        let got = to.map_or(Fetched::Failed { peer }, |to| {
            let to = LogIndex(to);
            Fetched::Entries { peer, from, to, bytes: 64 }
        });
        self.pass(|core, log, out| core.handle_fetched(fetch.slot, got, log, out));
        Ok(())
    }

    /// A snapshot arrived and is whole; a node, or whoever is known to lead, offered it.
    pub fn install(&mut self, manifest: &Manifest, from: Option<u64>) -> String {
        self.log.offered = Some(manifest.clone());
        let mut verdict = String::new();
        let slot = self.slot;
        self.pass(|core, log, out| {
            let view = core.view(slot);
            let from = from.map_or_else(|| view.leader.unwrap_or(view.replica), ReplicaId);
            let ready = bowline_raft::SnapshotEvent::Ready {
                index: LogIndex(manifest.index),
                term: Term(manifest.term),
                conf: &manifest.conf,
                from: (from, NodeId(from.0)),
            };
            verdict = format!("{:?}", core.handle_snapshot(slot, ready, log, out));
        });
        verdict
    }

    /// The replica in one line.
    pub fn state(&self) -> String {
        let Some(core) = self.core.as_ref() else {
            return format!("{} is down, log {}", self.id, self.log.disk.memory.runs());
        };
        let view = core.view(self.slot);
        let mut words = vec![
            format!("{} {} term {} vote {}", self.id, shown(view.role), view.term, view.vote),
            view.leader.map_or_else(String::new, |leader| format!("leader {leader}")),
            format!("commit {} applied {} durable {}", view.commit, view.applied, view.durable),
            format!("log {}", self.log.disk.memory.runs()),
        ];
        if view.conf_index.0 != 0 {
            let conf = view.conf.map_or_else(String::new, super::show::conf);
            words.push(format!("conf {}: {conf}", view.conf_index));
        }
        if view.damage != Damage::Normal {
            words.push(format!("{:?}", view.damage));
        }
        if !view.open {
            words.push("closed".to_owned());
        }
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }

    /// What a leader knows of the others.
    pub fn progress(&self) -> Vec<String> {
        let Some(core) = self.core.as_ref() else { return Vec::new() };
        let members = core.view(self.slot).conf.map_or(&[][..], |conf| conf.members.as_slice());
        let others = members.iter().map(|member| member.replica).filter(|it| it.0 != self.id);
        let shown = others.filter_map(|peer| {
            let progress = core.progress(self.slot, peer)?;
            let quorum = if progress.no_quorum { ", no quorum" } else { "" };
            let supports = if progress.supports { ", supports" } else { "" };
            Some(format!(
                "{} of {peer}: {}, matched {}, next {}, {} unanswered{quorum}{supports}",
                self.id, progress.pace, progress.matched, progress.next, progress.waiting
            ))
        });
        shown.collect()
    }

    pub fn node_id(&self) -> NodeId {
        NodeId(self.id)
    }
}

fn name_of(names: &[String], token: u64) -> &str {
    &names[usize::try_from(token).expect("a few")]
}

fn shown(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}
