//! One connection over TLS: bytes of the stream in and out of rustls, all of it bounded.
//!
//! * T1 at most 64 KiB of encrypted bytes wait: nothing is encrypted while some do.
//! * T2 bytes count as written once all that they became is in the kernel, so whoever writes waits
//!   as long as it would without TLS.
//! * T3 of an unknown caller at most 16 KiB are read.
//! * T4 only writing writes: what a received record asks for leaves with the next bytes.

use core::fmt;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice, Read, Write};

use bowline_env::{EnvError, Kind, Op, Stream};
use rustls::Connection;
use rustls::pki_types::ServerName;
use webpki::EndEntityCert;

use super::tls_error;
use crate::{HandshakeError, TlsError};

/// Encrypted bytes that wait.
const WAITING_MAX: usize = 64 << 10;
/// Bytes that the other side may send until the handshake is over: its certificates and some
/// hundred bytes beside them.
const SHAKE_MAX: usize = 16 << 10;

/// A stream and the state of TLS over it.
pub(crate) struct Session<S> {
    stream: S,
    tls: Connection,
    /// Bytes of the caller that are encrypted and not yet told as written (T2).
    taken: usize,
    /// Bytes that came before the handshake was over (T3).
    shaken: usize,
    /// The end was said.
    closing: bool,
    fault: Option<TlsError>,
}

impl<S> fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("fault", &self.fault).finish_non_exhaustive()
    }
}

impl<S> Session<S> {
    pub(super) fn new(stream: S, tls: impl Into<Connection>) -> Box<Self> {
        let mut tls = tls.into();
        tls.set_buffer_limit(Some(WAITING_MAX));
        Box::new(Self { stream, tls, taken: 0, shaken: 0, closing: false, fault: None })
    }

    /// Why TLS ended the connection, if it did.
    pub(crate) fn fault(&self) -> Option<TlsError> {
        self.fault
    }

    /// Whether the other side's certificate names `name` itself; a wildcard that covers it stands
    /// for many nodes.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        let certificates = self.tls.peer_certificates().unwrap_or_default();
        certificates.first().is_some_and(|certificate| names(certificate, name))
    }
}

/// Whether a certificate names `name`, and not by a wildcard.
pub(super) fn names(certificate: &rustls::pki_types::CertificateDer<'_>, name: &str) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
    let Ok(server) = ServerName::try_from(name) else { return false };
    certificate.verify_is_valid_for_subject_name(&server).is_ok()
        && certificate.valid_dns_names().any(|its| its.eq_ignore_ascii_case(name))
}

impl<S: Stream> Session<S> {
    /// Shakes hands. The other side's certificate is held against the own `ca_file` then; a dialer
    /// has held it against the name too.
    pub(super) fn poll_shake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        loop {
            ready!(self.poll_flush(cx)).map_err(HandshakeError::Env)?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if SHAKE_MAX <= self.shaken {
                return Poll::Ready(Err(HandshakeError::Tls(TlsError::Length)));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(HandshakeError::Tls(TlsError::Closed))),
                Ok(bytes) => self.shaken += bytes,
                Err(Broken::Stream(error)) => {
                    return Poll::Ready(Err(HandshakeError::Env(error)));
                },
                Err(Broken::Tls(error)) => return Poll::Ready(Err(HandshakeError::Tls(error))),
            }
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, EnvError>> {
        loop {
            match self.tls.reader().read(into) {
                Ok(bytes) => return Poll::Ready(Ok(bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {},
                // The end came, and was not announced.
                Err(_cut) => return Poll::Ready(Err(EnvError::new(Op::Receive, Kind::Reset))),
            }
            if let Err(broken) = ready!(self.poll_fill(cx)) {
                return Poll::Ready(Err(match broken {
                    Broken::Stream(error) => error,
                    Broken::Tls(_) => EnvError::new(Op::Receive, Kind::Io),
                }));
            }
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if self.taken != 0 {
                return Poll::Ready(Ok(core::mem::take(&mut self.taken)));
            }
            match self.tls.writer().write_vectored(parts) {
                Ok(0) => return Poll::Ready(Ok(0)),
                Ok(bytes) => self.taken = bytes,
                Err(_broken) => return Poll::Ready(Err(EnvError::new(Op::Send, Kind::Io))),
            }
        }
    }

    /// Says that nothing more is sent.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EnvError>> {
        if !core::mem::replace(&mut self.closing, true) {
            self.tls.send_close_notify();
        }
        self.poll_flush(cx)
    }

    /// Gives the stream every encrypted byte that waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EnvError>> {
        while self.tls.wants_write() {
            let mut socket = Socket { stream: &mut self.stream, cx, failed: None };
            match self.tls.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(EnvError::new(Op::Send, Kind::Closed))),
                Ok(_) => {},
                Err(error) => {
                    return socket.outcome(&error, Op::Send).map(Err);
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads some bytes of the stream and decrypts what is whole; 0: the stream ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        let mut socket = Socket { stream: &mut self.stream, cx, failed: None };
        let bytes = match self.tls.read_tls(&mut socket) {
            Ok(bytes) => bytes,
            Err(error) => {
                return socket.outcome(&error, Op::Receive).map(|error| Err(Broken::Stream(error)));
            },
        };
        match self.tls.process_new_packets() {
            Ok(_) => Poll::Ready(Ok(bytes)),
            Err(error) => {
                let fault = tls_error(&error);
                self.fault = Some(fault);
                // The alert tells the other side why; it is not waited for.
                match self.poll_flush(cx) {
                    Poll::Pending | Poll::Ready(Ok(()) | Err(_)) => {},
                }
                Poll::Ready(Err(Broken::Tls(fault)))
            },
        }
    }
}

/// Why no more bytes come.
enum Broken {
    Stream(EnvError),
    Tls(TlsError),
}

/// The stream as rustls reads and writes it. The error of the stream is kept: an [`io::Error`]
/// would lose it.
struct Socket<'a, 'b, S> {
    stream: &'a mut S,
    cx: &'a mut Context<'b>,
    failed: Option<EnvError>,
}

impl<S> Socket<'_, '_, S> {
    /// What an error of rustls says of the stream.
    fn outcome(self, error: &io::Error, op: Op) -> Poll<EnvError> {
        match self.failed {
            Some(failed) => Poll::Ready(failed),
            None if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            // A record that never ends.
            None => Poll::Ready(EnvError::new(op, Kind::Io)),
        }
    }

    fn told(&mut self, done: Poll<Result<usize, EnvError>>) -> io::Result<usize> {
        match done {
            Poll::Ready(Ok(bytes)) => Ok(bytes),
            Poll::Ready(Err(error)) => {
                self.failed = Some(error);
                Err(io::ErrorKind::Other.into())
            },
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: Stream> Read for Socket<'_, '_, S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.poll_read(self.cx, into);
        self.told(read)
    }
}

impl<S: Stream> Write for Socket<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = self.stream.poll_write(self.cx, parts);
        self.told(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
