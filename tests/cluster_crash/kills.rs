//! kill -9 of nodes under load.

use std::thread;
use std::time::{Duration, Instant};

use crate::door::{Answer, Door};
use crate::draw::Draw;
use crate::load::{Load, Record};
use crate::nodes::{COUNT, Nodes};
use crate::{can_run, plan, wait_acked, wait_led};

const ROUNDS: u64 = 4;
/// Acknowledged writes between two rounds.
const BETWEEN: u64 = 50;

fn millis(draw: &mut Draw, bound: u64) -> Duration {
    Duration::from_micros(draw.below(bound * 1_000))
}

/// Who is killed in a round.
fn victims(draw: &mut Draw, round: u64) -> Vec<usize> {
    let one = usize::try_from(draw.below(COUNT as u64)).unwrap();
    match round % 4 {
        // All at once, of which none can tell another what it had only in memory.
        1 => (0..COUNT).collect(),
        // A majority.
        3 => (0..COUNT).filter(|node| *node != one).collect(),
        _ => vec![one],
    }
}

fn round(nodes: &Nodes, record: &Record, draw: &mut Draw, number: u64) -> &'static str {
    thread::sleep(millis(draw, 500));
    let victims = victims(draw, number);
    for node in &victims {
        nodes.kill(*node);
    }
    // Two of three go on alone.
    if victims.len() == 1 && draw.below(2) == 0 {
        wait_acked(nodes, record, BETWEEN);
    }
    thread::sleep(millis(draw, 1_000));
    let mut twice = "";
    for node in &victims {
        nodes.start(*node);
        // One in four is killed again at any moment of its recovery.
        if draw.below(4) == 0 {
            thread::sleep(millis(draw, 300));
            nodes.kill(*node);
            nodes.start(*node);
            twice = ", again in its recovery";
        }
    }
    twice
}

#[test]
fn kills_lose_no_acknowledged_write() {
    if !can_run() {
        return;
    }
    let (rounds, mut draw) = plan(ROUNDS);
    let nodes = Nodes::on_loopback();
    (0..COUNT).for_each(|node| nodes.start(node));
    (0..COUNT).for_each(|node| wait_led(&nodes, node));
    let record = Record::new();
    let load = Load::start(&nodes.places, &record, draw.below(1 << 30));
    wait_acked(&nodes, &record, BETWEEN);
    for number in 0..rounds {
        let began = Instant::now();
        let twice = round(&nodes, &record, &mut draw, number);
        (0..COUNT).for_each(|node| wait_led(&nodes, node));
        wait_acked(&nodes, &record, BETWEEN);
        println!("round {number}: {:.1?}{twice}; {}", began.elapsed(), record.tell());
    }
    load.stop();
    record.judge(&nodes.places);
    // What is there must be there again, from the disks alone.
    (0..COUNT).for_each(|node| nodes.kill(node));
    (0..COUNT).for_each(|node| nodes.start(node));
    (0..COUNT).for_each(|node| wait_led(&nodes, node));
    record.judge(&nodes.places);
    for node in 0..COUNT {
        let status = nodes.terminate(node);
        assert!(status.success(), "SIGTERM ends node {node} well: {status}");
    }
}

#[test]
fn a_follower_names_the_admin_address_of_the_leader() {
    if !can_run() {
        return;
    }
    let nodes = Nodes::on_loopback();
    (0..COUNT).for_each(|node| nodes.start(node));
    (0..COUNT).for_each(|node| wait_led(&nodes, node));
    let mut led = 0;
    for place in &nodes.places {
        let mut door = Door::open(place).unwrap();
        match door.put("key", "value").unwrap() {
            Answer::Done => led += 1,
            Answer::Unapplied(Some(leader)) => {
                assert!(leader != place.admin && nodes.places.iter().any(|at| at.admin == leader));
            },
            other @ (Answer::Value(_) | Answer::Unapplied(None) | Answer::Unknown) => {
                panic!("{other:?}")
            },
        }
        let value = Answer::Value(Some("value".to_owned()));
        let read = door.get("key", "lin").unwrap();
        assert!(read == value || led == 0, "{read:?}");
        // What is no request ends the connection, and nothing of it is done.
        assert!(door.ask("PUT /key HTTP/1.1").is_err());
    }
    assert_eq!(led, 1, "one node leads the key");
}
