//! The production machine: cores, tasks, wakes, sockets.
#![cfg(feature = "glommio")]
#![expect(closure_returning_async_block, reason = "a core's main is a closure giving a future")]

#[path = "shared/node.rs"]
mod node;

use core::cell::Cell;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::glommio::GlommioFactory;
use bowline_env::{
    BLOCK, Bell, ClaimError, Class, Dir, Env, EnvError, EnvFactory, Kind, Listener, Mode, Name,
    Nanos, Stream, UringState,
};
use node::{directory, kind, on_core, options};

/// Rings for `wake`; every 500th time waits for the answer, so that the core parks at all depths.
fn ring(bell: &Bell, wake: u64, rung: &AtomicU64, seen: &AtomicU64) {
    rung.store(wake, Ordering::Release);
    bell.ring();
    while wake.is_multiple_of(500) && seen.load(Ordering::Acquire) < wake {
        std::thread::yield_now();
    }
}

/// Trap 2: glommio parks with a ready task when its preemption timer fires in the wrong moment.
#[test]
fn of_sixty_thousand_wakes_none_is_lost() {
    const WAKES: u64 = 60_000;
    on_core(|env| async move {
        let (rung, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let bell = env.bell();
        let (ringer, rings, answers) = (bell.clone(), Arc::clone(&rung), Arc::clone(&seen));
        let thread = std::thread::Builder::new()
            .spawn(move || (1..=WAKES).for_each(|wake| ring(&ringer, wake, &rings, &answers)));
        let mut last = 0;
        while last < WAKES {
            bell.park(|| rung.load(Ordering::Acquire) == last).await;
            last = rung.load(Ordering::Acquire);
            seen.store(last, Ordering::Release);
        }
        thread.unwrap().join().unwrap();
    });
}

#[test]
fn breathing_takes_as_many_breaths_as_asked() {
    on_core(|env| async move {
        let other = Rc::new(Cell::new(0_u32));
        let count = Rc::clone(&other);
        let (env2, stop) = (env.clone(), Rc::new(Cell::new(false)));
        let stopped = Rc::clone(&stop);
        let task = env.spawn(Class::Core, async move {
            while !stopped.get() {
                count.set(count.get() + 1);
                env2.breathe().await;
            }
        });
        for _ in 0..1_000 {
            env.breathe().await;
        }
        stop.set(true);
        task.await;
        assert!(other.get() > 100, "both breathe: {}", other.get());
    });
}

/// Trap 11: glommio counts a task's wakers in 16 bits.
#[test]
fn forty_thousand_tasks_wait_at_once() {
    on_core(|env| async move {
        let at = env.now().after(Nanos::from_millis(50));
        let tasks: Vec<_> =
            (0..40_000).map(|_| env.spawn(Class::Core, env.sleep_until(at))).collect();
        for task in tasks {
            task.await;
        }
        assert!(env.now() >= at, "none wakes early");
    });
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("the process sees itself").count()
}

/// Trap 12: each executor leaks one event descriptor, and nothing else is leaked. Run in a process
/// of its own, where no other test opens files.
#[test]
fn restarts_leak_one_descriptor_each() {
    const LIVES: usize = 20;
    const CHILD: &str = "BOWLINE_TEST_RESTARTS";
    if std::env::var_os(CHILD).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "restarts_leak_one_descriptor_each", "--nocapture"])
            .env(CHILD, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    on_core(|_env| async {});
    let before = open_files();
    for _ in 0..LIVES {
        on_core(|env| async move {
            let file = env.dir().create(&Name::of("file"), Mode::Write).await.unwrap();
            drop(file);
        });
    }
    let grown = open_files() - before;
    // A helper thread ends a little after its node.
    assert!(grown <= LIVES + 6, "{grown} descriptors in {LIVES} lives");
}

/// Trap 16.
#[test]
fn a_port_clash_is_an_error() {
    on_core(|env| async move {
        let first = env.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(kind(env.listen(first.local())), Kind::Exists);
    });
}

#[test]
fn a_claim_is_exclusive_and_names_its_holder() {
    let dir = directory();
    let path = dir.path().join("data");
    let factory = GlommioFactory::new(&path);
    let claim = factory.claim().unwrap();
    match GlommioFactory::new(&path).claim() {
        Err(ClaimError::InUse { holder: Some((pid, command)) }) => {
            assert_eq!(pid, std::process::id());
            assert!(command.contains("machine"), "{command}");
        },
        other => panic!("{other:?}"),
    }
    drop(claim);
    drop(factory.claim().unwrap());
    let file = path.join("LOCK");
    assert_eq!(kind_of_claim(&file), ClaimError::NotADirectory);
}

fn kind_of_claim(path: &std::path::Path) -> ClaimError {
    GlommioFactory::new(path).claim().expect_err("a file is no directory")
}

#[test]
fn a_panic_of_a_core_is_told_at_join() {
    let dir = directory();
    let factory = GlommioFactory::new(dir.path());
    let core = factory.spawn_core(options(&factory), |_env| async { panic!("on purpose") });
    let failure = core.expect("the core starts").join().expect_err("it panicked");
    assert_eq!(failure.message, "on purpose");
    let core = factory.spawn_core(options(&factory), |env| async move {
        env.spawn(Class::Background, async { panic!("in a task") }).await;
    });
    assert_eq!(core.expect("it starts").join().expect_err("it panicked").message, "in a task");
}

