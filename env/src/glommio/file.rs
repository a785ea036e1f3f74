//! Files: direct reads and writes through the core's rings.

use core::cell::Cell;
use core::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use ::glommio::io::{BufferedFile, DmaFile, OpenOptions};

use super::buffer::{Pool, shared};
use super::errno;
use crate::{BLOCK, EnvError, File, Kind, Mode, Name, Op, SharedBuf};

/// An open file of one core.
#[derive(Clone, Debug)]
pub struct GlommioFile(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: Raw,
    name: Name,
    block: usize,
    poisoned: Cell<bool>,
}

#[derive(Debug)]
enum Raw {
    Direct(DmaFile),
    /// Without direct I/O; the same calls, through the page cache.
    Cached(BufferedFile),
}

impl GlommioFile {
    /// Opens again what `found` names (an `O_PATH` descriptor), so that neither a link nor a
    /// rename can come between; glommio opens by path alone and panics if the path is gone.
    pub(super) async fn reopen(
        found: OwnedFd,
        name: Name,
        mode: Mode,
        direct: bool,
        align: u32,
    ) -> Result<Self, EnvError> {
        let path = format!("/proc/{}/fd/{}", std::process::id(), found.as_raw_fd());
        let mut options = OpenOptions::new();
        options.read(true).write(mode != Mode::Read);
        if mode == Mode::WriteSynced {
            options.custom_flags(libc::O_DSYNC);
        }
        let failed =
            |error: ::glommio::GlommioError<()>| errno::glommio(Op::Open, &error).named(&name);
        let raw = if direct {
            Raw::Direct(options.dma_open(&path).await.map_err(failed)?)
        } else {
            Raw::Cached(options.buffered_open(&path).await.map_err(failed)?)
        };
        drop(found);
        let logical = match &raw {
            Raw::Direct(file) => usize::try_from(file.alignment()).unwrap_or(BLOCK),
            Raw::Cached(_) => BLOCK,
        };
        let align = usize::try_from(align).unwrap_or(BLOCK);
        let block = BLOCK.max(logical).max(align);
        Ok(Self(Rc::new(Inner { raw, name, block, poisoned: Cell::new(false) })))
    }
}

impl Inner {
    fn trusted(&self, op: Op) -> Result<(), EnvError> {
        if self.poisoned.get() {
            Err(EnvError::new(op, Kind::Poisoned).named(&self.name))
        } else {
            Ok(())
        }
    }

    fn failed(&self, op: Op, error: &::glommio::GlommioError<()>) -> EnvError {
        errno::glommio(op, error).named(&self.name)
    }

    /// I1 for one call.
    fn check(&self, at: u64, len: usize) {
        let block = u64::try_from(self.block).expect("a block fits 64 bits");
        assert!(at.is_multiple_of(block), "an offset is a multiple of the block");
        assert!(len.is_multiple_of(self.block), "a length is a multiple of the block");
        assert!(len > 0, "there is something to read or write");
    }
}

/// Poisons the file unless the write it stands for has been heard of (I5).
struct InFlight<'a>(Option<&'a Cell<bool>>);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(poisoned) = self.0 {
            poisoned.set(true);
        }
    }
}

impl File for GlommioFile {
    fn block(&self) -> usize {
        self.0.block
    }

    fn write_at(
        &self,
        buf: SharedBuf,
        at: u64,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        assert!(buf.is_whole(), "a buffer is written as a whole");
        assert!(buf.as_ptr().addr().is_multiple_of(BLOCK), "a buffer is block-aligned");
        self.0.check(at, buf.len());
        let file = Rc::clone(&self.0);
        async move {
            file.trusted(Op::Write)?;
            let mut flight = InFlight(Some(&file.poisoned));
            let written = match &file.raw {
                Raw::Direct(raw) => raw.write_rc_at(Pool::dma_of(&buf), at).await,
                Raw::Cached(raw) => raw.write_at(buf.to_vec(), at).await,
            };
            flight.0 = None;
            match written {
                Ok(written) if written == buf.len() => Ok(()),
                Ok(_short) => Err(EnvError::new(Op::Write, Kind::Short).named(&file.name)),
                Err(error) => Err(file.failed(Op::Write, &error)),
            }
        }
    }

    fn read_at(
        &self,
        at: u64,
        len: usize,
    ) -> impl Future<Output = Result<SharedBuf, EnvError>> + 'static {
        self.0.check(at, len);
        let file = Rc::clone(&self.0);
        async move {
            file.trusted(Op::Read)?;
            let result = match &file.raw {
                Raw::Direct(raw) => raw.read_at_aligned(at, len).await,
                Raw::Cached(raw) => raw.read_at(at, len).await,
            };
            result.map(shared).map_err(|error| file.failed(Op::Read, &error))
        }
    }

    fn sync(&self) -> impl Future<Output = Result<(), EnvError>> + 'static {
        let file = Rc::clone(&self.0);
        async move {
            file.trusted(Op::Sync)?;
            let result = match &file.raw {
                Raw::Direct(raw) => raw.fdatasync().await,
                Raw::Cached(raw) => raw.fdatasync().await,
            };
            result.map_err(|error| file.failed(Op::Sync, &error))
        }
    }

    async fn close(self) -> Result<(), EnvError> {
        let Ok(Inner { raw, name, .. }) = Rc::try_unwrap(self.0) else { return Ok(()) };
        let result = match raw {
            Raw::Direct(raw) => raw.close().await,
            Raw::Cached(raw) => raw.close().await,
        };
        result.map_err(|error| errno::glommio(Op::Close, &error).named(&name))
    }
}
