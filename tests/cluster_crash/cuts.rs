//! Nodes in network namespaces of their own, joined by a bridge; cables that lose everything, in
//! one direction too, without an end or a reset of any connection.
//!
//! ```text
//! namespace 0        namespace 1        namespace 2
//!   wire -- end 0      wire -- end 1      wire -- end 2        ends are ports of the bridge
//!           10.97.x.1          10.97.x.2          10.97.x.3
//! ```

use core::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::draw::Draw;
use crate::load::{Load, Record};
use crate::nodes::{COUNT, Nodes, Place};
use crate::space::Space;
use crate::{can_run, plan, wait_acked, wait_led};

const ROUNDS: u64 = 4;
const BETWEEN: u64 = 50;

/// The namespaces and what joins them; taken down when dropped.
struct Net {
    tag: String,
}

/// Runs `ip` or `tc`.
fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {}", said.trim())) }
}

impl Net {
    /// None: only root may have them, or `BOWLINE_NO_ROOT=1` does without.
    fn up() -> Option<Self> {
        let skip = std::env::var("BOWLINE_NO_ROOT").is_ok_and(|value| value == "1");
        if skip || !rustix::process::geteuid().is_root() {
            println!("skipped: network namespaces are for root");
            return None;
        }
        let net = Self { tag: format!("bl{}", std::process::id() % 100_000) };
        net.build().unwrap_or_else(|why| {
            panic!(
                "no network namespaces: {why}; install iproute2, or skip this test with \
                 BOWLINE_NO_ROOT=1"
            )
        });
        Some(net)
    }

    fn build(&self) -> Result<(), String> {
        let tag = &self.tag;
        run(&format!("ip link add {tag}b type bridge"))?;
        run(&format!("ip link set {tag}b up"))?;
        for node in 0..COUNT {
            let (space, end) = (self.space(node), self.end(node));
            run(&format!("ip netns add {space}"))?;
            run(&format!("ip link add {end} type veth peer name wire netns {space}"))?;
            run(&format!("ip link set {end} master {tag}b up"))?;
            run(&format!("ip -n {space} addr add {}/24 dev wire", address(node)))?;
            run(&format!("ip -n {space} link set wire up"))?;
            run(&format!("ip -n {space} link set lo up"))?;
        }
        Ok(())
    }

    fn space(&self, node: usize) -> String {
        format!("{}n{node}", self.tag)
    }

    fn end(&self, node: usize) -> String {
        format!("{}e{node}", self.tag)
    }

    fn places(&self) -> Vec<Place> {
        let place = |node| Place {
            peer: SocketAddr::from((address(node), 7_500)),
            // Each namespace has a loopback of its own; the port tells them apart for the clients.
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 7_600 + u16::try_from(node).unwrap())),
            space: Space::named(self.space(node)),
        };
        (0..COUNT).map(place).collect()
    }

    /// Nothing that `node` sends arrives any more; or, `inward`, nothing that is sent to it.
    fn cut(&self, node: usize, inward: bool) {
        // A bucket that holds less than any packet lets none through.
        let bucket = "root tbf rate 8bit burst 1 limit 1";
        let made = if inward {
            run(&format!("tc qdisc add dev {} {bucket}", self.end(node)))
        } else {
            run(&format!("tc -n {} qdisc add dev wire {bucket}", self.space(node)))
        };
        made.unwrap();
    }

    fn mend(&self, node: usize, inward: bool) {
        let mended = if inward {
            run(&format!("tc qdisc del dev {} root", self.end(node)))
        } else {
            run(&format!("tc -n {} qdisc del dev wire root", self.space(node)))
        };
        mended.unwrap();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in 0..COUNT {
            run(&format!("ip netns del {}", self.space(node))).ok();
            run(&format!("ip link del {}", self.end(node))).ok();
        }
        run(&format!("ip link del {}b", self.tag)).ok();
    }
}

fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 97, 31, u8::try_from(node).unwrap() + 1)
}

/// The cables that are cut in a round: node, and whether towards it.
fn cables(draw: &mut Draw, round: u64) -> Vec<(usize, bool)> {
    let one = usize::try_from(draw.below(COUNT as u64)).unwrap();
    match round % 4 {
        0 => vec![(one, false), (one, true)],
        1 => vec![(one, false)],
        2 => vec![(one, true)],
        // Nobody hears anybody.
        _ => (0..COUNT).map(|node| (node, false)).collect(),
    }
}

#[test]
fn cuts_lose_no_acknowledged_write() {
    if !can_run() {
        return;
    }
    let Some(net) = Net::up() else { return };
    let (rounds, mut draw) = plan(ROUNDS);
    let nodes = Nodes::at(net.places());
    (0..COUNT).for_each(|node| nodes.start(node));
    (0..COUNT).for_each(|node| wait_led(&nodes, node));
    let record = Record::new();
    let load = Load::start(&nodes.places, &record, draw.below(1 << 30));
    wait_acked(&nodes, &record, BETWEEN);
    for number in 0..rounds {
        let began = Instant::now();
        let cables = cables(&mut draw, number);
        for (node, inward) in &cables {
            net.cut(*node, *inward);
        }
        // A majority that hears each other goes on; the others must not.
        if cables.len() < COUNT {
            wait_acked(&nodes, &record, BETWEEN);
        }
        thread::sleep(Duration::from_millis(500 + draw.below(3_000)));
        for (node, inward) in &cables {
            net.mend(*node, *inward);
        }
        (0..COUNT).for_each(|node| wait_led(&nodes, node));
        wait_acked(&nodes, &record, BETWEEN);
        println!("round {number}: {:.1?} {cables:?}; {}", began.elapsed(), record.tell());
    }
    load.stop();
    record.judge(&nodes.places);
}
