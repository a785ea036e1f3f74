//! What the tests of runs share: a model of levels, a flush and a merge as the core's loop drives
//! them, and reads that load what is cold.

use std::collections::BTreeMap;
use std::rc::Rc;

use bowline_env::sim::{Profile, SimEnv, World};
use bowline_env::{Env, Name, Nanos};
use bowline_statemachine::manifest::{Flushed, Manifest, SectionRef};
use bowline_statemachine::run::{Direction, RangeTombstone};
use bowline_statemachine::store::{
    Fetched, FlushBody, FlushInput, FlushItem, Job, JobDone, JobError, Pins, Point, RunVer,
    Section, Step, Store, StoreOptions,
};
use bowline_statemachine::{Damage, OpenFailure};
use bytes::Bytes;

pub(crate) type Map = BTreeMap<Vec<u8>, RunVer>;
pub(crate) type Entry = (Vec<u8>, RunVer);

pub(crate) const SHARD: u64 = 7;
pub(crate) const HOUR: Nanos = Nanos(3_600 * 1_000_000_000);

/// Repeatable chance.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2_685_821_657_736_338_717) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % n
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let start = self.below(251);
        (start..start + len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
    }
}

/// A level of state: what one flush writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) map: Map,
    pub(crate) ranges: Vec<RangeTombstone>,
}

pub(crate) fn key(n: usize) -> Vec<u8> {
    match n {
        0 => Vec::new(),
        n if n.is_multiple_of(7) => format!("other/{n:04}").into_bytes(),
        n if n.is_multiple_of(41) => {
            [format!("long/{n}/").into_bytes(), vec![b'k'; 1_500]].concat()
        },
        n => format!("table/users/{n:05}/profile").into_bytes(),
    }
}

pub(crate) fn value(dice: &mut Dice) -> Vec<u8> {
    let len = match dice.below(40) {
        0 => 0,
        1 => 1_024,
        2 => 1_025,
        3 => 4_096 + dice.below(12_000),
        4 => 16_384 + dice.below(60_000),
        5 => 150_000,
        _ => dice.below(300),
    };
    dice.bytes(len)
}

impl Level {
    /// A level of `keys` random versions with indices `min..=max`.
    pub(crate) fn random(dice: &mut Dice, min: u64, max: u64, keys: usize) -> Self {
        let mut level = Self { min, max, ..Self::default() };
        // An entry writes keys or deletes a range, never both.
        let half = usize::try_from((max - min) / 2).unwrap();
        for _ in 0..keys {
            let mod_index = min + 2 * dice.below(half) as u64;
            let value = (dice.below(6) > 0).then(|| Bytes::from(value(dice)));
            let expiry_ms =
                if value.is_some() && dice.below(5) == 0 { 1_000 + mod_index } else { 0 };
            level.map.insert(key(dice.below(keys * 2)), RunVer { mod_index, expiry_ms, value });
        }
        let mut at = 0;
        while dice.below(3) > 0 && at < 2_000 {
            let start = at + 1 + dice.below(300);
            let end = start + 1 + dice.below(100);
            let name = |n: usize| format!("table/users/{n:05}").into_bytes();
            let index = min + 1 + 2 * dice.below(half) as u64;
            level.ranges.push(RangeTombstone { start: name(start), end: name(end), index });
            at = end;
        }
        level
    }

    /// A level of `keys` versions whose values take few pages.
    pub(crate) fn small(dice: &mut Dice, min: u64, max: u64, keys: usize) -> Self {
        let mut level = Self { min, max, ..Self::default() };
        for n in 1..=keys {
            let len = [0, 30, 200, 700, 1_024, 1_025, 2_600][dice.below(7)];
            let value = (n % 9 > 0).then(|| Bytes::from(dice.bytes(len)));
            let expiry_ms = if value.is_some() && n % 5 == 0 { 1_000 + n as u64 } else { 0 };
            level.map.insert(key(n), RunVer { mod_index: min + n as u64, expiry_ms, value });
        }
        level
    }

