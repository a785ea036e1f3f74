//! The clocks of a node: where its boot clock and wall clock stand at a time of the world.

use crate::Nanos;

/// Wall-clock time at the start of every world: 2026-01-01.
const WALL_START_MS: u64 = 1_767_225_600_000;

/// A boot clock as a line through one point, and the wall clock's distance from the world's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// World time of the point.
    world: u64,
    /// Boot time of the point.
    boot: u64,
    /// Millionths by which the clock runs fast (or slow).
    ppm: i32,
    /// Milliseconds that the wall clock is ahead.
    wall_ahead: i64,
}

impl Clock {
    /// A clock that shows the world's time.
    pub(super) const fn exact() -> Self {
        Self { world: 0, boot: 0, ppm: 0, wall_ahead: 0 }
    }

    /// A clock that shows `boot` at `world` and runs `ppm` millionths fast.
    pub(super) const fn started(world: u64, boot: u64, ppm: i32) -> Self {
        Self { world, boot, ppm, wall_ahead: 0 }
    }

    /// Boot time at a time of the world.
    pub(super) fn boot(&self, world: u64) -> Nanos {
        let elapsed = i128::from(world.saturating_sub(self.world));
        let shown = elapsed + elapsed * i128::from(self.ppm) / 1_000_000;
        Nanos(self.boot.saturating_add(u64::try_from(shown).unwrap_or(0)))
    }

    /// The first time of the world at which the clock shows `boot`.
    pub(super) fn world(&self, boot: Nanos) -> u64 {
        let shown = i128::from(boot.0.saturating_sub(self.boot));
        let rate = 1_000_000 + i128::from(self.ppm);
        let elapsed = (shown * 1_000_000 + rate - 1) / rate;
        self.world.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Milliseconds since 1970 at a time of the world.
    pub(super) fn wall(&self, world: u64) -> u64 {
        (WALL_START_MS + world / 1_000_000).saturating_add_signed(self.wall_ahead)
    }

    /// Runs at another rate from `world` on.
    pub(super) fn set_rate(&mut self, world: u64, ppm: i32) {
        assert!(
            (-500_000..=500_000).contains(&ppm),
            "a clock runs forward, at most 1.5 times fast"
        );
        self.boot = self.boot(world).0;
        self.world = world;
        self.ppm = ppm;
    }

    /// Moves the boot clock forward: a suspend that ends at `world`.
    pub(super) fn jump(&mut self, world: u64, span: Nanos) {
        self.boot = self.boot(world).after(span).0;
        self.world = world;
    }

    /// Stands still for `span` from `world` on: a pause that nobody sees.
    pub(super) fn hide(&mut self, world: u64, span: Nanos) {
        self.boot = self.boot(world).0;
        self.world = world.saturating_add(span.0);
    }

    /// Moves the wall clock.
    pub(super) fn jump_wall(&mut self, by_ms: i64) {
        self.wall_ahead = self.wall_ahead.saturating_add(by_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_never_due_before_the_clock_shows_its_time() {
        for ppm in [-1000, -3, 0, 3, 1000] {
            let clock = Clock::started(1_000, 77, ppm);
            for at in [77, 78, 1_000, 123_456_789, 9_999_999_999] {
                let world = clock.world(Nanos(at));
                assert!(clock.boot(world) >= Nanos(at), "{ppm} ppm, {at} ns");
                assert!(world == 1_000 || clock.boot(world - 2) < Nanos(at), "{ppm} ppm, {at} ns");
            }
        }
    }

    #[test]
    fn a_change_of_rate_moves_no_hand() {
        let mut clock = Clock::exact();
        clock.set_rate(1_000_000, 500);
        let before = clock.boot(3_000_000);
        clock.set_rate(3_000_000, -500);
        assert_eq!(clock.boot(3_000_000), before);
        clock.hide(3_000_000, Nanos(500));
        assert_eq!(clock.boot(3_000_400), before);
        clock.jump(3_000_500, Nanos(7));
        assert_eq!(clock.boot(3_000_500), before.after(Nanos(7)));
    }
}