#[test]
fn a_missing_directory_is_told_at_start() {
    let dir = directory();
    let factory = GlommioFactory::new(dir.path().join("none"));
    let mut options = options(&factory);
    assert_eq!(kind(factory.spawn_core(options.clone(), |_| async {})), Kind::NotFound);
    options.cpu = 4_000;
    let factory = GlommioFactory::new(dir.path());
    assert_eq!(kind(factory.spawn_core(options, |_| async {})), Kind::NotFound);
}

#[test]
fn offload_is_bounded_and_in_order() {
    on_core(|env| async move {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let first = env.offload(move || held.recv().is_ok());
        let rest: Vec<_> = (0..100).map(|job| env.offload(move || job)).collect();
        hold.send(()).unwrap();
        assert_eq!(first.await, Ok(true));
        for (job, answer) in rest.into_iter().enumerate() {
            let answer = answer.await;
            if job < 63 {
                assert_eq!(answer, Ok(job));
            } else {
                assert_eq!(kind(answer), Kind::Limit);
            }
        }
        assert_eq!(env.offload(|| 7).await, Ok(7));
    });
}

#[test]
fn the_pool_has_a_bound_and_gives_zeros() {
    on_core(|env| async move {
        let mut kept = Vec::new();
        let error = loop {
            match env.buffer(16 << 20) {
                Ok(buf) => kept.push(buf),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind, kept.len()), (Kind::NoMemory, 16));
        kept.clear();
        for _ in 0..3 {
            let mut buf = env.buffer(1).unwrap();
            assert_eq!(buf.rest_mut(), [0; BLOCK]);
            buf.rest_mut().fill(1);
        }
    });
}

#[test]
fn clocks_run_and_chance_is_chance() {
    on_core(|env| async move {
        let begun = env.now();
        env.sleep_until(begun.after(Nanos::from_millis(3))).await;
        assert!(env.now().since(begun) >= Nanos::from_millis(3));
        assert!(env.wall().0 > 1_600_000_000_000);
        let (mut one, mut two) = ([0; 300], [0; 300]);
        env.fill_random(&mut one);
        env.fill_random(&mut two);
        assert_ne!(one, two);
        env.yield_now().await;
    });
}

#[test]
fn a_job_is_driven_off_the_cores() {
    let (told, tell) = std::sync::mpsc::channel();
    let mut polls = 0;
    let job = poll_fn(move |cx| {
        polls += 1;
        cx.waker().wake_by_ref();
        if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
    });
    let factory = GlommioFactory::new("unused");
    factory
        .drive("driver", async move {
            job.await;
            told.send(std::thread::current().name().map(str::to_owned)).unwrap();
        })
        .unwrap();
    assert_eq!(tell.recv().unwrap().as_deref(), Some("driver"));
}

#[test]
fn the_facts_of_this_machine_are_plausible() {
    let dir = directory();
    let facts = GlommioFactory::new(dir.path()).facts();
    assert_eq!(facts.io_uring, UringState::Ready);
    assert!(!facts.cpus.is_empty() && facts.memory > 1 << 20);
    assert!(facts.dir.exists && facts.dir.empty && !facts.dir.founded);
    assert_eq!(facts.dir.writable, Ok(()));
    assert!(facts.dir.direct_io && facts.dir.align >= 512 && facts.dir.free > 0);
    assert!(facts.kernel.starts_with(|digit: char| digit.is_ascii_digit()));
}

async fn read_some(stream: &mut impl Stream, into: &mut [u8]) -> Result<usize, EnvError> {
    poll_fn(|cx| stream.poll_read(cx, into)).await
}

async fn write_all(stream: &mut impl Stream, bytes: &[u8]) {
    let mut sent = 0;
    while sent < bytes.len() {
        let (a, b) = bytes[sent..].split_at((bytes.len() - sent) / 2);
        let parts = [IoSlice::new(a), IoSlice::new(&[]), IoSlice::new(b)];
        sent += poll_fn(|cx| stream.poll_write(cx, &parts)).await.expect("the peer reads");
    }
}

async fn read_all(stream: &mut impl Stream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 10_000]);
    loop {
        match read_some(stream, &mut piece).await.expect("the peer lives") {
            0 => return all,
            len => all.extend_from_slice(&piece[..len]),
        }
    }
}

#[test]
fn a_stream_carries_all_bytes_and_a_moved_one_too() {
    on_core(|env| async move {
        let listener = env.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut near = env.connect(listener.local(), Nanos::SECOND).await.unwrap();
        let mut far = listener.accept().await.unwrap();
        assert_eq!(near.peer(), listener.local());
        let sent: Vec<u8> = (0..3 << 20).map(|at| u8::try_from(at % 253).unwrap()).collect();
        let expected = sent.clone();
        let writer = env.spawn(Class::Core, async move {
            write_all(&mut near, &sent).await;
            near.shutdown_write().unwrap();
            read_all(&mut near).await
        });
        let mut head = [0; 1000];
        let read = read_some(&mut far, &mut head).await.unwrap();
        let mut far = env.adopt(far.detach()).unwrap();
        let rest = read_all(&mut far).await;
        assert_eq!([&head[..read], &rest].concat(), expected);
        write_all(&mut far, b"answer").await;
        drop(far);
        assert_eq!(writer.await, b"answer");
    });
}

#[test]
fn nobody_at_a_port_is_refused() {
    on_core(|env| async move {
        let free = env.listen("127.0.0.1:0".parse().unwrap()).unwrap().local();
        assert_eq!(kind(env.connect(free, Nanos::SECOND).await.map(drop)), Kind::Refused);
    });
}
