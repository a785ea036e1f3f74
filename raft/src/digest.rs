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

use crate::{BootTime, LogIndex, ShardId, Slot, Term};

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
    /// The sender's slot.
    pub slot: Slot,
    /// Generation of that slot.
    pub generation: u32,
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
    pub(crate) fn is_under_way(&self) -> bool {
        self.left > 0
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
