//! Single facts about the key-value machine.

use core::future::Future;

use bowline_env::Nanos;
use bowline_env::sim::{Profile, SimEnv, World};
use bowline_statemachine::envelope::{KIND_SESSION_OPEN, KIND_TICK, KIND_USER};
use bowline_statemachine::kv::command::{self as wire, KV_VERSION};
use bowline_statemachine::kv::encode::{self, Expect, Guard, Op, Ttl};
use bowline_statemachine::kv::{Item, ScanPage, ScanQuery};
use bowline_statemachine::store::{Pins, StoreOptions};
use bowline_statemachine::{
    Answer, BadCommand, Damage, EntryRef, Kv, Machine, OpAnswer, OpFault, Output, Pressure, Query,
    Touched,
};
use bytes::Bytes;

use crate::replica::{Replica, SHARD, body, payload};

pub(crate) type Shard = Replica<Kv<SimEnv>>;

const LIMIT: Nanos = Nanos(u64::MAX / 2);
const LATER: u64 = 1_000_000;

pub(crate) fn on_shard<T, F>(options: StoreOptions, test: impl FnOnce(Shard) -> F + 'static) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    on_shard_of(&World::new(7, Profile::calm()), options, test)
}

pub(crate) fn on_shard_of<T, F>(
    world: &World,
    options: StoreOptions,
    test: impl FnOnce(Shard) -> F + 'static,
) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let main = async move |env| test(Replica::create(env, options).await).await;
    world.run_on(1, LIMIT, main).unwrap()
}

pub(crate) fn warm() -> StoreOptions {
    StoreOptions { rate: 0, rate_max: 0, ..StoreOptions::default() }
}

pub(crate) fn cold() -> StoreOptions {
    StoreOptions { resident_bytes: 0, ..warm() }
}

pub(crate) fn put(stamp_ms: u64, key: &[u8], value: &[u8], ttl: Ttl) -> Vec<u8> {
    let body = body(|out| encode::put(out, key, value, ttl, false));
    payload(stamp_ms, wire::KIND_PUT, KV_VERSION, &body)
}

pub(crate) fn command(stamp_ms: u64, kind: u8, body: &[u8]) -> Vec<u8> {
    payload(stamp_ms, kind, KV_VERSION, body)
}

pub(crate) fn batch(guards: &[Guard<'_>], ops: &[Op<'_>]) -> Vec<u8> {
    let body = body(|out| encode::batch(out, guards, ops, true));
    command(0, wire::KIND_BATCH, &body)
}

