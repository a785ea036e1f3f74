//! Keys in order: an adaptive radix tree that only grows.
//!
//! A node branches on one byte of the key, at its `depth`; bytes above it on which all its keys
//! agree are not stored. A walk down looks only at the branching bytes and compares the whole key
//! once, at the leaf. Keys are never taken out (a deleted one stays as a tombstone), so every node
//! can name one leaf below it for ever: its `sample`, which stands for the bytes left out.
//!
//! ```text
//! keys   tea team ten to
//! node   depth 1:  e -> node depth 2:  a -> node depth 3: end -> tea, m -> team
//!                                      n -> ten
//!                  o -> to
//! ```
//!
//! * I1 all keys below a node agree on their first `depth` bytes.
//! * I2 depth grows on every way down.
//!
//! At a node a key is at *place* 0 if it ends there, else at its byte plus 1; places are in key
//! order.

use super::record::Record;
use super::slab::Slab;

/// Places of a node: 0 and one per byte.
const PLACES: usize = 257;

/// A node, a leaf, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Leaf,
    Four,
    Sixteen,
    Wide,
}

impl Link {
    const NONE: Self = Self(0);

    fn new(kind: Kind, number: usize) -> Self {
        let kind = match kind {
            Kind::Leaf => 0,
            Kind::Four => 1,
            Kind::Sixteen => 2,
            Kind::Wide => 3,
        };
        let number = u32::try_from(number).expect("a delta has less than 2^30 keys");
        assert!(number < (1 << 30) - 1, "a delta has less than 2^30 keys");
        Self((number + 1) << 2 | kind)
    }

    #[inline]
    fn kind(self) -> Kind {
        match self.0 & 3 {
            0 => Kind::Leaf,
            1 => Kind::Four,
            2 => Kind::Sixteen,
            _ => Kind::Wide,
        }
    }

    #[inline]
    fn number(self) -> usize {
        debug_assert!(!self.is_none(), "nothing has no number");
        usize::try_from((self.0 >> 2) - 1).expect("a usize holds a u32")
    }

    #[inline]
    fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Where a key stands at a node of `depth`.
#[inline]
fn place_of(key: &[u8], depth: usize) -> usize {
    key.get(depth).map_or(0, |&byte| usize::from(byte) + 1)
}

/// A node of up to `N` places, in order.
#[derive(Debug)]
struct Small<const N: usize> {
    depth: u16,
    len: u16,
    sample: Link,
    places: [u16; N],
    links: [Link; N],
}

/// What a node says of a key: where it branches, a leaf below it, and where the key goes on.
struct Look {
    depth: usize,
    sample: Link,
    child: Link,
}

/// Bytes that two keys share at their begin.
fn shared_len(one: &[u8], two: &[u8]) -> usize {
    const WORD: usize = 16;
    let words = one.chunks_exact(WORD).zip(two.chunks_exact(WORD));
    let at = words.take_while(|(one, two)| one == two).count() * WORD;
    at + one[at..].iter().zip(&two[at..]).take_while(|(one, two)| one == two).count()
}

impl<const N: usize> Small<N> {
    fn new(depth: usize, sample: Link) -> Self {
        let depth = u16::try_from(depth).expect("a key is at most 64 KiB");
        Self { depth, len: 0, sample, places: [u16::MAX; N], links: [Link::NONE; N] }
    }

    #[inline]
    fn depth(&self) -> usize {
        usize::from(self.depth)
    }

    fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    fn find(&self, place: usize) -> Link {
        // All of them are looked at: a loop without an early end is done in parallel.
        let mut found = Link::NONE;
        for at in 0..N {
            if usize::from(self.places[at]) == place {
                found = self.links[at];
            }
        }
        found
    }

    /// The first place at or after `place`.
    fn rank(&self, place: usize) -> usize {
        self.places[..self.len()].partition_point(|&has| usize::from(has) < place)
    }

    /// Adds or replaces a link. False: no room.
    fn set(&mut self, place: usize, link: Link) -> bool {
        let rank = self.rank(place);
        let narrow = u16::try_from(place).expect("a place is at most 256");
        if self.places.get(rank) == Some(&narrow) {
            self.links[rank] = link;
            return true;
        }
        let len = self.len();
        if len == N {
            return false;
        }
        self.places.copy_within(rank..len, rank + 1);
        self.links.copy_within(rank..len, rank + 1);
        (self.places[rank], self.links[rank]) = (narrow, link);
        self.len += 1;
        true
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, Link)> {
        let places = self.places[..self.len()].iter().map(|&place| usize::from(place));
        places.zip(self.links)
    }
}

/// A node of any number of places.
#[derive(Debug)]
struct Wide {
    depth: usize,
    sample: Link,
    links: Box<[Link]>,
}

/// The keys of a delta.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    root: Link,
    records: Slab<Record>,
    fours: Slab<Small<4>>,
    sixteens: Slab<Small<16>>,
    wides: Slab<Wide>,
}

