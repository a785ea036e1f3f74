//! The core's side of the rings: takes requests within a budget, each ring in its turn.

use core::fmt;
use core::sync::atomic::{Ordering, fence};
use std::sync::Arc;

use super::{Hub, Lane, RINGS_MAX, WORDS, lock};
use crate::request::Request;
use crate::ticket::WakeList;

/// The core's end of all rings. Dropping it closes the hub and answers what is queued.
pub(crate) struct Inbox {
    hub: Arc<Hub>,
    pub(super) lanes: Box<[Option<Lane>]>,
    /// The ring that the next drain begins with.
    next: usize,
    wakes: WakeList,
}

impl Inbox {
    pub(super) fn new(hub: Arc<Hub>, lanes: Box<[Option<Lane>]>) -> Self {
        Self { hub, lanes, next: 0, wakes: WakeList::default() }
    }

    /// Gives queued requests to `f`, at most `count_max` and, after the first, none once
    /// `bytes_max` command bytes are taken. True: there are more.
    pub(crate) fn drain(
        &mut self,
        count_max: usize,
        bytes_max: usize,
        mut f: impl FnMut(Request),
    ) -> bool {
        let mut budget = DrainBudget { count: count_max, bytes: bytes_max };
        let (first_word, first_bit) = (self.next / 64, self.next % 64);
        let mut more = false;
        // The first word is visited twice: its upper bits first, its lower ones at the end.
        for turn in 0..=WORDS {
            let word = (first_word + turn) % WORDS;
            let mask = match turn {
                0 => u64::MAX << first_bit,
                WORDS => !(u64::MAX << first_bit),
                _ => u64::MAX,
            };
            if self.hub.ready[word].load(Ordering::Relaxed) & mask == 0 {
                continue;
            }
            let mut bits = self.hub.ready[word].fetch_and(!mask, Ordering::SeqCst) & mask;
            fence(Ordering::SeqCst);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                if budget.is_spent() {
                    break;
                }
                bits &= bits - 1;
                let place = word * 64 + usize::try_from(bit).expect("a bit of 64");
                if self.drain_lane(place, &mut budget, &mut f) {
                    bits |= 1 << bit;
                    self.next = (place + 1) % RINGS_MAX;
                    break;
                }
            }
            if bits != 0 {
                self.hub.ready[word].fetch_or(bits, Ordering::SeqCst);
                more = true;
                break;
            }
        }
        more |= self.drain_shared(&mut budget, &mut f);
        self.wakes.wake_all();
        more
    }

    /// Whether nothing is queued. For [`Bell::park`].
    pub(crate) fn is_empty(&self) -> bool {
        self.hub.shared.len.load(Ordering::SeqCst) == 0
            && self.hub.ready.iter().all(|word| word.load(Ordering::SeqCst) == 0)
    }

    /// Looks at every ring, in case that a signal was lost. For the tick.
    pub(crate) fn scan(&mut self) {
        self.take_arrivals();
        for lane in self.lanes.iter().flatten() {
            if !lane.requests.is_empty() || lane.requests.is_abandoned() {
                let (word, bit) = (usize::from(lane.number) / 64, lane.number % 64);
                self.hub.ready[word].fetch_or(1 << bit, Ordering::SeqCst);
            }
        }
    }

    /// Takes no more requests; what is queued is dropped, which answers it.
    pub(crate) fn close(&mut self) {
        self.hub.closed.store(true, Ordering::SeqCst);
        lock(&self.hub.arrivals).closed = true;
        let mut queue = lock(&self.hub.shared.queue);
        queue.closed = true;
        let left = core::mem::take(&mut queue.requests);
        drop(queue);
        self.hub.shared.len.store(0, Ordering::SeqCst);
        drop(left);
        fence(Ordering::SeqCst);
        self.take_arrivals();
        for lane in &mut self.lanes {
            if let Some(mut lane) = lane.take() {
                while let Ok(request) = lane.requests.pop() {
                    drop(request);
                }
                lane.room.signal(&mut self.wakes);
            }
        }
        self.hub.shared.room.signal(&mut self.wakes);
        self.wakes.wake_all();
    }

    /// True: the budget is spent and the ring has more.
    fn drain_lane(
        &mut self,
        place: usize,
        budget: &mut DrainBudget,
        f: &mut impl FnMut(Request),
    ) -> bool {
        if self.lanes[place].is_none() {
            self.take_arrivals();
        }
        // A ring that ended: its last signal came after it was freed by a scan.
        let Some(lane) = &mut self.lanes[place] else { return false };
        let abandoned = lane.requests.is_abandoned();
        let (mut taken, mut taken_bytes) = (0, 0);
        while !budget.is_spent() {
            let Ok(request) = lane.requests.pop() else { break };
            let bytes = request.bytes();
            taken_bytes += bytes;
            budget.take(bytes);
            taken += 1;
            f(request);
        }
        if taken_bytes > 0 {
            lane.room.bytes.fetch_sub(taken_bytes, Ordering::AcqRel);
        }
        if taken > 0 {
            lane.room.signal(&mut self.wakes);
        }
        let empty = lane.requests.is_empty();
        if empty && abandoned {
            let number = lane.number;
            self.lanes[place] = None;
            lock(&self.hub.arrivals).free.push(number);
        }
        !empty
    }

    fn drain_shared(&mut self, budget: &mut DrainBudget, f: &mut impl FnMut(Request)) -> bool {
        if self.hub.shared.len.load(Ordering::SeqCst) == 0 {
            return false;
        }
        loop {
            let mut queue = lock(&self.hub.shared.queue);
            let request = if budget.is_spent() { None } else { queue.requests.pop_front() };
            let Some(request) = request else {
                let left = queue.requests.len();
                self.hub.shared.len.store(left, Ordering::SeqCst);
                drop(queue);
                self.hub.shared.room.signal(&mut self.wakes);
                return left > 0;
            };
            queue.bytes -= request.bytes();
            drop(queue);
            budget.take(request.bytes());
            f(request);
        }
    }

    fn take_arrivals(&mut self) {
        let mut arrivals = lock(&self.hub.arrivals);
        for lane in arrivals.lanes.drain(..) {
            let place = usize::from(lane.number);
            assert!(self.lanes[place].is_none(), "a ring's number is given once (I2)");
            self.lanes[place] = Some(lane);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("hub", &self.hub).finish_non_exhaustive()
    }
}

/// What a drain may still take.
struct DrainBudget {
    count: usize,
    bytes: usize,
}

impl DrainBudget {
    const fn is_spent(&self) -> bool {
        self.count == 0 || self.bytes == 0
    }

    const fn take(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
