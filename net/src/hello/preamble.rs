//! The first bytes of a connection, from the dialer in clear text: they only choose a core.
//!
//! ```text
//!  0 magic u32 'BWP1'   4 version u8 = 1   5 class u8 (0 lane, 1 bulk)   6 want_core u16
//!  8 flags u8 (1: TLS follows)   9 zero 3 B   12 crc32 (0..12)
//! ```
//!
//! Integers are little-endian.

use super::{HelloError, u16_at, u32_at};

/// Bytes of a preamble.
pub const PREAMBLE_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"BWP1";
const VERSION: u8 = 1;
/// Flag: a TLS handshake follows.
const TLS: u8 = 1;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Messages between replicas.
    Lane,
    /// State as a whole, in chunks.
    Bulk,
}

impl Class {
    pub(super) fn to_byte(self) -> u8 {
        match self {
            Self::Lane => 0,
            Self::Bulk => 1,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Lane),
            1 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// The first bytes of a connection. Nothing vouches for them: they choose a core, and the hello
/// must repeat them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// What the connection is for.
    pub class: Class,
    /// The core that is wanted, modulo the cores of the acceptor.
    pub want_core: u16,
    /// Whether a TLS handshake follows.
    pub tls: bool,
}

impl Preamble {
    /// The bytes of this preamble.
    #[must_use]
    pub fn encode(self) -> [u8; PREAMBLE_LEN] {
        let mut out = [0; PREAMBLE_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.class.to_byte();
        out[6..8].copy_from_slice(&self.want_core.to_le_bytes());
        out[8] = if self.tls { TLS } else { 0 };
        let crc = crc32fast::hash(&out[..12]);
        out[12..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a preamble.
    ///
    /// # Errors
    ///
    /// [`HelloError`]: these bytes are none.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "received bytes are read where they lie")]
    pub fn decode(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, HelloError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(HelloError::Magic);
        }
        if u32_at(bytes, 12) != crc32fast::hash(&bytes[..12]) {
            return Err(HelloError::Checksum);
        }
        if bytes[4] != VERSION {
            return Err(HelloError::Version { byte: bytes[4] });
        }
        let class = Class::from_byte(bytes[5]).ok_or(HelloError::Class { byte: bytes[5] })?;
        if bytes[8] & !TLS != 0 {
            return Err(HelloError::Flags { byte: bytes[8] });
        }
        if bytes[9..12] != [0; 3] {
            return Err(HelloError::Padding);
        }
        Ok(Self { class, want_core: u16_at(bytes, 6), tls: bytes[8] == TLS })
    }
}
