//! A node that joins, and leaves again, while everything else goes on.
//!
//! ```text
//! coming    it runs; somebody adds it and lets it vote, again and again until that is done
//! in        a voter like the others: clients use it, troubles meet it
//! going     somebody removes it; then its machine is taken away
//! ```

use std::rc::Rc;
use std::time::Duration;

use bowline::{Admin, ChangeReport, NodeId};
use bowline_env::Nanos;
use bowline_env::sim::{Crash, Rng, SimTask, World};

use super::load::Shared;
use super::nodes::Nodes;
use crate::node::PORT;

/// Time that one attempt at a change may take.
const ATTEMPT: Duration = Duration::from_secs(4);
/// Between two attempts.
const PAUSE: Nanos = Nanos::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Coming,
    In,
    Going,
}

struct Guest {
    node: u64,
    phase: Phase,
    /// The change that is under way.
    task: Option<SimTask<()>>,
}

/// The guest, if there is one: one at a time, each under an id of its own.
pub(crate) struct Guests {
    shared: Rc<Shared>,
    rng: Rng,
    next: u64,
    guest: Option<Guest>,
}

impl Guests {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        let rng = Rng::new(shared.plan.seed ^ 0x6775_6573);
        let next = shared.plan.nodes.iter().max().map_or(1, |last| last + 1);
        Self { shared: Rc::clone(shared), rng, next, guest: None }
    }

    /// A guest comes, or the one that is in goes.
    pub(crate) fn change(&mut self, nodes: &mut Nodes) {
        let rng = Rng::new(self.rng.below(u64::MAX));
        let shared = Rc::clone(&self.shared);
        match &mut self.guest {
            None => {
                let node = self.next;
                self.next += 1;
                nodes.come(node);
                let task = self.shared.world.spawn_client(join(shared, rng, node));
                self.guest = Some(Guest { node, phase: Phase::Coming, task: Some(task) });
            },
            Some(guest) if guest.phase == Phase::In => {
                guest.phase = Phase::Going;
                self.shared.guest.set(None);
                let task = self.shared.world.spawn_client(leave(shared, rng, guest.node));
                guest.task = Some(task);
            },
            Some(_) => {},
        }
    }

    /// Whether a change is under way.
    pub(crate) fn is_changing(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| guest.phase != Phase::In)
    }

    /// Notes a change that ended.
    pub(crate) fn look(&mut self, nodes: &mut Nodes) {
        let Some(guest) = &mut self.guest else { return };
        if !guest.task.as_ref().is_some_and(SimTask::is_done) {
            return;
        }
        guest.task = None;
        let node = guest.node;
        let mut tally = self.shared.tally.borrow_mut();
        if guest.phase == Phase::Coming {
            guest.phase = Phase::In;
            self.shared.guest.set(Some(node));
            tally.joined += 1;
            return;
        }
        tally.left += 1;
        drop(tally);
        self.guest = None;
        nodes.crash(node, Crash::Power);
        nodes.go(node);
    }
}

async fn join(shared: Rc<Shared>, rng: Rng, node: u64) {
    let address = format!("{}:{PORT}", World::addr(node));
    until_done(&shared, &rng, |admin| admin.add_learner(NodeId(node), address.clone())).await;
    until_done(&shared, &rng, |admin| admin.promote(NodeId(node))).await;
}

async fn leave(shared: Rc<Shared>, rng: Rng, node: u64) {
    until_done(&shared, &rng, |admin| admin.remove(NodeId(node))).await;
}

/// Asks one founder and then another until one says that all is done.
async fn until_done(shared: &Shared, rng: &Rng, ask: impl Fn(&Admin) -> bowline::Op<ChangeReport>) {
    loop {
        let founders = &shared.plan.nodes;
        let by = founders[rng.index(founders.len())];
        let admin = shared.up.borrow().get(&by).map(|(_, engine)| engine.admin());
        if let Some(admin) = admin
            && let Ok(report) = ask(&admin.with_timeout(ATTEMPT)).await
            && report.is_complete()
        {
            return;
        }
        shared.world.sleep(PAUSE).await;
    }
}
