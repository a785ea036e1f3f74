//! The road from a thread to a core: one ring per (thread, core), and a bell.
//!
//! ```text
//! producer: push; fence; ready bit of the ring 0 -> 1: bell.ring()
//! core:     swap ready words with 0; fence; drain the rings of the bits; budget spent: bit back
//! park:     bell.park(inbox is empty)
//! ```
//!
//! A ring holds 1,024 requests and 4 MiB of command bytes; one larger request passes an empty ring.
//! A full ring takes nothing: the operation waits at its first poll for the core to signal room.
//! Threads beyond 1,024 share one queue of the same bounds under a lock.
//!
//! I1 A request that was pushed is drained or dropped (which answers `Stopped`), never left behind.
//! I2 A ring's number is given again only after its consumer is gone.

mod inbox;

use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use core::task::Waker;
use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use bowline_env::Bell;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::request::Request;
use crate::ticket::WakeList;

pub(crate) use inbox::Inbox;

/// Requests that a ring holds.
pub(crate) const RING_COUNT_MAX: usize = 1_024;
/// Command bytes that a ring holds.
pub(crate) const RING_BYTES_MAX: usize = 4 << 20;
/// Threads with a ring of their own, per core.
const RINGS_MAX: usize = 1_024;
const WORDS: usize = RINGS_MAX / 64;

#[expect(clippy::disallowed_types, reason = "new rings, and what threads beyond 1,024 share")]
type Mutex<T> = std::sync::Mutex<T>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static NEXT_HUB: AtomicU64 = AtomicU64::new(1);

/// One core, as threads see it.
pub(crate) struct Hub {
    /// Tells hubs of one process apart; never 0.
    id: u64,
    bell: Bell,
    ready: [AtomicU64; WORDS],
    closed: AtomicBool,
    arrivals: Mutex<Arrivals>,
    shared: Shared,
}

/// Rings on their way to the core, and the numbers that are free.
#[derive(Default)]
struct Arrivals {
    lanes: Vec<Lane>,
    free: Vec<u16>,
    given: u16,
    closed: bool,
}

/// What threads without a ring of their own share.
#[derive(Default)]
struct Shared {
    len: AtomicUsize,
    queue: Mutex<SharedQueue>,
    room: Room,
}

#[derive(Default)]
struct SharedQueue {
    requests: VecDeque<Request>,
    bytes: usize,
    closed: bool,
}

/// Who waits for room.
#[derive(Default)]
struct Room {
    bytes: AtomicUsize,
    waiting: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// The core's end of a ring.
struct Lane {
    number: u16,
    requests: Consumer<Request>,
    room: Arc<Room>,
}

/// A thread's end of a ring.
struct Line {
    hub: Arc<Hub>,
    number: u16,
    requests: Option<Producer<Request>>,
    room: Arc<Room>,
}

impl Hub {
    /// A hub for the core that `bell` wakes, and the core's end of it.
    pub(crate) fn new(bell: Bell) -> (Arc<Self>, Inbox) {
        let hub = Arc::new(Self {
            id: NEXT_HUB.fetch_add(1, Ordering::Relaxed),
            bell,
            ready: [const { AtomicU64::new(0) }; WORDS],
            closed: AtomicBool::new(false),
            arrivals: Mutex::default(),
            shared: Shared::default(),
        });
        let lanes = (0..RINGS_MAX).map(|_| None).collect();
        let inbox = Inbox::new(Arc::clone(&hub), lanes);
        (hub, inbox)
    }

    /// Sends a request from this thread. On a closed hub the request is dropped, which answers
    /// its ticket.
    ///
    /// # Errors
    ///
    /// The request: the ring is full.
    #[expect(clippy::result_large_err, reason = "the request is handed back, not an error")]
    pub(crate) fn push(self: &Arc<Self>, request: Request) -> Result<(), Request> {
        self.try_push(request).map_err(|(request, _room)| request)
    }

    /// Sends a request, or registers `waker` for when there is room.
    ///
    /// # Errors
    ///
    /// The request: the ring is full, and the waker is registered.
    #[expect(clippy::result_large_err, reason = "the request is handed back, not an error")]
    pub(crate) fn push_or_register(
        self: &Arc<Self>,
        request: Request,
        waker: &Waker,
    ) -> Result<(), Request> {
        let (request, room) = match self.try_push(request) {
            Ok(()) => return Ok(()),
            Err(full) => full,
        };
        match &room {
            Some(room) => room.register(waker),
            None => self.shared.room.register(waker),
        }
        self.push(request)
    }

