//! Three nodes that are one store, here in one process: what is written through one is read on
//! all, and two of them go on without the third. Takes a directory as its argument.
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "an example shows its result")]

#[path = "kit/trio.rs"]
mod trio;

use std::path::PathBuf;
use std::time::Duration;

use bowline::{EmbeddedEngine, Error, Op};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Error> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/three_nodes".to_owned());
    let dir = PathBuf::from(dir);
    let addresses = trio::addresses();
    let start = |id| trio::node(&dir, addresses, id).start();

    // No node waits for another one, so all can be started before one is waited for.
    let starts = [1, 2, 3].map(start);
    let mut nodes = starts.into_iter().map(Op::wait).collect::<Result<Vec<_>, _>>()?;
    for node in &nodes {
        node.wait_ready(PATIENCE).wait()?;
    }
    put(&nodes, "greeting", "hello")?; // synced on two of three when this returns
    for node in &nodes {
        let value = node.client().get("greeting").wait()?;
        println!("node {} reads {value:?}", node.node_id());
    }

    let gone = nodes.pop().expect("there are three");
    gone.stop().wait()?;
    put(&nodes, "greeting", "two are enough")?;

    let back = start(3).wait()?;
    back.wait_ready(PATIENCE).wait()?;
    println!("node 3 is back and reads {:?}", back.client().get("greeting").wait()?);

    nodes.push(back);
    nodes.iter().map(EmbeddedEngine::stop).try_for_each(Op::wait)
}

/// Writes through the node that leads the key's shard. Whoever else is asked says who that is, or,
/// while one is elected, that nobody is.
fn put(nodes: &[EmbeddedEngine], key: &str, value: &str) -> Result<(), Error> {
    let mut node = &nodes[0];
    loop {
        match node.client().put(key, value).wait() {
            Err(error) if error.is_retryable() => {
                let leader = error.leader_hint().map(|leader| leader.id);
                let known = nodes.iter().find(|node| Some(node.node_id()) == leader);
                node = known.unwrap_or(node);
                #[expect(clippy::disallowed_methods, reason = "an election takes a moment")]
                std::thread::sleep(Duration::from_millis(20));
            },
            done_or_wrong => return done_or_wrong,
        }
    }
}
