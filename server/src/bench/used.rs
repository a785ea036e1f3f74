//! What this process has used so far.

use core::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time and bytes handed to the disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// User and system time of all threads.
    pub(crate) cpu: Duration,
    /// `write_bytes` of `/proc/self/io`; zero where it cannot be read.
    pub(crate) written: u64,
}

impl Used {
    /// Since the start of the process.
    pub(crate) fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        Self { cpu, written: written().unwrap_or_default() }
    }

    /// From `earlier` to `self`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written: self.written.saturating_sub(earlier.written),
        }
    }
}

fn written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?;
    line.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_and_synced_shows() {
        let before = Used::now();
        let dir = tempfile::tempdir_in(".").expect("a directory");
        let mut file = std::fs::File::create(dir.path().join("file")).expect("a file");
        std::io::Write::write_all(&mut file, &vec![7; 65_536]).expect("room");
        file.sync_all().expect("a sync");
        let used = Used::now().since(before);
        assert!(used.written >= 65_536, "{used:?}");
        assert!(used.cpu > Duration::ZERO, "{used:?}");
    }
}
