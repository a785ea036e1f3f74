//! The engine on a real directory, from plain threads.

use std::time::Duration;

use bowline::config::{ByteCount, CoreCount};
use bowline::{Code, EmbeddedEngine, Op, WriteBatch};
use bowline_env::glommio::GlommioFactory;
use bowline_env::{EnvFactory, UringState};
use tempfile::TempDir;

const READY: Duration = Duration::from_secs(30);

/// A directory on which an engine can run; none: the tests were told that io_uring is missing.
#[expect(clippy::disallowed_methods, reason = "whether to skip is said by the environment")]
fn directory() -> Option<TempDir> {
    let dir = TempDir::new().unwrap();
    let uring = GlommioFactory::new(dir.path()).facts().io_uring;
    if uring == UringState::Ready {
        return Some(dir);
    }
    let skip = std::env::var("BOWLINE_NO_URING").is_ok_and(|value| value == "1");
    assert!(skip, "io_uring cannot be used here ({uring:?}); BOWLINE_NO_URING=1 skips these tests");
    None
}

fn start(dir: &TempDir) -> Op<EmbeddedEngine> {
    start_holding(dir, "25%")
}

/// Starts an engine that maps so much of its runs.
fn start_holding(dir: &TempDir, resident: &str) -> Op<EmbeddedEngine> {
    let path = dir.path().join("data");
    EmbeddedEngine::builder()
        .data_dir(path)
        .shards(4)
        .configure(|config| {
            config.cores.count = CoreCount::Is(1);
            config.wal.allow_cow = true;
            config.wal.slot_bytes = ByteCount::mib(1);
            config.wal.frame_cap = ByteCount::kib(64);
            config.wal.log_bytes = ByteCount::mib(16);
        })
        .set("state.resident", resident)
        .start()
}

#[test]
fn what_was_written_is_read_after_a_restart() {
    let Some(dir) = directory() else { return };
    for round in 0..3 {
        let engine = start(&dir).wait().unwrap();
        engine.wait_ready(READY).wait().unwrap();
        let kv = engine.client();
        for n in 0..round * 100 {
            let value = kv.get(format!("key-{n}")).wait().unwrap().unwrap();
            assert_eq!(value, format!("value-{n}").as_bytes());
        }
        let keys = round * 100..(round + 1) * 100;
        let pairs = keys.map(|n| (format!("key-{n}"), format!("value-{n}")));
        let results = kv.put_many(pairs).wait().unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        engine.stop().wait().unwrap();
        assert!(engine.is_stopped());
    }
}

#[test]
fn sc_06_a_directory_and_its_files_are_the_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let Some(dir) = directory() else { return };
    let engine = start(&dir).wait().unwrap();
    engine.wait_ready(READY).wait().unwrap();
    engine.client().put("key", "value").wait().unwrap();
    let shard = engine.shard(engine.shard_of(b"key")).unwrap();
    shard.flush().wait().unwrap();
    engine.stop().wait().unwrap();
    let mut pending = vec![dir.path().join("data")];
    let (mut dirs, mut files) = (0, 0);
    while let Some(path) = pending.pop() {
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o077, 0, "{}", path.display());
        if found.is_dir() {
            dirs += 1;
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
        }
    }
    assert!(dirs > 2 && files > 5, "{dirs} directories, {files} files: a log and a run");
}

#[test]
fn sc_06_a_directory_that_others_may_write_to_is_refused_and_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let Some(dir) = directory() else { return };
    let path = dir.path().join("data");
    let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    let all = || {
        let files = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap());
        let mut all: Vec<_> = files
            .map(|file| (file.file_name(), file.metadata().unwrap().modified().unwrap()))
            .collect();
        all.sort();
        (all, std::fs::metadata(&path).unwrap().modified().unwrap())
    };
    let refused = || {
        let before = all();
        for open in [0o702, 0o777, 0o1777] {
            mode(open);
            let error = start(&dir).wait().unwrap_err();
            assert_eq!(error.code(), Code::DIR_OPEN, "{open:o}: {error:#}");
            let (text, fix) = (format!("{error:#}"), format!("chmod o-w {}", path.display()));
            assert!(text.contains(&fix), "{open:o}: {text}");
        }
        assert_eq!(all(), before, "nothing in it was touched");
    };
    std::fs::create_dir(&path).unwrap();
    refused();
    // Many users' volumes belong to a group.
    mode(0o2775);
    let engine = start(&dir).wait().unwrap();
    engine.wait_ready(READY).wait().unwrap();
    engine.stop().wait().unwrap();
    refused();
    mode(0o700);
    start(&dir).wait().unwrap().stop().wait().unwrap();
}

