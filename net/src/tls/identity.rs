//! Who this node is to its peers, and whom it believes: its certificate, its key, its authorities.

use core::fmt;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use bowline_env::{Env, Millis};
use bowline_raft::NodeId;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::session::{Session, names};
use super::{certificate_error, tls_error};
use crate::{HandshakeError, TlsError};

/// The contents of the three files, as PEM.
#[derive(Clone, Copy)]
pub struct Pems<'a> {
    /// The node's certificate, and behind it those between it and an authority.
    pub certificate: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
    /// The authorities that peers' certificates have to be signed by.
    pub authorities: &'a [u8],
}

/// Keys are for nobody's eyes.
impl fmt::Debug for Pems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pems").finish_non_exhaustive()
    }
}

/// Why a node cannot show who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no certificate, or one that cannot be read.
    Certificate,
    /// There is no private key, or one of a kind that is not known.
    Key,
    /// There is no authority, or one that cannot be read.
    Authorities,
    /// The key is not that of the certificate.
    Mismatch,
    /// A name with this node's id and the cluster's name is no DNS name.
    ClusterName,
    /// The own certificate would be refused by peers, and why.
    Refused(TlsError),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "the certificate file has no certificate in PEM",
            Self::Key => "the key file has no private key in PEM of a kind that is known",
            Self::Authorities => "the file of authorities has no certificate in PEM",
            Self::Mismatch => "the key is not that of the certificate",
            Self::ClusterName => "the cluster's name is no DNS name, which certificates need",
            Self::Refused(TlsError::Issuer) => {
                "the own certificate is not signed by one of the authorities"
            },
            Self::Refused(TlsError::Expired) => "the own certificate has expired",
            Self::Refused(TlsError::NotYetValid) => "the own certificate is not valid yet",
            Self::Refused(TlsError::Purpose) => {
                "the own certificate is not for both server and client"
            },
            Self::Refused(TlsError::Identity) => {
                "the own certificate does not name this node, or only by a wildcard"
            },
            Self::Refused(_) => "peers would not accept the own certificate",
        })
    }
}

impl core::error::Error for IdentityError {}

/// The wall clock of the environment, as certificates are judged by it.
#[derive(Debug, Default)]
struct Wall(AtomicU64);

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = Duration::from_millis(self.0.load(Ordering::Relaxed));
        Some(UnixTime::since_unix_epoch(millis))
    }
}

/// What this node shows its peers and holds them against. Shared by the cores of the node.
pub struct Identity {
    node: NodeId,
    cluster: Box<str>,
    chain: Vec<CertificateDer<'static>>,
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    wall: Arc<Wall>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, cluster) = (&self.node, &self.cluster);
        f.debug_struct("Identity")
            .field("node", node)
            .field("cluster", cluster)
            .finish_non_exhaustive()
    }
}

/// How node `node` of a cluster is called in its certificate.
fn name_of(node: NodeId, cluster: &str) -> String {
    format!("node-{}.{cluster}", node.0)
}

impl Identity {
    /// The identity of node `node` of the cluster of this name, out of the contents of its files.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]: with these files the node has none.
    pub fn new(pems: Pems<'_>, node: NodeId, cluster: &str) -> Result<Self, IdentityError> {
        let own = name_of(node, cluster);
        if ServerName::try_from(&*own).is_err() {
            return Err(IdentityError::ClusterName);
        }
        let chain = certificates(pems.certificate).ok_or(IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(pems.key).map_err(|_no_key| IdentityError::Key)?;
        if !names(&chain[0], &own) {
            return Err(IdentityError::Refused(TlsError::Identity));
        }
        let roots = authorities(pems.authorities).ok_or(IdentityError::Authorities)?;
        let provider = Arc::new(ring::default_provider());
        let wall = Arc::new(Wall::default());
        let servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let servers = servers.build().map_err(|_none| IdentityError::Authorities)?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let clients = clients.build().map_err(|_none| IdentityError::Authorities)?;
        let parts = Parts { provider, wall: Arc::clone(&wall), chain: chain.clone(), key };
        let server = parts.server(&clients)?;
        let client = parts.client(&servers)?;
        let cluster = cluster.into();
        Ok(Self { node, cluster, chain, servers, clients, server, client, wall })
    }

    /// Whether peers with the same authorities would accept this node at the wall time `now`.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Refused`]: they would not.
    ///
    /// # Panics
    ///
    /// If the own name is no server name: it was checked when this was made.
    pub fn check(&self, now: Millis) -> Result<(), IdentityError> {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
        let (own, between) = self.chain.split_first().expect("a chain has a certificate");
        let refused = |error: rustls::Error| IdentityError::Refused(tls_error(&error));
        let name = name_of(self.node, &self.cluster);
        let name = ServerName::try_from(name).expect("the own name was checked");
        self.servers.verify_server_cert(own, between, &name, &[], now).map_err(refused)?;
        self.clients.verify_client_cert(own, between, now).map_err(refused)?;
        Ok(())
    }

    /// How a node of the own cluster is called in its certificate.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        name_of(node, &self.cluster)
    }

