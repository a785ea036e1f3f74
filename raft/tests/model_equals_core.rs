//! The core against textbook Raft, by the same random schedule of partitions, crashes and
//! proposals.
//!
//! They are not compared message by message: the core decides when somebody is elected, and the
//! textbook must agree that this one could be. Whatever the textbook can elect, the core must elect
//! in bounded time. At rest, what is committed is equal, entry by entry, no-ops included.

#[path = "script/toolbox.rs"]
#[expect(dead_code, reason = "scripts use the rest")]
mod script;
#[path = "model/textbook.rs"]
#[expect(unreachable_pub, reason = "a module of this test alone")]
mod textbook;

use bowline_raft::{Configuration, LogIndex, Member, NodeId, Part, ReplicaId, Role};
use script::{
    node::Node,
    world::{World, pair},
};
use textbook::{Is, Textbook};

const MILLI: u64 = 1_000_000;
/// Any leader without a majority is gone, any majority that was left alone has elected.
const CALM: u64 = 3_000 * MILLI;
/// However unlucky the waits were drawn.
const CALMS_MAX: usize = 8;

/// All chance of a run (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// The core and the textbook; node `n` of the core is peer `n - 1` of the textbook.
struct Both {
    world: World,
    model: Textbook,
    followed: usize,
    token: u64,
    committed: Vec<u64>,
}

fn place(id: u64) -> usize {
    usize::try_from(id - 1).expect("a few nodes")
}

impl Both {
    fn new(nodes: u64, lanes: bool) -> Self {
        let mut conf = Configuration::sole_voter(NodeId(1), ReplicaId(1));
        let voter = Member { before: Part::Voter, ..conf.members[0] };
        conf.members = (1..=nodes)
            .map(|id| Member { node: NodeId(id), replica: ReplicaId(id), ..voter })
            .collect();
        conf.next_replica = ReplicaId(nodes + 1);
        let mut world = World::new(lanes);
        for id in 1..=nodes {
            world.nodes.insert(id, Node::new(id, &conf, true));
        }
        (1..=nodes).for_each(|id| world.start(id).expect("a founding replica starts"));
        let model = Textbook::new(place(nodes + 1));
        Self { world, model, followed: 0, token: 0, committed: Vec::new() }
    }

    fn ids(&self) -> Vec<u64> {
        self.world.nodes.keys().copied().collect()
    }

    /// New groups: 0 is dead, nodes of another group hear each other.
    fn regroup(&mut self, groups: &[u8]) {
        for id in self.ids() {
            let runs = self.world.nodes[&id].core.is_some();
            if groups[place(id)] == 0 && runs {
                self.world.crash(id).expect("there is such a node");
                self.model.crash(place(id));
            }
        }
        for one in self.ids() {
            for other in self.ids().into_iter().filter(|other| *other > one) {
                if groups[place(one)] == groups[place(other)] {
                    self.world.cut.remove(&pair(one, other));
                } else {
                    self.world.cut.insert(pair(one, other));
                    self.world.disconnect(one, other);
                }
            }
        }
        self.model.group = groups.to_vec();
        for id in self.ids() {
            if groups[place(id)] != 0 && self.world.nodes[&id].core.is_none() {
                self.world.start(id).expect("what the disk has is whole");
            }
        }
        for one in self.ids() {
            self.ids().into_iter().for_each(|other| self.world.connect(one, other));
        }
    }

    /// Proposes at every leader of the core.
    fn propose(&mut self, count: u64) {
        for id in self.leaders() {
            assert_eq!(self.model.peers[place(id)].is, Is::Leader, "both have this leader");
            for _ in 0..count {
                self.token += 1;
                let node = self.world.nodes.get_mut(&id).expect("it leads");
                node.propose(&self.token.to_string()).expect("a leader with room takes it");
                node.pass(|_, _, _| ());
                self.world.collect(id);
                self.model.propose(place(id), self.token);
            }
        }
        self.world.settle().expect("the network comes to rest");
    }

    fn leaders(&self) -> Vec<u64> {
        let leads = |node: &&Node| {
            node.core.as_ref().is_some_and(|core| core.view(node.slot).role == Role::Leader)
        };
        self.world.nodes.values().filter(leads).map(|node| node.id).collect()
    }

