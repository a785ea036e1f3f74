//! A directory that is there only while the binary runs.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// A directory of our own; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// It cannot be written there.
    pub(crate) fn new(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    /// In `dir`, else in the system's temporary directory; `name` and the process name it.
    ///
    /// # Errors
    ///
    /// It cannot be written there.
    pub(crate) fn below(dir: Option<&Path>, name: &str) -> anyhow::Result<Self> {
        let base = dir.map_or_else(std::env::temp_dir, Path::to_path_buf);
        Self::new(base.join(format!("{name}-{}", std::process::id())))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
