//! Every operation of the facade in the simulator: real cores, logs and state machines, with time
//! of its own.

use std::future::Future;
use std::time::Duration;

use bowline::{
    ClientApi, Code, Consistency, EmbeddedClient, EmbeddedEngine, Error, Op, RequestError,
    ScanOptions, ShardId, WriteBatch,
};
use bowline_env::Nanos;
use bowline_env::sim::{Profile, SimFactory, World};
use bytes::Bytes;

pub(crate) const LIMIT: Nanos = Nanos(600_000_000_000);
const READY: Duration = Duration::from_secs(10);

fn start(factory: SimFactory, shards: u32) -> Op<EmbeddedEngine> {
    EmbeddedEngine::builder()
        .shards(shards)
        .cores(2)
        .configure(|config| {
            config.wal.slot_bytes = bowline::config::ByteCount::mib(1);
            config.wal.frame_cap = bowline::config::ByteCount::kib(64);
            config.wal.log_bytes = bowline::config::ByteCount::mib(16);
        })
        .start_in(factory)
}

pub(crate) async fn ready(factory: SimFactory, shards: u32) -> EmbeddedEngine {
    let engine = start(factory, shards).await.unwrap();
    engine.wait_ready(READY).await.unwrap();
    engine
}

#[track_caller]
fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(SimFactory) -> F) {
    let world = World::new(7, Profile::calm());
    let test = test(world.node(1));
    world.block_on(LIMIT, test).unwrap();
}

fn text(value: Option<Bytes>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.unwrap_err().code()
}

#[test]
fn seed_lifecycle() {
    run(async move |factory| {
        let engine = start(factory, 4).await.unwrap();
        let mut leaders = engine.leader_change_notifier();
        let leader = engine.wait_ready(READY).await.unwrap();
        assert_eq!((leader.leader_id, leader.led, leader.of), (engine.node_id(), 4, 4));
        assert_eq!(*leaders.borrow_and_update(), Some(leader));
        assert_eq!(engine.leader_info(), Some(leader));
        assert!(engine.is_leader() && engine.is_leader_of(b"any"));
        assert!(!engine.is_stopped());
        let kv = engine.client();
        kv.put("key", "value").await.unwrap();
        assert_eq!(text(kv.get("key").await.unwrap()).as_deref(), Some("value"));
        engine.stop().await.unwrap();
        assert!(engine.is_stopped());
        assert_eq!(code(kv.put("key", "late").await), Code::STOPPED);
        assert_eq!(code(kv.get("key").await), Code::STOPPED);
        let again = ready(factory, 4).await;
        assert_eq!(text(again.client().get("key").await.unwrap()).as_deref(), Some("value"));
        again.stop().await.unwrap();
    });
}

#[test]
fn em_02_stop_is_idempotent_and_reopens_at_once() {
    run(async move |factory| {
        for _ in 0..3 {
            let engine = ready(factory, 2).await;
            let (first, second) = (engine.stop(), engine.clone().stop());
            second.await.unwrap();
            first.await.unwrap();
            engine.stop().await.unwrap();
        }
    });
}

#[test]
fn a_directory_has_one_engine_at_a_time() {
    run(async move |factory| {
        let engine = ready(factory, 2).await;
        assert_eq!(code(start(factory, 2).await), Code::DIR_IN_USE);
        engine.stop().await.unwrap();
        ready(factory, 2).await.stop().await.unwrap();
    });
}

/// Starts once whoever has the directory has given it back.
async fn start_after_others(world: &World, factory: SimFactory) -> EmbeddedEngine {
    loop {
        match start(factory, 2).await {
            Ok(engine) => return engine,
            Err(error) => assert_eq!(error.code(), Code::DIR_IN_USE, "{error}"),
        }
        world.sleep(Nanos::from_millis(5)).await;
    }
}

#[test]
fn em_01_a_dropped_start_and_a_dropped_engine_give_the_directory_back() {
    let world = World::new(7, Profile::calm());
    let (inside, factory) = (world.clone(), world.node(1));
    let test = async move {
        drop(start(factory, 2));
        drop(start_after_others(&inside, factory).await);
        start_after_others(&inside, factory).await.stop().await.unwrap();
    };
    world.block_on(LIMIT, test).unwrap();
}

#[test]
fn settings_of_the_founding_are_kept() {
    run(async move |factory| {
        ready(factory, 4).await.stop().await.unwrap();
        let error = start(factory, 8).await.unwrap_err();
        assert_eq!(error.code(), Code::FOUNDED_OTHERWISE);
        let line = error.to_string();
        assert!(line.contains("founded with shards 4, configured 8"), "{line}");
    });
}

