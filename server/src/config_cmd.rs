//! `bowline config`: what a node would be started with.

use std::process::ExitCode;

use bowline::{Config, Error};

use crate::cli::{ConfigAsk, ConfigPrint};
use crate::out;

fn load(ask: &ConfigAsk) -> Result<Config, Error> {
    Config::load(ask.config.as_deref()).map_err(Error::from)
}

/// Says whether it is acceptable; a fault comes with line and caret.
pub(crate) fn check(ask: &ConfigAsk) -> anyhow::Result<ExitCode> {
    let config = load(ask)?;
    let set = config.rows().iter().filter(|row| row.origin != bowline::Origin::Default).count();
    out::line(format_args!("the configuration is acceptable; {set} keys differ from the default"))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints it as TOML, or each key with its origin.
pub(crate) fn print(ask: &ConfigPrint) -> anyhow::Result<ExitCode> {
    let config = load(&ask.ask)?;
    if !ask.origin {
        out::line(config.to_toml().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = config.rows();
    let shown = |row: &bowline::config::ConfigRow| format!("{} = {}", row.path, row.value);
    let width = rows.iter().map(|row| shown(row).len()).max().unwrap_or(0);
    for row in &rows {
        out::line(format_args!("{:<width$}  # {}", shown(row), row.origin))?;
    }
    Ok(ExitCode::SUCCESS)
}