/// Where a key is, or would go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Located {
    /// It is there.
    Here(usize),
    /// It is not.
    Absent(Gap),
}

/// A leaf that shares the longest prefix with a key that is absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    leaf: Link,
    shared: usize,
}

impl Tree {
    /// Keys.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The record of a key.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Record> {
        let mut link = self.root;
        while !link.is_none() {
            if link.kind() == Kind::Leaf {
                let record = self.records.at(link.number());
                return (record.key() == key).then_some(record);
            }
            link = self.look(link, key).child;
        }
        None
    }

    /// What a node says of a key. A key that ends above the node has no child.
    #[inline]
    fn look(&self, link: Link, key: &[u8]) -> Look {
        let (depth, sample, child) = match link.kind() {
            Kind::Leaf => unreachable!("a leaf has no places"),
            Kind::Four => {
                let node = self.fours.at(link.number());
                (node.depth(), node.sample, node.find(place_of(key, node.depth())))
            },
            Kind::Sixteen => {
                let node = self.sixteens.at(link.number());
                (node.depth(), node.sample, node.find(place_of(key, node.depth())))
            },
            Kind::Wide => {
                let node = self.wides.at(link.number());
                (node.depth, node.sample, node.links[place_of(key, node.depth)])
            },
        };
        let child = if key.len() < depth { Link::NONE } else { child };
        Look { depth, sample, child }
    }

    pub(crate) fn record_mut(&mut self, number: usize) -> &mut Record {
        self.records.at_mut(number)
    }

    /// Finds a key, or the leaf that says where it would go.
    pub(crate) fn locate(&self, key: &[u8]) -> Located {
        let mut link = self.root;
        if link.is_none() {
            return Located::Absent(Gap { leaf: Link::NONE, shared: 0 });
        }
        while link.kind() != Kind::Leaf {
            let look = self.look(link, key);
            link = if look.child.is_none() { look.sample } else { look.child };
        }
        let found = self.records.at(link.number()).key();
        let shared = shared_len(found, key);
        if shared == key.len() && shared == found.len() {
            Located::Here(link.number())
        } else {
            Located::Absent(Gap { leaf: link, shared })
        }
    }

    /// Adds a key that `locate` found absent.
    pub(crate) fn insert(&mut self, gap: Gap, record: Record) {
        let place = place_of(record.key(), gap.shared);
        let leaf = Link::new(Kind::Leaf, self.records.push(record));
        if gap.leaf.is_none() {
            self.root = leaf;
            return;
        }
        let key = self.records.at(leaf.number()).key();
        let (mut above, mut link, mut is_here) = (None, self.root, false);
        while link.kind() != Kind::Leaf {
            let look = self.look(link, key);
            is_here = look.depth == gap.shared;
            if look.depth >= gap.shared {
                break;
            }
            above = Some((link, place_of(key, look.depth)));
            link = look.child;
        }
        let replaced = if link.kind() != Kind::Leaf && is_here {
            self.set(link, place, leaf)
        } else {
            let old_place = place_of(self.records.at(gap.leaf.number()).key(), gap.shared);
            let mut node = Small::<4>::new(gap.shared, leaf);
            assert!(node.set(old_place, link) && node.set(place, leaf), "two places of four");
            Link::new(Kind::Four, self.fours.push(node))
        };
        match above {
            _ if replaced == link => {},
            None => self.root = replaced,
            Some((parent, place)) => {
                let same = self.set(parent, place, replaced);
                assert!(same == parent, "a place that is there takes another link");
            },
        }
    }

    fn depth(&self, link: Link) -> usize {
        match link.kind() {
            Kind::Leaf => usize::MAX,
            Kind::Four => self.fours.at(link.number()).depth(),
            Kind::Sixteen => self.sixteens.at(link.number()).depth(),
            Kind::Wide => self.wides.at(link.number()).depth,
        }
    }

    fn sample(&self, link: Link) -> Link {
        match link.kind() {
            Kind::Leaf => link,
            Kind::Four => self.fours.at(link.number()).sample,
            Kind::Sixteen => self.sixteens.at(link.number()).sample,
            Kind::Wide => self.wides.at(link.number()).sample,
        }
    }

    fn child(&self, link: Link, place: usize) -> Link {
        match link.kind() {
            Kind::Leaf => Link::NONE,
            Kind::Four => self.fours.at(link.number()).find(place),
            Kind::Sixteen => self.sixteens.at(link.number()).find(place),
            Kind::Wide => self.wides.at(link.number()).links[place],
        }
    }

    /// Sets a place of a node; the node that stands for it from now on. A node that is outgrown
    /// stays behind unused, which happens at most twice for each.
    fn set(&mut self, link: Link, place: usize, to: Link) -> Link {
        match link.kind() {
            Kind::Leaf => unreachable!("a leaf has no places"),
            Kind::Four => {
                let node = self.fours.at_mut(link.number());
                if node.set(place, to) {
                    return link;
                }
                let mut more = Small::<16>::new(node.depth(), node.sample);
                for (place, link) in node.pairs() {
                    assert!(more.set(place, link), "16 places hold 4");
                }
                assert!(more.set(place, to), "16 places hold 5");
                Link::new(Kind::Sixteen, self.sixteens.push(more))
            },
            Kind::Sixteen => {
                let node = self.sixteens.at_mut(link.number());
                if node.set(place, to) {
                    return link;
                }
                let links = vec![Link::NONE; PLACES].into_boxed_slice();
                let mut more = Wide { depth: node.depth(), sample: node.sample, links };
                for (place, link) in node.pairs() {
                    more.links[place] = link;
                }
                more.links[place] = to;
                Link::new(Kind::Wide, self.wides.push(more))
            },
            Kind::Wide => {
                self.wides.at_mut(link.number()).links[place] = to;
                link
            },
        }
    }

    /// The first place in use at or after `place`, or at or before it.
    fn next_place(&self, link: Link, place: usize, reverse: bool) -> Option<(usize, Link)> {
        match link.kind() {
            Kind::Leaf => None,
            Kind::Four => next_of(self.fours.at(link.number()), place, reverse),
            Kind::Sixteen => next_of(self.sixteens.at(link.number()), place, reverse),
            Kind::Wide => {
                let links = &self.wides.at(link.number()).links;
                let used = |&place: &usize| !links[place].is_none();
                let found =
                    if reverse { (0..=place).rev().find(used) } else { (place..PLACES).find(used) };
                found.map(|place| (place, links[place]))
            },
        }
    }
}

