#![expect(unsafe_code, reason = "a mapping is made here and nowhere else")]
//! Blocking calls on names below the data directory; they run on the helper thread.
//!
//! A name is looked up relative to an open directory, part by part, and never through a link.
//! Temporary files are called `.name.new`: no [`Name`] starts with a dot, so none can meet them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Advice, Mmap, MmapOptions};
use rustix::fs::{
    self, AtFlags, CWD, FileType, Mode as Bits, OFlags, RawDir, RenameFlags, Stat, StatxFlags,
};
use rustix::io::{Errno, retry_on_intr};

use super::errno::Fault;
use crate::{Kind, Name};

pub(super) type Done<T> = Result<T, Fault>;

/// Mode of every file.
const FILE: Bits = Bits::RUSR.union(Bits::WUSR);
/// Mode of every directory.
const DIR: Bits = Bits::RWXU;
/// Bytes of a file that are written in one call.
pub(super) const PIECE: usize = 1 << 20;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// Opens a directory as a place to look names up in.
pub(super) fn open_root(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Bits::empty())
}

/// The directory that `name` lies in.
enum Site<'a> {
    Root(BorrowedFd<'a>),
    Sub(OwnedFd),
}

impl AsFd for Site<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Sub(fd) => fd.as_fd(),
        }
    }
}

fn site<'a>(root: &'a OwnedFd, dir: Option<&Name>) -> Done<Site<'a>> {
    let Some(dir) = dir else { return Ok(Site::Root(root.as_fd())) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Site::Sub(fs::openat(root, dir.as_str(), flags, Bits::empty())?))
}

fn open_at(site: &Site<'_>, file: &str, flags: OFlags) -> Done<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(retry_on_intr(|| fs::openat(site, file, flags, FILE))?)
}

/// What is open must be a plain file.
fn plain(fd: &OwnedFd) -> Done<Stat> {
    let stat = fs::fstat(fd)?;
    let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if plain { Ok(stat) } else { Err(Fault::Kind(Kind::Unsupported)) }
}

fn len_of(stat: &Stat) -> Done<u64> {
    u64::try_from(stat.st_size).map_err(|_negative| Fault::Kind(Kind::Io))
}

/// What direct I/O on `fd` asks of offsets; 0: the kernel does not say.
pub(super) fn direct_align(fd: impl AsFd) -> u32 {
    match fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(statx) if statx.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            statx.stx_dio_offset_align
        },
        _ => 0,
    }
}

/// Finds a plain file, to be opened again by its descriptor, and says its alignment.
pub(super) fn find(root: &OwnedFd, name: &Name) -> Done<(OwnedFd, u32)> {
    let site = site(root, name.dir().as_ref())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(&site, name.file(), flags, Bits::empty())?;
    plain(&fd)?;
    let align = direct_align(&fd);
    Ok((fd, align))
}

/// Creates a file that must not exist and finds it.
pub(super) fn create(root: &OwnedFd, name: &Name) -> Done<(OwnedFd, u32)> {
    let site = site(root, name.dir().as_ref())?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    drop(open_at(&site, name.file(), flags)?);
    find(root, name)
}

fn temporary(name: &Name) -> String {
    format!(".{}.new", name.file())
}

/// Begins the temporary file that shall become `name`, empty.
pub(super) fn begin(root: &OwnedFd, name: &Name) -> Done<OwnedFd> {
    let site = site(root, name.dir().as_ref())?;
    open_at(&site, &temporary(name), OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY)
}

