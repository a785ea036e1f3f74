//! Jobs that fail leave nothing behind; orphans go only when nothing is lost.

use std::collections::BTreeSet;
use std::rc::Rc;

use bowline_env::sim::{SimEnv, WriteFault};
use bowline_env::{Dir as _, Env as _, Kind, Name, Nanos};
use bowline_statemachine::store::{JobError, Orphans, Store, StoreOptions};

use super::reads::check;
use super::support::*;

#[test]
fn dk_03_enospc_keeps_serving() {
    with_store(BIG, async move |world, store| {
        let mut shard = Shard::new(&store);
        let level = Level::random(&mut Dice::new(8), 1, 100, 200);
        shard.publish(flush(&store, &level, true).await.unwrap());
        let used = shard.sections[0].len() + 3 * 4_096;
        let second = Level::random(&mut Dice::new(9), 101, 200, 200);
        let want = shard.state(500).await.unwrap();
        for more in [0, 4_096, 65_536, 300_000] {
            world.disk(1).capacity(Some(used + more));
            let error = flush(&store, &second, false).await.unwrap_err();
            assert_eq!(error, JobError::NoSpace, "{more} bytes free");
            let files = store.env().dir().list(Some(&Name::of("runs"))).await.unwrap();
            assert_eq!(files.len(), 1, "the half written run is gone");
            assert!(shard.state(500).await.unwrap() == want);
            let error = shard.merge(0..1).run().await.unwrap_err();
            assert_eq!(error, JobError::NoSpace);
        }
        world.disk(1).capacity(None);
        shard.publish(flush(&store, &second, false).await.unwrap());
        assert!(shard.state(500).await.unwrap() == state(&[&second, &level]));
        let waits: Vec<u64> = (1..9).map(|n| JobError::retry_after(n).0 / 1_000_000_000).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    });
}

#[test]
fn a_failed_call_of_a_flush_leaves_nothing_and_the_next_try_works() {
    with_store(BIG, async move |world, store| {
        let level = Level::random(&mut Dice::new(8), 1, 100, 300);
        let disk = world.disk(1);
        let faults: [&dyn Fn(); 7] = [
            &|| disk.fail_write(1, WriteFault::Error),
            &|| disk.fail_write(2, WriteFault::Short),
            &|| disk.fail_write(3, WriteFault::NoSpace),
            &|| disk.fail_sync(1),
            &|| disk.fail_sync_dir(1),
            &|| disk.fail_names(1, Kind::NoSpace),
            &|| disk.fail_names(2, Kind::Io),
        ];
        for (n, fault) in faults.iter().enumerate() {
            fault();
            flush(&store, &level, true).await.unwrap_err();
            disk.heal();
            let files = store.env().dir().list(Some(&Name::of("runs"))).await.unwrap();
            assert!(files.is_empty(), "fault {n}: {files:?}");
        }
        disk.fail_write(1, WriteFault::Lost);
        let error = flush(&store, &level, true).await.unwrap_err();
        assert!(matches!(error, JobError::Damaged(_)), "a lost write is seen at once: {error}");
        let done = flush(&store, &level, true).await.unwrap();
        check(&store, done.opened.as_ref().unwrap(), &level.written(true), 600).await;
    });
}

/// Bug: a run whose middle the disk had lost opened as a damaged section, and was published: what
/// it was made of was given up for it.
#[test]
fn a_run_is_used_only_if_all_of_it_can_be_read() {
    with_store(BIG, async move |world, store| {
        let level = Level::random(&mut Dice::new(8), 1, 4_000, 800);
        let disk = world.disk(1);
        let mut lost = 0;
        for nth in 1..=8 {
            disk.fail_write(nth, WriteFault::Lost);
            match flush(&store, &level, true).await {
                Ok(done) => {
                    let section = done.opened.as_ref().unwrap();
                    check(&store, section, &level.written(true), 600).await;
                },
                Err(error) => {
                    assert!(matches!(error, JobError::Damaged(_)), "write {nth}: {error}");
                    lost += 1;
                },
            }
            disk.heal();
        }
        assert!(lost >= 4, "{lost} of 8 lost writes were part of the run");
    });
}

#[test]
fn orphans_kept_when_log_damaged() {
    with_store(BIG, async move |world, store| {
        let level = Level::random(&mut Dice::new(8), 1, 100, 20);
        let live = flush(&store, &level, true).await.unwrap().add.unwrap();
        let lost = flush(&store, &level, true).await.unwrap().add.unwrap();
        let half = Name::of(&format!("runs/run-{:032x}.tmp", 5));
        let foreign = Name::of("runs/notes.txt");
        world.disk(1).place(&half, b"half");
        world.disk(1).place(&foreign, b"of somebody");
        let manifests = BTreeSet::from([live.run]);
        let kept = store.collect_orphans(&manifests, false).await.unwrap();
        assert_eq!(kept, Orphans { removed: 0, kept: 3 });
        let removed = store.collect_orphans(&manifests, true).await.unwrap();
        assert_eq!(removed, Orphans { removed: 2, kept: 1 });
        let names = world.disk(1).files();
        assert_eq!(names, [foreign, run_file(&live)]);
        assert_ne!(live.run, lost.run);
    });
}

#[test]
fn the_rate_of_background_writes_holds_them_back() {
    with_store(BIG, async move |_, store| {
        let level = Level::random(&mut Dice::new(8), 1, 100, 400);
        let quick = store.env().now();
        let len = flush(&store, &level, true).await.unwrap().add.unwrap().len;
        let quick = store.env().now().since(quick);
        let options =
            StoreOptions { rate: 1 << 20, rate_max: 4 << 20, delta_bytes: 1_000, ..options(BIG) };
        let slow = Store::new(store.env().clone(), options);
        let timed = async |store: &Rc<Store<SimEnv>>| {
            let start = store.env().now();
            drop(flush(store, &level, true).await.unwrap());
            store.env().now().since(start)
        };
        let low = timed(&slow).await;
        let account = slow.account(1);
        account.charge(1_000);
        let full = timed(&slow).await;
        let at_rate = Nanos(len * 1_000_000_000 / (1 << 20));
        assert!(low > Nanos(at_rate.0 * 9 / 10), "{low:?} for {at_rate:?}");
        assert!(full < Nanos(low.0 / 3) && full > Nanos(low.0 / 5), "{full:?} of {low:?}");
        assert!(quick < Nanos(low.0 / 10), "{quick:?}");
    });
}
