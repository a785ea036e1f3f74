//! Who leads what, as this node knows it: written by the cores once a pass, read by every thread.
//!
//! A shard has a leader *here* once a leader is known and an entry of its term is applied here. The
//! node has one once every shard has.
//!
//! I1 The totals are what a recount over the shards would give.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use bowline_raft::{NodeId, ShardId, Term};
use tokio::sync::watch;

use crate::{Code, NotReady, Unready};

#[expect(clippy::disallowed_types, reason = "taken once a pass in which leadership changed")]
type Mutex<T> = std::sync::Mutex<T>;

/// Who leads, and how much of what was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderInfo {
    /// The node that leads the most shards; of equals the lowest.
    pub leader_id: NodeId,
    /// The highest term.
    pub term: Term,
    /// Shards that `leader_id` leads.
    pub led: u32,
    /// Shards in all; 1 for one shard.
    pub of: u32,
}

/// A shard's leadership as it is from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaderChange {
    /// The shard.
    pub(crate) shard: ShardId,
    /// Its leader; none: not known, or nothing of its term is applied here.
    pub(crate) leader: Option<LeaderInfo>,
}

/// What the shards' leaderships add up to.
#[derive(Debug)]
struct Totals {
    shards: Vec<Option<LeaderInfo>>,
    with_leader: u32,
    /// Shards by leader.
    led: BTreeMap<NodeId, u32>,
    /// Terms never fall, so the highest that was seen is the highest there is.
    term: Term,
    senders: BTreeMap<u32, watch::Sender<Option<LeaderInfo>>>,
    /// Shards that are closed here, and why.
    closed: BTreeMap<ShardId, Closed>,
}

/// Why a shard is closed, and whether it may open again by itself.
#[derive(Clone, Copy, Debug)]
struct Closed {
    why: Code,
    for_good: bool,
}

/// The leaderships of a node.
pub(crate) struct Board {
    node: NodeId,
    hints: Box<[AtomicU64]>,
    leads_all: AtomicBool,
    /// A core ended by a panic: the node stops.
    failed: AtomicBool,
    totals: Mutex<Totals>,
    node_level: watch::Sender<Option<LeaderInfo>>,
    /// Every shard is led or closed here.
    settled: watch::Sender<bool>,
}

/// What one atomic load tells of a shard: `generation u32 | node's low 16 bits | role u16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hint(u64);

impl Hint {
    const KNOWN: u64 = 1;
    const MINE: u64 = 2;

    const fn next(self, leader: Option<NodeId>, node: NodeId) -> Self {
        let generation = (self.0 >> 32).wrapping_add(1) << 32;
        match leader {
            None => Self(generation),
            Some(leader) => {
                let mine = if leader.0 == node.0 { Self::MINE } else { 0 };
                Self(generation | (leader.0 & 0xFFFF) << 16 | Self::KNOWN | mine)
            },
        }
    }

    const fn is_mine(self) -> bool {
        self.0 & Self::MINE != 0
    }
}

impl Board {
    /// A board of `shards` shards without leaders.
    ///
    /// # Panics
    ///
    /// If there are no shards.
    pub(crate) fn new(node: NodeId, shards: u32) -> Self {
        assert!(shards > 0, "a node has shards");
        let totals = Totals {
            shards: (0..shards).map(|_| None).collect(),
            with_leader: 0,
            led: BTreeMap::new(),
            term: Term(0),
            senders: BTreeMap::new(),
            closed: BTreeMap::new(),
        };
        Self {
            node,
            hints: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            leads_all: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            totals: Mutex::new(totals),
            node_level: watch::Sender::new(None),
            settled: watch::Sender::new(false),
        }
    }

    /// Takes what a pass of a core changed.
    ///
    /// # Panics
    ///
    /// If a shard is not on the board.
    pub(crate) fn update(&self, changes: &[LeaderChange]) {
        let mut totals = self.lock();
        for change in changes {
            let place = place(change.shard).expect("a shard's number is below the count");
            let hint = &self.hints[place];
            let before = Hint(hint.load(Ordering::Relaxed));
            let leader = change.leader.map(|leader| leader.leader_id);
            hint.store(before.next(leader, self.node).0, Ordering::Release);
            totals.set(place, change.leader);
        }
        let now = totals.node_level();
        let leads_all = now.is_some_and(|info| info.leader_id == self.node && info.led == info.of);
        self.leads_all.store(leads_all, Ordering::Release);
        // Under the lock, so that two cores' changes reach the watchers in their order.
        self.node_level.send_if_modified(|seen| core::mem::replace(seen, now) != now);
        self.settle(&totals);
    }

