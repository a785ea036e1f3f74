//! One error for every call of the seam: which operation, on which name, of which kind.

use core::fmt;

use crate::Name;

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Starting a core or a thread.
    Spawn,
    /// Opening a file.
    Open,
    /// Creating a file or directory.
    Create,
    /// Writing.
    Write,
    /// Reading.
    Read,
    /// Syncing a file or directory.
    Sync,
    /// Closing.
    Close,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Listing a directory.
    List,
    /// Asking for free space.
    Space,
    /// Mapping a file.
    Map,
    /// Taking a buffer.
    Buffer,
    /// Running a closure on the helper.
    Offload,
    /// Listening or accepting.
    Listen,
    /// Looking up a host's addresses.
    Resolve,
    /// Connecting.
    Connect,
    /// Sending.
    Send,
    /// Receiving.
    Receive,
}

/// What kind of failure it was; the same cause gives the same kind in both worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// No such file.
    NotFound,
    /// The file exists, or the address is taken.
    Exists,
    /// The disk or quota is full.
    NoSpace,
    /// The file system or file may not be written.
    ReadOnly,
    /// The device failed.
    Io,
    /// Fewer bytes than asked were written.
    Short,
    /// The kernel, file system or sandbox does not offer it.
    Unsupported,
    /// Memory is at its bound.
    NoMemory,
    /// The peer reset the connection.
    Reset,
    /// The peer refused the connection, or it is no address of this machine.
    Refused,
    /// It took too long.
    TimedOut,
    /// The handle is closed or its core is gone.
    Closed,
    /// A write was dropped in flight: the handle cannot be trusted.
    Poisoned,
    /// A queue or size bound.
    Limit,
}

/// Why a call to the machine failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvError {
    /// The operation.
    pub op: Op,
    /// The kind, for decisions.
    pub kind: Kind,
    /// The system's number, for people; no code matches on it.
    pub os: Option<i32>,
    /// The file, if one was named.
    pub name: Option<Name>,
}

const _: () = assert!(size_of::<EnvError>() <= 32, "errors stay small");

impl EnvError {
    /// An error without a name or system number.
    #[must_use]
    pub const fn new(op: Op, kind: Kind) -> Self {
        Self { op, kind, os: None, name: None }
    }

    /// The same with the file's name.
    #[must_use]
    pub fn named(mut self, name: &Name) -> Self {
        self.name = Some(name.clone());
        self
    }

    /// The same with the system's number.
    #[must_use]
    pub const fn os(mut self, os: i32) -> Self {
        self.os = Some(os);
        self
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::Exists => "it exists already",
            Self::NoSpace => "no space left",
            Self::ReadOnly => "it may not be written",
            Self::Io => "the device failed",
            Self::Short => "fewer bytes were written than asked",
            Self::Unsupported => "not supported here",
            Self::NoMemory => "memory is at its bound",
            Self::Reset => "the connection was reset",
            Self::Refused => "refused",
            Self::TimedOut => "it took too long",
            Self::Closed => "the handle is closed",
            Self::Poisoned => "a write was abandoned in flight",
            Self::Limit => "a limit was reached",
        })
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.op)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        write!(f, ": {}", self.kind)?;
        if let Some(os) = self.os {
            write!(f, " (os error {os})")?;
        }
        Ok(())
    }
}

impl core::error::Error for EnvError {}
