//! A cluster in a simulated world.

use std::future::Future;
use std::time::Duration;

use bowline::{ChangeReport, EmbeddedEngine, Error, NodeId, ShardId, StateMachine, Term};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, Profile, SimDisk, SimTask, World};

use crate::node::Setup;

/// Virtual time that one step of a scenario may take.
pub(crate) const LIMIT: Nanos = Nanos(120_000_000_000);

/// So many milliseconds.
pub(crate) const fn ms(millis: u64) -> Nanos {
    Nanos::from_millis(millis)
}

/// A cluster of nodes numbered from 1.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) nodes: Vec<u64>,
    /// How each node is started next.
    pub(crate) setups: Vec<Setup>,
    engines: Vec<Option<EmbeddedEngine>>,
    /// Handles of lives that are over: to drop one is to stop its node, which lives again.
    graveyard: Vec<EmbeddedEngine>,
}

impl Cluster {
    /// So many nodes, all down.
    pub(crate) fn new(seed: u64, nodes: u64, shards: u32) -> Self {
        let world = World::new(seed, Profile::calm());
        crate::trace::follow(&world);
        let nodes: Vec<u64> = (1..=nodes).collect();
        let engines = nodes.iter().map(|_| None).collect();
        let setups = nodes.iter().map(|node| Setup::new(*node, &nodes, shards)).collect();
        Self { world, nodes, setups, engines, graveyard: Vec::new() }
    }

    /// The same, all up and led.
    pub(crate) fn up(seed: u64, nodes: u64, shards: u32) -> Self {
        let mut cluster = Self::new(seed, nodes, shards);
        cluster.start_all();
        cluster
    }

    /// One more node, which waits to be added; it is started and its number is given back.
    pub(crate) fn join(&mut self) -> u64 {
        let node = self.next_node();
        self.start(node);
        node
    }

    /// The same, not started.
    pub(crate) fn next_node(&mut self) -> u64 {
        let node = u64::try_from(self.nodes.len()).unwrap() + 1;
        let shards = self.setups[0].shards;
        let setup = Setup { join: true, ..Setup::new(node, &[node], shards) };
        self.nodes.push(node);
        self.setups.push(setup);
        self.engines.push(None);
        node
    }

    /// Where a node listens for its peers.
    pub(crate) fn address(node: u64) -> String {
        format!("{}:{}", World::addr(node), crate::node::PORT)
    }

    /// Adds a node as learner, through another one.
    #[track_caller]
    pub(crate) fn add(&self, by: u64, node: u64) -> Result<ChangeReport, Error> {
        let admin = self.engine(by).admin();
        self.run(async move { admin.add_learner(NodeId(node), Self::address(node)).await })
    }

    /// Lets a learner vote, through another node.
    #[track_caller]
    pub(crate) fn promote(&self, by: u64, node: u64) -> Result<ChangeReport, Error> {
        let admin = self.engine(by).admin();
        self.run(async move { admin.promote(NodeId(node)).await })
    }

    /// Removes a node, through another one.
    #[track_caller]
    pub(crate) fn remove(&self, by: u64, node: u64) -> Result<ChangeReport, Error> {
        let admin = self.engine(by).admin();
        self.run(async move { admin.remove(NodeId(node)).await })
    }

    /// Starts a node and makes it a voter of everything.
    #[track_caller]
    pub(crate) fn grow(&mut self, by: u64) -> u64 {
        let node = self.join();
        self.add(by, node).unwrap().complete().unwrap();
        self.promote(by, node).unwrap().complete().unwrap();
        node
    }

    /// The members as a node knows them, and which of them vote in everything.
    pub(crate) fn members(&self, node: u64) -> Vec<(u64, bool)> {
        let members = self.engine(node).admin().members();
        members.iter().map(|member| (member.node.0, member.is_voter())).collect()
    }

    pub(crate) fn start_all(&mut self) {
        for node in self.nodes.clone() {
            self.start(node);
        }
        for node in self.nodes.clone() {
            self.ready(node);
        }
    }

    /// Changes a setting of every node that is started from now on.
    pub(crate) fn set(&mut self, key: &'static str, value: &str) {
        for setup in &mut self.setups {
            setup.more.push((key, value.to_owned()));
        }
    }

    pub(crate) fn setup(&mut self, node: u64) -> &mut Setup {
        &mut self.setups[place(node)]
    }

