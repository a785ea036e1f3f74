//! Bowline: `put` resolves when the write is synced and applied.
//!
//! Three ways: its clients as futures of one thread (`bowline`), the same threads as the other
//! stores get (`bowline-threads`), and its log alone on a core (`bowline-wal`, where a batch is
//! durable before the next begins; `bowline-wal-2`, where two are under way).

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bowline::{EmbeddedClient, EmbeddedEngine, Error, Op};
use bowline_env::glommio::{GlommioEnv, GlommioFactory};
use bowline_env::{Bell, CoreNo, CoreOptions, Env as _, EnvFactory as _};
use bowline_raft::batch::{BodyWriter, body_len};
use bowline_raft::{HardState, LogIndex, Lsn, ReplicaId, ShardId, Term};
use bowline_wal::{LogStorage, NewBatch, OpenLog, Record, StreamId, Wal, WalLogs};

use crate::append::{self, Appender, Shape};
use crate::load::{Dice, Measured, Putter, Values, Work};
use crate::machine::Used;
use crate::window::{Outcome, Schedule, Target, Window};
use crate::{park, window};

/// Shards of the engine, on one core.
pub(crate) const SHARDS: u64 = 16;
/// The term of every entry.
const TERM: Term = Term(1);

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// An engine on one core, called from many threads.
pub(crate) struct Store {
    engine: EmbeddedEngine,
    client: EmbeddedClient,
}

impl Store {
    /// Creates it in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, String> {
        let shards = u32::try_from(SHARDS).expect("a small number");
        let builder = EmbeddedEngine::builder().data_dir(dir.join("node")).shards(shards).cores(1);
        let engine = builder.start().wait().map_err(text)?;
        engine.wait_ready(Duration::from_secs(30)).wait().map_err(text)?;
        let client = engine.client();
        Ok(Self { engine, client })
    }
}

impl Putter for Store {
    const SHARDS: u64 = SHARDS;

    fn put(&self, _client: usize, key: [u8; 8], value: &[u8]) -> Result<(), String> {
        loop {
            match self.client.put(key, value).wait() {
                Err(Error::Busy { retry_after, .. }) => std::thread::sleep(retry_after),
                result => return result.map_err(text),
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.engine.stop().wait() {
            eprintln!("bowline did not stop cleanly: {error}");
        }
    }
}

/// What one thread's clients put.
struct Puts<'a> {
    client: &'a EmbeddedClient,
    values: Values,
    keys: u64,
    dice: Dice,
}

struct Put(Op<()>);

impl Future for Put {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let done = |result| match result {
            Ok(()) => Outcome::Done,
            Err(Error::Busy { retry_after, .. }) => Outcome::Again(retry_after),
            Err(error) => Outcome::Failed(Some(error.code())),
        };
        Pin::new(&mut self.0).poll(cx).map(done)
    }
}

impl Target for Puts<'_> {
    type Call = Put;
    type Timer = std::future::Pending<()>;

    fn submit(&mut self) -> Put {
        let chance = self.dice.roll();
        let key = (chance % self.keys).to_be_bytes();
        Put(self.client.put(key, self.values.pick(chance >> 40)))
    }

    fn timer(&self, _: Duration) -> Self::Timer {
        std::future::pending()
    }
}

