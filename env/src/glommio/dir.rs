//! The data directory: every call on names goes to the node's helper thread.

use core::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

use super::disk::{self, Done, PIECE};
use super::env::{boot_clock, sleep_until};
use super::errno::Fault;
use super::file::GlommioFile;
use super::helper::Helper;
use crate::{BLOCK, Dir, EnvError, Kind, Mode, Name, Nanos, Op};

/// The data directory, as one core sees it.
#[derive(Clone, Debug)]
pub struct GlommioDir {
    root: Arc<OwnedFd>,
    helper: Helper,
    direct: bool,
}

impl GlommioDir {
    pub(super) fn new(root: Arc<OwnedFd>, helper: Helper, direct: bool) -> Self {
        Self { root, helper, direct }
    }

    /// Runs `job` on the helper; its failure is one of `op` on `name`.
    fn ask<T: Send + 'static>(
        &self,
        op: Op,
        name: Option<&Name>,
        job: impl FnOnce(&OwnedFd, Option<&Name>) -> Done<T> + Send + 'static,
    ) -> impl Future<Output = Result<T, EnvError>> + 'static {
        let name = name.cloned();
        let root = Arc::clone(&self.root);
        let told = name.clone();
        let answer = self.helper.run(move || job(&root, told.as_ref()));
        async move {
            let lost = Err(Fault::Kind(Kind::Io));
            answer.await.unwrap_or(lost).map_err(|fault| fault.of(op, name.as_ref()))
        }
    }

    /// [`Self::ask`] about a name.
    fn ask_of<T: Send + 'static>(
        &self,
        op: Op,
        name: &Name,
        job: impl FnOnce(&OwnedFd, &Name) -> Done<T> + Send + 'static,
    ) -> impl Future<Output = Result<T, EnvError>> + 'static {
        self.ask(op, Some(name), move |root, name| job(root, name.expect("a name was given")))
    }

    fn opened(
        &self,
        name: &Name,
        mode: Mode,
        found: impl Future<Output = Result<(OwnedFd, u32), EnvError>> + 'static,
    ) -> impl Future<Output = Result<GlommioFile, EnvError>> + 'static {
        let (name, direct) = (name.clone(), self.direct);
        async move {
            let (fd, align) = found.await?;
            GlommioFile::reopen(fd, name, mode, direct, align).await
        }
    }

    /// Writes `len` zeros at `rate` bytes a second; other jobs of the helper run in between.
    async fn fill(
        &self,
        fd: &Arc<OwnedFd>,
        name: &Name,
        len: u64,
        rate: u64,
    ) -> Result<(), EnvError> {
        let begun = boot_clock();
        let mut at = 0;
        while at < len {
            let piece = PIECE.min(usize::try_from(len - at).unwrap_or(PIECE));
            let file = Arc::clone(fd);
            self.ask_of(Op::Create, name, move |_, _| disk::write_zeros(&file, piece, at)).await?;
            at += u64::try_from(piece).expect("a piece fits 64 bits");
            if rate > 0 {
                let due = u128::from(at) * 1_000_000_000 / u128::from(rate);
                sleep_until(begun.after(Nanos(u64::try_from(due).unwrap_or(u64::MAX)))).await;
            }
        }
        Ok(())
    }
}

/// A mapping whose end is handed to the helper: unmapping takes the process's memory lock.
struct Mapping {
    map: Option<Mmap>,
    helper: Helper,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let map = self.map.take();
        self.helper.send(move || drop(map));
    }
}

impl Dir for GlommioDir {
    type File = GlommioFile;

    fn open(
        &self,
        name: &Name,
        mode: Mode,
    ) -> impl Future<Output = Result<GlommioFile, EnvError>> + 'static {
        self.opened(name, mode, self.ask_of(Op::Open, name, disk::find))
    }

    fn create(
        &self,
        name: &Name,
        mode: Mode,
    ) -> impl Future<Output = Result<GlommioFile, EnvError>> + 'static {
        self.opened(name, mode, self.ask_of(Op::Create, name, disk::create))
    }

    fn create_filled(
        &self,
        name: &Name,
        len: u64,
        rate: u64,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        let (dir, name) = (self.clone(), name.clone());
        async move {
            let fd = Arc::new(dir.ask_of(Op::Create, &name, disk::begin_new).await?);
            let mut done = dir.fill(&fd, &name, len, rate).await;
            if done.is_ok() {
                let job = move |root: &OwnedFd, name: &Name| disk::finish(root, &fd, name, false);
                done = dir.ask_of(Op::Create, &name, job).await;
            }
            if done.is_err() {
                let tidy = |root: &OwnedFd, name: &Name| {
                    disk::abandon(root, name);
                    Ok(())
                };
                dir.ask_of(Op::Create, &name, tidy).await?;
            }
            done
        }
    }

    fn write_whole(
        &self,
        name: &Name,
        content: Bytes,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        self.ask_of(Op::Write, name, move |root, name| disk::write_whole(root, name, &content))
    }

    fn read_whole(
        &self,
        name: &Name,
        len_max: usize,
    ) -> impl Future<Output = Result<Bytes, EnvError>> + 'static {
        self.ask_of(Op::Read, name, move |root, name| {
            disk::read_whole(root, name, len_max).map(Bytes::from)
        })
    }

    fn make_dir(&self, name: &Name) -> impl Future<Output = Result<(), EnvError>> + 'static {
        assert!(name.dir().is_none(), "directories are one level deep");
        self.ask_of(Op::Create, name, disk::make_dir)
    }

    fn rename(
        &self,
        from: &Name,
        to: &Name,
    ) -> impl Future<Output = Result<(), EnvError>> + 'static {
        assert!(from.dir() == to.dir(), "a rename stays within one directory");
        let to = to.clone();
        self.ask_of(Op::Rename, from, move |root, from| disk::rename(root, from, &to))
    }

    fn remove(&self, name: &Name) -> impl Future<Output = Result<(), EnvError>> + 'static {
        self.ask_of(Op::Remove, name, disk::remove)
    }

    fn sync(&self, dir: Option<&Name>) -> impl Future<Output = Result<(), EnvError>> + 'static {
        self.ask(Op::Sync, dir, disk::sync)
    }

    fn list(
        &self,
        dir: Option<&Name>,
    ) -> impl Future<Output = Result<Vec<(Name, u64)>, EnvError>> + 'static {
        self.ask(Op::List, dir, disk::list)
    }

    fn free_space(&self) -> impl Future<Output = Result<u64, EnvError>> + 'static {
        self.ask(Op::Space, None, |root, _| Ok(disk::free_space(root)?))
    }

    fn map(
        &self,
        name: &Name,
        at: u64,
        len: usize,
    ) -> impl Future<Output = Result<Bytes, EnvError>> + 'static {
        let block = u64::try_from(BLOCK).expect("a block fits 64 bits");
        assert!(at.is_multiple_of(block), "a mapping begins at a block");
        let helper = self.helper.clone();
        let map = self.ask_of(Op::Map, name, move |root, name| {
            if len == 0 { Ok(None) } else { disk::map(root, name, at, len).map(Some) }
        });
        async move {
            let map = map.await?;
            Ok(if map.is_none() {
                Bytes::new()
            } else {
                Bytes::from_owner(Mapping { map, helper })
            })
        }
    }
}
