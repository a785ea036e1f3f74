//! Files that make an identity, and files that do not.

use bowline_env::Millis;
use bowline_net::{Identity, IdentityError, Pems, TlsError};
use bowline_raft::NodeId;
use rcgen::ExtendedKeyUsagePurpose;

use crate::certs::{Authority, Papers};
use crate::kit::{expired, identity, name, not_yet};

/// A day of 2026.
const TODAY: Millis = Millis(1_790_000_000_000);

fn check(authority: &Authority, papers: &Papers) -> Result<(), IdentityError> {
    identity(authority, papers, 1)?.check(TODAY)
}

#[test]
fn good_papers_make_an_identity_that_shows_no_key() {
    let authority = Authority::new("ours");
    let papers = authority.issue(&name(1));
    assert_eq!(check(&authority, &papers), Ok(()));
    let identity = identity(&authority, &papers, 1).unwrap();
    assert_eq!(format!("{identity:?}"), "Identity { node: NodeId(1), cluster: \"shop\", .. }");
    let upper = authority.issue("NODE-1.Shop");
    assert_eq!(check(&authority, &upper), Ok(()), "names are of no case");
}

#[test]
fn files_that_do_not_fit_are_told_apart() {
    let authority = Authority::new("ours");
    let good = authority.issue(&name(1));
    let other = authority.issue(&name(1));
    let swapped = Papers { key: other.key, ..good.clone() };
    assert_eq!(check(&authority, &swapped), Err(IdentityError::Mismatch));
    let new = |certificate: &str, key: &str, authorities: &str, cluster: &str| {
        let (certificate, key) = (certificate.as_bytes(), key.as_bytes());
        let pems = Pems { certificate, key, authorities: authorities.as_bytes() };
        Identity::new(pems, NodeId(1), cluster).map(|_| ()).unwrap_err()
    };
    let ca = authority.pem();
    let Papers { certificate, key } = &good;
    assert_eq!(new("", key, ca, "shop"), IdentityError::Certificate);
    assert_eq!(new(key, key, ca, "shop"), IdentityError::Certificate);
    assert_eq!(new(certificate, "", ca, "shop"), IdentityError::Key);
    assert_eq!(new(certificate, certificate, ca, "shop"), IdentityError::Key);
    assert_eq!(new(certificate, key, "", "shop"), IdentityError::Authorities);
    assert_eq!(new(certificate, key, key, "shop"), IdentityError::Authorities);
    assert_eq!(new(certificate, key, ca, "sh op"), IdentityError::ClusterName);
    assert_eq!(new(certificate, key, ca, &"x".repeat(64)), IdentityError::ClusterName);
    let named = |why| IdentityError::Refused(why);
    assert_eq!(new(certificate, key, ca, "shops"), named(TlsError::Identity));
    let half = &certificate[..certificate.len() / 2];
    assert_eq!(new(half, key, ca, "shop"), IdentityError::Certificate);
    let mut rotten = pem_body(certificate);
    rotten.truncate(rotten.len() / 2);
    let rotten = format!("-----BEGIN CERTIFICATE-----\n{rotten}\n-----END CERTIFICATE-----\n");
    assert!(matches!(new(&rotten, key, ca, "shop"), IdentityError::Refused(_)));
}

/// The base64 of a PEM.
fn pem_body(pem: &str) -> String {
    let lines: Vec<_> = pem.lines().filter(|line| !line.starts_with("--")).collect();
    let body = lines.concat();
    // Whole groups of four, before and after it is cut.
    body[..body.len() / 8 * 8].to_owned()
}

/// What peers would find in the handshake is found at the start.
#[test]
fn papers_that_peers_would_refuse_are_refused_at_home() {
    let authority = Authority::new("ours");
    let refused = |papers: &Papers| match check(&authority, papers) {
        Err(IdentityError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&Authority::new("theirs").issue(&name(1))), TlsError::Issuer);
    assert_eq!(refused(&Authority::new("ours").issue(&name(1))), TlsError::Issuer, "its name only");
    assert_eq!(refused(&authority.issue_with(&name(1), expired)), TlsError::Expired);
    assert_eq!(refused(&authority.issue_with(&name(1), not_yet)), TlsError::NotYetValid);
    assert_eq!(refused(&authority.issue(&name(2))), TlsError::Identity);
    assert_eq!(refused(&authority.issue("*.shop")), TlsError::Identity, "a wildcard is everybody");
    let server_only = authority.issue_with(&name(1), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_eq!(refused(&server_only), TlsError::Purpose);
    let client_only = authority.issue_with(&name(1), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(refused(&client_only), TlsError::Purpose);
    let any = authority.issue_with(&name(1), |params| params.extended_key_usages.clear());
    assert_eq!(check(&authority, &any), Ok(()), "for every use");
}