pub(crate) async fn get(shard: &Shard, key: &[u8]) -> Option<Item> {
    match shard.read(&Query::Get(Bytes::copy_from_slice(key))).await.unwrap() {
        Answer::Value(item) => item,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn value(shard: &Shard, key: &[u8]) -> Option<Bytes> {
    get(shard, key).await.map(|item| item.value)
}

pub(crate) async fn scan(shard: &Shard, query: ScanQuery) -> ScanPage {
    match shard.read(&Query::Scan(Box::new(query))).await.unwrap() {
        Answer::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

#[test]
fn batch_all_or_nothing() {
    on_shard(warm(), async |mut shard| {
        shard.commit(put(0, b"text", b"not a number", Ttl::None)).await;
        let write = Op::Put { key: b"a", value: b"1", ttl: Ttl::None, prev: false };
        let fails = Op::Increment { key: b"text", by: 1, ttl: Ttl::Keep };
        let got = shard.commit(batch(&[], &[write, fails])).await;
        assert_eq!(got, Some(Output::OpFailed { place: 1, fault: OpFault::NotANumber }));
        assert_eq!(get(&shard, b"a").await, None);

        let holds = Guard { key: b"text", expect: Expect::ModIndex(1) };
        let wrong = Guard { key: b"a", expect: Expect::Present };
        let got = shard.commit(batch(&[holds, wrong], &[write])).await;
        assert_eq!(got, Some(Output::Guarded { ok: false, rev: 0, failed_guard: 1 }));
        assert_eq!(get(&shard, b"a").await, None);

        let got = shard.commit(batch(&[holds], &[write])).await;
        let answers = vec![OpAnswer::Written { prev: None }];
        assert_eq!(got, Some(Output::Batch { rev: 4, answers }));
        assert_eq!(value(&shard, b"a").await, Some("1".into()));
    });
}

#[test]
fn operations_of_a_batch_see_those_before_them() {
    on_shard(warm(), async |mut shard| {
        let ops = [
            Op::Increment { key: b"n", by: 5, ttl: Ttl::None },
            Op::Get { key: b"n" },
            Op::Increment { key: b"n", by: -7, ttl: Ttl::Keep },
            Op::Delete { key: b"n", prev: true },
            Op::Touch { key: b"n", ttl: Ttl::None },
            Op::Get { key: b"n" },
        ];
        let item = Item { value: "5".into(), rev: 1, expires_ms: 0 };
        let answers = vec![
            OpAnswer::Number(5),
            OpAnswer::Value(Some(item)),
            OpAnswer::Number(-2),
            OpAnswer::Written { prev: Some("-2".into()) },
            OpAnswer::Touched(Touched::default()),
            OpAnswer::Value(None),
        ];
        let got = shard.commit(batch(&[], &ops)).await;
        assert_eq!(got, Some(Output::Batch { rev: 1, answers }));
    });
}

#[test]
#[should_panic(expected = "entries are applied in order")]
fn rejects_index_gap() {
    on_shard(warm(), async |mut shard| {
        let payload = put(0, b"k", b"v", Ttl::None);
        let entry = EntryRef { index: 2, term: 1, payload: &payload };
        shard.machine.apply(entry, &Pins::new(), &mut Vec::new());
    });
}

#[test]
fn by_06_invalid_archive_is_deterministic_noop() {
    on_shard(warm(), async |mut shard| {
        shard.commit(put(100, b"k", b"v", Ttl::None)).await;
        let good = body(|out| encode::put(out, b"k", b"other", Ttl::None, false));
        for len in 0..good.len() {
            let got = shard.commit(command(100, wire::KIND_PUT, &good[..len])).await;
            assert_eq!(got, Some(Output::Rejected(BadCommand::Archive)), "cut at {len}");
        }
        let cut = put(100, b"k", b"other", Ttl::None);
        let got = shard.commit(cut[..cut.len() - 1].to_vec()).await;
        assert_eq!(got, Some(Output::Rejected(BadCommand::Archive)), "the payload is cut");
        // The verdict does not depend on where the bytes lie.
        for shift in 0..16 {
            let mut moved = vec![0; shift];
            moved.extend_from_slice(&put(100, b"k", b"v2", Ttl::None));
            let index = shard.machine.applied() + 1;
            let entry = EntryRef { index, term: 1, payload: &moved[shift..] };
            let mut out = Vec::new();
            shard.machine.apply(entry, &Pins::new(), &mut out);
            assert_eq!(out, [Output::Written { rev: index, prev: None }]);
        }
        assert_eq!(value(&shard, b"k").await, Some("v2".into()));
    });
}

#[test]
fn up_03_unknown_kind_halts_not_skips() {
    for (kind, version) in [
        (KIND_USER, KV_VERSION),
        (KIND_SESSION_OPEN, KV_VERSION),
        (63, KV_VERSION),
        (wire::KIND_PUT, KV_VERSION + 1),
    ] {
        on_shard(warm(), async move |mut shard| {
            shard.commit(put(0, b"k", b"v", Ttl::None)).await;
            let body = body(|out| encode::put(out, b"k", b"other", Ttl::None, false));
            let got = shard.commit(payload(9, kind, version, &body)).await;
            assert_eq!((got, shard.machine.applied()), (None, 1));
            let want = Damage::NeedsVersion { shard: SHARD, index: 2, kind, version };
            assert_eq!(shard.machine.halted(), Some(&want));
            assert_eq!(shard.machine.clock_ms(), 0, "an entry that is not applied moves nothing");
            let answer = shard.read(&Query::Get("k".into())).await;
            assert_eq!(answer, Err(want), "a halted replica answers no reads");
            let mut out = Vec::new();
            let payload = put(0, b"k", b"more", Ttl::None);
            let next = EntryRef { index: 2, term: 1, payload: &payload };
            shard.machine.apply(next, &Pins::new(), &mut out);
            assert_eq!((out.len(), shard.machine.applied()), (0, 1));
        });
    }
}

#[test]
fn ticks_and_empty_entries_count_and_a_tick_moves_the_clock() {
    on_shard(warm(), async |mut shard| {
        assert_eq!(shard.commit(Vec::new()).await, Some(Output::None));
        assert_eq!(shard.commit(payload(500, KIND_TICK, 0, &[])).await, Some(Output::None));
        assert_eq!((shard.machine.applied(), shard.machine.clock_ms()), (2, 500));
        shard.commit(payload(400, KIND_TICK, 0, &[])).await;
        assert_eq!(shard.machine.clock_ms(), 500, "log time never falls");
    });
}

#[test]
fn by_04_keys_and_values_are_bytes() {
    on_shard(warm(), async |mut shard| {
        let keys: Vec<Vec<u8>> = vec![
            vec![],
            vec![0],
            vec![0, 0],
            b"\r\n".to_vec(),
            "\u{e9}".as_bytes().to_vec(),
            vec![0xc3, 0x28],
            vec![0xff; 2_048],
        ];
        for key in &keys {
            let value: Vec<u8> = key.iter().rev().copied().collect();
            shard.commit(put(0, key, &value, Ttl::None)).await;
        }
        for round in 0..2 {
            for key in &keys {
                let want: Vec<u8> = key.iter().rev().copied().collect();
                assert_eq!(value(&shard, key).await.unwrap(), want, "round {round}");
            }
            let page = scan(&shard, ScanQuery::default()).await;
            let mut sorted = keys.clone();
            sorted.sort();
            assert!(page.items.iter().map(|(key, _)| &key[..]).eq(sorted.iter().map(|k| &k[..])));
            shard.job(Pressure::Flush).await;
        }
    });
}

#[test]
fn put_clears_ttl() {
    on_shard(warm(), async |mut shard| {
        shard.commit(put(100, b"k", b"v", Ttl::In(50))).await;
        assert_eq!(get(&shard, b"k").await.unwrap().expires_ms, 150);
        shard.commit(put(120, b"k", b"w", Ttl::None)).await;
        shard.commit(payload(LATER, KIND_TICK, 0, &[])).await;
        assert_eq!(value(&shard, b"k").await, Some("w".into()));
    });
}

#[test]
fn what_is_expired_is_gone_in_every_view() {
    for flush in [false, true] {
        on_shard(warm(), async move |mut shard| {
            shard.commit(put(100, b"k", b"v", Ttl::In(50))).await;
            shard.commit(put(100, b"l", b"v", Ttl::None)).await;
            if flush {
                assert!(shard.job(Pressure::Flush).await);
            }
            shard.commit(payload(149, KIND_TICK, 0, &[])).await;
            assert!(get(&shard, b"k").await.is_some(), "not before its deadline");
            shard.commit(payload(150, KIND_TICK, 0, &[])).await;
            assert_eq!(get(&shard, b"k").await, None);
            let count = ScanQuery { count_only: true, ..ScanQuery::default() };
            assert_eq!(scan(&shard, count).await.count, 1);
            assert_eq!(scan(&shard, ScanQuery::default()).await.items.len(), 1);
            let absent = Guard { key: b"k", expect: Expect::Absent };
            let got = shard.commit(batch(&[absent], &[])).await;
            assert!(matches!(got, Some(Output::Batch { .. })), "{got:?}");
            let prev = body(|out| encode::delete(out, b"k", true));
            let got = shard.commit(command(0, wire::KIND_DELETE, &prev)).await;
            assert_eq!(got, Some(Output::Written { rev: 6, prev: None }));
        });
    }
}

#[test]
fn expire_removes_only_what_is_due() {
    on_shard(warm(), async |mut shard| {
        shard.commit(put(100, b"due", b"v", Ttl::In(50))).await;
        shard.commit(put(100, b"later", b"v", Ttl::In(500))).await;
        shard.commit(put(100, b"never", b"v", Ttl::None)).await;
        let keys: [&[u8]; 5] = [b"due", b"due", b"later", b"never", b"absent"];
        let expire = body(|out| encode::expire(out, &keys));
        let got = shard.commit(command(160, wire::KIND_EXPIRE, &expire)).await;
        assert_eq!(got, Some(Output::Expired(1)));
        assert!(get(&shard, b"later").await.is_some());
    });
}

#[test]
fn sd_04_cas_not_repeated_after_replay() {
    on_shard(cold(), async |mut shard| {
        let cas = body(|out| encode::cas(out, b"k", Expect::Absent, Some(b"v"), Ttl::None));
        let won = shard.commit(command(0, wire::KIND_CAS, &cas)).await;
        assert_eq!(won, Some(Output::Guarded { ok: true, rev: 1, failed_guard: 0 }));
        shard.job(Pressure::Flush).await;
        let lost = shard.commit(command(0, wire::KIND_CAS, &cas)).await;
        assert_eq!(lost, Some(Output::Guarded { ok: false, rev: 1, failed_guard: 0 }));
        shard.restart().await;
        assert_eq!(get(&shard, b"k").await.unwrap().rev, 1);
    });
}

#[test]
fn numbers_are_decimal_and_do_not_wrap() {
    on_shard(warm(), async |mut shard| {
        let cases: [(&[u8], i64, Output); 12] = [
            (b"41", 1, Output::Number(42)),
            (b"-1", 1, Output::Number(0)),
            (b"0", -1, Output::Number(-1)),
            (b"9223372036854775806", 1, Output::Number(i64::MAX)),
            (b"9223372036854775807", 1, Output::Overflow),
            (b"-9223372036854775808", -1, Output::Overflow),
            (b"9223372036854775808", 1, Output::NotANumber),
            (b"", 1, Output::NotANumber),
            (b"-", 1, Output::NotANumber),
            (b"-0", 1, Output::NotANumber),
            (b"007", 1, Output::NotANumber),
            (b" 7", 1, Output::NotANumber),
        ];
        for (text, by, want) in cases {
            shard.commit(put(0, b"n", text, Ttl::None)).await;
            let increment = body(|out| encode::increment(out, b"n", by, Ttl::Keep));
            let got = shard.commit(command(0, wire::KIND_INCREMENT, &increment)).await;
            assert_eq!(got, Some(want.clone()), "{text:?} + {by}");
            let kept = value(&shard, b"n").await.unwrap();
            let changed = matches!(want, Output::Number(_));
            assert_eq!(kept == text, !changed, "a failure changes nothing");
        }
    });
}

/// Everything that two replicas must agree on.
pub(crate) async fn digest(shard: &Shard) -> (u64, u64, Vec<(Bytes, Item)>) {
    let (mut items, mut query) = (Vec::new(), ScanQuery::default());
    loop {
        let page = scan(shard, query.clone()).await;
        items.extend(page.items);
        match page.next {
            Some(token) => query.token = Some(token),
            None => break,
        }
    }
    (shard.machine.applied(), shard.machine.clock_ms(), items)
}

fn mixed_log(entries: u64) -> Vec<Vec<u8>> {
    let key = |n: u64| format!("k{:03}", n * 7 % 211).into_bytes();
    (0..entries)
        .map(|n| match n % 9 {
            0 => {
                let body = body(|out| encode::delete(out, &key(n), false));
                command(n * 3, wire::KIND_DELETE, &body)
            },
            1 if n % 10 == 1 => {
                let body = body(|out| encode::delete_range(out, &key(n), &key(n + 1)));
                command(n * 3, wire::KIND_DELETE_RANGE, &body)
            },
            2 | 3 => {
                let body = body(|out| encode::increment(out, &key(n % 50), 1, Ttl::Keep));
                command(n * 3, wire::KIND_INCREMENT, &body)
            },
            4 => put(n * 3, &key(n), &vec![1; 2_000], Ttl::In(n % 40)),
            _ => put(n * 3, &key(n), b"value", Ttl::None),
        })
        .collect()
}

#[test]
fn same_log_any_schedule_same_digest() {
    let run = |seed: u64| {
        let world = World::new(seed, Profile::calm());
        let rng = world.rng();
        let main = async move |env| {
            let options = if seed.is_multiple_of(2) { cold() } else { warm() };
            let mut shard = Shard::create(env, options).await;
            shard.log = mixed_log(900);
            let (mut index, mut outputs) = (0, Vec::new());
            while index < 900 {
                index = (index + 1 + rng.below(60)).min(900);
                outputs.extend(shard.apply_to(index).await);
                match rng.below(8) {
                    0..4 if seed > 0 => drop(shard.job(Pressure::Flush).await),
                    4..7 if seed > 0 => drop(shard.job(Pressure::None).await),
                    7 if seed > 0 => shard.reopen().await,
                    _ => {},
                }
                index = shard.machine.applied();
                outputs.truncate(usize::try_from(index).unwrap());
            }
            (outputs, digest(&shard).await)
        };
        world.run_on(1, LIMIT, main).unwrap()
    };
    let want = run(0);
    assert_eq!(want.0.len(), 900);
    for seed in 1..12 {
        assert!(run(seed) == want, "seed {seed}");
    }
}
