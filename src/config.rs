//! Configuration: defaults, then a file, then the environment, then the builder.
//!
//! Every key is in one table (`keys`): it is read, shown and set by variable from there. Unknown
//! keys and variables are refused with the place and the nearest known name. `[server]` belongs to
//! whoever serves; it is kept as text.

mod check;
mod file;
mod keys;
mod value;

use core::net::SocketAddr;
use core::time::Duration;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_wal::{Geometry, WalLogs, WalOptions};
use toml::de::DeValue;

use crate::{Code, ConfigError, Origin};
use file::{Document, nearest};
pub(crate) use keys::{FRAME_CAP_MIN, SHARDS_MAX};
use keys::{KEYS, Key, OPAQUE, sections};

pub use value::{Auto, ByteCount, CoreCount, CpuList, DirectIo, Leaders, Part, Peer, Share};

/// What every variable of ours begins with.
const PREFIX: &str = "BOWLINE_";

macro_rules! section {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$each:meta])* $key:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name { $($(#[$each])* pub $key: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    };
}

section! {
    /// `[node]`: who this node is.
    NodeConfig {
        /// Number of this node in its cluster, from 1.
        id: u64 = 1,
        /// Directory of logs and state.
        data_dir: PathBuf = PathBuf::from("./bowline-data"),
        /// Where the application answers; told to redirected callers.
        app_address: String = String::new(),
    }
}

section! {
    /// `[cluster]`: what counts when a directory is founded.
    ClusterConfig {
        /// Name of the cluster.
        name: String = "bowline".into(),
        /// Founding members.
        peers: Vec<Peer> = Vec::new(),
        /// Slices of the key space.
        shards: u32 = 16,
        /// Wait to be added to a cluster.
        join: bool = false,
        /// Which members lead.
        leaders: Leaders = Leaders::Together,
    }
}

section! {
    /// `[cores]`: the executor threads.
    CoresConfig {
        /// How many.
        count: CoreCount = CoreCount::Half,
        /// On which CPUs; empty: the engine chooses.
        cpus: CpuList = CpuList::default(),
        /// How long an idle core looks before it sleeps.
        spin: Duration = Duration::ZERO,
    }
}

section! {
    /// `[wal]`: the log. No key weakens its syncs.
    WalConfig {
        /// Streams of this node; fixed when founded.
        streams: Auto<u32> = Auto::Auto,
        /// Size of one file of a stream.
        slot_bytes: ByteCount = ByteCount::mib(64),
        /// Largest frame, and bound of an entry; the same on every node, fixed when founded.
        frame_cap: ByteCount = ByteCount::mib(1),
        /// Space of one stream.
        log_bytes: ByteCount = ByteCount::gib(1),
        /// Allow founding on a copy-on-write file system.
        allow_cow: bool = false,
        /// Whether the page cache is bypassed.
        direct_io: DirectIo = DirectIo::Required,
    }
}

section! {
    /// `[state]`: the state machines' memory.
    StateConfig {
        /// State in memory only, per core.
        delta: ByteCount = ByteCount::mib(128),
        /// State files held in memory, per node.
        resident: Share = Share::Part(Part::percent(25)),
    }
}

section! {
    /// `[raft]`: consensus.
    RaftConfig {
        /// Time between signs of life.
        heartbeat: Duration = Duration::from_millis(50),
        /// Silence after which a leader is given up.
        support: Duration = Duration::from_millis(600),
        /// Allow reads that trust clocks to drift little.
        lease_reads: bool = false,
        /// How much they may drift apart.
        clock_drift: Part = Part(1_000),
    }
}

section! {
    /// `[limits]`: how long and how much.
    LimitsConfig {
        /// Time that an operation may take.
        op_timeout: Duration = Duration::from_secs(5),
        /// Time that a request waits for a leader.
        park: Duration = Duration::from_secs(2),
        /// Bytes that wait for a leader, per core.
        parked: ByteCount = ByteCount::mib(16),
        /// Bytes queued or not applied, per core; auto: a quarter of memory by cores, at most
        /// 1 GiB.
        core_budget: Auto<ByteCount> = Auto::Auto,
        /// Bytes not committed, per shard.
        shard_uncommitted: ByteCount = ByteCount::mib(16),
        /// Bytes a second that this node sends of states to nodes that need them.
        transfer: ByteCount = ByteCount::mib(100),
        /// Time that stop may take for its transfers.
        drain_timeout: Duration = Duration::from_secs(10),
    }
}

section! {
    /// `[listen]`: addresses.
    ListenConfig {
        /// For peers.
        peer: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7_500)),
        /// Host told to peers and clients; empty: the address.
        advertise: String = String::new(),
    }
}

