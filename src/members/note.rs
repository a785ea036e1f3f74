//! What goes along with a shard's configuration: where its members are, which nodes were members
//! once, and the state machine's version that the members agree on. So every member knows it from
//! its log, whatever its configuration file says.
//!
//! ```text
//! 0 fmt u8   1 addresses u8   2 ranges u16
//! 4 [fmt 2: version u16 | 0 u16]           fmt 1: the version is 1
//!   address: node u64 | len u8 | text      ascending by node
//!   range:   first u64 | last u64          nodes that left, ascending and apart
//! ```
//!
//! Integers are little-endian. A node that left does not come back under its old id, so what is
//! kept of it is its number alone; numbers in a row are one range. Where the space ends, the two
//! ranges that are closest become one: a number too many is refused rather than one too few.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_raft::{MEMBERS_MAX, Member, NOTE_LEN_MAX, NodeId};

const FORMAT: u8 = 1;
/// With a version of the state machine after the head.
const FORMAT_VERSION: u8 = 2;
const HEAD_LEN: usize = 4;
const VERSION_LEN: usize = 4;
/// Version of the state machine that nobody has to agree on.
pub(crate) const VERSION_FIRST: u16 = 1;
const RANGE_LEN: usize = 16;
/// Bytes of an address at most.
pub(crate) const ADDRESS_LEN_MAX: usize = 255;

/// Addresses of members, nodes that left, and what the members agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    addresses: BTreeMap<NodeId, Arc<str>>,
    left: Departed,
    version: u16,
}

impl Default for Note {
    fn default() -> Self {
        let (addresses, left) = (BTreeMap::new(), Departed::default());
        Self { addresses, left, version: VERSION_FIRST }
    }
}

/// Nodes that were members and are no more: ranges, ascending and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Departed(Vec<(u64, u64)>);

impl Departed {
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&node.0))
    }

    fn insert(&mut self, node: NodeId) {
        self.0.push((node.0, node.0));
        self.0.sort_unstable();
        self.0.dedup_by(|next, range| {
            let touches = next.0 <= range.1.saturating_add(1);
            if touches {
                range.1 = range.1.max(next.1);
            }
            touches
        });
    }

    /// Keeps what another one holds as well.
    pub(crate) fn keep_common(&mut self, other: &Self) {
        let common = |&(first, last): &(u64, u64)| {
            let cut = move |&(from, to): &(u64, u64)| (first.max(from), last.min(to));
            other.0.iter().map(cut).filter(|(first, last)| first <= last)
        };
        self.0 = self.0.iter().flat_map(common).collect();
    }

    /// Makes one range of the two that are closest. False: there is one at most.
    fn merge_closest(&mut self) -> bool {
        let gaps = self.0.windows(2).map(|pair| pair[1].0 - pair[0].1);
        let Some((at, _)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) else { return false };
        let next = self.0.remove(at + 1);
        self.0[at].1 = next.1;
        true
    }

    fn is_sound(&self) -> bool {
        self.0.iter().all(|(first, last)| *first > 0 && first <= last)
            && self.0.windows(2).all(|pair| pair[0].1.saturating_add(1) < pair[1].0)
    }
}

impl Note {
    /// The note of members that found a shard, all with `version` of the state machine.
    pub(crate) fn of(
        addresses: impl IntoIterator<Item = (NodeId, Arc<str>)>,
        version: u16,
    ) -> Self {
        let (addresses, left) = (addresses.into_iter().collect(), Departed::default());
        Self { addresses, left, version: version.max(VERSION_FIRST) }
    }

    /// The version of the state machine that the members agree on.
    pub(crate) const fn version(&self) -> u16 {
        self.version
    }

    /// Notes that all members have `version` of the state machine.
    pub(crate) fn agree(&mut self, version: u16) {
        assert!(self.version < version, "an agreement is not taken back");
        self.version = version;
    }

    /// Where a member is, if it was told.
    pub(crate) fn address(&self, node: NodeId) -> Option<&Arc<str>> {
        self.addresses.get(&node)
    }

    /// Nodes that left.
    pub(crate) const fn left(&self) -> &Departed {
        &self.left
    }

    /// Notes where a node is that comes.
    pub(crate) fn add(&mut self, node: NodeId, address: Arc<str>) {
        self.addresses.insert(node, address);
    }

    /// Notes that a node goes, for good. Where it is counts until it is gone: its vote may be
    /// needed for that.
    pub(crate) fn remove(&mut self, node: NodeId) {
        self.left.insert(node);
    }

    /// Forgets where nodes are that are no members any more.
    pub(crate) fn keep(&mut self, members: &[Member]) {
        let is_member = |node: NodeId| members.iter().any(|member| member.node == node);
        self.addresses.retain(|node, _| is_member(*node));
    }

    /// The bytes; none: the addresses are too long together.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut left = self.left.clone();
        let texts: usize = self.addresses.values().map(|text| 9 + text.len()).sum();
        let has_version = self.version > VERSION_FIRST;
        let head_len = HEAD_LEN + if has_version { VERSION_LEN } else { 0 };
        while NOTE_LEN_MAX < head_len + texts + left.0.len() * RANGE_LEN {
            if !left.merge_closest() {
                return None;
            }
        }
        let format = if has_version { FORMAT_VERSION } else { FORMAT };
        let mut out = vec![format, u8::try_from(self.addresses.len()).ok()?];
        out.extend_from_slice(&u16::try_from(left.0.len()).ok()?.to_le_bytes());
        if has_version {
            out.extend_from_slice(&self.version.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
        }
        for (node, text) in &self.addresses {
            out.extend_from_slice(&node.0.to_le_bytes());
            out.push(u8::try_from(text.len()).ok()?);
            out.extend_from_slice(text.as_bytes());
        }
        for (first, last) in &left.0 {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
        }
        Some(out)
    }

