//! An application's machine behind the seam.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use bowline_env::Nanos;
use bowline_env::sim::{Profile, SimEnv, World};
use bowline_statemachine::envelope::KIND_USER;
use bowline_statemachine::hosted::archive;
use bowline_statemachine::kv::command::KIND_PUT;
use bowline_statemachine::store::{Store, StoreOptions};
use bowline_statemachine::testing::{Difference, check_determinism};
use bowline_statemachine::{
    Answer, Apply, BadCommand, Damage, Hosted, Kv, Limits, Machine, OpenFailure, Output, Pressure,
    Query, ReadCtx, SmError, StateMachine,
};
use bytes::Bytes;
use rkyv::{Archive, Archived, Serialize};

use crate::replica::{Replica, SHARD, payload};

const LIMIT: Nanos = Nanos(u64::MAX / 2);

/// Accounts and their balance.
#[derive(Clone, Default)]
struct Bank {
    accounts: BTreeMap<String, i64>,
}

#[derive(Archive, Serialize)]
enum Move {
    Deposit { account: String, amount: i64 },
    Explode,
}

#[derive(Archive, Serialize)]
struct Balance {
    account: String,
}

impl StateMachine for Bank {
    const NAME: &'static str = "bank";
    const VERSION: u16 = 2;
    type Command = Move;
    type Output = i64;
    type Query = Balance;
    type Answer = Option<i64>;
    type Frozen = BTreeMap<String, i64>;

    fn create(_shard: u64) -> Self {
        Self::default()
    }

    fn apply(&mut self, _ctx: &Apply, command: &Archived<Move>) -> i64 {
        match command {
            ArchivedMove::Deposit { account, amount } => {
                let balance = self.accounts.entry(account.to_string()).or_default();
                *balance += amount.to_native();
                *balance
            },
            ArchivedMove::Explode => panic!("the bank is bankrupt"),
        }
    }

    fn query(&self, _ctx: &ReadCtx, query: &Archived<Balance>) -> Option<i64> {
        assert_ne!(&*query.account, "bad luck", "some accounts are better left alone");
        self.accounts.get(&*query.account).copied()
    }

    fn freeze(&mut self, _version: u16) -> BTreeMap<String, i64> {
        self.accounts.clone()
    }

    fn write(frozen: BTreeMap<String, i64>, out: &mut dyn io::Write) -> Result<(), SmError> {
        for (account, balance) in frozen {
            writeln!(out, "{account}={balance}")?;
        }
        Ok(())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SmError> {
        let text = str::from_utf8(snapshot).map_err(|_| SmError::Invalid)?;
        for line in text.lines() {
            let (account, balance) = line.split_once('=').ok_or(SmError::Invalid)?;
            let balance = balance.parse().map_err(|_| SmError::Invalid)?;
            self.accounts.insert(account.to_owned(), balance);
        }
        Ok(())
    }
}

type Shard = Replica<Hosted<SimEnv, Bank>>;

fn on_bank<F: Future<Output = ()> + 'static>(test: impl FnOnce(Shard) -> F + 'static) {
    let world = World::new(3, Profile::calm());
    let options = StoreOptions { rate: 0, rate_max: 0, ..StoreOptions::default() };
    let main = async move |env| test(Replica::create(env, options).await).await;
    world.run_on(1, LIMIT, main).unwrap();
}

fn deposit(account: &str, amount: i64) -> Move {
    Move::Deposit { account: account.to_owned(), amount }
}

fn entry(command: &Move) -> Vec<u8> {
    payload(5, KIND_USER, Bank::VERSION, &archive(command).unwrap())
}

fn custom<T: for<'a> Serialize<bowline_statemachine::CustomSerializer<'a>>>(value: &T) -> Output {
    Output::Custom(archive(value).unwrap())
}

async fn balance(shard: &Shard, account: &str) -> Result<Answer, Damage> {
    let query = archive(&Balance { account: account.to_owned() }).unwrap();
    shard.read(&Query::Custom(query)).await
}

fn answer(balance: Option<i64>) -> Answer {
    Answer::Custom(archive(&balance).unwrap())
}

