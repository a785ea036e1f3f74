//! Where callers encode command bodies: a chunk of 64 KiB per thread, cut off piece by piece.
//!
//! One allocation serves many bodies; a chunk lives as long as one of its pieces. A body begins
//! 16-aligned, so that it is checked in place.

use core::cell::RefCell;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a chunk. A larger body gets memory of its own.
const CHUNK_LEN: usize = 64 << 10;
/// What an encoder may add to the bytes it is given: its root, and padding.
const ROOM: usize = 256;
const ALIGN: usize = 16;

thread_local! {
    static CHUNK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Lets `encode` append a body of about `len` bytes.
pub(crate) fn body(len: usize, encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    CHUNK.with_borrow_mut(|chunk| {
        let need = len.saturating_add(ROOM);
        if need > CHUNK_LEN {
            let mut own = BytesMut::with_capacity(need);
            return cut(&mut own, encode);
        }
        if chunk.capacity() < need && !chunk.try_reclaim(need) {
            *chunk = BytesMut::with_capacity(CHUNK_LEN);
        }
        cut(chunk, encode)
    })
}

fn cut(chunk: &mut BytesMut, encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    assert!(chunk.is_empty(), "the last body was cut off");
    let address = chunk.spare_capacity_mut().as_ptr().addr();
    let pad = address.next_multiple_of(ALIGN) - address;
    chunk.resize(pad, 0);
    encode(chunk);
    let mut body = chunk.split();
    body.advance(pad);
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_aligned_whole_and_share_chunks() {
        let mut bodies = Vec::new();
        for len in [1, 100, 0, 7, 70_000, 5_000].into_iter().cycle().take(200) {
            let fill = u8::try_from(bodies.len()).expect("small");
            let body = body(len, |out| out.resize(out.len() + len, fill));
            assert!(len == 0 || body.as_ptr().addr().is_multiple_of(ALIGN));
            bodies.push((body, len, fill));
        }
        for (body, len, fill) in bodies {
            assert_eq!(body.len(), len);
            assert!(body.iter().all(|byte| *byte == fill));
        }
    }

    #[test]
    fn a_chunk_whose_bodies_are_gone_is_used_again() {
        let mut addresses = std::collections::BTreeSet::new();
        for _ in 0..10_000 {
            let body = body(200, |out| out.resize(out.len() + 200, 1));
            addresses.insert(body.as_ptr().addr() / CHUNK_LEN);
        }
        assert!(addresses.len() <= 2, "{} chunks", addresses.len());
    }
}
