//! A shard's state as a whole, from one replica to another.
//!
//! ```text
//! leader                                   follower
//! SnapWant -> OFFER{manifest} ----------->  task: for each section that is not here
//! read a piece <------------------ WANT       .tmp <- CHUNK <- CHUNK ..
//! CHUNK{bytes} -------------------------->  opened, checked -> raft: Ready -> manifest and log in
//! let go <------------------------- END     one frame -> the new state takes the old one's place
//! ```
//!
//! Frames go over the lane of the shard, one chunk at a time ahead of messages
//! (`docs/decisions/0015`). What was received of a section stays when the lane breaks, and
//! for the next offer when the sender is lost.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bowline_env::{Class, Env, Nanos, SharedBuf};
use bowline_net::{Bulk, CHUNK_MAX, Control, Received};
use bowline_raft::{
    LogIndex, Lsn, NodeId, ReplicaId, ShardId, Slot, SnapWant, SnapshotEvent, Verdict,
};
use bowline_statemachine::manifest::Manifest;
use bowline_statemachine::store::Section;
use bowline_statemachine::transfer::Snapshot;
use bowline_statemachine::{Damage, Machine, Pressure};
use bowline_wal::LogStorage;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::gate::Gate;
use super::logs::place;
use super::mail::Event;
use super::run::Core;

mod install;
mod kept;
mod receive;

use kept::Leftovers;
pub(super) use receive::Slate;
use receive::{Outcome, Receiving};

/// Transfers that a core receives at a time.
const INCOMING_MAX: usize = 4;
/// Pieces that a receiver has asked for and not got.
pub(super) const WANTS_MAX: usize = 3;
/// A transfer that nobody asks about for so long is let go.
const PATIENCE: Nanos = Nanos(60_000_000_000);
/// What was not sent at the given rate may be sent later: so much of the time counts.
const CATCH_UP: Nanos = Nanos(50_000_000);
/// A frame's bytes beside a chunk.
const FRAME_OVERHEAD: u32 = 4_096;

/// A state that a peer is being given.
struct Outgoing<E: Env> {
    snapshot: Rc<Snapshot<E>>,
    slot: Slot,
    peer: ReplicaId,
    wants: VecDeque<(u128, u64, u32)>,
    reading: bool,
    ready: Option<(u128, u64, SharedBuf)>,
    /// When the peer was heard last.
    at: Nanos,
}

/// A state that is being received.
struct Incoming<M> {
    node: NodeId,
    /// The replica that offers it.
    from: ReplicaId,
    index: LogIndex,
    chunks: mpsc::Sender<Received>,
    outcome: Outcome<M>,
    gate: Rc<Gate>,
}

/// A received state on its way into the log.
struct Arrived<M> {
    slot: Slot,
    /// Who offered it.
    from: (ReplicaId, NodeId),
    machine: M,
    body: Bytes,
}

/// Sections that only a replaced state had.
struct Gone<E: Env> {
    slot: Slot,
    /// Stream and write that make the next state durable.
    durable: (usize, Lsn),
    sections: Vec<Rc<Section<E>>>,
}

/// A state that raft took.
struct Installing<M> {
    machine: M,
    body: Bytes,
    /// Stream and write that make it durable.
    durable: (usize, Lsn),
}

/// The transfers of a core.
pub(crate) struct Transfers<E: Env, M> {
    out: BTreeMap<(ShardId, NodeId), Outgoing<E>>,
    incoming: BTreeMap<Slot, Incoming<M>>,
    /// Received whole, and refused by a log without room: one a shard at most.
    arrived: Vec<Arrived<M>>,
    /// Given to raft, which has not handed out the install yet.
    installing: BTreeMap<Slot, Installing<M>>,
    /// Sections of replaced states, until the manifest of the next one is durable.
    gone: Vec<Gone<E>>,
    /// Parts of states whose transfer ended half-way.
    leftovers: Rc<Leftovers<E>>,
    /// When the next chunk may be read.
    next_read: Nanos,
}

