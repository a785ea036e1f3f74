//! Every kind of damage is told, and by the area it is in.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bowline_env::sim::SimEnv;
use bowline_env::{Dir as _, Env as _, Kind, Name, Nanos};
use bowline_statemachine::manifest::SectionRef;
use bowline_statemachine::run::Direction;
use bowline_statemachine::store::{JobError, Store};
use bowline_statemachine::{Area, Damage, OpenFailure, merge};

use super::support::*;

/// Reads all of a run without memory of it: what opens and what every read says.
async fn read_all(store: &Rc<Store<SimEnv>>, at: &SectionRef) -> Result<Vec<Entry>, Damage> {
    let section = match store.open_section(SHARD, at).await {
        Ok(section) => section,
        Err(OpenFailure::Damaged(damage)) => return Err(damage),
        Err(other) => panic!("{other}"),
    };
    walk(store, &section, None, Direction::Forward).await
}

fn area_of(damage: &Damage) -> Area {
    let Damage::Run { shard: SHARD, area, .. } = damage else { panic!("{damage}") };
    *area
}

/// None: it takes longer than a minute.
async fn timeout<T>(env: &SimEnv, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut timer = pin!(env.sleep_until(env.now().after(Nanos(60 * Nanos::SECOND.0))));
    poll_fn(|cx| match (work.as_mut().poll(cx), timer.as_mut().poll(cx)) {
        (Poll::Ready(done), _) => Poll::Ready(Some(done)),
        (Poll::Pending, Poll::Ready(())) => Poll::Ready(None),
        (Poll::Pending, Poll::Pending) => Poll::Pending,
    })
    .await
}

/// One bit of every byte class: fixed blocks whole, everything else in steps.
#[test]
fn bitrot_every_area_detected() {
    with_store(0, async move |world, store| {
        let mut level = Level::small(&mut Dice::new(4), 1, 900, 120);
        level.ranges = Level::random(&mut Dice::new(14), 1, 900, 1).ranges;
        let done = flush(&store, &level, false).await.unwrap();
        let at = done.add.unwrap();
        drop(done);
        let want = entries(&level.written(false));
        let name = run_file(&at);
        let whole = world.disk(1).durable(&name).unwrap();
        let mut seen = BTreeSet::new();
        let (mut silent, mut flips) = (0, 0);
        let ends = usize::try_from(at.len).unwrap();
        let offsets = (0..4_096)
            .step_by(67)
            .chain((4_096..ends - 4_096).step_by(211))
            .chain((ends - 4_096 - 5 * 4_096..whole.len()).step_by(67))
            .chain([4_095, 4_096, whole.len() - 1]);
        for (n, byte) in offsets.enumerate() {
            let bit = u32::try_from(n % 8).unwrap();
            flips += 1;
            assert!(world.disk(1).flip_bit(&name, byte as u64, bit));
            match read_all(&store, &at).await {
                Ok(got) => {
                    // Only what no reader looks at, behind the last value or page of an extent.
                    assert_eq!(got, want, "byte {byte}");
                    assert!((4_096..ends).contains(&byte), "byte {byte} is looked at");
                    silent += 1;
                    let mapped = Store::new(store.env().clone(), options(BIG));
                    let section = mapped.open_section(SHARD, &at).await.unwrap();
                    assert!(section.is_damaged() && !section.is_resident(), "byte {byte}");
                },
                Err(damage) => drop(seen.insert(
                    format!("{:?}", area_of(&damage)).split('(').next().unwrap().to_owned(),
                )),
            }
            world.disk(1).flip_bit(&name, byte as u64, bit);
        }
        let all: Vec<&str> = seen.iter().map(String::as_str).collect();
        let classes =
            ["Chunks", "Expiry", "Header", "Index", "Page", "Ranges", "Table", "Trailer", "Value"];
        assert_eq!(all, classes);
        assert!(silent * 5 < flips, "{silent} bytes of {flips} are looked at by no reader");
        assert_eq!(read_all(&store, &at).await.unwrap(), want);
    });
}

