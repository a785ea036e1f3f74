//! Bodies where an archive may be read: 16-aligned in place, or a copy that is.

use rkyv::util::AlignedVec;

use crate::envelope::BODY_ALIGN;

const SCRATCH_LEN: usize = 1_024;

#[repr(C, align(16))]
struct Scratch([u8; SCRATCH_LEN]);

const _: () = assert!(align_of::<Scratch>() == BODY_ALIGN, "scratch is aligned like a body");

/// Calls `then` with `body`, aligned. Nothing is copied if it is aligned already, and nothing is
/// allocated if it is short.
#[inline]
pub(crate) fn aligned<R>(body: &[u8], then: impl FnOnce(&[u8]) -> R) -> R {
    if body.as_ptr().addr().is_multiple_of(BODY_ALIGN) {
        return then(body);
    }
    if let Some(len) = Some(body.len()).filter(|&len| len <= SCRATCH_LEN) {
        let mut scratch = Scratch([0; SCRATCH_LEN]);
        scratch.0[..len].copy_from_slice(body);
        return then(&scratch.0[..len]);
    }
    let mut copy = AlignedVec::<BODY_ALIGN>::with_capacity(body.len());
    copy.extend_from_slice(body);
    then(&copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_at_any_address_comes_out_aligned_and_equal() {
        let bytes: Vec<u8> = (0..4_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for start in 0..32 {
            for len in [0, 1, 1_023, 1_024, 1_025, 3_000] {
                let body = &bytes[start..start + len];
                aligned(body, |copy| {
                    assert_eq!(copy, body);
                    assert!(copy.as_ptr().addr().is_multiple_of(BODY_ALIGN));
                });
            }
        }
    }
}
