//! Beats of lanes: asking for support, granting it, and what follows when either ends.
//!
//! ```text
//! begin_pass   promises and beliefs that ran out end; beats that are due leave; the rounds over
//!              the slots go on, so many slots a pass
//! handle_lane  Up, Liveness, LivenessReply here; Digest, ShardsWanted, Rows in `digest`
//! ```

use crate::{
    Beat, BootTime, LaneEvent, LaneNo, LaneSend, LaneWhat, Liveness, Log, Outbox, RaftCore,
    core::{StreamState, slot_at},
    digest::Jobs,
    promise::{Answer, Grant, Timing},
};

/// How far a clock may run from true time, in millionths.
const DRIFT_PPM: u32 = 1_000;
/// Slots that one pass looks at in each round.
pub(crate) const WALK_MAX: usize = 4_096;

impl RaftCore {
    /// What clocks are trusted with.
    fn timing(&self) -> Timing {
        let times = &self.config.times;
        Timing { support_nanos: times.support, guard_nanos: times.guard, drift_ppm: DRIFT_PPM }
    }

    /// Promises and beliefs that ran out, beats that are due, rounds that are under way.
    pub(crate) fn begin_support(&mut self, out: &mut Outbox) {
        let paused = self.passed_at.after(self.config.times.pause) < self.now;
        if paused {
            self.resumed_at = self.now;
        }
        self.passed_at = self.now;
        if self.config.liveness == Liveness::Shard {
            return;
        }
        let every = self.config.times.beat;
        let due = self.lanes.iter().any(|lane| lane.is_beat_due(self.now, every));
        for place in 0..self.lanes.len() {
            self.expire_lane(place);
            if due {
                self.beat_lane(place, out);
            }
            self.go_on_with_digest(lane_no(place), out);
        }
        for _ in 0..WALK_MAX {
            let Some(place) = self.audit.step(self.replicas.len()) else { break };
            self.counters.audited += 1;
            self.audit(slot_at(place), out);
        }
    }

    /// When [`RaftCore::begin_support`] has something to do.
    pub(crate) fn next_liveness(&self) -> Option<BootTime> {
        if self.config.liveness == Liveness::Shard {
            return None;
        }
        if self.audit.is_under_way() || self.lanes.iter().any(|lane| !lane.jobs.is_empty()) {
            return Some(self.now);
        }
        let beat = self.config.times.beat;
        let next = self.lanes.iter().flat_map(|lane| {
            let due = lane.up.then(|| lane.beat_at.after(beat));
            [due, lane.promise.until(), lane.belief.until()]
        });
        next.flatten().min()
    }

    /// Looks at every replica once from here on.
    pub(crate) fn start_audit(&mut self) {
        self.audit.restart(self.replicas.len());
    }

    fn expire_lane(&mut self, place: usize) {
        let now = self.now;
        let lane = &mut self.lanes[place];
        let withdrawn = lane.promise.expire(now);
        if withdrawn {
            lane.followed_hash = 0;
        }
        let lapsed = lane.belief.lapse(now);
        self.counters.epochs_withdrawn += u64::from(withdrawn);
        self.counters.beliefs_lapsed += u64::from(lapsed);
        if withdrawn || lapsed {
            self.start_audit();
        }
    }

    /// A beat, if it is due within half an interval: those due at about the same time leave
    /// together, so that an idle core, and those that hear it, wake once for all of them.
    fn beat_lane(&mut self, place: usize, out: &mut Outbox) {
        let (now, every) = (self.now, self.config.times.beat);
        if !self.lanes[place].is_beat_due(now, every / 2) {
            return;
        }
        let (timing, age) = (self.timing(), self.write_age());
        let log_progress = self.streams.iter().map(|stream| stream.durable.0).sum();
        let lane = &mut self.lanes[place];
        lane.beat_at = now;
        let beat = Beat {
            epoch: u64::from(lane.belief.peer_epoch()),
            support: lane.belief.wanted(now, age, &timing),
            log_progress,
            sent_at: now.0,
            wall: 0,
            led_hash: lane.led_hash,
        };
        self.counters.beats += 1;
        out.lane.push(LaneSend { lane: lane_no(place), what: LaneWhat::Liveness(beat) });
    }

