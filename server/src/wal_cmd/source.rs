//! The files of a stream, read plainly.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bowline::offline::{Source, SourceError};

/// A stream's directory.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// The files of `dir`.
    pub(super) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

fn kind(error: &std::io::Error) -> SourceError {
    if error.kind() == ErrorKind::NotFound { SourceError::NotFound } else { SourceError::Io }
}

impl Source for Files {
    fn list(&self) -> Result<Vec<(String, u64)>, SourceError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|error| kind(&error))? {
            let entry = entry.map_err(|error| kind(&error))?;
            let len = entry.metadata().map_err(|error| kind(&error))?.len();
            found.push((entry.file_name().to_string_lossy().into_owned(), len));
        }
        found.sort();
        Ok(found)
    }

    #[expect(clippy::disallowed_methods, reason = "reads beside a node, without its runtime")]
    fn read_at(&self, file: &str, at: u64, out: &mut [u8]) -> Result<usize, SourceError> {
        let file = File::open(self.dir.join(file)).map_err(|error| kind(&error))?;
        let mut got = 0;
        while got < out.len() {
            let offset = at + u64::try_from(got).expect("a length fits 64 bits");
            match file.read_at(&mut out[got..], offset) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {},
                Err(error) => return Err(kind(&error)),
            }
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_with_the_file_and_missing_files_are_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("000.slot"), [1, 2, 3]).expect("a file");
        let files = Files::of(dir.path());
        let mut out = [0; 4];
        assert_eq!(files.read_at("000.slot", 1, &mut out), Ok(2));
        assert_eq!(out, [2, 3, 0, 0]);
        assert_eq!(files.read_at("000.slot", 9, &mut out), Ok(0));
        assert_eq!(files.read_at("001.slot", 0, &mut out), Err(SourceError::NotFound));
        assert_eq!(files.list(), Ok(vec![("000.slot".to_owned(), 3)]));
    }
}
