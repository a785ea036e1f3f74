//! The one public [`Error`], its codes, and what to do about each.
//!
//! `{}` is one line with the code. `{:#}` adds cause and fix, so that the remedy stands in every
//! copy of a log.
//!
//! I1 `is_retryable()` implies `!maybe_applied()`.

mod code;
mod config;
mod finding;
mod request;
mod table;

use core::fmt;
use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use bowline_raft::{NodeId, ShardId, Term};
use bowline_statemachine::BadCommand;

pub use code::Code;
pub use config::{ConfigError, ConfigFault, Origin};
pub use finding::{Finding, Severity};
pub use request::{Budget, Failure, NotReady, RequestError, ShardFailure, Unready};
pub use table::{ErrorRow, ErrorTable};

/// Why an operation failed, as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::error_impl_error, reason = "it is the one error that callers meet")]
pub enum Error {
    /// Another member leads the shard. Certainly not applied.
    NotLeader {
        /// The shard.
        shard: ShardId,
        /// Where the leader's application answers, or its peer address; `Some` whenever a leader
        /// is known.
        leader_address: Option<Arc<str>>,
        /// The leader.
        leader: Option<Arc<LeaderHint>>,
    },
    /// No leader became known while the request was parked. Not applied.
    NoLeader {
        /// The shard.
        shard: ShardId,
    },
    /// A budget is spent; nothing was appended.
    Busy {
        /// Which.
        what: Budget,
        /// When to try again.
        retry_after: Duration,
    },
    /// The deadline passed.
    Timeout {
        /// The shard.
        shard: ShardId,
        /// Whether the write is in the log and may still be applied.
        maybe_applied: bool,
    },
    /// Not every shard has a leader whose first entry is applied.
    NotReady(Arc<NotReady>),
    /// The engine is stopped or was while the operation was under way.
    Stopped {
        /// Whether the write may be in the log.
        maybe_applied: bool,
        /// Why it stopped, if it failed.
        cause: Option<Arc<Failure>>,
    },
    /// The shard cannot answer here.
    Shard {
        /// The shard.
        shard: ShardId,
        /// Why.
        why: ShardFailure,
    },
    /// The call is wrong; it changed nothing.
    Request(RequestError),
    /// The configuration is refused.
    Config(Arc<ConfigError>),
    /// The machine or sandbox does not allow it.
    Environment(Arc<Finding>),
    /// The data directory cannot be opened.
    DataDir(Arc<Finding>),
    /// An address, certificate or peer is refused.
    Net(Arc<Finding>),
}

const _: () = assert!(size_of::<Error>() <= 64, "errors travel in tickets of 128 bytes");

/// Who leads a shard, as far as it is known here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderHint {
    /// The node.
    pub id: NodeId,
    /// Its term.
    pub term: Term,
    /// Where its application answers (`node.app_address`).
    pub app: Option<Arc<str>>,
    /// The Redis address of the shard's home core.
    pub resp: Option<Arc<str>>,
    /// Its peer address.
    pub peer: Option<Arc<str>>,
}

/// What to know about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Help {
    /// Why it happened.
    pub cause: Cow<'static, str>,
    /// What to do.
    pub fix: Cow<'static, str>,
}

impl Error {
    /// Its number.
    pub fn code(&self) -> Code {
        match self {
            Self::NotLeader { .. } => Code::NOT_LEADER,
            Self::NoLeader { .. } => Code::NO_LEADER,
            Self::Busy { .. } => Code::BUSY,
            Self::Timeout { .. } => Code::TIMEOUT,
            Self::NotReady(_) => Code::NOT_READY,
            Self::Stopped { .. } => Code::STOPPED,
            Self::Shard { why, .. } => why.code(),
            Self::Request(error) => error.code(),
            Self::Config(error) => error.code,
            Self::Environment(finding) | Self::DataDir(finding) | Self::Net(finding) => {
                finding.code
            },
        }
    }

    /// Whether this write could still take effect.
    pub fn maybe_applied(&self) -> bool {
        match self {
            Self::Timeout { maybe_applied, .. } | Self::Stopped { maybe_applied, .. } => {
                *maybe_applied
            },
            Self::Shard { why, .. } => why.maybe_applied(),
            Self::NotLeader { .. }
            | Self::NoLeader { .. }
            | Self::Busy { .. }
            | Self::NotReady(_)
            | Self::Request(_)
            | Self::Config(_)
            | Self::Environment(_)
            | Self::DataDir(_)
            | Self::Net(_) => false,
        }
    }

