//! What this process says and uses.

use std::io::Write;
use std::time::Duration;

/// Prints a line of the result.
pub fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the output can be written");
}

/// CPU time of all threads of this process so far.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}
