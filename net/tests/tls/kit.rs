//! What these tests share: identities, two nodes of a simulated network, bytes through a pipe.

use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bowline_env::sim::{Profile, SimEnv, SimStream, World};
use bowline_env::{CoreNo, Env, EnvError, Listener, Nanos};
use bowline_net::{
    HandshakeError, Hello, Identity, IdentityError, Line, Pems, Pipe, Security, greet,
    read_preamble,
};
use bowline_raft::NodeId;
use rcgen::{CertificateParams, date_time_ymd};

use crate::certs::{Authority, Papers};
use crate::shared::dialer;

pub(crate) const MINUTE: Nanos = Nanos(60 * Nanos::SECOND.0);
const PORT: u16 = 7_500;

pub(crate) fn node(id: u64) -> SocketAddr {
    SocketAddr::new(World::addr(id), PORT)
}

pub(crate) fn name(id: u64) -> String {
    format!("node-{id}.shop")
}

/// Node `id` of the cluster `shop` with these papers.
pub(crate) fn identity(
    authority: &Authority,
    papers: &Papers,
    id: u64,
) -> Result<Identity, IdentityError> {
    let pems = Pems {
        certificate: papers.certificate.as_bytes(),
        key: papers.key.as_bytes(),
        authorities: authority.pem().as_bytes(),
    };
    Identity::new(pems, NodeId(id), "shop")
}

/// Node `id` with these papers, believing in `authority`.
pub(crate) fn with(authority: &Authority, papers: &Papers, id: u64) -> Security {
    Security::Tls(Arc::new(identity(authority, papers, id).unwrap()))
}

/// Node `id` as it should be.
pub(crate) fn good(authority: &Authority, id: u64) -> Security {
    with(authority, &authority.issue(&name(id)), id)
}

pub(crate) async fn write<P: Pipe>(pipe: &mut P, mut bytes: &[u8]) -> Result<(), EnvError> {
    while !bytes.is_empty() {
        let sent = poll_fn(|cx| pipe.poll_write(cx, &[IoSlice::new(bytes)])).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Reads until there are `len` bytes, or the end.
pub(crate) async fn read<P: Pipe>(pipe: &mut P, len: usize) -> Result<Vec<u8>, EnvError> {
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        match poll_fn(|cx| pipe.poll_read(cx, &mut bytes[at..])).await? {
            0 => break,
            more => at += more,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}

pub(crate) async fn sleep(env: &SimEnv, span: Nanos) {
    env.sleep_until(env.now().after(span)).await;
}

pub(crate) type Accepted = Result<(Line<SimStream>, Hello), HandshakeError>;

/// How the acceptor of the engine goes about a connection.
pub(crate) async fn accept(env: &SimEnv, mut stream: SimStream, security: &Security) -> Accepted {
    let preamble = read_preamble(env, &mut stream).await?;
    greet(env, stream, &preamble, security).await
}

/// Node 2 accepts the connection of `caller` at node 1: what comes of it, when, and which node of
/// 1 and 3 its certificate vouches for.
pub(crate) fn accepted_from<F, T>(
    world: &World,
    security: Security,
    caller: F,
) -> (Result<[bool; 2], HandshakeError>, Nanos)
where
    F: FnOnce(SimEnv, SimStream) -> T + 'static,
    T: Future<Output = ()> + 'static,
{
    drop(world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        sleep(&env, Nanos::MILLI).await;
        let stream = env.connect(node(2), Nanos::SECOND).await.unwrap();
        caller(env, stream).await;
    }));
    let accepted = world.run_on(2, MINUTE, async move |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let stream = listener.accept().await.unwrap();
        let begin = env.now();
        let accepted = accept(&env, stream, &security).await;
        let took = env.now().since(begin);
        let vouched = accepted.map(|(line, hello)| {
            assert_eq!(hello, dialer());
            [1, 3].map(|id| security.vouches_for(&line, NodeId(id)))
        });
        (vouched, took)
    });
    accepted.unwrap()
}

pub(crate) fn calm() -> World {
    World::new(1, Profile::calm())
}

/// Carries bytes both ways until one side is gone. `look` sees what the caller sends, and may
/// change it.
pub(crate) async fn pass_on(
    caller: &mut SimStream,
    called: &mut SimStream,
    mut look: impl FnMut(&mut [u8]),
) {
    let (mut there, mut back) = ([0; 1 << 10], [0; 1 << 10]);
    loop {
        let came = poll_fn(|cx| {
            if let Poll::Ready(bytes) = Pipe::poll_read(caller, cx, &mut there) {
                return Poll::Ready((true, bytes.unwrap_or(0)));
            }
            Pipe::poll_read(called, cx, &mut back).map(|bytes| (false, bytes.unwrap_or(0)))
        });
        match came.await {
            (_, 0) => return,
            (true, bytes) => {
                look(&mut there[..bytes]);
                write(called, &there[..bytes]).await.unwrap();
            },
            (false, bytes) => write(caller, &back[..bytes]).await.unwrap(),
        }
    }
}

/// For [`Authority::issue_with`]: valid for a time that is over.
pub(crate) fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(1990, 1, 1);
    params.not_after = date_time_ymd(2000, 1, 1);
}

/// For [`Authority::issue_with`]: valid for a time that is far off.
pub(crate) fn not_yet(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2200, 1, 1);
    params.not_after = date_time_ymd(2300, 1, 1);
}
