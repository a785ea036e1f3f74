//! The clients of `bench kv`: on plain threads, or on the shards' own cores.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use bowline::{Consistency, EmbeddedClient, EmbeddedEngine, Error, LocalShard, Op};
use bytes::Bytes;

use super::park;
use super::used::Used;
use super::window::{Outcome, Schedule, Tally, Target, Window, clock};
use super::work::{Dice, Keys, Mix, Values, bytes_of};

/// What the clients do, and how many there are.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) mix: Mix,
    pub(crate) keys: Arc<Keys>,
    pub(crate) values: Values,
    pub(crate) clients: usize,
    pub(crate) threads: usize,
    pub(crate) warmup: Duration,
    pub(crate) measured: Duration,
    /// Open loop: operations a second.
    pub(crate) rate: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes {
    pub(crate) tally: Tally,
    pub(crate) used: Used,
    pub(crate) seconds: f64,
}

/// A client of either kind.
trait Calls {
    type Timer: Future<Output = ()>;

    fn timer(&self, span: Duration) -> Self::Timer;
    fn put(&self, key: [u8; 8], value: &[u8]) -> Op<()>;
    fn get(&self, key: [u8; 8], consistency: Consistency) -> Op<Option<Bytes>>;
}

impl Calls for EmbeddedClient {
    /// The thread has a clock.
    type Timer = core::future::Pending<()>;

    fn timer(&self, _: Duration) -> Self::Timer {
        core::future::pending()
    }

    fn put(&self, key: [u8; 8], value: &[u8]) -> Op<()> {
        Self::put(self, key, value)
    }

    fn get(&self, key: [u8; 8], consistency: Consistency) -> Op<Option<Bytes>> {
        self.get_with_consistency(key, consistency)
    }
}

impl Calls for LocalShard {
    type Timer = Pin<Box<dyn Future<Output = ()>>>;

    fn timer(&self, span: Duration) -> Self::Timer {
        Box::pin(self.sleep(span))
    }

    fn put(&self, key: [u8; 8], value: &[u8]) -> Op<()> {
        Self::put(self, key, value)
    }

    fn get(&self, key: [u8; 8], consistency: Consistency) -> Op<Option<Bytes>> {
        self.get_with_consistency(key, consistency)
    }
}

/// One operation under way.
enum Call {
    Put(Op<()>),
    Get(Op<Option<Bytes>>),
}

impl Future for Call {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let good = match &mut *self {
            Self::Put(op) => core::task::ready!(Pin::new(op).poll(cx)).map(|()| true),
            // Every key was written before: one that is not found is a failure too.
            Self::Get(op) => core::task::ready!(Pin::new(op).poll(cx)).map(|got| got.is_some()),
        };
        Poll::Ready(match good {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::Failed(None),
            Err(Error::Busy { retry_after, .. }) => Outcome::Again(retry_after),
            Err(error) => Outcome::Failed(Some(error.code())),
        })
    }
}

/// Clients that draw operations, keys and values by chance.
struct Asking<C> {
    calls: C,
    mix: Mix,
    /// Keys to choose from; empty: any below `count`.
    chosen: Vec<u64>,
    count: u64,
    values: Values,
    dice: Dice,
}

impl<C: Calls> Target for Asking<C> {
    type Call = Call;
    type Timer = C::Timer;

    fn timer(&self, span: Duration) -> C::Timer {
        self.calls.timer(span)
    }

    fn submit(&mut self) -> Call {
        let chance = self.dice.roll();
        let key = if self.chosen.is_empty() {
            chance % self.count
        } else {
            let place = chance % u64::try_from(self.chosen.len()).expect("a length fits 64 bits");
            self.chosen[usize::try_from(place).expect("below a length")]
        };
        let key = bytes_of(key);
        if (chance >> 32) % 100 < self.mix.reads_percent {
            Call::Get(self.calls.get(key, self.mix.consistency()))
        } else {
            Call::Put(self.calls.put(key, &self.values.pick(chance >> 40)))
        }
    }
}