    /// Whether the same call may succeed later, and did certainly nothing so far (I1).
    pub fn is_retryable(&self) -> bool {
        let transient = match self {
            Self::NotLeader { .. }
            | Self::NoLeader { .. }
            | Self::Busy { .. }
            | Self::Timeout { .. }
            | Self::NotReady(_)
            | Self::Stopped { .. } => true,
            Self::Shard { why, .. } => match why {
                ShardFailure::DiskFull | ShardFailure::LogDamaged | ShardFailure::RunDamaged => {
                    true
                },
                ShardFailure::LogWrite
                | ShardFailure::Halted { .. }
                | ShardFailure::Removed
                | ShardFailure::Invariant(_) => false,
            },
            Self::Request(_)
            | Self::Config(_)
            | Self::Environment(_)
            | Self::DataDir(_)
            | Self::Net(_) => false,
        };
        transient && !self.maybe_applied()
    }

    /// Who leads the shard, if another member does and is known.
    pub fn leader_hint(&self) -> Option<&LeaderHint> {
        if let Self::NotLeader { leader, .. } = self { leader.as_deref() } else { None }
    }

    /// Cause and fix.
    pub fn help(&self) -> Help {
        let row = ErrorTable::row(self.code());
        match self {
            Self::Environment(finding) | Self::DataDir(finding) | Self::Net(finding) => Help {
                cause: Cow::Owned(finding.cause.clone()),
                fix: Cow::Owned(finding.fix.clone()),
            },
            Self::Config(error) => {
                Help { cause: Cow::Borrowed(row.cause), fix: Cow::Owned(error.fix.clone()) }
            },
            Self::Stopped { cause: Some(cause), .. } => {
                Help { cause: Cow::Owned(cause.to_string()), fix: Cow::Borrowed(row.fix) }
            },
            Self::NotLeader { .. }
            | Self::NoLeader { .. }
            | Self::Busy { .. }
            | Self::Timeout { .. }
            | Self::NotReady(_)
            | Self::Stopped { .. }
            | Self::Shard { .. }
            | Self::Request(_) => {
                Help { cause: Cow::Borrowed(row.cause), fix: Cow::Borrowed(row.fix) }
            },
        }
    }

    /// Stopped before anything was done.
    pub(crate) const fn stopped() -> Self {
        Self::Stopped { maybe_applied: false, cause: None }
    }

    /// A defect that no shard is to blame for.
    pub(crate) const fn broken(what: &'static str) -> Self {
        Self::Shard { shard: ShardId(0), why: ShardFailure::Invariant(what) }
    }

    /// An argument is not accepted.
    pub(crate) const fn invalid(what: &'static str) -> Self {
        Self::Request(RequestError::Invalid(what))
    }

    fn write_line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { shard, leader_address: Some(address), .. } => {
                write!(f, "shard {shard} is led elsewhere, at {address}")
            },
            Self::NotLeader { shard, leader_address: None, .. } => {
                write!(f, "shard {shard} is not led by this node")
            },
            Self::NoLeader { shard } => write!(f, "shard {shard} has no leader"),
            Self::Busy { what, retry_after } => {
                write!(f, "busy: the {what} budget is spent; try again in {retry_after:?}")
            },
            Self::Timeout { shard, maybe_applied: true } => {
                write!(
                    f,
                    "the deadline on shard {shard} has passed; the write may still be applied"
                )
            },
            Self::Timeout { shard, maybe_applied: false } => {
                write!(f, "the deadline on shard {shard} has passed; nothing was applied")
            },
            Self::NotReady(which) => write!(f, "{which}"),
            Self::Stopped { maybe_applied, cause } => {
                f.write_str("the engine is stopped")?;
                if *maybe_applied {
                    f.write_str("; the write may have been applied")?;
                }
                cause.as_ref().map_or(Ok(()), |cause| write!(f, ": {cause}"))
            },
            Self::Shard { shard, why } => write!(f, "shard {shard}: {why}"),
            Self::Request(error) => write!(f, "{error}"),
            Self::Config(error) => write!(f, "{error}"),
            Self::Environment(finding) | Self::DataDir(finding) | Self::Net(finding) => {
                f.write_str(&finding.what)
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.code())?;
        self.write_line(f)?;
        if f.alternate() {
            if let Self::Config(error) = self
                && !error.excerpt.is_empty()
            {
                write!(f, "\n{}", error.excerpt)?;
            }
            let help = self.help();
            write!(f, "\n  cause: {}\n  fix:   {}", help.cause, help.fix)?;
            if let Self::Environment(finding) = self {
                for other in &finding.more {
                    write!(f, "\n{other:#}")?;
                }
            }
        }
        Ok(())
    }
}

