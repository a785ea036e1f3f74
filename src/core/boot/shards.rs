//! Opening the shards of a core: state, configurations, then raft.

use bowline_env::Env;
use bowline_raft::batch::Body;
use bowline_raft::{Configuration, Damage, LogIndex, Recovered, ShardId, StreamNo};
use bowline_statemachine::Machine;
use bowline_statemachine::manifest::Manifest;
use bowline_wal::{DamageState, LogBytes, LogStorage, RecoveredShard};
use bytes::Bytes;

use super::Plan;
use crate::ShardFailure;
use crate::core::members::Agreed;
use crate::core::queue::Queue;
use crate::core::repair::other_votes;
use crate::core::replica::Replica;
use crate::core::run::Core;

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Opens one shard. One that cannot be opened is closed with its reason; the others go on.
    pub(super) async fn open_shard(&mut self, stream: usize, found: &RecoveredShard, plan: &Plan) {
        let shard = found.shard;
        let body = found.manifest.as_ref().map(|(_, _, body)| body);
        let manifest = body.map(|body| Manifest::decode(body));
        let conf = match &manifest {
            Some(Ok(manifest)) => manifest.conf.clone(),
            Some(Err(_)) | None => plan.founding_conf(shard),
        };
        let body = body.map(|body| &**body);
        let (owned, machine, closed) = match self.parts_of(stream, found, body).await {
            Ok(parts) => parts,
            Err(why) => return self.lose(shard, why),
        };
        let confs: Vec<_> = owned.iter().map(|(index, conf)| (*index, &**conf)).collect();
        let latest = owned.last().map_or(&conf, |(_, conf)| conf);
        let peers =
            Configuration::decode(latest).is_ok_and(|conf| other_votes(&conf, found.replica));
        let is_unopened = closed.is_some();
        let damage = damage_of(found.bounds.damage, is_unopened, peers);
        let log_is_whole = log_is_whole(found);
        let closed = if log_is_whole { closed } else { Some(ShardFailure::LogDamaged) };
        let applied = LogIndex(machine.applied());
        let applied_term = found.manifest.as_ref().map_or(bowline_raft::Term(0), |m| m.1);
        let recovered = Recovered {
            shard,
            replica: found.replica,
            stream: StreamNo(u16::try_from(stream).expect("a core has few streams")),
            hard_state: found.hard_state,
            first: found.bounds.first,
            prev_term: found.bounds.prev_term,
            last: found.bounds.last,
            last_term: found.bounds.last_term,
            applied,
            applied_term,
            conf: &conf,
            confs: &confs,
            damage,
        };
        self.logs.queues.push(Queue::new(shard, stream));
        match self.raft.open(recovered, &mut self.logs) {
            Ok(slot) => {
                assert!(
                    crate::core::logs::place(slot) == self.replicas.len(),
                    "slots are given in order"
                );
                let mut replica = Replica::new(shard, machine, (applied, applied_term));
                if let Some(why) = &closed {
                    let repaired = damage == Damage::State && peers;
                    self.board.close(shard, why.code(), !repaired);
                }
                if is_unopened {
                    let copy = |(index, term, body): &(_, _, LogBytes)| {
                        (*index, *term, Bytes::copy_from_slice(body))
                    };
                    replica.unopened = found.manifest.as_ref().map(copy);
                }
                replica.closed = closed;
                self.replicas.push(replica);
                // As a rule all shards of a node have the same members.
                let same = self.confs.last().filter(|last| last.conf == conf).cloned();
                self.confs.push(same.unwrap_or_else(|| Agreed::of(Bytes::from(conf))));
                self.slots.insert(shard, slot);
            },
            Err(error) => {
                tracing::error!(shard = shard.0, %error, "raft does not take a shard");
                self.logs.queues.pop();
                self.lose(shard, ShardFailure::LogDamaged);
            },
        }
    }

    /// Configurations and state of a shard; why there can be no replica.
    async fn parts_of(
        &self,
        stream: usize,
        found: &RecoveredShard,
        manifest: Option<&[u8]>,
    ) -> Result<(Vec<(LogIndex, Vec<u8>)>, M, Option<ShardFailure>), ShardFailure> {
        // Who takes an older one for the last counts a majority of those that left.
        let confs = self.configurations(stream, found).await.ok_or(ShardFailure::LogDamaged)?;
        let opened = self.open_state(found.shard, manifest).await;
        let (machine, closed) =
            opened.ok_or(ShardFailure::Invariant("an empty state cannot be opened"))?;
        Ok((confs, machine, closed))
    }

    /// The state of a shard; an empty one, and why, if it cannot be opened.
    async fn open_state(
        &self,
        shard: ShardId,
        manifest: Option<&[u8]>,
    ) -> Option<(M, Option<ShardFailure>)> {
        match M::open(&self.store, shard.0, manifest).await {
            Ok(machine) => Some((machine, None)),
            Err(error) => {
                tracing::error!(shard = shard.0, %error, "the state of a shard cannot be opened");
                let empty = M::open(&self.store, shard.0, None).await.ok()?;
                Some((empty, Some(ShardFailure::RunDamaged)))
            },
        }
    }

    /// The configurations in a shard's log above its manifest; none: one of them cannot be read.
    async fn configurations(
        &self,
        stream: usize,
        found: &RecoveredShard,
    ) -> Option<Vec<(LogIndex, Vec<u8>)>> {
        let applied = found.manifest.as_ref().map_or(LogIndex(0), |manifest| manifest.0);
        let mut confs = Vec::new();
        for index in found.confs.iter().filter(|index| **index > applied) {
            let range = *index..index.next();
            let read = self.logs.streams[stream].read(found.shard, range, 1).await;
            let payload = read.ok().and_then(|batches| {
                let batch = batches.first()?;
                let body = Body::parse(&batch.head, &batch.body).ok()?;
                let nth = usize::try_from(index.0 - batch.head.first.0).ok()?;
                (nth < body.len()).then(|| body.payload(nth).to_vec())
            });
            if payload.is_none() {
                tracing::error!(shard = found.shard.0, index = index.0, "no configuration");
            }
            confs.push((*index, payload?));
        }
        Some(confs)
    }

    /// Shards that belong here and that the log does not know are damaged, not new.
    /// On a node that was added they are made when their leaders speak to them, unless the log lost
    /// something.
    pub(super) fn missing_shards(&mut self, plan: &Plan, damaged: bool) {
        if plan.joined && !damaged {
            return;
        }
        for stream in plan.own_streams() {
            for shard in plan.shards_of(stream) {
                if !self.slots.contains_key(&shard) && !self.lost.contains_key(&shard) {
                    self.lose(shard, ShardFailure::LogDamaged);
                }
            }
        }
    }

    /// A shard has no replica here at all.
    pub(in crate::core) fn lose(&mut self, shard: ShardId, why: ShardFailure) {
        tracing::error!(shard = shard.0, code = %why.code(), %why, "a shard has no replica here");
        self.counters.shards_failed.add(1);
        self.board.close(shard, why.code(), true);
        self.lost.insert(shard, why);
    }
}

/// What raft is told of damage. Lost entries are repaired as lost state is: by a peer's state.
fn damage_of(log: DamageState, state_is_lost: bool, peers: bool) -> Damage {
    match log {
        DamageState::Retired => Damage::Retired,
        DamageState::Repairing if !peers => Damage::Repairing,
        DamageState::Repairing => Damage::State,
        DamageState::Normal if state_is_lost => Damage::State,
        DamageState::Normal => Damage::Normal,
    }
}

/// Says so if it is not.
fn log_is_whole(found: &RecoveredShard) -> bool {
    let (damage, holes) = (found.bounds.damage, &found.holes);
    let is_whole = damage == DamageState::Normal;
    if !is_whole {
        tracing::error!(shard = found.shard.0, ?damage, ?holes, "the log of a shard is damaged");
    }
    is_whole
}
