//! What the nodes of a simulated world say of themselves, on standard output: for people who look
//! into one seed. `BOWLINE_TRACE=info` (or `debug`, `trace`) turns it on.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_env::sim::World;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Prints every event with the world's time.
struct Printer {
    level: Level,
    spans: AtomicU64,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}

impl Subscriber for Printer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let now = WORLD.with_borrow(|world| world.as_ref().map(World::whereabouts));
        let mut line = Line(now.unwrap_or_default());
        event.record(&mut line);
        println!("{}", line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Prints what is said in `world` from now on, if that is asked for.
#[expect(clippy::disallowed_methods, reason = "asked for by the environment")]
pub(crate) fn follow(world: &World) {
    let Ok(level) = std::env::var("BOWLINE_TRACE") else { return };
    WORLD.set(Some(world.clone()));
    let level = level.parse().expect("a level");
    // The subscriber of the run before is the same.
    drop(tracing::subscriber::set_global_default(Printer { level, spans: AtomicU64::new(0) }));
}
