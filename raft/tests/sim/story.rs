//! A run driven by hand: the directed scenarios are written in these words.

use bowline_raft::{ReadMode, ReplicaId, Role, ShardId, Term};

use super::{
    node::Verb,
    plan::{Class, MILLI, Plan},
    rng::place,
    world::{Fate, World},
};

/// The shard of a story that needs only one.
pub const ONE: ShardId = ShardId(1);

/// A quiet world, and somebody who tells it what happens.
#[derive(Debug)]
pub struct Story {
    pub world: World,
}

/// Tells a story in both modes of liveness.
pub fn in_both_modes(nodes: usize, voters: usize, tell: impl Fn(Story)) {
    for classic in [false, true] {
        let plan = Plan { classic, ..Plan::quiet(7, nodes, voters) };
        tell(Story::of(plan));
    }
}

impl Story {
    pub fn of(plan: Plan) -> Self {
        let mut world = World::new(plan);
        #[expect(clippy::disallowed_methods, reason = "a trace is asked for by hand")]
        let trace = std::env::var("BOWLINE_TRACE").is_ok();
        world.trace = trace;
        Self { world }
    }

    /// A class of this story's own, that is not drawn.
    pub fn with(classic: bool, nodes: usize, voters: usize, classes: &[Class]) -> Self {
        let mut plan = Plan { classic, ..Plan::quiet(7, nodes, voters) };
        for class in classes {
            plan.classes.set(*class, true);
        }
        Self::of(plan)
    }

    /// Lets some time pass.
    #[track_caller]
    pub fn wait(&mut self, millis: u64) {
        let until = self.world.now + millis * MILLI;
        let went = self.world.until(until);
        self.fine(went);
    }

    #[track_caller]
    fn fine(&self, went: Result<(), String>) {
        if let Err(what) = went {
            panic!("{what}\n{}", self.world.states().join("\n"));
        }
    }

    /// Lets time pass until something holds, for `millis` at most.
    #[track_caller]
    pub fn until(&mut self, millis: u64, what: &str, holds: impl Fn(&World) -> bool) {
        let end = self.world.now + millis * MILLI;
        while !holds(&self.world) {
            let in_time = self.world.now < end;
            assert!(in_time, "not in time: {what}\n{}", self.world.states().join("\n"));
            let next = (self.world.now + MILLI).min(end);
            let went = self.world.until(next);
            self.fine(went);
        }
    }

    /// Who leads, once somebody does.
    #[track_caller]
    pub fn leader(&mut self) -> usize {
        self.until(3_000, "somebody leads", |world| {
            world.leader(ONE).is_some_and(|node| serves(world, node, ONE))
        });
        self.world.leader(ONE).expect("it was looked at")
    }

    /// Makes a node lead.
    #[track_caller]
    pub fn make_leader(&mut self, node: usize) {
        let now = self.leader();
        if now != node {
            let replica = self.world.nodes[node].machine(ONE).replica;
            self.wait(100);
            self.world.ask(now, ONE, Verb::Transfer(replica));
            self.until(2_000, "the transfer ends", |world| {
                world.leader(ONE) == Some(node) && serves(world, node, ONE)
            });
        }
    }

    /// A write through a node that is committed in time.
    #[track_caller]
    pub fn write(&mut self, node: usize) -> u64 {
        let token = self.world.put(node, ONE, 1);
        self.until(2_000, "a write is committed", |world| committed(world, token));
        token
    }

    /// Some writes through whoever leads, `every` so many microseconds.
    #[track_caller]
    pub fn write_for(&mut self, millis: u64, every_micros: u64) {
        let end = self.world.now + millis * MILLI;
        while self.world.now < end {
            if let Some(node) = self.world.leader(ONE) {
                self.world.put(node, ONE, 1);
            }
            let next = self.world.now + every_micros * 1_000;
            let went = self.world.until(next);
            self.fine(went);
        }
    }

