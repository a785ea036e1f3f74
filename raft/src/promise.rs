//! What two nodes promise each other over a lane, so that no shard needs a timer of its own.
//!
//! ```text
//! leader's side (Belief)                         supporter's side (Promise)
//! asks at s ---- LIVENESS {wanted} ------------> r: until = max(until, r + granted)
//! until = s + granted * (1 - 2e) - guard <------ {epoch, granted, echo of s}
//!                                                binds replicas under `epoch`; once the promise
//!                                                ran out the epoch moves on: nothing is bound
//! ```
//!
//! Durations and echoes only: no clock of one node is compared with another's. A belief counts from
//! the moment of asking, a promise from the moment of receipt, so a belief ends first (I11) as long
//! as clocks run within `drift_ppm` of true time. Safety never rests on it: votes decide elections;
//! support decides who keeps leading, and leases.
//!
//! I10 a withdrawn epoch is never granted again.

use crate::BootTime;

/// How long support is given for, and how little clocks are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Nanoseconds of support asked for and granted at most.
    pub support_nanos: u64,
    /// How far a clock may run from true time, in millionths.
    pub drift_ppm: u32,
    /// Nanoseconds taken off every belief.
    pub guard_nanos: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { support_nanos: 600_000_000, drift_ppm: 1_000, guard_nanos: 20_000_000 }
    }
}

impl Timing {
    /// What of a grant the asking side may count on, from the moment it asked.
    pub fn believed(&self, granted: u64) -> u64 {
        let granted = granted.min(self.support_nanos);
        let drift = (u128::from(granted) * 2 * u128::from(self.drift_ppm)).div_ceil(1_000_000);
        let drift = u64::try_from(drift).unwrap_or(u64::MAX);
        granted.saturating_sub(drift).saturating_sub(self.guard_nanos)
    }
}

/// What a node answers to a request for support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The epoch under which replicas are bound.
    pub epoch: u32,
    /// Nanoseconds from receipt; 0: nothing is promised.
    pub nanos: u64,
}

/// What this node promised the other end of a lane: not to vote against what that end leads.
///
/// One value for the life of a lane number: a lane to another node goes on counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Promise {
    epoch: u32,
    /// 0: nothing was promised under this epoch.
    until: BootTime,
}

impl Default for Promise {
    fn default() -> Self {
        Self { epoch: 1, until: BootTime(0) }
    }
}

impl Promise {
    /// The epoch that is or would be granted; never 0.
    pub fn epoch(self) -> u32 {
        self.epoch
    }

    /// When it ends by itself; `None`: nothing is promised.
    pub fn until(self) -> Option<BootTime> {
        (self.until > BootTime(0)).then_some(self.until)
    }

    /// Withdraws a promise that ran out. Whether the epoch moved.
    pub fn expire(&mut self, now: BootTime) -> bool {
        let over = self.until > BootTime(0) && now >= self.until;
        if over {
            self.withdraw();
        }
        over
    }

    /// Ends the promise: to a process that is dead, or to nobody. What was bound is free (I10).
    pub fn withdraw(&mut self) {
        if self.until > BootTime(0) {
            self.epoch = self.epoch.saturating_add(1);
            self.until = BootTime(0);
        }
    }

    /// Promises `wanted` nanoseconds from `now`, the moment of receipt.
    ///
    /// The caller takes up an epoch that moved: what was bound under the former one is free.
    pub fn grant(&mut self, now: BootTime, wanted: u64, timing: &Timing) -> Grant {
        self.expire(now);
        let nanos = wanted.min(timing.support_nanos);
        if nanos == 0 || self.epoch == u32::MAX {
            return Grant { epoch: self.epoch, nanos: 0 };
        }
        self.until = self.until.max(now.after(nanos));
        Grant { epoch: self.epoch, nanos }
    }

    /// The epoch that a replica is bound under if it takes an Append of the other end now.
    pub fn binds(self, now: BootTime) -> Option<u32> {
        (now < self.until).then_some(self.epoch)
    }

