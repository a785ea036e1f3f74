//! The start of a node: every start-up error comes out of here, and what was done is undone.
//!
//! ```text
//! 1 preflight   2 claim the directory   3 core 0 reads or makes up NODE   4 the other cores start
//! 5 every core opens its streams   6 core 0 writes NODE (a life begins), removes orphans
//! 7 every core opens its shards    8 all ready: the node is up
//! ```
//!
//! Each arrow between the starter and a core is a one-shot channel. A core whose channel closes
//! ends, so an error anywhere ends all of them.

use core::net::SocketAddr;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::{Bell, Claim, CoreNo, CoreOptions, CoreThread, Env, EnvFactory, Facts};
use bowline_net::Security;
use bowline_statemachine::Machine;
use bowline_statemachine::store::Store;
use bowline_wal::OpenLog;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::board::Board;
use crate::config::{ByteCount, Config};
use crate::core::boot::{Links, LiveRuns, Plan, live_runs, open_core, open_streams};
use crate::core::lanes::connect::Arrival;
use crate::core::ledger::Ledger;
use crate::core::{drain, run};
use crate::members::Roll;
use crate::metrics::CoreCounters;
use crate::ring::Hub;
use crate::started::Started;

mod faults;
mod identity;
mod listen;
mod plan;
mod tls;

/// What a core is given once the node's identity is known.
struct Brief<O> {
    plan: Plan,
    logs: O,
    links: Links,
    reports: Reports,
    /// Of core 0: the way to every core for connections of peers.
    doors: Vec<mpsc::Sender<Arrival>>,
}

/// The core's ends of the start-up channels, in the order of their use.
struct Reports {
    opened: oneshot::Sender<Result<LiveRuns, Error>>,
    settle: oneshot::Receiver<Settle>,
    /// The life of the process, if it was begun here; else 0.
    settled: oneshot::Sender<Result<u64, Error>>,
    start: oneshot::Receiver<u64>,
    ready: oneshot::Sender<Result<(), Error>>,
}

/// What core 0 does alone between opening the streams and opening the shards.
#[derive(Default)]
struct Settle {
    /// The runs to be kept, and the starts that were counted: NODE is written, a life begins.
    live: Option<LiveRuns>,
    /// Where to listen for peers.
    listen: Option<SocketAddr>,
    /// How peers are spoken to, if it is to be looked at.
    security: Security,
}

/// The starter's ends.
struct Ends {
    opened: oneshot::Receiver<Result<LiveRuns, Error>>,
    settle: oneshot::Sender<Settle>,
    settled: oneshot::Receiver<Result<u64, Error>>,
    start: oneshot::Sender<u64>,
    ready: oneshot::Receiver<Result<(), Error>>,
}

fn channels() -> (Reports, Ends) {
    let (opened_in, opened) = oneshot::channel();
    let (settle, settle_out) = oneshot::channel();
    let (settled_in, settled) = oneshot::channel();
    let (start, start_out) = oneshot::channel();
    let (ready_in, ready) = oneshot::channel();
    let reports = Reports {
        opened: opened_in,
        settle: settle_out,
        settled: settled_in,
        start: start_out,
        ready: ready_in,
    };
    (reports, Ends { opened, settle, settled, start, ready })
}

/// Starts a node. Runs off the cores, and may block.
///
/// # Errors
///
/// The first thing that is wrong; no thread is left, and the directory is free again.
pub(crate) async fn boot<F, O, M>(
    factory: F,
    logs: O,
    config: Arc<Config>,
) -> Result<Started, Error>
where
    F: EnvFactory,
    O: OpenLog<F::Env>,
    M: Machine<F::Env>,
{
    let facts = factory.facts();
    faults::preflight(&config, &facts)?;
    let security = tls::security(&config)?;
    let claim = factory.claim().map_err(|error| faults::claim(&facts, &error))?;
    let mut cores = Vec::new();
    match bring_up::<F, O, M>(&factory, logs, (&config, security), &facts, &mut cores).await {
        Ok(up) => Ok(up.started(cores, claim)),
        Err(error) => {
            // Every channel of the starter is gone by now, so every core ends.
            let mut cause = None;
            for core in cores {
                if let Err(failure) = core.join() {
                    cause = cause.or(Some(failure));
                }
            }
            drop(claim);
            Err(faults::with_panic(error, cause))
        },
    }
}

