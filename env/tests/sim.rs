//! The simulator's own promises.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{IoSlice, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::sim::{Crash, Fault, Profile, SimEnv, SimStream, Why, World};
use bowline_env::{
    BLOCK, Buf, ClaimError, Class, CoreNo, CoreOptions, Dir, Env, EnvError, EnvFactory, Fact, File,
    Kind, Listener, Mode, Name, Nanos, SharedBuf, Stream,
};

const MINUTE: Nanos = Nanos(60_000_000_000);

fn block<E: Env>(env: &E, byte: u8) -> SharedBuf {
    let mut buf = env.buffer(BLOCK).unwrap_or_else(|_| Buf::heap(BLOCK));
    buf.rest_mut().fill(byte);
    buf.fill(BLOCK);
    buf.freeze(BLOCK)
}

/// Writes, syncs, sleeps, draws and states facts.
async fn work(env: SimEnv, name: Name) -> Result<(), EnvError> {
    let mut chance = [0; 4];
    env.fill_random(&mut chance);
    env.dir().create_filled(&name, 64 * 4096, 0).await?;
    let file = env.dir().open(&name, Mode::Write).await?;
    for turn in 0..16_u8 {
        let writer = file.clone();
        let bytes = block(&env, turn.wrapping_add(chance[0]));
        let write = writer.write_at(bytes, u64::from(turn) * 4096);
        let write = env.spawn(Class::Core, write);
        env.yield_now().await;
        let wrote = write.await.is_ok();
        let synced = file.sync().await.is_ok();
        let (kind, index) = (u32::from(wrote && synced), u64::from(turn));
        env.note(Fact { kind, index, ..Fact::default() });
        env.sleep_until(env.now().after(Nanos::MILLI)).await;
        env.breathe().await;
    }
    Ok(())
}

/// Work of every kind on two nodes that crash: the hash, the steps, and what one disk holds.
fn busy(seed: u64, profile: Profile) -> (u64, u64, Vec<u8>) {
    let world = World::new(seed, profile);
    for node in 1..=2 {
        for core in 0..2 {
            let name = Name::of(&format!("log-{core}"));
            drop(world.spawn_on(node, CoreNo(core), move |env| work(env, name)));
        }
    }
    world.run_for(Nanos::from_millis(12));
    world.crash(1, Crash::Power);
    world.crash(2, Crash::Kill);
    world.run_for(MINUTE);
    let bytes = world.disk(1).durable(&Name::of("log-0")).unwrap_or_default();
    (world.trace_hash(), world.steps(), bytes)
}

#[test]
fn same_seed_same_hash() {
    for seed in 0..20 {
        let first = busy(seed, Profile::swarm());
        assert!(first.1 > 100, "{} steps", first.1);
        assert_eq!(first, busy(seed, Profile::swarm()), "seed {seed}");
        assert_ne!(first.0, busy(seed + 1_000, Profile::swarm()).0, "seed {seed}");
    }
}

#[test]
fn the_hashes_of_twenty_seeds_are_told() {
    let mut out = std::io::stdout();
    for seed in 0..20 {
        let hash = hash(seed, Profile::swarm());
        writeln!(out, "hash of seed {seed}: {hash:016x}").unwrap();
    }
}

