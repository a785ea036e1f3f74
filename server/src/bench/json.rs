//! Where JSON lines go: a file, standard output, or nowhere.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// A sink of one object a line.
pub(crate) struct Lines {
    to: Option<Box<dyn Write>>,
    stdout: bool,
}

impl Lines {
    /// To `path`, replacing it; to standard output if it is `-`; else nowhere.
    pub(crate) fn to(path: Option<&Path>) -> anyhow::Result<Self> {
        let to: Option<Box<dyn Write>> = match path {
            None => None,
            Some(path) if path == Path::new("-") => Some(Box::new(io::stdout())),
            Some(path) => {
                let file = std::fs::File::create(path);
                Some(Box::new(file.with_context(|| format!("cannot write {}", path.display()))?))
            },
        };
        Ok(Self { to, stdout: path == Some(Path::new("-")) })
    }

    /// Whether standard output is for JSON, so that tables stay away.
    pub(crate) const fn take_stdout(&self) -> bool {
        self.stdout
    }

    /// Writes one object.
    pub(crate) fn put(&mut self, object: &impl Serialize) -> anyhow::Result<()> {
        if let Some(to) = &mut self.to {
            writeln!(to, "{}", serde_json::to_string(object)?)?;
            to.flush()?;
        }
        Ok(())
    }
}
