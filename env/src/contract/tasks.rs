//! Time, tasks, turns, the helper, bells, buffers, chance.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use super::{block_at, filled, kind, options, poll_once};
use crate::{BLOCK, Bell, Class, CoreThread, Dir, Env, EnvFactory, File, Kind, Mode, Name, Nanos};

pub(super) async fn time_does_not_go_back<E: Env>(env: E) {
    let mut last = env.now();
    for _ in 0..100 {
        env.yield_now().await;
        let now = env.now();
        assert!(last <= now, "the clock of a core does not go back");
        last = now;
    }
    assert!(env.wall().0 > 1_600_000_000_000, "the wall clock counts from 1970");
}

pub(super) async fn a_sleep_is_never_early<E: Env>(env: E) {
    for micros in [0, 1, 100, 3_000] {
        let until = env.now().after(Nanos::from_micros(micros));
        env.sleep_until(until).await;
        assert!(env.now() >= until, "a sleep of {micros} us ended early");
    }
    env.sleep_until(Nanos(0)).await;
}

pub(super) async fn timers_end_in_their_order<E: Env>(env: E) {
    let order = Rc::new(RefCell::new(Vec::new()));
    let begun = env.now();
    let sleeper = |millis| {
        let (env, order) = (env.clone(), Rc::clone(&order));
        env.clone().spawn(Class::Core, async move {
            env.sleep_until(begun.after(Nanos::from_millis(millis))).await;
            order.borrow_mut().push(millis);
        })
    };
    let sleepers: Vec<_> = [60, 20, 80, 40].into_iter().map(sleeper).collect();
    for sleeper in sleepers {
        sleeper.await;
    }
    assert_eq!(*order.borrow(), [20, 40, 60, 80]);
}

pub(super) async fn a_detached_task_runs_to_its_end<E: Env>(env: E) {
    let done = Rc::new(Cell::new(false));
    let (its, sleeper) = (Rc::clone(&done), env.clone());
    drop(env.spawn(Class::Core, async move {
        sleeper.sleep_until(sleeper.now().after(Nanos::MILLI)).await;
        its.set(true);
    }));
    let value = env.spawn(Class::Background, async { 7 }).await;
    assert_eq!(value, 7);
    until(&env, || done.get()).await;
}

/// Waits for something that other tasks do, at most ten seconds.
async fn until<E: Env>(env: &E, done: impl Fn() -> bool) {
    let end = env.now().after(Nanos(10_000_000_000));
    while !done() {
        assert!(env.now() < end, "it happens in time");
        env.sleep_until(env.now().after(Nanos::MILLI)).await;
    }
}

pub(super) async fn yielding_lets_ready_tasks_run_first<E: Env>(env: E) {
    for _ in 0..20 {
        let ran = Rc::new(Cell::new(0));
        for _ in 0..5 {
            let ran = Rc::clone(&ran);
            drop(env.spawn(Class::Core, async move { ran.set(ran.get() + 1) }));
        }
        // This task's own class is the one it was started in.
        let (env, seen) = (env.clone(), Rc::clone(&ran));
        let yielder = env.clone().spawn(Class::Core, async move {
            env.yield_now().await;
            seen.get()
        });
        assert_eq!(yielder.await, 5, "five tasks were ready");
    }
}

pub(super) async fn breathing_sees_completions<E: Env>(env: E) {
    let name = Name::of("tasks-breathe");
    env.dir().create_filled(&name, block_at(1), 0).await.expect("there is room");
    let file = env.dir().open(&name, Mode::Write).await.expect("the file is there");
    let done = Rc::new(Cell::new(false));
    let (its, writer, buf) = (Rc::clone(&done), file.clone(), filled(&env, 1, 1));
    let write = env.spawn(Class::Core, async move {
        let written = writer.write_at(buf, 0).await;
        its.set(true);
        written
    });
    let end = env.now().after(Nanos(10_000_000_000));
    while !done.get() {
        assert!(env.now() < end, "a core that only breathes sees its write complete");
        env.breathe().await;
    }
    write.await.expect("a write in the file");
    file.close().await.expect("a close");
}

pub(super) async fn background_work_is_not_starved<E: Env>(env: E) {
    let done = Rc::new(Cell::new(false));
    let its = Rc::clone(&done);
    let background = env.spawn(Class::Background, async move { its.set(true) });
    let end = env.now().after(Nanos(10_000_000_000));
    while !done.get() {
        assert!(env.now() < end, "background work gets its share of a busy core");
        env.breathe().await;
    }
    background.await;
}

pub(super) async fn offloaded_work_runs_in_order<E: Env>(env: E) {
    let next = Arc::new(AtomicU32::new(0));
    let job = |_| {
        let next = Arc::clone(&next);
        env.offload(move || next.fetch_add(1, Ordering::SeqCst))
    };
    let jobs: Vec<_> = (0..32).map(job).collect();
    for (no, job) in (0..).zip(jobs) {
        assert_eq!(job.await, Ok(no));
    }
}

