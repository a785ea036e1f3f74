#![expect(unsafe_code, reason = "io_uring is asked for before the runtime touches it")]
//! What this process may use. Reads only; an unknown is said as such and is never an error.

mod data;

use core::ffi::c_void;
use std::fs;
use std::path::Path;

use rustix::io_uring::{
    IoringRegisterOp, io_uring_params, io_uring_probe, io_uring_probe_op, io_uring_register,
    io_uring_setup,
};
use rustix::process::{Resource, getrlimit};

use crate::{Facts, UringState};

/// Every operation without which glommio 0.9 ends the process, and cancelling.
const NEEDED: [(usize, &str); 24] = [
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (14, "ASYNC_CANCEL"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];

/// Operations that a probe can tell of.
const PROBED: usize = 64;
/// Flag of an operation that the kernel has.
const SUPPORTED: u16 = 1;

/// The answer of the kernel to a probe, with room for its operations.
#[repr(C)]
#[derive(Default)]
struct Probe {
    head: io_uring_probe,
    ops: [io_uring_probe_op; PROBED / 2],
    more: [io_uring_probe_op; PROBED / 2],
}

/// Everything there is to know, read anew.
pub(super) fn facts(data_dir: &Path) -> Facts {
    let open = getrlimit(Resource::Nofile);
    Facts {
        cpus: cpus(),
        cpu_quota_percent: cpu_quota_percent(),
        memory: memory(),
        memlock: getrlimit(Resource::Memlock).current,
        open_files: (open.current.unwrap_or(u64::MAX), open.maximum.unwrap_or(u64::MAX)),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        io_uring: uring(),
        dir: data::dir_facts(data_dir),
        disk_irq_cpus: data::irq_cpus(data_dir),
    }
}

/// Whether glommio can run: asked of the kernel itself.
pub(super) fn uring() -> UringState {
    let denied = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::NOSYS => UringState::Missing,
        errno => UringState::Denied {
            os: errno.raw_os_error(),
            sysctl: number("/proc/sys/kernel/io_uring_disabled"),
            seccomp: line("/proc/self/status", "Seccomp:").and_then(|text| text.parse().ok()),
        },
    };
    let mut params = io_uring_params::default();
    // SAFETY: the parameters are zero, so the kernel is given no memory of ours but themselves.
    let ring = match unsafe { io_uring_setup(2, &mut params) } {
        Ok(ring) => ring,
        Err(errno) => return denied(errno),
    };
    let mut probe = Probe::default();
    let (op, count) = (IoringRegisterOp::RegisterProbe, u32::try_from(PROBED).unwrap_or(0));
    let room: *mut c_void = (&raw mut probe).cast();
    // SAFETY: `room` is a zeroed probe with `PROBED` operations behind its head, written during
    // the call alone.
    if let Err(errno) = unsafe { io_uring_register(&ring, op, room, count) } {
        return denied(errno);
    }
    let has = |op: usize| {
        let all = probe.ops.iter().chain(&probe.more);
        let op = all.take(usize::from(probe.head.ops_len)).nth(op);
        op.is_some_and(|op| op.flags.bits() & SUPPORTED != 0)
    };
    let missing: Vec<_> =
        NEEDED.iter().filter(|(op, _)| !has(*op)).map(|(_, name)| *name).collect();
    if missing.is_empty() { UringState::Ready } else { UringState::Old { missing } }
}

/// Affinity, which the kernel keeps within the cpuset, and the cpuset once more.
fn cpus() -> Vec<u32> {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    let cpuset = cgroup("cpuset", "cpuset.cpus.effective", "cpuset.cpus")
        .into_iter()
        .find(|text| !text.is_empty())
        .map(|text| list(&text));
    let count = u32::try_from(rustix::thread::CpuSet::MAX_CPU).unwrap_or(0);
    (0..count)
        .filter(|cpu| usize::try_from(*cpu).is_ok_and(|cpu| allowed.is_set(cpu)))
        .filter(|cpu| cpuset.as_ref().is_none_or(|cpuset| cpuset.contains(cpu)))
        .collect()
}

/// The least quota of this cgroup and those above it.
fn cpu_quota_percent() -> Option<u32> {
    let version_2 = cgroup("cpu", "cpu.max", "").into_iter().filter_map(|text| {
        let (quota, period) = text.split_once(' ')?;
        Some((quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?))
    });
    let quotas = cgroup("cpu", "", "cpu.cfs_quota_us").into_iter();
    let periods = cgroup("cpu", "", "cpu.cfs_period_us").into_iter();
    let version_1 = quotas.zip(periods).filter_map(|(quota, period)| {
        Some((quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?))
    });
    version_2
        .chain(version_1)
        .filter_map(|(quota, period)| (quota * 100).checked_div(period))
        .min()
        .map(|percent| u32::try_from(percent).unwrap_or(u32::MAX))
}

/// The least of the machine's memory and the limits of this cgroup and those above it.
fn memory() -> u64 {
    let system = rustix::system::sysinfo();
    let all = system.totalram.saturating_mul(u64::from(system.mem_unit));
    let limits = cgroup("memory", "memory.max", "memory.limit_in_bytes");
    limits.iter().filter_map(|text| text.parse().ok()).fold(all, u64::min)
}

/// The contents of a control file, from this process's cgroup up to the root; under version 2 it
/// is called `unified`, under version 1 `split`.
fn cgroup(controller: &str, unified: &str, split: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in read("/proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (base, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup".to_owned(), unified)
        } else if controllers.split(',').any(|name| name == controller) {
            (format!("/sys/fs/cgroup/{controllers}"), split)
        } else {
            continue;
        };
        if file.is_empty() {
            continue;
        }
        for level in Path::new(path).ancestors() {
            let level = level.strip_prefix("/").unwrap_or(level);
            if let Ok(text) = fs::read_to_string(Path::new(&base).join(level).join(file)) {
                found.push(text.trim().to_owned());
            }
        }
    }
    found
}

/// The numbers of a list like `0-2,5`.
fn list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// A small file of the kernel's; empty if it cannot be read.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &str) -> Option<u32> {
    read(path).trim().parse().ok()
}

/// What follows `key` in a file of lines.
fn line(path: &str, key: &str) -> Option<String> {
    read(path).lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(list("3"), [3]);
        assert_eq!(list(""), [0_u32; 0]);
        assert_eq!(list("x,1-"), [0_u32; 0]);
    }

    #[test]
    fn a_machine_that_builds_this_has_a_cpu_and_memory() {
        assert!(!cpus().is_empty());
        assert!(memory() > 0);
        assert_eq!(uring(), UringState::Ready);
    }
}
