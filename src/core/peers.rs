//! Who the other nodes are: where they listen, how they are laid out, what this node says of
//! itself.
//!
//! One roster per core, shared with its tasks that shake hands. It follows the configurations of
//! the core's shards, which say who the members are; where a member listens they say too, and a
//! dial tries what the configuration file says of it in turn. A node that is in none of them is let
//! in unless it left: it may be a member that this node has not heard of yet.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::Env;
use bowline_net::{Class, Hello, HelloKind, NodeRecord, Refusal, Versions};
use bowline_raft::{NodeId, ShardId};

use crate::LeaderHint;
use crate::members::note::Departed;
use crate::node_file::{Met, NO_CLUSTER};
use crate::route::core_of;

/// Largest lane window, in bytes.
const WINDOW_MAX: u32 = 8 << 20;
/// Receive memory of a core, in bytes: its lanes share it.
const RECEIVE_MAX: u32 = 64 << 20;

/// Another node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// Where it listens for peers, `host:port`.
    pub(crate) address: Arc<str>,
    /// Where its application answers; none: not said.
    pub(crate) app: Option<Arc<str>>,
    /// Its cores and streams; none until its hello said them.
    pub(crate) layout: Option<(u16, u16)>,
    /// Its store, as seen first.
    pub(crate) store: Option<u128>,
    /// Version of its state machine, as its last hello said.
    version: u16,
    /// How often it was dialed.
    dials: u32,
}

/// This node as it shows itself, and the others as they are known.
#[derive(Debug)]
pub(crate) struct Roster {
    /// What a hello of this core says; receiver, kind and numbers of the connection are filled in.
    hello: Hello,
    peers: BTreeMap<NodeId, Peer>,
    /// Nodes that were let in and belong to no shard here.
    guests: BTreeMap<NodeId, Peer>,
    /// Nodes that were members and are no more.
    left: Departed,
    /// Where the configuration file says that nodes are.
    told: Vec<(NodeId, Arc<str>)>,
    /// Lanes that have a connection.
    up: BTreeSet<(NodeId, u16)>,
    /// By peer and its core: boot and epoch of the connection that was let in last.
    live: BTreeMap<(NodeId, u16), (u64, u64)>,
    epoch: u64,
}

/// A roster shared by a core and its tasks.
pub(crate) type SharedRoster = Rc<RefCell<Roster>>;

/// What the start sequence knows of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The other nodes and where they listen, ascending.
    pub(crate) peers: Vec<(NodeId, Arc<str>)>,
    /// Peers that were met; ascending by node.
    pub(crate) met: Vec<Met>,
    /// The own store.
    pub(crate) store: u128,
    /// Version of the state machine that this node runs.
    pub(crate) machine: u16,
    /// What is told of this node.
    pub(crate) record: NodeRecord,
}

/// Where a list says that a node listens.
fn address_in(list: &[(NodeId, Arc<str>)], node: NodeId) -> Option<Arc<str>> {
    list.iter().find(|(id, _)| *id == node).map(|(_, address)| Arc::clone(address))
}

impl Roster {
    /// The roster of core `core`, of the process life `boot`.
    pub(crate) fn new(
        members: &Known,
        cluster: u128,
        core: u16,
        boot: u64,
        frame_max: u32,
    ) -> Self {
        let guests = members.met.iter().map(|met| {
            let address = address_in(&members.peers, met.node).unwrap_or_default();
            (met.node, Peer { address, store: Some(met.store), ..Peer::default() })
        });
        let lanes = u32::try_from(members.peers.len()).unwrap_or(u32::MAX);
        let share = RECEIVE_MAX / lanes.max(1);
        let hello = Hello {
            kind: HelloKind::Hello,
            class: Class::Lane,
            versions: Versions::OURS,
            features: 0,
            required: 0,
            cluster,
            from: members.record.node,
            to: NodeId(0),
            store: members.store,
            boot,
            epoch: 0,
            nonce: 0,
            echo: 0,
            from_core: core,
            want_core: 0,
            cores: members.record.cores,
            machine: members.machine,
            frame_max,
            window: share.clamp(frame_max.saturating_mul(2), WINDOW_MAX.max(frame_max * 2)),
            table_version: 0,
            claimed: 0,
            known: 0,
            record: members.record.clone(),
        };
        Self {
            hello,
            peers: BTreeMap::new(),
            guests: guests.collect(),
            left: Departed::default(),
            told: members.peers.clone(),
            up: BTreeSet::new(),
            live: BTreeMap::new(),
            epoch: 0,
        }
    }

    /// The other members are these from now on, and those left.
    pub(super) fn follow(&mut self, members: BTreeMap<NodeId, Option<Arc<str>>>, left: Departed) {
        let mut before = std::mem::take(&mut self.peers);
        for (node, address) in members {
            let known = before.remove(&node).or_else(|| self.guests.remove(&node));
            let mut peer = known.unwrap_or_default();
            if let Some(address) = address {
                peer.address = address;
            } else if peer.address.is_empty() {
                peer.address = address_in(&self.told, node).unwrap_or_default();
            }
            self.peers.insert(node, peer);
        }
        // Who left may have something to hear still.
        self.guests.extend(before);
        self.left = left;
    }

    /// Whether the configuration file names other nodes than there are.
    pub(in crate::core) fn is_told_otherwise(&self) -> bool {
        let told = self.told.iter().map(|(node, _)| node);
        !self.told.is_empty() && !told.eq(self.peers.keys())
    }

