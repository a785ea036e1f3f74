//! Single facts about pages, flushes and scans of the key-value machine.

use bowline_env::sim::{Profile, SimEnv, World};
use bowline_env::{Dir as _, Env as _, Name};
use bowline_statemachine::envelope::{KIND_TICK, KIND_USER};
use bowline_statemachine::kv::command::{self as wire};
use bowline_statemachine::kv::encode::{self, Ttl};
use bowline_statemachine::kv::{KeyRange, SCAN_ITEMS_MAX, ScanQuery};
use bowline_statemachine::store::{Pins, StoreOptions};
use bowline_statemachine::{
    Answer, BadCommand, Damage, EntryRef, Kv, Limits, Machine, Measured, Output, Pressure, Query,
    Read, Staged,
};
use bytes::Bytes;

use crate::kv::{cold, command, on_shard, on_shard_of, put, scan, value, warm};
use crate::replica::{SHARD, as_of, body, payload};

#[test]
fn scan_page_atomic_when_cold() {
    on_shard(cold(), async |mut shard| {
        for n in 0..300_u32 {
            let value = [n.to_le_bytes()[0]; 400];
            shard.commit(put(0, format!("k{n:03}").as_bytes(), &value, Ttl::None)).await;
        }
        shard.job(Pressure::Flush).await;
        let query = Query::Scan(Box::default());
        let mut pins = Pins::new();
        let mut rounds = 0;
        let page = loop {
            match shard.machine.read(&query, &pins) {
                Read::Ready(Answer::Page(page)) => break page,
                Read::Cold(reads) => shard.store.load(reads, &mut pins).await.unwrap(),
                other => panic!("{other:?}"),
            }
            rounds += 1;
            // Between two rounds the state changes: the page must be of one state all the same.
            let value = format!("round {rounds}").into_bytes();
            shard.commit(put(0, b"k000", &value, Ttl::None)).await;
            shard.commit(put(0, b"k299", &value, Ttl::None)).await;
        };
        assert!(rounds > 10, "pages were cold");
        assert_eq!((page.items.len(), page.rev), (300, 300 + 2 * rounds));
        assert_eq!(page.items[0].1.value, page.items[299].1.value);
        assert_eq!(page.items[0].1.value, format!("round {rounds}"));
    });
}

#[test]
fn publish_between_stage_and_apply() {
    on_shard(cold(), async |mut shard| {
        shard.commit(put(0, b"k", b"1", Ttl::None)).await;
        let job = shard.machine.next_job(Pressure::Flush, &as_of(1)).unwrap();
        let done = job.run().await.unwrap();
        let payload = {
            let body = body(|out| encode::increment(out, b"k", 1, Ttl::Keep));
            command(0, wire::KIND_INCREMENT, &body)
        };
        let entry = EntryRef { index: 2, term: 1, payload: &payload };
        let mut pins = Pins::new();
        assert!(matches!(shard.machine.stage(&[entry], &pins), Staged::Ready));
        shard.machine.manifest_after(&done).unwrap();
        shard.machine.publish(done);
        // The key is in a cold run now: what was staged is staged again.
        let Staged::Cold(reads) = shard.machine.stage(&[entry], &pins) else {
            panic!("the run is cold")
        };
        shard.store.load(reads, &mut pins).await.unwrap();
        assert!(matches!(shard.machine.stage(&[entry], &pins), Staged::Ready));
        let mut out = Vec::new();
        shard.machine.apply(entry, &pins, &mut out);
        assert_eq!(out, [Output::Number(2)]);
    });
}

#[test]
fn rd_09_storage_error_is_never_not_found() {
    let world = World::new(8, Profile::calm());
    let disk = world.disk(1);
    on_shard_of(&world, cold(), async move |mut shard| {
        shard.commit(put(0, b"k", b"1", Ttl::None)).await;
        shard.job(Pressure::Flush).await;
        let dir = shard.store.env().dir().clone();
        let runs = Name::new("runs").unwrap();
        let (run, len) = dir.list(Some(&runs)).await.unwrap().remove(0);
        // The first data page follows the file's header.
        assert!(len > 8_192 && disk.flip_bit(&run, 4_096 + 24, 1));
        let is_damage = |damage: &Damage| matches!(damage, Damage::Run { shard: SHARD, .. });
        for query in [
            Query::Get("k".into()),
            Query::MultiGet(vec!["a".into(), "k".into()].into()),
            Query::Scan(Box::default()),
        ] {
            let got = shard.read(&query).await;
            assert!(got.as_ref().is_err_and(is_damage), "{query:?}: {got:?}");
        }
        let body = body(|out| encode::increment(out, b"k", 1, Ttl::Keep));
        let payload = command(0, wire::KIND_INCREMENT, &body);
        let entry = EntryRef { index: 2, term: 1, payload: &payload };
        let damage = match shard.machine.stage(&[entry], &Pins::new()) {
            Staged::Cold(reads) => shard.store.load(reads, &mut Pins::new()).await.unwrap_err(),
            Staged::Damaged(damage) => damage,
            other => panic!("{other:?}"),
        };
        assert!(is_damage(&damage), "an entry is not applied to what cannot be read");
        // What needs no look at the damaged page goes on.
        shard.commit(put(0, b"k", b"2", Ttl::None)).await;
        assert_eq!(value(&shard, b"k").await, Some("2".into()));
    });
}

