//! One core's handle: clocks, tasks, buffers, sockets.

use core::cell::Cell;
use core::future::Future;
use core::net::SocketAddr;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Wake;

use ::glommio::task::JoinHandle;
use ::glommio::timer::Timer;
use ::glommio::{Latency, Shares, TaskQueueHandle};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::buffer::{Pool, SHELF_BYTES_MAX};
use super::dir::GlommioDir;
use super::helper::Helper;
use super::net::{GlommioListener, GlommioStream};
use super::tick::Pulse;
use crate::{Bell, Buf, Class, CoreNo, Env, EnvError, Kind, Millis, Moved, Nanos, Op, Shelf};

/// Closures of one core that may wait at the helper.
const OFFLOADED_MAX: u32 = 64;
/// The longest sleep in one piece: the runtime's clock stands still in a suspend, ours does not.
const NAP_MAX: Nanos = Nanos::SECOND;

/// One core of the production machine.
#[derive(Clone, Debug)]
pub struct GlommioEnv(Rc<Core>);

#[derive(Debug)]
struct Core {
    no: CoreNo,
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
    dir: GlommioDir,
    helper: Helper,
    pool: Rc<Pool>,
    shelf: Rc<Shelf>,
    offloaded: Arc<AtomicU32>,
    last: Cell<Nanos>,
    pulse: Rc<Pulse>,
}

/// Nanoseconds since boot, suspend included.
pub(super) fn boot_clock() -> Nanos {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = unsigned(time);
    Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

fn unsigned(time: Timespec) -> (u64, u64) {
    let positive = |part: i64| u64::try_from(part).unwrap_or(0);
    (positive(time.tv_sec), positive(time.tv_nsec))
}

/// Resolves at `at` by the boot clock, or later.
pub(super) async fn sleep_until(at: Nanos) {
    loop {
        let left = at.since(boot_clock());
        if left == Nanos(0) {
            return;
        }
        Timer::new(Duration::from_nanos(left.min(NAP_MAX).0)).await;
    }
}

impl GlommioEnv {
    /// The handle of the core whose executor runs on this thread.
    pub(super) fn on_this_core(no: CoreNo, dir: GlommioDir, helper: Helper) -> Self {
        // `Latency::Matters` would cost an event write at every foreign wake.
        let queue = |shares, name| {
            let shares = Shares::Static(shares);
            ::glommio::executor().create_task_queue(shares, Latency::NotImportant, name)
        };
        Self(Rc::new(Core {
            no,
            foreground: queue(1000, "core"),
            background: queue(100, "background"),
            dir,
            helper,
            pool: Rc::default(),
            shelf: Rc::new(Shelf::new(SHELF_BYTES_MAX)),
            offloaded: Arc::default(),
            last: Cell::default(),
            pulse: Rc::default(),
        }))
    }

    /// What tells the core's tick how busy it is.
    pub(super) fn pulse(&self) -> Rc<Pulse> {
        Rc::clone(&self.0.pulse)
    }
}

/// A task of this core. Dropping it detaches it.
pub struct GlommioTask<T>(JoinHandle<T>);

impl<T> core::fmt::Debug for GlommioTask<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("GlommioTask")
    }
}

impl<T> Future for GlommioTask<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx).map(|output| output.expect("no task is cancelled"))
    }
}

/// Goes to the end of this class's queue.
#[derive(Debug, Default)]
struct Yield {
    yielded: bool,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A waker that remembers that it was woken.
struct Breath {
    over: AtomicBool,
    task: Waker,
}

impl Wake for Breath {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.over.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

/// Ends at the executor's next look at its timers, which comes with one at its rings. Nothing else
/// makes glommio look while a task is ready: yielding does not, nor does a completed write.
#[derive(Default)]
struct Breathe {
    begun: Option<(Arc<Breath>, Timer)>,
}

impl Future for Breathe {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((breath, _timer)) = &self.begun {
            let over = breath.over.load(Ordering::Relaxed);
            return if over { Poll::Ready(()) } else { Poll::Pending };
        }
        let breath = Arc::new(Breath { over: AtomicBool::new(false), task: cx.waker().clone() });
        let waker = Waker::from(Arc::clone(&breath));
        // A timer that is due is ready at once without a look at the rings: begin with one that is
        // not, then make it due.
        let mut timer = Timer::new(Duration::from_secs(1));
        let early = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker));
        assert!(early.is_pending(), "a second does not pass between two lines");
        timer.reset(Duration::ZERO);
        self.begun = Some((breath, timer));
        Poll::Pending
    }
}

