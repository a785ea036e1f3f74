//! Whether the kernel and the sandbox let this process use io_uring: BOW-0101 to 0103.

use bowline_env::{Facts, UringState};

use crate::{Code, ErrorTable, Finding};

#[expect(clippy::wildcard_enum_match_arm, reason = "only what is known to be bad is told")]
pub(super) fn check(facts: &Facts) -> Option<Finding> {
    match &facts.io_uring {
        UringState::Denied { os, sysctl, seccomp } => Some(denied(*os, *sysctl, *seccomp)),
        UringState::Old { missing } => Some(old(&facts.kernel, missing)),
        UringState::Missing => {
            let cause = format!("io_uring_setup returned ENOSYS on kernel {}", facts.kernel);
            Some(plain(Code::URING_MISSING).cause(cause).fact("kernel", &facts.kernel))
        },
        // Ready, and what later facts tell apart.
        _ => None,
    }
}

fn plain(code: Code) -> Finding {
    Finding::error(code, ErrorTable::row(code).what)
}

/// Docker's filter and the sysctl answer alike; users chase the wrong one.
fn denied(os: i32, sysctl: Option<u32>, seccomp: Option<u32>) -> Finding {
    let unknown = || "unknown".to_owned();
    let shown = |number: Option<u32>| number.map_or_else(unknown, |number| number.to_string());
    let (reason, fix) = match (sysctl, seccomp) {
        (Some(2), _) => (
            "the sysctl forbids it to every process",
            "sysctl -w kernel.io_uring_disabled=0   (to keep it: a line in /etc/sysctl.d)",
        ),
        (Some(1), _) => (
            "the sysctl allows it to kernel.io_uring_group only",
            "add this user to the group of sysctl kernel.io_uring_group, or sysctl -w \
             kernel.io_uring_disabled=0",
        ),
        (_, Some(2)) => (
            "a container seccomp profile blocks it",
            "docker run --security-opt seccomp=bowline-seccomp.json ...   (Kubernetes: \
             localhostProfile; not --privileged)",
        ),
        _ => (
            "a security module or sandbox forbids it",
            "allow io_uring in the sandbox's profile (SELinux, AppArmor, gVisor)",
        ),
    };
    let name = if os == 1 { "EPERM".to_owned() } else { format!("error {os}") };
    let cause = format!(
        "io_uring_setup returned {name}; kernel.io_uring_disabled = {}, Seccomp = {}: {reason}",
        shown(sysctl),
        shown(seccomp)
    );
    plain(Code::URING_DENIED)
        .cause(cause)
        .fix(fix)
        .fact("kernel.io_uring_disabled", shown(sysctl))
        .fact("Seccomp", shown(seccomp))
}

fn old(kernel: &str, missing: &[&str]) -> Finding {
    let missing = missing.join(", ");
    let short = version(kernel);
    let what = match short {
        Some((major, minor)) if (major, minor) >= (5, 8) => {
            format!("io_uring of kernel {major}.{minor} lacks {missing}")
        },
        Some((major, minor)) => {
            format!("kernel {major}.{minor} is too old: need 5.8, advise 6.1")
        },
        None => format!("kernel {kernel} is too old: need 5.8, advise 6.1"),
    };
    let cause = format!("io_uring lacks {missing} on kernel {kernel}");
    Finding::error(Code::KERNEL_OLD, what).cause(cause).fact("kernel", kernel)
}

fn version(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|end: char| !end.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
