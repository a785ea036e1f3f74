//! Reads of run files, directly from the disk. A bounded number of files stays open.

use core::cell::RefCell;
use std::rc::Rc;

use bowline_env::{Dir as _, Env, EnvError, File as _, Kind, Mode, Nanos, SharedBuf};

use crate::Area;
use crate::run::format::{u64_of, usize_of};
use crate::run::run_name;

/// Files that stay open for reads of Cold sections.
const OPEN_MAX: usize = 128;
/// First and longest wait for memory of a read.
const WAIT: Nanos = Nanos::from_millis(1);
const WAIT_MAX: Nanos = Nanos::from_millis(100);

/// Open run files, the one used last at the end.
pub(crate) struct Files<E: Env> {
    open: RefCell<Vec<(u128, E::File)>>,
    /// Files to be closed by whoever may wait next.
    closing: RefCell<Vec<E::File>>,
}

/// Why a part of a run could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    /// The part is bad or missing, also when it was read a second time.
    Bad(Area),
    /// The environment refused for a reason of its own.
    Env(EnvError),
}

impl ReadFailure {
    /// The damage that it is, or means for one who can only tell damage.
    pub(crate) const fn area(&self, otherwise: Area) -> Area {
        match self {
            Self::Bad(area) => *area,
            Self::Env(_) => otherwise,
        }
    }
}

impl<E: Env> Files<E> {
    pub(crate) const fn new() -> Self {
        Self { open: RefCell::new(Vec::new()), closing: RefCell::new(Vec::new()) }
    }

    /// Lets go of a file; [`Files::tidy`] closes it.
    pub(crate) fn forget(&self, run: u128) {
        let mut open = self.open.borrow_mut();
        if let Some(place) = open.iter().position(|(held, _)| *held == run) {
            self.closing.borrow_mut().push(open.remove(place).1);
        }
    }

    /// Closes what was let go.
    pub(crate) async fn tidy(&self) {
        loop {
            let next = self.closing.borrow_mut().pop();
            let Some(file) = next else { return };
            // It was only read: an error of close tells nothing.
            drop(file.close().await);
        }
    }

    fn held(&self, run: u128) -> Option<E::File> {
        let mut open = self.open.borrow_mut();
        let place = open.iter().rposition(|(held, _)| *held == run)?;
        let entry = open.remove(place);
        let file = entry.1.clone();
        open.push(entry);
        Some(file)
    }

    /// The file of a run. Waits while the process has no file descriptor or no memory for it: the
    /// own files that are open give theirs back meanwhile.
    async fn file(&self, env: &E, run: u128) -> Result<E::File, EnvError> {
        if let Some(file) = self.held(run) {
            return Ok(file);
        }
        let mut wait = WAIT;
        let file = loop {
            self.tidy().await;
            match env.dir().open(&run_name(run), Mode::Read).await {
                Err(error) if is_short(&error) => {
                    let held = core::mem::take(&mut *self.open.borrow_mut());
                    self.closing.borrow_mut().extend(held.into_iter().map(|(_, file)| file));
                    pause(env, &mut wait).await;
                },
                other => break other?,
            }
        };
        // Another reader may have opened it meanwhile.
        self.forget(run);
        let mut open = self.open.borrow_mut();
        if open.len() == OPEN_MAX {
            self.closing.borrow_mut().push(open.remove(0).1);
        }
        open.push((run, file.clone()));
        Ok(file)
    }

    /// Reads `len` bytes from `at`. Waits while there is no memory for it.
    async fn read(&self, env: &E, run: u128, at: u64, len: usize) -> Result<SharedBuf, EnvError> {
        let file = self.file(env, run).await?;
        let block = u64_of(file.block());
        let start = at / block * block;
        let end = (at + u64_of(len)).next_multiple_of(block);
        let skip = usize_of(at - start).expect("less than a block");
        let whole = usize_of(end - start).expect("a read fits memory");
        let mut wait = WAIT;
        let bytes = loop {
            match file.read_at(start, whole).await {
                Err(error) if is_short(&error) => pause(env, &mut wait).await,
                other => break other?,
            }
        };
        let have = bytes.len();
        Ok(bytes.slice(skip.min(have)..(skip + len).min(have)))
    }

    /// Reads and checks `len` bytes from `at`; once more if that fails. `what` is the area that a
    /// failed read damages.
    pub(crate) async fn read_checked<T>(
        &self,
        env: &E,
        span: (u128, u64, usize),
        what: Area,
        check: impl Fn(&SharedBuf) -> Result<T, Area>,
    ) -> Result<T, ReadFailure> {
        let (run, at, len) = span;
        let mut second = false;
        loop {
            let failure = match self.read(env, run, at, len).await {
                Ok(bytes) if bytes.len() < len => ReadFailure::Bad(Area::File),
                Ok(bytes) => match check(&bytes) {
                    Ok(value) => return Ok(value),
                    Err(area) => ReadFailure::Bad(area),
                },
                Err(error) if error.kind == Kind::NotFound => {
                    return Err(ReadFailure::Bad(Area::File));
                },
                Err(error) if matches!(error.kind, Kind::Io | Kind::Short) => {
                    ReadFailure::Bad(what)
                },
                Err(error) => ReadFailure::Env(error),
            };
            if second {
                return Err(failure);
            }
            second = true;
        }
    }
}

impl<E: Env> core::fmt::Debug for Files<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Files({} open)", self.open.borrow().len())
    }
}

/// Whether the process lacks something that comes back: it says nothing about a file.
fn is_short(error: &EnvError) -> bool {
    matches!(error.kind, Kind::NoMemory | Kind::Limit)
}

/// Sleeps for `wait`, which is longer the next time.
async fn pause<E: Env>(env: &E, wait: &mut Nanos) {
    env.sleep_until(env.now().after(*wait)).await;
    *wait = Nanos(wait.0 * 2).min(WAIT_MAX);
}

/// Runs CPU work on the helper; waits while its queue is full. `make` gives the work again for
/// each try.
pub(crate) async fn offload<E: Env, T, F>(env: &E, make: impl Fn() -> F) -> Result<T, EnvError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let mut wait = WAIT;
    loop {
        match env.offload(make()).await {
            Err(error) if error.kind == Kind::Limit => pause(env, &mut wait).await,
            other => return other,
        }
    }
}

/// Reads `len` bytes from `at` in pieces, into the heap.
pub(crate) async fn read_long<E: Env>(
    store: &Rc<super::Store<E>>,
    run: u128,
    at: u64,
    len: usize,
) -> Result<Vec<u8>, ReadFailure> {
    const PIECE: usize = 256 << 10;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let span = (run, at + u64_of(out.len()), PIECE.min(len - out.len()));
        let files = store.files();
        let piece = files.read_checked(store.env(), span, Area::File, |b| Ok(b.clone())).await?;
        out.extend_from_slice(&piece);
        if out.len() < len {
            store.env().breathe().await;
        }
    }
    Ok(out)
}
