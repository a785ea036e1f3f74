//! Whether the data directory can keep what is promised: BOW-0108, 0109, 0202, 0209 and 0602.

use bowline_env::{Facts, FileSystem};

use super::limits::{count, streams};
use crate::config::{ByteCount, Config, DirectIo};
use crate::{Code, Finding};

/// Files that a stream writes ahead when it is made.
const SLOTS_AHEAD: u64 = 4;

const FIX_MEDIUM: &str =
    "put node.data_dir on ext4 or xfs; wal.allow_cow = true founds it here all the same";

pub(super) fn check(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(usable(facts));
    findings.extend(open_to_others(facts));
    findings.extend(file_system(config, facts));
    findings.extend(direct_io(config, facts));
    findings.extend(space(config, facts));
    findings
}

fn usable(facts: &Facts) -> Option<Finding> {
    let dir = &facts.dir;
    if let Err(os) = dir.writable {
        let reason = match os {
            30 => "read-only file system".to_owned(),
            13 | 1 => "permission denied".to_owned(),
            28 => "no space left".to_owned(),
            20 => "not a directory".to_owned(),
            2 => "its parent does not exist".to_owned(),
            other => format!("error {other}"),
        };
        let what = format!("cannot write data_dir: {reason}");
        let cause = format!("the system answers error {os} for {}", dir.path);
        return Some(Finding::error(Code::DIR_UNUSABLE, what).cause(cause));
    }
    if dir.empty || dir.founded {
        return None;
    }
    let cause = format!("{} has other files and no NODE", dir.path);
    let what = "data_dir is not empty and not a bowline directory";
    Some(Finding::error(Code::DIR_UNUSABLE, what).cause(cause))
}

fn open_to_others(facts: &Facts) -> Option<Finding> {
    if !facts.dir.open_to_others {
        return None;
    }
    let path = &facts.dir.path;
    let cause = format!("the mode of {path} lets everybody write");
    let fix = format!("chmod o-w {path}, or name a directory in it, which is made for one user");
    let what = "others may write to data_dir";
    Some(Finding::error(Code::DIR_OPEN, what).cause(cause).fix(fix))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "another file system is not known to be bad")]
fn file_system(config: &Config, facts: &Facts) -> Option<Finding> {
    let allowed = config.wal.allow_cow || facts.dir.founded;
    let (name, danger, cause) = match facts.dir.file_system {
        FileSystem::Tmpfs => {
            ("tmpfs", "its data is gone after a reboot", "a tmpfs lives in memory")
        },
        FileSystem::Ramfs => {
            ("ramfs", "its data is gone after a reboot", "a ramfs lives in memory")
        },
        FileSystem::Btrfs => ("btrfs", COPIES, "the file system copies on write"),
        FileSystem::Zfs => ("zfs", COPIES, "the file system copies on write"),
        FileSystem::Bcachefs => ("bcachefs", COPIES, "the file system copies on write"),
        FileSystem::Nfs => {
            let what = "data_dir is on NFS: a sync may answer before the data is safe";
            let finding = Finding::error(Code::FILE_SYSTEM, what)
                .cause("another machine keeps the files, and a lock on them")
                .fix("put node.data_dir on a local ext4 or xfs");
            return Some(finding);
        },
        FileSystem::Overlay => {
            let what = "data_dir is on overlay: its data is gone with the container";
            let finding = Finding::warning(Code::FILE_SYSTEM, what)
                .cause("it lies in the container's own layer")
                .fix("mount a volume and put node.data_dir on it");
            return Some(finding);
        },
        _ => return None,
    };
    let what = format!("data_dir is on {name}: {danger}");
    let finding = if allowed {
        Finding::warning(Code::FILE_SYSTEM, what)
    } else {
        Finding::error(Code::FILE_SYSTEM, what)
    };
    Some(finding.cause(cause).fix(FIX_MEDIUM))
}

const COPIES: &str = "each write moves the data of the log";

fn direct_io(config: &Config, facts: &Facts) -> Option<Finding> {
    if facts.dir.direct_io || config.wal.direct_io == DirectIo::Off || facts.dir.writable.is_err() {
        return None;
    }
    let name = match facts.dir.file_system {
        FileSystem::Ext4 => "ext4".to_owned(),
        FileSystem::Xfs => "xfs".to_owned(),
        FileSystem::Tmpfs => "tmpfs".to_owned(),
        FileSystem::Ramfs => "ramfs".to_owned(),
        FileSystem::Btrfs => "btrfs".to_owned(),
        FileSystem::Zfs => "zfs".to_owned(),
        FileSystem::Bcachefs => "bcachefs".to_owned(),
        FileSystem::Nfs => "nfs".to_owned(),
        FileSystem::Overlay => "overlay".to_owned(),
        FileSystem::Other(magic) => format!("file system {magic:#x}"),
        _ => "unknown file system".to_owned(),
    };
    let what = format!("data_dir ({name}) does not support O_DIRECT");
    Some(Finding::error(Code::DIRECT_IO, what))
}

/// Founding writes files ahead; a directory that exists goes on with what it has.
fn space(config: &Config, facts: &Facts) -> Option<Finding> {
    let streams = streams(config, facts);
    let slot = config.wal.slot_bytes;
    let need = streams.saturating_mul(slot.0).saturating_mul(SLOTS_AHEAD);
    if facts.dir.founded || facts.dir.free >= need || facts.dir.writable.is_err() {
        return None;
    }
    let mib = |bytes: u64| ByteCount((bytes >> 20) << 20);
    let what = format!(
        "data_dir has {} free; founding {} needs {}",
        mib(facts.dir.free),
        count(streams, "stream"),
        mib(need)
    );
    let finding = Finding::error(Code::DISK_FULL, what)
        .cause(format!("each stream writes its first {SLOTS_AHEAD} files of {slot} ahead"))
        .fix("free space, or set a smaller wal.slot_bytes");
    Some(finding)
}