#[test]
fn an_applications_state_survives_a_restart_through_its_snapshot() {
    on_bank(async |mut shard| {
        assert_eq!(shard.commit(entry(&deposit("ann", 5))).await, Some(custom(&5_i64)));
        assert_eq!(shard.commit(entry(&deposit("ann", 2))).await, Some(custom(&7_i64)));
        assert!(!shard.job(Pressure::None).await, "two entries are not worth a snapshot");
        for round in 1..=3_i64 {
            assert!(shard.job(Pressure::Flush).await);
            shard.commit(entry(&deposit("bob", round))).await;
            shard.restart().await;
            assert_eq!(balance(&shard, "ann").await, Ok(answer(Some(7))));
            assert_eq!(balance(&shard, "bob").await, Ok(answer(Some((1..=round).sum()))));
            assert_eq!(balance(&shard, "eve").await, Ok(answer(None)));
        }
        assert_eq!(shard.store.stats().sections, 1, "a snapshot replaces the one before");
    });
}

#[test]
fn em_03_user_panic_halts_shard_only() {
    on_bank(async |mut shard| {
        shard.commit(entry(&deposit("ann", 5))).await;
        shard.job(Pressure::Flush).await;
        assert_eq!(shard.commit(entry(&Move::Explode)).await, None);
        let message = "the bank is bankrupt".into();
        let want = Damage::Panicked { shard: SHARD, index: 2, message };
        assert_eq!(shard.machine.halted(), Some(&want));
        assert_eq!(shard.machine.applied(), 1, "the entry is not skipped");
        assert_eq!(balance(&shard, "ann").await, Err(want));
        assert!(!shard.job(Pressure::Flush).await, "a state that may be broken is not kept");
        // Another shard of the same store goes on.
        let mut other = Shard {
            machine: Hosted::open(&shard.store, SHARD + 1, None).await.unwrap(),
            store: Rc::clone(&shard.store),
            log: Vec::new(),
            manifest: None,
        };
        assert_eq!(other.commit(entry(&deposit("ann", 1))).await, Some(custom(&1_i64)));
    });
}

#[test]
fn a_question_that_panics_is_answered_and_the_shard_goes_on() {
    on_bank(async |mut shard| {
        let got = balance(&shard, "bad luck").await;
        assert_eq!(got, Ok(Answer::Bad(BadCommand::Panicked)));
        assert_eq!(shard.commit(entry(&deposit("ann", 1))).await, Some(custom(&1_i64)));
        let got = shard.read(&Query::Custom(Bytes::from_static(b"?"))).await;
        assert_eq!(got, Ok(Answer::Bad(BadCommand::Archive)));
        let got = shard.read(&Query::Get(Bytes::new())).await;
        assert_eq!(got, Ok(Answer::NotSupported));
    });
}

#[test]
fn bytes_that_are_no_command_are_refused_before_and_after_the_log() {
    let admit = |kind, body: &[u8]| {
        <Hosted<SimEnv, Bank> as Machine<SimEnv>>::admit(kind, body, &Limits::default())
    };
    let good = archive(&deposit("ann", 5)).unwrap();
    assert_eq!(admit(KIND_USER, &good), Ok(2));
    assert_eq!(admit(KIND_PUT, &good), Err(BadCommand::Kind(KIND_PUT)));
    for len in 0..good.len() {
        assert_eq!(admit(KIND_USER, &good[..len]), Err(BadCommand::Archive), "cut at {len}");
    }
    on_bank(async |mut shard| {
        let got = shard.commit(payload(5, KIND_USER, Bank::VERSION, b"junk")).await;
        assert_eq!(got, Some(Output::Rejected(BadCommand::Archive)));
        let good = archive(&deposit("ann", 5)).unwrap();
        assert_eq!(shard.commit(payload(5, KIND_USER, Bank::VERSION + 1, &good)).await, None);
        let newer = matches!(shard.machine.halted(), Some(Damage::NeedsVersion { version: 3, .. }));
        assert!(newer, "{:?}", shard.machine.halted());
    });
}

#[test]
fn another_machines_manifest_is_refused_with_its_reason() {
    on_bank(async |mut shard| {
        shard.commit(entry(&deposit("ann", 5))).await;
        shard.job(Pressure::Flush).await;
        let manifest = shard.manifest.clone().unwrap();
        let kv = Kv::open(&shard.store, SHARD, Some(&manifest)).await;
        assert!(matches!(kv, Err(OpenFailure::Name { .. })), "{kv:?}");
        let other = Hosted::<SimEnv, Bank>::open(&shard.store, 1, Some(&manifest)).await;
        assert!(matches!(other, Err(OpenFailure::Shard { found: SHARD })), "{other:?}");
        let mut torn = manifest.to_vec();
        torn[40] ^= 1;
        let torn = Hosted::<SimEnv, Bank>::open(&shard.store, SHARD, Some(&torn)).await;
        assert!(matches!(torn, Err(OpenFailure::Manifest(_))), "{torn:?}");
    });
}

