//! Looking up names: each lookup on a thread of its own, since the system's resolver may take
//! half a minute to say that nobody answers it.

use core::net::SocketAddr;
use std::net::ToSocketAddrs as _;

use super::helper::Helper;
use crate::{EnvError, Kind, Op};

/// The addresses of `host` with `port`, one at least.
pub(super) async fn resolve(host: String, port: u16) -> Result<Vec<SocketAddr>, EnvError> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let thread =
        Helper::start("bowline-resolve").map_err(|error| EnvError::new(Op::Resolve, error.kind))?;
    let found = thread.run(move || {
        let found = (host.as_str(), port).to_socket_addrs();
        found.map(Iterator::collect).unwrap_or_default()
    });
    let found: Vec<_> = found.await.unwrap_or_default();
    let known = (!found.is_empty()).then_some(found);
    known.ok_or_else(|| EnvError::new(Op::Resolve, Kind::NotFound))
}
