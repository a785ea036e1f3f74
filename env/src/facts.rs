//! What a process may use of its machine, as plain values: the preflight judges them.

use core::fmt;

/// Whether io_uring can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UringState {
    /// It can, with every operation that the runtime needs.
    Ready,
    /// `io_uring_setup` was refused.
    Denied {
        /// The system's number (EPERM or another).
        os: i32,
        /// `kernel.io_uring_disabled`, if it can be read.
        sysctl: Option<u32>,
        /// The `Seccomp:` line of `/proc/self/status`.
        seccomp: Option<u32>,
    },
    /// The kernel or sandbox does not have it (ENOSYS).
    Missing,
    /// The kernel is too old: it lacks these operations.
    Old {
        /// Names of the missing operations.
        missing: Vec<&'static str>,
    },
}

/// A file system, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileSystem {
    /// ext2, ext3, ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// In memory: gone after a reboot.
    Tmpfs,
    /// In memory, no direct I/O.
    Ramfs,
    /// Copy-on-write.
    Btrfs,
    /// Copy-on-write.
    Zfs,
    /// Copy-on-write.
    Bcachefs,
    /// Over the network.
    Nfs,
    /// A container's layer.
    Overlay,
    /// Another one, by its magic number.
    Other(u64),
}

/// The data directory and its device.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, judged one by one")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirFacts {
    /// Its path, for messages.
    pub path: String,
    /// It exists.
    pub exists: bool,
    /// It holds nothing but what an unfinished founding leaves ([`DirFacts::is_of_founding`]), or
    /// does not exist yet.
    pub empty: bool,
    /// It holds a `NODE` file.
    pub founded: bool,
    /// A file can be written in it (or in its parent, if it does not exist); else why not (the
    /// system's number).
    pub writable: Result<(), i32>,
    /// It exists and whoever is neither its owner nor of its group may write to it. Then nothing is
    /// written into it here either: `writable` and what direct I/O needs are not tried.
    pub open_to_others: bool,
    /// Its file system.
    pub file_system: FileSystem,
    /// A file in it can be opened for direct I/O.
    pub direct_io: bool,
    /// Alignment that direct I/O needs, in bytes.
    pub align: u32,
    /// Free bytes.
    pub free: u64,
}

impl DirFacts {
    /// Whether a directory is founded with a file of this name in it: a node that was killed while
    /// it was made has left it.
    pub fn is_of_founding(name: &str) -> bool {
        name == "LOCK"
            || name == "runs"
            || name.starts_with("stream-")
            || name.starts_with('.')
            || name.split_once('.').is_some_and(|(_, end)| end == "tmp")
    }
}

/// What this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// CPUs it may run on: affinity and cpuset.
    pub cpus: Vec<u32>,
    /// The cgroup's CPU quota in percent of one CPU; none: unlimited.
    pub cpu_quota_percent: Option<u32>,
    /// Memory it may use: the cgroup's limit, or the machine's.
    pub memory: u64,
    /// Bytes it may lock; none: unlimited.
    pub memlock: Option<u64>,
    /// Open files: soft and hard limit.
    pub open_files: (u64, u64),
    /// The kernel's release, as `uname -r` says.
    pub kernel: String,
    /// io_uring.
    pub io_uring: UringState,
    /// The data directory.
    pub dir: DirFacts,
    /// CPUs that take the data disk's interrupts, as far as can be seen.
    pub disk_irq_cpus: Vec<u32>,
}

/// Why the data directory could not be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another process holds it.
    InUse {
        /// Its process id and command, if they can be seen.
        holder: Option<(u32, String)>,
    },
    /// It cannot be created or written.
    NotWritable {
        /// The system's number.
        os: i32,
    },
    /// The path is no directory.
    NotADirectory,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { holder: Some((pid, command)) } => {
                write!(f, "in use by process {pid} ({command})")
            },
            Self::InUse { holder: None } => f.write_str("in use by another process"),
            Self::NotWritable { os } => write!(f, "cannot be written (os error {os})"),
            Self::NotADirectory => f.write_str("not a directory"),
        }
    }
}

impl core::error::Error for ClaimError {}
