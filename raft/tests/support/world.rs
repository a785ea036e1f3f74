//! Three nodes with one replica each, everything that can happen to them, and no log: whoever asks
//! for a vote has all entries, so votes are as free as they can be. What the nodes promise and
//! believe is the production code of `bowline_raft::promise`.
//!
//! Clocks run at fixed rates between `1 - e` and `1 + e` of true time. Lanes are ordered, may be
//! cut and come up again, and lose what was on its way.

use bowline_raft::{
    BootTime,
    promise::{Belief, Grant, Promise, Timing},
};

use crate::wire::{Say, Wire};

/// Nodes.
pub const NODES: usize = 3;
/// Support is for three steps of true time; clocks may run 10 % wrong.
pub const TIMING: Timing = Timing { support_nanos: 300, drift_ppm: 100_000, guard_nanos: 0 };
/// What the clocks of slow, true and fast nodes gain in a step.
pub const RATES: [u64; 3] = [90, 100, 110];

/// A rule that is left out, to see that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Every rule holds.
    None,
    /// A belief lasts as long as the grant.
    DriftForgotten,
    /// A belief counts from the answer.
    BeliefFromReceipt,
    /// A restarted voter votes at once.
    QuietForgotten,
    /// An epoch that ran out is granted again.
    EpochGrantedAgain,
    /// A bound replica votes.
    VotesWhileBound,
    /// The views of a peer's former life count.
    BootIgnored,
    /// A bound replica takes an old epoch for the present one.
    AnyEpochIsNoted,
}

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Index into [`RATES`] of each node.
    pub rates: [usize; NODES],
    /// Who may ask whom for support and append to it.
    pub leads: fn(usize, usize) -> bool,
    /// Who may ask whom for a vote.
    pub woos: fn(usize, usize) -> bool,
    /// How often each node may campaign.
    pub campaigns: [u8; NODES],
    /// How often each node may restart.
    pub restarts: [u8; NODES],
    /// Limits over all nodes.
    pub asks: u8,
    /// Appends.
    pub appends: u8,
    /// Lanes cut.
    pub cuts: u8,
    /// Releases.
    pub releases: u8,
    /// Steps of time.
    pub steps: u8,
    /// The rule that is left out.
    pub mutant: Mutant,
}

impl Scope {
    /// Whether two nodes have anything to say to each other.
    fn talk(&self, a: usize, b: usize) -> bool {
        [(a, b), (b, a)].iter().any(|(a, b)| (self.leads)(*a, *b) || (self.woos)(*a, *b))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Part {
    #[default]
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    now: u64,
    boot: u8,
    // Durable.
    term: u8,
    vote: Option<u8>,
    // Of this life.
    part: Part,
    votes: u8,
    quiet_until: u64,
    support: u32,
    bound_to: u8,
    bound_term: u8,
    promises: [Promise; NODES],
    beliefs: [Belief; NODES],
    noted: [u32; NODES],
    /// Answers that wait for the disk.
    held: [Say; NODES],
    peer_boots: [u8; NODES],
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time goes on.
    Step,
    /// The oldest message from one node to another arrives.
    Deliver(usize, usize),
    /// A node asks another for support.
    Ask(usize, usize),
    /// The disk is done: a held answer leaves.
    Sync(usize, usize),
    /// A leader appends nothing to a follower.
    Append(usize, usize),
    /// A replica wants to lead.
    Campaign(usize),
    /// A leader steps down and says so.
    Release(usize),
    /// A process ends and another begins.
    Restart(usize),
    /// A lane is cut.
    Cut(usize, usize),
    /// A lane comes up.
    Link(usize, usize),
}

/// All of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct World {
    nodes: [Node; NODES],
    wires: [[Wire; NODES]; NODES],
    linked: [[bool; NODES]; NODES],
    /// The highest term in which a leader was elected.
    elected: u8,
    campaigns: [u8; NODES],
    restarts: [u8; NODES],
    asks: u8,
    appends: u8,
    cuts: u8,
    releases: u8,
    steps: u8,
}

impl World {
    /// Node 0 was just elected in term 1; nobody is bound to anybody.
    pub fn new() -> Self {
        let mut world = Self { elected: 1, ..Self::default() };
        for (nth, node) in world.nodes.iter_mut().enumerate() {
            (node.now, node.boot, node.term) = (1_000, 1, 1);
            node.vote = (nth < 2).then_some(0);
        }
        world.nodes[0].part = Part::Leader;
        for a in 0..NODES {
            for b in a + 1..NODES {
                world.link(a, b, Mutant::None);
            }
        }
        world
    }

    /// What may happen now.
    pub fn actions(&self, scope: &Scope, out: &mut Vec<Action>) {
        out.clear();
        if self.steps < scope.steps {
            out.push(Action::Step);
        }
        for a in 0..NODES {
            self.actions_of(a, scope, out);
            for b in (0..NODES).filter(|b| *b != a) {
                self.actions_between(a, b, scope, out);
            }
        }
    }

