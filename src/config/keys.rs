//! Every key: its section, its meaning, how it is read into a [`Config`] and shown again.

use core::time::Duration;

use toml::de::DeValue;

use super::Config;
use super::value::{Auto, ByteCount, Value, Wrong};

/// One key of the configuration.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    /// `section.key`.
    pub(crate) path: &'static str,
    /// What it is.
    pub(crate) help: &'static str,
    pub(crate) read: fn(&mut Config, &DeValue<'_>) -> Result<(), Wrong>,
    pub(crate) show: fn(&Config) -> String,
}

impl Key {
    /// Its section.
    pub(crate) fn section(&self) -> &'static str {
        self.path.split_once('.').expect("a path has a section").0
    }

    /// Its name in the section.
    pub(crate) fn name(&self) -> &'static str {
        self.path.split_once('.').expect("a path has a section").1
    }

    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        let (section, name) = (self.section(), self.name());
        format!("BOWLINE_{section}__{name}").to_ascii_uppercase()
    }

    /// The key of a section; none: there is no such key.
    pub(crate) fn find(section: &str, name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.section() == section && key.name() == name)
    }
}

/// Most shards of a cluster.
pub(crate) const SHARDS_MAX: u32 = 16_384;
/// The smallest bound of an entry: the longest key and its headers have room.
pub(crate) const FRAME_CAP_MIN: ByteCount = ByteCount::kib(16);

/// Sections whose keys belong to others.
pub(crate) const OPAQUE: &str = "server";

/// Every section.
pub(crate) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    let sections = KEYS.iter().map(Key::section);
    sections.filter(move |section| core::mem::replace(&mut last, section) != *section)
}

fn within<T: Value + PartialOrd + 'static>(min: T, max: T) -> impl Fn(&T) -> Result<(), Wrong> {
    move |value: &T| {
        if min <= *value && *value <= max {
            Ok(())
        } else {
            Err(format!("{} is outside {} to {}", value.show(), min.show(), max.show()))
        }
    }
}

fn auto_within<T: Value + PartialOrd + 'static>(
    min: T,
    max: T,
) -> impl Fn(&Auto<T>) -> Result<(), Wrong> {
    let check = within(min, max);
    move |value: &Auto<T>| if let Auto::Is(value) = value { check(value) } else { Ok(()) }
}

#[expect(clippy::ptr_arg, reason = "a check takes the type of its key")]
fn named(name: &String) -> Result<(), Wrong> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        Err("a name has 1 to 64 letters, digits, '-' or '.'".into())
    }
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Longest time that a request may take: a day, which a descriptor's u32 holds in milliseconds.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

macro_rules! key {
    ($section:ident.$name:ident, $help:literal $(, $check:expr)?) => {
        Key {
            path: concat!(stringify!($section), ".", stringify!($name)),
            help: $help,
            read: |config, value| {
                let value = Value::read(value)?;
                $($check(&value)?;)?
                config.$section.$name = value;
                Ok(())
            },
            show: |config| config.$section.$name.show(),
        }
    };
}

pub(crate) const KEYS: &[Key] = &[
    key!(node.id, "number of this node in its cluster", within(1, u64::from(u16::MAX))),
    key!(node.data_dir, "directory of logs and state"),
    key!(node.app_address, "where your application answers; told to redirected callers"),
    key!(cluster.name, "name of the cluster", named),
    key!(cluster.peers, "founding members, this node among them"),
    key!(cluster.shards, "slices of the key space; fixed when founded", within(1, SHARDS_MAX)),
    key!(cluster.join, "wait to be added to a cluster instead of founding one"),
    key!(cluster.leaders, "together, spread or any"),
    key!(cores.count, "cores of this node: auto (half of the CPUs), all, or a number"),
    key!(cores.cpus, "CPUs to use, such as 0-3,6; empty: the engine chooses"),
    key!(
        cores.spin,
        "how long an idle core looks before it sleeps",
        within(Duration::ZERO, millis(10))
    ),
    key!(wal.streams, "logs of this node; fixed when founded", auto_within(1, 256)),
    key!(
        wal.slot_bytes,
        "size of one file of a log",
        within(ByteCount::kib(64), ByteCount::gib(4))
    ),
    key!(
        wal.frame_cap,
        "largest write, and bound of an entry; fixed when founded, one for all nodes",
        within(FRAME_CAP_MIN, ByteCount::mib(16))
    ),
    key!(wal.log_bytes, "space of one log", within(ByteCount::kib(512), ByteCount::gib(1_024))),
    key!(wal.allow_cow, "allow founding on a copy-on-write file system"),
    key!(wal.direct_io, "required, or off in development"),
    key!(
        state.delta,
        "state in memory only, per core",
        within(ByteCount::kib(64), ByteCount::gib(64))
    ),
    key!(state.resident, "state files held in memory: a size or a part of memory"),
    key!(raft.heartbeat, "time between signs of life", within(millis(5), millis(10_000))),
    key!(
        raft.support,
        "silence after which a leader is given up",
        within(millis(150), millis(60_000))
    ),
    key!(raft.lease_reads, "allow reads that trust clocks to drift little"),
    key!(raft.clock_drift, "how much clocks of members may drift apart"),
    key!(limits.op_timeout, "time that an operation may take", within(millis(1), TIMEOUT_MAX)),
    key!(
        limits.park,
        "time that a request waits for a leader",
        within(Duration::ZERO, TIMEOUT_MAX)
    ),
    key!(
        limits.parked,
        "bytes that wait for a leader, per core",
        within(ByteCount(0), ByteCount::gib(64))
    ),
    key!(
        limits.core_budget,
        "bytes queued or not applied, per core",
        auto_within(ByteCount::kib(64), ByteCount::gib(64))
    ),
    key!(
        limits.shard_uncommitted,
        "bytes not committed, per shard",
        within(ByteCount::kib(64), ByteCount::gib(2))
    ),
    key!(
        limits.transfer,
        "bytes a second of states that this node sends to others",
        within(ByteCount::mib(1), ByteCount::gib(64))
    ),
    key!(
        limits.drain_timeout,
        "time that stop may take for its transfers",
        within(Duration::ZERO, TIMEOUT_MAX)
    ),
    key!(listen.peer, "address for peers"),
    key!(listen.advertise, "host name told to peers and clients; empty: the address"),
    key!(tls.cert_file, "certificate of this node; empty: no TLS"),
    key!(
        tls.key_file,
        "its private key; only its owner may write it, and no more than a group read it"
    ),
    key!(tls.ca_file, "certificates that peers are checked against"),
    key!(security.insecure, "allow public addresses without authentication"),
    key!(telemetry.per_shard, "numbers by shard: auto (up to 128 shards), true or false"),
];
