//! The bytes of version 1, as they were written first: what is written today is the same, and
//! what was written then is still read.

use super::RangeTombstone;
use super::format::{Header, KIND_BLOB, KIND_KV, PAGE, Table, TableEntry, Trailer, u64_of};
use super::page::{Body, Page, verify};
use super::reader::{
    check_chunks, check_ends, check_header, covered_len, extents_len, parse_areas,
};
use super::writer::{NewVersion, SectionWriter};
use crate::manifest::{Manifest, SectionRef};

const RUN_V1: &[u8] = include_bytes!("../../tests/golden/v1/run.bin");
const BLOB_V1: &[u8] = include_bytes!("../../tests/golden/v1/blob.bin");
const MANIFEST_V1: &[u8] = include_bytes!("../../tests/golden/v1/manifest.bin");

const RUN: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
const SECTION: u128 = 0xfedc_ba98_7654_3210_0011_2233_4455_6677;

/// Key, index, expiry, value.
type Version = (Vec<u8>, u64, u64, Option<Vec<u8>>);

fn versions() -> Vec<Version> {
    let version = |n: u64| {
        let len = [3, 100, 1_024, 1_025, 5_000, 0][usize::try_from(n % 6).unwrap()];
        let value: Vec<u8> = (n..n + len).map(|byte| byte.to_le_bytes()[0]).collect();
        let is_deleted = n.is_multiple_of(7);
        let expiry_ms = if n.is_multiple_of(5) && !is_deleted { 10_000 - n } else { 0 };
        (format!("user/{n:04}").into_bytes(), 40 + n, expiry_ms, (!is_deleted).then_some(value))
    };
    (0..40).map(version).collect()
}

fn ranges() -> Vec<RangeTombstone> {
    let range = |start: &[u8], end: &[u8], index| RangeTombstone {
        start: start.to_vec(),
        end: end.to_vec(),
        index,
    };
    vec![range(b"a", b"b", 90), range(b"v", b"", 91)]
}

fn place(trailer: &Trailer) -> SectionRef {
    SectionRef {
        run: RUN,
        section: SECTION,
        off: u64_of(PAGE),
        len: trailer.len,
        min_index: 40,
        max_index: 99,
        kind: u8::try_from(trailer.kind).unwrap(),
    }
}

fn file(mut writer: SectionWriter, ranges: &[RangeTombstone]) -> (Vec<u8>, SectionRef) {
    let header = Header { run: RUN, cluster: 7 << 100, node: 3, created_ms: 1_700_000_000_000 };
    let mut out = header.encode();
    let areas = writer.close().encode();
    let trailer = writer.finish(&areas, ranges);
    out.extend(writer.take());
    let entry = TableEntry {
        section: SECTION,
        off: u64_of(PAGE),
        len: trailer.len,
        shard: 12,
        kind: trailer.kind,
        min_index: 40,
        max_index: 99,
    };
    out.extend(Table { run: RUN, off: u64_of(out.len()), entries: vec![entry] }.encode());
    (out, place(&trailer))
}

fn run() -> (Vec<u8>, SectionRef) {
    let mut writer = SectionWriter::kv(SECTION, 40, 99);
    for (key, mod_index, expiry_ms, value) in &versions() {
        let (mod_index, expiry_ms, value) = (*mod_index, *expiry_ms, value.as_deref());
        writer.push(NewVersion { key, mod_index, expiry_ms, value });
    }
    file(writer, &ranges())
}

fn blob() -> (Vec<u8>, SectionRef) {
    let mut writer = SectionWriter::blob(SECTION, 40, 99);
    writer.push_body(b"the state of a machine of the application");
    file(writer, &[])
}

fn manifest() -> Manifest {
    let mut manifest = Manifest { version: 2, ..Manifest::empty(12, 0x00ab_cdef_0123_4567) };
    manifest.generation = 9;
    (manifest.flushed_index, manifest.flushed_term, manifest.sm_clock) = (99, 4, 1_700_000_000_000);
    manifest.conf = b"members".to_vec();
    manifest.sections = vec![run().1];
    manifest
}

#[test]
fn golden_run_v1() {
    assert!(run().0 == RUN_V1, "a section of keys and values is written as in version 1");
    assert!(blob().0 == BLOB_V1, "a snapshot is written as in version 1");
    assert!(manifest().encode() == MANIFEST_V1, "a manifest is written as in version 1");
}

#[test]
fn version_1_is_read() {
    let (bytes, at) = (RUN_V1, run().1);
    check_header(&bytes[..PAGE], RUN).unwrap();
    let end = usize::try_from(at.off + at.len).unwrap();
    let trailer = check_ends(&bytes[end - PAGE..], &at, 12).unwrap();
    assert_eq!((trailer.kind, trailer.puts, trailer.tombstones), (KIND_KV, 34, 6 + 2));
    assert_eq!(trailer.min_expiry, 10_000 - 30);
    let section = &bytes[PAGE..end];
    let areas = usize::try_from(extents_len(&trailer)).unwrap();
    let parts = parse_areas(&trailer, &section[areas..section.len() - PAGE]).unwrap();
    assert_eq!(parts.ranges, ranges());
    let covered = usize::try_from(covered_len(&trailer)).unwrap();
    assert!(check_chunks(&section[..covered], &parts.chunk_crcs));
    for (key, mod_index, expiry_ms, value) in versions() {
        let page_no = parts.index.pages()[parts.index.find(&key).unwrap()];
        let start = usize::try_from(page_no).unwrap() * PAGE;
        let page = &section[start..start + PAGE];
        verify(page, SECTION, page_no).unwrap();
        let record = Page::new(page).unwrap().find(&key).unwrap().unwrap();
        assert_eq!((record.mod_index, record.expiry_ms), (mod_index, expiry_ms));
        let got = match record.body {
            Body::Deleted => None,
            Body::Inline(range) => Some(&page[range]),
            Body::Far(far) => {
                let start = usize::try_from(far.off).unwrap();
                Some(&section[start..start + usize::try_from(far.len).unwrap()])
            },
        };
        assert_eq!(got, value.as_deref());
    }
    let blob_at = blob().1;
    let end = usize::try_from(blob_at.off + blob_at.len).unwrap();
    let trailer = check_ends(&BLOB_V1[end - PAGE..], &blob_at, 12).unwrap();
    assert_eq!((trailer.kind, trailer.body_len), (KIND_BLOB, 41));
    assert_eq!(Manifest::decode(MANIFEST_V1), Ok(manifest()));
}
