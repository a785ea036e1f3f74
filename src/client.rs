//! Clients: the operations on keys, from any thread or on a core.
//!
//! Every method has sent its request when it returns; awaiting takes the answer. A write is done
//! once it is synced and applied. After an error with [`Error::maybe_applied`] it may still take
//! effect, and nothing is repeated by itself.

mod batch;
mod many;
mod reply;
mod scan;
mod typed;

use core::time::Duration;
use std::sync::Arc;

use bowline_raft::{NodeId, ShardId};
use bowline_statemachine::kv::encode::{Expect, Ttl};
use bowline_statemachine::kv::{Item, command, encode};
use bowline_statemachine::{Measured, Query};
use bytes::Bytes;
use tokio::sync::watch;

use crate::core::LocalShard;
use crate::node::{Node, check, check_key};
use crate::request::{Call, Consistency};
use crate::route::{shard_of, whole_tag};
use crate::ticket::Reply;
use crate::{Error, Membership, Op, RequestError};
use many::{All, gather};
use reply::Take;

pub use batch::WriteBatch;
pub use scan::{ScanOptions, ScanPage};
pub use typed::{ReadBack, TypedClient};

/// A handle to the keys of a node, or of one shard. Cheap to clone; does not keep the engine
/// alive.
#[derive(Clone, Debug)]
pub struct EmbeddedClient {
    node: Arc<Node>,
    only: Option<ShardId>,
    timeout_ms: u32,
}

impl EmbeddedClient {
    pub(crate) fn new(node: Arc<Node>, only: Option<ShardId>) -> Self {
        let timeout_ms = node.timeout_ms();
        Self { node, only, timeout_ms }
    }

    /// The same client with another time that an operation may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        self
    }

    /// Time that an operation may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// The node that this client speaks to.
    pub fn client_id(&self) -> NodeId {
        self.node.id
    }

    /// The node that leads this client's shard, or most shards; none: no leader is known now.
    pub fn get_leader_id(&self) -> Option<NodeId> {
        let board = &self.node.board;
        let leader = match self.only {
            Some(shard) => board.shard_leader(shard),
            None => board.leader(),
        };
        leader.map(|leader| leader.leader_id)
    }

    /// The members of the cluster, as this node knows them.
    pub fn list_members(&self) -> Vec<NodeId> {
        self.node.roll.now().members.iter().map(|member| member.node).collect()
    }

    /// Follows the members of the cluster, as this node knows them.
    pub fn watch_membership(&self) -> watch::Receiver<Arc<Membership>> {
        self.node.roll.watch()
    }

    /// A client for the application's state machine `M`; none: the engine runs another one.
    pub fn typed<M: crate::StateMachine>(&self) -> Option<TypedClient<M>> {
        let same = self.node.machine == core::any::TypeId::of::<M>();
        same.then(|| TypedClient::new(self.clone()))
    }

    fn caller(&self) -> Caller<'_> {
        Caller(Road::Ring(self))
    }
}

/// A client of any kind, as the operations see it. Only this crate makes them.
#[derive(Debug)]
pub struct Caller<'c>(Road<'c>);

