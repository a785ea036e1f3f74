//! How a core comes up: its streams, its shards, then its loop.
//!
//! ```text
//! core 0: NODE read or made  --identity-->  every core: format (new), open, found (new)
//!   --opened--> all opened: core 0 writes NODE (new), removes orphans  --go--> every core: state,
//!   raft.open  --ready--> the engine is up
//! ```
//!
//! A shard is founded only while no NODE exists (`docs/decisions/0002`).

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::{Bell, Env, Nanos};
use bowline_net::Security;
use bowline_raft::{
    BootTime, Configuration, CoreConfig, LogIndex, Lsn, NodeId, RaftCore, ReplicaId, ShardId, Times,
};
use bowline_statemachine::manifest::Manifest;
use bowline_statemachine::store::{Store, StoreOptions};
use bowline_statemachine::{Limits, Machine};
use bowline_wal::{
    DamageState, LogStorage, OpenError, OpenLog, Record, RecoveredShard, StageError, StreamId,
};
use bytes::Bytes;
use tokio::sync::mpsc;

mod shards;

use super::lanes::Lanes;
use super::lanes::connect::{Arrival, Doorman};
use super::ledger::Ledger;
use super::logs::Logs;
use super::mail::Mail;
use super::members::Members;
use super::peers::Known;
use super::run::{Core, Layout, Options};
use super::transfer::Transfers;
use crate::Error;
use crate::board::Board;
use crate::members::Roll;
use crate::metrics::CoreCounters;
use crate::ring::Inbox;

/// What a core is told before it starts.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) node: NodeId,
    pub(crate) cluster: u128,
    /// What the streams are bound to: the cluster, or the store of a node that was added.
    pub(crate) bound_to: u128,
    /// The node was added to its cluster: it founds no shards.
    pub(crate) joined: bool,
    /// Shards of the node, in all.
    pub(crate) shards: u32,
    /// Streams of the node, in all.
    pub(crate) streams: u16,
    /// Cores of the node, in all.
    pub(crate) cores: u16,
    pub(crate) core: u16,
    /// No NODE exists: format and found.
    pub(crate) founding: bool,
    pub(crate) options: Options,
    pub(crate) store: StoreOptions,
    /// Largest payload of an entry.
    pub(crate) entry_bytes_max: usize,
    pub(crate) shard_uncommitted: u32,
    /// What is known of the cluster's nodes.
    pub(crate) members: Known,
    /// The members of a shard that is founded now, and the own id among them.
    pub(crate) members_at_founding: Configuration,
    pub(crate) replica: ReplicaId,
    /// Where peers are listened for; none: this node is alone.
    pub(crate) listen: Option<SocketAddr>,
    /// How peers are spoken to.
    pub(crate) security: Security,
    /// Largest frame of a lane.
    pub(crate) frame_max: u32,
    /// How long promises to leaders hold, and between two beats.
    pub(crate) support: Nanos,
    pub(crate) beat: Nanos,
    /// The life of this process among those that opened the directory; 0 until it began.
    pub(crate) life: u64,
    /// The longest support that this directory ever gave.
    pub(crate) quiet: Nanos,
    pub(crate) lease_reads: bool,
}

/// One opened stream.
pub(crate) struct Stream<L> {
    pub(crate) log: L,
    pub(crate) shards: Vec<RecoveredShard>,
    /// Process life of the stream.
    pub(crate) boot: u64,
    /// Frames that had been durable are bad.
    pub(crate) corrupt: bool,
}

/// Which runs the manifests of a core name, and whether its logs were whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveRuns {
    pub(crate) runs: BTreeSet<u128>,
    pub(crate) damaged: bool,
    /// The most starts that a stream counts.
    pub(crate) boot: u64,
}

/// The shared parts of a core that the facade has too.
pub(crate) struct Links {
    pub(crate) inbox: Inbox,
    pub(crate) bell: Bell,
    pub(crate) board: Arc<Board>,
    pub(crate) roll: Arc<Roll>,
    pub(crate) counters: Arc<CoreCounters>,
    /// What is known of the node and its peers for good.
    pub(crate) ledger: Arc<Ledger>,
    /// Connections that core 0 hands over.
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
}

