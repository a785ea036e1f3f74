//! Opening a connection: preamble and hello, there and back, every step bounded in time and bytes.
//!
//! ```text
//! dialer    connect (1 s) | preamble, (TLS,) hello                     | welcome or refuse (3 s)
//! acceptor                | preamble (1 s) -> core | (TLS,) hello (3 s) -> judge -> answer (3 s)
//! ```
//!
//! The dialer sends nothing else before the welcome: over TLS 1.3 it believes itself connected
//! before the other side has looked at its certificate. A hello is read to its exact end, so what
//! follows it is in the [`Line`] still. Dropping any of these futures leaves a connection that is
//! only good for being closed.

mod error;
mod pending;

use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::pin;
use core::task::Poll;
use std::io::IoSlice;

use bowline_env::{Env, EnvError, Kind, Nanos, Op};

use crate::hello::{HELLO_MAGIC, PREFIX_LEN};
use crate::{
    Agreed, HELLO_LEN_MAX, Hello, HelloError, HelloKind, Line, PREAMBLE_LEN, Pipe, Preamble,
    Refusal, Security, judge,
};

pub use error::{DialError, HandshakeError};
pub use pending::{Pending, PendingGuard};

/// Time to connect.
const CONNECT_LIMIT: Nanos = Nanos::SECOND;
/// Time that a caller has for its preamble.
const PREAMBLE_LIMIT: Nanos = Nanos::SECOND;
/// Time for TLS and a hello, or for its answer.
const HELLO_LIMIT: Nanos = Nanos(3 * Nanos::SECOND.0);

/// A connection that both sides agreed to.
#[derive(Debug)]
pub struct Opened<S> {
    /// The connection; the next byte is the first of the first frame.
    pub line: Line<S>,
    /// The other side's welcome.
    pub theirs: Hello,
    /// What the two agreed on.
    pub agreed: Agreed,
}

/// Connects to a node and comes to terms with it: at most 4 s. `own` is sent as a
/// [`HelloKind::Hello`], over TLS if `security` says so; `known_store` is the storage that the node
/// was first seen with.
///
/// # Errors
///
/// [`DialError`]: the connection is closed.
pub async fn dial<E: Env>(
    env: E,
    to: SocketAddr,
    own: Hello,
    known_store: Option<u128>,
    security: &Security,
) -> Result<Opened<E::Stream>, DialError> {
    own.record.check().map_err(DialError::Hello)?;
    let own = Hello { kind: HelloKind::Hello, echo: 0, ..own };
    let stream = env.connect(to, CONNECT_LIMIT).await.map_err(DialError::Env)?;
    let (line, theirs) = within(&env, HELLO_LIMIT, talk(&env, stream, &own, security)).await?;
    if theirs.echo != own.nonce {
        return Err(DialError::Hello(HelloError::Echo));
    }
    if theirs.kind == HelloKind::Hello {
        return Err(DialError::Hello(HelloError::Kind { byte: theirs.kind.byte() }));
    }
    let meant = (theirs.from, theirs.to, theirs.cluster) == (own.to, own.from, own.cluster);
    if theirs.kind == HelloKind::Refuse(Refusal::Recall) && meant {
        return Err(DialError::Recall { life: theirs.known });
    }
    let agreed = judge(&own, &theirs, known_store).map_err(DialError::Refused)?;
    Ok(Opened { line, theirs, agreed })
}

/// Says `own` and hears the answer.
async fn talk<E: Env>(
    env: &E,
    mut stream: E::Stream,
    own: &Hello,
    security: &Security,
) -> Result<(Line<E::Stream>, Hello), HandshakeError> {
    let tls = security.is_tls();
    let preamble = Preamble { class: own.class, want_core: own.want_core, tls }.encode();
    let mut opening = preamble.to_vec();
    if tls {
        send(&mut stream, &opening).await?;
        opening.clear();
    }
    let mut line = security.call(env, stream, own.to).await?;
    opening.extend(own.encode());
    let answered = match send(&mut line, &opening).await {
        Ok(()) => receive(&mut line).await,
        Err(error) => Err(error),
    };
    match (answered, line.fault()) {
        (Ok(theirs), _) => Ok((line, theirs)),
        // Why the connection broke matters more than how.
        (Err(_), Some(fault)) => Err(HandshakeError::Tls(fault)),
        (Err(error), None) => Err(error),
    }
}

