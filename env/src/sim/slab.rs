//! Slots with generations: a key of a slot that was freed finds nothing.

/// Where a value lies, and in which life of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    /// As one number, for the trace.
    pub(super) fn bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    fn at(self) -> usize {
        usize::try_from(self.slot).expect("a slot is an index")
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by [`Key`]; iteration is in slot order.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Takes a slot.
    pub(super) fn insert(&mut self, value: T) -> Key {
        self.insert_with(|_| value)
    }

    /// Takes a slot for a value that knows its key.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 slots")
        });
        let place = &mut self.slots[usize::try_from(slot).expect("a slot is an index")];
        let key = Key { slot, generation: place.generation };
        place.value = Some(make(key));
        key
    }

    /// Frees a slot.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.slots.get_mut(key.at()).filter(|s| s.generation == key.generation)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(value)
    }

    /// The value, if the slot still holds it.
    pub(super) fn at(&self, key: Key) -> Option<&T> {
        self.slots.get(key.at()).filter(|s| s.generation == key.generation)?.value.as_ref()
    }

    /// The value, if the slot still holds it.
    pub(super) fn at_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.at()).filter(|s| s.generation == key.generation)?.value.as_mut()
    }

    /// All values with their keys, in slot order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| {
            let key = Key { slot: u32::try_from(at).ok()?, generation: slot.generation };
            Some((key, slot.value.as_ref()?))
        })
    }

    /// All values with their keys, in slot order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(at, slot)| {
            let key = Key { slot: u32::try_from(at).ok()?, generation: slot.generation };
            Some((key, slot.value.as_mut()?))
        })
    }

    /// The keys for which `choose` says so.
    pub(super) fn keys(&self, choose: impl Fn(&T) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, value)| choose(value)).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_life_finds_nothing() {
        let mut slab = Slab::default();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!((slab.at(old), slab.at(new)), (None, Some(&"new")));
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.keys(|_| true), [new]);
    }
}