    /// Time passes until who can lead leads; the textbook elects whom the core elected.
    fn calm(&mut self) {
        for peer in 0..self.model.peers.len() {
            if self.model.peers[peer].is == Is::Leader {
                self.model.replicate(peer);
            }
        }
        for _ in 0..CALMS_MAX {
            let ids = self.world.running();
            self.world.advance(CALM, &ids).expect("the network comes to rest");
            self.world.told.clear();
            self.follow();
            let possible = (0..self.model.peers.len()).any(|peer| self.model.electable(peer));
            if !possible || !self.leaders().is_empty() {
                return;
            }
        }
        unreachable!("the textbook has somebody to elect, and nobody leads");
    }

    fn follow(&mut self) {
        while let Some((term, id)) = self.world.led.get(self.followed).copied() {
            self.followed += 1;
            let before = &self.world.led[..self.followed - 1];
            assert!(before.iter().all(|(other, _)| *other != term), "term {term} has one leader");
            assert!(self.model.electable(place(id)), "the textbook would elect {id}");
            assert!(self.model.campaign(place(id)), "the textbook elects {id}");
        }
        let leaders = self.leaders();
        for id in self.ids() {
            let peer = &mut self.model.peers[place(id)];
            if leaders.contains(&id) {
                assert_eq!(peer.is, Is::Leader, "{id} leads in the textbook");
                self.model.replicate(place(id));
            } else {
                // The core's leaders give up without a majority; nothing in the paper forbids it.
                peer.is = Is::Follower;
            }
        }
    }

    /// What a node of the core has committed, as tokens.
    fn committed(&self, id: u64) -> Vec<u64> {
        let node = &self.world.nodes[&id];
        let commit = node.core.as_ref().map_or(LogIndex(0), |core| core.view(node.slot).commit);
        (1..=commit.0).map(|index| self.token_at(id, index)).collect()
    }

    fn token_at(&self, id: u64, index: u64) -> u64 {
        let entry =
            self.world.nodes[&id].log.disk.memory.entry(index).expect("nothing is compacted");
        let text = core::str::from_utf8(&entry.payload).expect("a token");
        if text.is_empty() { 0 } else { text.parse().expect("a token") }
    }

    fn compare(&mut self) {
        self.model.check();
        for id in self.ids() {
            let log: Vec<_> = (1..=self.world.nodes[&id].log.disk.memory.last())
                .map(|index| self.token_at(id, index))
                .collect();
            let model: Vec<_> =
                self.model.peers[place(id)].log.iter().map(|entry| entry.1).collect();
            assert_eq!(log, model, "the log of {id}");
            let committed = self.committed(id);
            let shared = committed.len().min(self.committed.len());
            assert_eq!(
                committed[..shared],
                self.committed[..shared],
                "{id} keeps what was committed"
            );
        }
        for id in self.leaders() {
            let committed = self.committed(id);
            assert_eq!(committed, self.model.committed(place(id)), "the leader {id}");
            assert!(committed.len() >= self.committed.len(), "what is committed only grows");
            self.committed = committed;
        }
    }
}

/// One random story.
fn story(seed: u64, lanes: bool) -> usize {
    let mut chance = Chance(seed);
    let nodes = [3, 4, 5, 5][usize::try_from(chance.below(4)).expect("small")];
    let mut both = Both::new(nodes, lanes);
    both.calm();
    for _ in 0..12 {
        let dead = chance.below(4) == 0;
        let parts = 1 + chance.below(3);
        let groups: Vec<_> = (0..nodes)
            .map(|_| {
                let group = 1 + chance.below(parts);
                let dies = dead && chance.below(3) == 0;
                u8::try_from(if dies { 0 } else { group }).expect("small")
            })
            .collect();
        both.regroup(&groups);
        both.propose(chance.below(4));
        both.calm();
        both.propose(chance.below(4));
        both.calm();
        both.compare();
    }
    both.regroup(&vec![1; place(nodes + 1)]);
    both.calm();
    both.compare();
    assert_eq!(both.leaders().len(), 1, "whole again, it has one leader");
    both.committed.len()
}

/// `BOWLINE_SEEDS` stories from `BOWLINE_SEED_BASE` on.
#[expect(clippy::disallowed_methods, reason = "a developer asks for more of them")]
fn stories(lanes: bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let base = number("BOWLINE_SEED_BASE").unwrap_or(0);
    let count = number("BOWLINE_SEEDS").unwrap_or(6);
    let committed: usize = (base..base + count).map(|seed| story(seed, lanes)).sum();
    let least = usize::try_from(count * 20).expect("a few");
    assert!(committed > least, "the stories were about something: {committed}");
}

#[test]
fn model_equals_core_when_each_shard_beats() {
    stories(false);
}

#[test]
fn model_equals_core_under_lane_support() {
    stories(true);
}