impl Load {
    /// Writes every key once, so that every read finds something.
    pub(crate) fn fill(&self, client: &EmbeddedClient) -> Result<(), Error> {
        const AT_ONCE: usize = 512;
        let put = |key| client.put(bytes_of(key), self.values.pick(key));
        let settle = |(key, op): (u64, Op<()>)| {
            let mut result = op.wait();
            while let Err(Error::Busy { retry_after, .. }) = result {
                sleep_until(clock() + retry_after);
                result = put(key).wait();
            }
            result
        };
        let mut open = VecDeque::with_capacity(AT_ONCE);
        for key in 0..self.keys.count() {
            if open.len() == AT_ONCE
                && let Some(first) = open.pop_front()
            {
                settle(first)?;
            }
            open.push_back((key, put(key)));
        }
        open.into_iter().try_for_each(settle)
    }

    /// Runs the clients on threads of this process.
    pub(crate) fn on_threads(&self, client: &EmbeddedClient) -> Outcomes {
        let threads = self.threads.min(self.clients);
        let schedule = self.schedule(threads);
        let parts = shares(self.clients, threads);
        let mut windows = Vec::new();
        for (place, clients) in parts.enumerate() {
            let target = self.asking(client.clone(), place, Vec::new());
            windows.push((target, clients));
        }
        thread::scope(|scope| {
            let running: Vec<_> = windows
                .into_iter()
                .map(|(target, clients)| {
                    scope.spawn(move || park::run(Window::new(target, clients, schedule)))
                })
                .collect();
            let (used, seconds) = watch(schedule);
            let mut tally = Tally::new();
            for thread in running {
                tally.add(&thread.join().expect("a client does not panic"));
            }
            Outcomes { tally, used, seconds }
        })
    }

    /// Runs the clients on the cores, spread over the shards that have keys.
    pub(crate) fn on_cores(&self, engine: &EmbeddedEngine) -> Result<Outcomes, Error> {
        let schedule = self.schedule(1);
        let shards: Vec<_> = self.keys.shards().collect();
        let used_shards = shards.len().min(self.clients);
        let mut running = Vec::new();
        let parts = shares(self.clients, used_shards);
        for (place, (clients, (id, keys))) in parts.zip(shards).enumerate() {
            let shard = engine.shard(id).expect("the keys are of this engine's shards");
            let (load, keys) = (self.clone(), keys.to_vec());
            running.push(shard.run_local(async move |local| {
                let target = load.asking(local, place, keys);
                Window::new(target, clients, schedule).await
            }));
        }
        let (used, seconds) = watch(schedule);
        let mut tally = Tally::new();
        for window in running {
            tally.add(&window.wait()?);
        }
        Ok(Outcomes { tally, used, seconds })
    }

    fn schedule(&self, windows: usize) -> Schedule {
        // Windows are made first; nothing is due before all of them are.
        let begin = clock() + Duration::from_millis(20);
        let count_from = begin + self.warmup;
        let windows = u32::try_from(windows).unwrap_or(u32::MAX);
        let interval = self.rate.map(|rate| Duration::from_secs_f64(f64::from(windows) / rate));
        Schedule { begin, count_from, end: count_from + self.measured, interval }
    }

    fn asking<C: Calls>(&self, calls: C, place: usize, chosen: Vec<u64>) -> Asking<C> {
        let seed = u64::try_from(place).expect("a small number") + 1;
        Asking {
            calls,
            mix: self.mix,
            chosen,
            count: self.keys.count(),
            values: self.values.clone(),
            dice: Dice::new(seed),
        }
    }
}

/// `all` in `parts` parts that differ by one at most.
fn shares(all: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |part| all / parts + usize::from(part < all % parts))
}

/// What the process uses while calls are counted, and for how long that is.
fn watch(schedule: Schedule) -> (Used, f64) {
    sleep_until(schedule.count_from);
    let (began, before) = (clock(), Used::now());
    sleep_until(schedule.end);
    let used = Used::now().since(before);
    let counted = schedule.end.saturating_duration_since(schedule.count_from);
    // The use is scaled to the counted time: this thread may wake late.
    let watched = clock().saturating_duration_since(began);
    let scale = counted.as_secs_f64() / watched.as_secs_f64().max(f64::EPSILON);
    let scaled = Used { cpu: used.cpu.mul_f64(scale), written: used.written };
    (scaled, counted.as_secs_f64())
}

#[expect(clippy::disallowed_methods, reason = "the thread that watches has nothing else to do")]
fn sleep_until(at: std::time::Instant) {
    thread::sleep(at.saturating_duration_since(clock()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_differ_by_one_and_sum_up() {
        assert_eq!(shares(10, 4).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(shares(3, 3).collect::<Vec<_>>(), [1, 1, 1]);
    }
}