    fn actions_of(&self, a: usize, scope: &Scope, out: &mut Vec<Action>) {
        let leads = self.nodes[a].part == Part::Leader;
        if self.campaigns[a] < scope.campaigns[a] && !leads && !self.bound(a, scope.mutant) {
            out.push(Action::Campaign(a));
        }
        if self.restarts[a] < scope.restarts[a] {
            out.push(Action::Restart(a));
        }
        if leads && self.releases < scope.releases {
            out.push(Action::Release(a));
        }
    }

    fn actions_between(&self, a: usize, b: usize, scope: &Scope, out: &mut Vec<Action>) {
        let wire = &self.wires[a][b];
        if !wire.is_empty() {
            out.push(Action::Deliver(a, b));
        }
        if !self.linked[a][b] {
            if a < b && scope.talk(a, b) {
                out.push(Action::Link(a, b));
            }
            return;
        }
        if self.nodes[a].held[b] != Say::Nothing {
            out.push(Action::Sync(a, b));
        }
        if a < b && self.cuts < scope.cuts && scope.talk(a, b) {
            out.push(Action::Cut(a, b));
        }
        if wire.is_full() || !(scope.leads)(a, b) {
            return;
        }
        if self.asks < scope.asks {
            out.push(Action::Ask(a, b));
        }
        if self.nodes[a].part == Part::Leader && self.appends < scope.appends {
            out.push(Action::Append(a, b));
        }
    }

    /// Lets it happen.
    pub fn apply(&mut self, action: Action, scope: &Scope) {
        match action {
            Action::Step => {
                self.steps += 1;
                for (node, rate) in self.nodes.iter_mut().zip(scope.rates) {
                    node.now += RATES[rate];
                }
            },
            Action::Deliver(from, to) => {
                let say = self.wires[from][to].pop();
                self.hear(from, to, say, scope.mutant);
            },
            Action::Ask(from, to) => {
                self.asks += 1;
                self.wires[from][to].push(Say::Ask { sent: self.nodes[from].now });
            },
            Action::Append(from, to) => {
                self.appends += 1;
                self.wires[from][to].push(Say::Append { term: self.nodes[from].term });
            },
            Action::Sync(from, to) => {
                let say = std::mem::take(&mut self.nodes[from].held[to]);
                self.say(from, to, say);
            },
            Action::Campaign(n) => self.campaign(n, scope),
            Action::Release(n) => self.release(n),
            Action::Restart(n) => self.restart(n, scope.mutant),
            Action::Cut(a, b) => {
                self.cuts += 1;
                self.unlink(a, b);
            },
            Action::Link(a, b) => self.link(a, b, scope.mutant),
        }
    }

    /// The lemma: while a quorum supports a leader, nobody was elected above it.
    pub fn lemma_holds(&self) -> bool {
        (0..NODES).all(|n| {
            let deposed = self.nodes[n].term < self.elected;
            !(self.nodes[n].part == Part::Leader && deposed && self.supported(n))
        })
    }

    /// Whether a deposed leader still believes that it leads; it has to be possible.
    pub fn has_a_deposed_leader(&self) -> bool {
        self.nodes.iter().any(|node| node.part == Part::Leader && node.term < self.elected)
    }

    /// Whether some leader has the support of a quorum; it has to be possible.
    pub fn has_a_supported_leader(&self) -> bool {
        (0..NODES).any(|n| self.nodes[n].part == Part::Leader && self.supported(n))
    }

    fn supported(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let by_peer = |peer: &usize| {
            *peer != n && node.beliefs[*peer].supports(node.noted[*peer], BootTime(node.now))
        };
        1 + (0..NODES).filter(by_peer).count() > NODES / 2
    }

    fn bound(&self, n: usize, mutant: Mutant) -> bool {
        let node = &self.nodes[n];
        let promised =
            node.promises[usize::from(node.bound_to)].holds(node.support, BootTime(node.now));
        let leads = node.part == Part::Leader && self.supported(n);
        let bound = promised && mutant != Mutant::VotesWhileBound;
        bound || node.now < node.quiet_until || leads
    }

    fn campaign(&mut self, n: usize, scope: &Scope) {
        self.campaigns[n] += 1;
        let node = &mut self.nodes[n];
        node.term += 1;
        node.vote = Some(byte(n));
        (node.part, node.votes) = (Part::Candidate, 1 << n);
        let term = node.term;
        for peer in (0..NODES).filter(|peer| *peer != n && (scope.woos)(n, *peer)) {
            self.say(n, peer, Say::Vote { term });
        }
    }

    fn release(&mut self, n: usize) {
        self.releases += 1;
        self.nodes[n].part = Part::Follower;
        let term = self.nodes[n].term;
        for peer in (0..NODES).filter(|peer| *peer != n) {
            self.say(n, peer, Say::Release { term });
        }
    }

