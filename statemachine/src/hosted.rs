//! An application's [`StateMachine`] behind [`Machine`]: its commands are validated, its panics are
//! caught, its snapshots become one BLOB section.
//!
//! * A panic in `apply` or `freeze` halts this shard with the panic's text: the entry is never
//!   skipped, for skipping it would part the replicas, and the process lives on. Needs
//!   `panic = "unwind"`.
//! * `write` and `restore` run off the core.

mod blob;

use core::marker::PhantomData;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;
use rkyv::api::high;
use rkyv::rancor::Failure;
use rkyv::{Archived, Serialize};

use crate::align::aligned;
use crate::envelope::{Envelope, KIND_USER};
use crate::machine::{
    Answer, Apply, AsOf, CustomSerializer, EntryRef, Machine, Output, Pressure, Query, Read,
    ReadCtx, Staged, StateMachine,
};
use crate::shell::{Entered, Identity, Shell, name_hash};
use crate::store::Section;
use crate::store::{FlushBody, Job, JobDone, Pins, Store};
use crate::transfer::Snapshot;
use crate::{BadCommand, Damage, Limits, Measured, OpenFailure};

/// Bytes of log that a snapshot saves at least, whatever it costs.
const SNAPSHOT_LOG_BYTES: u64 = 64 << 20;

/// A shard whose state is an application's machine.
pub struct Hosted<E: Env, M: StateMachine> {
    shell: Shell<E, ()>,
    state: M,
    /// Bytes of the entries applied since the last freeze.
    unflushed_bytes: u64,
}

impl<E: Env, M: StateMachine> core::fmt::Debug for Hosted<E, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hosted")
            .field("machine", &M::NAME)
            .field("shard", &self.shell.shard())
            .field("applied", &self.shell.applied())
            .field("flushed", &self.shell.flushed())
            .finish_non_exhaustive()
    }
}

/// The archive of a command, a query, an output or an answer, 16-aligned.
///
/// # Errors
///
/// [`BadCommand::Archive`]: the value refuses to be archived.
pub fn archive<T>(value: &T) -> Result<Bytes, BadCommand>
where
    T: for<'a> Serialize<CustomSerializer<'a>>,
{
    match high::to_bytes::<Failure>(value) {
        Ok(bytes) => Ok(Bytes::from_owner(bytes)),
        Err(Failure) => Err(BadCommand::Archive),
    }
}

/// What a panic said.
fn panic_text(payload: &(dyn Any + Send)) -> Box<str> {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a value that is no text").into()
}

fn caught<T>(then: impl FnOnce() -> T) -> Result<T, Box<str>> {
    // What a panic may have left half done is never looked at again: the caller halts.
    catch_unwind(AssertUnwindSafe(then)).map_err(|payload| panic_text(&*payload))
}

/// Marks a machine's identity at compile time.
struct Id<M>(PhantomData<M>);

impl<M: StateMachine> Id<M> {
    const IDENTITY: Identity = {
        assert!(M::VERSION > 0, "versions of a state machine count from 1");
        Identity { name_hash: name_hash(M::NAME), version: M::VERSION }
    };
}

impl<E: Env, M: StateMachine> Hosted<E, M> {
    /// The application's state, for tests.
    pub fn state(&self) -> &M {
        &self.state
    }

    fn run(&mut self, head: &Envelope<'_>, entry: &EntryRef<'_>) -> Result<Output, Box<Damage>> {
        let ctx = Apply {
            shard: self.shell.shard(),
            index: entry.index,
            term: entry.term,
            now_ms: self.shell.clock_ms(),
            version: head.ver,
            session: head.session.map(|call| call.session),
        };
        let state = &mut self.state;
        let done = aligned(head.body, |body| {
            let Ok(command) = high::access::<Archived<M::Command>, Failure>(body) else {
                return Ok(Ok(Output::Rejected(BadCommand::Archive)));
            };
            caught(|| archive(&state.apply(&ctx, command)).map(Output::Custom))
        });
        let message = match done {
            Ok(Ok(output)) => return Ok(output),
            Ok(Err(_)) => "the output refuses to be archived".into(),
            Err(text) => text,
        };
        let (shard, index) = (ctx.shard, ctx.index);
        Err(Box::new(Damage::Panicked { shard, index, message }))
    }

    fn custom(&self, query: &[u8]) -> Answer {
        let ctx = ReadCtx { applied: self.shell.applied(), now_ms: self.shell.clock_ms() };
        aligned(query, |query| {
            let Ok(query) = high::access::<Archived<M::Query>, Failure>(query) else {
                return Answer::Bad(BadCommand::Archive);
            };
            match caught(|| archive(&self.state.query(&ctx, query))) {
                Ok(Ok(answer)) => Answer::Custom(answer),
                Ok(Err(bad)) => Answer::Bad(bad),
                Err(_) => Answer::Bad(BadCommand::Panicked),
            }
        })
    }

    fn must_flush(&self, why: Pressure) -> bool {
        let behind = self.shell.applied() > self.shell.flushed();
        match why {
            Pressure::None => {
                let snapshot: u64 = self.shell.section_bytes();
                behind && self.unflushed_bytes >= snapshot.max(SNAPSHOT_LOG_BYTES)
            },
            Pressure::Flush | Pressure::Log => behind,
        }
    }
}

