//! `[server]`: the keys of the configuration that the library leaves to whoever serves.

use core::net::SocketAddr;
use std::sync::Arc;

use bowline::config::ConfigRow;
use bowline::{Code, Config, ConfigError, Error, Finding};
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use crate::out;

/// What is logged unless the configuration says.
const LOG: &str = "info";

/// `[server]`, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the door for tests listens; none: there is none.
    pub(crate) admin: Option<SocketAddr>,
    /// What is logged.
    pub(crate) log: EnvFilter,
}

impl Settings {
    /// Those of a configuration.
    ///
    /// # Errors
    ///
    /// BOW-0302 for a key that is not known, BOW-0303 for a value, BOW-0703 for an address that
    /// others can reach.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let mut admin = None;
        let mut log = None;
        for row in config.rows() {
            match row.path.strip_prefix("server.") {
                None => {},
                Some("admin") => admin = Some(loopback(&row)?),
                Some("log") => {
                    let bad = |_| wrong(&row, "no log filter");
                    log = Some(out::filter(&string(&row)?).map_err(bad)?);
                },
                Some(key) => return Err(unknown(&row, key)),
            }
        }
        let log = log.unwrap_or_else(|| out::filter(LOG).expect("a level is a filter"));
        Ok(Self { admin, log })
    }
}

fn unknown(row: &ConfigRow, key: &str) -> Error {
    let what = format!("[server] has no key {key}");
    let error = ConfigError::new(Code::CONFIG_KEY, row.origin.clone(), &row.path, what);
    error.fix("write admin or log, or remove the key").into()
}

fn wrong(row: &ConfigRow, what: &str) -> Error {
    let what = format!("{} is {what}", row.value);
    ConfigError::new(Code::CONFIG_VALUE, row.origin.clone(), &row.path, what).into()
}

fn string(row: &ConfigRow) -> Result<String, Error> {
    let value = DeValue::parse(&row.value).ok();
    let text = value.as_ref().and_then(|value| value.get_ref().as_str());
    text.map(str::to_owned).ok_or_else(|| wrong(row, "no string"))
}

/// The door asks nobody who they are, so only this machine may reach it.
fn loopback(row: &ConfigRow) -> Result<SocketAddr, Error> {
    let text = string(row)?;
    let at: SocketAddr = text.parse().map_err(|_error| wrong(row, "no address and port"))?;
    if at.ip().is_loopback() {
        return Ok(at);
    }
    let what = format!("server.admin = {at} is open to others");
    let finding = Finding::error(Code::OPEN_ADDRESS, what)
        .cause("the admin socket asks nobody who they are")
        .fix("listen at 127.0.0.1 or ::1");
    Err(Error::Net(Arc::new(finding)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Settings, Error> {
        let text = format!("[server]\n{text}\n");
        let none: [(String, String); 0] = [];
        Settings::of(&Config::from_parts(Some(("f", &text)), none).expect("it is TOML"))
    }

    #[track_caller]
    fn refused(text: &str, code: Code, want: &str) {
        let error = of(text).expect_err("refused");
        assert_eq!(error.code(), code, "{error:#}");
        assert!(error.to_string().contains(want), "{error:#}");
    }

    #[test]
    fn a_door_is_on_this_machine_only() {
        assert_eq!(of("").expect("accepted").admin, None);
        let at = of("admin = \"127.0.0.1:7600\"").expect("accepted").admin;
        assert_eq!(at, Some(SocketAddr::from(([127, 0, 0, 1], 7_600))));
        refused("admin = \"0.0.0.0:7600\"", Code::OPEN_ADDRESS, "0.0.0.0:7600");
        refused("admin = \"localhost\"", Code::CONFIG_VALUE, "no address and port");
        refused("admin = 7600", Code::CONFIG_VALUE, "f:2: server.admin: 7600 is no string");
    }

    #[test]
    fn keys_and_filters_are_known_or_named() {
        refused("admn = \"127.0.0.1:7600\"", Code::CONFIG_KEY, "[server] has no key admn");
        refused("log = \"bowline=loud\"", Code::CONFIG_VALUE, "no log filter");
        of("log = \"warn,bowline=debug\"").expect("accepted");
    }
}
