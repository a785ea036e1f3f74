//! What the engine says into the application's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bowline_env::sim::{Profile, World};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::sim::{LIMIT, ready};

/// Counts warnings of the engine.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicU32>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("bowline::engine")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn drop_warns_only_on_last_handle() {
    let warnings = Warnings::default();
    let seen = warnings.clone();
    let guard = tracing::subscriber::set_default(warnings);
    let world = World::new(3, Profile::calm());
    let factory = world.node(1);
    let test = async move {
        let engine = ready(factory, 2).await;
        let (clone, client) = (engine.clone(), engine.client());
        drop(engine);
        assert_eq!(seen.0.load(Ordering::Relaxed), 0, "a clone is left");
        client.put("k", "v").await.unwrap();
        drop(clone);
        assert_eq!(seen.0.load(Ordering::Relaxed), 1);
        assert!(client.put("k", "v").await.is_err(), "clients do not keep the engine alive");
        seen
    };
    let seen = world.block_on(LIMIT, test).unwrap();
    world.run_for(bowline_env::Nanos::SECOND);
    let stopped = async move {
        let engine = ready(factory, 2).await;
        engine.stop().await.unwrap();
        drop(engine);
        seen.0.load(Ordering::Relaxed)
    };
    assert_eq!(world.block_on(LIMIT, stopped), Ok(1), "a stopped engine is dropped in silence");
    drop(guard);
}
