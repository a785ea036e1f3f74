//! What the state machine reads: manifests, commands, and the tokens of scans.

use core::future::Future;
use std::rc::Rc;

use bowline_env::Nanos;
use bowline_env::sim::{Profile, SimEnv, World};
use bowline_raft::Configuration;
use bowline_statemachine::envelope::{self, ENVELOPE_LEN, Envelope, Head, SESSION_LEN};
use bowline_statemachine::kv::{KeyRange, ScanQuery, command, encode};
use bowline_statemachine::manifest::{MANIFEST_FMT, Manifest};
use bowline_statemachine::store::{Pins, Store, StoreOptions};
use bowline_statemachine::{
    Answer, BadCommand, EntryRef, Kv, Limits, Machine, Output, Query, Read,
};
use bytes::{Bytes, BytesMut};

use super::{checksum, put_len, put_u32};

const SHARD: u64 = 7;
const HOUR: Nanos = Nanos(3_600 * Nanos::SECOND.0);
/// Bytes before the archive of a manifest.
const MANIFEST_HEAD: usize = 16;
/// Bytes of a token before its key.
const TOKEN_HEAD: usize = 24;

/// A manifest, and the membership in it.
pub(crate) fn manifest(bytes: &[u8]) -> bool {
    let mut signed = bytes.to_vec();
    if let Some(len) = bytes.len().checked_sub(MANIFEST_HEAD) {
        signed[4..6].copy_from_slice(&MANIFEST_FMT.to_le_bytes());
        put_len(&mut signed, 8, len);
        let crc = crc32fast::hash(&signed[4..bytes.len()]);
        put_u32(&mut signed, 0, crc);
    }
    read_manifest(bytes) | read_manifest(&signed)
}

fn read_manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(bytes) else { return false };
    let again = manifest.encode();
    assert_eq!(Manifest::decode(&again), Ok(manifest.clone()));
    if let Ok(conf) = Configuration::decode(&manifest.conf) {
        assert_eq!(conf.encode().as_deref(), Ok(&manifest.conf[..]));
    }
    // What is counted on from here.
    assert!(manifest.generation < u64::MAX && manifest.flushed_index < u64::MAX);
    let bytes = manifest.sections.iter().try_fold(0_u64, |sum, at| sum.checked_add(at.len));
    assert!(bytes.is_some(), "what is missing can be held against the free space");
    true
}

/// Runs `main` with an empty key-value machine on a calm node.
fn on_kv<T, F>(main: impl FnOnce(Kv<SimEnv>) -> F + 'static) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let world = World::new(1, Profile::calm());
    let run = async move |env: SimEnv| {
        let store = Store::new(env, StoreOptions::default());
        store.prepare().await.expect("a calm disk");
        let kv = Kv::open(&store, SHARD, None).await.expect("there is nothing to be damaged");
        let value = main(kv).await;
        drop(Rc::clone(&store));
        value
    };
    world.run_on(1, HOUR, run).expect("nothing waits for ever")
}

/// Payloads of entries, each behind its length in two bytes; applied one after the other.
pub(crate) fn commands(bytes: &[u8]) -> bool {
    let mut payloads = Vec::new();
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(after.len());
        payloads.push(after[..len].to_vec());
        rest = &after[len..];
    }
    on_kv(async move |mut kv| {
        let pins = Pins::new();
        let mut done = false;
        for (index, payload) in (1..).zip(&payloads) {
            let verdict = verdict(payload);
            let entry = EntryRef { index, term: 1, payload };
            drop(kv.stage(&[entry], &pins));
            let mut out = Vec::new();
            kv.apply(entry, &pins, &mut out);
            if kv.halted().is_some() {
                assert!(out.is_empty() && kv.applied() == index - 1, "it stays unapplied");
                return done;
            }
            assert_eq!((out.len(), kv.applied()), (1, index));
            if let Some(verdict) = verdict {
                let rejected = matches!(out[0], Output::Rejected(_));
                assert_eq!(rejected, verdict.is_err(), "admission and apply agree: {:?}", out[0]);
                done |= verdict.is_ok();
            }
        }
        assert_eq!(pages(&kv, None, false), pages(&kv, None, true), "both ways are one state");
        done
    })
}