    /// Notes that a core ended by a panic.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Whether a core ended by a panic.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Notes that a shard is closed here, `for_good` or until a peer gave its state.
    ///
    /// # Panics
    ///
    /// If the shard is not on the board.
    pub(crate) fn close(&self, shard: ShardId, why: Code, for_good: bool) {
        assert!(shard.0 < u64::from(self.of()), "a shard's number is below the count");
        let mut totals = self.lock();
        totals.closed.insert(shard, Closed { why, for_good });
        self.settle(&totals);
    }

    /// Notes that a shard that was closed works again.
    pub(crate) fn reopen(&self, shard: ShardId) {
        let mut totals = self.lock();
        totals.closed.remove(&shard);
        self.settle(&totals);
    }

    fn settle(&self, totals: &Totals) {
        let led = |shard: &ShardId| place(*shard).is_some_and(|at| totals.shards[at].is_some());
        let gone = totals.closed.iter().filter(|(_, closed)| closed.for_good);
        let closed = gone.filter(|(shard, _)| !led(shard)).count();
        let open = totals.shards.len() - closed;
        let now = usize::try_from(totals.with_leader).is_ok_and(|leaders| leaders == open);
        self.settled.send_if_modified(|seen| core::mem::replace(seen, now) != now);
    }

    /// Whether a shard is closed here.
    pub(crate) fn any_closed(&self) -> bool {
        self.lock().closed.values().any(|closed| closed.for_good)
    }

    /// Follows whether every shard is led or closed here: nothing more will come by itself.
    pub(crate) fn watch_settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Whether this node leads every shard.
    pub(crate) fn is_leader(&self) -> bool {
        self.leads_all.load(Ordering::Acquire)
    }

    /// Whether this node leads the shard; false for one that does not exist.
    pub(crate) fn leads(&self, shard: ShardId) -> bool {
        let hint = place(shard).and_then(|place| self.hints.get(place));
        hint.is_some_and(|hint| Hint(hint.load(Ordering::Acquire)).is_mine())
    }

    /// The node's leader, if every shard has one.
    pub(crate) fn leader(&self) -> Option<LeaderInfo> {
        *self.node_level.borrow()
    }

    /// The shard's leader.
    pub(crate) fn shard_leader(&self, shard: ShardId) -> Option<LeaderInfo> {
        place(shard).and_then(|place| self.lock().shards.get(place).copied().flatten())
    }

    /// Follows [`Self::leader`].
    pub(crate) fn watch(&self) -> watch::Receiver<Option<LeaderInfo>> {
        self.node_level.subscribe()
    }