    pub(crate) fn tombstone(&self, key: &[u8]) -> u64 {
        self.ranges
            .iter()
            .filter(|range| range.covers(key))
            .map(|range| range.index)
            .max()
            .unwrap_or(0)
    }

    /// What its run holds.
    pub(crate) fn written(&self, bottom: bool) -> Map {
        let kept = |(key, ver): &(&Vec<u8>, &RunVer)| {
            self.tombstone(key) <= ver.mod_index && (ver.value.is_some() || !bottom)
        };
        self.map.iter().filter(kept).map(|(key, ver)| (key.clone(), ver.clone())).collect()
    }

    pub(crate) fn input(&self, bottom: bool) -> FlushInput {
        let items: Vec<FlushItem> = self
            .map
            .iter()
            .map(|(key, ver)| FlushItem {
                key: Bytes::from(key.clone()),
                mod_index: ver.mod_index,
                expiry_ms: ver.expiry_ms,
                value: ver.value.clone(),
            })
            .collect();
        FlushInput {
            min_index: self.min,
            flushed: flushed(self.max),
            bottom,
            drop: vec![],
            body: FlushBody::Keys {
                entries: Box::new(items.into_iter()),
                ranges: self.ranges.clone(),
            },
        }
    }
}

pub(crate) fn flushed(index: u64) -> Flushed {
    Flushed { index, term: 1, sm_clock: index, version: 1, conf: Bytes::from_static(b"members") }
}

/// The live state that levels (newest first) stand for.
pub(crate) fn state(levels: &[&Level]) -> BTreeMap<Vec<u8>, (u64, Bytes)> {
    let mut all = BTreeMap::new();
    for level in levels.iter().rev() {
        let covered = |key: &Vec<u8>, index: u64| level.tombstone(key) > index;
        all.retain(|key, (index, _)| !covered(key, *index));
        for (key, ver) in &level.map {
            all.remove(key);
            if let Some(value) = ver.value.clone().filter(|_| !covered(key, ver.mod_index)) {
                all.insert(key.clone(), (ver.mod_index, value));
            }
        }
    }
    all
}

pub(crate) fn options(resident_bytes: u64) -> StoreOptions {
    StoreOptions { resident_bytes, rate: 0, reserve_bytes: 0, ..StoreOptions::default() }
}

/// Runs `main` on a calm node with a prepared store.
pub(crate) fn with_store<T: 'static>(
    resident_bytes: u64,
    main: impl AsyncFnOnce(World, Rc<Store<SimEnv>>) -> T + 'static,
) -> T {
    let world = World::new(1, Profile::calm());
    let handle = world.clone();
    let run = async move |env: SimEnv| {
        let store = Store::new(env, options(resident_bytes));
        store.prepare().await.unwrap();
        main(handle, store).await
    };
    world.run_on(1, HOUR, run).unwrap()
}

pub(crate) async fn flush<E: Env>(
    store: &Rc<Store<E>>,
    level: &Level,
    bottom: bool,
) -> Result<JobDone<E>, JobError> {
    Job::flush(store, SHARD, 0, level.input(bottom)).run().await
}

/// A manifest and its open sections, as a machine keeps them.
pub(crate) struct Shard<E: Env> {
    pub(crate) store: Rc<Store<E>>,
    pub(crate) manifest: Manifest,
    pub(crate) sections: Vec<Rc<Section<E>>>,
}

impl<E: Env> Shard<E> {
    pub(crate) fn new(store: &Rc<Store<E>>) -> Self {
        let manifest = Manifest::empty(SHARD, 1);
        Self { store: Rc::clone(store), manifest, sections: vec![] }
    }

    pub(crate) async fn open(
        store: &Rc<Store<E>>,
        manifest: Manifest,
    ) -> Result<Self, OpenFailure> {
        let sections = store.open_all(&manifest).await?;
        Ok(Self { store: Rc::clone(store), manifest, sections })
    }