    /// Whether the core takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    #[expect(clippy::result_large_err, reason = "the request is handed back, not an error")]
    fn try_push(self: &Arc<Self>, request: Request) -> Result<(), (Request, Option<Arc<Room>>)> {
        if self.is_closed() {
            drop(request);
            return Ok(());
        }
        let mut request = Some(request);
        let pushed = LINES.try_with(|lines| {
            let mut lines = lines.borrow_mut();
            let place = lines.iter().position(|line| line.hub.id == self.id);
            let place = match place {
                Some(place) => Some(place),
                None => self.connect(&mut lines),
            };
            let place = place?;
            let request = request.take().expect("it was not pushed yet");
            let result = lines[place].push(request);
            // The core may have closed before it could see the push: our end goes, so that the
            // ring's memory and what is in it go too (I1).
            let dead = self.is_closed().then(|| lines.swap_remove(place));
            Some((result, dead))
        });
        match (pushed, request) {
            (Ok(Some((result, dead))), _) => {
                drop(dead);
                result.map_err(|(request, room)| (request, Some(room)))
            },
            (_, Some(request)) => self.push_shared(request).map_err(|request| (request, None)),
            (_, None) => unreachable!("the request was pushed or is here"),
        }
    }

    /// Makes a ring for this thread; none: all numbers are given.
    fn connect(self: &Arc<Self>, lines: &mut Vec<Line>) -> Option<usize> {
        lines.retain(|line| !line.hub.is_closed());
        let (producer, consumer) = RingBuffer::new(RING_COUNT_MAX);
        let room = Arc::new(Room::default());
        let mut arrivals = lock(&self.arrivals);
        if arrivals.closed {
            return None;
        }
        let number = match arrivals.free.pop() {
            Some(number) => number,
            None if usize::from(arrivals.given) < RINGS_MAX => {
                arrivals.given += 1;
                arrivals.given - 1
            },
            None => return None,
        };
        arrivals.lanes.push(Lane { number, requests: consumer, room: Arc::clone(&room) });
        drop(arrivals);
        lines.push(Line { hub: Arc::clone(self), number, requests: Some(producer), room });
        Some(lines.len() - 1)
    }

    #[expect(clippy::result_large_err, reason = "the request is handed back, not an error")]
    fn push_shared(&self, request: Request) -> Result<(), Request> {
        let bytes = request.bytes();
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            drop(queue);
            drop(request);
            return Ok(());
        }
        let fits = bytes == 0 || queue.bytes == 0 || queue.bytes + bytes <= RING_BYTES_MAX;
        if queue.requests.len() >= RING_COUNT_MAX || !fits {
            return Err(request);
        }
        queue.bytes += bytes;
        queue.requests.push_back(request);
        let first = queue.requests.len() == 1;
        self.shared.len.store(queue.requests.len(), Ordering::SeqCst);
        drop(queue);
        if first {
            self.bell.ring();
        }
        Ok(())
    }

