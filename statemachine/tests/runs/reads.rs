//! What was flushed is read again: resident, cold, by point and by cursor.

use std::rc::Rc;

use bowline_env::sim::SimEnv;
use bowline_env::{Env as _, Nanos};
use bowline_statemachine::run::Direction;
use bowline_statemachine::store::{
    FlushBody, FlushInput, Job, Pins, Point, RunVer, Section, Store,
};
use bytes::Bytes;

use super::support::*;

/// Every way to read a section gives what the model has.
pub(crate) async fn check(
    store: &Rc<Store<SimEnv>>,
    section: &Rc<Section<SimEnv>>,
    want: &Map,
    keys: usize,
) {
    for n in 0..keys {
        let key = key(n);
        assert_eq!(point(store, section, &key).await.unwrap().as_ref(), want.get(&key), "{n}");
    }
    let all = entries(want);
    assert_eq!(walk(store, section, None, Direction::Forward).await.unwrap(), all);
    let mut back = walk(store, section, None, Direction::Reverse).await.unwrap();
    back.reverse();
    assert_eq!(back, all);
}

/// Cursors from any bound give what the model has behind it.
async fn check_bounds(store: &Rc<Store<SimEnv>>, section: &Rc<Section<SimEnv>>, want: &Map) {
    let bounds = (0..12).map(|n| key(n * 61)).chain([b"zzz".to_vec(), b"table".to_vec()]);
    for bound in bounds {
        let after: Vec<Entry> =
            want.range(bound.clone()..).map(|(k, v)| (k.clone(), v.clone())).collect();
        let got = walk(store, section, Some(&bound), Direction::Forward).await.unwrap();
        assert_eq!(got, after);
        let before: Vec<Entry> =
            want.range(..bound.clone()).rev().map(|(k, v)| (k.clone(), v.clone())).collect();
        let got = walk(store, section, Some(&bound), Direction::Reverse).await.unwrap();
        assert_eq!(got, before);
    }
}

#[test]
fn what_is_flushed_is_read_again_resident_and_cold() {
    for seed in 0..4 {
        for resident in [BIG, 0] {
            with_store(resident, async move |_, store| {
                let mut dice = Dice::new(seed);
                let keys = 40 + 100 * dice.below(4);
                let level = Level::random(&mut dice, 1, 500, keys);
                let done = flush(&store, &level, false).await.unwrap();
                let section = done.opened.clone().unwrap();
                assert_eq!(section.is_resident(), resident > 0);
                assert_eq!(section.ranges(), &level.ranges[..]);
                assert_eq!((section.min_index(), section.max_index()), (1, 500));
                let want = level.written(false);
                check(&store, &section, &want, 1_000).await;
                check_bounds(&store, &section, &want).await;
                assert_eq!(store.stats().cold_reads > 0, resident == 0);
            });
        }
    }
}

#[test]
fn a_cold_section_answers_as_the_resident_one() {
    with_store(BIG, async move |_, store| {
        let level = Level::random(&mut Dice::new(9), 1, 900, 400);
        let done = flush(&store, &level, false).await.unwrap();
        let (mapped, at) = (done.opened.clone().unwrap(), done.add.unwrap());
        let cold_store = Store::new(store.env().clone(), options(0));
        let cold = cold_store.open_section(SHARD, &at).await.unwrap();
        assert!(mapped.is_resident() && !cold.is_resident());
        for n in 0..1_000 {
            let key = key(n);
            let want = point(&store, &mapped, &key).await.unwrap();
            assert_eq!(point(&cold_store, &cold, &key).await.unwrap(), want);
            assert_eq!(mapped.tombstone_index(&key), cold.tombstone_index(&key));
        }
        let want = walk(&store, &mapped, None, Direction::Forward).await.unwrap();
        assert_eq!(walk(&cold_store, &cold, None, Direction::Forward).await.unwrap(), want);
        let stats = cold_store.stats();
        assert!(stats.page_cache_bytes > 0 && stats.resident_bytes == 0);
    });
}

#[test]
fn a_page_is_read_once_while_the_cache_holds_it() {
    with_store(0, async move |_, store| {
        let level = Level::random(&mut Dice::new(9), 1, 900, 300);
        let done = flush(&store, &level, false).await.unwrap();
        let section = done.opened.clone().unwrap();
        let small = level
            .written(false)
            .into_iter()
            .filter(|(_, ver)| ver.value.as_ref().is_none_or(|value| value.len() <= 1_024));
        let small: Vec<Entry> = small.collect();
        for (key, ver) in &small {
            assert_eq!(point(&store, &section, key).await.unwrap().as_ref(), Some(ver));
        }
        let reads = store.stats().cold_reads;
        for (key, ver) in &small {
            assert_eq!(point(&store, &section, key).await.unwrap().as_ref(), Some(ver));
        }
        assert_eq!(store.stats().cold_reads, reads);
    });
}

