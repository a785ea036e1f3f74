//! The data directory and the device below it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, statfs};

use super::super::disk;
use super::{list, read};
use crate::{DirFacts, FileSystem};

/// The bit of a mode that lets everybody write. A group may: that is how volumes are shared out to
/// one user of many.
const WRITTEN_BY_OTHERS: u32 = 0o002;
/// Alignment for direct I/O where a file system tells none, in bytes.
const ALIGN: u32 = 512;

/// What the data directory is, or what its nearest parent tells of it.
pub(super) fn dir_facts(data_dir: &Path) -> DirFacts {
    let here = standing(data_dir);
    let (exists, mut empty, mut founded) = (here == data_dir, true, false);
    if exists {
        for entry in fs::read_dir(data_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            empty &= name.to_str().is_some_and(DirFacts::is_of_founding);
            founded |= name == "NODE";
        }
    }
    let system = statfs(&here).ok();
    let mode = fs::metadata(&here).map_or(0, |here| here.mode());
    let open_to_others = exists && mode & WRITTEN_BY_OTHERS != 0;
    // Whoever writes there too may have put something else under the name.
    let (writable, direct_io, align) =
        if open_to_others { (Ok(()), true, ALIGN) } else { try_file(&here) };
    DirFacts {
        path: data_dir.display().to_string(),
        exists,
        empty,
        founded,
        writable,
        open_to_others,
        file_system: system.map_or(FileSystem::Other(0), |system| file_system(system.f_type)),
        direct_io,
        align,
        free: system.map_or(0, |system| {
            system.f_bavail.saturating_mul(u64::try_from(system.f_bsize).unwrap_or(0))
        }),
    }
}

/// The directory itself, or the nearest parent that exists.
fn standing(data_dir: &Path) -> PathBuf {
    let found = data_dir.ancestors().find(|path| path.exists());
    match found {
        Some(path) if path.as_os_str().is_empty() => PathBuf::from("."),
        Some(path) => path.to_owned(),
        None => PathBuf::from("."),
    }
}

/// Creates a file, opens it for direct I/O, asks for its alignment, and removes it.
fn try_file(dir: &Path) -> (Result<(), i32>, bool, u32) {
    let path = dir.join(format!(".probe-{}", std::process::id()));
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | flags).open(&path)
    };
    let tried = match open(0) {
        Ok(file) => {
            let direct = open(libc::O_DIRECT).is_ok();
            let align = disk::direct_align(&file).max(ALIGN);
            (Ok(()), direct, align)
        },
        Err(error) => (Err(error.raw_os_error().unwrap_or(libc::EIO)), false, ALIGN),
    };
    // If it cannot be removed it is written over the next time.
    drop(fs::remove_file(&path));
    tried
}

fn file_system(magic: i64) -> FileSystem {
    match magic {
        0xEF53 => FileSystem::Ext4,
        0x5846_5342 => FileSystem::Xfs,
        0x0102_1994 => FileSystem::Tmpfs,
        0x8584_58F6 => FileSystem::Ramfs,
        0x9123_683E => FileSystem::Btrfs,
        0x2FC1_2FC1 => FileSystem::Zfs,
        0xCA45_1A4E => FileSystem::Bcachefs,
        0x6969 => FileSystem::Nfs,
        0x794C_7630 => FileSystem::Overlay,
        other => FileSystem::Other(u64::try_from(other).unwrap_or(0)),
    }
}

/// CPUs that take the interrupts of the data disk's device, by the names in `/proc/interrupts`.
/// Best effort: a file system over several devices, or a stacked one, tells nothing.
pub(super) fn irq_cpus(data_dir: &Path) -> Vec<u32> {
    let Ok(here) = fs::metadata(standing(data_dir)) else { return Vec::new() };
    let device = format!("/sys/dev/block/{}:{}", major(here.dev()), minor(here.dev()));
    let Ok(device) = fs::canonicalize(device) else { return Vec::new() };
    let parts: Vec<_> = device
        .iter()
        .filter_map(|part| part.to_str())
        .filter(|part| part.starts_with("virtio") || part.starts_with("nvme") || part.contains(':'))
        .collect();
    let mut cpus: Vec<_> = read("/proc/interrupts")
        .lines()
        .filter_map(|line| line.trim_start().split_once(':'))
        .filter(|(irq, line)| irq.parse::<u32>().is_ok() && takes_requests(line, &parts))
        .flat_map(|(irq, _)| list(read(format!("/proc/irq/{irq}/effective_affinity_list")).trim()))
        .collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// Whether a line of `/proc/interrupts` is that of a queue of the device at `parts`.
fn takes_requests(line: &str, parts: &[&str]) -> bool {
    let Some(action) = line.split_whitespace().last() else { return false };
    // `virtio1-req.0`, `nvme0q3`; the queue 0 of nvme takes no requests.
    let queue = |part: &str| {
        let rest = action.strip_prefix(part)?;
        Some(rest.starts_with("-req") || (rest.starts_with('q') && rest != "q0"))
    };
    parts.iter().any(|part| queue(part).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_request_queues_of_the_device_count() {
        let parts = ["0000:00:02.0", "virtio1"];
        let line = " 0 50575 PCI-MSIX-0000:00:02.0 1-edge virtio1-req.0";
        assert!(takes_requests(line, &parts));
        assert!(!takes_requests("0 0 PCI-MSIX-0000:00:02.0 0-edge virtio1-config", &parts));
        assert!(!takes_requests("0 9 PCI-MSIX-0000:00:03.0 1-edge virtio10-req.0", &parts));
        assert!(takes_requests("7 0 PCI-MSI 1-edge nvme0q1", &["nvme0"]));
        assert!(!takes_requests("7 0 PCI-MSI 1-edge nvme0q0", &["nvme0"]));
    }

    #[test]
    fn a_directory_to_come_is_judged_by_its_parent() {
        let dir = std::env::temp_dir().join("bowline-no-such").join("deep");
        let facts = dir_facts(&dir);
        assert!(!facts.exists && facts.empty && !facts.founded);
        assert_eq!(facts.writable, Ok(()));
        assert!(facts.free > 0);
    }
}
