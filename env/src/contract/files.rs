//! Reading, writing and mapping.

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use bytes::Bytes;

use super::{block_at, filled, kind, poll_once};
use crate::{BLOCK, Class, Dir, Env, File, Kind, Mode, Name};

type FileOf<E> = <E as Env>::File;

/// A new file of `blocks` blocks of zeros.
async fn zeros<E: Env>(env: &E, name: &Name, blocks: usize, mode: Mode) -> FileOf<E> {
    let dir = env.dir();
    dir.create_filled(name, block_at(blocks), 0).await.expect("there is room");
    dir.open(name, mode).await.expect("the file is there")
}

async fn write_then_read<E: Env>(env: E, name: &str, mode: Mode) {
    let file = zeros(&env, &Name::of(name), 8, mode).await;
    assert_eq!(file.block(), BLOCK, "the test's device has blocks of the usual size");
    file.write_at(filled(&env, 2, 7), block_at(3)).await.expect("a write in the file");
    file.sync().await.expect("a sync");
    let found = file.read_at(block_at(2), 4 * BLOCK).await.expect("a read in the file");
    assert_eq!(found.len(), 4 * BLOCK);
    assert!(found[..BLOCK].iter().all(|&byte| byte == 0), "before the write nothing changed");
    assert!(found[BLOCK..3 * BLOCK].iter().all(|&byte| byte == 7), "all of it was written");
    assert!(found[3 * BLOCK..].iter().all(|&byte| byte == 0), "behind the write nothing changed");
    file.close().await.expect("a close");
}

pub(super) async fn a_write_is_read_back<E: Env>(env: E) {
    write_then_read(env, "files-write", Mode::Write).await;
}

pub(super) async fn a_synced_write_is_read_back<E: Env>(env: E) {
    write_then_read(env, "files-synced", Mode::WriteSynced).await;
}

pub(super) async fn many_writes_in_flight_all_complete<E: Env>(env: E) {
    let file = zeros(&env, &Name::of("files-many"), 32, Mode::Write).await;
    let write = |block: usize| {
        let byte = u8::try_from(block + 1).expect("few blocks");
        let (file, buf) = (file.clone(), filled(&env, 1, byte));
        env.spawn(Class::Core, async move { file.write_at(buf, block_at(block)).await })
    };
    let writes: Vec<_> = (0..32).map(write).collect();
    for write in writes {
        write.await.expect("a write in the file");
    }
    let found = file.read_at(0, 32 * BLOCK).await.expect("a read in the file");
    for (block, bytes) in found.chunks(BLOCK).enumerate() {
        assert!(bytes.iter().all(|&byte| usize::from(byte) == block + 1), "block {block}");
    }
    file.close().await.expect("a close");
}

pub(super) async fn a_scratch_buffer_is_whole_after_a_shorter_write<E: Env>(env: E) {
    let file = zeros(&env, &Name::of("files-scratch"), 16, Mode::Write).await;
    for (turn, blocks) in (1..).zip([1, 16, 3, 16]) {
        let mut buf = env.scratch(16 * BLOCK).expect("a pool has room");
        assert!(buf.capacity() >= 16 * BLOCK, "as many bytes as were asked for");
        buf.rest_mut()[..blocks * BLOCK].fill(turn);
        buf.fill(blocks * BLOCK);
        file.write_at(buf.freeze(blocks * BLOCK), 0).await.expect("a write in the file");
        let found = file.read_at(0, blocks * BLOCK).await.expect("a read in the file");
        assert_eq!(found.len(), blocks * BLOCK);
        assert!(found.iter().all(|&byte| byte == turn), "all of it was written");
    }
    file.close().await.expect("a close");
}

pub(super) async fn an_empty_file_reads_as_nothing<E: Env>(env: E) {
    let file = env.dir().create(&Name::of("files-empty"), Mode::Write).await.expect("a new file");
    let found = file.read_at(0, BLOCK).await.expect("a read at the end");
    assert!(found.is_empty(), "nothing is there");
    file.write_at(filled(&env, 1, 1), 0).await.expect("a write that makes the file longer");
    let found = file.read_at(0, BLOCK).await.expect("a read in the file");
    assert_eq!(found.len(), BLOCK);
    file.close().await.expect("a close");
}