#[test]
fn a_flush_that_failed_is_written_again_and_nothing_is_missed_meanwhile() {
    on_shard(warm(), async |mut shard| {
        shard.commit(put(0, b"a", b"1", Ttl::None)).await;
        drop(shard.machine.next_job(Pressure::Flush, &as_of(1)).unwrap());
        assert!(
            shard.machine.next_job(Pressure::Flush, &as_of(1)).is_none(),
            "one flush at a time"
        );
        shard.machine.job_failed(true);
        shard.commit(put(0, b"b", b"2", Ttl::None)).await;
        assert_eq!(value(&shard, b"a").await, Some("1".into()));
        assert!(shard.job(Pressure::None).await, "it is due again");
        assert_eq!((shard.machine.flushed(), shard.machine.applied()), (1, 2));
        shard.restart().await;
        assert_eq!(value(&shard, b"a").await, Some("1".into()));
        assert_eq!(value(&shard, b"b").await, Some("2".into()));
    });
}

#[test]
fn a_flush_of_nothing_moves_the_flushed_index() {
    on_shard(warm(), async |mut shard| {
        shard.commit(Vec::new()).await;
        shard.commit(payload(77, KIND_TICK, 0, &[])).await;
        assert!(!shard.job(Pressure::None).await);
        assert!(shard.job(Pressure::Log).await);
        assert_eq!(shard.machine.flushed(), 2);
        assert!(!shard.job(Pressure::Log).await, "there is nothing more to flush");
        shard.restart().await;
        assert_eq!((shard.machine.applied(), shard.machine.clock_ms()), (2, 77));
    });
}

#[test]
fn a_manifest_holds_every_change_staged_before_it() {
    on_shard(warm(), async |mut shard| {
        for n in 0..8_u64 {
            shard.commit(put(0, &n.to_le_bytes(), b"v", Ttl::None)).await;
            if n < 4 {
                assert!(shard.job(Pressure::Flush).await);
            }
        }
        let merge = shard.machine.next_job(Pressure::None, &as_of(1)).unwrap();
        let flush = shard.machine.next_job(Pressure::Flush, &as_of(1)).unwrap();
        assert!(!merge.is_flush() && flush.is_flush());
        let (merged, flushed) = (merge.run().await.unwrap(), flush.run().await.unwrap());
        let (first, _, _) = shard.machine.manifest_after(&merged).unwrap();
        let (second, _, both) = shard.machine.manifest_after(&flushed).unwrap();
        assert_eq!((first, second), (4, 8));
        assert_eq!(shard.machine.manifest().unwrap().2, both, "what is staged is repeated");
        // The log took them in the other order.
        shard.machine.publish(flushed);
        assert_eq!(shard.machine.manifest_after(&merged).unwrap().0, 8);
        shard.machine.publish(merged);
        shard.manifest = Some(both);
        shard.restart().await;
        let count = ScanQuery { count_only: true, ..ScanQuery::default() };
        assert_eq!(scan(&shard, count).await.count, 8);
    });
}

#[test]
fn a_token_of_another_scan_is_refused() {
    on_shard(warm(), async |mut shard| {
        for n in 0..20_u8 {
            shard.commit(put(0, &[n], b"v", Ttl::None)).await;
        }
        let query = ScanQuery { limit: 5, ..ScanQuery::default() };
        let token = scan(&shard, query.clone()).await.next;
        let refused = async |query| shard.read(&Query::Scan(Box::new(query))).await.unwrap();
        let bad = Answer::Bad(BadCommand::Token);
        let reverse = ScanQuery { reverse: true, token: token.clone(), ..query.clone() };
        assert_eq!(refused(reverse).await, bad);
        let elsewhere = KeyRange::Prefix(Bytes::from_static(b"\x13"));
        let elsewhere = ScanQuery { range: elsewhere, token: token.clone(), ..query.clone() };
        assert_eq!(refused(elsewhere).await, bad);
        let mut torn = token.unwrap().to_vec();
        torn[20] ^= 1;
        assert_eq!(refused(ScanQuery { token: Some(torn.into()), ..query }).await, bad);
    });
}

