//! Chunks that keys and values are copied into; what is handed out is a counted slice.

use bytes::{Bytes, BytesMut};

const CHUNK_MIN: usize = 4 << 10;
const CHUNK_MAX: usize = 256 << 10;

/// An append-only store of byte strings.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    open: BytesMut,
    /// Length of the last chunk; 0: none yet.
    chunk: usize,
    /// Bytes of all chunks.
    charged: usize,
}

impl Arena {
    /// Copies two strings, one behind the other.
    #[inline]
    pub(crate) fn copy(&mut self, first: &[u8], second: &[u8]) -> Bytes {
        let len = first.len() + second.len();
        if len == 0 {
            return Bytes::new();
        }
        if self.open.capacity() - self.open.len() < len {
            self.grow(len);
        }
        self.open.extend_from_slice(first);
        self.open.extend_from_slice(second);
        self.open.split().freeze()
    }

    /// Bytes of all chunks, used or not.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    /// Makes room for `len` bytes in one chunk. A string that would waste much of a chunk gets its
    /// own.
    #[cold]
    fn grow(&mut self, len: usize) {
        let next = (self.chunk * 2).clamp(CHUNK_MIN, CHUNK_MAX);
        let chunk = if len * 2 > next { len } else { next };
        self.chunk = next;
        self.charged += chunk;
        self.open = BytesMut::with_capacity(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_keep_their_bytes_when_chunks_follow() {
        let mut arena = Arena::default();
        let kept: Vec<_> = (0..10_000_u32).map(|n| arena.copy(&n.to_le_bytes(), &[])).collect();
        for (n, slice) in (0_u32..).zip(&kept) {
            assert_eq!(slice[..], n.to_le_bytes());
        }
    }

    #[test]
    fn what_is_charged_is_every_chunk() {
        let mut arena = Arena::default();
        arena.copy(&[1; 90], &[2; 10]);
        assert_eq!(arena.charged(), CHUNK_MIN);
        arena.copy(&[1; 5_000], &[]);
        assert_eq!(arena.charged(), CHUNK_MIN + 5_000);
        for _ in 0..10_000 {
            arena.copy(&[], &[2; 1_000]);
        }
        let used = 100 + 5_000 + 10_000 * 1_000;
        assert!(arena.charged() >= used);
        assert!(arena.charged() <= used + used / 100 + CHUNK_MAX, "little is wasted");
    }

    #[test]
    fn two_strings_lie_side_by_side() {
        let mut arena = Arena::default();
        assert_eq!(arena.copy(b"key", b"value"), "keyvalue");
        assert_eq!(arena.copy(b"", b""), "");
        assert_eq!(arena.charged(), CHUNK_MIN);
    }
}