/// A node that is up.
struct Up {
    plan: Plan,
    frame_cap: ByteCount,
    board: Arc<Board>,
    roll: Arc<Roll>,
    hubs: Vec<Arc<Hub>>,
    counters: Vec<Arc<CoreCounters>>,
}

impl Up {
    /// Without a core.
    fn new(plan: Plan, frame_cap: ByteCount) -> Self {
        let board = Arc::new(Board::new(plan.node, plan.shards));
        let roll = Arc::new(Roll::new(plan.shards));
        Self { plan, frame_cap, board, roll, hubs: Vec::new(), counters: Vec::new() }
    }

    fn started(self, cores: Vec<CoreThread>, claim: Claim) -> Started {
        Started {
            node: self.plan.node,
            hubs: self.hubs,
            board: self.board,
            roll: self.roll,
            counters: self.counters,
            cores,
            claim,
            streams: self.plan.streams,
            shards: self.plan.shards,
            frame_cap: self.frame_cap,
        }
    }
}

async fn bring_up<F, O, M>(
    factory: &F,
    logs: O,
    (config, security): (&Arc<Config>, Security),
    facts: &Facts,
    cores: &mut Vec<CoreThread>,
) -> Result<Up, Error>
where
    F: EnvFactory,
    O: OpenLog<F::Env>,
    M: Machine<F::Env>,
{
    let cpus = plan::cpus(config, facts);
    let (identity_in, identity_out) = oneshot::channel();
    let ask = identity::Ask {
        logs: logs.clone(),
        machine: (M::NAME, M::VERSION),
        config: Arc::clone(config),
        cores: u16::try_from(cpus.len()).unwrap_or(u16::MAX),
        answer: identity_in,
    };
    let (first, brief) = spawn::<F, O, M>(factory, config, &cpus, 0, Some(ask))?;
    cores.push(first);
    let mut briefs = vec![brief];
    let identity = identity_out.await.map_err(|_closed| faults::core_ended(0))??;
    let plan = Plan { security, ..plan::plan(config, facts, &identity, cpus.len(), M::VERSION) };
    for core in 1..plan.cores {
        let (thread, brief) = spawn::<F, O, M>(factory, config, &cpus, core, None)?;
        cores.push(thread);
        briefs.push(brief);
    }
    let mut up = Up::new(plan.clone(), identity.frame_cap());
    let support_ms = u64::try_from(config.raft.support.as_millis()).unwrap_or(u64::MAX);
    let ledger = Arc::new(Ledger::new(identity.to_write(support_ms)));
    let mut ends = Vec::new();
    let (doors, arrivals): (Vec<_>, Vec<_>) =
        briefs.iter().map(|_| mpsc::channel(listen::ARRIVALS_MAX)).unzip();
    for ((core, brief), arrivals) in (0..).zip(briefs).zip(arrivals) {
        let bell = Bell::new();
        let (hub, inbox) = Hub::new(bell.clone());
        let counters = Arc::new(CoreCounters::default());
        let (reports, end) = channels();
        let links = Links {
            inbox,
            bell,
            board: Arc::clone(&up.board),
            roll: Arc::clone(&up.roll),
            counters: Arc::clone(&counters),
            ledger: Arc::clone(&ledger),
            arrivals,
        };
        let plan = Plan { core, ..plan.clone() };
        let doors = if core == 0 { doors.clone() } else { Vec::new() };
        let sent = brief.send(Brief { plan, logs: logs.clone(), links, reports, doors });
        sent.map_err(|_brief| faults::core_ended(core))?;
        up.hubs.push(hub);
        up.counters.push(counters);
        ends.push(end);
    }
    let (listen, security) = (plan.listen, plan.security);
    let settle = Settle { live: None, listen, security };
    step_together(ends, settle).await?;
    Ok(up)
}

