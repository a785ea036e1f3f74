//! Entries that a peer needs and that memory has no more: they are read from the log's files, as
//! many at a time as there are bytes for.

use std::collections::{BTreeMap, VecDeque};

use bowline_env::{Class, Env};
use bowline_raft::{Fetch, Fetched, LogIndex, Message, ReplicaId, Send, Slot, What};
use bowline_statemachine::{Machine, Pressure};
use bowline_wal::{BatchRef, LogStorage, ReadError};

use super::Lanes;
use crate::core::logs::place;
use crate::core::mail::Event;
use crate::core::run::Core;

/// Bytes of entries that a core reads for its peers at a time.
const BYTES_MAX: usize = 16 << 20;

/// The reads for peers of a core.
#[derive(Default)]
pub(super) struct Fetches {
    /// One a replica and peer at most.
    queue: VecDeque<Fetch>,
    /// Bytes that the reads under way may bring.
    under_way: usize,
    /// Read, until raft sends it.
    read: BTreeMap<(Slot, ReplicaId), Vec<BatchRef>>,
}

impl Fetches {
    fn push(&mut self, fetch: Fetch) {
        let same = |it: &&mut Fetch| (it.slot, it.peer) == (fetch.slot, fetch.peer);
        match self.queue.iter_mut().find(same) {
            Some(former) => *former = fetch,
            None => self.queue.push_back(fetch),
        }
    }

    /// The next read for which there are bytes, and whose peer takes entries now.
    fn next(&mut self, takes: impl Fn(&Fetch) -> bool) -> Option<Fetch> {
        let nth = self.queue.iter().position(takes)?;
        let bytes = bytes_of(self.queue.get(nth)?);
        if self.under_way > 0 && self.under_way + bytes > BYTES_MAX {
            return None;
        }
        self.under_way += bytes;
        self.queue.remove(nth)
    }

    /// A read for which so many bytes were set aside ended.
    fn ended(&mut self, bytes: usize) {
        self.under_way -= bytes;
    }

    /// Takes what was read for a peer.
    pub(super) fn take(&mut self, slot: Slot, peer: ReplicaId) -> Option<Vec<BatchRef>> {
        self.read.remove(&(slot, peer))
    }
}

fn bytes_of(fetch: &Fetch) -> usize {
    usize::try_from(fetch.bytes_max).unwrap_or(BYTES_MAX).min(BYTES_MAX)
}

impl<E: Env> Lanes<E> {
    /// Whether nothing waits for room in the lane that a read is for. Without a lane what is read
    /// goes nowhere.
    fn takes(&self, fetch: &Fetch, shard: bowline_raft::ShardId) -> bool {
        let link = self.road(fetch.node, shard).and_then(|at| self.all[at].link.as_ref());
        link.is_none_or(|link| link.pending.is_empty())
    }
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Entries for a peer are to be read from the log's files.
    pub(in crate::core) fn fetch_for_peer(&mut self, fetch: Fetch) {
        self.lanes.fetches.push(fetch);
    }

    /// Begins the reads that there are bytes for.
    pub(in crate::core) fn start_fetches(&mut self) {
        if self.lanes.fetches.queue.is_empty() {
            return;
        }
        let mut fetches = std::mem::take(&mut self.lanes.fetches);
        while let Some(fetch) =
            fetches.next(|fetch| self.lanes.takes(fetch, self.logs.shard(fetch.slot)))
        {
            self.read_for_peer(&fetch);
        }
        self.lanes.fetches = fetches;
    }

    fn read_for_peer(&self, fetch: &Fetch) {
        let Fetch { slot, peer, from, to, .. } = *fetch;
        let (shard, bytes) = (self.logs.shard(slot), bytes_of(fetch));
        let read = self.logs.stream(slot).read(shard, from..to.next(), bytes);
        let mail = std::rc::Rc::clone(&self.mail);
        drop(self.env.spawn(Class::Background, async move {
            let result = read.await;
            mail.push(Event::EntriesForPeer { slot, peer, from, bytes, result });
        }));
    }

    /// Entries for a peer were read, or cannot be.
    pub(in crate::core) fn entries_for_peer(
        &mut self,
        (slot, peer): (Slot, ReplicaId),
        from: LogIndex,
        bytes: usize,
        result: Result<Vec<BatchRef>, ReadError>,
    ) {
        self.lanes.fetches.ended(bytes);
        let read = result.unwrap_or_else(|error| {
            let shard = self.replicas[place(slot)].shard;
            tracing::warn!(shard = shard.0, %error, "entries for a peer cannot be read");
            if matches!(error, ReadError::Damaged { .. }) {
                // What was applied of them is in the state: once that is durable, the log goes on
                // behind them, and the peer gets the state.
                self.start_job(slot, Pressure::Flush, self.logs.now);
            }
            Vec::new()
        });
        let got = match read.last() {
            Some(batch) => {
                let bytes = read.iter().fold(0_u32, |sum, it| sum.saturating_add(it.head.len));
                let to = batch.last();
                self.lanes.fetches.read.insert((slot, peer), read);
                Fetched::Entries { peer, from, to, bytes }
            },
            None => Fetched::Failed { peer },
        };
        let before = self.out.send.len();
        self.raft.handle_fetched(slot, got, &mut self.logs, &mut self.out);
        let used = self.out.send[before..].iter().any(|send| is_for(send, slot, peer));
        if !used {
            drop(self.lanes.fetches.take(slot, peer));
        }
    }
}

fn is_for(send: &Send, slot: Slot, peer: ReplicaId) -> bool {
    let Message { to, what, .. } = &send.message;
    send.slot == slot && *to == peer && matches!(what, What::Append { .. })
}

#[cfg(test)]
mod tests {
    use bowline_raft::NodeId;

    use super::*;

    fn fetch(slot: u32, peer: u64, bytes_max: u32) -> Fetch {
        Fetch {
            slot: Slot(slot),
            peer: ReplicaId(peer),
            node: NodeId(peer),
            from: LogIndex(1),
            to: LogIndex(2),
            bytes_max,
            repair: false,
        }
    }

    #[test]
    fn no_more_is_read_at_a_time_than_there_are_bytes_for() {
        let mut fetches = Fetches::default();
        for slot in 0..64 {
            fetches.push(fetch(slot, 2, 1 << 20));
            fetches.push(fetch(slot, 2, 1 << 20));
        }
        let mut begun = Vec::new();
        while let Some(next) = fetches.next(|_| true) {
            begun.push(next.slot.0);
        }
        assert_eq!(begun, (0..16).collect::<Vec<_>>());
        fetches.ended(1 << 20);
        assert_eq!(fetches.next(|_| true).map(|next| next.slot.0), Some(16));
        assert!(fetches.next(|_| true).is_none());
    }

    #[test]
    fn a_peer_that_takes_nothing_keeps_no_other_waiting() {
        let mut fetches = Fetches::default();
        fetches.push(fetch(1, 2, 1 << 20));
        fetches.push(fetch(1, 3, u32::MAX));
        let free = |fetch: &Fetch| fetch.peer == ReplicaId(3);
        assert_eq!(fetches.next(free).map(|next| next.peer.0), Some(3));
        assert!(fetches.next(|_| true).is_none(), "the large one has all the bytes");
        fetches.ended(BYTES_MAX);
        assert_eq!(fetches.next(|_| true).map(|next| next.peer.0), Some(2));
    }
}