    fn restart(&mut self, n: usize, mutant: Mutant) {
        self.restarts[n] += 1;
        let was = self.nodes[n];
        let quiet = if mutant == Mutant::QuietForgotten { 0 } else { TIMING.support_nanos };
        self.nodes[n] = Node {
            now: was.now,
            boot: was.boot + 1,
            term: was.term,
            vote: was.vote,
            quiet_until: was.now + quiet,
            ..Node::default()
        };
        for peer in (0..NODES).filter(|peer| *peer != n) {
            self.unlink(n, peer);
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.linked[from][to] = false;
            self.wires[from][to] = Wire::default();
            self.nodes[from].held[to] = Say::Nothing;
        }
    }

    fn link(&mut self, a: usize, b: usize, mutant: Mutant) {
        for (n, peer) in [(a, b), (b, a)] {
            self.linked[n][peer] = true;
            let boot = self.nodes[peer].boot;
            let node = &mut self.nodes[n];
            let reborn = node.peer_boots[peer] != boot && mutant != Mutant::BootIgnored;
            node.peer_boots[peer] = boot;
            node.beliefs[peer].up(BootTime(node.now), reborn);
            if reborn {
                node.promises[peer].withdraw();
            }
        }
    }

    fn say(&mut self, from: usize, to: usize, say: Say) {
        if self.linked[from][to] {
            self.wires[from][to].push(say);
        }
    }

    fn hear(&mut self, from: usize, to: usize, say: Say, mutant: Mutant) {
        match say {
            Say::Nothing => unreachable!("nothing is on its way"),
            Say::Ask { sent } => self.hear_ask(from, to, sent, mutant),
            Say::Granted { epoch, nanos, echo } => {
                let node = &mut self.nodes[to];
                let echo = if mutant == Mutant::BeliefFromReceipt { node.now } else { echo };
                let forgets = mutant == Mutant::DriftForgotten;
                let drift_ppm = if forgets { 0 } else { TIMING.drift_ppm };
                let timing = Timing { drift_ppm, ..TIMING };
                let grant = Grant { epoch, nanos };
                node.beliefs[from].answer(BootTime(node.now), BootTime(echo), grant, &timing);
            },
            Say::Append { term } => self.hear_append(from, to, term),
            Say::Taken { term, support } => self.hear_taken(from, to, (term, support), mutant),
            Say::Vote { term } => self.hear_vote(from, to, term, mutant),
            Say::Voted { term } => self.hear_voted(from, to, term),
            Say::Release { term } => {
                let node = &mut self.nodes[to];
                if usize::from(node.bound_to) == from && term >= node.bound_term {
                    node.support = 0;
                }
            },
        }
    }

    fn hear_ask(&mut self, from: usize, to: usize, sent: u64, mutant: Mutant) {
        let node = &mut self.nodes[to];
        let (now, promise) = (BootTime(node.now), &mut node.promises[from]);
        if promise.expire(now) && mutant == Mutant::EpochGrantedAgain {
            *promise = Promise::default();
        }
        let grant = promise.grant(now, TIMING.support_nanos, &TIMING);
        let say = Say::Granted { epoch: grant.epoch, nanos: grant.nanos, echo: sent };
        self.say(to, from, say);
    }

    fn hear_append(&mut self, from: usize, to: usize, term: u8) {
        self.adopt(to, term);
        let node = &mut self.nodes[to];
        if term < node.term {
            let (term, support) = (node.term, 0);
            self.say(to, from, Say::Taken { term, support });
            return;
        }
        node.part = Part::Follower;
        let support = node.promises[from].binds(BootTime(node.now)).unwrap_or(0);
        (node.support, node.bound_to, node.bound_term) = (support, byte(from), term);
        node.held[from] = Say::Taken { term, support };
    }

    fn hear_taken(&mut self, from: usize, to: usize, taken: (u8, u32), mutant: Mutant) {
        let (term, support) = taken;
        self.adopt(to, term);
        let node = &mut self.nodes[to];
        if node.part == Part::Leader && node.term == term {
            let any = mutant == Mutant::AnyEpochIsNoted && support != 0;
            let present = node.beliefs[from].noted(support);
            let view = if any { node.beliefs[from].view() } else { present };
            if view != 0 {
                node.noted[from] = view;
            }
        }
    }

    fn hear_vote(&mut self, from: usize, to: usize, term: u8, mutant: Mutant) {
        if self.bound(to, mutant) {
            return;
        }
        self.adopt(to, term);
        let node = &mut self.nodes[to];
        let free = node.vote.is_none_or(|vote| usize::from(vote) == from);
        if term == node.term && free {
            node.vote = Some(byte(from));
            self.say(to, from, Say::Voted { term });
        }
    }

    fn hear_voted(&mut self, from: usize, to: usize, term: u8) {
        let node = &mut self.nodes[to];
        if node.part == Part::Candidate && node.term == term {
            node.votes |= 1 << from;
            if node.votes.count_ones() > 1 {
                node.part = Part::Leader;
                node.noted = [0; NODES];
                self.elected = self.elected.max(term);
            }
        }
    }

    fn adopt(&mut self, n: usize, term: u8) {
        let node = &mut self.nodes[n];
        if term > node.term {
            (node.term, node.vote, node.part) = (term, None, Part::Follower);
        }
    }
}

fn byte(node: usize) -> u8 {
    u8::try_from(node).expect("three nodes")
}