/// A place among the closures that wait at the helper.
struct Seat(Arc<AtomicU32>);

impl Seat {
    fn take(taken: &Arc<AtomicU32>) -> Option<Self> {
        let seat = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < OFFLOADED_MAX).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Env for GlommioEnv {
    type File = super::GlommioFile;
    type Dir = GlommioDir;
    type Stream = GlommioStream;
    type Listener = GlommioListener;
    type Task<T: 'static> = GlommioTask<T>;

    fn core(&self) -> CoreNo {
        self.0.no
    }

    fn now(&self) -> Nanos {
        let now = boot_clock();
        assert!(self.0.last.replace(now) <= now, "the boot clock does not go back");
        self.0.pulse.look();
        now
    }

    fn wall(&self) -> Millis {
        let (seconds, nanos) = unsigned(clock_gettime(ClockId::Realtime));
        Millis(seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000))
    }

    fn fill_random(&self, out: &mut [u8]) {
        use rustix::rand::{GetRandomFlags, getrandom};
        let mut filled = 0;
        while filled < out.len() {
            let more = rustix::io::retry_on_intr(|| {
                getrandom(&mut out[filled..], GetRandomFlags::empty())
            });
            filled += more.expect("the kernel gives random bytes once it has begun to");
        }
    }

    fn sleep_until(&self, at: Nanos) -> impl Future<Output = ()> + 'static {
        sleep_until(at)
    }

    fn spawn<T: 'static>(
        &self,
        class: Class,
        task: impl Future<Output = T> + 'static,
    ) -> GlommioTask<T> {
        let queue = match class {
            Class::Core => self.0.foreground,
            Class::Background => self.0.background,
        };
        let task = ::glommio::spawn_local_into(task, queue).expect("the queue lives as the core");
        GlommioTask(task.detach())
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        Yield::default()
    }

    fn breathe(&self) -> impl Future<Output = ()> + 'static {
        Breathe::default()
    }

    fn io_ready(&self) -> bool {
        ::glommio::executor().need_preempt()
    }

    fn offload<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, EnvError>> + 'static {
        let answer = Seat::take(&self.0.offloaded).map(|seat| {
            self.0.helper.run(move || {
                let _taken: Seat = seat;
                job()
            })
        });
        async move {
            let Some(answer) = answer else { return Err(EnvError::new(Op::Offload, Kind::Limit)) };
            // A closure that panics ends its caller as it would have on the core.
            Ok(answer.await.expect("an offloaded closure does not panic"))
        }
    }

    fn buffer(&self, len: usize) -> Result<Buf, EnvError> {
        self.0.pool.buffer(len)
    }

    fn scratch(&self, len: usize) -> Result<Buf, EnvError> {
        self.0.pool.scratch(len, &self.0.shelf)
    }

    fn bell(&self) -> Bell {
        Bell::new()
    }

    fn dir(&self) -> &GlommioDir {
        &self.0.dir
    }

    fn listen(&self, at: SocketAddr) -> Result<GlommioListener, EnvError> {
        GlommioListener::bind(at)
    }

    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = Result<Vec<SocketAddr>, EnvError>> + 'static {
        super::resolve::resolve(host.to_owned(), port)
    }

    fn connect(
        &self,
        to: SocketAddr,
        limit: Nanos,
    ) -> impl Future<Output = Result<GlommioStream, EnvError>> + 'static {
        GlommioStream::connect(to, limit)
    }

    fn adopt(&self, moved: Moved) -> Result<GlommioStream, EnvError> {
        GlommioStream::adopt(moved)
    }
}