#[test]
fn two_processes_have_the_same_hashes() {
    let hashes = || {
        let test = ["--exact", "the_hashes_of_twenty_seeds_are_told", "--nocapture"];
        let binary = std::env::current_exe().unwrap();
        let output = std::process::Command::new(binary).args(test).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains("hash of")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = hashes();
    assert_eq!(first.len(), 20);
    assert_eq!(first, hashes());
}

#[test]
fn stall_is_reported() {
    let world = World::new(1, Profile::calm());
    let stalled = world.run_on(1, MINUTE, async |env| env.bell().park(|| true).await);
    // A bell may wake its core for no reason only once it was rung.
    let stalled = stalled.unwrap_err();
    assert_eq!(stalled.why, Why::Idle);
    assert_eq!(stalled.waiting.len(), 1, "{stalled}");
    assert_eq!(stalled.waiting[0], "node 1 life 0 core 0 waits for a wake");
}

/// The hash of a run, and what it left.
fn hash(seed: u64, profile: Profile) -> u64 {
    busy(seed, profile).0
}

#[test]
fn classes_do_not_shift_each_other() {
    // The work has no sockets, reads and offloads: these classes never strike, and without them
    // everything else is as it was.
    let idle = [Fault::NetReset, Fault::NetSlices, Fault::NoOffload, Fault::StaleRead];
    // These strike, and the run is another one.
    let busy = [Fault::CpuStall, Fault::LateTimer, Fault::Spike, Fault::WriteError];
    let mut shifted = 0;
    for seed in 0..20 {
        let all = hash(seed, Profile::swarm());
        for class in idle {
            assert_eq!(all, hash(seed, Profile::swarm().without(class)), "seed {seed} {class:?}");
        }
        for class in busy {
            shifted += usize::from(all != hash(seed, Profile::swarm().without(class)));
        }
    }
    assert!(shifted > 3, "{shifted} of 80");
}

#[test]
fn tests_draw_without_shifting_the_run() {
    let run = |draws: u64| {
        let world = World::new(5, Profile::swarm());
        for _ in 0..draws {
            world.rng().bits();
        }
        let sleep = async |env: SimEnv| env.sleep_until(env.now().after(Nanos::MILLI)).await;
        world.run_on(1, MINUTE, sleep).unwrap();
        world.trace_hash()
    };
    assert_eq!(run(0), run(9));
}

#[test]
fn a_time_that_is_over_is_reported() {
    let world = World::new(1, Profile::calm());
    let task = world.spawn_on(1, CoreNo(3), async |env: SimEnv| {
        loop {
            env.sleep_until(env.now().after(Nanos::SECOND)).await;
        }
    });
    let stalled = world.run_until(|| task.is_done(), MINUTE).unwrap_err();
    assert_eq!((stalled.why, stalled.at), (Why::Limit, MINUTE));
    assert_eq!(stalled.waiting, ["node 1 life 0 core 3 waits for a time"]);
}

fn options() -> CoreOptions {
    CoreOptions { core: CoreNo(0), cpu: 0, cores: 1, direct_io: true }
}

#[test]
fn a_handle_of_an_earlier_life_does_nothing() {
    let world = World::new(1, Profile::calm());
    let kept: Rc<RefCell<Option<SimEnv>>> = Rc::default();
    let (its, turns) = (Rc::clone(&kept), Rc::new(Cell::new(0)));
    let counts = Rc::clone(&turns);
    drop(world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        *its.borrow_mut() = Some(env.clone());
        loop {
            counts.set(counts.get() + 1);
            env.sleep_until(env.now().after(Nanos::MILLI)).await;
        }
    }));
    world.run_for(Nanos::from_millis(10));
    assert!(turns.get() > 5 && world.alive(1));
    world.crash(1, Crash::Kill);
    let (turned, env) = (turns.get(), kept.take().unwrap());
    let client = world.spawn_client(async move {
        assert_eq!(env.listen("127.0.0.1:0".parse().unwrap()).unwrap_err().kind, Kind::Closed);
        let ran = Rc::new(Cell::new(false));
        let its = Rc::clone(&ran);
        drop(env.spawn(Class::Core, async move { its.set(true) }));
        env.note(Fact { kind: 1, ..Fact::default() });
        drop(env.offload(|| unreachable!("the node is gone")));
        let before = env.now();
        let writing = env.dir().write_whole(&Name::of("x"), (&b"x"[..]).into());
        let sleeping = env.sleep_until(Nanos(0));
        let (mut writing, mut sleeping) = (Box::pin(writing), Box::pin(sleeping));
        poll_fn(|cx| {
            assert!(writing.as_mut().poll(cx).is_pending());
            assert!(sleeping.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        assert_eq!(env.now(), before);
        ran
    });
    world.run_for(Nanos::SECOND);
    assert!(!client.take().unwrap().get());
    assert_eq!((turns.get(), world.alive(1)), (turned, false));
    assert_eq!((world.facts().len(), world.disk(1).files().len()), (0, 0));
}

#[test]
fn a_crash_frees_the_claim_and_an_old_claim_frees_nothing() {
    let world = World::new(1, Profile::calm());
    let node = world.node(1);
    assert!(node.facts().dir.empty);
    let old = node.claim().unwrap();
    assert!(matches!(node.claim(), Err(ClaimError::InUse { holder: Some(_) })));
    world.crash(1, Crash::Power);
    let new = node.claim().unwrap();
    drop(old);
    assert!(node.claim().is_err(), "the new claim holds");
    drop(new);
    drop(node.claim().unwrap());
}

#[test]
fn what_a_node_drives_ends_with_it_and_clients_go_on() {
    let world = World::new(1, Profile::calm());
    let driven = Arc::new(());
    let its = Arc::clone(&driven);
    let pending = async move {
        std::future::pending::<()>().await;
        drop(its);
    };
    world.node(1).drive("test", pending).unwrap();
    let handle = world.clone();
    let client = world.spawn_client(async move {
        handle.sleep(Nanos::SECOND).await;
        handle.crash(1, Crash::Kill);
        handle.sleep(Nanos::SECOND).await;
        handle.now()
    });
    world.run_for(Nanos::MILLI);
    assert!(Arc::strong_count(&driven) == 2 && !world.clients_done());
    world.run_until(|| world.clients_done(), MINUTE).unwrap();
    assert_eq!(Arc::strong_count(&driven), 1);
    assert!(client.take().unwrap() >= Nanos(2_000_000_000));
}

#[test]
fn a_panic_ends_the_step_or_if_tolerated_its_core() {
    let start = |world: &World| {
        let core = world.node(1).spawn_core(options(), async |env: SimEnv| {
            drop(env.spawn(Class::Core, async { panic!("a bug") }));
            std::future::pending::<()>().await;
        });
        core.unwrap()
    };
    let world = World::new(1, Profile::calm());
    world.tolerate_panics(true);
    let core = start(&world);
    world.run_for(Nanos::SECOND);
    assert_eq!((world.alive(1), core.join().unwrap_err().message.as_str()), (false, "a bug"));
    let world = World::new(1, Profile::calm());
    drop(start(&world));
    let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.run_for(Nanos::SECOND);
    }));
    assert_eq!(stepped.unwrap_err().downcast_ref::<&str>(), Some(&"a bug"));
}

