//! A run file, changed as the input says: header, table, trailer, areas, pages, values.
//!
//! ```text
//! input   flags u8 | change | change | ...        flags: what keeps a checksum that does not fit
//! change  what u8 | nth u8 | off u16 | value 8 B
//! ```
//!
//! The changes are made to the golden run of the first version. Then every checksum is made anew
//! over what stands there, so that a change reaches what is read behind them.

use std::rc::Rc;

use bowline_env::sim::{Profile, SimEnv, World};
use bowline_env::{Name, Nanos};
use bowline_statemachine::kv::{KeyRange, ScanQuery, command};
use bowline_statemachine::manifest::{Manifest, SectionRef};
use bowline_statemachine::run::Direction;
use bowline_statemachine::store::{
    Fetched, Job, JobDone, Pins, Point, Section, Step, Store, StoreOptions,
};
use bowline_statemachine::transfer::{ReceivedSection, localized};
use bowline_statemachine::{
    Answer, AsOf, EntryRef, Kv, Machine, Pressure, Query, Read, merge, name_hash,
};
use bytes::Bytes;

use super::{len_at, put_u32};

const GOLDEN: &[u8] = include_bytes!("../../statemachine/tests/golden/v1/run.bin");
const PAGE: usize = 4_096;
/// Where trailer, table and tail of the golden run begin; its section begins behind the header.
const TRAILER: usize = GOLDEN.len() - 3 * PAGE;
const TABLE: usize = GOLDEN.len() - 2 * PAGE;
const TAIL: usize = GOLDEN.len() - PAGE;
const AREAS: usize = 5;
const CHUNKS: usize = 4;
const CHANGE: usize = 12;
const SHARD: u64 = 12;
const LIMIT: Nanos = Nanos(3_600 * Nanos::SECOND.0);

/// The fixed blocks, each with the bytes of it that mean something.
const BLOCKS: [(usize, usize); 4] = [(0, 72), (TRAILER, 200), (TABLE, 64), (TAIL, 48)];

/// The run as the input makes it.
fn run_of(bytes: &[u8]) -> Vec<u8> {
    let (flags, changes) = bytes.split_first().unwrap_or((&0, &[]));
    let mut run = GOLDEN.to_vec();
    let pages: Vec<_> = (PAGE..TRAILER).step_by(PAGE).filter(|at| is_page(*at)).collect();
    for change in changes.as_chunks::<CHANGE>().0 {
        let [what, nth, low, high, value @ ..] = *change;
        let off = usize::from(u16::from_le_bytes([low, high]));
        let width = 1 << (what >> 6);
        let at = match what % 4 {
            0 => {
                let (at, len) = BLOCKS[usize::from(nth) % BLOCKS.len()];
                at + off % len
            },
            1 => pages[usize::from(nth) % pages.len()] + off % PAGE,
            2 => PAGE + len_at(GOLDEN, TRAILER + 56 + usize::from(nth) % AREAS * 16) + off % PAGE,
            _ => ((usize::from(nth) << 9) + off % 512) % run.len(),
        };
        run.iter_mut().skip(at).zip(&value[..width]).for_each(|(byte, new)| *byte = *new);
    }
    sign(&mut run, *flags, &pages);
    run
}

fn is_page(at: usize) -> bool {
    let page_no = u32::try_from(at / PAGE - 1).expect("the run is small");
    GOLDEN[at + 4..at + 8] == GOLDEN[TRAILER + 8..TRAILER + 12]
        && GOLDEN[at + 8..at + 12] == page_no.to_le_bytes()
}

