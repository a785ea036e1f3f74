//! The types of configuration values: how each is read from TOML and shown again.
//!
//! Sizes and times carry their unit. What is shown reads back as the same value.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use toml::de::DeValue;

/// What is wrong with a value: a phrase that says what would be right.
pub(crate) type Wrong = String;

/// A type that a key can have.
pub(crate) trait Value: Sized {
    /// Reads it.
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong>;

    /// Its TOML text.
    fn show(&self) -> String;
}

fn text<'v>(value: &'v DeValue<'_>, want: &str) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| format!("expected {want}, found {}", value.type_str()))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

impl Value for u64 {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let number = value.as_integer();
        let number = number.ok_or_else(|| format!("expected a number, found {}", value.type_str()));
        let number = number?;
        Self::from_str_radix(number.as_str(), number.radix())
            .map_err(|error| format!("expected a number from 0 on: {error}"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let number = <u64 as Value>::read(value)?;
        Self::try_from(number).map_err(|_error| format!("{number} is too large"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        value.as_bool().ok_or_else(|| format!("expected true or false, found {}", value.type_str()))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        text(value, "a text in quotes").map(Into::into)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        text(value, "a path in quotes").map(Into::into)
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Value for SocketAddr {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let text = text(value, "an address such as \"127.0.0.1:7500\"")?;
        text.parse().map_err(|_error| {
            format!("{text:?} is no numeric address with a port, such as \"127.0.0.1:7500\"")
        })
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let text = text(value, "a time with its unit, such as \"5ms\"")?;
        let unit = text.ends_with(|end: char| end.is_ascii_alphabetic());
        match humantime::parse_duration(text) {
            Ok(span) if unit => Ok(span),
            _ => Err(format!("{text:?} is no time with its unit, such as \"5ms\" or \"2s\"")),
        }
    }

    fn show(&self) -> String {
        // What humantime shows has a blank between parts and "0s" for nothing; it reads both.
        quoted(&humantime::format_duration(*self).to_string())
    }
}

/// A number of bytes, written with a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// `count` KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` GiB.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    fn parse(text: &str) -> Option<Self> {
        let unit = text.ends_with(|end: char| end.is_ascii_alphabetic());
        let size = text.parse::<bytesize::ByteSize>().ok()?;
        unit.then_some(Self(size.as_u64()))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match units.into_iter().find(|(shift, _)| whole(*shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Value for ByteCount {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let text = text(value, "a size with its unit, such as \"64MiB\"")?;
        Self::parse(text)
            .ok_or_else(|| format!("{text:?} is no size with its unit, such as \"64MiB\""))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A part of a whole, in millionths; written in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(pub u32);

impl Part {
    /// `count` percent.
    pub const fn percent(count: u32) -> Self {
        Self(count * 10_000)
    }

    /// This part of `whole`.
    pub fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.0) / 1_000_000;
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?.trim_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.is_empty() || fraction.len() > 4 {
            return None;
        }
        let whole: u32 = whole.parse().ok()?;
        let fraction: u32 = format!("{fraction:0<4}").parse().ok()?;
        let millionths = whole.checked_mul(10_000)?.checked_add(fraction)?;
        (millionths <= 1_000_000).then_some(Self(millionths))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            write!(f, "{whole}%")
        } else {
            let digits = format!("{fraction:04}");
            write!(f, "{whole}.{}%", digits.trim_end_matches('0'))
        }
    }
}

impl Value for Part {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let text = text(value, "a percentage, such as \"25%\"")?;
        Self::parse(text).ok_or_else(|| format!("{text:?} is no percentage, such as \"25%\""))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A size, or a part of the memory that the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A part of memory.
    Part(Part),
    /// Bytes.
    Bytes(ByteCount),
}

impl Share {
    /// In bytes, of a memory of this size.
    pub fn of(self, memory: u64) -> u64 {
        match self {
            Self::Part(part) => part.of(memory),
            Self::Bytes(bytes) => bytes.0,
        }
    }
}

impl Value for Share {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let text = text(value, "a percentage or a size, such as \"25%\" or \"2GiB\"")?;
        let share = Part::parse(text).map(Self::Part);
        share.or_else(|| ByteCount::parse(text).map(Self::Bytes)).ok_or_else(|| {
            format!("{text:?} is neither percentage nor size, such as \"25%\" or \"2GiB\"")
        })
    }

    fn show(&self) -> String {
        match self {
            Self::Part(part) => part.show(),
            Self::Bytes(bytes) => bytes.show(),
        }
    }
}

/// A value that the engine chooses unless it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto<T> {
    /// The engine chooses.
    #[default]
    Auto,
    /// This.
    Is(T),
}

impl<T: Copy> Auto<T> {
    /// The value, or `chosen`.
    pub fn or(self, chosen: T) -> T {
        match self {
            Self::Auto => chosen,
            Self::Is(value) => value,
        }
    }
}

impl<T: Value> Value for Auto<T> {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        if value.as_str() == Some("auto") {
            return Ok(Self::Auto);
        }
        T::read(value).map(Self::Is).map_err(|wrong| format!("{wrong}, or \"auto\""))
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Is(value) => value.show(),
        }
    }
}

