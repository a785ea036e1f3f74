//! Holds background work back: it lets others run every 100 microseconds, and its writes keep to
//! a rate that rises with the need for them.

use bowline_env::{Env, Nanos};

use super::{DeltaPressure, Store};
use crate::run::format::u64_of;

/// How long background work computes at a stretch.
const STRETCH: Nanos = Nanos::from_micros(100);
/// How many steps of it go between two looks at the clock.
const STEPS: u32 = 16;

/// Lets others run.
#[derive(Debug)]
pub(crate) struct Pace<E: Env> {
    env: E,
    since: Nanos,
    steps: u32,
}

impl<E: Env> Pace<E> {
    pub(crate) fn new(env: &E) -> Self {
        Self { env: env.clone(), since: env.now(), steps: 0 }
    }

    /// After a small step of work.
    pub(crate) async fn step(&mut self) {
        self.steps += 1;
        if self.steps < STEPS {
            return;
        }
        self.steps = 0;
        if self.env.now().since(self.since) >= STRETCH {
            self.env.breathe().await;
            self.since = self.env.now();
        }
    }
}

impl<E: Env> Store<E> {
    /// Bytes a second that background writes may take now; 0: no limit.
    pub(crate) fn rate(&self) -> u64 {
        let (low, high) = (self.options.rate, self.options.rate_max.max(self.options.rate));
        if low == 0 || self.pressure() == DeltaPressure::Low {
            return low;
        }
        let half = u64_of(self.budget.limit() / 2).max(1);
        let over = (u64_of(self.budget.used()).saturating_sub(half)).min(half);
        let more = u128::from(high - low) * u128::from(over) / u128::from(half);
        low + u64::try_from(more).expect("a part of a u64 is a u64")
    }

    /// Before the next write, once `len` bytes were written.
    pub(crate) async fn throttle(&self, len: usize) {
        self.counters.written.set(self.counters.written.get() + u64_of(len));
        let rate = self.rate();
        if rate == 0 {
            return;
        }
        let span = u128::from(u64_of(len)) * u128::from(Nanos::SECOND.0) / u128::from(rate);
        let span = Nanos(u64::try_from(span).unwrap_or(u64::MAX));
        let now = self.env.now();
        let next = self.next_write.get().max(now).after(span);
        self.next_write.set(next);
        if next.since(now) > Nanos::MILLI {
            self.env.sleep_until(next).await;
        }
    }
}
