//! What stands in the way of a start, judged from facts before anything is opened.
//!
//! A pure function: the facts are gathered by the environment, at each start and by `doctor`.

mod directory;
mod limits;
mod uring;

use std::sync::Arc;

use bowline_env::Facts;

use crate::config::{Config, CoreCount};
use crate::{Code, Error, Finding, Severity};

/// What a preflight found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// By code.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing stops a start.
    pub fn is_ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Warning)
    }

    /// The first error, with every other finding attached to it.
    ///
    /// # Errors
    ///
    /// [`Error::Environment`], [`Error::DataDir`] or [`Error::Net`]: the engine does not start.
    pub fn into_result(mut self) -> Result<(), Error> {
        let errors = |finding: &Finding| finding.severity == Severity::Error;
        let Some(first) = self.findings.iter().position(errors) else { return Ok(()) };
        let mut first = self.findings.remove(first);
        first.more = self.findings;
        Err(match first.code.number() {
            200..=299 | 602 => Error::DataDir(Arc::new(first)),
            700..=799 => Error::Net(Arc::new(first)),
            _ => Error::Environment(Arc::new(first)),
        })
    }
}

/// Judges whether a node of this configuration can start on this machine.
pub fn preflight(config: &Config, facts: &Facts) -> Report {
    let mut findings = Vec::new();
    findings.extend(uring::check(facts));
    findings.extend(limits::memlock(config, facts));
    findings.extend(cpus(config, facts));
    findings.extend(limits::open_files(config, facts));
    findings.extend(directory::check(config, facts));
    findings.extend(open_address(config));
    findings.sort_by_key(|finding| finding.code);
    Report { findings }
}

/// How many cores the node will have.
fn core_count(config: &Config, facts: &Facts) -> u64 {
    let named = config.cores.cpus.0.len();
    let usable = if named == 0 { facts.cpus.len() } else { named };
    let usable = u64::try_from(usable).unwrap_or(u64::MAX).max(1);
    let quota = facts.cpu_quota_percent.map_or(u64::MAX, |percent| percent.div_ceil(100).into());
    match config.cores.count {
        CoreCount::Half => (usable.min(quota.max(1)) / 2).max(1),
        CoreCount::All => usable.min(quota.max(1)),
        CoreCount::Is(count) => count.into(),
    }
}

fn cpus(config: &Config, facts: &Facts) -> Option<Finding> {
    let allowed = crate::config::CpuList(facts.cpus.clone());
    let foreign: Vec<u32> =
        config.cores.cpus.0.iter().copied().filter(|cpu| !facts.cpus.contains(cpu)).collect();
    if !foreign.is_empty() {
        let noun = if foreign.len() == 1 { "CPU" } else { "CPUs" };
        let foreign = crate::config::CpuList(foreign);
        let what = format!("cores.cpus asks for {noun} {foreign}; this process may use {allowed}");
        let cause = "the process's affinity or cpuset does not have it";
        return Some(Finding::error(Code::CPUS, what).cause(cause).fact("cpus", allowed));
    }
    let usable = match config.cores.cpus.0.len() {
        0 => facts.cpus.len(),
        named => named,
    };
    let count = core_count(config, facts);
    if usize::try_from(count).is_ok_and(|count| count <= usable) {
        return None;
    }
    let what = format!("cores.count asks for {count} cores; this process may use {usable} CPUs");
    let fix = format!("set cores.count to at most {usable}, or to \"all\"");
    Some(Finding::error(Code::CPUS, what).fix(fix).fact("cpus", allowed))
}