/// Cuts every run off behind its header; answers how many there are.
fn truncate_runs(dir: &TempDir) -> usize {
    let runs = std::fs::read_dir(dir.path().join("data/runs")).unwrap();
    let paths = runs.map(|entry| entry.unwrap().path());
    let cut = paths.map(|path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(4_096).unwrap();
    });
    cut.count()
}

#[test]
fn dk_10_a_run_that_is_cut_off_is_damage_and_the_process_lives() {
    // Nothing is mapped, and it happens under a node that runs; or it happens before the mapping.
    for (resident, runs) in [("0B", true), ("25%", false)] {
        let Some(dir) = directory() else { return };
        let mut engine = start_holding(&dir, resident).wait().unwrap();
        engine.wait_ready(READY).wait().unwrap();
        let (hurt, other) = (engine.shard_of(b"key"), engine.shard_of(b"other"));
        assert_ne!(hurt, other);
        for nth in 0..100 {
            engine.client().put(format!("{{key}}{nth}"), "v".repeat(500)).wait().unwrap();
        }
        engine.client().put("other", "there").wait().unwrap();
        engine.shard(hurt).unwrap().flush().wait().unwrap();
        if !runs {
            engine.stop().wait().unwrap();
        }
        assert_eq!(truncate_runs(&dir), 1);
        if !runs {
            engine = start_holding(&dir, resident).wait().unwrap();
        }
        let error = engine.client().get("{key}7").wait().unwrap_err();
        assert_eq!(error.code(), Code::RUN_DAMAGED, "{resident}: {error:#}");
        let there = engine.client().get("other").wait().unwrap();
        assert_eq!(there.as_deref(), Some(&b"there"[..]), "{resident}");
        engine.client().put("other", "still").wait().unwrap();
        engine.stop().wait().unwrap();
    }
}

#[test]
fn many_threads_write_through_clones() {
    let Some(dir) = directory() else { return };
    let engine = start(&dir).wait().unwrap();
    engine.wait_ready(READY).wait().unwrap();
    let kv = engine.client();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let kv = kv.clone();
            scope.spawn(move || {
                for n in 0..50 {
                    kv.put(format!("{thread}-{n}"), format!("{n}")).wait().unwrap();
                    kv.increment("{sum}", 1).wait().unwrap();
                }
            });
        }
    });
    assert_eq!(kv.get("{sum}").wait().unwrap().as_deref(), Some(&b"400"[..]));
    kv.write(WriteBatch::new().expect("{sum}", Some(b"400")).put("{sum}", "0")).wait().unwrap();
    engine.stop().wait().unwrap();
    assert_eq!(kv.put("late", "x").wait().unwrap_err().code(), Code::STOPPED);
}

#[test]
fn wa_08_a_second_engine_is_told_who_holds_the_directory() {
    let Some(dir) = directory() else { return };
    let engine = start(&dir).wait().unwrap();
    let error = start(&dir).wait().unwrap_err();
    assert_eq!(error.code(), Code::DIR_IN_USE);
    let pid = std::process::id().to_string();
    assert!(error.to_string().contains(&pid), "{error}");
    engine.stop().wait().unwrap();
    start(&dir).wait().unwrap().stop().wait().unwrap();
}

#[test]
fn wa_09_a_foreign_directory_is_refused_and_left_alone() {
    let Some(dir) = directory() else { return };
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("precious.txt"), "mine").unwrap();
    let error = start(&dir).wait().unwrap_err();
    assert_eq!(error.code(), Code::DIR_UNUSABLE, "{error:#}");
    let names: Vec<_> =
        std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["precious.txt"]);
}

#[test]
fn a_wrong_configuration_comes_out_of_start() {
    let Some(dir) = directory() else { return };
    let file = dir.path().join("bowline.toml");
    std::fs::write(&file, "[cluster]\nshard = 4\n").unwrap();
    let error = EmbeddedEngine::start_with(&file).wait().unwrap_err();
    assert_eq!(error.code(), Code::CONFIG_KEY);
    assert!(format!("{error:#}").contains("2 | shard = 4\n  | ^^^^^"), "{error:#}");
    let error = EmbeddedEngine::builder().set("cluster.shards", "0").start().wait().unwrap_err();
    assert_eq!(error.code(), Code::CONFIG_VALUE);
    let error = EmbeddedEngine::builder().shards(0).start().wait().unwrap_err();
    assert_eq!(error.code(), Code::CONFIG_VALUE);
}

