//! What a lane's bytes travel through: a stream as it is, or TLS over one.

use core::task::{Context, Poll};
use std::io::IoSlice;

use bowline_env::{EnvError, Stream};

use crate::TlsError;
#[cfg(feature = "tls")]
use crate::tls::Session;

/// Bytes both ways: what a lane needs of its connection. Every [`Stream`] is one.
pub trait Pipe {
    /// Reads what is there into `into`; 0 is the end.
    ///
    /// # Errors
    ///
    /// Those of [`Stream::poll_read`]; over TLS also [`bowline_env::Kind::Reset`] for an end that
    /// was not announced, and [`bowline_env::Kind::Io`] for bytes that are no record of the
    /// connection.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8])
    -> Poll<Result<usize, EnvError>>;

    /// Takes some of the bytes of `parts`; `Ready` says how many, and that the kernel has them.
    /// After `Pending` the next call has to begin with the same bytes: some of them may be
    /// encrypted already.
    ///
    /// # Errors
    ///
    /// Those of [`Stream::poll_write`].
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>>;
}

impl<S: Stream> Pipe for S {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, EnvError>> {
        Stream::poll_read(self, cx, into)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>> {
        Stream::poll_write(self, cx, parts)
    }
}

/// One connection to a peer. In clear text it adds nothing to its stream: bytes go straight from
/// the socket into the lane's buffer. TLS adds one copy each way, and at most 17 KiB of received
/// and 64 KiB of encrypted bytes that wait.
#[derive(Debug)]
pub struct Line<S>(Inner<S>);

#[derive(Debug)]
enum Inner<S> {
    Plain(S),
    #[cfg(feature = "tls")]
    Tls(Box<Session<S>>),
}

impl<S> Line<S> {
    /// A connection in clear text.
    #[must_use]
    pub fn plain(stream: S) -> Self {
        Self(Inner::Plain(stream))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(session: Box<Session<S>>) -> Self {
        Self(Inner::Tls(session))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn session(&self) -> Option<&Session<S>> {
        match &self.0 {
            Inner::Plain(_) => None,
            Inner::Tls(session) => Some(session),
        }
    }

    /// Why TLS ended the connection, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<TlsError> {
        match &self.0 {
            Inner::Plain(_) => None,
            #[cfg(feature = "tls")]
            Inner::Tls(session) => session.fault(),
        }
    }
}

impl<S: Stream> Line<S> {
    /// Says that nothing more is sent: over TLS the other side can tell that this is the end, and
    /// not a cut. In clear text there is nothing to be said. Nothing may be written afterwards.
    ///
    /// # Errors
    ///
    /// Those of [`Stream::poll_write`].
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, clippy::needless_pass_by_ref_mut, reason = "TLS writes")
    )]
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EnvError>> {
        match &mut self.0 {
            Inner::Plain(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "tls")]
            Inner::Tls(session) => session.poll_close(cx),
        }
    }
}

impl<S: Stream> Pipe for Line<S> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, EnvError>> {
        match &mut self.0 {
            Inner::Plain(stream) => Stream::poll_read(stream, cx, into),
            #[cfg(feature = "tls")]
            Inner::Tls(session) => session.poll_read(cx, into),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>> {
        match &mut self.0 {
            Inner::Plain(stream) => Stream::poll_write(stream, cx, parts),
            #[cfg(feature = "tls")]
            Inner::Tls(session) => session.poll_write(cx, parts),
        }
    }
}
