//! Scans: one page from one shard, or pages of all shards merged in key order.
//!
//! A page says where to go on by its last key, not by a token of one shard: the same page is found
//! again on any member. Each shard's part is one state at one index; the parts are not one instant.
//!
//! I1 A key beyond the last key of a shard's unfinished part is not given: that shard may have
//! keys before it that were not seen.

use bowline_statemachine::Query;
use bowline_statemachine::kv::{KeyRange, SCAN_ITEMS_MAX, ScanPage as Part, ScanQuery};
use bytes::{BufMut, Bytes, BytesMut};

use super::many::All;
use crate::op::Op;
use crate::{Consistency, Error};

/// How to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanOptions {
    /// Most items of the page, at most 1,000.
    pub limit: u32,
    /// Goes on after this key: [`ScanPage::next`] of the page before.
    pub after: Option<Bytes>,
    /// From the last key to the first.
    pub reverse: bool,
    /// How fresh it must be.
    pub consistency: Consistency,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            limit: SCAN_ITEMS_MAX,
            after: None,
            reverse: false,
            consistency: Consistency::Linearizable,
        }
    }
}

impl ScanOptions {
    /// The first 1,000 items, linearizable.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most `limit` items.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Goes on after `key`.
    #[must_use]
    pub fn after(mut self, key: Option<Bytes>) -> Self {
        self.after = key;
        self
    }

    /// From the last key to the first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// As fresh as `consistency` says.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }
}

/// Keys with a prefix, and their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanPage {
    /// In key order, or the reverse.
    pub items: Vec<(Bytes, Bytes)>,
    /// Where the next page begins ([`ScanOptions::after`]); none: this was the last.
    pub next: Option<Bytes>,
}

/// The question for each shard.
pub(super) fn query(prefix: &[u8], options: &ScanOptions) -> Result<Query, Error> {
    if options.limit == 0 || options.limit > SCAN_ITEMS_MAX {
        return Err(Error::invalid("the limit of a page is 1 to 1,000 items"));
    }
    let range = match &options.after {
        None => KeyRange::Prefix(Bytes::copy_from_slice(prefix)),
        Some(after) if !after.starts_with(prefix) => {
            return Err(Error::invalid("the key to go on after lacks the prefix"));
        },
        // Between never includes its end, so the key itself is left out either way.
        Some(after) if options.reverse => {
            KeyRange::Between { start: Bytes::copy_from_slice(prefix), end: after.clone() }
        },
        Some(after) => {
            let mut start = BytesMut::with_capacity(after.len() + 1);
            start.extend_from_slice(after);
            start.put_u8(0);
            KeyRange::Between { start: start.freeze(), end: end_of(prefix) }
        },
    };
    let (reverse, limit) = (options.reverse, options.limit);
    Ok(Query::Scan(Box::new(ScanQuery { range, reverse, limit, ..ScanQuery::default() })))
}

/// Whether a page can have anything at all: an empty end of a range means no end.
pub(super) fn is_over(options: &ScanOptions) -> bool {
    options.reverse && options.after.as_ref().is_some_and(Bytes::is_empty)
}

/// The first key after all keys with the prefix; empty: there is none.
fn end_of(prefix: &[u8]) -> Bytes {
    let keep = prefix.iter().rposition(|byte| *byte != u8::MAX).map_or(0, |last| last + 1);
    let mut end = BytesMut::from(&prefix[..keep]);
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.freeze()
}

/// The page made of every shard's part.
pub(super) async fn merge(ops: Vec<Op<Part>>, options: ScanOptions) -> Result<ScanPage, Error> {
    let parts: Result<Vec<Part>, Error> = All::new(ops).await.into_iter().collect();
    let parts = parts?;
    if parts.iter().any(|part| part.next.is_some() && part.items.is_empty()) {
        return Err(Error::broken("a page that goes on has no items"));
    }
    Ok(merged(parts, &options))
}

