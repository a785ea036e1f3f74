//! What preflight, identity checks and listeners found wrong, for people.

use core::fmt;

use super::Code;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The engine starts all the same.
    Warning,
    /// The engine does not start.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that is wrong with the machine, the data directory or the network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Its code.
    pub code: Code,
    /// Whether it stops the start.
    pub severity: Severity,
    /// What it is, in a phrase.
    pub what: String,
    /// Why it is so, from facts of this machine.
    pub cause: String,
    /// What to do about it.
    pub fix: String,
    /// The facts that were looked at, by name.
    pub facts: Vec<(&'static str, String)>,
    /// What else the same check found.
    pub more: Vec<Self>,
}

impl Finding {
    /// An error without facts.
    pub fn error(code: Code, what: impl Into<String>) -> Self {
        let row = super::ErrorTable::row(code);
        Self {
            code,
            severity: Severity::Error,
            what: what.into(),
            cause: row.cause.into(),
            fix: row.fix.into(),
            facts: Vec::new(),
            more: Vec::new(),
        }
    }

    /// A warning without facts.
    pub fn warning(code: Code, what: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, what) }
    }

    /// The same with its cause on this machine.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    /// The same with its remedy on this machine.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// The same with one more fact.
    #[must_use]
    pub fn fact(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.facts.push((name, value.to_string()));
        self
    }
}

/// One line; `{:#}` adds cause and fix, and what else was found.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.severity, self.code, self.what)?;
        if f.alternate() {
            write!(f, "\n  cause: {}\n  fix:   {}", self.cause, self.fix)?;
            for other in &self.more {
                write!(f, "\n{other:#}")?;
            }
        }
        Ok(())
    }
}
