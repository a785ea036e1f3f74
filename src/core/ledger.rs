//! What this node knows durably of itself and of its peers, in NODE: their stores, and the lives of
//! both. Shared by the cores.
//!
//! A node that was met in a life has to remember that life when it is met again, or it runs on an
//! old copy of its directory and may have forgotten votes and entries (`docs/decisions/0021`).
//!
//! A write of NODE that is dropped in flight goes on, and may land over what the node's next life
//! wrote. So who asks for one may be dropped, the write is not; and a core ends after it.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bowline_env::{Class, Dir as _, Env, EnvError, Kind, Op};
use bowline_net::{Hello, HelloKind, Refusal};
use bowline_raft::NodeId;

use super::peers::SharedRoster;
use crate::node_file::{Met, NO_CLUSTER, NodeFile, PEERS_MAX, node_name};
use crate::{Code, ErrorTable};

/// NODE, held until what is written to it is durable.
type Held = tokio::sync::OwnedMutexGuard<NodeFile>;

/// NODE, and what is written to it while the node runs.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Arc<tokio::sync::Mutex<NodeFile>>,
    /// This directory is an old copy: what NODE says, for who cannot wait.
    old_copy: AtomicBool,
    /// The node ends: nothing is written any more.
    closed: AtomicBool,
}

impl Ledger {
    pub(crate) fn new(node: NodeFile) -> Self {
        let old_copy = AtomicBool::new(node.old_copy);
        let file = Arc::new(tokio::sync::Mutex::new(node));
        Self { file, old_copy, closed: AtomicBool::new(false) }
    }

    /// The node ends: no write begins any more. False: one is under way, ask again.
    pub(crate) fn close(&self) -> bool {
        self.closed.store(true, Ordering::Release);
        self.file.try_lock().is_ok()
    }

    async fn hold(&self) -> Held {
        Arc::clone(&self.file).lock_owned().await
    }

    /// Whether this directory was found to be an old copy: its node has nothing to say.
    pub(crate) fn is_old_copy(&self) -> bool {
        self.old_copy.load(Ordering::Acquire)
    }

    /// Begins a life of this node, and makes NODE durable: with that a new directory has its
    /// identity. `boot` is the number of starts that the streams count.
    ///
    /// # Errors
    ///
    /// NODE cannot be written.
    pub(crate) async fn begin<E: Env>(&self, env: &E, boot: u64) -> Result<u64, EnvError> {
        let mut chance = [0; 4];
        env.fill_random(&mut chance);
        let file = self.hold().await;
        let mut next = file.clone();
        let life = next.begin_life(boot, u32::from_le_bytes(chance));
        self.write(env, file, next).await?;
        Ok(life)
    }

    /// The life before this one, in which peers met the node last as a rule; 0: none.
    ///
    /// # Errors
    ///
    /// [`Refusal::OldCopy`]: this node dials nobody.
    pub(super) async fn former_life(&self) -> Result<u64, Refusal> {
        let file = self.file.lock().await;
        let former = || file.lives.iter().rev().nth(1).copied().unwrap_or(0);
        if file.old_copy { Err(Refusal::OldCopy) } else { Ok(former()) }
    }

    /// The members of a shard agreed on `version` of the state machine: no older code opens this
    /// directory once this is durable. What cannot be written down is tried at the next start; a
    /// shard refuses older code by itself, too.
    pub(super) async fn agreed<E: Env>(&self, env: &E, version: u16) {
        let file = self.hold().await;
        if version <= file.machine_version {
            return;
        }
        let next = NodeFile { machine_version: version, ..file.clone() };
        if let Err(error) = self.write(env, file, next).await {
            tracing::error!(version, %error, "the agreed version cannot be noted");
        }
    }

    /// The life of `node` that is known here; 0: none.
    pub(super) async fn life_of(&self, node: NodeId) -> u64 {
        self.file.lock().await.met(node).map_or(0, |peer| peer.life)
    }

