//! The client of an application's own state machine.

use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll};

use bowline_statemachine::envelope::KIND_USER;
use bowline_statemachine::hosted::archive;
use bowline_statemachine::{CustomSerializer, CustomValidator, Query};
use bytes::Bytes;
use rkyv::api::high::{self, HighDeserializer};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::{Archive, Archived, Deserialize, Serialize};

use super::{EmbeddedClient, reply};
use crate::node::check;
use crate::{Consistency, Error, Measured, Op, StateMachine};

/// Speaks to the shards of a state machine `M`. Made by [`EmbeddedClient::typed`].
pub struct TypedClient<M> {
    client: EmbeddedClient,
    machine: PhantomData<fn() -> M>,
}

impl<M: StateMachine> TypedClient<M> {
    pub(super) fn new(client: EmbeddedClient) -> Self {
        Self { client, machine: PhantomData }
    }

    /// Replicates a command in the shard of `key`, and answers what `apply` answered.
    pub fn propose(&self, key: impl AsRef<[u8]>, command: &M::Command) -> Op<M::Output>
    where
        M::Command: for<'a> Serialize<CustomSerializer<'a>>,
        M::Output: Archive + 'static,
        Archived<M::Output>: ReadBack<M::Output>,
    {
        let caller = self.client.caller();
        let body = archive(command).map_err(Error::from);
        let body = body.and_then(|body| caller.place(key.as_ref()).map(|shard| (shard, body)));
        match body {
            Ok((shard, body)) => {
                let op = caller.propose(shard, KIND_USER, body, reply::custom_output);
                typed(op)
            },
            Err(error) => Op::failed(error),
        }
    }

    /// Asks the shard of `key`, as fresh as `consistency` says.
    pub fn query(
        &self,
        key: impl AsRef<[u8]>,
        query: &M::Query,
        consistency: Consistency,
    ) -> Op<M::Answer>
    where
        M::Query: for<'a> Serialize<CustomSerializer<'a>>,
        M::Answer: Archive + 'static,
        Archived<M::Answer>: ReadBack<M::Answer>,
    {
        let caller = self.client.caller();
        let query = archive(query).map_err(Error::from).and_then(|query| {
            let max = self.client.node.limits.body_bytes_max;
            check(Measured::Command, query.len(), max).map(|()| query)
        });
        let query = query.and_then(|query| caller.place(key.as_ref()).map(|shard| (shard, query)));
        match query {
            Ok((shard, query)) => {
                let query = Query::Custom(query);
                typed(caller.read(shard, query, consistency, reply::custom_answer))
            },
            Err(error) => Op::failed(error),
        }
    }
}

impl<M> Clone for TypedClient<M> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), machine: PhantomData }
    }
}

impl<M> fmt::Debug for TypedClient<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedClient").field("client", &self.client).finish()
    }
}

/// An archive that can be checked and turned back into a value. Every derived one is.
pub trait ReadBack<T>:
    for<'a> CheckBytes<CustomValidator<'a>> + Deserialize<T, HighDeserializer<Failure>>
{
}

impl<T, A> ReadBack<T> for A where
    A: for<'a> CheckBytes<CustomValidator<'a>> + Deserialize<T, HighDeserializer<Failure>>
{
}

/// An operation whose answer is an archive.
struct Typed<T> {
    op: Op<Bytes>,
    value: PhantomData<fn() -> T>,
}

fn typed<T: Archive<Archived: ReadBack<T>> + 'static>(op: Op<Bytes>) -> Op<T> {
    Op::many(Typed { op, value: PhantomData })
}

impl<T: Archive<Archived: ReadBack<T>>> Future for Typed<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.op).poll(cx).map(|bytes| {
            let mut aligned = rkyv::util::AlignedVec::<16>::new();
            aligned.extend_from_slice(&bytes?);
            high::from_bytes::<T, Failure>(&aligned)
                .map_err(|Failure| Error::broken("the state machine's answer is no archive"))
        })
    }
}