#[test]
fn a_job_that_panics_on_a_core_panics_its_caller_and_nobody_else() {
    let Some(dir) = directory() else { return };
    let engine = start(&dir).wait().unwrap();
    engine.wait_ready(READY).wait().unwrap();
    let shard = engine.shard(bowline::ShardId(1)).unwrap();
    let in_call = shard.run_local(|_| -> std::future::Ready<()> { panic!("in the call") });
    let in_task = shard.run_local(async |_| panic!("in the task"));
    for (job, text) in [(in_call, "in the call"), (in_task, "in the task")] {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.wait()));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&text));
    }
    assert!(!engine.is_stopped());
    engine.client().put("k", "v").wait().unwrap();
    engine.stop().wait().unwrap();
}

/// A waker that fails on the thread that wakes: on a core, nothing guards against it.
struct Bomb;

#[expect(clippy::panic, reason = "it is what the test is about")]
impl std::task::Wake for Bomb {
    fn wake(self: std::sync::Arc<Self>) {
        std::panic::panic_any("a waker that panics");
    }
}

#[test]
fn em_05_a_core_that_panics_stops_the_node_and_stop_says_why() {
    let Some(dir) = directory() else { return };
    let path = dir.path().join("data");
    let config = |config: &mut bowline::Config| {
        config.wal.allow_cow = true;
        config.wal.slot_bytes = ByteCount::mib(1);
        config.wal.frame_cap = ByteCount::kib(64);
        config.wal.log_bytes = ByteCount::mib(16);
    };
    let engine = EmbeddedEngine::builder().data_dir(path).shards(2).cores(2).configure(config);
    let engine = engine.start().wait().unwrap();
    engine.wait_ready(READY).wait().unwrap();
    let key = |shard| {
        (0..1_000)
            .map(|n| format!("k{n}"))
            .find(|key| engine.shard_of(key.as_bytes()) == bowline::ShardId(shard))
    };
    let (first, second) = (key(0).unwrap(), key(1).unwrap());
    let mut put = std::pin::pin!(engine.client().put(&first, "v"));
    let waker = std::sync::Arc::new(Bomb).into();
    let polled = put.as_mut().poll(&mut std::task::Context::from_waker(&waker));
    assert!(polled.is_pending());
    let stopped = loop {
        if let Err(error) = engine.client().put(&second, "v").wait() {
            break error;
        }
    };
    assert_eq!(stopped.code(), Code::STOPPED, "{stopped}");
    assert!(engine.is_stopped());
    let why = engine.stop().wait().unwrap_err();
    assert!(why.to_string().contains("a waker that panics"), "{why}");
}

/// Bug: the core ended with the task, the node did not know, and its stop waited for ever.
#[test]
fn em_05_a_task_of_the_application_that_panics_ends_alone() {
    let Some(dir) = directory() else { return };
    let engine = start(&dir).wait().unwrap();
    engine.wait_ready(READY).wait().unwrap();
    let shard = engine.shard(engine.shard_of(b"key")).unwrap();
    let panics = shard.run_local(async |local| {
        local.spawn(async { panic!("in a task of its own") });
    });
    panics.wait().unwrap();
    engine.client().put("key", "value").wait().unwrap();
    assert!(!engine.is_stopped());
    engine.stop().wait().unwrap();
}

/// Bug: a task that slept when its core ended was never dropped, and its caller waited for ever.
#[test]
fn what_sleeps_on_a_core_is_answered_at_the_stop() {
    let Some(dir) = directory() else { return };
    let engine = start(&dir).wait().unwrap();
    engine.wait_ready(READY).wait().unwrap();
    let shard = engine.shard(engine.shard_of(b"key")).unwrap();
    let sleeps = shard.run_local(async |local| {
        local.sleep(Duration::from_hours(1)).await;
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (slept, stopped) = runtime.block_on(async { tokio::join!(sleeps, engine.stop()) });
    stopped.unwrap();
    let error = slept.unwrap_err();
    assert_eq!(error.code(), Code::STOPPED, "{error}");
}