/// Makes checksums fit, pages first. `flags`: 1 pages, 2 chunks, 4 areas are left.
fn sign(run: &mut [u8], flags: u8, pages: &[usize]) {
    for at in pages.iter().filter(|_| flags & 1 == 0) {
        let crc = crc32fast::hash(&run[at + 4..at + PAGE]);
        put_u32(run, *at, crc);
    }
    let area = |run: &[u8], n: usize| {
        let off = PAGE.saturating_add(len_at(run, TRAILER + 56 + n * 16));
        let end = off.saturating_add(len_at(run, TRAILER + 64 + n * 16));
        (end <= run.len()).then_some(off..end)
    };
    if let Some(chunks) = area(run, CHUNKS).filter(|it| flags & 2 == 0 && it.len() >= 4) {
        let crc = crc32fast::hash(&run[PAGE..chunks.start]);
        put_u32(run, chunks.start, crc);
    }
    for n in (0..AREAS).filter(|_| flags & 4 == 0) {
        if let Some(area) = area(run, n) {
            let crc = crc32fast::hash(&run[area]);
            put_u32(run, TRAILER + 176 + n * 4, crc);
        }
    }
    let crc = crc32fast::hash(&run[TABLE..TAIL]);
    put_u32(run, TAIL + 36, crc);
    for block in [0, TRAILER, TAIL] {
        let crc = crc32fast::hash(&run[block..block + PAGE - 4]);
        put_u32(run, block + PAGE - 4, crc);
    }
}

/// The section as the run's own table names it: so would a peer offer it.
fn named(run: &[u8]) -> SectionRef {
    let word = |at: usize| u64::from_le_bytes(run[at..at + 8].try_into().expect("8 bytes"));
    let id = |at: usize| u128::from(word(at + 8)) << 64 | u128::from(word(at));
    SectionRef {
        run: id(16),
        section: id(TABLE),
        off: word(TABLE + 16),
        len: word(TABLE + 24),
        min_index: word(TABLE + 48),
        max_index: word(TABLE + 56),
        kind: run[TABLE + 40],
    }
}

fn options(resident_bytes: u64) -> StoreOptions {
    StoreOptions { resident_bytes, rate: 0, reserve_bytes: 0, ..StoreOptions::default() }
}

/// A run that a manifest names: opened, read both ways, and merged.
pub(crate) fn run(bytes: &[u8]) -> bool {
    let run = run_of(bytes);
    let at = named(&run);
    let world = World::new(1, Profile::calm());
    let handle = world.clone();
    let main = async move |env: SimEnv| {
        let mut opened = 0;
        // Read page by page, and through a mapping.
        for resident_bytes in [0, 1 << 30] {
            let store = Store::new(env.clone(), options(resident_bytes));
            store.prepare().await.expect("a calm disk");
            handle.disk(1).place(&Name::of(&format!("runs/run-{:032x}.run", at.run)), &run);
            let Ok(section) = store.open_section(SHARD, &at).await else { continue };
            opened += 1;
            read_section(&store, &section).await;
            if section.is_blob() {
                drop(store.blob(&section).await);
                continue;
            }
            assert_eq!(merge::pick(&[Rc::clone(&section)]).unwrap_or(0..1), 0..1);
            let merged = Job::merge(&store, SHARD, 0, vec![section], true).run().await;
            if let Ok(JobDone { opened: Some(section), .. }) = merged {
                let keys = read_section(&store, &section).await;
                assert!(keys.is_some_and(|keys| keys.is_sorted_by(|a, b| a < b)));
            }
        }
        opened > 0
    };
    world.run_on(1, LIMIT, main).expect("nothing waits for ever")
}

/// Walks a section both ways and asks for each key; none if it is damaged.
async fn read_section(
    store: &Rc<Store<SimEnv>>,
    section: &Rc<Section<SimEnv>>,
) -> Option<Vec<Vec<u8>>> {
    let up = walk(store, section, Direction::Forward).await;
    let down = walk(store, section, Direction::Reverse).await;
    for key in up.iter().chain(&down).flatten().chain([&Vec::new(), &vec![0xff; 9]]) {
        let mut pins = Pins::new();
        while let Point::Cold(read) = section.point(key, &pins) {
            store.load(vec![read], &mut pins).await.ok()?;
        }
        let hidden_to = section.tombstone_index(key);
        assert!(hidden_to <= section.max_index());
    }
    up
}