/// As [`begin`], for a name that must be free.
pub(super) fn begin_new(root: &OwnedFd, name: &Name) -> Done<OwnedFd> {
    let place = site(root, name.dir().as_ref())?;
    match fs::statat(&place, name.file(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => begin(root, name),
        Ok(_taken) => Err(Fault::Os(Errno::EXIST)),
        Err(errno) => Err(Fault::Os(errno)),
    }
}

/// Writes all of `bytes` at `at`.
pub(super) fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Done<()> {
    while !bytes.is_empty() {
        let written = retry_on_intr(|| rustix::io::pwrite(fd, bytes, at))?;
        if written == 0 {
            return Err(Fault::Kind(Kind::Short));
        }
        bytes = &bytes[written..];
        at += u64::try_from(written).expect("a length fits 64 bits");
    }
    Ok(())
}

/// Writes `len` zeros, at most [`PIECE`], at `at`.
pub(super) fn write_zeros(fd: &OwnedFd, len: usize, at: u64) -> Done<()> {
    write_all(fd, &ZEROS[..len], at)
}

/// Makes the temporary file durable and renames it to `name`, durably.
pub(super) fn finish(root: &OwnedFd, fd: &OwnedFd, name: &Name, replace: bool) -> Done<()> {
    fs::fsync(fd)?;
    // What was written is not read through the cache.
    fs::fadvise(fd, 0, None, fs::Advice::DontNeed)?;
    let dir = name.dir();
    let place = site(root, dir.as_ref())?;
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let from = temporary(name);
    match fs::renameat_with(&place, &from, &place, name.file(), flags) {
        // A file system without NOREPLACE: `begin_new` saw that the name is free.
        Err(Errno::INVAL | Errno::NOSYS) => fs::renameat(&place, &from, &place, name.file())?,
        other => other?,
    }
    sync(root, dir.as_ref())
}

/// Removes the temporary file of `name` after a failure; nothing is left behind.
pub(super) fn abandon(root: &OwnedFd, name: &Name) {
    if let Ok(place) = site(root, name.dir().as_ref()) {
        // The failure that led here is the one that is told.
        fs::unlinkat(&place, temporary(name), AtFlags::empty()).ok();
    }
}

/// Replaces a small file.
pub(super) fn write_whole(root: &OwnedFd, name: &Name, content: &[u8]) -> Done<()> {
    let fd = begin(root, name)?;
    let done = write_all(&fd, content, 0).and_then(|()| finish(root, &fd, name, true));
    if done.is_err() {
        abandon(root, name);
    }
    done
}

/// Reads a small file.
pub(super) fn read_whole(root: &OwnedFd, name: &Name, len_max: usize) -> Done<Vec<u8>> {
    let place = site(root, name.dir().as_ref())?;
    let fd = open_at(&place, name.file(), OFlags::RDONLY)?;
    let len = usize::try_from(len_of(&plain(&fd)?)?).unwrap_or(usize::MAX);
    if len > len_max {
        return Err(Fault::Kind(Kind::Limit));
    }
    let mut content = vec![0; len];
    let read = read_exact(&fd, &mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

fn read_exact(fd: &OwnedFd, into: &mut [u8], from: u64) -> Done<usize> {
    let mut read = 0;
    while read < into.len() {
        let at = from + u64::try_from(read).expect("a length fits 64 bits");
        match retry_on_intr(|| rustix::io::pread(fd, &mut into[read..], at))? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// Makes a sub-directory, durably.
pub(super) fn make_dir(root: &OwnedFd, name: &Name) -> Done<()> {
    match fs::mkdirat(root, name.as_str(), DIR) {
        Ok(()) => {},
        Err(Errno::EXIST) => drop(site(root, Some(name))?),
        Err(errno) => return Err(Fault::Os(errno)),
    }
    sync(root, None)
}

/// Renames within one directory.
pub(super) fn rename(root: &OwnedFd, from: &Name, to: &Name) -> Done<()> {
    let place = site(root, from.dir().as_ref())?;
    Ok(fs::renameat(&place, from.file(), &place, to.file())?)
}

/// Removes a file.
pub(super) fn remove(root: &OwnedFd, name: &Name) -> Done<()> {
    let place = site(root, name.dir().as_ref())?;
    Ok(fs::unlinkat(&place, name.file(), AtFlags::empty())?)
}

fn open_dir(root: &OwnedFd, dir: Option<&Name>) -> Done<OwnedFd> {
    let place = site(root, dir)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::openat(&place, ".", flags, Bits::empty())?)
}

/// Makes the entries of a directory durable.
pub(super) fn sync(root: &OwnedFd, dir: Option<&Name>) -> Done<()> {
    Ok(fs::fsync(open_dir(root, dir)?)?)
}

/// The plain files of a directory, sorted by name.
pub(super) fn list(root: &OwnedFd, dir: Option<&Name>) -> Done<Vec<(Name, u64)>> {
    let fd = open_dir(root, dir)?;
    let mut found = Vec::new();
    let mut space = Vec::with_capacity(16 << 10);
    let mut entries = RawDir::new(&fd, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let Ok(text) = entry.file_name().to_str() else { continue };
        let whole = dir.map_or_else(|| text.to_owned(), |dir| format!("{dir}/{text}"));
        let Ok(name) = Name::new(&whole) else { continue };
        match fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                found.push((name, len_of(&stat)?));
            },
            // No plain file, or removed since.
            Ok(_) | Err(Errno::NOENT) => {},
            Err(errno) => return Err(Fault::Os(errno)),
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes this process may still write.
pub(super) fn free_space(root: &OwnedFd) -> Result<u64, Errno> {
    let stat = fs::fstatvfs(root)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Maps a range of a file that never changes again, every page of it present.
pub(super) fn map(root: &OwnedFd, name: &Name, at: u64, len: usize) -> Done<Mmap> {
    let place = site(root, name.dir().as_ref())?;
    let fd = open_at(&place, name.file(), OFlags::RDONLY)?;
    let end = u64::try_from(len).ok().and_then(|len| at.checked_add(len));
    if end.is_none_or(|end| len_of_or_zero(&fd) < end) {
        return Err(Fault::Kind(Kind::Io));
    }
    plain(&fd)?;
    let mut options = MmapOptions::new();
    options.offset(at).len(len);
    // SAFETY: the caller of `Dir::map` promises that the file never changes again; it is written
    // under another name, renamed when whole, and only ever unlinked after that.
    let map = unsafe { options.map(&fd) }.map_err(|error| system(&error))?;
    // With read-ahead: without, each page would be a read of its own.
    let populated = match map.advise(Advice::PopulateRead) {
        Ok(()) => Ok(()),
        // A page that cannot be read is EFAULT here and SIGBUS at a load.
        Err(error) => match Errno::from_io_error(&error) {
            // Before Linux 5.14: read the range, so that a bad page is an error here too.
            Some(Errno::INVAL) => read_through(&fd, at, len),
            _ => Err(Fault::Kind(Kind::Io)),
        },
    };
    populated?;
    // A page that is dropped later is read alone.
    map.advise(Advice::Random).map_err(|error| system(&error))?;
    Ok(map)
}

fn len_of_or_zero(fd: &OwnedFd) -> u64 {
    fs::fstat(fd).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0)
}

fn system(error: &std::io::Error) -> Fault {
    Errno::from_io_error(error).map_or(Fault::Kind(Kind::Io), Fault::Os)
}

fn read_through(fd: &OwnedFd, mut at: u64, mut len: usize) -> Done<()> {
    let mut piece = vec![0; PIECE.min(len)];
    while len > 0 {
        let want = PIECE.min(len);
        if read_exact(fd, &mut piece[..want], at)? < want {
            return Err(Fault::Kind(Kind::Io));
        }
        at += u64::try_from(want).expect("a length fits 64 bits");
        len -= want;
    }
    Ok(())
}
