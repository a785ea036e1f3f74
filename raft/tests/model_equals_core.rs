//! The core against textbook Raft, by the same random schedule of partitions, crashes and
//! proposals.
//!
//! What the textbook does by calls, the core does by messages that overtake each other and come
//! twice, even long after, and by writes that take their time.
//!
//! They are not compared message by message: the core decides when somebody is elected, and the
//! textbook must agree that this one could be. Whatever the textbook can elect, the core must elect
//! in bounded time. At rest, logs and what is committed are equal, entry by entry.

#[path = "script/toolbox.rs"]
#[expect(dead_code, reason = "scripts use the rest")]
mod script;
#[path = "model/textbook.rs"]
#[expect(unreachable_pub, reason = "a module of this test alone")]
mod textbook;

use bowline_raft::{Configuration, LogIndex, Member, NodeId, Part, ReplicaId, Role};
use script::{
    node::{Node, Packet},
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

/// Copies of messages that may still come, at most.
const LATE_MAX: usize = 64;
/// Steps after which a network that has not come to rest never will.
const STEPS_MAX: usize = 200_000;
/// Between two looks at the timers while time passes.
const TICK: u64 = 10 * MILLI;

/// The core and the textbook; node `n` of the core is peer `n - 1` of the textbook.
struct Both {
    world: World,
    model: Textbook,
    chance: Chance,
    /// Copies of messages that were delivered.
    late: Vec<((u64, u64), Packet)>,
    followed: usize,
    token: u64,
    committed: Vec<u64>,
}

fn place(id: u64) -> usize {
    usize::try_from(id - 1).expect("a few nodes")
}

impl Both {
    fn new(nodes: u64, lanes: bool, chance: Chance) -> Self {
        let mut conf = Configuration::sole_voter(NodeId(1), ReplicaId(1));
        let voter = Member { before: Part::Voter, ..conf.members[0] };
        conf.members = (1..=nodes)
            .map(|id| Member { node: NodeId(id), replica: ReplicaId(id), ..voter })
            .collect();
        conf.next_replica = ReplicaId(nodes + 1);
        let mut world = World::new(lanes);
        for id in 1..=nodes {
            world.nodes.insert(id, Node::new(id, &conf, false));
        }
        (1..=nodes).for_each(|id| world.start(id).expect("a founding replica starts"));
        let model = Textbook::new(place(nodes + 1));
        let late = Vec::new();
        Self { world, model, chance, late, followed: 0, token: 0, committed: Vec::new() }
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
        self.settle();
    }

    /// Everything under way arrives and everything written gets durable, in any order.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            let links = self.world.wires.iter().filter(|(_, wire)| !wire.queue.is_empty());
            let links: Vec<_> = links.map(|(link, _)| *link).collect();
            let disks = self.world.nodes.values().filter(|node| node.core.is_some());
            let disks = disks.filter(|node| node.log.disk.durable < node.log.disk.staged);
            let disks: Vec<_> = disks.map(|node| node.id).collect();
            let most = u64::try_from(links.len() + disks.len()).expect("a few");
            if most == 0 {
                return;
            }
            let at = usize::try_from(self.chance.below(most)).expect("a few");
            match links.get(at) {
                Some(link) => self.deliver(*link),
                None => self.write(disks[at - links.len()]),
            }
            if self.chance.below(8) == 0 {
                self.deliver_late();
            }
        }
        unreachable!("the network comes to rest");
    }

    /// One of the first messages of a wire arrives; a copy may come again.
    fn deliver(&mut self, link: (u64, u64)) {
        let queue = &mut self.world.wires.get_mut(&link).expect("it has messages").queue;
        let first = self.chance.below(3.min(u64::try_from(queue.len()).expect("a few")));
        let packet = queue.remove(usize::try_from(first).expect("a few")).expect("it is there");
        self.world.hand(link.0, link.1, &packet);
        if self.late.len() < LATE_MAX && self.chance.below(4) == 0 {
            self.late.push((link, packet));
        }
    }

    fn deliver_late(&mut self) {
        if !self.late.is_empty() {
            let end = u64::try_from(self.late.len()).expect("a few");
            let at = usize::try_from(self.chance.below(end)).expect("a few");
            let ((from, to), packet) = self.late.swap_remove(at);
            self.world.hand(from, to, &packet);
        }
    }

    /// Some of a node's writes get durable.
    fn write(&mut self, id: u64) {
        let node = self.world.nodes.get_mut(&id).expect("it has a disk");
        let (durable, staged) = (node.log.disk.durable, node.log.disk.staged);
        node.durable(Some(durable + 1 + self.chance.below(staged - durable)));
        self.world.collect(id);
    }

    fn advance(&mut self, nanos: u64) {
        for _ in 0..nanos / TICK {
            for id in self.world.running() {
                let node = self.world.nodes.get_mut(&id).expect("it runs");
                let now = node.now + TICK;
                node.timer(now);
                self.world.collect(id);
            }
            self.settle();
        }
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
            self.advance(CALM);
            self.world.told.clear();
            self.follow();
            let possible = (0..self.model.peers.len()).any(|peer| self.model.electable(peer));
            if !possible || !self.leaders().is_empty() {
                return;
            }
        }
        unreachable!("the textbook has somebody to elect, and nobody leads");
    }

    /// The textbook elects whom the core elected. A leader that was deposed at once may have sent
    /// its log to the others before, or not: the core shows which.
    fn follow(&mut self) {
        // A vote that was late may make a leader after that of a higher term.
        let mut led: Vec<_> = self.world.led[self.followed..].to_vec();
        led.sort_unstable();
        let mut stories = vec![self.model.clone()];
        let mut terms: Vec<_> = self.world.led.iter().map(|(term, _)| *term).collect();
        terms.sort_unstable();
        assert!(terms.is_sorted_by(|one, next| one < next), "a term has one leader: {terms:?}");
        for (nth, (_, id)) in led.iter().enumerate() {
            stories.retain(|story| story.electable(place(*id)));
            assert!(!stories.is_empty(), "the textbook would elect {id}");
            for story in &mut stories {
                assert!(story.campaign(place(*id)), "the textbook elects {id}");
            }
            let silent = if nth + 1 < led.len() { stories.clone() } else { Vec::new() };
            for story in &mut stories {
                story.replicate(place(*id));
            }
            stories.extend(silent);
        }
        self.followed += led.len();
        for story in &mut stories {
            self.settle_leaders(story);
        }
        let fits = stories.iter().position(|story| self.differs(story).is_none());
        self.model = stories.swap_remove(fits.unwrap_or(0));
    }

    /// The core's leaders lead in the textbook; who gave up there, gives up here.
    fn settle_leaders(&self, story: &mut Textbook) {
        let leaders = self.leaders();
        for id in self.ids() {
            let peer = &mut story.peers[place(id)];
            if leaders.contains(&id) {
                assert_eq!(peer.is, Is::Leader, "{id} leads in the textbook");
                story.replicate(place(id));
            } else {
                // Without a majority the core's leaders give up; nothing in the paper forbids it.
                peer.is = Is::Follower;
            }
        }
    }

    /// A node whose log is not as in the textbook. No-ops of leaders that were deposed at once are
    /// not counted.
    fn differs(&self, story: &Textbook) -> Option<u64> {
        self.ids().into_iter().find(|id| {
            let last = self.world.nodes[id].log.disk.memory.last();
            let log = (1..=last).map(|index| self.token_at(*id, index));
            let model = story.peers[place(*id)].log.iter().map(|entry| entry.1);
            !log.filter(|token| *token != 0).eq(model.filter(|token| *token != 0))
        })
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
        assert_eq!(self.differs(&self.model), None, "every log is as in the textbook");
        for id in self.ids() {
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
            let proposed =
                |all: &[u64]| all.iter().copied().filter(|it| *it != 0).collect::<Vec<_>>();
            let model = self.model.committed(place(id));
            assert_eq!(proposed(&committed), proposed(&model), "the leader {id}");
            assert!(committed.len() >= self.committed.len(), "what is committed only grows");
            self.committed = committed;
        }
    }
}

/// One random story.
fn story(seed: u64, lanes: bool) -> usize {
    let mut chance = Chance(seed);
    let nodes = [3, 4, 5, 5][usize::try_from(chance.below(4)).expect("small")];
    let mut both = Both::new(nodes, lanes, Chance(!seed));
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
    let count = number("BOWLINE_SEEDS").unwrap_or(4);
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
