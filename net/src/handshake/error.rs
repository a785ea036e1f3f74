//! Why a connection was not opened.

use core::fmt;

use bowline_env::EnvError;

use crate::{HelloError, Refusal, TlsError};

/// Why an accepted connection came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection failed.
    Env(EnvError),
    /// What came is no preamble or no hello; or the own record cannot be sent.
    Hello(HelloError),
    /// TLS did not come about, or only one side wants it.
    Tls(TlsError),
    /// The other side took too long.
    TimedOut,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(error) => write!(f, "the connection failed: {error}"),
            Self::Hello(error) => write!(f, "the caller does not speak as a node does: {error}"),
            Self::Tls(error) => error.fmt(f),
            Self::TimedOut => f.write_str("the caller said nothing, or not enough, in time"),
        }
    }
}

impl core::error::Error for HandshakeError {}

/// Why a dial came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialError {
    /// No connection, or it failed.
    Env(EnvError),
    /// What answered is no hello, or not to this one; or the own record cannot be sent.
    Hello(HelloError),
    /// One of the two sides refuses the other. [`Refusal::is_lasting`] says how soon to dial again.
    Refused(Refusal),
    /// The peer met this node in another life than the hello claims: dial again with that as
    /// [`crate::Hello::claimed`]. A node that does not remember it runs on an old copy of its
    /// storage.
    Recall {
        /// The life.
        life: u64,
    },
    /// TLS did not come about. [`TlsError::is_lasting`] says how soon to dial again.
    Tls(TlsError),
    /// Connected, but not answered in time.
    TimedOut,
}

impl DialError {
    /// Whether it stays until an operator changes something: dial again every 30 s only.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_lasting(),
            Self::Tls(error) => error.is_lasting(),
            Self::Env(_) | Self::Hello(_) | Self::Recall { .. } | Self::TimedOut => false,
        }
    }
}

impl From<HandshakeError> for DialError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Env(error) => Self::Env(error),
            HandshakeError::Hello(error) => Self::Hello(error),
            HandshakeError::Tls(error) => Self::Tls(error),
            HandshakeError::TimedOut => Self::TimedOut,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(error) => write!(
                f,
                "the peer cannot be reached ({error}); check that it runs and that its address \
                 and the firewalls between are right"
            ),
            Self::Hello(error) => write!(
                f,
                "what answers is no node of this build ({error}); check the peer's address, port \
                 and TLS settings"
            ),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Recall { .. } => write!(f, "refused: {}", Refusal::Recall),
            Self::Tls(error) => error.fmt(f),
            Self::TimedOut => f.write_str(
                "the peer took the connection but did not answer; check that the port is its peer \
                 port and that the node is not stuck",
            ),
        }
    }
}

impl core::error::Error for DialError {}
