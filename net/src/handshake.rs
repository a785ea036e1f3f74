//! Opening a connection: preamble and hello, there and back, every step bounded in time and bytes.
//!
//! ```text
//! dialer    connect (1 s) | preamble, hello                         | welcome or refuse (3 s)
//! acceptor                | preamble (1 s) -> core | hello (3 s) -> judge -> answer (3 s)
//! ```
//!
//! The dialer sends nothing else before the welcome. A hello is read to its exact end, so what
//! follows it is in the kernel still. Dropping any of these futures leaves a stream that is only
//! good for being closed.

mod error;
mod pending;

use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::pin;
use core::task::Poll;
use std::io::IoSlice;

use bowline_env::{Env, EnvError, Kind, Nanos, Op, Stream};

use crate::hello::{HELLO_MAGIC, PREFIX_LEN};
use crate::{Agreed, HELLO_LEN_MAX, Hello, HelloError, HelloKind, PREAMBLE_LEN, Preamble, judge};

pub use error::{DialError, HandshakeError};
pub use pending::{Pending, PendingGuard};

/// Time to connect.
const CONNECT_LIMIT: Nanos = Nanos::SECOND;
/// Time that a caller has for its preamble.
const PREAMBLE_LIMIT: Nanos = Nanos::SECOND;
/// Time for a hello, or for its answer.
const HELLO_LIMIT: Nanos = Nanos(3 * Nanos::SECOND.0);

/// A connection that both sides agreed to.
#[derive(Debug)]
pub struct Opened<S> {
    /// The connection; the next byte is the first of the first frame.
    pub stream: S,
    /// The other side's welcome.
    pub theirs: Hello,
    /// What the two agreed on.
    pub agreed: Agreed,
    /// Bytes that came with the welcome and stand before those of `stream`. None in clear text,
    /// where a hello is read to its exact end.
    pub rest: Vec<u8>,
}

/// Connects to a node and comes to terms with it: at most 4 s. `own` is sent as a
/// [`HelloKind::Hello`] of clear text; `known_store` is the storage that the node was first seen
/// with.
///
/// # Errors
///
/// [`DialError`]: the connection is closed.
pub async fn dial<E: Env>(
    env: E,
    to: SocketAddr,
    own: Hello,
    known_store: Option<u128>,
) -> Result<Opened<E::Stream>, DialError> {
    own.record.check().map_err(DialError::Hello)?;
    let own = Hello { kind: HelloKind::Hello, echo: 0, ..own };
    let mut stream = env.connect(to, CONNECT_LIMIT).await.map_err(DialError::Env)?;
    let preamble = Preamble { class: own.class, want_core: own.want_core, tls: false };
    let mut opening = preamble.encode().to_vec();
    opening.extend(own.encode());
    let talk = async {
        send(&mut stream, &opening).await?;
        receive(&mut stream).await
    };
    let theirs = within(&env, HELLO_LIMIT, talk).await?;
    if theirs.echo != own.nonce {
        return Err(DialError::Hello(HelloError::Echo));
    }
    if theirs.kind == HelloKind::Hello {
        return Err(DialError::Hello(HelloError::Kind { byte: theirs.kind.byte() }));
    }
    let agreed = judge(&own, &theirs, known_store).map_err(DialError::Refused)?;
    Ok(Opened { stream, theirs, agreed, rest: Vec::new() })
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

/// Reads the hello of an accepted connection to its exact end: at most [`HELLO_LEN_MAX`] bytes and
/// 3 s.
///
/// # Errors
///
/// [`HandshakeError`]: close the connection. Answers are no hellos here.
pub async fn read_hello<E: Env>(env: &E, stream: &mut E::Stream) -> Result<Hello, HandshakeError> {
    let hello = within(env, HELLO_LIMIT, receive(stream)).await?;
    if hello.kind == HelloKind::Hello {
        Ok(hello)
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
    stream: &mut E::Stream,
    own: &Hello,
) -> Result<(), HandshakeError> {
    own.record.check().map_err(HandshakeError::Hello)?;
    within(env, HELLO_LIMIT, send(stream, &own.encode())).await
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
async fn receive<S: Stream>(stream: &mut S) -> Result<Hello, HandshakeError> {
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
async fn fill<S: Stream>(stream: &mut S, into: &mut [u8]) -> Result<(), HandshakeError> {
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

async fn send<S: Stream>(stream: &mut S, mut bytes: &[u8]) -> Result<(), HandshakeError> {
    while !bytes.is_empty() {
        let sent = poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)])).await;
        match sent.map_err(HandshakeError::Env)? {
            0 => return Err(HandshakeError::Env(EnvError::new(Op::Send, Kind::Closed))),
            some => bytes = &bytes[some..],
        }
    }
    Ok(())
}
