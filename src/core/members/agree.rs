//! Which version of the state machine the members of a shard agree on.
//!
//! ```text
//! hello: "I run version 2" --> leader: every member is here and runs 2
//!   --> configuration with the note "2" --> appended: commands that need 2 may follow in the log
//!                                       --> applied: a replica of version 1 halts before it
//! ```
//!
//! So no entry of version 2 stands in a log before the entry that says that all members know it,
//! and until then each of them may go back to version 1 (`docs/decisions/0022`).

use bowline_env::{Class, Env, Nanos};
use bowline_raft::{Admin, Configuration, NodeId, Phase, Role, Slot};
use bowline_statemachine::Machine;
use bowline_wal::LogStorage;
use bytes::Bytes;

use crate::core::logs::place;
use crate::core::run::Core;
use crate::members::note::Note;

/// Between two looks for members that all run a later version.
const AGREE_EVERY: Nanos = Nanos::from_millis(500);
/// Shards whose members are asked to agree at a time.
const AGREE_MAX: usize = 512;

/// An encoded configuration, and the version that the members agree on in it.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) conf: Bytes,
    pub(crate) version: u16,
}

impl Agreed {
    /// Reads the version once: jobs are looked at far more often than configurations change.
    pub(crate) fn of(conf: Bytes) -> Self {
        let read = Configuration::decode(&conf);
        let version = read.map_or_else(|_| Note::default().version(), |conf| agreed_by(&conf));
        Self { conf, version }
    }
}

fn agreed_by(conf: &Configuration) -> u16 {
    Note::decode(&conf.note).unwrap_or_default().version()
}

impl<E: Env, L: LogStorage, M: Machine<E>> Core<E, L, M> {
    /// Takes over what a replica's latest configuration says, committed or not: what this node
    /// appends as its leader stands behind it in the log.
    pub(in crate::core) fn note_agreed(&mut self, slot: Slot) {
        let view = self.raft.view(slot);
        let agreed = view.conf.map_or_else(|| Note::default().version(), agreed_by);
        let leads = view.role == Role::Leader;
        self.replicas[place(slot)].agreed = agreed;
        if leads && agreed < M::VERSION {
            if self.members.behind.insert(slot) {
                self.members.agree_at = Nanos(0);
            }
        } else {
            self.members.behind.remove(&slot);
        }
    }

    /// The members of shards that are led here agree on a later version, where all of them run it;
    /// some shards at a time.
    pub(in crate::core) fn agree(&mut self) {
        let now = self.logs.now;
        if self.members.behind.is_empty() || now < self.members.agree_at {
            return;
        }
        self.members.agree_at = now.after(AGREE_EVERY);
        let mut left = AGREE_MAX;
        for slot in self.members.behind.clone() {
            left -= usize::from(self.agree_in(slot));
            if left == 0 {
                return;
            }
        }
    }

    /// Proposes to a shard's members what all of them run, if that is later than what they agreed.
    fn agree_in(&mut self, slot: Slot) -> bool {
        let view = self.raft.view(slot);
        let settled = view.conf_index <= view.commit;
        let Some(conf) = view.conf.filter(|conf| conf.phase == Phase::Stable && settled) else {
            return false;
        };
        let later = |version: &u16| *version > self.replicas[place(slot)].agreed;
        let Some(version) = self.common_version(conf).filter(later) else { return false };
        let mut note = Note::decode(&conf.note).unwrap_or_default();
        if version <= note.version() {
            return false;
        }
        note.agree(version);
        // Addresses that are too long together go into no configuration either.
        let Some(note) = note.encode() else { return false };
        let shard = view.shard.0;
        match self.raft.admin(slot, Admin::ChangeNoted { steps: &[], note: &note }) {
            Ok(()) => tracing::info!(shard, version, "all members run a later version"),
            Err(error) => {
                tracing::debug!(shard, version, %error, "no agreement yet");
                return false;
            },
        }
        true
    }

    /// Whether nothing but the entry is missing for the members to agree on a version.
    pub(in crate::core) fn agrees_soon(&self, slot: Slot, version: u16) -> bool {
        let conf = self.raft.view(slot).conf;
        conf.and_then(|conf| self.common_version(conf)).is_some_and(|all| version <= all)
    }

    /// The highest version that every member runs, as the connections of now say; none while one
    /// of them has no connection.
    fn common_version(&self, conf: &Configuration) -> Option<u16> {
        let others = conf.members.iter().map(|member| member.node).filter(|it| *it != self.node);
        others.map(|node| self.version_of(node)).try_fold(M::VERSION, |all, it| Some(all.min(it?)))
    }

    /// Which version another node runs, if it is connected.
    pub(super) fn version_of(&self, node: NodeId) -> Option<u16> {
        self.lanes.doorman.roster.borrow().version_of(node)
    }

    /// Makes durable that no older code may open this directory: a shard's members agreed.
    pub(super) fn keep_agreed(&self, version: u16) {
        let ledger = std::sync::Arc::clone(&self.lanes.doorman.ledger);
        let env = self.env.clone();
        drop(self.env.spawn(Class::Core, async move { ledger.agreed(&env, version).await }));
    }
}