fn merged(parts: Vec<Part>, options: &ScanOptions) -> ScanPage {
    let reverse = options.reverse;
    let later = |a: &Bytes, b: &Bytes| if reverse { a < b } else { a > b };
    // The nearest place where an unfinished part ends (I1).
    let mut bound: Option<Bytes> = None;
    for part in parts.iter().filter(|part| part.next.is_some()) {
        let last = part.items.last().map(|(key, _)| key.clone()).unwrap_or_default();
        if bound.as_ref().is_none_or(|bound| later(bound, &last)) {
            bound = Some(last);
        }
    }
    let items = parts.into_iter().flat_map(|part| part.items);
    let mut items: Vec<_> = items.map(|(key, item)| (key, item.value)).collect();
    if reverse {
        items.sort_by(|a, b| b.0.cmp(&a.0));
    } else {
        items.sort_by(|a, b| a.0.cmp(&b.0));
    }
    if let Some(bound) = &bound {
        items.retain(|(key, _)| !later(key, bound));
    }
    let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
    let cut = items.len() > limit;
    items.truncate(limit);
    let last = items.last().map(|(key, _)| key.clone());
    let next = if cut || bound.is_some() { last } else { None };
    ScanPage { items, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_statemachine::kv::Item;

    fn part(keys: &str, whole: bool) -> Part {
        let item = |key: &str| {
            let value = Bytes::copy_from_slice(key.to_uppercase().as_bytes());
            (Bytes::copy_from_slice(key.as_bytes()), Item { value, rev: 1, expires_ms: 0 })
        };
        let items: Vec<_> = keys.split_whitespace().map(item).collect();
        let count = u64::try_from(items.len()).expect("few");
        Part { items, count, rev: 1, next: (!whole).then(|| Bytes::from_static(b"token")) }
    }

    #[track_caller]
    fn check(parts: &[(&str, bool)], options: &ScanOptions, want: &str, next: Option<&str>) {
        let parts = parts.iter().map(|(keys, whole)| part(keys, *whole)).collect();
        let page = merged(parts, options);
        let keys: Vec<_> = page.items.iter().map(|(key, _)| String::from_utf8_lossy(key)).collect();
        assert_eq!(keys.join(" "), want);
        assert_eq!(page.next.as_deref(), next.map(str::as_bytes));
    }

    #[test]
    fn parts_are_merged_in_key_order() {
        let all = ScanOptions::new();
        check(&[("a c e", true), ("b d", true)], &all, "a b c d e", None);
        check(&[("", true), ("", true)], &all, "", None);
        let back = ScanOptions::new().reverse();
        check(&[("e c a", true), ("d b", true)], &back, "e d c b a", None);
    }

    #[test]
    fn nothing_beyond_an_unfinished_part_is_given() {
        let all = ScanOptions::new();
        check(&[("a c", false), ("b d f", true)], &all, "a b c", Some("c"));
        check(&[("a z", false), ("b c", false)], &all, "a b c", Some("c"));
        let back = ScanOptions::new().reverse();
        check(&[("f d", false), ("e c a", true)], &back, "f e d", Some("d"));
    }

    #[test]
    fn a_page_ends_at_its_limit_and_says_where_to_go_on() {
        let two = ScanOptions::new().limit(2);
        check(&[("a c", true), ("b", true)], &two, "a b", Some("b"));
        check(&[("a", true), ("b", true)], &two, "a b", None);
    }

    #[test]
    fn a_range_goes_on_after_a_key_and_ends_with_the_prefix() {
        assert_eq!(end_of(b"ab"), &b"ac"[..]);
        assert_eq!(end_of(b"a\xFF\xFF"), &b"b"[..]);
        assert_eq!(end_of(b"\xFF"), &b""[..]);
        let after = ScanOptions::new().after(Some(Bytes::from_static(b"ab1")));
        let Ok(Query::Scan(scan)) = query(b"ab", &after) else { panic!("a scan") };
        let want = KeyRange::Between {
            start: Bytes::from_static(b"ab1\0"),
            end: Bytes::from_static(b"ac"),
        };
        assert_eq!(scan.range, want);
        assert!(query(b"x", &after).is_err());
        assert!(query(b"", &ScanOptions::new().limit(0)).is_err());
        assert!(query(b"", &ScanOptions::new().limit(1_001)).is_err());
    }
}