/// Takes all cores through the steps of opening; the first error ends the start.
async fn step_together(ends: Vec<Ends>, settle: Settle) -> Result<(), Error> {
    let mut live = LiveRuns::default();
    let (mut settles, mut settled) = (Vec::new(), Vec::new());
    let (mut starts, mut readies) = (Vec::new(), Vec::new());
    for (core, end) in (0..).zip(ends) {
        let found = end.opened.await.map_err(|_closed| faults::core_ended(core))??;
        live.runs.extend(found.runs);
        live.damaged |= found.damaged;
        live.boot = live.boot.max(found.boot);
        settles.push(end.settle);
        settled.push(end.settled);
        starts.push(end.start);
        readies.push(end.ready);
    }
    let mut life = 0;
    let mut alone = Some(Settle { live: Some(live), ..settle });
    for ((core, settle), settled) in (0..).zip(settles).zip(settled) {
        let work = alone.take().unwrap_or_default();
        settle.send(work).map_err(|_work| faults::core_ended(core))?;
        life = life.max(settled.await.map_err(|_closed| faults::core_ended(core))??);
    }
    for (core, start) in (0..).zip(starts) {
        start.send(life).map_err(|_life| faults::core_ended(core))?;
    }
    for (core, ready) in (0..).zip(readies) {
        ready.await.map_err(|_closed| faults::core_ended(core))??;
    }
    Ok(())
}

/// Starts one core; its brief follows through the channel.
fn spawn<F, O, M>(
    factory: &F,
    config: &Config,
    cpus: &[u32],
    core: u16,
    ask: Option<identity::Ask<O>>,
) -> Result<(CoreThread, oneshot::Sender<Brief<O>>), Error>
where
    F: EnvFactory,
    O: OpenLog<F::Env>,
    M: Machine<F::Env>,
{
    let (brief_in, brief) = oneshot::channel();
    let options = CoreOptions {
        core: CoreNo(core),
        cpu: cpus[usize::from(core)],
        cores: u16::try_from(cpus.len()).unwrap_or(u16::MAX),
        direct_io: plan::direct_io(config),
    };
    factory
        .spawn_core(options, move |env| core_main::<F::Env, O, M>(env, ask, brief))
        .map(|thread| (thread, brief_in))
        .map_err(|error| faults::spawn(core, &error))
}

/// The whole life of a core.
async fn core_main<E, O, M>(
    env: E,
    ask: Option<identity::Ask<O>>,
    brief: oneshot::Receiver<Brief<O>>,
) where
    E: Env,
    O: OpenLog<E>,
    M: Machine<E>,
{
    if let Some(ask) = ask {
        ask.run(&env).await;
    }
    // The starter gave up: end.
    let Ok(brief) = brief.await else { return };
    let Brief { plan, logs, links, reports, doors } = brief;
    let _guard = Guard(Arc::clone(&links.board));
    let Reports { opened, settle, settled, start, ready } = reports;
    let store = Store::new(env.clone(), plan.store);
    let streams = match open::<E, O, M>(&env, &store, &logs, &plan, &links.bell).await {
        Ok(streams) => streams,
        Err(error) => return give_up(opened, error),
    };
    if opened.send(Ok(live_runs(&streams))).is_err() {
        return;
    }
    let Ok(work) = settle.await else { return };
    let (listener, life) = match settle_alone(&env, &store, &links.ledger, work).await {
        Ok(settled) => settled,
        Err(error) => return give_up(settled, error),
    };
    if settled.send(Ok(life)).is_err() {
        return;
    }
    let Ok(life) = start.await else { return };
    let bell = links.bell.clone();
    let plan = Plan { life, ..plan };
    let opened = open_core::<E, O::Log, M>(env.clone(), store, &plan, streams, links).await;
    let (core, arrivals) = match opened {
        Ok((core, arrivals)) => (Rc::new(RefCell::new(core)), arrivals),
        Err(error) => return give_up(ready, error),
    };
    let doorman = Rc::clone(&core.borrow().lanes.doorman);
    if let Some(listener) = listener {
        listen::listen(&env, &doorman, listener, doors);
    }
    listen::receive(&env, &doorman, arrivals);
    if ready.send(Ok(())).is_err() {
        core.borrow_mut().start_drain();
    }
    run::run(&core, &bell).await;
    drain::close(core).await;
}