    pub(crate) fn publish(&mut self, done: JobDone<E>) {
        self.manifest = self.manifest.apply(&done.edit(self.manifest.generation));
        let JobDone { opened, drop: replaced, .. } = done;
        let old = core::mem::take(&mut self.sections);
        for at in &self.manifest.sections {
            let known = old.iter().chain(&opened).find(|s| s.id() == at.section);
            self.sections.push(Rc::clone(known.unwrap()));
        }
        for section in old.into_iter().filter(|section| replaced.contains(&section.id())) {
            self.store.retire(section);
        }
    }

    pub(crate) fn merge(&self, range: core::ops::Range<usize>) -> Job<E> {
        let bottom = range.end == self.sections.len();
        Job::merge(&self.store, SHARD, 0, self.sections[range].to_vec(), bottom)
    }

    /// Everything alive, read by keys.
    pub(crate) async fn state(
        &self,
        keys: usize,
    ) -> Result<BTreeMap<Vec<u8>, (u64, Bytes)>, Damage> {
        let mut all = BTreeMap::new();
        for n in 0..keys {
            if let Some(found) = self.find(&key(n)).await? {
                all.insert(key(n), found);
            }
        }
        Ok(all)
    }

    async fn find(&self, key: &[u8]) -> Result<Option<(u64, Bytes)>, Damage> {
        let mut tombstone = 0;
        for section in &self.sections {
            tombstone = section.tombstone_index(key).max(tombstone);
            if let Some(ver) = point(&self.store, section, key).await? {
                let value = ver.value.filter(|_| ver.mod_index > tombstone);
                return Ok(value.map(|value| (ver.mod_index, value)));
            }
            if tombstone > 0 {
                break;
            }
        }
        Ok(None)
    }
}

/// A key's version, loading what is cold.
pub(crate) async fn point<E: Env>(
    store: &Rc<Store<E>>,
    section: &Section<E>,
    key: &[u8],
) -> Result<Option<RunVer>, Damage> {
    let mut pins = Pins::new();
    loop {
        match section.point(key, &pins) {
            Point::Hit(ver) => return Ok(Some(ver)),
            Point::Miss => return Ok(None),
            Point::Cold(read) => store.load(vec![read], &mut pins).await?,
            Point::Damaged(damage) => return Err(damage),
        }
    }
}

/// Walks a section, loading what is cold.
pub(crate) async fn walk<E: Env>(
    store: &Rc<Store<E>>,
    section: &Rc<Section<E>>,
    from: Option<&[u8]>,
    direction: Direction,
) -> Result<Vec<Entry>, Damage> {
    let mut cursor = section.cursor(from, direction);
    let mut pins = Pins::new();
    let mut all = Vec::new();
    loop {
        match cursor.step(&pins) {
            Step::Ready => {},
            Step::End => return Ok(all),
            Step::Damaged(damage) => return Err(damage),
            Step::Cold(read) => {
                pins.clear();
                store.load(vec![read], &mut pins).await?;
                continue;
            },
        }
        let value = loop {
            match cursor.value(&pins) {
                Fetched::Ready(value) => break value,
                Fetched::Damaged(damage) => return Err(damage),
                Fetched::Cold(read) => store.load(vec![read], &mut pins).await?,
            }
        };
        assert_eq!(cursor.is_deleted(), value.is_none());
        let ver = RunVer { mod_index: cursor.mod_index(), expiry_ms: cursor.expiry_ms(), value };
        all.push((cursor.key().to_vec(), ver));
    }
}

pub(crate) fn entries(map: &Map) -> Vec<Entry> {
    map.iter().map(|(key, ver)| (key.clone(), ver.clone())).collect()
}

pub(crate) const BIG: u64 = 1 << 30;

pub(crate) fn run_file(at: &SectionRef) -> Name {
    Name::of(&format!("runs/run-{:032x}.run", at.run))
}