/// Bug: a run that could not be opened for want of a file descriptor was taken for a damaged one.
#[test]
fn a_run_is_not_damaged_because_there_is_no_file_descriptor() {
    with_store(0, async move |world, store| {
        let level = Level::random(&mut Dice::new(4), 1, 900, 250);
        let done = flush(&store, &level, false).await.unwrap();
        let at = done.add.unwrap();
        drop(done);
        for kind in [Kind::Limit, Kind::NoMemory] {
            let anew = Store::new(store.env().clone(), options(0));
            for nth in 1..=3 {
                world.disk(1).fail_open(nth, kind);
            }
            let before = store.env().now();
            assert_eq!(read_all(&anew, &at).await.unwrap(), entries(&level.written(false)));
            let waited = store.env().now().since(before);
            assert!(waited >= Nanos::from_millis(1 + 2 + 4), "three tries failed: {waited:?}");
        }
    });
}

/// Bug: the copy of a damaged section that was received and given up again took the section's name
/// along: its pages were asked for again and again, and never came.
#[test]
fn a_copy_that_is_given_up_takes_nothing_from_the_section() {
    with_store(0, async move |world, store| {
        let level = Level::random(&mut Dice::new(4), 1, 900, 250);
        let done = flush(&store, &level, false).await.unwrap();
        let at = done.add.unwrap();
        drop(done);
        let section = store.open_section(SHARD, &at).await.unwrap();
        let flip = || world.disk(1).flip_bit(&run_file(&at), 4_096 + 200, 3);
        flip();
        walk(&store, &section, None, Direction::Forward).await.unwrap_err();
        flip();
        let copy = store.open_section(SHARD, &at).await.unwrap();
        assert!(section.is_damaged() && !copy.is_damaged());
        drop(copy);
        let walked = walk(&store, &section, None, Direction::Forward);
        let got = timeout(store.env(), walked).await.expect("its pages come");
        assert_eq!(got.unwrap(), entries(&level.written(false)));
    });
}

#[test]
fn rot_below_a_mapping_leaves_the_section_cold_and_marked() {
    with_store(BIG, async move |world, store| {
        let level = Level::random(&mut Dice::new(4), 1, 900, 250);
        let done = flush(&store, &level, false).await.unwrap();
        let at = done.add.unwrap();
        drop(done);
        world.disk(1).flip_bit(&run_file(&at), 4_096 + 200, 3);
        let section = store.open_section(SHARD, &at).await.unwrap();
        assert!(section.is_damaged() && !section.is_resident());
        let (mut good, mut bad) = (0, 0);
        for (key, ver) in level.written(false) {
            match point(&store, &section, &key).await {
                Ok(got) => {
                    assert_eq!(got, Some(ver));
                    good += 1;
                },
                Err(damage) => {
                    assert_eq!(area_of(&damage), Area::Page(0));
                    bad += 1;
                },
            }
        }
        assert!(good > 100 && bad > 0, "{good} good, {bad} bad");
        assert_eq!(merge::pick(&[section]), None);
    });
}

#[test]
fn a_damaged_input_ends_a_merge_and_is_marked() {
    with_store(0, async move |world, store| {
        let mut dice = Dice::new(1);
        let mut shard = Shard::new(&store);
        for n in 0..2 {
            let level = Level::random(&mut dice, n * 100 + 1, n * 100 + 100, 100);
            shard.publish(flush(&store, &level, n == 0).await.unwrap());
        }
        let at = shard.sections[1].place();
        world.disk(1).flip_bit(&run_file(&at), 4_096 + 100, 1);
        let error = shard.merge(0..2).run().await.unwrap_err();
        let JobError::Damaged(damage) = error else { panic!("{error}") };
        assert!(matches!(area_of(&damage), Area::Page(0) | Area::Value(0)), "{damage}");
        assert!(shard.sections[1].is_damaged() && !shard.sections[0].is_damaged());
        let files = store.env().dir().list(Some(&Name::of("runs"))).await.unwrap();
        assert_eq!(files.len(), 2, "nothing of the merge is left");
    });
}

