//! What the binary says: results to standard output, failures and the log to standard error.

use core::fmt::Display;
use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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

/// Which events are logged, as in `info` or `warn,bowline::core=debug`.
///
/// # Errors
///
/// It is written wrongly.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

/// Logs to standard error from now on; called once.
pub(crate) fn log(filter: EnvFilter) {
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}