    /// Starts a node; it need not be ready.
    #[track_caller]
    pub(crate) fn start(&mut self, node: u64) {
        self.try_start(node).unwrap();
    }

    #[track_caller]
    pub(crate) fn try_start(&mut self, node: u64) -> Result<(), Error> {
        let engine = self.run(self.setups[place(node)].start(&self.world))?;
        self.engines[place(node)] = Some(engine);
        Ok(())
    }

    /// Starts a node with a state machine of its own.
    #[track_caller]
    pub(crate) fn try_start_with<M: StateMachine>(&mut self, node: u64) -> Result<(), Error> {
        let (setup, factory) = (&self.setups[place(node)], self.world.node(node));
        let (config, logs) = (setup.config(), setup.logs());
        let builder = EmbeddedEngine::builder().configure(|all| *all = config);
        let start = builder.start_custom_in::<_, M, _>(factory, logs);
        self.engines[place(node)] = Some(self.run(start)?);
        Ok(())
    }

    /// Waits until every shard has a leader as `node` sees it.
    #[track_caller]
    pub(crate) fn ready(&self, node: u64) {
        self.ready_within(node, Duration::from_mins(1))
            .unwrap_or_else(|error| panic!("node {node}: {error:#}"));
    }

    #[track_caller]
    pub(crate) fn ready_within(&self, node: u64, limit: Duration) -> Result<(), Error> {
        let engine = self.engine(node).clone();
        self.run(async move { engine.wait_ready(limit).await }).map(drop)
    }

    #[track_caller]
    pub(crate) fn engine(&self, node: u64) -> &EmbeddedEngine {
        self.engines[place(node)].as_ref().expect("the node is up")
    }

    /// Nodes that are up.
    pub(crate) fn alive(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes.iter().copied().filter(|node| self.engines[place(*node)].is_some())
    }

    pub(crate) fn crash(&mut self, node: u64, how: Crash) {
        self.world.crash(node, how);
        self.graveyard.extend(self.engines[place(node)].take());
    }

    /// Stops a node in good order.
    #[track_caller]
    pub(crate) fn stop(&mut self, node: u64) {
        let engine = self.engine(node).clone();
        self.run(async move { engine.stop().await }).unwrap();
        self.graveyard.extend(self.engines[place(node)].take());
    }

    /// A key of a shard.
    pub(crate) fn key_of(&self, shard: u64) -> String {
        let engine = self.engine(self.nodes[0]);
        let is_there = |key: &String| engine.shard_of(key.as_bytes()).0 == shard;
        (0..1_000).map(|nth| format!("key-{nth}")).find(is_there).unwrap()
    }