pub(super) async fn a_read_is_short_at_the_end_only<E: Env>(env: E) {
    let name = Name::of("files-short");
    let content = Bytes::from(vec![5; BLOCK + 100]);
    env.dir().write_whole(&name, content).await.expect("there is room");
    let file = env.dir().open(&name, Mode::Read).await.expect("the file is there");
    let len = |at, len| {
        let read = file.read_at(at, len);
        async move { read.await.map(|found| found.len()) }
    };
    assert_eq!(len(0, BLOCK).await, Ok(BLOCK));
    assert_eq!(len(0, 4 * BLOCK).await, Ok(BLOCK + 100));
    assert_eq!(len(block_at(1), BLOCK).await, Ok(100));
    assert_eq!(len(block_at(2), BLOCK).await, Ok(0));
    assert_eq!(len(block_at(9), BLOCK).await, Ok(0));
    file.close().await.expect("a close");
}

pub(super) async fn a_read_only_file_is_not_written<E: Env>(env: E) {
    let file = zeros(&env, &Name::of("files-read-only"), 1, Mode::Read).await;
    let written = file.write_at(filled(&env, 1, 1), 0).await;
    assert!(written.is_err(), "a file opened for reading is not written");
    let found = file.read_at(0, BLOCK).await.expect("a read in the file");
    assert!(found.iter().all(|&byte| byte == 0), "nothing changed");
    file.close().await.expect("a close");
}

pub(super) async fn a_dropped_write_poisons<E: Env>(env: E) {
    let file = zeros(&env, &Name::of("files-dropped"), 4, Mode::Write).await;
    {
        let write = file.write_at(filled(&env, 1, 1), 0);
        let mut write = core::pin::pin!(write);
        assert!(poll_once(write.as_mut()).is_pending(), "a write takes time");
    }
    let again = file.write_at(filled(&env, 1, 1), 0).await;
    assert_eq!(kind(again), Some(Kind::Poisoned));
    assert_eq!(kind(file.sync().await), Some(Kind::Poisoned));
    assert_eq!(kind(file.read_at(0, BLOCK).await), Some(Kind::Poisoned));
}

pub(super) async fn misaligned_calls_assert<E: Env>(env: E) {
    let file = zeros(&env, &Name::of("files-align"), 4, Mode::Write).await;
    let refused = |call: &dyn Fn()| catch_unwind(AssertUnwindSafe(call)).is_err();
    assert!(refused(&|| drop(file.read_at(512, BLOCK))), "an offset");
    assert!(refused(&|| drop(file.read_at(0, 512))), "a length");
    assert!(refused(&|| drop(file.write_at(filled(&env, 1, 1), 1))), "an offset");
    let part = filled(&env, 2, 1).slice(0..BLOCK);
    assert!(refused(&|| drop(file.write_at(part.clone(), 0))), "a part of a buffer");
    file.close().await.expect("a close");
}

/// A small file of counted bytes.
async fn counted<E: Env>(env: &E, name: &Name) -> Vec<u8> {
    let content: Vec<u8> = (0..=250).cycle().take(3 * BLOCK + 17).collect();
    let bytes = Bytes::from(content.clone());
    env.dir().write_whole(name, bytes).await.expect("there is room");
    content
}

pub(super) async fn a_mapping_is_the_file<E: Env>(env: E) {
    let name = Name::of("files-map");
    let content = counted(&env, &name).await;
    let whole = env.dir().map(&name, 0, content.len()).await.expect("a range in the file");
    assert_eq!(whole, content);
    let part = env.dir().map(&name, block_at(1), 10).await.expect("a range in the file");
    assert_eq!(part, content[BLOCK..BLOCK + 10]);
}

pub(super) async fn a_mapping_outlives_the_name<E: Env>(env: E) {
    let name = Name::of("files-map-gone");
    let content = counted(&env, &name).await;
    let map = env.dir().map(&name, 0, content.len()).await.expect("a range in the file");
    env.dir().remove(&name).await.expect("the file is there");
    let part = map.slice(100..200);
    drop(map);
    assert_eq!(part, content[100..200]);
}

pub(super) async fn a_mapping_past_the_end_is_an_error<E: Env>(env: E) {
    let name = Name::of("files-map-end");
    let len = counted(&env, &name).await.len();
    let dir = env.dir();
    assert_eq!(kind(dir.map(&name, 0, len + 1).await), Some(Kind::Io));
    assert_eq!(kind(dir.map(&name, block_at(8), 1).await), Some(Kind::Io));
    assert_eq!(kind(dir.map(&Name::of("files-none"), 0, 1).await), Some(Kind::NotFound));
}
