//! A configuration document: sections and keys with their places, and the excerpt with a caret.

use core::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::keys::{KEYS, Key, OPAQUE, sections};
use crate::{Code, ConfigError, Origin};

/// A document under its name.
#[derive(Clone, Debug)]
pub(crate) struct Document<'t> {
    pub(crate) path: Arc<str>,
    pub(crate) text: &'t str,
}

impl Document<'_> {
    /// Reads every key of the document into `config`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] of the first fault: 0301, 0302 or 0303, with line and caret.
    pub(crate) fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        let root = DeTable::parse(self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            self.fault(Code::CONFIG_SYNTAX, "", error.message().to_owned(), span)
        })?;
        for (section, content) in root.get_ref() {
            self.apply_section(config, section, content)?;
        }
        Ok(())
    }

    fn apply_section(
        &self,
        config: &mut Config,
        section: &Spanned<impl AsRef<str>>,
        content: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let name = section.get_ref().as_ref();
        if name != OPAQUE && !sections().any(|known| known == name) {
            let what = format!("there is no section [{name}]");
            let fault = self.fault(Code::CONFIG_KEY, name, what, section.span());
            let near = nearest(name, sections());
            return Err(match near {
                Some(near) => fault.fix(format!("write [{near}]")),
                None => fault,
            });
        }
        let Some(table) = content.get_ref().as_table() else {
            let what = format!("{name} is a section: write [{name}] above its keys");
            return Err(self.fault(Code::CONFIG_VALUE, name, what, content.span()));
        };
        for (key, value) in table {
            let path = format!("{name}.{}", key.get_ref());
            let origin = self.origin(value.span().start);
            if name == OPAQUE {
                let text = &self.text[value.span()];
                if DeValue::parse(text).is_err() {
                    let what = format!("write {} = {{ .. }} below [{name}]", key.get_ref());
                    return Err(self.fault(Code::CONFIG_VALUE, &path, what, value.span()));
                }
                config.set_server(key.get_ref(), text, origin);
                continue;
            }
            let Some(known) = Key::find(name, key.get_ref()) else {
                return Err(self.unknown(name, key.get_ref(), key.span()));
            };
            (known.read)(config, value.get_ref())
                .map_err(|wrong| self.fault(Code::CONFIG_VALUE, &path, wrong, value.span()))?;
            config.origins.insert(known.path, origin);
        }
        Ok(())
    }

    fn unknown(&self, section: &str, name: &str, span: Range<usize>) -> ConfigError {
        let what = format!("[{section}] has no key {name}");
        let fault = self.fault(Code::CONFIG_KEY, &format!("{section}.{name}"), what, span);
        let here = KEYS.iter().filter(|key| key.section() == section).map(Key::name);
        let there = KEYS.iter().find(|key| key.name() == name);
        match (there, nearest(name, here)) {
            (Some(key), _) => fault.fix(format!("write it below [{}]", key.section())),
            (None, Some(near)) => fault.fix(format!("write {near}, or remove the key")),
            (None, None) => fault,
        }
    }

    fn fault(&self, code: Code, key: &str, what: String, span: Range<usize>) -> ConfigError {
        let place = Place::of(self.text, span);
        let origin = Origin::File { path: Arc::clone(&self.path), line: place.line };
        ConfigError::new(code, origin, key, what).excerpt(place.excerpt)
    }

    fn origin(&self, at: usize) -> Origin {
        let line = Place::of(self.text, at..at).line;
        Origin::File { path: Arc::clone(&self.path), line }
    }
}

/// The known name that is spelt most like `name`.
pub(crate) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let near = known.map(|known| (distance(name, known), known)).min()?;
    (near.0 <= 2 && near.0 < name.len()).then_some(near.1)
}

/// How many letters must be changed, added or removed to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<u8> = b.bytes().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A place in a text, for people.
struct Place {
    line: u32,
    excerpt: String,
}

impl Place {
    /// Longest excerpt of a line, in characters.
    const WIDTH_MAX: usize = 200;

    fn of(text: &str, span: Range<usize>) -> Self {
        let start = (0..=span.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let start = start.expect("0 is a boundary");
        let before = &text[..start];
        let number = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or("");
        // A caret behind the excerpt stands at its end.
        let column = text[line_start..start].chars().count().min(Self::WIDTH_MAX);
        let width = span.end.saturating_sub(span.start).max(1);
        let shown_len = line.chars().count().min(Self::WIDTH_MAX);
        let width = width.min(shown_len.saturating_sub(column)).max(1);
        let gutter = number.to_string();
        let shown: String = line.chars().take(Self::WIDTH_MAX).collect();
        let excerpt = format!(
            "{gutter} | {shown}\n{:pad$} | {:column$}{:^<width$}",
            "",
            "",
            "",
            pad = gutter.len(),
        );
        Self { line: u32::try_from(number).unwrap_or(u32::MAX), excerpt }
    }
}