impl Plan {
    /// The configuration that a shard is founded with, encoded. The preference for leadership is
    /// part of it, so that every node has the same.
    fn founding_conf(&self, shard: ShardId) -> Vec<u8> {
        let mut conf = self.members_at_founding.clone();
        let count = u64::try_from(conf.members.len()).expect("members are few");
        for (place, member) in (0..).zip(&mut conf.members) {
            member.priority = self.options.leaders.rank(place, count, shard);
        }
        conf.encode().expect("the configuration was checked")
    }

    /// Until when no vote is given: promises of a former life may still hold.
    fn quiet_until(&self, now: Nanos, alone: bool) -> BootTime {
        if self.founding || alone { BootTime(0) } else { BootTime(now.after(self.quiet).0) }
    }

    /// Streams of this core, ascending.
    fn own_streams(&self) -> impl Iterator<Item = u16> + use<> {
        let (core, cores) = (self.core, self.cores);
        (0..self.streams).filter(move |stream| stream % cores == core)
    }

    fn stream_id(&self, stream: u16) -> StreamId {
        StreamId {
            cluster: self.bound_to,
            node: self.node.0,
            stream: u32::from(stream),
            streams: u32::from(self.streams),
        }
    }

    /// Shards of a stream, ascending.
    fn shards_of(&self, stream: u16) -> impl Iterator<Item = ShardId> + use<> {
        let streams = u32::from(self.streams);
        (u32::from(stream)..self.shards)
            .step_by(usize::try_from(streams).expect("streams are few"))
            .map(|shard| ShardId(u64::from(shard)))
    }
}

/// The manifest of a shard that was never flushed.
pub(crate) fn founding_manifest<E: Env, M: Machine<E>>(shard: ShardId, conf: &[u8]) -> Bytes {
    let name_hash = bowline_statemachine::name_hash(M::NAME);
    let mut manifest = Manifest::empty(shard.0, name_hash);
    manifest.conf = conf.to_vec();
    manifest.encode()
}

/// Opens the streams of a core; on a new directory formats them first and founds their shards.
pub(crate) async fn open_streams<E: Env, O: OpenLog<E>, M: Machine<E>>(
    env: &E,
    logs: &O,
    plan: &Plan,
    bell: &Bell,
) -> Result<Vec<Stream<O::Log>>, OpenError> {
    let mut streams = Vec::new();
    for no in plan.own_streams() {
        let id = plan.stream_id(no);
        if plan.founding {
            logs.format(env, id).await?;
        }
        let (mut log, mut recovered) = logs.open(env, id, bell.clone()).await?;
        let report = &recovered.report;
        tracing::info!(stream = no, boot = recovered.boot, ?report, "log opened");
        if plan.founding && !plan.joined {
            found::<E, O::Log, M>(&mut log, plan, no, bell).await?;
            let founded = |shard| founded(shard, plan.replica);
            recovered.shards = plan.shards_of(no).map(founded).collect();
        }
        let corrupt = recovered.report.corrupt_frames > 0;
        streams.push(Stream { log, shards: recovered.shards, boot: recovered.boot, corrupt });
    }
    Ok(streams)
}

/// Makes every shard of a new stream durable.
async fn found<E: Env, L: LogStorage, M: Machine<E>>(
    log: &mut L,
    plan: &Plan,
    stream: u16,
    bell: &Bell,
) -> Result<(), OpenError> {
    let mut last = Lsn(0);
    for shard in plan.shards_of(stream) {
        let body = founding_manifest::<E, M>(shard, &plan.founding_conf(shard));
        let records = [
            Record::OpenShard { replica: plan.replica },
            Record::Manifest { index: LogIndex(0), term: bowline_raft::Term(0), body: &body },
        ];
        last = loop {
            match log.stage(shard, &records) {
                Ok(lsn) => break lsn,
                Err(StageError::Busy) => wait_durable(log, last, bell).await?,
                Err(StageError::Poisoned(cause)) => return Err(OpenError::Log(cause)),
                Err(error) => {
                    tracing::error!(shard = shard.0, %error, "a shard cannot be founded");
                    return Err(OpenError::Full);
                },
            }
        };
    }
    wait_durable(log, last, bell).await
}