#[expect(clippy::cognitive_complexity, reason = "one line per operation")]
async fn every_operation(kv: &impl ClientApi) {
    kv.put("{t}a", "1").await.unwrap();
    assert_eq!(text(kv.get("{t}a").await.unwrap()).as_deref(), Some("1"));
    assert_eq!(text(kv.get_linearizable("{t}a").await.unwrap()).as_deref(), Some("1"));
    assert_eq!(text(kv.get_lease("{t}a").await.unwrap()).as_deref(), Some("1"));
    assert_eq!(text(kv.get_eventual("{t}a").await.unwrap()).as_deref(), Some("1"));
    assert_eq!(kv.get("{t}none").await.unwrap(), None);
    assert!(!kv.expire("{t}none", None).await.unwrap());
    assert!(kv.expire("{t}a", None).await.unwrap());
    guarded_operations(kv).await;
    numbers(kv).await;
    let keys = ["{t}a", "{t}none", "{t}n"].map(|key| Bytes::from_static(key.as_bytes()));
    let values = kv.get_multi_linearizable(&keys).await.unwrap();
    let values: Vec<_> = values.into_iter().map(text).collect();
    assert_eq!(values, [Some("2".into()), None, Some("-2".into())]);
    let page = kv.scan_prefix("{t}", ScanOptions::new()).await.unwrap();
    let keys: Vec<_> = page.items.iter().map(|(key, _)| String::from_utf8_lossy(key)).collect();
    assert_eq!((keys.join(" ").as_str(), page.next), ("{t}a {t}n", None));
}

async fn guarded_operations(kv: &impl ClientApi) {
    assert!(kv.compare_and_swap("{t}b", None, "x").await.unwrap());
    assert!(!kv.compare_and_swap("{t}b", None, "y").await.unwrap());
    assert!(kv.compare_and_swap("{t}b", Some(b"x"), "z").await.unwrap());
    assert!(!kv.compare_and_delete("{t}b", "x").await.unwrap());
    assert!(kv.compare_and_delete("{t}b", "z").await.unwrap());
    let item = kv.get_item("{t}a", Consistency::Linearizable).await.unwrap().unwrap();
    let batch = WriteBatch::new().expect_revision("{t}a", item.rev).put("{t}a", "2").delete("{t}b");
    kv.write(batch.clone()).await.unwrap();
    let error = kv.write(batch).await.unwrap_err();
    assert_eq!(error, Error::Request(RequestError::GuardFailed(0)));
    assert_eq!(text(kv.get("{t}a").await.unwrap()).as_deref(), Some("2"));
}

async fn numbers(kv: &impl ClientApi) {
    assert_eq!(kv.increment("{t}n", 5).await.unwrap(), 5);
    assert_eq!(kv.increment("{t}n", -7).await.unwrap(), -2);
    kv.put("{t}s", "word").await.unwrap();
    assert_eq!(code(kv.increment("{t}s", 1).await), Code::NOT_A_NUMBER);
    kv.put("{t}m", i64::MAX.to_string()).await.unwrap();
    assert_eq!(code(kv.increment("{t}m", 1).await), Code::OVERFLOW);
    kv.delete("{t}m").await.unwrap();
    kv.delete("{t}m").await.unwrap();
    assert_eq!(kv.get("{t}m").await.unwrap(), None);
    kv.delete("{t}s").await.unwrap();
}

#[test]
fn every_operation_answers_from_a_thread_and_on_a_core() {
    run(async move |factory| {
        let engine = ready(factory, 4).await;
        every_operation(&engine.client()).await;
        for key in ["{t}a", "{t}n"] {
            engine.client().delete(key).await.unwrap();
        }
        let shard = engine.shard(engine.shard_of(b"{t}a")).unwrap();
        every_operation(&shard.client()).await;
        for key in ["{t}a", "{t}n"] {
            engine.client().delete(key).await.unwrap();
        }
        shard.run_local(async |local| every_operation(&local).await).await.unwrap();
        engine.stop().await.unwrap();
    });
}

#[test]
fn em_02_a_core_refuses_to_wait_and_to_take_keys_of_others() {
    run(async move |factory| {
        let engine = ready(factory, 4).await;
        let shard = engine.shard(ShardId(1)).unwrap();
        let foreign = (0..).map(|n| format!("k{n}"));
        let foreign = foreign.into_iter().find(|key| engine.shard_of(key.as_bytes()).0 != 1);
        let foreign = foreign.unwrap();
        let kv: EmbeddedClient = engine.client();
        let codes = shard.run_local(async move |local| {
            let crossing = code(local.put(&foreign, "x").await);
            (crossing, code(kv.get(&foreign).wait()))
        });
        assert_eq!(codes.await.unwrap(), (Code::CROSS_SLOT, Code::ON_CORE));
        let batch = WriteBatch::new().put("a", "1").put("b", "2");
        assert_eq!(code(engine.client().write(batch).await), Code::CROSS_SLOT);
        assert!(engine.shard(ShardId(4)).is_none());
        engine.stop().await.unwrap();
    });
}

