//! The examples are run as a reader would run them, each in a directory of its own.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

use std::path::PathBuf;
use std::process::Command;

use bowline_env::glommio::GlommioFactory;
use bowline_env::{EnvFactory, UringState};
use tempfile::TempDir;

/// Examples lie beside the directory of the test binaries.
fn example(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let path = here.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "a plain cargo test builds the examples; else cargo build --examples");
    path
}

#[expect(clippy::disallowed_methods, reason = "whether to skip is said by the environment")]
fn can_run(dir: &TempDir) -> bool {
    let uring = GlommioFactory::new(dir.path()).facts().io_uring;
    let skip = std::env::var("BOWLINE_NO_URING").is_ok_and(|value| value == "1");
    assert!(
        skip || uring == UringState::Ready,
        "io_uring cannot be used here ({uring:?}); BOWLINE_NO_URING=1 skips these tests"
    );
    uring == UringState::Ready
}

#[track_caller]
fn check(name: &str, runs: &[&str]) {
    let dir = TempDir::new().unwrap();
    if !can_run(&dir) {
        return;
    }
    for want in runs {
        let output = Command::new(example(name))
            .arg(dir.path().join("data"))
            .env("BOWLINE_WAL__SLOT_BYTES", "8MiB")
            .env("BOWLINE_WAL__LOG_BYTES", "64MiB")
            .env("BOWLINE_WAL__ALLOW_COW", "true")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {text}{errors}");
        assert_eq!(text, *want, "{name}: {errors}");
    }
}

#[test]
fn quickstart_thread_finds_what_it_wrote() {
    let first = "found None\nstart number 1\nfound Some(b\"hello\")\nstart number 2\n";
    let second = "found Some(b\"hello\")\nstart number 3\nfound Some(b\"hello\")\nstart number 4\n";
    check("quickstart_thread", &[first, second]);
}

#[test]
fn quickstart_tokio_scans_what_it_wrote() {
    let users = "3 users: [(b\"user:ada\", b\"ada\"), (b\"user:brian\", b\"brian\"), \
                 (b\"user:grace\", b\"grace\")]\n";
    check("quickstart_tokio", &[users, users]);
}

#[test]
fn quickstart_core_counts_on_the_core() {
    check("quickstart_core", &["total: Some(b\"42\")\n", "total: Some(b\"84\")\n"]);
}

#[test]
fn custom_state_machine_keeps_its_accounts() {
    let line = |left, balance| {
        let has = "Overdrawn { has: 0 }";
        format!("Moved {{ left: {left} }}, {has}, account 7 has {balance}\n")
    };
    check("custom_state_machine", &[&line(900, 100), &line(800, 200)]);
}

#[test]
fn three_nodes_go_on_without_one() {
    let reads = |id| format!("node {id} reads Some(b\"hello\")\n");
    let all: String = (1..=3).map(reads).collect();
    let all = all + "node 3 is back and reads Some(b\"two are enough\")\n";
    check("three_nodes", &[&all, &all]);
}

#[test]
fn leader_changes_are_told() {
    let second = "another node leads: true, in a later term: true\n";
    let all = format!("a node leads\n{second}{second}");
    check("leader_changes", &[&all, &all]);
}

#[test]
fn axum_health_redirect_shows_all_three_ways() {
    let all = "health check: 1 primary, 2 others\n\
               check before a write: 503 at a follower, 204 at the leader\n\
               redirect: 307 at a follower, to the leader: true\n\
               read: hello\nread: hello\nread: hello\n";
    check("axum_health_redirect", &[all, all]);
}