#[test]
#[should_panic(expected = "a write to log was dropped in flight (env I5)")]
fn a_write_that_is_dropped_in_flight_is_a_bug() {
    let world = World::new(1, Profile::calm());
    let dropping = async |env: SimEnv| {
        env.dir().create_filled(&Name::of("log"), 4096, 0).await.unwrap();
        let file = env.dir().open(&Name::of("log"), Mode::Write).await.unwrap();
        let mut write = Box::pin(file.write_at(block(&env, 1), 0));
        poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_ready())).await;
        drop(write);
        env.breathe().await;
    };
    world.run_on(1, MINUTE, dropping).unwrap();
}

#[test]
fn dropping_a_world_drops_its_tasks() {
    let alive = Rc::new(());
    let world = World::new(1, Profile::calm());
    let (its, handle) = (Rc::clone(&alive), world.clone());
    drop(world.spawn_client(async move {
        handle.sleep(MINUTE).await;
        drop(its);
    }));
    let its = Rc::clone(&alive);
    drop(world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        env.sleep_until(MINUTE).await;
        drop(its);
    }));
    world.run_for(Nanos::MILLI);
    assert_eq!(Rc::strong_count(&alive), 3);
    drop(world);
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn nothing_of_a_world_outlives_it() {
    let world = World::new(1, Profile::swarm());
    let node = world.node(1);
    let (disk, handle) = (world.disk(1), world.clone());
    drop(world.spawn_on(1, CoreNo(0), |env| work(env, Name::of("log-0"))));
    let driving = std::future::pending::<()>();
    node.drive("test", driving).unwrap();
    drop(world.spawn_client(async move {
        handle.sleep(MINUTE).await;
        drop(disk);
    }));
    world.run_for(Nanos::from_millis(3));
    assert!(node.claim().is_ok());
    drop(world);
    // The factory finds the world as long as anything holds it.
    let claimed = node.claim().unwrap_err();
    assert_eq!(claimed, ClaimError::NotADirectory);
    let started = node.spawn_core(options(), async |_env| {}).unwrap_err();
    assert_eq!(started.kind, Kind::Closed);
}

#[test]
fn a_world_may_be_dropped_by_its_own_client() {
    let alive = Rc::new(());
    let world = World::new(1, Profile::calm());
    let (handle, its) = (world.clone(), Rc::clone(&alive));
    drop(world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        env.sleep_until(MINUTE).await;
        drop(its);
    }));
    let client = handle.spawn_client(async move { drop(world) });
    handle.run_for(Nanos::SECOND);
    assert_eq!((Rc::strong_count(&alive), handle.alive(1)), (1, false));
    assert!(client.is_done());
}

#[test]
fn a_loop_that_waits_for_the_clock_ends() {
    let world = World::new(1, Profile::calm());
    let spin = async |env: SimEnv| {
        let until = env.now().after(Nanos::from_micros(20));
        while env.now() < until && !env.io_ready() {}
        env.now() >= until
    };
    assert!(world.run_on(1, MINUTE, spin).unwrap());
}