#[test]
fn a_page_ends_at_its_limits_and_the_last_one_says_so() {
    on_shard(warm(), async |mut shard| {
        for n in 0..1_001_u32 {
            shard.commit(put(0, format!("{n:05}").as_bytes(), b"v", Ttl::None)).await;
        }
        let page = scan(&shard, ScanQuery::default()).await;
        assert_eq!(page.items.len(), usize::try_from(SCAN_ITEMS_MAX).unwrap());
        let rest = scan(&shard, ScanQuery { token: page.next, ..ScanQuery::default() }).await;
        assert_eq!((rest.items.len(), rest.next), (1, None));
        for n in 0..4_u8 {
            shard.commit(put(0, &[0xff, n], &vec![7; 700_000], Ttl::None)).await;
        }
        let range = KeyRange::Prefix(Bytes::from_static(b"\xff"));
        let page = scan(&shard, ScanQuery { range, ..ScanQuery::default() }).await;
        assert_eq!(page.items.len(), 2, "a page ends after 1 MiB");
        assert!(page.next.is_some());
    });
}

#[test]
fn keys_that_are_gone_are_passed_in_bounded_pages() {
    on_shard(warm(), async |mut shard| {
        for n in 0..20_000_u32 {
            let body = body(|out| encode::delete(out, format!("{n:05}").as_bytes(), false));
            shard.commit(command(0, wire::KIND_DELETE, &body)).await;
        }
        shard.commit(put(0, b"\xff", b"v", Ttl::None)).await;
        let (mut pages, mut query) = (0, ScanQuery::default());
        let last = loop {
            pages += 1;
            let page = scan(&shard, query.clone()).await;
            match page.next {
                Some(token) => query.token = Some(token),
                None => break page,
            }
            assert!(page.items.is_empty());
        };
        assert_eq!((pages, last.items.len()), (3, 1));
        // In a run that is the first of its shard nothing of them is left.
        assert!(shard.job(Pressure::Flush).await);
        let page = scan(&shard, ScanQuery::default()).await;
        assert_eq!((page.items.len(), page.next), (1, None));
    });
}

#[test]
fn by_06_poison_command_never_enters_log() {
    let admit = |kind, body: &[u8]| {
        <Kv<SimEnv> as Machine<SimEnv>>::admit(kind, body, &Limits::of_entry(16_384))
    };
    let put = |len| body(|out| encode::put(out, b"k", &vec![1; len], Ttl::None, false));
    assert_eq!(admit(wire::KIND_PUT, &put(12_288)), Ok(1));
    let want = BadCommand::TooLarge { what: Measured::Value, len: 12_289, max: 12_288 };
    assert_eq!(admit(wire::KIND_PUT, &put(12_289)), Err(want));
    let whole = BadCommand::TooLarge { what: Measured::Command, len: 20_048, max: 16_368 };
    assert_eq!(admit(wire::KIND_PUT, &put(20_008)), Err(whole));
    assert_eq!(admit(wire::KIND_PUT, b"junk"), Err(BadCommand::Archive));
    assert_eq!(admit(KIND_USER, &put(1)), Err(BadCommand::Kind(KIND_USER)));
    let forever = body(|out| encode::put(out, b"k", b"v", Ttl::In(u64::MAX), false));
    assert_eq!(admit(wire::KIND_PUT, &forever), Err(BadCommand::Ttl));
    // A caller's memory may lie anywhere.
    for shift in 0..16 {
        let mut moved = vec![0; shift];
        moved.extend_from_slice(&put(3_000));
        assert_eq!(admit(wire::KIND_PUT, &moved[shift..]), Ok(1));
    }
}

#[test]
fn a_delta_far_over_its_budget_pauses_apply_until_it_is_flushed() {
    on_shard(StoreOptions { delta_bytes: 1 << 20, ..warm() }, async |mut shard| {
        for n in 0..160_u32 {
            let rev = u64::from(n) + 1;
            let got = shard.commit(put(0, &n.to_le_bytes(), &[7; 8_000], Ttl::None)).await;
            assert_eq!(got, Some(Output::Written { rev, prev: None }));
        }
        let payload = put(0, b"more", &vec![7; 600_000], Ttl::None);
        shard.commit(payload.clone()).await;
        let next = EntryRef { index: 162, term: 1, payload: &payload };
        assert!(matches!(shard.machine.stage(&[next], &Pins::new()), Staged::OverBudget));
        assert!(shard.job(Pressure::None).await, "the largest delta is due");
        assert!(matches!(shard.machine.stage(&[next], &Pins::new()), Staged::Ready));
        assert_eq!(shard.machine.delta_bytes(), 0);
    });
}
