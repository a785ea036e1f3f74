//! Processes that may not do what the machine needs: each is told so, none panics. A test runs
//! itself again as a child, and the child gives up a right first.
#![cfg(feature = "glommio")]
#![expect(unsafe_code, reason = "a child installs a filter of system calls on itself")]
#![expect(closure_returning_async_block, reason = "a core's main is a closure giving a future")]

use std::process::Command;

use bowline_env::glommio::GlommioFactory;
use bowline_env::{CoreOptions, EnvError, EnvFactory, Kind, UringState};
use rustix::process::{Resource, Rlimit, setrlimit};

const CHILD: &str = "BOWLINE_TEST_CHILD";

/// Runs `test` of this binary again with `child` set, in a new process.
fn in_child(test: &str, child: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some_and(|name| name == test) {
        return child();
    }
    let output = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(CHILD, test)
        .output()
        .expect("the child runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(!text.contains("panicked"), "no panic, also none that is caught: {text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child ran");
}

fn start() -> (GlommioFactory, Result<(), EnvError>) {
    let dir = tempfile::tempdir().expect("made");
    let factory = GlommioFactory::new(dir.path());
    let cpu = factory.facts().cpus[0];
    let options = CoreOptions { cpu, cores: 1, ..CoreOptions::default() };
    let started = factory.spawn_core(options, |_env| async {});
    let outcome = started.map(|core| core.join().expect("a core that started ends well"));
    (factory, outcome)
}

/// Makes the kernel answer `io_uring_setup` with `errno`, for this process and its children.
fn forbid_io_uring(errno: i32) {
    let errno = u32::try_from(errno).expect("a positive number");
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("a small number");
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("a small number"),
        jt,
        jf,
        k,
    };
    let filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("four"),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the call takes numbers alone.
    let closed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(closed, 0);
    // All threads: a test runs on a thread that is not the first.
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: `program` and the filter it points to live through the call, which copies them.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Trap 6.
#[test]
fn a_filter_of_system_calls_is_an_error_and_no_panic() {
    in_child("a_filter_of_system_calls_is_an_error_and_no_panic", || {
        forbid_io_uring(libc::EPERM);
        let (factory, outcome) = start();
        let error = outcome.expect_err("no core without io_uring");
        assert_eq!((error.kind, error.os), (Kind::Unsupported, Some(libc::EPERM)));
        let UringState::Denied { os, seccomp, .. } = factory.facts().io_uring else {
            unreachable!("the filter denies it")
        };
        assert_eq!((os, seccomp), (libc::EPERM, Some(2)));
    });
}

#[test]
fn em_04_a_kernel_without_io_uring_is_an_error_and_no_panic() {
    in_child("em_04_a_kernel_without_io_uring_is_an_error_and_no_panic", || {
        forbid_io_uring(libc::ENOSYS);
        let (factory, outcome) = start();
        assert_eq!(outcome.expect_err("no core").kind, Kind::Unsupported);
        assert_eq!(factory.facts().io_uring, UringState::Missing);
    });
}

/// Trap 5: glommio tells it only when its thread is joined.
#[test]
fn em_04_little_lockable_memory_is_told_at_start() {
    in_child("em_04_little_lockable_memory_is_told_at_start", || {
        let limit = Some(64 << 10);
        setrlimit(Resource::Memlock, Rlimit { current: limit, maximum: limit }).unwrap();
        let (factory, outcome) = start();
        assert_eq!(outcome.expect_err("glommio asks for 512 KiB").kind, Kind::NoMemory);
        assert_eq!(factory.facts().memlock, limit);
    });
}

#[test]
fn the_facts_keep_to_the_affinity() {
    in_child("the_facts_keep_to_the_affinity", || {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(0);
        rustix::thread::sched_setaffinity(None, &cpus).unwrap();
        let (factory, outcome) = start();
        assert_eq!(factory.facts().cpus, [0]);
        assert_eq!(outcome, Ok(()));
    });
}

#[test]
fn the_limit_of_open_files_is_raised_at_start() {
    in_child("the_limit_of_open_files_is_raised_at_start", || {
        let limit = Rlimit { current: Some(256), maximum: Some(2_048) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let (factory, outcome) = start();
        assert_eq!(outcome, Ok(()));
        assert_eq!(factory.facts().open_files, (2_048, 2_048));
    });
}
