//! Every invariant of every replica, looked at together. For tests and for doubt.

use alloc::collections::BTreeMap;

use crate::{
    Damage, Lsn, RaftCore, Role, ShardId, Slot,
    core::{Stream, StreamState, slot_at},
    progress::NO_PEERS,
    replica::{BROKEN, INSTALLING, OPEN},
};

/// A rule that holds in every state that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// I1: floor <= applied <= handed <= commit <= last, durable <= last.
    Order,
    /// I1: what is reported as applied was handed out, and never falls.
    Applied,
    /// I1: what is compacted is in the log.
    Floor,
    /// I2: a term never falls, and never ends.
    Term,
    /// I5: a leader's vote is durable, and for itself.
    Vote,
    /// I6: what is committed in a leader's term is durable.
    Commit,
    /// The LSNs of a stream never fall, and what is staged is not durable yet.
    Lsn,
    /// Bytes charged to a shard are those queued and under way.
    Budget,
    /// Lists and flags name each other.
    Lists,
    /// I7: matched < next <= last + 1.
    Progress,
    /// I8: a leader has at most one configuration above commit.
    Configurations,
    /// I9: a follower with a leader waits for nothing only while it is bound.
    Liveness,
    /// The sums of a lane are over those bound, and led, under its present epoch and view. The
    /// slot is the number of the lane.
    Sums,
    /// I14: what is retired leads nothing.
    Retired,
}

/// A rule that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub slot: Slot,
    /// Which shard.
    pub shard: ShardId,
    /// What.
    pub rule: Rule,
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "shard {} in slot {}: {:?} does not hold", self.shard, self.slot.0, self.rule)
    }
}

impl core::error::Error for Broken {}

impl RaftCore {
    /// Checks every invariant. O(replicas).
    ///
    /// # Errors
    ///
    /// [`Broken`]: the first one that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        for nth in 0..self.replicas.len() {
            let slot = slot_at(nth);
            if self.replicas[slot].flags & (OPEN | BROKEN) == OPEN {
                self.check_slot(slot).map_err(|rule| {
                    let shard = self.replicas[slot].shard;
                    Broken { slot, shard, rule }
                })?;
            }
        }
        for stream in &self.streams {
            self.check_stream(stream).map_err(|slot| {
                let shard = self.replicas[slot].shard;
                Broken { slot, shard, rule: Rule::Lsn }
            })?;
        }
        self.check_sums()
    }

    /// Whether what waits for the disk does so in order, and for no more than there is.
    fn check_stream(&self, stream: &Stream) -> Result<(), Slot> {
        let waits = |lsn: Lsn| lsn > stream.durable && lsn <= stream.staged;
        let (mut newest, mut lasts) = (Lsn(0), BTreeMap::new());
        for write in &stream.waiting {
            let it = &self.replicas[write.slot];
            if it.generation == write.generation && it.flags & (OPEN | BROKEN) == OPEN {
                let before = lasts.insert(write.slot, write.last).unwrap_or_default();
                let covers = write.last >= before && write.last <= it.last;
                ensure(covers && waits(write.lsn), write.slot)?;
            }
            ensure(write.lsn >= newest, write.slot)?;
            newest = write.lsn;
        }
        let mut newest = Lsn(0);
        for (lsn, send) in &stream.held {
            ensure(*lsn >= newest && *lsn > stream.durable, send.slot)?;
            newest = *lsn;
        }
        Ok(())
    }

    /// Whether the sums of all lanes, kept by adding and taking away, are what a count gives.
    fn check_sums(&self) -> Result<(), Broken> {
        for (nth, lane) in self.lanes.iter().enumerate() {
            if self.sums_over(nth) != (lane.led_hash, lane.followed_hash) {
                return Err(Broken { slot: slot_at(nth), shard: ShardId(0), rule: Rule::Sums });
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: Slot) -> Result<(), Rule> {
        let it = &self.replicas[slot];
        let installs = it.flags & INSTALLING != 0;
        let ordered = (installs || it.floor <= it.applied)
            && it.applied <= it.handed
            && it.handed <= it.commit
            && it.commit <= it.last.max(it.floor)
            && it.durable <= it.last;
        ensure(ordered, Rule::Order)?;
        ensure(it.last_term <= it.term || it.damage != Damage::Normal, Rule::Term)?;
        if it.role == Role::Leader {
            self.check_leader(slot)?;
        } else {
            ensure(it.queue.is_empty() && it.progress == NO_PEERS, Rule::Lists)?;
            let waits = self.armed(slot)
                || self.is_held(slot)
                || it.leader.0 == 0
                || !self.may_be_elected(slot)
                || self.stream(slot).state != StreamState::Good;
            ensure(waits, Rule::Liveness)?;
        }
        let stands = matches!(it.role, Role::Leader | Role::Candidate);
        ensure(!stands || it.vote == it.replica, Rule::Vote)?;
        let healthy = it.damage != Damage::Retired || self.has_work();
        ensure(!stands || healthy, Rule::Retired)?;
        ensure(self.by_shard.get(&it.shard) == Some(&slot), Rule::Lists)
    }

    fn check_leader(&self, slot: Slot) -> Result<(), Rule> {
        let it = &self.replicas[slot];
        ensure(
            self.stream(slot).state != StreamState::Failed || !self.handing.is_empty(),
            Rule::Vote,
        )?;
        let queued: u32 = self.proposals.iter(it.queue).map(|p| p.bytes).sum();
        let charged: u32 = self.charges.iter(it.charges).map(|(_, bytes)| bytes).sum();
        ensure(it.uncommitted == charged + queued, Rule::Budget)?;
        let mut above = usize::from(it.conf_index > it.commit && it.conf_index >= it.term_start);
        let older = self.older.get(&slot).map_or(&[][..], |older| older);
        above += older.iter().filter(|(_, at)| *at > it.commit && *at >= it.term_start).count();
        ensure(above <= 1, Rule::Configurations)?;
        let mut matches = 0_usize;
        for place in 0..self.conf(slot).members {
            let Some(peer) = self.peer(slot, place) else { continue };
            let ordered = peer.matched < peer.next && peer.next <= it.last.next();
            ensure(ordered, Rule::Progress)?;
            matches += 1;
        }
        ensure(matches == self.peer_count(slot), Rule::Lists)?;
        let sole = self.is_sole(slot) && it.commit >= it.term_start;
        ensure(!sole || it.commit <= it.durable, Rule::Commit)
    }
}

fn ensure<E>(holds: bool, why: E) -> Result<(), E> {
    if holds { Ok(()) } else { Err(why) }
}