/// Reads the preamble of an accepted connection: 16 bytes, at most 1 s.
///
/// # Errors
///
/// [`HandshakeError`]: close the connection.
pub async fn read_preamble<E: Env>(
    env: &E,
    stream: &mut E::Stream,
) -> Result<Preamble, HandshakeError> {
    let mut bytes = [0; PREAMBLE_LEN];
    within(env, PREAMBLE_LIMIT, fill(stream, &mut bytes)).await?;
    Preamble::decode(&bytes).map_err(HandshakeError::Hello)
}

/// Shakes hands over TLS with an accepted connection, if `security` says so, and reads its hello to
/// its exact end: at most 3 s for both, and [`HELLO_LEN_MAX`] bytes of the hello. Who it is from is
/// for [`Security::vouches_for`] to say.
///
/// # Errors
///
/// [`HandshakeError`]: the connection is closed. The preamble has to want TLS where `security`
/// does. Answers are no hellos here.
pub async fn greet<E: Env>(
    env: &E,
    stream: E::Stream,
    preamble: &Preamble,
    security: &Security,
) -> Result<(Line<E::Stream>, Hello), HandshakeError> {
    let work = async {
        let mut line = security.take(env, stream, preamble.tls).await?;
        let hello = receive(&mut line).await?;
        Ok((line, hello))
    };
    let (line, hello) = within(env, HELLO_LIMIT, work).await?;
    if hello.kind == HelloKind::Hello {
        Ok((line, hello))
    } else {
        Err(HandshakeError::Hello(HelloError::Kind { byte: hello.kind.byte() }))
    }
}

/// Sends the answer to a hello, whose nonce `own` echoes: at most 3 s. After a refusal the
/// connection is to be closed.
///
/// # Errors
///
/// [`HandshakeError`]: close the connection; it is unknown how much of the answer arrived.
pub async fn answer<E: Env>(
    env: &E,
    line: &mut Line<E::Stream>,
    own: &Hello,
) -> Result<(), HandshakeError> {
    own.record.check().map_err(HandshakeError::Hello)?;
    let work = async {
        send(line, &own.encode()).await?;
        if own.kind == HelloKind::Welcome {
            return Ok(());
        }
        // Nothing follows a refusal.
        poll_fn(|cx| line.poll_close(cx)).await.map_err(HandshakeError::Env)
    };
    within(env, HELLO_LIMIT, work).await
}

/// Runs `work` for at most `limit`; what is done in time counts, also if time is up by then.
async fn within<E: Env, T>(
    env: &E,
    limit: Nanos,
    work: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    let mut work = pin!(work);
    let mut end = pin!(env.sleep_until(env.now().after(limit)));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => end.as_mut().poll(cx).map(|()| Err(HandshakeError::TimedOut)),
    })
    .await
}

/// Reads a hello, and stops at the first bytes that cannot be part of one.
async fn receive<P: Pipe>(stream: &mut P) -> Result<Hello, HandshakeError> {
    let mut bytes = [0; HELLO_LEN_MAX];
    let (magic, after) = bytes.split_at_mut(HELLO_MAGIC.len());
    fill(stream, magic).await?;
    if *magic != HELLO_MAGIC {
        return Err(HandshakeError::Hello(HelloError::Magic));
    }
    fill(stream, &mut after[..PREFIX_LEN - HELLO_MAGIC.len()]).await?;
    let len = Hello::len_of(&bytes[..PREFIX_LEN]).map_err(HandshakeError::Hello)?;
    fill(stream, &mut bytes[PREFIX_LEN..len]).await?;
    Hello::decode(&bytes[..len]).map_err(HandshakeError::Hello)
}

/// Reads as many bytes as `into` has, and none beyond.
async fn fill<P: Pipe>(stream: &mut P, into: &mut [u8]) -> Result<(), HandshakeError> {
    let mut at = 0;
    while at < into.len() {
        let read = poll_fn(|cx| stream.poll_read(cx, &mut into[at..])).await;
        match read.map_err(HandshakeError::Env)? {
            0 => {
                let need = into.len() - at;
                return Err(HandshakeError::Hello(HelloError::Truncated { need }));
            },
            more => at += more,
        }
    }
    Ok(())
}

async fn send<P: Pipe>(stream: &mut P, mut bytes: &[u8]) -> Result<(), HandshakeError> {
    while !bytes.is_empty() {
        let sent = poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)])).await;
        match sent.map_err(HandshakeError::Env)? {
            0 => return Err(HandshakeError::Env(EnvError::new(Op::Send, Kind::Closed))),
            some => bytes = &bytes[some..],
        }
    }
    Ok(())
}