fn open_address(config: &Config) -> Option<Finding> {
    let peer = config.listen.peer;
    let guarded = !config.tls.cert_file.as_os_str().is_empty();
    if !config.listens() || peer.ip().is_loopback() || guarded {
        return None;
    }
    let what = format!("listen.peer = {peer} is open to others without TLS");
    Some(if config.security.insecure {
        Finding::warning(Code::OPEN_ADDRESS, what).cause("security.insecure = true allows it")
    } else {
        Finding::error(Code::OPEN_ADDRESS, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_env::{DirFacts, FileSystem, UringState};

    pub(super) fn good() -> Facts {
        Facts {
            cpus: vec![0, 1],
            cpu_quota_percent: None,
            memory: 8 << 30,
            memlock: None,
            open_files: (1 << 20, 1 << 20),
            kernel: "6.1.0".into(),
            io_uring: UringState::Ready,
            dir: DirFacts {
                path: "/srv/data".into(),
                exists: true,
                empty: true,
                founded: false,
                writable: Ok(()),
                open_to_others: false,
                file_system: FileSystem::Ext4,
                direct_io: true,
                align: 512,
                free: 1 << 40,
            },
            disk_irq_cpus: vec![],
        }
    }

    #[track_caller]
    fn finds(change: impl FnOnce(&mut Config, &mut Facts), want: &str) {
        let (mut config, mut facts) = (Config::default(), good());
        change(&mut config, &mut facts);
        let report = preflight(&config, &facts);
        let shown: Vec<_> = report.findings.iter().map(|finding| format!("{finding:#}")).collect();
        assert_eq!(shown.join("\n"), want);
    }

    #[test]
    fn a_fit_machine_has_no_findings() {
        finds(|_, _| {}, "");
        finds(|config, _| config.cores.count = CoreCount::All, "");
        assert_eq!(preflight(&Config::default(), &good()).into_result(), Ok(()));
    }

    #[test]
    fn bow_0101() {
        let denied = |sysctl, seccomp| UringState::Denied { os: 1, sysctl, seccomp };
        finds(
            |_, facts| facts.io_uring = denied(Some(0), Some(2)),
            "error[BOW-0101]: io_uring is not permitted in this process\n  \
             cause: io_uring_setup returned EPERM; kernel.io_uring_disabled = 0, Seccomp = 2: a \
             container seccomp profile blocks it\n  \
             fix:   docker run --security-opt seccomp=bowline-seccomp.json ...   (Kubernetes: \
             localhostProfile; not --privileged)",
        );
        finds(
            |_, facts| facts.io_uring = denied(Some(2), Some(0)),
            "error[BOW-0101]: io_uring is not permitted in this process\n  \
             cause: io_uring_setup returned EPERM; kernel.io_uring_disabled = 2, Seccomp = 0: the \
             sysctl forbids it to every process\n  \
             fix:   sysctl -w kernel.io_uring_disabled=0   (to keep it: a line in \
             /etc/sysctl.d)",
        );
        finds(
            |_, facts| facts.io_uring = denied(Some(1), None),
            "error[BOW-0101]: io_uring is not permitted in this process\n  \
             cause: io_uring_setup returned EPERM; kernel.io_uring_disabled = 1, Seccomp = \
             unknown: the sysctl allows it to kernel.io_uring_group only\n  \
             fix:   add this user to the group of sysctl kernel.io_uring_group, or sysctl -w \
             kernel.io_uring_disabled=0",
        );
    }

    #[test]
    fn bow_0102() {
        finds(
            |_, facts| facts.io_uring = UringState::Missing,
            "error[BOW-0102]: this kernel or sandbox has no io_uring\n  \
             cause: io_uring_setup returned ENOSYS on kernel 6.1.0\n  \
             fix:   run on Linux 5.8 or later, outside a sandbox that replaces the kernel",
        );
    }

    #[test]
    fn bow_0103() {
        finds(
            |_, facts| {
                facts.kernel = "5.4.0-150-generic".into();
                facts.io_uring = UringState::Old { missing: vec!["IORING_OP_OPENAT2"] };
            },
            "error[BOW-0103]: kernel 5.4 is too old: need 5.8, advise 6.1\n  \
             cause: io_uring lacks IORING_OP_OPENAT2 on kernel 5.4.0-150-generic\n  \
             fix:   run on Linux 5.8 or later; 6.1 or later is advised",
        );
        finds(
            |_, facts| facts.io_uring = UringState::Old { missing: vec!["A", "B"] },
            "error[BOW-0103]: io_uring of kernel 6.1 lacks A, B\n  \
             cause: io_uring lacks A, B on kernel 6.1.0\n  \
             fix:   run on Linux 5.8 or later; 6.1 or later is advised",
        );
    }

    #[test]
    fn bow_0104() {
        finds(
            |config, facts| {
                facts.cpus = (0..4).collect();
                config.cores.count = CoreCount::All;
                facts.memlock = Some(64 << 10);
            },
            "error[BOW-0104]: locked-memory limit is 64KiB; 4 cores need 2MiB\n  \
             cause: each core locks 512 KiB for its rings and RLIMIT_MEMLOCK does not allow it\n  \
             fix:   ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; docker run --ulimit \
             memlock=-1",
        );
    }

    #[test]
    fn bow_0106() {
        finds(
            |config, _| config.cores.cpus = crate::config::CpuList(vec![0, 7]),
            "error[BOW-0106]: cores.cpus asks for CPU 7; this process may use 0-1\n  \
             cause: the process's affinity or cpuset does not have it\n  \
             fix:   name allowed CPUs in cores.cpus, or leave it empty",
        );
        finds(
            |config, _| config.cores.count = CoreCount::Is(3),
            "error[BOW-0106]: cores.count asks for 3 cores; this process may use 2 CPUs\n  \
             cause: cores.cpus or cores.count asks for CPUs outside this process's affinity\n  \
             fix:   set cores.count to at most 2, or to \"all\"",
        );
    }

    #[test]
    fn bow_0108() {
        let cause = "a tmpfs lives in memory";
        let fix = "put node.data_dir on ext4 or xfs; wal.allow_cow = true founds it here all the \
                   same";
        finds(
            |_, facts| facts.dir.file_system = FileSystem::Tmpfs,
            &format!(
                "error[BOW-0108]: data_dir is on tmpfs: its data is gone after a reboot\n  \
                 cause: {cause}\n  fix:   {fix}"
            ),
        );
        finds(
            |config, facts| {
                facts.dir.file_system = FileSystem::Tmpfs;
                config.wal.allow_cow = true;
            },
            &format!(
                "warning[BOW-0108]: data_dir is on tmpfs: its data is gone after a reboot\n  \
                 cause: {cause}\n  fix:   {fix}"
            ),
        );
        finds(
            |config, facts| {
                facts.dir.file_system = FileSystem::Nfs;
                config.wal.allow_cow = true;
            },
            "error[BOW-0108]: data_dir is on NFS: a sync may answer before the data is safe\n  \
             cause: another machine keeps the files, and a lock on them\n  \
             fix:   put node.data_dir on a local ext4 or xfs",
        );
        finds(
            |_, facts| {
                facts.dir.file_system = FileSystem::Btrfs;
                (facts.dir.founded, facts.dir.empty) = (true, false);
            },
            "warning[BOW-0108]: data_dir is on btrfs: each write moves the data of the log\n  \
             cause: the file system copies on write\n  \
             fix:   put node.data_dir on ext4 or xfs; wal.allow_cow = true founds it here all the \
             same",
        );
        finds(
            |_, facts| facts.dir.file_system = FileSystem::Overlay,
            "warning[BOW-0108]: data_dir is on overlay: its data is gone with the container\n  \
             cause: it lies in the container's own layer\n  \
             fix:   mount a volume and put node.data_dir on it",
        );
    }

    #[test]
    fn bow_0109() {
        finds(
            |config, facts| {
                facts.dir.file_system = FileSystem::Ramfs;
                facts.dir.direct_io = false;
                config.wal.allow_cow = true;
            },
            "warning[BOW-0108]: data_dir is on ramfs: its data is gone after a reboot\n  \
             cause: a ramfs lives in memory\n  \
             fix:   put node.data_dir on ext4 or xfs; wal.allow_cow = true founds it here all the \
             same\n\
             error[BOW-0109]: data_dir (ramfs) does not support O_DIRECT\n  \
             cause: the file system refuses to open a file for direct I/O\n  \
             fix:   put node.data_dir on ext4 or xfs, or set wal.direct_io = \"off\" in \
             development",
        );
        finds(
            |config, facts| {
                facts.dir.direct_io = false;
                config.wal.direct_io = crate::config::DirectIo::Off;
            },
            "",
        );
    }

    #[test]
    fn bow_0111() {
        finds(
            |config, facts| {
                config.cluster.shards = 1_024;
                facts.open_files = (1_024, 1_024);
            },
            "error[BOW-0111]: open-file limit 1024; need 2332\n  \
             cause: 1 core, 1 stream and 1024 shards keep files open; the hard limit of \
             RLIMIT_NOFILE does not allow it\n  \
             fix:   ulimit -Hn 65536; systemd: LimitNOFILE=65536; docker run --ulimit \
             nofile=65536",
        );
        finds(|_, facts| facts.open_files = (256, 4_096), "");
    }

    #[test]
    fn bow_0202() {
        let fix = "make it writable for this user, or name an empty directory in node.data_dir";
        finds(
            |_, facts| facts.dir.writable = Err(30),
            &format!(
                "error[BOW-0202]: cannot write data_dir: read-only file system\n  \
                 cause: the system answers error 30 for /srv/data\n  fix:   {fix}"
            ),
        );
        finds(
            |_, facts| facts.dir.empty = false,
            &format!(
                "error[BOW-0202]: data_dir is not empty and not a bowline directory\n  \
                 cause: /srv/data has other files and no NODE\n  fix:   {fix}"
            ),
        );
    }

    #[test]
    fn bow_0210() {
        finds(
            |_, facts| facts.dir.open_to_others = true,
            "error[BOW-0210]: others may write to data_dir\n  \
             cause: the mode of /srv/data lets everybody write\n  \
             fix:   chmod o-w /srv/data, or name a directory in it, which is made for one user",
        );
    }

    #[test]
    fn a_full_disk_refuses_to_found() {
        finds(
            |_, facts| facts.dir.free = 100 << 20,
            "error[BOW-0602]: data_dir has 100MiB free; founding 1 stream needs 256MiB\n  \
             cause: each stream writes its first 4 files of 64MiB ahead\n  \
             fix:   free space, or set a smaller wal.slot_bytes",
        );
        finds(
            |_, facts| {
                facts.dir.free = 0;
                (facts.dir.founded, facts.dir.empty) = (true, false);
            },
            "",
        );
    }

    #[test]
    fn bow_0703() {
        let peer = crate::config::Peer { id: 1, address: "10.0.0.1:7500".into() };
        let open = |config: &mut Config| {
            config.cluster.peers = vec![peer.clone()];
            config.listen.peer = "10.0.0.1:7500".parse().expect("an address");
        };
        finds(
            |config, _| open(config),
            "error[BOW-0703]: listen.peer = 10.0.0.1:7500 is open to others without TLS\n  \
             cause: an address other than loopback needs TLS or a password\n  \
             fix:   set [tls], or security.insecure = true on a closed network",
        );
        let (mut config, facts) = (Config::default(), good());
        open(&mut config);
        config.security.insecure = true;
        assert!(preflight(&config, &facts).is_ok());
        config.security.insecure = false;
        config.tls.cert_file = "cert.pem".into();
        assert_eq!(preflight(&config, &facts), Report::default());
    }

    #[test]
    fn the_first_error_carries_the_other_findings() {
        let (mut config, mut facts) = (Config::default(), good());
        facts.io_uring = UringState::Missing;
        facts.dir.file_system = FileSystem::Tmpfs;
        config.cores.cpus = crate::config::CpuList(vec![9]);
        let error = preflight(&config, &facts).into_result().expect_err("not fit");
        assert_eq!(error.code(), Code::URING_MISSING);
        let Error::Environment(finding) = &error else { panic!("{error:?}") };
        let more: Vec<_> = finding.more.iter().map(|finding| finding.code).collect();
        assert_eq!(more, [Code::CPUS, Code::FILE_SYSTEM]);
        let long = format!("{error:#}");
        assert!(long.contains("BOW-0106") && long.contains("BOW-0108"), "{long}");
        facts.io_uring = UringState::Ready;
        facts.dir.file_system = FileSystem::Xfs;
        config.cores.cpus = crate::config::CpuList::default();
        facts.dir.writable = Err(13);
        let error = preflight(&config, &facts).into_result().expect_err("not writable");
        assert!(matches!(error, Error::DataDir(_)), "{error:?}");
    }
}
