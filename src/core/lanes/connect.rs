//! Making connections: dialing, and answering who dialed. Tasks of the core; they report to its
//! mail and end by themselves, by a limit or by the core's gate.

use core::fmt::Display;
use core::net::SocketAddr;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::{Env, EnvError, Kind, Moved, Nanos, Op, Stream as _};
use bowline_net::{
    DialError, Hello, HelloKind, Opened, Preamble, Refusal, Security, answer, dial, greet, judge,
};
use bowline_raft::NodeId;

use crate::core::boot::Plan;
use crate::core::gate::Gate;
use crate::core::ledger::Ledger;
use crate::core::mail::{Event, Mail};
use crate::core::peers::{Roster, SharedRoster};
use crate::metrics::{CoreCounters, PeerFault};
use crate::{Code, ErrorTable};

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 4;

/// A connection that another node dialed, from the core that listens.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) preamble: Preamble,
    pub(crate) socket: Moved,
}

/// What the tasks of one core that shake hands share.
pub(crate) struct Doorman<E: Env> {
    pub(crate) env: E,
    pub(crate) mail: Rc<Mail<E>>,
    pub(crate) roster: SharedRoster,
    pub(crate) gate: Rc<Gate>,
    pub(crate) ledger: Arc<Ledger>,
    security: Security,
    counters: Arc<CoreCounters>,
    /// Until when refusals are only counted: whoever can reach the port could fill the log.
    quiet_until: Cell<Nanos>,
}

impl<E: Env> Doorman<E> {
    pub(crate) fn new(
        env: &E,
        mail: &Rc<Mail<E>>,
        plan: &Plan,
        ledger: Arc<Ledger>,
        counters: Arc<CoreCounters>,
    ) -> Rc<Self> {
        let roster = Roster::new(&plan.members, plan.cluster, plan.core, plan.life, plan.frame_max);
        Rc::new(Self {
            env: env.clone(),
            mail: Rc::clone(mail),
            roster: Rc::new(RefCell::new(roster)),
            gate: Rc::new(Gate::default()),
            ledger,
            security: plan.security.clone(),
            counters,
            quiet_until: Cell::new(Nanos(0)),
        })
    }

    /// Dials core `core` of `node` and reports.
    pub(super) async fn dial(self: Rc<Self>, node: NodeId, core: u16) {
        let attempt = self.gate.or(self.attempt(node, core)).await;
        if let Some(result) = attempt {
            let who = format_args!("node {}", node.0);
            match &result {
                Err(DialError::Tls(error)) => self.note(PeerFault::of_tls(*error), &who, error),
                // Both sides say it: an operator may look at either.
                Err(DialError::Refused(why @ Refusal::FrameCap)) => {
                    self.note(PeerFault::FrameCap, &who, why);
                },
                Ok(_) | Err(_) => {},
            }
            self.mail.push(Event::Dialed { node, core, result: result.map(Box::new) });
        }
    }

    async fn attempt(&self, node: NodeId, core: u16) -> Result<Opened<E::Stream>, DialError> {
        let address = self.roster.borrow_mut().address_to(node);
        let mut all = resolve(&self.env, &address).await.map_err(DialError::Env)?.into_iter();
        let mut to = all.next().expect("a host has an address");
        let former = self.ledger.former_life().await.map_err(DialError::Refused)?;
        let mut opened = self.ask(to, (node, core), former).await;
        while let (Err(DialError::Env(_)), Some(next)) = (&opened, all.next()) {
            to = next;
            opened = self.ask(to, (node, core), former).await;
        }
        if let Err(DialError::Recall { life }) = opened {
            let remembered = self.ledger.recall(&self.env, node, life).await;
            remembered.map_err(DialError::Refused)?;
            opened = self.ask(to, (node, core), life).await;
        }
        let opened = opened?;
        let met = self.ledger.check(&self.env, &opened.theirs, &self.roster).await;
        met.map_err(DialError::Refused)?;
        let mut roster = self.roster.borrow_mut();
        roster.learn(&opened.theirs);
        roster.met_at(node, address);
        Ok(opened)
    }

