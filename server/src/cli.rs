//! The command line.

use std::path::PathBuf;

use bowline::Code;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// An embedded, replicated, sharded and durable store: its tools.
#[derive(Debug, Parser)]
#[command(name = "bowline", version)]
pub(crate) struct Cli {
    /// What the library logs, to standard error.
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a node until it is told to end (SIGTERM, SIGINT).
    Serve(Serve),
    /// Runs the nodes of a cluster on this machine, to try things out.
    Dev(Dev),
    /// Says whether a node can run here, and how fast the disk is.
    Doctor(Doctor),
    /// Checks or shows a configuration.
    #[command(subcommand)]
    Config(Config),
    /// Says what an error code means, why it happens and what to do.
    Explain(Explain),
    /// Reads the logs of a data directory; also beside a running node.
    #[command(subcommand)]
    Wal(Wal),
    /// Measures the disk, or the engine on it.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The configuration file; else `$BOWLINE_CONFIG`, else `$CONFIG_PATH`, else defaults.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// Also end when standard input does: whoever started this node is gone.
    #[arg(long)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Shards of the cluster; counts when the directory is new.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) shards: u32,
    /// Where the nodes' directories, configurations and logs are kept; a fresh directory, removed
    /// at the end, if none is named.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// The data directory; `node.data_dir` of the configuration if none is named.
    pub(crate) dir: Option<PathBuf>,
    /// The configuration file.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// Leave the disk alone.
    #[arg(long)]
    pub(crate) no_probe: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Says whether a configuration is acceptable.
    Check(ConfigAsk),
    /// Prints every key with its value, as TOML.
    Print(ConfigPrint),
}

#[derive(Args, Debug)]
pub(crate) struct ConfigAsk {
    /// The file; else `$BOWLINE_CONFIG`, else `$CONFIG_PATH`, else defaults and environment.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ConfigPrint {
    #[command(flatten)]
    pub(crate) ask: ConfigAsk,
    /// Say where each value is from.
    #[arg(long)]
    pub(crate) origin: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// As in `BOW-0101`; every code if none is named.
    #[arg(value_parser = code)]
    pub(crate) code: Option<Code>,
}

fn code(text: &str) -> Result<Code, String> {
    Code::parse(text).ok_or_else(|| format!("this build has no error code {text}"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Wal {
    /// Prints frames and their records.
    Dump(WalDump),
    /// Says what is bad: exit status 0 clean, 1 a torn tail, 2 damage.
    Verify(WalAsk),
    /// Prints slots, live bytes, and the shards that hold most of them.
    Stat(WalAsk),
}

#[derive(Args, Debug)]
pub(crate) struct WalAsk {
    /// A data directory, or the directory of one stream.
    pub(crate) dir: PathBuf,
    /// One JSON object for each stream.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WalDump {
    /// A data directory, or the directory of one stream.
    pub(crate) dir: PathBuf,
    /// Only records of this shard, and frames that have some.
    #[arg(long)]
    pub(crate) shard: Option<u64>,
    /// The first frame, by LSN.
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    pub(crate) from: u64,
    /// The last frame, by LSN.
    #[arg(long, value_name = "LSN", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) to: u64,
    /// The bytes of each frame.
    #[arg(long, conflicts_with = "json")]
    pub(crate) hex: bool,
    /// One JSON object for each frame.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Writes and syncs without the engine: what a durable put cannot beat.
    Disk(BenchDisk),
    /// Durable puts, and reads, of nodes in this process; the raw disk beside them.
    Kv(BenchKv),
}

#[derive(Args, Debug)]
pub(crate) struct BenchDisk {
    /// A directory on the disk to measure.
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Lone writes of each way.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) writes: u32,
    /// MiB through the pipe for each way and depth.
    #[arg(long, default_value_t = 64)]
    pub(crate) pipe: u32,
    /// The CPU to run on; the first allowed one if none is named.
    #[arg(long)]
    pub(crate) cpu: Option<u32>,
    /// A file for one JSON object a line, or `-`.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// The operation that clients make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Durable writes.
    Put,
    /// Reads of keys that are there.
    Get,
}

/// How fresh reads must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fresh {
    /// They see every acknowledged write.
    Linearizable,
    /// The same while clocks drift little; sets `raft.lease_reads`.
    Lease,
    /// What the node has applied.
    Eventual,
}

#[derive(Args, Debug)]
pub(crate) struct BenchKv {
    /// What the clients do.
    #[arg(long, value_enum, default_value_t = Workload::Put)]
    pub(crate) workload: Workload,
    /// Of a hundred operations, how many are reads; the others are puts.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: Option<u8>,
    /// How fresh reads must be.
    #[arg(long, value_enum, default_value_t = Fresh::Linearizable)]
    pub(crate) consistency: Fresh,
    /// Clients, each with one operation outstanding.
    #[arg(long, default_value_t = 64, value_parser = positive)]
    pub(crate) clients: usize,
    /// Threads that the clients share.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub(crate) threads: usize,
    /// Run the clients on the shards' own cores.
    #[arg(long, conflicts_with_all = ["threads", "rate"])]
    pub(crate) on_core: bool,
    /// Bytes of a value; a key has 8.
    #[arg(long, default_value_t = 256)]
    pub(crate) value: usize,
    /// Distinct keys.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Shards of the cluster.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(crate) shards: u32,
    /// Nodes of the cluster, all in this process; clients talk to the one that leads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Cores of each node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cores: u32,
    /// Seconds that are measured in each round.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Seconds before them.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// Rounds, each with the probe before and after it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Operations a second that are due, whatever the answers do (open loop).
    #[arg(long, value_parser = seconds)]
    pub(crate) rate: Option<f64>,
    /// Where a fresh directory is made and removed; the system's temporary directory by default.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// A configuration file; the options above win over it.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// One more key, as in `wal.log_bytes=256MiB`.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
    /// A file for one JSON object a line, or `-`.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e9 => Ok(value),
        Ok(_) => Err("a number above 0".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
