//! Where a node is found: fields, each with its length before it.
//!
//! ```text
//! len u8 | bytes    of: node u64, address, client_address, cores u16, streams u16
//! ```
//!
//! Integers are little-endian, addresses printable ASCII. Further fields are of a later build and
//! are passed over.

use bowline_raft::NodeId;

use super::{HelloError, cut};

/// Where a node is found and how its shards are spread, as its peers tell each other and keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Where its peers find it: `host:port`, at most 255 bytes.
    pub address: String,
    /// Where the users of its embedder find it, at most 255 bytes; empty: nowhere else.
    pub client_address: String,
    /// Its cores.
    pub cores: u16,
    /// The streams of its log.
    pub streams: u16,
}

impl NodeRecord {
    /// Bytes of the longest record.
    pub const LEN_MAX: usize = 512;

    /// Whether this record can be sent: the addresses are printable ASCII of at most 255 bytes
    /// each, and the whole is at most [`NodeRecord::LEN_MAX`]. Asked of a node's own record once,
    /// before it starts.
    ///
    /// # Errors
    ///
    /// [`HelloError::Record`]: one address cannot be sent. [`HelloError::RecordLength`]: the two
    /// are too long together.
    pub fn check(&self) -> Result<(), HelloError> {
        for address in [&self.address, &self.client_address] {
            if !is_address(address.as_bytes()) || usize::from(u8::MAX) < address.len() {
                return Err(HelloError::Record);
            }
        }
        let len = self.len();
        if len <= Self::LEN_MAX {
            Ok(())
        } else {
            Err(HelloError::RecordLength { len: u32::try_from(len).unwrap_or(u32::MAX) })
        }
    }

    fn len(&self) -> usize {
        5 + 8 + self.address.len() + self.client_address.len() + 2 + 2
    }

    /// The bytes of a record that [`NodeRecord::check`] accepts.
    pub(super) fn encode(&self) -> Vec<u8> {
        assert_eq!(self.check(), Ok(()), "a record is checked before it is sent");
        let mut out = Vec::with_capacity(self.len());
        let mut field = |bytes: &[u8]| {
            out.push(u8::try_from(bytes.len()).expect("a checked field has at most 255 bytes"));
            out.extend_from_slice(bytes);
        };
        field(&self.node.0.to_le_bytes());
        field(self.address.as_bytes());
        field(self.client_address.as_bytes());
        field(&self.cores.to_le_bytes());
        field(&self.streams.to_le_bytes());
        out
    }

    /// Reads a record that is the whole of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut fields = Fields(bytes);
        let record = Self {
            node: NodeId(u64::from_le_bytes(fields.number()?)),
            address: fields.address()?,
            client_address: fields.address()?,
            cores: u16::from_le_bytes(fields.number()?),
            streams: u16::from_le_bytes(fields.number()?),
        };
        while !fields.0.is_empty() {
            fields.take()?;
        }
        Ok(record)
    }
}

/// What is left of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self) -> Result<&'a [u8], HelloError> {
        let (len, rest) = self.0.split_first().ok_or(HelloError::Record)?;
        let (field, rest) = rest.split_at_checked(usize::from(*len)).ok_or(HelloError::Record)?;
        self.0 = rest;
        Ok(field)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], HelloError> {
        let field = self.take()?;
        if field.len() == N { Ok(cut(field, 0)) } else { Err(HelloError::Record) }
    }

    fn address(&mut self) -> Result<String, HelloError> {
        let field = self.take()?;
        let text = core::str::from_utf8(field).ok().filter(|_| is_address(field));
        text.map(str::to_owned).ok_or(HelloError::Record)
    }
}

/// Whether these can be the bytes of an address: they go into logs as they are.
fn is_address(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_graphic)
}
