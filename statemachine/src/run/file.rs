//! Writes a run file: as `.tmp`, in whole pages and large direct writes, synced, then renamed.
//!
//! One write is in flight while the next buffer fills. A run appears under its final name only
//! when all its bytes are durable; whatever fails before leaves at most a `.tmp`.

use bowline_env::{
    Buf, Class, Dir as _, Env, EnvError, File as _, Kind, Mode, Nanos, Op, SharedBuf,
};

use super::format::{Header, PAGE, u64_of};
use super::{run_name, runs_dir, temporary_name};

/// Bytes of one write.
const WRITE: usize = 256 << 10;
/// How long to wait for a buffer, and how often.
const BUFFER_WAIT: Nanos = Nanos::from_millis(2);
const BUFFER_TRIES: u32 = 500;

/// A run that is being written.
pub(crate) struct RunFile<E: Env> {
    env: E,
    run: u128,
    /// Until it is closed.
    file: Option<E::File>,
    at: u64,
    buf: Option<Buf>,
    in_flight: Option<E::Task<Result<(), EnvError>>>,
}

impl<E: Env> RunFile<E> {
    /// Makes the temporary file and puts the header into it.
    pub(crate) async fn create(env: &E, header: &Header) -> Result<Self, EnvError> {
        let name = temporary_name(header.run);
        let file = env.dir().create(&name, Mode::Write).await?;
        let block = file.block();
        let (env, file, run) = (env.clone(), Some(file), header.run);
        let mut run = Self { env, run, file, at: 0, buf: None, in_flight: None };
        if block > PAGE {
            let refused = EnvError::new(Op::Create, Kind::Unsupported).named(&name);
            run.abandon().await;
            return Err(refused);
        }
        match run.write(&header.encode()).await {
            Ok(()) => Ok(run),
            Err(error) => {
                run.abandon().await;
                Err(error)
            },
        }
    }

    /// Where the next byte goes.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// Appends bytes. On error the run is to be abandoned.
    pub(crate) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), EnvError> {
        while !bytes.is_empty() {
            let mut buf = match self.buf.take() {
                Some(buf) => buf,
                None => buffer(&self.env).await?,
            };
            let rest = buf.rest_mut();
            let len = rest.len().min(bytes.len());
            rest[..len].copy_from_slice(&bytes[..len]);
            let is_full = len == rest.len();
            buf.fill(len);
            self.at += u64_of(len);
            bytes = &bytes[len..];
            if is_full {
                self.send(buf).await?;
            } else {
                self.buf = Some(buf);
            }
        }
        Ok(())
    }

    /// Ends the file: everything durable, then its final name, durable too. On error the run is
    /// to be abandoned.
    pub(crate) async fn finish(&mut self) -> Result<(), EnvError> {
        if let Some(buf) = self.buf.take() {
            self.send(buf).await?;
        }
        self.settle().await?;
        let file = self.file.take().expect("a run is finished once");
        let synced = file.sync().await;
        // All is durable by now, or lost: an error of close tells nothing.
        let closed = file.close().await;
        drop(closed);
        synced?;
        let dir = self.env.dir();
        dir.rename(&temporary_name(self.run), &run_name(self.run)).await?;
        dir.sync(Some(&runs_dir())).await
    }

    /// Removes what is there under either name. What cannot be removed goes at the next boot.
    pub(crate) async fn abandon(mut self) {
        self.buf = None;
        let landed = self.settle().await;
        let closed = match self.file.take() {
            Some(file) => file.close().await,
            None => Ok(()),
        };
        let dir = self.env.dir();
        let temporary = dir.remove(&temporary_name(self.run)).await;
        let last = dir.remove(&run_name(self.run)).await;
        drop((landed, closed, temporary, last));
    }

    async fn send(&mut self, buf: Buf) -> Result<(), EnvError> {
        self.settle().await?;
        let len = buf.filled();
        assert!(len.is_multiple_of(PAGE), "a run is written in whole pages");
        let at = self.at - u64_of(len);
        let shared: SharedBuf = buf.freeze(len);
        let file = self.file.as_ref().expect("a run is written before it is finished");
        let write = file.write_at(shared, at);
        self.in_flight = Some(self.env.spawn(Class::Background, write));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), EnvError> {
        match self.in_flight.take() {
            Some(write) => write.await,
            None => Ok(()),
        }
    }
}

impl<E: Env> core::fmt::Debug for RunFile<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RunFile({:032x} at {})", self.run, self.at)
    }
}

/// A buffer for one write; waits while the core's pool is at its bound.
async fn buffer<E: Env>(env: &E) -> Result<Buf, EnvError> {
    let mut tries = 0;
    loop {
        match env.buffer(WRITE) {
            Err(error) if error.kind == Kind::NoMemory && tries < BUFFER_TRIES => {
                tries += 1;
                env.sleep_until(env.now().after(BUFFER_WAIT)).await;
            },
            other => return other,
        }
    }
}