    /// The dialing side's handshake: the other side has to be `node`.
    pub(crate) async fn call<E: Env>(
        &self,
        env: &E,
        stream: E::Stream,
        node: NodeId,
    ) -> Result<Box<Session<E::Stream>>, HandshakeError> {
        self.note_time(env);
        let name = self.name_of(node);
        let server = ServerName::try_from(name.clone());
        let server = server.map_err(|_no_name| HandshakeError::Tls(TlsError::Identity))?;
        let tls = ClientConnection::new(Arc::clone(&self.client), server);
        let tls = tls.map_err(|error| HandshakeError::Tls(tls_error(&error)))?;
        let mut session = Session::new(stream, tls);
        poll_fn(|cx| session.poll_shake(cx)).await?;
        if session.is_of(&name) {
            Ok(session)
        } else {
            Err(HandshakeError::Tls(TlsError::Identity))
        }
    }

    /// The accepting side's handshake: who the other side is, its hello has to say.
    pub(crate) async fn take<E: Env>(
        &self,
        env: &E,
        stream: E::Stream,
    ) -> Result<Box<Session<E::Stream>>, HandshakeError> {
        self.note_time(env);
        let tls = ServerConnection::new(Arc::clone(&self.server));
        let tls = tls.map_err(|error| HandshakeError::Tls(tls_error(&error)))?;
        let mut session = Session::new(stream, tls);
        poll_fn(|cx| session.poll_shake(cx)).await?;
        Ok(session)
    }

    fn note_time<E: Env>(&self, env: &E) {
        self.wall.0.store(env.wall().0, Ordering::Relaxed);
    }
}

/// The certificates in a file; none if there is none or one cannot be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty())
}

fn authorities(pem: &[u8]) -> Option<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).ok()?;
    }
    Some(Arc::new(roots))
}

/// What the configurations of both directions are made of.
struct Parts {
    provider: Arc<CryptoProvider>,
    wall: Arc<Wall>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Parts {
    fn server(
        &self,
        clients: &Arc<dyn ClientCertVerifier>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let wall: Arc<Wall> = Arc::clone(&self.wall);
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.provider), wall);
        let builder = builder.with_protocol_versions(&[&TLS13]).expect("ring has TLS 1.3");
        let mut config = builder
            .with_client_cert_verifier(Arc::clone(clients))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| own_error(&error))?;
        // A ticket that nobody reads could make a close reset the connection.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    fn client(
        &self,
        servers: &Arc<WebPkiServerVerifier>,
    ) -> Result<Arc<ClientConfig>, IdentityError> {
        let wall: Arc<Wall> = Arc::clone(&self.wall);
        let builder = ClientConfig::builder_with_details(Arc::clone(&self.provider), wall);
        let builder = builder.with_protocol_versions(&[&TLS13]).expect("ring has TLS 1.3");
        let mut config = builder
            .with_webpki_verifier(Arc::clone(servers))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| own_error(&error))?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// Why the own certificate and key make no configuration.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls knows many more, and new ones")]
fn own_error(error: &rustls::Error) -> IdentityError {
    match error {
        rustls::Error::InconsistentKeys(_) => IdentityError::Mismatch,
        rustls::Error::InvalidCertificate(why) => IdentityError::Refused(certificate_error(why)),
        _ => IdentityError::Key,
    }
}
