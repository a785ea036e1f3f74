//! The files of `[tls]`: read, held against each other, and made into what the cores speak with.

use std::sync::Arc;

use bowline_env::Millis;
use bowline_net::Security;

use crate::config::Config;
use crate::{Error, Finding};

/// How this node speaks to peers. Reads the files of `[tls]`, if they are named.
///
/// # Errors
///
/// 0704: a file cannot be read, or others may read the key, or the files do not fit this node.
pub(super) fn security(config: &Config) -> Result<Security, Error> {
    if config.tls.cert_file.as_os_str().is_empty() {
        return Ok(Security::Plain);
    }
    files::security(config).map_err(|finding| Error::Net(Arc::from(finding)))
}

/// Whether peers would accept this node at the wall time `now`.
///
/// # Errors
///
/// 0704: they would not.
pub(super) fn check(security: &Security, now: Millis) -> Result<(), Error> {
    let refused = files::check(security, now);
    refused.map_or(Ok(()), |finding| Err(Error::Net(Arc::new(finding))))
}

#[cfg(feature = "tls")]
mod files {
    //! Files as a build with TLS looks at them.

    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use bowline_net::{Identity, IdentityError, Pems, TlsError};
    use bowline_raft::NodeId;

    use super::{Arc, Config, Finding, Millis, Security};
    use crate::Code;

    /// Bytes of a file at most.
    const LEN_MAX: u64 = 1 << 20;
    /// What nobody but its owner, and a group that reads, may do with a key.
    const NOT_ALLOWED: u32 = 0o037;

    pub(super) fn security(config: &Config) -> Result<Security, Box<Finding>> {
        let tls = &config.tls;
        let certificate = read("tls.cert_file", &tls.cert_file, false)?;
        let key = read("tls.key_file", &tls.key_file, true)?;
        let authorities = read("tls.ca_file", &tls.ca_file, false)?;
        let pems = Pems { certificate: &certificate, key: &key, authorities: &authorities };
        let node = NodeId(config.node.id);
        let identity = Identity::new(pems, node, &config.cluster.name);
        match identity {
            Ok(identity) => Ok(Security::Tls(Arc::new(identity))),
            Err(error) => {
                let finding = misfit(error).fact("tls.cert_file", tls.cert_file.display());
                Err(Box::new(finding))
            },
        }
    }

    pub(super) fn check(security: &Security, now: Millis) -> Option<Finding> {
        match security {
            Security::Tls(identity) => identity.check(now).err().map(misfit),
            Security::Plain | _ => None,
        }
    }

    /// What the files say together is wrong.
    fn misfit(error: IdentityError) -> Finding {
        let finding = Finding::error(Code::TLS_FILES, "the files of [tls] do not fit");
        let finding = finding.cause(error.to_string());
        match error {
            IdentityError::Certificate | IdentityError::Mismatch => {
                finding.fix("name the certificate in tls.cert_file and its key in tls.key_file")
            },
            IdentityError::Key => {
                finding.fix("use an unencrypted key in PEM: PKCS#8, SEC1 (P-256, P-384) or RSA")
            },
            IdentityError::Authorities => finding.fix("name the authorities in tls.ca_file"),
            IdentityError::ClusterName => {
                finding.fix("found the cluster under a cluster.name of letters, digits and '-'")
            },
            IdentityError::Refused(TlsError::Identity) => {
                finding.fix("issue a certificate with the DNS name node-<node.id>.<cluster.name>")
            },
            IdentityError::Refused(TlsError::NotYetValid) => {
                finding.fix("set the clock, or issue a certificate that is valid now")
            },
            IdentityError::Refused(_) | _ => finding
                .fix("issue a certificate for server and client by an authority of tls.ca_file"),
        }
    }

    /// Reads one file, whole.
    #[expect(
        clippy::disallowed_methods,
        reason = "before any core runs, outside the data directory"
    )]
    fn read(key: &'static str, path: &Path, secret: bool) -> Result<Vec<u8>, Box<Finding>> {
        let fault = |cause: String| {
            let finding = Finding::error(Code::TLS_FILES, format!("{key} cannot be used"));
            Box::new(finding.cause(cause).fact(key, path.display()))
        };
        let unreadable = |error: std::io::Error| fault(format!("{}: {error}", path.display()));
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode();
        if secret && mode & NOT_ALLOWED != 0 {
            let cause = format!("others than its owner may use {} ({mode:o})", path.display());
            let fix = format!("chmod 600 {}", path.display());
            return Err(Box::new(fault(cause).fix(fix)));
        }
        let mut bytes = Vec::new();
        file.take(LEN_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LEN_MAX {
            return Err(fault(format!("{} is longer than 1 MiB", path.display())));
        }
        Ok(bytes)
    }
}

#[cfg(not(feature = "tls"))]
mod files {
    //! A build without TLS. Its configuration does not pass with `[tls]` set.

    use super::{Config, Finding, Millis, Security};
    use crate::Code;

    pub(super) fn security(_: &Config) -> Result<Security, Box<Finding>> {
        Err(Box::new(Finding::error(Code::TLS_FILES, "this build of bowline has no TLS")))
    }

    pub(super) fn check(_: &Security, _: Millis) -> Option<Finding> {
        None
    }
}
