//! Whether the connection of a lane still works, and when to dial again. Says nothing of shards.

use bowline_env::Nanos;

/// A connection is given up after this long without a received byte or without a consumed one.
const PATIENCE: Nanos = Nanos::from_millis(5_000);
const DELAY_MIN_MILLIS: u64 = 50;
const DELAY_MAX_MILLIS: u64 = 1_000;
const DELAY_SLOW: Nanos = Nanos::from_millis(30_000);

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Down {
    /// Nothing was received for 5 s.
    Silent,
    /// Bytes waited for the peer, and it consumed nothing for 5 s.
    Stuck,
}

/// What is known of a connection's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLife {
    received_at: Nanos,
    /// Since when bytes wait and none is consumed.
    stuck_since: Option<Nanos>,
}

impl LaneLife {
    /// A connection that was made now.
    #[must_use]
    pub fn new(now: Nanos) -> Self {
        Self { received_at: now, stuck_since: None }
    }

    /// A frame was received.
    pub fn note_received(&mut self, now: Nanos) {
        self.received_at = self.received_at.max(now);
    }

    /// `unsent`: bytes wait for the peer, and it consumed none since the last call. False starts
    /// the wait anew.
    pub fn note_unsent(&mut self, now: Nanos, unsent: bool) {
        self.stuck_since = unsent.then(|| self.stuck_since.unwrap_or(now));
    }

    /// Whether and why the connection is to be given up.
    pub fn expired(&self, now: Nanos) -> Option<Down> {
        let over = |since: Nanos| PATIENCE <= now.since(since);
        if over(self.received_at) {
            Some(Down::Silent)
        } else {
            self.stuck_since.is_some_and(over).then_some(Down::Stuck)
        }
    }
}

/// How long to wait before the next dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    millis: u64,
}

impl Backoff {
    /// Of a peer that was not dialed yet.
    #[must_use]
    pub fn new() -> Self {
        Self { millis: DELAY_MIN_MILLIS }
    }

    /// The wait after a dial that failed: 50 ms, doubled each time up to 1 s, and half of it less
    /// or more by `random`.
    pub fn next(&mut self, random: u64) -> Nanos {
        let span = Nanos::from_millis(self.millis);
        self.millis = (self.millis * 2).min(DELAY_MAX_MILLIS);
        Nanos(span.0 / 2 + random % (span.0 + 1))
    }

    /// The wait after a refusal that only an operator can end: 30 s. The waits after it begin at
    /// 1 s.
    pub fn slow(&mut self) -> Nanos {
        self.millis = DELAY_MAX_MILLIS;
        DELAY_SLOW
    }

    /// The peer sent a frame: begins anew.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    #[test]
    fn a_silent_peer_is_given_up_after_five_seconds() {
        let mut life = LaneLife::new(ms(1_000));
        assert_eq!(life.expired(ms(5_999)), None);
        assert_eq!(life.expired(ms(6_000)), Some(Down::Silent));
        life.note_received(ms(5_999));
        life.note_received(ms(2_000));
        assert_eq!(life.expired(ms(10_998)), None, "the clock of a note does not go back");
        assert_eq!(life.expired(ms(10_999)), Some(Down::Silent));
    }

    #[test]
    fn a_peer_that_reads_nothing_is_given_up_after_five_seconds() {
        let mut life = LaneLife::new(ms(0));
        for at in (0..20_000).step_by(50) {
            life.note_received(ms(at));
            life.note_unsent(ms(at), at % 4_950 != 0);
            assert_eq!(life.expired(ms(at)), None, "it goes on every 4.95 s");
        }
        life.note_unsent(ms(20_000), false);
        life.note_unsent(ms(20_050), true);
        life.note_unsent(ms(25_000), true);
        life.note_received(ms(25_000));
        assert_eq!(life.expired(ms(25_049)), None);
        assert_eq!(life.expired(ms(25_050)), Some(Down::Stuck));
    }

    #[test]
    fn waits_double_to_a_second_and_differ_by_half() {
        let waits = |random: u64| {
            let mut backoff = Backoff::new();
            [(); 7].map(|()| backoff.next(random).0)
        };
        let spans = [50, 100, 200, 400, 800, 1_000, 1_000].map(|span| ms(span).0);
        assert_eq!(waits(0), spans.map(|span| span / 2));
        for random in [1, 12_345_678_901, u64::MAX] {
            for (wait, span) in waits(random).into_iter().zip(spans) {
                assert!((span / 2..=span / 2 * 3).contains(&wait));
            }
        }
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next(ms(50).0), ms(75), "the longest");
    }

    #[test]
    fn a_refusal_waits_long_and_a_frame_begins_anew() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.slow(), ms(30_000));
        assert_eq!(backoff.next(0), ms(500));
        backoff.reset();
        assert_eq!(backoff.next(0), ms(25));
    }
}
