//! The task that receives a state: it asks for the sections that are not here, piece by piece, and
//! opens what they make up.

use core::fmt;
use std::cell::Cell;
use std::rc::Rc;

use bowline_env::{Dir as _, Env, Nanos};
use bowline_net::{Bulk, Received};
use bowline_raft::{NodeId, Slot};
use bowline_statemachine::manifest::{Manifest, SectionRef};
use bowline_statemachine::store::{JobError, Section, Store};
use bowline_statemachine::transfer::{ReceivedSection, Snapshot, localized};
use bowline_statemachine::{Damage, Machine, OpenFailure};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::WANTS_MAX;
use super::kept::{Kept, Leftovers};
use crate::core::gate::Gate;
use crate::core::mail::{Event, Mail};

/// A piece that does not come is asked for again after this long.
const RETRY: Nanos = Nanos(1_000_000_000);
/// So often in a row, then the transfer is given up: 10 minutes.
const RETRIES_MAX: u32 = 600;
/// Part of what is missing that has to be free beside it.
const SPARE_PART: u64 = 20;

/// What a transfer came to; none while it runs.
pub(super) type Outcome<M> = Rc<Slate<Result<(M, Bytes), Failed>>>;

/// A place that is written once and taken once.
pub(in crate::core) struct Slate<T>(Cell<Option<T>>);

impl<T> Default for Slate<T> {
    fn default() -> Self {
        Self(Cell::new(None))
    }
}

impl<T> Slate<T> {
    pub(in crate::core) fn put(&self, what: T) {
        self.0.set(Some(what));
    }

    pub(in crate::core) fn take(&self) -> Option<T> {
        self.0.take()
    }
}

/// Why a state was not received.
#[derive(Debug)]
pub(super) enum Failed {
    /// The disk has no room for it.
    NoSpace,
    /// Nothing came for a long time.
    Silence,
    /// A run could not be written.
    Run(JobError),
    /// A section came damaged: its id, and how.
    Damaged(u128, Damage),
    /// The state cannot be opened.
    Open(OpenFailure),
    /// It was ended from outside.
    Ended,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => f.write_str("the disk has no room for it"),
            Self::Silence => f.write_str("the sender is silent"),
            Self::Run(error) => error.fmt(f),
            Self::Damaged(_, damage) => damage.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::Ended => f.write_str("it was ended"),
        }
    }
}

impl Failed {
    /// Whether what came of the state is of no use for the next offer: the disk here is the cause,
    /// or it is not to be opened.
    const fn is_over(&self) -> bool {
        matches!(self, Self::NoSpace | Self::Run(_) | Self::Open(_))
    }

    /// The section that its sender should look at again; 0: none.
    pub(super) const fn section(&self) -> u128 {
        match self {
            Self::Damaged(section, _) => *section,
            Self::NoSpace | Self::Silence | Self::Run(_) | Self::Open(_) | Self::Ended => 0,
        }
    }

    fn of(section: u128, error: JobError) -> Self {
        if let JobError::Damaged(damage) = error {
            Self::Damaged(section, damage)
        } else {
            Self::Run(error)
        }
    }
}

/// What the task needs.
pub(super) struct Receiving<E: Env> {
    pub(super) env: E,
    pub(super) store: Rc<Store<E>>,
    pub(super) mail: Rc<Mail<E>>,
    /// What is here already.
    pub(super) held: Option<Snapshot<E>>,
    /// What came of it before.
    pub(super) kept: Kept<E>,
    pub(super) leftovers: Rc<Leftovers<E>>,
    pub(super) offered: Manifest,
    pub(super) pieces: mpsc::Receiver<Received>,
    pub(super) node: NodeId,
    pub(super) slot: Slot,
    pub(super) len_max: u32,
}

impl<E: Env> Receiving<E> {
    /// Receives the state. It ends soon once `gate` is closed, and is not to be dropped before:
    /// only it knows the file that it writes.
    pub(super) async fn run<M: Machine<E>>(mut self, gate: Rc<Gate>, outcome: Outcome<M>) {
        let useless = self.kept.without(&self.offered.sections);
        useless.discard(&self.store).await;
        let mut sections = Vec::new();
        let mut result = self.receive::<M>(&gate, &mut sections).await;
        if gate.or(core::future::ready(())).await.is_none() {
            // Nobody takes it any more.
            result = Err(Failed::Ended);
        }
        let mut kept = std::mem::take(&mut self.kept);
        let unwanted = match &result {
            Ok(_) => Some(kept),
            Err(failed) => {
                sections.retain(|section| !self.is_held(section.id()));
                kept.keep(sections);
                let (slot, now) = (self.slot, self.env.now());
                if failed.is_over() { Some(kept) } else { self.leftovers.put(slot, kept, now) }
            },
        };
        if let Some(unwanted) = unwanted {
            unwanted.discard(&self.store).await;
        }
        outcome.put(result);
        self.mail.push(Event::TransferEnded { slot: self.slot });
    }

