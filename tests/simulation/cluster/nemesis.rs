//! What goes wrong in the safety phase, and how it ends.

use std::rc::Rc;

use bowline::{NodeId, ShardId};
use bowline_env::sim::{Crash, Rng, WriteFault};
use bowline_env::{Name, Nanos};

use super::guests::Guests;
use super::load::Shared;
use super::nodes::Nodes;
use super::plan::Trouble;

/// What ends something.
#[derive(Clone, Debug)]
enum End {
    /// The ways are as they should be.
    Mend(Vec<(u64, u64)>),
    Start(u64),
}

/// Draws troubles and ends them.
pub(crate) struct Nemesis {
    shared: Rc<Shared>,
    rng: Rng,
    next: Nanos,
    ends: Vec<(Nanos, End)>,
    pub(crate) guests: Guests,
}

impl Nemesis {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        let rng = Rng::new(shared.plan.seed ^ 0x6e65_6d65);
        let (shared, guests) = (Rc::clone(shared), Guests::new(shared));
        let mut new = Self { shared, rng, next: Nanos(0), ends: Vec::new(), guests };
        new.next = new.soon();
        new
    }

    fn now(&self) -> Nanos {
        self.shared.world.now()
    }

    fn soon(&self) -> Nanos {
        let between = self.shared.plan.between.0;
        self.now().after(Nanos(self.rng.magnitude(between / 4, between * 4)))
    }

    fn later(&mut self, most: Nanos, end: End) {
        let at = self.now().after(Nanos(self.rng.magnitude(1_000_000, most.0)));
        self.ends.push((at, end));
    }

    /// A node went down by itself: it comes back.
    pub(crate) fn went_down(&mut self, node: u64) {
        self.later(Nanos(4_000_000_000), End::Start(node));
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, nodes: &mut Nodes) {
        let now = self.now();
        self.guests.look(nodes);
        let (due, left) =
            std::mem::take(&mut self.ends).into_iter().partition(|(at, _)| *at <= now);
        self.ends = left;
        let due: Vec<(Nanos, End)> = due;
        for (_, end) in due {
            match end {
                End::Mend(ways) => self.mend(&ways),
                End::Start(node) => {
                    if nodes.is_down(node) {
                        self.damage(node);
                    }
                    nodes.start(node);
                },
            }
        }
        let troubles = &self.shared.plan.troubles;
        if now >= self.next && !troubles.is_empty() {
            let trouble = troubles[self.rng.index(troubles.len())];
            self.begin(trouble, nodes);
            self.next = self.soon();
        }
    }

    fn mend(&self, ways: &[(u64, u64)]) {
        for (from, to) in ways {
            let link = self.shared.world.link(*from, *to);
            link.mend();
            link.slow(1);
        }
    }

    /// A node to trouble.
    fn one(&self) -> u64 {
        let nodes = self.shared.nodes.borrow();
        nodes[self.rng.index(nodes.len())]
    }

    /// Two different nodes; none: there is but one.
    fn two(&self) -> Option<(u64, u64)> {
        let nodes = self.shared.nodes.borrow();
        if nodes.len() < 2 {
            return None;
        }
        let (a, b) = (self.rng.index(nodes.len()), self.rng.index(nodes.len() - 1));
        Some((nodes[a], nodes[(a + 1 + b) % nodes.len()]))
    }

    fn begin(&mut self, trouble: Trouble, nodes: &mut Nodes) {
        let node = self.one();
        match trouble {
            Trouble::Partition => self.partition(),
            Trouble::OneWay => self.one_way(node),
            Trouble::SlowLink => {
                let Some((from, to)) = self.two() else { return };
                self.shared.world.link(from, to).slow(self.rng.magnitude(2, 500));
                self.later(Nanos(8_000_000_000), End::Mend(vec![(from, to)]));
                self.shared.tally.borrow_mut().slow_links += 1;
            },
            Trouble::Reset => {
                let Some((a, b)) = self.two() else { return };
                self.shared.world.link(a, b).reset();
                self.shared.tally.borrow_mut().resets += 1;
            },
            Trouble::Kill => self.crash(nodes, node, Crash::Kill),
            Trouble::Power => self.crash(nodes, node, Crash::Power),
            Trouble::PowerOfAll => self.power_of_all(nodes),
            Trouble::Stop => {
                if nodes.stop(node) {
                    self.shared.tally.borrow_mut().stops += 1;
                }
            },
            Trouble::PowerAtDisk => {
                if !nodes.is_down(node) {
                    let disk = self.shared.world.disk(node);
                    disk.crash_at(1 + self.rng.below(100), Crash::Power);
                    self.shared.tally.borrow_mut().powers_at_disk += 1;
                }
            },
            Trouble::Pause | Trouble::HiddenPause | Trouble::Suspend | Trouble::WallJump => {
                self.clock(trouble, node);
            },
            Trouble::SlowDisk | Trouble::BadDisk => self.disk(trouble, node),
            Trouble::Transfer | Trouble::Flush => self.ask(trouble, node),
            // It comes before a start.
            Trouble::LostRun => {},
            Trouble::Members => self.guests.change(nodes),
            Trouble::BadPage => self.spoil(node),
        }
    }

    /// Some nodes do not reach the others: one node, a half, or each but its neighbours.
    fn partition(&mut self) {
        let nodes = self.shared.all();
        if nodes.len() < 2 {
            return;
        }
        let alone = self.one();
        let sides: Vec<bool> = match self.rng.below(3) {
            0 => nodes.iter().map(|node| *node == alone).collect(),
            _ => nodes.iter().map(|_| self.rng.ratio(1, 2)).collect(),
        };
        let bridge = self.rng.ratio(1, 4).then(|| self.one());
        let mut ways = Vec::new();
        for (a, side_a) in nodes.iter().zip(&sides) {
            for (b, side_b) in nodes.iter().zip(&sides) {
                let whole = side_a == side_b || bridge == Some(*a) || bridge == Some(*b);
                if !whole {
                    self.shared.world.link(*a, *b).cut();
                    ways.push((*a, *b));
                }
            }
        }
        self.shared.tally.borrow_mut().partitions += u64::from(!ways.is_empty());
        self.later(Nanos(20_000_000_000), End::Mend(ways));
    }

    /// A node is not heard, or hears nobody; or only one other is concerned.
    fn one_way(&mut self, node: u64) {
        let Some((_, other)) = self.two() else { return };
        let all = self.rng.ratio(1, 2);
        let hears = self.rng.ratio(1, 2);
        let nodes = self.shared.nodes.borrow();
        let others = nodes.iter().copied().filter(|it| *it != node);
        let others = others.filter(|it| all || *it == other);
        let ways: Vec<_> = others.map(|it| if hears { (node, it) } else { (it, node) }).collect();
        drop(nodes);
        for (from, to) in &ways {
            self.shared.world.link(*from, *to).cut();
        }
        self.shared.tally.borrow_mut().one_way_cuts += 1;
        self.later(Nanos(20_000_000_000), End::Mend(ways));
    }

    fn crash(&mut self, nodes: &mut Nodes, node: u64, how: Crash) {
        if nodes.is_down(node) {
            return;
        }
        nodes.crash(node, how);
        self.went_down(node);
        let mut tally = self.shared.tally.borrow_mut();
        match how {
            Crash::Kill => tally.kills += 1,
            Crash::Power => tally.power_losses += 1,
        }
    }

    fn power_of_all(&mut self, nodes: &mut Nodes) {
        for node in self.shared.all() {
            if !nodes.is_down(node) {
                nodes.crash(node, Crash::Power);
                self.went_down(node);
            }
        }
        self.shared.tally.borrow_mut().power_losses_of_all += 1;
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told apart before")]
    fn clock(&self, trouble: Trouble, node: u64) {
        let clock = self.shared.world.clock(node);
        let span = Nanos(self.rng.magnitude(1_000_000, 4_000_000_000));
        let mut tally = self.shared.tally.borrow_mut();
        match trouble {
            Trouble::Pause => {
                clock.pause(span);
                tally.pauses += 1;
            },
            Trouble::HiddenPause => {
                clock.hide_pause(span);
                tally.pauses += 1;
            },
            Trouble::Suspend => {
                clock.suspend(span);
                tally.suspends += 1;
            },
            _ => {
                let hour = 3_600_000;
                let by = i64::try_from(self.rng.below(2 * hour)).expect("hours");
                clock.jump_wall(by - i64::try_from(hour).expect("an hour"));
            },
        }
    }

    fn disk(&self, trouble: Trouble, node: u64) {
        let disk = self.shared.world.disk(node);
        let mut tally = self.shared.tally.borrow_mut();
        if trouble == Trouble::SlowDisk {
            let span = Nanos(self.rng.magnitude(10_000_000, 8_000_000_000));
            if self.rng.ratio(1, 2) {
                disk.stuck(span);
            } else {
                disk.slow(self.rng.magnitude(2, 200), span);
            }
            tally.slow_disks += 1;
            return;
        }
        let nth = 1 + self.rng.below(50);
        match self.rng.below(4) {
            0 => disk.fail_write(nth, WriteFault::Error),
            1 => disk.fail_write(nth, WriteFault::Short),
            2 => disk.fail_write(nth, WriteFault::NoSpace),
            _ => disk.fail_sync(nth),
        }
        tally.bad_disks += 1;
    }

    /// Damages what a node that is down has on its disk, if the plan has that.
    fn damage(&self, node: u64) {
        let plan = &self.shared.plan;
        let rots = plan.troubles.contains(&Trouble::LostRun) && plan.victims.contains(&node);
        if !rots || self.rng.ratio(1, 2) {
            return;
        }
        if let Some(run) = self.run_of(node) {
            self.shared.world.disk(node).take_away(&run);
            self.shared.tally.borrow_mut().lost_runs += 1;
        }
    }

    /// Turns a bit of a run of a node whose data may be damaged.
    fn spoil(&self, node: u64) {
        let disk = self.shared.world.disk(node);
        let run = self.run_of(node).filter(|_| self.shared.plan.victims.contains(&node));
        let Some(run) = run else { return };
        let len = disk.durable(&run).map_or(0, |content| content.len());
        if len > 0 {
            let (at, bit) = (self.rng.index(len), self.rng.index(8));
            let (at, bit) = (u64::try_from(at).expect("small"), u32::try_from(bit).expect("small"));
            disk.flip_bit(&run, at, bit);
            self.shared.tally.borrow_mut().bad_pages += 1;
        }
    }

    /// One of a node's runs.
    fn run_of(&self, node: u64) -> Option<Name> {
        let is_run = |name: &Name| name.file().starts_with("run-");
        let files = self.shared.world.disk(node).files();
        let runs: Vec<Name> = files.into_iter().filter(is_run).collect();
        (!runs.is_empty()).then(|| runs[self.rng.index(runs.len())].clone())
    }

    /// Asks a node for something that it does as its callers wish.
    fn ask(&self, trouble: Trouble, node: u64) {
        let Some((_, engine)) = self.shared.up.borrow().get(&node).cloned() else { return };
        let shards = u64::from(self.shared.plan.shards);
        let shard = engine.shard(ShardId(self.rng.below(shards))).expect("there is such a shard");
        let to = NodeId(self.one());
        let shared = Rc::clone(&self.shared);
        drop(self.shared.world.spawn_client(async move {
            if trouble == Trouble::Transfer {
                let done = shard.transfer(to).await.is_ok();
                shared.tally.borrow_mut().transfers += u64::from(done);
            } else {
                let done = shard.flush().await.is_ok();
                shared.tally.borrow_mut().forced_flushes += u64::from(done);
            }
        }));
    }

    /// Everything is as it should be again: the network, the disks, the profile.
    pub(crate) fn heal(&mut self) {
        let world = &self.shared.world;
        world.heal();
        for from in self.shared.nodes.borrow().iter() {
            world.disk(*from).heal();
            for to in self.shared.nodes.borrow().iter().filter(|to| *to != from) {
                self.mend(&[(*from, *to)]);
            }
        }
        self.ends.clear();
    }
}