impl<E: Env, M: StateMachine> Machine<E> for Hosted<E, M> {
    const NAME: &'static str = M::NAME;
    const VERSION: u16 = M::VERSION;

    async fn open(
        store: &Rc<Store<E>>,
        shard: u64,
        manifest: Option<&[u8]>,
    ) -> Result<Self, OpenFailure> {
        let shell = Shell::open(store, shard, manifest, Id::<M>::IDENTITY).await?;
        let state = match shell.sections() {
            [] => caught(|| M::create(shard)).map_err(OpenFailure::Panicked)?,
            [section] => {
                let body = store.blob(section).await?;
                blob::restore::<E, M>(store.env(), shard, body).await?
            },
            _ => return Err(OpenFailure::Snapshots { found: shell.sections().len() }),
        };
        Ok(Self { shell, state, unflushed_bytes: 0 })
    }

    fn admit(kind: u8, body: &[u8], limits: &Limits) -> Result<u16, BadCommand> {
        if kind != KIND_USER {
            return Err(BadCommand::Kind(kind));
        }
        BadCommand::check(Measured::Command, body.len(), limits.body_bytes_max)?;
        aligned(body, |body| match high::access::<Archived<M::Command>, Failure>(body) {
            Ok(command) => caught(|| M::needs(command)).map_err(|_text| BadCommand::Panicked),
            Err(Failure) => Err(BadCommand::Archive),
        })
    }

    fn applied(&self) -> u64 {
        self.shell.applied()
    }

    fn flushed(&self) -> u64 {
        self.shell.flushed()
    }

    /// None: what an application's state takes is not known here.
    fn delta_bytes(&self) -> usize {
        0
    }

    fn clock_ms(&self) -> u64 {
        self.shell.clock_ms()
    }

    fn halted(&self) -> Option<&Damage> {
        self.shell.halted()
    }

    fn stage(&self, _entries: &[EntryRef<'_>], _pins: &Pins) -> Staged {
        Staged::Ready
    }

    fn apply(&mut self, entry: EntryRef<'_>, _pins: &Pins, out: &mut Vec<Output>) {
        if self.shell.halted().is_some() {
            return;
        }
        let is_known = |kind, version| kind == KIND_USER && version <= M::VERSION;
        let head = match self.shell.enter(entry, is_known) {
            Entered::Command(head) => head,
            Entered::Nothing => return out.push(Output::None),
            Entered::Malformed => return out.push(Output::Rejected(BadCommand::Archive)),
            Entered::Halted => return,
        };
        match self.run(&head, &entry) {
            Ok(output) => {
                out.push(output);
                self.unflushed_bytes += entry.payload.len() as u64;
            },
            Err(damage) => self.shell.halt_at_entry(damage),
        }
    }

    fn read(&self, query: &Query, _pins: &Pins) -> Read<Answer> {
        if let Some(damage) = self.shell.halted() {
            return Read::Damaged(damage.clone());
        }
        Read::Ready(match query {
            Query::Custom(query) => self.custom(query),
            Query::Get(_) | Query::MultiGet(_) | Query::Scan(_) => Answer::NotSupported,
        })
    }

    fn next_job(&mut self, why: Pressure, as_of: &AsOf) -> Option<Job<E>> {
        if self.shell.halted().is_some() || !self.shell.may_freeze() || !self.must_flush(why) {
            return None;
        }
        let frozen = match caught(|| self.state.freeze(as_of.version)) {
            Ok(frozen) => frozen,
            Err(message) => {
                let (shard, index) = (self.shell.shard(), self.shell.applied());
                self.shell.halt(Box::new(Damage::Panicked { shard, index, message }));
                return None;
            },
        };
        self.unflushed_bytes = 0;
        self.shell.freeze((), as_of);
        let source = blob::source::<E, M>(self.shell.store().env(), frozen);
        let replaced = self.shell.sections().iter().map(|section| section.id()).collect();
        self.shell.flush_job(replaced, |()| FlushBody::Blob(source))
    }

    fn manifest_after(&self, done: &JobDone<E>) -> Option<(u64, u64, Bytes)> {
        self.shell.manifest_after(done)
    }

    fn manifest(&self) -> Option<(u64, u64, Bytes)> {
        self.shell.manifest()
    }

    fn publish(&mut self, done: JobDone<E>) {
        self.shell.publish(done);
    }

    /// The snapshot is given up; the state is frozen anew when the next one is due.
    fn job_failed(&mut self, flush: bool) {
        self.shell.job_failed(flush);
        if flush {
            self.shell.unfreeze();
            self.unflushed_bytes = SNAPSHOT_LOG_BYTES.max(self.shell.section_bytes());
        }
    }

    fn snapshot(&self) -> Option<Snapshot<E>> {
        self.shell.snapshot()
    }

    fn superseded(self, next: &Self) -> Vec<Rc<Section<E>>> {
        self.shell.superseded(&next.shell)
    }
}
