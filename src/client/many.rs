//! Operations on several shards at once: sent in one go, gathered in order.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use bytes::Bytes;

use crate::Error;
use crate::op::Op;

/// Waits for all of several operations. Those that found their ring full are sent as room
/// appears; the others are looked at in order, so each is polled once per wake at most.
pub(super) struct All<T> {
    ops: Vec<Op<T>>,
    results: Vec<Result<T, Error>>,
    sent: usize,
}

impl<T> All<T> {
    pub(super) fn new(ops: Vec<Op<T>>) -> Self {
        let results = Vec::with_capacity(ops.len());
        Self { ops, results, sent: 0 }
    }
}

impl<T> Unpin for All<T> {}

impl<T> Future for All<T> {
    type Output = Vec<Result<T, Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let all = &mut *self;
        while all.sent < all.ops.len() && all.ops[all.sent].send(cx.waker()) {
            all.sent += 1;
        }
        while let Some(op) = all.ops.get_mut(all.results.len()) {
            match Pin::new(op).poll(cx) {
                Poll::Ready(result) => all.results.push(result),
                Poll::Pending => return Poll::Pending,
            }
        }
        all.ops.clear();
        Poll::Ready(core::mem::take(&mut all.results))
    }
}

/// Values of keys from several shards, back in the order of the keys.
///
/// # Errors
///
/// The first shard's that failed.
pub(super) async fn gather(
    ops: Vec<Op<Vec<Option<Bytes>>>>,
    places: Vec<usize>,
) -> Result<Vec<Option<Bytes>>, Error> {
    let mut values = vec![None; places.len()];
    let mut places = places.into_iter();
    for part in All::new(ops).await {
        for value in part? {
            let place = places.next().ok_or(Error::invalid("a shard answered too much"))?;
            values[place] = value;
        }
    }
    assert!(places.next().is_none(), "every key has its answer");
    Ok(values)
}
