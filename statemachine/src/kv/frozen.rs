//! A frozen delta as the flush reads it: every version in key order.

use core::ops::Bound;
use std::rc::Rc;
use std::vec;

use bytes::Bytes;

use crate::delta::Delta;
use crate::run::RangeTombstone;
use crate::store::{FlushBody, FlushItem};

/// Versions taken from the delta at a time: the search for the place to go on is paid once.
const BATCH: usize = 256;

struct FrozenItems {
    delta: Rc<Delta>,
    batch: vec::IntoIter<FlushItem>,
    /// The last key taken; none: nothing yet.
    last: Option<Bytes>,
}

impl FrozenItems {
    fn refill(&mut self) {
        let from = self.last.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..]));
        let records = self.delta.walk(from, false).take(BATCH);
        let batch: Vec<_> = records
            .map(|record| FlushItem {
                key: record.key_bytes(),
                mod_index: record.mod_index(),
                expiry_ms: record.expiry_ms(),
                value: record.value(),
            })
            .collect();
        if let Some(item) = batch.last() {
            self.last = Some(item.key.clone());
        }
        self.batch = batch.into_iter();
    }
}

impl Iterator for FrozenItems {
    type Item = FlushItem;

    fn next(&mut self) -> Option<FlushItem> {
        if self.batch.as_slice().is_empty() {
            self.refill();
        }
        self.batch.next()
    }
}

/// What a flush of `delta` writes.
pub(super) fn body(delta: &Rc<Delta>) -> FlushBody {
    let range = |(start, end, index): (&Bytes, &Bytes, u64)| RangeTombstone {
        start: start.to_vec(),
        end: end.to_vec(),
        index,
    };
    let ranges = delta.ranges().map(range).collect();
    let batch = Vec::new().into_iter();
    let entries = FrozenItems { delta: Rc::clone(delta), batch, last: None };
    FlushBody::Keys { entries: Box::new(entries), ranges }
}
