//! How two ends of a lane find out that they disagree about who leads what, without a word per
//! shard while they agree.
//!
//! ```text
//! lane up     leader's side states Digest{count, hash} of (shard, term, commit) it leads there
//! each beat   LIVENESS carries the sum over (shard, term) led with this peer's support
//! unequal     the follower asks; it gets a Row for each shard, and then what no row named is free
//! ```
//!
//! Sums are order-free and made of whole mixed words, so they are kept by adding and taking away.

use alloc::vec::Vec;

use crate::{
    BatchRange, BootTime, LaneNo, LaneSend, LaneWhat, Log, LogIndex, Message, Origin, Outbox,
    RaftCore, Received, ReplicaId, Role, ShardId, Slot, Term, What, beat::WALK_MAX, core::slot_at,
    message::Hint, replica::OPEN,
};

/// Follower and leader may disagree for this many beats in a row before the follower asks: what is
/// on its way makes them differ for a moment.
const UNEQUAL_MAX: u8 = 2;
/// A follower asks over one lane at most once in so many nanoseconds.
const ASK_EVERY_NANOS: u64 = 1_000_000_000;

/// A word that stands for a leadership.
pub(crate) fn mix(shard: ShardId, term: Term) -> u64 {
    scramble(scramble(shard.0).wrapping_add(term.0))
}

/// The finalizer of `SplitMix64`: each bit of the input moves half of the output.
fn scramble(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What one side of a lane believes to be led there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Shards.
    pub count: u32,
    /// Sum over (shard, term, commit).
    pub hash: u64,
}

impl Digest {
    /// Takes a shard in.
    pub(crate) fn add(&mut self, shard: ShardId, term: Term, commit: LogIndex) {
        self.count = self.count.saturating_add(1);
        self.hash = self.hash.wrapping_add(scramble(mix(shard, term).wrapping_add(commit.0)));
    }
}

/// One shard that the sender leads: an Append without entries and without proof of match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The shard.
    pub shard: ShardId,
    /// The term in which the sender leads it.
    pub term: Term,
    /// Its commit index.
    pub commit: LogIndex,
    /// The last index of its log.
    pub last: LogIndex,
    /// The replica that leads it.
    pub from: ReplicaId,
    /// The replica that is told of it.
    pub to: ReplicaId,
}

/// Tells a disagreement that lasts from one that is on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    unequal: u8,
    asked_at: Option<BootTime>,
}

impl Watch {
    /// Compares the sums of a beat. Whether the follower is to ask now.
    pub(crate) fn hear(&mut self, now: BootTime, led: u64, followed: u64) -> bool {
        if led == followed {
            self.unequal = 0;
            return false;
        }
        self.unequal = self.unequal.saturating_add(1);
        self.unequal >= UNEQUAL_MAX && self.ask(now)
    }

    /// Whether the follower may ask now; it is noted.
    pub(crate) fn ask(&mut self, now: BootTime) -> bool {
        let early = self.asked_at.is_some_and(|at| now < at.after(ASK_EVERY_NANOS));
        if !early {
            self.asked_at = Some(now);
            self.unequal = 0;
        }
        !early
    }

    /// The lane came up: what was asked of its former life is void.
    pub(crate) fn up(&mut self) {
        *self = Self::default();
    }
}

/// A round over all slots of a core, a few at a time. It may be asked for again while under way:
/// then it goes on until every slot was looked at since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    cursor: usize,
    left: usize,
}

impl Walk {
    /// Looks at each of `slots` slots once from here on.
    pub(crate) fn restart(&mut self, slots: usize) {
        self.left = slots;
    }

    /// The next place to look at, of `slots`.
    pub(crate) fn step(&mut self, slots: usize) -> Option<usize> {
        self.left = self.left.min(slots);
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let place = if self.cursor < slots { self.cursor } else { 0 };
        self.cursor = place + 1;
        Some(place)
    }

    /// Whether a round is under way.
    pub(crate) fn is_under_way(self) -> bool {
        self.left > 0
    }
}

/// Rounds over the slots for one lane, each at its place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Jobs {
    /// The own digest is made, to be stated.
    state: Option<Tally>,
    /// What is followed is summed up, to be compared with what the other end stated.
    compare: Option<(Tally, Digest)>,
    /// Rows leave.
    rows: Option<usize>,
}

impl Jobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.state.is_none() && self.compare.is_none() && self.rows.is_none()
    }
}

/// A digest that is being made.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    at: usize,
    digest: Digest,
}

impl RaftCore {
    /// Begins to state what is led over a lane that came up.
    pub(crate) fn state_digest(&mut self, lane: LaneNo) {
        self.lanes[usize::from(lane.0)].jobs.state = Some(Tally::default());
    }

    /// The other end states what it leads: begins to sum up what is followed.
    pub(crate) fn on_digest(&mut self, lane: LaneNo, digest: Digest) {
        self.lanes[usize::from(lane.0)].jobs.compare = Some((Tally::default(), digest));
    }

