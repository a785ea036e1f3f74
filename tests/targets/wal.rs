//! A stream's files, changed as the input says: superblocks, slot headers, frames, checkpoints.
//!
//! ```text
//! input   flags u8 | change | change | ...        flags: what keeps a checksum that does not fit
//! change  what u8 | nth u8 | field u8 | value 8 B
//! ```
//!
//! The changes are made to the golden stream of the log's first version: two lives, every kind of
//! record, closed cleanly. Then every checksum is made anew over what stands there, and each frame
//! names its forerunner's, so that a change reaches what is read behind them.

use std::collections::BTreeMap;

use bowline_env::sim::{Profile, SimEnv, World};
use bowline_env::{Bell, Env, Kind, Name, Nanos};
use bowline_raft::{BatchHeader, LogIndex, ShardId, Term};
use bowline_wal::{
    DamageState, LogStorage, NewBatch, OpenError, Recovered, RecoveredShard, Source, StreamId,
    Verified, Wal, WalOptions, WalReader,
};

use super::{len_at, put_u32, u32_at};

const BLOCK: usize = 4_096;
/// Bytes of a frame's head, of a row of its directory.
const HEAD: usize = 128;
const ROW: usize = 64;
const CHANGE: usize = 11;
/// Whose stream the golden one is.
const ID: StreamId = StreamId { cluster: 0x0102_0304, node: 5, stream: 0, streams: 1 };
const LIMIT: Nanos = Nanos(600 * Nanos::SECOND.0);
const SLOTS: [&str; 4] = ["000.slot", "001.slot", "002.slot", "003.slot"];
const SUPERS: [&str; 2] = ["super.a", "super.b"];
/// Kinds and flags of records that their checksum depends on.
const ENTRIES: u8 = 1;
const ECHO: u8 = 0x80;
const BATCH_FLAGS: u8 = 0x3f;

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../../wal/tests/golden/v1/clean/", $name))
    };
}

/// A frame of the golden stream: its slot, and where its bytes lie.
#[derive(Clone, Copy)]
struct Place {
    slot: &'static str,
    at: usize,
    len: usize,
    /// Where its directory begins in it.
    dir: usize,
}

#[derive(Clone)]
struct Image {
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Source for &Image {
    fn list(&self) -> Result<Vec<(String, u64)>, Kind> {
        let of = |(name, bytes): (&&str, &Vec<u8>)| ((*name).to_owned(), bytes.len() as u64);
        Ok(self.files.iter().map(of).collect())
    }

    fn read_at(&self, file: &str, at: u64, out: &mut [u8]) -> Result<usize, Kind> {
        let bytes = self.files.get(file).ok_or(Kind::NotFound)?;
        let at = usize::try_from(at).expect("usize holds a u64").min(bytes.len());
        let len = out.len().min(bytes.len() - at);
        out[..len].copy_from_slice(&bytes[at..at + len]);
        Ok(len)
    }
}

impl Image {
    fn golden() -> Self {
        let files: [(&str, &[u8]); 6] = [
            (SUPERS[0], golden!("super.a")),
            (SUPERS[1], golden!("super.b")),
            (SLOTS[0], golden!("000.slot")),
            (SLOTS[1], golden!("001.slot")),
            (SLOTS[2], golden!("002.slot")),
            (SLOTS[3], golden!("003.slot")),
        ];
        Self { files: files.into_iter().map(|(name, bytes)| (name, bytes.to_vec())).collect() }
    }

    fn of(bytes: &[u8]) -> Self {
        let (flags, changes) = bytes.split_first().unwrap_or((&0, &[]));
        let mut image = Self::golden();
        let places = image.frames();
        let parents = image.parents(&places);
        for change in changes.as_chunks::<CHANGE>().0 {
            image.change(&places, *change);
        }
        image.sign(*flags, &places, &parents);
        image
    }

    /// The frames, by number.
    fn frames(&self) -> Vec<Place> {
        let mut found = BTreeMap::new();
        for slot in SLOTS {
            let bytes = &self.files[slot];
            for at in (BLOCK..bytes.len()).step_by(BLOCK) {
                if bytes[at..].starts_with(b"BWF1") {
                    let lsn = u64::from_le_bytes(cut(bytes, at + 24));
                    let (len, dir) = (len_at(bytes, at + 56) * BLOCK, len_at(bytes, at + 68));
                    found.insert(lsn, Place { slot, at, len, dir });
                }
            }
        }
        found.into_values().collect()
    }

    /// For each frame the one whose checksum it names.
    fn parents(&self, places: &[Place]) -> Vec<Option<usize>> {
        let own = |place: &Place| u32_at(&self.files[place.slot], place.at + HEAD - 4);
        let named = |place: &Place| u32_at(&self.files[place.slot], place.at + 48);
        places.iter().map(|place| places.iter().position(|it| own(it) == named(place))).collect()
    }