    /// Whether a replica that was bound under `support` still is; 0 is not bound.
    pub fn holds(self, support: u32, now: BootTime) -> bool {
        support == self.epoch && now < self.until
    }
}

/// What became of an answer to a request for support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Too old, or of a withdrawn epoch: nothing changed.
    Stale,
    /// The other end gives nothing.
    Empty,
    /// The belief lasts longer.
    Renewed,
    /// There is a belief again, and replicas may still be bound under its epoch.
    Revived,
    /// A new epoch: no replica is known to be bound under it yet.
    Moved,
}

/// What this node believes to be promised by the other end of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Belief {
    /// The epoch of the latest grant; 0: none in this life of the peer.
    peer_epoch: u32,
    /// Moves with each new (peer boot, epoch); 0: none yet.
    view: u32,
    /// 0: nothing is believed.
    until: BootTime,
    /// When the lane came up; an echo from before is of another lane life.
    up_at: BootTime,
    /// The latest answer, or lane up.
    heard_at: BootTime,
    /// When the latest request was sent that was granted; 0: none in this life of the lane.
    asked_at: BootTime,
}

impl Belief {
    /// The lane came up. `reborn`: its other end is not the process that granted before.
    pub fn up(&mut self, now: BootTime, reborn: bool) {
        (self.up_at, self.heard_at, self.asked_at) = (now, now, BootTime(0));
        if reborn {
            (self.peer_epoch, self.until) = (0, BootTime(0));
            self.view = self.view.saturating_add(1);
        }
    }

    /// Nanoseconds of support to ask for at `now`; 0 while it would not be right to lead:
    /// `write_age` is the age of the oldest log write under way.
    pub fn wanted(&self, now: BootTime, write_age: u64, timing: &Timing) -> u64 {
        let disk_lives = write_age <= timing.support_nanos / 2;
        let peer_answers = now.0.saturating_sub(self.heard_at.0) < timing.support_nanos;
        if disk_lives && peer_answers { timing.support_nanos } else { 0 }
    }

    /// Takes an answer; `echo` is the own send time that it repeats.
    pub fn answer(
        &mut self,
        now: BootTime,
        echo: BootTime,
        grant: Grant,
        timing: &Timing,
    ) -> Answer {
        let fresh = echo <= now
            && echo >= self.up_at
            && now.0.saturating_sub(echo.0) <= timing.support_nanos
            && grant.epoch >= self.peer_epoch.max(1);
        if !fresh {
            return Answer::Stale;
        }
        self.heard_at = self.heard_at.max(now);
        let until = echo.after(timing.believed(grant.nanos));
        let moved = grant.epoch > self.peer_epoch;
        if grant.nanos == 0 {
            if moved {
                // The promise is withdrawn. The view moves once the new epoch is granted.
                self.until = BootTime(0);
            }
            return Answer::Empty;
        }
        self.asked_at = self.asked_at.max(echo);
        if moved {
            (self.peer_epoch, self.until) = (grant.epoch, until);
            self.view = self.view.saturating_add(1);
            return Answer::Moved;
        }
        let revived = self.until == BootTime(0) && until > now;
        self.until = self.until.max(until);
        if revived { Answer::Revived } else { Answer::Renewed }
    }

    /// Forgets a belief that ended. Whether it ended now, so that what rests on it is looked at.
    pub fn lapse(&mut self, now: BootTime) -> bool {
        let over = self.until > BootTime(0) && now >= self.until;
        if over {
            self.until = BootTime(0);
        }
        over
    }

    /// What a progress notes when its replica says that it is bound under `support`; 0: nothing.
    pub fn noted(&self, support: u32) -> u32 {
        if support != 0 && support == self.peer_epoch { self.view } else { 0 }
    }

    /// Whether a replica whose progress noted `view` supports its leader now.
    pub fn supports(&self, view: u32, now: BootTime) -> bool {
        view != 0 && view == self.view && view != u32::MAX && now < self.until
    }

