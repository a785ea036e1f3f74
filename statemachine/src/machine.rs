//! The two traits: [`StateMachine`] is what an application writes, [`Machine`] is what a core's
//! loop drives. `Kv` and `Hosted<M: StateMachine>` implement [`Machine`].
//!
//! The road of state, as the loop drives it:
//!
//! ```text
//! open(manifest) -> stage(entries) -> apply(entry)... -> next_job() -> Job::run (background)
//!   -> manifest_after(done) -> [log: MANIFEST durable = commit point] -> publish(done)
//! ```
//!
//! Apply has no error path and waits for nothing: what can go wrong with one command is part of its
//! output, and every page it needs was pinned by `stage`.

use core::future::Future;
use std::io;
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Archived, Serialize};

use crate::kv::{Item, ScanPage, ScanQuery};
use crate::store::Section;
use crate::store::{Job, JobDone, PageRead, Pins, Store};
use crate::transfer::Snapshot;
use crate::{BadCommand, Damage, Limits, OpenFailure, SmError};

/// What the entry being applied is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apply {
    /// The shard.
    pub shard: u64,
    /// The entry's log index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
    /// Log time: the same on every replica, never falls.
    pub now_ms: u64,
    /// Version of the command, as [`StateMachine::needs`] said when it was proposed.
    pub version: u16,
    /// The session that sent it.
    pub session: Option<u128>,
}

/// What a flush writes down of the place in the log that it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// Term of the last entry applied.
    pub term: u64,
    /// The version that the members agree on as of that entry; see [`StateMachine::VERSION`].
    pub version: u16,
    /// The membership as of that entry, opaque.
    pub conf: Bytes,
}

/// What a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadCtx {
    /// Index of the last entry applied.
    pub applied: u64,
    /// Log time.
    pub now_ms: u64,
}

/// What validates the archives of an application's commands and queries.
pub type CustomValidator<'a> = HighValidator<'a, Failure>;

/// What writes the archives of an application's outputs and answers.
pub type CustomSerializer<'a> = HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>;

/// A replicated state machine of the application.
///
/// Nothing in `apply` may differ between replicas: no clock, no chance, no order of a hash map, no
/// I/O.
pub trait StateMachine: Send + Sized + 'static {
    /// In the directory's identity and in each manifest; another name refuses to open.
    const NAME: &'static str;
    /// Version of the commands and of the snapshot bytes that this code knows, from 1.
    ///
    /// The members of a shard agree on a version, by an entry of its log: on the lowest that all of
    /// them run. While a later one is rolled out node by node, commands that need it are refused
    /// and snapshots are written as the version before has them, so every node may go back. The
    /// agreement follows by itself once every member runs the later version; it is never taken
    /// back, and code of an older version does not open the directory any more.
    ///
    /// Code of a version reads what all versions before it wrote: `Command` has to keep its layout
    /// (an enum of boxed variants may get more of them at its end), and `restore` takes older
    /// snapshots.
    const VERSION: u16;
    /// A command. Reached in place after validation.
    type Command: Archive<Archived: for<'a> CheckBytes<CustomValidator<'a>>>;
    /// What `apply` answers.
    type Output: for<'a> Serialize<CustomSerializer<'a>>;
    /// A question.
    type Query: Archive<Archived: for<'a> CheckBytes<CustomValidator<'a>>>;
    /// What `query` answers.
    type Answer: for<'a> Serialize<CustomSerializer<'a>>;
    /// A cheap copy of the state: an `Arc`, a persistent map, a clone.
    type Frozen: Send + 'static;

    /// The empty state of a shard.
    fn create(shard: u64) -> Self;

    /// The first version whose code can apply `command`: it is not taken before the members agree
    /// on that one. By default every command needs the version of the code that sends it, so
    /// nothing can be written while a later one is rolled out.
    fn needs(command: &Archived<Self::Command>) -> u16 {
        let _: &Archived<Self::Command> = command;
        Self::VERSION
    }

    /// Applies a command.
    fn apply(&mut self, ctx: &Apply, command: &Archived<Self::Command>) -> Self::Output;

    /// Answers a question.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "it grows without breaking machines")]
    fn query(&self, ctx: &ReadCtx, query: &Archived<Self::Query>) -> Self::Answer;

    /// Copies the state, on the core: below a millisecond. It is to be written as snapshots of
    /// `version` are, the one that the members agree on: some may have no later code.
    fn freeze(&mut self, version: u16) -> Self::Frozen;

    /// Writes a snapshot, off the core.
    ///
    /// # Errors
    ///
    /// [`SmError`]: the snapshot is given up; the state stays as it is.
    fn write(frozen: Self::Frozen, out: &mut dyn io::Write) -> Result<(), SmError>;

    /// Reads a snapshot into a fresh instance, off the core.
    ///
    /// # Errors
    ///
    /// [`SmError`]: the snapshot cannot be used; the shard is damaged.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SmError>;
}