/// How many cores a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoreCount {
    /// Half of the allowed CPUs, at least one.
    #[default]
    Half,
    /// All allowed CPUs.
    All,
    /// This many.
    Is(u32),
}

impl Value for CoreCount {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        match value.as_str() {
            Some("auto") => Ok(Self::Half),
            Some("all") => Ok(Self::All),
            Some(other) => Err(format!("{other:?} is neither \"auto\", \"all\" nor a number")),
            None => match <u32 as Value>::read(value)? {
                0 => Err("a node has at least one core".into()),
                count => Ok(Self::Is(count)),
            },
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Half => quoted("auto"),
            Self::All => quoted("all"),
            Self::Is(count) => count.to_string(),
        }
    }
}

/// CPUs, written as `"0-3,6"`; empty: the engine chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(pub Vec<u32>);

impl CpuList {
    /// Most CPUs that a list may name.
    const COUNT_MAX: usize = 1_024;

    fn parse(text: &str) -> Option<Self> {
        let mut cpus = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            let count = last.checked_sub(first)?;
            if usize::try_from(count).ok()? >= Self::COUNT_MAX - cpus.len().min(Self::COUNT_MAX) {
                return None;
            }
            cpus.extend(first..=last);
        }
        let count = cpus.len();
        cpus.sort_unstable();
        cpus.dedup();
        (cpus.len() == count).then_some(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for run in self.0.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let (first, last) = (run[0], run[run.len() - 1]);
            if first == last {
                write!(f, "{before}{first}")?;
            } else {
                write!(f, "{before}{first}-{last}")?;
            }
            before = ",";
        }
        Ok(())
    }
}

impl Value for CpuList {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        let text = text(value, "a list of CPUs in quotes, such as \"0-3,6\"")?;
        Self::parse(text)
            .ok_or_else(|| format!("{text:?} is no list of different CPUs, such as \"0-3,6\""))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub id: u64,
    /// Where it listens for peers.
    pub address: String,
}

