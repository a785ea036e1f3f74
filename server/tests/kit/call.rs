//! Calls of the binary, and what is expected of them.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

pub(crate) fn bowline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(args)
        .env_remove("BOWLINE_CONFIG")
        .env_remove("CONFIG_PATH")
        .output()
        .unwrap()
}

#[track_caller]
pub(crate) fn ends_with(output: &Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}\n{complained}");
    said
}

#[track_caller]
pub(crate) fn complains(output: &Output, status: i32) -> String {
    ends_with(output, status);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// On the disk that the build is on: the system's temporary directory may be memory.
pub(crate) fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
