//! `bowline serve`: one node as its configuration says, until it is told to end.
//!
//! ```text
//! first order    the node stops as `EmbeddedEngine::stop` does; exit status 0
//! second order   the process ends at once, which is as safe as a power failure; exit status 0
//! the node fails by itself                     it says why; exit status 1
//! ```

use core::time::Duration;
use std::process::ExitCode;

use bowline::{Config, EmbeddedEngine, Error};

use crate::cli::Serve;
use crate::door::Door;
use crate::orders::Orders;
use crate::out;
use crate::settings::Settings;

/// How often it is looked whether the node failed by itself.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the node. Failure: it did not start, or did not stop as it should.
pub(crate) fn run(ask: &Serve) -> anyhow::Result<ExitCode> {
    let config = Config::load(ask.config.as_deref()).map_err(Error::from)?;
    let settings = Settings::of(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut orders = {
        let _context = runtime.enter();
        Orders::listen()?
    };
    if ask.until_stdin_ends {
        orders.watch_stdin();
    }
    out::log(settings.log);
    runtime.block_on(async {
        let door = match settings.admin {
            Some(at) => Some(Door::open(at).await?),
            None => None,
        };
        serve(config, door, orders).await
    })
}

async fn serve(config: Config, door: Option<Door>, mut orders: Orders) -> anyhow::Result<ExitCode> {
    let engine = tokio::select! {
        started = EmbeddedEngine::builder().config(config).start() => started?,
        // A start that is dropped undoes itself.
        () = orders.next() => return Ok(ExitCode::SUCCESS),
    };
    let node = engine.node_id().0;
    tracing::info!(node, "the node is up");
    if let Some(door) = door {
        tracing::info!(node, at = %door.at(), "the admin socket is open");
        drop(tokio::spawn(door.run(engine.clone())));
    }
    tokio::select! {
        () = orders.next() => tracing::info!(node, "the node is told to stop"),
        () = failed(&engine) => tracing::error!(node, "the node failed"),
    }
    tokio::select! {
        stopped = engine.stop() => stopped?,
        () = orders.next() => tracing::warn!(node, "the node ends without a stop"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns once the node stopped by itself.
async fn failed(engine: &EmbeddedEngine) {
    let mut look = tokio::time::interval(LOOK);
    while !engine.is_stopped() {
        look.tick().await;
    }
}
