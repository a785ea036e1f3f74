//! What goes wrong with an operation, and what tests ask to go wrong.

use super::super::profile::Fault;
use super::{Action, Keep};
use crate::Kind;

/// How an operation will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Fate {
    /// As it should.
    Good,
    /// With an error.
    Fails(Kind),
    /// Acknowledged and not done.
    Lost,
    /// Done somewhere else.
    Misdirected,
    /// Answered with old data.
    Stale,
}

/// A crash that a test ordered for the start of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct CrashAt {
    /// Operations that change the disk, by the disk's count.
    pub(in super::super) change: u64,
    pub(in super::super) power: bool,
}

/// Faults that a test asked for.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Injected {
    /// Which operation of a kind, counted from now, ends how.
    pub(in super::super) ordered: Vec<(Target, u64, Fate)>,
    /// Bytes that fit; none: no bound.
    pub(in super::super) capacity: Option<u64>,
    /// No operation completes before.
    pub(in super::super) stuck_until: u64,
    /// Operations started before take `slow_factor` times as long.
    pub(in super::super) slow_until: u64,
    pub(in super::super) slow_factor: u64,
    /// What the next power loss leaves.
    pub(in super::super) keep: Keep,
    pub(in super::super) crash_at: Option<CrashAt>,
}

/// Operations of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Target {
    Write,
    Read,
    Sync,
    SyncDir,
    /// Create, fill, rename, remove, make a directory.
    Names,
    Open,
}

impl Target {
    /// The kind of an operation.
    pub(in super::super) fn of(action: &Action) -> Option<Self> {
        match action {
            Action::Write { .. } | Action::WriteWhole { .. } => Some(Self::Write),
            Action::Read { .. } | Action::ReadWhole { .. } | Action::Map { .. } => Some(Self::Read),
            Action::Sync { .. } => Some(Self::Sync),
            Action::SyncDir { .. } => Some(Self::SyncDir),
            Action::Create { .. }
            | Action::Fill { .. }
            | Action::MakeDir { .. }
            | Action::Rename { .. }
            | Action::Remove { .. } => Some(Self::Names),
            Action::Open { .. } => Some(Self::Open),
            Action::List { .. } | Action::Space => None,
        }
    }

    /// The classes that the simulator draws for it, with how it then ends.
    pub(in super::super) fn drawn(self) -> &'static [(Fault, Fate)] {
        match self {
            Self::Write => &[
                (Fault::WriteError, Fate::Fails(Kind::Io)),
                (Fault::ShortWrite, Fate::Fails(Kind::Short)),
                (Fault::NoSpace, Fate::Fails(Kind::NoSpace)),
                (Fault::LostWrite, Fate::Lost),
                (Fault::Misdirected, Fate::Misdirected),
            ],
            Self::Read => {
                &[(Fault::ReadError, Fate::Fails(Kind::Io)), (Fault::StaleRead, Fate::Stale)]
            },
            Self::Sync | Self::SyncDir => &[(Fault::SyncError, Fate::Fails(Kind::Io))],
            Self::Names => &[(Fault::NoSpace, Fate::Fails(Kind::NoSpace))],
            Self::Open => &[],
        }
    }
}

impl Injected {
    /// Takes the fate that a test ordered for this operation, and counts it.
    pub(in super::super) fn take(&mut self, target: Target) -> Option<Fate> {
        let mut taken = None;
        self.ordered.retain_mut(|(its, left, fate)| {
            if *its != target {
                return true;
            }
            *left -= 1;
            if *left == 0 {
                taken = Some(*fate);
            }
            *left > 0
        });
        taken
    }
}
