//! From a tokio runtime: every operation is a future. Takes a directory as its argument.
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "an example shows its result")]

use std::time::Duration;

use bowline::{EmbeddedEngine, Error, ScanOptions};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/quickstart".to_owned());
    let engine = EmbeddedEngine::builder().data_dir(dir).start().await?;
    engine.wait_ready(Duration::from_secs(30)).await?;
    let kv = engine.client();

    // All three are on their way before the first is awaited: one write to the log.
    let puts = ["ada", "brian", "grace"].map(|name| kv.put(format!("user:{name}"), name));
    for put in puts {
        put.await?;
    }
    let page = kv.scan_prefix("user:", ScanOptions::new()).await?;
    println!("{} users: {:?}", page.items.len(), page.items);

    engine.stop().await
}
