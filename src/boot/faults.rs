//! What can be wrong at a start, as the caller reads it.

use core::net::SocketAddr;
use std::sync::Arc;

use bowline_env::{ClaimError, CoreFailure, EnvError, Facts, Kind};
use bowline_wal::OpenError;

use crate::config::{ByteCount, Config};
use crate::node_file::{NodeFile, NodeFileError, check_frame_cap as check_cap};
use crate::{Code, Error, Finding, Severity};

/// The first error of the preflight, with the other findings attached.
pub(super) fn preflight(config: &Config, facts: &Facts) -> Result<(), Error> {
    let report = crate::preflight::preflight(config, facts);
    for finding in &report.findings {
        if finding.severity == Severity::Warning {
            tracing::warn!(code = %finding.code, "{}", finding.what);
        }
    }
    report.into_result()
}

/// The directory cannot be claimed.
pub(super) fn claim(facts: &Facts, error: &ClaimError) -> Error {
    let path = &facts.dir.path;
    let finding = match error {
        ClaimError::InUse { .. } => {
            Finding::error(Code::DIR_IN_USE, format!("data_dir {path} is {error}"))
        },
        ClaimError::NotWritable { .. } | ClaimError::NotADirectory | _ => {
            Finding::error(Code::DIR_UNUSABLE, format!("data_dir {path}: {error}"))
        },
    };
    Error::DataDir(Arc::new(finding))
}

/// A core could not be started.
pub(super) fn spawn(core: u16, error: &EnvError) -> Error {
    let what = format!("core {core} could not be started: {error}");
    Error::Environment(Arc::new(Finding::error(Code::CORE_PANIC, what)))
}

/// A core ended before it said anything: its panic is told when it is joined.
pub(super) fn core_ended(core: u16) -> Error {
    let what = format!("core {core} ended while it was starting");
    Error::Environment(Arc::new(Finding::error(Code::CORE_PANIC, what)))
}

/// Adds what a core said at its end to an error that only knows that it ended.
pub(super) fn with_panic(error: Error, failure: Option<CoreFailure>) -> Error {
    match (error, failure) {
        (Error::Environment(finding), Some(failure)) if finding.code == Code::CORE_PANIC => {
            let what = format!("{}: {}", finding.what, failure.message);
            Error::Environment(Arc::new(Finding::error(Code::CORE_PANIC, what)))
        },
        (error, _) => error,
    }
}

/// The machine refused something of the directory.
pub(super) fn env(error: &EnvError) -> Error {
    let code = if error.kind == Kind::NoSpace {
        Code::DISK_FULL
    } else if error.kind == Kind::Unsupported {
        Code::DIRECT_IO
    } else {
        Code::DIR_UNUSABLE
    };
    Error::DataDir(Arc::new(Finding::error(code, format!("the data directory fails: {error}"))))
}

/// The address for peers cannot be listened at.
pub(super) fn listen(at: SocketAddr, error: &EnvError) -> Error {
    let taken = error.kind == Kind::Exists;
    let code = if taken { Code::ADDRESS_IN_USE } else { Code::CANNOT_BIND };
    let finding = Finding::error(code, format!("cannot listen for peers at {at}: {error}"));
    Error::Net(Arc::new(finding.fact("listen.peer", at)))
}

/// A stream of a core cannot be opened.
pub(super) fn log(core: u16, error: &OpenError) -> Error {
    let what = format!("core {core}: {error}");
    let code = match error {
        OpenError::Env(error) => return env(error),
        OpenError::TooNew { .. } => Code::FORMAT_NEW,
        OpenError::Log(_) => Code::LOG_WRITE,
        OpenError::HoldsEntries => Code::NODE_DAMAGED,
        OpenError::Foreign(_)
        | OpenError::Unreadable
        | OpenError::UnknownRecord { .. }
        | OpenError::InUse
        | OpenError::Numbers
        | OpenError::Geometry(_)
        | OpenError::Full
        | _ => Code::DIR_UNUSABLE,
    };
    Error::DataDir(Arc::new(Finding::error(code, what)))
}

/// NODE is not readable.
pub(super) fn node_file(error: NodeFileError) -> Error {
    Error::DataDir(Arc::new(error.finding()))
}

/// A peer met a later life of the node than this directory knows of.
pub(super) fn old_copy() -> Error {
    let what = "a peer met a life of this node that is later than its data directory";
    Error::DataDir(Arc::new(Finding::error(Code::OLD_COPY, what)))
}

/// NODE says something else than the configuration or the build.
pub(super) fn check_identity(
    config: &Config,
    node: &NodeFile,
    machine: (&str, u16),
) -> Result<(), Error> {
    node.check(machine, config).map_err(|finding| Error::DataDir(Arc::from(finding)))
}

/// The logs were made with another frame cap than the configuration says.
pub(super) fn check_frame_cap(config: &Config, founded: ByteCount) -> Result<(), Error> {
    check_cap(founded, config).map_err(|finding| Error::DataDir(Arc::from(finding)))
}
