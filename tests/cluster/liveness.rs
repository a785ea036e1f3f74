//! Load that fills the ways from a leader: no beat waits behind it.

use bowline::{CoreMetrics, Error};
use bowline_env::Nanos;
use bowline_env::sim::SimTask;

use crate::kit::{Cluster, LIMIT, ms};

/// Writers, and the bytes that each has under way: more than a window and a log's memory.
const WRITERS: u64 = 1_200;
const VALUE: u64 = 8_000;
/// What a peer takes without releasing any of it, and what waits for its disk at most.
const WINDOW: u64 = 8 << 20;
const STAGED: usize = 256 << 10;

/// Clients that write through `node` without a pause until `until`.
fn load(cluster: &Cluster, node: u64, until: Nanos) -> Vec<SimTask<()>> {
    let write = |nth: u64| {
        let (client, world) = (cluster.engine(node).client(), cluster.world.clone());
        let value = "x".repeat(usize::try_from(VALUE).unwrap());
        cluster.world.spawn_client(async move {
            while world.now() < until {
                match client.put(format!("key-{nth}"), &value).await {
                    Ok(()) => {},
                    Err(Error::Busy { .. }) => world.sleep(ms(5)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    };
    (0..WRITERS).map(write).collect()
}

/// Sums over the cores of some nodes.
fn sum(cluster: &Cluster, nodes: &[u64], of: fn(&CoreMetrics) -> u64) -> u64 {
    let metrics = nodes.iter().map(|node| cluster.engine(*node).metrics());
    metrics.map(|metrics| metrics.cores.iter().map(of).sum::<u64>()).sum()
}

/// Bugs: `YugabyteDB` #16596, etcd #7312: under load beats came too late, and leaders changed.
#[test]
fn liveness_under_full_load_changes_no_leader_and_ends_no_lane() {
    let mut cluster = Cluster::new(91, 3, 4);
    for setup in &mut cluster.setups {
        // A log that holds it all: what is full here is what lies before it.
        (setup.slot_bytes, setup.log_bytes, setup.delta_bytes) = (1 << 20, 64 << 20, 64 << 20);
        (setup.cache_bytes, setup.staged_bytes) = (32 << 20, STAGED);
        setup.op_timeout_ms = 60_000;
    }
    cluster.start_all();
    let leader = cluster.leader();
    let others = cluster.others(leader);
    let state = |cluster: &Cluster| {
        let terms: Vec<_> = cluster.nodes.iter().map(|node| cluster.terms(*node)).collect();
        (terms, sum(cluster, &cluster.nodes, |core| core.lanes_down))
    };
    let before = state(&cluster);

    // Sockets that are always full: they take 256 KiB in 100 ms, and much more waits than goes out
    // in the 600 ms that a promise holds.
    let begin = cluster.world.now();
    for node in &others {
        cluster.world.link(leader, *node).slow(1_000);
    }
    let writers = load(&cluster, leader, begin.after(ms(1_000)));
    cluster.world.run_for(ms(1_000));
    let acked = sum(&cluster, &[leader], |core| core.proposals_applied);
    assert!(100 < acked && acked < WRITERS, "{acked}: the first of each are still being sent");
    assert_eq!(state(&cluster), before, "full sockets");

    // Logs without room: frames wait at the followers until the windows take no batch more.
    for node in &others {
        cluster.world.link(leader, *node).slow(1);
        cluster.world.disk(*node).stuck(ms(3_000));
    }
    cluster.world.run_for(ms(2_900));
    let entries = |node: u64| sum(&cluster, &[node], |core| core.wal_entries);
    for node in others {
        let behind = (entries(leader) - entries(node)) * VALUE;
        assert!(WINDOW <= behind, "node {node} has all but {behind} bytes in its log");
    }
    assert_eq!(state(&cluster), before, "full windows");

    cluster.world.run_until(|| writers.iter().all(SimTask::is_done), LIMIT).unwrap();
    assert_eq!(state(&cluster), before, "afterwards");
}

/// Scylla #11559: a commit that waits behind entries which the log has no room for, and with which
/// it would get some, stood still for good.
#[test]
fn both_logs_full_of_what_is_under_way_go_on() {
    let mut cluster = Cluster::new(91, 3, 4);
    for setup in &mut cluster.setups {
        setup.op_timeout_ms = 60_000;
    }
    // The leader takes much more than its followers have room for.
    let leader = 1;
    let setup = cluster.setup(leader);
    (setup.slot_bytes, setup.log_bytes, setup.cache_bytes) = (1 << 20, 64 << 20, 32 << 20);
    cluster.start_all();
    assert_eq!(cluster.leader(), leader);
    let begin = cluster.world.now();
    let others = cluster.others(leader);
    for node in &others {
        cluster.world.link(leader, *node).slow(500);
    }
    let writers = load(&cluster, leader, begin.after(ms(2_500)));
    cluster.world.run_for(ms(2_000));
    for node in &others {
        cluster.world.disk(*node).stuck(ms(6_000));
    }
    let full = |node: &u64| sum(&cluster, &[*node], |core| core.wal_used) >= 875;
    cluster.world.run_until(|| others.iter().all(full), ms(20_000)).expect("logs fill up");
    cluster.world.run_until(|| writers.iter().all(SimTask::is_done), LIMIT).expect("they go on");
}