/// Tells the other cores if this one ends by a panic.
struct Guard(Arc<Board>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

/// Reports the error that ends this core's start.
fn give_up<T>(to: oneshot::Sender<Result<T, Error>>, error: Error) {
    if to.send(Err(error)).is_err() {
        tracing::debug!("the start was given up before");
    }
}

async fn open<E, O, M>(
    env: &E,
    store: &Rc<Store<E>>,
    logs: &O,
    plan: &Plan,
    bell: &Bell,
) -> Result<Vec<crate::core::boot::Stream<O::Log>>, Error>
where
    E: Env,
    O: OpenLog<E>,
    M: Machine<E>,
{
    store.prepare().await.map_err(|error| faults::env(&error))?;
    let opened = open_streams::<E, O, M>(env, logs, plan, bell).await;
    opened.map_err(|error| faults::log(plan.core, &error))
}

/// Begins the life of the process in NODE; removes runs that no manifest names.
async fn settle_alone<E: Env>(
    env: &E,
    store: &Rc<Store<E>>,
    ledger: &Ledger,
    work: Settle,
) -> Result<(Option<E::Listener>, u64), Error> {
    tls::check(&work.security, env.wall())?;
    let listen = |at| env.listen(at).map_err(|error| faults::listen(at, &error));
    let listener = work.listen.map(listen).transpose()?;
    let mut life = 0;
    if let Some(live) = work.live {
        life = ledger.begin(env, live.boot).await.map_err(|error| faults::env(&error))?;
        match store.collect_orphans(&live.runs, !live.damaged).await {
            Ok(orphans) => tracing::info!(?orphans, "runs were looked through"),
            Err(error) => tracing::warn!(%error, "runs that no manifest names were not removed"),
        }
    }
    Ok((listener, life))
}

#[cfg(test)]
mod tests {
    use bowline_env::Nanos;
    use bowline_env::sim::{Profile, World};
    use bowline_raft::ShardId;
    use bowline_statemachine::kv::Kv;
    use bowline_statemachine::kv::command::KIND_PUT;
    use bowline_statemachine::kv::encode::{Ttl, put};
    use bowline_statemachine::{Answer, Query};
    use bowline_wal::{Geometry, WalLogs, WalOptions};
    use bytes::{Bytes, BytesMut};

    use super::*;
    use crate::op::Op;
    use crate::request::{Call, Consistency, Request};
    use crate::ticket::Reply;

    const LIMIT: Nanos = Nanos(60_000_000_000);

    fn config() -> Arc<Config> {
        let mut config = Config::default();
        config.set("cluster.shards", "4").unwrap();
        config.set("cores.count", "2").unwrap();
        Arc::new(config)
    }

    fn logs() -> WalLogs {
        let geometry = Geometry {
            frame_cap: 16 << 10,
            slot_bytes: 128 << 10,
            log_bytes: 1 << 20,
            ..Geometry::small()
        };
        WalLogs { geometry, options: WalOptions::small() }
    }

    async fn call(started: &Started, shard: u64, call: Call) -> Result<Reply, Error> {
        let hub = usize::try_from(shard).unwrap() % started.hubs.len();
        Op::submit(
            &started.hubs[hub],
            |ticket| Request { shard: ShardId(shard), timeout_ms: 5_000, call, ticket },
            Ok,
        )
        .await
    }

    async fn start(factory: bowline_env::sim::SimFactory) -> Result<Started, Error> {
        let (tell, told) = oneshot::channel();
        let job = async move {
            let started = boot::<_, _, Kv<bowline_env::sim::SimEnv>>(factory, logs(), config());
            assert!(tell.send(started.await).is_ok(), "the test waits");
        };
        factory.drive("start", job).unwrap();
        told.await.unwrap()
    }

    async fn stop(started: Started) {
        for hub in 0..started.hubs.len() {
            let shard = u64::try_from(hub).unwrap();
            call(&started, shard, Call::Stop).await.unwrap();
        }
    }

    /// What `key` of a shard holds.
    async fn read(started: &Started, shard: u64) -> Option<Vec<u8>> {
        let query = Query::Get(Bytes::from_static(b"key"));
        let read = Call::Read { query, consistency: Consistency::Linearizable };
        let reply = call(started, shard, read).await.unwrap();
        let Reply::Answer(Answer::Value(value)) = reply else { panic!("{reply:?}") };
        value.map(|item| item.value.to_vec())
    }

    #[test]
    fn a_node_starts_writes_stops_and_reads_again() {
        let world = World::new(1, Profile::calm());
        for round in 0..3_u8 {
            let factory = world.node(1);
            let done = async move {
                let started = start(factory).await.unwrap();
                for shard in 0..4 {
                    let before = (round > 0).then(|| vec![round - 1]);
                    assert_eq!(read(&started, shard).await, before);
                    let mut body = BytesMut::new();
                    put(&mut body, b"key", &[round], Ttl::None, false);
                    let write = Call::Propose { kind: KIND_PUT, body: body.freeze() };
                    call(&started, shard, write).await.unwrap();
                }
                stop(started).await;
            };
            world.block_on(LIMIT, done).unwrap();
        }
    }
}