    /// The other end disagrees: begins to name what is led.
    pub(crate) fn on_shards_wanted(&mut self, lane: LaneNo) {
        self.counters.digests += 1;
        self.lanes[usize::from(lane.0)].jobs.rows = Some(0);
    }

    /// Asks the other end which shards it leads.
    pub(crate) fn ask_for_shards(&mut self, lane: LaneNo, out: &mut Outbox) {
        let known = &mut self.lanes[usize::from(lane.0)];
        if known.sweeping {
            return;
        }
        known.sweep = known.sweep.wrapping_add(1);
        known.sweeping = true;
        out.lane.push(LaneSend { lane, what: LaneWhat::ShardsWanted });
    }

    /// Goes on with the rounds of a lane, so many slots a pass.
    pub(crate) fn go_on_with_digest(&mut self, lane: LaneNo, out: &mut Outbox) {
        let place = usize::from(lane.0);
        let jobs = self.lanes[place].jobs;
        if jobs.is_empty() {
            return;
        }
        if let Some(tally) = jobs.state {
            let (tally, done) = self.tally(tally, |core, slot| core.led_over(slot, lane));
            self.lanes[place].jobs.state = (!done).then_some(tally);
            if done {
                out.lane.push(LaneSend { lane, what: LaneWhat::Digest(tally.digest) });
            }
        }
        if let Some((tally, stated)) = jobs.compare {
            let (tally, done) = self.tally(tally, |core, slot| core.followed_over(slot, lane));
            self.lanes[place].jobs.compare = (!done).then_some((tally, stated));
            if done && tally.digest != stated && self.lanes[place].watch.ask(self.now) {
                self.ask_for_shards(lane, out);
            }
        }
        if let Some(from) = jobs.rows {
            self.send_rows(lane, from, out);
        }
    }

    /// Takes some slots into a digest. Whether all are in it.
    fn tally(&self, mut tally: Tally, term: impl Fn(&Self, Slot) -> Option<Term>) -> (Tally, bool) {
        let end = self.replicas.len().min(tally.at + WALK_MAX);
        for place in tally.at..end {
            let slot = slot_at(place);
            if self.is_open(slot)
                && let Some(term) = term(self, slot)
            {
                let it = &self.replicas[slot];
                tally.digest.add(it.shard, term, it.commit);
            }
        }
        tally.at = end;
        (tally, end == self.replicas.len())
    }

    /// The term in which a replica leads with the support of a lane's other end.
    fn led_over(&self, slot: Slot, lane: LaneNo) -> Option<Term> {
        let view = self.lanes[usize::from(lane.0)].belief.view();
        let members = self.conf(slot).members;
        let supported = (0..members)
            .filter_map(|place| self.peer(slot, place))
            .any(|peer| peer.lane == lane.0 && peer.support != 0 && peer.support == view);
        supported.then_some(self.replicas[slot].term)
    }

    /// The term of the leader at a lane's other end to which a replica is bound.
    fn followed_over(&self, slot: Slot, lane: LaneNo) -> Option<Term> {
        let it = &self.replicas[slot];
        let epoch = self.lanes[usize::from(lane.0)].promise.epoch();
        let bound = it.support == epoch && it.lane == lane.0;
        bound.then_some(self.replicas[slot].bound_term)
    }

    /// What is led and what is followed over the lane at a place, summed up anew.
    pub(crate) fn sums_over(&self, place: usize) -> (u64, u64) {
        let Ok(lane) = u16::try_from(place).map(LaneNo) else { return (0, 0) };
        let slots = (0..self.replicas.len()).map(slot_at);
        let open = slots.filter(|slot| self.replicas[*slot].flags & OPEN != 0);
        let (mut led, mut followed) = (0, 0);
        for slot in open {
            let shard = self.replicas[slot].shard;
            led ^= self.led_over(slot, lane).map_or(0, |term| mix(shard, term));
            followed ^= self.followed_over(slot, lane).map_or(0, |term| mix(shard, term));
        }
        (led, followed)
    }

    /// Names some of the shards led over a lane; their peers are told the commit index again.
    fn send_rows(&mut self, lane: LaneNo, from: usize, out: &mut Outbox) {
        let end = self.replicas.len().min(from + WALK_MAX);
        let mut rows = Vec::new();
        for place in from..end {
            if self.is_open(slot_at(place))
                && let Some(row) = self.row(slot_at(place), lane)
            {
                rows.push(row);
            }
        }
        let last = end == self.replicas.len();
        self.lanes[usize::from(lane.0)].jobs.rows = (!last).then_some(end);
        if last || !rows.is_empty() {
            out.lane.push(LaneSend { lane, what: LaneWhat::Rows { rows, last } });
        }
    }

