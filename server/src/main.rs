//! The `bowline` binary: a node, a cluster to try things out, what an operator asks a machine, a
//! configuration and a data directory, and how fast it is.
//!
//! It uses the public API of `bowline` alone: whatever it can do, an application can do too.
//!
//! Exit status: 0 it is as it should be, 1 it is not, 2 the call was wrong. `wal verify` has its
//! own: 0 clean, 1 a torn tail, 2 damage.

mod bench;
mod cli;
mod config_cmd;
mod dev;
mod doctor;
mod door;
mod explain;
mod orders;
mod out;
mod scratch;
mod serve;
mod settings;
mod wal_cmd;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Bench, Cli, Command, Config, Wal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            out::complain(&error);
            ExitCode::FAILURE
        },
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    // A node says itself what is logged.
    if !matches!(cli.command, Command::Serve(_)) {
        out::log(out::filter(if cli.verbose { "info" } else { "warn" })?);
    }
    match &cli.command {
        Command::Serve(ask) => serve::run(ask),
        Command::Dev(ask) => dev::run(ask),
        Command::Doctor(ask) => doctor::run(ask),
        Command::Config(Config::Check(ask)) => config_cmd::check(ask),
        Command::Config(Config::Print(ask)) => config_cmd::print(ask),
        Command::Explain(ask) => explain::run(ask),
        Command::Wal(Wal::Dump(ask)) => wal_cmd::dump::run(ask),
        Command::Wal(Wal::Verify(ask)) => wal_cmd::verify::run(ask),
        Command::Wal(Wal::Stat(ask)) => wal_cmd::stat::run(ask),
        Command::Bench(Bench::Disk(ask)) => bench::disk::run(ask),
        Command::Bench(Bench::Kv(ask)) => bench::kv::run(ask),
    }
}

/// Whoever read the output has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
