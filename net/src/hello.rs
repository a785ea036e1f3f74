//! The bytes of a hello: who speaks, for which cluster, and what it can do.
//!
//! ```text
//!   0 magic u32 'BWH1'   4 len u16   whole hello, multiple of 16
//!   6 kind u8 (1 hello, 2 welcome, 3 refuse)   7 class u8 (0 lane, 1 bulk)
//!   8 version_min u16   10 version_max u16     12 refusal u32, 0 unless kind is 3
//!  16 features u64      24 required u64        32 cluster u128
//!  48 from u64          56 to u64              64 store u128
//!  80 boot u64          88 epoch u64           96 nonce u64   104 echo u64
//! 112 from_core u16    114 want_core u16      116 cores u16   118 machine u16
//! 120 frame_max u32    124 window u32         128 table_version u64
//! 136 claimed u64      144 known u64          152 record_len u32 (at most 512)
//! 156 crc32 (0..156 and record)
//! 160 record, zero to 16
//! ```
//!
//! Integers are little-endian. The layout is the same in every version, so that two builds without
//! a common version can tell each other so: what a later build puts where zero stands here is
//! passed over, if the build says that it speaks a later version.

mod error;
mod judge;
mod preamble;
mod record;
mod refusal;

use bowline_raft::NodeId;

pub use error::HelloError;
pub use judge::{Agreed, judge};
pub use preamble::{Class, PREAMBLE_LEN, Preamble};
pub use record::NodeRecord;
pub use refusal::Refusal;

/// Bytes of a hello before its record.
const HEAD_LEN: usize = 160;
/// Bytes of a hello that tell how long it is.
pub(crate) const PREFIX_LEN: usize = 156;
/// Bytes of the longest hello.
pub const HELLO_LEN_MAX: usize = HEAD_LEN + NodeRecord::LEN_MAX;
/// The first four bytes of a hello.
pub(crate) const HELLO_MAGIC: [u8; 4] = *b"BWH1";

const ALIGN: usize = crate::ALIGN;
const _: () = assert!(HELLO_LEN_MAX.is_multiple_of(ALIGN), "the longest hello needs no padding");
const _: () = assert!(HELLO_LEN_MAX <= 0xffff, "len is a u16");

/// A range of versions of the wire, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Self = Self { min: 1, max: 1 };

    /// The newest version that both ranges have.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (self.min.max(other.min) <= newest).then_some(newest)
    }
}

/// What a hello is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloKind {
    /// The dialer asks.
    Hello,
    /// The acceptor agrees.
    Welcome,
    /// The acceptor does not agree, and closes.
    Refuse(Refusal),
}

impl HelloKind {
    /// The byte and the code of this kind.
    fn to_parts(self) -> (u8, u32) {
        match self {
            Self::Hello => (1, 0),
            Self::Welcome => (2, 0),
            Self::Refuse(refusal) => (3, refusal.code()),
        }
    }

    fn from_parts(byte: u8, code: u32) -> Result<Self, HelloError> {
        match (byte, code) {
            (1, 0) => Ok(Self::Hello),
            (2, 0) => Ok(Self::Welcome),
            (3, _) => {
                Refusal::from_code(code).map(Self::Refuse).ok_or(HelloError::Refusal { code })
            },
            (1 | 2, _) => Err(HelloError::Refusal { code }),
            _ => Err(HelloError::Kind { byte }),
        }
    }

    /// Its byte on the wire.
    pub(crate) fn byte(self) -> u8 {
        self.to_parts().0
    }
}

/// What one side says of itself before the first frame. Each side sends one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Question or answer.
    pub kind: HelloKind,
    /// What the connection is for; repeats the preamble.
    pub class: Class,
    /// Versions of the wire that the sender speaks.
    pub versions: Versions,
    /// Features that the sender can use, one bit each.
    pub features: u64,
    /// Features that the sender cannot do without.
    pub required: u64,
    /// The sender's cluster.
    pub cluster: u128,
    /// The sender.
    pub from: NodeId,
    /// Whom the sender means to speak to.
    pub to: NodeId,
    /// The sender's storage: another one under the same node is another node.
    pub store: u128,
    /// The sender's life, the time since its start: higher than that of any start before, and never
    /// given to a life of another copy of its storage.
    pub boot: u64,
    /// Dials of the sender since its start.
    pub epoch: u64,
    /// Chance of the sender, for this connection.
    pub nonce: u64,
    /// In an answer: the nonce of the hello that it answers. Else 0.
    pub echo: u64,
    /// The sender's core at this connection.
    pub from_core: u16,
    /// The receiver's core that is wanted, modulo its cores; repeats the preamble.
    pub want_core: u16,
    /// Cores of the sender, at least 1.
    pub cores: u16,
    /// Version of the sender's state machine: commands up to it are applied there; 0: not told.
    pub machine: u16,
    /// Bytes of the largest frame that the sender takes.
    pub frame_max: u32,
    /// Bytes of frames that the sender takes before it releases any.
    pub window: u32,
    /// Version of the table of nodes that the sender has.
    pub table_version: u64,
    /// In a question: a former life of the sender that the receiver may know it by; 0: none. In a
    /// welcome: what the question had in `known`, which the sender remembers.
    pub claimed: u64,
    /// In a question: the life of the receiver that the sender met last; 0: none. In a
    /// [`Refusal::Recall`]: the life of the receiver that it should claim.
    pub known: u64,
    /// Where the sender is found.
    pub record: NodeRecord,
}

