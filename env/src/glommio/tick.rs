//! The tick of a core. The runtime can park with a task ready to run; what it lost is found at the
//! next tick. A core that does nothing ticks less often, so that it costs next to nothing.
//!
//! The lost task may be the tick itself: its timer has fired, it has not run, and if no other timer
//! is set the runtime sleeps for ever. So each tick sets later timers too, its guards, which nobody
//! waits for. All of them fire in one turn only when the core stood still as long as the last one.

use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Poll, Waker};
use core::time::Duration;

use ::glommio::timer::Timer;

/// Between two ticks of a core that is at work.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// Between two ticks of one that is not.
const TICK_QUIET: Duration = Duration::from_millis(100);
/// As many looks at the clock in `TICK`, on the average, make a core one at work: a few puts. Beats
/// of its peers are less, though several may come at once.
const LOOKS_AT_WORK: u32 = 24;
/// Ticks of a core at work in the time of a quiet one, and between two looks at that average.
const TICKS_A_LOOK: u32 = 20;
/// As many looks in the time of a quiet tick make a core one at work.
const LOOKS_A_QUIET: u32 = LOOKS_AT_WORK * TICKS_A_LOOK;

/// How long after a tick its guards fire.
const GUARDS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_secs(1), Duration::from_mins(1)];

const _: () = assert!(TICK.as_millis() <= 5, "a lost wake is found soon");
const _: () = assert!(TICK_QUIET.as_millis() <= 100, "and not much later on a quiet core");
const _: () = assert!(TICK.as_millis() * TICKS_A_LOOK as u128 == TICK_QUIET.as_millis());

/// How busy a core is, by how often it looks at its clock.
#[derive(Default)]
pub(super) struct Pulse {
    looks: Cell<u32>,
    /// The tick of a quiet core.
    quiet: Cell<Option<Waker>>,
}

impl core::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pulse({})", self.looks.get())
    }
}

impl Pulse {
    /// The core looked at its clock.
    pub(super) fn look(&self) {
        let looks = self.looks.get().saturating_add(1);
        self.looks.set(looks);
        if looks == LOOKS_A_QUIET
            && let Some(tick) = self.quiet.take()
        {
            tick.wake();
        }
    }

    /// Whether the core was at work since the last such question.
    fn was_at_work(&self) -> bool {
        self.looks.replace(0) >= LOOKS_A_QUIET
    }

    /// Ticks for as long as it is polled.
    pub(super) async fn tick(&self) {
        loop {
            for _ in 0..TICKS_A_LOOK {
                self.wait(false).await;
            }
            while !self.was_at_work() {
                self.wait(true).await;
            }
        }
    }

    /// Until the next tick, or until a quiet core is at work.
    async fn wait(&self, is_quiet: bool) {
        let span = if is_quiet { TICK_QUIET } else { TICK };
        let mut guards = GUARDS.map(|later| Timer::new(span + later));
        let mut timer = Timer::new(span);
        poll_fn(|cx| {
            if is_quiet && self.looks.get() >= LOOKS_A_QUIET {
                return Poll::Ready(());
            }
            // A timer is set by its first poll. What a guard says does not matter.
            let fired = guards.each_mut().map(|guard| Pin::new(guard).poll(cx).is_ready());
            if is_quiet {
                self.quiet.set(Some(cx.waker().clone()));
            }
            let done = Pin::new(&mut timer).poll(cx).map(|_at| ());
            if fired.contains(&true) { Poll::Ready(()) } else { done }
        })
        .await;
        self.quiet.set(None);
    }
}
