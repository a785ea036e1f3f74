//! One run from its seed to its verdict: a phase with faults, then healing, within a bound.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bowline_raft::{Part, ReplicaId, Role, ShardId};

use super::{
    cover::Cover,
    disk::shard_place,
    log::shard_at,
    node::{Clock, Input, Verb},
    plan::{MILLI, Plan, SECOND},
    world::{Event, Fate, World},
};

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    pub hash: u64,
    pub cover: Cover,
    /// Virtual time it took.
    pub time: u64,
    /// What went wrong, and the replicas as they were then.
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub what: String,
    pub states: Vec<String>,
}

/// Runs a plan to its end.
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    let mut world = World::new(plan.clone());
    world.trace = trace;
    world.unleash();
    let ran = catch_unwind(AssertUnwindSafe(|| whole(&mut world)));
    let what = match ran {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("panic: {}", text_of(panic.as_ref()))),
    };
    let states = || catch_unwind(AssertUnwindSafe(|| world.states())).unwrap_or_default();
    let failure = what.map(|what| Failure { what, states: states() });
    world.gather();
    Outcome { hash: world.hash, cover: world.cover, time: world.now, failure }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "of another kind".to_owned())
}

fn whole(world: &mut World) -> Result<(), String> {
    let safety = world.plan.safety;
    world.until(safety)?;
    world.heal();
    let end = world.now + world.plan.heal;
    let puts = world.put_everywhere();
    world.settle_down(end, &puts)?;
    world.quiet(end)?;
    world.last_look()
}

impl World {
    /// Lets things happen up to a time.
    pub fn until(&mut self, time: u64) -> Result<(), String> {
        while self.step(time) {
            self.cover.events_of_world += 1;
            if let Some(failed) = self.failed.clone() {
                return Err(failed);
            }
            if self.cover.steps > self.plan.steps_max {
                return Err("a loop that takes no time: too many steps".to_owned());
            }
        }
        Ok(())
    }

    /// Ends every fault; a minority may stay dead.
    pub fn heal(&mut self) {
        self.note("heal", 0, 0, 0);
        self.healing = true;
        self.choose_dead();
        for node in 0..self.nodes.len() {
            for peer in 0..self.nodes.len() {
                if node != peer {
                    self.block(node, peer, false);
                }
            }
            let now = self.now;
            let own = self.nodes[node].clock.read(now);
            self.nodes[node].clock = Clock::at(now, own);
            for core in 0..self.nodes[node].cores.len() {
                self.heal_core(node, core);
            }
            if self.dead[node] {
                self.crash(node, true);
            } else if !self.nodes[node].alive {
                self.at(self.now + MILLI, Event::Restart { node });
            }
        }
        for link in 0..self.links.len() {
            self.mend(super::world::Mend::Room { link });
        }
    }

    fn heal_core(&mut self, node: usize, core: usize) {
        let boot = self.nodes[node].boot;
        let turn = &mut self.nodes[node].cores[core];
        turn.paused_until = self.now;
        if turn.stalled && self.nodes[node].alive {
            self.end_turn(node, core);
        }
        let turn = &mut self.nodes[node].cores[core];
        turn.pass_at = u64::MAX;
        for nth in 0..turn.log.disk.streams.len() {
            let turn = &mut self.nodes[node].cores[core];
            let stream = &mut turn.log.disk.streams[nth];
            stream.stuck = false;
            stream.frames_max = usize::MAX;
            if stream.failed {
                self.at(self.now + MILLI, Event::Reopen { node, boot, core, stream: nth });
            }
        }
        if self.nodes[node].alive {
            self.wake(node, core);
        }
    }

    /// Nodes without which every shard still has a quorum that counts.
    fn choose_dead(&mut self) {
        if !self.plan.rest_dead {
            return;
        }
        let node = self.any_node();
        let mut dead = vec![false; self.nodes.len()];
        dead[node] = true;
        let fine = (0..self.plan.shards).all(|nth| self.serves_without(shard_at(nth), &dead));
        if fine {
            self.dead = dead;
        }
    }

    fn serves_without(&self, shard: ShardId, dead: &[bool]) -> bool {
        let healthy = |replica: ReplicaId| {
            self.nodes.iter().enumerate().any(|(nth, node)| {
                let machine = node.machine(shard);
                let whole = !machine.charged && !machine.state_lost;
                let lost = node.core_of(shard).log.disk.durable_of(shard).lost.is_some();
                machine.replica == replica && whole && !lost && !dead[nth]
            })
        };
        self.configurations(shard).iter().all(|conf| {
            let learns = conf.members.iter().any(|member| {
                let home = super::rng::place(member.node.0 - 1);
                member.after == Part::Learner && dead[home]
            });
            let half = |part: fn(&bowline_raft::Member) -> Part| {
                let voters = conf.members.iter().filter(|m| part(m) == Part::Voter);
                let (all, good) = voters.fold((0, 0), |(all, good), member| {
                    (all + 1, good + u32::from(healthy(member.replica)))
                });
                good * 2 > all
            };
            !learns && half(|m| m.before) && half(|m| m.after)
        })
    }

    /// The number of committed client entries that each shard has to exceed.
    pub fn put_everywhere(&self) -> Vec<u64> {
        self.oracle.tables.iter().map(|table| table.writes).collect()
    }