    /// Asks a node to read; whether it answers in time.
    #[track_caller]
    pub fn read(&mut self, node: usize, mode: ReadMode, millis: u64) -> bool {
        let cover = |world: &World| {
            let cover = &world.cover;
            cover.reads_index + cover.reads_lease + cover.reads_follower
        };
        let before = cover(&self.world);
        let token = self.world.get(node, ONE, mode);
        let end = self.world.now + millis * MILLI;
        while self.world.now < end && self.world.reads.contains_key(&token) {
            let next = self.world.now + MILLI / 10;
            let went = self.world.until(next);
            self.fine(went);
        }
        cover(&self.world) > before
    }

    /// Cuts one direction.
    pub fn cut_way(&mut self, from: usize, to: usize) {
        self.world.block(from, to, true);
    }

    /// Cuts two nodes off from each other.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut_way(a, b);
        self.cut_way(b, a);
    }

    /// Cuts a node off from everybody.
    pub fn isolate(&mut self, node: usize) {
        for other in 0..self.world.nodes.len() {
            if other != node {
                self.cut(node, other);
            }
        }
    }

    /// The connections of a node break.
    pub fn break_lanes(&mut self, node: usize) {
        for link in 0..self.world.links.len() {
            if self.world.links[link].ends.contains(&node) {
                self.world.reset(link);
            }
        }
    }

    /// Every way is open again; what stood still arrives, or the connections begin anew.
    pub fn join_all(&mut self, anew: bool) {
        for a in 0..self.world.nodes.len() {
            for b in 0..self.world.nodes.len() {
                if a != b {
                    self.world.block(a, b, false);
                }
            }
        }
        if anew {
            for link in 0..self.world.links.len() {
                self.world.reset(link);
            }
        }
    }

    pub fn crash(&mut self, node: usize) {
        self.world.crash(node, false);
    }

    pub fn restart(&mut self, node: usize) {
        self.world.restart(node);
    }

    /// A disk ends no write, or goes on.
    pub fn stick(&mut self, node: usize, stuck: bool) {
        for core in &mut self.world.nodes[node].cores {
            core.log.disk.streams.iter_mut().for_each(|stream| stream.stuck = stuck);
        }
    }

    pub fn term(&self, node: usize) -> Term {
        view(&self.world, node, ONE).0
    }

    pub fn replica(&self, node: usize) -> ReplicaId {
        self.world.nodes[node].machine(ONE).replica
    }

    /// Changes membership through whoever leads.
    #[track_caller]
    pub fn change(&mut self, verb: Verb) {
        let went = self.world.change(ONE, verb, 5_000 * MILLI);
        self.fine(went);
    }

    /// Everybody who is up has everything.
    #[track_caller]
    pub fn until_equal(&mut self, millis: u64) {
        self.until(millis, "everybody has everything", |world| {
            let all = world.oracle.table(ONE).committed.len() as u64;
            world.nodes.iter().all(|node| {
                let machine = node.machine(ONE);
                !node.alive || machine.replica == ReplicaId(0) || machine.applied == all
            })
        });
    }
}

/// Term and role of a replica.
pub fn view(world: &World, node: usize, shard: ShardId) -> (Term, Role) {
    let core = world.nodes[node].core_of(shard);
    let Some(slot) = core.machine(shard).slot else { return (Term(0), Role::Follower) };
    let view = core.raft.view(slot);
    (view.term, view.role)
}

/// Whether a leader has committed something in its term.
pub fn serves(world: &World, node: usize, shard: ShardId) -> bool {
    let core = world.nodes[node].core_of(shard);
    core.machine(shard).slot.is_some_and(|slot| {
        let view = core.raft.view(slot);
        view.role == Role::Leader && view.commit >= view.term_start
    })
}

/// Whether a write is committed.
pub fn committed(world: &World, token: u64) -> bool {
    world.fates[place(token)] == Fate::Committed
}
