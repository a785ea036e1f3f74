//! Writes a frozen delta, or the snapshot of a user's machine, into a run of its own.
//!
//! | step | a crash here leaves |
//! |---|---|
//! | write `.tmp`, sync; rename, sync the directory; open, check, map | an orphan |
//! | the manifest durable in the log: commit point; then publish | replay from the new index |

use core::fmt;
use core::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;

use crate::SmError;
use crate::job::{JobError, NewRun};
use crate::manifest::Flushed;
use crate::run::writer::{NewVersion, SectionWriter};
use crate::run::{RangeTombstone, ranges_are_sound, tombstone_index};
use crate::store::{Pace, Section, Store};

/// One version that a flush writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushItem {
    /// The key.
    pub key: Bytes,
    /// Index of the entry that wrote it.
    pub mod_index: u64,
    /// When it expires, in log time; 0: never.
    pub expiry_ms: u64,
    /// The value; none: deleted.
    pub value: Option<Bytes>,
}

/// What makes the snapshot of a user's machine, off the core.
pub type BlobSource = Pin<Box<dyn Future<Output = Result<Vec<Bytes>, SmError>>>>;

/// What a flush writes.
pub enum FlushBody {
    /// Versions in strictly ascending key order, and deleted ranges, disjoint and in order. What
    /// a range covers with a newer index is left out of the run.
    Keys {
        /// The versions.
        entries: Box<dyn Iterator<Item = FlushItem>>,
        /// The ranges.
        ranges: Vec<RangeTombstone>,
    },
    /// The snapshot of a user's machine.
    Blob(BlobSource),
}

/// A frozen delta on its way into a run.
#[derive(Debug)]
pub struct FlushInput {
    /// First log index whose effect the delta may hold.
    pub min_index: u64,
    /// The point of the log it reaches.
    pub flushed: Flushed,
    /// No older section exists: deletions need not be written.
    pub bottom: bool,
    /// For a snapshot: sections it replaces.
    pub drop: Vec<u128>,
    /// The content.
    pub body: FlushBody,
}

impl fmt::Debug for FlushBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys { .. } => "Keys",
            Self::Blob(_) => "Blob",
        })
    }
}

/// Writes the input; none: nothing was left to write.
pub(crate) async fn run<E: Env>(
    store: &Rc<Store<E>>,
    shard: u64,
    input: &mut FlushInput,
) -> Result<Option<Rc<Section<E>>>, JobError> {
    let span = (input.min_index, input.flushed.index);
    match &mut input.body {
        FlushBody::Keys { entries, ranges } => {
            assert!(ranges_are_sound(ranges), "ranges are disjoint and in order");
            let mut entries = entries.filter(|item| {
                let covered = tombstone_index(ranges, &item.key) > item.mod_index;
                !covered && (item.value.is_some() || !input.bottom)
            });
            let kept = if input.bottom { &[][..] } else { &ranges[..] };
            keys(store, shard, span, &mut entries, kept).await
        },
        FlushBody::Blob(source) => {
            let chunks = source.await.map_err(JobError::Snapshot)?;
            blob(store, shard, span, &chunks).await.map(Some)
        },
    }
}

async fn keys<E: Env>(
    store: &Rc<Store<E>>,
    shard: u64,
    span: (u64, u64),
    entries: &mut dyn Iterator<Item = FlushItem>,
    ranges: &[RangeTombstone],
) -> Result<Option<Rc<Section<E>>>, JobError> {
    let first = entries.next();
    if first.is_none() && ranges.is_empty() {
        return Ok(None);
    }
    let mut run = NewRun::create(store, shard).await?;
    let mut writer = SectionWriter::kv(store.fresh_id(), span.0, span.1);
    let mut pace = Pace::new(store.env());
    for item in first.into_iter().chain(entries) {
        writer.push(NewVersion {
            key: &item.key,
            mod_index: item.mod_index,
            expiry_ms: item.expiry_ms,
            value: item.value.as_deref(),
        });
        if let Err(error) = run.drain(&mut writer).await {
            run.abandon().await;
            return Err(error.into());
        }
        pace.step().await;
    }
    run.finish(writer, ranges).await.map(Some)
}

async fn blob<E: Env>(
    store: &Rc<Store<E>>,
    shard: u64,
    span: (u64, u64),
    chunks: &[Bytes],
) -> Result<Rc<Section<E>>, JobError> {
    const PIECE: usize = 64 << 10;
    let mut run = NewRun::create(store, shard).await?;
    let mut writer = SectionWriter::blob(store.fresh_id(), span.0, span.1);
    let mut pace = Pace::new(store.env());
    for piece in chunks.iter().flat_map(|chunk| chunk.chunks(PIECE)) {
        writer.push_body(piece);
        if let Err(error) = run.drain(&mut writer).await {
            run.abandon().await;
            return Err(error.into());
        }
        pace.step().await;
    }
    run.finish(writer, &[]).await
}