pub(super) async fn the_offload_queue_is_bounded<E: Env>(env: E) {
    let open = Arc::new(AtomicBool::new(false));
    let dropped = Arc::new(AtomicU32::new(0));
    let job = |_| {
        let (open, counts) = (Arc::clone(&open), Arc::clone(&dropped));
        env.offload(move || {
            // On a helper thread this holds the queue until all are queued.
            let held = !open.load(Ordering::SeqCst);
            for _ in 0..10_000_000 {
                if !held || open.load(Ordering::SeqCst) {
                    break;
                }
                core::hint::spin_loop();
            }
            counts.fetch_add(1, Ordering::SeqCst);
        })
    };
    let jobs: Vec<_> = (0..100).map(job).collect();
    open.store(true, Ordering::SeqCst);
    let mut refused = 0;
    for job in jobs {
        match kind(job.await) {
            None => {},
            Some(kind) => {
                assert_eq!(kind, Kind::Limit);
                refused += 1;
            },
        }
    }
    assert!((30..=36).contains(&refused), "{refused} of 100 were refused, 64 may wait");
    assert_eq!(dropped.load(Ordering::SeqCst), 100 - refused, "a refused closure does not run");
}

pub(super) async fn an_offload_runs_though_nobody_waits<E: Env>(env: E) {
    let ran = Arc::new(AtomicBool::new(false));
    let its = Arc::clone(&ran);
    drop(env.offload(move || its.store(true, Ordering::SeqCst)));
    until(&env, || ran.load(Ordering::SeqCst)).await;
}

pub(super) async fn a_rung_bell_ends_the_parking<E: Env>(env: E) {
    let (bell, work) = (env.bell(), Rc::new(Cell::new(false)));
    let (rings, its, sleeper) = (bell.clone(), Rc::clone(&work), env.clone());
    let ringer = env.spawn(Class::Core, async move {
        sleeper.sleep_until(sleeper.now().after(Nanos::MILLI)).await;
        its.set(true);
        rings.ring();
    });
    while !work.get() {
        bell.park(|| !work.get()).await;
    }
    ringer.await;
}

pub(super) async fn a_bell_rung_before_parking_is_heard<E: Env>(env: E) {
    let bell = env.bell();
    bell.ring();
    let mut parked = core::pin::pin!(bell.park(|| false));
    assert!(poll_once(parked.as_mut()).is_ready(), "there is work: no parking");
}

pub(super) async fn a_buffer_is_zeroed_and_aligned<E: Env>(env: E) {
    for len in [0, 1, BLOCK, BLOCK + 1, 64 * 1024] {
        let mut buf = env.buffer(len).expect("the pool is not at its bound");
        assert_eq!(buf.capacity(), len.max(1).div_ceil(BLOCK) * BLOCK);
        assert!(buf.rest_mut().iter().all(|&byte| byte == 0));
        assert!(buf.rest_mut().as_ptr().addr().is_multiple_of(BLOCK));
        buf.rest_mut().fill(9);
    }
    // The pool gives memory again that was in use.
    let buffers: Vec<_> = (0..64).map(|_| env.buffer(BLOCK)).collect();
    assert!(
        buffers
            .into_iter()
            .all(|buf| { buf.is_ok_and(|mut buf| buf.rest_mut().iter().all(|&byte| byte == 0)) })
    );
}

pub(super) async fn chance_differs<E: Env>(env: E) {
    let draw = || {
        let mut bytes = [0; 37];
        env.fill_random(&mut bytes);
        bytes
    };
    assert_ne!(draw(), draw());
    assert!(draw().iter().any(|&byte| byte != 0));
}

/// Two cores: one parks, the other gives it work and rings.
pub(super) fn a_bell_wakes_another_core<F: EnvFactory>(
    factory: &F,
    finish: &mut impl FnMut(&str, Vec<CoreThread>),
) {
    const TURNS: u32 = 2_000;
    let (given, bell) = (Arc::new(AtomicU32::new(0)), Arc::new(OnceLock::<Bell>::new()));
    let (takes, its) = (Arc::clone(&given), Arc::clone(&bell));
    let taker = factory.spawn_core(options(factory, 0), async move |env: F::Env| {
        let bell = env.bell();
        assert!(its.set(bell.clone()).is_ok(), "one core has the bell");
        let mut taken = 0;
        while taken < TURNS {
            bell.park(|| takes.load(Ordering::SeqCst) == taken).await;
            taken = takes.load(Ordering::SeqCst);
        }
    });
    let giver = factory.spawn_core(options(factory, 1), async move |env: F::Env| {
        until(&env, || bell.get().is_some()).await;
        let bell = bell.get().expect("it was just seen");
        for turn in 0..TURNS {
            given.fetch_add(1, Ordering::SeqCst);
            bell.ring();
            if turn % 7 == 0 {
                env.breathe().await;
            }
        }
    });
    let cores = vec![taker.expect("a core starts"), giver.expect("a core starts")];
    finish("a_bell_wakes_another_core", cores);
}
