//! Writes that go on whatever happens to the nodes, and what was acknowledged of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bowline::EmbeddedClient;
use bowline_env::Nanos;
use bowline_env::sim::{SimTask, World};

use crate::kit::{Cluster, ms};

/// One caller that writes all the time, to whoever leads.
pub(crate) struct Load {
    shared: Rc<Shared>,
    task: SimTask<()>,
}

#[derive(Default)]
struct Shared {
    clients: RefCell<BTreeMap<u64, EmbeddedClient>>,
    /// Writes that were acknowledged: 0 up to this.
    written: Cell<u64>,
    /// The longest time without one.
    gap: Cell<Nanos>,
    over: Cell<bool>,
}

impl Load {
    /// Begins to write through these nodes.
    pub(crate) fn begin(cluster: &Cluster, nodes: &[u64]) -> Self {
        let shared = Rc::new(Shared::default());
        let write = Rc::clone(&shared).write(cluster.world.clone());
        let load = Self { shared, task: cluster.world.spawn_client(write) };
        for node in nodes {
            load.knows(cluster, *node);
        }
        load
    }

    /// The caller is told of another node.
    pub(crate) fn knows(&self, cluster: &Cluster, node: u64) {
        self.shared.clients.borrow_mut().insert(node, cluster.engine(node).client());
    }

    /// The caller does not ask this node any more.
    pub(crate) fn forgets(&self, node: u64) {
        self.shared.clients.borrow_mut().remove(&node);
    }

    /// The longest time without an acknowledged write until now.
    pub(crate) fn gap(&self) -> Nanos {
        self.shared.gap.get()
    }

    /// Ends it: nothing that was acknowledged is lost, and nobody waited longer than 3 s.
    #[track_caller]
    pub(crate) fn end(self, cluster: &Cluster, reader: u64) {
        self.shared.over.set(true);
        cluster.world.run_until(|| self.task.is_done(), crate::kit::LIMIT).unwrap();
        let written = self.shared.written.get();
        assert!(written > 100, "only {written} writes were acknowledged");
        assert!(self.shared.gap.get() <= ms(3_000), "a gap of {:?}", self.shared.gap.get());
        let client = cluster.engine(reader).client();
        cluster.run(async move {
            for nth in 0..written {
                let value = client.get(format!("load-{nth}")).await.unwrap();
                assert_eq!(value.as_deref(), Some(nth.to_string().as_bytes()), "write {nth}");
            }
        });
    }
}

impl Shared {
    async fn write(self: Rc<Self>, world: World) {
        let (mut to, mut last) = (0, world.now());
        while !self.over.get() {
            let client = self.clients.borrow().get(&to).cloned();
            let Some(client) = client else {
                to = self.after(to);
                world.sleep(ms(1)).await;
                continue;
            };
            let nth = self.written.get();
            let put = client.put(format!("load-{nth}"), nth.to_string()).await;
            let now = world.now();
            match put {
                Ok(()) => {
                    self.written.set(nth + 1);
                    self.gap.set(self.gap.get().max(now.since(last)));
                    last = now;
                    world.sleep(ms(2)).await;
                },
                Err(error) => {
                    let hint = error.leader_hint().map(|hint| hint.id.0);
                    let known = hint.filter(|node| self.clients.borrow().contains_key(node));
                    to = known.unwrap_or_else(|| self.after(to));
                    world.sleep(ms(5)).await;
                },
            }
        }
    }

    /// The next node that is known.
    fn after(&self, node: u64) -> u64 {
        let clients = self.clients.borrow();
        let next = clients.range(node + 1..).next().or_else(|| clients.iter().next());
        next.map_or(0, |(node, _)| *node)
    }
}