#[test]
fn the_head_of_a_version_needs_no_value() {
    with_store(0, async move |_, store| {
        let mut level = Level { min: 1, max: 9, ..Level::default() };
        let large = Bytes::from(vec![1; 50_000]);
        let ver = RunVer { mod_index: 4, expiry_ms: 0, value: Some(large) };
        level.map.insert(b"k".to_vec(), ver);
        let done = flush(&store, &level, true).await.unwrap();
        let section = done.opened.clone().unwrap();
        let mut pins = Pins::new();
        let Point::Cold(read) = section.head(b"k", &pins) else { panic!("the page is cold") };
        store.load(vec![read, read], &mut pins).await.unwrap();
        assert_eq!((pins.count(), pins.bytes()), (1, 4_096));
        assert!(matches!(section.head(b"k", &pins), Point::Hit(ver) if ver.mod_index == 4));
        assert!(matches!(section.point(b"k", &pins), Point::Cold(_)));
    });
}

#[test]
fn a_snapshot_of_a_users_machine_comes_back_whole() {
    with_store(BIG, async move |_, store| {
        for len in [0, 1, 4_096, 3_000_001] {
            let body = Dice::new(5).bytes(len);
            let chunks: Vec<Bytes> = body.chunks(70_000).map(Bytes::copy_from_slice).collect();
            let input = FlushInput {
                min_index: 1,
                flushed: flushed(9),
                bottom: true,
                drop: vec![],
                body: FlushBody::Blob(Box::pin(async move { Ok(chunks) })),
            };
            let done = Job::flush(&store, SHARD, 3, input).run().await.unwrap();
            assert_eq!(done.epoch, 3);
            let section = done.opened.clone().unwrap();
            assert!(section.is_blob() && !section.is_resident());
            assert_eq!(store.blob(&section).await.unwrap(), body);
        }
    });
}

#[test]
fn a_value_outlives_its_run() {
    with_store(BIG, async move |_, store| {
        let mut shard = Shard::new(&store);
        let level = Level::random(&mut Dice::new(8), 1, 100, 200);
        shard.publish(flush(&store, &level, true).await.unwrap());
        let large = level
            .written(true)
            .into_iter()
            .find(|(_, ver)| ver.value.as_ref().is_some_and(|value| value.len() > 4_096));
        let (key, ver) = large.unwrap();
        let Point::Hit(held) = shard.sections[0].point(&key, &Pins::new()) else {
            panic!("a resident section answers at once")
        };
        let reader = Rc::clone(&shard.sections[0]);
        let second = Level::random(&mut Dice::new(9), 101, 200, 20);
        shard.publish(flush(&store, &second, false).await.unwrap());
        let done = shard.merge(0..2).run().await.unwrap();
        shard.publish(done);
        let wait = async || store.env().sleep_until(store.env().now().after(Nanos::SECOND)).await;
        wait().await;
        assert_eq!((store.stats().dying_runs, store.stats().removed_runs), (1, 1));
        drop(reader);
        wait().await;
        assert_eq!((store.stats().dying_runs, store.stats().removed_runs), (0, 2));
        assert_eq!(held.value, ver.value);
    });
}

#[test]
fn newer_sections_take_the_place_of_older_ones_in_memory() {
    with_store(1 << 20, async move |_, store| {
        let mut shard = Shard::new(&store);
        for n in 0..6 {
            let level = Level::random(&mut Dice::new(n), n * 100 + 1, n * 100 + 100, 60);
            shard.publish(flush(&store, &level, n == 0).await.unwrap());
            let stats = store.stats();
            assert!(stats.resident_bytes <= 1 << 20, "{stats:?}");
            let newest = &shard.sections[0];
            assert_eq!(newest.is_resident(), newest.len() <= 1 << 20);
        }
        assert!(shard.sections.iter().any(|section| !section.is_resident()));
        let keys = shard.state(300).await.unwrap().len();
        assert!(keys > 20);
        drop(shard);
        assert_eq!((store.stats().resident_bytes, store.stats().sections), (0, 0));
        assert_eq!(store.stats().page_cache_bytes, 0);
    });
}
