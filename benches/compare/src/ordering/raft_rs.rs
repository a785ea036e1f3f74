//! Three nodes of raft-rs in one thread, a `RawNode` over `MemStorage` for each replica.

use raft::prelude::{ConfState, Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

/// Bytes of an entry.
const PAYLOAD: usize = 16;
/// Passes after which the entries that are applied leave the storage.
const KEPT_PASSES: u64 = 64;

/// How raft-rs is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuning {
    /// Its own defaults, with room for as much under way as bowline's core has.
    AsItComes,
    /// Appends to a peer are merged, and a commit rides on the next one.
    FewMessages,
}

/// Three replicas of each of some shards; the first node leads them all.
pub(crate) struct Threes {
    /// By node, then by shard.
    nodes: Vec<Vec<RawNode<MemStorage>>>,
    passes: u64,
}

impl Threes {
    /// Opens the shards and lets the first node lead them all.
    pub(crate) fn new(shards: u64, options: Tuning) -> Self {
        let nodes = (1..=3).map(|id| (0..shards).map(|_| node(id, options)).collect()).collect();
        let mut threes = Self { nodes, passes: 0 };
        for raft in &mut threes.nodes[0] {
            raft.campaign().expect("it is a voter");
        }
        for _ in 0..10 {
            (0..3).for_each(|nth| _ = threes.turn(nth));
        }
        let led = threes.nodes[0].iter().filter(|raft| raft.raft.state == StateRole::Leader);
        assert_eq!(led.count() as u64, shards, "nobody stands against the first node");
        threes
    }

    /// One pass of each node: the leaders take `batch` entries each. The entries handed out on
    /// the first node.
    pub(crate) fn pass(&mut self, batch: u32) -> u64 {
        for raft in &mut self.nodes[0] {
            for _ in 0..batch {
                raft.propose(Vec::new(), vec![0; PAYLOAD]).expect("there is room under way");
            }
        }
        let applied = self.turn(0);
        let _followers = self.turn(1) + self.turn(2);
        self.passes += 1;
        if self.passes.is_multiple_of(KEPT_PASSES) {
            self.compact();
        }
        applied
    }

    /// What is ready on a node: sent, stored, applied. The entries that were proposals.
    fn turn(&mut self, nth: usize) -> u64 {
        let mut applied = 0;
        for shard in 0..self.nodes[nth].len() {
            let raft = &mut self.nodes[nth][shard];
            if !raft.has_ready() {
                continue;
            }
            let mut ready = raft.ready();
            let sent = ready.take_messages();
            applied += proposals(&ready.take_committed_entries());
            let store = raft.store().clone();
            store.wl().append(ready.entries()).expect("entries follow each other");
            if let Some(hard_state) = ready.hs() {
                store.wl().set_hardstate(hard_state.clone());
            }
            let answers = ready.take_persisted_messages();
            let mut light = raft.advance(ready);
            if let Some(commit) = light.commit_index() {
                store.wl().mut_hard_state().set_commit(commit);
            }
            applied += proposals(&light.take_committed_entries());
            raft.advance_apply();
            let late = light.take_messages();
            for message in sent.into_iter().chain(answers).chain(late) {
                self.deliver(shard, message);
            }
        }
        applied
    }

    fn deliver(&mut self, shard: usize, message: Message) {
        let to = usize::try_from(message.to - 1).expect("one of three");
        self.nodes[to][shard].step(message).expect("an honest message");
    }

    fn compact(&mut self) {
        for raft in self.nodes.iter().flatten() {
            let applied = raft.raft.raft_log.applied;
            raft.store().wl().compact(applied).expect("what is applied is stored");
        }
    }
}

fn node(id: u64, options: Tuning) -> RawNode<MemStorage> {
    let tuned = options == Tuning::FewMessages;
    let config = Config {
        id,
        election_tick: 10,
        heartbeat_tick: 3,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        batch_append: tuned,
        skip_bcast_commit: tuned,
        ..Config::default()
    };
    let voters = ConfState::from((vec![1, 2, 3], vec![]));
    let store = MemStorage::new_with_conf_state(voters);
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, store, &silent).expect("the settings are valid")
}

/// Entries with data: a leader's first one has none.
fn proposals(entries: &[Entry]) -> u64 {
    entries.iter().filter(|entry| !entry.data.is_empty()).count() as u64
}
