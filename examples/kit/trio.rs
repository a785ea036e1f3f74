//! How the examples lay out three nodes on this machine.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use bowline::config::Peer;
use bowline::{Builder, EmbeddedEngine};

/// Three addresses of this machine that are free now.
pub(crate) fn addresses() -> [SocketAddr; 3] {
    let held = [0; 3].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
    held.map(|held| held.local_addr().expect("it is bound"))
}

/// Node `id` of three, each with a directory below `dir`, each on one core. Every node gets the
/// same list of peers and finds itself in it by its id.
pub(crate) fn node(dir: &Path, addresses: [SocketAddr; 3], id: u64) -> Builder {
    let peers: Vec<_> = (1..)
        .zip(addresses)
        .map(|(id, address)| Peer { id, address: address.to_string() })
        .collect();
    let own = peers.iter().zip(addresses).find(|(peer, _)| peer.id == id);
    let (_, own) = own.expect("nodes are numbered 1, 2, 3");
    EmbeddedEngine::builder()
        .node_id(id)
        .data_dir(dir.join(format!("node-{id}")))
        .peers(peers)
        .cores(1)
        .configure(move |config| config.listen.peer = own)
}