#[test]
fn by_04_oversized_keys_and_values_are_refused_before_they_are_queued() {
    run(async move |factory| {
        let engine = ready(factory, 2).await;
        let kv = engine.client();
        let key = vec![b'k'; 2_049];
        for result in [
            kv.put(&key, "v").await,
            kv.delete(&key).await,
            kv.get(&key).await.map(|_| ()),
            kv.put("k", vec![0; 64 << 10]).await,
        ] {
            assert_eq!(code(result), Code::TOO_LARGE);
        }
        kv.put(&key[..2_048], "v").await.unwrap();
        engine.stop().await.unwrap();
    });
}

#[test]
fn multi_get_positions() {
    run(async move |factory| {
        let engine = ready(factory, 8).await;
        let kv = engine.client();
        let pairs: Vec<_> = (0..200).map(|n| (format!("key-{n}"), format!("value-{n}"))).collect();
        let results = kv.put_many(pairs.iter().map(|(key, value)| (key, value))).await.unwrap();
        assert_eq!(results.len(), 200);
        assert!(results.iter().all(Result::is_ok));
        let keys: Vec<_> =
            (0..300).rev().map(|n| Bytes::from(format!("key-{n}").into_bytes())).collect();
        let values = kv.get_multi_linearizable(&keys).await.unwrap();
        for (n, value) in (0..300).rev().zip(values) {
            assert_eq!(text(value), (n < 200).then(|| format!("value-{n}")));
        }
        assert_eq!(kv.get_multi_eventual(&[]).await.unwrap(), Vec::<Option<Bytes>>::new());
        engine.stop().await.unwrap();
    });
}

#[test]
fn put_many_sends_more_than_a_ring_holds() {
    run(async move |factory| {
        let engine = ready(factory, 1).await;
        let kv = engine.client();
        let results = kv.put_many((0..3_000).map(|n| (format!("k{n}"), "v"))).await.unwrap();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3_000);
        engine.stop().await.unwrap();
    });
}

#[test]
fn a_scan_of_all_shards_pages_in_key_order_both_ways() {
    run(async move |factory| {
        let engine = ready(factory, 8).await;
        let kv = engine.client();
        let keys: Vec<_> = (0..250).map(|n| format!("p:{n:04}")).collect();
        let results = kv.put_many(keys.iter().map(|key| (key, "v"))).await.unwrap();
        assert!(results.iter().all(Result::is_ok));
        kv.put("q:1", "other").await.unwrap();
        for reverse in [false, true] {
            let mut seen = Vec::new();
            let mut options = ScanOptions::new().limit(60);
            options.reverse = reverse;
            loop {
                let page = kv.scan_prefix("p:", options.clone()).await.unwrap();
                seen.extend(page.items.iter().map(|(key, _)| text(Some(key.clone())).unwrap()));
                match page.next {
                    Some(next) => options.after = Some(next),
                    None => break,
                }
            }
            let mut want = keys.clone();
            if reverse {
                want.reverse();
            }
            assert_eq!(seen, want);
        }
        engine.stop().await.unwrap();
    });
}

#[test]
fn ten_puts_are_on_their_way_before_one_is_awaited() {
    run(async move |factory| {
        let engine = ready(factory, 1).await;
        let kv = engine.client();
        let mut puts: Vec<_> = (0..10).map(|n| kv.put("key", n.to_string())).collect();
        drop(puts.remove(0));
        for put in puts {
            put.await.unwrap();
        }
        assert_eq!(text(kv.get("key").await.unwrap()).as_deref(), Some("9"));
        engine.stop().await.unwrap();
    });
}