impl Value for Vec<Peer> {
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        const WANT: &str = "expected [{ id = 1, address = \"10.0.0.1:7500\" }, ..]";
        let peers = value.as_array().ok_or(WANT)?;
        let one = |peer: &DeValue<'_>| {
            let peer = peer.as_table().filter(|peer| peer.len() == 2)?;
            let id = <u64 as Value>::read(peer.get("id")?.get_ref()).ok()?;
            let address = peer.get("address")?.get_ref().as_str()?.to_owned();
            Some(Peer { id, address })
        };
        let peers: Option<Self> = peers.iter().map(|peer| one(peer.get_ref())).collect();
        peers.ok_or_else(|| WANT.to_owned())
    }

    fn show(&self) -> String {
        let one =
            |peer: &Peer| format!("{{ id = {}, address = {} }}", peer.id, quoted(&peer.address));
        format!("[{}]", self.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $($(#[$each])* $variant,)* }

        impl Value for $name {
            fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
                match value.as_str() {
                    $(Some($word) => Ok(Self::$variant),)*
                    _ => Err(concat!("expected one of", $(" \"", $word, "\"",)*).into()),
                }
            }

            fn show(&self) -> String {
                quoted(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

words! {
    /// Which members lead.
    Leaders {
        /// Every shard prefers members in the order of their ids.
        #[default]
        Together = "together",
        /// Shard s prefers member s mod n.
        Spread = "spread",
        /// No preference.
        Any = "any",
    }
}

impl Leaders {
    /// The rank of the member that is the `nth` of `count` by its id, as a leader of `shard`; lower
    /// is preferred.
    pub(crate) fn rank(self, nth: u64, count: u64, shard: bowline_raft::ShardId) -> u8 {
        let rank = match self {
            Self::Together => nth,
            Self::Spread => (nth + count - shard.0 % count) % count,
            Self::Any => 0,
        };
        u8::try_from(rank).unwrap_or(u8::MAX)
    }
}

words! {
    /// Whether logs and runs bypass the page cache.
    DirectIo {
        /// They do, or the engine does not start.
        #[default]
        Required = "required",
        /// They do not; for development. Writes are synced all the same.
        Off = "off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Debug;

    #[track_caller]
    fn check<T: Value + Debug + PartialEq>(toml: &str, want: &T) {
        let value = DeValue::parse(toml).expect("the text is TOML");
        assert_eq!(T::read(value.get_ref()).as_ref(), Ok(want), "{toml}");
        let shown = want.show();
        let value = DeValue::parse(&shown).expect("what is shown is TOML");
        assert_eq!(T::read(value.get_ref()).as_ref(), Ok(want), "{shown} of {toml}");
    }

    #[track_caller]
    fn refused<T: Value + Debug + PartialEq>(toml: &str) {
        let value = DeValue::parse(toml).expect("the text is TOML");
        assert!(T::read(value.get_ref()).is_err(), "{toml}");
    }

    #[test]
    fn sizes_need_a_unit() {
        check("\"64MiB\"", &ByteCount::mib(64));
        check("\"1GiB\"", &ByteCount::gib(1));
        check("\"1000B\"", &ByteCount(1_000));
        check("\"0B\"", &ByteCount(0));
        check("\"1.5KiB\"", &ByteCount(1_536));
        for wrong in ["64", "\"64\"", "\"MiB\"", "\"-1MiB\"", "\"\"", "\"64 parsecs\"", "true"] {
            refused::<ByteCount>(wrong);
        }
    }

    #[test]
    fn times_need_a_unit() {
        check("\"5ms\"", &Duration::from_millis(5));
        check("\"0us\"", &Duration::ZERO);
        check("\"1m 30s\"", &Duration::from_secs(90));
        for wrong in ["5", "\"5\"", "\"0\"", "\"-5ms\"", "\"5 lightyears\"", "\"\""] {
            refused::<Duration>(wrong);
        }
    }

    #[test]
    fn parts_are_percentages() {
        check("\"25%\"", &Part::percent(25));
        check("\"0.1%\"", &Part(1_000));
        check("\"100%\"", &Part(1_000_000));
        check("\"25%\"", &Share::Part(Part::percent(25)));
        check("\"2GiB\"", &Share::Bytes(ByteCount::gib(2)));
        assert_eq!(Part::percent(25).of(1 << 40), 1 << 38);
        for wrong in ["\"25\"", "\"101%\"", "\"-1%\"", "\"%\"", "\"1.%\"", "\"0.00001%\"", "25"] {
            refused::<Part>(wrong);
        }
    }

    #[test]
    fn choices_cpus_and_peers_read_back() {
        check("\"auto\"", &Auto::<u64>::Auto);
        check("4", &Auto::Is(4_u64));
        check("\"all\"", &CoreCount::All);
        check("3", &CoreCount::Is(3));
        refused::<CoreCount>("0");
        check("\"\"", &CpuList::default());
        check("\"0-2, 6\"", &CpuList(vec![0, 1, 2, 6]));
        for wrong in ["\"2-1\"", "\"1,1\"", "\"0-9999999\"", "\"a\"", "\"1-\"", "3"] {
            refused::<CpuList>(wrong);
        }
        check("\"spread\"", &Leaders::Spread);
        refused::<Leaders>("\"Spread\"");
        check("\"off\"", &DirectIo::Off);
        let peer = Peer { id: 2, address: "a:1".into() };
        check("[{ id = 2, address = \"a:1\" }]", &vec![peer]);
        refused::<Vec<Peer>>("[{ id = 2 }]");
        refused::<Vec<Peer>>("[{ id = 2, address = \"a\", more = 1 }]");
        check("\"127.0.0.1:7500\"", &SocketAddr::from(([127, 0, 0, 1], 7_500)));
        refused::<SocketAddr>("\"localhost:7500\"");
        check("0x10", &16_u64);
        refused::<u64>("-1");
    }
}
