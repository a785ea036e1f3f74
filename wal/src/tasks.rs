//! The tasks of a stream: they perform what the stream decided and report what came of it.
//!
//! ```text
//! writer    two lanes of writes and, where writes are not synced by themselves, one syncer
//! keeper    the timer: covers the last frame, notices a write that hangs
//! preparer  background: headers of free slots, new slots
//! ```

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use std::rc::Rc;

use bowline_env::{Class, Env, EnvError, File, Nanos};

use crate::error::LogError;
use crate::head::SyncMode;
use crate::shared::{Ref, Shared};
use crate::stream::WriteOp;

/// A write in flight for longer stalls the log.
pub(crate) const STALL: Nanos = Nanos::SECOND;

/// Starts the tasks of an opened stream.
pub(crate) fn start<E: Env>(shared: &Ref<E>) {
    shared.tasks.set(3);
    let own = Rc::clone(shared);
    drop(shared.env.spawn(Class::Core, async move { writer(own).await }));
    let own = Rc::clone(shared);
    drop(shared.env.spawn(Class::Core, async move { keeper(own).await }));
    let own = Rc::clone(shared);
    drop(shared.env.spawn(Class::Background, async move { preparer(own).await }));
}

/// The one task that writes frames: no write future of a stream lives anywhere else.
async fn writer<E: Env>(shared: Ref<E>) {
    let mut first = pin!(lane(&shared));
    let mut second = pin!(lane(&shared));
    let mut sync = pin!(syncer(&shared));
    let mut done = [false; 3];
    poll_fn(|cx| {
        shared.writer.register(cx);
        done[0] = done[0] || first.as_mut().poll(cx).is_ready();
        done[1] = done[1] || second.as_mut().poll(cx).is_ready();
        done[2] = done[2] || sync.as_mut().poll(cx).is_ready();
        if done.iter().all(|done| *done) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    shared.leave();
}

/// Writes one frame after the other.
async fn lane<E: Env>(shared: &Shared<E>) {
    while let Some(op) = next(shared).await {
        let (lsn, slot_no) = (op.lsn, op.slot_no);
        match write(shared, op).await {
            Ok(()) if shared.sync == SyncMode::Dsync => shared.written(lsn),
            Ok(()) => shared.unsynced.borrow_mut().push((lsn, slot_no)),
            Err(error) => shared.poison(LogError::Write { kind: error.kind }),
        }
    }
}

/// The next frame; none: the log is gone. Polled at each wake of the writer.
async fn next<E: Env>(shared: &Shared<E>) -> Option<WriteOp> {
    poll_fn(|_| {
        let (now, wall) = (shared.env.now(), shared.env.wall());
        let op = shared.stream.borrow_mut().next_write(now, wall);
        match op {
            Some(op) => {
                shared.keeper.call();
                Poll::Ready(Some(op))
            },
            None if shared.stopped.get() => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await
}

pub(crate) async fn write<E: Env>(shared: &Shared<E>, op: WriteOp) -> Result<(), EnvError> {
    let file = shared.files.slot(op.slot_no).expect("a slot in use has a file");
    file.write_at(op.buf, op.at).await
}

/// One sync for all writes that completed before it.
async fn syncer<E: Env>(shared: &Shared<E>) {
    if shared.sync == SyncMode::Dsync {
        return;
    }
    let mut batch = Vec::new();
    loop {
        let goes_on = poll_fn(|_| {
            if !shared.unsynced.borrow().is_empty() {
                return Poll::Ready(true);
            }
            // Lanes may still have a write under way that wants a sync.
            let ends = shared.stopped.get() && shared.stream.borrow().in_flight() == 0;
            let poisoned = shared.stopped.get() && shared.stream.borrow().poisoned().is_some();
            if ends || poisoned { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        if !goes_on {
            return;
        }
        core::mem::swap(&mut batch, &mut shared.unsynced.borrow_mut());
        sync(shared, &mut batch).await;
        shared.writer.call();
    }
}

async fn sync<E: Env>(shared: &Shared<E>, batch: &mut Vec<(u64, u32)>) {
    let mut synced = None;
    for (_, slot_no) in batch.iter() {
        if synced == Some(*slot_no) {
            continue;
        }
        synced = Some(*slot_no);
        let file = shared.files.slot(*slot_no).expect("a slot in use has a file");
        if let Err(error) = file.sync().await {
            batch.clear();
            return shared.poison(LogError::Sync { kind: error.kind });
        }
    }
    for (lsn, _) in batch.drain(..) {
        shared.written(lsn);
    }
}

/// The timer of the stream. While something is due it looks every 20 ms at most.
async fn keeper<E: Env>(shared: Ref<E>) {
    while !shared.stopped.get() {
        let now = shared.env.now();
        let (cover, oldest) = {
            let stream = shared.stream.borrow();
            (stream.cover_at(), stream.oldest_write())
        };
        let stalled = oldest.is_some_and(|issued| now.since(issued) > STALL);
        if shared.stalled.replace(stalled) != stalled {
            shared.signal.ring();
        }
        if cover.is_some_and(|at| at <= now) {
            shared.writer.call();
        }
        let step = now.after(Nanos::from_millis(20));
        match cover.filter(|at| *at > now).or_else(|| oldest.map(|_| step)) {
            Some(at) => shared.env.sleep_until(at.min(step)).await,
            None => shared.keeper.wait().await,
        }
    }
    shared.leave();
}

/// The first wait after a slot that could not be made ready: another may do, or the fault was
/// short, and writes may wait for it.
const RETRY_FIRST: Nanos = Nanos::from_millis(10);
/// The wait doubles so often at most.
const RETRY_DOUBLINGS: u32 = 20;

/// Keeps slots ready.
async fn preparer<E: Env>(shared: Ref<E>) {
    let mut failures = 0;
    while !shared.stopped.get() {
        quieten(&shared).await;
        let prepare = shared.stream.borrow_mut().slots.poll_prepare();
        if let Some((slot_no, _)) = prepare {
            let done = shared.prepare(slot_no).await;
            shared.stream.borrow_mut().slots.handle_prepared(slot_no, done.is_ok());
            shared.writer.call();
            pause_after(&shared, &mut failures, done.is_err()).await;
            continue;
        }
        let grow = shared.stream.borrow_mut().poll_grow();
        if let Some(slot_no) = grow {
            let done = self::grow(&shared, slot_no).await;
            shared.stream.borrow_mut().slots.handle_grown(done.is_ok());
            pause_after(&shared, &mut failures, done.is_err()).await;
            shared.stream.borrow_mut().slots.grow_blocked = false;
            continue;
        }
        let quiet_at = shared.stream.borrow().slots.quiet_at;
        match quiet_at {
            Some(at) => called_or(&shared, at).await,
            None => shared.preparer.wait().await,
        }
    }
    shared.leave();
}

/// Once no write of an earlier life is on its way any more that goes on record. A superblock that
/// cannot be written costs the next boot a wait.
async fn quieten<E: Env>(shared: &Shared<E>) {
    let over = {
        let slots = &mut shared.stream.borrow_mut().slots;
        let before = slots.quiet_at.is_some();
        slots.quieten(shared.env.now());
        before && slots.quiet_at.is_none()
    };
    if over {
        drop(shared.write_super(|_| ()).await);
    }
}

/// Waits until the preparer is called, at most until `at`.
async fn called_or<E: Env>(shared: &Shared<E>, at: Nanos) {
    let mut timer = pin!(shared.env.sleep_until(at));
    let mut call = pin!(shared.preparer.wait());
    poll_fn(|cx| {
        if call.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { timer.as_mut().poll(cx) }
    })
    .await;
}

/// Makes one more slot and counts it in the superblock. A write that failed may be on the disk all
/// the same: what was made for it is not made again, since a slot that is counted and not there
/// looks lost.
pub(crate) async fn grow<E: Env>(shared: &Shared<E>, slot_no: u32) -> Result<(), EnvError> {
    if shared.uncounted.get() != Some(slot_no) {
        shared.make_slot(slot_no).await?;
        shared.uncounted.set(Some(slot_no));
    }
    shared.write_super(|superblock| superblock.slot_count = slot_no + 1).await
}

/// After a failure waits before the next attempt, longer each time, or until the log is gone.
/// What the log had goes on.
async fn pause_after<E: Env>(shared: &Shared<E>, failures: &mut u32, failed: bool) {
    if !failed {
        *failures = 0;
        return;
    }
    let longest = shared.stream.borrow().options.retry_after;
    let wait = Nanos(RETRY_FIRST.0 << (*failures).min(RETRY_DOUBLINGS)).min(longest);
    *failures += 1;
    let until = shared.env.now().after(wait);
    while !shared.stopped.get() && shared.env.now() < until {
        called_or(shared, until).await;
    }
}
