//! What can be asked of a disk, and what it answers.

use bytes::Bytes;

use super::super::slab::Key;
use super::super::u64_of;
use super::Page;
use crate::{BLOCK, Name, Op as Call, SharedBuf};

/// What an operation does when it completes.
#[derive(Clone, Debug)]
pub(in super::super) enum Action {
    Write { file: Key, first: usize, pages: Vec<Page>, synced: bool },
    Read { file: Key, at: u64, len: usize },
    Sync { file: Key, mark: u64 },
    Open { name: Name },
    Create { name: Name },
    Fill { name: Name, len: u64, rate: u64 },
    WriteWhole { name: Name, content: Bytes },
    ReadWhole { name: Name, len_max: usize },
    MakeDir { name: Name },
    Rename { from: Name, to: Name },
    Remove { name: Name },
    SyncDir { dir: Option<Name>, mark: u64 },
    List { dir: Option<Name> },
    Space,
    Map { name: Name, at: u64, len: usize },
}

impl Action {
    /// The call, for errors.
    pub(in super::super) fn call(&self) -> Call {
        match self {
            Self::Write { .. } | Self::WriteWhole { .. } => Call::Write,
            Self::Read { .. } | Self::ReadWhole { .. } => Call::Read,
            Self::Sync { .. } | Self::SyncDir { .. } => Call::Sync,
            Self::Open { .. } => Call::Open,
            Self::Create { .. } | Self::Fill { .. } | Self::MakeDir { .. } => Call::Create,
            Self::Rename { .. } => Call::Rename,
            Self::Remove { .. } => Call::Remove,
            Self::List { .. } => Call::List,
            Self::Space => Call::Space,
            Self::Map { .. } => Call::Map,
        }
    }

    /// What a task that waits for it waits for.
    pub(in super::super) fn what(&self) -> &'static str {
        match self {
            Self::Write { .. } | Self::WriteWhole { .. } => "a write",
            Self::Read { .. } | Self::ReadWhole { .. } => "a read",
            Self::Sync { .. } => "a sync",
            Self::SyncDir { .. } => "a sync of a directory",
            Self::Open { .. } => "an open",
            Self::Create { .. } | Self::Fill { .. } | Self::MakeDir { .. } => "a creation",
            Self::Rename { .. } => "a rename",
            Self::Remove { .. } => "a removal",
            Self::List { .. } => "a list",
            Self::Space => "the free space",
            Self::Map { .. } => "a mapping",
        }
    }

    /// How long it takes on a calm disk, its bytes aside.
    pub(in super::super) fn nanos(&self) -> u64 {
        match self {
            Self::Write { synced: true, .. } | Self::Sync { .. } => 100_000,
            Self::Write { .. } | Self::Read { .. } | Self::ReadWhole { .. } => 60_000,
            Self::Open { .. } | Self::List { .. } | Self::Space | Self::Map { .. } => 20_000,
            Self::Create { .. }
            | Self::Fill { .. }
            | Self::WriteWhole { .. }
            | Self::MakeDir { .. }
            | Self::Rename { .. }
            | Self::Remove { .. }
            | Self::SyncDir { .. } => 200_000,
        }
    }

    /// The name it is about, for errors.
    pub(in super::super) fn name(&self) -> Option<&Name> {
        match self {
            Self::Open { name }
            | Self::Create { name }
            | Self::Fill { name, .. }
            | Self::WriteWhole { name, .. }
            | Self::ReadWhole { name, .. }
            | Self::MakeDir { name }
            | Self::Rename { from: name, .. }
            | Self::Remove { name }
            | Self::Map { name, .. } => Some(name),
            Self::SyncDir { dir, .. } | Self::List { dir } => dir.as_ref(),
            Self::Write { .. } | Self::Read { .. } | Self::Sync { .. } | Self::Space => None,
        }
    }

    /// Whether it changes the disk.
    pub(in super::super) fn changes(&self) -> bool {
        match self {
            Self::Write { .. }
            | Self::Sync { .. }
            | Self::Create { .. }
            | Self::Fill { .. }
            | Self::WriteWhole { .. }
            | Self::MakeDir { .. }
            | Self::Rename { .. }
            | Self::Remove { .. }
            | Self::SyncDir { .. } => true,
            Self::Read { .. }
            | Self::Open { .. }
            | Self::ReadWhole { .. }
            | Self::List { .. }
            | Self::Space
            | Self::Map { .. } => false,
        }
    }

    /// Bytes it moves.
    pub(in super::super) fn bytes(&self) -> u64 {
        match self {
            Self::Write { pages, .. } => u64_of(pages.len() * BLOCK),
            Self::Read { len, .. } | Self::Map { len, .. } => u64_of(*len),
            Self::Fill { len, .. } => *len,
            Self::WriteWhole { content, .. } => u64_of(content.len()),
            Self::ReadWhole { len_max, .. } => u64_of((*len_max).min(1 << 20)),
            Self::Sync { .. }
            | Self::Open { .. }
            | Self::Create { .. }
            | Self::MakeDir { .. }
            | Self::Rename { .. }
            | Self::Remove { .. }
            | Self::SyncDir { .. }
            | Self::List { .. }
            | Self::Space => 0,
        }
    }
}

/// What an operation gives.
#[derive(Debug)]
pub(in super::super) enum Answer {
    Done,
    Opened(Key),
    Data(SharedBuf),
    Bytes(Bytes),
    Listed(Vec<(Name, u64)>),
    Free(u64),
}