section! {
    /// `[tls]`: certificates; empty: no TLS.
    #[expect(clippy::struct_field_names, reason = "they are called so in the file")]
    TlsConfig {
        /// Certificate of this node.
        cert_file: PathBuf = PathBuf::new(),
        /// Its private key. Only its owner may write it, and its group may read it; others nothing.
        key_file: PathBuf = PathBuf::new(),
        /// Certificates that peers are checked against.
        ca_file: PathBuf = PathBuf::new(),
    }
}

section! {
    /// `[security]`.
    SecurityConfig {
        /// Allow public addresses without authentication.
        insecure: bool = false,
    }
}

section! {
    /// `[telemetry]`.
    TelemetryConfig {
        /// Numbers by shard; auto: up to 128 shards.
        per_shard: Auto<bool> = Auto::Auto,
    }
}

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Who this node is.
    pub node: NodeConfig,
    /// What counts when a directory is founded.
    pub cluster: ClusterConfig,
    /// The executor threads.
    pub cores: CoresConfig,
    /// The log.
    pub wal: WalConfig,
    /// The state machines' memory.
    pub state: StateConfig,
    /// Consensus.
    pub raft: RaftConfig,
    /// How long and how much.
    pub limits: LimitsConfig,
    /// Addresses.
    pub listen: ListenConfig,
    /// Certificates.
    pub tls: TlsConfig,
    /// What is allowed without authentication.
    pub security: SecurityConfig,
    /// What is measured.
    pub telemetry: TelemetryConfig,
    /// Keys of `[server]`: TOML text by key, with its origin.
    server: BTreeMap<String, (String, Origin)>,
    /// Of keys that are not at their default.
    origins: BTreeMap<&'static str, Origin>,
}

/// One line of `config print`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigRow {
    /// `section.key`.
    pub path: String,
    /// The value as TOML.
    pub value: String,
    /// Where it is from.
    pub origin: Origin,
    /// What the key is; empty in `[server]`.
    pub help: &'static str,
}

