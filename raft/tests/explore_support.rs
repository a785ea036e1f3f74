//! The support lemma of lane liveness, looked for in every state that a small world can reach, and
//! in long random lives of a larger one: while a quorum supports the leader of a term, nobody was
//! elected in a higher one. With any one rule left out, a counterexample must be found.

#[path = "support/wire.rs"]
#[expect(unreachable_pub, reason = "the toolbox of a test file")]
mod wire;
#[path = "support/world.rs"]
#[expect(unreachable_pub, reason = "the toolbox of a test file")]
mod world;

use std::hash::{Hash, Hasher};

use world::{Action, Mutant, NODES, RATES, Scope, World};

/// Node 0 leads, node 1 is in both quorums, node 2 wants to be elected by node 1.
fn small(mutant: Mutant) -> Scope {
    Scope {
        rates: [0, 2, 1],
        leads: |from, to| from == 0 && to == 1,
        woos: |from, to| from == 2 && to == 1,
        campaigns: [0, 0, 1],
        restarts: [0; NODES],
        asks: 2,
        appends: 1,
        cuts: 0,
        releases: 0,
        steps: 4,
        mutant,
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    supported: usize,
    deposed: usize,
    broken: Option<Vec<Action>>,
}

impl Found {
    fn look(&mut self, world: &World) {
        self.states += 1;
        self.supported += usize::from(world.has_a_supported_leader());
        self.deposed += usize::from(world.has_a_deposed_leader());
    }
}

/// A fingerprint by multiplication: the states are hashed more often than anything else is done.
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

/// Fingerprints of the states seen: open addressing, doubled at three quarters.
struct Seen {
    words: Vec<u64>,
    used: usize,
}

impl Seen {
    fn insert(&mut self, world: &World) -> bool {
        let mut mixer = Mixer(0);
        world.hash(&mut mixer);
        let word = mixer.finish() | 1;
        if self.used * 4 >= self.words.len() * 3 {
            let words = vec![0; self.words.len() * 2];
            let old = std::mem::replace(&mut self.words, words);
            for word in old.into_iter().filter(|word| *word != 0) {
                Self::place(&mut self.words, word);
            }
        }
        let new = Self::place(&mut self.words, word);
        self.used += usize::from(new);
        new
    }

    fn place(words: &mut [u64], word: u64) -> bool {
        let mask = words.len() - 1;
        let mut at = usize::try_from(word >> 1).unwrap_or(0) & mask;
        while words[at] != 0 && words[at] != word {
            at = (at + 1) & mask;
        }
        let new = words[at] == 0;
        words[at] = word;
        new
    }
}

/// Every state of the world within the scope, depth first.
fn explore(scope: &Scope) -> Found {
    let mut seen = Seen { words: vec![0; 1 << 12], used: 0 };
    let mut found = Found::default();
    let mut road: Vec<(World, Vec<Action>, Option<Action>)> = Vec::new();
    let mut next = Some((World::new(), None));
    while next.is_some() || !road.is_empty() {
        if let Some((world, by)) = next.take()
            && seen.insert(&world)
        {
            found.look(&world);
            let mut actions = Vec::new();
            world.actions(scope, &mut actions);
            road.push((world, actions, by));
            if !world.lemma_holds() {
                found.broken = Some(road.iter().filter_map(|(_, _, by)| *by).collect());
                return found;
            }
        }
        if let Some((world, actions, _)) = road.last_mut() {
            if let Some(action) = actions.pop() {
                let mut after = *world;
                after.apply(action, scope);
                next = Some((after, Some(action)));
            } else {
                road.pop();
            }
        }
    }
    found
}

#[track_caller]
fn holds(scope: &Scope) {
    let found = explore(scope);
    assert!(found.broken.is_none(), "{:?} {:?}", scope.rates, found.broken);
    assert!(found.supported > 0 && found.deposed > 0, "the scope reaches what matters: {found:?}");
}

/// A leader that restarts, a lane that is cut, a leader that gives up: one at a time.
fn with_trouble(mutant: Mutant) -> [Scope; 4] {
    let scope = Scope { steps: 3, ..small(mutant) };
    [
        Scope { restarts: [0, 1, 0], ..scope },
        Scope { restarts: [1, 0, 0], campaigns: [1, 0, 1], ..scope },
        Scope { cuts: 1, ..scope },
        Scope { releases: 1, ..scope },
    ]
}

/// Everybody may do everything.
fn wide(mutant: Mutant, rates: [usize; NODES]) -> Scope {
    Scope {
        rates,
        leads: |_, _| true,
        woos: |_, _| true,
        campaigns: [4; NODES],
        restarts: [2; NODES],
        asks: 200,
        appends: 200,
        cuts: 6,
        releases: 3,
        steps: 60,
        mutant,
    }
}

/// One life of the larger world; true: the lemma held.
fn walk(seed: u64, mutant: Mutant, found: &mut Found) -> bool {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).unwrap_or(0) % below
    };
    let scope = wide(mutant, [draw(RATES.len()), draw(RATES.len()), draw(RATES.len())]);
    let (mut world, mut actions) = (World::new(), Vec::new());
    for _ in 0..2_000 {
        world.actions(&scope, &mut actions);
        if actions.is_empty() {
            break;
        }
        // What is rare in life is rare here.
        let action = actions[draw(actions.len())];
        let one_in = match action {
            Action::Restart(_) | Action::Cut(..) | Action::Release(_) => 60,
            Action::Campaign(_) => 20,
            Action::Step => 6,
            Action::Ask(..) | Action::Append(..) => 2,
            Action::Deliver(..) | Action::Sync(..) | Action::Link(..) => 1,
        };
        if draw(one_in) > 0 {
            continue;
        }
        world.apply(action, &scope);
        found.look(&world);
        if !world.lemma_holds() {
            return false;
        }
    }
    true
}

#[test]
fn support_ends_before_a_vote_whatever_is_late() {
    for [leader, voter] in [[0, 2], [2, 0], [1, 1], [0, 0], [2, 2]] {
        holds(&Scope { rates: [leader, voter, 1], ..small(Mutant::None) });
    }
}

#[test]
fn support_ends_before_a_vote_over_restarts_cuts_and_releases() {
    with_trouble(Mutant::None).iter().for_each(holds);
}

#[test]
fn support_ends_before_a_vote_in_long_lives_of_three_nodes() {
    let mut found = Found::default();
    for seed in 1..400 {
        assert!(walk(seed, Mutant::None, &mut found), "seed {seed}");
    }
    assert!(found.supported > 10_000 && found.deposed > 500, "{found:?}");
}

#[test]
fn each_rule_of_support_is_needed() {
    let mutants = [
        Mutant::DriftForgotten,
        Mutant::BeliefFromReceipt,
        Mutant::QuietForgotten,
        Mutant::EpochGrantedAgain,
        Mutant::VotesWhileBound,
        Mutant::BootIgnored,
        Mutant::AnyEpochIsNoted,
    ];
    for mutant in mutants {
        let scopes = [small(mutant)].into_iter().chain(with_trouble(mutant));
        let broken = scopes.into_iter().find_map(|scope| explore(&scope).broken);
        assert!(broken.is_some(), "{mutant:?} is not found");
    }
}
