//! TLS 1.3 between peers, both sides with certificates: rustls told of bytes, over a stream of the
//! environment. No tickets, no early data, no older version, no fallback.
//!
//! ```text
//! socket -> rustls' record -> decrypted in place -> plaintext -copy-> the lane's aligned buffer
//! slices of the log -encrypted into-> records, at most 64 KiB -> socket
//! ```
//!
//! The certificate of node 3 of cluster `shop` names `node-3.shop` (as a DNS name among its
//! alternative names), not by a wildcard. Its keys come from ring's own generator: a run of the
//! simulator with TLS is not the same twice (`docs/decisions/0019`).

mod identity;
mod session;

pub use identity::{Identity, IdentityError, Pems};
pub(crate) use session::Session;

use rustls::{CertificateError, Error};

use crate::TlsError;

/// What an error of rustls is to us.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls knows many more, and new ones")]
fn tls_error(error: &Error) -> TlsError {
    match error {
        Error::NoCertificatesPresented => TlsError::NoCertificate,
        Error::InvalidCertificate(why) => certificate_error(why),
        Error::AlertReceived(alert) => TlsError::Alert { number: u8::from(*alert) },
        _ => TlsError::Protocol,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls knows many more, and new ones")]
fn certificate_error(error: &CertificateError) -> TlsError {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsError::Issuer,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsError::NotYetValid
        },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsError::Identity
        },
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            TlsError::Purpose
        },
        _ => TlsError::Certificate,
    }
}
