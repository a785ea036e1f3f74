#![expect(unsafe_code, reason = "a buffer whose filled part is shared while the rest is written")]
//! A buffer that is filled from the front while its filled part is already shared.
//!
//! ```text
//! 0        head            filled                     capacity
//! +--------+---------------+--------------------------+
//! | owned  | shared, fixed | owned by the one writer  |
//! +--------+---------------+--------------------------+
//! ```
//!
//! * I1 a byte in `head..filled` never changes again while a [`SharedBuf`] can see it.
//! * I2 only [`Buf`] writes, and only to `..head` and `filled..`; there is one `Buf` per block.
//! * I3 `freeze` ends the writing: from then on the whole block is shared and fixed.
//! * I4 a block is on a [`Shelf`] only while no `Buf` and no [`SharedBuf`] has it.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::{Deref, Range};
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::rc::{Rc, Weak};

/// Alignment of every buffer, offset and length, in bytes; a file may ask for a multiple of it.
pub const BLOCK: usize = 4096;

/// Memory that a [`Buf`] can stand on.
///
/// # Safety
///
/// `start` is aligned to [`BLOCK`] and stays valid for reads and writes of `len` initialized bytes
/// until the value is dropped, however the value moves; nobody else touches those bytes.
pub unsafe trait Memory: Any {
    /// The first byte.
    fn start(&self) -> NonNull<u8>;
    /// Bytes, a multiple of [`BLOCK`].
    fn len(&self) -> usize;
    /// No byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Told once, when writing ends with `len` bytes in use: the memory may give up the rest.
    fn seal(&self, len: usize) {
        let _: usize = len;
    }
    /// Told when nobody has the block any more: all its bytes are to be written again. False: it
    /// cannot be used again, and nothing changed.
    fn unseal(&self) -> bool {
        false
    }
    /// For the environment, to find its own memory again.
    fn as_any(&self) -> &dyn Any;
}

/// Plain aligned heap memory.
struct Heap {
    start: NonNull<u8>,
    layout: Layout,
    /// Bytes held by all buffers of this account.
    account: Option<Rc<Cell<usize>>>,
}

impl Heap {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len, BLOCK).expect("a buffer is far below isize::MAX");
        assert!(len > 0, "a buffer has at least one block");
        // SAFETY: the layout has a size above zero, asserted in the line before.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout, account: None }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.set(account.get() - self.layout.size());
        }
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

// SAFETY: the block is aligned by its layout, zeroed at allocation, owned by this value alone, and
// freed only when it is dropped; moving the value does not move the block.
unsafe impl Memory for Heap {
    fn start(&self) -> NonNull<u8> {
        self.start
    }
    fn len(&self) -> usize {
        self.layout.size()
    }
    fn unseal(&self) -> bool {
        true
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Block {
    start: NonNull<u8>,
    /// Bytes in use: the capacity, or less once sealed.
    len: Cell<usize>,
    memory: Box<dyn Memory>,
    /// Where it goes when nobody has it any more.
    home: Weak<Shelf>,
}

/// The writing side of a buffer. There is one per block.
pub struct Buf {
    block: Rc<Block>,
    head: usize,
    filled: usize,
}

/// A fixed range of a buffer: counted, not copied. Not `Send`.
#[derive(Clone)]
pub struct SharedBuf {
    block: Rc<Block>,
    start: usize,
    len: usize,
}

/// Rounds up to a multiple of [`BLOCK`].
const fn round_up(len: usize) -> usize {
    len.div_ceil(BLOCK) * BLOCK
}

impl Buf {
    /// A buffer on plain heap memory, zeroed. `len` is rounded up to whole blocks, at least one.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        Self::on(Box::new(Heap::new(round_up(len.max(1)))))
    }

    /// As [`Buf::heap`], counted in `account` until its memory is freed.
    #[must_use]
    pub fn heap_counted(len: usize, account: &Rc<Cell<usize>>) -> Self {
        let mut heap = Heap::new(round_up(len.max(1)));
        account.set(account.get() + heap.layout.size());
        heap.account = Some(Rc::clone(account));
        Self::on(Box::new(heap))
    }

    /// A buffer on memory of an environment. Starts empty, without a head.
    ///
    /// # Panics
    ///
    /// If the memory breaks the promise of [`Memory`].
    #[must_use]
    pub fn on(memory: Box<dyn Memory>) -> Self {
        Self::with_home(memory, Weak::new())
    }

    /// As [`Buf::on`]; the memory goes to `shelf` when nobody has a part of it any more.
    ///
    /// # Panics
    ///
    /// If the memory breaks the promise of [`Memory`].
    #[must_use]
    pub fn on_shelf(memory: Box<dyn Memory>, shelf: &Rc<Shelf>) -> Self {
        Self::with_home(memory, Rc::downgrade(shelf))
    }

    fn with_home(memory: Box<dyn Memory>, home: Weak<Shelf>) -> Self {
        let (start, len) = (memory.start(), memory.len());
        assert!(start.as_ptr().addr().is_multiple_of(BLOCK), "buffers are block-aligned");
        assert!(len.is_multiple_of(BLOCK), "buffers are whole blocks");
        let block = Block { start, len: Cell::new(len), memory, home };
        Self { block: Rc::new(block), head: 0, filled: 0 }
    }

    /// Keeps the first `len` bytes for the writer until [`Buf::freeze`]; they cannot be shared
    /// before.
    ///
    /// # Panics
    ///
    /// If something was filled already.
    pub fn reserve_head(&mut self, len: usize) {
        assert!(self.filled == 0 && self.head == 0, "the head is reserved first");
        assert!(len <= self.capacity(), "the head fits");
        self.head = len;
        self.filled = len;
    }

    /// The reserved head.
    pub fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: `..head` lies in the block, and no `SharedBuf` covers it before `freeze` (I2).
        unsafe { core::slice::from_raw_parts_mut(self.block.start.as_ptr(), self.head) }
    }

