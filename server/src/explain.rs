//! `bowline explain`: the table of error codes.

use std::process::ExitCode;

use bowline::ErrorTable;

use crate::cli::Explain;
use crate::out;

/// Prints one row, or all.
pub(crate) fn run(ask: &Explain) -> anyhow::Result<ExitCode> {
    for row in ErrorTable::rows() {
        if ask.code.is_none_or(|code| code == row.code) {
            out::line(row)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