    /// Runs a task of a client to its end.
    #[track_caller]
    pub(crate) fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.world.block_on(LIMIT, task).unwrap()
    }

    /// The node that leads every shard, once there is one.
    #[track_caller]
    pub(crate) fn leader(&self) -> u64 {
        self.leader_of(&self.nodes)
    }

    /// The same, one of `nodes`.
    #[track_caller]
    pub(crate) fn leader_of(&self, nodes: &[u64]) -> u64 {
        let leads = || self.alive().find(|it| nodes.contains(it) && self.engine(*it).is_leader());
        self.world.run_until(|| leads().is_some(), LIMIT).unwrap();
        leads().unwrap()
    }

    /// A node that does not lead everything.
    pub(crate) fn follower(&self) -> u64 {
        let leader = self.leader();
        self.alive().find(|node| *node != leader).expect("there are others")
    }

    /// The term in which a node knows a shard to be led.
    pub(crate) fn term(&self, node: u64, shard: u64) -> Option<Term> {
        let shard = self.engine(node).shard(ShardId(shard)).expect("there is such a shard");
        shard.leader_info().map(|info| info.term)
    }

    /// The terms of every shard, as a node knows them.
    pub(crate) fn terms(&self, node: u64) -> Vec<Option<u64>> {
        let shards = u64::from(self.engine(node).shard_count());
        (0..shards).map(|shard| self.term(node, shard).map(|term| term.0)).collect()
    }

    /// Cuts every way between two groups.
    pub(crate) fn part(&self, some: &[u64], others: &[u64]) {
        for (a, b) in some.iter().flat_map(|a| others.iter().map(move |b| (*a, *b))) {
            self.world.link(a, b).cut();
            self.world.link(b, a).cut();
        }
    }

    /// Cuts the ways from one group to another; those back stay whole.
    pub(crate) fn silence(&self, from: &[u64], to: &[u64]) {
        for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))) {
            self.world.link(a, b).cut();
        }
    }

    /// Mends every way.
    pub(crate) fn mend(&self) {
        for (a, b) in self.nodes.iter().flat_map(|a| self.nodes.iter().map(move |b| (*a, *b))) {
            self.world.link(a, b).mend();
        }
    }

    /// Every node but `node`.
    pub(crate) fn others(&self, node: u64) -> Vec<u64> {
        self.nodes.iter().copied().filter(|other| *other != node).collect()
    }

    /// Has `from` give its leadership of shard 0 to `to`.
    #[track_caller]
    pub(crate) fn hand_over(&self, from: u64, to: u64) {
        let shard = self.engine(from).shard(ShardId(0)).unwrap();
        self.run(async move { shard.transfer(NodeId(to)).await }).unwrap();
    }

    /// Makes a node's state durable in runs.
    #[track_caller]
    pub(crate) fn flush(&self, node: u64) {
        let engine = self.engine(node).clone();
        let shards = u64::from(self.setups[place(node)].shards);
        let flush = async move {
            for shard in 0..shards {
                engine.shard(ShardId(shard)).unwrap().flush().await.unwrap();
            }
        };
        self.run(flush);
    }

    /// Begins a put through one node.
    pub(crate) fn begin_put(
        &self,
        node: u64,
        key: &str,
        value: &str,
    ) -> SimTask<Result<(), Error>> {
        let (client, key, value) = (self.engine(node).client(), key.to_owned(), value.to_owned());
        self.world.spawn_client(async move { client.put(key, value).await })
    }

    /// Puts through one node.
    #[track_caller]
    pub(crate) fn put(&self, node: u64, key: &str, value: &str) -> Result<(), Error> {
        let (client, key, value) = (self.engine(node).client(), key.to_owned(), value.to_owned());
        self.run(async move { client.put(key, value).await })
    }

    /// Writes `count` values of a kilobyte through one node, again while it refuses them: 3,000 are
    /// more than the logs keep.
    #[track_caller]
    pub(crate) fn fill(&self, node: u64, round: u64, count: u64) {
        let client = self.engine(node).client();
        self.run(async move {
            for nth in 0..count {
                let value = format!("{round}-{nth}-{}", "x".repeat(1_000));
                loop {
                    match client.put(format!("key-{}", nth % 700), &value).await {
                        Ok(()) => break,
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            }
        });
    }

    /// Reads through one node.
    #[track_caller]
    pub(crate) fn get(&self, node: u64, key: &str) -> Option<String> {
        self.try_get(node, key).unwrap()
    }

    #[track_caller]
    pub(crate) fn try_get(&self, node: u64, key: &str) -> Result<Option<String>, Error> {
        let (client, key) = (self.engine(node).client(), key.to_owned());
        let value = self.run(async move { client.get(key).await })?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// What one node has applied of a key.
    #[track_caller]
    pub(crate) fn applied(&self, node: u64, key: &str) -> Option<String> {
        let (client, key) = (self.engine(node).client(), key.to_owned());
        let value = self.run(async move { client.get_eventual(key).await }).unwrap();
        value.map(|value| String::from_utf8_lossy(&value).into_owned())
    }
}

pub(crate) fn place(node: u64) -> usize {
    usize::try_from(node - 1).unwrap()
}

/// Flips a bit in the one log slot that has a long row of a letter.
#[track_caller]
pub(crate) fn spoil_log(disk: &SimDisk, letter: u8) {
    let mut spoilt = 0;
    for name in disk.files() {
        let is_slot = name.file().split_once('.').is_some_and(|(_, kind)| kind == "slot");
        let bytes = disk.durable(&name).filter(|_| is_slot).unwrap_or_default();
        let found = bytes.windows(200).position(|it| it.iter().all(|byte| *byte == letter));
        if let Some(at) = found {
            assert!(disk.flip_bit(&name, u64::try_from(at).unwrap(), 0));
            spoilt += 1;
        }
    }
    assert_eq!(spoilt, 1, "it is in one place");
}