    /// The rest that is not filled yet.
    pub fn rest_mut(&mut self) -> &mut [u8] {
        let len = self.capacity() - self.filled;
        // SAFETY: `filled <= capacity`, so the pointer stays in the block or one past its end.
        let start = unsafe { self.block.start.as_ptr().add(self.filled) };
        // SAFETY: `filled..capacity` lies in the block and no `SharedBuf` covers it (I2).
        unsafe { core::slice::from_raw_parts_mut(start, len) }
    }

    /// Declares the first `len` bytes of the rest filled: they are fixed from now on.
    ///
    /// # Panics
    ///
    /// If `len` is more than the rest.
    pub fn fill(&mut self, len: usize) {
        assert!(len <= self.capacity() - self.filled, "no more is filled than there is");
        self.filled += len;
    }

    /// Bytes filled, with the head.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes in all.
    pub fn capacity(&self) -> usize {
        self.block.len.get()
    }

    /// Shares a filled range.
    ///
    /// # Panics
    ///
    /// If the range reaches into the head or past what is filled.
    #[must_use]
    pub fn share(&self, range: Range<usize>) -> SharedBuf {
        assert!(self.head <= range.start, "the head is not shared");
        assert!(range.start <= range.end, "the range runs forward");
        assert!(range.end <= self.filled, "only what is filled is shared");
        SharedBuf {
            block: Rc::clone(&self.block),
            start: range.start,
            len: range.end - range.start,
        }
    }

    /// Ends the writing and keeps the first `len` bytes, a multiple of [`BLOCK`]. What lies between
    /// `filled` and `len` is kept as it stands: as the writer left it, or whoever had it before.
    ///
    /// # Panics
    ///
    /// If `len` is no multiple of [`BLOCK`], below what is filled, or above the capacity.
    #[must_use]
    pub fn freeze(self, len: usize) -> SharedBuf {
        assert!(len.is_multiple_of(BLOCK), "a buffer is written in whole blocks");
        assert!(len >= self.filled, "nothing filled is cut off");
        assert!(len <= self.capacity(), "a buffer does not grow");
        self.block.memory.seal(len);
        self.block.len.set(len);
        SharedBuf { block: Rc::clone(&self.block), start: 0, len }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        Shelf::give_back(&self.block);
    }
}

impl Drop for SharedBuf {
    fn drop(&mut self) {
        Shelf::give_back(&self.block);
    }
}

/// Blocks that nobody has any more, to be handed out again as they are: no allocation, no page
/// fault, no zeroing. Bounded in bytes; what does not fit is freed.
pub struct Shelf {
    blocks: RefCell<Vec<Rc<Block>>>,
    bytes: Cell<usize>,
    bytes_max: usize,
}

impl Shelf {
    /// An empty one for `bytes_max` bytes.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self { blocks: RefCell::new(Vec::new()), bytes: Cell::new(0), bytes_max }
    }

    /// A buffer of at least `len` and at most twice as many bytes, the last that came back first.
    /// They are what its last user left in them.
    ///
    /// # Panics
    ///
    /// If the block is somewhere else too: a bug (I4).
    #[must_use]
    pub fn take(&self, len: usize) -> Option<Buf> {
        let mut blocks = self.blocks.borrow_mut();
        let fits = |block: &Rc<Block>| (len..=len.saturating_mul(2)).contains(&block.len.get());
        let nth = blocks.iter().rposition(fits)?;
        let block = blocks.remove(nth);
        assert!(Rc::strong_count(&block) == 1, "only the shelf has it (I4)");
        self.bytes.set(self.bytes.get() - block.len.get());
        Some(Buf { block, head: 0, filled: 0 })
    }

    /// Frees every block.
    pub fn clear(&self) {
        let blocks = core::mem::take(&mut *self.blocks.borrow_mut());
        self.bytes.set(0);
        drop(blocks);
    }

    /// Takes a block that its last user is about to let go.
    fn give_back(block: &Rc<Block>) {
        if Rc::strong_count(block) > 1 {
            return;
        }
        let Some(home) = block.home.upgrade() else { return };
        let len = block.memory.len();
        if home.bytes.get() + len <= home.bytes_max && block.memory.unseal() {
            block.len.set(len);
            home.bytes.set(home.bytes.get() + len);
            home.blocks.borrow_mut().push(Rc::clone(block));
        }
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({} of {} bytes)", self.bytes.get(), self.bytes_max)
    }
}