impl<E: Env, M> Default for Transfers<E, M> {
    fn default() -> Self {
        Self {
            out: BTreeMap::new(),
            incoming: BTreeMap::new(),
            arrived: Vec::new(),
            installing: BTreeMap::new(),
            gone: Vec::new(),
            leftovers: Rc::default(),
            next_read: Nanos(0),
        }
    }
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// A peer needs the state: it is offered what is durable of it.
    pub(crate) fn offer_snapshot(&mut self, want: SnapWant) {
        let SnapWant { slot, peer, node, floor } = want;
        let replica = &self.replicas[place(slot)];
        let (shard, now) = (replica.shard, self.logs.now);
        let known = self.transfers.out.get_mut(&(shard, node));
        let known = known.filter(|it| it.snapshot.manifest.flushed_index >= floor.0);
        let snapshot = match known {
            Some(outgoing) => Some(Rc::clone(&outgoing.snapshot)),
            None => replica.machine.snapshot().map(Rc::new),
        };
        let snapshot = snapshot.filter(|it| it.manifest.flushed_index >= floor.0);
        let Some(snapshot) = snapshot else {
            self.start_job(slot, Pressure::Flush, now);
            self.mail.push(Event::TransferFailed { slot, peer });
            return;
        };
        let from = self.raft.view(slot).replica;
        let manifest = snapshot.manifest.encode();
        let offer = Bulk::Offer { shard, to: peer, from, manifest: &*manifest };
        if !self.send_bulk(node, offer) {
            self.mail.push(Event::TransferFailed { slot, peer });
            return;
        }
        let wants = VecDeque::new();
        let known = self.transfers.out.get_mut(&(shard, node));
        if let Some(known) = known.filter(|it| Rc::ptr_eq(&it.snapshot, &snapshot)) {
            known.at = now;
            return;
        }
        // What was offered before is asked for no more.
        let outgoing =
            Outgoing { snapshot, slot, peer, wants, reading: false, ready: None, at: now };
        self.transfers.out.insert((shard, node), outgoing);
    }

    /// Gives a frame to a lane to `node`; false: there is none, or it takes none now.
    pub(super) fn send_bulk(&mut self, node: NodeId, what: Bulk<&[u8]>) -> bool {
        let now = self.logs.now.0;
        let Some(link) = self.lanes.link_to(node, what.shard()) else { return false };
        let consumed = link.consumed();
        link.sender.control(&Control::Bulk(what), now, consumed);
        true
    }

    /// A frame of a transfer, or about members, came from `node`. False: it has no meaning.
    pub(crate) fn bulk_came(&mut self, node: NodeId, frame: Received) -> bool {
        let taken = frame.frame();
        let Ok(what) = Bulk::decode(&taken) else { return false };
        match what {
            Bulk::Offer { shard, to, from, manifest } => {
                if !self.offered(node, (shard, to, from), manifest) {
                    self.send_bulk(node, Bulk::Refuse { shard, section: 0 });
                }
            },
            Bulk::Want { shard, section, off, len } => {
                self.wanted(node, shard, (section, off, len));
            },
            Bulk::Chunk { shard, bytes, .. } => {
                let len = bytes.len();
                let incoming = self.slot_of(shard).and_then(|at| self.transfers.incoming.get(&at));
                if let Some(incoming) = incoming.filter(|it| it.node == node) {
                    // More than were asked for are dropped; what is missing is asked for again.
                    let over = incoming.chunks.try_send(frame).is_err();
                    self.counters.state_bytes.add(u64::try_from(len).unwrap_or(u64::MAX));
                    tracing::trace!(shard = shard.0, over, "a chunk came");
                }
            },
            Bulk::End { shard, .. } => drop(self.transfers.out.remove(&(shard, node))),
            Bulk::Refuse { shard, section } => {
                if let Some(outgoing) = self.transfers.out.remove(&(shard, node)) {
                    if section != 0 {
                        self.recheck(outgoing.slot, &outgoing.snapshot, section);
                    }
                    let Outgoing { slot, peer, .. } = outgoing;
                    self.mail.push(Event::TransferFailed { slot, peer });
                } else if let Some(slot) = self.slot_of(shard).filter(|_| section != 0) {
                    // The sender has given the offer up; another one comes.
                    self.end_incoming(slot, node);
                }
            },
            Bulk::Ask { .. } | Bulk::Answer { .. } => self.change_came(node, what),
            _ => return false,
        }
        true
    }

    fn end_incoming(&mut self, slot: Slot, node: NodeId) {
        if self.transfers.incoming.get(&slot).is_some_and(|it| it.node == node)
            && let Some(incoming) = self.transfers.incoming.remove(&slot)
        {
            incoming.gate.close();
        }
    }

