//! Merges hold what their inputs held together; the picker chooses neighbours.

use bowline_env::{Dir as _, Env as _, Name, Nanos};
use bowline_statemachine::merge;
use bowline_statemachine::run::RangeTombstone;
use bowline_statemachine::store::RunVer;

use super::reads::check;
use super::support::*;

fn merged(levels: &[Level], range: core::ops::Range<usize>) -> Level {
    let (newest, oldest) = (&levels[range.start], &levels[range.end - 1]);
    let mut level = Level { min: oldest.min, max: newest.max, ..Level::default() };
    for one in levels[range].iter().rev() {
        level.map.retain(|key, ver| one.tombstone(key) <= ver.mod_index);
        level.map.extend(one.written(false));
        level.ranges.extend(one.ranges.iter().cloned());
    }
    level
}

#[test]
fn a_merge_holds_what_its_inputs_held_together() {
    for seed in 0..5 {
        let resident = if seed % 2 == 0 { BIG } else { 0 };
        with_store(resident, async move |_, store| {
            let mut dice = Dice::new(seed + 100);
            let mut shard = Shard::new(&store);
            let mut levels: Vec<Level> = Vec::new();
            for n in 0..6 {
                let level = Level::random(&mut dice, n * 100 + 1, n * 100 + 100, 150);
                shard.publish(flush(&store, &level, n == 0).await.unwrap());
                levels.insert(0, level);
            }
            let refs: Vec<&Level> = levels.iter().collect();
            let want = state(&refs);
            assert!(shard.state(600).await.unwrap() == want);
            let (start, end) = (dice.below(5), 6);
            let range = start..(start + 2 + dice.below(4)).min(end);
            let model = merged(&levels, range.clone());
            let done = shard.merge(range.clone()).run().await.unwrap();
            assert!(!done.is_flush());
            let section = done.opened.clone().unwrap();
            let bottom = range.end == 6;
            let kept = |(_, ver): &(&Vec<u8>, &_)| -> bool {
                let ver: &RunVer = ver;
                ver.value.is_some() || !bottom
            };
            let map: Map =
                model.map.iter().filter(kept).map(|(k, v)| (k.clone(), v.clone())).collect();
            check(&store, &section, &map, 400).await;
            for n in 0..400 {
                let want = if bottom { 0 } else { model.tombstone(&key(n)) };
                assert_eq!(section.tombstone_index(&key(n)), want, "range over {n}");
            }
            drop(section);
            shard.publish(done);
            assert!(shard.state(600).await.unwrap() == want);
            let all = 0..shard.sections.len();
            let done = shard.merge(all).run().await.unwrap();
            shard.publish(done);
            assert_eq!(shard.sections.len(), 1);
            assert_eq!(shard.sections[0].tombstones(), 0);
            assert!(shard.state(600).await.unwrap() == want);
            store.env().sleep_until(store.env().now().after(Nanos::SECOND)).await;
            let files = store.env().dir().list(Some(&Name::of("runs"))).await.unwrap();
            assert_eq!(files.len(), 1, "merged runs are removed: {files:?}");
            assert_eq!(store.stats().removed_runs, 7);
        });
    }
}

#[test]
fn a_merge_of_nothing_but_deletions_leaves_no_section() {
    with_store(BIG, async move |_, store| {
        let mut dice = Dice::new(3);
        let mut shard = Shard::new(&store);
        let first = Level::random(&mut dice, 1, 100, 50);
        shard.publish(flush(&store, &first, true).await.unwrap());
        let mut second = Level { min: 101, max: 200, ..Level::default() };
        second.ranges.push(RangeTombstone { start: vec![], end: vec![], index: 150 });
        shard.publish(flush(&store, &second, false).await.unwrap());
        assert_eq!(shard.sections[0].tombstones(), 1);
        assert!(shard.state(100).await.unwrap() == state(&[]));
        let done = shard.merge(0..2).run().await.unwrap();
        assert!(done.opened.is_none() && done.add.is_none());
        shard.publish(done);
        assert_eq!((shard.manifest.sections.len(), shard.manifest.flushed_index), (0, 200));
        let third = Level { min: 201, max: 300, ..Level::default() };
        let done = flush(&store, &third, true).await.unwrap();
        assert!(done.opened.is_none());
        shard.publish(done);
        assert_eq!(shard.manifest.flushed_index, 300);
    });
}

#[test]
fn the_picker_takes_neighbours_by_size_number_and_deletions() {
    let candidate = |mib: u64, puts, tombstones| merge::Candidate {
        len: mib << 20,
        puts,
        tombstones,
        damaged: false,
    };
    let plain = |mib| candidate(mib, 100, 0);
    let sizes = |list: &[u64]| list.iter().map(|mib| plain(*mib)).collect::<Vec<_>>();
    assert_eq!(merge::pick_of(&[]), None);
    assert_eq!(merge::pick_of(&sizes(&[1, 2, 3])), None);
    assert_eq!(merge::pick_of(&sizes(&[1, 2, 3, 9])), Some(0..4), "all below 16 MiB");
    assert_eq!(merge::pick_of(&sizes(&[1, 2, 3, 20, 30, 40, 50])), Some(3..7));
    assert_eq!(merge::pick_of(&sizes(&[1, 1, 1, 100, 1, 1, 1])), None);
    let many = sizes(&[1, 500, 1, 500, 1, 1, 1, 500, 1_000]);
    assert_eq!(merge::pick_of(&many), Some(2..6), "9 sections become 6, at the least cost");
    let mut damaged = many;
    damaged[4].damaged = true;
    assert_eq!(merge::pick_of(&damaged), Some(0..4));
    for section in &mut damaged {
        section.damaged = true;
    }
    assert_eq!(merge::pick_of(&damaged), None);
    let dead = [plain(1), candidate(1, 0, 90), plain(64)];
    assert_eq!(merge::pick_of(&dead), Some(1..3), "deletions go with the oldest");
    assert_eq!(merge::pick_of(&[candidate(1, 60, 40)]), Some(0..1));
    assert_eq!(merge::pick_of(&[candidate(1, 70, 30)]), None, "30 % is not over 30 %");
}