/// What admission says of a payload of a command; none: it is no such payload.
fn verdict(payload: &[u8]) -> Option<Result<(), BadCommand>> {
    let head = Envelope::parse(payload).ok()?;
    let mut again = vec![0; ENVELOPE_LEN];
    let flags = if head.session.is_some() { envelope::FLAG_SESSION } else { 0 };
    let body_len = u32::try_from(head.body.len()).expect("inputs are small");
    let plain = Head { kind: head.kind, flags, ver: head.ver };
    envelope::encode(&mut again, head.stamp_ms, plain, body_len);
    if let Some(call) = head.session {
        again.resize(ENVELOPE_LEN + SESSION_LEN, 0);
        envelope::encode_session(&mut again[ENVELOPE_LEN..], call);
    }
    again.extend_from_slice(head.body);
    assert_eq!(again, payload[..again.len()], "one head, one form");
    let ours = (command::KIND_PUT..=command::KIND_EXPIRE).contains(&head.kind);
    let limits = Limits::of_entry(1 << 20);
    let admitted = Kv::<SimEnv>::admit(head.kind, head.body, &limits).map(drop);
    assert!(ours || admitted.is_err(), "kind {} is unknown", head.kind);
    ours.then_some(admitted)
}

/// The keys that a scan finds, page by page, ascending; none: the token is refused.
fn pages(kv: &Kv<SimEnv>, token: Option<Bytes>, reverse: bool) -> Option<Vec<Bytes>> {
    let mut keys: Vec<Bytes> = Vec::new();
    let mut next = Some(token);
    while let Some(token) = next.take() {
        let first = token.is_none() || keys.is_empty();
        let query =
            ScanQuery { range: KeyRange::All, reverse, limit: 2, token, ..Default::default() };
        let answer = kv.read(&Query::Scan(Box::new(query)), &Pins::new());
        let Read::Ready(Answer::Page(page)) = answer else {
            let refused = matches!(answer, Read::Ready(Answer::Bad(BadCommand::Token)));
            assert!(refused && first, "a page's own token is taken: {answer:?}");
            return None;
        };
        keys.extend(page.items.into_iter().map(|(key, _)| key));
        next = page.next.map(Some);
    }
    if reverse {
        keys.reverse();
    }
    assert!(keys.is_sorted_by(|a, b| a < b), "each key once, in order");
    Some(keys)
}

/// A token over a few keys, with a good checksum too.
pub(crate) fn token(bytes: &[u8]) -> bool {
    let mut signed = bytes.to_vec();
    if bytes.len() >= TOKEN_HEAD {
        let crc = checksum(&[&signed[0..2], &signed[4..bytes.len()]]).to_le_bytes();
        signed[2..4].copy_from_slice(&crc[..2]);
    }
    let tokens = [Bytes::copy_from_slice(bytes), Bytes::from(signed)];
    on_kv(async move |mut kv| {
        for index in 1..=5 {
            let mut payload = BytesMut::zeroed(ENVELOPE_LEN);
            let key = [b'a' + u8::try_from(index).expect("a few keys")];
            encode::put(&mut payload, &key, b"value", encode::Ttl::None, false);
            let body_len = u32::try_from(payload.len() - ENVELOPE_LEN).expect("it is short");
            let head = Head { kind: command::KIND_PUT, flags: 0, ver: command::KV_VERSION };
            envelope::encode(&mut payload, index, head, body_len);
            let entry = EntryRef { index, term: 1, payload: &payload };
            kv.apply(entry, &Pins::new(), &mut Vec::new());
        }
        let mut taken = false;
        for token in tokens {
            let found = [false, true].map(|reverse| pages(&kv, Some(token.clone()), reverse));
            let [up, down] = found;
            assert!(up.is_none() || down.is_none(), "a token is of one way");
            let last = token.get(TOKEN_HEAD..).unwrap_or_default();
            assert!(up.iter().flatten().all(|key| &key[..] > last));
            assert!(down.iter().flatten().all(|key| &key[..] < last));
            taken |= up.is_some() || down.is_some();
        }
        taken
    })
}
