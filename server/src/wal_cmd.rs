//! `bowline wal`: what is in the logs of a data directory, read-only and without its lock, so also
//! beside a running node.
//!
//! The directory is a data directory, whose streams are taken in order, or one stream's own.

pub(crate) mod dump;
mod source;
pub(crate) mod stat;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bowline::offline::WalReader;

use self::source::Files;

/// One stream of the directory.
struct Stream {
    /// `stream-00`, as findings name it.
    name: String,
    path: PathBuf,
    reader: WalReader<Files>,
}

/// Every stream of a directory, opened.
fn streams(dir: &Path) -> anyhow::Result<Vec<Stream>> {
    let found = if is_stream(dir) { vec![dir.to_owned()] } else { below(dir)? };
    if found.is_empty() {
        bail!("{} holds no log: neither stream-NN nor super.a is there", dir.display());
    }
    found.into_iter().map(open).collect()
}

fn is_stream(dir: &Path) -> bool {
    ["super.a", "super.b"].iter().any(|file| dir.join(file).is_file())
}

fn below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b"stream-") && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn open(path: PathBuf) -> anyhow::Result<Stream> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let reader = WalReader::open(Files::of(&path))
        .with_context(|| format!("cannot open the log {}", path.display()))?;
    Ok(Stream { name, path, reader })
}