    /// Everything is answered, written and equal before the bound.
    pub fn settle_down(&mut self, end: u64, before: &[u64]) -> Result<(), String> {
        let mut open: Vec<u64> = self.reads.keys().copied().collect();
        while self.now < end {
            self.until(self.now + 50 * MILLI)?;
            for (nth, before) in before.iter().enumerate() {
                let shard = shard_at(nth);
                let behind = self.oracle.table(shard).writes <= *before;
                if let Some(leader) = self.leader(shard).filter(|_| behind) {
                    self.put(leader, shard, 1);
                }
            }
            open.retain(|token| self.reads.contains_key(token));
            if open.is_empty() && self.settled(before).is_ok() {
                return Ok(());
            }
        }
        let asked =
            !(0..self.plan.shards).all(|nth| self.serves_without(shard_at(nth), &self.dead));
        if asked && self.dead.contains(&true) {
            // A change that was on its way when the rest died needs one of them.
            return Ok(());
        }
        let what = self.settled(before).err();
        Err(format!(
            "liveness: after {} s of health: {}; reads without an answer: {open:?}",
            self.plan.heal / SECOND,
            what.unwrap_or_default()
        ))
    }

    /// What still keeps the cluster from rest.
    fn settled(&self, before: &[u64]) -> Result<(), String> {
        for (nth, before) in before.iter().enumerate() {
            let shard = shard_at(nth);
            let table = self.oracle.table(shard);
            if table.writes <= *before {
                return Err(format!("shard {shard} commits nothing"));
            }
            let leaders = self.leaders(shard);
            if leaders != 1 {
                return Err(format!("shard {shard} has {leaders} leaders"));
            }
            for member in &self.confs[nth].members {
                self.member_settled(shard, member, table.committed.len() as u64)?;
            }
        }
        Ok(())
    }

    fn leaders(&self, shard: ShardId) -> usize {
        let leads = self.nodes.iter().filter(|node| {
            let core = node.core_of(shard);
            let slot = core.machine(shard).slot;
            node.alive && slot.is_some_and(|slot| core.raft.view(slot).role == Role::Leader)
        });
        leads.count()
    }

    fn member_settled(
        &self,
        shard: ShardId,
        member: &bowline_raft::Member,
        committed: u64,
    ) -> Result<(), String> {
        let nth = super::rng::place(member.node.0 - 1);
        let node = &self.nodes[nth];
        let machine = node.machine(shard);
        if self.dead[nth] || machine.retired {
            return Ok(());
        }
        let who = format!("replica {} of shard {shard} on node {}", member.replica, node.id);
        if machine.replica != member.replica || machine.slot.is_none() || !node.alive {
            return Err(format!("{who} is not open"));
        }
        // A few entries may be on their way: clients go on.
        if machine.applied + 8 < committed {
            return Err(format!("{who} applied {} of {committed}", machine.applied));
        }
        let lost = node.core_of(shard).log.disk.memory_of(shard).lost.is_some();
        if machine.state_lost || lost {
            return Err(format!("{who} is still damaged"));
        }
        Ok(())
    }

    /// A healthy cluster keeps its leaders.
    fn quiet(&mut self, end: u64) -> Result<(), String> {
        if !self.plan.seed.is_multiple_of(8) {
            return Ok(());
        }
        self.until((self.now + 5 * SECOND).min(end))?;
        let before = self.cover.elections;
        let shards = self.plan.shards as u64;
        self.until(self.now + 2 * SECOND)?;
        let changes = self.cover.elections - before;
        if changes > shards {
            return Err(format!("liveness: {changes} elections in 2 s of health"));
        }
        Ok(())
    }

    /// Replicas that applied as much hold the same, and nothing rejected was committed.
    fn last_look(&self) -> Result<(), String> {
        for nth in 0..self.plan.shards {
            let shard = shard_at(nth);
            let mut states = std::collections::BTreeMap::new();
            for node in &self.nodes {
                let machine = node.machine(shard);
                if machine.replica == ReplicaId(0) || machine.state_lost {
                    continue;
                }
                let state = (machine.value, machine.term);
                let other = *states.entry(machine.applied).or_insert(state);
                if other != state {
                    return Err(format!("replicas differ: shard {shard}: {other:?} {state:?}"));
                }
            }
        }
        let wrong = self.fates.iter().filter(|fate| **fate == Fate::Committed).count() as u64;
        let writes: u64 = self.oracle.tables.iter().map(|table| table.writes).sum();
        if wrong != writes {
            return Err(format!("{wrong} tokens committed, {writes} entries of clients"));
        }
        Ok(())
    }

    /// Adds up what the cores and logs counted.
    pub fn gather(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].alive {
                self.count_life(node);
            }
        }
        for node in &self.nodes {
            for core in &node.cores {
                self.cover.truncations += core.log.truncations;
                self.cover.log_refusals += core.log.refusals;
                self.cover.bad_checksums += core.log.bad_crc;
            }
        }
    }

    /// What the cores of a node counted in this life.
    pub fn count_life(&mut self, node: usize) {
        for core in &self.nodes[node].cores {
            let counted = core.raft.counters();
            self.cover.step_downs += counted.step_downs;
            self.cover.lease_expiries += counted.beliefs_lapsed;
            self.cover.epochs_withdrawn += counted.epochs_withdrawn;
            self.cover.digests += counted.digests;
        }
    }

    /// Proposes a change of members and waits until it is in force.
    pub fn change(&mut self, shard: ShardId, verb: Verb, limit: u64) -> Result<(), String> {
        let epoch = self.confs[shard_place(shard)].epoch;
        let end = self.now + limit;
        while self.now < end && self.confs[shard_place(shard)].epoch == epoch {
            if let Some(node) = self.leader(shard) {
                let home = self.nodes[node].home(shard);
                self.nodes[node].cores[home].inputs.push(Input::Verb { shard, verb });
                self.wake(node, home);
            }
            self.until(self.now + 20 * MILLI)?;
        }
        Ok(())
    }
}