/// Runs `work` as futures of one thread.
pub(crate) fn clients(dir: &Path, work: Work) -> Result<Measured, String> {
    let store = Store::open(dir)?;
    let begin = window::clock();
    let count_from = begin + work.warmup;
    let end = count_from + work.measured;
    let schedule = Schedule { begin, count_from, end, interval: None };
    let values = Values::new(work.value_bytes);
    let dice = Dice::new(1);
    let puts = Puts { client: &store.client, values, keys: work.keys, dice };
    let window = Window::new(puts, work.clients, schedule);
    let (tally, used) = std::thread::scope(|scope| {
        let clients = scope.spawn(move || park::run(window));
        sleep_until(count_from);
        let before = Used::now();
        sleep_until(end);
        let used = Used::now().since(before);
        (clients.join().expect("a client does not panic"), used)
    });
    if tally.errors > 0 {
        return Err(format!("{} puts failed, the first with {:?}", tally.errors, tally.failure));
    }
    let seconds = work.measured.as_secs_f64();
    Ok(Measured { operations: tally.latency.len(), seconds, latency: tally.latency, used })
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Runs `work` on a log alone, on a core of its own.
pub(crate) fn append(
    dir: &Path,
    work: Work,
    shape: Shape,
    in_flight: usize,
) -> Result<Measured, String> {
    let factory = GlommioFactory::new(dir.join("log"));
    let claim = factory.claim().map_err(text)?;
    let cpu = *factory.facts().cpus.first().ok_or("no CPU may be used")?;
    let options = CoreOptions { core: CoreNo(0), cpu, cores: 1, direct_io: true };
    let (tell, told) = mpsc::channel();
    let main = async move |env: GlommioEnv| {
        let outcome = match Log::open(&env, shape, in_flight).await {
            Ok(mut log) => append::run(&mut log, work, shape).await,
            Err(error) => Err(error),
        };
        tell.send(outcome).expect("the caller waits");
    };
    let core = factory.spawn_core(options, main).map_err(text)?;
    let outcome = told.recv().map_err(text)?;
    core.join().map_err(|failure| failure.message)?;
    drop(claim);
    outcome
}

/// A stream, and what is under way in it.
struct Log {
    wal: Wal<GlommioEnv>,
    bell: Bell,
    /// The last frame of each batch that is not known to be durable.
    open: std::collections::VecDeque<Lsn>,
    in_flight: usize,
    newest: Lsn,
    shards: u64,
}

impl Log {
    async fn open(env: &GlommioEnv, shape: Shape, in_flight: usize) -> Result<Self, String> {
        let logs = WalLogs::default();
        let id = StreamId { cluster: 1, node: 1, stream: 0, streams: 1 };
        logs.format(env, id).await.map_err(text)?;
        let bell = env.bell();
        let (mut wal, _) = logs.open(env, id, bell.clone()).await.map_err(text)?;
        let mut newest = Lsn::default();
        for shard in 0..shape.shards {
            let hard = HardState { term: TERM, vote: ReplicaId(1), commit: LogIndex(0) };
            let records = [Record::OpenShard { replica: ReplicaId(1) }, Record::HardState(hard)];
            newest = wal.stage(ShardId(shard), &records).map_err(text)?;
        }
        let mut log = Self {
            wal,
            bell,
            open: std::collections::VecDeque::new(),
            in_flight: 1,
            newest,
            shards: shape.shards,
        };
        log.sync().await?;
        log.in_flight = in_flight;
        Ok(log)
    }
}

impl Appender for Log {
    fn add(&mut self, shard: u64, index: u64, value: &[u8]) -> Result<(), String> {
        let prev_term = if index == 1 { Term(0) } else { TERM };
        let new = NewBatch {
            shard: ShardId(shard),
            first: LogIndex(index),
            term: TERM,
            prev_term,
            count: 1,
            flags: 0,
        };
        let len = body_len([value.len()].into_iter());
        let fill = |out: &mut [u8]| {
            let mut body = BodyWriter::new(out, 1);
            body.entry(value.len(), |entry| entry.copy_from_slice(value));
            body.finish();
        };
        let staged = self.wal.append(new, len, fill).map_err(|error| format!("{error:?}"))?;
        self.newest = self.newest.max(staged.lsn);
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), String> {
        self.wal.submit();
        self.open.push_back(self.newest);
        while self.open.len() >= self.in_flight {
            let oldest = self.open[0];
            while self.wal.durable() < oldest {
                let wal = &self.wal;
                self.bell.park(|| wal.durable() < oldest).await;
            }
            self.open.pop_front();
        }
        Ok(())
    }

    fn collect(&mut self, upto: u64) -> Result<(), String> {
        for shard in 0..self.shards {
            let manifest = Record::Manifest { index: LogIndex(upto), term: TERM, body: b"state" };
            let compact = Record::Compact { first: LogIndex(upto + 1), prev_term: TERM };
            let staged = self.wal.stage(ShardId(shard), &[manifest, compact]);
            self.newest = self.newest.max(staged.map_err(|error| format!("{error:?}"))?);
        }
        Ok(())
    }
}