    fn row(&mut self, slot: Slot, lane: LaneNo) -> Option<Row> {
        let members = self.conf(slot).members;
        let place = (0..members)
            .find(|place| self.peer(slot, *place).is_some_and(|peer| peer.lane == lane.0))?;
        let to = self.conf(slot).conf.members[usize::from(place)].replica;
        let peer = self.peer_mut(slot, place)?;
        peer.sent_commit = LogIndex(0);
        self.touch(slot);
        let it = &self.replicas[slot];
        Some(Row {
            shard: it.shard,
            term: it.term,
            commit: it.commit,
            last: it.last,
            from: it.replica,
            to,
        })
    }

    /// Takes rows. After the last one, what is bound on this lane and was not named is free.
    pub(crate) fn on_rows(
        &mut self,
        lane: LaneNo,
        rows: &[Row],
        last: bool,
        (log, out): (&mut impl Log, &mut Outbox),
    ) {
        if !self.lanes[usize::from(lane.0)].sweeping {
            return;
        }
        for row in rows {
            self.take_row(lane, row, (log, out));
        }
        if last {
            let known = &mut self.lanes[usize::from(lane.0)];
            known.sweeping = false;
            known.swept = known.sweep;
            self.start_audit();
        }
    }

    /// Follows the leader that a row tells of, which need not be a member of the configuration that
    /// is in force here. What the log lacks comes in its Appends.
    fn take_row(&mut self, lane: LaneNo, row: &Row, (log, out): (&mut impl Log, &mut Outbox)) {
        let known = &self.lanes[usize::from(lane.0)];
        let origin = Origin { node: known.node, lane: Some(lane), life: known.life };
        let Some(slot) = self.slot_of(row.shard) else { return };
        let append = What::Append {
            prev: LogIndex(0),
            prev_term: Term(0),
            commit: LogIndex(0),
            read_seq: 0,
            batches: BatchRange::default(),
        };
        let message = Message {
            shard: row.shard,
            to: row.to,
            from: row.from,
            term: row.term,
            hint: Hint::default(),
            support: 0,
            seq: 0,
            what: append,
        };
        let received = Received { message: &message, batches: &[] };
        let works = self.is_open(slot) && self.stream_is_good(slot);
        if !works
            || row.term < self.replicas[slot].term
            || self.plausible(slot, origin, received).is_err()
        {
            return;
        }
        let higher = row.term > self.replicas[slot].term;
        if higher && self.adopt(slot, row.term, log, out).is_err() {
            return;
        }
        let leads = self.replicas[slot].role == Role::Leader;
        if !leads && self.follow(slot, &message, out).is_ok() {
            self.on_bind(slot, origin, &message);
            let it = &self.replicas[slot];
            if it.floor.0 > 0 && it.floor == it.last {
                // A snapshot that came before the leader was known was reported to nobody.
                self.report_match(slot, it.commit, (row.from, origin.node), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    fn ms(millis: u64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    #[test]
    fn a_digest_differs_by_shard_term_and_commit_and_not_by_order() {
        let shards = [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1)];
        let of = |order: &[usize]| {
            let mut digest = Digest::default();
            for nth in order {
                let (shard, term, commit) = shards[*nth];
                digest.add(ShardId(shard), Term(term), LogIndex(commit));
            }
            digest
        };
        assert_eq!(of(&[0, 1, 4]), of(&[4, 0, 1]));
        for a in 0..shards.len() {
            for b in 0..a {
                assert_ne!(of(&[a]), of(&[b]));
                assert_ne!(of(&[a, b]), of(&[a]));
            }
        }
    }

    #[test]
    fn a_disagreement_of_one_beat_is_on_its_way() {
        let mut watch = Watch::default();
        assert!(!watch.hear(ms(50), 1, 2));
        assert!(!watch.hear(ms(100), 2, 2));
        assert!(!watch.hear(ms(150), 3, 2));
        assert!(watch.hear(ms(200), 3, 2), "it lasts");
        let asked: Vec<_> =
            (5..60).map(|beat| beat * 50).filter(|at| watch.hear(ms(*at), 3, 2)).collect();
        assert_eq!(asked, [1_200, 2_200], "at most once a second");
        watch.up();
        assert!(watch.ask(ms(2_300)), "a new lane life has asked nothing");
    }

    #[test]
    fn a_walk_looks_at_every_slot_since_it_was_last_asked_for() {
        let mut walk = Walk::default();
        walk.restart(5);
        let mut seen: Vec<_> = (0..3).filter_map(|_| walk.step(5)).collect();
        walk.restart(5);
        seen.extend(core::iter::from_fn(|| walk.step(5)));
        assert_eq!(seen, vec![0, 1, 2, 3, 4, 0, 1, 2]);
        assert!(!walk.is_under_way());
        walk.restart(2);
        assert_eq!(walk.step(0), None, "no slot, nothing to look at");
    }
}
