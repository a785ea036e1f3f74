//! Nodes that come and go while the cluster works.

use bowline::NodeId;
use bowline_env::sim::Crash;

use crate::kit::{Cluster, ms};
use crate::load::Load;
use crate::node::PORT;

#[test]
fn mc_08_one_node_becomes_three_and_one_again() {
    let mut cluster = Cluster::up(61, 1, 4);
    cluster.put(1, "key", "alone").unwrap();
    let load = Load::begin(&cluster, &[1]);
    for node in [2, 3] {
        assert_eq!(cluster.grow(1), node);
        load.knows(&cluster, node);
    }
    assert_eq!(cluster.members(1), [(1, true), (2, true), (3, true)]);
    for node in [2, 3] {
        cluster.ready(node);
        assert_eq!(cluster.get(node, "key").as_deref(), Some("alone"), "node {node}");
    }
    cluster.put(cluster.leader(), "key", "three").unwrap();
    for node in [2, 3] {
        load.forgets(node);
        cluster.remove(1, node).unwrap().complete().unwrap();
    }
    assert_eq!(cluster.members(1), [(1, true)]);
    cluster.put(1, "key", "one").unwrap();
    assert_eq!(cluster.get(1, "key").as_deref(), Some("one"));
    load.end(&cluster, 1);
}

#[test]
fn mc_08_three_nodes_become_five_and_three_others_again() {
    let mut cluster = Cluster::up(62, 3, 4);
    let load = Load::begin(&cluster, &[1, 2, 3]);
    for _ in 0..2 {
        let node = cluster.grow(2);
        load.knows(&cluster, node);
    }
    assert_eq!(cluster.members(5).len(), 5);
    // The leader is among those that go.
    assert_eq!(cluster.leader(), 1);
    for node in [1, 2] {
        cluster.remove(4, node).unwrap().complete().unwrap();
        load.forgets(node);
    }
    assert_eq!(cluster.members(4), [(3, true), (4, true), (5, true)]);
    // Two of the three carry it, and those that left are not needed.
    for node in [1, 2, 3] {
        cluster.crash(node, Crash::Kill);
        load.forgets(node);
    }
    let leader = cluster.leader_of(&[4, 5]);
    load.end(&cluster, leader);
}

#[test]
fn mc_08_every_node_is_replaced() {
    let mut cluster = Cluster::up(63, 3, 4);
    cluster.put(cluster.leader(), "key", "value").unwrap();
    let load = Load::begin(&cluster, &[1, 2, 3]);
    for old in [1, 2, 3] {
        let new = cluster.grow(old);
        load.knows(&cluster, new);
        load.forgets(old);
        cluster.remove(new, old).unwrap().complete().unwrap();
        cluster.world.run_for(ms(200));
        cluster.stop(old);
    }
    assert_eq!(cluster.members(6), [(4, true), (5, true), (6, true)]);
    let leader = cluster.leader();
    assert_eq!(cluster.get(leader, "key").as_deref(), Some("value"));
    load.end(&cluster, leader);
    // They come up again by themselves, from their logs.
    for node in [4, 5, 6] {
        cluster.crash(node, Crash::Power);
    }
    for node in [4, 5, 6] {
        cluster.start(node);
    }
    for node in [4, 5, 6] {
        cluster.ready(node);
        assert_eq!(cluster.get(node, "key").as_deref(), Some("value"));
    }
}

#[test]
fn mc_08_one_node_in_and_out_many_times() {
    let mut cluster = Cluster::up(64, 3, 2);
    let load = Load::begin(&cluster, &[1, 2, 3]);
    for round in 0..25 {
        let by = 1 + round % 3;
        let node = cluster.grow(by);
        assert_eq!(cluster.members(by).len(), 4, "round {round}");
        cluster.remove(by, node).unwrap().complete().unwrap();
        assert_eq!(cluster.members(by).len(), 3, "round {round}");
        cluster.world.run_for(ms(100));
        cluster.stop(node);
    }
    load.end(&cluster, cluster.leader());
}

