//! What the binary says: results to standard output, failures to standard error.

use core::fmt::Display;
use std::io::{self, Write};

/// One line, or several, of a result.
///
/// # Errors
///
/// Standard output is closed.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// A failure, with cause and fix where it is one of ours.
pub(crate) fn complain(error: &anyhow::Error) {
    let text = match error.downcast_ref::<bowline::Error>() {
        Some(ours) => format!("error: {ours:#}"),
        None => format!("error: {error:#}"),
    };
    // Nobody is left to be told if standard error is closed too.
    writeln!(io::stderr().lock(), "{text}").ok();
}
