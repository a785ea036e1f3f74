#![expect(unsafe_code, reason = "sockets of ours become sockets of the runtime")]
//! TCP: the system call is tried at once; the runtime waits when it would block.

use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use ::glommio::net::{TcpListener, TcpStream};
use futures_io::{AsyncRead, AsyncWrite};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, sendmsg, shutdown, sockopt};

use super::errno;
use crate::{EnvError, Kind, Listener, Moved, Nanos, Op, Stream};

/// Slices that one system call gathers (`IOV_MAX`).
const PARTS_MAX: usize = 1024;
/// Silence after which a connection is probed, and between probes.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Milliseconds that sent bytes may stay unanswered.
const USER_TIMEOUT_MS: u32 = 15_000;

/// A connected socket of one core.
#[derive(Debug)]
pub struct GlommioStream {
    socket: TcpStream,
    peer: SocketAddr,
}

/// A socket between two cores.
struct Loose {
    fd: OwnedFd,
    peer: SocketAddr,
}

fn os(op: Op, errno: Errno) -> EnvError {
    errno::os(op, errno.raw_os_error())
}

fn wire(socket: TcpStream, op: Op) -> Result<GlommioStream, EnvError> {
    let failed = |error: ::glommio::GlommioError<()>| errno::glommio(op, &error);
    let peer = socket.peer_addr().map_err(failed)?;
    let stream = GlommioStream { socket, peer };
    let set = || {
        let fd = stream.fd();
        sockopt::set_tcp_nodelay(fd, true)?;
        sockopt::set_socket_keepalive(fd, true)?;
        sockopt::set_tcp_keepidle(fd, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(fd, KEEPALIVE)?;
        sockopt::set_tcp_user_timeout(fd, USER_TIMEOUT_MS)
    };
    set().map_err(|errno| os(op, errno))?;
    Ok(stream)
}

impl GlommioStream {
    /// Connects to `to` within `limit`.
    pub(super) async fn connect(to: SocketAddr, limit: Nanos) -> Result<Self, EnvError> {
        if limit.0 == 0 {
            return Err(EnvError::new(Op::Connect, Kind::TimedOut));
        }
        match TcpStream::connect_timeout(to, Duration::from_nanos(limit.0)).await {
            Ok(socket) => wire(socket, Op::Connect),
            Err(error) => Err(errno::glommio(Op::Connect, &error)),
        }
    }

    /// Takes a socket that [`Stream::detach`] gave.
    pub(super) fn adopt(moved: Moved) -> Result<Self, EnvError> {
        let closed = EnvError::new(Op::Receive, Kind::Closed);
        let Ok(loose) = moved.into_inner().downcast::<Option<Loose>>() else { return Err(closed) };
        let Some(Loose { fd, peer }) = *loose else { return Err(closed) };
        // SAFETY: the descriptor is an open socket, owned here and given away in this call.
        let socket = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        Ok(Self { socket, peer })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the runtime's socket owns the descriptor and lives as long as `self` is lent.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

impl Stream for GlommioStream {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, EnvError>> {
        assert!(!into.is_empty(), "there is room to read into: 0 is the end");
        let read = Pin::new(&mut self.socket).poll_read(cx, into);
        read.map_err(|error| errno::io(Op::Receive, &error))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, EnvError>> {
        let parts = &parts[..parts.len().min(PARTS_MAX)];
        let Some(first) = parts.iter().find(|part| !part.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(self.fd(), parts, &mut SendAncillaryBuffer::default(), flags) {
            Ok(sent) => Poll::Ready(Ok(sent)),
            Err(Errno::AGAIN | Errno::INTR) => {
                let sent = Pin::new(&mut self.socket).poll_write(cx, first);
                sent.map_err(|error| errno::io(Op::Send, &error))
            },
            Err(errno) => Poll::Ready(Err(os(Op::Send, errno))),
        }
    }

    fn shutdown_write(&mut self) -> Result<(), EnvError> {
        shutdown(self.fd(), Shutdown::Write).map_err(|errno| os(Op::Send, errno))
    }

    fn detach(self) -> Moved {
        // The runtime does not give its descriptor back; a second one keeps the socket open.
        let fd = self.fd().try_clone_to_owned().ok();
        Moved::new(fd.map(|fd| Loose { fd, peer: self.peer }))
    }

    fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// A listening socket of one core.
#[derive(Debug)]
pub struct GlommioListener {
    socket: TcpListener,
    local: SocketAddr,
}

impl GlommioListener {
    /// Binds `at` without `SO_REUSEPORT`, which the runtime sets and which hides a clash.
    pub(super) fn bind(at: SocketAddr) -> Result<Self, EnvError> {
        let failed = |error: std::io::Error| errno::io(Op::Listen, &error);
        let socket = std::net::TcpListener::bind(at).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        // SAFETY: the descriptor is an open socket, owned here and given away in this call.
        let socket = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(Self { socket, local })
    }
}

impl Listener for GlommioListener {
    type Stream = GlommioStream;

    fn local(&self) -> SocketAddr {
        self.local
    }

    async fn accept(&self) -> Result<GlommioStream, EnvError> {
        loop {
            match self.socket.accept().await {
                // A connection that broke while it waited here is nobody's failure.
                Ok(socket) => match wire(socket, Op::Listen) {
                    Ok(stream) => return Ok(stream),
                    Err(_broken) => {},
                },
                Err(error) => match errno::glommio(Op::Listen, &error) {
                    EnvError { kind: Kind::Reset, .. } => {},
                    failed => return Err(failed),
                },
            }
        }
    }
}