impl SharedBuf {
    /// A part of this range; no copy.
    ///
    /// # Panics
    ///
    /// If `range` reaches past the end.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "the part lies in the whole");
        Self {
            block: Rc::clone(&self.block),
            start: self.start + range.start,
            len: range.end - range.start,
        }
    }

    /// Whether this is a whole buffer as [`Buf::freeze`] gave it.
    pub fn is_whole(&self) -> bool {
        self.start == 0 && self.len == self.block.len.get()
    }

    /// The memory below, for the environment that made it.
    pub fn memory(&self) -> &dyn Any {
        self.block.memory.as_any()
    }

    /// Whether nobody else holds a part of this buffer.
    pub fn is_last(&self) -> bool {
        Rc::strong_count(&self.block) == 1
    }

    /// Whether both are parts of one buffer.
    pub fn same_buffer(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.block, &other.block)
    }
}

impl Deref for SharedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start + len` was inside the block when this was made, and a block never shrinks
        // below what is filled, so the pointer stays inside it.
        let start = unsafe { self.block.start.as_ptr().add(self.start) };
        // SAFETY: the range lies in `head..filled`, or the block is frozen: it never changes (I1).
        unsafe { core::slice::from_raw_parts(start, self.len) }
    }
}

impl AsRef<[u8]> for SharedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for SharedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBuf({}..+{})", self.start, self.len)
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} + {} of {})", self.head, self.filled - self.head, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filled_part_is_shared_while_the_rest_is_written() {
        let mut buf = Buf::heap(BLOCK);
        buf.reserve_head(16);
        buf.rest_mut()[..3].copy_from_slice(b"abc");
        buf.fill(3);
        let first = buf.share(16..19);
        buf.rest_mut()[..3].copy_from_slice(b"def");
        buf.fill(3);
        buf.head_mut()[..4].copy_from_slice(b"HEAD");
        assert_eq!(&*first, b"abc");
        let whole = buf.freeze(BLOCK);
        assert!(whole.is_whole());
        assert_eq!(&whole[..22], b"HEAD\0\0\0\0\0\0\0\0\0\0\0\0abcdef");
        assert_eq!(&*whole.slice(16..19), &*first);
        assert!(whole.same_buffer(&first));
    }

    fn on_shelf(shelf: &Rc<Shelf>, blocks: usize) -> Buf {
        Buf::on_shelf(Box::new(Heap::new(blocks * BLOCK)), shelf)
    }

    #[test]
    fn a_block_comes_back_whole_when_its_last_part_is_dropped() {
        let shelf = Rc::new(Shelf::new(8 * BLOCK));
        let mut buf = on_shelf(&shelf, 2);
        let address = buf.rest_mut().as_ptr();
        buf.rest_mut().fill(7);
        buf.fill(BLOCK);
        let part = buf.share(0..100);
        let whole = buf.freeze(BLOCK);
        drop(whole);
        assert!(shelf.take(BLOCK).is_none(), "a part of it is still there");
        assert_eq!(part[..], [7; 100]);
        drop(part);
        let mut again = shelf.take(2 * BLOCK).expect("it came back");
        assert_eq!((again.capacity(), again.filled()), (2 * BLOCK, 0));
        assert_eq!(again.rest_mut().as_ptr(), address);
        assert!(shelf.take(BLOCK).is_none(), "it was handed out");
    }

    #[test]
    fn a_shelf_hands_out_what_fits_and_keeps_no_more_than_its_bytes() {
        let shelf = Rc::new(Shelf::new(8 * BLOCK));
        let bufs: Vec<_> = [4, 1, 2, 3].map(|blocks| on_shelf(&shelf, blocks)).into();
        drop(bufs);
        assert!(shelf.take(8 * BLOCK).is_none(), "none is that large");
        assert_eq!(shelf.take(BLOCK).expect("two fit").capacity(), 2 * BLOCK);
        assert_eq!(shelf.take(3 * BLOCK).expect("one fits").capacity(), 4 * BLOCK);
        shelf.clear();
        assert!(shelf.take(BLOCK).is_none());
    }

    #[test]
    fn a_buffer_outlives_its_shelf() {
        let shelf = Rc::new(Shelf::new(8 * BLOCK));
        let mut buf = on_shelf(&shelf, 1);
        drop(shelf);
        buf.rest_mut()[..3].copy_from_slice(b"abc");
        buf.fill(3);
        assert_eq!(&*buf.share(0..3), b"abc");
    }

    #[test]
    #[should_panic(expected = "the head is not shared")]
    fn the_head_is_not_shared_before_it_is_frozen() {
        let mut buf = Buf::heap(BLOCK);
        buf.reserve_head(16);
        drop(buf.share(0..16));
    }
}
