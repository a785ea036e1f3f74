//! Why a connection to or from a peer came to nothing, as it is counted.

use bowline_net::{HandshakeError, Refusal, TlsError};

/// Why a connection to or from a peer came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFault {
    /// It spoke clear text to a node that speaks TLS only.
    ClearText,
    /// It wanted TLS of a node that has none.
    TlsNotSetUp,
    /// TLS did not come about: no TLS 1.3, too many bytes, ended early or by the other side.
    Handshake,
    /// It had no certificate, or one that is not believed.
    Certificate,
    /// Its certificate is of another node.
    Identity,
    /// It did not speak as a node does.
    Hello,
    /// It took too long.
    TimedOut,
    /// The connection broke.
    Broken,
    /// Its hello was understood and refused.
    Refused,
    /// Its log was founded with another bound of an entry.
    FrameCap,
}

impl PeerFault {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 10] = [
        Self::ClearText,
        Self::TlsNotSetUp,
        Self::Handshake,
        Self::Certificate,
        Self::Identity,
        Self::Hello,
        Self::TimedOut,
        Self::Broken,
        Self::Refused,
        Self::FrameCap,
    ];

    /// Its label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClearText => "clear_text",
            Self::TlsNotSetUp => "tls_not_set_up",
            Self::Handshake => "handshake",
            Self::Certificate => "certificate",
            Self::Identity => "identity",
            Self::Hello => "hello",
            Self::TimedOut => "timed_out",
            Self::Broken => "broken",
            Self::Refused => "refused",
            Self::FrameCap => "frame_cap",
        }
    }

    /// Its place in [`PeerFault::ALL`].
    ///
    /// # Panics
    ///
    /// If it is missing there: a defect.
    pub fn place(self) -> usize {
        Self::ALL.iter().position(|other| *other == self).expect("every fault is in ALL")
    }

    pub(crate) fn of(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::Env(_) => Self::Broken,
            HandshakeError::Tls(error) => Self::of_tls(*error),
            HandshakeError::TimedOut => Self::TimedOut,
            HandshakeError::Hello(_) | _ => Self::Hello,
        }
    }

    pub(crate) fn of_tls(error: TlsError) -> Self {
        match error {
            TlsError::Required => Self::ClearText,
            TlsError::NotSetUp => Self::TlsNotSetUp,
            TlsError::Identity => Self::Identity,
            TlsError::NoCertificate
            | TlsError::Issuer
            | TlsError::Expired
            | TlsError::NotYetValid
            | TlsError::Purpose
            | TlsError::Certificate => Self::Certificate,
            TlsError::Alert { .. }
            | TlsError::Closed
            | TlsError::Length
            | TlsError::Protocol
            | _ => Self::Handshake,
        }
    }

    pub(crate) fn of_refusal(refusal: Refusal) -> Self {
        if refusal == Refusal::WrongIdentity {
            Self::Identity
        } else if refusal == Refusal::FrameCap {
            Self::FrameCap
        } else {
            Self::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_counted_in_a_place_of_its_own() {
        for (place, fault) in PeerFault::ALL.into_iter().enumerate() {
            assert_eq!(fault.place(), place, "{}", fault.name());
        }
        assert_eq!(PeerFault::of_tls(TlsError::Required), PeerFault::ClearText);
        assert_eq!(PeerFault::of_tls(TlsError::Expired), PeerFault::Certificate);
        assert_eq!(PeerFault::of_tls(TlsError::Alert { number: 42 }), PeerFault::Handshake);
        assert_eq!(PeerFault::of_refusal(Refusal::WrongIdentity), PeerFault::Identity);
        assert_eq!(PeerFault::of_refusal(Refusal::FrameCap), PeerFault::FrameCap);
        assert_eq!(PeerFault::of_refusal(Refusal::Duplicate), PeerFault::Refused);
    }
}
