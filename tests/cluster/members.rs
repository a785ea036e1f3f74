//! Nodes that come and go.

use bowline::Code;

use crate::kit::Cluster;

#[test]
fn mc_08_one_node_becomes_three_and_one_again() {
    let mut cluster = Cluster::up(61, 1, 4);
    cluster.put(1, "key", "alone").unwrap();
    for node in [2, 3] {
        assert_eq!(cluster.grow(1), node);
    }
    assert_eq!(cluster.members(1), [(1, true), (2, true), (3, true)]);
    for node in [2, 3] {
        cluster.ready(node);
        assert_eq!(cluster.get(node, "key").as_deref(), Some("alone"), "node {node}");
    }
    cluster.put(cluster.leader(), "key", "three").unwrap();
    for node in [2, 3] {
        cluster.remove(1, node).unwrap().complete().unwrap();
    }
    assert_eq!(cluster.members(1), [(1, true)]);
    cluster.put(1, "key", "one").unwrap();
    assert_eq!(cluster.get(1, "key").as_deref(), Some("one"));
    let error = cluster.remove(1, 1).unwrap_err();
    assert_eq!(error.code(), Code::MEMBERSHIP, "no voter would be left");
}
