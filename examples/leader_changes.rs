//! Being told who leads: an application that does something only where the leader is follows
//! `leader_change_notifier`. Takes a directory as its argument.
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "an example shows its result")]

#[path = "kit/trio.rs"]
mod trio;

use std::path::PathBuf;
use std::time::Duration;

use bowline::{EmbeddedEngine, Error, LeaderInfo};
use tokio::sync::watch::Receiver;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/leader_changes".to_owned());
    let dir = PathBuf::from(dir);
    let addresses = trio::addresses();
    let mut nodes = Vec::new();
    // With one shard the node's leader is the shard's.
    for start in [1, 2, 3].map(|id| trio::node(&dir, addresses, id).shards(1).start()) {
        nodes.push(start.await?);
    }
    let first = nodes[0].wait_ready(Duration::from_secs(30)).await?;
    let leader = nodes.iter().position(|node| node.node_id() == first.leader_id);
    let leader = nodes.swap_remove(leader.expect("a member leads"));
    for node in &nodes {
        node.wait_ready(Duration::from_secs(30)).await?;
    }
    println!("a node leads");

    let watching = nodes.iter().map(EmbeddedEngine::leader_change_notifier);
    let watching: Vec<_> =
        watching.map(|notices| tokio::spawn(successor(notices, first))).collect();
    leader.stop().await?;
    for seen in watching {
        let second = seen.await.expect("the watcher does not panic");
        println!(
            "another node leads: {}, in a later term: {}",
            second.leader_id != first.leader_id,
            second.term > first.term
        );
    }
    for node in nodes {
        node.stop().await?;
    }
    Ok(())
}

/// Follows the notices until another node leads. Between two leaders they say that there is none:
/// that is when work that only a leader may do has to rest.
async fn successor(mut notices: Receiver<Option<LeaderInfo>>, first: LeaderInfo) -> LeaderInfo {
    let is_other = |info: LeaderInfo| info.leader_id != first.leader_id;
    let seen = notices.wait_for(|info| info.is_some_and(is_other)).await;
    seen.expect("the node runs").expect("there is one")
}
