//! Values behind numbers that never move: growing copies at most one chunk.

const CHUNK_BITS: u32 = 9;
const CHUNK: usize = 1 << CHUNK_BITS;

/// An append-only array of chunks.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds a value and gives its number.
    pub(crate) fn push(&mut self, value: T) -> usize {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::new());
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let last = self.chunks.last_mut().expect("a chunk was pushed if there was none");
        last.push(value);
        before + last.len() - 1
    }

    #[inline]
    pub(crate) fn at(&self, number: usize) -> &T {
        &self.chunks[number >> CHUNK_BITS][number & (CHUNK - 1)]
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, number: usize) -> &mut T {
        &mut self.chunks[number >> CHUNK_BITS][number & (CHUNK - 1)]
    }

    pub(crate) fn len(&self) -> usize {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        full + self.chunks.last().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_find_their_values_across_chunks() {
        let mut slab = Slab::default();
        for n in 0..2_000_usize {
            assert_eq!(slab.len(), n);
            assert_eq!(slab.push(n * 7), n);
        }
        *slab.at_mut(1_500) += 1;
        for n in 0..2_000 {
            assert_eq!(*slab.at(n), n * 7 + usize::from(n == 1_500));
        }
    }
}
