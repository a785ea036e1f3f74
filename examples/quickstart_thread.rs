//! From a plain thread: writes, stops, starts again and reads. Takes a directory as its argument.
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "an example shows its result")]

use std::time::Duration;

use bowline::{EmbeddedEngine, Error};

fn main() -> Result<(), Error> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/quickstart".to_owned());
    for _ in 0..2 {
        let engine = EmbeddedEngine::builder().data_dir(&dir).start().wait()?;
        engine.wait_ready(Duration::from_secs(30)).wait()?;
        let kv = engine.client();

        let before = kv.get("greeting").wait()?;
        println!("found {before:?}");
        kv.put("greeting", "hello").wait()?; // synced to disk when this returns
        let visits = kv.increment("visits", 1).wait()?;
        println!("start number {visits}");

        engine.stop().wait()?;
    }
    Ok(())
}