    fn signal(&self, number: u16) {
        fence(Ordering::SeqCst);
        let (word, bit) = (usize::from(number) / 64, 1_u64 << (number % 64));
        if self.ready[word].load(Ordering::Relaxed) & bit == 0
            && self.ready[word].fetch_or(bit, Ordering::SeqCst) & bit == 0
        {
            self.bell.ring();
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Line {
    #[expect(clippy::result_large_err, reason = "the request is handed back, not an error")]
    fn push(&mut self, request: Request) -> Result<(), (Request, Arc<Room>)> {
        let producer = self.requests.as_mut().expect("the producer goes with the line");
        let bytes = request.bytes();
        let before = self.room.bytes.load(Ordering::Acquire);
        if bytes != 0 && before != 0 && before + bytes > RING_BYTES_MAX {
            return Err((request, Arc::clone(&self.room)));
        }
        // Counted before it can be seen, so that the core never takes off more than is there.
        if bytes > 0 {
            self.room.bytes.fetch_add(bytes, Ordering::AcqRel);
        }
        match producer.push(request) {
            Ok(()) => {
                self.hub.signal(self.number);
                Ok(())
            },
            Err(PushError::Full(request)) => {
                if bytes > 0 {
                    self.room.bytes.fetch_sub(bytes, Ordering::AcqRel);
                }
                Err((request, Arc::clone(&self.room)))
            },
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // First our end, then the signal: the core must find the ring abandoned.
        drop(self.requests.take());
        self.hub.signal(self.number);
    }
}

thread_local! {
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Room {
    fn register(&self, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        if wakers.last().is_none_or(|last| !last.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        drop(wakers);
        self.waiting.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// After requests were taken: whoever waits for room shall look again.
    fn signal(&self, wakes: &mut WakeList) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::SeqCst) {
            lock(&self.wakers).drain(..).for_each(|waker| wakes.push(waker));
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    clippy::excessive_nesting,
    clippy::cast_possible_truncation,
    reason = "threads are what is tested"
)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::core::LocalShard;
    use crate::op::Op;
    use crate::request::Call;
    use crate::ticket::{Reply, Ticket, issue};
    use bowline_raft::ShardId;
    use bytes::Bytes;
    use core::future::Future;
    use core::pin::pin;
    use core::task::{Context, Poll};
    use std::task::Wake;

    const BYTES_ANY: usize = usize::MAX;

    fn request(shard: u64, body: usize, ticket: Ticket) -> Request {
        let body = Bytes::from(vec![0; body]);
        let call = Call::Propose { kind: 32, body };
        Request { shard: ShardId(shard), timeout_ms: 1_000, call, ticket }
    }

    fn send(hub: &Arc<Hub>, shard: u64, body: usize) -> Op<u64> {
        let map = |reply| match reply {
            Reply::Unit => Ok(1),
            Reply::Output(_) | Reply::Answer(_) | Reply::Any(_) => Ok(0),
        };
        Op::submit(hub, |ticket| request(shard, body, ticket), map)
    }

    fn drained(inbox: &mut Inbox, count: usize, bytes: usize) -> (Vec<u64>, bool) {
        let mut seen = Vec::new();
        let more = inbox.drain(count, bytes, |request| {
            seen.push(request.shard.0);
            request.ticket.complete_now(Ok(Reply::Unit));
        });
        (seen, more)
    }

    fn poll<T>(op: &mut Op<T>) -> Poll<Result<T, Error>> {
        pin!(op).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn requests_of_a_thread_arrive_in_order_and_within_the_budget() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        assert!(inbox.is_empty());
        let _ops: Vec<_> = (0..10).map(|shard| send(&hub, shard, 100)).collect();
        assert!(!inbox.is_empty());
        assert_eq!(drained(&mut inbox, 3, BYTES_ANY), (vec![0, 1, 2], true));
        assert!(!inbox.is_empty(), "what is left keeps the core awake");
        assert_eq!(drained(&mut inbox, 9, 250), (vec![3, 4, 5], true));
        assert_eq!(drained(&mut inbox, 4, 1 << 20), (vec![6, 7, 8, 9], false));
        assert_eq!(drained(&mut inbox, 9, BYTES_ANY), (vec![], false));
        assert!(inbox.is_empty());
    }

    #[test]
    fn each_ring_gets_its_turn() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        let mut ops: Vec<_> = (0..6).map(|_| send(&hub, 1, 0)).collect();
        let other = Arc::clone(&hub);
        let theirs = std::thread::spawn(move || (0..2).map(|_| send(&other, 2, 0)).collect());
        ops.append(&mut theirs.join().expect("the thread ends well"));
        assert_eq!(drained(&mut inbox, 4, BYTES_ANY), (vec![1, 1, 1, 1], true));
        assert_eq!(drained(&mut inbox, 4, BYTES_ANY), (vec![2, 2, 1, 1], false));
    }

    #[test]
    fn a_full_ring_takes_the_operation_at_its_first_poll_after_room() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        let mut ops: Vec<_> = (0..RING_COUNT_MAX as u64).map(|n| send(&hub, n, 0)).collect();
        let mut last = send(&hub, 7_777, 0);
        assert_eq!(format!("{last:?}"), "Op(unsent)");
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(pin!(&mut last).poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(drained(&mut inbox, 1, BYTES_ANY), (vec![0], true));
        assert!(woken.0.load(Ordering::SeqCst), "room is signalled");
        assert!(poll(&mut last).is_pending());
        let (seen, more) = drained(&mut inbox, 2_000, BYTES_ANY);
        assert_eq!((seen.last(), more), (Some(&7_777), false));
        assert_eq!(poll(&mut last), Poll::Ready(Ok(1)));
        assert!(ops.iter_mut().all(|op| poll(op) == Poll::Ready(Ok(1))));
    }

    #[test]
    fn a_ring_holds_four_mib_and_one_larger_request_alone() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        let large = send(&hub, 1, RING_BYTES_MAX + 1);
        assert_eq!(format!("{large:?}"), "Op(waiting)");
        let mut small = send(&hub, 2, 1);
        assert_eq!(format!("{small:?}"), "Op(unsent)");
        let free = send(&hub, 3, 0);
        assert_eq!(format!("{free:?}"), "Op(waiting)", "no bytes, no bound");
        assert_eq!(drained(&mut inbox, 9, BYTES_ANY), (vec![1, 3], false));
        assert!(poll(&mut small).is_pending());
        assert_eq!(drained(&mut inbox, 9, BYTES_ANY), (vec![2], false));
    }

    #[test]
    fn the_ring_of_an_ended_thread_is_drained_and_its_number_given_again() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        for round in 0..3 {
            let theirs = Arc::clone(&hub);
            let mut op = std::thread::spawn(move || send(&theirs, round, 0))
                .join()
                .expect("the thread ends well");
            while lock(&hub.arrivals).free.is_empty() {
                inbox.scan();
                drained(&mut inbox, 9, BYTES_ANY);
                std::thread::yield_now();
            }
            assert_eq!(poll(&mut op), Poll::Ready(Ok(1)));
        }
        assert_eq!(lock(&hub.arrivals).given, 1);
    }

    #[test]
    fn threads_beyond_the_last_ring_share_one_queue() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        lock(&hub.arrivals).given = RINGS_MAX as u16;
        let mut ops: Vec<_> = (0..RING_COUNT_MAX as u64).map(|n| send(&hub, n, 0)).collect();
        let mut last = send(&hub, 9, 0);
        assert!(poll(&mut last).is_pending());
        assert_eq!(format!("{last:?}"), "Op(unsent)");
        assert!(!inbox.is_empty());
        let (seen, more) = drained(&mut inbox, 1_000, BYTES_ANY);
        assert_eq!((seen.len(), more), (1_000, true));
        assert!(poll(&mut last).is_pending());
        let (seen, more) = drained(&mut inbox, 1_000, BYTES_ANY);
        assert_eq!((seen.len(), more), (25, false));
        assert!(ops.iter_mut().all(|op| poll(op) == Poll::Ready(Ok(1))));
        assert_eq!(poll(&mut last), Poll::Ready(Ok(1)));
    }

    #[test]
    fn a_closed_hub_answers_what_is_queued_and_what_comes_later() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        let mut ops = vec![send(&hub, 1, 10), send(&hub, 2, 10)];
        inbox.close();
        ops.push(send(&hub, 3, 10));
        drop(inbox);
        ops.push(send(&hub, 4, 10));
        for op in &mut ops {
            assert_eq!(poll(op), Poll::Ready(Err(Error::stopped())));
        }
    }

    #[test]
    fn a_closure_crosses_the_ring() {
        let (hub, mut inbox) = Hub::new(Bell::new());
        let (mut waiter, ticket) = issue();
        let call = Call::Run(Box::new(|_: LocalShard| {}));
        let request = Request { shard: ShardId(1), timeout_ms: 1, call, ticket };
        assert_eq!(request.bytes(), 0);
        hub.push(request).expect("the ring is empty");
        drop(hub);
        inbox.drain(1, 1, |request| assert!(matches!(request.call, Call::Run(_))));
        let answer = waiter.poll(&Context::from_waker(Waker::noop()));
        assert!(matches!(answer, Poll::Ready(Err(Error::Stopped { .. }))));
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// A core that parks whenever it can. A lost wake hangs this test.
    #[test]
    fn no_wake_is_lost_between_threads_and_a_parking_core() {
        const COUNT: u64 = if cfg!(miri) { 20 } else { 10_000 };
        let bell = Bell::new();
        let (hub, mut inbox) = Hub::new(bell.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let (core_stop, core_bell) = (Arc::clone(&stop), bell.clone());
        let core = std::thread::spawn(move || {
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            let mut cx = Context::from_waker(&waker);
            let mut count = 0;
            while !core_stop.load(Ordering::SeqCst) {
                let mut wakes = WakeList::default();
                inbox.drain(100, BYTES_ANY, |request| {
                    count += 1;
                    request.ticket.complete(Ok(Reply::Unit), &mut wakes);
                });
                wakes.wake_all();
                let idle = || inbox.is_empty() && !core_stop.load(Ordering::SeqCst);
                let mut park = pin!(core_bell.park(idle));
                while park.as_mut().poll(&mut cx).is_pending() {
                    std::thread::park();
                }
            }
            count
        });
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..COUNT {
                        assert_eq!(send(&hub, 1, 8).wait(), Ok(1));
                    }
                });
            }
        });
        stop.store(true, Ordering::SeqCst);
        bell.ring();
        assert_eq!(core.join().expect("the core ends well"), 2 * COUNT);
    }
}
