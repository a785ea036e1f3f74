//! The simulated disk: what survives, what is lost, and what goes wrong on demand.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::BTreeSet;

use bowline_env::sim::{Crash, Fault, Keep, Profile, SimEnv, World, WriteFault};
use bowline_env::{BLOCK, Buf, Class, CoreNo, Dir, Env, File, Kind, Mode, Name, Nanos, SharedBuf};
use bytes::Bytes;

const MINUTE: Nanos = Nanos(60_000_000_000);

fn blocks(count: usize, byte: u8) -> SharedBuf {
    let mut buf = Buf::heap(count * BLOCK);
    buf.rest_mut().fill(byte);
    buf.fill(count * BLOCK);
    buf.freeze(count * BLOCK)
}

fn at(block: u64) -> u64 {
    block * 4096
}

fn log() -> Name {
    Name::of("log")
}

/// Runs `main` on a core of node 1 to its end.
fn run<T: Future + 'static>(world: &World, main: impl FnOnce(SimEnv) -> T + 'static) -> T::Output
where
    T::Output: 'static,
{
    world.run_on(1, MINUTE, main).unwrap()
}

/// A file `log` of eight durable blocks of zeros, opened.
async fn open(env: &SimEnv, mode: Mode) -> <SimEnv as Env>::File {
    let dir = env.dir();
    if dir.open(&log(), Mode::Read).await.is_err() {
        dir.create_filled(&log(), at(8), 0).await.unwrap();
    }
    dir.open(&log(), mode).await.unwrap()
}

fn sectors(bytes: &[u8]) -> Vec<u8> {
    let value = |sector: &[u8]| match sector[0] {
        byte if sector.iter().all(|&it| it == byte) => byte,
        _ => 255,
    };
    bytes.chunks(512).map(value).collect()
}

/// What a power loss leaves of four durable blocks of 1 that were overwritten: two by a write that
/// completed, two by one in flight.
fn after_power_loss(seed: u64) -> Vec<u8> {
    let world = World::new(seed, Profile::calm());
    let task = world.spawn_on(1, CoreNo(0), async |env: SimEnv| {
        let file = open(&env, Mode::Write).await;
        file.write_at(blocks(4, 1), 0).await.unwrap();
        file.sync().await.unwrap();
        file.write_at(blocks(2, 2), 0).await.unwrap();
        file.write_at(blocks(2, 2), at(2)).await.unwrap();
    });
    let disk = world.disk(1);
    world.run_until(|| disk.unsettled(&log()) == 2 && disk.in_flight() == 1, MINUTE).unwrap();
    world.crash(1, Crash::Power);
    assert!(!task.is_done());
    assert_eq!(disk.durable(&log()), disk.seen(&log()));
    let bytes = disk.durable(&log()).unwrap();
    assert!(bytes[4 * BLOCK..].iter().all(|&byte| byte == 0), "nobody wrote there");
    sectors(&bytes[..4 * BLOCK])
}

#[test]
fn power_loss_reaches_every_sector_state() {
    let mut states = vec![BTreeSet::new(); 32];
    let mut torn = 0;
    for seed in 0..2_000 {
        let found = after_power_loss(seed);
        for (sector, state) in found.iter().enumerate() {
            states[sector].insert(*state);
        }
        torn += usize::from(found.chunks(8).any(|block| block.contains(&1) && block.contains(&2)));
    }
    for (sector, states) in states.iter().enumerate() {
        // Zeros, old, new, noise.
        assert_eq!(*states, BTreeSet::from([0, 1, 2, 255]), "sector {sector}");
    }
    assert!((500..2_000).contains(&torn), "{torn} of 2,000 had a torn block");
}

#[test]
fn a_power_loss_keeps_what_was_synced_and_nothing_else_on_demand() {
    for (keep, want) in [(Keep::Nothing, 1), (Keep::Everything, 2)] {
        let world = World::new(1, Profile::calm());
        run(&world, async |env| {
            let file = open(&env, Mode::Write).await;
            file.write_at(blocks(8, 1), 0).await.unwrap();
            file.sync().await.unwrap();
            file.write_at(blocks(8, 2), 0).await.unwrap();
        });
        world.disk(1).next_power_loss(keep);
        world.crash(1, Crash::Power);
        assert_eq!(sectors(&world.disk(1).durable(&log()).unwrap()), [want; 64]);
    }
}

#[test]
fn a_synced_write_survives_power_loss_at_once() {
    for seed in 0..100 {
        let world = World::new(seed, Profile::calm());
        run(&world, async |env| {
            let file = open(&env, Mode::WriteSynced).await;
            file.write_at(blocks(8, 1), 0).await.unwrap();
        });
        world.crash(1, Crash::Power);
        assert_eq!(sectors(&world.disk(1).durable(&log()).unwrap()), [1; 64]);
    }
}

