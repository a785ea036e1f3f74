//! The production machine: files and names on a real disk.
#![cfg(feature = "glommio")]
#![expect(closure_returning_async_block, reason = "a core's main is a closure giving a future")]

#[path = "shared/node.rs"]
mod node;

use core::cell::Cell;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use bowline_env::glommio::{GlommioEnv, GlommioFactory};
use bowline_env::{
    BLOCK, Class, CoreOptions, Dir, Env, EnvFactory, File, Kind, Mode, Name, Nanos, SharedBuf,
};
use bytes::Bytes;
use node::{directory, kind, on_core, options};

fn filled(env: &GlommioEnv, byte: u8, blocks: usize) -> SharedBuf {
    let mut buf = env.buffer(blocks * BLOCK).expect("the pool has room");
    buf.rest_mut().fill(byte);
    buf.freeze(blocks * BLOCK)
}

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn dk_11_the_first_open_of_an_empty_file_is_harmless() {
    on_core(|env| async move {
        let name = Name::of("empty");
        let file = env.dir().create(&name, Mode::WriteSynced).await.unwrap();
        assert_eq!(file.read_at(0, BLOCK).await.unwrap().len(), 0);
        file.write_at(filled(&env, 3, 2), 0).await.unwrap();
        let back = file.read_at(0, 4 * BLOCK).await.unwrap();
        assert_eq!(&*back, &[3; 2 * BLOCK]);
        file.close().await.unwrap();
    });
}

async fn names_and_files(env: GlommioEnv) {
    let (dir, sub) = (env.dir(), Name::of("stream-00"));
    dir.make_dir(&sub).await.expect("made");
    dir.make_dir(&sub).await.expect("there already");
    let name = sub.join("slot");
    dir.create_filled(&name, 5 << 20, 0).await.expect("there is room");
    assert_eq!(kind(dir.create_filled(&name, 4096, 0).await), Kind::Exists);
    let listed = dir.list(Some(&sub)).await.expect("listed");
    assert_eq!(listed, [(name.clone(), 5 << 20)]);
    let top = dir.list(None).await.expect("listed");
    assert!(top.iter().all(|(name, _)| *name != sub), "a directory has no entry");
    writes_and_reads(&env, &name).await;
    let to = sub.join("other");
    dir.rename(&name, &to).await.expect("renamed");
    dir.sync(Some(&sub)).await.expect("synced");
    assert_eq!(kind(dir.open(&name, Mode::Read).await), Kind::NotFound);
    dir.remove(&to).await.expect("removed");
    assert_eq!(kind(dir.remove(&to).await), Kind::NotFound);
    assert!(dir.free_space().await.expect("known") > 0);
}

async fn writes_and_reads(env: &GlommioEnv, name: &Name) {
    let file = env.dir().open(name, Mode::Write).await.expect("it is there");
    let other = filled(env, 9, 1);
    file.write_at(other.clone(), 4096).await.expect("written");
    file.write_at(other, 3 * 4096).await.expect("written");
    let mut heap = bowline_env::Buf::heap(BLOCK);
    heap.rest_mut().fill(5);
    file.write_at(heap.freeze(BLOCK), 0).await.expect("written");
    file.sync().await.expect("synced");
    let back = file.read_at(0, 4 * BLOCK).await.expect("read");
    for (block, byte) in [5, 9, 0, 9].into_iter().enumerate() {
        assert_eq!(back[block * BLOCK..(block + 1) * BLOCK], [byte; BLOCK], "block {block}");
    }
    let reader = env.dir().open(name, Mode::Read).await.expect("it is there");
    reader.write_at(filled(env, 1, 1), 0).await.expect_err("a reader does not write");
    file.close().await.expect("closed");
}

#[test]
fn what_is_written_is_read_directly() {
    on_core(names_and_files);
}

#[test]
fn dk_11_what_is_written_is_read_without_direct_io() {
    let dir = directory();
    let factory = GlommioFactory::new(dir.path());
    let options = CoreOptions { direct_io: false, ..options(&factory) };
    let core = factory.spawn_core(options, names_and_files).expect("the core starts");
    core.join().expect("the core ends well");
}

#[test]
fn small_files_are_replaced_as_a_whole() {
    on_core(|env| async move {
        let (dir, name) = (env.dir(), Name::of("NODE"));
        assert_eq!(kind(dir.read_whole(&name, 10).await), Kind::NotFound);
        for content in [&b"first"[..], b"", b"third"] {
            dir.write_whole(&name, Bytes::from_static(content)).await.unwrap();
            assert_eq!(dir.read_whole(&name, 5).await.unwrap(), content);
        }
        assert_eq!(kind(dir.read_whole(&name, 4).await), Kind::Limit);
    });
}