#[test]
fn a_read_that_fails_once_is_not_damage_and_one_that_fails_again_is() {
    with_store(0, async move |world, store| {
        let level = Level::random(&mut Dice::new(4), 1, 900, 100);
        let done = flush(&store, &level, false).await.unwrap();
        let section = done.opened.clone().unwrap();
        let (key, ver) = entries(&level.written(false)).swap_remove(20);
        world.disk(1).stale_read(1);
        assert_eq!(point(&store, &section, &key).await.unwrap(), Some(ver));
        assert!(!section.is_damaged());
        let place = section.place();
        let (from, to) = (place.off, place.off + place.len - 4_096);
        let cold = Store::new(store.env().clone(), options(0));
        let section = cold.open_section(SHARD, &place).await.unwrap();
        world.disk(1).unreadable(&run_file(&place), from..to);
        let damage = point(&cold, &section, &key).await.unwrap_err();
        assert!(matches!(area_of(&damage), Area::Page(_)), "{damage}");
        assert!(section.is_damaged());
    });
}

#[test]
fn dk_07_a_missing_or_cut_run_is_damaged() {
    with_store(BIG, async move |world, store| {
        let level = Level::random(&mut Dice::new(4), 1, 900, 100);
        let at = flush(&store, &level, false).await.unwrap().add.unwrap();
        let whole = world.disk(1).durable(&run_file(&at)).unwrap();
        for keep in [0, 4_096, whole.len() / 2 / 4_096 * 4_096, whole.len() - 4_096] {
            world.disk(1).place(&run_file(&at), &whole[..keep]);
            let damage = read_all(&store, &at).await.unwrap_err();
            assert_eq!(area_of(&damage), Area::File, "cut at {keep}");
        }
        world.disk(1).take_away(&run_file(&at));
        let fresh = Store::new(store.env().clone(), options(BIG));
        assert_eq!(area_of(&read_all(&fresh, &at).await.unwrap_err()), Area::File);
        let foreign = SectionRef { off: 0, ..at };
        assert_eq!(area_of(&read_all(&fresh, &foreign).await.unwrap_err()), Area::File);
    });
}

#[test]
fn a_run_of_another_section_or_shard_is_not_taken() {
    with_store(BIG, async move |world, store| {
        let mut dice = Dice::new(4);
        let one = Level::random(&mut dice, 1, 900, 100);
        let a = flush(&store, &one, false).await.unwrap().add.unwrap();
        let b = flush(&store, &one, false).await.unwrap().add.unwrap();
        let bytes = world.disk(1).durable(&run_file(&b)).unwrap();
        world.disk(1).place(&run_file(&a), &bytes);
        let fresh = Store::new(store.env().clone(), options(BIG));
        assert_eq!(area_of(&read_all(&fresh, &a).await.unwrap_err()), Area::Header);
        let failure = fresh.open_section(SHARD + 1, &b).await.unwrap_err();
        let area = Area::Table;
        let want = Damage::Run { shard: SHARD + 1, run: b.run, area };
        assert_eq!(failure, OpenFailure::Damaged(want));
    });
}

/// A peer that offered a state with a section named like one of another shard got that one: what
/// the shard then let go of was the other shard's.
#[test]
fn an_open_section_of_another_shard_is_not_given() {
    with_store(BIG, async move |_, store| {
        let level = Level::random(&mut Dice::new(4), 1, 900, 100);
        let at = flush(&store, &level, false).await.unwrap().add.unwrap();
        let section = store.open_section(SHARD, &at).await.unwrap();
        let failure = store.open_section(SHARD + 1, &at).await.unwrap_err();
        let want = Damage::Run { shard: SHARD + 1, run: at.run, area: Area::Table };
        assert_eq!(failure, OpenFailure::Damaged(want));
        assert!(Rc::ptr_eq(&section, &store.open_section(SHARD, &at).await.unwrap()));
    });
}
