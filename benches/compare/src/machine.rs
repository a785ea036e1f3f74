//! What the kernel says this process has used so far.

use std::time::Duration;

/// CPU time and bytes handed to the disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// User and system time of all threads.
    pub(crate) cpu: Duration,
    /// `write_bytes` of `/proc/self/io`.
    pub(crate) written: u64,
}

impl Used {
    /// Since the start of the process. What cannot be read is zero.
    pub(crate) fn now() -> Self {
        Self { cpu: cpu().unwrap_or_default(), written: written().unwrap_or_default() }
    }

    /// From `earlier` to `self`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written: self.written.saturating_sub(earlier.written),
        }
    }
}

/// Ticks of 10 ms: Linux gives `USER_HZ` as 100 on every architecture we run on.
fn cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

fn written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?;
    line.parse().ok()
}