    /// Whether an offer is taken.
    fn offered(
        &mut self,
        node: NodeId,
        (shard, to, from): (ShardId, ReplicaId, ReplicaId),
        manifest: &[u8],
    ) -> bool {
        let Some(slot) = self.slot_of(shard) else { return false };
        let Ok(offered) = Manifest::decode(manifest) else { return false };
        let view = self.raft.view(slot);
        let member = view.conf.and_then(|conf| conf.member(from));
        let honest = member.is_none_or(|member| member.node == node) && view.replica == to;
        let replica = &self.replicas[place(slot)];
        let index = LogIndex(offered.flushed_index);
        let healthy = replica.closed.is_none();
        // What is damaged may go back to whatever the log goes on from.
        let wanted = if healthy {
            index.0 > replica.machine.applied()
        } else {
            index >= view.floor && self.may_be_repaired(slot)
        };
        if !honest || offered.shard != shard.0 || self.drain.is_some() {
            return false;
        }
        if !wanted {
            if healthy {
                // The leader does not know what is here: raft tells it.
                self.ready(slot, &offered, (from, node));
            }
            return false;
        }
        if offered.version > M::VERSION {
            // Nothing of it could be read here; after an upgrade it is offered again.
            self.close_beyond(slot, offered.version);
            return false;
        }
        if let Some(incoming) = self.transfers.incoming.get(&slot) {
            // The same offer again: what is under way goes on.
            let same = incoming.index == index && incoming.node == node;
            if incoming.node != node && view.leader == Some(from) {
                // The sender leads no more, and may be gone: the next offer finds room.
                let former = incoming.node;
                self.end_incoming(slot, former);
            }
            return same;
        }
        let waits = self.transfers.arrived.iter().any(|it| it.slot == slot);
        if waits || self.transfers.incoming.len() >= INCOMING_MAX {
            return false;
        }
        let frame_max = self.lanes.frame_max_to(node, shard).unwrap_or(0);
        let chunk = u32::try_from(CHUNK_MAX).unwrap_or(u32::MAX);
        let len_max = frame_max.saturating_sub(FRAME_OVERHEAD).min(chunk);
        if len_max == 0 {
            return false;
        }
        tracing::info!(shard = shard.0, peer = node.0, index = index.0, "a state is received");
        self.receive(slot, (node, from), offered, len_max);
        true
    }

    /// Begins to receive a state in pieces of at most `len_max` bytes.
    fn receive(
        &mut self,
        slot: Slot,
        (node, from): (NodeId, ReplicaId),
        offered: Manifest,
        len_max: u32,
    ) {
        let index = LogIndex(offered.flushed_index);
        let (chunks, pieces) = mpsc::channel(WANTS_MAX + 1);
        let outcome = Outcome::default();
        let gate = Rc::new(Gate::default());
        let replica = &self.replicas[place(slot)];
        let receiving = Receiving {
            env: self.env.clone(),
            store: Rc::clone(&self.store),
            mail: Rc::clone(&self.mail),
            held: replica.machine.snapshot().map(|mut here| {
                here.sections.retain(|section| !section.is_damaged());
                here
            }),
            kept: self.transfers.leftovers.take(slot),
            leftovers: Rc::clone(&self.transfers.leftovers),
            offered,
            pieces,
            node,
            slot,
            len_max,
        };
        let incoming = Incoming {
            node,
            from,
            index,
            chunks,
            outcome: Rc::clone(&outcome),
            gate: Rc::clone(&gate),
        };
        drop(self.env.spawn(Class::Background, receiving.run::<M>(gate, outcome)));
        self.transfers.incoming.insert(slot, incoming);
    }

    /// The task of a transfer asks for a piece.
    pub(crate) fn ask_for(&mut self, slot: Slot, node: NodeId, piece: (u128, u64, u32)) {
        let (section, off, len) = piece;
        let shard = self.logs.shard(slot);
        // Without a lane nothing comes; the task asks again.
        self.send_bulk(node, Bulk::Want { shard, section, off, len });
    }

    /// A peer asks for a piece.
    fn wanted(&mut self, node: NodeId, shard: ShardId, want: (u128, u64, u32)) {
        let now = self.logs.now;
        let Some(outgoing) = self.transfers.out.get_mut(&(shard, node)) else {
            self.send_bulk(node, Bulk::Refuse { shard, section: want.0 });
            return;
        };
        outgoing.at = now;
        let fits = usize::try_from(want.2).is_ok_and(|len| len <= CHUNK_MAX);
        if fits && outgoing.wants.len() < WANTS_MAX && !outgoing.wants.contains(&want) {
            outgoing.wants.push_back(want);
        }
    }