#[test]
fn a_mapping_is_checked_and_outlives_its_core() {
    let kept = Arc::new(std::sync::OnceLock::new());
    let keep = Arc::clone(&kept);
    on_core(|env| async move {
        let (dir, name) = (env.dir(), Name::of("run"));
        let content: Vec<u8> = (0..3 * BLOCK).map(|at| u8::try_from(at % 251).unwrap()).collect();
        dir.write_whole(&name, Bytes::from(content.clone())).await.unwrap();
        let map = dir.map(&name, 4096, BLOCK + 10).await.unwrap();
        assert_eq!(map[..], content[BLOCK..2 * BLOCK + 10]);
        assert!(dir.map(&name, 0, 0).await.unwrap().is_empty());
        assert_eq!(kind(dir.map(&name, 4096, 2 * BLOCK + 1).await), Kind::Io);
        assert_eq!(kind(dir.map(&Name::of("none"), 0, 1).await), Kind::NotFound);
        dir.remove(&name).await.unwrap();
        keep.set((map, content)).unwrap();
    });
    let (map, content) = kept.get().unwrap();
    assert_eq!(map[..], content[BLOCK..2 * BLOCK + 10]);
}

#[test]
fn sc_05_a_link_is_not_followed() {
    let dir = directory();
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("sub")).unwrap();
    let factory = GlommioFactory::new(dir.path());
    let core = factory.spawn_core(options(&factory), |env| async move {
        let (link, sub) = (Name::of("link"), Name::of("sub/hostname"));
        assert!(env.dir().open(&link, Mode::Read).await.is_err());
        assert!(env.dir().read_whole(&link, 1 << 20).await.is_err());
        assert!(env.dir().map(&link, 0, 1).await.is_err());
        assert!(env.dir().open(&sub, Mode::Read).await.is_err());
        assert!(env.dir().list(None).await.unwrap().iter().all(|(name, _)| *name != link));
    });
    core.expect("the core starts").join().expect("the core ends well");
}

/// Trap 3: a loop that yields sees no completion; one that breathes does.
#[test]
fn a_breathing_core_sees_a_disk_completion() {
    on_core(|env| async move {
        let name = Name::of("busy");
        let file = env.dir().create(&name, Mode::WriteSynced).await.unwrap();
        for round in 0..20 {
            let done = Rc::new(Cell::new(false));
            let write = file.write_at(filled(&env, round, 1), 0);
            let told = Rc::clone(&done);
            let task = env.spawn(Class::Core, async move {
                write.await.unwrap();
                told.set(true);
            });
            let limit = env.now().after(Nanos::SECOND);
            while !done.get() && env.now() < limit {
                env.breathe().await;
            }
            assert!(done.get(), "round {round}");
            task.await;
        }
    });
}

/// Trap 7.
#[test]
fn a_misaligned_call_asserts() {
    on_core(|env| async move {
        let file = env.dir().create(&Name::of("aligned"), Mode::Write).await.unwrap();
        let write =
            |at| catch_unwind(AssertUnwindSafe(|| drop(file.write_at(filled(&env, 1, 1), at))));
        let read = |at, len| catch_unwind(AssertUnwindSafe(|| drop(file.read_at(at, len))));
        assert!(write(4096).is_ok());
        assert!(write(512).is_err());
        assert!(read(4096, BLOCK).is_ok());
        assert!(read(1, BLOCK).is_err());
        assert!(read(0, 512).is_err());
        assert!(read(0, 0).is_err());
    });
}

/// Trap 10.
#[test]
fn a_dropped_write_poisons_its_file() {
    on_core(|env| async move {
        let file = env.dir().create(&Name::of("dropped"), Mode::WriteSynced).await.unwrap();
        drop(file.write_at(filled(&env, 1, 1), 0));
        file.write_at(filled(&env, 2, 1), 0).await.expect("a write that never began harms nothing");
        assert!(poll_once(file.write_at(filled(&env, 3, 1), 0)).is_pending());
        assert_eq!(kind(file.write_at(filled(&env, 4, 1), 0).await), Kind::Poisoned);
        assert_eq!(kind(file.sync().await), Kind::Poisoned);
        assert_eq!(kind(file.read_at(0, BLOCK).await), Kind::Poisoned);
        file.close().await.unwrap();
    });
}

/// Trap 14: glommio asks by path after the open, and panics if the path is gone.
#[test]
fn an_open_that_races_a_rename_is_an_answer() {
    on_core(|env| async move {
        let (one, two) = (Name::of("one"), Name::of("two"));
        env.dir().create(&one, Mode::Write).await.unwrap().close().await.unwrap();
        let dir = env.dir().clone();
        let (from, to) = (one.clone(), two.clone());
        let task = env.spawn(Class::Core, async move {
            for _ in 0..200 {
                dir.rename(&from, &to).await.unwrap();
                dir.rename(&to, &from).await.unwrap();
            }
        });
        let mut opened = 0;
        for _ in 0..400 {
            match env.dir().open(&one, Mode::Read).await {
                Ok(file) => {
                    opened += 1;
                    file.close().await.unwrap();
                },
                Err(error) => assert_eq!(error.kind, Kind::NotFound),
            }
        }
        task.await;
        assert!(opened > 0, "the file is there half of the time");
    });
}