async fn wait_durable<L: LogStorage>(log: &mut L, lsn: Lsn, bell: &Bell) -> Result<(), OpenError> {
    log.submit();
    while log.durable() < lsn {
        if let bowline_wal::HealthState::Poisoned { cause } = log.health().state {
            return Err(OpenError::Log(cause));
        }
        let log = &*log;
        bell.park(|| log.durable() < lsn).await;
    }
    Ok(())
}

/// A shard as its log holds it right after founding.
fn founded(shard: ShardId, replica: ReplicaId) -> RecoveredShard {
    RecoveredShard {
        shard,
        replica,
        hard_state: bowline_raft::HardState::default(),
        bounds: bowline_wal::LogBounds { first: LogIndex(1), ..Default::default() },
        manifest: None,
        holes: Vec::new(),
        confs: Vec::new(),
    }
}

/// The runs that must not be removed.
pub(crate) fn live_runs<L: LogStorage>(streams: &[Stream<L>]) -> LiveRuns {
    let boot = streams.iter().map(|stream| stream.boot).max().unwrap_or(0);
    let mut live = LiveRuns { boot, ..LiveRuns::default() };
    for shard in streams.iter().flat_map(|stream| &stream.shards) {
        live.damaged |= shard.bounds.damage != DamageState::Normal;
        match shard.manifest.as_ref().map(|(_, _, body)| Manifest::decode(body)) {
            Some(Ok(manifest)) => {
                live.runs.extend(manifest.sections.iter().map(|section| section.run));
            },
            Some(Err(_)) => live.damaged = true,
            None => {},
        }
    }
    live
}

/// Opens the state of every shard and hands the replicas to raft.
pub(crate) async fn open_core<E: Env, L: LogStorage, M: Machine<E>>(
    env: E,
    store: Rc<Store<E>>,
    plan: &Plan,
    streams: Vec<Stream<L>>,
    links: Links,
) -> Result<(Core<E, L, M>, mpsc::Receiver<Arrival>), Error> {
    let corrupt = streams.iter().any(|stream| stream.corrupt);
    let (known, logs): (Vec<_>, Vec<_>) =
        streams.into_iter().map(|stream| (stream.shards, stream.log)).unzip();
    let shard_count = known.iter().map(Vec::len).sum();
    let alone = known.iter().flatten().all(|shard| is_alone(plan, shard));
    let damaged = known.iter().flatten().any(|it| it.bounds.damage != DamageState::Normal);
    let raft = new_raft(&env, plan, alone);
    let (mut core, arrivals) = empty_core::<E, L, M>(env, store, plan, logs, (links, raft));
    core.replicas.reserve_exact(shard_count);
    core.confs.reserve_exact(shard_count);
    core.logs.queues.reserve_exact(shard_count);
    core.raft.reserve(shard_count);
    core.logs.now = core.env.now();
    core.logs.wall = core.env.wall();
    for (stream, shards) in known.into_iter().enumerate() {
        for shard in &shards {
            core.open_shard(stream, shard, plan).await;
        }
    }
    core.missing_shards(plan, damaged || corrupt);
    for slot in core.slots.values() {
        core.members.conf_moved(*slot);
    }
    core.members_moved();
    core.want_lanes();
    if plan.core == 0 && core.lanes.doorman.roster.borrow().is_told_otherwise() {
        tracing::warn!("cluster.peers is not who the members are: the log has them");
    }
    Ok((core, arrivals))
}