impl Hello {
    /// The bytes of this hello: a multiple of 16, at most [`HELLO_LEN_MAX`].
    ///
    /// # Panics
    ///
    /// If the record is not one that [`NodeRecord::check`] accepts.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let record = self.record.encode();
        let len = (HEAD_LEN + record.len()).next_multiple_of(ALIGN);
        let (kind, refusal) = self.kind.to_parts();
        let mut out = Vec::with_capacity(len);
        out.extend(HELLO_MAGIC);
        out.extend(u16::try_from(len).expect("a hello is at most 672 bytes").to_le_bytes());
        out.extend([kind, self.class.to_byte()]);
        out.extend(self.versions.min.to_le_bytes());
        out.extend(self.versions.max.to_le_bytes());
        out.extend(refusal.to_le_bytes());
        out.extend(self.features.to_le_bytes());
        out.extend(self.required.to_le_bytes());
        out.extend(self.cluster.to_le_bytes());
        out.extend(self.from.0.to_le_bytes());
        out.extend(self.to.0.to_le_bytes());
        out.extend(self.store.to_le_bytes());
        for word in [self.boot, self.epoch, self.nonce, self.echo] {
            out.extend(word.to_le_bytes());
        }
        for half in [self.from_core, self.want_core, self.cores, self.machine] {
            out.extend(half.to_le_bytes());
        }
        out.extend(self.frame_max.to_le_bytes());
        out.extend(self.window.to_le_bytes());
        for word in [self.table_version, self.claimed, self.known] {
            out.extend(word.to_le_bytes());
        }
        let record_len = u32::try_from(record.len()).expect("a record is at most 512 bytes");
        out.extend(record_len.to_le_bytes());
        assert_eq!(out.len(), PREFIX_LEN, "the head is as its picture says");
        out.extend(checksum(&out, &record).to_le_bytes());
        out.extend(record);
        out.resize(len, 0);
        out
    }

    /// Reads a hello that is the whole of `bytes`.
    ///
    /// # Errors
    ///
    /// [`HelloError`]: these bytes are no hello, and nothing in them is to be believed.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let len = Self::len_of(bytes)?;
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() else {
            return Err(HelloError::Truncated { need: len - bytes.len() });
        };
        if bytes.len() < len {
            return Err(HelloError::Truncated { need: len - bytes.len() });
        }
        if len < bytes.len() {
            return Err(HelloError::Length { len: u16_at(head, 4) });
        }
        let (record, padding) = rest.split_at(crate::frame::index(u32_at(head, 152)));
        if u32_at(head, 156) != checksum(&head[..PREFIX_LEN], record) {
            return Err(HelloError::Checksum);
        }
        let versions = Versions { min: u16_at(head, 8), max: u16_at(head, 10) };
        if versions.max <= Versions::OURS.max && padding.iter().any(|byte| *byte != 0) {
            return Err(HelloError::Padding);
        }
        Ok(Self {
            kind: HelloKind::from_parts(head[6], u32_at(head, 12))?,
            class: Class::from_byte(head[7]).ok_or(HelloError::Class { byte: head[7] })?,
            versions,
            features: u64_at(head, 16),
            required: u64_at(head, 24),
            cluster: u128_at(head, 32),
            from: NodeId(u64_at(head, 48)),
            to: NodeId(u64_at(head, 56)),
            store: u128_at(head, 64),
            boot: u64_at(head, 80),
            epoch: u64_at(head, 88),
            nonce: u64_at(head, 96),
            echo: u64_at(head, 104),
            from_core: u16_at(head, 112),
            want_core: u16_at(head, 114),
            cores: u16_at(head, 116),
            machine: u16_at(head, 118),
            frame_max: u32_at(head, 120),
            window: u32_at(head, 124),
            table_version: u64_at(head, 128),
            claimed: u64_at(head, 136),
            known: u64_at(head, 144),
            record: NodeRecord::decode(record)?,
        })
    }

    /// Bytes of the whole hello whose first 156 bytes begin `head`; at most [`HELLO_LEN_MAX`].
    ///
    /// # Errors
    ///
    /// [`HelloError::Truncated`]: `head` is shorter. Others: this is no hello, read no further.
    pub fn len_of(head: &[u8]) -> Result<usize, HelloError> {
        let Some((head, _)) = head.split_first_chunk::<PREFIX_LEN>() else {
            return Err(HelloError::Truncated { need: PREFIX_LEN - head.len() });
        };
        if !head.starts_with(&HELLO_MAGIC) {
            return Err(HelloError::Magic);
        }
        let (len, record_len) = (u16_at(head, 4), u32_at(head, 152));
        let record = crate::frame::index(record_len);
        if NodeRecord::LEN_MAX < record {
            return Err(HelloError::RecordLength { len: record_len });
        }
        let whole = (HEAD_LEN + record).next_multiple_of(ALIGN);
        if usize::from(len) == whole { Ok(whole) } else { Err(HelloError::Length { len }) }
    }
}

/// The checksum of a hello.
fn checksum(prefix: &[u8], record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(prefix);
    crc.update(record);
    crc.finalize()
}

/// `N` bytes at `at`.
fn cut<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many bytes were cut")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(cut(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(cut(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(cut(bytes, at))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(cut(bytes, at))
}