#[test]
fn a_node_that_comes_late_gets_the_state_as_a_whole() {
    let mut cluster = Cluster::up(65, 3, 2);
    let leader = cluster.leader();
    cluster.fill(leader, 0, 6_000);
    let node = cluster.grow(leader);
    let installs: u64 = cluster.engine(node).metrics().cores.iter().map(|core| core.installs).sum();
    assert!(installs > 0, "the logs do not reach back to the beginning");
    cluster.ready(node);
    for nth in (0..700).step_by(7) {
        let key = format!("key-{nth}");
        assert_eq!(cluster.get(node, &key), cluster.get(leader, &key), "{key}");
    }
    // Its members are those of the state that it got, also after a restart.
    assert_eq!(cluster.members(node).len(), 4);
    cluster.crash(node, Crash::Power);
    cluster.start(node);
    cluster.ready(node);
    assert_eq!(cluster.members(node).len(), 4);
}

#[test]
fn leaders_are_spread_and_every_shard_is_changed_where_it_is_led() {
    let mut cluster = Cluster::new(66, 3, 6);
    cluster.set("cluster.leaders", "\"spread\"");
    cluster.start_all();
    let led = |cluster: &Cluster, node| {
        let engine = cluster.engine(node);
        (0..6).filter(|id| engine.shard(bowline::ShardId(*id)).unwrap().is_leader()).count()
    };
    assert_eq!([1, 2, 3].map(|node| led(&cluster, node)), [2, 2, 2]);
    let node = cluster.next_node();
    cluster.setup(node).more.push(("cluster.leaders", "\"spread\"".to_owned()));
    cluster.start(node);
    // Any member is as good as the others, and so is one that only learns.
    let added = cluster.add(2, node).unwrap();
    assert_eq!(added.complete(), Ok(6));
    cluster.world.run_for(ms(1_000));
    assert_eq!(cluster.promote(node, node).unwrap().complete(), Ok(6));
    assert_eq!(cluster.promote(3, node).unwrap().complete(), Ok(0), "it was so before");
    // The new one leads its part after a while.
    cluster.world.run_for(ms(20_000));
    let own = led(&cluster, node);
    assert!(own > 0);
    let admin = cluster.engine(1).admin();
    let report = cluster.run(async move { admin.transfer(NodeId(node)).await }).unwrap();
    // It may give its peers their part back before the last one is there.
    assert_eq!(report.complete().map(usize::try_from), Ok(Ok(6 - own)));
}

#[test]
fn cores_and_streams_of_a_new_node_are_its_own() {
    let mut cluster = Cluster::up(67, 2, 7);
    let node = cluster.next_node();
    let setup = cluster.setup(node);
    (setup.cores, setup.streams) = (2, 3);
    cluster.start(node);
    cluster.put(cluster.leader(), "key", "value").unwrap();
    cluster.add(1, node).unwrap().complete().unwrap();
    cluster.promote(2, node).unwrap().complete().unwrap();
    cluster.ready(node);
    assert_eq!(cluster.get(node, "key").as_deref(), Some("value"));
    for old in [1, 2] {
        cluster.remove(node, old).unwrap().complete().unwrap();
    }
    assert_eq!(cluster.leader_of(&[node]), node);
    cluster.put(node, "key", "alone").unwrap();
    cluster.crash(node, Crash::Power);
    cluster.start(node);
    cluster.ready(node);
    assert_eq!(cluster.get(node, "key").as_deref(), Some("alone"));
}

/// A name is looked up on a thread of its own (`env.md`): here it is the simulator that knows it.
#[test]
fn a_node_is_found_by_its_name() {
    let mut cluster = Cluster::up(68, 1, 4);
    let node = cluster.join();
    cluster.put(1, "key", "value").unwrap();
    let admin = cluster.engine(1).admin();
    let named = format!("node-{node}:{PORT}");
    let added = cluster.run(async move { admin.add_learner(NodeId(node), named).await });
    added.unwrap().complete().unwrap();
    cluster.promote(1, node).unwrap().complete().unwrap();
    cluster.ready(node);
    // Both have to dial the other anew, by what the members say.
    cluster.crash(1, Crash::Power);
    cluster.crash(node, Crash::Power);
    cluster.start(1);
    cluster.start(node);
    cluster.ready(1);
    cluster.ready(node);
    assert_eq!(cluster.get(node, "key").as_deref(), Some("value"));
}
