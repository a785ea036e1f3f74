//! The key-value machine as the core's loop drives it.

use std::collections::BTreeSet;
use std::mem;
use std::rc::Rc;

use bowline_env::Env;
use bytes::Bytes;

use super::apply::At;
use super::command::KV_VERSION;
use super::parse::Command;
use super::{Item, Kv, frozen};
use crate::align::aligned;
use crate::delta::{Delta, RANGES_MAX};
use crate::envelope::Envelope;
use crate::error::MULTI_GET_KEYS_MAX;
use crate::machine::{Answer, AsOf, EntryRef, Machine, Output, Pressure, Query, Read, Staged};
use crate::shell::{Entered, Identity, Shell, name_hash};
use crate::store::Section;
use crate::store::{Job, JobDone, PageRead, Pins, Store};
use crate::transfer::Snapshot;
use crate::version::{Found, Levels};
use crate::{BadCommand, Damage, Limits, Measured, OpenFailure};

/// Keys of a written delta that are dropped on the core; a larger one would stop it for
/// milliseconds.
const DROPPED_HERE_MAX: usize = 1_024;

const NAME: &str = "bowline.kv";
const IDENTITY: Identity = Identity { name_hash: name_hash(NAME), version: KV_VERSION };

fn is_known(kind: u8, version: u16) -> bool {
    Command::is_known(kind) && version <= KV_VERSION
}

impl<E: Env> Kv<E> {
    pub(super) fn levels(&self) -> Levels<'_, E> {
        Levels {
            delta: &self.delta,
            frozen: self.shell.frozen().map(|delta| &**delta),
            sections: self.shell.sections(),
        }
    }

    /// The value of a key, as of log time.
    fn get(&self, key: &[u8], pins: &Pins) -> Read<Option<Item>> {
        self.levels().find(key, pins).visible(self.shell.clock_ms())
    }

    /// The values of keys by position, all of one state: it cannot change within this call.
    fn multi_get(&self, keys: &[Bytes], pins: &Pins) -> Read<Vec<Option<Item>>> {
        let mut items = Vec::with_capacity(keys.len());
        let mut cold = Vec::new();
        for key in keys {
            match self.get(key, pins) {
                Read::Ready(item) => items.push(item),
                Read::Cold(reads) => cold.extend(reads),
                Read::Damaged(damage) => return Read::Damaged(damage),
            }
        }
        if cold.is_empty() { Read::Ready(items) } else { Read::Cold(cold) }
    }

    /// Adds what an entry needs and what is not in memory.
    fn stage_entry(
        &self,
        entry: &EntryRef<'_>,
        pins: &Pins,
        cold: &mut BTreeSet<PageRead>,
    ) -> Result<(), Damage> {
        // Bytes that are no command, or one of a newer program, read nothing.
        let Ok(head) = Envelope::parse(entry.payload) else { return Ok(()) };
        if !is_known(head.kind, head.ver) {
            return Ok(());
        }
        let levels = self.levels();
        let mut damaged = None;
        aligned(head.body, |body| {
            let Ok(command) = Command::parse(head.kind, body) else { return };
            command.each_read(|key| match levels.find(key, pins) {
                Found::Cold(read) => {
                    cold.insert(read);
                },
                Found::Damaged(damage) => damaged = Some(damage),
                Found::Memory(_) | Found::Run(_) | Found::Nothing => {},
            });
        });
        damaged.map_or(Ok(()), Err)
    }

    /// Freezes the delta for a flush.
    fn freeze(&mut self, as_of: &AsOf) {
        let delta = Rc::new(mem::take(&mut self.delta));
        self.shell.freeze(delta, as_of);
        self.levels().assert_sound();
    }

    fn must_flush(&self, why: Pressure) -> bool {
        let due = self.shell.is_due() || self.delta.range_count() > RANGES_MAX;
        match why {
            Pressure::None => due,
            Pressure::Flush | Pressure::Log => self.shell.applied() > self.shell.flushed(),
        }
    }
}

impl<E: Env> Machine<E> for Kv<E> {
    const NAME: &'static str = NAME;
    const VERSION: u16 = KV_VERSION;

    async fn open(
        store: &Rc<Store<E>>,
        shard: u64,
        manifest: Option<&[u8]>,
    ) -> Result<Self, OpenFailure> {
        let shell = Shell::open(store, shard, manifest, IDENTITY).await?;
        let kv = Self { shell, delta: Delta::default() };
        kv.levels().assert_sound();
        Ok(kv)
    }