#[test]
fn a_snapshot_that_cannot_be_read_is_an_error_of_open() {
    on_bank(async |mut shard| {
        shard.commit(entry(&deposit("no\nequals", 5))).await;
        shard.job(Pressure::Flush).await;
        let manifest = shard.manifest.clone().unwrap();
        let opened = Hosted::<SimEnv, Bank>::open(&shard.store, SHARD, Some(&manifest)).await;
        assert!(matches!(opened, Err(OpenFailure::Restore(SmError::Invalid))), "{opened:?}");
    });
}

fn moves() -> Vec<Move> {
    (0..200).map(|n| deposit(["ann", "bob", "eve"][n % 3], n.try_into().unwrap())).collect()
}

#[test]
fn a_machine_that_only_counts_its_commands_is_deterministic() {
    for seed in 0..5 {
        let probe = |bank: &Bank| bank.accounts.clone();
        assert_eq!(check_determinism::<Bank, _>(seed, &moves(), probe), Ok(()));
    }
}

/// A machine with one of the usual mistakes.
struct Flawed<const FLAW: u8> {
    sum: i64,
    /// Not part of the snapshot.
    since_start: i64,
}

thread_local! {
    static OUTSIDE: core::cell::Cell<i64> = const { core::cell::Cell::new(0) };
}

impl<const FLAW: u8> StateMachine for Flawed<FLAW> {
    const NAME: &'static str = "flawed";
    const VERSION: u16 = 1;
    type Command = Move;
    type Output = i64;
    type Query = Balance;
    type Answer = i64;
    type Frozen = i64;

    fn create(_shard: u64) -> Self {
        Self { sum: 0, since_start: 0 }
    }

    fn apply(&mut self, _ctx: &Apply, _command: &Archived<Move>) -> i64 {
        self.sum += 1;
        self.since_start += 1;
        match FLAW {
            // Answers something from outside the log, like a clock.
            0 => OUTSIDE.with(|outside| outside.replace(outside.get() + 1)),
            // Rests on what the snapshot does not hold.
            1 => self.since_start,
            _ => self.sum,
        }
    }

    fn query(&self, _ctx: &ReadCtx, _query: &Archived<Balance>) -> i64 {
        self.sum
    }

    fn freeze(&mut self, _version: u16) -> i64 {
        self.sum
    }

    fn write(frozen: i64, out: &mut dyn io::Write) -> Result<(), SmError> {
        if FLAW == 3 {
            return Err(SmError::Write);
        }
        Ok(out.write_all(&frozen.to_le_bytes())?)
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SmError> {
        let bytes = snapshot.try_into().map_err(|_| SmError::Invalid)?;
        self.sum = i64::from_le_bytes(bytes) + i64::from(FLAW == 2);
        Ok(())
    }
}

#[test]
fn each_usual_mistake_is_found() {
    let difference = |got: Result<(), bowline_statemachine::testing::Divergence>| {
        got.expect_err("the machine is flawed").what
    };
    let probe_0 = |machine: &Flawed<0>| machine.sum;
    let got = check_determinism::<Flawed<0>, _>(1, &moves(), probe_0);
    assert_eq!(difference(got), Difference::Output);
    let got = check_determinism::<Flawed<1>, _>(1, &moves(), |machine| machine.sum);
    assert_eq!(difference(got), Difference::Output);
    let got = check_determinism::<Flawed<2>, _>(1, &moves(), |machine| machine.sum);
    assert_eq!(difference(got), Difference::Restored);
    let got = check_determinism::<Flawed<3>, _>(1, &moves(), |machine| machine.sum);
    assert_eq!(difference(got), Difference::Snapshot(SmError::Write));
}

#[test]
fn a_store_is_shared_by_machines() {
    on_bank(async |shard| {
        let store: &Rc<Store<SimEnv>> = &shard.store;
        let kv = Kv::open(store, 4, None).await.unwrap();
        assert_eq!((kv.applied(), kv.flushed(), kv.delta_bytes()), (0, 0, 0));
        assert!(size_of_val(&kv) <= 640, "an idle shard takes {} bytes", size_of_val(&kv));
    });
}
