//! Why a configuration is refused: which key, from where, with line and caret.

use core::fmt;
use core::ops::Deref;
use std::sync::Arc;

use super::Code;

/// Where a configuration value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of the configuration file.
    File {
        /// Its path.
        path: Arc<str>,
        /// Line, from 1; 0: the whole file.
        line: u32,
    },
    /// An environment variable.
    Variable(Arc<str>),
    /// A call of the builder.
    Builder,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => f.write_str(path),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Builder => f.write_str("builder"),
        }
    }
}

/// Why a configuration was not taken; its details are the fields of [`ConfigFault`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Box<ConfigFault>);

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigFault {
    /// One of 0301 to 0306.
    pub code: Code,
    /// Where the value is.
    pub origin: Origin,
    /// The key, as `section.key`; empty if no key is to blame.
    pub key: String,
    /// What is wrong, in a phrase.
    pub what: String,
    /// The line with a caret under the place, if it is in a file.
    pub excerpt: String,
    /// What to do about it.
    pub fix: String,
}

impl ConfigError {
    /// One for `key` from `origin`, with the remedy that goes with the code. Also for whoever reads
    /// `[server]`.
    pub fn new(code: Code, origin: Origin, key: &str, what: impl Into<String>) -> Self {
        let fix = super::ErrorTable::row(code).fix.into();
        let key = key.into();
        let what = what.into();
        Self(Box::new(ConfigFault { code, origin, key, what, excerpt: String::new(), fix }))
    }

    /// The same with its remedy.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.0.fix = fix.into();
        self
    }

    /// The same with the line and a caret.
    #[must_use]
    pub(crate) fn excerpt(mut self, excerpt: String) -> Self {
        self.0.excerpt = excerpt;
        self
    }

    /// The same under another code.
    #[must_use]
    pub(crate) fn code(mut self, code: Code) -> Self {
        self.0.code = code;
        self
    }
}

impl Deref for ConfigError {
    type Target = ConfigFault;

    fn deref(&self) -> &ConfigFault {
        &self.0
    }
}

/// Origin, key and fault in one line; `{:#}` adds the excerpt.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        if f.alternate() && !self.excerpt.is_empty() {
            write!(f, "\n{}", self.excerpt)?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigError {}
