//! Every code with its meaning, cause and fix: what `explain`, the findings and the reference page
//! are made from.

use core::fmt;

use super::Code;

/// One code of [`ErrorTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRow {
    /// The code.
    pub code: Code,
    /// What happened, in a phrase.
    pub what: &'static str,
    /// Why it happens.
    pub cause: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

impl fmt::Display for ErrorRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  cause: {}\n  fix:   {}", self.code, self.what, self.cause, self.fix)
    }
}

/// All codes, ascending.
#[derive(Clone, Copy, Debug)]
pub struct ErrorTable;

impl ErrorTable {
    /// Every row, by number.
    pub fn rows() -> &'static [ErrorRow] {
        ROWS
    }

    /// The row of a code. None: this build does not know it.
    pub fn find(code: Code) -> Option<&'static ErrorRow> {
        let place = ROWS.binary_search_by_key(&code, |row| row.code).ok()?;
        ROWS.get(place)
    }

    pub(crate) fn row(code: Code) -> &'static ErrorRow {
        Self::find(code).expect("every code that is made has a row: every_code_has_cause_and_fix")
    }
}

macro_rules! rows {
    ($(
        $name:ident = $number:literal: $what:literal, cause: $cause:literal, fix: $fix:literal;
    )*) => {
        #[expect(clippy::doc_markdown, reason = "the texts are shown on terminals too")]
        impl Code {
            $(#[doc = $what] pub const $name: Self = Self::new($number);)*
        }

        const ROWS: &[ErrorRow] = &[
            $(ErrorRow { code: Code::$name, what: $what, cause: $cause, fix: $fix }),*
        ];
    };
}

rows! {
    URING_DENIED = 101: "io_uring is not permitted in this process",
        cause: "the kernel refuses io_uring_setup: a container's seccomp profile, or the sysctl \
                kernel.io_uring_disabled",
        fix: "docker run --security-opt seccomp=bowline-seccomp.json; or sysctl \
              kernel.io_uring_disabled=0";
    URING_MISSING = 102: "this kernel or sandbox has no io_uring",
        cause: "io_uring_setup answered ENOSYS: a kernel built without it, or a sandbox such as \
                gVisor",
        fix: "run on Linux 5.8 or later, outside a sandbox that replaces the kernel";
    KERNEL_OLD = 103: "the kernel is too old",
        cause: "io_uring lacks operations that the runtime needs",
        fix: "run on Linux 5.8 or later; 6.1 or later is advised";
    MEMLOCK = 104: "the locked-memory limit is too low",
        cause: "each core locks 512 KiB for its rings and RLIMIT_MEMLOCK does not allow it",
        fix: "ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; docker run --ulimit memlock=-1";
    UNREGISTERED = 105: "a core runs without registered buffers",
        cause: "the locked-memory limit leaves no room for a core's I/O buffers",
        fix: "raise RLIMIT_MEMLOCK: ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; docker \
              run --ulimit memlock=-1";
    CPUS = 106: "the configured CPUs are not all allowed",
        cause: "cores.cpus or cores.count asks for CPUs outside this process's affinity",
        fix: "name allowed CPUs in cores.cpus, or leave it empty";
    PINNING = 107: "pinning a core to its CPU was refused",
        cause: "the CPU left the process's cpuset between start and pinning",
        fix: "check the cgroup's cpuset and start again";
    FILE_SYSTEM = 108: "the data directory's file system cannot keep the promise of durability",
        cause: "its data is lost at a reboot, is copied on each write, or is shared by a network",
        fix: "put node.data_dir on ext4 or xfs; for a copy-on-write file system wal.allow_cow = \
              true allows it";
    DIRECT_IO = 109: "the data directory does not support O_DIRECT",
        cause: "the file system refuses to open a file for direct I/O",
        fix: "put node.data_dir on ext4 or xfs, or set wal.direct_io = \"off\" in development";
    CORE_PANIC = 110: "a core could not be started",
        cause: "its thread panicked, or the runtime refused to start on it",
        fix: "read the text that follows the code; free memory, threads or locked memory";
    OPEN_FILES = 111: "the open-file limit is too low",
        cause: "the hard limit of open files is below what logs, runs and connections need",
        fix: "ulimit -Hn 65536; systemd: LimitNOFILE=65536; docker run --ulimit nofile=65536";
    DIR_IN_USE = 201: "the data directory is in use",
        cause: "another process holds its LOCK file",
        fix: "stop the other process, or give this one a node.data_dir of its own";
    DIR_UNUSABLE = 202: "the data directory cannot be used",
        cause: "it cannot be written, is no directory, or holds other files",
        fix: "make it writable for this user, or name an empty directory in node.data_dir";
    WRONG_MACHINE = 203: "the data directory belongs to another state machine",
        cause: "it was written by a state machine of another name or version",
        fix: "open it with the state machine that wrote it, or use another node.data_dir";
    FORMAT_NEW = 204: "the data directory's format is newer than this build",
        cause: "a later version of bowline wrote it",
        fix: "run the later version; there is no way back";
    STORE_REPLACED = 205: "the storage of a node was replaced",
        cause: "peers know this node id with another store: an empty disk under an old id could \
                vote twice",
        fix: "remove the node from the cluster and add it again under a new id";
    FOREIGN_PEER = 206: "a peer belongs to another cluster",
        cause: "its cluster id differs from this directory's",
        fix: "correct cluster.peers";
    FOUNDED_OTHERWISE = 207: "the data directory was founded with other settings",
        cause: "shards, streams, wal.frame_cap and the node id are fixed when a directory is \
                founded",
        fix: "set the values it was founded with, or use another node.data_dir";
    NODE_DAMAGED = 208: "the NODE file is damaged or missing",
        cause: "it is missing beside a log with entries, or its checksum does not match: a fault \
                of the disk or a stray write",
        fix: "in a cluster remove the node and add it under a new id with an empty directory; \
              alone restore a backup; nothing in the directory was changed";
    OLD_COPY = 209: "the data directory is an old copy",
        cause: "a peer met a life of this node that the directory does not know: a backup, a clone \
                or a snapshot was put back, and votes and entries may be missing from it",
        fix: "remove the node from the cluster and add it under a new id with an empty directory, \
              or put the latest directory back";
    DIR_OPEN = 210: "others may write to the data directory",
        cause: "its mode lets everybody write: whoever can put files there can change what is \
                stored",
        fix: "chmod o-w, or name a directory in it, which is made for one user";
    CONFIG_SYNTAX = 301: "the configuration is not valid TOML",
        cause: "the file or variable cannot be read as TOML",
        fix: "correct the line that is shown";
    CONFIG_KEY = 302: "unknown configuration key",
        cause: "no section has a key of this name; it may be misspelt",
        fix: "correct the key, or remove it; config print lists all keys";
    CONFIG_VALUE = 303: "a configuration value is not acceptable",
        cause: "the value has the wrong type, lacks its unit, or is out of range",
        fix: "give a value as the message says; sizes and times carry a unit: \"64MiB\", \"5ms\"";
    CONFIG_CONTRADICTION = 304: "configuration values contradict each other",
        cause: "two keys exclude each other, or one needs another",
        fix: "change one of the keys that the message names";
    CONFIG_VARIABLE = 305: "an environment variable is no configuration key",
        cause: "variables that begin with BOWLINE_ name a key as BOWLINE_<SECTION>__<KEY>",
        fix: "correct the variable, or unset it";
    CONFIG_UNREADABLE = 306: "the configuration file cannot be read",
        cause: "the path does not exist, is not a file, or may not be read",
        fix: "correct the path, or unset BOWLINE_CONFIG and CONFIG_PATH";
    TOO_LARGE = 401: "a key, value or entry is too large",
        cause: "keys have at most 2,048 bytes; an entry fits into wal.frame_cap",
        fix: "split the value, or store it elsewhere and keep a reference; nothing was queued";
    CROSS_SLOT = 402: "the keys lie in different slots",
        cause: "one entry touches the keys of one slot; a shard's client takes its keys only",
        fix: "give the keys a common {tag}, or send them one by one";
    ON_CORE = 403: "a blocking call on a core",
        cause: "wait() on a core's thread would stop the core that must answer it",
        fix: "await the operation instead of waiting for it";
    SESSION_EXPIRED = 404: "the session has expired",
        cause: "it was evicted; the call was not executed",
        fix: "read back what is there, then open a new session";
    INVALID = 405: "an argument is not valid",
        cause: "the call's argument is outside what the operation accepts",
        fix: "correct the argument; nothing was queued";
    NOT_SUPPORTED = 406: "not an operation of this state machine",
        cause: "the engine runs another state machine than the one this client speaks to",
        fix: "use client().typed::<M>() for the state machine that the engine was started with";
    REPLY_GONE = 407: "the call was applied earlier and its reply is gone",
        cause: "replies over 4 KiB are not kept for repeats",
        fix: "read back the result";
    COMPACTED = 408: "the watch revision is compacted",
        cause: "the events since that revision are no longer held",
        fix: "scan the keys, then watch from the revision of the scan";
    WATCH_LIMIT = 409: "too many watchers",
        cause: "a core has room for 10,000 watchers",
        fix: "watch a common prefix, or end watchers that are not needed";
    NOT_A_NUMBER = 410: "the value is not a number",
        cause: "increment needs a value that is a decimal 64-bit integer; nothing was changed",
        fix: "put a number first, or use another key";
    OVERFLOW = 411: "the number would overflow",
        cause: "the result lies outside a 64-bit integer; nothing was changed",
        fix: "use a smaller step, or put a smaller number first";
    GUARD_FAILED = 412: "a guard of the batch did not hold",
        cause: "a key was not as the batch expected; nothing was written",
        fix: "read the keys again and send a batch that fits them";
    BUSY = 501: "busy",
        cause: "a budget of queued bytes is spent; nothing was appended",
        fix: "wait for the hint, then try again";
    NO_LEADER = 502: "the shard has no leader",
        cause: "a majority is unreachable, or an election took longer than limits.park",
        fix: "see which members are up; the operation can be repeated";
    NOT_LEADER = 503: "this node does not lead the shard",
        cause: "another member leads it; a write is not forwarded",
        fix: "send the operation to the address in the error";
    TIMEOUT = 504: "the deadline has passed",
        cause: "the operation did not finish in time; once appended it may still be applied",
        fix: "read back before writing again, or raise limits.op_timeout";
    STOPPED = 505: "the engine is stopped",
        cause: "stop() was called, the last handle was dropped, or a core failed",
        fix: "start the engine again; after a failure see the cause";
    NOT_READY = 506: "not every shard is ready",
        cause: "recovery or an election has not finished within the time given",
        fix: "wait longer; the error names shards and why each is not ready";
    MEMBERSHIP = 507: "the membership change is refused",
        cause: "one is in flight, the member is behind, or the quorum would be lost",
        fix: "wait for the running change or the member, then repeat";
    REMOVED = 508: "this node is no member of the shard any more",
        cause: "it was removed; its copy is not kept up to date, and its id is not used again",
        fix: "use the other members, or start a node under a new id and add that";
    VERSION_NOT_AGREED = 509: "the command is of a later version than all members have",
        cause: "an upgrade is under way: the shard's members agree on a version of the state \
                machine once every one of them runs it; nothing was queued",
        fix: "start the later version on every member, or send commands of the version before";
    LOG_WRITE = 601: "a log write failed",
        cause: "the disk failed a write or a sync; the stream is closed to further writes and the \
                write is not repeated",
        fix: "replace the disk; read back before writing again";
    DISK_FULL = 602: "the disk is full",
        cause: "free space is below the reserve that is kept for compaction",
        fix: "free space; the node goes on by itself";
    LOG_DAMAGED = 603: "a log record is damaged",
        cause: "a record's checksum does not match: a fault of the disk",
        fix: "with peers it is fetched again; alone restore a backup";
    RUN_DAMAGED = 604: "a state file is damaged",
        cause: "a page's checksum does not match: a fault of the disk",
        fix: "with peers it is fetched again; alone restore a backup";
    APPLY_HALTED = 605: "the state machine halted the shard",
        cause: "apply panicked, or met a command of a later version, on every replica alike; the \
                entry is not skipped",
        fix: "correct the state machine and roll it out; the shard goes on with that entry";
    ADDRESS_IN_USE = 701: "the address is in use",
        cause: "another process listens there",
        fix: "stop it, or set another address in listen.peer";
    CANNOT_BIND = 702: "the address cannot be bound",
        cause: "it is not an address of this machine, or the port needs a privilege",
        fix: "set an address of this machine in listen.peer";
    OPEN_ADDRESS = 703: "a public address without authentication",
        cause: "an address other than loopback needs TLS or a password",
        fix: "set [tls], or security.insecure = true on a closed network";
    TLS_FILES = 704: "the TLS files cannot be used",
        cause: "a certificate or key file is missing, unreadable or does not fit, or others than \
                its owner and a reading group may use the key",
        fix: "correct tls.cert_file, tls.key_file and tls.ca_file; chmod 600 the key";
    PEER_IDENTITY = 705: "a peer's identity is rejected",
        cause: "its certificate is not signed by one of tls.ca_file, is not valid now, or does not \
                name the node it says it is",
        fix: "issue a certificate for node-<id>.<cluster name> by an authority of all nodes";
    AUTHENTICATION = 706: "authentication failed",
        cause: "the user or password is wrong",
        fix: "correct the credentials";
    INVARIANT = 901: "an invariant is broken",
        cause: "a defect of bowline; the shard stopped before a wrong answer",
        fix: "report it with the log around this line; read back before writing again";
    DROPPED = 902: "the engine was dropped without stop",
        cause: "the last handle went out of scope while the engine ran",
        fix: "call stop() and wait for it before the last handle is dropped";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_cause_and_fix() {
        for row in ErrorTable::rows() {
            assert!(!row.what.is_empty(), "{}", row.code);
            assert!(row.cause.len() > 10, "{}", row.code);
            assert!(row.fix.len() > 10, "{}", row.code);
            for text in [row.what, row.cause, row.fix] {
                assert!(!text.contains("  "), "{}: two blanks in {text:?}", row.code);
                assert!(!text.ends_with('.'), "{}: {text:?}", row.code);
            }
        }
    }

    #[test]
    fn codes_ascend_and_are_used_once() {
        let numbers: Vec<_> = ErrorTable::rows().iter().map(|row| row.code.number()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert_eq!(ErrorTable::find(Code::BUSY).map(|row| row.what), Some("busy"));
        assert_eq!(ErrorTable::find(Code::new(100)), None);
    }

    #[test]
    fn a_row_is_shown_with_its_remedy() {
        let text = ErrorTable::row(Code::ON_CORE).to_string();
        assert!(text.starts_with("BOW-0403: a blocking call on a core\n  cause: "), "{text}");
        assert!(text.contains("\n  fix:   await"), "{text}");
    }
}
