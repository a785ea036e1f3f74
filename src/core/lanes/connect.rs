//! Making connections: dialing, and answering who dialed. Tasks of the core; they report to its
//! mail and end by themselves, by a limit or by the core's gate.

use core::net::SocketAddr;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::{Env, EnvError, Kind, Moved, Op};
use bowline_net::{
    DialError, HelloKind, Opened, Preamble, Refusal, answer, dial, judge, read_hello,
};
use bowline_raft::NodeId;

use crate::core::boot::Plan;
use crate::core::gate::Gate;
use crate::core::mail::{Event, Mail};
use crate::core::peers::{Ledger, Roster, SharedRoster};

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
}

impl<E: Env> Doorman<E> {
    pub(crate) fn new(env: &E, mail: &Rc<Mail<E>>, plan: &Plan, ledger: Arc<Ledger>) -> Rc<Self> {
        let roster = Roster::new(&plan.members, plan.cluster, plan.core, plan.boot, plan.frame_max);
        Rc::new(Self {
            env: env.clone(),
            mail: Rc::clone(mail),
            roster: Rc::new(RefCell::new(roster)),
            gate: Rc::new(Gate::default()),
            ledger,
        })
    }

    /// Dials core `core` of `node` and reports.
    pub(super) async fn dial(self: Rc<Self>, node: NodeId, core: u16) {
        let attempt = self.gate.or(self.attempt(node, core)).await;
        if let Some(result) = attempt {
            self.mail.push(Event::Dialed { node, core, result: result.map(Box::new) });
        }
    }

    async fn attempt(&self, node: NodeId, core: u16) -> Result<Opened<E::Stream>, DialError> {
        let (hello, known, address) = {
            let mut roster = self.roster.borrow_mut();
            let peer = roster.peer(node);
            let known = peer.and_then(|peer| peer.store);
            let address = peer.map(|peer| Arc::clone(&peer.address));
            (roster.dialing(&self.env, node, core), known, address.unwrap_or_default())
        };
        let to = resolve(&self.env, address).await.map_err(DialError::Env)?;
        let opened = dial(self.env.clone(), to, hello, known).await?;
        self.ledger
            .check(&self.env, &opened.theirs, &self.roster)
            .await
            .map_err(DialError::Refused)?;
        self.roster.borrow_mut().learn(&opened.theirs);
        Ok(opened)
    }

    /// Answers a node that dialed this core, and reports if it is let in.
    pub(crate) async fn receive(self: Rc<Self>, arrival: Arrival) {
        let preamble = arrival.preamble;
        let Ok(mut stream) = self.env.adopt(arrival.socket) else { return };
        let Some(Ok(theirs)) = self.gate.or(read_hello(&self.env, &mut stream)).await else {
            tracing::debug!("a connection ended before its hello");
            return;
        };
        let (mut own, mut verdict) = {
            let roster = self.roster.borrow();
            let own = roster.answer(&theirs, HelloKind::Welcome);
            let repeated = preamble.class == theirs.class && preamble.want_core == theirs.want_core;
            let known = roster.peer(theirs.from).and_then(|peer| peer.store);
            let verdict = if repeated {
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
        if let Err(refusal) = verdict {
            own.kind = HelloKind::Refuse(refusal);
        }
        let sent = self.gate.or(answer(&self.env, &mut stream, &own)).await;
        match (verdict, sent) {
            (Ok(agreed), Some(Ok(()))) => {
                self.roster.borrow_mut().learn(&theirs);
                let opened = Box::new(Opened { stream, theirs, agreed, rest: Vec::new() });
                self.mail.push(Event::Received(opened));
            },
            (Err(refusal), _) => {
                tracing::warn!(peer = theirs.from.0, %refusal, "a peer was refused");
            },
            (Ok(_), Some(Err(_)) | None) => {},
        }
    }
}

/// The address of a peer. A name is looked up by the system, off the core.
async fn resolve<E: Env>(env: &E, address: Arc<str>) -> Result<SocketAddr, EnvError> {
    if let Ok(numeric) = address.parse() {
        return Ok(numeric);
    }
    let found = env.offload(move || {
        let mut found = std::net::ToSocketAddrs::to_socket_addrs(&*address).ok()?;
        found.next()
    });
    found.await?.ok_or_else(|| EnvError::new(Op::Connect, Kind::NotFound))
}
