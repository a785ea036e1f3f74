//! TLS between peers on a simulated network: with those that fit, and with all the others.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "shared/certs.rs"]
mod certs;
#[path = "tls/identity.rs"]
mod identity;
#[path = "tls/kit.rs"]
mod kit;
#[path = "tls/limits.rs"]
mod limits;
#[path = "tls/lines.rs"]
mod lines;
#[path = "tls/peers.rs"]
mod peers;
#[path = "shared/hello.rs"]
mod shared;