impl core::error::Error for Error {}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<BadCommand> for Error {
    fn from(bad: BadCommand) -> Self {
        Self::Request(bad.into())
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_raft::LogIndex;

    fn one_of_each() -> Vec<Error> {
        let shard = ShardId(3);
        let finding = Arc::new(Finding::error(Code::URING_MISSING, "no io_uring"));
        let failures = [
            ShardFailure::LogWrite,
            ShardFailure::DiskFull,
            ShardFailure::LogDamaged,
            ShardFailure::RunDamaged,
            ShardFailure::Halted { index: LogIndex(7), message: Arc::from("boom") },
            ShardFailure::Invariant("x"),
        ];
        let mut all = vec![
            Error::NotLeader { shard, leader_address: None, leader: None },
            Error::NoLeader { shard },
            Error::Busy { what: Budget::Core, retry_after: Duration::from_millis(5) },
            Error::Timeout { shard, maybe_applied: false },
            Error::Timeout { shard, maybe_applied: true },
            Error::NotReady(Arc::new(NotReady::new(vec![(shard, Unready::NoLeader)], 2, 16))),
            Error::Stopped { maybe_applied: false, cause: None },
            Error::Stopped { maybe_applied: true, cause: None },
            Error::Request(RequestError::OnCore),
            Error::from(ConfigError::new(Code::CONFIG_KEY, Origin::Default, "a.b", "unknown")),
            Error::Environment(Arc::clone(&finding)),
            Error::DataDir(Arc::clone(&finding)),
            Error::Net(finding),
        ];
        all.extend(failures.into_iter().map(|why| Error::Shard { shard, why }));
        all
    }

    #[test]
    fn error_fits_64_bytes() {
        assert!(size_of::<Error>() <= 64);
        assert!(size_of::<Result<u64, Error>>() <= 64);
    }

    #[test]
    fn what_may_be_retried_was_certainly_not_applied() {
        for error in one_of_each() {
            assert!(!error.is_retryable() || !error.maybe_applied(), "{error}");
        }
    }

    #[test]
    fn one_line_has_the_code_and_the_long_form_the_remedy() {
        for error in one_of_each() {
            let line = error.to_string();
            assert!(line.starts_with(&format!("{}: ", error.code())), "{line}");
            assert!(!line.contains('\n'), "{line}");
            let long = format!("{error:#}");
            assert!(long.starts_with(&line), "{long}");
            assert!(long.contains("\n  cause: "), "{long}");
            assert!(long.contains("\n  fix:   "), "{long}");
        }
    }

    #[test]
    fn not_ready_names_eight_shards_and_counts_the_rest() {
        let shards = (0..8).map(|at| (ShardId(at), Unready::NoLeader)).collect();
        let text = NotReady::new(shards, 10, 16).to_string();
        assert!(text.starts_with("10 of 16 shards are not ready: shard 0: no leader"), "{text}");
        assert!(text.ends_with(" and 2 more"), "{text}");
    }

    #[test]
    fn a_known_leader_comes_with_its_address() {
        let hint = Arc::new(LeaderHint { id: NodeId(2), term: Term(4), ..LeaderHint::default() });
        let error = Error::NotLeader {
            shard: ShardId(1),
            leader_address: Some(Arc::from("10.0.0.2:8080")),
            leader: Some(Arc::clone(&hint)),
        };
        assert_eq!(error.leader_hint(), Some(&*hint));
        assert_eq!(error.to_string(), "BOW-0503: shard 1 is led elsewhere, at 10.0.0.2:8080");
    }
}