    /// Whether the other end is believed to promise anything now.
    pub fn lives(&self, now: BootTime) -> bool {
        now < self.until
    }

    /// Whether the belief rests on a request sent at `since` or later.
    pub fn is_since(&self, since: BootTime) -> bool {
        self.asked_at >= since
    }

    /// Whether anything was granted in this life of the lane.
    pub fn was_granted(&self) -> bool {
        self.asked_at > BootTime(0)
    }

    /// The epoch under which the other end binds replicas, as far as is known.
    pub fn peer_epoch(&self) -> u32 {
        self.peer_epoch
    }

    /// The present view; 0: none.
    pub fn view(&self) -> u32 {
        self.view
    }

    /// When the belief ends; `None`: nothing is believed.
    pub fn until(&self) -> Option<BootTime> {
        (self.until > BootTime(0)).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { support_nanos: 600, drift_ppm: 10_000, guard_nanos: 20 };

    fn grant(epoch: u32, nanos: u64) -> Grant {
        Grant { epoch, nanos }
    }

    #[test]
    fn a_belief_is_shorter_than_its_promise_by_drift_and_guard() {
        assert_eq!(TIMING.believed(600), 600 - 12 - 20);
        assert_eq!(TIMING.believed(u64::MAX), 600 - 12 - 20, "no more than is ever asked for");
        assert_eq!(TIMING.believed(20), 0);
        assert_eq!(Timing::default().believed(600_000_000), 600_000_000 - 1_200_000 - 20_000_000);
    }

    #[test]
    fn a_promise_is_prolonged_under_its_epoch_and_never_shortened() {
        let mut promise = Promise::default();
        assert_eq!(promise.grant(BootTime(10), 1_000, &TIMING), grant(1, 600));
        assert_eq!(promise.grant(BootTime(300), 50, &TIMING), grant(1, 50));
        assert_eq!(promise.until(), Some(BootTime(610)));
        assert!(promise.holds(1, BootTime(609)) && !promise.holds(1, BootTime(610)));
        assert!(!promise.holds(0, BootTime(20)) && !promise.holds(2, BootTime(20)));
    }

    #[test]
    fn a_promise_that_ran_out_moves_its_epoch_once() {
        let mut promise = Promise::default();
        promise.grant(BootTime(10), 600, &TIMING);
        assert!(!promise.expire(BootTime(609)));
        assert!(promise.expire(BootTime(610)));
        assert!(!promise.expire(BootTime(611)));
        promise.withdraw();
        assert_eq!(promise.grant(BootTime(700), 0, &TIMING), grant(2, 0));
        assert_eq!(promise.binds(BootTime(700)), None);
        assert_eq!(promise.grant(BootTime(800), 600, &TIMING), grant(2, 600));
        assert_eq!(promise.binds(BootTime(800)), Some(2));
        assert!(!promise.holds(1, BootTime(800)), "a withdrawn epoch holds nothing (I10)");
    }

    #[test]
    fn the_last_epoch_of_all_is_never_granted() {
        let mut promise = Promise { epoch: u32::MAX, until: BootTime(0) };
        assert_eq!(promise.grant(BootTime(1), 600, &TIMING), grant(u32::MAX, 0));
    }

    #[test]
    fn a_belief_counts_from_the_moment_of_asking() {
        let mut belief = Belief::default();
        belief.up(BootTime(1_000), false);
        let answer = belief.answer(BootTime(1_300), BootTime(1_100), grant(7, 600), &TIMING);
        assert_eq!(answer, Answer::Moved);
        assert_eq!(belief.until(), Some(BootTime(1_100 + 568)));
        assert_eq!(belief.noted(7), 1);
        assert!(belief.supports(1, BootTime(1_667)) && !belief.supports(1, BootTime(1_668)));
        assert!(!belief.supports(0, BootTime(1_200)), "0 is no view");
        assert!(belief.lapse(BootTime(1_668)) && !belief.lapse(BootTime(1_700)));
    }

    #[test]
    fn an_answer_from_before_is_no_answer() {
        let mut belief = Belief::default();
        belief.up(BootTime(1_000), false);
        let mut take =
            |now, echo, grant| belief.answer(BootTime(now), BootTime(echo), grant, &TIMING);
        assert_eq!(take(1_001, 999, grant(1, 600)), Answer::Stale, "of another lane life");
        assert_eq!(take(1_001, 1_002, grant(1, 600)), Answer::Stale, "of the future");
        assert_eq!(take(1_700, 1_099, grant(1, 600)), Answer::Stale, "older than a support time");
        assert_eq!(take(1_700, 1_650, grant(0, 600)), Answer::Stale, "there is no epoch 0");
        assert_eq!(take(1_700, 1_650, grant(3, 600)), Answer::Moved);
        assert_eq!(take(1_701, 1_660, grant(2, 600)), Answer::Stale, "of a withdrawn epoch");
        assert_eq!(take(1_702, 1_670, grant(3, 600)), Answer::Renewed);
        assert_eq!(take(1_702, 1_640, grant(3, 600)), Answer::Renewed);
        assert_eq!(belief.until(), Some(BootTime(1_670 + 568)), "never shortened");
    }

    #[test]
    fn each_epoch_and_each_life_of_the_peer_has_its_view() {
        let mut belief = Belief::default();
        belief.up(BootTime(0), false);
        belief.answer(BootTime(10), BootTime(5), grant(1, 600), &TIMING);
        assert_eq!((belief.view(), belief.noted(1)), (1, 1));
        assert_eq!(belief.answer(BootTime(20), BootTime(15), grant(2, 0), &TIMING), Answer::Empty);
        assert!(!belief.supports(1, BootTime(20)), "the epoch was withdrawn");
        assert_eq!(belief.view(), 1, "nothing can be bound under epoch 2 yet");
        belief.answer(BootTime(30), BootTime(25), grant(2, 600), &TIMING);
        assert_eq!((belief.view(), belief.noted(1), belief.noted(2)), (2, 0, 2));
        belief.up(BootTime(40), true);
        assert!(!belief.supports(2, BootTime(41)) && belief.noted(2) == 0);
        assert_eq!(
            belief.answer(BootTime(50), BootTime(45), grant(2, 600), &TIMING),
            Answer::Moved
        );
        assert_eq!(belief.view(), 4, "the same number of another life is another epoch");
    }

    #[test]
    fn a_belief_that_lapsed_comes_back_under_its_epoch() {
        let mut belief = Belief::default();
        belief.up(BootTime(1_000), false);
        assert!(!belief.was_granted());
        let take = |belief: &mut Belief, now, echo| {
            belief.answer(BootTime(now), BootTime(echo), grant(1, 600), &TIMING)
        };
        take(&mut belief, 1_010, 1_005);
        assert!(belief.lapse(BootTime(1_600)) && !belief.lives(BootTime(1_600)));
        assert_eq!(take(&mut belief, 1_620, 1_021), Answer::Renewed, "it is over already");
        assert!(belief.lapse(BootTime(1_620)));
        assert_eq!(take(&mut belief, 1_700, 1_690), Answer::Revived);
        assert!(belief.supports(1, BootTime(1_700)), "the promise never ran out");
        assert!(belief.is_since(BootTime(1_690)) && !belief.is_since(BootTime(1_691)));
    }

    #[test]
    fn support_is_asked_for_only_while_the_disk_moves_and_the_peer_answers() {
        let mut belief = Belief::default();
        belief.up(BootTime(1_000), false);
        assert_eq!(belief.wanted(BootTime(1_599), 300, &TIMING), 600);
        assert_eq!(belief.wanted(BootTime(1_599), 301, &TIMING), 0, "the disk hangs");
        assert_eq!(belief.wanted(BootTime(1_600), 0, &TIMING), 0, "nothing was heard for so long");
        belief.answer(BootTime(1_650), BootTime(1_640), grant(1, 0), &TIMING);
        assert_eq!(belief.wanted(BootTime(1_700), 0, &TIMING), 600, "it answers again");
    }
}
