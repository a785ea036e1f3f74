//! The `bowline` binary of the same build as this test: built if it is not there or older than the
//! sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// What the binary is made of.
const SOURCES: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "src", "raft", "wal", "statemachine", "net", "env", "server"];

/// Its path. `BOWLINE_BIN` names another one.
pub(crate) fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("BOWLINE_BIN").map_or_else(built, PathBuf::from))
}

fn built() -> PathBuf {
    // This binary is in `TARGET/PROFILE/deps`.
    let here = std::env::current_exe().unwrap();
    let profile = here.parent().unwrap().parent().unwrap();
    let binary = profile.join("bowline");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = SOURCES.iter().map(|part| newest(&root.join(part))).max();
    if modified(&binary).is_none_or(|at| Some(at) < sources) {
        let name = profile.file_name().unwrap().to_str().unwrap();
        let named = if name == "debug" { "dev" } else { name };
        let status = Command::new(env!("CARGO"))
            .current_dir(root)
            .args(["build", "--quiet", "--package", "bowline-server", "--profile", named])
            .arg("--target-dir")
            .arg(profile.parent().unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "cargo build -p bowline-server: {status}");
    }
    binary
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// When the newest source below `path` was changed.
fn newest(path: &Path) -> SystemTime {
    let Ok(entries) = path.read_dir() else {
        let source = path.extension().is_some_and(|ext| ext == "rs" || ext == "toml");
        let lock = path.file_name().is_some_and(|name| name == "Cargo.lock");
        return modified(path).filter(|_| source || lock).unwrap_or(SystemTime::UNIX_EPOCH);
    };
    let below = entries.map(|entry| newest(&entry.unwrap().path()));
    below.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