async fn walk(
    store: &Rc<Store<SimEnv>>,
    section: &Rc<Section<SimEnv>>,
    direction: Direction,
) -> Option<Vec<Vec<u8>>> {
    let mut cursor = section.cursor(None, direction);
    let (mut pins, mut keys) = (Pins::new(), Vec::new());
    loop {
        match cursor.step(&pins) {
            Step::Ready => {},
            Step::End => return Some(keys),
            Step::Damaged(_) => return None,
            Step::Cold(read) => {
                pins.clear();
                store.load(vec![read], &mut pins).await.ok()?;
                continue;
            },
        }
        while let Fetched::Cold(read) = cursor.value(&pins) {
            store.load(vec![read], &mut pins).await.ok()?;
        }
        keys.push(cursor.key().to_vec());
        assert!(keys.len() <= GOLDEN.len() / 16, "a record has its own bytes");
    }
}

/// A state that a peer offers: its manifest, then the section, byte for byte.
pub(crate) fn transfer(bytes: &[u8]) -> bool {
    let run = run_of(bytes);
    let mut manifest = Manifest::empty(SHARD, name_hash("bowline.kv"));
    let at = named(&run);
    (manifest.generation, manifest.flushed_term) = (1, 1);
    (manifest.flushed_index, manifest.sm_clock) = (at.max_index, 5_000);
    manifest.sections = vec![at];
    // The changes may have made a manifest that nobody can write.
    if at.min_index > at.max_index || at.max_index > 1 << 40 || at.len > 1 << 30 {
        return false;
    }
    let offered = Manifest::decode(&manifest.encode()).expect("what is written is read");
    let world = World::new(1, Profile::calm());
    let main = async move |env: SimEnv| {
        let store = Store::new(env, options(0));
        store.prepare().await.expect("a calm disk");
        take_over(&store, &offered, &run).await.is_some()
    };
    world.run_on(1, LIMIT, main).expect("nothing waits for ever")
}

async fn take_over(store: &Rc<Store<SimEnv>>, offered: &Manifest, run: &[u8]) -> Option<()> {
    let mut sections = Vec::new();
    for at in &offered.sections {
        let mut received = ReceivedSection::create(store, SHARD, *at).await.ok()?;
        while let Some(next) = received.next() {
            let len = usize::try_from(received.piece_at(next, 64 << 10)?).ok()?;
            let start = PAGE + usize::try_from(next).ok()?;
            let Some(piece) = run.get(start..start + len) else {
                received.abandon().await;
                return None;
            };
            received.push(piece).await.ok()?;
        }
        sections.push(received.finish().await.ok()?);
    }
    let body = localized(offered, &sections).ok()?;
    let mut kv = Kv::open(store, SHARD, Some(&body)).await.ok()?;
    scan(store, &kv).await?;
    // The first entry behind the state, and what follows from it.
    let entry = EntryRef { index: kv.applied() + 1, term: 2, payload: &[] };
    kv.apply(entry, &Pins::new(), &mut Vec::new());
    let job = kv.next_job(
        Pressure::Flush,
        &AsOf { term: 2, version: command::KV_VERSION, conf: Bytes::new() },
    )?;
    let done = job.run().await.ok()?;
    let (_, _, body) = kv.manifest_after(&done)?;
    kv.publish(done);
    assert!(Manifest::decode(&body).is_ok());
    scan(store, &kv).await
}

/// Every key, page by page; none if the state is damaged.
async fn scan(store: &Rc<Store<SimEnv>>, kv: &Kv<SimEnv>) -> Option<()> {
    let mut token = None;
    let mut pins = Pins::new();
    for _ in 0..GOLDEN.len() {
        let query = ScanQuery {
            range: KeyRange::All,
            limit: 7,
            token: token.clone(),
            ..ScanQuery::default()
        };
        match kv.read(&Query::Scan(Box::new(query)), &pins) {
            Read::Ready(Answer::Page(page)) => {
                pins.clear();
                token = page.next;
                if token.is_none() {
                    return Some(());
                }
            },
            Read::Cold(reads) => store.load(reads, &mut pins).await.ok()?,
            Read::Ready(_) | Read::Damaged(_) => return None,
        }
    }
    panic!("a scan comes to its end");
}