    fn change(&mut self, places: &[Place], change: [u8; CHANGE]) {
        let [what, nth, field, value @ ..] = change;
        let place = places[usize::from(nth) % places.len()];
        let field = usize::from(field);
        match what % 8 {
            0 => {
                for name in SUPERS {
                    self.put(name, field % 36 * 4, &value[..wide(field)]);
                }
            },
            1 => self.put(SLOTS[usize::from(nth) % 4], field % 22 * 4, &value[..wide(field)]),
            2 => {
                let at = field % 31 * 4;
                let end = place.at + place.len - HEAD;
                // Bit 5: the header alone; bit 6: the trailer alone.
                if field & 64 == 0 {
                    self.put(place.slot, place.at + at, &value[..wide(field)]);
                }
                if field & 32 == 0 {
                    self.put(place.slot, end + at, &value[..wide(field)]);
                }
            },
            3 => {
                let word = field % 16;
                let width = if (6..12).contains(&word) { 4 } else { 8 };
                let at = place.at + place.dir + field / 16 * ROW + word * 4;
                self.put(place.slot, at, &value[..width]);
            },
            4 | 5 => {
                // Bytes of a body: small numbers and those near the top, wide or narrow.
                let [number @ .., low, high] = value;
                let mut wide = [0; 8];
                wide[..6].copy_from_slice(&number);
                wide[6..].fill(if number[5] & 0x80 == 0 { 0 } else { 0xff });
                let off = usize::from(u16::from_le_bytes([low, high])) % place.len / 4 * 4;
                let width = if what % 8 == 4 { 8 } else { 4 };
                self.put(place.slot, place.at + off, &wide[..width]);
            },
            6 => self.put(place.slot, place.at, &vec![value[0]; place.len]),
            _ => self.move_or_lose(place, places[usize::from(value[0]) % places.len()], field),
        }
    }

    fn put(&mut self, name: &str, at: usize, bytes: &[u8]) {
        let file = self.files.get_mut(name).into_iter().flatten();
        file.skip(at).zip(bytes).for_each(|(byte, new)| *byte = *new);
    }

    /// A frame that landed where another one was, or a file that is cut or gone.
    fn move_or_lose(&mut self, from: Place, to: Place, how: usize) {
        let files: Vec<_> = SLOTS.into_iter().chain(SUPERS).collect();
        match how % 3 {
            0 => {
                let bytes = self.files.get(from.slot).and_then(|it| it.get(from.at..));
                let bytes = bytes.and_then(|it| it.get(..from.len)).unwrap_or_default().to_vec();
                self.put(to.slot, to.at, &bytes);
            },
            1 => drop(self.files.remove(files[how / 3 % files.len()])),
            _ => {
                if let Some(file) = self.files.get_mut(files[how / 3 % files.len()]) {
                    file.truncate(to.at);
                }
            },
        }
    }

    /// Makes checksums fit. `flags`: 1 bodies, 2 directories, 4 forerunners, 8 heads are left.
    fn sign(&mut self, flags: u8, places: &[Place], parents: &[Option<usize>]) {
        for name in SUPERS.into_iter().chain(SLOTS) {
            let Some(file) = self.files.get_mut(name).filter(|file| file.len() >= BLOCK) else {
                continue;
            };
            let crc = crc32fast::hash(&file[0..BLOCK - 4]);
            put_u32(file, BLOCK - 4, crc);
        }
        let mut crcs = vec![0; places.len()];
        for (nth, place) in places.iter().enumerate() {
            let file = self.files.get_mut(place.slot).and_then(|file| file.get_mut(place.at..));
            let Some(frame) = file.and_then(|file| file.get_mut(..place.len)) else { continue };
            sign_rows(flags, frame);
            let end = frame.len() - HEAD;
            if let Some(parent) = parents[nth].filter(|_| flags & 4 == 0) {
                put_u32(frame, 48, crcs[parent]);
                put_u32(frame, end + 48, crcs[parent]);
            }
            if flags & 8 == 0 {
                for at in [0, end] {
                    let crc = crc32fast::hash(&frame[at..at + HEAD - 4]);
                    put_u32(frame, at + HEAD - 4, crc);
                }
            }
            crcs[nth] = u32_at(frame, HEAD - 4);
        }
    }
}

fn cut<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}

/// Bytes that a change of a head writes.
fn wide(field: usize) -> usize {
    if field & 128 == 0 { 8 } else { 4 }
}