    /// Reads a note; no bytes are an empty one. None: they are none of ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (head, mut rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        let [format, addresses, low, high] = *head;
        if usize::from(addresses) > MEMBERS_MAX {
            return None;
        }
        let mut note = Self::default();
        match format {
            FORMAT => {},
            FORMAT_VERSION => {
                let (version, after) = rest.split_first_chunk::<VERSION_LEN>()?;
                rest = after;
                let [low, high, zeros @ ..] = *version;
                note.version = u16::from_le_bytes([low, high]);
                if note.version <= VERSION_FIRST || zeros != [0; 2] {
                    return None;
                }
            },
            _ => return None,
        }
        let mut previous = NodeId(0);
        for _ in 0..addresses {
            let node = NodeId(number(&mut rest)?);
            let (len, after) = rest.split_first()?;
            let (text, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            if node <= previous || !is_address(text) {
                return None;
            }
            previous = node;
            note.add(node, Arc::from(core::str::from_utf8(text).ok()?));
        }
        for _ in 0..u16::from_le_bytes([low, high]) {
            note.left.0.push((number(&mut rest)?, number(&mut rest)?));
        }
        (rest.is_empty() && note.left.is_sound()).then_some(note)
    }
}

/// Whether these can be the bytes of an address: they go into logs as they are.
pub(crate) fn is_address(text: &[u8]) -> bool {
    !text.is_empty() && text.len() <= ADDRESS_LEN_MAX && text.iter().all(u8::is_ascii_graphic)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        let mut note =
            Note::of([(NodeId(1), Arc::from("a:1")), (NodeId(4), Arc::from("four:4"))], 1);
        for node in [2, 9, 3] {
            note.remove(NodeId(node));
        }
        note
    }

    #[test]
    fn golden_note_v1() {
        let want = [
            &[1, 2, 2, 0][..],
            &[1, 0, 0, 0, 0, 0, 0, 0, 3],
            b"a:1",
            &[4, 0, 0, 0, 0, 0, 0, 0, 6],
            b"four:4",
            &[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
            &[9, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        ];
        let bytes = note().encode().unwrap();
        assert_eq!(bytes, want.concat());
        assert_eq!(Note::decode(&bytes), Some(note()));
        assert_eq!(Note::decode(&[]), Some(Note::default()));
    }

    #[test]
    fn golden_note_v2() {
        let mut note = note();
        note.agree(0x0203);
        let bytes = note.encode().unwrap();
        let (head, rest) = bytes.split_at(8);
        assert_eq!(head, [2, 2, 2, 0, 3, 2, 0, 0]);
        let first = self::note().encode().unwrap();
        assert_eq!(rest, &first[4..], "the rest is as version 1 has it");
        assert_eq!(Note::decode(&bytes), Some(note));
        for (at, to) in [(4, 1), (5, 0), (6, 1), (7, 1)] {
            let mut bytes = bytes.clone();
            (bytes[5], bytes[at]) = (0, to);
            let is_first = at == 4;
            let read = Note::decode(&bytes);
            assert_eq!(read.is_none(), is_first || at > 5, "{at} = {to}: {read:?}");
        }
        let alone = Note::of([], 7);
        let bytes = alone.encode().unwrap();
        assert_eq!(bytes, [2, 0, 0, 0, 7, 0, 0, 0]);
        assert!((1..8).all(|len| Note::decode(&bytes[..len]).is_none()), "no cut is read");
        assert_eq!(Note::decode(&bytes), Some(alone));
    }

    #[test]
    fn no_cut_and_no_false_order_is_read() {
        let bytes = note().encode().unwrap();
        for len in 1..bytes.len() {
            assert_eq!(Note::decode(&bytes[..len]), None, "{len} bytes");
        }
        let broken = |at: usize, to: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = to;
            assert_eq!(Note::decode(&bytes), None, "{at} = {to}");
        };
        broken(0, 3);
        broken(1, 16);
        broken(4, 5);
        broken(13, 0x20);
        broken(31, 9);
        broken(47, 4);
    }

    #[test]
    fn nodes_that_left_are_known_and_others_are_not() {
        let note = note();
        for node in 1..12 {
            assert_eq!(note.left().contains(NodeId(node)), [2, 3, 9].contains(&node), "{node}");
        }
        assert_eq!(note.address(NodeId(4)).map(|text| &**text), Some("four:4"));
        assert_eq!(note.address(NodeId(2)), None);
    }

    #[test]
    fn what_two_lists_of_departed_have_in_common() {
        let mut one = Departed(vec![(2, 3), (9, 12), (20, 20)]);
        one.keep_common(&Departed(vec![(1, 2), (10, 15), (17, 19)]));
        assert_eq!(one, Departed(vec![(2, 2), (10, 12)]));
        one.keep_common(&Departed::default());
        assert_eq!(one, Departed::default());
    }

    #[test]
    fn where_the_space_ends_a_number_too_many_is_refused_and_never_one_too_few() {
        let mut note = note();
        for node in 0..500 {
            note.remove(NodeId(10 + 3 * node));
        }
        let bytes = note.encode().unwrap();
        assert!(bytes.len() <= NOTE_LEN_MAX);
        let read = Note::decode(&bytes).unwrap();
        for node in 0..500 {
            assert!(read.left().contains(NodeId(10 + 3 * node)));
        }
        let long: Arc<str> = "x".repeat(ADDRESS_LEN_MAX).into();
        let many = Note::of((1..=5).map(|node| (NodeId(node), Arc::clone(&long))), 1);
        assert_eq!(many.encode(), None);
    }
}