impl Config {
    /// Defaults, then the file (`path`, else `$BOWLINE_CONFIG`, else `$CONFIG_PATH`, else none),
    /// then this process's environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: 0301 to 0306.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = |name| std::env::var_os(name).map(PathBuf::from);
        let path = path.map(Path::to_path_buf);
        let path = path.or_else(|| named("BOWLINE_CONFIG")).or_else(|| named("CONFIG_PATH"));
        let text = path.as_deref().map(read_file).transpose()?;
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        let path = path.map(|path| path.to_string_lossy().into_owned());
        Self::from_parts(path.as_deref().zip(text.as_deref()), variables)
    }

    /// The same from values: path and text of a file, and variables. Reads nothing else.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: 0301 to 0305.
    pub fn from_parts(
        file: Option<(&str, &str)>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some((path, text)) = file {
            Document { path: Arc::from(path), text }.apply(&mut config)?;
        }
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort();
        for (name, text) in variables {
            config.set_variable(&name, &text)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Sets one key, as the builder does: `path` is `section.key`, `text` a TOML value, or else a
    /// string.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: 0302 or 0303; nothing is changed.
    pub fn set(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let (section, name) = path.split_once('.').unwrap_or((path, ""));
        self.set_text(section, name, text, &Origin::Builder)
    }

    /// Checks every value, and what values say together.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: 0303 or 0304.
    ///
    /// # Panics
    ///
    /// If a value is shown as something that is no TOML: a defect.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut copy = self.clone();
        for key in KEYS {
            // What was set in a field did not pass the key's own check; its text does.
            let text = (key.show)(self);
            let value = DeValue::parse(&text).expect("what is shown is TOML");
            (key.read)(&mut copy, value.get_ref()).map_err(|wrong| {
                ConfigError::new(Code::CONFIG_VALUE, self.origin(key.path), key.path, wrong)
            })?;
        }
        check::contradictions(self)
    }

    /// Every key with its value and where it is from, `[server]` last.
    pub fn rows(&self) -> Vec<ConfigRow> {
        let rows = KEYS.iter().map(|key| ConfigRow {
            path: key.path.into(),
            value: (key.show)(self),
            origin: self.origin(key.path),
            help: key.help,
        });
        let server = self.server.iter().map(|(key, (value, origin))| ConfigRow {
            path: format!("{OPAQUE}.{key}"),
            value: value.clone(),
            origin: origin.clone(),
            help: "",
        });
        rows.chain(server).collect()
    }

    /// The configuration as a TOML document that reads back as the same.
    ///
    /// # Panics
    ///
    /// If a key has no section: a defect.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut last = String::new();
        for row in self.rows() {
            let (section, key) = row.path.split_once('.').expect("a path has a section");
            if section != last {
                let blank = if last.is_empty() { "" } else { "\n" };
                text.extend([blank, "[", section, "]\n"]);
                section.clone_into(&mut last);
            }
            text.extend([&*as_key(key), " = ", &row.value, "\n"]);
        }
        text
    }

    /// The keys of `[server]`: TOML text by key. The library does not read them.
    pub fn server(&self) -> impl Iterator<Item = (&str, &str)> {
        self.server.iter().map(|(key, (value, _))| (key.as_str(), value.as_str()))
    }

    /// The sizes of a stream.
    pub(crate) fn geometry(&self) -> Geometry {
        let frame_cap = u32::try_from(self.wal.frame_cap.0).unwrap_or(u32::MAX);
        let (slot_bytes, log_bytes) = (self.wal.slot_bytes.0, self.wal.log_bytes.0);
        Geometry { frame_cap, slot_bytes, log_bytes, ..Geometry::default() }
    }

    /// How streams are opened.
    pub(crate) fn logs(&self) -> WalLogs {
        let options = WalOptions { log_bytes: self.wal.log_bytes.0, ..WalOptions::default() };
        WalLogs { geometry: self.geometry(), options }
    }

    /// Where a key's value is from.
    pub(crate) fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Default)
    }

    /// Marks every key that differs from `before` as set by the builder.
    pub(crate) fn mark_changes(&mut self, before: &Self) {
        for key in KEYS {
            if (key.show)(self) != (key.show)(before) {
                self.origins.insert(key.path, Origin::Builder);
            }
        }
    }

    fn set_variable(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let origin = Origin::Variable(Arc::from(name));
        let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(()) };
        let rest = rest.to_ascii_lowercase();
        if let Some((section, key)) = rest.split_once("__") {
            return self.set_text(section, key, text, &origin).map_err(|error| {
                let unknown = error.code == Code::CONFIG_KEY;
                if unknown { error.code(Code::CONFIG_VARIABLE) } else { error }
            });
        }
        // Variables of other tools are left alone, but not a key with one underscore too few.
        let meant = KEYS.iter().find(|key| rest == key.path.replace('.', "_"));
        meant.map_or(Ok(()), |key| {
            let what = "two underscores stand between section and key";
            let error = ConfigError::new(Code::CONFIG_VARIABLE, origin, key.path, what);
            Err(error.fix(format!("write {}", key.variable())))
        })
    }

    fn set_text(
        &mut self,
        section: &str,
        name: &str,
        text: &str,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        let path = format!("{section}.{name}");
        if section == OPAQUE && !name.is_empty() {
            let parsed = DeValue::parse(text).is_ok();
            let quoted = toml::Value::String(text.into()).to_string();
            self.set_server(name, if parsed { text } else { &quoted }, origin.clone());
            return Ok(());
        }
        let Some(key) = Key::find(section, name) else {
            let what = format!("there is no key {path}");
            let error = ConfigError::new(Code::CONFIG_KEY, origin.clone(), &path, what);
            let near = nearest(&path, KEYS.iter().map(|key| key.path));
            let near = near.or_else(|| nearest(section, sections()));
            return Err(match near {
                Some(near) => error.fix(format!("it may be {near}")),
                None => error,
            });
        };
        let as_text = DeValue::String(text.into());
        let parsed = DeValue::parse(text).ok();
        let value = parsed.as_ref().map_or(&as_text, |value| value.get_ref());
        // A name or path may look like a number: what does not fit as TOML is tried as a string.
        let read = (key.read)(self, value)
            .or_else(|wrong| (key.read)(self, &as_text).map_err(|_also_wrong| wrong));
        read.map_err(|wrong| {
            ConfigError::new(Code::CONFIG_VALUE, origin.clone(), key.path, wrong)
        })?;
        self.origins.insert(key.path, origin.clone());
        Ok(())
    }

    fn set_server(&mut self, key: &str, text: &str, origin: Origin) {
        self.server.insert(key.into(), (text.trim().into(), origin));
    }
}

