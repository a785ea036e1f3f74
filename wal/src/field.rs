//! Little-endian integers at fixed offsets: formats are read field by field, never by casting.

/// Numbers of frames, lives, uses of a slot, indexes and terms that no stream reaches. A file can
/// hold any number under a good checksum; what is above is not read, so that all others can be
/// counted on from.
const NUMBER_MAX: u64 = u64::MAX / 4 * 3;
/// Where a life may begin to count: what it writes is never above what is read.
const BEGIN_MAX: u64 = u64::MAX / 2;

/// Whether every number is one that a stream can have reached.
pub(crate) fn reachable<const N: usize>(numbers: [u64; N]) -> bool {
    numbers.into_iter().all(|number| number <= NUMBER_MAX)
}

/// Whether every number is one that a life may count on from.
pub(crate) fn countable<const N: usize>(numbers: [u64; N]) -> bool {
    numbers.into_iter().all(|number| number <= BEGIN_MAX)
}

/// The `N` bytes at `at`.
fn cut<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(cut(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(cut(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(cut(bytes, at))
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(cut(bytes, at))
}

/// Writes the bytes of one integer at `at`.
pub(crate) fn put<const N: usize>(out: &mut [u8], at: usize, value: [u8; N]) {
    out[at..at + N].copy_from_slice(&value);
}

/// A length as the `u32` of a format. Every length we write is bounded far below.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("lengths of a frame are below 4 GiB")
}

/// A length as a `u64`.
pub(crate) fn len_u64(len: usize) -> u64 {
    u64::try_from(len).expect("u64 holds a usize")
}

/// A `u32` of a format as a length.
pub(crate) fn len_of(value: u32) -> usize {
    usize::try_from(value).expect("usize holds a u32")
}
