//! Decoders of bytes from outside, over the inputs stored in `corpus` and over what chance and
//! order make of them: every cut, every flipped bit of small ones, and mutations by seed. The
//! fuzzer of `fuzz` runs the same functions; what it finds is kept here (`docs/fuzzing.md`).
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is this test failing")]

#[path = "targets/all.rs"]
mod all;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use all::{ALL, Target};
use bowline_env::sim::Rng;

/// Files of all targets, and bytes of one.
const FILES_MAX: usize = 200;
const FILE_LEN_MAX: u64 = 4 << 10;
/// Up to this length every bit is flipped, beyond it every byte.
const SMALL: usize = 128;
/// Mutations of one input at most.
const STEPS_MAX: u64 = 4;
/// What numbers of a format are replaced by.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The stored inputs of a target, by name.
fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(corpus().join(target.name)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        found.push((name, fs::read(&path).unwrap()));
    }
    found.sort();
    found
}

/// What a target came to.
#[derive(Default)]
struct Tally {
    believed: u64,
    refused: u64,
}

impl Tally {
    /// Runs one input. One that fails is kept beside the build.
    fn run(&mut self, target: &Target, bytes: &[u8], what: &str) {
        if let Ok(believed) = catch_unwind(AssertUnwindSafe(|| target.run(bytes))) {
            self.believed += u64::from(believed);
            self.refused += u64::from(!believed);
            return;
        }
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.bin", target.name));
        fs::write(&kept, bytes).unwrap();
        panic!("{} fails on {what}, kept in {}", target.name, kept.display());
    }
}

/// Every cut, then every flipped bit or byte of `bytes`; one in `stride` of them.
fn in_order(bytes: &[u8], stride: usize, mut run: impl FnMut(&[u8], &str)) {
    for len in (0..bytes.len()).step_by(stride) {
        run(&bytes[..len], "a cut");
    }
    let mut bad = bytes.to_vec();
    let masks: &[u8] = if bytes.len() <= SMALL { &[1, 2, 4, 8, 16, 32, 64, 128] } else { &[0xff] };
    let places = (0..bytes.len()).flat_map(|at| masks.iter().map(move |mask| (at, mask)));
    for (at, mask) in places.step_by(stride) {
        bad[at] ^= mask;
        run(&bad, "a flipped bit or byte");
        bad[at] ^= mask;
    }
}

/// How many inputs [`in_order`] makes of one of `len` bytes.
fn in_order_count(len: usize) -> usize {
    if len <= SMALL { len * 9 } else { len * 2 }
}

/// Changes `bytes` once, at random.
fn mutate(rng: &Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.index(bytes.len().max(1)).min(bytes.len());
    let end = (at + 1 + rng.index(16)).min(bytes.len());
    match rng.below(8) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
        1 => rng.fill(&mut bytes[at..end]),
        2 | 3 => {
            let number = NUMBERS[rng.index(NUMBERS.len())].to_le_bytes();
            let width = 1_usize << rng.below(4);
            let at = at / width * width;
            bytes.iter_mut().skip(at).zip(&number[..width]).for_each(|(byte, new)| *byte = *new);
        },
        4 => drop(bytes.drain(at..end)),
        5 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        },
        6 => {
            let mut new = vec![0; 1 + rng.index(16)];
            rng.fill(&mut new);
            bytes.splice(at..at, new);
        },
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        },
    }
}

#[track_caller]
fn check(name: &str) {
    let target = ALL.iter().find(|target| target.name == name).unwrap();
    let inputs = inputs(target);
    let mut stored = Tally::default();
    for (file, bytes) in &inputs {
        stored.run(target, bytes, file);
    }
    assert!(stored.believed > 0, "a stored input of {name} is believed");
    let mut made = Tally::default();
    let count: usize = inputs.iter().map(|(_, bytes)| in_order_count(bytes.len())).sum();
    let stride = count.div_ceil(4 * usize::try_from(target.rounds).unwrap()).max(1);
    for (file, bytes) in &inputs {
        in_order(bytes, stride, |bytes, what| {
            made.run(target, bytes, &format!("{what} of {file}"));
        });
    }
    let rng = Rng::new(7);
    for round in 0..target.rounds {
        let mut bytes = inputs[rng.index(inputs.len())].1.clone();
        let other = &inputs[rng.index(inputs.len())].1;
        (0..=rng.below(STEPS_MAX)).for_each(|_| mutate(&rng, &mut bytes, other));
        made.run(target, &bytes, &format!("mutation {round}"));
    }
    assert!(made.believed > 0 && made.refused > 0, "{name}: mutations reach both ends");
}

#[test]
fn the_corpus_is_small_and_each_part_of_it_has_a_target() {
    let mut files = 0;
    for entry in fs::read_dir(corpus()).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(ALL.iter().any(|target| target.name == name), "{name} is no target");
        for file in fs::read_dir(&dir).unwrap() {
            let file = file.unwrap();
            assert!(file.metadata().unwrap().len() <= FILE_LEN_MAX, "{}", file.path().display());
            files += 1;
        }
    }
    assert!(files <= FILES_MAX, "{files} files");
}

/// One test a target, so that they run side by side.
macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            assert_eq!([$(stringify!($name)),*], *ALL.iter().map(|it| it.name).collect::<Vec<_>>());
        }
    };
}

targets! { opening frames manifest commands token membership batch stream boot run transfer config }