/// A name as the key of a document: in quotes if it needs them.
fn as_key(name: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.bytes().all(plain) {
        return Cow::Borrowed(name);
    }
    let line = toml::Table::from_iter([(name.to_owned(), toml::Value::Boolean(true))]).to_string();
    let key = line.trim_end().strip_suffix(" = true").expect("a table shows as its one line");
    Cow::Owned(key.to_owned())
}

/// Longest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[expect(clippy::disallowed_methods, reason = "configuration is loaded here and nowhere else")]
fn read_file(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read;
    let shown: Arc<str> = Arc::from(path.to_string_lossy());
    let fault = |what: String| {
        let origin = Origin::File { path: Arc::clone(&shown), line: 0 };
        ConfigError::new(Code::CONFIG_UNREADABLE, origin, "", what)
    };
    let file = std::fs::File::open(path).map_err(|error| fault(error.to_string()))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| fault(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(fault("it is longer than 1 MiB".into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_VARIABLES: [(String, String); 0] = [];

    fn from_text(text: &str) -> Result<Config, ConfigError> {
        Config::from_parts(Some(("bowline.toml", text)), NO_VARIABLES)
    }

    fn from_variable(name: &str, text: &str) -> Result<Config, ConfigError> {
        Config::from_parts(None, [(name.to_owned(), text.to_owned())])
    }

    #[test]
    fn defaults_agree_with_each_other_and_read_back() {
        let config = Config::default();
        assert_eq!(config.check(), Ok(()));
        let read = from_text(&config.to_toml()).expect("what is shown is read");
        for (before, after) in config.rows().iter().zip(read.rows()) {
            assert_eq!((&before.path, &before.value), (&after.path, &after.value));
        }
    }

    /// A value that differs from the default and is accepted, for each key.
    fn other(path: &str) -> &'static str {
        match path {
            "node.data_dir" => "/srv/other",
            "node.app_address" | "listen.advertise" => "db.example:80",
            "cluster.name" => "other",
            "cluster.peers" => "[{ id = 1, address = \"10.0.0.1:1\" }]",
            "cluster.leaders" => "spread",
            "node.id" | "cluster.shards" | "cores.count" | "wal.streams" => "2",
            "cluster.join"
            | "wal.allow_cow"
            | "raft.lease_reads"
            | "security.insecure"
            | "telemetry.per_shard" => "true",
            "cores.cpus" => "0-1",
            "wal.direct_io" => "off",
            "raft.clock_drift" | "state.resident" => "3%",
            "listen.peer" => "127.0.0.1:9",
            "wal.slot_bytes" => "32MiB",
            "wal.log_bytes" => "2GiB",
            "wal.frame_cap" | "state.delta" | "limits.parked" | "limits.core_budget" => "2MiB",
            "limits.shard_uncommitted" | "limits.transfer" => "8MiB",
            "raft.heartbeat" | "cores.spin" => "7ms",
            "raft.support" | "limits.op_timeout" | "limits.park" | "limits.drain_timeout" => "1s",
            _ => "/some/file",
        }
    }

    #[test]
    fn every_key_by_env() {
        let defaults = Config::default();
        for key in KEYS {
            let mut config = Config::default();
            let variable = key.variable();
            config.set_variable(&variable, other(key.path)).expect("the value is accepted");
            assert_ne!((key.show)(&config), (key.show)(&defaults), "{variable}");
            assert_eq!(config.origin(key.path), Origin::Variable(Arc::from(&*variable)));
            let changed = config.rows();
            let changed = changed.iter().filter(|row| row.origin != Origin::Default);
            assert_eq!(changed.count(), 1, "{variable} sets one key");
        }
    }

    #[test]
    fn every_key_by_file_and_by_set() {
        for key in KEYS {
            let mut by_set = Config::default();
            by_set.set(key.path, other(key.path)).expect("the value is accepted");
            let text = format!("[{}]\n{} = {}\n", key.section(), key.name(), (key.show)(&by_set));
            let mut by_file = Config::default();
            let document = Document { path: Arc::from("f"), text: &text };
            document.apply(&mut by_file).expect("the text is accepted");
            assert_eq!((key.show)(&by_file), (key.show)(&by_set), "{}", key.path);
            assert_eq!(by_file.origin(key.path).to_string(), "f:2");
            assert_eq!(by_set.origin(key.path), Origin::Builder);
        }
    }

    #[track_caller]
    fn fault(text: &str, code: Code, want: &str) {
        let error = from_text(text).expect_err("the text is refused");
        assert_eq!(error.code, code, "{error:#}");
        assert_eq!(format!("{error:#}\n  fix: {}", error.fix), want);
    }

    #[test]
    fn five_faults_have_carets() {
        fault(
            "[cluster]\nshards = 16 17\n",
            Code::CONFIG_SYNTAX,
            "bowline.toml:2: string values must be quoted, expected literal string\n\
             2 | shards = 16 17\n  |          ^^^^^\n  \
             fix: correct the line that is shown",
        );
        fault(
            "[cluster]\nshard = 16\n",
            Code::CONFIG_KEY,
            "bowline.toml:2: cluster.shard: [cluster] has no key shard\n\
             2 | shard = 16\n  | ^^^^^\n  \
             fix: write shards, or remove the key",
        );
        fault(
            "[clustr]\nshards = 16\n",
            Code::CONFIG_KEY,
            "bowline.toml:1: clustr: there is no section [clustr]\n\
             1 | [clustr]\n  |  ^^^^^^\n  \
             fix: write [cluster]",
        );
        fault(
            "[limits]\nop_timeout = 5 # s\n",
            Code::CONFIG_VALUE,
            "bowline.toml:2: limits.op_timeout: expected a time with its unit, such as \"5ms\", \
             found integer\n\
             2 | op_timeout = 5 # s\n  |              ^\n  \
             fix: give a value as the message says; sizes and times carry a unit: \"64MiB\", \
             \"5ms\"",
        );
        fault(
            "# shards\n\n  [cluster]\n  shards = 50000",
            Code::CONFIG_VALUE,
            "bowline.toml:4: cluster.shards: 50000 is outside 1 to 16384\n\
             4 |   shards = 50000\n  |            ^^^^^\n  \
             fix: give a value as the message says; sizes and times carry a unit: \"64MiB\", \
             \"5ms\"",
        );
    }

    #[test]
    fn later_sources_win() {
        let text = "[cluster]\nshards = 4\nname = \"a\"\n";
        let variable = ("BOWLINE_CLUSTER__SHARDS".to_owned(), "8".to_owned());
        let mut config = Config::from_parts(Some(("f", text)), [variable]).expect("accepted");
        assert_eq!((config.cluster.shards, &*config.cluster.name), (8, "a"));
        config.set("cluster.shards", "9").expect("accepted");
        assert_eq!(config.cluster.shards, 9);
        let before = config.clone();
        config.node.id = 7;
        config.mark_changes(&before);
        assert_eq!(config.origin("node.id"), Origin::Builder);
        assert_eq!(config.origin("cluster.name").to_string(), "f:3");
    }

    #[test]
    fn a_variable_that_is_no_key_is_named() {
        for (name, fix) in [
            ("BOWLINE_CLUSTER__SHARD", "it may be cluster.shards"),
            ("BOWLINE_CLUSTR__SHARDS", "it may be cluster.shards"),
            ("BOWLINE_NODE_DATA_DIR", "write BOWLINE_NODE__DATA_DIR"),
        ] {
            let error = from_variable(name, "1").expect_err("refused");
            assert_eq!((error.code, &*error.fix), (Code::CONFIG_VARIABLE, fix), "{error}");
            assert!(error.to_string().starts_with(name), "{error}");
        }
        let error = from_variable("BOWLINE_WAL__SLOT_BYTES", "64").expect_err("refused");
        assert_eq!(error.code, Code::CONFIG_VALUE);
        assert_eq!(from_variable("BOWLINE_NO_URING", "1"), Ok(Config::default()));
    }

    /// The caret's column and width were format arguments of any size, and those above 65,535
    /// panic.
    #[test]
    fn a_fault_far_to_the_right_is_shown_too() {
        let far = " ".repeat(70_000);
        for text in [format!("[node]\nid ={far}{far}x"), format!("[node]\nid = \"{far}\"")] {
            let error = from_text(&text).expect_err("refused");
            let lines: Vec<_> = error.excerpt.lines().map(str::len).collect();
            assert!(lines.len() == 2 && lines.iter().all(|len| *len < 250), "{lines:?}");
        }
    }

    #[test]
    fn the_server_section_is_kept_and_not_read() {
        let text = "[server]\nresp = \"127.0.0.1:7400\"\nusers = [{ name = \"a\" }]\n";
        let variable = ("BOWLINE_SERVER__ADMIN".to_owned(), "127.0.0.1:1".to_owned());
        let config = Config::from_parts(Some(("f", text)), [variable]).expect("accepted");
        let server: Vec<_> = config.server().collect();
        assert_eq!(
            server,
            [
                ("admin", "\"127.0.0.1:1\""),
                ("resp", "\"127.0.0.1:7400\""),
                ("users", "[{ name = \"a\" }]"),
            ]
        );
        let again = from_text(&config.to_toml()).expect("what is shown is read");
        assert_eq!(again.server().collect::<Vec<_>>(), server);
    }

    /// Such keys were shown without quotes, and the document was none.
    #[test]
    fn a_server_key_that_needs_quotes_is_shown_in_quotes() {
        let text = "[server]\n\"a b\" = 1\n\"c.d\" = 2\n\"\" = 3\n'\"' = 4\n\"\\n\" = 5\n";
        let config = from_text(text).expect("accepted");
        let again = from_text(&config.to_toml()).expect("what is shown is read");
        assert!(again.server().eq([
            ("", "3"),
            ("\n", "5"),
            ("\"", "4"),
            ("a b", "1"),
            ("c.d", "2")
        ]));
    }

    /// The text of such a table is its header, which is no value.
    #[test]
    fn a_server_key_that_is_a_section_of_its_own_is_refused() {
        for text in ["[server.sub]\na = 1", "[[server.list]]\na = 1", "[server]\na.b = 1"] {
            let error = from_text(text).expect_err("refused");
            assert_eq!(error.code, Code::CONFIG_VALUE, "{error}");
        }
    }

    #[track_caller]
    fn contradiction(text: &str, key: &str) {
        let error = from_text(text).expect_err("refused");
        assert_eq!((error.code, &*error.key), (Code::CONFIG_CONTRADICTION, key), "{error}");
    }

    #[test]
    fn keys_that_contradict_each_other_are_refused() {
        contradiction("[raft]\nheartbeat = \"200ms\"", "raft.support");
        contradiction("[wal]\nslot_bytes = \"1MiB\"", "wal.frame_cap");
        contradiction("[cluster]\nshards = 16384\n[wal]\nslot_bytes = \"8MiB\"", "cluster.shards");
        contradiction("[wal]\nslot_bytes = \"512MiB\"", "wal.log_bytes");
        contradiction("[wal]\nframe_cap = \"65537B\"", "wal.frame_cap");
        contradiction("[wal]\nslot_bytes = \"64000001B\"", "wal.slot_bytes");
        contradiction("[limits]\nshard_uncommitted = \"512KiB\"", "limits.shard_uncommitted");
        contradiction("[tls]\ncert_file = \"c\"", "tls.cert_file");
        let whole = "[tls]\ncert_file = \"c\"\nkey_file = \"k\"\nca_file = \"a\"";
        if cfg!(feature = "tls") {
            assert!(from_text(whole).is_ok());
        } else {
            contradiction(whole, "tls.cert_file");
        }
        let peers = "peers = [{ id = 2, address = \"a:1\" }]";
        contradiction(&format!("[cluster]\n{peers}"), "node.id");
        contradiction(&format!("[node]\nid = 2\n[cluster]\njoin = true\n{peers}"), "cluster.join");
        let twice = "[cluster]\npeers = [{ id = 1, address = \"a\" }, { id = 1, address = \"b\" }]";
        contradiction(twice, "cluster.peers");
    }

    #[test]
    fn a_field_is_held_to_its_key() {
        let mut config = Config::default();
        config.cluster.shards = 0;
        let error = config.check().expect_err("refused");
        assert_eq!((error.code, &*error.key), (Code::CONFIG_VALUE, "cluster.shards"));
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Config::load(Some(Path::new("/no/such/file"))).expect_err("refused");
        assert_eq!(error.code, Code::CONFIG_UNREADABLE);
        assert!(error.to_string().starts_with("/no/such/file: "), "{error}");
    }
}