    /// Whether a node was a member and is no more.
    pub(super) fn has_left(&self, node: NodeId) -> bool {
        self.left.contains(node) && !self.peers.contains_key(&node)
    }

    /// A lane has a connection, or has none.
    pub(super) fn set_up(&mut self, lane: (NodeId, u16), is_up: bool) {
        if is_up {
            self.up.insert(lane);
        } else {
            self.up.remove(&lane);
        }
    }

    pub(crate) fn own(&self) -> NodeId {
        self.hello.from
    }

    pub(crate) fn window(&self) -> u32 {
        self.hello.window
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node).or_else(|| self.guests.get(&node))
    }

    /// Which version of the state machine a node runs; none while it is not connected.
    pub(super) fn version_of(&self, node: NodeId) -> Option<u16> {
        let mut lanes = self.up.range((node, 0)..=(node, u16::MAX));
        lanes.next().and_then(|_| self.peer(node)).map(|peer| peer.version)
    }

    /// Where to dial `node` next: where it was last known to listen and where the configuration
    /// file says that it does, in turn. Who is a member the file does not say; where, it may.
    pub(super) fn address_to(&mut self, node: NodeId) -> Arc<str> {
        let told = address_in(&self.told, node);
        let known = if self.peers.contains_key(&node) { &mut self.peers } else { &mut self.guests };
        let Some(peer) = known.get_mut(&node) else { return Arc::default() };
        peer.dials = peer.dials.wrapping_add(1);
        let second = told.filter(|_| peer.dials.is_multiple_of(2));
        second.unwrap_or_else(|| Arc::clone(&peer.address))
    }

    /// `node` answered at `address`: that is where it is.
    pub(super) fn met_at(&mut self, node: NodeId, address: Arc<str>) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.address = address;
        }
    }

    /// The hello of a dial to core `core` of `node`.
    pub(super) fn dialing<E: Env>(&mut self, env: &E, node: NodeId, core: u16) -> Hello {
        self.epoch += 1;
        let mut nonce = [0; 8];
        env.fill_random(&mut nonce);
        let (epoch, nonce) = (self.epoch, u64::from_le_bytes(nonce));
        Hello { to: node, want_core: core, epoch, nonce, ..self.hello.clone() }
    }

    /// The answer to `theirs`. Who welcomes remembers the life that `theirs` knows of it.
    pub(super) fn answer(&self, theirs: &Hello, kind: HelloKind) -> Hello {
        let (to, class, echo) = (theirs.from, theirs.class, theirs.nonce);
        let (want_core, epoch) = (theirs.from_core, theirs.epoch);
        let own = self.hello.cluster;
        let cluster = if own == NO_CLUSTER { theirs.cluster } else { own };
        let claimed = theirs.known;
        Hello { kind, to, class, echo, want_core, epoch, cluster, claimed, ..self.hello.clone() }
    }

    /// Whether a connection with this hello may take the place of what is there. The node with the
    /// lower id dials; the other one only where nothing came for a while (decisions 0014, 0018).
    pub(super) fn admit(&self, theirs: &Hello) -> Result<(), Refusal> {
        if theirs.cluster == NO_CLUSTER {
            return Err(Refusal::WrongCluster);
        }
        if self.has_left(theirs.from) {
            return Err(Refusal::NotMember);
        }
        let lane = (theirs.from, theirs.from_core);
        // What was up with another life of the node is up no more, if the ledger believes this one.
        let live = self.live.get(&lane).filter(|(boot, _)| *boot == theirs.boot);
        let up = live.is_some() && self.up.contains(&lane);
        if theirs.class != Class::Lane || (up && theirs.from >= self.own()) {
            return Err(Refusal::Duplicate);
        }
        if live.is_some_and(|(_, epoch)| theirs.epoch <= *epoch) {
            return Err(Refusal::Duplicate);
        }
        Ok(())
    }

    /// A connection is there: what its hello says of the peer counts from now on.
    pub(super) fn learn(&mut self, theirs: &Hello) {
        self.live.insert((theirs.from, theirs.from_core), (theirs.boot, theirs.epoch));
        self.hello.cluster = theirs.cluster;
        let record = &theirs.record;
        let peer = match self.peers.get_mut(&theirs.from) {
            Some(peer) => peer,
            None => self.guests.entry(theirs.from).or_default(),
        };
        if peer.address.is_empty() {
            peer.address = Arc::from(&*record.address);
        }
        peer.layout = Some((record.cores, record.streams));
        peer.version = theirs.machine;
        peer.store.get_or_insert(theirs.store);
        let app = &record.client_address;
        peer.app = (!app.is_empty()).then(|| Arc::from(&**app));
    }

    /// The core of `node` that has the shard; a guess until the node said how it is laid out.
    pub(super) fn core_of(&self, node: NodeId, shard: ShardId) -> u16 {
        let own = (self.hello.cores, self.hello.record.streams);
        let (cores, streams) = self.peer(node).and_then(|peer| peer.layout).unwrap_or(own);
        let core = core_of(shard, streams.max(1), usize::from(cores.max(1)));
        u16::try_from(core).unwrap_or(0)
    }

    /// What to tell a caller whose shard `node` leads.
    pub(crate) fn hint(&self, node: NodeId, term: bowline_raft::Term) -> LeaderHint {
        let peer = self.peer(node);
        LeaderHint {
            id: node,
            term,
            app: peer.and_then(|peer| peer.app.clone()),
            resp: None,
            peer: peer.map(|peer| Arc::clone(&peer.address)),
        }
    }

    /// The other nodes, ascending.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.keys().copied()
    }
}