/// Makes the checksums of a frame's bodies and directory fit, as far as they lie inside.
fn sign_rows(flags: u8, frame: &mut [u8]) {
    let rows = len_at(frame, 60).saturating_add(len_at(frame, 64));
    let dir = len_at(frame, 68);
    let end = rows.saturating_mul(ROW).saturating_add(dir);
    if end > frame.len() - HEAD || dir < HEAD {
        return;
    }
    for row in (dir..end).step_by(ROW).filter(|_| flags & 1 == 0) {
        let (off, len) = (len_at(frame, row + 32), len_at(frame, row + 36));
        let Some(body) = frame.get(off..off.saturating_add(len)) else { continue };
        let (kind, own) = (frame[row + 28], frame[row + 29]);
        if own & ECHO != 0 {
            continue;
        }
        let crc = if kind == ENTRIES {
            let head = BatchHeader {
                shard: ShardId(u64::from_le_bytes(cut(frame, row))),
                first: LogIndex(u64::from_le_bytes(cut(frame, row + 8))),
                term: Term(u64::from_le_bytes(cut(frame, row + 16))),
                count: u32_at(frame, row + 24),
                len: u32_at(frame, row + 36),
                fmt: u16::from_le_bytes(cut(frame, row + 30)),
                flags: u16::from(own & BATCH_FLAGS),
                crc: 0,
            };
            head.checksum(body)
        } else {
            crc32fast::hash(body)
        };
        put_u32(frame, row + 40, crc);
    }
    if flags & 2 == 0 {
        let crc = crc32fast::hash(&frame[dir..end]);
        let trailer = frame.len() - HEAD;
        put_u32(frame, 72, crc);
        put_u32(frame, trailer + 72, crc);
    }
}

/// What a boot would find of a shard can stand together.
fn check_shard(found: &RecoveredShard) {
    let bounds = found.bounds;
    if bounds.damage == DamageState::Retired {
        return;
    }
    assert!(bounds.first.0 > 0 && bounds.first <= bounds.last.next());
    assert!(found.hard_state.commit <= bounds.last);
    assert!(found.hard_state.term >= bounds.last_term);
    let mut next = bounds.first;
    for hole in &found.holes {
        // The batch at the first index may begin before it.
        let ascends = next <= hole.from || next == bounds.first;
        assert!(ascends && hole.from <= hole.to && next <= hole.to, "holes ascend");
        next = hole.to.next();
    }
    assert!(next <= bounds.last.next(), "holes lie in the log");
}

/// What the offline reader finds in the files.
pub(crate) fn stream(bytes: &[u8]) -> bool {
    let image = Image::of(bytes);
    let Ok(reader) = WalReader::open(&image) else { return false };
    let Ok(shards) = reader.shards() else { return false };
    shards.iter().for_each(check_shard);
    // Everything is read anew by each question: one of the two.
    if bytes.len().is_multiple_of(2) {
        let stat = reader.stat().expect("what was read once is read again");
        assert_eq!(stat.shards, shards.len() as u64);
    } else if reader.verify().expect("what was read once is read again").0 == Verified::Clean {
        assert!(shards.iter().all(|found| found.bounds.damage == DamageState::Normal));
    }
    !shards.is_empty()
}

fn dir() -> Name {
    Name::of("stream-00")
}

async fn open(env: &SimEnv) -> Result<(Wal<SimEnv>, Recovered, Bell), OpenError> {
    let bell = env.bell();
    let opened = Wal::open(env, &dir(), ID, WalOptions::small(), bell.clone()).await;
    opened.map(|(wal, found)| (wal, found, bell))
}

/// A boot from the files: it takes what it finds, goes on with it, and finds the same again.
pub(crate) fn boot(bytes: &[u8]) -> bool {
    let image = Image::of(bytes);
    let world = World::new(1, Profile::calm());
    for (name, bytes) in &image.files {
        world.disk(1).place(&dir().join(name), bytes);
    }
    world.run_on(1, LIMIT, async move |env| boot_on(&env).await).expect("it waits for nothing")
}

async fn boot_on(env: &SimEnv) -> bool {
    let Ok((mut wal, found, bell)) = open(env).await else { return false };
    for shard in &found.shards {
        check_shard(shard);
        read_all(&wal, shard.shard).await;
    }
    let sound = |it: &&RecoveredShard| it.bounds.damage == DamageState::Normal;
    for shard in found.shards.iter().filter(sound) {
        let Some(bounds) = wal.bounds(shard.shard) else { continue };
        let new = NewBatch {
            shard: shard.shard,
            first: bounds.last.next(),
            term: bounds.last_term.max(shard.hard_state.term),
            prev_term: bounds.last_term,
            count: 1,
            flags: 0,
        };
        let Ok(staged) = wal.append(new, 64, |out| out.fill(9)) else { continue };
        wal.submit();
        while wal.durable() < staged.lsn {
            bell.park(|| wal.durable() < staged.lsn).await;
        }
    }
    let before: Vec<_> =
        found.shards.iter().map(|shard| (shard.shard, wal.bounds(shard.shard))).collect();
    if wal.close().await.is_err() {
        return false;
    }
    let (_wal, again, _bell) = open(env).await.expect("what was closed is opened");
    let after: Vec<_> =
        again.shards.iter().map(|shard| (shard.shard, Some(shard.bounds))).collect();
    assert_eq!(after, before);
    !after.is_empty()
}

/// Reads every batch of a shard, as far as it goes.
async fn read_all(wal: &Wal<SimEnv>, shard: ShardId) {
    let Some(bounds) = wal.bounds(shard) else { return };
    let mut next = bounds.first;
    while next <= bounds.last {
        let read = wal.read(shard, next..bounds.last.next(), 8 << 10).await;
        let Ok(batches) = read else { return };
        let last = batches.last().expect("a read gives a batch at least").last();
        assert!(next <= last, "a read goes on");
        next = last.next();
    }
}
