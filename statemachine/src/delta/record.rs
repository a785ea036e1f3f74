//! One key of a delta and its newest version.

use bytes::Bytes;

/// A key and its version: one slice of the arena.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The key, and the value after it.
    bytes: Bytes,
    key_len: usize,
    is_put: bool,
    mod_index: u64,
    expiry_ms: u64,
}

impl Record {
    /// A value written at `mod_index`. `bytes` is the key and the value after it.
    pub(crate) fn put(bytes: Bytes, key_len: usize, mod_index: u64, expiry_ms: u64) -> Self {
        debug_assert!(key_len <= bytes.len(), "the key is part of the record");
        Self { bytes, key_len, is_put: true, mod_index, expiry_ms }
    }

    /// A key removed at `mod_index`.
    pub(crate) fn deleted(key: Bytes, mod_index: u64) -> Self {
        let key_len = key.len();
        Self { bytes: key, key_len, is_put: false, mod_index, expiry_ms: 0 }
    }

    /// The same key, removed at `mod_index`.
    pub(crate) fn delete(&mut self, mod_index: u64) {
        self.bytes.truncate(self.key_len);
        (self.is_put, self.mod_index, self.expiry_ms) = (false, mod_index, 0);
    }

    /// The key.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len]
    }

    /// The key, counted.
    pub(crate) fn key_bytes(&self) -> Bytes {
        self.bytes.slice(..self.key_len)
    }

    /// The value, counted; none: deleted.
    #[inline]
    pub(crate) fn value(&self) -> Option<Bytes> {
        self.is_put.then(|| self.bytes.slice(self.key_len..))
    }

    /// Whether it is a value.
    #[inline]
    pub(crate) fn is_put(&self) -> bool {
        self.is_put
    }

    /// Index of the entry that wrote it.
    #[inline]
    pub(crate) fn mod_index(&self) -> u64 {
        self.mod_index
    }

    /// Log time at which it expires; 0: never.
    #[inline]
    pub(crate) fn expiry_ms(&self) -> u64 {
        self.expiry_ms
    }
}