#[test]
fn clocks_go_as_they_are_told() {
    let world = World::new(1, Profile::calm());
    let watch = async |env: SimEnv| {
        let mut seen = Vec::new();
        for _ in 0..400 {
            seen.push(env.now());
            env.sleep_until(env.now().after(Nanos::from_millis(10))).await;
        }
        seen
    };
    let (one, two) = (world.spawn_on(1, CoreNo(0), watch), world.spawn_on(2, CoreNo(0), watch));
    world.clock(2).set_rate(1_000);
    world.run_for(Nanos::SECOND);
    assert_eq!(world.clock(1).boot(), Nanos::SECOND);
    assert_eq!(world.clock(2).boot(), Nanos(1_001_000_000));
    world.clock(2).set_rate(0);
    world.clock(1).suspend(Nanos(500_000_000));
    world.clock(1).pause(Nanos(200_000_000));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.clock(1).boot(), Nanos(2_500_000_000));
    world.clock(1).hide_pause(Nanos(300_000_000));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.clock(1).boot(), Nanos(3_200_000_000));
    world.run_until(|| one.is_done() && two.is_done(), MINUTE).unwrap();
    let seen = one.take().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "no clock goes back");
    let gaps: Vec<_> = seen.windows(2).map(|pair| pair[1].since(pair[0]).0).collect();
    // The suspend and the pause follow each other; the hidden pause shows nowhere.
    let long: Vec<_> = gaps.iter().filter(|&&gap| gap > 50_000_000).collect();
    assert_eq!(long.len(), 1, "{long:?}");
    assert!((690_000_000..720_000_000).contains(long[0]), "{long:?}");
}

#[test]
fn a_boot_clock_begins_anew_after_power_loss() {
    let world = World::new(1, Profile::swarm());
    let now = async |env: SimEnv| env.now();
    let first = world.run_on(1, MINUTE, now).unwrap();
    world.crash(1, Crash::Kill);
    let killed = world.run_on(1, MINUTE, now).unwrap();
    assert!((first..first.after(Nanos::SECOND)).contains(&killed));
    world.run_for(Nanos(3_600_000_000_000));
    world.crash(1, Crash::Power);
    assert!(world.run_on(1, MINUTE, now).unwrap() < Nanos(200_000_000_000));
}

async fn talk(mut stream: SimStream) -> Result<usize, EnvError> {
    let mut into = [0; 64];
    poll_fn(|cx| stream.poll_read(cx, &mut into)).await
}

/// Node 1 listens and holds what it accepts; node 2 calls, sends a little and waits.
fn call(world: &World, how: Option<Crash>) -> Result<usize, EnvError> {
    let at = SocketAddr::new(World::addr(1), 7_000);
    drop(world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        let listener = env.listen("0.0.0.0:7000".parse().unwrap()).unwrap();
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await);
        }
    }));
    let caller = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        env.sleep_until(Nanos::MILLI).await;
        let mut stream = env.connect(at, Nanos::SECOND).await?;
        poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(b"hello")])).await?;
        talk(stream).await
    });
    world.run_for(Nanos::SECOND);
    if let Some(how) = how {
        world.crash(1, how);
    }
    world.run_until(|| caller.is_done(), MINUTE).unwrap();
    caller.take().unwrap()
}

#[test]
fn a_crash_ends_connections_at_once_or_after_a_silence() {
    let world = World::new(1, Profile::calm());
    assert_eq!(call(&world, Some(Crash::Kill)).unwrap_err().kind, Kind::Reset);
    assert!(world.now() < Nanos(2_000_000_000));
    let world = World::new(1, Profile::calm());
    assert_eq!(call(&world, Some(Crash::Power)).unwrap_err().kind, Kind::TimedOut);
    assert!(world.now() > Nanos(15_000_000_000));
}

#[test]
fn a_node_without_power_does_not_answer_and_one_without_a_process_refuses() {
    for (how, kind) in [(Crash::Power, Kind::TimedOut), (Crash::Kill, Kind::Refused)] {
        let world = World::new(1, Profile::calm());
        world.crash(1, how);
        let at = SocketAddr::new(World::addr(1), 7_000);
        let connect = async move |env: SimEnv| env.connect(at, Nanos::SECOND).await.map(|_| ());
        assert_eq!(world.run_on(2, MINUTE, connect).unwrap().unwrap_err().kind, kind);
    }
}

#[test]
fn facts_are_kept_with_their_place_and_time() {
    let world = World::new(1, Profile::calm());
    let fact = Fact { kind: 3, shard: 4, term: 5, index: 6, aux: 7 };
    let noting = async move |env: SimEnv| {
        env.sleep_until(Nanos::SECOND).await;
        env.note(fact);
    };
    world.run_on(9, MINUTE, noting).unwrap();
    let noted = world.facts();
    assert_eq!(noted.len(), 1);
    assert_eq!((noted[0].node, noted[0].core, noted[0].fact), (9, CoreNo(0), fact));
    assert!(noted[0].at >= Nanos::SECOND);
    assert!(world.facts().is_empty());
}

#[test]
fn a_trace_has_a_line_per_operation() {
    let world = World::new(1, Profile::calm());
    world.set_trace(true);
    let sync = async |env: SimEnv| env.dir().sync(None).await.unwrap();
    world.run_on(1, MINUTE, sync).unwrap();
    let text = world.take_trace().join("\n");
    assert!(text.contains("node 1 life 0 core 0 starts"), "{text}");
    assert!(text.contains("node 1 disk SyncDir") && text.contains("disk done Sync None"), "{text}");
}