    fn admit(kind: u8, body: &[u8], limits: &Limits) -> Result<u16, BadCommand> {
        BadCommand::check(Measured::Command, body.len(), limits.body_bytes_max)?;
        aligned(body, |body| Command::parse(kind, body)?.check_values(*limits))?;
        // Every kind that there is, was there from the first version on.
        Ok(1)
    }

    fn applied(&self) -> u64 {
        self.shell.applied()
    }

    fn flushed(&self) -> u64 {
        self.shell.flushed()
    }

    fn delta_bytes(&self) -> usize {
        let frozen = self.shell.frozen().map_or(0, |delta| delta.bytes());
        self.delta.bytes() + frozen
    }

    fn clock_ms(&self) -> u64 {
        self.shell.clock_ms()
    }

    fn halted(&self) -> Option<&Damage> {
        self.shell.halted()
    }

    fn stage(&self, entries: &[EntryRef<'_>], pins: &Pins) -> Staged {
        if self.shell.is_over_budget() {
            return Staged::OverBudget;
        }
        let mut cold = BTreeSet::new();
        // Without a section nothing can be cold.
        if !self.shell.sections().is_empty() {
            for entry in entries {
                if let Err(damage) = self.stage_entry(entry, pins, &mut cold) {
                    return Staged::Damaged(damage);
                }
            }
        }
        if cold.is_empty() { Staged::Ready } else { Staged::Cold(cold.into_iter().collect()) }
    }

    #[inline]
    fn apply(&mut self, entry: EntryRef<'_>, pins: &Pins, out: &mut Vec<Output>) {
        if self.shell.halted().is_some() {
            return;
        }
        let head = match self.shell.enter(entry, is_known) {
            Entered::Command(head) => head,
            Entered::Nothing => return out.push(Output::None),
            Entered::Malformed => return out.push(Output::Rejected(BadCommand::Archive)),
            Entered::Halted => return,
        };
        let done = aligned(head.body, |body| match Command::parse(head.kind, body) {
            Ok(command) => self.execute(command, At { index: entry.index, pins }),
            Err(bad) => Ok(Output::Rejected(bad)),
        });
        match done {
            Ok(output) => {
                out.push(output);
                self.shell.charge(self.delta.bytes());
            },
            Err(damage) => self.shell.halt_at_entry(damage),
        }
    }

    fn read(&self, query: &Query, pins: &Pins) -> Read<Answer> {
        if let Some(damage) = self.shell.halted() {
            return Read::Damaged(damage.clone());
        }
        match query {
            Query::Get(key) => self.get(key, pins).map(Answer::Value),
            Query::MultiGet(keys) => {
                match BadCommand::check(Measured::Keys, keys.len(), MULTI_GET_KEYS_MAX) {
                    Ok(()) => self.multi_get(keys, pins).map(Answer::Values),
                    Err(bad) => Read::Ready(Answer::Bad(bad)),
                }
            },
            Query::Scan(query) => match self.scan(query, pins) {
                Ok(read) => read.map(Answer::Page),
                Err(bad) => Read::Ready(Answer::Bad(bad)),
            },
            Query::Custom(_) => Read::Ready(Answer::NotSupported),
        }
    }

    fn item(&self, key: &[u8], pins: &Pins) -> Option<Read<Option<Item>>> {
        self.shell.halted().is_none().then(|| self.get(key, pins))
    }

    fn next_job(&mut self, why: Pressure, as_of: &AsOf) -> Option<Job<E>> {
        if self.shell.may_freeze() && self.must_flush(why) {
            self.freeze(as_of);
        }
        let flush = self.shell.flush_job(Vec::new(), frozen::body);
        flush.or_else(|| self.shell.merge_job())
    }

    fn manifest_after(&self, done: &JobDone<E>) -> Option<(u64, u64, Bytes)> {
        self.shell.manifest_after(done)
    }

    fn manifest(&self) -> Option<(u64, u64, Bytes)> {
        self.shell.manifest()
    }

    fn publish(&mut self, done: JobDone<E>) {
        let written = self.shell.publish(done);
        self.levels().assert_sound();
        if let Some(delta) = written.and_then(Rc::into_inner)
            && delta.len() >= DROPPED_HERE_MAX
        {
            // Refused or not, the closure and the delta in it are dropped.
            drop(self.shell.store().env().offload(move || drop(delta)));
        }
    }

    fn job_failed(&mut self, flush: bool) {
        self.shell.job_failed(flush);
    }

    fn snapshot(&self) -> Option<Snapshot<E>> {
        self.shell.snapshot()
    }

    fn superseded(self, next: &Self) -> Vec<Rc<Section<E>>> {
        self.shell.superseded(&next.shell)
    }
}