#[test]
fn metrics_and_status_tell_of_the_node() {
    let world = World::new(7, Profile::calm());
    let (factory, clock) = (world.node(1), world.clone());
    let test = async move {
        let engine = ready(factory, 4).await;
        engine.client().put("k", "v").await.unwrap();
        engine.client().get_linearizable("k").await.unwrap();
        engine.shard(engine.shard_of(b"k")).unwrap().flush().await.unwrap();
        // A tick later the gauges are told.
        clock.sleep(Nanos::from_millis(200)).await;
        let status = engine.status();
        assert_eq!((status.cores, status.shards, status.leads), (2, 4, 4));
        assert_eq!(status.leaderless, []);
        let metrics = engine.metrics();
        assert_eq!((metrics.cores.len(), metrics.shards.len()), (2, 4));
        let sum = |of: fn(&bowline::CoreMetrics) -> u64| metrics.cores.iter().map(of).sum::<u64>();
        assert!(sum(|core| core.passes) > 0 && sum(|core| core.parks) > 0);
        assert_eq!((sum(|core| core.leaderless), sum(|core| core.leader_changes)), (0, 4));
        assert_eq!((sum(|core| core.flushes), sum(|core| core.flush.count())), (1, 1));
        assert_eq!((sum(|core| core.jobs_failed), sum(|core| core.stalls)), (0, 0));
        let puts = sum(|core| core.proposals_applied);
        assert_eq!((puts, sum(|core| core.proposal.count())), (1, 1));
        assert!(sum(|core| core.proposal.sum_nanos()) > 0, "a put waits for the disk");
        assert_eq!((sum(|core| core.reads), sum(|core| core.read.count())), (1, 1));
        assert!(sum(|core| core.wal_entries) >= 5, "a put, and a first entry of each leader");
        assert!(sum(|core| core.wal_bytes) >= 4_096 * sum(|core| core.wal_frames));
        assert!(sum(|core| core.wal_write.count()) > 0);
        assert!(metrics.shards.iter().all(|shard| shard.leads));
        engine.stop().await.unwrap();
    };
    world.block_on(LIMIT, test).unwrap();
}

#[test]
fn shards_whose_log_is_gone_are_named_and_the_others_serve() {
    let world = World::new(9, Profile::calm());
    let factory = world.node(1);
    let first = factory;
    let write = async move {
        let engine = ready(first, 4).await;
        engine.client().put_many((0..64).map(|n| (format!("k{n}"), "v"))).await.unwrap();
        engine.stop().await.unwrap();
    };
    world.block_on(LIMIT, write).unwrap();
    let disk = world.disk(1);
    for name in disk.files() {
        let ours = name.dir().is_some_and(|dir| dir.file() == "stream-00");
        let is_slot =
            std::path::Path::new(name.file()).extension().is_some_and(|end| end == "slot");
        if ours && is_slot {
            let len = disk.durable(&name).unwrap().len();
            disk.place(&name, &vec![0; len]);
        }
    }
    let read = async move {
        let engine = start(factory, 4).await.unwrap();
        let error = engine.wait_ready(READY).await.unwrap_err();
        let Error::NotReady(missing) = &error else { panic!("{error}") };
        assert_eq!((missing.count, missing.of), (2, 4));
        let closed = bowline::Unready::Closed(Code::LOG_DAMAGED);
        assert!(missing.shards.iter().all(|(_, why)| *why == closed), "{missing}");
        let kv = engine.client();
        for key in (0..64).map(|n| format!("k{n}")) {
            let lost =
                missing.shards.iter().any(|(shard, _)| *shard == engine.shard_of(key.as_bytes()));
            match kv.get_linearizable(&key).await {
                Ok(value) => assert!(!lost && value.is_some()),
                Err(error) => assert!(lost && error.code() == Code::LOG_DAMAGED, "{error}"),
            }
        }
        engine.stop().await.unwrap();
    };
    world.block_on(LIMIT, read).unwrap();
}

#[test]
fn a_directory_that_lost_its_node_file_is_refused_and_left_alone() {
    let world = World::new(11, Profile::calm());
    let factory = world.node(1);
    let write = async move {
        let engine = ready(factory, 2).await;
        engine.client().put("k", "v").await.unwrap();
        engine.stop().await.unwrap();
    };
    world.block_on(LIMIT, write).unwrap();
    let disk = world.disk(1);
    let name = bowline_env::Name::of("NODE");
    let node = disk.durable(&name).unwrap();
    let before: Vec<_> = disk.files().iter().map(|file| (file.clone(), disk.seen(file))).collect();
    disk.take_away(&name);
    let refused = async move { assert_eq!(code(start(factory, 2).await), Code::NODE_DAMAGED) };
    world.block_on(LIMIT, refused).unwrap();
    disk.place(&name, &node);
    let after: Vec<_> = disk.files().iter().map(|file| (file.clone(), disk.seen(file))).collect();
    assert!(before == after, "no byte changed");
    let read = async move {
        let engine = ready(factory, 2).await;
        assert_eq!(text(engine.client().get("k").await.unwrap()).as_deref(), Some("v"));
        engine.stop().await.unwrap();
    };
    world.block_on(LIMIT, read).unwrap();
}
