//! Three nodes in one process over real sockets and directories: what the simulator cannot see of
//! several nodes is the machine underneath.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]
#![expect(clippy::panic, reason = "so is a panic that says more")]

#[path = "sockets/kit.rs"]
mod kit;
#[path = "sockets/replay.rs"]
mod replay;

use bowline::{Code, Error, PeerFault};
use kit::Trio;
use replay::replay;

#[test]
fn three_nodes_elect_write_read_and_take_one_back() {
    let Some(mut trio) = Trio::new() else { return };
    trio.start_all();
    trio.fill("one");
    for node in Trio::NODES {
        trio.check(node, "one");
    }

    let first = trio.leader();
    let [away, _] = Trio::others(first);
    trio.stop(away);
    trio.fill("two");
    trio.start(away);
    trio.ready(away);
    trio.check(away, "two");

    trio.stop(first);
    let second = trio.leader();
    assert_ne!(first, second);
    trio.check(second, "two");
    trio.fill("three");
    trio.start(first);
    for node in Trio::NODES {
        trio.ready(node);
        trio.check(node, "three");
    }
    trio.stop_all();
    trio.start_all();
    for node in Trio::NODES {
        trio.check(node, "three");
    }
    trio.stop_all();
}

#[test]
fn a_follower_names_the_leader_and_a_lone_node_says_that_there_is_none() {
    let Some(mut trio) = Trio::new() else { return };
    trio.start_all();
    let leader = trio.leader();
    let [a, b] = Trio::others(leader);
    let key = trio.key_led_by(leader);
    let error = trio.client(a).put(&key, "value").wait().unwrap_err();
    let Error::NotLeader { leader_address, .. } = &error else { panic!("{error:#}") };
    assert_eq!(leader_address.as_deref(), Some(&*Trio::app(leader)));

    trio.stop(leader);
    trio.stop(b);
    trio.wait_leaderless(a);
    let error = trio.client(a).put(&key, "value").wait().unwrap_err();
    assert_eq!(error.code(), Code::NO_LEADER, "{error:#}");
    assert!(error.is_retryable());
    trio.stop_all();
}

#[test]
fn a_taken_port_comes_out_of_start() {
    let Some(mut trio) = Trio::new() else { return };
    let taken = std::net::TcpListener::bind(("127.0.0.1", trio.port(1))).unwrap();
    let error = trio.try_start(1).unwrap_err();
    assert_eq!(error.code(), Code::ADDRESS_IN_USE, "{error:#}");
    drop(taken);
    trio.start_all();
    trio.stop_all();
}

#[test]
fn sc_03_a_recorded_connection_is_refused_by_its_hello() {
    if let Some(trio) = Trio::new() {
        replay(trio, PeerFault::Refused);
    }
}