    /// Dials once, as the node that lived the life `claimed`.
    async fn ask(
        &self,
        to: SocketAddr,
        (node, core): (NodeId, u16),
        claimed: u64,
    ) -> Result<Opened<E::Stream>, DialError> {
        let known = self.ledger.life_of(node).await;
        let (hello, store) = {
            let mut roster = self.roster.borrow_mut();
            let store = roster.peer(node).and_then(|peer| peer.store);
            (Hello { claimed, known, ..roster.dialing(&self.env, node, core) }, store)
        };
        dial(self.env.clone(), to, hello, store, &self.security).await
    }

    /// Answers a node that dialed this core, and reports if it is let in.
    pub(crate) async fn receive(self: Rc<Self>, arrival: Arrival) {
        let preamble = arrival.preamble;
        let Ok(stream) = self.env.adopt(arrival.socket) else { return };
        let from = stream.peer();
        let greeting = greet(&self.env, stream, &preamble, &self.security);
        let (mut line, theirs) = match self.gate.or(greeting).await {
            Some(Ok(greeted)) => greeted,
            Some(Err(error)) => return self.note(PeerFault::of(&error), &from, &error),
            None => return,
        };
        let (mut own, mut verdict) = {
            let roster = self.roster.borrow();
            let own = roster.answer(&theirs, HelloKind::Welcome);
            let repeated = preamble.class == theirs.class && preamble.want_core == theirs.want_core;
            let known = roster.peer(theirs.from).and_then(|peer| peer.store);
            let verdict = if !self.security.vouches_for(&line, theirs.from) {
                Err(Refusal::WrongIdentity)
            } else if repeated {
                roster.admit(&theirs).and_then(|()| judge(&own, &theirs, known))
            } else {
                Err(Refusal::WrongLane)
            };
            (own, verdict)
        };
        if verdict.is_ok()
            && let Err(refusal) = self.ledger.check(&self.env, &theirs, &self.roster).await
        {
            verdict = Err(refusal);
        }
        if verdict == Err(Refusal::Recall) {
            own.known = self.ledger.life_of(theirs.from).await;
        }
        if let Err(refusal) = verdict {
            own.kind = HelloKind::Refuse(refusal);
        }
        let sent = self.gate.or(answer(&self.env, &mut line, &own)).await;
        match (verdict, sent) {
            (Ok(agreed), Some(Ok(()))) => {
                self.roster.borrow_mut().learn(&theirs);
                let opened = Box::new(Opened { line, theirs, agreed });
                self.mail.push(Event::Received(opened));
            },
            (Err(refusal), _) => {
                let who = format_args!("{from}, node {}", theirs.from.0);
                self.note(PeerFault::of_refusal(refusal), &who, &refusal);
            },
            (Ok(_), Some(Err(_)) | None) => {},
        }
    }

    /// Counts a connection that came to nothing, and tells of it at most once a second.
    pub(crate) fn note(&self, fault: PeerFault, who: &dyn Display, why: &dyn Display) {
        self.counters.peers_refused[fault.place()].add(1);
        let now = self.env.now();
        if now < self.quiet_until.get() {
            return;
        }
        self.quiet_until.set(now.after(Nanos::SECOND));
        let reason = fault.name();
        match fault {
            PeerFault::Certificate | PeerFault::Identity => {
                let what = ErrorTable::row(Code::PEER_IDENTITY).what;
                tracing::warn!(code = %Code::PEER_IDENTITY, %who, %why, reason, "{what}");
            },
            PeerFault::ClearText
            | PeerFault::TlsNotSetUp
            | PeerFault::Refused
            | PeerFault::FrameCap => {
                tracing::warn!(%who, %why, reason, "a peer was refused");
            },
            PeerFault::Handshake | PeerFault::Hello | PeerFault::TimedOut | PeerFault::Broken => {
                tracing::debug!(%who, %why, reason, "a connection came to nothing");
            },
        }
    }
}

/// The addresses of a peer, best first, a few of them.
async fn resolve<E: Env>(env: &E, address: &str) -> Result<Vec<SocketAddr>, EnvError> {
    if let Ok(numeric) = address.parse() {
        return Ok(vec![numeric]);
    }
    let parts = address.rsplit_once(':');
    let named = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = named else {
        return Err(EnvError::new(Op::Resolve, Kind::NotFound));
    };
    let mut found = env.resolve(host, port).await?;
    found.truncate(ADDRESSES_MAX);
    Ok(found)
}
