//! First-in first-out queues of many slots that share one slab: an idle slot pays 8 bytes, and a
//! steady state allocates nothing.

use alloc::vec::Vec;

const NONE: u32 = u32::MAX;

/// Ends of one queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    head: u32,
    tail: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl Chain {
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.head == NONE
    }
}

#[derive(Clone, Copy, Debug)]
struct Node<T> {
    value: T,
    next: u32,
}

/// The items of all queues of one kind.
#[derive(Debug)]
pub(crate) struct Chains<T> {
    nodes: Vec<Node<T>>,
    free: u32,
    used: usize,
}

impl<T: Copy> Chains<T> {
    pub(crate) fn new() -> Self {
        Self { nodes: Vec::new(), free: NONE, used: 0 }
    }

    /// Items in all queues.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[inline]
    pub(crate) fn push(&mut self, chain: &mut Chain, value: T) {
        let at = if self.free == NONE {
            self.nodes.push(Node { value, next: NONE });
            u32::try_from(self.nodes.len() - 1).expect("budgets keep a queue below 2^32 items")
        } else {
            let at = self.free;
            let node = &mut self.nodes[index(at)];
            self.free = node.next;
            *node = Node { value, next: NONE };
            at
        };
        if chain.is_empty() {
            chain.head = at;
        } else {
            self.nodes[index(chain.tail)].next = at;
        }
        chain.tail = at;
        self.used += 1;
    }

    #[inline]
    pub(crate) fn front(&self, chain: Chain) -> Option<T> {
        (!chain.is_empty()).then(|| self.nodes[index(chain.head)].value)
    }

    #[inline]
    pub(crate) fn pop(&mut self, chain: &mut Chain) -> Option<T> {
        if chain.is_empty() {
            return None;
        }
        let at = chain.head;
        let node = &mut self.nodes[index(at)];
        chain.head = node.next;
        node.next = self.free;
        self.free = at;
        self.used -= 1;
        let value = node.value;
        if chain.head == NONE {
            chain.tail = NONE;
        }
        Some(value)
    }

    /// Forgets every item of one queue.
    pub(crate) fn forget(&mut self, chain: &mut Chain) {
        while self.pop(chain).is_some() {}
    }

    /// The items of one queue, first in first.
    pub(crate) fn iter(&self, chain: Chain) -> impl Iterator<Item = T> {
        let mut at = chain.head;
        core::iter::from_fn(move || {
            (at != NONE).then(|| {
                let node = &self.nodes[index(at)];
                at = node.next;
                node.value
            })
        })
    }
}

#[inline]
fn index(at: u32) -> usize {
    usize::try_from(at).expect("usize holds a u32")
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn queues_that_share_a_slab_keep_their_own_order() {
        let mut chains = Chains::new();
        let (mut a, mut b) = (Chain::default(), Chain::default());
        for nth in 0..10 {
            chains.push(if nth % 2 == 0 { &mut a } else { &mut b }, nth);
        }
        assert_eq!(chains.iter(b).collect::<Vec<_>>(), vec![1, 3, 5, 7, 9]);
        assert_eq!(chains.front(a), Some(0));
        for want in [0, 2, 4, 6, 8] {
            assert_eq!(chains.pop(&mut a), Some(want));
        }
        assert_eq!(chains.pop(&mut a), None);
        assert_eq!(chains.used(), 5);
        chains.push(&mut a, 99);
        assert_eq!(chains.nodes.len(), 10, "freed places are used again");
        assert_eq!(chains.pop(&mut a), Some(99));
    }
}
