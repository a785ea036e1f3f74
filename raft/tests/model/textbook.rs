//! Raft as the paper's figure 2 has it: one shard, calls instead of messages, no disk, no clock.
//!
//! Written from the paper, not from the core: no pre-vote, no leases, no batching, no windows.

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Is {
    #[default]
    Follower,
    Candidate,
    Leader,
}

/// One entry: the term it was made in and what it says; a no-op says 0.
pub type Entry = (u64, u64);

/// One node's state, as in figure 2. Index 1 is `log[0]`.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    pub term: u64,
    vote: Option<usize>,
    pub log: Vec<Entry>,
    pub commit: usize,
    pub is: Is,
    next: Vec<usize>,
    matched: Vec<usize>,
}

impl Peer {
    fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |entry| entry.0), self.log.len())
    }

    /// All servers: a higher term makes a follower.
    fn see(&mut self, term: u64) {
        if term > self.term {
            (self.term, self.vote, self.is) = (term, None, Is::Follower);
        }
    }

    /// `RequestVote`.
    fn request_vote(&mut self, from: usize, term: u64, last: (u64, usize)) -> (u64, bool) {
        self.see(term);
        let free = self.vote.is_none_or(|vote| vote == from);
        let granted = term == self.term && free && last >= self.last();
        if granted {
            self.vote = Some(from);
        }
        (self.term, granted)
    }

    /// `AppendEntries`.
    fn append_entries(&mut self, term: u64, prev: usize, ask: &Append<'_>) -> (u64, bool) {
        self.see(term);
        if term < self.term {
            return (self.term, false);
        }
        assert_ne!(self.is, Is::Leader, "one leader in a term");
        self.is = Is::Follower;
        let matches = prev == 0 || self.log.get(prev - 1).is_some_and(|it| it.0 == ask.prev_term);
        if !matches {
            return (self.term, false);
        }
        for (nth, entry) in ask.entries.iter().enumerate() {
            let at = prev + nth;
            if self.log.get(at).is_some_and(|mine| mine.0 != entry.0) {
                assert!(at >= self.commit, "nothing committed is cut");
                self.log.truncate(at);
            }
            if self.log.len() == at {
                self.log.push(*entry);
            }
        }
        self.commit = self.commit.max(ask.commit.min(prev + ask.entries.len()));
        (self.term, true)
    }
}

struct Append<'a> {
    prev_term: u64,
    entries: &'a [Entry],
    commit: usize,
}

/// The nodes and which of them hear each other.
#[derive(Clone, Debug)]
pub struct Textbook {
    pub peers: Vec<Peer>,
    /// Nodes of one group hear each other; 0 is dead.
    pub group: Vec<u8>,
}

impl Textbook {
    pub fn new(nodes: usize) -> Self {
        Self { peers: vec![Peer::default(); nodes], group: vec![1; nodes] }
    }

    fn heard_by(&self, node: usize) -> Vec<usize> {
        let mine = self.group[node];
        let others = (0..self.peers.len()).filter(|other| *other != node);
        others.filter(|other| mine != 0 && self.group[*other] == mine).collect()
    }

    fn majority(&self) -> usize {
        self.peers.len() / 2 + 1
    }

    /// Whether `node` would be elected by those that hear it, if their terms let it ask.
    pub fn electable(&self, node: usize) -> bool {
        let last = self.peers[node].last();
        let heard = self.heard_by(node);
        let for_it = heard.iter().filter(|other| last >= self.peers[**other].last()).count();
        self.group[node] != 0 && for_it + 1 >= self.majority()
    }

    /// The election timeout of `node`: asks, again in a higher term while terms were the reason.
    /// Its no-op is not sent yet.
    pub fn campaign(&mut self, node: usize) -> bool {
        for _ in 0..=self.peers.len() {
            let peer = &mut self.peers[node];
            peer.term += 1;
            (peer.vote, peer.is) = (Some(node), Is::Candidate);
            let (term, last) = (peer.term, peer.last());
            let mut votes = 1;
            for other in self.heard_by(node) {
                let (its, granted) = self.peers[other].request_vote(node, term, last);
                self.peers[node].see(its);
                votes += usize::from(granted);
            }
            if self.peers[node].is == Is::Candidate && votes >= self.majority() {
                self.lead(node);
                return true;
            }
        }
        false
    }

    fn lead(&mut self, node: usize) {
        let nodes = self.peers.len();
        let peer = &mut self.peers[node];
        peer.is = Is::Leader;
        peer.next = vec![peer.log.len() + 1; nodes];
        peer.matched = vec![0; nodes];
        peer.log.push((peer.term, 0));
    }

    /// A client's command at a leader.
    pub fn propose(&mut self, node: usize, what: u64) {
        let peer = &mut self.peers[node];
        assert_eq!(peer.is, Is::Leader, "only a leader appends");
        peer.log.push((peer.term, what));
        self.replicate(node);
    }

    /// Rounds of `AppendEntries` until nothing moves.
    pub fn replicate(&mut self, node: usize) {
        for _ in 0..2 * self.peers[node].log.len() + 4 {
            for other in self.heard_by(node) {
                if self.peers[node].is != Is::Leader {
                    return;
                }
                self.append_to(node, other);
            }
            self.count(node);
        }
    }

    fn append_to(&mut self, node: usize, other: usize) {
        let leader = self.peers[node].clone();
        let prev = leader.next[other] - 1;
        let prev_term = prev.checked_sub(1).map_or(0, |nth| leader.log[nth].0);
        let ask = Append { prev_term, entries: &leader.log[prev..], commit: leader.commit };
        let (term, taken) = self.peers[other].append_entries(leader.term, prev, &ask);
        let leader = &mut self.peers[node];
        leader.see(term);
        if taken {
            leader.matched[other] = leader.matched[other].max(leader.log.len());
            leader.next[other] = leader.log.len() + 1;
        } else if leader.is == Is::Leader {
            leader.next[other] = prev.max(1);
        }
    }

    /// Commits what a majority has, if its last entry is of this term.
    fn count(&mut self, node: usize) {
        let majority = self.majority();
        let leader = &mut self.peers[node];
        for index in (leader.commit + 1..=leader.log.len()).rev() {
            let have = leader.matched.iter().filter(|matched| **matched >= index).count() + 1;
            if have >= majority && leader.log[index - 1].0 == leader.term {
                leader.commit = index;
                return;
            }
        }
    }

    /// What a node says is committed.
    pub fn committed(&self, node: usize) -> Vec<u64> {
        let peer = &self.peers[node];
        peer.log[..peer.commit].iter().map(|entry| entry.1).collect()
    }

    /// A crash: term, vote and log stay, the rest is gone.
    pub fn crash(&mut self, node: usize) {
        self.group[node] = 0;
        self.peers[node].is = Is::Follower;
        self.peers[node].commit = 0;
    }

    /// Figure 3: one leader a term, and committed prefixes that agree.
    pub fn check(&self) {
        for (nth, one) in self.peers.iter().enumerate() {
            for other in &self.peers[nth + 1..] {
                let both_lead = one.is == Is::Leader && other.is == Is::Leader;
                assert!(!both_lead || one.term != other.term, "two leaders in one term");
                let shared = one.commit.min(other.commit);
                assert_eq!(one.log[..shared], other.log[..shared], "committed prefixes agree");
            }
        }
    }
}