/// Whether nobody but this node has a copy of a shard.
fn is_alone(plan: &Plan, shard: &RecoveredShard) -> bool {
    let sole = |conf: &Configuration| conf.members.len() == 1;
    let manifest = shard.manifest.as_ref().and_then(|(_, _, body)| Manifest::decode(body).ok());
    let founded = || sole(&plan.members_at_founding);
    let then = manifest
        .map_or_else(founded, |it| Configuration::decode(&it.conf).is_ok_and(|conf| sole(&conf)));
    then && shard.confs.is_empty()
}

/// A core without shards.
fn empty_core<E: Env, L: LogStorage, M: Machine<E>>(
    env: E,
    store: Rc<Store<E>>,
    plan: &Plan,
    logs: Vec<L>,
    (links, raft): (Links, RaftCore),
) -> (Core<E, L, M>, mpsc::Receiver<Arrival>) {
    let stream_count = logs.len();
    let mail = Rc::new(Mail::new(links.bell.clone()));
    let doorman = Doorman::new(&env, &mail, plan, links.ledger, Arc::clone(&links.counters));
    let Plan { shards, streams, cores, core, .. } = *plan;
    let append_max = usize::try_from(CoreConfig::DEFAULT.append_bytes_max).expect("a small number");
    let append_max = append_max.min(plan.entry_bytes_max);
    let core = Core {
        node: plan.node,
        options: plan.options,
        limits: Limits::of_entry(plan.entry_bytes_max),
        raft,
        out: bowline_raft::Outbox::default(),
        logs: Logs::new(logs),
        replicas: Vec::new(),
        confs: Vec::new(),
        founded_with: BTreeMap::new(),
        slots: BTreeMap::new(),
        store,
        mail,
        lanes: Lanes::new(doorman, links.bell.clone(), append_max),
        transfers: Transfers::default(),
        members: Members::new(links.roll),
        join: plan.joined.then_some(Layout { shards, streams, cores, core }),
        bell: links.bell,
        inbox: links.inbox,
        board: links.board,
        counters: links.counters,
        wakes: crate::ticket::WakeList::default(),
        announced: 0,
        changes: Vec::new(),
        to_apply: VecDeque::new(),
        fetches: 0,
        unfetched: VecDeque::new(),
        starved: Vec::new(),
        touched: Vec::new(),
        ticketed: Vec::new(),
        parked: VecDeque::new(),
        parked_bytes: 0,
        elected: false,
        publishing: VecDeque::new(),
        unstaged: Vec::new(),
        flush_waits: Vec::new(),
        jobs_running: 0,
        local_jobs: Vec::new(),
        lost: BTreeMap::new(),
        gc_at: Nanos(0),
        gc_work: Vec::new(),
        read_token: 0,
        drain: None,
        stop_tickets: Vec::new(),
        handing: Vec::new(),
        prefer_at: Nanos(0),
        requests: Vec::new(),
        batches: Vec::new(),
        outputs: Vec::new(),
        failed_streams: vec![false; stream_count],
        env,
    };
    (core, links.arrivals)
}

fn new_raft<E: Env>(env: &E, plan: &Plan, alone: bool) -> RaftCore {
    let mut seed = [0; 8];
    env.fill_random(&mut seed);
    let batch_bytes_max = u32::try_from(plan.entry_bytes_max).unwrap_or(u32::MAX);
    // What goes along with one message has to fit a lane's frame, as the largest batch does.
    let fits = |bytes: u32| bytes.min(batch_bytes_max);
    let usual = CoreConfig::DEFAULT;
    let config = CoreConfig {
        uncommitted_bytes_max: plan.shard_uncommitted,
        batch_bytes_max,
        append_bytes_max: fits(usual.append_bytes_max),
        probe_bytes_max: fits(usual.probe_bytes_max),
        catchup_bytes_max: fits(usual.catchup_bytes_max),
        core: plan.core,
        lease_reads: plan.lease_reads,
        quiet_until: plan.quiet_until(env.now(), alone),
        times: Times { support: plan.support.0, beat: plan.beat.0, ..Times::DEFAULT },
        ..usual
    };
    RaftCore::new(config, u64::from_le_bytes(seed))
}