fn next_of<const N: usize>(node: &Small<N>, place: usize, reverse: bool) -> Option<(usize, Link)> {
    let rank = if reverse { node.rank(place + 1).checked_sub(1)? } else { node.rank(place) };
    (rank < node.len()).then(|| (usize::from(node.places[rank]), node.links[rank]))
}

/// A walk over keys in order, or backwards.
#[derive(Clone, Debug)]
pub(crate) struct Keys<'a> {
    tree: &'a Tree,
    reverse: bool,
    /// Nodes on the way down and the next place to look at; none: the node is done.
    stack: Vec<(Link, Option<usize>)>,
    /// A subtree to go through first.
    first: Link,
}

impl<'a> Keys<'a> {
    /// All keys.
    pub(crate) fn all(tree: &'a Tree, reverse: bool) -> Self {
        Self { tree, reverse, stack: Vec::new(), first: tree.root }
    }

    /// The keys at or after `key`, or at or before it.
    pub(crate) fn from(tree: &'a Tree, key: &[u8], reverse: bool) -> Self {
        let mut keys = Self { tree, reverse, stack: Vec::new(), first: Link::NONE };
        let mut link = tree.root;
        while !link.is_none() {
            let leaf = tree.records.at(tree.sample(link).number()).key();
            let depth = tree.depth(link).min(leaf.len());
            let order = key[..key.len().min(depth)].cmp(&leaf[..depth]);
            // A leaf is whole: what `key` has past its end counts too.
            let is_node = link.kind() != Kind::Leaf;
            let order = if is_node { order } else { key.cmp(leaf) };
            if !is_node || order.is_ne() {
                if order.is_eq() || order.is_lt() != reverse {
                    keys.first = link;
                }
                break;
            }
            let place = place_of(key, depth);
            keys.stack.push((link, keys.beside(place)));
            link = tree.child(link, place);
        }
        keys
    }

    fn beside(&self, place: usize) -> Option<usize> {
        if self.reverse { place.checked_sub(1) } else { Some(place + 1).filter(|&p| p < PLACES) }
    }

    fn begin(&mut self, link: Link) {
        let place = if self.reverse { PLACES - 1 } else { 0 };
        self.stack.push((link, Some(place)));
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a Record;

    fn next(&mut self) -> Option<&'a Record> {
        let mut link = core::mem::take(&mut self.first);
        loop {
            if !link.is_none() {
                if link.kind() == Kind::Leaf {
                    return Some(self.tree.records.at(link.number()));
                }
                self.begin(link);
            }
            let (node, place) = self.stack.pop()?;
            let found = place.and_then(|place| self.tree.next_place(node, place, self.reverse));
            link = Link::NONE;
            if let Some((place, child)) = found {
                self.stack.push((node, self.beside(place)));
                link = child;
            }
        }
    }
}