    /// Follows [`Self::shard_leader`]; its channel is made on first use.
    ///
    /// # Panics
    ///
    /// If the shard is not on the board.
    pub(crate) fn watch_shard(&self, shard: ShardId) -> watch::Receiver<Option<LeaderInfo>> {
        let mut totals = self.lock();
        let place = place(shard).expect("a shard's number is below the count");
        let now = totals.shards[place];
        let key = u32::try_from(place).expect("shards are counted in a u32");
        totals.senders.entry(key).or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    /// Shards in all.
    pub(crate) fn of(&self) -> u32 {
        u32::try_from(self.hints.len()).expect("shards are counted in a u32")
    }

    /// Which shards have no leader here.
    pub(crate) fn not_ready(&self) -> NotReady {
        let totals = self.lock();
        let missing = totals.shards.iter().zip(0_u64..).filter(|(leader, _)| leader.is_none());
        let closed = |shard| totals.closed.get(&shard).map(|closed| Unready::Closed(closed.why));
        let named = missing.map(|(_, shard)| {
            (ShardId(shard), closed(ShardId(shard)).unwrap_or(Unready::NoLeader))
        });
        let named = named.take(NotReady::NAMED_MAX).collect();
        NotReady::new(named, self.of() - totals.with_leader, self.of())
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Totals {
    fn set(&mut self, place: usize, now: Option<LeaderInfo>) {
        let before = core::mem::replace(&mut self.shards[place], now);
        if let Some(before) = before {
            self.with_leader -= 1;
            let led = self.led.get_mut(&before.leader_id).expect("it was counted (I1)");
            *led -= 1;
            if *led == 0 {
                self.led.remove(&before.leader_id);
            }
        }
        if let Some(now) = now {
            self.with_leader += 1;
            *self.led.entry(now.leader_id).or_insert(0) += 1;
            self.term = self.term.max(now.term);
        }
        let key = u32::try_from(place).expect("shards are counted in a u32");
        if let Some(sender) = self.senders.get(&key) {
            sender.send_if_modified(|seen| core::mem::replace(seen, now) != now);
        }
    }

    fn node_level(&self) -> Option<LeaderInfo> {
        let of = u32::try_from(self.shards.len()).expect("shards are counted in a u32");
        if self.with_leader < of {
            return None;
        }
        let most = self.led.iter().max_by_key(|(id, led)| (**led, core::cmp::Reverse(**id)));
        let (&leader_id, &led) = most.expect("every shard is led");
        Some(LeaderInfo { leader_id, term: self.term, led, of })
    }
}

fn place(shard: ShardId) -> Option<usize> {
    usize::try_from(shard.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(shard: u64, leader: Option<(u64, u64)>) -> LeaderChange {
        let leader = leader.map(|(id, term)| LeaderInfo {
            leader_id: NodeId(id),
            term: Term(term),
            led: 1,
            of: 1,
        });
        LeaderChange { shard: ShardId(shard), leader }
    }

    fn recount(totals: &Totals) -> Option<LeaderInfo> {
        let of = totals.shards.len();
        let known: Vec<_> = totals.shards.iter().flatten().collect();
        if known.len() < of {
            return None;
        }
        let led = |id: NodeId| known.iter().filter(|info| info.leader_id == id).count();
        let mut ids: Vec<_> = known.iter().map(|info| info.leader_id).collect();
        ids.sort();
        let mut best = ids[0];
        for id in ids {
            best = if led(id) > led(best) { id } else { best };
        }
        Some(LeaderInfo {
            leader_id: best,
            term: known.iter().map(|info| info.term).max()?,
            led: u32::try_from(led(best)).ok()?,
            of: u32::try_from(of).ok()?,
        })
    }

    #[test]
    fn aggregate_matches_shards() {
        let board = Board::new(NodeId(1), 4);
        let mut terms = [0_u64; 4];
        let mut seed = 7_u64;
        for _ in 0..2_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let shard = (seed >> 33) % 4;
            let at = usize::try_from(shard).expect("small");
            terms[at] += 1;
            let leader = (seed >> 40) % 5;
            board.update(&[change(shard, (leader > 0).then_some((leader, terms[at])))]);
            assert_eq!(board.leader(), recount(&board.lock()));
            let all = (0..4).all(|shard| board.leads(ShardId(shard)));
            assert_eq!(board.is_leader(), all);
            let missing = board.lock().shards.iter().filter(|leader| leader.is_none()).count();
            assert_eq!(board.not_ready().shards.len(), missing);
        }
    }

    #[test]
    fn watchers_see_none_between_leaders_and_no_repeats() {
        let board = Board::new(NodeId(1), 2);
        let mut node = board.watch();
        let mut shard = board.watch_shard(ShardId(1));
        assert!(!node.has_changed().expect("the board lives"));
        board.update(&[change(0, Some((1, 1))), change(1, Some((1, 1)))]);
        assert!(board.is_leader());
        assert_eq!(node.borrow_and_update().map(|info| info.led), Some(2));
        assert_eq!(shard.borrow_and_update().map(|info| info.leader_id), Some(NodeId(1)));
        board.update(&[change(0, Some((1, 1)))]);
        assert!(!node.has_changed().expect("the board lives"), "nothing changed");
        board.update(&[change(1, None)]);
        assert_eq!(*node.borrow_and_update(), None);
        assert_eq!(*shard.borrow_and_update(), None);
        assert!(!board.is_leader());
        assert_eq!(board.not_ready().to_string().lines().count(), 1);
        assert!(!board.leads(ShardId(9)));
    }

    #[test]
    fn the_most_shards_win_and_of_equals_the_lowest_node() {
        let board = Board::new(NodeId(2), 2);
        board.update(&[change(0, Some((2, 5))), change(1, Some((1, 3)))]);
        let info = board.leader().expect("all are led");
        assert_eq!((info.leader_id, info.led, info.of, info.term), (NodeId(1), 1, 2, Term(5)));
        assert!(board.leads(ShardId(0)));
        assert!(!board.is_leader());
    }
}
