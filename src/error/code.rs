//! `BOW-xxxx`: the number that stands for one failure for ever.

use core::fmt;

/// The number of a failure, written `BOW-0501`. A number is never used again for something else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    pub(crate) const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number alone.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Reads `BOW-0101`, `bow-0101`, `0101` or `101`. None: no such code.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = match text.get(..4) {
            Some(head) if head.eq_ignore_ascii_case("bow-") => &text[4..],
            _ => text,
        };
        let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = if all_digits { digits.parse().ok()? } else { return None };
        super::ErrorTable::find(Self(number)).map(|row| row.code)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BOW-{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_in_each_way_that_people_write_it() {
        for text in ["BOW-0101", "bow-0101", "0101", "101", " BOW-0101 "] {
            assert_eq!(Code::parse(text), Some(Code(101)), "{text:?}");
        }
        for text in ["", "BOW-", "BOW-9999", "x101", "+101", "BOW-01 01", "\u{e9}\u{e9}\u{e9}"] {
            assert_eq!(Code::parse(text), None, "{text:?}");
        }
        assert_eq!(Code(101).to_string(), "BOW-0101");
    }
}