/// A committed entry. `payload` starts 16-aligned and lies in a log buffer.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Envelope and body; empty for an entry that means nothing to the state (no-op,
    /// configuration).
    pub payload: &'a [u8],
}

/// What an entry's application answers. The loop turns it into the caller's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Nothing to say (no-op, tick).
    #[default]
    None,
    /// Applied at revision `rev`; the version before, if it was asked for.
    Written {
        /// Revision: the entry's index.
        rev: u64,
        /// The value before, if asked for and there was one.
        prev: Option<Bytes>,
    },
    /// To Cas, and to a Batch that asked for no answers: the guards held (`ok`) and the write took
    /// place at `rev`, or one did not hold: `rev` is the current revision of its key (0: absent),
    /// `failed_guard` its place in the batch.
    Guarded {
        /// Whether the write took place.
        ok: bool,
        /// Revision, see above.
        rev: u64,
        /// Place of the first guard that failed.
        failed_guard: u32,
    },
    /// To a Batch that asked for answers and took place: one per operation, in order.
    Batch {
        /// Revision: the entry's index.
        rev: u64,
        /// One answer per operation.
        answers: Vec<OpAnswer>,
    },
    /// An operation of a batch could not be done, so nothing of the batch was.
    OpFailed {
        /// Its place in the batch.
        place: u32,
        /// Why.
        fault: OpFault,
    },
    /// The new number.
    Number(i64),
    /// The number could not be changed: the value is not a number.
    NotANumber,
    /// The number would leave the range of an i64.
    Overflow,
    /// To Touch.
    Touched(Touched),
    /// To Expire: so many keys were removed.
    Expired(u32),
    /// The archived output of a user's machine.
    Custom(Bytes),
    /// The command is invalid; it had no effect.
    Rejected(BadCommand),
}

/// What a Touch found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Whether there was such a key; if not, nothing changed.
    pub existed: bool,
    /// Its deadline before, in milliseconds of log time; 0: none.
    pub before_ms: u64,
    /// Its deadline now; 0: none.
    pub now_ms: u64,
}

/// Why an operation of a batch could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpFault {
    /// The value is not a number.
    NotANumber,
    /// The number would leave the range of an i64.
    Overflow,
}

/// What one operation of a batch answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpAnswer {
    /// To a read.
    Value(Option<Item>),
    /// To a put or delete: the value before, if asked for and there was one.
    Written {
        /// The value before.
        prev: Option<Bytes>,
    },
    /// To an increment: the new number.
    Number(i64),
    /// To a touch.
    Touched(Touched),
}

/// A question to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Query {
    /// The value of a key.
    Get(Bytes),
    /// The values of keys, one state at one index.
    MultiGet(Box<[Bytes]>),
    /// One page of a range.
    Scan(Box<ScanQuery>),
    /// The archived query of a user's machine.
    Custom(Bytes),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// To `Get`.
    Value(Option<Item>),
    /// To `MultiGet`, by position.
    Values(Vec<Option<Item>>),
    /// To `Scan`.
    Page(ScanPage),
    /// To `Custom`.
    Custom(Bytes),
    /// Not a question of this machine.
    NotSupported,
    /// The question is malformed.
    Bad(BadCommand),
}

/// A read that is answered at once, or what it needs first.
#[derive(Debug)]
pub enum Read<T> {
    /// The answer.
    Ready(T),
    /// These pages must be pinned first; then ask again.
    Cold(Vec<PageRead>),
    /// The state that it touches is damaged.
    Damaged(Damage),
}

impl<T> Read<T> {
    /// The same with another answer.
    pub fn map<U>(self, then: impl FnOnce(T) -> U) -> Read<U> {
        match self {
            Self::Ready(answer) => Read::Ready(then(answer)),
            Self::Cold(reads) => Read::Cold(reads),
            Self::Damaged(damage) => Read::Damaged(damage),
        }
    }
}