    fn is_held(&self, section: u128) -> bool {
        let held = self.held.iter().flat_map(|held| &held.sections);
        held.into_iter().any(|it| it.id() == section)
    }

    async fn receive<M: Machine<E>>(
        &mut self,
        gate: &Gate,
        sections: &mut Vec<Rc<Section<E>>>,
    ) -> Result<(M, Bytes), Failed> {
        let missing = self.offered.sections.iter().filter(|at| !self.is_held(at.section));
        let bytes: u64 = missing.map(|at| at.len - self.kept.bytes_of(at)).sum();
        let free = self.env.dir().free_space().await.unwrap_or(u64::MAX);
        if free < bytes + bytes / SPARE_PART {
            return Err(Failed::NoSpace);
        }
        for at in self.offered.sections.clone() {
            let held = self.held.iter().flat_map(|held| &held.sections);
            let here = held.into_iter().find(|it| it.id() == at.section).cloned();
            let here = here.or_else(|| self.kept.section(&at));
            let section = match here {
                Some(section) => section,
                None => self.section(gate, at).await?,
            };
            sections.push(section);
        }
        let body = localized(&self.offered, sections);
        let body = body.map_err(|damage| Failed::Run(JobError::Damaged(damage)))?;
        let shard = self.offered.shard;
        let machine = M::open(&self.store, shard, Some(&body)).await.map_err(Failed::Open)?;
        Ok((machine, body))
    }

    /// Receives one section.
    async fn section(&mut self, gate: &Gate, at: SectionRef) -> Result<Rc<Section<E>>, Failed> {
        let shard = self.offered.shard;
        let mut received = if let Some(part) = self.kept.part(&at) {
            part
        } else {
            let fresh = ReceivedSection::create(&self.store, shard, at).await;
            fresh.map_err(Failed::Run)?
        };
        match self.pieces_of(gate, at.section, &mut received).await {
            Ok(()) => received.finish().await.map_err(|error| Failed::of(at.section, error)),
            Err(failed) => {
                self.kept.keep_part(received);
                Err(failed)
            },
        }
    }

    /// Asks for what is missing of a section until it is whole. A write that was begun is waited
    /// for, whatever ends the rest: the next transfer goes on behind it.
    async fn pieces_of(
        &mut self,
        gate: &Gate,
        section: u128,
        received: &mut ReceivedSection<E>,
    ) -> Result<(), Failed> {
        let (mut asked, mut silent) = (0, 0);
        while let Some(next) = received.next() {
            let ahead = u64::from(self.len_max) * u64::try_from(WANTS_MAX).unwrap_or(1);
            asked = asked.max(next);
            while asked < next + ahead
                && let Some(len) = received.piece_at(asked, self.len_max)
            {
                self.ask((section, asked, len));
                asked += u64::from(len);
            }
            let frame = gate.or(self.piece()).await.ok_or(Failed::Ended)?;
            let Some(frame) = frame else {
                // What was asked for is lost with its lane.
                (silent, asked) = (silent + 1, next);
                if silent >= RETRIES_MAX {
                    return Err(Failed::Silence);
                }
                continue;
            };
            if let Ok(Bulk::Chunk { section: of, off, bytes, .. }) = Bulk::decode(&frame.frame())
                && (of, off) == (section, next)
            {
                silent = 0;
                received.push(bytes).await.map_err(Failed::Run)?;
            }
        }
        Ok(())
    }

    fn ask(&self, piece: (u128, u64, u32)) {
        let (slot, node) = (self.slot, self.node);
        self.mail.push(Event::AskForPiece { slot, node, piece });
    }

    /// The next piece that comes; none: nothing did for a while.
    async fn piece(&mut self) -> Option<Received> {
        let mut late = core::pin::pin!(self.env.sleep_until(self.env.now().after(RETRY)));
        let pieces = &mut self.pieces;
        core::future::poll_fn(move |cx| {
            if let core::task::Poll::Ready(Some(piece)) = pieces.poll_recv(cx) {
                return core::task::Poll::Ready(Some(piece));
            }
            late.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}
