//! Lanes: what one end sends is what the other receives, however it is cut, and within every bound.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[cfg(feature = "tls")]
#[path = "shared/certs.rs"]
mod certs;
#[path = "lanes/control.rs"]
mod control;
#[path = "lanes/credit.rs"]
mod credit;
#[path = "lanes/kit.rs"]
mod kit;
#[path = "lanes/receive.rs"]
mod receive;
#[path = "lanes/send.rs"]
mod send;
#[cfg(feature = "tls")]
#[path = "shared/hello.rs"]
mod shared;
#[path = "lanes/sockets.rs"]
mod sockets;
#[cfg(feature = "tls")]
#[path = "lanes/tls.rs"]
mod tls;