#[test]
fn what_was_written_survives_a_kill() {
    let world = World::new(1, Profile::calm());
    run(&world, async |env| {
        open(&env, Mode::Write).await.write_at(blocks(8, 1), 0).await.unwrap();
    });
    world.crash(1, Crash::Kill);
    assert_eq!(sectors(&world.disk(1).seen(&log()).unwrap()), [1; 64]);
    assert_eq!(sectors(&world.disk(1).durable(&log()).unwrap()), [0; 64]);
}

#[test]
fn late_write_lands_after_restart() {
    let (mut at_once, mut never, mut late) = (0, 0, 0);
    for seed in 0..300 {
        let world = World::new(seed, Profile::calm());
        drop(world.spawn_on(1, CoreNo(0), async |env: SimEnv| {
            let file = open(&env, Mode::WriteSynced).await;
            file.write_at(blocks(8, 9), 0).await.unwrap();
        }));
        let disk = world.disk(1);
        world.run_until(|| disk.changes() == 2 && disk.in_flight() == 1, MINUTE).unwrap();
        world.crash(1, Crash::Kill);
        // The next life reads, and overwrites nothing.
        let read = async |env: SimEnv| {
            let file = open(&env, Mode::Read).await;
            file.read_at(0, BLOCK).await.unwrap()[0]
        };
        let first = world.run_on(1, MINUTE, read).unwrap();
        world.run_for(Nanos(2_000_000_000));
        let then = world.run_on(1, MINUTE, read).unwrap();
        match (first, then) {
            (9, 9) => at_once += 1,
            (0, 0) => never += 1,
            (0, 9) => late += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(at_once > 20 && never > 20 && late > 20, "{at_once} {never} {late}");
}

#[test]
fn a_rename_needs_a_sync_of_its_directory() {
    let (a, b) = (Name::of("a"), Name::of("b"));
    let mut found = BTreeSet::new();
    for (seed, synced) in (0..100).flat_map(|seed| [(seed, false), (seed, true)]) {
        let world = World::new(seed, Profile::calm());
        let (from, to) = (a.clone(), b.clone());
        run(&world, async move |env| {
            let dir = env.dir();
            dir.write_whole(&from, Bytes::from_static(b"new")).await.unwrap();
            dir.write_whole(&to, Bytes::from_static(b"old")).await.unwrap();
            dir.rename(&from, &to).await.unwrap();
            if synced {
                dir.sync(None).await.unwrap();
            }
        });
        world.crash(1, Crash::Power);
        let disk = world.disk(1);
        let now = (disk.durable(&a), disk.durable(&b).unwrap());
        if synced {
            assert_eq!(now, (None, b"new".to_vec()));
        }
        found.insert(now);
    }
    let before = (Some(b"new".to_vec()), b"old".to_vec());
    assert_eq!(found, BTreeSet::from([before, (None, b"new".to_vec())]));
}

#[test]
fn a_created_file_needs_a_sync_of_its_directory() {
    let mut found = BTreeSet::new();
    for seed in 0..50 {
        let world = World::new(seed, Profile::calm());
        run(&world, async |env| {
            let file = env.dir().create(&log(), Mode::Write).await.unwrap();
            file.write_at(blocks(1, 1), 0).await.unwrap();
            file.sync().await.unwrap();
        });
        world.crash(1, Crash::Power);
        found.insert(world.disk(1).durable(&log()).is_some());
    }
    assert_eq!(found.len(), 2);
}

#[test]
fn a_short_write_is_an_error_and_a_failed_one_leaves_old_new_or_garbage() {
    let world = World::new(1, Profile::calm());
    run(&world, async |env| drop(open(&env, Mode::Write).await));
    for (how, kind) in [(WriteFault::Short, Kind::Short), (WriteFault::Error, Kind::Io)] {
        world.disk(1).fail_write(2, how);
        run(&world, async move |env| {
            let file = open(&env, Mode::Write).await;
            file.write_at(blocks(8, 1), 0).await.unwrap();
            let failed = file.write_at(blocks(8, 2), 0).await.unwrap_err();
            assert_eq!((failed.kind, failed.name), (kind, Some(log())));
            let found = file.read_at(0, 8 * BLOCK).await.unwrap();
            let states: BTreeSet<_> = sectors(&found).into_iter().collect();
            assert!(states.is_superset(&BTreeSet::from([1, 2])), "{states:?}");
            file.write_at(blocks(8, 1), 0).await.unwrap();
        });
    }
}

#[test]
fn a_failed_sync_loses_what_came_since_the_last_one() {
    let mut lost = 0;
    for seed in 0..50 {
        let world = World::new(seed, Profile::calm());
        world.disk(1).fail_sync(2);
        run(&world, async |env| {
            let file = open(&env, Mode::Write).await;
            file.write_at(blocks(4, 1), 0).await.unwrap();
            file.sync().await.unwrap();
            file.write_at(blocks(4, 2), 0).await.unwrap();
            assert_eq!(file.sync().await.unwrap_err().kind, Kind::Io);
            // The next sync is happy, and changes nothing.
            file.sync().await.unwrap();
        });
        world.crash(1, Crash::Power);
        let found = sectors(&world.disk(1).durable(&log()).unwrap());
        assert!(found[..32].iter().all(|state| [1, 2].contains(state)), "{found:?}");
        lost += usize::from(found[..32].contains(&1));
    }
    assert!(lost > 40, "{lost} of 50 lost something");
}

#[test]
fn a_sync_covers_what_completed_before_it() {
    for seed in 0..100 {
        let world = World::new(seed, Profile::calm().with(Fault::Spike));
        run(&world, async |env| {
            let file = open(&env, Mode::Write).await;
            let write = |block| {
                let file = file.clone();
                env.spawn(Class::Core, async move {
                    file.write_at(blocks(1, 1), at(block)).await.unwrap();
                    file.sync().await.unwrap();
                })
            };
            let writes: Vec<_> = (0..8).map(write).collect();
            for write in writes {
                write.await;
            }
        });
        world.crash(1, Crash::Power);
        assert_eq!(sectors(&world.disk(1).durable(&log()).unwrap()), [1; 64]);
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let world = World::new(1, Profile::calm());
    let disk = world.disk(1);
    disk.capacity(Some(at(10)));
    run(&world, async |env| {
        let file = open(&env, Mode::Write).await;
        let dir = env.dir();
        let other = Name::of("other");
        let kind = |result: Result<(), bowline_env::EnvError>| result.unwrap_err().kind;
        assert_eq!(dir.free_space().await, Ok(at(2)));
        assert_eq!(kind(dir.create_filled(&other, at(3), 0).await), Kind::NoSpace);
        assert_eq!(kind(dir.write_whole(&other, vec![1; 3 * BLOCK].into()).await), Kind::NoSpace);
        assert_eq!(kind(file.write_at(blocks(3, 1), at(8)).await), Kind::NoSpace);
        assert_eq!(dir.list(None).await.unwrap(), [(log(), at(8))]);
        dir.create_filled(&other, at(2), 0).await.unwrap();
        // Room that is there already needs none.
        file.write_at(blocks(8, 1), 0).await.unwrap();
        dir.remove(&other).await.unwrap();
        assert_eq!(dir.free_space().await, Ok(at(2)));
    });
}

#[test]
fn an_unreadable_block_stays_so_until_it_is_written() {
    let world = World::new(1, Profile::calm());
    run(&world, async |env| drop(open(&env, Mode::Write).await));
    assert!(world.disk(1).unreadable(&log(), at(3)..at(3) + 1));
    run(&world, async |env| {
        let file = open(&env, Mode::Write).await;
        for _ in 0..2 {
            assert_eq!(file.read_at(0, 8 * BLOCK).await.unwrap_err().kind, Kind::Io);
            assert_eq!(file.read_at(at(3), BLOCK).await.unwrap_err().kind, Kind::Io);
            assert_eq!(env.dir().map(&log(), at(3), 1).await.unwrap_err().kind, Kind::Io);
            file.read_at(at(4), BLOCK).await.unwrap();
        }
        file.write_at(blocks(1, 1), at(3)).await.unwrap();
        assert_eq!(file.read_at(0, 8 * BLOCK).await.unwrap().len(), 8 * BLOCK);
    });
}

#[test]
fn lost_misdirected_and_stale_are_told_by_nobody() {
    let world = World::new(3, Profile::calm());
    let disk = world.disk(1);
    run(&world, async |env| drop(open(&env, Mode::Write).await));
    let write = |byte| {
        run(&world, async move |env| {
            let file = open(&env, Mode::WriteSynced).await;
            file.write_at(blocks(1, byte), 0).await.unwrap();
        });
        sectors(&disk.durable(&log()).unwrap())
    };
    let mut want = vec![0; 64];
    want[..8].fill(1);
    assert_eq!(write(1), want);
    disk.fail_write(1, WriteFault::Lost);
    assert_eq!(write(2), want);
    disk.fail_write(1, WriteFault::Misdirected);
    let found = write(3);
    let astray = (0..64).filter(|&sector| found[sector] == 3).count();
    assert_eq!(astray, 8, "{found:?}");
    assert_eq!(write(4)[..8], [4; 8]);
    disk.stale_read(1);
    let read = async |env: SimEnv| open(&env, Mode::Read).await.read_at(0, BLOCK).await.unwrap()[0];
    assert_ne!(world.run_on(1, MINUTE, read), Ok(4));
    assert_eq!(world.run_on(1, MINUTE, read), Ok(4));
}

#[test]
fn damage_at_rest_is_seen_by_readers() {
    let world = World::new(1, Profile::calm());
    let disk = world.disk(1);
    disk.place(&log(), &[0xff; 3 * BLOCK]);
    assert!(disk.flip_bit(&log(), at(1) + 7, 3));
    assert!(disk.zero_sector(&log(), 17));
    assert!(disk.write_at_rest(&log(), at(1) - 2, &[1, 2, 3, 4]));
    assert!(!disk.flip_bit(&Name::of("none"), 0, 0));
    let mut want = vec![0xff; 3 * BLOCK];
    want[BLOCK + 7] = 0xf7;
    want[17 * 512..18 * 512].fill(0);
    want[BLOCK - 2..BLOCK + 2].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(disk.durable(&log()).unwrap(), want);
    let seen = run(&world, async |env| env.dir().read_whole(&log(), 1 << 20).await.unwrap());
    assert_eq!(seen, want);
}

#[test]
fn a_stuck_disk_answers_nothing_and_a_slow_one_late() {
    let world = World::new(1, Profile::calm());
    run(&world, async |env| drop(open(&env, Mode::Write).await));
    let write = async |env: SimEnv| {
        let begun = env.now();
        open(&env, Mode::Write).await.write_at(blocks(1, 1), 0).await.unwrap();
        env.now().since(begun).0
    };
    let usual = world.run_on(1, MINUTE, write).unwrap();
    world.disk(1).stuck(Nanos(3_000_000_000));
    assert!(world.run_on(1, MINUTE, write).unwrap() > 3_000_000_000);
    world.disk(1).slow(50, MINUTE);
    assert!(world.run_on(1, MINUTE, write).unwrap() > 40 * usual);
}

#[test]
fn a_crash_at_each_operation_leaves_the_disk_of_before_or_after() {
    let work = async |env: SimEnv| {
        let dir = env.dir();
        let (new, old) = (Name::of("new"), Name::of("state"));
        dir.write_whole(&old, Bytes::from_static(b"old")).await.unwrap();
        let file = dir.create(&new, Mode::Write).await.unwrap();
        file.write_at(blocks(1, b'n'), 0).await.unwrap();
        file.sync().await.unwrap();
        dir.rename(&new, &old).await.unwrap();
        dir.sync(None).await.unwrap();
    };
    let counting = World::new(1, Profile::calm());
    run(&counting, work);
    let changes = counting.disk(1).changes();
    assert_eq!(changes, 6);
    let mut found = BTreeSet::new();
    for (seed, nth) in (0..20).flat_map(|seed| (1..=changes).map(move |nth| (seed, nth))) {
        for how in [Crash::Power, Crash::Kill] {
            let world = World::new(seed, Profile::calm());
            world.disk(1).crash_at(nth, how);
            assert!(world.run_on(1, MINUTE, work).is_err(), "the core is gone");
            assert!(!world.alive(1));
            world.crash(1, Crash::Power);
            let state = world.disk(1).durable(&Name::of("state"));
            let state = state.map(|bytes| bytes[..3].to_vec());
            assert!(nth > 1 || state.as_deref() != Some(b"nnn"), "the rename came later");
            assert!(nth < 5 || state.is_some(), "the first content was durable");
            found.insert(state);
        }
    }
    let want = [None, Some(b"nnn".to_vec()), Some(b"old".to_vec())];
    assert_eq!(found, BTreeSet::from(want));
}

#[test]
fn a_copied_disk_holds_what_is_durable() {
    let world = World::new(1, Profile::calm());
    run(&world, async |env| {
        let file = open(&env, Mode::Write).await;
        file.write_at(blocks(4, 1), 0).await.unwrap();
        file.sync().await.unwrap();
        file.write_at(blocks(4, 2), 0).await.unwrap();
    });
    world.disk(2).copy_from(&world.disk(1));
    assert_eq!(world.disk(2).files(), [log()]);
    assert_eq!(sectors(&world.disk(2).seen(&log()).unwrap())[..32], [1; 32]);
    assert_eq!(sectors(&world.disk(1).seen(&log()).unwrap())[..32], [2; 32]);
}
