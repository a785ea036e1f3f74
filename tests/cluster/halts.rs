//! A state machine that halts a shard on one node, while the others go on.

use std::io;

use bowline::rkyv::{Archive, Archived, Deserialize, Serialize};
use bowline::{
    Apply, Code, EmbeddedEngine, Error, NodeId, ReadCtx, Shard, ShardId, SmError, StateMachine,
};
use bowline_env::Nanos;
use bowline_env::sim::Crash;

use crate::kit::{Cluster, ms};

/// Adds up numbers. A fragile one cannot bear [`BAD`].
#[derive(Default)]
struct Sum<const FRAGILE: bool>(u64);

const BAD: u64 = 13;
const KEY: &str = "key";

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
#[rkyv(crate = bowline::rkyv)]
struct Add(u64);

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = bowline::rkyv)]
struct Total;

impl<const FRAGILE: bool> StateMachine for Sum<FRAGILE> {
    const NAME: &'static str = "sum";
    const VERSION: u16 = 1;
    type Command = Add;
    type Output = u64;
    type Query = Total;
    type Answer = u64;
    type Frozen = u64;

    fn create(_shard: u64) -> Self {
        Self::default()
    }

    fn apply(&mut self, _ctx: &Apply, add: &Archived<Add>) -> u64 {
        let number = add.0.to_native();
        assert!(!FRAGILE || number != BAD, "this number again");
        self.0 += number;
        self.0
    }

    fn query(&self, _ctx: &ReadCtx, _total: &Archived<Total>) -> u64 {
        self.0
    }

    fn freeze(&mut self, _version: u16) -> u64 {
        self.0
    }

    fn write(sum: u64, out: &mut dyn io::Write) -> Result<(), SmError> {
        out.write_all(&sum.to_le_bytes())?;
        Ok(())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SmError> {
        let sum = snapshot.try_into().map(u64::from_le_bytes);
        self.0 = sum.map_err(|_foreign| SmError::Invalid)?;
        Ok(())
    }
}

/// Three nodes and one shard; node 1, which is preferred as leader, is a fragile one.
fn with_a_fragile_one(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(seed, 3, 1);
    cluster.try_start_with::<Sum<true>>(1).unwrap();
    for node in [2, 3] {
        cluster.try_start_with::<Sum<false>>(node).unwrap();
    }
    for node in [1, 2, 3] {
        cluster.ready(node);
    }
    cluster
}

fn shard(cluster: &Cluster, node: u64) -> Shard {
    cluster.engine(node).shard(ShardId(0)).unwrap()
}

/// Adds a number through a node that is fragile, or not.
#[track_caller]
fn add<const FRAGILE: bool>(cluster: &Cluster, node: u64, number: u64) -> Result<u64, Error> {
    let engine: &EmbeddedEngine = cluster.engine(node);
    let sums = engine.client().typed::<Sum<FRAGILE>>().unwrap();
    cluster.run(async move { sums.propose(KEY, &Add(number)).await })
}

/// Adds a number through whoever leads of the nodes that are whole, within 20 seconds.
#[track_caller]
fn add_elsewhere(cluster: &Cluster, number: u64) -> u64 {
    let end = cluster.world.now().after(ms(20_000));
    for node in [2, 3].into_iter().cycle() {
        match add::<false>(cluster, node, number) {
            Ok(sum) => return sum,
            Err(error) => assert!(cluster.world.now() < end, "node {node}: {error}"),
        }
        cluster.world.run_for(ms(10));
    }
    panic!("no node is known")
}

/// Node 1 is closed, and another one leads.
#[track_caller]
fn is_led_elsewhere(cluster: &Cluster) {
    cluster.world.run_for(ms(200));
    assert_eq!(add::<true>(cluster, 1, 1).unwrap_err().code(), Code::APPLY_HALTED);
    assert!(!shard(cluster, 1).is_leader());
    let leaders = [2, 3].map(|node| shard(cluster, node).leader_info().unwrap().leader_id);
    assert_ne!(leaders[0], NodeId(1));
    assert_eq!(leaders[0], leaders[1]);
}

/// Bug: raft was told of damage only. It led on where the state machine had halted: callers got an
/// error there, and were sent there from elsewhere, while a majority was whole.
#[test]
fn a_leader_that_halts_leaves_its_shard_to_a_node_that_does_not() {
    let mut cluster = with_a_fragile_one(760);
    assert_eq!(cluster.leader(), 1, "the lowest id is preferred");
    add::<true>(&cluster, 1, 1).unwrap();
    let error = add::<true>(&cluster, 1, BAD).unwrap_err();
    assert_eq!(error.code(), Code::APPLY_HALTED);
    let sum = add_elsewhere(&cluster, 1);
    assert_eq!(sum, 1 + BAD + 1, "the others applied what node 1 could not");
    is_led_elsewhere(&cluster);
    // Its log is good: with one of the others it is a majority.
    let leader = if shard(&cluster, 2).is_leader() { 2 } else { 3 };
    let away = if leader == 2 { 3 } else { 2 };
    cluster.crash(away, Crash::Kill);
    cluster.world.run_for(ms(3_000));
    assert_eq!(add::<false>(&cluster, leader, 1).unwrap(), sum + 1);
}

/// Bug: the preferred node was given the leadership although it had halted.
#[test]
fn a_preferred_leader_that_halted_is_not_given_the_leadership() {
    let mut cluster = with_a_fragile_one(761);
    cluster.crash(1, Crash::Kill);
    assert_eq!(cluster.leader(), 2, "then the next one");
    cluster.try_start_with::<Sum<true>>(1).unwrap();
    cluster.ready(1);
    add::<false>(&cluster, 2, BAD).unwrap();
    for nth in 1..=60 {
        cluster.world.run_for(Nanos::SECOND);
        assert_eq!(add_elsewhere(&cluster, 1), BAD + nth);
    }
    is_led_elsewhere(&cluster);
    // Whoever asks for it by hand gets an answer, and the shard goes on.
    let asked = shard(&cluster, 2);
    cluster.run(async move { asked.transfer(NodeId(1)).await }).unwrap_err();
    assert_eq!(add_elsewhere(&cluster, 1), BAD + 61);
    is_led_elsewhere(&cluster);
}