/// Whether entries can be applied now.
#[derive(Debug)]
#[must_use]
pub enum Staged {
    /// They can; nothing they need is cold.
    Ready,
    /// These pages must be pinned first; then ask again.
    Cold(Vec<PageRead>),
    /// The delta is far over its budget: flush first, the log keeps the entries.
    OverBudget,
    /// A page they need is damaged: apply stops here.
    Damaged(Damage),
}

/// Why a job is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// Only what is due by itself: a full delta, a merge.
    #[default]
    None,
    /// The log wants its oldest slot back: flush what is applied.
    Log,
    /// Flush everything: stop, or by hand.
    Flush,
}

/// A replica's state, as the core's loop drives it. Not for applications.
pub trait Machine<E: Env>: Sized + 'static {
    /// In NODE and in each manifest.
    const NAME: &'static str;
    /// Version of commands and snapshots.
    const VERSION: u16;

    /// Makes the state of a shard: empty, or as `manifest` says, with its sections opened.
    ///
    /// # Errors
    ///
    /// (of the future) [`OpenFailure`]: the manifest or a run is damaged, or of another machine.
    fn open(
        store: &Rc<Store<E>>,
        shard: u64,
        manifest: Option<&[u8]>,
    ) -> impl Future<Output = Result<Self, OpenFailure>>;

    /// Checks a command before it goes into the log: the version that it needs. `body` is what
    /// follows the envelope.
    ///
    /// # Errors
    ///
    /// [`BadCommand`]: it would be rejected at apply, or is over a limit.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "limits grow")]
    fn admit(kind: u8, body: &[u8], limits: &Limits) -> Result<u16, BadCommand>;

    /// Index of the last entry applied.
    fn applied(&self) -> u64;

    /// Index whose state is durable in runs: the log may be compacted up to here.
    fn flushed(&self) -> u64;

    /// Bytes held in memory by what is not flushed.
    fn delta_bytes(&self) -> usize;

    /// Log time.
    fn clock_ms(&self) -> u64;

    /// Why this replica applies nothing more, if so: a panic in a user's `apply`, an unknown kind.
    fn halted(&self) -> Option<&Damage>;

    /// Whether the entries can be applied with what `pins` holds.
    fn stage(&self, entries: &[EntryRef<'_>], pins: &Pins) -> Staged;

    /// Applies the next entry and pushes one output. No error, no wait. A machine that is halted,
    /// or is halted by this entry, leaves it unapplied and pushes nothing: see
    /// [`Machine::halted`].
    ///
    /// # Panics
    ///
    /// If `entry.index` is not `applied() + 1`, or a page it needs was not pinned: bugs of the
    /// caller.
    fn apply(&mut self, entry: EntryRef<'_>, pins: &Pins, out: &mut Vec<Output>);

    /// Answers a question from the state as applied.
    fn read(&self, query: &Query, pins: &Pins) -> Read<Answer>;

    /// As [`Machine::read`] of [`Query::Get`], of a key that nobody has to copy; none: the machine
    /// has no such short way.
    fn item(&self, key: &[u8], pins: &Pins) -> Option<Read<Option<Item>>> {
        let _: (&[u8], &Pins) = (key, pins);
        None
    }

    /// The next background job, if one is due: a flush or a merge. `as_of` is of `applied()`. A
    /// flush that failed is given again at the next call: the caller waits as long as its error
    /// says.
    fn next_job(&mut self, why: Pressure, as_of: &AsOf) -> Option<Job<E>>;

    /// The whole manifest after a finished job, to be made durable: index, term and bytes. None:
    /// the job was overtaken (an install) and its result is dropped. It counts as staged from now
    /// on: manifests that are made later hold its change too.
    fn manifest_after(&self, done: &JobDone<E>) -> Option<(u64, u64, Bytes)>;

    /// The newest manifest that was staged, to be staged again; none: never flushed.
    fn manifest(&self) -> Option<(u64, u64, Bytes)>;

    /// Makes the job's result current, once its manifest is durable.
    fn publish(&mut self, done: JobDone<E>);

    /// Puts the job's input back after it failed; it is due again later.
    fn job_failed(&mut self, flush: bool);

    /// The durable state as a whole, held as long as the value lives; none: never flushed.
    fn snapshot(&self) -> Option<Snapshot<E>>;

    /// Another state of the shard takes this one's place: the sections that only this one has. They
    /// are to be retired once the manifest of `next` is durable. Jobs that were begun here are
    /// discarded by the caller.
    fn superseded(self, next: &Self) -> Vec<Rc<Section<E>>>;
}
