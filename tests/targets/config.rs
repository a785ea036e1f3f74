//! The configuration: a document, and keys that are set one by one.

use bowline::{Config, ConfigError};

/// Reads the bytes as a document, and what stands between zeros in it as keys that are set.
pub(crate) fn config(bytes: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(bytes) else { return false };
    let read = read(text);
    match &read {
        Ok(config) => comes_back(config),
        Err(error) => drop(format!("{error} {error:#} {}", error.fix)),
    }
    let mut config = Config::default();
    for setting in text.split('\0') {
        let (path, value) = setting.split_once('=').unwrap_or((setting, ""));
        if let Err(error) = config.set(path, value) {
            drop(format!("{error:#}"));
        }
    }
    if config.check().is_ok() {
        comes_back(&config);
    }
    read.is_ok()
}

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::from_parts(Some(("bowline.toml", text)), [])
}

/// What is shown as a document reads back as the same.
fn comes_back(config: &Config) {
    let shown = config.to_toml();
    let again = read(&shown).unwrap_or_else(|error| panic!("{error:#}\n{shown}"));
    for (before, after) in config.rows().iter().zip(again.rows()) {
        assert_eq!((&before.path, &before.value), (&after.path, &after.value));
    }
    assert_eq!(config.rows().len(), again.rows().len());
}
