#![expect(unsafe_code, reason = "memory of the runtime as memory of our buffers")]
//! Buffers on the runtime's memory: what is written to a file, and what a read gave.

use core::any::Any;
use core::cell::{Cell, RefCell};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use std::rc::Rc;

use ::glommio::io::{DmaBuffer, ReadResult};

use crate::{BLOCK, Buf, EnvError, Kind, Memory, Op, SharedBuf, Shelf};

/// Bytes of buffers that one core may hold at a time.
const POOL_BYTES_MAX: usize = 256 << 20;
/// Lengths of scratch buffers are multiples of this, so that one fits in for the other.
const SCRATCH_STEP: usize = 16 << 10;
/// Bytes of scratch buffers that are kept for the next user.
pub(super) const SHELF_BYTES_MAX: usize = 8 << 20;

/// The account of one core's buffers (I6).
#[derive(Debug, Default)]
pub(super) struct Pool {
    taken: Cell<usize>,
}

impl Pool {
    /// A zeroed buffer of at least `len` bytes, in whole blocks.
    pub(super) fn buffer(self: &Rc<Self>, len: usize) -> Result<Buf, EnvError> {
        Ok(Buf::on(Box::new(self.memory(len)?)))
    }

    /// A buffer of at least `len` bytes that comes from `shelf` and goes back there.
    pub(super) fn scratch(self: &Rc<Self>, len: usize, shelf: &Rc<Shelf>) -> Result<Buf, EnvError> {
        let len = len.max(1).div_ceil(SCRATCH_STEP).saturating_mul(SCRATCH_STEP);
        if let Some(buf) = shelf.take(len) {
            return Ok(buf);
        }
        let memory = self.memory(len).or_else(|_| {
            shelf.clear();
            self.memory(len)
        })?;
        Ok(Buf::on_shelf(Box::new(memory), shelf))
    }

    fn memory(self: &Rc<Self>, len: usize) -> Result<Dma, EnvError> {
        let len = len.max(1).div_ceil(BLOCK).saturating_mul(BLOCK);
        let taken = self.taken.get().saturating_add(len);
        if taken > POOL_BYTES_MAX {
            return Err(EnvError::new(Op::Buffer, Kind::NoMemory));
        }
        let mut buffer = ::glommio::allocate_dma_buffer(len);
        assert!(buffer.len() == len, "the runtime gives what was asked for");
        zero(&mut buffer);
        self.taken.set(taken);
        let start = NonNull::new(buffer.as_mut_ptr()).expect("a buffer has an address");
        // SAFETY: a bitwise copy, never dropped and never looked through: see `Dma::whole`.
        let whole = unsafe { core::ptr::read(&raw const buffer) };
        let (whole, buffer) = (ManuallyDrop::new(whole), RefCell::new(Rc::new(buffer)));
        Ok(Dma { whole, buffer, start, len, pool: Rc::clone(self) })
    }

    /// The runtime's buffer below `buf`, whole; a copy if `buf` stands on other memory.
    pub(super) fn dma_of(buf: &SharedBuf) -> Rc<DmaBuffer> {
        assert!(buf.is_whole(), "a buffer is written as a whole");
        if let Some(memory) = buf.memory().downcast_ref::<Dma>() {
            let dma = Rc::clone(&memory.buffer.borrow());
            assert!(dma.len() == buf.len(), "a frozen buffer is trimmed to what is written");
            return dma;
        }
        let mut copy = ::glommio::allocate_dma_buffer(buf.len());
        // SAFETY: `copy` has `buf.len()` bytes at its address, owned by it alone, and `buf` is
        // other memory of the same length; both are live.
        unsafe { copy.as_mut_ptr().copy_from_nonoverlapping(buf.as_ptr(), buf.len()) };
        Rc::new(copy)
    }
}

/// The runtime's memory is not initialized.
fn zero(buffer: &mut DmaBuffer) {
    let len = buffer.len();
    // SAFETY: the buffer owns `len` bytes at its address, and nobody else has it.
    unsafe { buffer.as_mut_ptr().write_bytes(0, len) };
}

/// A buffer of the runtime below a [`Buf`]; a write in flight shares it.
struct Dma {
    /// The handle `buffer` as it was made, bit by bit. The runtime trims a handle for good; to use
    /// the memory again, this is copied over the trimmed one. Both stand for one memory, so only
    /// `buffer` is ever dropped or used.
    whole: ManuallyDrop<DmaBuffer>,
    buffer: RefCell<Rc<DmaBuffer>>,
    start: NonNull<u8>,
    len: usize,
    pool: Rc<Pool>,
}

impl Drop for Dma {
    fn drop(&mut self) {
        let taken = self.pool.taken.get();
        assert!(self.len <= taken, "no more comes back than was taken");
        self.pool.taken.set(taken - self.len);
    }
}

// SAFETY: `start` is the address of a buffer that this value keeps alive, aligned to 4096 by the
// runtime (checked by `Buf::on`), `len` bytes long and zeroed when it was made. The kernel only
// reads it, during a write, after `freeze`; nobody else has it.
unsafe impl Memory for Dma {
    fn start(&self) -> NonNull<u8> {
        self.start
    }
    fn len(&self) -> usize {
        self.len
    }
    fn seal(&self, len: usize) {
        let mut buffer = self.buffer.borrow_mut();
        let buffer = Rc::get_mut(&mut buffer).expect("a buffer is sealed before it is written");
        buffer.trim_to_size(len);
    }
    fn unseal(&self) -> bool {
        let mut buffer = self.buffer.borrow_mut();
        // A write whose future was dropped may still have it.
        let Some(trimmed) = Rc::get_mut(&mut buffer) else { return false };
        // SAFETY: both are handles of the same live memory, and differ in their length alone; the
        // trimmed one is overwritten without being dropped, so the memory keeps one owner.
        unsafe { core::ptr::copy_nonoverlapping(&raw const *self.whole, trimmed, 1) };
        true
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a read gave, in whole blocks.
struct Read {
    result: ReadResult,
}

// SAFETY: the result owns its bytes, initialized by the read, for as long as it lives; its address
// and length are whole blocks (checked by `shared`). The only `Buf` on it is dropped before
// anything is written through it, so the bytes are only read from then on.
unsafe impl Memory for Read {
    fn start(&self) -> NonNull<u8> {
        NonNull::from(&*self.result).cast()
    }
    fn len(&self) -> usize {
        self.result.len()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The bytes of a read as a shared buffer; copied only when they are no whole blocks.
pub(super) fn shared(result: ReadResult) -> SharedBuf {
    let len = result.len();
    let aligned = result.as_ptr().addr().is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
    let mut buf = if aligned && len > 0 {
        Buf::on(Box::new(Read { result }))
    } else {
        let mut copy = Buf::heap(len);
        copy.rest_mut()[..len].copy_from_slice(&result);
        copy
    };
    buf.fill(len);
    buf.share(0..len)
}