    /// How long the oldest log write of this core is under way.
    fn write_age(&self) -> u64 {
        let good = self.streams.iter().filter(|stream| stream.state == StreamState::Good);
        let oldest = good.filter_map(|stream| stream.waiting.front()).map(|write| write.since);
        oldest.min().map_or(0, |since| self.now.0.saturating_sub(since.0))
    }

    /// A lane's connection is there; `boot` is the number of the peer's process, and `moved` tells
    /// that its other end was another node before.
    pub(crate) fn lane_up(&mut self, lane: LaneNo, boot: u64, moved: bool) {
        let now = self.now;
        let known = &mut self.lanes[usize::from(lane.0)];
        let reborn = moved || known.boot != boot;
        // The process that was promised is dead; or the lane number went to another node: then
        // the promise to the one before is kept by silence.
        let dead = !moved && known.boot < boot;
        let promised = known.promise.until().filter(|_| moved);
        known.boot = boot;
        known.belief.up(now, reborn);
        known.watch.up();
        known.jobs = Jobs::default();
        known.sweeping = false;
        // The first beat leaves at once.
        known.beat_at = BootTime(0);
        if reborn {
            known.led_hash = 0;
        }
        if (dead && known.promise.until().is_some()) || promised.is_some() {
            known.promise.withdraw();
            known.followed_hash = 0;
            self.counters.epochs_withdrawn += 1;
        }
        let quiet = &mut self.config.quiet_until;
        *quiet = promised.map_or(*quiet, |until| until.max(*quiet));
        if self.config.liveness == Liveness::Lane {
            self.start_audit();
            self.state_digest(lane);
        }
    }

    /// What a lane brought beside messages. It was received before this pass began.
    pub(crate) fn lane_event(
        &mut self,
        lane: LaneNo,
        event: LaneEvent<'_>,
        log: &mut impl Log,
        out: &mut Outbox,
    ) {
        if self.config.liveness == Liveness::Shard {
            return;
        }
        match event {
            LaneEvent::Liveness(beat) => self.on_beat(lane, &beat, out),
            LaneEvent::LivenessReply(beat) => self.on_beat_reply(lane, &beat),
            LaneEvent::Digest(digest) => self.on_digest(lane, digest),
            LaneEvent::ShardsWanted => self.on_shards_wanted(lane),
            LaneEvent::Rows { rows, last } => self.on_rows(lane, rows, last, (log, out)),
            LaneEvent::Up { .. } | LaneEvent::Down | LaneEvent::Room(_) => {},
        }
    }

    /// Grants support, and sees whether both ends mean the same shards.
    fn on_beat(&mut self, lane: LaneNo, beat: &Beat, out: &mut Outbox) {
        self.expire_lane(usize::from(lane.0));
        let (timing, now) = (self.timing(), self.now);
        let known = &mut self.lanes[usize::from(lane.0)];
        let grant = known.promise.grant(now, beat.support, &timing);
        let reply = Beat {
            epoch: u64::from(grant.epoch),
            support: grant.nanos,
            sent_at: beat.sent_at,
            ..Beat::default()
        };
        out.lane.push(LaneSend { lane, what: LaneWhat::LivenessReply(reply) });
        let same_epoch = beat.epoch == u64::from(known.promise.epoch());
        if same_epoch && known.watch.hear(now, beat.led_hash, known.followed_hash) {
            self.ask_for_shards(lane, out);
        }
        // The own beats leave with the answer.
        if self.lanes[usize::from(lane.0)].is_beat_due(now, self.config.times.beat / 2) {
            for place in 0..self.lanes.len() {
                self.beat_lane(place, out);
            }
        }
    }

    /// Believes what was granted.
    fn on_beat_reply(&mut self, lane: LaneNo, beat: &Beat) {
        let Ok(epoch) = u32::try_from(beat.epoch) else { return };
        let (timing, now) = (self.timing(), self.now);
        let grant = Grant { epoch, nanos: beat.support };
        let known = &mut self.lanes[usize::from(lane.0)];
        let answer = known.belief.answer(now, BootTime(beat.sent_at), grant, &timing);
        if answer == Answer::Moved {
            known.led_hash = 0;
        }
        if matches!(answer, Answer::Moved | Answer::Revived) {
            self.start_audit();
        }
    }
}

/// The number of the lane at a place.
fn lane_no(place: usize) -> LaneNo {
    LaneNo(u16::try_from(place).expect("lanes are numbered by u16"))
}
