//! The system's error numbers as kinds. The one place where a number is looked at.

use rustix::io::Errno;

use crate::{EnvError, Kind, Name, Op};

/// Why a blocking job failed: the system, or a bound of ours.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Os(Errno),
    Kind(Kind),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl Fault {
    /// This failure of `op`, on `name` if there is one.
    pub(super) fn of(self, op: Op, name: Option<&Name>) -> EnvError {
        let error = match self {
            Self::Os(errno) => os(op, errno.raw_os_error()),
            Self::Kind(kind) => EnvError::new(op, kind),
        };
        match name {
            Some(name) => error.named(name),
            None => error,
        }
    }
}

/// The failure of `op` with the system's number `errno`.
pub(super) fn os(op: Op, errno: i32) -> EnvError {
    EnvError::new(op, kind(Errno::from_raw_os_error(errno))).os(errno)
}

/// The failure of `op` as the standard library tells it.
pub(super) fn io(op: Op, error: &std::io::Error) -> EnvError {
    match error.raw_os_error() {
        Some(errno) => os(op, errno),
        None if error.kind() == std::io::ErrorKind::TimedOut => EnvError::new(op, Kind::TimedOut),
        None => EnvError::new(op, Kind::Io),
    }
}

/// The failure of `op` as glommio tells it.
pub(super) fn glommio<T>(op: Op, error: &::glommio::GlommioError<T>) -> EnvError {
    use ::glommio::{BuilderErrorKind, GlommioError};
    if let Some(errno) = error.raw_os_error() {
        return os(op, errno);
    }
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => {
            io(op, source)
        },
        GlommioError::BuilderError(BuilderErrorKind::NonExistentCpus { .. }) => {
            EnvError::new(op, Kind::NotFound)
        },
        GlommioError::TimedOut(_) => EnvError::new(op, Kind::TimedOut),
        GlommioError::Closed(_) => EnvError::new(op, Kind::Closed),
        GlommioError::ExecutorError(_)
        | GlommioError::BuilderError(_)
        | GlommioError::CanNotBeClosed(..)
        | GlommioError::WouldBlock(_)
        | GlommioError::ReactorError(_) => EnvError::new(op, Kind::Io),
    }
}

fn kind(errno: Errno) -> Kind {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Kind::NotFound,
        Errno::EXIST | Errno::NOTEMPTY | Errno::ADDRINUSE => Kind::Exists,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Kind::NoSpace,
        Errno::ROFS | Errno::ACCESS | Errno::PERM => Kind::ReadOnly,
        Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::LOOP | Errno::ISDIR => {
            Kind::Unsupported
        },
        Errno::NOMEM | Errno::NOBUFS => Kind::NoMemory,
        Errno::MFILE | Errno::NFILE | Errno::AGAIN => Kind::Limit,
        Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED => Kind::Reset,
        Errno::CONNREFUSED | Errno::ADDRNOTAVAIL | Errno::HOSTUNREACH | Errno::NETUNREACH => {
            Kind::Refused
        },
        Errno::TIMEDOUT | Errno::CANCELED => Kind::TimedOut,
        Errno::NOTCONN | Errno::BADF => Kind::Closed,
        _ => Kind::Io,
    }
}
