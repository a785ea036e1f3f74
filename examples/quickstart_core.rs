//! On a shard's own core: no thread is crossed. Takes a directory as its argument.
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "an example shows its result")]

use std::time::Duration;

use bowline::{EmbeddedEngine, Error};

fn main() -> Result<(), Error> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/quickstart".to_owned());
    let engine = EmbeddedEngine::builder().data_dir(dir).start().wait()?;
    engine.wait_ready(Duration::from_secs(30)).wait()?;

    let shard = engine.shard(engine.shard_of(b"{orders}")).expect("the shard of a key exists");
    let total = shard.run_local(async |local| {
        for price in [5, 7, 30] {
            local.increment("{orders}total", price).await?;
        }
        local.get("{orders}total").await // from memory, without a wake
    });
    println!("total: {:?}", total.wait()??);

    engine.stop().wait()
}