#[derive(Debug)]
enum Road<'c> {
    Ring(&'c EmbeddedClient),
    Core(&'c LocalShard),
}

/// How long until a value expires, as commands say it.
pub(crate) fn ttl(ttl: Duration) -> Ttl {
    Ttl::In(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

impl Caller<'_> {
    /// The shard of a key; refuses keys that are too long, or another shard's.
    fn place(&self, key: &[u8]) -> Result<ShardId, Error> {
        check_key(key)?;
        let (shard, only) = match self.0 {
            Road::Ring(client) => (client.node.shard_of(key), client.only),
            Road::Core(local) if local.shards() == 0 => return Ok(local.id()),
            Road::Core(local) => (shard_of(key, local.shards()), Some(local.id())),
        };
        if only.is_none_or(|only| only == shard) {
            Ok(shard)
        } else {
            Err(Error::Request(RequestError::CrossSlot))
        }
    }

    /// Shards that a scan of everything asks.
    fn all(&self) -> impl Iterator<Item = ShardId> + use<> {
        let range = match self.0 {
            Road::Ring(EmbeddedClient { node, only: None, .. }) => 0..u64::from(node.shards),
            Road::Ring(EmbeddedClient { only: Some(shard), .. }) => shard.0..shard.0 + 1,
            Road::Core(local) => local.id().0..local.id().0 + 1,
        };
        range.map(ShardId)
    }

    fn has_one_shard(&self) -> bool {
        match self.0 {
            Road::Ring(client) => client.node.shards == 1,
            Road::Core(local) => local.shards() == 1,
        }
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        match self.0 {
            Road::Ring(client) => {
                check(Measured::Value, value.len(), client.node.limits.value_bytes_max)
            },
            // The core checks it in the same call.
            Road::Core(_) => Ok(()),
        }
    }

    fn check_body(&self, body: &[u8]) -> Result<(), Error> {
        match self.0 {
            Road::Ring(client) => {
                check(Measured::Command, body.len(), client.node.limits.body_bytes_max)
            },
            Road::Core(_) => Ok(()),
        }
    }

    fn propose<T>(
        &self,
        shard: ShardId,
        kind: u8,
        body: Bytes,
        map: fn(Reply) -> Result<T, Error>,
    ) -> Op<T> {
        if let Err(error) = self.check_body(&body) {
            return Op::failed(error);
        }
        let call = Call::Propose { kind, body };
        match self.0 {
            Road::Ring(client) => client.node.submit(shard, client.timeout_ms, call, map),
            Road::Core(local) => local.submit(call, map),
        }
    }

    fn read<T>(
        &self,
        shard: ShardId,
        query: Query,
        consistency: Consistency,
        map: fn(Reply) -> Result<T, Error>,
    ) -> Op<T> {
        match self.0 {
            Road::Ring(client) => {
                let call = Call::Read { query, consistency };
                client.node.submit(shard, client.timeout_ms, call, map)
            },
            Road::Core(local) => local.ask(query, consistency, map),
        }
    }

    fn put(&self, key: &[u8], value: &[u8], ttl: Ttl) -> Op<()> {
        let shard = self.place(key).and_then(|shard| self.check_value(value).map(|()| shard));
        let shard = match shard {
            Ok(shard) => shard,
            Err(error) => return Op::failed(error),
        };
        let body = crate::arena::body(key.len() + value.len(), |out| {
            encode::put(out, key, value, ttl, false);
        });
        self.propose(shard, command::KIND_PUT, body, reply::written)
    }

    /// A command on one key, without a value.
    fn command<T>(
        &self,
        key: &[u8],
        kind: u8,
        map: fn(Reply) -> Result<T, Error>,
        encode: impl FnOnce(&mut bytes::BytesMut),
    ) -> Op<T> {
        match self.place(key) {
            Ok(shard) => self.propose(shard, kind, crate::arena::body(key.len(), encode), map),
            Err(error) => Op::failed(error),
        }
    }

    fn cas(&self, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Op<bool> {
        let shard = self.check_value(new.unwrap_or_default()).and_then(|()| self.place(key));
        let shard = match shard {
            Ok(shard) => shard,
            Err(error) => return Op::failed(error),
        };
        let expect = expected.map_or(Expect::Absent, Expect::Value);
        let len = key.len() + new.map_or(0, <[u8]>::len) + expected.map_or(0, <[u8]>::len);
        let body = crate::arena::body(len, |out| encode::cas(out, key, expect, new, Ttl::None));
        self.propose(shard, command::KIND_CAS, body, reply::swapped)
    }

    fn write(&self, batch: &WriteBatch) -> Op<()> {
        let shard = batch.keys().try_for_each(check_key);
        let shard = shard.and_then(|()| batch.route(self.has_one_shard()));
        match shard.and_then(|key| self.place(key)) {
            Ok(shard) => self.propose(shard, command::KIND_BATCH, batch.encode(), reply::batch),
            Err(error) => Op::failed(error),
        }
    }

    fn get<T>(&self, key: &[u8], consistency: Consistency, take: &Take<T>) -> Op<T> {
        match self.place(key) {
            Ok(shard) => {
                if let Road::Core(local) = self.0
                    && let Ok(item) = local.item(key, consistency)
                {
                    return Op::ready(Ok((take.item)(item)));
                }
                let key = crate::arena::body(key.len(), |out| out.extend_from_slice(key));
                self.read(shard, Query::Get(key), consistency, take.reply)
            },
            Err(error) => Op::failed(error),
        }
    }

    fn get_multi(&self, keys: &[Bytes], consistency: Consistency) -> Op<Vec<Option<Bytes>>> {
        let mut places = Vec::with_capacity(keys.len());
        for (at, key) in keys.iter().enumerate() {
            match self.place(key) {
                Ok(shard) => places.push((shard, at)),
                Err(error) => return Op::failed(error),
            }
        }
        let Some((first, _)) = places.first().copied() else { return Op::ready(Ok(Vec::new())) };
        if places.iter().all(|(shard, _)| *shard == first) {
            return self.read(first, Query::MultiGet(keys.into()), consistency, reply::values);
        }
        places.sort_unstable();
        let ops = places.chunk_by(|a, b| a.0 == b.0).map(|group| {
            let keys = group.iter().map(|(_, at)| keys[*at].clone()).collect();
            self.read(group[0].0, Query::MultiGet(keys), consistency, reply::values)
        });
        let ops = ops.collect();
        Op::many(gather(ops, places.into_iter().map(|(_, at)| at).collect()))
    }

    fn scan(&self, prefix: &[u8], options: ScanOptions) -> Op<ScanPage> {
        let query = match check_key(prefix).and_then(|()| scan::query(prefix, &options)) {
            Ok(query) => query,
            Err(error) => return Op::failed(error),
        };
        if scan::is_over(&options) {
            return Op::ready(Ok(ScanPage::default()));
        }
        let consistency = options.consistency;
        let ask = |shard| self.read(shard, query.clone(), consistency, reply::page);
        let ops = if whole_tag(prefix).is_some() {
            match self.place(prefix) {
                Ok(shard) => vec![ask(shard)],
                Err(error) => return Op::failed(error),
            }
        } else {
            self.all().map(ask).collect()
        };
        Op::many(scan::merge(ops, options))
    }
}

macro_rules! operations {
    ($vis:vis fn) => {
        /// Sets `key` to `value`, without a deadline. Done once it is synced and applied.
        $vis fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Op<()> {
            self.caller().put(key.as_ref(), value.as_ref(), Ttl::None)
        }

        /// Sets `key` to `value`, which expires `ttl` of log time later.
        $vis fn put_with_ttl(
            &self,
            key: impl AsRef<[u8]>,
            value: impl AsRef<[u8]>,
            ttl: Duration,
        ) -> Op<()> {
            self.caller().put(key.as_ref(), value.as_ref(), crate::client::ttl(ttl))
        }

        /// Sets each key to its value, all sent in one go. Not atomic: each has its own result, by
        /// position.
        $vis fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
            &self,
            pairs: impl IntoIterator<Item = (K, V)>,
        ) -> Op<Vec<Result<(), Error>>> {
            let ops = pairs.into_iter().map(|(key, value)| self.put(key, value)).collect();
            let all = All::new(ops);
            Op::many(async move { Ok(all.await) })
        }

        /// Removes `key`; an absent one stays absent.
        $vis fn delete(&self, key: impl AsRef<[u8]>) -> Op<()> {
            let key = key.as_ref();
            let (kind, map) = (command::KIND_DELETE, reply::written);
            self.caller().command(key, kind, map, |out| encode::delete(out, key, false))
        }

        /// Sets `key` to `new` if it has the value `expected` (`None`: does not exist); says
        /// whether it did.
        $vis fn compare_and_swap(
            &self,
            key: impl AsRef<[u8]>,
            expected: Option<&[u8]>,
            new: impl AsRef<[u8]>,
        ) -> Op<bool> {
            self.caller().cas(key.as_ref(), expected, Some(new.as_ref()))
        }

        /// Removes `key` if it has the value `expected`; says whether it did.
        $vis fn compare_and_delete(
            &self,
            key: impl AsRef<[u8]>,
            expected: impl AsRef<[u8]>,
        ) -> Op<bool> {
            self.caller().cas(key.as_ref(), Some(expected.as_ref()), None)
        }

        /// Adds `by` to the decimal number of `key` and answers the sum; an absent one is 0. Its
        /// deadline stays.
        $vis fn increment(&self, key: impl AsRef<[u8]>, by: i64) -> Op<i64> {
            let key = key.as_ref();
            let (kind, map) = (command::KIND_INCREMENT, reply::number);
            self.caller().command(key, kind, map, |out| {
                encode::increment(out, key, by, Ttl::Keep);
            })
        }

        /// Gives `key` a new deadline, or none; says whether there is such a key.
        $vis fn expire(&self, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Op<bool> {
            let key = key.as_ref();
            let ttl = ttl.map_or(Ttl::None, crate::client::ttl);
            let (kind, map) = (command::KIND_TOUCH, reply::touched);
            self.caller().command(key, kind, map, |out| encode::touch(out, key, ttl))
        }

        /// Applies a batch: all of it, or nothing. Its keys lie in one slot (`{tag}`).
        ///
        /// A guard that does not hold is [`RequestError::GuardFailed`].
        $vis fn write(&self, batch: WriteBatch) -> Op<()> {
            self.caller().write(&batch)
        }

        /// The value of `key`: sees every write that was acknowledged before the call.
        $vis fn get(&self, key: impl AsRef<[u8]>) -> Op<Option<Bytes>> {
            self.get_with_consistency(key, Consistency::Linearizable)
        }

        /// [`get`](Self::get) under its full name.
        $vis fn get_linearizable(&self, key: impl AsRef<[u8]>) -> Op<Option<Bytes>> {
            self.get_with_consistency(key, Consistency::Linearizable)
        }

        /// The same as long as clocks drift less than `raft.clock_drift`, without a round trip;
        /// at the leader only, else linearizable.
        $vis fn get_lease(&self, key: impl AsRef<[u8]>) -> Op<Option<Bytes>> {
            self.get_with_consistency(key, Consistency::Lease)
        }

        /// The value of `key` as applied here: arbitrarily old, and may step back between nodes.
        $vis fn get_eventual(&self, key: impl AsRef<[u8]>) -> Op<Option<Bytes>> {
            self.get_with_consistency(key, Consistency::Eventual)
        }

        /// The value of `key`, as fresh as `consistency` says.
        $vis fn get_with_consistency(
            &self,
            key: impl AsRef<[u8]>,
            consistency: Consistency,
        ) -> Op<Option<Bytes>> {
            self.caller().get(key.as_ref(), consistency, &reply::VALUE)
        }

        /// The value of `key` with its version and deadline.
        $vis fn get_item(
            &self,
            key: impl AsRef<[u8]>,
            consistency: Consistency,
        ) -> Op<Option<Item>> {
            self.caller().get(key.as_ref(), consistency, &reply::ITEM)
        }

        /// The values of keys, by position: one instant per shard, not across shards.
        $vis fn get_multi_linearizable(&self, keys: &[Bytes]) -> Op<Vec<Option<Bytes>>> {
            self.get_multi_with_consistency(keys, Consistency::Linearizable)
        }

        /// The values of keys as applied here, by position.
        $vis fn get_multi_eventual(&self, keys: &[Bytes]) -> Op<Vec<Option<Bytes>>> {
            self.get_multi_with_consistency(keys, Consistency::Eventual)
        }

        /// The values of keys, by position, as fresh as `consistency` says.
        $vis fn get_multi_with_consistency(
            &self,
            keys: &[Bytes],
            consistency: Consistency,
        ) -> Op<Vec<Option<Bytes>>> {
            self.caller().get_multi(keys, consistency)
        }

        /// One page of the keys that begin with `prefix`: of one shard if the prefix holds a
        /// whole `{tag}`, else of all, merged in key order.
        $vis fn scan_prefix(
            &self,
            prefix: impl AsRef<[u8]>,
            options: ScanOptions,
        ) -> Op<ScanPage> {
            self.caller().scan(prefix.as_ref(), options)
        }
    };
}

impl EmbeddedClient {
    operations!(pub fn);
}

impl LocalShard {
    fn caller(&self) -> Caller<'_> {
        Caller(Road::Core(self))
    }

    operations!(pub fn);
}

/// The operations on keys, for code that takes any client.
pub trait ClientApi {
    /// The client as the operations see it.
    #[doc(hidden)]
    fn caller(&self) -> Caller<'_>;

    operations!(fn);
}

impl ClientApi for EmbeddedClient {
    fn caller(&self) -> Caller<'_> {
        Self::caller(self)
    }
}

impl ClientApi for LocalShard {
    fn caller(&self) -> Caller<'_> {
        Self::caller(self)
    }
}
