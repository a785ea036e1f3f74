//! Whether peers speak TLS, and why it may not come about. Both sides of a connection have to be
//! set up alike: there is no fallback to clear text.

use core::fmt;

use bowline_env::Env;
use bowline_raft::NodeId;

use crate::{HandshakeError, Line};

/// How this node speaks to peers.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Security {
    /// In clear text: the network is trusted.
    #[default]
    Plain,
    /// Over TLS, and with nobody else.
    #[cfg(feature = "tls")]
    Tls(std::sync::Arc<crate::Identity>),
}

impl Security {
    /// Whether peers are spoken to over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Whether the other end of `line` has shown that it is `node`. In clear text everybody is
    /// believed. O(names in its certificate).
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "only TLS looks"))]
    pub fn vouches_for<S>(&self, line: &Line<S>, node: NodeId) -> bool {
        match self {
            Self::Plain => true,
            #[cfg(feature = "tls")]
            Self::Tls(identity) => {
                line.session().is_some_and(|session| session.is_of(&identity.name_of(node)))
            },
        }
    }

    /// The dialing side of what follows a preamble.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "only TLS looks"))]
    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_async, reason = "only TLS waits"))]
    pub(crate) async fn call<E: Env>(
        &self,
        env: &E,
        stream: E::Stream,
        node: NodeId,
    ) -> Result<Line<E::Stream>, HandshakeError> {
        match self {
            Self::Plain => Ok(Line::plain(stream)),
            #[cfg(feature = "tls")]
            Self::Tls(identity) => identity.call(env, stream, node).await.map(Line::tls),
        }
    }

    /// The accepting side of it; `tls` is what the preamble says.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "only TLS looks"))]
    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_async, reason = "only TLS waits"))]
    pub(crate) async fn take<E: Env>(
        &self,
        env: &E,
        stream: E::Stream,
        tls: bool,
    ) -> Result<Line<E::Stream>, HandshakeError> {
        match self {
            Self::Plain if tls => Err(HandshakeError::Tls(TlsError::NotSetUp)),
            Self::Plain => Ok(Line::plain(stream)),
            #[cfg(feature = "tls")]
            Self::Tls(_) if !tls => Err(HandshakeError::Tls(TlsError::Required)),
            #[cfg(feature = "tls")]
            Self::Tls(identity) => identity.take(env, stream).await.map(Line::tls),
        }
    }
}

/// Why two nodes do not come to speak TLS, or stop to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The caller speaks clear text, and this node does not.
    Required,
    /// The caller wants TLS, and this node has none set up.
    NotSetUp,
    /// The other side has no certificate.
    NoCertificate,
    /// Nobody in the own `ca_file` vouches for its certificate.
    Issuer,
    /// Its certificate ended, or a certificate that vouches for it.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is good for another use only.
    Purpose,
    /// Its certificate is of another node.
    Identity,
    /// Its certificate is not fit for use otherwise.
    Certificate,
    /// The other side refuses this one, with an alert of TLS.
    Alert {
        /// Its number.
        number: u8,
    },
    /// The other side closed the connection during the handshake.
    Closed,
    /// More bytes came than a handshake needs.
    Length,
    /// What came is no TLS 1.3, or was changed on its way.
    Protocol,
}

impl TlsError {
    /// Whether it is about the certificate of the other side.
    #[must_use]
    pub fn is_of_certificate(self) -> bool {
        match self {
            Self::NoCertificate
            | Self::Issuer
            | Self::Expired
            | Self::NotYetValid
            | Self::Purpose
            | Self::Identity
            | Self::Certificate => true,
            Self::Required
            | Self::NotSetUp
            | Self::Alert { .. }
            | Self::Closed
            | Self::Length
            | Self::Protocol => false,
        }
    }

    /// Whether it stays until an operator changes something: dial again every 30 s only.
    #[must_use]
    pub fn is_lasting(self) -> bool {
        self.is_of_certificate() || matches!(self, Self::Alert { .. })
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => {
                "the caller speaks clear text and this node only TLS; set [tls] on all nodes"
            },
            Self::NotSetUp => {
                "the caller wants TLS and this node has none; set [tls] on all nodes or on none"
            },
            Self::NoCertificate => "the other side has no certificate; set [tls] there",
            Self::Issuer => {
                "the other side's certificate is not signed by one in tls.ca_file; use one \
                 authority for all nodes"
            },
            Self::Expired => "the other side's certificate has expired; issue a new one",
            Self::NotYetValid => {
                "the other side's certificate is not valid yet; compare the clocks of the nodes"
            },
            Self::Purpose => {
                "the other side's certificate is not for both server and client; issue one that is"
            },
            Self::Identity => {
                "the other side's certificate is of another node; it has to name \
                 node-<id>.<cluster name>"
            },
            Self::Certificate => {
                "the other side's certificate cannot be used; issue one that webpki accepts"
            },
            Self::Alert { number } => {
                return write!(
                    f,
                    "the other side ended TLS with alert {number}; its log says why, mostly that \
                     it does not accept the certificate of this node"
                );
            },
            Self::Closed => {
                "the other side closed the connection before TLS came about; it may speak clear \
                 text, and its log says why"
            },
            Self::Length => "the other side sent more than a handshake of TLS needs",
            Self::Protocol => {
                "what came is no TLS 1.3, or was changed on its way; check address and port"
            },
        })
    }
}

impl core::error::Error for TlsError {}
