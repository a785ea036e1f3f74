//! A node that is added: its replicas are made when their leaders first speak to them.
//!
//! ```text
//! leader: learner R here is in force --Append to R--> no such shard here: it is founded as R
//!   OpenShard, manifest in the log: durable  state opened  -> raft.open, the next Append is taken
//! ```
//!
//! The configuration it begins with has the leader as voter and this replica as learner. It is
//! never led by that: a learner does not stand, and the log or a state as a whole brings the true
//! one. Replica ids are never reused and the leader knows this store, so the log that is begun
//! here is the first one of R.

use std::rc::Rc;

use bowline_env::{Class, Env};
use bowline_raft::{
    Configuration, LogIndex, Lsn, Member, Message, NodeId, Part, Phase, Recovered, ReplicaId,
    ShardId, StreamNo, Term, What,
};
use bowline_statemachine::Machine;
use bowline_wal::{LogStorage, Record, StageError};
use bytes::Bytes;

use super::boot::founding_manifest;
use super::logs::place;
use super::mail::Event;
use super::members::Agreed;
use super::queue::Queue;
use super::replica::Replica;
use super::run::Core;
use super::transfer::Slate;
use crate::ShardFailure;
use crate::route::core_of;

/// A shard that is being made here.
pub(crate) struct Founding<M> {
    replica: ReplicaId,
    stream: usize,
    /// Durable with this write.
    lsn: Lsn,
    conf: Bytes,
    /// Its empty state, once it is open.
    machine: Rc<Slate<M>>,
    is_open: bool,
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Whether a shard is this core's, and not here because nobody has made it yet.
    pub(crate) fn is_unfounded(&self, shard: ShardId) -> bool {
        let Some(join) = self.join else { return false };
        shard.0 < u64::from(join.shards)
            && core_of(shard, join.streams, usize::from(join.cores)) == usize::from(join.core)
            && !self.slots.contains_key(&shard)
            && !self.lost.contains_key(&shard)
    }

    /// A message came for a shard that is not here.
    pub(super) fn unknown_shard(&mut self, node: NodeId, message: &Message) {
        let shard = message.shard;
        let speaks = matches!(message.what, What::Append { .. }) && message.to != message.from;
        if !speaks || self.drain.is_some() || self.members.founding.contains_key(&shard) {
            return;
        }
        if !self.is_unfounded(shard) {
            let beyond = self.join.is_some_and(|join| shard.0 >= u64::from(join.shards));
            if beyond && !std::mem::replace(&mut self.members.told_of_shards, true) {
                tracing::error!(shard = shard.0, "the cluster has more shards than this node");
            }
            return;
        }
        let Some(conf) = first_conf((message.from, node), (message.to, self.node)) else { return };
        let join = self.join.expect("an unfounded shard is one of a node that joins");
        let no = u16::try_from(shard.0 % u64::from(join.streams)).expect("streams are a u16");
        let stream = usize::from(no / join.cores);
        if self.failed_streams[stream] {
            return self.lose(shard, ShardFailure::LogWrite);
        }
        let body = founding_manifest::<E, M>(shard, &conf);
        let replica = message.to;
        let records = [
            Record::OpenShard { replica },
            Record::Manifest { index: LogIndex(0), term: Term(0), body: &body },
        ];
        let lsn = match self.logs.streams[stream].stage(shard, &records) {
            Ok(lsn) => lsn,
            Err(StageError::Exists | StageError::TooManyShards { .. }) => {
                let why = ShardFailure::Invariant("the log takes no such shard");
                return self.lose(shard, why);
            },
            Err(error) => {
                // The leader speaks again.
                tracing::debug!(shard = shard.0, %error, "a shard cannot be made now");
                return;
            },
        };
        tracing::info!(shard = shard.0, replica = replica.0, leader = node.0, "a shard is made");
        let machine = Rc::new(Slate::default());
        let founding = Founding {
            replica,
            stream,
            lsn,
            conf: Bytes::from(conf),
            machine: Rc::clone(&machine),
            is_open: false,
        };
        self.members.founding.insert(shard, founding);
        let (store, mail) = (Rc::clone(&self.store), Rc::clone(&self.mail));
        drop(self.env.spawn(Class::Background, async move {
            let opened = M::open(&store, shard.0, Some(&body)).await;
            let is_open = opened.is_ok();
            match opened {
                Ok(opened) => machine.put(opened),
                Err(error) => tracing::error!(shard = shard.0, %error, "no state for a shard"),
            }
            mail.push(Event::Founded { shard, is_open });
        }));
    }

    /// The empty state of a new shard is open, or cannot be.
    pub(super) fn founded(&mut self, shard: ShardId, is_open: bool) {
        if is_open {
            if let Some(founding) = self.members.founding.get_mut(&shard) {
                founding.is_open = true;
            }
        } else if self.members.founding.remove(&shard).is_some() {
            self.lose(shard, ShardFailure::Invariant("an empty state cannot be opened"));
        }
        self.open_founded();
    }

    /// The beginning of these shards was still to be written to a stream that failed.
    pub(super) fn lose_founding(&mut self, stream: usize) {
        let founding = self.members.founding.extract_if(.., |_, it| it.stream == stream);
        for (shard, _) in founding.collect::<Vec<_>>() {
            self.lose(shard, ShardFailure::LogWrite);
        }
    }

    /// Opens the shards whose beginning is durable.
    pub(super) fn open_founded(&mut self) {
        if self.members.founding.is_empty() {
            return;
        }
        let streams = &self.logs.streams;
        let ready = self
            .members
            .founding
            .extract_if(.., |_, it| it.is_open && streams[it.stream].durable() >= it.lsn);
        let ready: Vec<_> = ready.collect();
        for (shard, founding) in ready {
            self.open_one(shard, &founding);
        }
    }

    fn open_one(&mut self, shard: ShardId, founding: &Founding<M>) {
        let Founding { replica, stream, conf, machine, .. } = founding;
        let machine = machine.take().expect("it was put there before it was told");
        let no = StreamNo(u16::try_from(*stream).expect("a core has few streams"));
        let recovered = Recovered::founding(shard, *replica, no, conf);
        self.logs.queues.push(Queue::new(shard, *stream));
        match self.raft.open(recovered, &mut self.logs) {
            Ok(slot) => {
                assert!(place(slot) == self.replicas.len(), "no slot is ever given back");
                self.replicas.push(Replica::new(shard, machine, (LogIndex(0), Term(0))));
                self.confs.push(Agreed::of(conf.clone()));
                self.slots.insert(shard, slot);
                self.members.conf_moved(slot);
            },
            Err(error) => {
                tracing::error!(shard = shard.0, %error, "raft does not take a shard");
                self.logs.queues.pop();
                self.lose(shard, ShardFailure::Invariant("raft does not take a new shard"));
            },
        }
    }
}

/// The configuration that a replica begins with: its leader votes, itself learns.
fn first_conf(leader: (ReplicaId, NodeId), own: (ReplicaId, NodeId)) -> Option<Vec<u8>> {
    let member = |(replica, node), part| Member {
        node,
        replica,
        before: part,
        after: part,
        priority: 0,
        auto_promote: false,
    };
    let mut members = vec![member(leader, Part::Voter), member(own, Part::Learner)];
    members.sort_unstable_by_key(|member| member.replica);
    let next = leader.0.max(own.0).0.checked_add(1)?;
    let conf = Configuration {
        phase: Phase::Stable,
        auto_leave: false,
        epoch: 1,
        next_replica: ReplicaId(next),
        generation: 0,
        members,
        note: Vec::new(),
    };
    // What a peer says of itself may make none.
    conf.encode().ok()
}
