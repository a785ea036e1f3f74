//! Names of files below the data directory. A name is made by us from numbers, never taken from a
//! peer or a user, and cannot leave the directory.

use core::fmt;
use std::sync::Arc;

/// `file` or `dir/file`: parts of `[a-z0-9.-]`, or capitals (`NODE`, `LOCK`), at most 64 bytes
/// in all, no part that starts with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// Empty, or longer than 64 bytes.
    Length,
    /// A byte outside the alphabet, or a part that starts with a dot.
    Byte,
    /// More than one directory.
    Depth,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a name has 1 to 64 bytes",
            Self::Byte => "a name has a byte outside a-z, A-Z, 0-9, '.', '-'",
            Self::Depth => "a name has at most one directory",
        })
    }
}

impl core::error::Error for NameError {}

impl Name {
    /// Longest name, in bytes.
    pub const LEN_MAX: usize = 64;

    /// Checks and takes a name.
    ///
    /// # Errors
    ///
    /// [`NameError`]: the text is no name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > Self::LEN_MAX {
            return Err(NameError::Length);
        }
        if text.split('/').count() > 2 {
            return Err(NameError::Depth);
        }
        let part_is_good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
        };
        if text.split('/').all(part_is_good) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(NameError::Byte)
        }
    }

    /// A name from a literal or a format of ours.
    ///
    /// # Panics
    ///
    /// If it is no name: a bug of the caller.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self::new(text).expect("the text is a name by construction")
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory part, if there is one.
    pub fn dir(&self) -> Option<Self> {
        self.0.split_once('/').map(|(dir, _)| Self(Arc::from(dir)))
    }

    /// The part after the directory.
    pub fn file(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, file)| file)
    }

    /// `file` inside this directory.
    ///
    /// # Panics
    ///
    /// If the result is no name: a bug of the caller.
    #[must_use]
    pub fn join(&self, file: &str) -> Self {
        Self::of(&format!("{}/{file}", self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<(), NameError>) {
        assert_eq!(Name::new(text).map(|_| ()), want, "{text:?}");
    }

    #[test]
    fn only_names_of_our_own_making_pass() {
        check("NODE", Ok(()));
        check("stream-00/super.a", Ok(()));
        check("", Err(NameError::Length));
        check(&"a".repeat(65), Err(NameError::Length));
        check("../x", Err(NameError::Byte));
        check("a/.x", Err(NameError::Byte));
        check("a/b/c", Err(NameError::Depth));
        check("a//b", Err(NameError::Depth));
        check("/a", Err(NameError::Byte));
        check("a b", Err(NameError::Byte));
    }
}
