#![forbid(unsafe_code)]
//! The wire between nodes: frames, the messages in them, and how two nodes come to terms.
//!
//! Bytes are believed in this order, and the first failure closes the lane: header and limits
//! ([`FrameHeader::decode`]), checksum of the meta ([`Frame::open`]), the archive and its ranges
//! ([`Msgs::open`]), each message ([`Msgs::iter`]), each batch by the checksum on its staged copy.
//! Nothing is allocated for received messages, and nothing is deserialized.
//!
//! A lane begins with a handshake ([`dial`], [`answer`]) and is then a [`Receiver`], a [`Sender`]
//! and a [`LaneLife`]: synchronous, told of bytes and time. Its bytes travel through a [`Line`]:
//! the socket as it is, or with the feature `tls` and a [`Security`] that says so, TLS 1.3 over it.

mod bulk;
mod control;
mod frame;
mod handshake;
mod hello;
mod lane;
mod line;
mod msgs;
mod recv;
mod security;
mod send;
#[cfg(feature = "tls")]
mod tls;
mod waiting;
mod wire;

pub use bulk::{Bulk, CHUNK_MAX};
pub use control::{Control, ControlError, ControlFrame, ROWS_MAX};
pub use frame::{
    ALIGN, Expected, FREE_LEN_MAX, Frame, FrameError, FrameHeader, HEADER_LEN, Kind, MAGIC,
};
pub use handshake::{
    DialError, HandshakeError, Opened, Pending, PendingGuard, answer, dial, greet, read_preamble,
};
pub use hello::{
    Agreed, Class, HELLO_LEN_MAX, Hello, HelloError, HelloKind, NodeRecord, PREAMBLE_LEN, Preamble,
    Refusal, Versions, judge,
};
pub use lane::{Backoff, Down, LaneLife};
pub use line::{Line, Pipe};
pub use msgs::{BATCHES_MAX, MSGS_MAX, Msgs, MsgsError, MsgsWriter, PushError, Stamp};
pub use recv::{Received, Receiver};
pub use security::{Security, TlsError};
pub use send::Sender;
#[cfg(feature = "tls")]
pub use tls::{Identity, IdentityError, Pems};
pub use wire::MessageError;
