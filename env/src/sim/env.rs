//! One simulated core's handle to its machine.

use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::files::SimDir;
use super::inner::Inner;
use super::node::{Node, live};
use super::profile::Fault;
use super::sched::Life;
use super::slab::Key;
use super::stream::{SimListener, SimStream};
use super::task::{Join, SimTask, Sleep, Yield};
use super::trace::Noted;
use super::world::World;
use crate::{Bell, Buf, Class, CoreNo, Env, EnvError, Fact, Kind, Millis, Moved, Nanos, Op};

/// Bytes of buffers that one core may hold at a time.
const POOL_BYTES_MAX: usize = 256 << 20;

/// Where a handle belongs: world, node, life, core.
pub(super) struct Place {
    pub(super) inner: Rc<Inner>,
    pub(super) node: Rc<Node>,
    pub(super) life: Rc<Life>,
    pub(super) core: Key,
    no: CoreNo,
    last: Cell<Nanos>,
    /// Bytes of buffers in use (I6).
    buffers: Rc<Cell<usize>>,
}

impl Place {
    pub(super) fn new(
        inner: &Rc<Inner>,
        node: &Rc<Node>,
        life: Rc<Life>,
        (core, no): (Key, CoreNo),
    ) -> Rc<Self> {
        let (inner, node) = (Rc::clone(inner), Rc::clone(node));
        let (last, buffers) = (Cell::default(), Rc::default());
        Rc::new(Self { inner, node, life, core, no, last, buffers })
    }

    /// Whether its node still lives this life (I2).
    pub(super) fn live(&self) -> bool {
        live(&self.life)
    }
}

/// One core's handle to its simulated machine. After its node crashed it does nothing: futures
/// stay pending, calls fail with `Closed`.
#[derive(Clone)]
pub struct SimEnv {
    place: Rc<Place>,
    dir: SimDir,
}

impl fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { node, life, no, .. } = &*self.place;
        write!(f, "SimEnv(node {} life {} core {})", node.id, life.number, no.0)
    }
}

impl SimEnv {
    pub(super) fn new(place: Rc<Place>) -> Self {
        Self { dir: SimDir::new(&place), place }
    }

    pub(super) fn place(&self) -> &Rc<Place> {
        &self.place
    }

    fn sleep(&self, at: Nanos, always: bool) -> Sleep {
        let whose = (Rc::clone(&self.place.node), Rc::clone(&self.place.life));
        Sleep::new(&self.place.inner, Some(whose), at, always)
    }
}

impl Env for SimEnv {
    type File = super::files::SimFile;
    type Dir = SimDir;
    type Stream = SimStream;
    type Listener = SimListener;
    type Task<T: 'static> = SimTask<T>;

    fn core(&self) -> CoreNo {
        self.place.no
    }

    fn now(&self) -> Nanos {
        let place = &self.place;
        if !place.live() {
            return place.last.get();
        }
        // Another core's time may be a little ahead of this one when a handle is used there.
        let now = place.node.boot(place.inner.read_clock()).max(place.last.get());
        place.last.set(now);
        now
    }

    fn wall(&self) -> Millis {
        Millis(self.place.node.clock.get().wall(self.place.inner.now()))
    }

    fn fill_random(&self, out: &mut [u8]) {
        if self.place.live() {
            self.place.inner.streams.entropy.fill(out);
        } else {
            out.fill(0);
        }
    }

    fn sleep_until(&self, at: Nanos) -> impl Future<Output = ()> + 'static {
        self.sleep(at, false)
    }

    fn spawn<T: 'static>(
        &self,
        class: Class,
        task: impl Future<Output = T> + 'static,
    ) -> SimTask<T> {
        let join = Join::new();
        let result = Rc::clone(&join);
        if self.place.live() {
            let body = Box::pin(async move { result.set(task.await) });
            self.place.inner.spawn(self.place.core, class, body);
        }
        SimTask::new(join)
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        Yield::new(&self.place.inner, &self.place.life)
    }

    fn breathe(&self) -> impl Future<Output = ()> + 'static {
        self.sleep(Nanos(0), true)
    }

    fn io_ready(&self) -> bool {
        self.place.live() && self.place.inner.event_due()
    }

    fn offload<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, EnvError>> + 'static {
        let place = &self.place;
        let join = Join::new();
        let result = Rc::clone(&join);
        let run = Box::new(move || result.set(job()));
        let refused = place.live()
            && (place.inner.hits(Fault::NoOffload)
                || place.inner.add_job(place.core, run).is_none());
        async move {
            if refused {
                return Err(EnvError::new(Op::Offload, Kind::Limit));
            }
            Ok(SimTask::new(join).await)
        }
    }

    fn buffer(&self, len: usize) -> Result<Buf, EnvError> {
        if self.place.live() && self.place.inner.hits(Fault::NoBuffer) {
            return Err(EnvError::new(Op::Buffer, Kind::NoMemory));
        }
        if self.place.buffers.get().saturating_add(len) > POOL_BYTES_MAX {
            return Err(EnvError::new(Op::Buffer, Kind::NoMemory));
        }
        Ok(Buf::heap_counted(len, &self.place.buffers))
    }

    fn scratch(&self, len: usize) -> Result<Buf, EnvError> {
        let mut buf = self.buffer(len)?;
        // Not zero: a byte that is not written before it goes to the disk shows.
        buf.rest_mut().fill(0xA5);
        Ok(buf)
    }

    fn bell(&self) -> Bell {
        Bell::new()
    }

    fn dir(&self) -> &SimDir {
        &self.dir
    }

    fn listen(&self, at: SocketAddr) -> Result<SimListener, EnvError> {
        SimListener::bind(&self.place, at)
    }

    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = Result<Vec<SocketAddr>, EnvError>> + 'static {
        let named = host.strip_prefix("node-").and_then(|id| id.parse::<u16>().ok());
        let known = named.map(|id| World::addr(u64::from(id))).or_else(|| host.parse().ok());
        async move {
            let found = known.map(|ip: IpAddr| vec![SocketAddr::new(ip, port)]);
            found.ok_or_else(|| EnvError::new(Op::Resolve, Kind::NotFound))
        }
    }

    fn connect(
        &self,
        to: SocketAddr,
        limit: Nanos,
    ) -> impl Future<Output = Result<SimStream, EnvError>> + 'static {
        SimStream::connect(Rc::clone(&self.place), to, limit)
    }

    fn adopt(&self, moved: Moved) -> Result<SimStream, EnvError> {
        SimStream::adopt(&self.place, moved)
    }

    fn note(&self, fact: Fact) {
        let place = &self.place;
        if place.live() {
            let at = Nanos(place.inner.now());
            place.inner.note(Noted { at, node: place.node.id, core: place.no, fact });
        }
    }
}