    /// A peer met this node in `life`. If that is none of this directory, the directory is an old
    /// copy, from now on and after every start.
    ///
    /// # Errors
    ///
    /// [`Refusal::OldCopy`].
    pub(super) async fn recall<E: Env>(
        &self,
        env: &E,
        peer: NodeId,
        life: u64,
    ) -> Result<(), Refusal> {
        self.recalled(env, self.hold().await, (peer, life)).await.map(drop)
    }

    /// Holds the store and the life of a node against those that were met before; what is new is
    /// durable when this returns. An empty disk or an old copy under an old id could vote twice.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreReplaced`]; [`Refusal::WrongCluster`]; [`Refusal::Recall`] and
    /// [`Refusal::OldCopy`]; [`Refusal::Limit`] if it cannot be written down.
    pub(super) async fn check<E: Env>(
        &self,
        env: &E,
        theirs: &Hello,
        roster: &SharedRoster,
    ) -> Result<(), Refusal> {
        let Hello { from: node, store, cluster, boot: life, .. } = *theirs;
        let file = self.hold().await;
        let mut next = file.clone();
        if file.cluster == NO_CLUSTER {
            // A node that waits to be added belongs to whoever adds it first.
            next.cluster = cluster;
        } else if file.cluster != cluster {
            return Err(Refusal::WrongCluster);
        }
        match file.peers.binary_search_by_key(&node, |peer| peer.node) {
            Ok(at) if file.peers[at].store != store => return Err(Refusal::StoreReplaced),
            Ok(at) if !follows(theirs, file.peers[at].life) => {
                // Who asks may know better; who answers has had the question.
                let asks = theirs.kind == HelloKind::Hello;
                return Err(if asks { Refusal::Recall } else { Refusal::OldCopy });
            },
            Ok(at) => next.peers[at].life = life,
            Err(at) => next.peers.insert(at, Met { node, store, life }),
        }
        let known = if theirs.kind == HelloKind::Hello { theirs.known } else { 0 };
        let file = self.recalled(env, file, (node, known)).await?;
        if next == *file {
            return Ok(());
        }
        if next.peers.len() > PEERS_MAX {
            // Who left is refused by its id.
            let roster = roster.borrow();
            next.peers.retain(|peer| !roster.has_left(peer.node));
        }
        if next.peers.len() > PEERS_MAX {
            return Err(Refusal::Limit);
        }
        if let Err(error) = self.write(env, file, next).await {
            tracing::error!(%error, "what was met of a peer cannot be noted");
            return Err(Refusal::Limit);
        }
        Ok(())
    }

    /// Gives NODE back if it knows of the life.
    async fn recalled<E: Env>(
        &self,
        env: &E,
        mut file: Held,
        (peer, life): (NodeId, u64),
    ) -> Result<Held, Refusal> {
        if file.old_copy {
            return Err(Refusal::OldCopy);
        }
        if file.remembers(life) {
            return Ok(file);
        }
        self.old_copy.store(true, Ordering::Release);
        let row = ErrorTable::row(Code::OLD_COPY);
        let (what, cause, fix) = (row.what, row.cause, row.fix);
        tracing::error!(code = %Code::OLD_COPY, peer = peer.0, life, cause, fix, "{what}");
        let marked = NodeFile { old_copy: true, ..file.clone() };
        // What cannot be noted holds until the process ends at least.
        file.old_copy = true;
        if let Err(error) = self.write(env, file, marked).await {
            tracing::error!(%error, "that this directory is an old copy cannot be noted");
        }
        Err(Refusal::OldCopy)
    }

    /// Makes `next` durable; then it counts. The write goes on if this is dropped.
    async fn write<E: Env>(&self, env: &E, mut file: Held, next: NodeFile) -> Result<(), EnvError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(EnvError::new(Op::Write, Kind::Closed).named(&node_name()));
        }
        let written = env.dir().write_whole(&node_name(), next.encode().into());
        let task = async move {
            written.await?;
            *file = next;
            Ok(())
        };
        env.spawn(Class::Core, task).await
    }
}

/// Whether a hello is of a life that may follow `met`: it is that life, or a later one that
/// remembers it.
const fn follows(theirs: &Hello, met: u64) -> bool {
    met == 0 || theirs.boot == met || (theirs.claimed == met && met < theirs.boot)
}
