//! Why bytes are no preamble or no hello.

use core::fmt;

/// Why received bytes are no preamble or no hello. The connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelloError {
    /// They end `need` bytes too early.
    Truncated {
        /// Missing bytes, as far as is known.
        need: usize,
    },
    /// Something else speaks here.
    Magic,
    /// The checksum does not match.
    Checksum,
    /// A preamble of another version.
    Version {
        /// What it says.
        byte: u8,
    },
    /// No class of connection.
    Class {
        /// What it says.
        byte: u8,
    },
    /// A kind of hello that is unknown, or not due here.
    Kind {
        /// What it says.
        byte: u8,
    },
    /// Unknown flags of a preamble.
    Flags {
        /// What it says.
        byte: u8,
    },
    /// A refusal for a cause that this build does not know, or a cause where nothing is refused.
    Refusal {
        /// What it says.
        code: u32,
    },
    /// A length that is not the hello's.
    Length {
        /// What it says.
        len: u16,
    },
    /// A record that is too long.
    RecordLength {
        /// What it says.
        len: u32,
    },
    /// The fields of the record are not what they have to be.
    Record,
    /// A byte that has to be zero is not.
    Padding,
    /// An answer to another hello.
    Echo,
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { need } => write!(f, "{need} bytes of a hello are missing"),
            Self::Magic => f.write_str("the other side is no node, or expects TLS"),
            Self::Checksum => f.write_str("the checksum of a hello does not match"),
            Self::Version { byte } => write!(f, "unknown version of a preamble ({byte})"),
            Self::Class { byte } => write!(f, "unknown class of a connection ({byte})"),
            Self::Kind { byte } => write!(f, "a hello of kind {byte} is not due here"),
            Self::Flags { byte } => write!(f, "unknown flags of a preamble ({byte})"),
            Self::Refusal { code } => write!(f, "{code} is no cause to refuse a connection here"),
            Self::Length { len } => write!(f, "{len} is not the length of this hello"),
            Self::RecordLength { len } => write!(f, "{len} bytes are no record of a node"),
            Self::Record => f.write_str("the record of a node has false fields"),
            Self::Padding => f.write_str("a byte that has to be zero is not"),
            Self::Echo => f.write_str("the answer belongs to another hello"),
        }
    }
}

impl core::error::Error for HelloError {}
