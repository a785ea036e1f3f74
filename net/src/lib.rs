#![forbid(unsafe_code)]
//! The wire between nodes: frames, and the messages in them.
//!
//! Bytes are believed in this order, and the first failure closes the lane: header and limits
//! ([`FrameHeader::decode`]), checksum of the meta ([`Frame::open`]), the archive and its ranges
//! ([`Msgs::open`]), each message ([`Msgs::iter`]), each batch by the checksum on its staged copy.
//! Nothing is allocated for received bytes, and nothing is deserialized.

mod frame;
mod handshake;
mod hello;
mod msgs;
mod wire;

pub use frame::{ALIGN, Expected, Frame, FrameError, FrameHeader, HEADER_LEN, Kind, MAGIC};
pub use handshake::{
    DialError, HandshakeError, Opened, Pending, PendingGuard, answer, dial, read_hello,
    read_preamble,
};
pub use hello::{
    Agreed, Class, HELLO_LEN_MAX, Hello, HelloError, HelloKind, NodeRecord, PREAMBLE_LEN, Preamble,
    Refusal, Versions, judge,
};
pub use msgs::{BATCHES_MAX, MSGS_MAX, Msgs, MsgsError, MsgsWriter, PushError, Stamp};
pub use wire::MessageError;