    /// Sends what is read, and reads what is wanted next.
    pub(crate) fn pump_transfers(&mut self) {
        if self.transfers.out.is_empty() {
            return;
        }
        let now = self.logs.now;
        for (&(shard, node), outgoing) in &mut self.transfers.out {
            if let Some(link) = self.lanes.link_to(node, shard).filter(|it| it.sender.takes_bulk())
                && let Some((section, off, bytes)) = outgoing.ready.take()
            {
                let consumed = link.consumed();
                let chunk = Bulk::Chunk { shard, section, off, bytes: &*bytes };
                link.sender.control(&Control::Bulk(chunk), now.0, consumed);
            }
            if outgoing.reading || outgoing.ready.is_some() {
                continue;
            }
            let Some((section, off, len)) = outgoing.wants.pop_front() else { continue };
            outgoing.reading = true;
            let since = Nanos(now.0.saturating_sub(CATCH_UP.0));
            let begin = self.transfers.next_read.max(since);
            self.transfers.next_read = begin.after(span_of(len, self.options.transfer));
            let (env, mail) = (self.env.clone(), Rc::clone(&self.mail));
            let snapshot = Rc::clone(&outgoing.snapshot);
            drop(self.env.spawn(Class::Background, async move {
                if begin > env.now() {
                    env.sleep_until(begin).await;
                }
                let result = snapshot.read(section, off, len).await;
                mail.push(Event::PieceRead { shard, node, section, off, result });
            }));
        }
    }

    /// A piece for a peer was read, or cannot be.
    pub(crate) fn piece_read(
        &mut self,
        (shard, node): (ShardId, NodeId),
        (section, off): (u128, u64),
        result: Result<SharedBuf, Damage>,
    ) {
        let Some(outgoing) = self.transfers.out.get_mut(&(shard, node)) else { return };
        outgoing.reading = false;
        match result {
            Ok(bytes) => outgoing.ready = Some((section, off, bytes)),
            Err(damage) => {
                tracing::warn!(shard = shard.0, %damage, "a piece for a peer cannot be read");
                let Outgoing { slot, peer, .. } = *outgoing;
                let snapshot = Rc::clone(&outgoing.snapshot);
                self.recheck(slot, &snapshot, section);
                self.transfers.out.remove(&(shard, node));
                self.send_bulk(node, Bulk::Refuse { shard, section });
                self.mail.push(Event::TransferFailed { slot, peer });
            },
        }
    }

    /// An offer came to nothing: raft asks again later.
    pub(crate) fn transfer_failed(&mut self, slot: Slot, peer: ReplicaId) {
        let event = SnapshotEvent::Failed { peer };
        let _: Verdict = self.raft.handle_snapshot(slot, event, &mut self.logs, &mut self.out);
    }

    /// The task of a transfer ended.
    pub(crate) fn transfer_ended(&mut self, slot: Slot) {
        let Some(incoming) = self.transfers.incoming.get(&slot) else { return };
        let Some(result) = incoming.outcome.take() else { return };
        let (node, index, from) = (incoming.node, incoming.index, incoming.from);
        self.transfers.incoming.remove(&slot);
        let shard = self.logs.shard(slot);
        match result {
            Ok((machine, body)) => {
                self.send_bulk(node, Bulk::End { shard, index });
                self.transfers.arrived.push(Arrived { slot, from: (from, node), machine, body });
                self.install_arrived();
            },
            Err(error) => {
                tracing::warn!(shard = shard.0, %error, "a state was not received");
                self.send_bulk(node, Bulk::Refuse { shard, section: error.section() });
            },
        }
    }

    /// Gives up transfers that nobody asks about, and tries again what the log had no room for.
    pub(crate) fn transfers_tick(&mut self) {
        let now = self.logs.now;
        self.transfers.out.retain(|_, outgoing| now.since(outgoing.at) < PATIENCE);
        self.transfers.leftovers.expire(&self.env, &self.store, now);
        if !self.transfers.arrived.is_empty() {
            self.install_arrived();
        }
    }

    /// Ends what is being received.
    pub(crate) fn close_transfers(&mut self) {
        for incoming in self.transfers.incoming.values() {
            incoming.gate.close();
        }
        self.transfers.leftovers.close(&self.env, &self.store);
        self.transfers = Transfers::default();
    }
}

/// The time that `len` bytes may take at `rate` bytes a second.
fn span_of(len: u32, rate: u64) -> Nanos {
    Nanos(u64::from(len) * Nanos::SECOND.0 / rate)
}
