//! A state that was received whole takes the place of the one that was there.

use bowline_env::Env;
use bowline_raft::{Apply, LogIndex, NodeId, ReplicaId, Slot, SnapshotEvent, Verdict};
use bowline_statemachine::Machine;
use bowline_statemachine::manifest::Manifest;
use bowline_wal::LogStorage;
use bytes::Bytes;

use super::{Arrived, Gone, Installing};
use crate::Error;
use crate::core::logs::place;
use crate::core::members::Agreed;
use crate::core::replica::Applying;
use crate::core::run::Core;

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Shows raft a state; one that is not newer than what is here is answered only.
    pub(super) fn ready(
        &mut self,
        slot: Slot,
        manifest: &Manifest,
        from: (ReplicaId, NodeId),
    ) -> Verdict {
        let index = LogIndex(manifest.flushed_index);
        let term = bowline_raft::Term(manifest.flushed_term);
        let event = SnapshotEvent::Ready { index, term, conf: &manifest.conf, from };
        self.raft.handle_snapshot(slot, event, &mut self.logs, &mut self.out)
    }

    /// Lets raft take the states that were received whole.
    pub(crate) fn install_arrived(&mut self) {
        for arrived in std::mem::take(&mut self.transfers.arrived) {
            let Arrived { slot, from, machine, body } = arrived;
            let manifest = Manifest::decode(&body).expect("it was encoded here");
            let index = LogIndex(manifest.flushed_index);
            self.logs.arrived = Some((index, body.clone()));
            let verdict = self.ready(slot, &manifest, from);
            self.logs.arrived = None;
            let durable = self.logs.installed;
            let install = Apply::Install { slot, index };
            if verdict == Verdict::NoRoom {
                self.transfers.arrived.push(Arrived { slot, from, machine, body });
            } else if self.out.apply.contains(&install) {
                // Its manifest is in the log: no job of the former state adds one behind it.
                self.replicas[place(slot)].epoch += 1;
                self.transfers.installing.insert(slot, Installing { machine, body, durable });
            } else {
                // What was received is not newer than what is here.
                let replica = &self.replicas[place(slot)];
                for section in machine.superseded(&replica.machine) {
                    self.store.retire(section);
                }
            }
        }
    }

    /// The state of a shard becomes the one that was received.
    pub(crate) fn install(&mut self, slot: Slot, index: LogIndex) {
        let installing = self.transfers.installing.remove(&slot);
        let Installing { machine, body, durable } =
            installing.expect("raft installs what it was given");
        let manifest = Manifest::decode(&body).expect("it was encoded here");
        assert!(machine.applied() == index.0, "the state is that of the index");
        let at = place(slot);
        let replica = &mut self.replicas[at];
        tracing::info!(shard = replica.shard.0, index = index.0, "a received state is in place");
        let old = std::mem::replace(&mut replica.machine, machine);
        let sections = old.superseded(&replica.machine);
        replica.epoch += 1;
        // Raft hands out what follows the state, also where that was applied before.
        replica.committed = index;
        replica.applied_term = bowline_raft::Term(manifest.flushed_term);
        replica.applying = Applying::Ready;
        replica.pins.clear();
        replica.fetched.clear();
        (replica.flushing, replica.merging) = (false, false);
        replica.unopened = None;
        if replica.closed.take().is_some() {
            self.board.reopen(replica.shard);
            self.store.set_aside(replica.shard.0, false);
            self.is_whole_again(slot);
        }
        self.confs[at] = Agreed::of(Bytes::from(manifest.conf));
        self.transfers.gone.push(Gone { slot, durable, sections });
        self.settle_skipped(slot, index);
        self.answer_flushed(slot, index);
        self.raft.handle_applied(slot, index);
        self.counters.installs.add(1);
        self.announce_again(slot);
        self.serve_applied(slot);
        self.list_for_apply(slot);
    }

    /// Entries up to `index` were not applied one by one here: nobody knows what became of those
    /// whose callers wait.
    fn settle_skipped(&mut self, slot: Slot, index: LogIndex) {
        let queue = self.logs.queue_mut(slot);
        let (shard, mut freed, mut tickets) = (queue.shard, 0, Vec::new());
        while let Some(waiting) = queue.waiting.pop_front_if(|it| it.index <= index) {
            freed += waiting.bytes;
            tickets.extend(waiting.ticket);
        }
        self.logs.bytes -= freed;
        for ticket in tickets {
            let error = Error::Timeout { shard, maybe_applied: true };
            ticket.complete(Err(error), &mut self.wakes);
        }
    }

    /// Removes what only replaced states had, once the next ones are durable.
    pub(crate) fn retire_gone(&mut self) {
        let streams = &self.logs.streams;
        let is_durable = |gone: &mut Gone<E>| streams[gone.durable.0].durable() >= gone.durable.1;
        for gone in self.transfers.gone.extract_if(.., is_durable) {
            for section in gone.sections {
                self.store.retire(section);
            }
        }
    }

    /// Whether another state takes the place of a shard's, and the disk may not know it yet.
    pub(crate) fn is_replaced(&self, slot: Slot) -> bool {
        self.transfers.installing.contains_key(&slot)
            || self.transfers.gone.iter().any(|gone| gone.slot == slot)
    }
}
