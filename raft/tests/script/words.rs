//! The words of a command line.

use core::str::FromStr;

/// What is left of a command line. Errors say what a word should have been.
#[derive(Debug)]
pub struct Words<'a> {
    rest: core::iter::Peekable<core::str::SplitWhitespace<'a>>,
}

impl<'a> Words<'a> {
    pub fn new(line: &'a str) -> Self {
        Self { rest: line.split_whitespace().peekable() }
    }

    pub fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.rest.next().ok_or_else(|| format!("a {what} is missing"))
    }

    pub fn number<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        number(self.word(what)?, what)
    }

    /// A number, if one is left.
    pub fn number_if<T: FromStr>(&mut self, what: &str) -> Result<Option<T>, String> {
        self.rest.next().map(|word| number(word, what)).transpose()
    }

    /// `1->2`
    pub fn link(&mut self) -> Result<(u64, u64), String> {
        pair(self.word("link")?, "->")
    }

    /// The next word if it is `word`.
    pub fn take(&mut self, word: &str) -> bool {
        self.rest.next_if_eq(&word).is_some()
    }

    /// The value of the next word if it is `key=value`.
    pub fn value(&mut self, key: &str) -> Option<&'a str> {
        let value = |word: &&'a str| word.strip_prefix(key)?.strip_prefix('=');
        self.rest.next_if(|word| value(word).is_some()).as_ref().and_then(value)
    }

    pub fn rest(self) -> impl Iterator<Item = &'a str> {
        self.rest
    }

    /// Nothing may be left.
    pub fn end(mut self) -> Result<(), String> {
        self.rest.next().map_or(Ok(()), |word| Err(format!("{word} is too much")))
    }
}

pub fn number<T: FromStr>(word: &str, what: &str) -> Result<T, String> {
    word.parse().map_err(|_not| format!("{word} is no {what}"))
}

/// A number of a forged message: `max` and `max-3` too.
pub fn large(word: &str) -> Result<u64, String> {
    match word.strip_prefix("max") {
        Some("") => Ok(u64::MAX),
        Some(less) => Ok(u64::MAX - number::<u64>(less.trim_start_matches('-'), "number")?),
        None => number(word, "number"),
    }
}

/// Two numbers with something between them.
pub fn pair(word: &str, between: &str) -> Result<(u64, u64), String> {
    let (one, other) =
        word.split_once(between).ok_or_else(|| format!("{word} has no {between}"))?;
    Ok((large(one)?, large(other)?))
}

/// `1,2,4`
pub fn list(word: &str) -> Result<Vec<u64>, String> {
    word.split(',').filter(|part| !part.is_empty()).map(|part| number(part, "id")).collect()
}

/// `1..3@4`: from, to, term.
pub fn run(word: &str) -> Result<(u64, u64, u64), String> {
    let (range, term) = word.split_once('@').ok_or_else(|| format!("{word} has no @"))?;
    let (from, to) = range.split_once("..").unwrap_or((range, range));
    Ok((large(from)?, large(to)?, large(term)?))
}

/// `200ms` in nanoseconds.
pub fn millis(word: &str) -> Result<u64, String> {
    let number = word.strip_suffix("ms").ok_or_else(|| format!("{word} has no ms"))?;
    Ok(self::number::<u64>(number, "time")? * 1_000_000)
}
