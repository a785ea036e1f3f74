//! Names: creating, filling, replacing, renaming, removing, listing.

use bytes::Bytes;

use super::{block_at, filled, kind};
use crate::{BLOCK, Dir, Env, EnvError, File, Kind, Mode, Name};

/// A sub-directory of its own for one check.
async fn sub<E: Env>(env: &E, name: &str) -> Name {
    let dir = Name::of(name);
    env.dir().make_dir(&dir).await.expect("there is room");
    env.dir().make_dir(&dir).await.expect("one that exists is fine");
    dir
}

async fn put<E: Env>(env: &E, name: &Name, content: &'static [u8]) {
    env.dir().write_whole(name, Bytes::from_static(content)).await.expect("there is room");
}

async fn read<E: Env>(env: &E, name: &Name) -> Result<Bytes, EnvError> {
    env.dir().read_whole(name, 1 << 20).await
}

pub(super) async fn opening_nothing_is_not_found<E: Env>(env: E) {
    let dir = env.dir();
    let missing = Name::of("names-none");
    let error = dir.open(&missing, Mode::Read).await.map(|_| ()).expect_err("no such file");
    assert_eq!((error.kind, error.name.as_ref()), (Kind::NotFound, Some(&missing)));
    assert_eq!(kind(read(&env, &missing).await), Some(Kind::NotFound));
    let nowhere = Name::of("names-nowhere/file");
    assert_eq!(kind(dir.open(&nowhere, Mode::Read).await), Some(Kind::NotFound));
    assert_eq!(kind(dir.create(&nowhere, Mode::Write).await), Some(Kind::NotFound));
    assert_eq!(kind(dir.create_filled(&nowhere, 4096, 0).await), Some(Kind::NotFound));
    assert_eq!(kind(dir.list(Some(&Name::of("names-nowhere"))).await), Some(Kind::NotFound));
    assert_eq!(kind(dir.sync(Some(&Name::of("names-nowhere"))).await), Some(Kind::NotFound));
}

pub(super) async fn creating_twice_says_it_exists<E: Env>(env: E) {
    let name = Name::of("names-twice");
    let file = env.dir().create(&name, Mode::Write).await.expect("a new file");
    file.close().await.expect("a close");
    assert_eq!(kind(env.dir().create(&name, Mode::Write).await), Some(Kind::Exists));
    env.dir().sync(None).await.expect("a sync of the directory");
}

pub(super) async fn a_filled_file_is_all_zeros<E: Env>(env: E) {
    let name = sub(&env, "names-filled").await.join("a");
    env.dir().create_filled(&name, block_at(16), 0).await.expect("there is room");
    let found = read(&env, &name).await.expect("the file is there");
    assert_eq!(found.len(), 16 * BLOCK);
    assert!(found.iter().all(|&byte| byte == 0));
    let begun = env.now();
    let paced = name.dir().expect("it lies in a directory").join("paced");
    env.dir().create_filled(&paced, block_at(16), 1 << 20).await.expect("there is room");
    let took = env.now().since(begun);
    assert!(took.0 >= 50_000_000, "64 KiB at 1 MiB a second took {} ns", took.0);
}

pub(super) async fn filling_a_name_that_exists_changes_nothing<E: Env>(env: E) {
    let dir = sub(&env, "names-fill-twice").await;
    let name = dir.join("a");
    put(&env, &name, b"old").await;
    let filled = env.dir().create_filled(&name, block_at(1), 0).await;
    assert_eq!(kind(filled), Some(Kind::Exists));
    assert_eq!(read(&env, &name).await.expect("the file is there"), &b"old"[..]);
    let listed = env.dir().list(Some(&dir)).await.expect("the directory is there");
    assert_eq!(listed, [(name, 3)], "nothing is left behind");
}

pub(super) async fn a_small_file_is_replaced_as_a_whole<E: Env>(env: E) {
    let name = Name::of("names-whole");
    put(&env, &name, b"a longer content").await;
    put(&env, &name, b"short").await;
    assert_eq!(read(&env, &name).await.expect("the file is there"), &b"short"[..]);
    put(&env, &name, b"").await;
    assert_eq!(read(&env, &name).await.expect("the file is there"), &b""[..]);
}

pub(super) async fn a_small_file_has_a_bound<E: Env>(env: E) {
    let name = Name::of("names-bound");
    put(&env, &name, b"12345").await;
    assert!(env.dir().read_whole(&name, 5).await.is_ok());
    assert_eq!(kind(env.dir().read_whole(&name, 4).await), Some(Kind::Limit));
}

pub(super) async fn a_rename_replaces_its_target<E: Env>(env: E) {
    let dir = sub(&env, "names-rename").await;
    let (a, b) = (dir.join("a"), dir.join("b"));
    put(&env, &a, b"a").await;
    put(&env, &b, b"b").await;
    env.dir().rename(&a, &b).await.expect("the file is there");
    env.dir().sync(Some(&dir)).await.expect("a sync of the directory");
    assert_eq!(read(&env, &b).await.expect("the file is there"), &b"a"[..]);
    assert_eq!(kind(read(&env, &a).await), Some(Kind::NotFound));
    assert_eq!(kind(env.dir().rename(&a, &b).await), Some(Kind::NotFound));
}

pub(super) async fn a_removed_name_is_gone<E: Env>(env: E) {
    let name = Name::of("names-removed");
    put(&env, &name, b"x").await;
    env.dir().remove(&name).await.expect("the file is there");
    assert_eq!(kind(read(&env, &name).await), Some(Kind::NotFound));
    assert_eq!(kind(env.dir().remove(&name).await), Some(Kind::NotFound));
    let file = env.dir().create(&name, Mode::Write).await.expect("the name is free again");
    file.close().await.expect("a close");
}

pub(super) async fn a_directory_lists_its_files_in_order<E: Env>(env: E) {
    let dir = sub(&env, "names-list").await;
    let (a, b, c) = (dir.join("a"), dir.join("b.run"), dir.join("c"));
    put(&env, &b, b"22").await;
    put(&env, &a, b"1").await;
    env.dir().create_filled(&c, block_at(2), 0).await.expect("there is room");
    let listed = env.dir().list(Some(&dir)).await.expect("the directory is there");
    assert_eq!(listed, [(a, 1), (b, 2), (c, block_at(2))]);
    let root = env.dir().list(None).await.expect("the data directory is there");
    assert!(root.iter().all(|(name, _)| *name != dir), "sub-directories have no entry");
    assert!(root.iter().all(|(name, _)| name.dir().is_none()), "one directory is listed");
    assert!(root.windows(2).all(|pair| pair[0].0 < pair[1].0), "names are sorted");
}

pub(super) async fn an_open_file_outlives_its_name<E: Env>(env: E) {
    let name = Name::of("names-outlived");
    env.dir().create_filled(&name, block_at(2), 0).await.expect("there is room");
    let file = env.dir().open(&name, Mode::Write).await.expect("the file is there");
    env.dir().remove(&name).await.expect("the file is there");
    file.write_at(filled(&env, 1, 3), block_at(1)).await.expect("a write in the file");
    file.sync().await.expect("a sync");
    let found = file.read_at(block_at(1), BLOCK).await.expect("a read in the file");
    assert!(found.iter().all(|&byte| byte == 3));
    file.close().await.expect("a close");
}

pub(super) async fn free_space_is_known<E: Env>(env: E) {
    assert!(env.dir().free_space().await.expect("the file system answers") > 0);
}
